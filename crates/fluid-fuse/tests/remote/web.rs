//! Plain HTTP servers: Python's own, which lists directories but sends no parts, and a manifest.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use fluid_fuse::remote::Item;
use fluid_fuse::store::StoreError;
use tempfile::TempDir;

use super::skip::skip;
use super::{list, open, read};

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
    let bucket = open(&format!("{}/a b", server.1), &[]);
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
