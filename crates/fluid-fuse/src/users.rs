//! The users of the mount: the Pod's other containers, as far as their processes can be seen.
//!
//! With `shareProcessNamespace` a container sees the processes of the others, and may read their `cgroup`, `stat` and
//! `mountinfo` and wait for their end without further rights. A container uses the mount if the mount is in its mount
//! table, so the platform's pause process, log shippers and other sidecars do not count. This module cannot know whether a
//! container that ended will be started again, or whether further ones will come: the options say how many to expect, and
//! how long to wait for one to come back ([`Expected`]).
//!
//! A cgroup tells one container from another, but not always: a process that a runtime starts in a container that runs (a
//! hook, a probe, `kubectl exec`) has the container's mount table before it has its cgroup. So processes with the same
//! mount, by its number, are in one container, which is that of the oldest of them. A container that is being made has the
//! node's mount table at first, so it counts as a user only as long as it is not seen without the mount.

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

/// A process. Its number may be another's later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    /// Clock ticks from the start of the machine to its own: the first of a container comes first.
    started: u64,
    pid: i32,
}

/// The processes of the Pod at one moment, by whether they use the mount.
#[derive(Debug, Default)]
struct Look {
    /// The oldest process of each container that uses the mount, by its cgroup.
    users: BTreeMap<Vec<u8>, Process>,
    /// The processes that do not use it.
    others: BTreeSet<Process>,
}

/// Returns when the containers that use the file system of the device have come and gone. The process `ours`, if there is
/// one, is of a container that has the mount and does not use it, as this one's.
pub fn wait_until_gone(device: &str, expected: Expected, ours: impl Fn() -> Option<Pid>) {
    let mut seen = BTreeMap::new();
    let mut gone: Option<Instant> = None;
    loop {
        let own = ["self".to_string()].into_iter().chain(ours().map(|pid| pid.as_raw_nonzero().to_string()));
        let Look { users, others } = look(Path::new(PROC), device, own);
        seen.retain(|_, process| !others.contains(process));
        let first = users.values().next().copied();
        seen.extend(users);
        if let Some(process) = first {
            gone = None;
            wait_for_end(process);
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

/// The numbers of a process's mounts of a device, and whether it has any mounts: one that is ending has none.
fn mounts(process: &Path, device: &str) -> (BTreeSet<u64>, bool) {
    let table = fs::read(process.join("mountinfo")).unwrap_or_default();
    let ids = MountEntry::all(&table).filter(|entry| entry.device == device).map(|entry| entry.id);
    (ids.collect(), !table.is_empty())
}

/// When a process was started, the 22nd field of its `stat`. The second may have blanks and parentheses.
fn started(process: &Path) -> Option<u64> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()
}

fn look(proc: &Path, device: &str, own: impl Iterator<Item = String>) -> Look {
    let own: BTreeSet<_> = own.flat_map(|process| mounts(&proc.join(process), device).0).collect();
    let mut oldest: BTreeMap<u64, (Process, Vec<u8>)> = BTreeMap::new();
    let mut look = Look::default();
    for entry in fs::read_dir(proc).into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let (Some(pid), Some(started)) = (pid, started(&entry.path())) else { continue };
        let process = Process { started, pid };
        let (ids, has_mounts) = mounts(&entry.path(), device);
        match ids.first() {
            Some(id) if ids.is_disjoint(&own) => {
                let Ok(cgroup) = fs::read(entry.path().join("cgroup")) else { continue };
                let known = oldest.entry(*id).or_insert_with(|| (process, cgroup.clone()));
                if process < known.0 {
                    *known = (process, cgroup);
                }
            }
            None if !has_mounts => {}
            _ => drop(look.others.insert(process)),
        }
    }
    look.users = oldest.into_values().map(|(process, cgroup)| (cgroup, process)).collect();
    look
}

fn wait_for_end(process: Process) {
    let Some(Ok(process)) = Pid::from_raw(process.pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
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

    /// Adds a process: its cgroup, when it was started, and the device and the number of each mount.
    fn process(proc: &Path, pid: &str, cgroup: &str, started: u64, mounts: &[(&str, u64)]) {
        let directory = proc.join(pid);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("cgroup"), cgroup).unwrap();
        fs::write(directory.join("stat"), format!("{pid} (a) b) S{} {started} 7\n", " 0".repeat(18)))
            .unwrap();
        let line =
            |(device, id): &(&str, u64)| format!("{id} 1 {device} / /data ro - fuse.fluid-fuse s3://x ro\n");
        fs::write(directory.join("mountinfo"), mounts.iter().map(line).collect::<String>()).unwrap();
    }

    #[test]
    fn containers_that_have_the_mount_use_it() {
        let proc = tempfile::tempdir().unwrap();
        let add = |pid, cgroup, started, mounts| process(proc.path(), pid, cgroup, started, mounts);
        add("1", "pause", 1, &[("0:3", 1)]);
        add("self", "ours", 2, &[("0:50", 10)]);
        add("7", "ours", 2, &[("0:50", 10)]);
        add("8", "worker", 3, &[("0:50", 11)]);
        // Hooks on their way into the sidecar and the worker.
        add("9", "runtime", 4, &[("0:50", 10)]);
        add("10", "runtime", 4, &[("0:50", 11)]);
        // The first is not the one with the lowest number.
        add("21", "app", 20, &[("0:3", 20), ("0:50", 21), ("0:50", 22)]);
        add("12", "runtime", 30, &[("0:50", 21), ("0:50", 22)]);
        add("30", "other", 40, &[("0:51", 40)]);
        add("40", "ending", 50, &[]);
        fs::create_dir(proc.path().join("sys")).unwrap();
        fs::create_dir(proc.path().join("41")).unwrap();
        let own = || ["self", "8"].into_iter().map(str::to_string);
        let seen = look(proc.path(), "0:50", own());
        assert_eq!(seen.users, BTreeMap::from([(b"app".to_vec(), Process { started: 20, pid: 21 })]));
        assert_eq!(seen.others.iter().map(|other| other.pid).collect::<Vec<_>>(), [1, 7, 8, 9, 10, 30]);
    }
}
