//! Enumerations with names on command lines.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use crate::Named;

/// Takes the names of an enumeration as the values of an option. The help tells what each is about.
///
/// ```
/// use clap::{Arg, Command};
/// use fluid_sidecar_layout::{Runtime, clap_parser};
///
/// let command = Command::new("x").arg(Arg::new("runtime").value_parser(clap_parser::<Runtime>()));
/// let matches = command.try_get_matches_from(["x", "juicefs"])?;
/// assert_eq!(matches.get_one("runtime"), Some(&Runtime::JuiceFs));
/// # Ok::<(), clap::Error>(())
/// ```
pub fn clap_parser<T: Named + Send + Sync>() -> impl TypedValueParser<Value = T> {
    let values = T::ALL.iter().map(|value| {
        let known = PossibleValue::new(value.name());
        if value.about().is_empty() { known } else { known.help(value.about()) }
    });
    PossibleValuesParser::new(values).try_map(|name| T::from_name(&name).ok_or("is not known"))
}
