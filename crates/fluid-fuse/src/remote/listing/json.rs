//! Listings in JSON: Google's and those of WebHDFS.

use std::ops::Range;

use opendal::raw::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::entries::{Found, is_key, is_size};
use crate::limits::{ETAG, JSON_VALUES, MAX_NAME};
use crate::store::StoreError;

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

pub(super) fn google(body: &mut Vec<u8>, prefix: &str) -> Result<Option<Found>, StoreError> {
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
            let generation = item.generation.is_empty() || is_size(&item.generation);
            let well =
                short && generation && is_size(&item.size) && item.updated.parse::<Timestamp>().is_ok();
            let bytes = item.name.len() + item.generation.len();
            (well && is_key(&item.name, prefix)).then_some((item.name, bytes))
        }))
    })?);
    edits.extend(rebuilt(body, &listed.prefixes, |name| {
        found.add(serde_json::from_str::<String>(name).ok().filter(|name| is_key(name, prefix)).map(|name| {
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

pub(super) fn hdfs(body: &mut Vec<u8>) -> Result<Option<Found>, StoreError> {
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
                && name.len() <= MAX_NAME
                && !name.contains('/');
            let bytes = name.len();
            well.then_some((name, bytes))
        }))
    })?;
    replace(body, edits.into_iter().collect());
    Ok(Some(found))
}

/// Returns the range of an array's elements and the text of those that stay, or nothing if all do.
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
    // The elements are slices of the body.
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
