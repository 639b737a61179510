//! The endpoint, by a client over TCP.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};
use std::{fs, thread};

use fuse_bench::direct::{self, Connection};
use fuse_bench::serve::{Endpoint, Server};
use tempfile::TempDir;

const NAME: &str = "sub dir/\u{e9} +%<1>.bin";
const PATH: &str = "/bucket/sub%20dir/%C3%A9%20+%25%3C1%3E.bin";

fn serve(first_byte: Duration, rate: Option<u64>) -> (TempDir, SocketAddr, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bucket").join(NAME);
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, &content).unwrap();
    let root = directory.path().to_owned();
    let listen = "127.0.0.1:0".parse().unwrap();
    let server = Server::bind(&Endpoint { root, listen, first_byte, rate }).unwrap();
    let address = server.address().unwrap();
    thread::spawn(|| server.run());
    (directory, address, content)
}

fn text(connection: &mut Connection, path: &str) -> String {
    let mut sink = vec![0; 64 << 10];
    let length = connection.get(path, None, &mut sink).unwrap();
    String::from_utf8(sink[..usize::try_from(length).unwrap()].to_vec()).unwrap()
}

#[test]
fn objects_and_their_parts() {
    let (_directory, address, content) = serve(Duration::ZERO, None);
    let mut connection = Connection::new(address).unwrap();
    let mut sink = vec![0; content.len()];
    for range in [0..1, 7..70_007, 1_199_999..1_200_000, 0..1_200_000] {
        let length = usize::try_from(connection.get(PATH, Some(range.clone()), &mut sink).unwrap()).unwrap();
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        assert_eq!(sink[..length], content[range]);
    }
    assert_eq!(connection.get(PATH, None, &mut sink).unwrap(), content.len() as u64);
    assert!(sink == content);
    direct::whole(address, PATH, content.len() as u64, 3).unwrap();
}

#[test]
fn what_is_not_there() {
    let (_directory, address, _) = serve(Duration::ZERO, None);
    for path in
        ["/bucket/none", "/none/x", "/bucket/sub%20dir", "/bucket/../bucket/x", "/bucket/sub%20dir//x"]
    {
        let error = Connection::new(address).unwrap().get(path, None, &mut [0]).unwrap_err();
        assert!(error.to_string().contains("404"), "{path}: {error}");
    }
}

#[test]
fn listings() {
    let (_directory, address, _) = serve(Duration::ZERO, None);
    let mut connection = Connection::new(address).unwrap();
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
    let (_directory, address, content) = serve(Duration::from_millis(15), Some(12_000_000));
    let mut connection = Connection::new(address).unwrap();
    let start = Instant::now();
    connection.get(PATH, None, &mut vec![0; content.len()]).unwrap();
    // 15 ms, and 1.2 MB at 12 MB/s.
    assert!(start.elapsed() >= Duration::from_millis(115), "{:?}", start.elapsed());
}
