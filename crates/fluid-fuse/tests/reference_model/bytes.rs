//! Bytes: reads at any place, by several descriptors and threads, while objects are replaced and deleted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::thread;

use proptest::prelude::*;
use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;

use crate::cases;
use crate::support::Mounted;
use crate::support::content::Content;
use crate::support::place::place;
use crate::support::s3::S3;

const FILES: usize = 4;

/// Around everything that is a boundary: a read, a block, a small file, a request.
fn size() -> impl Strategy<Value = u64> {
    let boundary = prop::sample::select(vec![4_u64 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20, 8 << 20]);
    prop_oneof![
        1 => Just(0),
        4 => (boundary, -2..3_i64).prop_map(|(boundary, by)| boundary.saturating_add_signed(by)),
        2 => 1..3_000_000_u64,
        1 => 8_000_000..20_000_000_u64,
    ]
}

/// Places in a file, in millionths of its size, and lengths.
#[derive(Clone, Copy, Debug)]
enum Pattern {
    Sequential { from: u64, length: usize },
    Backwards { length: usize },
    Strided { length: usize, gap: u64 },
    Random { seed: u64, length: usize },
    Ends,
}

#[derive(Clone, Debug)]
enum Step {
    Open(usize),
    /// Of the descriptors that are open.
    Close(usize),
    /// Each thread with one of the descriptors.
    Read(Vec<(usize, Pattern)>),
    Replace {
        file: usize,
        size: Option<u64>,
    },
    Delete(usize),
    /// The kernel forgets the bytes of a descriptor.
    Drop(usize),
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let length = || {
        prop_oneof![Just(1_usize), Just(4096), Just(65_536), Just(131_072), Just(200_001), 1..300_000_usize,]
    };
    prop_oneof![
        (0..1_000_000_u64, length()).prop_map(|(from, length)| Pattern::Sequential { from, length }),
        length().prop_map(|length| Pattern::Sequential { from: 0, length }),
        length().prop_map(|length| Pattern::Backwards { length }),
        (length(), 1..900_000_u64).prop_map(|(length, gap)| Pattern::Strided { length, gap }),
        (any::<u64>(), length()).prop_map(|(seed, length)| Pattern::Random { seed, length }),
        Just(Pattern::Ends),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..FILES).prop_map(Step::Open),
        1 => any::<usize>().prop_map(Step::Close),
        5 => prop::collection::vec((any::<usize>(), pattern()), 1..5).prop_map(Step::Read),
        1 => (0..FILES, prop::option::of(size())).prop_map(|(file, size)| Step::Replace { file, size }),
        1 => (0..FILES).prop_map(Step::Delete),
        1 => any::<usize>().prop_map(Step::Drop),
    ]
}

/// Reads of a pattern: how many, so that none takes long.
const READS: u64 = 60;

impl Pattern {
    fn places(self, size: u64) -> Vec<(u64, usize)> {
        let at = |millionth: u64| size * millionth / 1_000_000;
        match self {
            Pattern::Sequential { from, length } => {
                (0..READS).map(|n| (at(from) + n * length as u64, length)).collect()
            }
            Pattern::Backwards { length } => {
                (1..=READS).map(|n| (size.saturating_sub(n * length as u64), length)).collect()
            }
            Pattern::Strided { length, gap } => {
                (0..READS).map(|n| (n * (length as u64 + gap), length)).collect()
            }
            Pattern::Random { mut seed, length } => (0..READS / 3)
                .map(|_| {
                    seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    ((seed >> 20) % (size + 1), length)
                })
                .collect(),
            Pattern::Ends => [0, 1, 4095, 131_071, 131_072, size / 2]
                .into_iter()
                .chain([size.saturating_sub(1), size, size + 1, 1 << 40])
                .map(|at| (at, 5000))
                .collect(),
        }
    }
}

/// A descriptor, and the versions that it can be of; each read leaves fewer of them.
struct Open {
    file: File,
    name: usize,
    versions: Vec<Content>,
}

/// Whether a read may fail so, now that the version is gone.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::STALE | Errno::NOENT))
}

fn read(file: &File, versions: &[Content], now: Option<Content>, pattern: Pattern) -> Vec<Content> {
    let size = versions[0].size;
    let mut versions = versions.to_vec();
    let mut buffer = vec![0; 300_001];
    for (at, length) in pattern.places(size) {
        match file.read_at(&mut buffer[..length], at) {
            Ok(read) => {
                let bytes = &buffer[..read];
                let before = versions.clone();
                // Less than there is, but not nothing, where the rest is gone.
                let right = |version: &Content| {
                    let expected = version.expected(at, length);
                    let short = read > 0 && read < expected && Some(*version) != now;
                    (read == expected || short) && version.difference(at, bytes).is_none()
                };
                versions.retain(right);
                let wrong = before.first().and_then(|version| version.difference(at, bytes));
                assert!(!versions.is_empty(), "{read} of {length} at {at} of {size}: wrong from {wrong:?}");
            }
            // A version that is still there can be read.
            Err(error) => {
                versions.retain(|version| Some(*version) != now);
                assert!(is_gone(&error) && !versions.is_empty(), "{length} at {at} of {size}: {error}");
            }
        }
    }
    versions
}

#[derive(Clone, Copy, Debug)]
struct Configuration {
    cache: bool,
    memory: &'static str,
    ttl: &'static str,
}

fn configuration() -> impl Strategy<Value = Configuration> {
    let (memory, ttl) = (["8MiB", "32MiB"], ["0s", "60s"]);
    (any::<bool>(), prop::sample::select(memory.to_vec()), prop::sample::select(ttl.to_vec()))
        .prop_map(|(cache, memory, ttl)| Configuration { cache, memory, ttl })
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn any_reads(
        configuration in configuration(),
        sizes in prop::collection::vec(size(), FILES),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let s3 = S3::start();
        let Some(place) = place() else { return Ok(()) };
        let mut seed = 0;
        let mut version = |size| {
            seed += 1;
            Content::new(seed, size)
        };
        let name = |file: usize| format!("file {file}");
        let mut present: BTreeMap<usize, Content> = sizes.into_iter().map(&mut version).enumerate().collect();
        // All that there ever were.
        let mut known: Vec<Vec<Content>> = present.values().map(|content| vec![*content]).collect();
        for (file, content) in &present {
            s3.put(&name(*file), *content);
        }
        let mut mounted = Mounted { place, s3 };
        let directory = mounted.place.root.path().join("cache");
        let mut arguments = vec!["--memory", configuration.memory, "--metadata-ttl", configuration.ttl];
        if configuration.cache {
            arguments.extend(["--cache-dir", directory.to_str().unwrap()]);
        }
        mounted.start(&arguments);
        let mut open: Vec<Open> = Vec::new();
        for step in steps {
            match step {
                Step::Open(file) => match mounted.open(&name(file)) {
                    Ok(opened) => {
                        // Without trust in what was known, it is what is there now.
                        let versions = match (configuration.ttl, present.get(&file)) {
                            ("0s", Some(now)) => vec![*now],
                            ("0s", None) => panic!("file {file} is gone, and was opened"),
                            _ => known[file].clone(),
                        };
                        let size = opened.metadata().unwrap().len();
                        let versions: Vec<_> = versions.into_iter().filter(|version| version.size == size).collect();
                        assert!(!versions.is_empty(), "{size} bytes, which no version has");
                        open.push(Open { file: opened, name: file, versions });
                    }
                    Err(error) => {
                        let changed = known[file].len() > 1 || !present.contains_key(&file);
                        assert!(changed && is_gone(&error), "file {file}: {error}");
                        if configuration.ttl == "0s" {
                            assert!(!present.contains_key(&file), "file {file} is there: {error}");
                        }
                    }
                },
                Step::Close(which) if !open.is_empty() => drop(open.swap_remove(which % open.len())),
                Step::Read(reads) if !open.is_empty() => {
                    let left: Vec<_> = thread::scope(|scope| {
                        let running: Vec<_> = reads
                            .iter()
                            .map(|(which, pattern)| {
                                let which = which % open.len();
                                let (Open { file, name, versions }, pattern) = (&open[which], *pattern);
                                let now = present.get(name).copied();
                                (which, scope.spawn(move || read(file, versions, now, pattern)))
                            })
                            .collect();
                        running.into_iter().map(|(which, thread)| (which, thread.join().unwrap())).collect()
                    });
                    for (which, versions) in left {
                        open[which].versions.retain(|version| versions.contains(version));
                        assert!(!open[which].versions.is_empty(), "two threads read two versions");
                    }
                }
                Step::Replace { file, size } => {
                    // Of the same size, if none is given.
                    let size = size.or(present.get(&file).map(|content| content.size)).unwrap_or(1);
                    let content = version(size);
                    mounted.s3.put(&name(file), content);
                    present.insert(file, content);
                    known[file].push(content);
                }
                Step::Delete(file) => {
                    mounted.s3.delete(&name(file));
                    present.remove(&file);
                }
                Step::Drop(which) if !open.is_empty() => {
                    fadvise(&open[which % open.len()].file, 0, None, Advice::DontNeed).unwrap();
                }
                Step::Close(_) | Step::Read(_) | Step::Drop(_) => {}
            }
        }
    }
}
