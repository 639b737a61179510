//! What a server's answer means.
//!
//! Decides from status and headers alone, the same for both ways to send a request: which error a status is,
//! whether the bytes that follow are those that were asked for, and whether they are of the version that was
//! asked for. Messages name the request and the store's own word for the error, never a query or a header:
//! there signatures and tokens are.

use std::ops::Range;

use crate::limits;
use crate::store::StoreError;

/// An answer that is an error.
#[derive(Debug)]
pub(super) struct Refusal {
    /// What was asked: the method and the URL as it may be shown.
    pub(super) asked: String,
    pub(super) status: u16,
    /// The store's name for the error.
    pub(super) code: Option<String>,
    /// Seconds, as the server gave them.
    pub(super) retry_after: Option<String>,
    /// The region in which the bucket is, if the server tells.
    pub(super) region: Option<String>,
}

impl Refusal {
    pub(super) fn into_error(self) -> StoreError {
        let code = self.code.as_deref().unwrap_or_default();
        let wait = match &self.retry_after {
            Some(wait) => format!(", retry after {wait} s"),
            None => String::new(),
        };
        let text = format!("{}: {} {code}{wait}", self.asked, self.status).trim_end().to_string();
        let text = match &self.region {
            Some(region) if self.status < 500 => format!("{text}, the bucket is in the region {region}"),
            _ => text,
        };
        match (self.status, code) {
            (_, "NoSuchBucket" | "ContainerNotFound" | "InvalidBucketName" | "PermanentRedirect")
            | (301 | 308, _) => StoreError::NoBucket(text),
            // S3 says so with 400, the last of a signature for another region.
            (
                _,
                "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" | "AuthorizationHeaderMalformed",
            )
            | (401 | 403, _) => StoreError::Denied(text),
            (_, "RequestTimeout" | "SlowDown" | "ServerBusy") => StoreError::Unavailable(text),
            (501, _) => StoreError::NotImplemented(text),
            (404, _) => StoreError::NotFound,
            (412 | 416, _) => StoreError::Stale,
            (408 | 429 | 499 | 500..=599, _) => StoreError::Unavailable(text),
            _ => StoreError::Failed(text),
        }
    }
}

/// The store's name for an error, from the body: `<Code>` in XML, `code`, `reason` or `exception` in JSON.
pub(super) fn error_code(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let after =
        |start: &str| text.split_once(start).map(|(_, rest)| rest.trim_start_matches([' ', ':', '"']));
    [after("<Code>"), after("\"exception\""), after("\"reason\""), after("\"code\"")]
        .into_iter()
        .flatten()
        .map(|rest| {
            rest.chars().take_while(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c)).take(64).collect()
        })
        .find(|code: &String| !code.is_empty())
}

/// The headers that say what a body is.
#[derive(Debug, Default)]
pub(super) struct Headers<'a> {
    pub(super) length: Option<u64>,
    pub(super) range: Option<&'a str>,
    pub(super) etag: Option<&'a str>,
}

/// Whether a success is the range that was asked for, of an object of that size and ETag (where known).
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
    let told = headers.range.and_then(parse_content_range);
    let Some((start, last, total)) = told else {
        return Err(StoreError::Failed("the server does not say which part of a file it sends".to_string()));
    };
    if let (Some(size), Some(total)) = (size, total)
        && size != total
    {
        return Err(StoreError::Stale);
    }
    let asked = range.end - range.start;
    if start != range.start || last + 1 != range.end || headers.length.is_some_and(|length| length != asked) {
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

/// `bytes=0-9`, as we write it.
pub(super) fn parse_range(value: &str) -> Option<Range<u64>> {
    let (start, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    Some(start.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?)
}

/// Whether it is an ETag as RFC 9110, 8.8.3, has it, no longer than one may be, and not empty: stores that have none
/// write `""`. It goes into requests as it is.
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

/// The ETag that a header or a listing has, if it is one.
pub(super) fn etag(text: &str) -> Option<String> {
    Some(quoted(text)).filter(|etag| is_etag(etag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, code: Option<&str>) -> StoreError {
        let code = code.map(str::to_string);
        let asked = "GET s3://b/k".to_string();
        let (retry_after, region) = (Some("3".to_string()), Some("r".to_string()));
        Refusal { asked, status, code, retry_after, region }.into_error()
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
        let code = |body: &str| error_code(body.as_bytes());
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
