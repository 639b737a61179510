//! As much of HTTP/1.1 as S3 clients speak when they read. It decides what a request asks for and which bytes
//! a range means; it knows nothing of buckets.

use std::io::{self, BufRead, Read};
use std::ops::Range;

use percent_encoding::percent_decode_str;

/// No client's head is longer.
const HEAD_LIMIT: u64 = 64 << 10;

/// A request, as far as it matters.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) method: String,
    /// Decoded.
    pub(super) path: String,
    pub(super) range: Option<String>,
    pub(super) if_match: Option<String>,
    pub(super) close: bool,
    query: Vec<(String, String)>,
}

impl Request {
    /// Reads the next request; its body, if it has one, is passed over.
    pub(super) fn read(reader: &mut impl BufRead) -> io::Result<Self> {
        let mut head = reader.by_ref().take(HEAD_LIMIT);
        let mut line = String::new();
        head.read_line(&mut line)?;
        let mut words = line.split_ascii_whitespace();
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(io::Error::other("not a request"));
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = Request {
            method: method.to_owned(),
            path: decode(path)?,
            close: words.next() == Some("HTTP/1.0"),
            ..Request::default()
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let pair = pair.replace('+', " ");
            let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
            request.query.push((decode(name)?, decode(value)?));
        }
        let mut body = 0;
        loop {
            let mut line = String::new();
            if head.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some((name, value)) = line.split_once(':') else { break };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "range" => request.range = Some(value.to_owned()),
                "if-match" => request.if_match = Some(value.to_owned()),
                "connection" => request.close = value.eq_ignore_ascii_case("close"),
                "content-length" => body = value.parse().map_err(io::Error::other)?,
                _ => {}
            }
        }
        io::copy(&mut reader.take(body), &mut io::sink())?;
        Ok(request)
    }

    /// A parameter's value, empty for one that has none.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn decode(text: &str) -> io::Result<String> {
    percent_decode_str(text).decode_utf8().map(Into::into).map_err(io::Error::other)
}

/// Whether one of the tags of an `If-Match` is the tag.
pub(super) fn matches(tags: &str, tag: &str) -> bool {
    let bare = |tag: &str| tag.trim().trim_matches('"').to_owned();
    tags.split(',').any(|one| one.trim() == "*" || bare(one) == bare(tag))
}

/// Which bytes of an object are asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Whole,
    Part(Range<u64>),
    /// The range lies outside.
    Nothing,
}

/// What a `Range` means for an object of the size. One that is not understood is as good as none.
pub(super) fn wanted(range: Option<&str>, size: u64) -> Wanted {
    let Some((first, last)) = range.and_then(|text| text.strip_prefix("bytes=")?.split_once('-')) else {
        return Wanted::Whole;
    };
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..size.min(last.saturating_add(1)),
        (Ok(first), Err(_)) if last.is_empty() => first..size,
        (Err(_), Ok(count)) if first.is_empty() => size.saturating_sub(count)..size,
        _ => return Wanted::Whole,
    };
    if range.is_empty() { Wanted::Nothing } else { Wanted::Part(range) }
}

#[cfg(test)]
mod tests {
    use super::{Request, Wanted, matches, wanted};

    #[test]
    fn requests() {
        let text = b"GET /b/a%20b+c%25%C3%A9?prefix=x+y%2Bz&location HTTP/1.1\r\nRANGE: bytes=1-2\r\n\
            Content-Length: 3\r\n\r\nabcHEAD / HTTP/1.1\r\n\r\n";
        let mut reader = &text[..];
        let request = Request::read(&mut reader).unwrap();
        assert_eq!(request.path, "/b/a b+c%\u{e9}");
        assert_eq!(request.query("prefix"), Some("x y+z"));
        assert_eq!(request.query("location"), Some(""));
        assert_eq!(request.range.as_deref(), Some("bytes=1-2"));
        assert_eq!(Request::read(&mut reader).unwrap().method, "HEAD");
    }

    #[test]
    fn ranges() {
        for (text, expected) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=4-", Wanted::Part(4..10)),
            ("bytes=-3", Wanted::Part(7..10)),
            ("bytes=-30", Wanted::Part(0..10)),
            ("bytes=8-99", Wanted::Part(8..10)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=5-4", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
        ] {
            assert_eq!(wanted(Some(text), 10), expected, "{text}");
        }
        assert_eq!(wanted(None, 0), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Nothing);
    }

    #[test]
    fn tags() {
        assert!(matches("\"x\"", "\"x\"") && matches("x", "\"x\"") && matches("\"y\", \"x\"", "\"x\""));
        assert!(matches("*", "\"x\"") && !matches("\"y\"", "\"x\""));
    }
}
