//! Reading free-form JSON field by field: whatever is wrong is noted with its path, and reading goes on.

use serde_json::{Map, Value};

use crate::request::Entries;

use super::checks::check_quantity;
use super::known_fields;

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

/// The fields of one map, read by name; whatever is wrong is noted and reading goes on.
pub(super) struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
    pub(super) problems: &'a mut Vec<String>,
}

impl<'a> Fields<'a> {
    /// `None`, and a problem, when `raw` is no map. Fields that are not known are problems, too.
    pub(super) fn new(path: &str, raw: &'a Value, problems: &'a mut Vec<String>) -> Option<Self> {
        let Value::Object(map) = raw else {
            let path = if path.is_empty() { "settings" } else { path };
            problems.push(format!("{path}: must be a map, not {}", kind_of(raw)));
            return None;
        };
        let known = known_fields(path);
        let path = if path.is_empty() { String::new() } else { format!("{path}.") };
        let fields = Fields { path, map, problems };
        for unknown in map.keys().filter(|key| !known.contains(&key.as_str())) {
            let hint = match closest(unknown, &known) {
                Some(name) => format!("did you mean {name}?"),
                None => format!("known are {}", known.join(", ")),
            };
            fields.problems.push(format!("{}{unknown}: unknown field; {hint}", fields.path));
        }
        Some(fields)
    }

    /// A field that is a map with known fields.
    pub(super) fn section(&mut self, key: &str) -> Option<Fields<'_>> {
        let raw = self.get(key)?;
        Fields::new(&format!("{}{key}", self.path), raw, self.problems)
    }

    /// The elements of a field that is a list; none when it is absent, `None` when it is no list.
    pub(super) fn list(&mut self, key: &str) -> Option<&'a [Value]> {
        match self.get(key) {
            None => Some(&[]),
            Some(Value::Array(entries)) => Some(entries),
            Some(other) => {
                self.problem(key, format!("must be a list, not {}", kind_of(other)));
                None
            }
        }
    }

    pub(super) fn strings(&mut self, key: &str) -> Vec<String> {
        let entries = self.list(key).unwrap_or_default();
        let mut strings = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            match entry {
                Value::String(text) => strings.push(text.clone()),
                other => self
                    .problem(&format!("{key}[{index}]"), format!("must be a string, not {}", kind_of(other))),
            }
        }
        strings
    }

    /// A map of strings, each checked.
    pub(super) fn entries(&mut self, key: &str, check: fn(&str) -> Result<(), String>) -> Entries {
        let mut entries = Entries::new();
        match self.get(key) {
            None => {}
            Some(Value::Object(map)) => {
                for (name, value) in map {
                    if let Some(text) = self.scalar(&format!("{key}.{name}"), value, check) {
                        entries.insert(name.clone(), text);
                    }
                }
            }
            Some(other) => self.problem(key, format!("must be a map, not {}", kind_of(other))),
        }
        entries
    }

    pub(super) fn quantity(&mut self, key: &str) -> Option<String> {
        self.scalar(key, self.get(key)?, check_quantity)
    }

    /// A string, or a number as it is written: quantities often are.
    fn scalar(&mut self, key: &str, value: &Value, check: fn(&str) -> Result<(), String>) -> Option<String> {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            other => {
                self.problem(key, format!("must be a string, not {}", kind_of(other)));
                return None;
            }
        };
        match check(&text) {
            Ok(()) => Some(text),
            Err(what) => {
                self.problem(key, what);
                None
            }
        }
    }

    pub(super) fn problem(&mut self, key: &str, what: String) {
        self.problems.push(format!("{}{key}: {what}", self.path));
    }

    /// A `null` is as good as an absent field, as everywhere in Kubernetes.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn string(&mut self, key: &str) -> Option<&'a str> {
        match self.get(key)? {
            Value::String(text) if text.is_empty() => {
                self.problem(key, "must not be empty".into());
                None
            }
            Value::String(text) => Some(text),
            other => {
                self.problem(key, format!("must be a string, not {}", kind_of(other)));
                None
            }
        }
    }

    pub(super) fn checked(&mut self, key: &str, check: fn(&str) -> Result<(), String>) -> Option<&'a str> {
        let text = self.string(key)?;
        match check(text) {
            Ok(()) => Some(text),
            Err(what) => {
                self.problem(key, what);
                None
            }
        }
    }

    pub(super) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = match self.get(key)? {
            Value::Bool(true) => "true",
            Value::Bool(false) => "false",
            _ => self.string(key)?,
        };
        let chosen = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if chosen.is_none() {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            let hint =
                closest(text, &names).map(|name| format!(" (did you mean {name}?)")).unwrap_or_default();
            self.problem(key, format!("{text:?} is not one of {}{hint}", names.join(", ")));
        }
        chosen
    }

    pub(super) fn seconds(&mut self, key: &str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
        let value = self.get(key)?;
        let seconds = value.as_u64().and_then(|number| u32::try_from(number).ok());
        let seconds = seconds.filter(|seconds| range.contains(seconds));
        if seconds.is_none() {
            let (least, most) = (range.start(), range.end());
            self.problem(
                key,
                format!("must be a whole number of seconds from {least} to {most}, not {value}"),
            );
        }
        seconds
    }
}

/// The known name that a misspelt one probably means.
fn closest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let unknown = unknown.to_ascii_lowercase();
    let distance = |name: &str| strsim::osa_distance(&unknown, &name.to_ascii_lowercase());
    known
        .iter()
        .copied()
        .min_by_key(|name| distance(name))
        .filter(|name| distance(name) <= 1 + name.len() / 4)
}
