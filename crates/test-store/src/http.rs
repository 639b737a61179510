//! Requests: as much of HTTP/1.1 as clients of S3 speak. It knows which object a request is for, and not what there is.

use std::borrow::Cow;
use std::io::{self, BufRead, Read, Write};
use std::ops::Range;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

/// Bytes of a request's head, at most: no client of S3 sends more.
const MAX_HEAD: u64 = 64 << 10;

/// A request, with its body.
#[derive(Debug, Default)]
pub struct Request {
    /// The number of requests before it, since the server was started or told how to behave.
    pub number: usize,
    /// The request line and the headers as they came, up to the empty line.
    pub head: String,
    /// The body, without the framing of its chunks.
    pub body: Arc<Vec<u8>>,
    /// The method.
    pub method: String,
    /// The bucket of a path-style URL; empty where there is none.
    pub bucket: String,
    /// The key; none for a request to the bucket, such as a listing.
    pub key: Option<String>,
    /// The bytes of the object that are asked for.
    pub range: Option<Range<u64>>,
    /// The access key that the request is signed with.
    pub signer: String,
    query: Vec<(String, String)>,
}

impl Request {
    /// Reads the next request; nothing after the last one. `interim` takes the answer that a client may want before it
    /// sends the body.
    pub(crate) fn read(reader: &mut impl BufRead, mut interim: impl Write) -> io::Result<Option<Self>> {
        let mut head = Vec::new();
        let mut limited = reader.by_ref().take(MAX_HEAD);
        while !head.ends_with(b"\r\n\r\n") {
            if limited.read_until(b'\n', &mut head)? == 0 {
                return if head.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
        let mut request = Self::parse(String::from_utf8_lossy(&head).into_owned())?;
        if request.header("expect").is_some() {
            interim.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut body = Vec::new();
        if request.has("transfer-encoding", "chunked") {
            body = dechunk(reader)?;
        } else if let Some(length) = request.header("content-length") {
            let length = length.parse().map_err(io::Error::other)?;
            reader.by_ref().take(length).read_to_end(&mut body)?;
            if body.len() as u64 != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        // What SDKs make of a body whose signature or checksum follows it.
        let is_streamed = |request: &Request| {
            request.has("content-encoding", "aws-chunked")
                || request.has("x-amz-content-sha256", "streaming-")
        };
        if !body.is_empty() && is_streamed(&request) {
            body = dechunk(&mut body.as_slice())?;
        }
        request.body = Arc::new(body);
        Ok(Some(request))
    }

    fn parse(head: String) -> io::Result<Self> {
        let mut words = head.lines().next().unwrap_or_default().split(' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(io::Error::other("not a request"));
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let pair = pair.replace('+', " ");
            let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
            (decode(name).into_owned(), decode(value).into_owned())
        });
        let path = path.trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let mut request = Request {
            method: method.to_owned(),
            bucket: decode(bucket).into_owned(),
            key: Some(decode(key).into_owned()).filter(|key| !key.is_empty()),
            query: query.collect(),
            head: String::new(),
            ..Request::default()
        };
        request.head = head;
        request.range = request.header("range").and_then(|range| {
            let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
            let last = if last.is_empty() { u64::MAX - 1 } else { last.parse().ok()? };
            Some(first.parse().ok()?..last + 1)
        });
        let signed = request.query("X-Amz-Credential").or_else(|| {
            request
                .header("authorization")
                .and_then(|value| value.split_once("Credential="))
                .map(|(_, of)| of)
        });
        request.signer = signed.and_then(|of| of.split('/').next()).unwrap_or_default().to_owned();
        Ok(request)
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The headers, in their order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.map(|(name, value)| (name, value.trim()))
    }

    /// A parameter's value, empty for one that has none.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether it lists all keys below a prefix.
    pub fn is_flat(&self) -> bool {
        self.key.is_none() && self.query("delimiter").is_none()
    }

    /// Whether it is for an object's bytes.
    pub fn is_read(&self) -> bool {
        self.key.is_some() && self.method == "GET"
    }

    /// Whether the client wants no other answer on this connection.
    pub(crate) fn closes(&self) -> bool {
        self.has("connection", "close") || self.head.lines().next().is_some_and(|line| line.ends_with("/1.0"))
    }

    /// Whether a header's value has the word, which is given in lower case.
    fn has(&self, header: &str, word: &str) -> bool {
        self.header(header).is_some_and(|value| value.to_ascii_lowercase().contains(word))
    }
}

pub(crate) fn decode(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

/// A body in chunks, those of HTTP and those of S3 alike. Trailers are left out.
fn dechunk(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = line.trim_end().split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
        if size == 0 {
            break;
        }
        reader.by_ref().take(size).read_to_end(&mut body)?;
        reader.read_line(&mut String::new())?;
    }
    let mut line = String::from("trailers");
    while !line.trim_end().is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
    }
    Ok(body)
}

/// Whether one of the tags of an `If-Match` is the tag.
pub(crate) fn matches(tags: &str, tag: &str) -> bool {
    let bare = |tag: &str| tag.trim().trim_matches('"').to_owned();
    tags.split(',').any(|one| one.trim() == "*" || bare(one) == bare(tag))
}

/// The bytes that a `Range` means of an object of the size: none for all of it, an empty range for one that lies
/// outside. A range that is not understood is as good as none.
pub(crate) fn wanted(range: Option<&str>, size: u64) -> Option<Range<u64>> {
    let (first, last) = range?.strip_prefix("bytes=")?.split_once('-')?;
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => Some(first..size.min(last.saturating_add(1))),
        (Ok(first), Err(_)) if last.is_empty() => Some(first..size),
        (Err(_), Ok(count)) if first.is_empty() => Some(size.saturating_sub(count)..size),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Request, matches, wanted};

    fn read(reader: &mut &[u8]) -> Request {
        Request::read(reader, Vec::new()).unwrap().unwrap()
    }

    #[test]
    fn requests() {
        let text = b"GET /b/a%20b+c%25%C3%A9?prefix=x+y%2Bz&location HTTP/1.1\r\nRANGE: bytes=1-2\r\n\
            Authorization: AWS4-HMAC-SHA256 Credential=me/2024/x\r\nContent-Length: 3\r\n\r\nabc\
            HEAD / HTTP/1.0\r\n\r\n";
        let mut reader = &text[..];
        let request = read(&mut reader);
        assert_eq!((&*request.bucket, request.key.as_deref()), ("b", Some("a b+c%\u{e9}")));
        assert_eq!((request.query("prefix"), request.query("location")), (Some("x y+z"), Some("")));
        assert_eq!((&request.range, &*request.signer, &**request.body), (&Some(1..3), "me", &b"abc"[..]));
        assert!(!request.closes() && request.is_read());
        let request = read(&mut reader);
        assert!(request.method == "HEAD" && request.closes() && request.key.is_none());
        assert!(Request::read(&mut reader, Vec::new()).unwrap().is_none());
        for half in ["GET / HT", "GET / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf", "GET\r\n\r\n"] {
            assert!(Request::read(&mut half.as_bytes(), Vec::new()).is_err(), "{half}");
        }
    }

    #[test]
    fn bodies_in_chunks() {
        let of_s3 =
            "3;chunk-signature=0\r\nabc\r\n2\r\nde\r\n0;chunk-signature=1\r\nx-amz-checksum-crc32:x\r\n\r\n";
        let plain = format!(
            "PUT /b/k HTTP/1.1\r\nContent-Encoding: aws-chunked\r\nContent-Length: {}\r\n\r\n{of_s3}",
            of_s3.len()
        );
        let both = format!(
            "PUT /b/k HTTP/1.1\r\nx-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER\r\n\
             Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n{:x}\r\n{of_s3}\r\n0\r\n\r\n",
            of_s3.len()
        );
        for text in [plain, both] {
            let mut interim = Vec::new();
            let request = Request::read(&mut text.as_bytes(), &mut interim).unwrap().unwrap();
            assert_eq!(**request.body, *b"abcde");
            assert_eq!(interim.is_empty(), !text.contains("Expect"));
        }
    }

    #[test]
    fn ranges() {
        for (text, expected) in [
            ("bytes=0-0", Some(0..1)),
            ("bytes=4-", Some(4..10)),
            ("bytes=-3", Some(7..10)),
            ("bytes=-30", Some(0..10)),
            ("bytes=8-99", Some(8..10)),
            ("bytes=10-", Some(10..10)),
            ("bytes=-0", Some(10..10)),
            ("bytes=5-4", None),
            ("bytes=0-1,3-4", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(wanted(Some(text), 10), expected, "{text}");
        }
        assert_eq!(wanted(None, 0), None);
        assert_eq!(wanted(Some("bytes=0-"), 0), Some(0..0));
    }

    #[test]
    fn tags() {
        assert!(matches("\"x\"", "\"x\"") && matches("x", "\"x\"") && matches("\"y\", \"x\"", "\"x\""));
        assert!(matches("*", "\"x\"") && !matches("\"y\"", "\"x\""));
    }
}
