//! The answers that list: what of them is passed on to the library that reads them.
//!
//! That library takes a listing as a whole: one entry with an odd date or a negative size makes it refuse the
//! directory, and one with a key outside of what was asked for, or with a long ETag, makes it panic. So each answer is
//! read here first, and entries that cannot be what they say are cut out of it and counted. Decides, too, whether a
//! listing gets on: no page is asked for twice, each page brings a name that was not there before, and all of it has
//! limits ([`crate::limits`]). What a listing is made of is known here; what its keys mean is not.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::atomic::Ordering;

use fluid_sidecar_layout::source::Scheme;
use opendal::raw::Timestamp;
use quick_xml::Reader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::Event;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::response;
use crate::limits::{EMPTY_PAGES, ENTRIES, ENTRY, ETAG, Held, JSON_VALUES, KEY, LISTING, NAME, PAGES};
use crate::limits::{SKIPPED, TIME_PER_ENTRY, Until};
use crate::store::StoreError;

/// A listing that is being received.
#[derive(Default)]
pub(super) struct ListingGuard {
    scheme: Option<Scheme>,
    /// What every key begins with.
    prefix: String,
    hasher: RandomState,
    asked: HashSet<u64>,
    seen: HashSet<u64>,
    pub(super) pages: usize,
    /// Entries of all pages, but for those that were cut out.
    pub(super) entries: usize,
    /// Whether the last page says that there are more.
    pub(super) is_truncated: bool,
    empty: usize,
    bytes: usize,
    held: Held,
    /// Entries that were cut out.
    pub(super) skipped: usize,
    /// The store says that there are more, and does not know tokens.
    pub(super) needs_markers: bool,
}

impl ListingGuard {
    /// Of keys that begin with the prefix, as the store knows them.
    pub(super) fn new(scheme: Scheme, prefix: String) -> Self {
        ListingGuard { scheme: Some(scheme), prefix, ..Self::default() }
    }

    /// Takes an answer, and cuts out of it what cannot be.
    pub(super) fn take(&mut self, uri: &http::Uri, body: &mut Vec<u8>) -> Result<(), StoreError> {
        let found = match self.scheme {
            None | Some(Scheme::Http) => return Ok(()),
            Some(Scheme::Gcs) => google(body, &self.prefix)?,
            Some(Scheme::Webhdfs) => hdfs(body)?,
            _ => xml(body, &self.prefix)?,
        };
        // Another answer, such as that of who gives out credentials.
        let Some(found) = found else { return Ok(()) };
        let failed = |reason: &str| {
            StoreError::Failed(format!("{}: {reason}", super::transport::shown(&http::Method::GET, uri)))
        };
        if !self.asked.insert(self.hasher.hash_one(uri.path_and_query())) {
            return Err(failed("the listing begins anew: the same page is named twice"));
        }
        let query = uri.query().unwrap_or_default();
        let asks_for_directories = ["delimiter=%2F", "delimiter=/"].iter().any(|ask| query.contains(ask));
        // What is in them would be taken for nothing.
        if found.has_directories && !asks_for_directories {
            return Err(failed("the listing has directories although all keys were asked for"));
        }
        self.pages += 1;
        self.entries += found.keys.len();
        self.is_truncated = found.is_truncated;
        // So answers who knows ListObjects alone, and takes the request for one: the library would ask again and again.
        let has_tokens = query.contains("list-type=2");
        if found.is_truncated && !found.has_token && has_tokens {
            self.needs_markers = self.pages == 1;
            return Err(failed("the listing says that it goes on, and not where"));
        }
        let before = self.seen.len();
        for (key, bytes) in &found.keys {
            if self.seen.insert(self.hasher.hash_one(key)) {
                self.bytes += ENTRY + bytes;
            }
        }
        let new = self.seen.len() - before;
        self.empty = if found.keys.is_empty() && found.skipped == 0 { self.empty + 1 } else { 0 };
        SKIPPED.fetch_add(found.skipped as u64, Ordering::Relaxed);
        self.skipped += found.skipped;
        if new == 0 && !found.keys.is_empty() && self.pages > 1 {
            return Err(failed("the listing does not get on: a page has only names of earlier ones"));
        }
        if self.pages > PAGES || self.empty > EMPTY_PAGES {
            return Err(failed("the listing has too many pages"));
        }
        if self.bytes > LISTING {
            return Err(failed("the directory has too many names"));
        }
        if !self.held.take((new * ENTRY).min(LISTING)) {
            return Err(StoreError::Unavailable("too many large listings at a time".into()));
        }
        Until::put_off(TIME_PER_ENTRY * u32::try_from(new).unwrap_or(u32::MAX));
        Ok(())
    }
}

impl ListingGuard {
    /// Forgets the names of earlier pages: whoever goes on with the listing does not keep them, and looks at their order.
    pub(super) fn forget_names(&mut self) {
        self.seen = HashSet::new();
        (self.entries, self.bytes, self.skipped, self.held) = (0, 0, 0, Held::default());
    }

    /// Whether nothing that came was a listing, so that it does not mean that there is nothing.
    pub(super) fn is_none(&self) -> bool {
        let is_xml =
            !matches!(self.scheme, None | Some(Scheme::Http | Scheme::Webhdfs | Scheme::Gcs | Scheme::Tos));
        is_xml && self.pages == 0
    }
}

/// What an answer lists.
#[derive(Default)]
struct Found {
    /// The keys, each with the bytes that its entry takes.
    keys: Vec<(String, usize)>,
    skipped: usize,
    /// Whether there are more, and whether it is told where they begin (of S3).
    is_truncated: bool,
    has_token: bool,
    /// Whether keys are named by the directory that they have in common.
    has_directories: bool,
}

impl Found {
    fn add(&mut self, entry: Option<(String, usize)>) -> Result<bool, StoreError> {
        match entry {
            Some(entry) => self.keys.push(entry),
            None => {
                self.skipped += 1;
                return Ok(false);
            }
        }
        match self.keys.len() > ENTRIES {
            true => Err(StoreError::Failed("a page of a listing has too many entries".into())),
            false => Ok(true),
        }
    }
}

/// A key that can be asked for, as far as its length and place go. The library takes one that begins with a slash for a
/// path from the root.
fn key(key: &str, prefix: &str) -> bool {
    key.len() <= KEY && key.starts_with(prefix) && !key.starts_with('/')
}

fn size(text: &str) -> bool {
    text.parse::<u64>().is_ok()
}

/// The elements that are entries, those that an entry must have, and all that the library reads, which may be there
/// once.
const ENTRY_ELEMENTS: &[(&str, &[&str])] = &[
    ("Contents", &["Key", "Size"]),
    ("CommonPrefixes", &["Prefix"]),
    ("Blob", &["Name", "Content-Length", "Last-Modified"]),
    ("BlobPrefix", &["Name"]),
];
const FIELDS: &[&str] = &[
    "Key",
    "Name",
    "Prefix",
    "Size",
    "Content-Length",
    "LastModified",
    "Last-Modified",
    "ETag",
    "Etag",
    "Content-MD5",
    "Content-Type",
    "Properties",
];
const ETAGS: [&str; 2] = ["ETag", "Etag"];
const KEYS: [&str; 3] = ["Key", "Name", "Prefix"];

/// An entry that is being read.
struct Reading {
    required: &'static [&'static str],
    start: usize,
    depth: usize,
    fields: Vec<(&'static str, String)>,
    /// Where its ETag is, if it is none.
    etag: Option<Range<usize>>,
    bad: bool,
}

/// Of S3 and all that are like it, and of Azure.
fn xml(body: &mut Vec<u8>, prefix: &str) -> Result<Option<Found>, StoreError> {
    let mut cut: Vec<Range<usize>> = Vec::new();
    let mut found = Found::default();
    if let Err(error) = std::str::from_utf8(body) {
        log::debug!("a listing is not UTF-8: {error}");
        *body = String::from_utf8_lossy(body).replace(char::REPLACEMENT_CHARACTER, NOT_UTF8).into_bytes();
    }
    let text = std::str::from_utf8(body).unwrap_or_default();
    let mut reader = Reader::from_str(text);
    let (mut depth, mut is_listing, mut in_blobs) = (0_usize, false, false);
    let mut reading: Option<Reading> = None;
    // What is said of the listing itself, and its text.
    let mut said: Option<(String, String)> = None;
    // The field, where it begins, and its text.
    let mut field: Option<(&'static str, usize, String)> = None;
    loop {
        let at = position(&reader);
        // What is not XML is for the library to refuse.
        let Ok(event) = reader.read_event() else { return Ok(is_listing.then(Found::default)) };
        let (name, has_attributes, opens, closes) = match &event {
            Event::Start(tag) => {
                (tag.local_name().into_inner().to_string(), has_attributes(tag), true, false)
            }
            Event::Empty(tag) => (tag.local_name().into_inner().to_string(), has_attributes(tag), true, true),
            Event::End(_) => (String::new(), false, false, true),
            Event::Eof => break,
            _ => {
                if let Some((_, text)) = &mut said
                    && text.len() <= KEY
                {
                    append(&event, text);
                }
                let Some((_, _, text)) = &mut field else { continue };
                let readable = append(&event, text) && text.len() <= KEY.max(ETAG);
                if let (false, Some(reading)) = (readable, &mut reading) {
                    reading.bad |= !matches!(field, Some((name, ..)) if ETAGS.contains(&name));
                    if let Some((_, _, text)) = &mut field {
                        // No ETag, and no longer one.
                        *text = "\0".to_string();
                    }
                }
                continue;
            }
        };
        if opens {
            depth += 1;
            is_listing |= depth == 1 && matches!(name.as_str(), "ListBucketResult" | "EnumerationResults");
            in_blobs |= depth == 2 && name == "Blobs";
            match &mut reading {
                None if depth == 2
                    && matches!(name.as_str(), "IsTruncated" | "NextMarker" | "NextContinuationToken") =>
                {
                    said = Some((name.clone(), String::new()));
                }
                None if is_listing && (depth == 2 || depth == 3 && in_blobs) => {
                    let entry = ENTRY_ELEMENTS.iter().find(|(entry, _)| *entry == name);
                    found.has_directories |= matches!(name.as_str(), "CommonPrefixes" | "BlobPrefix");
                    reading = entry.map(|(_, required)| Reading {
                        required,
                        start: at,
                        depth,
                        fields: Vec::new(),
                        etag: None,
                        bad: false,
                    });
                }
                None => {}
                Some(reading) => {
                    // Nothing is inside of a field.
                    reading.bad |= field.is_some();
                    let inner = depth - reading.depth;
                    let is_inner = inner == 1
                        || inner == 2 && reading.fields.last().is_some_and(|(of, _)| *of == "Properties");
                    let known = FIELDS.iter().find(|field| **field == name).filter(|_| is_inner);
                    if let Some(known) = known.copied() {
                        reading.bad |= has_attributes || reading.fields.iter().any(|(of, _)| *of == known);
                        match known {
                            "Properties" => reading.fields.push((known, String::new())),
                            _ => field = Some((known, at, String::new())),
                        }
                    }
                }
            }
        }
        if closes {
            let end = position(&reader);
            match said.take_if(|_| depth == 2) {
                Some((name, text)) if name == "IsTruncated" => found.is_truncated |= text.trim() == "true",
                Some((name, text)) if name == "NextMarker" => found.is_truncated |= !text.is_empty(),
                Some((_, text)) => found.has_token = !text.is_empty(),
                None => {}
            }
            if let Some(reading) = &mut reading
                && let Some((name, start, text)) = field.take()
            {
                if ETAGS.contains(&name) && !text.is_empty() && response::etag(&text).is_none() {
                    reading.etag = Some(start..end);
                }
                // Those in the properties stay behind them, so that they are known to be inside.
                let inside = reading.fields.last().is_some_and(|(of, _)| *of == "Properties");
                reading.fields.insert(reading.fields.len() - usize::from(inside), (name, text));
            }
            if let Some(done) = reading.take_if(|reading| reading.depth == depth) {
                let range = done.start..end;
                let is_text = text.get(range.clone()).is_some_and(|text| !text.contains(NOT_UTF8));
                let entry = done.entry(prefix).filter(|_| is_text);
                match found.add(entry)? {
                    true => cut.extend(done.etag),
                    false => cut.push(range),
                }
            }
            depth = depth.saturating_sub(1);
            in_blobs &= depth >= 2;
        }
    }
    if !is_listing {
        return Ok(None);
    }
    without(body, &cut);
    Ok(Some(found))
}

impl Reading {
    /// The entry's key and what it takes, if it can be what it says.
    fn entry(&self, prefix: &str) -> Option<(String, usize)> {
        let get = |name: &str| self.fields.iter().find(|(of, _)| *of == name).map(|(_, text)| text.as_str());
        let well = |name: &str, is_well: fn(&str) -> bool| get(name).is_none_or(is_well);
        let complete = self.required.iter().all(|name| get(name).is_some());
        let well = well("Size", size)
            && well("Content-Length", size)
            && well("LastModified", |text| text.parse::<Timestamp>().is_ok())
            && well("Last-Modified", |text| Timestamp::parse_rfc2822(text).is_ok());
        let of_key = KEYS.iter().find_map(|name| get(name)).filter(|text| key(text, prefix))?;
        let etag = ETAGS.iter().find_map(|name| get(name)).unwrap_or_default();
        (complete && well && !self.bad).then(|| (of_key.to_string(), of_key.len() + etag.len()))
    }
}

/// Stands where bytes were that are not UTF-8: Unicode has no such letter.
const NOT_UTF8: &str = "\u{fffe}";

fn position(reader: &Reader<&[u8]>) -> usize {
    usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX)
}

fn has_attributes(tag: &quick_xml::events::BytesStart<'_>) -> bool {
    !tag.attributes_raw().trim_ascii().is_empty()
}

/// Adds the text of an event; false if there is none.
fn append(event: &Event<'_>, text: &mut String) -> bool {
    match event {
        Event::Text(piece) => text.push_str(piece),
        Event::CData(piece) => text.push_str(piece),
        Event::Comment(_) => {}
        Event::GeneralRef(reference) => match (reference.resolve_char_ref(), resolve_xml_entity(reference)) {
            (Ok(Some(letter)), _) => text.push(letter),
            (Ok(None), Some(known)) => text.push_str(known),
            _ => return false,
        },
        _ => return false,
    }
    true
}

/// Takes ranges out, which are in order.
fn without(body: &mut Vec<u8>, cut: &[Range<usize>]) {
    let (mut kept, mut from) = (0, 0);
    for range in cut {
        body.copy_within(from..range.start, kept);
        kept += range.start - from;
        from = range.end;
    }
    if !cut.is_empty() {
        body.copy_within(from.., kept);
        body.truncate(kept + body.len() - from);
    }
}

/// Whether JSON may be read at all: each comma and bracket costs memory.
fn is_modest(body: &[u8]) -> Result<(), StoreError> {
    match body.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count() > JSON_VALUES {
        true => Err(StoreError::Failed("a page of a listing has too many entries".into())),
        false => Ok(()),
    }
}

#[derive(Deserialize)]
struct Google<'a> {
    #[serde(borrow, default)]
    items: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    prefixes: Vec<&'a RawValue>,
    #[serde(borrow, default, rename = "nextPageToken")]
    next: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct GoogleItem {
    name: String,
    size: String,
    etag: String,
    generation: String,
    md5_hash: String,
    updated: String,
    content_type: String,
}

fn google(body: &mut Vec<u8>, prefix: &str) -> Result<Option<Found>, StoreError> {
    is_modest(body)?;
    let mut found = Found::default();
    let mut edits = Vec::new();
    let Some(listed) =
        std::str::from_utf8(body).ok().and_then(|text| serde_json::from_str::<Google<'_>>(text).ok())
    else {
        return Ok(None);
    };
    edits.extend(rebuilt(body, &listed.items, |item| {
        found.add(serde_json::from_str::<GoogleItem>(item).ok().and_then(|item| {
            let short =
                [&item.etag, &item.md5_hash, &item.content_type].iter().all(|text| text.len() <= ETAG);
            let generation = item.generation.is_empty() || size(&item.generation);
            let well = short && generation && size(&item.size) && item.updated.parse::<Timestamp>().is_ok();
            let bytes = item.name.len() + item.generation.len();
            (well && key(&item.name, prefix)).then_some((item.name, bytes))
        }))
    })?);
    edits.extend(rebuilt(body, &listed.prefixes, |name| {
        found.add(serde_json::from_str::<String>(name).ok().filter(|name| key(name, prefix)).map(|name| {
            let bytes = name.len();
            (name, bytes)
        }))
    })?);
    found.has_directories = !listed.prefixes.is_empty();
    found.is_truncated = listed.next.is_some();
    replace(body, edits);
    Ok(Some(found))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Hdfs<'a> {
    #[serde(borrow)]
    file_statuses: Option<Statuses<'a>>,
    #[serde(borrow)]
    directory_listing: Option<Directory<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Directory<'a> {
    #[serde(borrow)]
    partial_listing: Partial<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Partial<'a> {
    #[serde(borrow)]
    file_statuses: Statuses<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Statuses<'a> {
    #[serde(borrow)]
    file_status: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    length: u64,
    modification_time: i64,
    path_suffix: String,
    r#type: String,
}

fn hdfs(body: &mut Vec<u8>) -> Result<Option<Found>, StoreError> {
    is_modest(body)?;
    let mut found = Found::default();
    let listed = std::str::from_utf8(body).ok().and_then(|text| serde_json::from_str::<Hdfs<'_>>(text).ok());
    let listed = listed.and_then(|listed| {
        listed.file_statuses.or_else(|| Some(listed.directory_listing?.partial_listing.file_statuses))
    });
    let Some(listed) = listed else { return Ok(None) };
    let edits = rebuilt(body, &listed.file_status, |status| {
        found.add(serde_json::from_str::<Status>(status).ok().and_then(|status| {
            let name = status.path_suffix;
            let well = matches!(status.r#type.as_str(), "FILE" | "DIRECTORY")
                && i64::try_from(status.length).is_ok()
                && Timestamp::from_millisecond(status.modification_time).is_ok()
                && name.len() <= NAME
                && !name.contains('/');
            let bytes = name.len();
            well.then_some((name, bytes))
        }))
    })?;
    replace(body, edits.into_iter().collect());
    Ok(Some(found))
}

/// The range of an array's elements and those that stay; nothing if all do.
fn rebuilt(
    body: &[u8],
    elements: &[&RawValue],
    mut stays: impl FnMut(&str) -> Result<bool, StoreError>,
) -> Result<Option<(Range<usize>, String)>, StoreError> {
    let kept: Vec<_> = elements
        .iter()
        .map(|element| Ok((element.get(), stays(element.get())?)))
        .collect::<Result<_, StoreError>>()?;
    if kept.iter().all(|(_, stays)| *stays) {
        return Ok(None);
    }
    // They are pieces of the body.
    let at = |text: &str| text.as_ptr().addr() - body.as_ptr().addr();
    let range = elements
        .first()
        .zip(elements.last())
        .map(|(first, last)| at(first.get())..at(last.get()) + last.get().len());
    let kept: Vec<_> = kept.into_iter().filter(|(_, stays)| *stays).map(|(text, _)| text).collect();
    Ok(range.map(|range| (range, kept.join(","))))
}

fn replace(body: &mut Vec<u8>, mut edits: Vec<(Range<usize>, String)>) {
    edits.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
    for (range, text) in edits {
        body.splice(range, text.into_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(scheme: Scheme, prefix: &str, body: &str) -> (String, usize, Vec<String>) {
        let mut body = body.as_bytes().to_vec();
        let found = match scheme {
            Scheme::Gcs => google(&mut body, prefix),
            Scheme::Webhdfs => hdfs(&mut body),
            _ => xml(&mut body, prefix),
        };
        let found = found.unwrap().unwrap();
        let keys = found.keys.into_iter().map(|(key, _)| key).collect();
        (String::from_utf8(body).unwrap(), found.skipped, keys)
    }

    const DATE: &str = "<LastModified>2024-02-03T04:05:06.000Z</LastModified>";

    fn contents(key: &str, size: &str, rest: &str) -> String {
        format!("<Contents><Key>{key}</Key>{rest}<Size>{size}</Size></Contents>")
    }

    #[test]
    fn what_cannot_be_is_cut_out_of_s3s() {
        let good =
            contents("p/a&amp;b", "1", &format!("{DATE}<ETag>&quot;x&quot;</ETag><Owner><ID>1</ID></Owner>"));
        let prefix = "<CommonPrefixes><Prefix>p/d/</Prefix></CommonPrefixes>";
        let long = "x".repeat(2000);
        let bad = [
            contents("p/n", "-5", DATE),
            contents("p/n", "18446744073709551616", DATE),
            contents("p/n", "1", "<LastModified>yesterday</LastModified>"),
            contents("elsewhere", "1", DATE),
            contents("", "1", DATE),
            contents(&format!("p/{long}"), "1", DATE),
            contents("p/n&#0;&unknown;", "1", DATE),
            contents("p/n<Key>m</Key>", "1", DATE),
            contents("p/n", "1", &format!("{DATE}{DATE}")),
            "<Contents/>".to_string(),
            "<Contents><Key nil='true'>p/n</Key><Size>1</Size></Contents>".to_string(),
            "<CommonPrefixes><Prefix>q/</Prefix></CommonPrefixes>".to_string(),
        ];
        let root = |inner: &str| {
            format!(
                "<?xml version='1.0'?><ListBucketResult xmlns='x'><Name>n</Name>{inner}</ListBucketResult>"
            )
        };
        let (body, skipped, keys) =
            cleaned(Scheme::S3, "p/", &root(&format!("{}{good}{prefix}{}", bad.concat(), bad.concat())));
        assert_eq!((body, skipped), (root(&format!("{good}{prefix}")), 2 * bad.len()));
        assert_eq!(keys, ["p/a&b", "p/d/"]);
        // Without their ETags, which are none.
        let without = contents("p/a", "1", DATE);
        for etag in ["&quot;a&#13;&#10;X-Evil: 1&quot;", "a b", &format!("&quot;{long}&quot;"), "\u{1b}"] {
            let etag = contents("p/a", "1", &format!("{DATE}<ETag>{etag}</ETag>"));
            assert_eq!(cleaned(Scheme::S3, "p/", &root(&etag)).0, root(&without));
        }
    }

    #[test]
    fn what_cannot_be_is_cut_out_of_azures() {
        let blob = |name: &str, size: &str, date: &str, etag: &str| {
            format!(
                "<Blob><Name>{name}</Name><Properties><Last-Modified>{date}</Last-Modified><Etag>{etag}</Etag>\
                 <Content-Length>{size}</Content-Length><Content-Type>t</Content-Type></Properties></Blob>"
            )
        };
        let date = "Sat, 03 Feb 2024 04:05:06 GMT";
        let good = blob("a", "1", date, "0x8");
        let bad = [
            blob("b", "-1", date, "0x8"),
            blob("c", "1", "2024", "0x8"),
            "<Blob><Name>d</Name></Blob>".into(),
        ];
        let root = |inner: &str| {
            format!(
                "<EnumerationResults><Blobs>{inner}<BlobPrefix><Name>p/</Name></BlobPrefix></Blobs><NextMarker/></EnumerationResults>"
            )
        };
        let (body, skipped, keys) =
            cleaned(Scheme::Azblob, "", &root(&format!("{}{good}{}", bad.concat(), bad[0])));
        assert_eq!((body, skipped, keys), (root(&good), 4, vec!["a".to_string(), "p/".to_string()]));
    }

    #[test]
    fn what_cannot_be_is_cut_out_of_json() {
        let item = |name: &str, size: &str, updated: &str| {
            format!(r#"{{"name":"{name}","size":"{size}","updated":"{updated}","generation":"17"}}"#)
        };
        let good = item("p/a", "1", "2024-02-03T04:05:06Z");
        let bad = [
            item("p/b", "-1", "2024-02-03T04:05:06Z"),
            item("p/c", "1", "x"),
            item("q", "1", "x"),
            "7".into(),
        ];
        let page = |items: &str, prefixes: &str| {
            format!(r#"{{"items":[{items}], "prefixes":[{prefixes}],"nextPageToken":"t"}}"#)
        };
        let listed =
            page(&[&bad[..], std::slice::from_ref(&good), &bad[..]].concat().join(" , "), r#""p/d/","q/",3"#);
        let (body, skipped, keys) = cleaned(Scheme::Gcs, "p/", &listed);
        assert_eq!((body, skipped), (page(&good, r#""p/d/""#), 10));
        assert_eq!(keys, ["p/a", "p/d/"]);

        let status = |name: &str, kind: &str, length: &str, time: &str| {
            format!(
                r#"{{"length":{length},"modificationTime":{time},"pathSuffix":"{name}","type":"{kind}"}}"#
            )
        };
        let good = status("a", "FILE", "1", "1");
        let bad = [
            status("b", "FILE", "-1", "1"),
            status("c", "SYMLINK", "1", "1"),
            status("d/e", "FILE", "1", "1"),
            status("f", "FILE", "1", "9223372036854775807"),
        ];
        for (start, end) in [
            (r#"{"FileStatuses":{"FileStatus":["#, "]}}"),
            (
                r#"{"DirectoryListing":{"partialListing":{"FileStatuses":{"FileStatus":["#,
                r#"]}},"remainingEntries":0}}"#,
            ),
        ] {
            let listed = format!("{start}{},{good}{end}", bad.join(","));
            let (body, skipped, keys) = cleaned(Scheme::Webhdfs, "", &listed);
            assert_eq!((body, skipped, keys), (format!("{start}{good}{end}"), 4, vec!["a".to_string()]));
        }
    }

    #[test]
    fn a_listing_must_get_on() {
        let page = |names: std::ops::Range<u32>| {
            let entries: String = names.map(|name| contents(&name.to_string(), "1", DATE)).collect();
            format!("<ListBucketResult>{entries}</ListBucketResult>").into_bytes()
        };
        let take = |guard: &mut ListingGuard, token: u32, names| {
            let uri = format!("http://store/?token={token}").parse().unwrap();
            guard.take(&uri, &mut page(names)).map_err(|error| error.to_string())
        };
        let mut guard = ListingGuard::new(Scheme::S3, String::new());
        assert_eq!(take(&mut guard, 0, 0..5), Ok(()));
        assert_eq!(take(&mut guard, 1, 4..6), Ok(()));
        assert!(take(&mut guard, 1, 6..7).unwrap_err().contains("named twice"));
        assert!(take(&mut guard, 2, 1..4).unwrap_err().contains("does not get on"));
        assert_eq!(take(&mut guard, 3, 0..0), Ok(()));
        let empty = (4..).map(|token| take(&mut guard, token, 0..0)).take_while(Result::is_ok).count();
        assert_eq!(empty, EMPTY_PAGES - 1);
        // Whoever gives out credentials may say the same again and again.
        let uri = "http://169.254.169.254/".parse().unwrap();
        for _ in 0..3 {
            assert!(guard.take(&uri, &mut b"<Other/>".to_vec()).is_ok());
        }
    }

    #[test]
    fn any_bytes_are_taken() {
        let whole = format!(
            "<ListBucketResult><Contents><Key>a</Key>{DATE}<Size>1</Size></Contents></ListBucketResult>"
        );
        for end in 0..whole.len() {
            let mut cut = whole.as_bytes()[..end].to_vec();
            let _ = xml(&mut cut, "");
            for odd in [b'<', b'&', b'"', 0, 0xff] {
                let mut changed = whole.as_bytes().to_vec();
                changed[end] = odd;
                let _ = xml(&mut changed, "");
                let _ = google(&mut changed, "");
                let _ = hdfs(&mut changed);
            }
        }
    }
}
