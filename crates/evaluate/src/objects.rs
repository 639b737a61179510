//! The cluster that a policy sees, made of YAML documents.
//!
//! Answers `kubernetes/get_resource` as Kubewarden's host does, with its error texts word for word
//! (policy-evaluator 1.36, `callback_handler`), because the policy has nothing else to tell errors apart by.
//! Lists and access reviews are not answered: the policy does not ask for them.
//!
//! A document `{error: {kind, name, message}}` makes the read of that object fail with that message, to see
//! what users get when the API server is slow or RBAC is missing.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::yaml;

/// Objects by apiVersion, kind, namespace (empty for none) and name.
#[derive(Debug, Default)]
pub struct Objects {
    objects: BTreeMap<[String; 4], Value>,
    errors: Vec<InjectedError>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InjectedError {
    kind: String,
    name: String,
    message: String,
}

#[derive(Deserialize)]
struct GetResource {
    api_version: String,
    kind: String,
    name: String,
    namespace: Option<String>,
    field_masks: Option<Vec<String>>,
}

impl Objects {
    /// Reads files, or all `.yaml`, `.yml` and `.json` files of directories.
    pub fn read<P: AsRef<Path>>(paths: &[P]) -> Result<Objects> {
        let mut objects = Objects::default();
        for path in paths.iter().map(AsRef::as_ref) {
            let mut files = vec![path.to_path_buf()];
            if path.is_dir() {
                files = std::fs::read_dir(path)
                    .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
                    .with_context(|| format!("cannot list {}", path.display()))?;
                files.retain(|file| {
                    file.extension().is_some_and(|it| it == "yaml" || it == "yml" || it == "json")
                });
                files.sort();
            }
            for file in files {
                for document in yaml::read_file(&file)? {
                    objects.add(document).with_context(|| file.display().to_string())?;
                }
            }
        }
        Ok(objects)
    }

    /// Adds one document.
    pub fn add(&mut self, document: Value) -> Result<()> {
        if let Some(error) = document.get("error") {
            self.errors
                .push(InjectedError::deserialize(error).context("error: expected {kind, name, message}")?);
            return Ok(());
        }
        let field =
            |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
        let key =
            [field("/apiVersion"), field("/kind"), field("/metadata/namespace"), field("/metadata/name")];
        if [&key[0], &key[1], &key[3]].iter().any(|part| part.is_empty()) {
            bail!("an object needs apiVersion, kind and metadata.name; this one is {} {}", key[1], key[3]);
        }
        self.objects.insert(key, document);
        Ok(())
    }

    /// Answers a host call; the error is the host's text.
    pub fn answer(&self, namespace: &str, operation: &str, payload: &[u8]) -> Result<Vec<u8>, String> {
        if (namespace, operation) != ("kubernetes", "get_resource") {
            return Err(format!("unknown operation: {namespace}/{operation}"));
        }
        let request: GetResource = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        let failure = |text: String| format!("Callback evaluation failure: {text}");
        let GetResource { api_version, kind, name, namespace, field_masks } = request;
        if let Some(error) = self.errors.iter().find(|error| error.kind == kind && error.name == name) {
            return Err(failure(error.message.clone()));
        }
        let key = [api_version, kind, namespace.clone().unwrap_or_default(), name];
        let Some(object) = self.objects.get(&key) else {
            let [api_version, kind, _, name] = key;
            return Err(failure(format!(
                "Cannot find {api_version}/{kind} named '{name}' inside of namespace '{namespace:?}'"
            )));
        };
        let answer = match field_masks {
            Some(masks) => masked(object, &masks),
            None => object.clone(),
        };
        serde_json::to_vec(&answer).map_err(|error| error.to_string())
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
