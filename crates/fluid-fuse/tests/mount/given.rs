//! Mounts that others make, and what the process may be without.

use std::fs::{self, File, Permissions};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;

use fluid_fuse::mount::Mount;
use fluid_sidecar_layout::contract::env;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::Signal;

use crate::place::skip::skip;
use crate::place::{Place, fails, place, words};

/// What a node's driver does: it mounts and keeps the mount, and has a descriptor to give away.
fn driver(place: &Place) -> (Mount, OwnedFd) {
    fs::write(place.source().join("file"), "x").unwrap();
    fs::create_dir_all(place.mountpoint()).unwrap();
    Mount::new(place.mountpoint().canonicalize().unwrap(), "driver", "driver", true).unwrap()
}

fn assert_serves(place: &mut Place) {
    assert_eq!(fs::read(place.mountpoint().join("file")).unwrap(), b"x");
    // Not ours to unmount.
    place.signal(Signal::TERM);
    assert_eq!((place.ended().code(), place.kind().as_deref()), (Some(0), Some("fuse.driver")));
}

#[test]
fn serves_a_descriptor_that_it_inherits() {
    let Some(mut place) = place() else { return };
    let (_mount, descriptor) = driver(&place);
    fcntl_setfd(&descriptor, FdFlags::empty()).unwrap();
    place.start(&["--fuse-fd", &format!("/dev/fd/{}", descriptor.as_raw_fd())]);
    drop(descriptor);
    assert_serves(&mut place);
}

#[test]
fn serves_a_descriptor_that_is_sent() {
    let Some(mut place) = place() else { return };
    let (_mount, descriptor) = driver(&place);
    let socket = place.root.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let sender = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor.as_fd()];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(stream, &[IoSlice::new(b"{}")], &mut ancillary, SendFlags::empty()).unwrap();
    });
    place.start(&["--fuse-fd", &format!("unix:{}", socket.display())]);
    sender.join().unwrap();
    assert_serves(&mut place);
}

#[test]
fn refuses_what_is_no_descriptor_of_a_mount() {
    let Some(place) = place() else { return };
    let mount = |descriptor: &str| {
        fails(place.program("mount").args(["--source", &place.url(), "--fuse-fd", descriptor]))
    };
    assert!(mount("99").contains("was not started with such a descriptor"));
    assert!(mount("unix:/no/such/socket").contains("nobody listens there"));
    let other = File::open("/dev/null").unwrap();
    fcntl_setfd(&other, FdFlags::empty()).unwrap();
    assert!(mount(&other.as_raw_fd().to_string()).contains("not a descriptor of /dev/fuse"));
}

/// Runs a script that mounts, reads the file and ends the mount, in namespaces of its own.
fn script(place: &Place, unshare: &[&str], script: &str) -> std::process::Output {
    fs::write(place.source().join("file"), "x").unwrap();
    let script = format!("set -eu; PATH=$PATH:/usr/sbin:/sbin\n{script}");
    let mut shell = Command::new("unshare");
    // What other tests unmount goes there, too.
    shell.args(["-m", "--propagation", "slave"]).args(unshare).args(["sh", "-c", &script]);
    shell.env("FLUID_FUSE", env!("CARGO_BIN_EXE_fluid-fuse")).env(env::SOURCE, place.url());
    shell.env(env::MOUNTPOINT, place.mountpoint()).env("DIRECTORY", place.root.path());
    shell.output().unwrap()
}

const MOUNT_READ_END: &str = r#"
    $RUN "$FLUID_FUSE" mount & pid=$!
    trap 'kill -KILL $pid' EXIT
    "$FLUID_FUSE" wait --timeout 20s
    $RUN cat "$FLUID_FUSE_MOUNTPOINT/file"
    kill -TERM $pid; wait $pid
    trap - EXIT
    ! "$FLUID_FUSE" check"#;

#[test]
fn fusermount3_mounts_for_who_may_not() {
    let Some(place) = place() else { return };
    if Command::new("fusermount3").arg("-V").output().is_err() {
        skip("fusermount3 is not installed");
        return;
    }
    fs::create_dir_all(place.mountpoint()).unwrap();
    for directory in [place.root.path(), &place.mountpoint()] {
        fs::set_permissions(directory, Permissions::from_mode(0o777)).unwrap();
    }
    let ran = script(
        &place,
        &[],
        &format!(
            r#"RUN="setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all"
            echo user_allow_other > "$DIRECTORY/fuse.conf"
            [ -e /etc/fuse.conf ] || : > /etc/fuse.conf
            mount --bind "$DIRECTORY/fuse.conf" /etc/fuse.conf
            mknod -m 666 "$DIRECTORY/fuse" c 10 229
            mount --bind "$DIRECTORY/fuse" /dev/fuse
            FLUID_FUSE_MOUNTPOINT="$DIRECTORY/deep/mount point"
            {MOUNT_READ_END}"#
        ),
    );
    assert!(ran.status.success() && ran.stdout == b"x", "{}", words(&ran));
}

#[test]
fn mounts_in_a_user_namespace() {
    let Some(place) = place() else { return };
    let ran = script(&place, &["-U", "-r"], &format!("RUN=\n{MOUNT_READ_END}"));
    assert!(ran.status.success() && ran.stdout == b"x", "{}", words(&ran));
}

#[test]
fn a_directory_of_a_fluid_pod_is_closed_below_the_mount() {
    let Some(mut place) = place() else { return };
    let mode = |place: &Place| fs::metadata(place.mountpoint()).unwrap().permissions().mode() & 0o7777;
    place.start(&[]);
    place.signal(Signal::TERM);
    place.ended();
    assert_ne!(mode(&place), 0, "nobody's Pod");

    let mut program = place.program("mount");
    program.env(env::RUNTIME_NAMESPACE, "default").env(env::RUNTIME_NAME, "data");
    program.env(env::SOURCE, place.url());
    place.spawn(&mut program);
    assert_ne!(mode(&place), 0, "the mount's own root");
    place.signal(Signal::TERM);
    place.ended();
    assert_eq!(mode(&place), 0);
}
