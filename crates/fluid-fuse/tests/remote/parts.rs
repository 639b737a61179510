//! Uploads in parts, and objects that go on, at a store that is as strict as R2: all parts but the last must be equal,
//! and the last no larger.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use fluid_fuse::remote::{Bucket, Upload};
use fluid_fuse::store::StoreError;

use super::head::read_head;
use super::{bytes, open};

const MIB: usize = 1 << 20;

/// A store with one object.
#[derive(Default)]
struct Strict {
    object: Vec<u8>,
    version: usize,
    time: Option<String>,
    parts: BTreeMap<usize, Vec<u8>>,
    /// Of the upload that is under way.
    upload_time: Option<String>,
    copies: bool,
    copied: usize,
    /// Whether a condition of a copy is never met.
    mistakes_conditions: bool,
    /// What it says of the object when it is asked is what it said before.
    is_late: bool,
    said: String,
    /// How the next completion fails.
    fails: Option<&'static str>,
}

impl Strict {
    fn etag(&self) -> String {
        format!("\"version-{}\"", self.version)
    }

    fn replace(&mut self, object: Vec<u8>, time: Option<String>) {
        (self.object, self.time) = (object, time);
        self.version += 1;
    }

    fn answer(&mut self, head: &str, body: Vec<u8>) -> (String, Vec<u8>) {
        let header = |name: &str| {
            let line =
                head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
            Some(line.split_once(':')?.1.trim().to_string())
        };
        let mut words = head.split_whitespace();
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let part = query.split('&').find_map(|pair| pair.strip_prefix("partNumber=")?.parse().ok());
        let fine = |text: &str| ("200 OK\r\n".to_string(), text.as_bytes().to_vec());
        let refused = |status: &str, code: &str| {
            (format!("{status}\r\n"), format!("<Error><Code>{code}</Code></Error>").into_bytes())
        };
        match (method, part) {
            ("POST", _) if query.starts_with("uploads") => {
                self.parts.clear();
                self.upload_time = header("x-amz-meta-mtime");
                fine(
                    "<InitiateMultipartUploadResult><UploadId>one</UploadId></InitiateMultipartUploadResult>",
                )
            }
            ("PUT", Some(part)) if head.to_ascii_lowercase().contains("\r\nx-amz-copy-source:") => {
                if !self.copies {
                    return refused("400 Bad Request", "NotImplemented");
                }
                let condition = header("x-amz-copy-source-if-match");
                if condition.is_some_and(|etag| self.mistakes_conditions || etag != self.etag()) {
                    return refused("412 Precondition Failed", "PreconditionFailed");
                }
                let range = header("x-amz-copy-source-range").unwrap();
                let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
                self.parts.insert(part, self.object[from..=to].to_vec());
                self.copied += 1;
                fine("<CopyPartResult><ETag>\"part\"</ETag></CopyPartResult>")
            }
            ("PUT", Some(part)) => {
                self.parts.insert(part, body);
                ("200 OK\r\nETag: \"part\"\r\n".to_string(), Vec::new())
            }
            ("POST", _) => {
                let lengths: Vec<usize> = self.parts.values().map(Vec::len).collect();
                let (last, others) = lengths.split_last().unwrap();
                let is_equal = others.iter().all(|length| *length == others[0] && last <= length);
                if let Some(status) = self.fails.take() {
                    return refused(status, "Refused");
                }
                if !is_equal {
                    return refused("400 Bad Request", "InvalidPart");
                }
                let object = self.parts.values().flatten().copied().collect();
                let time = self.upload_time.take();
                self.replace(object, time);
                let etag = self.etag();
                fine(&format!(
                    "<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>"
                ))
            }
            ("PUT", None) => {
                self.replace(body, header("x-amz-meta-mtime"));
                (format!("200 OK\r\nETag: {}\r\n", self.etag()), Vec::new())
            }
            ("DELETE", _) => ("204 No Content\r\n".to_string(), Vec::new()),
            ("GET", _) if query.starts_with("list-type") => refused("403 Forbidden", "AccessDenied"),
            ("GET", _) if header("if-match").is_some_and(|etag| etag != self.etag()) => {
                refused("412 Precondition Failed", "PreconditionFailed")
            }
            ("GET", _) => {
                let range = header("range").unwrap();
                let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
                let length = self.object.len();
                let head = format!("Content-Range: bytes {from}-{to}/{length}\r\nETag: {}\r\n", self.etag());
                (format!("206 Partial Content\r\n{head}"), self.object[from..=to].to_vec())
            }
            _ => {
                let time =
                    self.time.as_ref().map_or(String::new(), |time| format!("x-amz-meta-mtime: {time}\r\n"));
                let length = self.object.len();
                if !self.is_late {
                    self.said =
                        format!("200 OK\r\nETag: {}\r\nContent-Length: {length}\r\n{time}", self.etag());
                }
                (self.said.clone(), Vec::new())
            }
        }
    }
}

/// The store, and a bucket of it.
fn strict(copies: bool) -> (Arc<Mutex<Strict>>, Arc<dyn Bucket>) {
    let state = Arc::new(Mutex::new(Strict { copies, ..Strict::default() }));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let store = Arc::clone(&state);
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let store = Arc::clone(&store);
            thread::spawn(move || serve(socket, &store));
        }
    });
    let options = [
        ("endpoint", endpoint.as_str()),
        ("access_key_id", "key"),
        ("secret_access_key", "secret"),
        ("region", "us-east-1"),
    ];
    (state, open("s3://data", &options))
}

fn serve(mut socket: TcpStream, store: &Mutex<Strict>) {
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    while let Some(head) = read_head(&mut reader) {
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = Vec::new();
        reader.by_ref().take(length.unwrap_or(0)).read_to_end(&mut body).unwrap();
        let (head, body) = store.lock().unwrap().answer(&head, body);
        let length = match head.contains("Content-Length:") {
            true => String::new(),
            false => format!("Content-Length: {}\r\n", body.len()),
        };
        if socket.write_all(&[format!("HTTP/1.1 {head}{length}\r\n").as_bytes(), &body].concat()).is_err() {
            return;
        }
    }
}

fn write(upload: &mut dyn Upload, content: &[u8]) {
    for piece in content.chunks(MIB + 3) {
        upload.write(piece).unwrap();
    }
}

#[test]
fn opendal_6252_parts_are_equal_and_the_last_is_not_larger() {
    let (store, bucket) = strict(true);
    for size in [0, 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 12 * MIB, 16 * MIB, 18 * MIB, 28 * MIB + 5] {
        let content = bytes(size);
        let mut upload = bucket.put("file").unwrap();
        write(&mut *upload, &content);
        assert_eq!(upload.finish().unwrap().size, size as u64);
        assert!(store.lock().unwrap().object == content, "{size}");
    }
    // Where the size is known before, there are no more parts than a store takes.
    let mut upload = bucket.put("file").unwrap();
    upload.expect(100 << 30);
    write(&mut *upload, &bytes(30 * MIB));
    upload.finish().unwrap();
    assert_eq!(store.lock().unwrap().parts.values().map(Vec::len).collect::<Vec<_>>(), [24 * MIB, 6 * MIB]);
}

#[test]
fn an_object_goes_on_whether_parts_can_be_copied_or_not() {
    for copies in [true, false] {
        let (store, bucket) = strict(copies);
        let content = bytes(41 * MIB);
        let mut upload = bucket.put("file").unwrap();
        let mut end = 0;
        for more in [10, 1000, 7 * MIB, 9 * MIB, 1, 8 * MIB, 16 * MIB, 0] {
            write(&mut *upload, &content[end..end + more]);
            end += more;
            assert_eq!(upload.finish().unwrap().size, end as u64);
            assert!(store.lock().unwrap().object == content[..end], "{copies} {end}");
        }
        drop(upload);
        let version = bucket.head("file").unwrap();
        let mut upload = bucket.resume(&version).unwrap();
        write(&mut *upload, &content[end..]);
        assert_eq!(upload.finish().unwrap().size, content.len() as u64);
        assert!(store.lock().unwrap().object == content);
        assert_eq!(store.lock().unwrap().copied > 0, copies);
        // What fails leaves what was there, and can be tried again.
        store.lock().unwrap().fails = Some("503 Slow Down");
        upload.write(b"more").unwrap();
        assert!(matches!(upload.finish(), Err(StoreError::Unavailable(_))));
        assert!(store.lock().unwrap().object == content);
        upload.finish().unwrap();
        assert!(store.lock().unwrap().object == [&content, b"more".as_slice()].concat());
    }
}

#[test]
fn an_object_that_others_have_replaced_does_not_go_on() {
    for (copies, size) in [(true, 20 * MIB), (false, 20 * MIB), (true, 1000), (true, 2 * MIB)] {
        let (store, bucket) = strict(copies);
        let mut upload = bucket.put("file").unwrap();
        write(&mut *upload, &bytes(size));
        upload.finish().unwrap();
        let theirs = vec![7; size];
        store.lock().unwrap().replace(theirs.clone(), None);
        let written = upload.write(b"more").and_then(|()| upload.finish().map(|_| ()));
        assert!(matches!(written, Err(StoreError::Stale)), "{copies} {size} {written:?}");
        assert!(store.lock().unwrap().object == theirs);
    }
}

#[test]
fn an_object_goes_on_although_what_is_said_of_it_is_late() {
    let (store, bucket) = strict(true);
    let mut upload = bucket.put("file").unwrap();
    let mut content: Vec<u8> = Vec::new();
    for is_late in [false, true, false] {
        store.lock().unwrap().is_late = is_late;
        upload.write(b"a line\n").unwrap();
        content.extend(b"a line\n");
        let version = upload.finish().unwrap();
        assert_eq!((version.size, version.etag), (content.len() as u64, Some(store.lock().unwrap().etag())));
        assert!(store.lock().unwrap().object == content);
    }
}

#[test]
fn minio_1981_parts_are_copied_where_conditions_are_not_understood() {
    let (store, bucket) = strict(true);
    store.lock().unwrap().mistakes_conditions = true;
    let content = bytes(20 * MIB);
    let mut upload = bucket.put("file").unwrap();
    write(&mut *upload, &content);
    upload.finish().unwrap();
    upload.write(b"more").unwrap();
    upload.finish().unwrap();
    assert!(store.lock().unwrap().object == [&content, b"more".as_slice()].concat());
    assert_eq!(store.lock().unwrap().copied, 2);
    // Then it is asked whether it is still the same.
    let theirs = vec![7; 20 * MIB];
    store.lock().unwrap().replace(theirs.clone(), None);
    let written = upload.write(b"more").and_then(|()| upload.finish().map(|_| ()));
    assert!(matches!(written, Err(StoreError::Stale)), "{written:?}");
    assert!(store.lock().unwrap().object == theirs);
}

#[test]
fn rclone_4070_the_time_of_change_is_kept() {
    let (store, bucket) = strict(true);
    let time = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 250);
    for size in [0, 1000, 20 * MIB] {
        let content = bytes(size);
        let mut upload = bucket.put("file").unwrap();
        write(&mut *upload, &content);
        // Before its end, and when it has ended.
        for seconds in [1_000_000_000, 1_100_000_000] {
            upload.set_time(time(seconds));
            upload.finish().unwrap();
            assert_eq!(bucket.head_with_time("file").unwrap().1, Some(time(seconds)), "{size}");
            assert_eq!(store.lock().unwrap().time, Some(format!("{seconds}.250000000")));
            assert!(store.lock().unwrap().object == content, "{size}");
        }
        upload.write(b"more").unwrap();
        upload.finish().unwrap();
        assert_eq!(bucket.head_with_time("file").unwrap().1, None);
    }
}
