//! The endpoint, by a client over TCP.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuse_bench::direct::{self, Connection};
use tempfile::TempDir;
use test_store::{Pace, S3, Store};

const NAME: &str = "sub dir/\u{e9} +%<1>.bin";
const PATH: &str = "/bucket/sub%20dir/%C3%A9%20+%25%3C1%3E.bin";

struct Served {
    address: SocketAddr,
    _s3: S3,
    _root: TempDir,
    content: Vec<u8>,
}

fn serve(first_byte: Duration, rate: Option<u64>) -> Served {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("bucket").join(NAME);
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, &content).unwrap();
    let store = Store::directories(root.path(), false).unwrap();
    let s3 = S3::bind("127.0.0.1:0".parse().unwrap(), Arc::new(store), Pace { first_byte, rate }).unwrap();
    Served { address: s3.address(), _s3: s3, _root: root, content }
}

fn text(connection: &mut Connection, path: &str) -> String {
    let mut sink = vec![0; 64 << 10];
    let length = connection.get(path, None, &mut sink).unwrap();
    String::from_utf8(sink[..usize::try_from(length).unwrap()].to_vec()).unwrap()
}

#[test]
fn objects_and_their_parts() {
    let served = serve(Duration::ZERO, None);
    let mut connection = Connection::new(served.address).unwrap();
    let mut sink = vec![0; served.content.len()];
    for range in [0..1, 7..70_007, 1_199_999..1_200_000, 0..1_200_000] {
        let length = usize::try_from(connection.get(PATH, Some(range.clone()), &mut sink).unwrap()).unwrap();
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        assert_eq!(sink[..length], served.content[range]);
    }
    assert_eq!(connection.get(PATH, None, &mut sink).unwrap(), served.content.len() as u64);
    assert!(sink == served.content);
    direct::whole(served.address, PATH, served.content.len() as u64, 3).unwrap();
}

#[test]
fn what_is_not_there() {
    let served = serve(Duration::ZERO, None);
    for path in
        ["/bucket/none", "/none/x", "/bucket/sub%20dir", "/bucket/../bucket/x", "/bucket/sub%20dir//x"]
    {
        let error = Connection::new(served.address).unwrap().get(path, None, &mut [0]).unwrap_err();
        assert!(error.to_string().contains("404"), "{path}: {error}");
    }
}

#[test]
fn listings() {
    let served = serve(Duration::ZERO, None);
    let mut connection = Connection::new(served.address).unwrap();
    assert!(text(&mut connection, "/").contains("<Name>bucket</Name>"));
    let root = text(&mut connection, "/bucket/?list-type=2&delimiter=%2F");
    assert!(root.contains("<CommonPrefixes><Prefix>sub dir/</Prefix></CommonPrefixes>"), "{root}");
    let all = text(&mut connection, "/bucket?prefix=sub+d");
    assert!(all.contains("<Key>sub dir/\u{e9} +%&lt;1&gt;.bin</Key>"), "{all}");
    assert!(all.contains("<Size>1200000</Size>"), "{all}");
    let encoded =
        text(&mut connection, "/bucket?list-type=2&encoding-type=url&prefix=sub%20dir/&delimiter=/");
    assert!(encoded.contains("<Key>sub%20dir/%C3%A9%20%2B%25%3C1%3E.bin</Key>"), "{encoded}");
    let none = text(&mut connection, "/bucket?list-type=2&max-keys=0");
    assert!(none.contains("<KeyCount>0</KeyCount><IsTruncated>false</IsTruncated>"), "{none}");
}

#[test]
fn it_is_as_slow_as_it_is_told() {
    let served = serve(Duration::from_millis(15), Some(12_000_000));
    let mut connection = Connection::new(served.address).unwrap();
    let start = Instant::now();
    connection.get(PATH, None, &mut vec![0; served.content.len()]).unwrap();
    // 15 ms, and 1.2 MB at 12 MB/s.
    assert!(start.elapsed() >= Duration::from_millis(115), "{:?}", start.elapsed());
}
