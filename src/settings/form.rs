//! The forms in which values are written: how each is read, shown and described.

use std::collections::BTreeMap;

use fluid_sidecar_layout::Named;
use serde_json::Value;
use wildmatch::WildMatch;

use super::section::{Field, Fields, Note, Place, Section, closest};
use super::text::{self, TextForm};

/// How a value of a field is written.
pub trait Form<T> {
    /// Reads what is written. What is wrong is noted, and gives `base`, or the default of an element.
    fn read(&self, place: &mut Place<'_>, raw: &Value, base: T) -> T;

    /// The value as it would be written; `None`: it is absent.
    fn show(&self, value: &T) -> Option<Value>;

    /// What documents say of the form. `base` has the defaults of fields in it.
    fn kind(&self, base: &T) -> Kind;
}

/// A form, described for documents.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A text of some form.
    Text(&'static TextForm),
    /// A whole number with its bounds.
    Seconds(u32, u32),
    /// `true` or `false`.
    Boolean,
    /// One of these names, with what each means.
    Choice(Vec<(&'static str, &'static str)>),
    /// A list of such elements.
    List(Box<Kind>),
    /// A map of any names to such values.
    Map(Box<Kind>),
    /// A map with these fields.
    Section(Vec<Field>),
    /// A map with an optional field for each of these names.
    Each(Box<Entry>, Vec<(&'static str, Kind)>),
}

/// What is said of the fields of [`Each`].
#[derive(Clone, Debug)]
pub struct Entry {
    /// Documentation.
    pub about: &'static str,
    /// Whose name is what stands for each of the names.
    pub note: Note,
}

/// What a person calls the type of a value.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

/// A text of the form.
#[derive(Clone, Copy, Debug)]
pub struct Text(pub &'static TextForm);

impl Form<String> for Text {
    fn read(&self, place: &mut Place<'_>, raw: &Value, base: String) -> String {
        let Text(form) = self;
        let text = match raw {
            Value::String(text) if text.is_empty() && !form.may_be_empty => {
                place.problem("must not be empty");
                return base;
            }
            Value::String(text) => text.clone(),
            // As it is written: quantities often are numbers.
            Value::Number(number) if form.may_be_number => number.to_string(),
            other => {
                place.problem(format_args!("must be a string, not {}", kind_of(other)));
                return base;
            }
        };
        match (form.check)(&text) {
            Ok(()) => text,
            Err(error) => {
                place.problem(format_args!("{error:#}"));
                base
            }
        }
    }

    fn show(&self, value: &String) -> Option<Value> {
        Some(value.as_str().into())
    }

    fn kind(&self, _: &String) -> Kind {
        Kind::Text(self.0)
    }
}

/// A value that may be absent.
#[derive(Clone, Copy, Debug)]
pub struct Optional<F>(pub F);

impl<T: Default, F: Form<T>> Form<Option<T>> for Optional<F> {
    fn read(&self, place: &mut Place<'_>, raw: &Value, _: Option<T>) -> Option<T> {
        Some(self.0.read(place, raw, T::default()))
    }

    fn show(&self, value: &Option<T>) -> Option<Value> {
        self.0.show(value.as_ref()?)
    }

    fn kind(&self, value: &Option<T>) -> Kind {
        match value {
            Some(value) => self.0.kind(value),
            None => self.0.kind(&T::default()),
        }
    }
}

/// A text in which `*` stands for any characters and `?` for one.
#[derive(Clone, Copy, Debug)]
pub struct Pattern;

impl Form<WildMatch> for Pattern {
    fn read(&self, place: &mut Place<'_>, raw: &Value, base: WildMatch) -> WildMatch {
        WildMatch::new(&Text(&text::STRING).read(place, raw, base.pattern()))
    }

    fn show(&self, value: &WildMatch) -> Option<Value> {
        Some(value.pattern().into()).filter(|pattern| pattern != "")
    }

    fn kind(&self, _: &WildMatch) -> Kind {
        Kind::Text(&text::STRING)
    }
}

/// A whole number of seconds, from the first to the second.
#[derive(Clone, Copy, Debug)]
pub struct Seconds(pub u32, pub u32);

impl Form<u32> for Seconds {
    fn read(&self, place: &mut Place<'_>, raw: &Value, base: u32) -> u32 {
        let Seconds(least, most) = *self;
        let seconds = raw.as_u64().and_then(|number| u32::try_from(number).ok());
        seconds.filter(|seconds| (least..=most).contains(seconds)).unwrap_or_else(|| {
            place
                .problem(format_args!("must be a whole number of seconds from {least} to {most}, not {raw}"));
            base
        })
    }

    fn show(&self, value: &u32) -> Option<Value> {
        Some((*value).into())
    }

    fn kind(&self, _: &u32) -> Kind {
        Kind::Seconds(self.0, self.1)
    }
}

/// One of the names, or nothing when none of them is written.
fn choose<T>(
    place: &mut Place<'_>,
    raw: &Value,
    names: &[&str],
    find: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let text = match raw {
        Value::Bool(true) => "true",
        Value::Bool(false) => "false",
        Value::String(text) if !text.is_empty() => text,
        Value::String(_) => {
            place.problem("must not be empty");
            return None;
        }
        other => {
            place.problem(format_args!("must be a string, not {}", kind_of(other)));
            return None;
        }
    };
    let chosen = find(text);
    if chosen.is_none() {
        let hint = closest(text, names).map(|name| format!(" (did you mean {name}?)")).unwrap_or_default();
        place.problem(format_args!("{text:?} is not one of {}{hint}", names.join(", ")));
    }
    chosen
}

fn names<T: Named>() -> Vec<&'static str> {
    T::ALL.iter().map(|value| value.name()).collect()
}

fn described<T: Named>() -> Vec<(&'static str, &'static str)> {
    T::ALL.iter().map(|value| (value.name(), value.about())).collect()
}

/// `true` or `false`, also as texts.
#[derive(Clone, Copy, Debug)]
pub struct Boolean;

impl Form<bool> for Boolean {
    fn read(&self, place: &mut Place<'_>, raw: &Value, base: bool) -> bool {
        choose(place, raw, &["true", "false"], |text| text.parse().ok()).unwrap_or(base)
    }

    fn show(&self, value: &bool) -> Option<Value> {
        Some((*value).into())
    }

    fn kind(&self, _: &bool) -> Kind {
        Kind::Boolean
    }
}

/// A name of an enumeration.
#[derive(Clone, Copy, Debug)]
pub struct Choice;

impl<T: Named> Form<T> for Choice {
    fn read(&self, place: &mut Place<'_>, raw: &Value, base: T) -> T {
        choose(place, raw, &names::<T>(), T::from_name).unwrap_or(base)
    }

    fn show(&self, value: &T) -> Option<Value> {
        Some(value.name().into())
    }

    fn kind(&self, _: &T) -> Kind {
        Kind::Choice(described::<T>())
    }
}

/// A name of an enumeration, or `auto`, whose documentation is the text.
#[derive(Clone, Copy, Debug)]
pub struct AutoOr(pub &'static str);

const AUTO: &str = "auto";

impl<T: Named> Form<Option<T>> for AutoOr {
    fn read(&self, place: &mut Place<'_>, raw: &Value, base: Option<T>) -> Option<T> {
        let mut names = names::<T>();
        names.insert(0, AUTO);
        let find = |text: &str| if text == AUTO { Some(None) } else { T::from_name(text).map(Some) };
        choose(place, raw, &names, find).unwrap_or(base)
    }

    fn show(&self, value: &Option<T>) -> Option<Value> {
        Some(value.map_or(AUTO, T::name).into())
    }

    fn kind(&self, _: &Option<T>) -> Kind {
        let mut choices = described::<T>();
        choices.insert(0, (AUTO, self.0));
        Kind::Choice(choices)
    }
}

/// A list of elements of a form.
#[derive(Clone, Copy, Debug)]
pub struct List<F>(pub F);

impl<T: Default, F: Form<T>> Form<Vec<T>> for List<F> {
    fn read(&self, place: &mut Place<'_>, raw: &Value, base: Vec<T>) -> Vec<T> {
        let Value::Array(elements) = raw else {
            place.problem(format_args!("must be a list, not {}", kind_of(raw)));
            return base;
        };
        let elements = elements.iter().enumerate();
        elements.map(|(index, raw)| self.0.read(&mut place.element(index), raw, T::default())).collect()
    }

    fn show(&self, _: &Vec<T>) -> Option<Value> {
        None
    }

    fn kind(&self, _: &Vec<T>) -> Kind {
        Kind::List(Box::new(self.0.kind(&T::default())))
    }
}

/// A map of any names to values of a form.
#[derive(Clone, Copy, Debug)]
pub struct Map<F>(pub F);

impl<T: Default, F: Form<T>> Form<BTreeMap<String, T>> for Map<F> {
    fn read(&self, place: &mut Place<'_>, raw: &Value, base: BTreeMap<String, T>) -> BTreeMap<String, T> {
        let Some(map) = place.map(raw) else { return base };
        let read = |(name, raw): (&String, &Value)| {
            (name.clone(), self.0.read(&mut place.field(name), raw, T::default()))
        };
        map.iter().map(read).collect()
    }

    fn show(&self, _: &BTreeMap<String, T>) -> Option<Value> {
        None
    }

    fn kind(&self, _: &BTreeMap<String, T>) -> Kind {
        Kind::Map(Box::new(self.0.kind(&T::default())))
    }
}

/// A map with the fields of a section.
#[derive(Clone, Copy, Debug)]
pub struct Whole;

impl<S: Section> Form<S> for Whole {
    fn read(&self, place: &mut Place<'_>, raw: &Value, base: S) -> S {
        match Fields::of::<S>(place.here(), raw) {
            Some(mut fields) => S::read(&mut fields, base),
            None => base,
        }
    }

    fn show(&self, _: &S) -> Option<Value> {
        None
    }

    fn kind(&self, base: &S) -> Kind {
        Kind::Section(S::describe(base))
    }
}

/// A map with an optional field for each value of an enumeration.
pub struct Each<N, T, F> {
    /// The form of the fields.
    pub of: F,
    /// What holds for the fields in it that are absent.
    pub base: fn(N) -> T,
    /// What is said of the fields.
    pub entry: Entry,
}

impl<N: Named, T, F: Form<T>> Form<Vec<(N, T)>> for Each<N, T, F> {
    fn read(&self, place: &mut Place<'_>, raw: &Value, base: Vec<(N, T)>) -> Vec<(N, T)> {
        let Some(map) = place.map(raw) else { return base };
        place.refuse_others(map, &names::<N>());
        let written = |value: &N| Some((*value, map.get(value.name()).filter(|raw| !raw.is_null())?));
        let read = |(value, raw): (N, &Value)| {
            (value, self.of.read(&mut place.field(value.name()), raw, (self.base)(value)))
        };
        N::ALL.iter().filter_map(written).map(read).collect()
    }

    fn show(&self, _: &Vec<(N, T)>) -> Option<Value> {
        None
    }

    fn kind(&self, _: &Vec<(N, T)>) -> Kind {
        let kinds = N::ALL.iter().map(|value| (value.name(), self.of.kind(&(self.base)(*value))));
        Kind::Each(Box::new(self.entry.clone()), kinds.collect())
    }
}
