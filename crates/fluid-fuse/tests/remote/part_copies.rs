//! Uploads in parts, and appends to objects, at a store that is as strict as R2: all parts but the last must be
//! equal, and the last no larger.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fluid_fuse::remote::{Bucket, Upload};
use fluid_fuse::store::StoreError;
use test_store::{Fault, S3};

use super::{bytes, open};

const MIB: usize = 1 << 20;

/// How the store answers requests to copy a part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Copies {
    Made,
    Refused,
    /// It meets no condition.
    WithoutConditions,
}

/// The requests that the store got.
#[derive(Default)]
struct Asked {
    copied: usize,
    /// The lengths of the parts of the last upload, by their numbers.
    parts: BTreeMap<usize, usize>,
    /// How the next completion fails.
    fails: Option<Fault>,
    /// Whether the store still describes the former object.
    is_late: bool,
}

/// A store with empty listings, its requests, and a bucket of it.
fn strict(copies: Copies) -> (S3, Arc<Mutex<Asked>>, Arc<dyn Bucket>) {
    let (store, asked) = (S3::start(), Arc::new(Mutex::new(Asked::default())));
    let heard = Arc::clone(&asked);
    store.behave(move |request| {
        let mut asked = heard.lock().unwrap();
        let part = request.query("partNumber").and_then(|number| number.parse().ok());
        match (&*request.method, part) {
            ("PUT", Some(_)) if request.header("x-amz-copy-source").is_some() => match copies {
                Copies::Refused => Fault::Status(400, "NotImplemented"),
                Copies::WithoutConditions if request.header("x-amz-copy-source-if-match").is_some() => {
                    Fault::Status(412, "PreconditionFailed")
                }
                _ => {
                    asked.copied += 1;
                    Fault::Fine
                }
            },
            ("PUT", Some(part)) => {
                asked.parts.insert(part, request.body.len());
                Fault::Fine
            }
            ("POST", _) if request.query("uploads").is_some() => {
                asked.parts.clear();
                Fault::Fine
            }
            ("POST", _) => asked.fails.take().unwrap_or(Fault::EqualParts),
            ("HEAD", _) if asked.is_late => Fault::Stale,
            ("GET", _) if request.key.is_none() => Fault::Status(403, "AccessDenied"),
            _ => Fault::Fine,
        }
    });
    let endpoint = store.endpoint();
    let options = [
        ("endpoint", endpoint.as_str()),
        ("access_key_id", "key"),
        ("secret_access_key", "secret"),
        ("region", "us-east-1"),
    ];
    let bucket = open("s3://data", &options);
    (store, asked, bucket)
}

fn write(upload: &mut dyn Upload, content: &[u8]) {
    for piece in content.chunks(MIB + 3) {
        upload.write(piece).unwrap();
    }
}

#[test]
fn opendal_6252_parts_are_equal_and_the_last_is_not_larger() {
    let (store, asked, bucket) = strict(Copies::Made);
    for size in [0, 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 12 * MIB, 16 * MIB, 18 * MIB, 28 * MIB + 5] {
        let content = bytes(size);
        let mut upload = bucket.put("file").unwrap();
        write(&mut *upload, &content);
        assert_eq!(upload.finish().unwrap().size, size as u64);
        assert!(store.content("file").unwrap() == content, "{size}");
    }
    // If the size is known before, there are no more parts than a store accepts.
    let mut upload = bucket.put("file").unwrap();
    upload.expect(100 << 30);
    write(&mut *upload, &bytes(30 * MIB));
    upload.finish().unwrap();
    assert_eq!(asked.lock().unwrap().parts.values().copied().collect::<Vec<_>>(), [24 * MIB, 6 * MIB]);
}

#[test]
fn an_object_is_appended_to_whether_parts_can_be_copied_or_not() {
    for copies in [Copies::Made, Copies::Refused] {
        let (store, asked, bucket) = strict(copies);
        let content = bytes(41 * MIB);
        let mut upload = bucket.put("file").unwrap();
        let mut end = 0;
        for more in [10, 1000, 7 * MIB, 9 * MIB, 1, 8 * MIB, 16 * MIB, 0] {
            write(&mut *upload, &content[end..end + more]);
            end += more;
            assert_eq!(upload.finish().unwrap().size, end as u64);
            assert!(store.content("file").unwrap() == content[..end], "{end}");
        }
        drop(upload);
        let version = bucket.head("file").unwrap();
        let mut upload = bucket.resume(&version).unwrap();
        write(&mut *upload, &content[end..]);
        assert_eq!(upload.finish().unwrap().size, content.len() as u64);
        assert!(store.content("file").unwrap() == content);
        assert_eq!(asked.lock().unwrap().copied > 0, copies == Copies::Made);
        // A failed upload leaves the former object, and can be tried again.
        asked.lock().unwrap().fails = Some(Fault::Status(503, "SlowDown"));
        upload.write(b"more").unwrap();
        assert!(matches!(upload.finish(), Err(StoreError::Unavailable(_))));
        assert!(store.content("file").unwrap() == content);
        upload.finish().unwrap();
        assert!(store.content("file").unwrap() == [&content, b"more".as_slice()].concat());
    }
}

#[test]
fn an_object_that_others_have_replaced_is_not_appended_to() {
    let (made, refused) = (Copies::Made, Copies::Refused);
    for (copies, size) in [(made, 20 * MIB), (refused, 20 * MIB), (made, 1000), (made, 2 * MIB)] {
        let (store, _, bucket) = strict(copies);
        let mut upload = bucket.put("file").unwrap();
        write(&mut *upload, &bytes(size));
        upload.finish().unwrap();
        let theirs = vec![7; size];
        store.put("file", theirs.clone());
        let written = upload.write(b"more").and_then(|()| upload.finish().map(|_| ()));
        assert!(matches!(written, Err(StoreError::Stale)), "{size} {written:?}");
        assert!(store.content("file").unwrap() == theirs);
    }
}

#[test]
fn an_object_is_appended_to_although_head_is_late() {
    let (store, asked, bucket) = strict(Copies::Made);
    let mut upload = bucket.put("file").unwrap();
    let mut content: Vec<u8> = Vec::new();
    for is_late in [false, true, false] {
        asked.lock().unwrap().is_late = is_late;
        upload.write(b"a line\n").unwrap();
        content.extend(b"a line\n");
        let version = upload.finish().unwrap();
        assert_eq!((version.size, version.etag), (content.len() as u64, store.etag("file")));
        assert!(store.content("file").unwrap() == content);
    }
}

#[test]
fn minio_1981_parts_are_copied_where_conditions_are_not_understood() {
    let (store, asked, bucket) = strict(Copies::WithoutConditions);
    let content = bytes(20 * MIB);
    let mut upload = bucket.put("file").unwrap();
    write(&mut *upload, &content);
    upload.finish().unwrap();
    upload.write(b"more").unwrap();
    upload.finish().unwrap();
    assert!(store.content("file").unwrap() == [&content, b"more".as_slice()].concat());
    assert_eq!(asked.lock().unwrap().copied, 2);
    // Then a HEAD request checks that the object is still the same.
    let theirs = vec![7; 20 * MIB];
    store.put("file", theirs.clone());
    let written = upload.write(b"more").and_then(|()| upload.finish().map(|_| ()));
    assert!(matches!(written, Err(StoreError::Stale)), "{written:?}");
    assert!(store.content("file").unwrap() == theirs);
}

#[test]
fn rclone_4070_the_time_of_change_is_kept() {
    let (store, _, bucket) = strict(Copies::Made);
    let time = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 250);
    for size in [0, 1000, 20 * MIB] {
        let content = bytes(size);
        let mut upload = bucket.put("file").unwrap();
        write(&mut *upload, &content);
        // Set before the upload is finished, and after.
        for seconds in [1_000_000_000, 1_100_000_000] {
            upload.set_time(time(seconds));
            upload.finish().unwrap();
            assert_eq!(bucket.head_with_time("file").unwrap().1, Some(time(seconds)), "{size}");
            assert_eq!(store.metadata("file", "mtime"), Some(format!("{seconds}.250000000")));
            assert!(store.content("file").unwrap() == content, "{size}");
        }
        upload.write(b"more").unwrap();
        upload.finish().unwrap();
        assert_eq!(bucket.head_with_time("file").unwrap().1, None);
    }
}
