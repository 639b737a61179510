//! A policy's reads of the cluster, and the answers in the words of Kubewarden's host.
//!
//! `kubernetes/get_resource` is parsed here and answered here, whoever holds the objects: files
//! ([`crate::objects`]) or an API server (`api_server`). The texts of errors are word for word those of
//! policy-evaluator 1.36 (`callback_handler`), because the policy has nothing else to tell errors apart by.
//! Lists and access reviews are not answered: the policy does not ask for them.

use std::borrow::Borrow;
use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

/// One object that a policy asks for.
#[derive(Clone, Debug, Deserialize)]
pub struct Read {
    /// `v1`, `apps/v1`, …
    pub api_version: String,
    /// As in `kind:`.
    pub kind: String,
    /// `metadata.name`.
    pub name: String,
    /// `None` for kinds without namespace.
    pub namespace: Option<String>,
    field_masks: Option<Vec<String>>,
}

impl Read {
    /// Understands a host call; the error is the host's text.
    pub fn parse(namespace: &str, operation: &str, payload: &[u8]) -> Result<Read, String> {
        if (namespace, operation) != ("kubernetes", "get_resource") {
            return Err(format!("unknown operation: {namespace}/{operation}"));
        }
        serde_json::from_slice(payload).map_err(|error| error.to_string())
    }

    /// The answer to the policy, of what was found: the object, none of that name, or why it is not known.
    pub fn answer<V: Borrow<Value>>(&self, found: Result<Option<V>, String>) -> Result<Vec<u8>, String> {
        let Read { api_version, kind, name, namespace, field_masks } = self;
        let found = found.and_then(|object| {
            object.ok_or_else(|| {
                format!("Cannot find {api_version}/{kind} named '{name}' inside of namespace '{namespace:?}'")
            })
        });
        let object = found.map_err(|text| format!("Callback evaluation failure: {text}"))?;
        let answer = match field_masks {
            Some(masks) => serde_json::to_vec(&masked(object.borrow(), masks)),
            None => serde_json::to_vec(object.borrow()),
        };
        answer.map_err(|error| error.to_string())
    }
}

impl fmt::Display for Read {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} ", self.api_version, self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(formatter, "{namespace}/")?;
        }
        formatter.write_str(&self.name)
    }
}

/// Keeps the fields that the masks name; what identifies the object is always kept.
fn masked(object: &Value, masks: &[String]) -> Value {
    let mut kept = Map::new();
    for (key, value) in object.as_object().into_iter().flatten() {
        if matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            kept.insert(key.clone(), value.clone());
        } else if let Some(part) = mask_below(value, key, masks) {
            kept.insert(key.clone(), part);
        }
    }
    Value::Object(kept)
}

/// The part of `value`, which stands at `path`, that some mask keeps. Lists are transparent.
fn mask_below(value: &Value, path: &str, masks: &[String]) -> Option<Value> {
    if masks.iter().any(|mask| mask == path) {
        return Some(value.clone());
    }
    let prefix = format!("{path}.");
    if !masks.iter().any(|mask| mask.starts_with(&prefix)) {
        return None;
    }
    match value {
        Value::Object(map) => Some(Value::Object(
            map.iter()
                .filter_map(|(key, value)| {
                    Some((key.clone(), mask_below(value, &format!("{prefix}{key}"), masks)?))
                })
                .collect(),
        )),
        Value::Array(items) => {
            Some(Value::Array(items.iter().filter_map(|item| mask_below(item, path, masks)).collect()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn masks_keep_what_they_name_and_what_identifies() {
        let object = json!({
            "apiVersion": "v1", "kind": "X", "metadata": {"name": "x", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}], "other": 1}, "status": {"phase": "Bound"},
        });
        assert_eq!(
            masked(&object, &["spec.containers.name".into()]),
            json!({
                "apiVersion": "v1", "kind": "X", "metadata": {"name": "x", "labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c"}]},
            })
        );
        assert_eq!(masked(&object, &["status".into()])["status"], object["status"]);
    }
}
