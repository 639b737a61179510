//! Listings, in both versions of the request. It decides which names a page holds: those below the prefix, in
//! the order of their bytes, rolled up at the delimiter, after the marker.
//!
//! Of directories, with the usual delimiter only one is read, and the answers that were made of it are kept as long as it
//! has not changed, unless objects may change. It does not know of versions of objects, and names that are not UTF-8
//! are not objects.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::fs;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::http::{Request, decode};
use crate::object::{Directories, Names, Object, is_plain, size, tag};
use crate::server::lock;

/// What S3 gives at most in one page.
pub(crate) const PAGE: usize = 1000;

pub(crate) const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>";
pub(crate) const NAMESPACE: &str = "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"";

/// What `encoding-type=url` leaves as it is.
const RESERVED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Answers that were made before, with the time of change of their directories.
pub(crate) type Answers = Mutex<HashMap<Query, (SystemTime, Arc<str>)>>;

/// As in `<LastModified>`.
pub(crate) fn iso(time: SystemTime) -> String {
    let seconds = humantime::format_rfc3339_seconds(time.max(UNIX_EPOCH)).to_string();
    format!("{}.000Z", seconds.trim_end_matches('Z'))
}

/// The answer to the question which buckets there are.
pub(crate) fn buckets(names: &[String]) -> String {
    let mut xml = format!("{DECLARATION}<ListAllMyBucketsResult {NAMESPACE}><Buckets>");
    for name in names.iter().filter_map(|name| name.strip_suffix('/')) {
        let created = iso(UNIX_EPOCH);
        let name = escape(name);
        xml += &format!("<Bucket><Name>{name}</Name><CreationDate>{created}</CreationDate></Bucket>");
    }
    xml + "</Buckets></ListAllMyBucketsResult>"
}

/// What is to be listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Query {
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
    /// Reads the parameters; `most` entries are in a page, at most.
    pub(crate) fn new(request: &Request, most: usize) -> Option<Self> {
        let text = |name: &str| request.query(name).unwrap_or_default().to_owned();
        let second_version = request.query("list-type") == Some("2");
        let after = match request.query("continuation-token") {
            _ if !second_version => text("marker"),
            // The encoding of the parameter is gone, the token's own is left.
            Some(token) => decode(token).into_owned(),
            None => text("start-after"),
        };
        Some(Query {
            bucket: request.bucket.clone(),
            prefix: text("prefix"),
            delimiter: text("delimiter"),
            after,
            limit: request.query("max-keys").map_or(Some(PAGE), |text| text.parse().ok())?.min(most),
            second_version,
            encoded: request.query("encoding-type") == Some("url"),
        })
    }

    /// The answer, from objects in memory.
    pub(crate) fn of_memory(&self, objects: &BTreeMap<String, Object>) -> String {
        let from = Bound::Included(self.prefix.as_str().max(self.after.as_str()));
        let names = objects.range::<str, _>((from, Bound::Unbounded)).map(|(key, _)| key.as_str());
        let page = page(names, &self.prefix, &self.delimiter, &self.after, self.limit);
        self.write(&page, "", |key| {
            let object = objects.get(key)?;
            Some((object.data.size(), object.modified, object.etag.clone()))
        })
    }

    /// The answer, from the bucket's directory.
    pub(crate) fn of_directory(
        &self,
        directories: &Directories,
        bucket: &Path,
        answers: &Answers,
    ) -> Arc<str> {
        // Up to the last slash the prefix is a directory.
        let (base, rest) = self.prefix.split_at(self.prefix.rfind('/').map_or(0, |slash| slash + 1));
        let directory = bucket.join(base);
        let modified = fs::metadata(&directory).and_then(|metadata| metadata.modified()).ok();
        let modified = modified.filter(|_| self.delimiter == "/" && !directories.is_writable);
        if let Some((_, answer)) = lock(answers).get(self).filter(|(then, _)| Some(*then) == modified) {
            return Arc::clone(answer);
        }
        let answer: Arc<str> = self.compose(directories, base, rest, &directory).into();
        if let Some(modified) = modified {
            lock(answers).insert(self.clone(), (modified, Arc::clone(&answer)));
        }
        answer
    }

    fn compose(&self, directories: &Directories, base: &str, rest: &str, directory: &Path) -> String {
        let mut names = Names::default();
        if base.is_empty() || is_plain(base.trim_end_matches('/')) && !base.ends_with("//") {
            if self.delimiter == "/" {
                names = match directories.names(directory) {
                    // It is an object itself.
                    Ok(names) if names.is_empty() && !base.is_empty() => Arc::new(vec![String::new()]),
                    names => names.unwrap_or_default(),
                };
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
        let first = names.partition_point(|name| name.as_str() < rest.max(after));
        let names = names[first..].iter().map(String::as_str);
        let page = page(names, rest, &self.delimiter, after, self.limit);
        self.write(&page, base, |name| {
            let metadata = fs::metadata(directory.join(name)).ok()?;
            Some((size(&metadata), metadata.modified().unwrap_or(UNIX_EPOCH), tag(&metadata)))
        })
    }

    fn write(
        &self,
        page: &Page,
        base: &str,
        entry: impl Fn(&str) -> Option<(u64, SystemTime, String)>,
    ) -> String {
        let text = |text: &str| match self.encoded {
            true => utf8_percent_encode(text, RESERVED).to_string(),
            false => escape(text),
        };
        let mut contents = String::new();
        let mut count = page.prefixes.len();
        for name in &page.keys {
            let Some((size, modified, tag)) = entry(name) else { continue };
            count += 1;
            let key = text(&format!("{base}{name}"));
            let (modified, tag) = (iso(modified), escape(&tag));
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

/// The names are sorted, and begin at the first that has the prefix and is not before the marker.
fn page<'a>(
    names: impl Iterator<Item = &'a str>,
    prefix: &str,
    delimiter: &str,
    after: &str,
    limit: usize,
) -> Page {
    let mut page = Page::default();
    let mut last = after;
    for name in names.take_while(|name| name.starts_with(prefix)) {
        let rest = &name[prefix.len()..];
        let cut = Some(delimiter).filter(|delimiter| !delimiter.is_empty()).and_then(|text| rest.find(text));
        let item = cut.map_or(name, |cut| &name[..prefix.len() + cut + delimiter.len()]);
        if item <= last && !last.is_empty() {
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
pub fn escape(text: &str) -> String {
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
    use std::time::{Duration, UNIX_EPOCH};

    use super::{Page, escape, is_plain, iso};

    const NAMES: [&str; 6] = ["a.txt", "a/x", "a/y", "b", "c/d/e", "c/f"];

    fn page(prefix: &str, delimiter: &str, after: &str, limit: usize) -> Page {
        let names = NAMES.into_iter().skip_while(|name| *name < prefix.max(after));
        super::page(names, prefix, delimiter, after, limit)
    }

    #[test]
    fn pages_are_continued_without_gaps_or_repeats() {
        for (delimiter, expected) in
            [("", vec!["a.txt", "a/x", "a/y", "b", "c/d/e", "c/f"]), ("/", vec!["a.txt", "a/", "b", "c/"])]
        {
            for limit in 1..8 {
                let (mut all, mut after) = (Vec::new(), String::new());
                loop {
                    let Page { mut keys, prefixes, next } = page("", delimiter, &after, limit);
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
        assert_eq!(page("a", "/", "", 9).prefixes, ["a/"]);
        assert_eq!(page("c/", "/", "", 9).prefixes, ["c/d/"]);
        assert_eq!(page("", "x", "", 9).prefixes, ["a.tx", "a/x"]);
        assert_eq!(page("", "", "", 0), Page::default());
        assert_eq!(page("zz", "", "", 9), Page::default());
    }

    #[test]
    fn text() {
        assert_eq!(escape("a&b<\u{1}\u{e9}'"), "a&amp;b&lt;&#x1;\u{e9}&apos;");
        assert!(
            is_plain("a/b c") && !is_plain("a//b") && !is_plain("../a") && !is_plain("a/.") && !is_plain("")
        );
        assert_eq!(iso(UNIX_EPOCH + Duration::from_secs(784_887_151)), "1994-11-15T08:12:31.000Z");
    }
}
