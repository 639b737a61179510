//! Reading parts of JSON, looking into it where its shape is not certain, and changing it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use anyhow::{Context as _, Result};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde::ser::Serialize;
use serde_json::{Map, Value};

// --- parts of a document -----------------------------------------------------------------------------------

/// A field to read, and what to read of it: some fields, or everything if none is named. Lists are looked through: a
/// field of a list is one of each of its elements. So do Kubewarden's field masks.
#[derive(Debug)]
pub struct Mask(pub &'static str, pub &'static [Mask]);

/// A field to read as it is.
pub(crate) const fn all(name: &'static str) -> Mask {
    Mask(name, &[])
}

/// What is read of a kind of documents.
pub trait Masks: Clone {
    /// The fields.
    const MASKS: &'static [Mask];
}

/// The parts of a document that `M` names. The rest is skipped, not stored.
#[derive(Clone, Debug)]
pub struct Masked<M>(pub Value, pub PhantomData<M>);

impl<'de, M: Masks> Deserialize<'de> for Masked<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Masked(Parts(M::MASKS).deserialize(deserializer)?, PhantomData))
    }
}

/// The masks as dotted paths.
pub(crate) fn paths(masks: &[Mask]) -> BTreeSet<String> {
    fn collect(masks: &[Mask], parent: &str, paths: &mut BTreeSet<String>) {
        for Mask(name, inner) in masks {
            let mut path = String::with_capacity(parent.len() + 1 + name.len());
            path.push_str(parent);
            if !parent.is_empty() {
                path.push('.');
            }
            path.push_str(name);
            match inner.is_empty() {
                true => drop(paths.insert(path)),
                false => collect(inner, &path, paths),
            }
        }
    }
    let mut paths = BTreeSet::new();
    collect(masks, "", &mut paths);
    paths
}

/// As many elements of a list are looked at; the rest is skipped. It is more than what is worked on may have
/// ([`crate::limits`]), so that a longer one is still seen to be too long.
const LOOKED_AT: usize = 1000;

/// Reads the parts that the masks name.
#[derive(Clone, Copy)]
struct Parts(&'static [Mask]);

impl<'de> DeserializeSeed<'de> for Parts {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Parts {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any valid JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while list.len() < LOOKED_AT {
            match elements.next_element_seed(self)? {
                Some(element) => list.push(element),
                None => return Ok(Value::Array(list)),
            }
        }
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(mask) = fields.next_key_seed(Name(self.0))? {
            let Some(Mask(name, inner)) = mask else {
                fields.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = match inner.is_empty() {
                true => fields.next_value()?,
                false => fields.next_value_seed(Parts(inner))?,
            };
            map.insert(name.to_string(), value);
        }
        Ok(Value::Object(map))
    }
}

/// Finds the mask of a field.
struct Name(&'static [Mask]);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<&'static Mask>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<&'static Mask>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a field name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().find(|Mask(known, _)| *known == name))
    }
}

// --- looking into it ---------------------------------------------------------------------------------------

/// What is not there.
const NULL: &Value = &Value::Null;

/// The value at some fields, one in the other; `null` when it is not there.
pub(crate) fn at<'v>(value: &'v Value, path: &[&str]) -> &'v Value {
    path.iter().try_fold(value, |value, key| value.get(*key)).unwrap_or(NULL)
}

/// The elements of a list; what is not there, or is of another type, is empty.
pub(crate) fn elements(list: Option<&Value>) -> &[Value] {
    list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// What Kubernetes calls an element of most lists by.
pub(crate) fn name_of(element: &Value) -> Option<&str> {
    text(element, "name")
}

/// The lists of a Pod's containers, in the order in which kubelet starts them.
pub(crate) const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Whether a container mounts one of the volumes.
pub(crate) fn mounts_any(container: &Value, volumes: &Places) -> bool {
    let mut mounts = elements(container.get("volumeMounts")).iter().filter_map(name_of);
    mounts.any(|name| volumes.contains_key(name))
}

/// A field that is a text.
pub(crate) fn text<'v>(map: &'v Value, key: &str) -> Option<&'v str> {
    map.get(key)?.as_str()
}

/// Places in a list, by names: those of the elements, or others.
pub(crate) type Places = BTreeMap<String, usize>;

/// The place of each name; of one that comes several times the first.
pub(crate) fn places<'n>(names: impl Iterator<Item = &'n str>) -> Places {
    let mut places = Places::new();
    for (place, name) in names.enumerate() {
        places.entry(name.to_string()).or_insert(place);
    }
    places
}

/// The places of a list's elements by their names; those without one share the empty name.
pub(crate) fn places_of(list: &[Value]) -> Places {
    places(list.iter().map(|element| name_of(element).unwrap_or_default()))
}

// --- changing it -------------------------------------------------------------------------------------------

/// A field that is a map, made when it is absent.
pub(crate) fn map_field<'m>(
    map: &'m mut Map<String, Value>,
    key: &str,
) -> Result<&'m mut Map<String, Value>> {
    let value = map.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().with_context(|| format!("{key}: must be a map"))
}

/// A field that is a list, made when it is absent.
pub(crate) fn list_field<'m>(map: &'m mut Map<String, Value>, key: &str) -> Result<&'m mut Vec<Value>> {
    let value = map.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().with_context(|| format!("{key}: must be a list"))
}

/// A typed value as JSON.
pub(crate) fn json(value: impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(anyhow::Error::new)
}

/// Ends the use of a value. In the host an instance answers one request and is thrown away with all that it holds, so
/// nothing needs to be taken apart there: it was a tenth of a review's instructions.
pub(crate) fn done<T>(value: T) {
    if cfg!(target_arch = "wasm32") {
        std::mem::forget(value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MASKS: &[Mask] = &[all("a"), Mask("b", &[all("c"), Mask("d", &[all("e")])])];

    #[derive(Clone, Debug)]
    struct Some;

    impl Masks for Some {
        const MASKS: &'static [Mask] = MASKS;
    }

    #[test]
    fn what_is_not_named_is_skipped() {
        let read = |document: Value| {
            let Masked::<Some>(value, _) = serde_json::from_value(document).unwrap();
            value
        };
        assert_eq!(
            read(json!({"a": {"x": [1]}, "x": 1, "b": [{"c": 1, "x": 2}, {"d": {"e": null, "x": 1}}, 7]})),
            json!({"a": {"x": [1]}, "b": [{"c": 1}, {"d": {"e": null}}, 7]})
        );
        assert_eq!(read(json!({"b": "text"})), json!({"b": "text"}));
        assert_eq!(paths(MASKS), ["a", "b.c", "b.d.e"].map(str::to_string).into());
    }
}
