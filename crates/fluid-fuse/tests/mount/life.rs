//! How the process starts, is waited for, and ends.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use fluid_fuse::mount::Mount;
use fluid_sidecar_layout::contract::env;
use fuser::{Config, FileHandle, Filesystem, INodeNo, ReplyAttr, Request, Session, SessionACL};
use rustix::mount::UnmountFlags;
use rustix::process::Signal;

use crate::place::{Place, bytes, eventually, fails, place, words};

#[test]
fn ends_on_a_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let Some(mut place) = place() else { return };
        place.start(&["--linger", "1h"]);
        assert_eq!(place.kind().as_deref(), Some("fuse.fluid-fuse"));
        place.signal(signal);
        assert_eq!(place.ended().code(), Some(0));
        assert_eq!(place.kind(), None);
    }
}

#[test]
fn ends_on_a_signal_although_a_file_is_open() {
    let Some(mut place) = place() else { return };
    fs::write(place.source().join("file"), bytes(300_000)).unwrap();
    let open = |place: &Place| File::open(place.mountpoint().join("file")).unwrap();

    place.start(&["--linger", "1h"]);
    let file = open(&place);
    place.signal(Signal::TERM);
    eventually(|| place.kind().is_none().then_some(()));
    let mut buffer = vec![0; 300_000];
    file.read_exact_at(&mut buffer, 0).unwrap();
    assert!(buffer == bytes(300_000), "it is served until it is closed");
    drop(file);
    assert_eq!(place.ended().code(), Some(0));

    place.start(&["--linger", "100ms"]);
    let file = open(&place);
    place.signal(Signal::TERM);
    assert_eq!((place.ended().code(), place.kind()), (Some(0), None));
    drop(file);

    place.start(&["--linger", "1h"]);
    let _file = open(&place);
    place.signal(Signal::TERM);
    eventually(|| place.kind().is_none().then_some(()));
    place.signal(Signal::TERM);
    assert_eq!((place.ended().code(), place.kind()), (Some(0), None));
}

#[test]
fn ends_when_somebody_unmounts() {
    let Some(mut place) = place() else { return };
    place.start(&[]);
    rustix::mount::unmount(place.mountpoint(), UnmountFlags::empty()).unwrap();
    assert_eq!(place.ended().code(), Some(0));

    place.start(&[]);
    let check = |place: &Place| place.program("check").output().unwrap();
    assert_eq!(check(&place).status.code(), Some(0));
    let unmounted = place.program("unmount").output().unwrap();
    assert_eq!(unmounted.status.code(), Some(0), "{}", words(&unmounted));
    assert_eq!(place.ended().code(), Some(0));
    let nothing = place.program("unmount").output().unwrap();
    assert!(
        nothing.status.success() && words(&nothing).contains("nothing is mounted"),
        "{}",
        words(&nothing)
    );
    assert!(fails(&mut place.program("check")).contains("is not a mount"));
}

#[test]
fn heals_a_mount_whose_process_died() {
    let Some(mut place) = place() else { return };
    fs::write(place.source().join("file"), "x").unwrap();
    place.start(&[]);
    place.signal(Signal::KILL);
    place.ended();
    assert!(fails(&mut place.program("check")).contains("does not answer"));
    assert!(fails(place.program("wait").args(["--timeout", "1s"])).contains("not connected"));
    place.start(&[]);
    assert_eq!(fs::read(place.mountpoint().join("file")).unwrap(), b"x");
    assert!(fails(place.program("mount").args(["--source", &place.url()])).contains("mounted already"));
    place.signal(Signal::TERM);
    assert_eq!((place.ended().code(), place.kind()), (Some(0), None));
}

#[test]
fn waits_until_it_is_there() {
    let Some(mut place) = place() else { return };
    fs::create_dir_all(place.source().join("sub/directory")).unwrap();
    assert!(fails(place.program("wait").args(["--timeout", "50ms"])).contains("is not a mount"));
    fs::create_dir_all(place.mountpoint()).unwrap();
    assert!(fails(place.program("wait").args(["--timeout", "0s"])).contains("is not a mount"));
    let mut waiting = place.program("wait").args(["--sub-path", "sub/directory"]).spawn().unwrap();
    thread::sleep(Duration::from_millis(50));
    assert!(waiting.try_wait().unwrap().is_none());
    place.start(&[]);
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
    let none = fails(place.program("wait").args(["--timeout", "2s", "--sub-path", "none"]));
    assert!(none.contains("none does not answer: No such file"), "{none}");
}

/// Answers nothing before the other end of the channel is gone.
struct Silent(Mutex<mpsc::Receiver<()>>);

impl Filesystem for Silent {
    fn getattr(&self, _: &Request, _: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let _ = self.0.lock().unwrap().recv();
        reply.error(fuser::Errno::EIO);
    }
}

#[test]
fn a_mount_that_hangs_does_not_stop_the_clock() {
    let Some(place) = place() else { return };
    fs::create_dir_all(place.mountpoint()).unwrap();
    let (mount, descriptor) =
        Mount::new(place.mountpoint().canonicalize().unwrap(), "silent", "x", true).unwrap();
    let (answer, silence) = mpsc::channel();
    let silent = Silent(Mutex::new(silence));
    let session = Session::from_fd(silent, descriptor, SessionACL::All, Config::default()).unwrap();
    let session = thread::spawn(move || session.run());
    assert!(fails(place.program("wait").args(["--timeout", "300ms"])).contains("no answer within"));
    assert!(fails(&mut place.program("check")).contains("no answer within"));
    let refused = fails(place.program("mount").args(["--source", &place.url()]));
    assert!(refused.contains("does not answer"), "{refused}");
    drop(answer);
    drop(mount);
    session.join().unwrap().unwrap();
}

#[test]
fn is_the_image_of_a_thin_runtime() {
    let Some(mut place) = place() else { return };
    fs::write(place.source().join("file"), "x").unwrap();
    let config = place.root.path().join("config.json");
    let json = format!(
        r#"{{"mounts":[{{"mountPoint":"{}","name":"x","options":{{"k":"v"}}}}],"targetPath":"/nowhere",
            "accessModes":["ReadOnlyMany"],"runtimeOptions":{{}},"persistentVolumeAttrs":{{}}}}"#,
        place.url().replace("file:", "local:")
    );
    fs::write(&config, json).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_fluid-fuse"));
    program.arg("mount").arg("--config").arg(config).env(env::MOUNT_POINT, place.mountpoint());
    program.env_remove(env::MOUNTPOINT).env(env::SUBTYPE, "thin-fuse");
    place.spawn(&mut program);
    assert_eq!(place.kind().as_deref(), Some("fuse.thin-fuse"));
    assert_eq!(fs::read(place.mountpoint().join("file")).unwrap(), b"x");
    let mut check = Command::new(env!("CARGO_BIN_EXE_fluid-fuse"));
    let check = check.arg("check").env_remove(env::MOUNTPOINT).env(env::MOUNT_POINT, place.mountpoint());
    assert!(check.status().unwrap().success());
}

#[test]
fn says_what_is_wrong() {
    let Some(place) = place() else { return };
    let mount = |source: &str| fails(place.program("mount").args(["--source", source]));
    assert!(mount("gopher://bucket/x").contains("gopher"));
    assert!(mount("file:///no/such/directory").contains("/no/such/directory"));
    assert!(mount(&format!("file://{}", place.root.path().display())).contains("must not be inside"));
    let mut nobody = Command::new("setpriv");
    nobody.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin", env!("CARGO_BIN_EXE_fluid-fuse")]);
    nobody.args(["mount", "--source", &place.url(), "--mountpoint"]).arg(place.mountpoint());
    let refused = fails(&mut nobody);
    assert!(refused.contains("CAP_SYS_ADMIN"), "{refused}");
    assert_eq!(place.kind(), None);
}
