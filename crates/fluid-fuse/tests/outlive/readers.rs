//! Applications that read all the time, each in its own way, and report wrong answers.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

use crate::support::content::Content;
use crate::support::s3::S3;

/// Bytes of each file: a read of all of it takes several requests of the kernel.
pub(crate) const SIZE: u64 = 3 << 20;

pub(crate) const FILES: u64 = 8;

/// Names in the directory that is listed: more than the kernel asks for at a time.
const NAMES: u64 = 1500;

/// Makes the objects that are read.
pub(crate) fn data(s3: &S3) {
    for number in 0..FILES {
        s3.put(&format!("file-{number}"), content(number));
    }
    for number in 0..NAMES {
        s3.put(&name(number), Content::new(number, 10));
    }
}

pub(crate) fn content(number: u64) -> Content {
    Content::new(number + 1, SIZE)
}

fn name(number: u64) -> String {
    format!("many/name-{number:05}")
}

/// The state of all readers.
pub(crate) struct Shared {
    mountpoint: PathBuf,
    ends: AtomicBool,
    /// How many workers were killed.
    pub(crate) kills: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

pub(crate) struct Reader {
    name: &'static str,
    /// Operations that have ended.
    done: Arc<AtomicU64>,
    /// Milliseconds of the longest one.
    longest: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

pub(crate) struct Readers {
    pub(crate) shared: Arc<Shared>,
    all: Vec<Reader>,
}

type Step = Box<dyn FnMut(&Shared) -> Result<(), String> + Send>;

impl Readers {
    /// Starts sixteen readers.
    pub(crate) fn start(mountpoint: &Path) -> Self {
        let shared = Arc::new(Shared {
            mountpoint: mountpoint.to_path_buf(),
            ends: AtomicBool::new(false),
            kills: AtomicU64::new(0),
            wrong: Mutex::default(),
        });
        let one = Arc::new(File::open(mountpoint.join("file-0")).unwrap());
        let mut steps: Vec<(&'static str, Step)> = Vec::new();
        for number in 0..4 {
            steps.push(("read", Box::new(move |shared| read(shared, number))));
            let one = Arc::clone(&one);
            steps.push(("pread", Box::new(move |_| pread(&one))));
        }
        for number in 4..6 {
            steps.push(("mmap", mapped(mountpoint, number)));
            steps.push(("readdir", Box::new(move |shared| list(shared, number))));
            steps.push(("stat", Box::new(stat)));
            steps.push(("open before, read after", Box::new(move |shared| before_and_after(shared, number))));
        }
        let all = steps.into_iter().map(|(name, step)| Reader::start(name, step, &shared)).collect();
        Readers { shared, all }
    }

    /// Whether each of them has done something since, within a time that is long on the slowest machine.
    pub(crate) fn go_on(&self) {
        let before: Vec<_> = self.all.iter().map(|reader| reader.done.load(Ordering::SeqCst)).collect();
        let end = Instant::now() + Duration::from_secs(60);
        for (reader, before) in self.all.iter().zip(before) {
            while reader.done.load(Ordering::SeqCst) == before {
                assert!(Instant::now() < end, "{} hangs", reader.name);
                assert_eq!(self.wrong(), Vec::<String>::new());
                thread::sleep(Duration::from_millis(2));
            }
        }
    }

    pub(crate) fn wrong(&self) -> Vec<String> {
        self.shared.wrong.lock().unwrap().clone()
    }

    /// Ends them. Returns how long the longest operation of each kind took.
    pub(crate) fn end(self) -> Vec<String> {
        self.shared.ends.store(true, Ordering::SeqCst);
        let told = self.all.into_iter().map(|reader| {
            reader.thread.join().unwrap();
            let (done, longest) = (reader.done.load(Ordering::SeqCst), reader.longest.load(Ordering::SeqCst));
            format!("{}: {done} times, the longest took {longest} ms", reader.name)
        });
        told.collect()
    }
}

impl Reader {
    fn start(name: &'static str, mut step: Step, shared: &Arc<Shared>) -> Self {
        let (done, longest) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (its_done, its_longest, shared) = (Arc::clone(&done), Arc::clone(&longest), Arc::clone(shared));
        let thread = thread::spawn(move || {
            while !shared.ends.load(Ordering::SeqCst) {
                let since = Instant::now();
                if let Err(wrong) = step(&shared) {
                    shared.wrong.lock().unwrap().push(format!("{name}: {wrong}"));
                }
                its_longest.fetch_max(since.elapsed().as_millis() as u64, Ordering::SeqCst);
                its_done.fetch_add(1, Ordering::SeqCst);
            }
        });
        Reader { name, done, longest, thread }
    }
}

fn said(what: &str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{what}: {error}")
}

/// Makes the kernel evict the pages of a file.
fn forget(file: &File) {
    fadvise(file, 0, None, Advice::DontNeed).unwrap();
}

fn checked(content: Content, offset: u64, bytes: &[u8]) -> Result<(), String> {
    content.difference(offset, bytes).map_or(Ok(()), |at| Err(format!("a wrong byte at {at}")))
}

fn read(shared: &Shared, number: u64) -> Result<(), String> {
    let mut file = File::open(shared.mountpoint.join(format!("file-{number}"))).map_err(said("open"))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(said("read"))?;
    forget(&file);
    match bytes.len() as u64 {
        SIZE => checked(content(number), 0, &bytes),
        other => Err(format!("{other} bytes")),
    }
}

fn pread(one: &File) -> Result<(), String> {
    let mut bytes = [0; 5000];
    let offset = fastrand::u64(..SIZE - bytes.len() as u64);
    one.read_exact_at(&mut bytes, offset).map_err(said("pread"))?;
    if fastrand::u8(..) < 32 {
        forget(one);
    }
    checked(content(0), offset, &bytes)
}

#[allow(unsafe_code, reason = "nobody changes what is mapped")]
fn mapped(mountpoint: &Path, number: u64) -> Step {
    let file = File::open(mountpoint.join(format!("file-{number}"))).unwrap();
    // SAFETY: nobody changes or cuts off what is mapped.
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    Box::new(move |_| {
        let offset = fastrand::usize(..SIZE as usize - 5000);
        let wrong = checked(content(number), offset as u64, &map[offset..offset + 5000]);
        if fastrand::u8(..) < 32 {
            // SAFETY: a private view of a file: its pages come again.
            unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) }.unwrap();
            forget(&file);
        }
        wrong
    })
}

fn list(shared: &Shared, number: u64) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(shared.mountpoint.join("many")).map_err(said("opendir"))? {
        let entry = entry.map_err(said("readdir"))?;
        if !seen.insert(entry.file_name()) {
            return Err(format!("{:?} twice", entry.file_name()));
        }
        // It lasts for some kills.
        if seen.len() as u64 % 100 == number {
            thread::sleep(Duration::from_millis(10));
        }
    }
    match seen.len() as u64 {
        NAMES => Ok(()),
        other => {
            let missing: Vec<_> = (0..NAMES)
                .map(|number| format!("name-{number:05}"))
                .filter(|name| !seen.contains(std::ffi::OsStr::new(name)))
                .collect();
            Err(format!("{other} names, without {missing:?}"))
        }
    }
}

fn stat(shared: &Shared) -> Result<(), String> {
    let path = shared.mountpoint.join(name(fastrand::u64(..NAMES)));
    let found = path.metadata().map_err(said("stat"))?;
    match (found.len(), found.ino()) {
        (10, 2..) => {}
        other => return Err(format!("attributes {other:?}")),
    }
    match shared.mountpoint.join("many/none").metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => Err(format!("a name that nobody has: {other:?}")),
    }
}

fn before_and_after(shared: &Shared, number: u64) -> Result<(), String> {
    let file = File::open(shared.mountpoint.join(format!("file-{}", number + 2))).map_err(said("open"))?;
    let kills = shared.kills.load(Ordering::SeqCst);
    let since = Instant::now();
    while shared.kills.load(Ordering::SeqCst) == kills && since.elapsed() < Duration::from_secs(1) {
        thread::sleep(Duration::from_millis(1));
    }
    let mut bytes = vec![0; 300_000];
    forget(&file);
    file.read_exact_at(&mut bytes, 1_000_000).map_err(said("read after"))?;
    checked(content(number + 2), 1_000_000, &bytes)
}
