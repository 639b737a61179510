//! Listings in XML: those of S3, of stores that are like S3, and of Azure.

use std::ops::Range;

use opendal::raw::Timestamp;
use quick_xml::Reader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::Event;

use super::entries::{Found, is_key, is_size};
use crate::limits::{ETAG, KEY};
use crate::remote::response;
use crate::store::StoreError;

/// The elements that are entries, each with the elements that it must have.
const ENTRY_ELEMENTS: &[(&str, &[&str])] = &[
    ("Contents", &["Key", "Size"]),
    ("CommonPrefixes", &["Prefix"]),
    ("Blob", &["Name", "Content-Length", "Last-Modified"]),
    ("BlobPrefix", &["Name"]),
];

/// The elements that opendal reads. An entry may have each of them once.
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
    /// The range of its ETag, if that is invalid.
    etag: Option<Range<usize>>,
    bad: bool,
}

/// Removes the invalid entries of a listing.
pub(super) fn xml(body: &mut Vec<u8>, prefix: &str) -> Result<Option<Found>, StoreError> {
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
    // An element of the listing itself, and its text.
    let mut listing_field: Option<(String, String)> = None;
    // The field, where it begins, and its text.
    let mut field: Option<(&'static str, usize, String)> = None;
    loop {
        let at = position(&reader);
        // opendal refuses a response that is not XML.
        let Ok(event) = reader.read_event() else { return Ok(is_listing.then(Found::default)) };
        let (name, has_attributes, opens, closes) = match &event {
            Event::Start(tag) => {
                (tag.local_name().into_inner().to_string(), has_attributes(tag), true, false)
            }
            Event::Empty(tag) => (tag.local_name().into_inner().to_string(), has_attributes(tag), true, true),
            Event::End(_) => (String::new(), false, false, true),
            Event::Eof => break,
            _ => {
                if let Some((_, text)) = &mut listing_field
                    && text.len() <= KEY
                {
                    append(&event, text);
                }
                let Some((_, _, text)) = &mut field else { continue };
                let readable = append(&event, text) && text.len() <= KEY.max(ETAG);
                if let (false, Some(reading)) = (readable, &mut reading) {
                    reading.bad |= !matches!(field, Some((name, ..)) if ETAGS.contains(&name));
                    if let Some((_, _, text)) = &mut field {
                        // The text is no ETag; it does not grow further.
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
                    listing_field = Some((name.clone(), String::new()));
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
                    // A field contains no elements.
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
            match listing_field.take_if(|_| depth == 2) {
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
                // `Properties` stays the last field, so that further fields are known to be inside of it.
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
    /// The entry's key and its bytes, if the entry is valid.
    fn entry(&self, prefix: &str) -> Option<(String, usize)> {
        let get = |name: &str| self.fields.iter().find(|(of, _)| *of == name).map(|(_, text)| text.as_str());
        let well = |name: &str, is_well: fn(&str) -> bool| get(name).is_none_or(is_well);
        let complete = self.required.iter().all(|name| get(name).is_some());
        let well = well("Size", is_size)
            && well("Content-Length", is_size)
            && well("LastModified", |text| text.parse::<Timestamp>().is_ok())
            && well("Last-Modified", |text| Timestamp::parse_rfc2822(text).is_ok());
        let of_key = KEYS.iter().find_map(|name| get(name)).filter(|text| is_key(text, prefix))?;
        let etag = ETAGS.iter().find_map(|name| get(name)).unwrap_or_default();
        (complete && well && !self.bad).then(|| (of_key.to_string(), of_key.len() + etag.len()))
    }
}

/// Replaces bytes that are not UTF-8: Unicode has no such character.
const NOT_UTF8: &str = "\u{fffe}";

fn position(reader: &Reader<&[u8]>) -> usize {
    usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX)
}

fn has_attributes(tag: &quick_xml::events::BytesStart<'_>) -> bool {
    !tag.attributes_raw().trim_ascii().is_empty()
}

/// Appends the text of an event; false if it has none.
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

/// Removes ranges, which are in order.
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
