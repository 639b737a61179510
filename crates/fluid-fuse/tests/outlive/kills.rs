//! Workers that are killed while applications read.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::pair::{KILLED, Pair};
use crate::readers::{self, Readers};
use crate::support::place::skip::skip;
use crate::support::s3::S3;

const KILLS: u64 = 100;

/// Workers that their memory limit kills.
const DEATHS: u64 = 5;

/// Names are asked for again and again.
const SERVING: [&str; 2] = ["--metadata-ttl", "100ms"];

/// Kills workers at random moments.
fn kill_again_and_again(holding: &[&str], kills: u64) {
    let s3 = S3::start();
    readers::data(&s3);
    let Some(mut pair) = Pair::start(&s3.endpoint(), holding, &SERVING) else { return };
    let readers = Readers::start(&pair.place.mountpoint());
    readers.go_on();
    let (mut starts, mut pauses) = (Duration::ZERO, Duration::ZERO);
    for kill in 1..=kills {
        thread::sleep(Duration::from_millis(fastrand::u64(..120)));
        let since = Instant::now();
        pair.kill_worker();
        readers.shared.kills.store(kill, Ordering::SeqCst);
        pair.next_worker();
        starts = starts.max(since.elapsed());
        // The kernel trusts the attributes for a moment only: it is an answer of the new worker.
        fs::metadata(pair.path("file-0")).unwrap();
        pauses = pauses.max(since.elapsed());
        if kill % 10 == 0 {
            readers.go_on();
        }
        assert_eq!(readers.wrong(), Vec::<String>::new(), "kill {kill}");
    }
    readers.go_on();
    assert_eq!(readers.wrong(), Vec::<String>::new());
    let memory = pair.holder_memory();
    println!("{}", readers.end().join("\n"));
    println!(
        "kills: {kills}; longest time to start another process: {starts:?}; to an answer of it: {pauses:?}"
    );
    println!("memory of the holder: {memory} kB");
    assert!(memory <= 4096, "{memory} kB");
}

/// The complaint that every FUSE sidecar shares, from mountpoint-s3 issue 1018 to Fluid issue 3208: an application has
/// `Transport endpoint is not connected` from the death of its sidecar until its own.
#[test]
fn readers_outlive_a_hundred_workers() {
    kill_again_and_again(&[], KILLS);
}

/// The same where the kernel does not send again what was not answered, as all before Linux 6.9: the journal knows it.
#[test]
fn readers_outlive_workers_without_the_kernels_help() {
    kill_again_and_again(&["--no-resend"], KILLS);
}

/// A cgroup with so many bytes of memory, of either version, and the file of its limit; nothing where there is none.
fn memory_cgroup(bytes: u64) -> Option<(PathBuf, PathBuf)> {
    let name = format!("fluid-fuse-outlive-{}", std::process::id());
    let (v1, v2) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
    let (parent, limit) = match v1.is_dir() {
        true => (v1, "memory.limit_in_bytes"),
        false => (v2, "memory.max"),
    };
    let group = parent.join(name);
    let limit = group.join(limit);
    let made = fs::create_dir(&group).and_then(|()| fs::write(&limit, bytes.to_string()));
    // Kubernetes sets it: all processes of the container die at once.
    let _ = fs::write(group.join("memory.oom.group"), "1");
    made.ok().map(|()| (group, limit))
}

/// As kubelet does, a worker that its memory limit has killed is started again, and the limit of its container is not that
/// of the holder.
#[test]
fn readers_outlive_workers_that_their_memory_limit_kills() {
    let Some((group, limit)) = memory_cgroup(20 << 20) else {
        return skip("needs a memory cgroup");
    };
    let s3 = S3::start();
    readers::data(&s3);
    // It believes that it has more than it has.
    let serving = [&SERVING[..], &["--memory", "512MiB"]].concat();
    let Some(mut pair) = Pair::start_in(&s3.endpoint(), &[], &serving, Some(&group)) else { return };
    let readers = Readers::start(&pair.place.mountpoint());
    let end = Instant::now() + Duration::from_secs(40);
    let mut deaths = 0;
    while deaths < DEATHS && Instant::now() < end {
        if let Some(status) = pair.worker_has_ended() {
            assert_eq!(status, KILLED, "{}", pair.log());
            deaths += 1;
            readers.shared.kills.fetch_add(1, Ordering::SeqCst);
            if deaths == DEATHS {
                // The last one lives.
                fs::write(&limit, (1_u64 << 30).to_string()).unwrap();
            }
            pair.next_worker();
        }
        thread::sleep(Duration::from_millis(20));
        assert_eq!(readers.wrong(), Vec::<String>::new());
    }
    println!("killed by the memory limit: {deaths} times");
    readers.go_on();
    readers.end();
    pair.kill_worker();
    drop(pair);
    let _ = fs::remove_dir(group);
    assert!(deaths > 0);
}
