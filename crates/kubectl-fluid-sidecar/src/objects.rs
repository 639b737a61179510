//! The cluster that a policy sees, made of YAML documents.
//!
//! A document `{error: {kind, name, message}}` makes the read of that object fail with that message, to see
//! what users get when the API server is slow or RBAC is missing.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::reads::Read;
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

impl Objects {
    /// Reads files, or all `.yaml`, `.yml` and `.json` files of directories.
    pub fn read<P: AsRef<Path>>(paths: &[P]) -> Result<Objects> {
        let mut objects = Objects::default();
        for path in paths.iter().map(AsRef::as_ref) {
            for file in yaml::files(path)? {
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

    /// The object that is asked for, if there is one; the error is that of an `{error: …}` document.
    pub fn get(&self, read: &Read) -> Result<Option<&Value>, String> {
        let Read { api_version, kind, name, namespace, .. } = read;
        if let Some(error) = self.errors.iter().find(|error| error.kind == *kind && error.name == *name) {
            return Err(error.message.clone());
        }
        let namespace = namespace.as_deref().unwrap_or_default();
        Ok(self.objects.get(&[api_version, kind, namespace, name].map(str::to_string)))
    }

    /// Answers a host call; the error is the host's text.
    pub fn answer(&self, namespace: &str, operation: &str, payload: &[u8]) -> Result<Vec<u8>, String> {
        let read = Read::parse(namespace, operation, payload)?;
        read.answer(self.get(&read))
    }
}
