//! Plain HTTP servers: Python's own, which lists directories but sends no parts, our own with faults, and a manifest.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fluid_fuse::remote::{self, Bucket, Item, Terms};
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
        assert!(
            matches!(read(&*bucket, &version, 0..3), Err(StoreError::Failed(text)) if text.contains("parts"))
        );
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

#[test]
fn of_a_listing_the_question_that_failed_alone_is_asked_again() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = asked.clone();
    let server = Server::start(move |_, head, socket| {
        let what = head.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let mut heard = heard.lock().unwrap();
        let first = !heard.contains(&what);
        heard.push(what.clone());
        match what.as_str() {
            "GET /data/" => {
                let page = "<a href='a'>a</a><a href='b'>b</a><a href='c'>c</a><a href='d/'>d</a>";
                say(socket, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len()))
            }
            "HEAD /data/b" if first => say(socket, "HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"),
            _ => say(socket, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nETag: \"x\"\r\n\r\n"),
        }
    });
    let bucket = open(&format!("{}/data", server.endpoint), &[]);
    assert!(matches!(list(&*bucket, ""), Err(StoreError::Unavailable(_))));
    let items = list(&*bucket, "").unwrap();
    let names: Vec<_> = items
        .iter()
        .map(|item| match item {
            Item::Object(version) if version.size == 7 => version.key.as_str(),
            Item::Prefix(key) => key,
            item => panic!("{item:?}"),
        })
        .collect();
    assert_eq!(names, ["a", "b", "c", "d/"]);
    let once = ["GET /data/", "HEAD /data/a", "HEAD /data/b", "HEAD /data/b", "HEAD /data/c"];
    assert_eq!(*asked.lock().unwrap(), once);

    // What was listed to its end is listed anew.
    asked.lock().unwrap().clear();
    assert!(list(&*bucket, "").is_err());
    assert_eq!(*asked.lock().unwrap(), once[..3]);
}

fn trusting(url: &str, manifest: &str, ttl: Duration) -> Arc<dyn Bucket> {
    let terms = Terms { ttl, ..Terms::default() };
    remote::open_with(url, &map(&[("manifest", manifest)]), &terms).unwrap()
}

fn keys(bucket: &dyn Bucket) -> Vec<String> {
    let key = |item| match item {
        Item::Object(version) => version.key,
        Item::Prefix(key) => key,
    };
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
