//! A section of the settings: a map with known fields, each of which is one block.
//!
//! `section!` makes of the blocks the struct, its defaults, the reader, and the description that all documents are
//! made of. A block has the field's documentation, its name in the code, its type, its default, the form in which it
//! is written, and a [`Note`]:
//!
//! ```ignore
//! /// How long the start of the application waits for its file system, in seconds. …
//! gate_timeout_seconds: u32 = 300, Seconds(1, 3600), {
//!     name: "gateTimeoutSeconds",
//!     group: Some(Group::Sidecar),
//!     label: "Gate timeout",
//!     example: "gateTimeoutSeconds: 900",
//! }
//! ```

use std::fmt::Display;

use serde_json::{Map, Value};

use super::form::{Form, Kind, kind_of};

/// What is said of a field beside its documentation.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    /// The name that users write.
    pub name: &'static str,
    /// What must be written, for fields that have no default.
    pub required: Option<&'static str>,
    /// The part of the documents that it stands in; of a nested field that of the field it is in.
    pub group: Option<Group>,
    /// Its label in the form in Rancher.
    pub label: &'static str,
    /// When the form shows it.
    pub show_if: Option<&'static str>,
    /// Whether the form shows it at all; other fields are set in YAML.
    pub in_form: bool,
    /// A whole settings document that uses it.
    pub example: &'static str,
}

impl Note {
    /// What holds unless a block says otherwise.
    pub const BLANK: Note =
        Note { name: "", required: None, group: None, label: "", show_if: None, in_form: true, example: "" };
}

fluid_sidecar_layout::named! {
    /// The parts of the documents.
    pub enum Group {
        /// What the policy is for.
        General = "General",
        /// Where Pods go.
        Placement = "Placement",
        /// Which claims are Datasets.
        Dataset = "Dataset",
        /// What serves them.
        Sidecar = "Sidecar",
        /// What the platform offers.
        Platform = "Platform",
    }
}

/// A field, described for documents.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its documentation.
    pub about: &'static str,
    /// What else is said of it.
    pub note: Note,
    /// The form of its value.
    pub kind: Kind,
    /// The default, as it would be written; `None`: absent.
    pub default: Option<Value>,
}

/// A map with known fields.
pub trait Section: Sized {
    /// The fields' names.
    const NAMES: &'static [&'static str];

    /// Reads the fields; `base` has the values of those that are absent.
    fn read(fields: &mut Fields<'_>, base: Self) -> Self;

    /// Describes the fields, for documents.
    fn describe(base: &Self) -> Vec<Field>;
}

macro_rules! section {
    // With defaults.
    (
        $(#[$meta:meta])*
        pub struct $section:ident {
            $(
                $(#[doc = $about:literal])+
                $field:ident: $type:ty = $default:expr, $form:expr, { $($note:tt)* }
            )+
        }
        $(check: $check:path)?
    ) => {
        $crate::settings::section! {
            $(#[$meta])*
            pub struct $section {
                $(
                    $(#[doc = $about])+
                    $field: $type, $form, { $($note)* }
                )+
            }
            $(check: $check)?
        }

        impl Default for $section {
            fn default() -> Self {
                $section { $($field: $default,)+ }
            }
        }
    };
    // Whose defaults depend.
    (
        $(#[$meta:meta])*
        pub struct $section:ident {
            $(
                $(#[doc = $about:literal])+
                $field:ident: $type:ty, $form:expr, { $($key:ident: $value:expr),+ $(,)? }
            )+
        }
        $(check: $check:path)?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $section {
            $($(#[doc = $about])+ pub $field: $type,)+
        }

        impl $crate::settings::Section for $section {
            const NAMES: &'static [&'static str] =
                &[$($crate::settings::Note { $($key: $value,)+ ..$crate::settings::Note::BLANK }.name),+];

            fn read(fields: &mut $crate::settings::Fields<'_>, base: Self) -> Self {
                let section = $section {
                    $($field: {
                        const NOTE: $crate::settings::Note =
                            $crate::settings::Note { $($key: $value,)+ ..$crate::settings::Note::BLANK };
                        fields.read(NOTE.name, NOTE.required, &$form, base.$field)
                    },)+
                };
                $($check(fields, &section);)?
                section
            }

            fn describe(base: &Self) -> Vec<$crate::settings::Field> {
                vec![$($crate::settings::Field {
                    about: const { concat!($($about),+).trim_ascii() },
                    note: $crate::settings::Note { $($key: $value,)+ ..$crate::settings::Note::BLANK },
                    kind: $crate::settings::form::Form::kind(&$form, &base.$field),
                    default: $crate::settings::form::Form::show(&$form, &base.$field),
                }),+]
            }
        }
    };
}

pub(crate) use section;

/// A place in the settings, where problems are noted with its path.
pub struct Place<'p> {
    path: String,
    problems: &'p mut Vec<String>,
}

impl<'p> Place<'p> {
    /// The settings as a whole.
    pub(super) fn root(problems: &'p mut Vec<String>) -> Place<'p> {
        Place { path: String::new(), problems }
    }

    /// The place of a field.
    pub(super) fn field(&mut self, name: &str) -> Place<'_> {
        let path = if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) };
        Place { path, problems: self.problems }
    }

    /// The place of an element of a list.
    pub(super) fn element(&mut self, index: usize) -> Place<'_> {
        Place { path: format!("{}[{index}]", self.path), problems: self.problems }
    }

    /// The same place.
    pub(super) fn here(&mut self) -> Place<'_> {
        Place { path: self.path.clone(), problems: self.problems }
    }

    pub(super) fn problem(&mut self, what: impl Display) {
        let path = if self.path.is_empty() { "settings" } else { &self.path };
        self.problems.push(format!("{path}: {what}"));
    }

    /// The map that stands there; anything else is a problem.
    pub(super) fn map<'v>(&mut self, raw: &'v Value) -> Option<&'v Map<String, Value>> {
        let map = raw.as_object();
        if map.is_none() {
            self.problem(format_args!("must be a map, not {}", kind_of(raw)));
        }
        map
    }

    /// Notes the names that are not known: a misspelt one would otherwise silently keep its default.
    pub(super) fn refuse_others(&mut self, map: &Map<String, Value>, known: &[&str]) {
        for unknown in map.keys().filter(|key| !known.contains(&key.as_str())) {
            let hint = match closest(unknown, known) {
                Some(name) => format!("did you mean {name}?"),
                None => format!("known are {}", known.join(", ")),
            };
            self.field(unknown).problem(format_args!("unknown field; {hint}"));
        }
    }
}

/// The fields of one map, read by name.
pub struct Fields<'f> {
    map: &'f Map<String, Value>,
    place: Place<'f>,
}

impl<'f> Fields<'f> {
    /// The fields of a section; `None`, and a problem, when `raw` is no map. Fields that the section does not know are
    /// problems, too.
    pub(super) fn of<S: Section>(mut place: Place<'f>, raw: &'f Value) -> Option<Self> {
        let map = place.map(raw)?;
        place.refuse_others(map, S::NAMES);
        Some(Fields { map, place })
    }

    /// What is written for a field. A `null` is as good as an absent field, as everywhere in Kubernetes.
    fn written(&self, name: &str) -> Option<&'f Value> {
        self.map.get(name).filter(|raw| !raw.is_null())
    }

    /// Reads a field.
    pub(crate) fn read<T>(&mut self, name: &str, required: Option<&str>, form: &impl Form<T>, base: T) -> T {
        match self.written(name) {
            Some(raw) => form.read(&mut self.place.field(name), raw, base),
            None => {
                if let Some(what) = required {
                    self.problem(name, format_args!("required: {what}"));
                }
                base
            }
        }
    }

    /// The elements of a list as they are written: none if it is absent, `None` if it is something else.
    pub(crate) fn elements(&self, name: &str) -> Option<&'f [Value]> {
        self.written(name).map_or(Some(&[]), |list| list.as_array().map(Vec::as_slice))
    }

    /// Whether a field is written.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.written(name).is_some()
    }

    pub(crate) fn problem(&mut self, name: &str, what: impl Display) {
        self.place.field(name).problem(what);
    }
}

/// The known name that a misspelt one probably means.
pub(super) fn closest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let unknown = unknown.to_ascii_lowercase();
    let distance = |name: &str| strsim::osa_distance(&unknown, &name.to_ascii_lowercase());
    known
        .iter()
        .copied()
        .min_by_key(|name| distance(name))
        .filter(|name| distance(name) <= 1 + name.len() / 4)
}
