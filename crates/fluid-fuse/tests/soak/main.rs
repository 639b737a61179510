//! The real program for minutes on end, read from and written to while all that can go wrong does: the store is
//! slow, refuses, breaks off and goes away, objects are replaced behind the mount's back, the process is stopped
//! and killed. `make soak` runs it, by `SOAK_MINUTES`; without that it does nothing, as in a plain `cargo test`.
//!
//! It decides what happens when, all by one seed (`SOAK_SEED`; how threads take turns is the machine's), and
//! whether the run is good: no wrong bytes, no lost writes, no errors but those that the documents tell of, no
//! memory that grows.
#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "helpers of tests are tests, and a report is for reading"
)]

mod picture;
mod readers;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod tally;
mod watch;
mod weather;
mod writers;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fluid_fuse::remote::{self, Bucket};
use fluid_sidecar_layout::contract::env;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use rustix::process::Signal;

use readers::Habit;
use server::{Manners, Server};
use support::content::Content;
use support::place::{Place, eventually, place};
use tally::{Finding, Tally};
use test_store::{KEY, SECRET};
use watch::Watch;
use weather::{Doing, Span, Weather, errno, name};
use writers::Writer;

/// What the mount is told to try for.
const IO_TIMEOUT: Duration = Duration::from_secs(6);

/// What the mount is told to trust names for.
const METADATA_TTL: Duration = Duration::from_secs(2);

const WRITERS: usize = 3;

const PROGRESS: Duration = Duration::from_secs(10);

/// How long threads may take to come to an end: an operation ends with `IO_TIMEOUT`, and a writer has some.
const ENDING: Duration = Duration::from_secs(90);

/// After an error.
const BREATH: Duration = Duration::from_millis(20);

const MIB: u64 = 1 << 20;

/// What the mount is told to use, in MiB.
const MEMORY: f64 = 32.0;

/// What it may take, in MiB: that, what it needs beside it, and two large and a small file that are being written.
const MOST: f64 = MEMORY + 24.0 + 2.0 * 28.0 + 3.0;

/// What all threads share.
pub(crate) struct Soak {
    mountpoint: PathBuf,
    /// For files that are copied into the mount.
    scratch: PathBuf,
    server: Server,
    weather: Weather,
    tally: Tally,
    watch: Watch,
    seeds: AtomicU64,
    over: AtomicBool,
    /// The process and the number of its life.
    now: Mutex<(u32, usize)>,
    replaced: AtomicUsize,
}

impl Soak {
    fn path(&self, key: &str) -> PathBuf {
        self.mountpoint.join(key)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// A content that was never there.
    fn content(&self, size: u64) -> Content {
        Content::new(self.seeds.fetch_add(1, Ordering::Relaxed), size)
    }

    /// The value; an error is counted, by whether it may be.
    fn held<T>(&self, what: &str, key: &str, doing: &Doing<'_>, result: io::Result<T>) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let errno = errno(&error);
        match self.weather.excuse(errno, doing) {
            Some(why) => self.tally.expected(format!("{} ({why})", name(errno))),
            None => self.tally.found(Finding::Error, &format!("{what}: {}", name(errno)), || {
                let (took, open) = (doing.since.elapsed(), doing.opened.elapsed());
                format!("{key}: {error}, after {took:.1?}, opened {open:.1?} ago")
            }),
        }
        // Where all fails at once there is no use in asking as fast.
        thread::sleep(BREATH);
        None
    }
}

/// A mount point on a file system of its own that nothing can be written to: what is meant for the mount must not
/// end up below it while it is away.
struct Ground {
    place: Place,
    parent: PathBuf,
}

impl Ground {
    fn new(place: Place) -> Self {
        let mountpoint = place.mountpoint();
        let parent = mountpoint.parent().unwrap().to_path_buf();
        fs::create_dir_all(&parent).unwrap();
        mount("tmpfs", &parent, "tmpfs", MountFlags::empty(), None::<&std::ffi::CStr>).unwrap();
        fs::create_dir(&mountpoint).unwrap();
        mount_remount(&parent, MountFlags::RDONLY, "").unwrap();
        Ground { place, parent }
    }

    fn start(&mut self, soak: &Soak, cached: bool) {
        let mut program = self.place.program("mount");
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        program.stderr(log).env(env::LOG, "info").env("NO_PROXY", "*");
        program.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
        program.args(["--source", "s3://data", "--read-only=false", "--linger=3s"]);
        program.arg(format!("--memory={MEMORY}MiB"));
        program.arg(format!("--io-timeout={}s", IO_TIMEOUT.as_secs()));
        program.arg(format!("--metadata-ttl={}s", METADATA_TTL.as_secs()));
        let endpoint = format!("endpoint={}", soak.server.endpoint());
        for option in
            [&endpoint, "region=us-east-1", "connect_timeout=1s", "first_byte_timeout=1s", "stall_timeout=1s"]
        {
            program.args(["-o", option]);
        }
        if cached {
            program.arg("--cache-dir").arg(self.place.root.path().join("cache")).arg("--cache-size=64MiB");
        }
        let started = catch_unwind(AssertUnwindSafe(|| self.place.spawn(&mut program)));
        if started.is_err() {
            let pid = self.place.pid();
            soak.tally.found(Finding::Process, "it does not answer", || threads_of(pid));
            panic!("{}", soak.tally.table());
        }
        let mut now = soak.now.lock().unwrap();
        *now = (self.place.pid(), now.1 + 1);
    }

    /// Another process takes the place of the one that is there.
    fn restart(&mut self, soak: &Soak, kill: bool, cached: bool) {
        soak.weather.restart_begins();
        match kill {
            true => {
                self.place.signal(Signal::KILL);
                self.place.ended();
            }
            false => {
                self.place.signal(Signal::TERM);
                eventually(|| self.place.kind().is_none().then_some(()));
                self.must_end_well(soak);
            }
        }
        self.start(soak, cached);
        soak.weather.restart_ends();
    }

    fn must_end_well(&mut self, soak: &Soak) {
        let ended = self.place.ended();
        if ended.code() != Some(0) {
            soak.tally.found(Finding::Process, "ended badly", || ended.to_string());
        }
    }

    fn log(&self) -> PathBuf {
        self.place.root.path().join("log")
    }
}

/// What the threads of a process wait for.
fn threads_of(pid: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let about = |task: PathBuf| {
        ["comm", "wchan", "syscall"]
            .map(|file| fs::read_to_string(task.join(file)).unwrap_or_default())
            .join(" ")
    };
    tasks.map(|task| about(task.path())).collect::<Vec<_>>().join("\n")
}

impl Drop for Ground {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = fs::copy(self.log(), target().join("soak.log"));
        }
        let _ = unmount(&self.parent, UnmountFlags::DETACH);
    }
}

#[derive(Clone, Copy, Debug)]
struct Restart {
    at: Duration,
    kill: bool,
    cached: bool,
}

#[derive(Clone, Copy, Debug)]
struct Outage {
    at: Duration,
    length: Duration,
    manners: Manners,
}

fn seconds(dice: &mut fastrand::Rng, from: f64, to: f64) -> Duration {
    Duration::from_secs_f64(from + (to - from) * dice.f64())
}

fn restarts(dice: &mut fastrand::Rng, end: Duration) -> Vec<Restart> {
    let mut restarts = Vec::new();
    let mut at = seconds(dice, 12.0, 18.0);
    while at < end {
        restarts.push(Restart { at, kill: dice.bool(), cached: dice.bool() });
        at += seconds(dice, 14.0, 26.0);
    }
    restarts
}

/// The first is a short one, every third lasts longer than the mount tries for.
fn outages(dice: &mut fastrand::Rng, end: Duration) -> Vec<Outage> {
    let mut outages: Vec<Outage> = Vec::new();
    let mut at = seconds(dice, 5.0, 8.0);
    loop {
        let lasting = outages.len() % 3 == 1;
        let length = if lasting { IO_TIMEOUT + seconds(dice, 2.0, 6.0) } else { seconds(dice, 0.5, 2.5) };
        if at + length >= end {
            return outages;
        }
        let manners = [Manners::Silent, Manners::Resets, Manners::Busy][dice.usize(0..3)];
        outages.push(Outage { at, length, manners });
        at += length + seconds(dice, 10.0, 20.0);
    }
}

/// Takes the store away and brings it back, whatever the mount is about.
fn bad_weather(soak: &Soak, began: Instant, outages: &[Outage]) {
    for outage in outages {
        thread::sleep(outage.at.saturating_sub(began.elapsed()));
        soak.weather.outage_begins(outage.length >= IO_TIMEOUT);
        soak.server.behave(outage.manners);
        thread::sleep(outage.length);
        soak.server.behave(Manners::Moody);
        soak.weather.outage_ends();
    }
}

/// What is in an object at first, and how large it may be.
fn sizes(key: &str) -> std::ops::Range<u64> {
    match key.split('/').next() {
        Some("large") => 20 * MIB..32 * MIB,
        Some("medium") => MIB / 2..6 * MIB,
        _ => 100..100_000,
    }
}

fn put(soak: &Soak, bucket: &dyn Bucket, key: &str, content: Content) {
    soak.weather.replacing(key, content);
    let mut upload = bucket.put(key).unwrap();
    for piece in content.whole().chunks(MIB as usize) {
        upload.write(piece).unwrap();
    }
    upload.finish().unwrap();
    soak.weather.replaced(key);
}

/// Replaces objects behind the mount's back, until the end.
fn replace(soak: &Soak, bucket: &dyn Bucket, mut dice: fastrand::Rng) {
    while !soak.is_over() {
        thread::sleep(Duration::from_millis(dice.u64(100..900)));
        let key = match dice.u8(0..10) {
            0 => readers::large(dice.usize(0..readers::LARGE)),
            1..4 => readers::medium(dice.usize(0..readers::MEDIUM)),
            _ => readers::small(dice.usize(0..readers::DIRECTORIES), dice.usize(0..readers::SMALL)),
        };
        // Of the same size at times, which is harder to notice.
        let last = soak.weather.versions(&key, Instant::now()).allowed.last().map(|version| version.size);
        let size = last.filter(|_| dice.bool()).unwrap_or_else(|| dice.u64(sizes(&key)));
        put(soak, bucket, &key, soak.content(size));
        soak.replaced.fetch_add(1, Ordering::Relaxed);
    }
}

fn bucket(server: &Server) -> Arc<dyn Bucket> {
    let endpoint = server.back();
    let options = [
        ("endpoint", endpoint.as_str()),
        ("region", "us-east-1"),
        ("access_key_id", KEY),
        ("secret_access_key", SECRET),
    ];
    let options: BTreeMap<_, _> = options.map(|(name, value)| (name.to_string(), value.to_string())).into();
    remote::open("s3://data", &options).unwrap()
}

/// A number from the environment.
fn setting(name: &str) -> Option<f64> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

fn main() -> ExitCode {
    let Some(minutes) = setting("SOAK_MINUTES") else { return ExitCode::SUCCESS };
    let reason = if !rustix::process::geteuid().is_root() {
        Some("needs root")
    } else if File::options().read(true).write(true).open("/dev/fuse").is_err() {
        Some("needs /dev/fuse")
    } else {
        None
    };
    if let Some(reason) = reason {
        println!("skipped: {reason}");
        return ExitCode::SUCCESS;
    }
    let seed = setting("SOAK_SEED").map_or_else(|| fastrand::u64(..1 << 32), |seed| seed as u64);
    println!("SOAK_SEED={seed} SOAK_MINUTES={minutes}");
    let mut ground = Ground::new(place().unwrap());
    match run(&mut ground, seed, Duration::from_secs_f64(60.0 * minutes)) {
        true => ExitCode::SUCCESS,
        false => {
            let kept = target().join("soak.log");
            let _ = fs::copy(ground.log(), &kept);
            println!("FAILED: the log of fluid-fuse is {}", kept.display());
            ExitCode::FAILURE
        }
    }
}

/// Where what is built is.
fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target")
}

/// Whether all was well.
fn run(ground: &mut Ground, seed: u64, time: Duration) -> bool {
    let mut dice = fastrand::Rng::with_seed(seed);
    let root = ground.place.root.path();
    let (store, scratch) = (root.join("store"), root.join("scratch"));
    [&store, &scratch].into_iter().for_each(|directory| fs::create_dir(directory).unwrap());
    let server = Server::start(&store, dice.u64(..));
    let bucket = bucket(&server);
    let soak = Arc::new(Soak {
        mountpoint: ground.place.mountpoint(),
        scratch,
        server,
        weather: Weather::default(),
        tally: Tally::new(),
        watch: Watch::default(),
        seeds: AtomicU64::new(1),
        over: AtomicBool::new(false),
        now: Mutex::default(),
        replaced: AtomicUsize::default(),
    });
    for key in readers::keys() {
        put(&soak, &*bucket, &key, soak.content(dice.u64(sizes(&key))));
    }
    for directory in (0..WRITERS).map(|number| format!("w/{number}/")).chain(["w/".to_string()]) {
        bucket.make_directory(&directory).unwrap();
    }
    ground.start(&soak, true);
    soak.server.behave(Manners::Moody);
    let began = Instant::now();

    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for habit in Habit::ALL {
        let (soak, dice) = (Arc::clone(&soak), dice.fork());
        threads.push(thread::spawn(move || habit.go_on(&soak, dice)));
    }
    let mut writers: Vec<JoinHandle<Writer>> = Vec::new();
    for number in 0..WRITERS {
        let writer = Writer::new(Arc::clone(&soak), number, dice.fork());
        writers.push(thread::spawn(move || writer.go_on()));
    }
    let (ours, forked) = (Arc::clone(&soak), dice.fork());
    threads.push(thread::spawn(move || replace(&ours, &*bucket, forked)));
    let ours = Arc::clone(&soak);
    let watching = thread::spawn(move || {
        while !ours.is_over() {
            let (pid, life) = *ours.now.lock().unwrap();
            ours.watch.look(began, life, pid);
            thread::sleep(Duration::from_secs(1));
        }
    });

    let (ours, outages) = (Arc::clone(&soak), outages(&mut dice, time));
    threads.push(thread::spawn(move || bad_weather(&ours, began, &outages)));

    let mut done = [0, 0];
    let mut left = restarts(&mut dice, time).into_iter().peekable();
    let mut progress = PROGRESS;
    while began.elapsed() < time {
        thread::sleep(Duration::from_millis(20));
        if began.elapsed() >= progress {
            println!("{}", soak.tally.progress());
            progress += PROGRESS;
        }
        if let Some(restart) = left.next_if(|restart| began.elapsed() >= restart.at) {
            let (pid, life) = *soak.now.lock().unwrap();
            if !soak.watch.look(began, life, pid) {
                soak.tally.found(Finding::Process, "it died", || format!("life {life}"));
            }
            done[usize::from(restart.kill)] += 1;
            ground.restart(&soak, restart.kill, restart.cached);
        }
    }
    soak.server.behave(Manners::Fine);
    soak.over.store(true, Ordering::Relaxed);
    let end = Instant::now() + ENDING;
    while Instant::now() < end
        && !(threads.iter().all(JoinHandle::is_finished) && writers.iter().all(JoinHandle::is_finished))
    {
        thread::sleep(Duration::from_millis(20));
    }
    let all = threads.len() + writers.len();
    let ended = threads.iter().filter(|thread| thread.is_finished()).count()
        + writers.iter().filter(|thread| thread.is_finished()).count();
    if ended < all {
        soak.tally.found(Finding::Process, "an operation hangs", || format!("in {} threads", all - ended));
    }
    let panicked =
        |soak: &Soak| soak.tally.found(Finding::Process, "a thread of the test panicked", String::new);
    for thread in threads.into_iter().chain([watching]).filter(JoinHandle::is_finished) {
        if thread.join().is_err() {
            panicked(&soak);
        }
    }
    for writer in writers.into_iter().filter(JoinHandle::is_finished) {
        match writer.join() {
            Ok(mut writer) => writer.verify_all(),
            Err(_) => panicked(&soak),
        }
    }
    ground.place.signal(Signal::TERM);
    ground.must_end_well(&soak);
    for growth in soak.watch.growing() {
        soak.tally.found(Finding::Process, "memory grows", || growth.clone());
    }
    if soak.watch.peak() > MOST {
        soak.tally.found(Finding::Process, "more memory than is documented", || {
            format!("{:.1} MiB instead of {MOST}", soak.watch.peak())
        });
    }
    report(&soak, seed, began, done);
    soak.tally.is_clean()
}

fn report(soak: &Soak, seed: u64, began: Instant, restarts: [usize; 2]) {
    println!("\n{:<44} {seed}", "seed");
    println!("{:<44} {:.0} s", "time", soak.tally.elapsed().as_secs_f64());
    println!("{:<44} {} by SIGTERM, {} by SIGKILL", "restarts", restarts[0], restarts[1]);
    println!("{:<44} {}", "objects replaced in the store", soak.replaced.load(Ordering::Relaxed));
    println!("{:<44} {}", "outages", soak.weather.outages().len());
    for (fault, count) in soak.server.faults() {
        println!("{:<44} {count}", format!("fault: {fault}"));
    }
    print!("{}{}", soak.tally.table(), soak.watch.table());
    let seconds = |at: Instant| at.saturating_duration_since(began).as_secs_f64();
    let span = |span: &Span| (seconds(span.from), seconds(span.to.unwrap_or_else(Instant::now)));
    let outages: Vec<_> = soak.weather.outages().iter().map(span).collect();
    let restarts: Vec<_> = soak.weather.restarts().iter().map(|restart| seconds(restart.from)).collect();
    let picture = target().join("soak.svg");
    let drawn = fs::create_dir_all(target())
        .and_then(|()| fs::write(&picture, picture::draw(&soak.watch.samples(), &outages, &restarts)));
    match drawn {
        Ok(()) => println!("{:<44} {}", "memory over time", picture.display()),
        Err(error) => println!("{}: {error}", picture.display()),
    }
}
