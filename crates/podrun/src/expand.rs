//! Kubernetes' `$(VAR)` in `command`, `args` and the values of `env`.
//!
//! `$(NAME)` of a known variable becomes its value, of an unknown one stays as it is; `$$` is one `$`. This
//! is all there is: no shell, no defaults (kubernetes: third_party/forked/golang/expansion).

/// Expands one string; `value` gives a variable's value.
pub fn expand<'a>(text: &str, value: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        let (before, after) = (&rest[..dollar], &rest[dollar + 1..]);
        expanded.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|text| text.split_once(')')) {
            match value(name) {
                Some(value) => expanded.push_str(value),
                None => expanded.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            expanded.push('$');
            rest = after;
        }
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_kubernetes_expands() {
        for (text, expected) in [
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)y$(B)z", "x1y2z"),
            ("$(NONE)", "$(NONE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A ${A} $", "$A ${A} $"),
            ("$(A", "$(A"),
        ] {
            let value = |name: &str| [("A", "1"), ("B", "2")].into_iter().find(|v| v.0 == name).map(|v| v.1);
            assert_eq!(expand(text, value), expected, "{text}");
        }
    }
}
