//! Manifests as JSON values. JSON is read by its own parser, everything else as YAML.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

/// Reads all documents of a file; `-` is standard input. A `List` counts as its items.
pub fn read_file(path: &Path) -> Result<Vec<Value>> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("standard input")?;
    } else {
        text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    parse(&text).with_context(|| format!("{} is neither JSON nor YAML", path.display()))
}

/// Reads a file that has exactly one document.
pub fn read_single(path: &Path) -> Result<Value> {
    let mut documents = read_file(path)?;
    match (documents.pop(), documents.len()) {
        (Some(document), 0) => Ok(document),
        (None, _) => bail!("{} is empty", path.display()),
        (_, more) => bail!("{} has {} documents; expected one", path.display(), more + 1),
    }
}

/// Reads a policy's settings; without a file there are none.
pub fn read_settings(path: Option<&Path>) -> Result<Value> {
    path.map_or_else(|| Ok(Value::Object(Map::new())), read_single)
}

/// Reads all documents of a text.
pub fn parse(text: &str) -> Result<Vec<Value>> {
    let documents = match serde_json::from_str(text) {
        Ok(document) => vec![document],
        Err(error) => match serde_saphyr::from_multiple::<Value>(text) {
            Ok(documents) => documents,
            // YAML in braces is no JSON, but JSON with a mistake is better explained by its own parser.
            Err(_) if text.trim_start().starts_with('{') => return Err(error.into()),
            Err(error) => return Err(error.into()),
        },
    };
    let mut items = Vec::new();
    for mut document in documents {
        let list = document.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
        match document.get_mut("items").map(Value::take) {
            Some(Value::Array(list_items)) if list => items.extend(list_items),
            _ if document.is_null() => {}
            _ => items.push(document),
        }
    }
    Ok(items)
}

/// As `kubectl get --output yaml` would print it: keys in alphabetical order.
pub fn print(value: &Value) -> Result<String> {
    Ok(serde_saphyr::to_string(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_are_json_or_yaml() {
        for text in [r#"{"a": {"b": 1}}"#, "{a: {b: 1}}", "a: {b: 1}"] {
            assert_eq!(parse(text).unwrap(), [serde_json::json!({"a": {"b": 1}})], "{text}");
        }
        assert!(parse("{\"a\": 1,\n\"b\" 2}").unwrap_err().to_string().contains("line 2"));
    }
}
