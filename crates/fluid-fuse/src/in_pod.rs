//! The news that a container's hooks tell the process that serves it, and the container's termination message.
//!
//! kubelet runs the gate (postStart) and the preStop hook in the sidecar's container, but sends the serving process only
//! SIGTERM, whatever the reason. So the hooks send it signals: the gate has passed, or the Pod ends. A gate that fails ends
//! the process.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use fluid_sidecar_layout::contract::{TERMINATION_LOG, command};
use log::debug;
use rustix::process::{Pid, Signal, kill_process};

use crate::plain::plain;

/// Bytes of a termination message: kubelet keeps 4096 of a container, and 12 KiB of all containers of a Pod.
const MESSAGE_MAX: usize = 1024;

/// A hook's message to the serving process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The application may start.
    GatePassed,
    /// The application would start without its data.
    GateFailed,
    /// No container of the Pod is started again.
    PodEnds,
}

impl News {
    /// The signal by which it is told. Of signals that are pending at the same time, the one with the lowest number is
    /// received first: a failed gate must be heard before the end of the Pod that follows from it.
    pub fn signal(self) -> Signal {
        match self {
            News::GateFailed => Signal::HUP,
            News::GatePassed => Signal::USR1,
            News::PodEnds => Signal::USR2,
        }
    }
}

/// Sends the news to every process of this container that serves a mount. Returns whether there was one.
pub fn tell(news: News) -> bool {
    let mut told = false;
    for pid in serving() {
        match kill_process(pid, news.signal()) {
            Ok(()) => told = true,
            Err(error) => debug!("process {pid:?} cannot be told {news:?}: {error}"),
        }
    }
    told
}

/// The processes of this container that run `mount` or `hold` of this program. With `shareProcessNamespace` those of other
/// containers are seen, too: they have another mount namespace.
fn serving() -> Vec<Pid> {
    let link = |process: &Path, name: &str| fs::read_link(process.join(name)).ok();
    let same = |process: &Path, name: &str| {
        link(process, name).is_some_and(|it| Some(it) == link(Path::new("/proc/self"), name))
    };
    let serves = |process: &Path| {
        let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
        let command = arguments.split(|byte| *byte == 0).nth(1);
        [command::MOUNT, command::HOLD].iter().any(|ours| command == Some(ours.as_bytes()))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| Some((Pid::from_raw(number(&process.file_name())?)?, process.path())))
        .filter(|(_, process)| serves(process) && same(process, "exe") && same(process, "ns/mnt"))
        .map(|(pid, _)| pid)
        .collect()
}

fn number(name: &OsStr) -> Option<i32> {
    std::str::from_utf8(name.as_bytes()).ok()?.parse().ok()
}

/// Adds a sentence to those that `kubectl describe pod` shows of this container once it has ended. Does nothing outside
/// of a container of Kubernetes.
pub fn explain_end(sentence: &str) {
    let sentence = &*plain(sentence);
    let mut end = sentence.len().min(MESSAGE_MAX);
    while !sentence.is_char_boundary(end) {
        end -= 1;
    }
    let log = File::options().append(true).open(TERMINATION_LOG);
    if let Err(error) = log.and_then(|mut log| writeln!(log, "{}", &sentence[..end])) {
        debug!("{TERMINATION_LOG}: {error}");
    }
}
