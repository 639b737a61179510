//! Each fault with a mount and a store of its own, all at once: most of the time is waiting.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use crate::support::content::Content;
use crate::support::place::place;
use crate::support::s3::{Fault, KEY, Request, S3};
use crate::support::{Mounted, check, start};

/// Large enough for several requests, in pieces that are no multiple of anything.
const OLD: Content = Content { seed: 1, size: 9 * 1024 * 1024 + 4321 };
const NEW: Content = Content { seed: 2, ..OLD };

const DEADLINE: &str = "2s";

/// A row of the table.
struct Row {
    /// What is asked for that fails.
    what: &'static str,
    fault: &'static str,
    result: String,
}

/// What becomes of reading all of the file by a descriptor that is open.
fn outcome(read: io::Result<Vec<u8>>, contents: &[(&str, Content)]) -> String {
    match read {
        Ok(bytes) => {
            let fits = |content: &Content| {
                bytes.len() as u64 == content.size && content.difference(0, &bytes).is_none()
            };
            match contents.iter().find(|(_, content)| fits(content)) {
                Some((name, _)) => name.to_string(),
                None => "**wrong bytes**".to_string(),
            }
        }
        Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::IO) => "EIO".to_string(),
            Some(Errno::ACCESS) => "EACCES".to_string(),
            Some(Errno::STALE) => "ESTALE".to_string(),
            Some(Errno::NOENT) => "ENOENT".to_string(),
            Some(Errno::NXIO) => "ENXIO".to_string(),
            _ => error.to_string(),
        },
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    let mut bytes = vec![0; file.metadata()?.len() as usize];
    file.read_exact_at(&mut bytes, 0).map(|()| bytes)
}

/// A file is opened in good times; then its requests for bytes go wrong.
fn read_row(fault: &'static str, manners: impl Fn(&Request) -> Fault + Send + Sync + 'static) -> Row {
    let s3 = S3::start();
    s3.put("file", OLD);
    let mounted = Mounted::with(s3, &["--io-timeout", DEADLINE]).unwrap();
    mounted.path("file").metadata().unwrap();
    mounted.s3.behave(move |request| if request.is_read() { manners(request) } else { Fault::Fine });
    let result = outcome(read(&mounted.path("file")), &[("the bytes", OLD)]);
    assert!(mounted.s3.requests() > 0, "{fault}: nothing was asked");
    heals(&mounted, fault);
    Row { what: "bytes", fault, result }
}

/// A name that was never asked for; all but bytes goes wrong.
fn name_row(fault: &'static str, manners: impl Fn(&Request) -> Fault + Send + Sync + 'static) -> Row {
    let s3 = S3::start();
    s3.put("directory/file", OLD);
    let mounted = Mounted::with(s3, &["--io-timeout", DEADLINE]).unwrap();
    mounted.s3.behave(move |request| if request.is_read() { Fault::Fine } else { manners(request) });
    let result = outcome(read(&mounted.path("directory/file")), &[("the bytes", OLD)]);
    assert!(mounted.s3.requests() > 0, "{fault}: nothing was asked");
    mounted.s3.behave(|_| Fault::Fine);
    check(&mounted.path("directory/file"), &OLD);
    Row { what: "a name", fault, result }
}

/// The first listing of a mount. A refusal is final: the answer comes although there is time for more attempts.
fn root_row(fault: &'static str, code: &'static str, status: u16) -> Row {
    let s3 = S3::start();
    s3.put("file", OLD);
    s3.behave(move |_| Fault::Status(status, code));
    let mut mounted = Mounted { place: place().unwrap(), s3 };
    let endpoint = mounted.s3.endpoint();
    // At a path of its own, so that the root answers by itself.
    start(&mut mounted.place, &endpoint, &["--source", "a=s3://data", "--io-timeout", "1h"]);
    let list = || fs::read_dir(mounted.path("a"))?.map(|entry| Ok(entry?.file_name())).collect();
    let listed: io::Result<Vec<_>> = list();
    let result = match listed {
        Ok(names) => format!("{} names", names.len()),
        Err(error) => outcome(Err(error), &[]),
    };
    // Access is tried once more with credentials that are loaded again.
    let requests = mounted.s3.requests();
    assert!((1..=2).contains(&requests), "{fault}: {requests} requests");
    let log = mounted.log();
    assert!(log.contains(&format!(": {status} {code}")) && log.contains("): check "), "{fault}: {log}");
    mounted.s3.behave(|_| Fault::Fine);
    assert_eq!(list().unwrap(), ["file"], "{fault}");
    Row { what: "the names in the root", fault, result }
}

/// The store is well again, and so is the mount.
fn heals(mounted: &Mounted, fault: &str) {
    mounted.s3.behave(|_| Fault::Fine);
    let again = outcome(read(&mounted.path("file")), &[("the bytes", OLD), ("the new bytes", NEW)]);
    assert!(again.ends_with("bytes") || fault.contains("a bit"), "{fault}: afterwards {again}");
}

/// So many times, then never again.
fn times(count: usize, fault: Fault) -> impl Fn(&Request) -> Fault {
    move |request| if request.number < count { fault } else { Fault::Fine }
}

/// The file is replaced while it is open, then read.
fn replaced_row(fault: &'static str, manners: impl Fn(&Request) -> Fault + Send + Sync + 'static) -> Row {
    let s3 = S3::start();
    s3.put("file", OLD);
    let mounted = Mounted::with(s3, &["--io-timeout", DEADLINE]).unwrap();
    let file = mounted.open("file").unwrap();
    mounted.s3.put("file", NEW);
    mounted.s3.behave(manners);
    let mut bytes = vec![0; OLD.size as usize];
    let result = outcome(
        file.read_exact_at(&mut bytes, 0).map(|()| bytes),
        &[("the bytes", OLD), ("the new bytes", NEW)],
    );
    let again = outcome(read(&mounted.path("file")), &[("the bytes", OLD), ("the new bytes", NEW)]);
    Row { what: "bytes", fault, result: format!("{result}; opened again: {again}") }
}

fn deleted_row() -> Row {
    let s3 = S3::start();
    s3.put("file", OLD);
    let mounted = Mounted::with(s3, &["--io-timeout", DEADLINE]).unwrap();
    let file = mounted.open("file").unwrap();
    mounted.s3.delete("file");
    let mut bytes = vec![0; OLD.size as usize];
    let result = outcome(file.read_exact_at(&mut bytes, 0).map(|()| bytes), &[("the bytes", OLD)]);
    Row { what: "bytes", fault: "404 (deleted while it is open)", result }
}

fn credentials_row() -> Row {
    let s3 = S3::start();
    s3.put("file", OLD);
    let mut mounted = Mounted { place: place().unwrap(), s3 };
    let secrets = mounted.place.root.path().join("secrets");
    fs::create_dir(&secrets).unwrap();
    fs::write(secrets.join("access_key_id"), "first").unwrap();
    fs::write(secrets.join("secret_access_key"), "secret").unwrap();
    let endpoint = mounted.s3.endpoint();
    let option = format!("credentials_dir={}", secrets.display());
    start(
        &mut mounted.place,
        &endpoint,
        &[
            "--source",
            "s3://data",
            "--io-timeout",
            DEADLINE,
            "--option",
            &format!("endpoint={endpoint}"),
            "--option",
            "region=nowhere",
            "--option",
            &option,
        ],
    );
    let file = mounted.open("file").unwrap();
    mounted.s3.behave(|request| match request.signer == KEY {
        true => Fault::Fine,
        false => Fault::Status(403, "ExpiredToken"),
    });
    let read = || read_old(&file);
    let denied = read();
    fs::write(secrets.join("access_key_id"), KEY).unwrap();
    Row {
        what: "bytes",
        fault: "403 (credentials expired)",
        result: format!("{denied}; with new credentials in their file, the same descriptor: {}", read()),
    }
}

/// What a descriptor of the old content gives.
fn read_old(file: &File) -> String {
    let mut bytes = vec![0; OLD.size as usize];
    outcome(file.read_exact_at(&mut bytes, 0).map(|()| bytes), &[("the bytes", OLD)])
}

fn refused_row() -> Row {
    let s3 = S3::start();
    s3.put("file", OLD);
    let mut mounted = Mounted::with(s3, &["--io-timeout", DEADLINE]).unwrap();
    let file = mounted.open("file").unwrap();
    mounted.s3.stop();
    let read = || read_old(&file);
    let refused = read();
    mounted.s3.listen();
    Row {
        what: "bytes",
        fault: "connection refused, always",
        result: format!("{refused}; with the server back, the same descriptor: {}", read()),
    }
}

fn short_outage_row() -> Row {
    let s3 = S3::start();
    s3.put("file", OLD);
    let mut mounted = Mounted::with(s3, &["--io-timeout", DEADLINE]).unwrap();
    let file = mounted.open("file").unwrap();
    mounted.s3.stop();
    let reader = thread::spawn(move || read_old(&file));
    thread::sleep(Duration::from_millis(400));
    mounted.s3.listen();
    Row { what: "bytes", fault: "connection refused for 400 ms", result: reader.join().unwrap() }
}

fn unknown_host_row() -> Row {
    let mut place = place().unwrap();
    // At paths of their own, so that the root answers by itself.
    let source = ["--source", "a=http://no-such-host.invalid/a", "--io-timeout", DEADLINE];
    start(&mut place, "http://127.0.0.1:9", &source);
    let result = outcome(read(&place.mountpoint().join("a/file")), &[]);
    Row { what: "a name", fault: "the host name is not known", result }
}

#[test]
fn what_a_reader_sees() {
    if place().is_none() {
        return;
    }
    use Fault::*;
    let rows: Vec<fn() -> Row> = vec![
        || read_row("each answer comes 200 ms late", |_| Late(Duration::from_millis(200))),
        || read_row("500, three times", times(3, Status(500, "InternalError"))),
        || read_row("503, three times", times(3, Status(503, "SlowDown"))),
        || read_row("429, three times", times(3, Status(429, "TooManyRequests"))),
        || read_row("503, always", |_| Status(503, "SlowDown")),
        || read_row("no answer, once", times(1, Hang)),
        || read_row("no answer, always", |_| Hang),
        || read_row("reset before the head, three times", times(3, Reset)),
        || read_row("reset before the head, always", |_| Reset),
        || read_row("reset after the head, three times", times(3, ResetAfterHead)),
        || read_row("reset in the body, three times", times(3, ResetIn(300_000))),
        || read_row("reset in each body after 200 kB", |_| ResetIn(200_000)),
        || read_row("reset in each body after 50 kB", |_| ResetIn(50_000)),
        || read_row("the body ends early, three times", times(3, CutIn(300_000))),
        || read_row("the body stalls, three times", times(3, StallIn(300_000))),
        || read_row("each body stalls at its first byte", |_| StallIn(1)),
        || read_row("a head of a byte every 50 ms, always", |_| SlowHead),
        || read_row("a body of a byte every 50 ms, always", |_| SlowBody),
        || read_row("another range than asked for, once", times(1, WrongRange)),
        || read_row("another range than asked for, always", |_| WrongRange),
        || read_row("200 and the whole object, always", |_| Whole),
        || read_row("400, a request that it does not take", |_| Status(400, "InvalidRequest")),
        || read_row("a bit of the body is changed (no TLS)", times(1, Flipped)),
        || replaced_row("412 (replaced while it is open)", |_| Fine),
        || replaced_row("replaced while it is open, the condition ignored", |_| Unconditional),
        deleted_row,
        credentials_row,
        refused_row,
        short_outage_row,
        || name_row("each answer comes 200 ms late", |_| Late(Duration::from_millis(200))),
        || name_row("503, three times", times(3, Status(503, "SlowDown"))),
        || name_row("503, always", |_| Status(503, "SlowDown")),
        || name_row("reset before the head, three times", times(3, Reset)),
        || name_row("no answer, once", times(1, Hang)),
        || name_row("no answer, always", |_| Hang),
        || name_row("403", |_| Status(403, "AccessDenied")),
        || name_row("404 (no such bucket)", |_| Status(404, "NoSuchBucket")),
        unknown_host_row,
        || root_row("403", "SignatureDoesNotMatch", 403),
        || root_row("404 (no such bucket)", "NoSuchBucket", 404),
        || root_row("301 (the bucket is in another region)", "PermanentRedirect", 301),
        || root_row("400 (a signature for another region)", "AuthorizationHeaderMalformed", 400),
    ];
    let rows: Vec<Row> = thread::scope(|scope| {
        let running: Vec<_> = rows.into_iter().map(|row| scope.spawn(row)).collect();
        running.into_iter().map(|row| row.join().unwrap()).collect()
    });
    let mut table = String::from(HEAD);
    for Row { what, fault, result } in rows {
        writeln!(table, "| {what} | {fault} | {result} |").unwrap();
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("FAULTS.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&file, &table).unwrap();
    }
    let known = fs::read_to_string(&file).unwrap_or_default();
    for (line, (now, then)) in table.lines().zip(known.lines()).enumerate() {
        assert_eq!(now, then, "FAULTS.md, line {} (UPDATE_EXPECT=1 writes it)", line + 1);
    }
    assert_eq!(table, known, "FAULTS.md (UPDATE_EXPECT=1 writes it)");
}

const HEAD: &str = "\
# What a reader sees when the store fails

`UPDATE_EXPECT=1 cargo test -p fluid-fuse --test faults` writes this table; without the variable the test compares it. Each
row is a real mount with `--io-timeout 2s`, and with options that end an attempt after 300 ms without a byte. \"The bytes\"
are all bytes of the file, and the right ones. An error is that of `read`, or of `open` for a name. EACCES and ENXIO are
final: the first answer gives them, and the log says what to check. ENXIO means that the bucket does not exist, or not at
this endpoint; ENOENT would look like an empty directory, since C libraries end a listing with it. Once the store works
again, the same mount reads the right bytes without a restart. The test checks that for all rows but three: the changed
bit (the kernel caches it), the deleted file and the unknown host.

| what is asked for | the store's answer | the reader gets |
|---|---|---|
";
