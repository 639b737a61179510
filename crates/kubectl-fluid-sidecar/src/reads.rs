//! A policy's reads of the cluster, and the answers in the words of Kubewarden's host.
//!
//! `kubernetes/get_resource` is parsed here and answered here, whoever holds the objects: files
//! ([`crate::objects`]) or an API server (`api_server`). The texts of errors are word for word those of
//! policy-evaluator 1.36 (`callback_handler`), because the policy has nothing else to tell errors apart by.
//! Lists and access reviews are not answered: the policy does not ask for them.

use std::borrow::Borrow;
use std::collections::BTreeMap;
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

/// The fields that masks name, as a tree: `spec.csi` and `spec.claimRef` are two children of `spec`.
///
/// What it keeps is what the host's `prune_in_place` keeps: everything below a node without children (so an empty list
/// of masks keeps the whole object), and whatever is no map where a mask goes on below it. Lists are transparent.
#[derive(Default)]
struct Mask<'a>(BTreeMap<&'a str, Mask<'a>>);

impl<'a> Mask<'a> {
    fn new(masks: &'a [String]) -> Mask<'a> {
        let mut root = Mask::default();
        for mask in masks {
            mask.split('.').fold(&mut root, |node, key| node.0.entry(key).or_default());
        }
        root
    }

    fn prune(&self, value: &mut Value) {
        if self.0.is_empty() {
            return;
        }
        match value {
            Value::Object(map) => map.retain(|key, value| match self.0.get(key.as_str()) {
                Some(mask) => {
                    mask.prune(value);
                    true
                }
                None => false,
            }),
            Value::Array(items) => items.iter_mut().for_each(|item| self.prune(item)),
            _ => {}
        }
    }
}

/// The object as the host answers with it: pruned, but for what identifies it.
fn masked(object: &Value, masks: &[String]) -> Value {
    let identity = |key: &String| matches!(key.as_str(), "apiVersion" | "kind" | "metadata");
    let fields = object.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone()));
    let (mut kept, data): (Map<_, _>, Map<_, _>) = fields.partition(|(key, _)| identity(key));
    let mut data = Value::Object(data);
    Mask::new(masks).prune(&mut data);
    if let Value::Object(data) = data {
        kept.extend(data);
    }
    Value::Object(kept)
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
    #[test]
    fn masks_prune_as_the_host_does() {
        let object = json!({
            "kind": "X", "metadata": {"name": "x"}, "data": "text", "count": 3,
            "spec": {"args": ["a", {"b": 1, "c": 2}, [{"b": 3, "c": 4}], null], "no": null, "other": {"b": 5}},
        });
        let whole = |field: &str| object[field].clone();
        for (masks, expected) in [
            // No mask at all: everything stays.
            (vec![], object.clone()),
            // Of a scalar everything stays where a mask goes on below it.
            (vec!["data.key", "count.key"], json!({"data": "text", "count": 3})),
            (vec!["spec.no.key"], json!({"spec": {"no": null}})),
            // Likewise of a list's elements, which the mask goes through.
            (vec!["spec.args.b"], json!({"spec": {"args": ["a", {"b": 1}, [{"b": 3}], null]}})),
            // A map without the field stays as an empty map.
            (vec!["spec.other.none"], json!({"spec": {"other": {}}})),
            // Below a shorter mask a longer one prunes nevertheless.
            (vec!["spec", "spec.other.b"], json!({"spec": {"other": {"b": 5}}})),
            (vec!["spec"], json!({"spec": whole("spec")})),
            // What identifies the object stays whatever the masks say.
            (vec!["metadata.labels", "kind"], json!({})),
        ] {
            let mut expected = expected;
            for field in ["kind", "metadata"] {
                expected[field] = whole(field);
            }
            let masks: Vec<String> = masks.into_iter().map(str::to_string).collect();
            assert_eq!(masked(&object, &masks), expected, "{masks:?}");
        }
    }
}
