//! Reads from servers with faults.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use fluid_fuse::remote::{Bucket, Version};
use fluid_fuse::store::StoreError;
use test_store::Connection;

use super::{WAYS, open, read};

/// A server whose responses a test chooses.
pub(crate) struct Server {
    pub(crate) endpoint: String,
    server: test_store::Server,
}

impl Server {
    /// Makes a response from the number of the request and its head.
    pub(crate) fn start(answer: impl Fn(usize, &str, &Connection) -> bool + Send + Sync + 'static) -> Self {
        let server = test_store::Server::start(move |request, connection| {
            answer(request.number, &request.head, connection)
        });
        Self { endpoint: server.endpoint(), server }
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.server.requests()
    }

    fn bucket(&self, way: &str) -> Arc<dyn Bucket> {
        open(
            &format!("{}/data", self.endpoint),
            &[("http_client", way), ("first_byte_timeout", "300ms"), ("stall_timeout", "300ms")],
        )
    }
}

pub(crate) fn say(connection: &Connection, text: &str) -> bool {
    connection.send(text)
}

const OK: &str = "HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\nContent-Range: bytes 0-9/20\r\nETag: \"a\"\r\n\r\n0123456789";

fn version() -> Version {
    Version { key: "file".to_string(), size: 20, etag: Some("\"a\"".to_string()), modified: UNIX_EPOCH }
}

fn get(bucket: &dyn Bucket) -> Result<Vec<u8>, StoreError> {
    read(bucket, &version(), 0..10)
}

#[test]
fn connections_are_kept() {
    let server = Server::start(|_, head, socket| {
        assert!(head.starts_with("GET /data/file HTTP/1.1\r\n"), "{head}");
        assert!(
            head.contains("\r\nrange: bytes=0-9\r\n") && head.contains("\r\nif-match: \"a\"\r\n"),
            "{head}"
        );
        say(socket, OK)
    });
    for way in WAYS {
        let bucket = server.bucket(way);
        for _ in 0..5 {
            assert_eq!(get(&*bucket).unwrap(), b"0123456789");
        }
    }
    let (connections, requests) = (server.server.connections(), server.requests());
    assert_eq!((connections, requests), (2, 10));
}

#[test]
fn a_kept_connection_that_died_is_replaced() {
    let server = Server::start(|_, _, socket| {
        say(socket, OK);
        false
    });
    let bucket = server.bucket("http1");
    for _ in 0..3 {
        assert_eq!(get(&*bucket).unwrap(), b"0123456789");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_body_that_is_left_closes_its_connection() {
    // More bytes than arrive with a head, or are read to keep a connection.
    const SIZE: usize = 4 * 1024 * 1024;
    for way in WAYS {
        let strays = Arc::new(AtomicUsize::new(0));
        let stray = strays.clone();
        let server = Server::start(move |_, head, socket| {
            // opendal repeats a request that the fast path does not understand. It names itself.
            if head.contains("\r\nuser-agent: ") != (way == "library") {
                stray.fetch_add(1, Ordering::SeqCst);
            }
            if head.contains("bytes=0-9\r\n") {
                say(socket, OK)
            } else {
                let head = format!(
                    "HTTP/1.1 206 X\r\nContent-Length: {SIZE}\r\nContent-Range: bytes 0-{}/{SIZE}\r\nETag: \"a\"\r\n\r\n",
                    SIZE - 1
                );
                say(socket, &head) && socket.send(vec![b'x'; SIZE])
            }
        });
        let bucket = server.bucket(way);
        let large = Version { size: SIZE as u64, ..version() };
        let mut some = [0; 3];
        let mut body = bucket.get(&large, 0..large.size).unwrap();
        body.read_exact(&mut some).unwrap();
        drop(body);
        for _ in 0..2 {
            assert_eq!(get(&*bucket).unwrap(), b"0123456789", "{way}");
        }
        let counted = (server.server.connections(), server.requests());
        assert_eq!((counted, strays.load(Ordering::SeqCst)), ((2, 3), 0), "{way}");
    }
}

/// A response with bytes of a file of that size.
fn part(total: &str, more: &str) -> String {
    format!(
        "HTTP/1.1 206 X\r\nContent-Length: 10\r\nContent-Range: bytes 0-9/{total}\r\n{more}\r\n0123456789"
    )
}

/// The store has another version after the first request for the present one, and knows no conditions.
#[test]
fn an_answer_of_another_version_is_not_read() {
    let since = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let dated = "Last-Modified: Sun, 09 Sep 2001 01:46:40 GMT\r\n";
    let later = "Last-Modified: Sun, 09 Sep 2001 01:46:41 GMT\r\n";
    let weak = "ETag: W/\"a\"\r\n";
    let weakly = Version { etag: Some("W/\"a\"".to_string()), ..version() };
    let timely = Version { etag: None, modified: since, ..version() };
    let barely = Version { etag: None, ..version() };
    let ok = None;
    let stale = Some(StoreError::Stale);
    for (known, total, more, expected) in [
        (&weakly, "20", weak, &ok),
        (&weakly, "*", weak, &ok),
        (&weakly, "20", "ETag: W/\"b\"\r\n", &stale),
        (&weakly, "21", weak, &stale),
        (&timely, "20", dated, &ok),
        (&timely, "20", later, &stale),
        (&timely, "10", dated, &stale),
        (&barely, "20", later, &ok),
        (&barely, "21", "", &stale),
    ] {
        for way in WAYS {
            let answer = part(total, more);
            let present = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{}\r\n",
                if total == "10" { 10 } else { 20 },
                if known == &weakly { weak } else { dated }
            );
            let server = Server::start(move |_, head, socket| {
                say(socket, if head.starts_with("HEAD") { &present } else { &answer })
            });
            let what = format!("{way}: {known:?}: {total} {more:?}");
            match (read(&*server.bucket(way), known, 0..10), expected) {
                (Ok(bytes), None) => assert_eq!(bytes, b"0123456789", "{what}"),
                (Err(StoreError::Stale), Some(_)) => {}
                (other, _) => panic!("{what}: {other:?}"),
            }
        }
    }
}

/// A name node of HDFS that redirects to itself for bytes. The file changes after the redirect and before the
/// response.
fn hdfs(bytes: &'static str, time: i64) -> (Server, Arc<dyn Bucket>) {
    let changed = AtomicI64::new(1_000_000_000_000);
    let server = Server::start(move |_, head, socket| {
        let answer = |status: &str, more: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len())
        };
        let file = |kind: &str, size: u32| {
            let changed = changed.load(Ordering::SeqCst);
            let status = format!(
                r#"{{"length":{size},"modificationTime":{changed},"pathSuffix":"","type":"{kind}"}}"#
            );
            answer("200 OK", "", &format!(r#"{{"FileStatus":{status}}}"#))
        };
        if head.contains("op=GETFILESTATUS") {
            let text = if head.contains("/file?") { file("FILE", 20) } else { file("DIRECTORY", 0) };
            return say(socket, &text);
        }
        if head.contains("op=OPEN") {
            assert!(head.contains("offset=0&length=10"), "{head}");
            return say(socket, &answer("307 X", "Location: /bytes\r\n", ""));
        }
        assert!(head.starts_with("GET /bytes "), "{head}");
        changed.store(time, Ordering::SeqCst);
        say(socket, bytes)
    });
    let bucket = super::open(&server.endpoint.replace("http:", "webhdfs:"), &[]);
    (server, bucket)
}

#[test]
fn the_version_of_hdfs_is_checked_when_the_read_is_open() {
    const BYTES: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789";
    let (_server, bucket) = hdfs(BYTES, 1_000_000_000_000);
    let version = bucket.head("file").unwrap();
    assert_eq!(read(&*bucket, &version, 0..10).unwrap(), b"0123456789");

    let refused = "HTTP/1.1 403 Forbidden\r\nContent-Length: 44\r\n\r\n{\"RemoteException\":{\"exception\":\"IOExceptio\"";
    for answer in [BYTES, refused] {
        let (_server, bucket) = hdfs(answer, 1_000_000_001_000);
        let version = bucket.head("file").unwrap();
        assert!(matches!(read(&*bucket, &version, 0..10), Err(StoreError::Stale)), "{answer}");
    }
    let (_server, bucket) = hdfs(refused, 1_000_000_000_000);
    let version = bucket.head("file").unwrap();
    assert!(matches!(read(&*bucket, &version, 0..10), Err(StoreError::Denied(_))));
}

/// Each response, and whether the error is the right one.
#[test]
fn responses_and_errors() {
    type Right = fn(&StoreError) -> bool;
    let stale: Right = |error| matches!(error, StoreError::Stale);
    let failed: Right = |error| matches!(error, StoreError::Failed(_));
    let unavailable: Right = |error| matches!(error, StoreError::Unavailable(_));
    let cases: &[(&str, Right)] = &[
        (
            "HTTP/1.1 206 X\r\nContent-Length: 10\r\nContent-Range: bytes 0-9/20\r\nETag: \"b\"\r\n\r\n0123456789",
            stale,
        ),
        (
            "HTTP/1.1 206 X\r\nContent-Length: 10\r\nContent-Range: bytes 1-10/20\r\nETag: \"a\"\r\n\r\n0123456789",
            unavailable,
        ),
        (
            "HTTP/1.1 206 X\r\nContent-Length: 9\r\nContent-Range: bytes 0-9/20\r\nETag: \"a\"\r\n\r\n012345678",
            unavailable,
        ),
        (
            "HTTP/1.1 206 X\r\nContent-Length: 10\r\nContent-Range: bytes 0-9/20\r\nETag: \"a\"\r\n\r\n01234",
            unavailable,
        ),
        ("HTTP/1.1 206 X\r\nContent-Length: 10\r\nETag: \"a\"\r\n\r\n0123456789", failed),
        ("HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n", |error| matches!(error, StoreError::NotFound)),
        ("HTTP/1.1 403 X\r\nContent-Length: 0\r\n\r\n", |error| matches!(error, StoreError::Denied(_))),
        ("HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n", |error| matches!(error, StoreError::Denied(_))),
        ("HTTP/1.1 412 X\r\nContent-Length: 0\r\n\r\n", stale),
        ("HTTP/1.1 416 X\r\nContent-Length: 0\r\n\r\n", stale),
        ("HTTP/1.1 400 X\r\nContent-Length: 38\r\n\r\n<Error><Code>InvalidRange</Code></Error", |error| {
            error.to_string().ends_with(": 400 InvalidRange")
        }),
        (
            "HTTP/1.1 503 X\r\nRetry-After: 7\r\nContent-Length: 34\r\n\r\n<Error><Code>SlowDown</Code></Error",
            |error| matches!(error, StoreError::Unavailable(text) if text.ends_with("/data/file: 503 SlowDown, retry after 7 s")),
        ),
        ("HTTP/1.1 429 X\r\nContent-Length: 0\r\n\r\n", unavailable),
        ("not HTTP\r\n\r\n", unavailable),
        ("", unavailable),
    ];
    for way in WAYS {
        for (answer, right) in cases {
            let server = Server::start(|_, _, socket| {
                say(socket, answer);
                false
            });
            let bucket = server.bucket(way);
            // The connection may be closed after an error. The next request is then sent again.
            let errors: Vec<_> = (0..3).map(|_| get(&*bucket).unwrap_err()).collect();
            assert!(errors.iter().any(right), "{way}: {answer:?}: {errors:?}");
        }
    }
}

#[test]
fn waiting_ends() {
    for way in WAYS {
        for (before, then) in [("", "GET"), (&OK[..40], ""), (&OK[..OK.len() - 5], "")] {
            let server = Server::start(move |_, _, socket| {
                say(socket, before);
                thread::sleep(Duration::from_secs(3));
                false
            });
            let start = Instant::now();
            let error = get(&*server.bucket(way)).unwrap_err();
            assert!(
                matches!(&error, StoreError::Unavailable(text) if text.contains(then)),
                "{way}: {error:?}"
            );
            assert!(start.elapsed() < Duration::from_millis(2500), "{way}: {before:?}");
        }
    }
}

#[test]
fn the_wait_for_the_reason_of_an_error_ends() {
    for way in WAYS {
        let server = Server::start(move |_, _, socket| {
            let head = "HTTP/1.1 503 X\r\nContent-Length: 10000\r\n\r\n<Error><Code>SlowDown</Code>";
            if !say(socket, head) {
                return false;
            }
            // A byte arrives before each read reaches its timeout.
            (0..300).all(|_| {
                thread::sleep(Duration::from_millis(100));
                say(socket, " ")
            })
        });
        let start = Instant::now();
        let error = get(&*server.bucket(way)).unwrap_err();
        assert!(
            matches!(&error, StoreError::Unavailable(text) if text.contains("503 SlowDown")),
            "{error:?}"
        );
        assert!(start.elapsed() < Duration::from_secs(10), "{way}: {:?}", start.elapsed());
    }
}

#[test]
fn opendal_reads_where_the_fast_path_cannot() {
    let chunked = "HTTP/1.1 206 X\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 0-9/20\r\nETag: \"a\"\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n";
    let server = Server::start(move |_, _, socket| say(socket, chunked));
    let bucket = server.bucket("http1");
    for _ in 0..3 {
        assert_eq!(get(&*bucket).unwrap(), b"0123456789");
    }
    assert_eq!(server.requests(), 4);

    let server = Server::start(|_, head, socket| match head.contains("/data/") {
        true => say(socket, "HTTP/1.1 302 Found\r\nLocation: /other/file\r\nContent-Length: 0\r\n\r\n"),
        false => say(socket, OK),
    });
    assert_eq!(get(&*server.bucket("http1")).unwrap(), b"0123456789");
}

/// A server some of whose objects have an encoding, which the fast path does not read.
#[test]
fn goofys_147_one_odd_object_slows_no_other() {
    let slow = Arc::new(AtomicUsize::new(0));
    let count = slow.clone();
    let server = Server::start(move |_, head, socket| {
        // opendal names itself.
        count.fetch_add(usize::from(head.contains("\r\nuser-agent: ")), Ordering::SeqCst);
        match head.contains("/odd") {
            true => say(socket, &OK.replace("ETag", "Content-Encoding: gzip\r\nETag")),
            false => say(socket, OK),
        }
    });
    let bucket = server.bucket("http1");
    let read_key = |key: &str| {
        let version = Version { key: key.to_string(), ..version() };
        assert_eq!(read(&*bucket, &version, 0..10).unwrap(), b"0123456789");
    };
    for _ in 0..5 {
        read_key("odd");
        read_key("even");
    }
    assert_eq!((server.requests(), slow.load(Ordering::SeqCst)), (11, 5));
    // If no object can be read by the fast path, it is not tried.
    for number in 0..20 {
        read_key(&format!("odd{number}"));
    }
    assert_eq!(server.requests(), 11 + 20 + 4);
}

#[test]
fn a_server_without_kept_connections_is_read_by_the_fast_path() {
    for (version, header, is_closed) in [
        ("HTTP/1.0", "", true),
        ("HTTP/1.0", "Connection: close\r\n", true),
        ("HTTP/1.1", "Connection: close\r\n", true),
        ("HTTP/1.1", "", true),
        ("HTTP/1.1", "Connection: close\r\n", false),
    ] {
        let slow = Arc::new(AtomicUsize::new(0));
        let count = slow.clone();
        let server = Server::start(move |_, head, socket| {
            count.fetch_add(usize::from(head.contains("\r\nuser-agent: ")), Ordering::SeqCst);
            let answer = OK.replace("HTTP/1.1", version).replace("ETag", &format!("{header}ETag"));
            say(socket, &answer) && !is_closed
        });
        let bucket = server.bucket("http1");
        for _ in 0..8 {
            assert_eq!(get(&*bucket).unwrap(), b"0123456789");
        }
        let what = format!("{version} {header:?}");
        assert_eq!((server.requests(), slow.load(Ordering::SeqCst)), (8, 0), "{what}");
    }
}

#[test]
fn an_error_names_no_secret() {
    let server = Server::start(|_, _, socket| say(socket, "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n"));
    for way in WAYS {
        let options = [
            ("endpoint", &*server.endpoint),
            ("access_key_id", "AKEY"),
            ("secret_access_key", "SKEY"),
            ("http_client", way),
        ];
        let bucket = open("s3://data", &options);
        for error in [get(&*bucket).unwrap_err(), bucket.head("file").unwrap_err()] {
            let text = format!("{error} {error:?}");
            assert!(!text.contains("KEY") && !text.contains('?') && !text.contains("ignature"), "{text}");
            assert!(text.contains("/data/file: 500"), "{text}");
        }
    }
}

#[test]
fn nobody_there() {
    for way in WAYS {
        let bucket = open("http://127.0.0.1:9/data", &[("http_client", way)]);
        assert!(matches!(get(&*bucket), Err(StoreError::Unavailable(_))), "{way}");
    }
}
