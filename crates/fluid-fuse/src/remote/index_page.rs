//! The page that a web server shows for a directory: Apache's, nginx's (HTML or JSON) and others'.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use html5gum::emitters::default::DefaultEmitter;
use html5gum::{Token, Tokenizer};
use opendal::raw::Timestamp;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

use crate::limits::{self, SKIPPED};

/// A file in a manifest or on a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FileEntry {
    pub(super) size: Option<u64>,
    pub(super) etag: Option<String>,
    pub(super) modified: Option<SystemTime>,
}

/// The entries of a page.
#[derive(Default)]
pub(super) struct IndexPage {
    pub(super) names: BTreeMap<String, FileEntry>,
    /// Whether the page looks like an index, even of an empty directory.
    pub(super) is_index: bool,
}

pub(super) fn parse(page: &str, url: &Url) -> IndexPage {
    let Ok(entries) = serde_json::from_str::<Vec<&RawValue>>(page) else { return links(page, url) };
    // An entry that cannot be read hides no other.
    let entries = entries.into_iter().filter_map(|entry| {
        let entry = serde_json::from_str::<NginxEntry>(entry.get()).ok();
        SKIPPED.fetch_add(u64::from(entry.is_none()), Ordering::Relaxed);
        entry
    });
    let names = entries.filter_map(NginxEntry::into_entry).filter(|(name, _)| is_key(name));
    IndexPage { names: names.take(limits::ENTRIES).collect(), is_index: true }
}

pub(super) fn is_key(key: &str) -> bool {
    let fits = key.len() <= limits::KEY;
    SKIPPED.fetch_add(u64::from(!fits), Ordering::Relaxed);
    fits
}

/// An entry of nginx's `autoindex_format json`.
#[derive(Deserialize)]
struct NginxEntry {
    name: String,
    r#type: String,
    mtime: Option<String>,
    size: Option<u64>,
}

impl NginxEntry {
    fn into_entry(self) -> Option<(String, FileEntry)> {
        let modified = self.mtime.and_then(|time| Timestamp::parse_rfc2822(&time).ok()).map(SystemTime::from);
        match self.r#type.as_str() {
            "directory" => Some((format!("{}/", self.name), FileEntry::default())),
            "file" => Some((self.name, FileEntry { size: self.size, etag: None, modified })),
            _ => None,
        }
    }
}

/// The links of a page in HTML that lead right below its directory.
fn links(page: &str, url: &Url) -> IndexPage {
    let mut emitter = DefaultEmitter::<()>::default();
    // The text of a script has no tags.
    emitter.naively_switch_states(true);
    let mut found = IndexPage::default();
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
                    found.names.insert(name, FileEntry::default());
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

    fn page(page: &str, url: &str) -> IndexPage {
        parse(page, &Url::parse(url).unwrap())
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
}
