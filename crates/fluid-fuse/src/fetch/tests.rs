use super::*;
use std::io::{Cursor, Read};
use std::ops::{ControlFlow, Range};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, SystemTime};

use super::block::BLOCK_SIZE;
use super::block_map::Evict;
use super::tuning::Tuning;
use crate::remote::{Bucket, Item, Upload, Version};
use crate::store::StoreError;

/// A store whose bytes follow from their offset. Of ten requests, `fails` fail, in all ways in which stores do.
struct Numbers {
    fails: u8,
}

fn byte(at: u64) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16).wrapping_mul(31)) as u8
}

impl Bucket for Numbers {
    fn get(&self, _: &Version, range: Range<u64>) -> Result<Box<dyn Read + Send>, StoreError> {
        thread::sleep(Duration::from_micros(fastrand::u64(..2000)));
        let end = match fastrand::u8(..10) {
            fault if fault >= self.fails => range.end,
            fault if fault % 2 == 1 => fastrand::u64(range.clone()),
            _ => return Err(StoreError::Unavailable("503".into())),
        };
        Ok(Box::new(Cursor::new((range.start..end).map(byte).collect::<Vec<_>>())))
    }

    fn head(&self, _: &str) -> Result<Version, StoreError> {
        Err(StoreError::NotFound)
    }

    fn list(&self, _: &str, _: &mut dyn FnMut(Vec<Item>) -> ControlFlow<()>) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn put(&self, _: &str) -> Result<Box<dyn Upload>, StoreError> {
        Err(StoreError::Unsupported("put"))
    }

    fn make_directory(&self, _: &str) -> Result<(), StoreError> {
        Err(StoreError::Unsupported("make_directory"))
    }

    fn delete(&self, _: &str) -> Result<(), StoreError> {
        Err(StoreError::Unsupported("delete"))
    }

    fn copy(&self, _: &str, _: &str) -> Result<(), StoreError> {
        Err(StoreError::Unsupported("copy"))
    }
}

fn read(file: &Arc<RemoteFile>, at: u64, length: u32) -> Vec<u8> {
    let (sender, answer) = mpsc::channel();
    let answered = move |read: Result<&[u8], StoreError>| sender.send(read.map(<[u8]>::to_vec)).unwrap();
    file.read(at, length, Box::new(answered));
    answer.recv_timeout(Duration::from_secs(30)).expect("an answer").unwrap()
}

/// Reads a file in sequence, at random, backwards or at a stride.
fn read_somehow(file: &Arc<RemoteFile>, seed: u64) {
    let size = file.version().size;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut at = if seed % 4 == 2 { size } else { random.u64(..size / 2) };
    for _ in 0..60 {
        let length = random.u32(1..300_000);
        at = match seed % 4 {
            0 => at,
            1 => random.u64(..size),
            2 => at.saturating_sub(u64::from(length)),
            _ => at + 700_000,
        };
        let bytes = read(file, at, length);
        assert_eq!(bytes.len() as u64, u64::from(length).min(size.saturating_sub(at)), "{at}+{length}");
        assert!(bytes.iter().zip(at..).all(|(read, at)| *read == byte(at)), "{at}+{length}");
        if seed.is_multiple_of(4) {
            at += u64::from(length);
        }
    }
}

fn version(size: u64, key: &str) -> Version {
    Version { key: key.to_string(), size, etag: None, modified: SystemTime::UNIX_EPOCH }
}

fn budget() -> Budget {
    Budget { memory: 8 << 20, requests: 16, io_timeout: Duration::from_secs(60), slow: Duration::MAX }
}

/// Waits until a condition holds: requests in flight end by themselves.
fn settles(mut settled: impl FnMut() -> bool) -> bool {
    (0..1000).any(|_| {
        thread::sleep(Duration::from_millis(10));
        settled()
    })
}

#[test]
fn reads_that_wait_for_their_turn_fail_with_those_before_them() {
    let budget = Budget { io_timeout: Duration::from_millis(300), ..budget() };
    let shared = Shared::new(budget, None).unwrap();
    let fetcher = Fetcher::new("s3://down", Arc::new(Numbers { fails: 10 }), Arc::clone(&shared));
    let (sender, answers) = mpsc::channel();
    for number in 0..200 {
        let sender = sender.clone();
        let answered = move |read: Result<&[u8], StoreError>| sender.send(read.is_err()).unwrap();
        fetcher.file(&version(1, &number.to_string())).read(0, 1, Box::new(answered));
    }
    drop(sender);
    assert!(answers.iter().all(|failed| failed));
    // The later ones are not each tried for as long as the first.
    let requests = shared.metrics().requests.load(Ordering::Relaxed);
    assert!(requests < 200, "{requests}");
}

#[test]
fn only_an_answer_of_the_store_ends_an_outage() {
    let budget = Budget { io_timeout: Duration::from_millis(300), ..budget() };
    let shared = Shared::new(budget, None).unwrap();
    let down = Fetcher::new("s3://down", Arc::new(Numbers { fails: 10 }), Arc::clone(&shared));
    let up = Fetcher::new("s3://up", Arc::new(Numbers { fails: 0 }), Arc::clone(&shared));
    let read_once = |fetcher: &Fetcher| {
        let (sender, answer) = mpsc::channel();
        let answered = move |read: Result<&[u8], StoreError>| sender.send(read.is_ok()).unwrap();
        fetcher.file(&version(1, "file")).read(0, 1, Box::new(answered));
        answer.recv_timeout(Duration::from_secs(30)).expect("an answer")
    };
    assert_eq!(shared.trouble(), None);
    assert!(!read_once(&down) && read_once(&up));
    let trouble = || shared.trouble().unwrap_or_default();
    assert!(trouble().starts_with("s3://down is unavailable (") && !trouble().contains("s3://up"));
    // A write that succeeds proves nothing: the bytes may be in memory.
    let source = down.availability();
    shared.retry.write(&source, || Ok(())).unwrap();
    assert!(!trouble().is_empty());
    shared.retry.request(&source, || Ok(())).unwrap();
    assert_eq!(shared.trouble(), None);

    let patient = Shared::new(Budget { io_timeout: Duration::from_secs(60), ..budget }, None).unwrap();
    let mut attempts = 0;
    let write = || {
        attempts += 1;
        if attempts < 3 { Err(StoreError::Unavailable("503".into())) } else { Ok(()) }
    };
    patient.retry.write(&source, write).unwrap();
    assert_eq!(shared.trouble(), None);
    let refused = || Err::<(), _>(StoreError::Denied("GET x: 403".into()));
    assert!(patient.retry.request(&source, refused).is_err());
    assert!(trouble().contains("s3://down refuses access (GET x: 403)"));
}

#[test]
fn the_quota_of_unread_blocks_is_returned() {
    let shared = Shared::new(budget(), None).unwrap();
    let fetcher = Fetcher::new("s3://flaky", Arc::new(Numbers { fails: 2 }), Arc::clone(&shared));
    let reserved = || shared.files.quota.in_use();
    // A file that is closed while requests are in flight.
    let file = fetcher.file(&version(30 << 20, "large"));
    for _ in 0..50 {
        file.open();
        file.read(0, BLOCK_SIZE as u32, Box::new(|_| ()));
        file.close();
    }
    assert!(settles(|| reserved() == (0, 0)), "{:?}", reserved());
    // Files that were expected and never opened.
    let small: Vec<_> = (0..20).map(|number| version(1000, &number.to_string())).collect();
    fetcher.expect(&small);
    drop((file, fetcher));
    assert!(settles(|| reserved() == (0, 0)), "{:?}", reserved());
}

#[test]
fn a_file_that_fits_is_fetched_whole_after_some_random_reads() {
    let shared = Shared::new(budget(), None).unwrap();
    let fetcher = Fetcher::new("s3://sound", Arc::new(Numbers { fails: 0 }), Arc::clone(&shared));
    let read_at_random = |size: u64, count: u64| {
        let file = fetcher.file(&version(size, &size.to_string()));
        file.open();
        let blocks = size / BLOCK_SIZE;
        for number in 1..=count {
            // The start would be prefetched for, and so would neighbours and equal distances.
            let block = number * number * 7 % blocks;
            read(&file, block * BLOCK_SIZE, 4096);
        }
        file
    };
    let bytes = || shared.metrics().bytes.load(Ordering::Relaxed);
    let fits = 23 * BLOCK_SIZE;
    let _file = read_at_random(fits, u64::from(Tuning::default().max_random_waits) + 4);
    // All but the block that was read at that time.
    assert!(settles(|| bytes() >= fits - BLOCK_SIZE), "{} of {fits}", bytes());
    // A file that does not fit is not fetched whole.
    let before = bytes();
    let _file = read_at_random(1009 * BLOCK_SIZE, 40);
    thread::sleep(Duration::from_millis(100));
    assert!(bytes() - before < 40 * BLOCK_SIZE, "{}", bytes() - before);
}

#[test]
fn readers_get_their_bytes_and_leave_no_block_behind() {
    let place = tempfile::tempdir().unwrap();
    for disk in [None, Some(DiskCache::open(place.path(), 40 << 20).unwrap())] {
        let shared = Shared::new(budget(), disk).unwrap();
        let fetcher = Fetcher::new("s3://flaky", Arc::new(Numbers { fails: 2 }), Arc::clone(&shared));
        let files: Vec<_> = [30 << 20, 3_333_333, 999_999, 1]
            .map(|size| fetcher.file(&version(size, &size.to_string())))
            .into_iter()
            .collect();
        thread::scope(|scope| {
            for seed in 0..12 {
                let file = &files[seed as usize % 3];
                scope.spawn(move || {
                    file.open();
                    read_somehow(file, seed);
                    file.close();
                });
            }
        });
        let (used, cap) = shared.memory();
        assert!(used <= cap, "{used} of {cap}");
        let rest = || (shared.files.quota.in_use(), shared.memory().0);
        let settled = settles(|| {
            for file in &files {
                file.state.try_evict(usize::MAX, &Evict::All);
            }
            rest() == ((0, 0), 0)
        });
        assert!(settled, "{:?}", rest());
    }
}
