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

/// The form of Kubernetes' quantities, and a number behind it.
pub(super) fn check_quantity(text: &str) -> Result<(), String> {
    quantity(text)
        .map(drop)
        .ok_or_else(|| format!("{text:?} is no quantity; expected one like 500m, 2 or 4Gi"))
}

/// A quantity in thousandths, for comparisons. Fractions below that are dropped.
pub fn quantity(text: &str) -> Option<i128> {
    let end = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor: i128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "P" => 1_000_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        "Pi" => 1000 << 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 || whole.len() > 15 {
        return None;
    }
    let part = fraction.parse::<i128>().ok()? * factor / 10i128.pow(u32::try_from(fraction.len()).ok()?);
    Some(whole.parse::<i128>().ok()? * factor + part)
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
        for (small, large) in [("500m", "1"), ("1023Mi", "1Gi"), ("1G", "1Gi"), ("1.5Gi", "2Gi"), ("0", "1m")]
        {
            assert!(quantity(small) < quantity(large), "{small} {large}");
        }
        for bad in ["", "Gi", "1GB", "-1", "1.", "1e3", "1234567890123456"] {
            assert_eq!(quantity(bad), None, "{bad}");
        }
    }
}
