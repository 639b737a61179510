//! The users of the mount: the Pod's other containers, as far as their processes can be seen.
//!
//! With `shareProcessNamespace` a container sees the processes of the others, and may read their `cgroup` and `mountinfo`
//! and wait for their end without further rights. A container is a cgroup other than the sidecar's. It uses the mount if
//! the mount is in its mount table, so the platform's pause process, log shippers and other sidecars do not count. This
//! module cannot know whether a container that ended will be started again, or whether further ones will come: the
//! options say how many to expect, and how long to wait for one to come back ([`Expected`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use fluid_sidecar_layout::contract::ExitWithPod;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::mount::MountEntry;

const PROC: &str = "/proc";

/// Time between two polls while no container uses the mount. A container runtime takes longer from making a container to
/// starting it, so that none comes and goes unseen.
const PAUSE: Duration = Duration::from_millis(20);

/// After this time without a user, once there was one, missing containers are not expected any more.
const MISSED: Duration = Duration::from_secs(30 * 60);

/// Time until new users are searched for, unless a present one ends before.
const LOOK: Duration = Duration::from_secs(1);

/// The expected users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Containers that use the mount, sooner or later.
    pub containers: usize,
    /// They have ended for good once none of them was there for this time.
    pub settle: Duration,
}

/// Fails unless the processes of other containers can be seen.
pub fn require_shared_namespace() -> anyhow::Result<()> {
    let cgroup = |process: &str| fs::read(Path::new(PROC).join(process).join("cgroup"));
    let is_alone = cgroup("1").is_ok_and(|first| cgroup("self").is_ok_and(|own| own == first));
    ensure!(
        !is_alone,
        "--exit-with-pod={} sees the processes of this container only: the Pod needs \
         spec.shareProcessNamespace: true",
        ExitWithPod::ProcessNamespace
    );
    Ok(())
}

/// The cgroup of a process, if it can be seen.
pub(crate) fn cgroup_of(pid: Pid) -> Option<Vec<u8>> {
    fs::read(Path::new(PROC).join(pid.as_raw_nonzero().to_string()).join("cgroup")).ok()
}

/// Returns when the containers that use the file system of the device have come and gone. Those that are `ours` use it
/// for its own sake.
pub fn wait_until_gone(device: &str, expected: Expected, ours: impl Fn(&[u8]) -> bool) {
    let own = fs::read(Path::new(PROC).join("self/cgroup")).unwrap_or_default();
    let mut seen = BTreeSet::new();
    let mut gone: Option<Instant> = None;
    loop {
        let users = users(Path::new(PROC), |cgroup| cgroup == own || ours(cgroup), device);
        let first = users.values().next().copied();
        seen.extend(users.into_keys());
        if let Some(pid) = first {
            gone = None;
            wait_for_end(pid);
            continue;
        }
        let since = gone.get_or_insert_with(Instant::now).elapsed();
        let all = seen.len() >= expected.containers;
        if all && since >= expected.settle || !seen.is_empty() && since >= expected.settle.max(MISSED) {
            return;
        }
        thread::sleep(PAUSE);
    }
}

/// A process of each container that has the mount, by its cgroup.
fn users(proc: &Path, ours: impl Fn(&[u8]) -> bool, device: &str) -> BTreeMap<Vec<u8>, Pid> {
    let mut users = BTreeMap::new();
    for process in fs::read_dir(proc).into_iter().flatten().flatten() {
        let pid = process.file_name().to_str().and_then(|name| Pid::from_raw(name.parse().ok()?));
        let (Some(pid), Ok(cgroup)) = (pid, fs::read(process.path().join("cgroup"))) else { continue };
        if ours(&cgroup) || users.contains_key(&cgroup) {
            continue;
        }
        // A process that is ending has none.
        let table = fs::read(process.path().join("mountinfo")).unwrap_or_default();
        if MountEntry::all(&table).any(|entry| entry.device == device) {
            users.insert(cgroup, pid);
        }
    }
    users
}

fn wait_for_end(pid: Pid) {
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        // It has ended, or the kernel has none of these.
        return thread::sleep(PAUSE);
    };
    let timeout = Timespec { tv_sec: LOOK.as_secs() as i64, tv_nsec: 0 };
    // An interruption only makes the next poll earlier.
    let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_that_have_the_mount_use_it() {
        let proc = tempfile::tempdir().unwrap();
        let process = |pid: &str, cgroup: &str, devices: &[&str]| {
            let directory = proc.path().join(pid);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("cgroup"), cgroup).unwrap();
            let line = |device: &&str| format!("9 1 {device} / /data ro - fuse.fluid-fuse s3://x ro\n");
            fs::write(directory.join("mountinfo"), devices.iter().map(line).collect::<String>()).unwrap();
        };
        process("1", "pause", &[]);
        process("7", "ours", &["0:50"]);
        process("20", "app", &["0:3", "0:50"]);
        process("21", "app", &["0:50"]);
        process("30", "other", &["0:51"]);
        process("40", "late", &[]);
        fs::create_dir(proc.path().join("sys")).unwrap();
        fs::create_dir(proc.path().join("41")).unwrap();
        let users = users(proc.path(), |cgroup| cgroup == b"ours", "0:50");
        assert_eq!(users.keys().collect::<Vec<_>>(), [b"app"]);
        assert!([20, 21].contains(&users[&b"app"[..]].as_raw_nonzero().get()));
    }
}
