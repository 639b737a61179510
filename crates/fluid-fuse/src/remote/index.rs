//! The files of a plain HTTP server, which knows no listings.
//!
//! Decides what a directory has: from the manifest, if the options name one, or else from what the server shows
//! for the directory, as Apache, nginx (HTML or JSON) and others do. Links count that lead right below the
//! directory; sizes and times that a page does not tell are asked for, one by one. It does not retry, but who asks
//! again for a listing that failed among these gets the rest of it asked for. A manifest is read again as names are,
//! and is as good as it was while it cannot be read.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use log::warn;
use opendal::raw::{Timestamp, percent_encode_path};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer;
use super::bucket::Session;
use super::options::Place;
use super::transport;
use super::{Item, Version};
use crate::inodes::lock;
use crate::limits::{self, SKIPPED, TIME_PER_QUESTION, Until};
use crate::store::StoreError;

/// Between two times that a manifest is tried that could not be read.
const AGAIN: Duration = Duration::from_secs(5);

/// Where the names come from.
pub(super) struct Index {
    /// The URL of the root, ending with `/`.
    base: String,
    manifest: Option<String>,
    /// How long a manifest is trusted, and what is known of a listing that failed.
    trust: Duration,
    known: Mutex<Option<Known>>,
    /// Listings that failed, by their prefixes.
    unfinished: Mutex<HashMap<String, Unfinished>>,
}

/// What a manifest said, until it is read again.
#[derive(Clone)]
struct Known {
    files: Arc<BTreeMap<String, Line>>,
    since: Instant,
    trust: Duration,
}

/// A listing whose entries are not all known yet.
struct Unfinished {
    begun: Instant,
    names: BTreeMap<String, Line>,
    items: Vec<Item>,
}

/// What a line of a manifest, or of an index, tells of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Line {
    size: Option<u64>,
    etag: Option<String>,
    modified: Option<SystemTime>,
}

impl Index {
    /// Names are trusted for that time.
    pub(super) fn new(place: &Place, ttl: Duration) -> Self {
        let setting = |name: &str| place.settings.get(name).map(String::as_str).unwrap_or_default();
        let root = percent_encode_path(setting("root").trim_end_matches('/'));
        let base = format!("{}{root}/", setting("endpoint"));
        Self {
            base,
            manifest: place.manifest.clone(),
            // Who lists a directory again after all of the time finds another manifest than before.
            trust: ttl / 2,
            known: Mutex::default(),
            unfinished: Mutex::default(),
        }
    }

    /// Takes over what is known of the same manifest.
    pub(super) fn inherit(&self, from: &Self) {
        if self.manifest == from.manifest {
            let known = lock(&from.known).clone();
            *lock(&self.known) = known;
        }
    }

    pub(super) fn list(
        &self,
        session: &Session,
        prefix: &str,
        page: &mut dyn FnMut(Vec<Item>) -> ControlFlow<()>,
    ) -> Result<bool, StoreError> {
        let now = Instant::now();
        let (begun, mut names, mut items) = match self.begun(prefix) {
            Some(unfinished) => (unfinished.begun, unfinished.names, unfinished.items),
            None => (now, self.names(session, prefix)?, Vec::new()),
        };
        while let Some((name, line)) = names.pop_first() {
            let key = format!("{prefix}{name}");
            items.push(match (name.ends_with('/'), line.size) {
                (true, _) => Item::Prefix(key),
                (false, Some(size)) => Item::Object(Version {
                    key,
                    size,
                    etag: line.etag,
                    modified: line.modified.unwrap_or(SystemTime::UNIX_EPOCH),
                }),
                (false, None) => match session.head(&key) {
                    Ok(version) => {
                        Until::put_off(TIME_PER_QUESTION);
                        Item::Object(version)
                    }
                    // It went away meanwhile, or is not for us.
                    Err(StoreError::NotFound | StoreError::Denied(_) | StoreError::Unsupported(_)) => {
                        continue;
                    }
                    Err(error) => {
                        names.insert(name, line);
                        let unfinished = Unfinished { begun, names, items };
                        lock(&self.unfinished).insert(prefix.to_string(), unfinished);
                        return Err(error);
                    }
                },
            });
        }
        if !items.is_empty() {
            let _ = page(items);
        }
        Ok(true)
    }

    /// Whether the server's page still says of a file what it said before. A manifest is nobody's answer for the file,
    /// and most pages tell neither its size nor its time.
    pub(super) fn still_says(&self, session: &Session, version: &Version) -> Result<bool, StoreError> {
        if self.manifest.is_some() || version.etag.is_some() {
            return Ok(false);
        }
        let (directory, name) = version.key.split_at(version.key.rfind('/').map_or(0, |slash| slash + 1));
        let line = self.names(session, directory)?.remove(name).unwrap_or_default();
        Ok(line.size == Some(version.size) && line.modified == version.date())
    }

    /// What a listing that failed just now has found.
    fn begun(&self, prefix: &str) -> Option<Unfinished> {
        let mut unfinished = lock(&self.unfinished);
        unfinished.retain(|_, listing| listing.begun.elapsed() < self.trust);
        unfinished.remove(prefix)
    }

    /// The names right below a prefix.
    fn names(&self, session: &Session, prefix: &str) -> Result<BTreeMap<String, Line>, StoreError> {
        if let Some(manifest) = &self.manifest {
            return Ok(below(&*self.files(session, manifest)?, prefix));
        }
        let url = format!("{}{}", self.base, percent_encode_path(prefix));
        match self.document(session, &url) {
            Err(StoreError::NotFound) if !prefix.is_empty() => Ok(BTreeMap::new()),
            Err(StoreError::NotFound) => {
                Err(StoreError::NoBucket(format!("GET {}: 404", crate::watch::shown(&url))))
            }
            document => Ok(shown(&document?, url.split_once("://").map_or("", |(_, rest)| rest))),
        }
    }

    /// What the manifest says; what it said, if it cannot be read now.
    fn files(&self, session: &Session, manifest: &str) -> Result<Arc<BTreeMap<String, Line>>, StoreError> {
        let before = {
            let mut known = lock(&self.known);
            if let Some(known) = known.as_mut() {
                if known.since.elapsed() < known.trust {
                    return Ok(known.files.clone());
                }
                // Until it is read, or cannot be, others need not wait.
                (known.since, known.trust) = (Instant::now(), AGAIN.min(self.trust));
            }
            known.as_ref().map(|known| known.files.clone())
        };
        let since = Instant::now();
        let text = match manifest.contains("://") {
            true => self.document(session, manifest),
            false => small_file(Path::new(manifest))
                .map_err(|error| StoreError::Failed(format!("the manifest {manifest}: {error}"))),
        };
        match (text, before) {
            (Ok(text), _) => {
                let files = Arc::new(parse_manifest(&text));
                *lock(&self.known) = Some(Known { files: files.clone(), since, trust: self.trust });
                Ok(files)
            }
            (Err(error), Some(files)) => {
                warn!("the manifest cannot be read again, so it is trusted for longer: {error}");
                if let Some(known) = lock(&self.known).as_mut() {
                    (known.since, known.trust) = (Instant::now(), AGAIN.min(self.trust));
                }
                Ok(files)
            }
            (Err(error), None) => Err(error),
        }
    }

    fn document(&self, session: &Session, url: &str) -> Result<String, StoreError> {
        let uri = url.parse().map_err(|_| StoreError::Failed("not a URL".to_string()))?;
        // What is known to one server is not for another.
        let authorization = url.starts_with(&self.base).then(|| session.authorization()).flatten();
        transport::text(session.context(), &uri, authorization)
    }
}

/// The text of a regular file that is no larger than an answer may be.
fn small_file(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    let read = file.take(limits::ANSWER as u64 + 1).read_to_string(&mut text)?;
    match read > limits::ANSWER {
        true => Err(io::Error::other("too large")),
        false => Ok(text),
    }
}

/// `path`, `path<TAB>size` or `path<TAB>size<TAB>etag`; `#` begins a comment.
fn parse_manifest(text: &str) -> BTreeMap<String, Line> {
    let lines = text.lines().map(|line| line.trim_end_matches('\r'));
    lines
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| {
            let mut fields = line.split('\t');
            let path = fields.next().unwrap_or_default().trim_start_matches('/').to_string();
            let size = fields.next().and_then(|size| size.trim().parse().ok());
            let etag = fields.next().map(str::trim).and_then(answer::etag);
            (path, Line { size, etag, modified: None })
        })
        .filter(|(path, _)| is_key(path))
        .take(limits::ENTRIES)
        .collect()
}

/// The names right below a prefix.
fn below(files: &BTreeMap<String, Line>, prefix: &str) -> BTreeMap<String, Line> {
    let from = files.range(prefix.to_string()..).take_while(|(path, _)| path.starts_with(prefix));
    from.filter_map(|(path, line)| {
        let rest = path.get(prefix.len()..).filter(|rest| !rest.is_empty())?;
        Some(match rest.split_once('/') {
            Some((directory, _)) => (format!("{directory}/"), Line::default()),
            None => (rest.to_string(), line.clone()),
        })
    })
    .collect()
}

/// The names that a server's page for a directory shows.
fn shown(page: &str, directory: &str) -> BTreeMap<String, Line> {
    let lines = |entries: Vec<&RawValue>| {
        // One that cannot be read hides no other.
        let entries = entries.into_iter().filter_map(|entry| serde_json::from_str::<Shown>(entry.get()).ok());
        entries.filter_map(Shown::into_line).filter(|(name, _)| is_key(name)).take(limits::ENTRIES).collect()
    };
    serde_json::from_str::<Vec<&RawValue>>(page).map_or_else(|_| links(page, directory), lines)
}

fn is_key(key: &str) -> bool {
    let fits = key.len() <= limits::KEY;
    SKIPPED.fetch_add(u64::from(!fits), Ordering::Relaxed);
    fits
}

/// An entry of nginx's `autoindex_format json`.
#[derive(Deserialize)]
struct Shown {
    name: String,
    r#type: String,
    mtime: Option<String>,
    size: Option<u64>,
}

impl Shown {
    fn into_line(self) -> Option<(String, Line)> {
        let modified = self.mtime.and_then(|time| Timestamp::parse_rfc2822(&time).ok()).map(SystemTime::from);
        match self.r#type.as_str() {
            "directory" => Some((format!("{}/", self.name), Line::default())),
            "file" => Some((self.name, Line { size: self.size, etag: None, modified })),
            _ => None,
        }
    }
}

/// The links of a page that lead right below its directory (`host/path/`).
fn links(page: &str, directory: &str) -> BTreeMap<String, Line> {
    let path = directory.find('/').and_then(|slash| directory.get(slash..)).unwrap_or("/");
    let path: Vec<u8> = percent_decode_str(path).collect();
    // ASCII case alone is folded, so that both have the same offsets.
    let folded = page.to_ascii_lowercase();
    let found = folded.match_indices("href=").filter_map(|(at, mark)| {
        let rest = page.get(at + mark.len()..)?;
        let quote = rest.chars().next().filter(|quote| "\"'".contains(*quote))?;
        rest.get(1..)?.split_once(quote).map(|(link, _)| link.replace("&amp;", "&"))
    });
    found
        .filter_map(|link| {
            let link = link.split(['?', '#']).next().unwrap_or_default();
            let link = link.strip_prefix("./").unwrap_or(link);
            if link.contains("://") || link.starts_with("//") || link.starts_with("mailto:") {
                return None;
            }
            let link: Vec<u8> = percent_decode_str(link).collect();
            let name = match link.first()? {
                b'/' => link.strip_prefix(path.as_slice())?,
                _ => link.as_slice(),
            };
            let name = String::from_utf8(name.to_vec()).ok()?;
            let inner = name.strip_suffix('/').unwrap_or(&name);
            (!inner.is_empty() && !inner.contains('/') && inner != "." && inner != "..")
                .then_some((name, Line::default()))
        })
        .filter(|(name, _)| is_key(name))
        .take(limits::ENTRIES)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_servers() {
        let html = r##"<a href="../">../</a><A HREF='a%20b.txt'>x</A><a href="dir/">dir</a>
            <a href="/data/set/c&amp;d">c</a><a href="/data/set/x/y">no</a><a href="?C=N;O=D">N</a>
            <a href="/data/">up</a><a href="http://other/data/set/e">no</a><a href="#top">no</a>"##;
        let names: Vec<_> = shown(html, "host/data/set/").into_keys().collect();
        assert_eq!(names, ["a b.txt", "c&d", "dir/"]);
        let json = r#"[{"name":"d","type":"directory","mtime":"Mon, 06 Jan 2020 10:00:00 GMT"},
            {"name":"f","type":"file","mtime":"Mon, 06 Jan 2020 10:00:00 GMT","size":7}]"#;
        let found = shown(json, "host/");
        assert_eq!(found.get("f").and_then(|line| line.size), Some(7));
        assert!(found.get("f").is_some_and(|line| line.modified.is_some()) && found.contains_key("d/"));
    }

    #[test]
    fn manifests() {
        let files = parse_manifest("# c\n/a/b\t7\tx\r\na/c\nd\t1\n");
        let names: Vec<_> = below(&files, "").into_keys().collect();
        assert_eq!(names, ["a/", "d"]);
        let line = Line { size: Some(7), etag: Some("\"x\"".to_string()), modified: None };
        assert_eq!(below(&files, "a/").get("b"), Some(&line));
        assert!(below(&files, "e/").is_empty());
    }
}
