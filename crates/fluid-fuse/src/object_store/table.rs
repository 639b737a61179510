//! The names of a directory in few bytes.
//!
//! One buffer has a record for each name: the name, the size, the time of change and the ETag. An ETag that is an MD5,
//! as most are, takes 16 bytes. Keys are not stored: they are the directory's prefix and the name. A version that does not
//! fit the short forms is stored in a longer one, so no information is lost.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::remote::Version;
use crate::store::StoreError;

/// Bytes of all records of a table at most: the order has their offsets as numbers of 32 bits.
const LARGEST: usize = u32::MAX as usize;

// The forms of a record. In that of a directory, nothing follows the name.
const DIRECTORY: u8 = 0;
const NO_ETAG: u8 = 1;
/// 16 bytes in quotes, in lower case or in upper case.
const MD5: u8 = 2;
const MD5_UPPER: u8 = 3;
/// A number, as Google's generations.
const NUMBER: u8 = 4;
const TEXT: u8 = 5;
const FORM: u8 = 0x07;
/// A number of parts follows the MD5.
const PARTS: u8 = 0x08;
/// The time has more than 32 bits of whole seconds.
const LONG_TIME: u8 = 0x10;

const MD5_DIGITS: usize = 32;

/// The file or directory that a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Child {
    Directory,
    File(Arc<Version>),
}

/// Names without repetition, in order once it is finished.
#[derive(Default)]
pub(super) struct Table {
    records: Vec<u8>,
    /// Where the records begin, in the order of the names.
    order: Vec<u32>,
}

impl Table {
    /// Adds a name, which has 255 bytes at most.
    pub(super) fn push(&mut self, name: &str, child: &Child) -> Result<(), StoreError> {
        let too_large = || StoreError::Failed("the directory has too many names".into());
        let at = u32::try_from(self.records.len()).map_err(|_| too_large())?;
        let length = u8::try_from(name.len()).map_err(|_| too_large())?;
        self.records.push(length);
        self.records.extend_from_slice(name.as_bytes());
        match child {
            Child::Directory => self.records.push(DIRECTORY),
            Child::File(version) => encode(version, &mut self.records),
        }
        if self.records.len() > LARGEST {
            return Err(too_large());
        }
        self.order.push(at);
        Ok(())
    }

    /// Sorts the names. Of equal ones a directory hides a file.
    pub(super) fn finish(&mut self) {
        let Table { records, order } = self;
        let compare = |one: &u32, other: &u32| {
            let (one, other) = (record(records, *one), record(records, *other));
            (one.0, one.1 != DIRECTORY).cmp(&(other.0, other.1 != DIRECTORY))
        };
        order.sort_unstable_by(compare);
        order.dedup_by(|later, kept| record(records, *later).0 == record(records, *kept).0);
        order.shrink_to_fit();
        records.shrink_to_fit();
    }

    /// Bytes of its memory.
    pub(super) fn bytes(&self) -> usize {
        self.records.capacity() + self.order.capacity() * size_of::<u32>()
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// The index of a name.
    pub(super) fn index(&self, name: &str) -> Option<usize> {
        let compare = |at: &u32| record(&self.records, *at).0.cmp(name.as_bytes());
        self.order.binary_search_by(compare).ok()
    }

    pub(super) fn is_directory(&self, index: usize) -> bool {
        self.order.get(index).is_some_and(|at| record(&self.records, *at).1 == DIRECTORY)
    }

    /// The name at an index.
    pub(super) fn name(&self, index: usize) -> Option<&str> {
        std::str::from_utf8(record(&self.records, *self.order.get(index)?).0).ok()
    }

    /// The file or directory at an index, in the directory of a prefix.
    pub(super) fn child(&self, index: usize, prefix: &str) -> Option<Child> {
        let (name, form, rest) = record(&self.records, *self.order.get(index)?);
        if form == DIRECTORY {
            return Some(Child::Directory);
        }
        let key = format!("{prefix}{}", std::str::from_utf8(name).ok()?);
        Some(Child::File(Arc::new(decode(key, form, rest)?)))
    }
}

/// The name of a record, its form and the bytes behind it.
fn record(records: &[u8], at: u32) -> (&[u8], u8, &[u8]) {
    let parts = || {
        let (length, rest) = records.get(at as usize..)?.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        let (form, rest) = rest.split_first()?;
        Some((name, *form, rest))
    };
    parts().unwrap_or_default()
}

fn encode(version: &Version, records: &mut Vec<u8>) {
    let at = records.len();
    records.push(NO_ETAG);
    let mut form = NO_ETAG;
    number(version.size, records);
    let time = version.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    match u32::try_from(time.as_secs()) {
        Ok(seconds) if time.subsec_nanos() == 0 => records.extend(seconds.to_le_bytes()),
        _ => {
            form |= LONG_TIME;
            records.extend(time.as_secs().to_le_bytes());
            records.extend(time.subsec_nanos().to_le_bytes());
        }
    }
    if let Some(etag) = &version.etag {
        form &= !FORM;
        if let Some((digest, is_upper, parts)) = md5(etag) {
            form |= if is_upper { MD5_UPPER } else { MD5 };
            records.extend(digest.to_be_bytes());
            if let Some(parts) = parts {
                form |= PARTS;
                number(parts, records);
            }
        } else if let Some(generation) = etag.parse::<u64>().ok().filter(|it| it.to_string() == *etag) {
            form |= NUMBER;
            number(generation, records);
        } else {
            form |= TEXT;
            number(etag.len() as u64, records);
            records.extend_from_slice(etag.as_bytes());
        }
    }
    if let Some(first) = records.get_mut(at) {
        *first = form;
    }
}

fn decode(key: String, form: u8, mut rest: &[u8]) -> Option<Version> {
    let size = take_number(&mut rest)?;
    let time = match form & LONG_TIME {
        0 => Duration::from_secs(u32::from_le_bytes(take(&mut rest)?).into()),
        _ => {
            let seconds = u64::from_le_bytes(take(&mut rest)?);
            Duration::from_secs(seconds) + Duration::from_nanos(u32::from_le_bytes(take(&mut rest)?).into())
        }
    };
    let etag = match form & FORM {
        NO_ETAG => None,
        form_of_etag @ (MD5 | MD5_UPPER) => {
            let digest = u128::from_be_bytes(take(&mut rest)?);
            let parts = if form & PARTS == 0 { None } else { Some(take_number(&mut rest)?) };
            Some(written(digest, form_of_etag == MD5_UPPER, parts))
        }
        NUMBER => Some(take_number(&mut rest)?.to_string()),
        _ => {
            let length = usize::try_from(take_number(&mut rest)?).ok()?;
            Some(std::str::from_utf8(rest.get(..length)?).ok()?.to_string())
        }
    };
    Some(Version { key, size, etag, modified: SystemTime::UNIX_EPOCH + time })
}

/// The MD5 that an ETag is, whether it is in upper case, and the number of parts behind it.
fn md5(etag: &str) -> Option<(u128, bool, Option<u64>)> {
    let inner = etag.strip_prefix('"')?.strip_suffix('"')?;
    let (digits, rest) = inner.split_at_checked(MD5_DIGITS)?;
    let digest = u128::from_str_radix(digits, 16).ok()?;
    let parts = match rest {
        "" => None,
        rest => Some(rest.strip_prefix('-')?.parse().ok()?),
    };
    let is_as_written = |is_upper: &bool| written(digest, *is_upper, parts) == etag;
    [false, true].into_iter().find(is_as_written).map(|is_upper| (digest, is_upper, parts))
}

/// An ETag of an MD5.
fn written(digest: u128, is_upper: bool, parts: Option<u64>) -> String {
    let mut etag = if is_upper { format!("\"{digest:032X}") } else { format!("\"{digest:032x}") };
    if let Some(parts) = parts {
        // Writing to a string does not fail.
        let _ = write!(etag, "-{parts}");
    }
    etag.push('"');
    etag
}

/// Writes a number in as many groups of 7 bits as it needs.
fn number(mut number: u64, records: &mut Vec<u8>) {
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            return records.push(low);
        }
        records.push(low | 0x80);
    }
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let [byte] = take(rest)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, others) = rest.split_first_chunk()?;
    *rest = others;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a name beside its length: 1 for that length, 1 for the form, 4 for the size of a file below 256 MiB, 4
    /// for the time, 16 for an MD5, and 4 to find it in order.
    const RECORD: usize = 30;

    fn file(name: &str, size: u64, etag: Option<&str>, modified: Duration) -> Child {
        let etag = etag.map(str::to_string);
        let modified = SystemTime::UNIX_EPOCH + modified;
        Child::File(Arc::new(Version { key: format!("p/{name}"), size, etag, modified }))
    }

    #[test]
    fn versions_survive_the_encoding() {
        let second = Duration::from_secs(1);
        let md5 = "\"0123456789abcdef0123456789abcdef\"";
        let etags = [
            None,
            Some(md5.to_string()),
            Some(md5.to_uppercase()),
            Some(md5.replace("f\"", "f-17\"")),
            Some(md5.replace("f\"", "f-017\"")),
            Some(md5.replace('a', "A")),
            Some(md5.trim_matches('"').to_string()),
            Some("\"+0123456789abcdef0123456789abcde\"".to_string()),
            Some(String::new()),
            Some("\"0x8DC0FFEE\"".to_string()),
            Some("1700000000000000".to_string()),
            Some("017".to_string()),
            Some("é".repeat(400)),
        ];
        let sizes = [0, 127, 128, 1 << 40, u64::MAX];
        let times = [
            Duration::ZERO,
            1_700_000_000 * second,
            Duration::from_millis(1500),
            Duration::from_secs(1 << 33),
        ];
        let mut table = Table::default();
        let mut all = Vec::new();
        for (number, etag) in etags.iter().enumerate() {
            for (other, size) in sizes.iter().enumerate() {
                let name = format!("{number:02} {other}");
                all.push((name.clone(), file(&name, *size, etag.as_deref(), times[other % times.len()])));
            }
        }
        all.push(("x".to_string(), Child::Directory));
        all.push(("y".repeat(255), Child::Directory));
        for (name, child) in all.iter().rev() {
            table.push(name, child).unwrap();
        }
        table.finish();
        assert_eq!(table.len(), all.len());
        for (index, (name, child)) in all.iter().enumerate() {
            assert_eq!((table.index(name), table.name(index)), (Some(index), Some(&**name)));
            assert_eq!(format!("{:?}", table.child(index, "p/")), format!("{:?}", Some(child)));
            assert_eq!(table.is_directory(index), matches!(child, Child::Directory));
        }
        assert_eq!((table.index("00"), table.child(all.len(), "").is_none()), (None, true));
        assert!(table.push(&"z".repeat(256), &Child::Directory).is_err());
    }

    #[test]
    fn a_directory_hides_the_file_of_its_name() {
        let (a, directory) = (file("a", 1, None, Duration::ZERO), Child::Directory);
        for names in [
            [("a", &a), ("a-b", &a), ("a", &directory), ("a", &a)],
            [("a", &directory), ("a", &directory), ("a", &a), ("a-b", &a)],
        ] {
            let mut table = Table::default();
            for (name, child) in names {
                table.push(name, child).unwrap();
            }
            table.finish();
            assert_eq!((table.len(), table.is_directory(0), table.name(1)), (2, true, Some("a-b")));
        }
    }

    #[test]
    fn a_name_takes_few_bytes() {
        const NAMES: usize = 10_000;
        let mut table = Table::default();
        for number in 0..NAMES {
            let etag = format!("\"{number:032x}\"");
            let name = format!("name-{number:07}");
            let child = file(&name, 100 << 20, Some(&etag), Duration::from_secs(1_700_000_000));
            table.push(&name, &child).unwrap();
        }
        table.finish();
        assert_eq!(table.bytes(), NAMES * (RECORD + "name-0000000".len()));
    }
}
