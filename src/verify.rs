//! Is the injection of a Pod still whole? The same module as a validating policy, with `mode: verify`.
//!
//! Kubewarden's mutating webhooks see a Pod once, and others may come after this one: known ones strip
//! `restartPolicy` from native sidecars or reorder containers. A validating policy runs last and sees what
//! will be stored. It does not believe the annotation: the Pod as it was before, by what the annotation says, is injected
//! anew, and everything of that must be in the Pod. Others may have added to it, as the API server has its defaults, but
//! not what decides which program a sidecar runs.

use fluid_sidecar_layout::Named as _;
use fluid_sidecar_layout::contract::env;
use serde_json::{Map, Value};

use crate::destination::{Destination, Order};
use crate::json::{Places, at, elements, mounts_any, name_of, places, places_of, text};
use crate::reason::{Because as _, Code, Reason};
use crate::settings::Settings;
use crate::settings::text::quantity;
use crate::status::{ANNOTATION, Status};

/// Fields that nobody may add to what is injected: of a container and of its capabilities.
const NOT_ADDED: &[&str] = &["add", "args", "command", "envFrom", "lifecycle", "privileged", "volumeDevices"];

/// What begins the names of variables that nobody may add to a sidecar: they are for the loader of its program, or for
/// the program `fluid-fuse`.
const VARIABLES_NOT_ADDED: &[&str] = &[env::PREFIX, "LD_"];

/// What others may change: AlwaysPullImages does.
const FREE: &str = "imagePullPolicy";

/// As many differences are told.
const TOLD_MAX: usize = 10;

/// Where the annotation says that the Pod goes: only where the settings let Pods go.
pub fn destination(status: &Status, settings: &Settings) -> Result<Destination, Reason> {
    let name = status.destination.as_str();
    let possible = Destination::from_name(name).filter(|destination| match settings.destination {
        Some(every) => every == *destination,
        None => {
            settings.enables(*destination)
                || settings.selectors.iter().any(|selector| selector.destination == *destination)
        }
    });
    possible.ok_or_else(|| {
        let text = format!("annotation {ANNOTATION} names {name:?}, to which these settings send no Pods");
        Reason::new(Code::Damaged, text)
    })
}

/// A Dataset's claim is still there.
pub fn never_injected(claim: &str) -> Reason {
    Reason::new(Code::Damaged, format!("claim {claim} is a Dataset's, but no sidecar was injected for it"))
}

/// Compares a Pod, said to be injected for a destination, with what the injection gives now.
pub fn compare(
    pod: &Value,
    destination: Destination,
    expected: Result<Option<Value>, Reason>,
    settings: &Settings,
) -> Result<Reason, Reason> {
    let mut found = Differences::default();
    match expected {
        Err(reason) if reason.code == Code::Unresolved => return Err(reason),
        Err(reason) => found.told.push(format!("such a Pod is not injected: {}", reason.text)),
        Ok(None) => found.told.push(format!("annotation {ANNOTATION} names no claim of a Dataset")),
        Ok(Some(expected)) => {
            let status = Status::of(&expected).because(Code::Malformed)?;
            found.look_at("spec", at(&expected, &["spec"]), pod.get("spec"));
            let order = settings.strategy(destination).order;
            found.told.extend(status.and_then(|status| too_late(pod, &status, order)));
        }
    }
    if found.told.is_empty() {
        return Ok(Reason::new(Code::Verified, format!("the injection for {destination} is whole")));
    }
    let text = format!("a later webhook damaged the injection: {}", found.told.join("; "));
    Err(Reason::new(Code::Damaged, text))
}

/// Says which container reads a Dataset and starts before a sidecar.
fn too_late(pod: &Value, status: &Status, order: Order) -> Option<String> {
    let list = elements(pod.get("spec").and_then(|spec| spec.get(order.list())));
    let claims = status.claims_by_volume();
    // A worker sees its holder's mount.
    let sidecars = places(status.sidecars.iter().map(|sidecar| sidecar.container.as_str()));
    let is_sidecar = |container: &Value| name_of(container).is_some_and(|name| sidecars.contains_key(name));
    let first_reader =
        list.iter().position(|container| mounts_any(container, &claims) && !is_sidecar(container))?;
    let places = places_of(list);
    let is_late = |container: &&str| places.get(*container).is_some_and(|place| first_reader < *place);
    let late = status.sidecars.iter().map(|sidecar| sidecar.container.as_str()).find(is_late)?;
    let early = name_of(&list[first_reader])?;
    Some(format!("container {early} now starts before sidecar {late}, whose data it reads"))
}

/// What of one value is not in another: paths of fields, never their values, which may be secrets.
#[derive(Default)]
struct Differences {
    told: Vec<String>,
    path: String,
}

impl Differences {
    fn tell(&mut self, what: &str) {
        if self.told.len() < TOLD_MAX {
            self.told.push(format!("{} {what}", self.path));
        }
    }

    /// Looks at a part of what is being looked at.
    fn look_at(&mut self, part: &str, expected: &Value, found: Option<&Value>) {
        let length = self.path.len();
        if length > 0 && !part.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(part);
        match found {
            Some(found) => self.look(expected, found),
            None if is_as_good_as_absent(expected) => {}
            None => self.tell("is missing"),
        }
        self.path.truncate(length);
    }

    fn look(&mut self, expected: &Value, found: &Value) {
        match (expected, found) {
            (Value::Object(expected), Value::Object(map)) => {
                // Others may give a sidecar more or less cpu and memory.
                let resources = self.path.ends_with(".limits") || self.path.ends_with(".requests");
                for (field, value) in expected {
                    if field != FREE && (!resources || field.contains('/')) {
                        self.look_at(field, value, map.get(field));
                    }
                }
                for (field, value) in map.iter().filter(|(field, _)| !expected.contains_key(*field)) {
                    if NOT_ADDED.contains(&field.as_str()) && !is_as_good_as_absent(value) {
                        self.look_at(field, &Value::Null, Some(value));
                    } else if value.is_object() {
                        self.look_at(field, &Value::Object(Map::new()), Some(value));
                    }
                }
            }
            (Value::Array(expected), Value::Array(list)) => match key_of(expected) {
                Some(key) => {
                    // Of two variables of one name the last counts.
                    let last = |list: &[Value]| -> Places {
                        let names =
                            list.iter().map(|element| text(element, key).unwrap_or_default().to_string());
                        names.zip(0..).collect()
                    };
                    let (expected_places, places) = (last(expected), last(list));
                    for (name, place) in &expected_places {
                        let found = places.get(name).map(|place| &list[*place]);
                        self.look_at(&format!("[{name}]"), &expected[*place], found);
                    }
                    for (name, place) in &places {
                        let is_ours = VARIABLES_NOT_ADDED.iter().any(|start| name.starts_with(start));
                        if is_ours && !expected_places.contains_key(name) {
                            self.look_at(&format!("[{name}]"), &Value::Null, list.get(*place));
                        }
                    }
                }
                None if expected.len() != list.len() => self.tell("is not what the policy injects"),
                None => {
                    for (index, element) in expected.iter().enumerate() {
                        self.look_at(&format!("[{index}]"), element, list.get(index));
                    }
                }
            },
            (expected, found) if expected == found => {}
            (Value::String(expected), Value::String(found))
                if self.path.ends_with(".sizeLimit") && quantity(expected) == quantity(found) => {}
            (Value::Null, _) => self.tell("was added"),
            _ => self.tell("is not what the policy injects"),
        }
    }
}

/// The API server leaves such values out where they say nothing.
fn is_as_good_as_absent(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(_) => false,
    }
}

/// The field by which the elements of a list are known; `None`: by their places.
fn key_of(list: &[Value]) -> Option<&'static str> {
    let all_have = |key: &&'static str| list.iter().all(|element| text(element, key).is_some());
    ["mountPath", "name"].into_iter().find(all_have).filter(|_| !list.is_empty())
}
