//! Web servers: Python's own, which lists directories and sends only complete files, one with faults, and a manifest.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fluid_fuse::remote::{self, Bucket, BucketConfig, Item, Version};
use fluid_fuse::store::StoreError;
use tempfile::TempDir;

use super::faults::{Server, say};
use super::skip::skip;
use super::{WAYS, list, map, open, read};

struct Python(Child, String);

impl Python {
    fn start(root: &TempDir) -> Option<Self> {
        let mut command = Command::new("python3");
        command.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--protocol", "HTTP/1.1"]);
        let spawned = command.current_dir(root.path()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut child) = spawned else {
            skip("python3 cannot be run, so no index of a server was read");
            return None;
        };
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.split_once('(')?.1.split(')').next()?.trim_end_matches('/').to_string();
        Some(Self(child, url))
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_index() {
    let root = TempDir::new().unwrap();
    fs::create_dir_all(root.path().join("a b/deep")).unwrap();
    fs::write(root.path().join("a b/file & x.txt"), "content").unwrap();
    let Some(server) = Python::start(&root) else { return };
    for (way, path) in WAYS.iter().flat_map(|way| ["a%20b", "a b", "%61%20b/"].map(|path| (way, path))) {
        let bucket = open(&format!("{}/{path}", server.1), &[("http_client", way)]);
        let version = bucket.head("file & x.txt").unwrap();
        assert_eq!(
            list(&*bucket, "").unwrap(),
            [Item::Prefix("deep/".to_string()), Item::Object(version.clone())]
        );
        assert!(list(&*bucket, "deep/").unwrap().is_empty() && list(&*bucket, "none/").unwrap().is_empty());
        for (range, expected) in [(0..7, "content"), (0..3, "con"), (3..5, "te"), (2..7, "ntent")] {
            assert_eq!(read(&*bucket, &version, range).unwrap(), expected.as_bytes());
        }
    }
}

#[test]
fn a_manifest() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("x"), "content").unwrap();
    let manifest = root.path().join("manifest");
    fs::write(&manifest, "x\nsub/y\t12\te\n").unwrap();
    let Some(server) = Python::start(&root) else { return };
    for manifest in [manifest.to_str().unwrap(), &format!("{}/manifest", server.1)] {
        let bucket = open(&server.1, &[("manifest", manifest)]);
        let items = list(&*bucket, "").unwrap();
        assert!(
            matches!(&items[..], [Item::Prefix(sub), Item::Object(x)] if sub == "sub/" && x.size == 7),
            "{items:?}"
        );
        let items = list(&*bucket, "sub/").unwrap();
        assert!(
            matches!(&items[..], [Item::Object(y)] if y.size == 12 && y.etag.as_deref() == Some("\"e\""))
        );
    }
}

/// A page with these files, and the response for one of them.
fn directory(answer: impl Fn(&str, usize) -> Option<String> + Send + Sync + 'static) -> (Server, Asked) {
    let asked = Asked::default();
    let heard = asked.clone();
    let server = Server::start(move |_, head, socket| {
        let what = head.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let before = {
            let mut heard = heard.lock().unwrap();
            heard.push(what.clone());
            heard.iter().filter(|other| **other == what).count() - 1
        };
        let page = "<a href='a'>a</a><a href='b'>b</a><a href='c'>c</a><a href='d/'>d</a>";
        let known = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nETag: \"x\"\r\n\r\n";
        let body = if head.starts_with("HEAD ") { "" } else { "content" };
        let usual = match what.as_str() {
            "GET /data/" => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len()),
            _ => format!("{known}{body}"),
        };
        match answer(&what, before) {
            Some(answer) => say(socket, &answer) && !answer.contains("Connection: close"),
            None => say(socket, &usual),
        }
    });
    (server, asked)
}

type Asked = Arc<Mutex<Vec<String>>>;

const EMPTY: &str = "\r\nContent-Length: 0\r\n\r\n";

#[test]
fn only_the_failed_request_of_a_listing_is_repeated() {
    let (server, asked) = directory(|what, before| {
        (what == "HEAD /data/b" && before < 2).then(|| format!("HTTP/1.1 503 X{EMPTY}"))
    });
    let bucket = open(&format!("{}/data", server.endpoint), &[]);
    assert!(matches!(list(&*bucket, ""), Err(StoreError::Unavailable(_))));
    assert_eq!(insist(&*bucket), ["a", "b", "c", "d/"]);
    let once = ["GET /data/", "HEAD /data/a", "HEAD /data/b", "HEAD /data/c", "HEAD /data/b", "HEAD /data/b"];
    assert_eq!(*asked.lock().unwrap(), once);

    // A complete listing is not used again.
    asked.lock().unwrap().clear();
    assert!(list(&*bucket, "").is_err());
    assert_eq!(*asked.lock().unwrap(), once[..5]);
}

/// Lists as a mount does, which retries.
fn insist(bucket: &dyn Bucket) -> Vec<String> {
    let mut attempts = 0;
    let items = loop {
        attempts += 1;
        match list(bucket, "") {
            Err(StoreError::Unavailable(_)) if attempts < 10 => {}
            listed => break listed.unwrap(),
        }
    };
    let mut keys: Vec<_> = items.into_iter().map(key).collect();
    keys.sort();
    keys
}

#[test]
fn rclone_7988_one_bad_file_hides_no_other() {
    for (answer, is_shown) in [
        ("HTTP/1.1 400 X", false),
        ("HTTP/1.1 403 X", false),
        ("HTTP/1.1 404 X", false),
        ("HTTP/1.1 405 X", false),
        ("HTTP/1.1 500 X", false),
        ("HTTP/1.1 503 X", false),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", false),
        ("not HTTP\r\nConnection: close\r\n\r\n", false),
        // Only HEAD is refused.
        ("HEAD HTTP/1.1 400 X", true),
        ("HEAD HTTP/1.1 403 X", true),
        ("HEAD HTTP/1.1 405 X", true),
        ("HEAD HTTP/1.1 500 X", true),
        ("HEAD HTTP/1.1 501 X", true),
        ("HEAD HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", true),
    ] {
        let (of_head, status) = match answer.strip_prefix("HEAD ") {
            Some(status) => (true, status),
            None => (false, answer),
        };
        let status = status.to_string();
        let (server, _) = directory(move |what, _| {
            let is_bad = what.ends_with("/b") && (!of_head || what.starts_with("HEAD "));
            let end = if status.ends_with("\r\n") { "" } else { EMPTY };
            is_bad.then(|| format!("{status}{end}"))
        });
        let bucket = open(&format!("{}/data", server.endpoint), &[]);
        let expected: &[&str] = if is_shown { &["a", "b", "c", "d/"] } else { &["a", "c", "d/"] };
        assert_eq!(insist(&*bucket), expected, "{answer}");
    }
    // A server that does not respond has no bad files.
    let (server, _) = directory(|_, before| (before > 0).then(|| format!("HTTP/1.1 503 X{EMPTY}")));
    let bucket = open(&format!("{}/data", server.endpoint), &[]);
    insist(&*bucket);
    for _ in 0..10 {
        assert!(matches!(list(&*bucket, ""), Err(StoreError::Unavailable(_))));
    }
}

#[test]
fn a_server_that_sends_no_parts() {
    const SIZE: usize = 3_000_000;
    for total in [SIZE, 40 << 20] {
        let body = super::bytes(SIZE);
        let server = Server::start(move |_, head, socket| {
            let length = if head.starts_with("HEAD ") { total } else { total.min(SIZE) };
            let head_text = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nETag: \"x\"\r\n\r\n");
            say(socket, &head_text) && (head.starts_with("HEAD ") || socket.send(&body))
        });
        for way in WAYS {
            let bucket = open(&server.endpoint, &[("http_client", way)]);
            let version = bucket.head("file").unwrap();
            assert_eq!(version.size, total as u64);
            if total > SIZE {
                let refused = read(&*bucket, &version, 0..10);
                assert!(
                    matches!(&refused, Err(StoreError::Failed(text)) if text.contains("32 MiB")),
                    "{way} {refused:?}"
                );
                continue;
            }
            let requests = server.requests();
            for from in (0..SIZE).step_by(500_000) {
                let part = read(&*bucket, &version, from as u64..(from + 500_000) as u64).unwrap();
                assert!(part == super::bytes(SIZE)[from..from + 500_000], "{way} {from}");
            }
            assert_eq!(server.requests() - requests, 2, "{way}: it is fetched once");
            let other = Version { etag: Some("\"y\"".to_string()), ..version.clone() };
            assert!(matches!(read(&*bucket, &other, 0..10), Err(StoreError::Stale)), "{way}");
        }
    }
}

fn trusting(url: &str, manifest: &str, ttl: Duration) -> Arc<dyn Bucket> {
    let terms = BucketConfig { ttl, ..BucketConfig::default() };
    remote::open_with(url, &map(&[("manifest", manifest)]), &terms).unwrap()
}

fn key(item: Item) -> String {
    match item {
        Item::Object(version) => version.key,
        Item::Prefix(key) => key,
    }
}

fn keys(bucket: &dyn Bucket) -> Vec<String> {
    list(bucket, "").unwrap().into_iter().map(key).collect()
}

#[test]
fn a_manifest_is_read_again_and_kept_while_it_cannot_be() {
    let text = Arc::new(Mutex::new(Some("a\t1\n".to_string())));
    let told = text.clone();
    let server = Server::start(move |_, _, socket| match &*told.lock().unwrap() {
        Some(text) => {
            say(socket, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()))
        }
        None => say(socket, "HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"),
    });
    let root = TempDir::new().unwrap();
    let file = root.path().join("manifest");
    fs::write(&file, "a\t1\n").unwrap();
    let long = Duration::from_secs(3600);
    for manifest in [file.to_str().unwrap(), &format!("{}/manifest", server.endpoint)] {
        *text.lock().unwrap() = Some("a\t1\n".to_string());
        let bucket = trusting(&server.endpoint, manifest, Duration::ZERO);
        let trusting = trusting(&server.endpoint, manifest, long);
        assert_eq!((keys(&*bucket), keys(&*trusting)), (vec!["a".to_string()], vec!["a".to_string()]));
        fs::write(&file, "b\t1\nc\t1\n").unwrap();
        *text.lock().unwrap() = Some("b\t1\nc\t1\n".to_string());
        assert_eq!((keys(&*bucket), keys(&*trusting)), (vec!["b".into(), "c".into()], vec!["a".to_string()]));
        fs::remove_file(&file).unwrap();
        *text.lock().unwrap() = None;
        assert_eq!(keys(&*bucket), ["b", "c"]);
        fs::write(&file, "d\t1\n").unwrap();
        *text.lock().unwrap() = Some("d\t1\n".to_string());
        assert_eq!(keys(&*bucket), ["d"]);
        fs::write(&file, "a\t1\n").unwrap();
    }
    *text.lock().unwrap() = None;
    let url = format!("{}/manifest", server.endpoint);
    let bucket = trusting(&server.endpoint, &url, long);
    assert!(matches!(list(&*bucket, ""), Err(StoreError::Unavailable(_))));
}
