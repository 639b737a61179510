//! The manifest: a list of the files of a web server.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::index_page::{FileEntry, is_key};
use super::response;
use crate::limits;

/// Reads a regular file that is no larger than a response may be.
pub(super) fn read_file(path: &Path) -> io::Result<String> {
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
pub(super) fn parse(text: &str) -> BTreeMap<String, FileEntry> {
    let lines = text.lines().map(|line| line.trim_end_matches('\r'));
    lines
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| {
            let mut fields = line.split('\t');
            let path = fields.next().unwrap_or_default().trim_start_matches('/').to_string();
            let size = fields.next().and_then(|size| size.trim().parse().ok());
            let etag = fields.next().map(str::trim).and_then(response::etag);
            (path, FileEntry { size, etag, modified: None })
        })
        .filter(|(path, _)| is_key(path))
        .take(limits::ENTRIES)
        .collect()
}

/// The names right below a prefix.
pub(super) fn below(files: &BTreeMap<String, FileEntry>, prefix: &str) -> BTreeMap<String, FileEntry> {
    let from = files.range(prefix.to_string()..).take_while(|(path, _)| path.starts_with(prefix));
    from.filter_map(|(path, line)| {
        let rest = path.get(prefix.len()..).filter(|rest| !rest.is_empty())?;
        Some(match rest.split_once('/') {
            Some((directory, _)) => (format!("{directory}/"), FileEntry::default()),
            None => (rest.to_string(), line.clone()),
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests() {
        let files = parse("# c\n/a/b\t7\tx\r\na/c\nd\t1\n");
        let names: Vec<_> = below(&files, "").into_keys().collect();
        assert_eq!(names, ["a/", "d"]);
        let line = FileEntry { size: Some(7), etag: Some("\"x\"".to_string()), modified: None };
        assert_eq!(below(&files, "a/").get("b"), Some(&line));
        assert!(below(&files, "e/").is_empty());
    }
}
