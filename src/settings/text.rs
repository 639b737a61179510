//! The forms of texts: one block for each, with what may be written, its pattern, and its check.

use anyhow::{Result, bail, ensure};
use fluid_sidecar_layout::check_absolute;
use fluid_sidecar_layout::contract::VFUSE_RESOURCE;
use fluid_sidecar_layout::source;

/// What a text must look like.
#[derive(Debug)]
pub struct TextForm {
    /// What documents call it.
    pub name: &'static str,
    /// What may be written, for documents; empty: anything.
    pub about: &'static str,
    /// The same as a regular expression, without `\d` and the like, which languages understand differently.
    pub pattern: fn() -> String,
    /// The same in code; the error says what the text is not, without the path of the field.
    pub check: fn(&str) -> Result<()>,
    /// Whether a number may stand for its text.
    pub may_be_number: bool,
    /// Whether there may be no text at all.
    pub may_be_empty: bool,
}

/// Any text but the empty one.
pub static STRING: TextForm = TextForm {
    name: "string",
    about: "",
    pattern: String::new,
    check: |_| Ok(()),
    may_be_number: false,
    may_be_empty: false,
};

/// What stands in a list or a map of texts, where an empty one means something.
pub static ELEMENT: TextForm = TextForm { may_be_empty: true, ..STRING };

/// The same in a map, where YAML easily makes a number of it.
pub static VALUE: TextForm = TextForm { may_be_number: true, ..ELEMENT };

/// An image.
pub static IMAGE: TextForm = TextForm {
    name: "image",
    about: "an image reference, without white space",
    pattern: || r"^[^ \t\r\n\f\u000b]+$".into(),
    check: |image| {
        // The API server wants none in or around an image.
        ensure!(!image.contains(char::is_whitespace), "{image:?} must not hold white space");
        Ok(())
    },
    ..STRING
};

/// A path.
pub static PATH: TextForm = TextForm {
    name: "path",
    about: "absolute, without empty, `.` or `..` components, and not `/` itself",
    pattern: || r"^(/(?!\.{1,2}(/|$))[^/\u0000-\u001f\u007f-\u009f]+)+$".into(),
    check: |path| Ok(check_absolute(path)?),
    ..STRING
};

/// An amount of a resource.
pub static QUANTITY: TextForm = TextForm {
    name: "quantity",
    about: "a number that is not negative, with one of Kubernetes' suffixes `n`, `u`, `m`, `k`, `M`, `G`, `T`, `P`, \
            `E`, `Ki`, `Mi`, `Gi`, `Ti`, `Pi`, `Ei`, an exponent like `e3`, or none of these",
    pattern: || QUANTITY_PATTERN.into(),
    check: |text| {
        ensure!(quantity(text).is_some(), "{text:?} is no quantity; expected one like 500m, 2 or 4Gi");
        Ok(())
    },
    may_be_number: true,
    may_be_empty: true,
};

/// An amount that limits something: none at all would be no limit to Kubernetes.
pub static LIMIT: TextForm = TextForm {
    name: "limit",
    about: "a quantity above zero",
    pattern: || QUANTITY_PATTERN.replacen(r"\+?", r"\+?(?=[0-9.]*[1-9])", 1),
    check: |text| {
        (QUANTITY.check)(text)?;
        ensure!(quantity(text) != Some(0), "{text:?} would be no limit at all; name an amount above zero");
        Ok(())
    },
    ..QUANTITY
};

const QUANTITY_PATTERN: &str = r"^\+?([0-9]+\.?[0-9]*|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]{1,9})?$";

/// The name of an extended resource.
pub static RESOURCE: TextForm = TextForm {
    name: "extended resource",
    about: "`<domain>/<name>`, where the domain is not Kubernetes' own",
    pattern: || {
        "^(?![^/]*kubernetes\\.io/)(?!requests\\.)(?=[^/]{1,63}/)\
         [a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\
         /[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$"
            .into()
    },
    check: check_resource_name,
    ..STRING
};

/// What `fluid-fuse` serves.
pub static URL: TextForm = TextForm {
    name: "URL",
    about: "`file:///…`, `local:///…`, or `<scheme>://…` of a store ([fluid-fuse](fluid-fuse.md) lists them), without \
            credentials",
    pattern: source::pattern,
    check: |url| Ok(source::parse(url).map(|_| ())?),
    ..STRING
};

/// The forms that documents explain.
pub static EXPLAINED: [&TextForm; 6] = [&IMAGE, &LIMIT, &PATH, &QUANTITY, &RESOURCE, &URL];

/// Checks that an amount of a resource, unless it is none, is at least the smallest that there is: 500m is half a core, but
/// also half a byte.
pub fn check_unit(resource: &str, text: &str) -> Result<()> {
    let (unit, billionths) = match resource {
        "cpu" => ("1m", 1_000_000),
        _ => ("1", 1_000_000_000),
    };
    let amount = quantity(text).unwrap_or_default();
    ensure!(
        amount == 0 || amount >= billionths,
        "{text:?} is less than the smallest amount of {resource}, which is {unit}"
    );
    Ok(())
}

/// A quantity in billionths, for comparisons, in every form that Kubernetes documents (`resource.Quantity`) but
/// negative ones, which no resource may have.
pub fn quantity(text: &str) -> Option<i128> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.len() == number.matches('.').count() || fraction.contains('.') {
        return None;
    }
    let (tens, twos) = match suffix {
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "" => (0, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        _ => (suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?, 0),
    };
    // Nineteen digits are exact, as many as Kubernetes' largest quantity has; the rest only move the point.
    let mut digits: i128 = 0;
    let mut tens = tens.saturating_add(9);
    for (part, moves) in [(whole, 1), (fraction, 0)] {
        for digit in part.bytes() {
            let exact = digits < 10i128.pow(18);
            if exact {
                digits = digits * 10 + i128::from(digit - b'0');
            }
            tens = tens.saturating_add(moves - i32::from(exact));
        }
    }
    let power = |exponent: u32| 10i128.checked_pow(exponent).unwrap_or(i128::MAX);
    let amount = digits << twos;
    Some(if tens < 0 {
        amount / power(tens.unsigned_abs())
    } else {
        amount.saturating_mul(power(tens.unsigned_abs()))
    })
}

/// An extended resource: a domain and a name (Kubernetes: `IsExtendedResourceName`, `IsQualifiedName`).
fn check_resource_name(name: &str) -> Result<()> {
    let plain = |part: &str, allowed: fn(&u8) -> bool| {
        let bytes = part.as_bytes();
        let ends = |end: Option<&u8>| end.is_some_and(|byte| byte.is_ascii_alphanumeric());
        bytes.len() <= 63
            && ends(bytes.first())
            && ends(bytes.last())
            && bytes.iter().all(|byte| allowed(byte) || b"-.".contains(byte))
    };
    let lower = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let any_case = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    match name.split_once('/') {
        Some((domain, resource))
            if plain(domain, lower)
                && plain(resource, any_case)
                && !domain
                    .split('.')
                    .any(|label| label.is_empty() || label.starts_with('-') || label.ends_with('-'))
                && !domain.ends_with("kubernetes.io")
                && !domain.starts_with("requests.") =>
        {
            Ok(())
        }
        _ => bail!("{name:?} is no extended resource; expected <domain>/<name> like {VFUSE_RESOURCE}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resource_must_be_an_extended_one() {
        for (name, ok) in [
            ("alibabacloud.com/vfuse", true),
            ("fluid.io/fuse", true),
            ("cpu", false),
            ("kubernetes.io/x", false),
            ("a/b/c", false),
        ] {
            assert_eq!(check_resource_name(name).is_ok(), ok, "{name}");
        }
    }

    #[test]
    fn quantities_compare_across_suffixes() {
        for (small, large) in [
            ("500m", "1"),
            ("1023Mi", "1Gi"),
            ("1G", "1Gi"),
            ("1.5Gi", "2Gi"),
            ("0", "1n"),
            ("999u", "1m"),
            ("999", "1e3"),
            ("1e-3", "2m"),
            ("1023Pi", "1Ei"),
            ("1E", "1Ei"),
            ("9999999999999999999", "1e20"),
            ("0.9999999999999999999999", "1"),
        ] {
            assert!(quantity(small) < quantity(large), "{small} {large}");
        }
        for (one, other) in [
            ("1e3", "1k"),
            ("1E3", "1000"),
            ("1e+3", "+1000"),
            ("1.e3", "1k"),
            (".5", "500m"),
            ("1E", "1e18"),
            ("12345678901234567890Ei", "12345678901234567890Ei"),
            ("1.0000000000000000000000000Gi", "1024Mi"),
            ("0e999999999", "0"),
            ("1e-999999999", "0"),
        ] {
            assert!(quantity(one).is_some() && quantity(one) == quantity(other), "{one} {other}");
        }
        for bad in
            ["", ".", "+", "Gi", "1GB", "-1", "1..", "1.2.3", "1e", "1e1.5", "1Ee3", "1 Gi", "1e99999999999"]
        {
            assert_eq!(quantity(bad), None, "{bad}");
        }
    }
}
