//! The meaning of a server's response.
//!
//! Decides from status and headers, the same for both HTTP clients: which error a status is, whether the body is the
//! requested range, and whether it is of the requested version. Messages name the request, the store's own words for
//! the error and the option to set, but never a query or a header: these contain signatures and tokens.

use std::cell::RefCell;
use std::ops::Range;

use fluid_sidecar_layout::source::Scheme;
use quick_xml::events::Event;

use crate::limits;
use crate::store::StoreError;

/// A response that is an error.
#[derive(Debug, Default)]
pub(super) struct ErrorResponse {
    /// The method and the URL without its secrets.
    pub(super) request: String,
    pub(super) status: u16,
    /// The error in the body.
    pub(super) reason: Reason,
    /// Seconds, as the server gave them.
    pub(super) retry_after: Option<String>,
    /// The region of the bucket, if a header names it.
    pub(super) region: Option<String>,
    /// The store, if it has buckets.
    pub(super) scheme: Option<Scheme>,
}

/// The error in the body of a response.
#[derive(Debug, Default)]
pub(super) struct Reason {
    /// The store's name for the error: `<Code>` in XML, `code`, `reason` or `exception` in JSON.
    pub(super) code: Option<String>,
    /// The store's message.
    message: Option<String>,
    /// The region of the bucket.
    region: Option<String>,
}

/// What an error says about the region of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BucketRegion {
    /// The bucket is in this region.
    Known(String),
    /// The bucket is in another region than that of the request.
    Other,
}

thread_local! {
    /// The region in the last error response of this thread.
    static BUCKET_REGION: RefCell<Option<BucketRegion>> = const { RefCell::new(None) };
}

/// Takes the region that an error response of this thread has named since the last call.
pub(super) fn take_bucket_region() -> Option<BucketRegion> {
    BUCKET_REGION.take()
}

/// Length of the shortest secret that is searched for: shorter parts of a request are found in any text.
const MIN_SECRET: usize = 6;

/// Largest length of an error code or the name of a region: those of all stores have less than half of it.
const MAX_WORD: usize = 64;

/// Letters of a store's message that are shown.
const MAX_MESSAGE: usize = 300;

impl ErrorResponse {
    pub(super) fn into_error(self) -> StoreError {
        let code = self.reason.code.as_deref().unwrap_or_default();
        let region =
            self.region.clone().or_else(|| self.reason.region.clone()).filter(|name| is_region(name));
        if self.status < 500 && self.scheme == Some(Scheme::S3) {
            let known = region.clone().map(BucketRegion::Known);
            BUCKET_REGION.set(known.or(self.is_of_other_region().then_some(BucketRegion::Other)));
        }
        let mut text = format!("{}: {} {code}", self.request, self.status).trim_end().to_string();
        if let Some(message) = &self.reason.message {
            text += &format!(": {message}");
        }
        if let Some(wait) = &self.retry_after {
            text += &format!(", retry after {wait} s");
        }
        if let Some(region) = region.filter(|_| self.status < 500) {
            text += &format!(", the bucket is in the region {region}");
        }
        if let Some(advice) = self.advice(code) {
            text += &format!(" ({advice})");
        }
        match (self.status, code) {
            (_, "NoSuchBucket" | "ContainerNotFound" | "InvalidBucketName" | "PermanentRedirect")
            | (301 | 308, _) => StoreError::NoBucket(text),
            // S3 sends these with 400; `AuthorizationHeaderMalformed` is a signature for another region.
            (
                _,
                "ExpiredToken"
                | "InvalidToken"
                | "TokenRefreshRequired"
                | "AuthorizationHeaderMalformed"
                | "AccessDenied",
            )
            | (401 | 403, _) => StoreError::Denied(text),
            (_, "RequestTimeout" | "SlowDown" | "ServerBusy" | "InternalError" | "ServiceUnavailable") => {
                StoreError::Unavailable(text)
            }
            (501, _) | (_, "NotImplemented") => StoreError::NotImplemented(text),
            (404, _) | (200, "NoSuchKey" | "NoSuchUpload") => StoreError::NotFound,
            (412 | 416, _) | (200, "PreconditionFailed") => StoreError::Stale,
            (408 | 429 | 499 | 500..=599, _) => StoreError::Unavailable(text),
            _ => StoreError::Failed(text),
        }
    }

    /// Whether the bucket is in another region than that of the request.
    fn is_of_other_region(&self) -> bool {
        let code = self.reason.code.as_deref().unwrap_or_default();
        matches!(self.status, 301 | 307 | 308)
            || matches!(
                code,
                "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException"
            )
            // The response to HEAD has no body with a code.
            || self.status == 400 && self.request.starts_with("HEAD ")
    }

    /// The option of the source that may help.
    fn advice(&self, code: &str) -> Option<&'static str> {
        let scheme = self.scheme.filter(|scheme| !matches!(scheme, Scheme::Http | Scheme::Webhdfs))?;
        let is_write = self.request.starts_with("PUT ") || self.request.starts_with("POST ");
        let is_of_checksum = matches!(code, "InvalidDigest" | "BadDigest" | "XAmzContentSHA256Mismatch")
            || self.reason.message.as_ref().is_some_and(|text| text.to_lowercase().contains("checksum"));
        Some(match (self.status, code) {
            _ if self.is_of_other_region() => "set the option region, and endpoint if it is that of a region",
            (501, _) | (_, "NotImplemented") if is_write && scheme == Scheme::S3 => {
                "if the store does not know this checksum, set the option checksum_algorithm to md5 or none"
            }
            (400, _) if is_write && is_of_checksum && scheme == Scheme::S3 => {
                "set the option checksum_algorithm to md5 or none"
            }
            (_, "SignatureDoesNotMatch") => {
                "check the secret key and the options region, endpoint and path_style"
            }
            (_, "InvalidAccessKeyId") => "check the access key and the option endpoint",
            (_, "RequestTimeTooSkewed") => "set the clock of this machine",
            (_, "NoSuchBucket" | "InvalidBucketName") => {
                "check the name and the options endpoint and path_style"
            }
            (400 | 405, "" | "InvalidRequest" | "InvalidArgument" | "MethodNotAllowed") => {
                "check the options region, endpoint, path_style and checksum_algorithm"
            }
            _ => return None,
        })
    }
}

fn is_region(name: &str) -> bool {
    (1..=MAX_WORD).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The error in a body, without texts that repeat secrets of the request whose head was `sent`.
pub(super) fn reason(body: &[u8], sent: &str) -> Reason {
    let text = String::from_utf8_lossy(body);
    let after = |start: &str| {
        text.split_once(start).map(|(_, rest)| rest.trim_start_matches([' ', ':', '"'])).unwrap_or_default()
    };
    let word = |start: &str| -> Option<String> {
        let letters = after(start).chars().take_while(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c));
        Some(letters.take(MAX_WORD).collect()).filter(|word: &String| !word.is_empty())
    };
    let code = ["<Code>", "\"exception\"", "\"reason\"", "\"code\""].into_iter().find_map(word);
    let message = [("<Message>", '<'), ("\"message\"", '"')].into_iter().find_map(|(start, end)| {
        let message = after(start).split(end).next().unwrap_or_default();
        let is_repeated = secrets(sent).any(|secret| message.contains(secret));
        let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
        let message: String = message.trim_end_matches('.').chars().take(MAX_MESSAGE).collect();
        (!message.is_empty() && !is_repeated).then_some(message)
    });
    Reason { code, message, region: word("<Region>") }
}

/// Possible secrets in the head of a request: parts of its query and of its headers.
fn secrets(head: &str) -> impl Iterator<Item = &str> {
    let mut lines = head.lines();
    let target = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let query = target.split_once('?').map(|(_, query)| query).unwrap_or_default();
    let is_plain = |name: &str| {
        ["host", "user-agent", "accept", "range", "if-", "content-", "expect", "connection"]
            .iter()
            .any(|plain| name.to_ascii_lowercase().starts_with(plain))
    };
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.filter(move |(name, _)| !is_plain(name)).map(|(_, value)| value);
    let parts = headers.chain([query]).flat_map(|text| text.split([' ', ',', ';', '=', '&', '%', '/', '+']));
    parts.filter(|part| part.len() >= MIN_SECRET)
}

/// The error in a response with status 200: S3 sends the status before it has copied an object or joined its parts.
pub(super) fn error_in_success(body: &[u8], sent: &str) -> Option<Reason> {
    let mut reader = quick_xml::Reader::from_str(std::str::from_utf8(body).ok()?);
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) => {
                return (tag.local_name().into_inner() == "Error").then(|| reason(body, sent));
            }
            Event::Empty(_) | Event::End(_) | Event::Eof => return None,
            _ => {}
        }
    }
}

/// The headers that describe a body.
#[derive(Debug, Default)]
pub(super) struct Headers<'a> {
    pub(super) length: Option<u64>,
    pub(super) range: Option<&'a str>,
    pub(super) etag: Option<&'a str>,
}

/// Checks that a response is the requested range of an object of that size and ETag, if these are known.
pub(super) fn check_range(
    status: u16,
    headers: &Headers<'_>,
    range: &Range<u64>,
    size: Option<u64>,
    etag: Option<&str>,
) -> Result<(), StoreError> {
    if let (Some(known), Some(now)) = (etag, headers.etag.and_then(self::etag))
        && quoted(known) != now
    {
        return Err(StoreError::Stale);
    }
    if status != 206 {
        return Err(StoreError::NoParts(status));
    }
    let content_range = headers.range.and_then(parse_content_range);
    let Some((start, last, total)) = content_range else {
        return Err(StoreError::Failed("the server does not say which part of a file it sends".to_string()));
    };
    if let (Some(size), Some(total)) = (size, total)
        && size != total
    {
        return Err(StoreError::Stale);
    }
    let requested = range.end - range.start;
    if start != range.start
        || last + 1 != range.end
        || headers.length.is_some_and(|length| length != requested)
    {
        return Err(StoreError::Unavailable(format!(
            "the server sent bytes {start}-{last} instead of {}-{}",
            range.start,
            range.end - 1
        )));
    }
    Ok(())
}

/// `bytes 0-9/100`; the total may be `*`.
fn parse_content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let (start, last): (u64, u64) = (start.parse().ok()?, last.parse().ok()?);
    (start <= last && last < u64::MAX).then_some((start, last, total.parse().ok()))
}

/// `bytes=0-9`, as this crate and opendal write it.
pub(super) fn parse_range(value: &str) -> Option<Range<u64>> {
    let (start, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    Some(start.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?)
}

/// Whether a text is an ETag as in RFC 9110, 8.8.3, is not too long, and is not empty: stores without ETags write
/// `""`. An ETag is repeated in requests unchanged.
fn is_etag(etag: &str) -> bool {
    let is_of_etag = |byte: u8| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..);
    let opaque = etag.strip_prefix("W/").unwrap_or(etag);
    let opaque = opaque.strip_prefix('"').and_then(|opaque| opaque.strip_suffix('"'));
    let is_opaque = |opaque: &str| !opaque.is_empty() && opaque.bytes().all(is_of_etag);
    etag.len() <= limits::ETAG && opaque.is_some_and(is_opaque)
}

/// An ETag with its quotes: some stores leave them out in listings.
fn quoted(etag: &str) -> String {
    match etag.ends_with('"') {
        true => etag.to_string(),
        false => format!("\"{etag}\""),
    }
}

/// The ETag in a header or a listing, if it is valid.
pub(super) fn etag(text: &str) -> Option<String> {
    Some(quoted(text)).filter(|etag| is_etag(etag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, code: Option<&str>) -> StoreError {
        let reason = Reason { code: code.map(str::to_string), ..Reason::default() };
        let request = "GET s3://b/k".to_string();
        let (retry_after, region) = (Some("3".to_string()), Some("r".to_string()));
        ErrorResponse { request, status, reason, retry_after, region, scheme: None }.into_error()
    }

    #[test]
    fn statuses() {
        use StoreError::*;
        assert!(matches!(error(404, None), NotFound) && matches!(error(403, None), Denied(_)));
        for code in ["ExpiredToken", "AuthorizationHeaderMalformed"] {
            assert!(matches!(error(400, Some(code)), Denied(_)), "{code}");
        }
        assert!(matches!(error(401, None), Denied(_)));
        for (status, code) in [(404, Some("NoSuchBucket")), (404, Some("ContainerNotFound")), (301, None)] {
            assert!(matches!(error(status, code), NoBucket(_)), "{status} {code:?}");
        }
        assert_eq!(
            error(301, Some("PermanentRedirect")).to_string(),
            "no such bucket: GET s3://b/k: 301 PermanentRedirect, retry after 3 s, the bucket is in the region r"
        );
        assert!(matches!(error(412, None), Stale) && matches!(error(416, None), Stale));
        assert!(matches!(error(501, None), NotImplemented(_)));
        for status in [408, 429, 500, 503] {
            assert!(matches!(error(status, None), Unavailable(_)), "{status}");
        }
        assert_eq!(error(503, Some("SlowDown")).to_string(), "GET s3://b/k: 503 SlowDown, retry after 3 s");
        assert!(matches!(error(400, Some("InvalidRequest")), Failed(_)));
    }

    #[test]
    fn codes_of_xml_and_json() {
        let code = |body: &str| reason(body.as_bytes(), "").code;
        assert_eq!(
            code("<?xml?><Error><Code>NoSuchKey</Code><Key>x</Key></Error>").as_deref(),
            Some("NoSuchKey")
        );
        assert_eq!(
            code(r#"{"RemoteException":{"exception":"FileNotFoundException"}}"#).as_deref(),
            Some("FileNotFoundException")
        );
        assert_eq!(
            code(r#"{"error":{"code":403,"errors":[{"reason": "forbidden"}]}}"#).as_deref(),
            Some("forbidden")
        );
        assert_eq!(code("<html>no</html>"), None);
    }

    const SENT: &str = "GET /b?X-Amz-Signature=1f2e3d4c HTTP/1.1\r\nhost: host.example\r\nrange: bytes=0-9\r\n\
        authorization: Basic dXNlcjpwYXNz\r\nx-amz-security-token: c2VjcmV0\r\n";

    #[test]
    fn errors_say_what_to_set() {
        let text = |status, request: &str, body: &str| {
            let (request, reason) = (request.to_string(), reason(body.as_bytes(), SENT));
            ErrorResponse { request, status, reason, scheme: Some(Scheme::S3), ..ErrorResponse::default() }
                .into_error()
                .to_string()
        };
        let of = |code: &str, message: &str| {
            format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>")
        };
        let checksum = text(501, "PUT http://s/b/k", &of("NotImplemented", "A header\nis not implemented."));
        assert!(checksum.contains("501 NotImplemented: A header is not implemented (if the"), "{checksum}");
        assert!(checksum.contains("checksum_algorithm"), "{checksum}");
        let invalid = of("InvalidRequest", "Value for x-amz-checksum-crc32c header is invalid.");
        assert!(text(400, "PUT http://s/b/k", &invalid).contains("set the option checksum_algorithm"));
        let region =
            of("AuthorizationHeaderMalformed", "expecting 'x'").replace("<Code>", "<Region>x</Region><Code>");
        let region = text(400, "GET http://s/b/k", &region);
        assert!(region.contains("is in the region x (set the option region"), "{region}");
        assert_eq!(take_bucket_region(), Some(BucketRegion::Known("x".to_string())));
        assert!(text(403, "GET http://s/b/k", &of("SignatureDoesNotMatch", "")).contains("path_style"));
        assert!(text(404, "GET http://s/b", &of("NoSuchBucket", "")).contains("path_style"));
        for repeated in ["GET /?X-Amz-Signature=1f2e3d4c", "a token \nc2VjcmV0", "Basic dXNlcjpwYXNz"] {
            let denied = text(403, "GET http://s/b", &of("AccessDenied", repeated));
            assert!(denied.ends_with("403 AccessDenied"), "{denied}");
        }
        let said = text(403, "GET http://s/b", &of("AccessDenied", "host.example says no to bytes=0-9"));
        assert!(said.ends_with("says no to bytes=0-9"), "{said}");
        text(400, "HEAD http://s/b/k", "");
        assert_eq!(take_bucket_region(), Some(BucketRegion::Other));
    }

    #[test]
    fn an_error_may_have_the_status_200() {
        let code =
            |body: &str| error_in_success(body.as_bytes(), "").map(|reason| reason.code.unwrap_or_default());
        let internal = "<Error><Code>InternalError</Code></Error>";
        for body in [
            internal.to_string(),
            format!("<?xml version=\"1.0\"?>\n  <!-- -->{internal}"),
            format!("   {internal}"),
        ] {
            assert_eq!(code(&body).as_deref(), Some("InternalError"), "{body}");
        }
        for body in ["", "{}", "<CopyObjectResult><Error/></CopyObjectResult>", "<html>", "<Errors></Errors>"]
        {
            assert_eq!(code(body), None, "{body}");
        }
        assert!(matches!(error(200, Some("InternalError")), StoreError::Unavailable(_)));
        assert!(matches!(error(200, Some("AccessDenied")), StoreError::Denied(_)));
        assert!(matches!(error(200, Some("Other")), StoreError::Failed(_)));
    }

    #[test]
    fn f12_etags_are_those_of_http() {
        for etag in ["\"a\"", "W/\"a\"", "\"0x8D{|}~!\"", "\"\u{e9}\""] {
            assert!(is_etag(etag), "{etag:?}");
        }
        let long = format!("\"{}\"", "a".repeat(limits::ETAG));
        for etag in [
            "",
            "\"\"",
            "W/\"\"",
            "a",
            "\"",
            "\"a",
            "w/\"a\"",
            "\"a b\"",
            "\"a\"b\"",
            "\"a\r\nX: y\"",
            "\"\u{7f}\"",
            "\"\0\"",
            &long,
        ] {
            assert!(!is_etag(etag), "{etag:?}");
        }
    }

    #[test]
    fn only_the_range_that_was_asked_for() {
        let headers = |range| Headers { length: Some(10), range, etag: Some("\"a\"") };
        let check = |status, range, size, etag| check_range(status, &headers(range), &(5..15), size, etag);
        assert!(check(206, Some("bytes 5-14/100"), Some(100), Some("\"a\"")).is_ok());
        assert!(check(206, Some("bytes 5-14/*"), Some(100), Some("a")).is_ok());
        assert!(matches!(check(206, Some("bytes 5-14/99"), Some(100), None), Err(StoreError::Stale)));
        assert!(matches!(check(206, Some("bytes 5-14/100"), None, Some("b")), Err(StoreError::Stale)));
        assert!(matches!(check(206, Some("bytes 4-13/100"), None, None), Err(StoreError::Unavailable(_))));
        assert!(matches!(check(206, None, None, None), Err(StoreError::Failed(_))));
        assert!(matches!(check(200, None, None, None), Err(StoreError::NoParts(200))));
        let short = Headers { length: Some(9), ..headers(Some("bytes 5-14/100")) };
        assert!(check_range(206, &short, &(5..15), None, None).is_err());
        assert_eq!(parse_range("bytes=5-14"), Some(5..15));
    }
}
