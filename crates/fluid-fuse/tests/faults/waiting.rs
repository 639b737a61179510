//! How long whoever waits for a store waits, and who else waits with him.

use std::fs::{self, File, FileTimes};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fluid_sidecar_layout::contract::env;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
use tempfile::TempDir;

use crate::support::content::Content;
use crate::support::place::{Place, eventually, place};
use crate::support::s3::{Fault, Request, S3};
use crate::support::s3::{KEY, SECRET};
use crate::support::s3s::serve;
use crate::support::{Mounted, check, log, spawn};

/// The time of an operation in tests that wait until it is over.
const LIMIT: Duration = Duration::from_secs(2);

/// How much later an answer may come on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

/// Far longer than a test that must not wait for it.
const LONG: &str = "60s";

/// Mounts a store so that an attempt alone takes longer than any operation may.
fn patiently(place: &mut Place, endpoint: &str, arguments: &[&str]) {
    let options = format!("endpoint={endpoint} region=us-east-1 first_byte_timeout=60s connect_timeout=60s");
    let mut program = place.program("mount");
    program.env(env::SOURCE, "s3://data").args(arguments).env(env::OPTION, options);
    program.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
    spawn(place, &mut program);
}

/// The same with a store of ours.
fn patient(s3: S3, arguments: &[&str]) -> Option<Mounted> {
    let mut mounted = Mounted { place: place()?, s3 };
    let endpoint = mounted.s3.endpoint();
    patiently(&mut mounted.place, &endpoint, arguments);
    Some(mounted)
}

/// The error number of a failure.
fn errno<T>(result: io::Result<T>) -> Option<Errno> {
    result.err()?.raw_os_error().map(Errno::from_raw_os_error)
}

/// What somebody does, and the error number that it ends with.
type Operation = (String, Box<dyn FnOnce() -> Option<Errno> + Send>);

fn operation(name: &str, what: impl FnOnce() -> Option<Errno> + Send + 'static) -> Operation {
    (name.to_string(), Box::new(what))
}

/// Does all of it at a time; each ends with `EIO` when its time is over, and no sooner.
fn all_end_in_time(operations: Vec<Operation>) {
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for (name, operation) in operations {
            let wrong = &wrong;
            scope.spawn(move || {
                let begun = Instant::now();
                let (errno, took) = (operation(), begun.elapsed());
                if errno != Some(Errno::IO) || took < LIMIT / 2 || took > LIMIT + SLACK {
                    wrong.lock().unwrap().push(format!("{name}: {errno:?} after {took:?}"));
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_hundred_listings_of_a_store_that_hangs_end_in_time() {
    let s3 = S3::start();
    for number in 0..100 {
        s3.put(&format!("d{number}/file"), Content::new(1, 10));
    }
    let Some(mounted) = patient(s3, &["--io-timeout", "2s"]) else { return };
    let directories: Vec<_> = (0..100).map(|number| mounted.path(&format!("d{number}"))).collect();
    // Their names are known, what is in them is not.
    directories.iter().for_each(|path| assert!(path.metadata().unwrap().is_dir()));
    mounted.s3.behave(|_| Fault::Hang);
    let list = |path: PathBuf| {
        let name = path.display().to_string();
        operation(&name, || errno(fs::read_dir(path).and_then(|mut entries| entries.next().transpose())))
    };
    all_end_in_time(directories.into_iter().map(list).collect());
    // The same once more, all for one directory.
    all_end_in_time((0..100).map(|_| list(mounted.path("d7"))).collect());
}

#[test]
fn whatever_waits_for_a_store_that_hangs_ends_in_time() {
    let Some(place) = place() else { return };
    let root = TempDir::new().unwrap();
    fs::create_dir(root.path().join("data")).unwrap();
    let front = Front::start(&serve(root.path()));
    let mut mounted = Mounted { place, s3: S3::start() };
    // The kernel makes changes in one directory one after the other.
    let names = [
        "read",
        "open",
        "append",
        "1/remove",
        "2/rename",
        "truncate",
        "time",
        "3/file",
        "4/file",
        "directory/file",
    ];
    let large = vec![1; 24 << 20];
    for name in names {
        let stored = root.path().join("data").join(name);
        fs::create_dir_all(stored.parent().unwrap()).unwrap();
        fs::write(stored, &large).unwrap();
    }
    let options = ["--read-only=false", "--io-timeout", "2s", "--requests", "2"];
    patiently(&mut mounted.place, &front.endpoint(), &options);
    names[..7].iter().for_each(|name| assert!(mounted.path(name).exists()));
    assert!(mounted.path("3").exists() && mounted.path("4").exists());
    let read = mounted.open("read").unwrap();
    let mut written = File::create(mounted.path("written")).unwrap();
    written.write_all(b"some").unwrap();
    let read = &*Box::leak(Box::new(read));
    front.hang();
    let mut operations = Vec::new();
    // More reads than there are requests at a time.
    for number in 0..12 {
        operations
            .push(operation("read", move || errno(read.read_exact_at(&mut [0; 10], (10 + number) << 20))));
    }
    let path = |name: &str| mounted.path(name);
    let to_append = path("append");
    operations.push(operation("append", move || errno(File::options().append(true).open(to_append))));
    operations.push(operation("fsync", move || errno(written.sync_all())));
    let (removed, from, to) = (path("1/remove"), path("2/rename"), path("2/renamed"));
    operations.push(operation("unlink", move || errno(fs::remove_file(removed))));
    operations.push(operation("rename", move || errno(fs::rename(from, to))));
    let (made, truncated, timed) = (path("3/made"), path("truncate"), path("time"));
    operations.push(operation("mkdir", move || errno(fs::create_dir(made))));
    operations
        .push(operation("truncate", move || errno(nix::unistd::truncate(&truncated, 0).map_err(Into::into))));
    operations.push(operation("utimens", move || {
        let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
        errno(File::open(timed).and_then(|file| file.set_times(times)))
    }));
    for number in 0..50 {
        let path = path(&format!("directory/other {number}"));
        operations.push(operation("stat", move || errno(path.metadata())));
    }
    let (created, listed) = (path("4/new"), path("directory"));
    operations.push(operation("create", move || errno(File::create(created))));
    operations.push(operation("readdir", move || {
        errno(fs::read_dir(listed).and_then(|mut it| it.next().transpose()))
    }));
    all_end_in_time(operations);
    // Afterwards it is as good as new, on a busy machine after a while.
    front.carry();
    eventually(|| (fs::read(mounted.path("open")).ok()? == large).then_some(()));
    eventually(|| fs::write(mounted.path("next"), b"next").ok());
    assert_eq!(fs::read(root.path().join("data/next")).unwrap(), b"next");
}

fn check_bytes(path: &Path, content: &[u8]) {
    assert!(fs::read(path).unwrap() == content, "{}", path.display());
}

/// A wire to a server that can be made to carry nothing.
struct Front {
    address: SocketAddr,
    hangs: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Front {
    fn start(behind: &str) -> Self {
        let behind: SocketAddr = behind.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let front = Front {
            address: listener.local_addr().unwrap(),
            hangs: Arc::default(),
            connections: Arc::default(),
        };
        let (hangs, connections) = (front.hangs.clone(), front.connections.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                connections.lock().unwrap().push(client.try_clone().unwrap());
                if hangs.load(Ordering::SeqCst) {
                    continue;
                }
                let server = TcpStream::connect(behind).unwrap();
                for (mut from, mut to) in [
                    (client.try_clone().unwrap(), server.try_clone().unwrap()),
                    (server.try_clone().unwrap(), client.try_clone().unwrap()),
                ] {
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
        front
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on connections are taken, and nothing is answered.
    fn hang(&self) {
        self.set(true);
    }

    fn carry(&self) {
        self.set(false);
    }

    fn set(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::SeqCst);
        for connection in self.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }
}

#[test]
fn a_source_that_hangs_does_not_block_another() {
    let Some(mut place) = place() else { return };
    let root = TempDir::new().unwrap();
    fs::create_dir(root.path().join("data")).unwrap();
    let large = vec![7; 24 << 20];
    fs::write(root.path().join("data/large"), &large).unwrap();
    let dead = S3::start();
    dead.put("large", Content::new(1, 40 << 20));
    dead.put("directory/file", Content::new(1, 10));
    let mount = |name: &str, endpoint: &str| {
        format!(
            r#"{{"mountPoint":"s3://data","name":"{name}","options":{{"endpoint":"{endpoint}","region":"us-east-1"}}}}"#
        )
    };
    let json = format!(
        r#"{{"mounts":[{},{}]}}"#,
        mount("dead", &dead.endpoint()),
        mount("well", &serve(root.path()))
    );
    let options = ["--read-only=false", "--requests", "8", "--io-timeout", LONG];
    let mut program = place.program("mount");
    program.args(["--config-json", &json]).args(options);
    program.env(env::OPTION, "first_byte_timeout=60s").env("AWS_ACCESS_KEY_ID", KEY);
    spawn(&mut place, program.env("AWS_SECRET_ACCESS_KEY", SECRET));
    let mounted = Mounted { place, s3: dead };
    let file = mounted.open("dead/large").unwrap();
    let written: Vec<_> =
        (0..3).map(|number| File::create(mounted.path(&format!("dead/written {number}"))).unwrap()).collect();
    mounted.s3.behave(|_| Fault::Hang);
    let ended = AtomicUsize::new(0);
    thread::scope(|scope| {
        let begun = Instant::now();
        for number in 0..40 {
            let path = mounted.path(&format!("dead/directory/{number}"));
            let (ended, file) = (&ended, &file);
            scope.spawn(move || {
                let _ = path.metadata();
                ended.fetch_add(1, Ordering::SeqCst);
            });
            // All of the requests for bytes, and read-ahead.
            scope.spawn(move || {
                let _ = file.read_exact_at(&mut [0; 4096], (number % 20) * (2 << 20));
                ended.fetch_add(1, Ordering::SeqCst);
            });
        }
        // All of the places for large files.
        for mut file in written {
            let large = &large;
            scope.spawn(move || file.write_all(large).and_then(|()| file.sync_all()));
        }
        eventually(|| (mounted.s3.requests() >= 8).then_some(()));
        thread::sleep(Duration::from_millis(300));
        let names = fs::read_dir(mounted.path("well")).unwrap().count();
        check_bytes(&mounted.path("well/large"), &large);
        fs::write(mounted.path("well/small"), b"small").unwrap();
        fs::write(mounted.path("well/copy"), &large).unwrap();
        assert!(mounted.path("well/none").metadata().is_err());
        let took = begun.elapsed();
        let ended_then = ended.load(Ordering::SeqCst);
        let requests = mounted.s3.requests();
        mounted.s3.behave(|_| Fault::Status(403, "AccessDenied"));
        mounted.s3.hang_up();
        assert_eq!((names, ended_then), (1, 0));
        assert!(took < Duration::from_secs(30), "{took:?}");
        // All who ask for names wait for one listing.
        assert!(requests < 20, "{requests}");
    });
    assert_eq!(fs::read(root.path().join("data/small")).unwrap(), b"small");
    assert!(fs::read(root.path().join("data/copy")).unwrap() == large);
}

#[test]
fn a_listing_that_fails_for_many_is_logged_once() {
    let s3 = S3::start();
    s3.put("directory/file", Content::new(1, 10));
    let Some(mounted) = patient(s3, &["--io-timeout", "2s"]) else { return };
    assert!(mounted.path("directory").exists());
    mounted.s3.behave(|_| Fault::Hang);
    thread::scope(|scope| {
        for number in 0..40 {
            let path = mounted.path(&format!("directory/{number}"));
            scope.spawn(move || assert_eq!(errno(path.metadata()), Some(Errno::IO)));
        }
    });
    assert_eq!(mounted.s3.requests(), 1);
    let log = mounted.log();
    let told: Vec<_> =
        log.lines().filter(|line| line.contains(" WARN ") && line.contains("errno=EIO")).collect();
    assert!((1..=2).contains(&told.len()), "{told:#?}");
}

#[test]
fn those_who_wait_for_one_listing_take_no_threads() {
    let s3 = S3::start();
    s3.put("slow/file", Content::new(1, 10));
    s3.put("other/file", Content::new(1, 10));
    let Some(mounted) = patient(s3, &["--io-timeout", LONG]) else { return };
    assert!(mounted.path("slow").exists());
    let before = mounted.status("Threads");
    let only_other = |request: &Request| match request.query("prefix") {
        Some("slow/") => Fault::Hang,
        _ => Fault::Fine,
    };
    mounted.s3.behave(only_other);
    thread::scope(|scope| {
        // More than there may be threads.
        let waiting: Vec<_> = (0..300)
            .map(|number| mounted.path(&format!("slow/{number}")))
            .map(|path| scope.spawn(move || errno(path.metadata())))
            .collect();
        eventually(|| (mounted.s3.requests() > 0).then_some(()));
        thread::sleep(Duration::from_millis(1500));
        let listed = fs::read_dir(mounted.path("other")).unwrap().count();
        let (threads, requests) = (mounted.status("Threads"), mounted.s3.requests());
        let ended = waiting.iter().filter(|thread| thread.is_finished()).count();
        mounted.s3.behave(|_| Fault::Fine);
        mounted.s3.hang_up();
        for one in waiting {
            assert_eq!(one.join().unwrap(), Some(Errno::NOENT));
        }
        assert_eq!((listed, ended, requests), (1, 0, 2));
        assert!(threads <= before + 40, "{threads}, {before} before");
        assert_eq!(mounted.s3.requests(), 1, "the listing, once more");
    });
}

/// A server of which no packet is answered: nobody takes its connections, and there are as many as may wait.
struct Blackhole {
    address: SocketAddr,
    _socket: std::os::fd::OwnedFd,
    _waiting: Vec<std::os::fd::OwnedFd>,
}

impl Blackhole {
    fn start() -> Self {
        use rustix::net::{SocketFlags, connect, ipproto, socket_with};
        let server = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&server, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        listen(&server, 0).unwrap();
        let address = SocketAddr::try_from(getsockname(&server).unwrap()).unwrap();
        let waiting = (0..4).map(|_| {
            let flags = SocketFlags::NONBLOCK;
            let client =
                socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP)).unwrap();
            let _ = connect(&client, &address);
            client
        });
        Blackhole { address, _waiting: waiting.collect(), _socket: server }
    }
}

#[test]
fn a_source_that_does_not_answer_is_logged_in_seconds() {
    let hole = Blackhole::start();
    let hanging = S3::start();
    hanging.behave(|_| Fault::Hang);
    for (endpoint, reason) in
        [(format!("http://{}", hole.address), "a connection"), (hanging.endpoint(), "the store's answer")]
    {
        let Some(mut place) = place() else { return };
        // As little as an operator sees.
        let source = ["--source", "a=s3://data", "--io-timeout", LONG, "--slow-read", "1h"];
        patiently(&mut place, &endpoint, &source);
        let path = place.mountpoint().join("a/directory");
        let lines = || -> Vec<String> {
            let log = log(&place);
            let of = |line: &&str| line.contains(" WARN ") && line.contains("source does not answer");
            log.lines().filter(of).map(str::to_string).collect()
        };
        // Processes, as they can be killed.
        let mut waiting: Vec<Child> = (0..4)
            .map(|number| Command::new("stat").arg(path.join(number.to_string())).spawn().unwrap())
            .collect();
        let first = eventually(|| lines().first().cloned());
        assert!(first.contains(&format!("waiting_for={reason:?}")), "{first}");
        assert!(first.contains("source=\"s3://data at http://127.0.0.1:"), "{first}");
        assert!(first.contains(" operations=1 ") || first.contains(" operations=4 "), "{first}");
        // Not once a second.
        let second = eventually(|| lines().get(1).cloned());
        assert!(second.contains(&format!("waiting_for={reason:?}")), "{second}");
        thread::sleep(Duration::from_secs(3));
        assert_eq!(lines().len(), 2);
        waiting.iter_mut().for_each(|process| drop(process.kill()));
        waiting.iter_mut().for_each(|process| drop(process.wait()));
    }
}

#[test]
fn a_source_that_answers_again_is_logged() {
    let s3 = S3::start();
    s3.put("directory/file", Content::new(1, 10));
    let Some(mounted) = patient(s3, &["--io-timeout", LONG, "--slow-read", "1h"]) else { return };
    let has = |words: &str| mounted.log().lines().find(|line| line.contains(words)).map(str::to_string);
    mounted.s3.behave(|request| match request.number {
        0 => Fault::Late(Duration::from_secs(8)),
        _ => Fault::Fine,
    });
    check(&mounted.path("directory/file"), &Content::new(1, 10));
    let (silent, again) = (has("source does not answer").unwrap(), has("answers again").unwrap());
    assert!(silent.contains(" WARN ") && again.contains(" WARN "), "{silent} {again}");
    assert!(again.contains("source=\"s3://data at ") && again.contains(" seconds="), "{again}");
}

/// A process that ends with its value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_name_that_is_not_resolved_in_time_costs_the_time_to_connect() {
    let Some(place) = place() else { return };
    // A name server that never answers, for one process alone.
    let server = (2..250).find_map(|last| {
        let address = format!("127.53.53.{last}:53");
        UdpSocket::bind(&address).ok()
    });
    let server = server.unwrap();
    let resolv = place.root.path().join("resolv.conf");
    fs::write(&resolv, format!("nameserver {}\n", server.local_addr().unwrap().ip())).unwrap();
    for (name, option) in [
        ("direct", vec![("NO_PROXY", "*")]),
        ("proxy", vec![("http_proxy", "http://silent-proxy.test:3128"), ("NO_PROXY", "")]),
    ] {
        let mountpoint = place.root.path().join(name);
        let file = place.root.path().join(format!("{name}.log"));
        let mut program = Command::new("unshare");
        let script = r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#;
        program.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(&resolv);
        program.arg(env!("CARGO_BIN_EXE_fluid-fuse")).args(["mount", "--io-timeout", "3s"]);
        program.args(["--source", "a=http://silent.test/a", "-o", "connect_timeout=500ms"]);
        program.envs(option).env(env::MOUNTPOINT, &mountpoint).env(env::LOG, "debug");
        program.stderr(File::create(&file).unwrap());
        let running = Killed(program.spawn().unwrap());
        // It is mounted where it alone sees it.
        let inside = PathBuf::from(format!("/proc/{}/root", running.0.id()));
        let inside = inside.join(mountpoint.strip_prefix("/").unwrap());
        eventually(|| inside.join("a").is_dir().then_some(()));
        let begun = Instant::now();
        assert_eq!(errno(inside.join("a/file").metadata()), Some(Errno::IO), "{name}");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(3) + SLACK, "{name}: {took:?}");
        let log = fs::read_to_string(&file).unwrap();
        let host = if name == "proxy" { "silent-proxy.test" } else { "silent.test" };
        let words = format!("the name \\\"{host}\\\" could not be resolved in 0.5 s");
        assert!(log.lines().any(|line| line.contains(" WARN ") && line.contains(&words)), "{log}");
        // Several attempts in the time of one operation, by one lookup.
        let attempts = log.lines().filter(|line| line.contains("could not be resolved")).count();
        assert!(attempts >= 3, "{attempts}\n{log}");
    }
}

/// The kernel may continue a directory at an offset that this handle has not listed up to.
#[test]
fn directories_that_are_read_from_the_middle_keep_no_other_operation_waiting() {
    let s3 = S3::start();
    s3.put("d/file", Content::new(1, 10));
    let Some(mounted) = patient(s3, &["--io-timeout=5s", "--metadata-ttl=10m"]) else { return };
    let directory = mounted.path("d");
    assert!(directory.metadata().unwrap().is_dir());
    let hanging = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&hanging);
    mounted.s3.behave(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Fault::Hang
    });
    let ended = AtomicUsize::new(0);
    thread::scope(|scope| {
        // More than there are threads that take the kernel's requests.
        for _ in 0..4 {
            let directory = File::open(&directory).unwrap();
            let ended = &ended;
            scope.spawn(move || {
                rustix::fs::seek(&directory, rustix::fs::SeekFrom::Start(1)).unwrap();
                let mut room = Vec::with_capacity(4096);
                let mut entries = rustix::fs::RawDir::new(&directory, room.spare_capacity_mut());
                assert_eq!(entries.next().unwrap().err(), Some(Errno::IO));
                ended.fetch_add(1, Ordering::SeqCst);
            });
        }
        eventually(|| (hanging.load(Ordering::SeqCst) > 0).then_some(()));
        thread::sleep(Duration::from_millis(200));
        rustix::fs::statfs(mounted.path("")).unwrap();
        assert_eq!(ended.load(Ordering::SeqCst), 0);
    });
}
