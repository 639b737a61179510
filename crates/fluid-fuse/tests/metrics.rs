//! `warm` fills the disk cache of a mount; a later mount serves the files without the object store, and its metrics say so.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[allow(dead_code, reason = "what other tests need")]
#[path = "mount/place.rs"]
mod place;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use fluid_sidecar_layout::contract::env;
use test_store::{KEY, S3, SECRET, Store};

use place::{Place, bytes, eventually, place, words};
use rustix::process::Signal;

fn metrics(socket: &Path) -> String {
    metrics_of(UnixStream::connect(socket).unwrap())
}

fn metrics_of(mut stream: impl Read + Write) -> String {
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn value(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &words(output)
}

/// Whether the kernel can pass reads through to files of the directory: it has `FUSE_PASSTHROUGH`, and the directory's
/// file system is not stacked upon another already.
fn has_passthrough(directory: &Path) -> bool {
    const OVERLAYFS: i64 = 0x794c_7630;
    let stacked = rustix::fs::statfs(directory).unwrap().f_type == OVERLAYFS;
    !stacked && fs::read_to_string("/proc/kallsyms").is_ok_and(|names| names.contains("fuse_backing_open"))
}

#[test]
fn files_that_were_warmed_are_read_without_their_store() {
    let Some(mut place) = place() else { return };
    let files = [("a/large", (9 << 20) + 17), ("a/small", 1000), ("b/other", 300_000), ("empty", 0)];
    let data = place.source().join("data");
    for directory in ["a", "b"] {
        fs::create_dir_all(data.join(directory)).unwrap();
    }
    for (name, size) in files.iter().chain(&[("late", 2 << 20)]) {
        fs::write(data.join(name), bytes(*size)).unwrap();
    }
    let store = Store::directories(&place.source(), false).unwrap().for_key(Some(KEY.to_string()));
    let mut server = S3::over(Arc::new(store));
    let endpoint = server.endpoint();
    let root = place.root.path().to_path_buf();
    let (cache, socket, log) = (root.join("cache"), root.join("metrics"), root.join("log"));
    let options = format!("endpoint={endpoint} access_key_id={KEY} secret_access_key={SECRET}");
    let program = |place: &Place, command: &str| {
        let mut program = place.program(command);
        program.env(env::SOURCE, "s3://data").env(env::OPTION, &options);
        program.env_remove(env::LOG).stdin(Stdio::null());
        program
    };
    let mount = |place: &mut Place| {
        let mut mount = program(place, "mount");
        mount.arg("--cache-dir").arg(&cache).args(["--io-timeout", "1s", "--slow-read", "100ms"]);
        mount.arg("--metrics").arg(format!("unix:{}", socket.display()));
        place.spawn(mount.stderr(File::create(&log).unwrap()));
    };
    // The command needs nothing but the mount point, here from the variable that Fluid sets.
    let warm = |place: &Place, arguments: &[&str]| {
        let mut warm = Command::new(env!("CARGO_BIN_EXE_fluid-fuse"));
        warm.arg("warm").args(arguments).stdin(Stdio::null());
        warm.env_remove(env::MOUNTPOINT).env(env::MOUNT_POINT, place.mountpoint()).output().unwrap()
    };

    let refused = warm(&place, &[]);
    assert!(
        refused.status.code() == Some(1) && words(&refused).contains("is not a mount of fluid-fuse"),
        "{}",
        words(&refused)
    );

    mount(&mut place);
    let some = warm(&place, &["--workers", "4", "a", "empty"]);
    assert!(
        some.status.success() && said(&some).starts_with("2 files, 9438201 bytes, 0 failed"),
        "{}",
        said(&some)
    );
    let list = root.join("list");
    fs::write(&list, "/b/other\na/large\nnone\n").unwrap();
    let listed = warm(&place, &["--files", list.to_str().unwrap()]);
    assert_eq!(listed.status.code(), Some(1));
    assert!(said(&listed).starts_with("2 files, 9737201 bytes, 1 failed"), "{}", said(&listed));
    assert!(words(&listed).contains("none: No such file or directory"), "{}", words(&listed));
    let measured = program(&place, "bench").output().unwrap();
    assert!(measured.status.success() && said(&measured).contains("random 128 KiB"), "{}", said(&measured));
    let first = fs::read_to_string(&log).unwrap();
    assert!(first.contains("mounted source=\"s3://data\" mountpoint=") && !first.contains(SECRET), "{first}");
    place.signal(Signal::TERM);
    assert!(place.ended().success());

    // Of the next mount the kernel has no pages.
    mount(&mut place);
    let requests = value(&metrics(&socket), "fluid_fuse_requests_total");
    assert_eq!(requests, Some(0.0));
    for (name, _) in files.iter().chain(&[("late", 0)]) {
        place.mountpoint().join(name).metadata().unwrap();
    }
    server.stop();
    for (name, size) in files {
        assert!(fs::read(place.mountpoint().join(name)).unwrap() == bytes(size), "{name}");
    }
    let before = metrics(&socket);
    assert_eq!(value(&before, "fluid_fuse_requests_total"), requests);
    assert!(value(&before, "fluid_fuse_opens_total").unwrap() >= 4.0, "{before}");
    assert!(value(&before, "fluid_fuse_disk_bytes").unwrap() > 9e6, "{before}");
    assert!(before.contains("source=\"s3://data\"") && !before.contains(SECRET), "{before}");
    assert_eq!(value(&before, "fluid_fuse_read_errors_total{errno=\"EIO\"}"), None);
    if has_passthrough(&cache) {
        assert_eq!(value(&before, "fluid_fuse_reads_total"), Some(0.0), "{before}");
    }

    let again = warm(&place, &["a"]);
    assert!(again.status.success() && said(&again).starts_with("2 files"), "{}", said(&again));
    let failed = warm(&place, &["late"]);
    assert!(failed.status.code() == Some(1) && words(&failed).contains("late: "), "{}", words(&failed));
    let after = metrics(&socket);
    assert!(value(&after, "fluid_fuse_read_errors_total{errno=\"EIO\"}") >= Some(1.0), "{after}");
    assert!(value(&after, "fluid_fuse_failures_total") >= Some(1.0), "{after}");
    let log = fs::read_to_string(&log).unwrap();
    assert!(!log.contains(SECRET), "{log}");
    assert!(log.contains("slow read path=\"late\" offset=0 length="), "{log}");
}

#[test]
fn the_second_sidecar_of_a_pod_mounts_although_the_first_has_the_port() {
    let Some(mut place) = place() else { return };
    fs::write(place.source().join("file"), "content").unwrap();
    let first = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = first.local_addr().unwrap();
    let log = place.root.path().join("log");
    let mut mount = place.program("mount");
    mount.env(env::SOURCE, place.url()).args(["--metrics", &address.to_string()]).env_remove(env::LOG);
    place.spawn(mount.stderr(File::create(&log).unwrap()));
    assert_eq!(fs::read(place.mountpoint().join("file")).unwrap(), b"content");
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains(&format!("--metrics {address}: another process listens there")), "{said}");
    drop(first);
    let stream = eventually(|| TcpStream::connect(address).ok());
    assert_eq!(value(&metrics_of(stream), "fluid_fuse_opens_total"), Some(1.0));
}
