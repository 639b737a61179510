//! Readers: streams, random places, pages, whole small files, and walks through the directories.
//!
//! Each knows what every byte and name must be; a file that was opened is of one version, and each read leaves
//! fewer that it can be of. Whether an error may be is [`super::weather`]'s to say.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;

use crate::Soak;
use crate::support::content::Content;
use crate::tally::Finding;
use crate::weather::{Doing, Versions};

pub(crate) const LARGE: usize = 3;
pub(crate) const MEDIUM: usize = 8;
pub(crate) const DIRECTORIES: usize = 5;
pub(crate) const SMALL: usize = 40;

/// Between two files, so that the machine has time for those that are read from.
const BREATH: Duration = Duration::from_millis(5);

pub(crate) fn large(number: usize) -> String {
    format!("large/{number}")
}

pub(crate) fn medium(number: usize) -> String {
    format!("medium/{number}")
}

pub(crate) fn small(directory: usize, number: usize) -> String {
    format!("small/{directory}/{number:03}")
}

/// All objects that are replaced behind the mount's back.
pub(crate) fn keys() -> Vec<String> {
    let small = (0..DIRECTORIES).flat_map(|directory| (0..SMALL).map(move |number| small(directory, number)));
    (0..LARGE).map(large).chain((0..MEDIUM).map(medium)).chain(small).collect()
}

/// What a reader does all the time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Habit {
    Streams,
    Jumps,
    Pages,
    SmallFiles,
    Walks,
}

impl Habit {
    pub(crate) const ALL: [Habit; 6] =
        [Habit::Streams, Habit::Streams, Habit::Jumps, Habit::Pages, Habit::SmallFiles, Habit::Walks];

    pub(crate) fn go_on(self, soak: &Arc<Soak>, mut dice: fastrand::Rng) {
        while !soak.is_over() {
            match self {
                Habit::Streams => stream(soak, &mut dice),
                Habit::Jumps => jump(soak, &mut dice),
                Habit::Pages => pages(soak, &mut dice),
                Habit::SmallFiles => small_files(soak, &mut dice),
                Habit::Walks => walk(soak),
            }
            thread::sleep(BREATH);
        }
    }
}

/// A file that is open, and what it may be.
struct Open<'a> {
    soak: &'a Soak,
    key: &'a str,
    file: File,
    doing: Doing<'a>,
    versions: Versions,
}

impl<'a> Open<'a> {
    fn new(soak: &'a Soak, key: &'a str, forget: bool) -> Option<Self> {
        let doing = Doing::path(Some(key));
        let opened = File::open(soak.path(key)).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (size, file) = soak.held("open", key, &doing, opened)?;
        if forget {
            let _ = fadvise(&file, 0, None, Advice::DontNeed);
        }
        let mut open = Open { soak, key, file, doing, versions: soak.weather.versions(key, doing.opened) };
        open.keep(0, 0, 0, &[], |version| version.size == size);
        Some(open)
    }

    fn size(&self) -> u64 {
        self.versions.allowed.first().map_or(0, |version| version.size)
    }

    /// Keeps the versions that fit.
    fn keep(&mut self, at: u64, length: usize, read: usize, bytes: &[u8], fits: impl Fn(&Content) -> bool) {
        let before = std::mem::take(&mut self.versions.allowed);
        self.versions.allowed = before.iter().copied().filter(&fits).collect();
        if !self.versions.allowed.is_empty() {
            return;
        }
        let old = self.versions.old.iter().find(|version| fits(version));
        match old.and_then(|version| self.soak.weather.age(self.key, *version)) {
            Some(age) => self.soak.tally.found(Finding::Old, "older than --metadata-ttl allows", || {
                format!("{}: replaced {:.1} s ago", self.key, age.as_secs_f64())
            }),
            None => self.soak.tally.found(Finding::Wrong, "of no version", || {
                let wrong = before.iter().map(|version| (version.seed, version.difference(at, bytes)));
                format!(
                    "{}: {read} of {length} at {at} differ from (version, at): {:?}",
                    self.key,
                    wrong.collect::<Vec<_>>()
                )
            }),
        }
    }

    /// Reads once; how much there was, nothing at an error or when nothing is known any more.
    fn read(&mut self, at: u64, buffer: &mut [u8]) -> Option<usize> {
        if self.versions.allowed.is_empty() {
            return None;
        }
        let doing = self.doing.next();
        let length = buffer.len();
        let read = self.soak.held("read", self.key, &doing, self.file.read_at(buffer, at))?;
        let bytes = &buffer[..read];
        // Where the rest is an error, what came before may be told of.
        let weather = &self.soak.weather;
        let short = [Errno::IO, Errno::STALE, Errno::NOTCONN].map(|errno| weather.excuse(errno, &doing));
        let short = read > 0 && short.iter().any(Option::is_some);
        self.keep(at, length, read, bytes, |version| {
            let expected = version.expected(at, length);
            (read == expected || short && read < expected) && version.difference(at, bytes).is_none()
        });
        self.soak.tally.read(read);
        Some(read)
    }
}

fn some_large(dice: &mut fastrand::Rng) -> String {
    if dice.u8(0..3) == 0 { large(dice.usize(0..LARGE)) } else { medium(dice.usize(0..MEDIUM)) }
}

fn stream(soak: &Soak, dice: &mut fastrand::Rng) {
    let key = some_large(dice);
    let Some(mut open) = Open::new(soak, &key, dice.bool()) else { return };
    let mut buffer = vec![0; [4096, 131_072, 200_001, 1 << 20][dice.usize(0..4)]];
    // From the beginning to the end, or somewhere between.
    let mut at = if dice.bool() { 0 } else { dice.u64(0..=open.size()) };
    while !soak.is_over() {
        match open.read(at, &mut buffer) {
            None | Some(0) => return,
            Some(read) => at += read as u64,
        }
    }
}

fn jump(soak: &Soak, dice: &mut fastrand::Rng) {
    let key = some_large(dice);
    let Some(mut open) = Open::new(soak, &key, dice.bool()) else { return };
    let mut buffer = vec![0; 300_000];
    for _ in 0..60 {
        let length = dice.usize(1..buffer.len());
        let at = dice.u64(0..=open.size() + 1);
        if soak.is_over() || open.read(at, &mut buffer[..length]).is_none() {
            return;
        }
    }
}

/// Pages near each other, as programs touch files that are mapped.
fn pages(soak: &Soak, dice: &mut fastrand::Rng) {
    let key = some_large(dice);
    let Some(mut open) = Open::new(soak, &key, dice.bool()) else { return };
    let mut buffer = vec![0; 4096];
    let mut page = dice.u64(0..=open.size() / 4096);
    for _ in 0..200 {
        if soak.is_over() || open.read(page * 4096, &mut buffer).is_none() {
            return;
        }
        page = if dice.u8(0..10) == 0 { dice.u64(0..=open.size() / 4096) } else { page + dice.u64(0..4) };
        page = page.min(open.size() / 4096);
    }
}

fn small_files(soak: &Soak, dice: &mut fastrand::Rng) {
    let directory = dice.usize(0..DIRECTORIES);
    let mut numbers: Vec<usize> = (0..SMALL).collect();
    if dice.bool() {
        dice.shuffle(&mut numbers);
    }
    let mut buffer = vec![0; 200_000];
    let forget = dice.bool();
    for number in numbers {
        let key = small(directory, number);
        if soak.is_over() {
            return;
        }
        let Some(mut open) = Open::new(soak, &key, forget) else { continue };
        open.read(0, &mut buffer);
    }
}

fn walk(soak: &Soak) {
    let set = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>();
    let numbers = |count: usize| (0..count).map(|number| number.to_string()).collect::<BTreeSet<_>>();
    look(soak, "", &set(&["large", "medium", "small", "w"]));
    look(soak, "large", &numbers(LARGE));
    look(soak, "medium", &numbers(MEDIUM));
    look(soak, "small", &numbers(DIRECTORIES));
    for directory in 0..DIRECTORIES {
        let names = (0..SMALL).map(|number| format!("{number:03}")).collect();
        look(soak, &format!("small/{directory}"), &names);
    }
    thread::sleep(20 * BREATH);
}

/// The names in a directory, and that each has attributes.
fn look(soak: &Soak, directory: &str, names: &BTreeSet<String>) {
    let doing = Doing::path(None);
    let path = soak.path(directory);
    let read = || {
        let entries: io::Result<Vec<_>> = fs::read_dir(&path)?.collect();
        Ok(entries?.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    };
    let Some(found): Option<BTreeSet<String>> = soak.held("list", directory, &doing, read()) else { return };
    soak.tally.read(0);
    // Where nothing is mounted there is nothing.
    if found != *names && soak.weather.excuse(Errno::NOTCONN, &doing).is_none() {
        soak.tally.found(Finding::Wrong, "names", || {
            let (missing, more): (Vec<_>, Vec<_>) =
                (names.difference(&found).collect(), found.difference(names).collect());
            format!("{directory:?} lacks {missing:?} and has {more:?}")
        });
    }
    for name in names {
        let key = if directory.is_empty() { name.clone() } else { format!("{directory}/{name}") };
        let doing = Doing::path(Some(&key));
        soak.held("stat", &key, &doing, fs::symlink_metadata(soak.path(&key)));
    }
}
