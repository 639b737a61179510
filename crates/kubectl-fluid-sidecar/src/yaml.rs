//! Manifests as JSON values. JSON is read by its own parser, everything else as YAML.

use std::io::Read as _;
use std::path::{Path, PathBuf};

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

/// A file, or all `.yaml`, `.yml` and `.json` files of a directory, by their names.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries =
        std::fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut files: Vec<PathBuf> = entries.with_context(|| format!("cannot list {}", path.display()))?;
    files.retain(|file| file.extension().is_some_and(|it| it == "yaml" || it == "yml" || it == "json"));
    files.sort();
    Ok(files)
}

/// Reads a policy's settings; without a file there are none.
pub fn read_settings(path: Option<&Path>) -> Result<Value> {
    path.map_or_else(|| Ok(Value::Object(Map::new())), read_single)
}

/// Reads all documents of a text: of YAML, or of JSON one after another.
pub fn parse(text: &str) -> Result<Vec<Value>> {
    let json = serde_json::Deserializer::from_str(text).into_iter().collect::<Result<Vec<Value>, _>>();
    let documents = match json {
        Ok(documents) => documents,
        Err(error) => match serde_saphyr::from_multiple::<Value>(text) {
            Ok(documents) => documents,
            // YAML in braces is no JSON, but JSON with a mistake is better explained by its own parser.
            Err(_) if text.trim_start().starts_with('{') => return Err(error.into()),
            Err(error) => return Err(error.into()),
        },
    };
    let mut items = Vec::new();
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        add_items(document, &mut items);
    }
    Ok(items)
}

/// Adds a document, or the items of a `List` and of lists in it. In a `PodList` and its like the API server leaves out what
/// the list says: apiVersion and kind of its items.
fn add_items(mut document: Value, items: &mut Vec<Value>) {
    let text = |field| document.get(field).and_then(Value::as_str).map(str::to_string);
    let (kind, api_version) = (text("kind"), text("apiVersion"));
    let of_list = kind.as_deref().and_then(|kind| kind.strip_suffix("List"));
    match (of_list, document.get_mut("items")) {
        (Some(kind), Some(Value::Array(list_items))) => {
            for mut item in std::mem::take(list_items) {
                if let (false, Some(fields)) = (kind.is_empty(), item.as_object_mut()) {
                    fields.entry("kind").or_insert_with(|| kind.into());
                    fields.entry("apiVersion").or_insert_with(|| api_version.clone().into());
                }
                add_items(item, items);
            }
        }
        _ => items.push(document),
    }
}

/// As `kubectl get --output yaml` would print it: keys in alphabetical order.
pub fn print(value: &Value) -> Result<String> {
    Ok(serde_saphyr::to_string(value)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn braces_are_json_or_yaml() {
        for text in [r#"{"a": {"b": 1}}"#, "{a: {b: 1}}", "a: {b: 1}"] {
            assert_eq!(parse(text).unwrap(), [json!({"a": {"b": 1}})], "{text}");
        }
        assert!(parse("{\"a\": 1,\n\"b\" 2}").unwrap_err().to_string().contains("line 2"));
    }

    #[test]
    fn documents_and_lists_are_taken_apart() {
        let a = json!({"kind": "A"});
        for text in [
            "kind: A\n---\n---\nkind: B",
            "{\"kind\": \"A\"}\n{\"kind\": \"B\"}",
            "{kind: List, items: [{kind: A}, {kind: List, items: [{kind: B}]}]}",
        ] {
            assert_eq!(parse(text).unwrap(), [a.clone(), json!({"kind": "B"})], "{text}");
        }
        let pods = parse("{kind: PodList, apiVersion: v1, items: [{metadata: {name: p}}]}").unwrap();
        assert_eq!(pods, [json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}})]);
        // Of what is no list the items stay.
        let no_list = json!({"kind": "Shop", "items": [1]});
        assert_eq!(parse(&no_list.to_string()).unwrap(), [no_list]);
    }
}
