//! The forms of single values: what a text must look like to be a path, a quantity, a resource, an image, a URL.
//! The error says what it is not, without the path of the field.

use fluid_sidecar_layout::{VFUSE_RESOURCE, check_absolute};

/// Anything goes.
pub(super) fn any(_: &str) -> Result<(), String> {
    Ok(())
}

pub(super) fn check_path(path: &str) -> Result<(), String> {
    check_absolute(path).map_err(|error| error.to_string())
}

pub(super) fn check_quantity(text: &str) -> Result<(), String> {
    quantity(text)
        .map(drop)
        .ok_or_else(|| format!("{text:?} is no quantity; expected one like 500m, 2 or 4Gi"))
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
pub(super) fn check_resource_name(name: &str) -> Result<(), String> {
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
        _ => Err(format!("{name:?} is no extended resource; expected <domain>/<name> like {VFUSE_RESOURCE}")),
    }
}

/// The API server wants no blank in or around an image.
pub(super) fn check_image(image: &str) -> Result<(), String> {
    match image.chars().any(char::is_whitespace) {
        true => Err(format!("{image:?} must not hold white space")),
        false => Ok(()),
    }
}

/// The source goes into the sidecar's environment, where everybody who may read Pods can see it.
pub(super) fn check_source(source: &str) -> Result<(), String> {
    let Some((scheme, rest)) = source.split_once("://").filter(|(scheme, _)| !scheme.is_empty()) else {
        return Err(format!("{source:?} is no URL; expected <scheme>://… like file:///mnt/nas/data"));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(format!("the {scheme} URL holds credentials; they would be readable in every Pod"));
    }
    Ok(())
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
