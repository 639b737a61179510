//! Requests in messages and comparisons: a description without secrets, a header as text, the origin of a URL.

use http::Method;
use http::header::{HeaderMap, HeaderName};

use super::proxy;

/// The header in which S3 names the region of a bucket.
pub(super) const BUCKET_REGION: HeaderName = HeaderName::from_static("x-amz-bucket-region");

pub(super) fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// The method and the URL without its query and user, which hold signatures and passwords.
pub(super) fn describe(method: &Method, uri: &http::Uri) -> String {
    let host =
        uri.authority().map(|of| of.as_str().rsplit('@').next().unwrap_or_default()).unwrap_or_default();
    format!("{method} {}://{host}{}", uri.scheme_str().unwrap_or_default(), uri.path())
}

/// The same, and the proxy that the request goes through: the response may be the proxy's.
pub(super) fn describe_with_proxy(method: &Method, uri: &http::Uri) -> String {
    match proxy::of(uri) {
        Some(proxy) => format!("{} through the proxy {}", describe(method, uri), proxy.shown()),
        None => describe(method, uri),
    }
}

/// The head of a request, to find its secrets in texts that repeat them.
pub(super) fn head_text(url: &http::Uri, headers: &HeaderMap) -> String {
    let lines = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes())));
    format!("GET {url} HTTP/1.1\r\n{}", lines.collect::<String>())
}

/// Scheme, host and port.
pub(super) fn origin(uri: &http::Uri) -> (Option<&str>, Option<String>, u16) {
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    (uri.scheme_str(), uri.host().map(str::to_ascii_lowercase), port)
}
