//! The cgroups of one container: what tells its processes from others, limits its memory, and finds what it
//! left behind.
//!
//! Decides where they are: below podrun's own cgroup, one directory in each hierarchy of the machine. Of a
//! runtime that makes cgroups itself it only looks them up. It knows both versions of cgroups, and that a
//! machine may have none that can be written to; then a container has no cgroups of its own. It does not know
//! why a container is limited.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often podrun looks again whether the processes that it killed are gone, and how long that takes.
const LOOKS: (usize, Duration) = (500, Duration::from_millis(10));

/// A directory in one hierarchy; version 2's hierarchy has no controllers in its name.
#[derive(Clone, Debug, PartialEq)]
struct Directory {
    controllers: String,
    path: PathBuf,
}

impl Directory {
    fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|known| known == controller)
    }
}

/// The hierarchies of the machine, and podrun's own place in them.
#[derive(Debug)]
pub struct Cgroups {
    mounts: String,
    own: Vec<Directory>,
}

/// The cgroups of one container. Those that podrun made go, with all their processes, when it is dropped.
#[derive(Debug)]
pub struct Cgroup {
    directories: Vec<Directory>,
    made: bool,
}

impl Cgroups {
    /// Looks at what is mounted now.
    pub fn find() -> Result<Self> {
        let mounts =
            fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = directories(&mounts, &own);
        Ok(Cgroups { mounts, own })
    }

    /// Whether the memory of a cgroup that is made here can be limited. Version 2 is asked to allow it.
    pub fn can_limit_memory(&self) -> bool {
        self.own.iter().any(|own| match own.controllers.as_str() {
            // Refused while processes are in the cgroup, unless it is the root.
            "" => {
                fs::write(own.path.join("cgroup.subtree_control"), "+memory").is_ok()
                    || fs::read_to_string(own.path.join("cgroup.subtree_control"))
                        .is_ok_and(|enabled| enabled.split_whitespace().any(|name| name == "memory"))
            }
            _ => own.has("memory") && own.path.join("memory.limit_in_bytes").exists(),
        })
    }

    /// Whether the machine counts memory at all.
    pub fn counts_memory(&self) -> bool {
        self.own.iter().any(|own| {
            own.has("memory")
                || fs::read_to_string(own.path.join("cgroup.controllers"))
                    .is_ok_and(|known| known.split_whitespace().any(|name| name == "memory"))
        })
    }

    /// Makes cgroups for a container, wherever that is possible.
    pub fn make(&self, name: &str, memory: Option<u64>) -> Result<Cgroup> {
        let directory =
            |own: &Directory| Directory { controllers: own.controllers.clone(), path: own.path.join(name) };
        let directories = self.own.iter().map(directory);
        let directories = directories.filter(|directory| make(directory).is_ok()).collect();
        let cgroup = Cgroup { directories, made: true };
        if let Some(memory) = memory {
            cgroup.limit_memory(memory).context("cannot limit the memory")?;
        }
        Ok(cgroup)
    }

    /// The cgroups that a process is in, if they are not podrun's own.
    pub fn of(&self, pid: Pid) -> Cgroup {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let mut directories = directories(&self.mounts, &text);
        directories.retain(|directory| !self.own.contains(directory));
        Cgroup { directories, made: false }
    }
}

impl Cgroup {
    /// Its directories.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.directories.iter().map(|directory| directory.path.as_path())
    }

    /// Removes what podrun made, with all processes in it.
    pub fn remove(&self) {
        if !self.made {
            return;
        }
        self.kill();
        for path in self.paths() {
            // Busy for a moment after its last process has died.
            for _ in 0..LOOKS.0 {
                if fs::remove_dir(path).is_ok() || !path.exists() {
                    break;
                }
                sleep(LOOKS.1);
            }
        }
    }

    fn limit_memory(&self, bytes: u64) -> Result<()> {
        for directory in &self.directories {
            let file = match directory.controllers.as_str() {
                "" => directory.path.join("memory.max"),
                _ if directory.has("memory") => directory.path.join("memory.limit_in_bytes"),
                _ => continue,
            };
            // The hierarchy of version 2 may be there without this controller.
            if file.exists() {
                fs::write(&file, bytes.to_string()).with_context(|| format!("{}", file.display()))?;
            }
        }
        Ok(())
    }

    /// Whether a process was killed because the memory was used up.
    pub fn was_out_of_memory(&self) -> bool {
        let files = ["memory.oom_control", "memory.events"];
        let texts = self.paths().flat_map(|path| files.map(|file| fs::read_to_string(path.join(file))));
        texts.flatten().any(|text| counts_kills(&text))
    }

    /// Kills all its processes, and waits for them to be gone.
    pub fn kill(&self) {
        let Some(path) = self.paths().next() else { return };
        for _ in 0..LOOKS.0 {
            let processes = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
            let mut processes = processes.lines().filter_map(|line| line.parse().ok()).peekable();
            if processes.peek().is_none() {
                return;
            }
            // 0 would be podrun's own group: a process that this pid namespace does not have.
            processes.filter(|pid| *pid > 0).for_each(|pid| {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            });
            sleep(LOOKS.1);
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.remove();
    }
}

fn make(directory: &Directory) -> std::io::Result<()> {
    fs::create_dir(&directory.path)?;
    let ready = if directory.has("cpuset") { fill_cpuset(&directory.path) } else { Ok(()) };
    ready.inspect_err(|_| drop(fs::remove_dir(&directory.path)))
}

/// A new cpuset of version 1 has no processors and no memory, and takes no process before it has some.
fn fill_cpuset(path: &Path) -> std::io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        fs::write(path.join(file), fs::read(path.join("..").join(file))?)?;
    }
    Ok(())
}

/// The directories of the lines of a process's `/proc/PID/cgroup`, by the mounts of `/proc/self/mountinfo`.
fn directories(mounts: &str, cgroup: &str) -> Vec<Directory> {
    let directory = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let path = mounts.lines().find_map(|mount| below(mount, controllers, path))?;
        Some(Directory { controllers: controllers.to_owned(), path })
    };
    cgroup.lines().filter_map(directory).collect()
}

/// Where a mount shows a path of the hierarchy of these controllers, if it does.
fn below(mount: &str, controllers: &str, path: &str) -> Option<PathBuf> {
    let (place, kind) = mount.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, point) = (place.next()?, place.next()?);
    let mut kind = kind.split(' ');
    let (kind, options) = (kind.next()?, kind.nth(1)?);
    let first = controllers.split(',').next()?;
    let same = match kind {
        "cgroup" => !first.is_empty() && options.split(',').any(|option| option == first),
        "cgroup2" => first.is_empty(),
        _ => false,
    };
    let path = Path::new(path).strip_prefix(root).ok().filter(|_| same)?;
    Some(Path::new(point).join(path))
}

/// `memory.oom_control` and `memory.events` have the line `oom_kill COUNT`.
fn counts_kills(text: &str) -> bool {
    text.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        20 1 0:5 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        21 20 0:6 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n\
        22 20 0:7 /docker/a /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n\
        23 20 0:8 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
        24 20 0:9 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn where_processes_are() {
        for (line, expected) in [
            ("4:cpu,cpuacct:/", Some("/sys/fs/cgroup/cpu,cpuacct")),
            ("3:memory:/docker/a/b", Some("/sys/fs/cgroup/memory/b")),
            ("3:memory:/elsewhere", None),
            ("2:pids:/", None),
            ("1:name=systemd:/x", Some("/sys/fs/cgroup/systemd/x")),
            ("0::/y/z", Some("/sys/fs/cgroup/unified/y/z")),
            ("nonsense", None),
        ] {
            let found: Vec<_> = directories(MOUNTS, line).into_iter().map(|found| found.path).collect();
            assert_eq!(found, expected.map(PathBuf::from).into_iter().collect::<Vec<_>>(), "{line}");
        }
    }

    #[test]
    fn kills_of_both_versions() {
        for (text, expected) in [
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", false),
            ("oom_kill_disable 1\nunder_oom 0\noom_kill 2\n", true),
            ("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n", true),
            ("", false),
        ] {
            assert_eq!(counts_kills(text), expected, "{text}");
        }
    }
}
