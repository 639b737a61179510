//! Redirects: whether one is followed, and where it leads.
//!
//! A redirect is followed within its origin, between the nodes of one HDFS, and to hosts that the administrator
//! allows, but never from `https` to `http`.

use fluid_sidecar_layout::source::Scheme;
use http::Method;
use http::header::LOCATION;

use super::Host;
use super::request::{describe, header, origin};
use crate::store::StoreError;

/// Whether redirects are followed: those of plain web servers, and those of HDFS, whose name nodes redirect to data nodes.
pub(super) fn is_followed(scheme: Option<Scheme>) -> bool {
    matches!(scheme, Some(Scheme::Http | Scheme::Webhdfs))
}

/// The target of a redirect, if the response is a redirect that is followed.
pub(super) fn target(
    scheme: Option<Scheme>,
    allowed: &[Host],
    from: &http::Uri,
    parts: &http::response::Parts,
) -> Result<Option<http::Uri>, StoreError> {
    if !is_followed(scheme) || !matches!(parts.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let request = describe(&Method::GET, from);
    let to = header(&parts.headers, LOCATION).and_then(|location| resolve(from, location));
    let to = to.ok_or_else(|| StoreError::Failed(format!("{request}: a redirect to nowhere")))?;
    // A name node of HDFS redirects to a data node that has the same file.
    let is_node =
        scheme == Some(Scheme::Webhdfs) && to.path() == from.path() && to.path().starts_with("/webhdfs/v1/");
    let is_allowed = origin(&to) == origin(from) || is_node || allowed.iter().any(|host| host.is_of(&to));
    let is_downgrade = from.scheme_str() == Some("https") && to.scheme_str() != Some("https");
    match is_allowed && !is_downgrade {
        true => Ok(Some(to)),
        false => Err(StoreError::Failed(format!(
            "{request}: it redirects to {}, another server, which is not followed (--allow-redirects)",
            shown_server(&to)
        ))),
    }
}

/// The URL of a redirect without its fragment. A relative one is of the same origin.
fn resolve(from: &http::Uri, location: &str) -> Option<http::Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    let text = match location {
        _ if location.contains("://") && !location.starts_with(['/', '?']) => location.to_string(),
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.starts_with('/') => format!("{scheme}://{authority}{location}"),
        _ => {
            let directory = from.path().rfind('/').and_then(|slash| from.path().get(..=slash)).unwrap_or("/");
            format!("{scheme}://{authority}{directory}{location}")
        }
    };
    let uri: http::Uri = text.parse().ok()?;
    let is_plain = matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    is_plain.then_some(uri)
}

fn shown_server(uri: &http::Uri) -> String {
    let (scheme, host, port) = origin(uri);
    format!("{}://{}:{port}", scheme.unwrap_or_default(), host.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    fn leads(scheme: Scheme, hosts: &[&str], from: &str, location: &str) -> Option<String> {
        let allowed: Vec<_> = hosts.iter().filter_map(|host| host.parse().ok()).collect();
        let answer = Response::builder().status(302).header(LOCATION, location).body(()).unwrap();
        let to = target(Some(scheme), &allowed, &from.parse().unwrap(), &answer.into_parts().0);
        to.ok().flatten().map(|uri| uri.to_string())
    }

    #[test]
    fn f13_redirects_are_of_one_origin_and_never_down() {
        let from = "https://Host:443/a/b?q";
        let web = |hosts: &[&str], location| leads(Scheme::Http, hosts, from, location);
        for (location, to) in [
            ("https://host/x#y", "https://host/x"),
            ("/x", "https://host:443/x"),
            ("c?d", "https://host:443/a/c?d"),
            ("//host/x", "https://host/x"),
        ] {
            assert_eq!(web(&[], location).map(|to| to.to_lowercase()).as_deref(), Some(to), "{location}");
        }
        for location in
            ["http://host/x", "http://host:443/x", "https://host:444/x", "https://other/x", "//other/x"]
        {
            assert_eq!(web(&["host.example", "*.host"], location), None, "{location}");
        }
        assert!(web(&["other"], "https://OTHER/x").is_some() && web(&["*.b"], "https://a.b/x").is_some());
        assert_eq!(web(&["*.b"], "https://ab/x"), None);
        // Whatever is allowed.
        assert_eq!(web(&["*"], "http://host/x"), None);
        // S3 answers so for a bucket elsewhere.
        assert_eq!(leads(Scheme::S3, &["*"], from, "/x"), None);
        let hdfs = |location| leads(Scheme::Webhdfs, &[], "https://n/webhdfs/v1/f?op=OPEN", location);
        assert!(hdfs("https://d:9865/webhdfs/v1/f?op=OPEN&x=y").is_some());
        assert_eq!(hdfs("http://d:9864/webhdfs/v1/f?op=OPEN"), None);
        assert_eq!(hdfs("https://d:9865/webhdfs/v1/g?op=OPEN"), None);
    }
}
