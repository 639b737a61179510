//! The files of a plain HTTP server, which knows no listings.
//!
//! Decides what a directory has: from the manifest, if the options name one, or else from what the server shows
//! for the directory, as Apache, nginx (HTML or JSON) and others do. Links count that lead right below the
//! directory, however they are written; sizes and times that a page does not tell are asked for, one by one. A file of
//! which the server does not tell them is left out, counted and said once, and so is one that fails again and again while
//! the server answers otherwise. It does not retry, but who asks again for a listing that failed among these gets the
//! rest of it asked for. A manifest is read again as names are, and is as good as it was while it cannot be read.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use html5gum::emitters::default::DefaultEmitter;
use html5gum::{Token, Tokenizer};
use log::warn;
use opendal::raw::{Timestamp, percent_encode_path};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

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

/// How often a file is asked about that gets no answer, before it is left out.
const ATTEMPTS: u32 = 3;

/// Files in a row without an answer, after which the server is taken to be the reason.
const FAILED_IN_A_ROW: usize = 8;

/// The part of the time for a listing that one file may take of what is left.
const SHARE: u32 = 4;

/// Pages about which something was said, after which nothing more is.
const SAID: usize = 1000;

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
    /// What was said, so that it is not said again.
    said: Mutex<HashSet<String>>,
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
    names: VecDeque<(String, Line)>,
    items: Vec<Item>,
    /// How often files got no answer.
    failed: HashMap<String, u32>,
    /// How many were left out, and why the last.
    omitted: usize,
    reason: String,
}

impl Unfinished {
    fn omit(&mut self, key: &str, error: &StoreError) {
        self.omitted += 1;
        self.reason = format!("{key:?}: {error}");
    }
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
            said: Mutex::default(),
        }
    }

    /// Takes over what was said, and what is known of the same manifest.
    pub(super) fn inherit(&self, from: &Self) {
        *lock(&self.said) = std::mem::take(&mut lock(&from.said));
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
        let mut listing = match self.begun(prefix) {
            Some(unfinished) => unfinished,
            None => Unfinished {
                begun: Instant::now(),
                names: self.names(session, prefix)?.into_iter().collect(),
                items: Vec::new(),
                failed: HashMap::new(),
                omitted: 0,
                reason: String::new(),
            },
        };
        if let Err(error) = self.complete(session, prefix, &mut listing) {
            lock(&self.unfinished).insert(prefix.to_string(), listing);
            return Err(error);
        }
        if listing.omitted > 0 {
            SKIPPED.fetch_add(listing.omitted as u64, Ordering::Relaxed);
            let directory = crate::metrics::shown(&self.url(prefix));
            self.say(format!(
                "{directory}: {} files are not shown, such as {}",
                listing.omitted, listing.reason
            ));
        }
        if !listing.items.is_empty() {
            let _ = page(listing.items);
        }
        Ok(true)
    }

    /// Asks about the files of which nothing is known yet.
    fn complete(&self, session: &Session, prefix: &str, listing: &mut Unfinished) -> Result<(), StoreError> {
        let mut failed_in_a_row = 0;
        while let Some((name, line)) = listing.names.pop_front() {
            let key = format!("{prefix}{name}");
            if name.ends_with('/') {
                listing.items.push(Item::Prefix(key));
                continue;
            }
            if let Some(size) = line.size {
                let modified = line.modified.unwrap_or(SystemTime::UNIX_EPOCH);
                listing.items.push(Item::Object(Version { key, size, etag: line.etag, modified }));
                continue;
            }
            let asked = {
                let most = Until::left(session.io_timeout()) / SHARE;
                let _until = Until::set(Instant::now() + most);
                session.head(&key)
            };
            match asked {
                Ok(version) => {
                    failed_in_a_row = 0;
                    Until::put_off(TIME_PER_QUESTION);
                    listing.items.push(Item::Object(version));
                }
                Err(error @ StoreError::Unavailable(_)) => {
                    let attempts = listing.failed.entry(name.clone()).or_default();
                    *attempts += 1;
                    // Who still shows the page is well.
                    if *attempts >= ATTEMPTS && self.names(session, prefix).is_ok() {
                        listing.omit(&key, &error);
                        continue;
                    }
                    listing.names.push_back((name, line));
                    failed_in_a_row += 1;
                    if failed_in_a_row >= FAILED_IN_A_ROW.min(listing.names.len()) {
                        return Err(error);
                    }
                }
                Err(error) => listing.omit(&key, &error),
            }
        }
        Ok(())
    }

    /// Says something once.
    fn say(&self, what: String) {
        let mut said = lock(&self.said);
        if said.len() < SAID && !said.contains(&what) {
            warn!("{what}");
            said.insert(what);
        }
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
        let url = self.url(prefix);
        let page = match self.document(session, &url) {
            Err(StoreError::NotFound) if !prefix.is_empty() => return Ok(BTreeMap::new()),
            Err(StoreError::NotFound) => {
                return Err(StoreError::NoBucket(format!("GET {}: 404", crate::metrics::shown(&url))));
            }
            page => page?,
        };
        let page_url = Url::parse(&url).map_err(|_| StoreError::Failed("not a URL".to_string()))?;
        let shown = shown(&page, &page_url);
        if shown.names.is_empty() && !shown.is_index && !page.trim().is_empty() {
            self.say(format!(
                "GET {}: its text of {} bytes has no link to anything in that directory, so it is shown empty: \
                 it may be no index, or made by a script (the option \"manifest\" can name the files)",
                crate::metrics::shown(&url),
                page.len()
            ));
        }
        Ok(shown.names)
    }

    fn url(&self, prefix: &str) -> String {
        format!("{}{}", self.base, percent_encode_path(prefix))
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

/// What a server's page for a directory shows.
#[derive(Default)]
struct Page {
    names: BTreeMap<String, Line>,
    /// Whether it looks like an index, also an empty one.
    is_index: bool,
}

fn shown(page: &str, url: &Url) -> Page {
    let Ok(entries) = serde_json::from_str::<Vec<&RawValue>>(page) else { return links(page, url) };
    // One that cannot be read hides no other.
    let entries = entries.into_iter().filter_map(|entry| {
        let entry = serde_json::from_str::<Shown>(entry.get()).ok();
        SKIPPED.fetch_add(u64::from(entry.is_none()), Ordering::Relaxed);
        entry
    });
    let names = entries.filter_map(Shown::into_line).filter(|(name, _)| is_key(name));
    Page { names: names.take(limits::ENTRIES).collect(), is_index: true }
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

/// The links of a page in HTML that lead right below its directory.
fn links(page: &str, url: &Url) -> Page {
    let mut emitter = DefaultEmitter::<()>::default();
    // What is in a script is no tag.
    emitter.naively_switch_states(true);
    let mut found = Page::default();
    let mut base = url.clone();
    for token in Tokenizer::new_with_emitter(page, emitter) {
        let Ok(Token::StartTag(tag)) = token else { continue };
        let Some(link) = tag.attributes.get(b"href".as_slice()) else { continue };
        let link = String::from_utf8_lossy(link);
        match (tag.name.as_slice(), base.join(&link)) {
            (b"base", Ok(link)) => base = link,
            (b"a", Ok(link)) => {
                found.is_index |= is_same_server(&link, url) && is_above(link.path(), url.path());
                if let Some(name) = below_directory(&link, url).filter(|name| is_key(name)) {
                    found.names.insert(name, Line::default());
                }
            }
            _ => {}
        }
        if found.names.len() >= limits::ENTRIES {
            break;
        }
    }
    found
}

/// The name right below a directory to which a link leads.
fn below_directory(link: &Url, directory: &Url) -> Option<String> {
    let decoded = |path: &str| percent_decode_str(path).collect::<Vec<u8>>();
    let path = decoded(link.path());
    let name = path.strip_prefix(decoded(directory.path()).as_slice())?;
    let name = String::from_utf8(name.to_vec()).ok()?;
    let inner = name.strip_suffix('/').unwrap_or(&name);
    let is_name = !inner.is_empty() && !inner.contains('/') && inner != "." && inner != "..";
    (is_name && is_same_server(link, directory)).then_some(name)
}

/// Whether two URLs are of one server, which may have a proxy in front of it that speaks TLS.
fn is_same_server(one: &Url, other: &Url) -> bool {
    let has_usual_ports = one.port().is_none() && other.port().is_none();
    let is_web = matches!(one.scheme(), "http" | "https");
    is_web
        && one.host_str() == other.host_str()
        && (has_usual_ports || one.port_or_known_default() == other.port_or_known_default())
}

/// Whether a path is that of a directory above another, as the first link of most indexes.
fn is_above(path: &str, other: &str) -> bool {
    path.ends_with('/') && path.len() < other.len() && other.starts_with(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(page: &str, url: &str) -> Page {
        shown(page, &Url::parse(url).unwrap())
    }

    #[test]
    fn pages_of_servers() {
        let html = r##"<a href="../">../</a><A HREF='a%20b.txt'>x</A><a href="dir/">dir</a>
            <a href="/data/set/c&amp;d">c</a><a href="/data/set/x/y">no</a><a href="?C=N;O=D">N</a>
            <a href="/data/">up</a><a href="http://other/data/set/e">no</a><a href="#top">no</a>
            <a href="http://host:81/data/set/e">no</a><a href="mailto:a@host">no</a><a href="">no</a>
            <!-- <a href="comment"> --><script>"<a href='script'>"</script>"##;
        let found = page(html, "http://host/data/set/");
        let names: Vec<_> = found.names.into_keys().collect();
        assert_eq!(names, ["a b.txt", "c&d", "dir/"]);
        assert!(found.is_index);
        let json = r#"[{"name":"d","type":"directory","mtime":"Mon, 06 Jan 2020 10:00:00 GMT"},
            {"name":"f","type":"file","mtime":"Mon, 06 Jan 2020 10:00:00 GMT","size":7}]"#;
        let found = page(json, "http://host/").names;
        assert_eq!(found.get("f").and_then(|line| line.size), Some(7));
        assert!(found.get("f").is_some_and(|line| line.modified.is_some()) && found.contains_key("d/"));
    }

    #[test]
    fn rclone_1573_links_are_those_of_html() {
        for link in [
            r#"<a href="./c&#43;&#x2b;.txt">"#,
            "<a href=c++.txt>",
            "<a href=c++.txt/../c++.txt>",
            r#"<a class="x"href = "c++.txt">"#,
            "<a\nhref='c%2B%2b.txt'\n>",
            r#"<a title="a > b" href="http://HOST/d%20e/c++.txt?x#y">"#,
            r#"<a href="https://host/d%20e/c++.txt">"#,
            r#"<a href="//host/d e/c++.txt">"#,
            r#"<base href="/d%20e/"><a href="c++.txt">"#,
        ] {
            let names: Vec<_> = page(link, "http://host/d%20e/").names.into_keys().collect();
            assert_eq!(names, ["c++.txt"], "{link}");
        }
        let names: Vec<_> =
            page("<a href='it&#39;s &auml; 100%25%41'>", "http://host/").names.into_keys().collect();
        assert_eq!(names, ["it's \u{e4} 100%A"]);
    }

    #[test]
    fn a_page_that_is_no_index_is_told_from_an_empty_directory() {
        let empty = page("<h1>Index of /d</h1><a href='../'>../</a>", "http://host/d/");
        assert!(empty.is_index && empty.names.is_empty());
        for text in ["<script src='/app.js'></script>", "{}", "Welcome", "<a href='/d/e/f'>f</a>"] {
            let other = page(text, "http://host/d/");
            assert!(!other.is_index && other.names.is_empty(), "{text}");
        }
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
