//! Looking into JSON whose shape is not certain: what is not there, or is of another type, is empty.

use serde_json::Value;

/// The elements of a list.
pub(crate) fn elements(list: Option<&Value>) -> &[Value] {
    list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// What Kubernetes calls an element of most lists by.
pub(crate) fn name_of(element: &Value) -> Option<&str> {
    element.get("name")?.as_str()
}
