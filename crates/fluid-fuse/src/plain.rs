//! Escapes text of others before it is shown in logs, in messages or on a terminal.
//!
//! Keys, error codes and headers come from a store. A line feed in one would forge a line of the log, an escape sequence
//! would control the terminal, and a mark of direction (bidi) would change the order of the shown words.

use std::borrow::Cow;

/// Characters of a message, of which a store may fill most.
const LONGEST: usize = 4096;

/// The text without invisible characters, cut to the length of a message.
pub fn plain(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST && !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len().min(LONGEST));
    for (count, letter) in text.chars().enumerate() {
        if count == LONGEST {
            shown.push('…');
            break;
        }
        match is_hidden(letter) {
            true => shown.extend(letter.escape_default()),
            false => shown.push(letter),
        }
    }
    Cow::Owned(shown)
}

/// A URL without the parts that may be secret: user, password, query and fragment.
pub fn shown_url(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    match plain.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!("{scheme}://{}{path}", authority.rsplit('@').next().unwrap_or_default())
        }
        None => plain.to_string(),
    }
}

/// Control characters, marks of direction, and other invisible characters.
fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(letter, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f13_nothing_hidden_is_shown() {
        assert!(matches!(plain("a é 漢 \"x\""), Cow::Borrowed(_)));
        assert_eq!(plain("a\nb\u{1b}[2J\0\u{202e}c\u{9b}"), r"a\nb\u{1b}[2J\u{0}\u{202e}c\u{9b}");
        let long = plain(&"ä".repeat(5000)).into_owned();
        assert_eq!(long.chars().count(), LONGEST + 1);
    }

    #[test]
    fn urls_are_shown_without_secrets() {
        assert_eq!(shown_url("https://user:s3cr3t@host:1/a@b?token=s3cr3t#x"), "https://host:1/a@b");
        assert_eq!(shown_url("s3://bucket"), "s3://bucket");
        assert_eq!(shown_url("file:///a b"), "file:///a b");
    }
}
