//! What a container of the Pod sees at its mount path: the files, or an error, never the directory below.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;

use fluid_fuse::guard;
use fluid_fuse::mount::MountEntry;
use fluid_sidecar_layout::contract::env;
use nix::sched::{CloneFlags, unshare};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change};
use rustix::process::Signal;

use crate::place::{Place, eventually, fails, place};

/// A node of its own for one test: a mount namespace in which mounts propagate to containers.
struct Node {
    place: Place,
}

impl Node {
    fn new() -> Option<Self> {
        let place = place()?;
        fs::write(place.source().join("hello"), "hello").unwrap();
        // Of this thread only, and of what it starts.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        // Those of other tests would not end while they are in this namespace, too.
        for other in mounts().into_iter().filter(MountEntry::is_fuse) {
            rustix::mount::unmount(&other.path, UnmountFlags::DETACH).unwrap();
        }
        mount_bind(place.root.path(), place.root.path()).unwrap();
        mount_change(place.root.path(), MountPropagationFlags::SHARED).unwrap();
        Some(Node { place })
    }

    /// The directory of the Pod among those of its Dataset.
    fn pod(&self) -> PathBuf {
        self.place.mountpoint().parent().unwrap().to_path_buf()
    }

    /// A life of the sidecar that serves its files.
    fn start(&mut self) {
        let place = ["--guard", "--place", self.pod().to_str().unwrap()].map(str::to_string);
        self.place.start(&place.each_ref().map(String::as_str));
    }

    /// A life of the sidecar whose store does not answer.
    fn start_without_store(&self) -> Child {
        self.start_with_store("127.0.0.1:1", "100ms")
    }

    fn start_with_store(&self, address: &str, io_timeout: &str) -> Child {
        let mut program = self.place.program("mount");
        program.args(["--guard", "--source", "s3://data", "--io-timeout", io_timeout]);
        program.arg("-o").arg(format!("endpoint=http://{address}")).args(["-o", "region=nowhere"]);
        program.env("AWS_ACCESS_KEY_ID", "id").env("AWS_SECRET_ACCESS_KEY", "key");
        program.spawn().unwrap()
    }

    fn gate(&self) -> Command {
        let mut gate = self.place.program("wait");
        gate.args(["--gate", "--timeout", "1s"]);
        gate
    }

    fn passes_the_gate(&self) {
        assert!(self.gate().status().unwrap().success());
    }

    fn release(&self) {
        assert!(self.place.program("release").status().unwrap().success());
    }

    /// Starts a container: like a runtime, it asks for the attributes of the directory, makes a missing one, and binds
    /// it with what will be mounted there.
    fn container(&self, name: &str) -> Container {
        let source = self.place.mountpoint();
        match fs::metadata(&source) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir_all(&source).unwrap(),
            attributes => drop(attributes.unwrap()),
        }
        let data = self.place.root.path().join(name);
        fs::create_dir(&data).unwrap();
        mount_bind(&source, &data).unwrap();
        mount_change(&data, MountPropagationFlags::DOWNSTREAM).unwrap();
        Container { data }
    }

    fn is_mounted(&self) -> bool {
        mounts().iter().any(|entry| entry.path == self.place.mountpoint())
    }
}

fn mounts() -> Vec<MountEntry> {
    MountEntry::all(&fs::read("/proc/thread-self/mountinfo").unwrap()).collect()
}

struct Container {
    data: PathBuf,
}

impl Container {
    fn reads(&self) -> bool {
        fs::read(self.data.join("hello")).is_ok_and(|bytes| bytes == b"hello")
    }

    /// Everything fails, to read and to write.
    #[track_caller]
    fn fails(&self) {
        let file = |path: &Path| File::create(path).map(drop);
        let results = [
            fs::read_dir(&self.data).map(drop),
            fs::read(self.data.join("hello")).map(drop),
            file(&self.data.join("written")),
            fs::create_dir(self.data.join("made")),
        ];
        for result in results {
            let error = result.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(Errno::NOTCONN.raw_os_error()), "{error}");
        }
    }

    fn ends(self) {
        while rustix::mount::unmount(&self.data, UnmountFlags::DETACH).is_ok() {}
    }
}

#[test]
fn the_guard_fails_all_and_shows_what_is_mounted_upon_it() {
    let Some(mut node) = Node::new() else { return };
    fs::create_dir_all(node.place.mountpoint()).unwrap();
    guard::mount(&node.place.mountpoint()).unwrap();
    let container = node.container("app");
    container.fails();
    node.start();
    assert!(container.reads());
}

#[test]
fn a_killed_sidecar_leaves_an_error_and_the_next_one_the_files() {
    let Some(mut node) = Node::new() else { return };
    node.start();
    node.passes_the_gate();
    let container = node.container("app");
    assert!(container.reads());
    for _ in 0..3 {
        node.place.signal(Signal::KILL);
        node.place.ended();
        container.fails();
        node.start();
        assert!(container.reads());
    }
    node.passes_the_gate();
    node.release();
    node.place.signal(Signal::TERM);
    eventually(|| (!node.is_mounted()).then_some(()));
    container.ends();
    assert_eq!(node.place.ended().code(), Some(0));
    assert!(!node.pod().exists(), "the Pod's directory is removed with what is in it");
}

#[test]
fn a_failed_gate_leaves_an_error_and_ends_the_sidecar() {
    let Some(mut node) = Node::new() else { return };
    let mut sidecar = node.start_without_store();
    assert!(fails(&mut node.gate()).contains("not ready after 1s"));
    assert_eq!(sidecar.wait().unwrap().code(), Some(1));
    // kubelet starts the application nevertheless.
    let container = node.container("app");
    container.fails();
    node.start();
    assert!(container.reads());
}

/// A store that denies everything.
fn refusing_store() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.read(&mut [0; 16 * 1024]);
            let body = "<Error><Code>SignatureDoesNotMatch</Code></Error>";
            let head = format!(
                "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let _ = connection.write_all((head + body).as_bytes());
        }
    });
    address
}

#[test]
fn a_store_that_refuses_is_not_waited_for() {
    let Some(node) = Node::new() else { return };
    let mut sidecar = node.start_with_store(&refusing_store(), "1h");
    let mut gate = node.place.program("wait");
    assert!(fails(gate.args(["--gate", "--timeout", "1h"])).contains("never ready"));
    assert_eq!(sidecar.wait().unwrap().code(), Some(1));
    node.container("app").fails();
}

#[test]
fn a_sidecar_that_is_ended_alone_leaves_an_error() {
    let Some(mut node) = Node::new() else { return };
    node.start();
    node.passes_the_gate();
    let container = node.container("app");
    node.place.signal(Signal::TERM);
    assert_eq!(node.place.ended().code(), Some(0));
    container.fails();
    node.start();
    assert!(container.reads());
}

#[test]
fn a_deleted_pod_is_served_until_its_containers_have_ended() {
    let Some(mut node) = Node::new() else { return };
    node.start();
    node.passes_the_gate();
    let container = node.container("app");
    node.release();
    assert!(node.is_mounted());
    node.place.signal(Signal::TERM);
    eventually(|| (!node.is_mounted()).then_some(()));
    assert!(container.reads());
    container.ends();
    assert_eq!(node.place.ended().code(), Some(0));
    assert!(!node.pod().exists());
}

#[test]
fn a_pod_that_is_deleted_before_its_gate_has_passed_leaves_nothing() {
    let Some(node) = Node::new() else { return };
    let mut sidecar = node.start_without_store();
    eventually(|| node.is_mounted().then_some(()));
    node.release();
    rustix::process::kill_process(rustix::process::Pid::from_child(&sidecar), Signal::TERM).unwrap();
    assert_eq!(sidecar.wait().unwrap().code(), Some(0));
    assert!(!node.is_mounted());
}

#[test]
fn options_that_cannot_be_read_leave_an_error() {
    let Some(mut node) = Node::new() else { return };
    for (name, wrong) in [("usage", "--memory=lots"), ("meaning", "--source=gopher://x")] {
        let status = node.place.program("mount").arg(wrong).env(env::GUARD, "true").status().unwrap();
        assert!(!status.success());
        let container = node.container(name);
        container.fails();
        container.ends();
    }
    node.start();
    assert!(node.container("app").reads());
}
