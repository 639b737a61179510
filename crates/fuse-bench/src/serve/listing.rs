//! Listings, in both versions of the request. It decides which names a page holds: those below the prefix, in
//! the order of their bytes, rolled up at the delimiter, after the marker.
//!
//! With the usual delimiter only one directory is read. Its names are kept, sorted, and the answers that were made
//! of them, as long as the directory has not changed: stores have an index, too. So files must be replaced, not
//! changed in place. It does not know of versions of objects, and names that are not UTF-8 are not objects.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::http::Request;
use super::{DECLARATION, NAMESPACE, tag, time};

/// What S3 gives at most in one page.
const PAGE: usize = 1000;

/// What `encoding-type=url` leaves as it is.
const RESERVED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Sorted; those of directories end in a slash.
type Names = Arc<Vec<String>>;

/// The names in directories.
#[derive(Debug, Default)]
pub(super) struct Directories {
    known: Mutex<HashMap<PathBuf, (SystemTime, Names)>>,
    answers: Mutex<HashMap<Query, (SystemTime, Arc<str>)>>,
}

impl Directories {
    /// The names in a directory.
    pub(super) fn names(&self, directory: &Path) -> io::Result<Names> {
        let modified = fs::metadata(directory)?.modified()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, names)) = known.get(directory).filter(|(then, _)| *then == modified) {
            return Ok(Arc::clone(names));
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let mut kind = entry.file_type()?;
            if kind.is_symlink() {
                let Ok(metadata) = fs::metadata(entry.path()) else { continue };
                kind = metadata.file_type();
            }
            let Ok(mut name) = entry.file_name().into_string() else { continue };
            if kind.is_dir() {
                name.push('/');
            }
            names.push(name);
        }
        names.sort_unstable();
        let names = Arc::new(names);
        known.insert(directory.to_owned(), (modified, Arc::clone(&names)));
        Ok(names)
    }

    /// The names of all files below a directory.
    fn below(&self, directory: &Path, prefix: &str, found: &mut Vec<String>) {
        for name in self.names(directory).unwrap_or_default().iter() {
            let path = format!("{prefix}{name}");
            if name.ends_with('/') {
                self.below(&directory.join(name), &path, found);
            } else {
                found.push(path);
            }
        }
    }
}

/// Whether a key is a file's path and cannot lead elsewhere.
pub(super) fn is_plain(key: &str) -> bool {
    !key.contains('\0') && key.split('/').all(|name| !matches!(name, "" | "." | ".."))
}

/// The answer to the question which buckets there are.
pub(super) fn buckets(names: &[String]) -> String {
    let mut xml = format!("{DECLARATION}<ListAllMyBucketsResult {NAMESPACE}><Buckets>");
    for name in names.iter().filter_map(|name| name.strip_suffix('/')) {
        let created = time::iso(SystemTime::UNIX_EPOCH);
        let name = escape(name);
        xml += &format!("<Bucket><Name>{name}</Name><CreationDate>{created}</CreationDate></Bucket>");
    }
    xml + "</Buckets></ListAllMyBucketsResult>"
}

/// What is to be listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Query {
    bucket: String,
    prefix: String,
    delimiter: String,
    /// Only names after it are listed.
    after: String,
    limit: usize,
    second_version: bool,
    encoded: bool,
}

/// A page: names, relative to the directory that was read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Page {
    keys: Vec<String>,
    prefixes: Vec<String>,
    /// The last name, if more follow.
    next: Option<String>,
}

impl Query {
    /// Reads the parameters.
    pub(super) fn new(request: &Request, bucket: &str) -> Option<Self> {
        let text = |name: &str| request.query(name).unwrap_or_default().to_owned();
        let second_version = request.query("list-type") == Some("2");
        let after = match request.query("continuation-token") {
            _ if !second_version => text("marker"),
            // The encoding of the parameter is gone, the token's own is left.
            Some(token) => percent_encoding::percent_decode_str(token).decode_utf8().ok()?.into_owned(),
            None => text("start-after"),
        };
        Some(Query {
            bucket: bucket.to_owned(),
            prefix: text("prefix"),
            delimiter: text("delimiter"),
            after,
            limit: request.query("max-keys").map_or(Some(PAGE), |text| text.parse().ok())?.min(PAGE),
            second_version,
            encoded: request.query("encoding-type") == Some("url"),
        })
    }

    /// The answer, from the bucket's directory.
    pub(super) fn answer(&self, directories: &Directories, bucket: &Path) -> Arc<str> {
        // Up to the last slash the prefix is a directory.
        let (base, rest) = self.prefix.split_at(self.prefix.rfind('/').map_or(0, |slash| slash + 1));
        let directory = bucket.join(base);
        let modified = fs::metadata(&directory).and_then(|metadata| metadata.modified()).ok();
        let modified = modified.filter(|_| self.delimiter == "/");
        let answers = || directories.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, answer)) = answers().get(self).filter(|(then, _)| Some(*then) == modified) {
            return Arc::clone(answer);
        }
        let answer: Arc<str> = self.compose(directories, base, rest, &directory).into();
        if let Some(modified) = modified {
            answers().insert(self.clone(), (modified, Arc::clone(&answer)));
        }
        answer
    }

    fn compose(&self, directories: &Directories, base: &str, rest: &str, directory: &Path) -> String {
        let mut names = Names::default();
        if base.is_empty() || is_plain(base.trim_end_matches('/')) && !base.ends_with("//") {
            if self.delimiter == "/" {
                names = directories.names(directory).unwrap_or_default();
            } else {
                let mut found = Vec::new();
                directories.below(directory, "", &mut found);
                found.sort_unstable();
                names = Arc::new(found);
            }
        }
        let after = match self.after.strip_prefix(base) {
            Some(after) => after,
            None if *self.after < *base => "",
            None => {
                names = Names::default();
                ""
            }
        };
        let page = page(&names, rest, &self.delimiter, after, self.limit);
        self.write(&page, base, directory)
    }

    fn write(&self, page: &Page, base: &str, directory: &Path) -> String {
        let text = |text: &str| match self.encoded {
            true => utf8_percent_encode(text, RESERVED).to_string(),
            false => escape(text),
        };
        let mut contents = String::new();
        let mut count = page.prefixes.len();
        for name in &page.keys {
            let Ok(metadata) = fs::metadata(directory.join(name)) else { continue };
            count += 1;
            let (key, size) = (text(&format!("{base}{name}")), metadata.len());
            let modified = time::iso(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH));
            let tag = escape(&tag(&metadata));
            // Writing to a String cannot fail.
            let _ = write!(
                contents,
                "<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><ETag>{tag}</ETag>\
                 <Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            );
        }
        for name in &page.prefixes {
            let prefix = text(&format!("{base}{name}"));
            contents += &format!("<CommonPrefixes><Prefix>{prefix}</Prefix></CommonPrefixes>");
        }
        let mut xml =
            format!("{DECLARATION}<ListBucketResult {NAMESPACE}><Name>{}</Name>", escape(&self.bucket));
        let mut add = |name: &str, value: &str| xml += &format!("<{name}>{value}</{name}>");
        add("Prefix", &text(&self.prefix));
        add("Delimiter", &text(&self.delimiter));
        add("MaxKeys", &self.limit.to_string());
        if self.encoded {
            add("EncodingType", "url");
        }
        if self.second_version {
            add("KeyCount", &count.to_string());
        } else {
            add("Marker", &text(&self.after));
        }
        add("IsTruncated", if page.next.is_some() { "true" } else { "false" });
        if let Some(next) = &page.next {
            let next = format!("{base}{next}");
            match self.second_version {
                true => add("NextContinuationToken", &utf8_percent_encode(&next, RESERVED).to_string()),
                false => add("NextMarker", &text(&next)),
            }
        }
        xml + &contents + "</ListBucketResult>"
    }
}

fn page(names: &[String], prefix: &str, delimiter: &str, after: &str, limit: usize) -> Page {
    let mut page = Page::default();
    let mut last = after;
    let first = names.partition_point(|name| name.as_str() < prefix);
    for name in names[first..].iter().take_while(|name| name.starts_with(prefix)) {
        let rest = &name[prefix.len()..];
        let cut = Some(delimiter).filter(|delimiter| !delimiter.is_empty()).and_then(|text| rest.find(text));
        let item = cut.map_or(name.as_str(), |cut| &name[..prefix.len() + cut + delimiter.len()]);
        if item <= last {
            continue;
        }
        if page.keys.len() + page.prefixes.len() == limit {
            page.next = Some(last.to_owned()).filter(|_| limit > 0);
            break;
        }
        last = item;
        if cut.is_some() { &mut page.prefixes } else { &mut page.keys }.push(item.to_owned());
    }
    page
}

/// Text for XML: its own characters, and those that it would lose.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            control if control.is_control() => escaped.push_str(&format!("&#x{:X};", u32::from(control))),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::{Page, escape, is_plain, page};

    fn names() -> Vec<String> {
        ["a.txt", "a/x", "a/y", "b", "c/d/e", "c/f"].map(String::from).into()
    }

    #[test]
    fn pages_are_continued_without_gaps_or_repeats() {
        let names = names();
        for (delimiter, expected) in
            [("", vec!["a.txt", "a/x", "a/y", "b", "c/d/e", "c/f"]), ("/", vec!["a.txt", "a/", "b", "c/"])]
        {
            for limit in 1..8 {
                let (mut all, mut after) = (Vec::new(), String::new());
                loop {
                    let Page { mut keys, prefixes, next } = page(&names, "", delimiter, &after, limit);
                    keys.extend(prefixes);
                    keys.sort();
                    all.extend(keys);
                    match next {
                        Some(next) => after = next,
                        None => break,
                    }
                }
                assert_eq!(all, expected, "delimiter {delimiter:?}, limit {limit}");
            }
        }
    }

    #[test]
    fn prefixes_and_odd_delimiters() {
        assert_eq!(page(&names(), "a", "/", "", 9).prefixes, ["a/"]);
        assert_eq!(page(&names(), "c/", "/", "", 9).prefixes, ["c/d/"]);
        assert_eq!(page(&names(), "", "x", "", 9).prefixes, ["a.tx", "a/x"]);
        assert_eq!(page(&names(), "", "", "", 0), Page::default());
        assert_eq!(page(&names(), "zz", "", "", 9), Page::default());
    }

    #[test]
    fn text() {
        assert_eq!(escape("a&b<\u{1}\u{e9}'"), "a&amp;b&lt;&#x1;\u{e9}&apos;");
        assert!(
            is_plain("a/b c") && !is_plain("a//b") && !is_plain("../a") && !is_plain("a/.") && !is_plain("")
        );
    }
}
