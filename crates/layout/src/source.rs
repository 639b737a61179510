//! The URLs that `fluid-fuse` serves.
//!
//! The policy checks a Dataset's mounts by the same function as the sidecar when it starts, so that a Pod is not
//! admitted which the sidecar would refuse.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::{fmt, iter};

use crate::{Named as _, named};

/// The schemes of directories of the machine.
pub const DIRECTORY_SCHEMES: &[&str] = &["file", "local"];

/// Other schemes of a store's URLs.
#[derive(Debug)]
pub struct OtherSchemes(pub &'static [&'static str]);

named! {
    /// A kind of store; its name is the scheme of its URLs.
    pub enum Scheme: OtherSchemes {
        /// Amazon S3, and what speaks its protocol.
        S3 = "s3" => OtherSchemes(&["s3a"]),
        /// Alibaba Cloud's OSS.
        Oss = "oss" => OtherSchemes(&[]),
        /// Google Cloud Storage.
        Gcs = "gs" => OtherSchemes(&["gcs"]),
        /// Azure Blob Storage.
        Azblob = "az" => OtherSchemes(&["azblob"]),
        /// Tencent Cloud's COS.
        Cos = "cos" => OtherSchemes(&["cosn"]),
        /// Huawei Cloud's OBS.
        Obs = "obs" => OtherSchemes(&[]),
        /// Volcengine's TOS.
        Tos = "tos" => OtherSchemes(&[]),
        /// HDFS, by WebHDFS.
        Webhdfs = "webhdfs" => OtherSchemes(&["swebhdfs"]),
        /// A web server.
        Http = "http" => OtherSchemes(&["https"]),
    }
}

impl Scheme {
    /// The schemes of its URLs.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        iter::once(self.name()).chain(self.facts().0.iter().copied())
    }
}

/// What a URL names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'u> {
    /// A directory of the machine; the path is absolute, and percent-encoded.
    Directory(&'u str),
    /// A place in a store.
    Store {
        /// Its kind.
        scheme: Scheme,
        /// The scheme as it was written.
        name: &'u str,
        /// A bucket or a host.
        authority: &'u str,
        /// What follows, percent-encoded, without the slash between.
        path: &'u str,
    },
}

/// Reads a URL.
pub fn parse(url: &str) -> Result<Source<'_>, SourceError> {
    // Of what may hold credentials.
    let shown = || url.rsplit('@').next().unwrap_or_default().to_string();
    let Some((name, rest)) = url.split_once("://").filter(|(name, _)| !name.is_empty()) else {
        return Err(SourceError::NoUrl(shown()));
    };
    if DIRECTORY_SCHEMES.contains(&name) {
        return match rest.starts_with('/') {
            true => Ok(Source::Directory(rest)),
            false => Err(SourceError::NotAbsolute(shown())),
        };
    }
    let Some(scheme) = Scheme::ALL.iter().copied().find(|scheme| scheme.names().any(|known| known == name))
    else {
        return Err(SourceError::Unsupported(name.to_string()));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(SourceError::Credentials(name.to_string()));
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.is_empty() {
        return Err(SourceError::NoAuthority(shown()));
    }
    Ok(Source::Store { scheme, name, authority, path })
}

/// What [`parse`] takes, as a regular expression of JSON schema.
pub fn pattern() -> String {
    let stores: Vec<_> = Scheme::ALL.iter().flat_map(|scheme| scheme.names()).collect();
    format!("^(({}):///|({})://[^/?#@]+([/?#]|$))", DIRECTORY_SCHEMES.join("|"), stores.join("|"))
}

/// Why a URL cannot be served. What it shows of the URL holds no credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceError {
    /// There is no scheme.
    NoUrl(String),
    /// A scheme that `fluid-fuse` does not know.
    Unsupported(String),
    /// Of this scheme, with a user or a password.
    Credentials(String),
    /// No bucket or host.
    NoAuthority(String),
    /// A directory that is named from nowhere.
    NotAbsolute(String),
}

impl fmt::Display for SourceError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceError::NoUrl(url) => {
                write!(formatter, "{url:?} is not a URL such as s3://bucket/prefix or file:///path")
            }
            SourceError::Unsupported(scheme) => {
                let stores = Scheme::ALL.iter().flat_map(|scheme| scheme.names());
                let known: Vec<_> = DIRECTORY_SCHEMES.iter().copied().chain(stores).collect();
                let known = known.join(", ");
                write!(formatter, "the scheme {scheme:?} is not supported; supported are: {known}")
            }
            SourceError::Credentials(scheme) => write!(
                formatter,
                "the {scheme} URL must not have credentials in it, which everybody could read who sees the Pod: give \
                 them as options"
            ),
            SourceError::NoAuthority(url) => write!(formatter, "{url:?} names no bucket or host"),
            SourceError::NotAbsolute(url) => {
                let scheme = url.split(':').next().unwrap_or_default();
                write!(formatter, "{url:?} must name an absolute path: {scheme}:///path")
            }
        }
    }
}

impl core::error::Error for SourceError {}
