//! Other ends: of workers by SIGTERM, of holders, and of files that were being written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::pair::Pair;
use crate::readers::{self, Readers};
use crate::support::place::eventually;
use crate::support::s3::{KEY, Pace, S3, Store};
use crate::support::s3s;

/// Objects of a directory that is renamed: they take longer to copy than a worker to be killed.
const FILES_OF_DIRECTORY: usize = 300;

/// A pair on a store that can be written to, which keeps its objects in a directory.
pub(crate) fn writable(holding: &[&str]) -> Option<(Pair, TempDir)> {
    let root = TempDir::new().unwrap();
    fs::create_dir(root.path().join("data")).unwrap();
    let endpoint = s3s::serve(root.path());
    let pair = Pair::start(&endpoint, holding, &["--read-only=false", "--io-timeout", "10s"])?;
    Some((pair, root))
}

pub(crate) fn stored(root: &TempDir, name: &str) -> Option<Vec<u8>> {
    fs::read(root.path().join("data").join(name)).ok()
}

pub(crate) fn created(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).open(path)
}

pub(crate) fn close(file: File) -> io::Result<()> {
    Ok(nix::unistd::close(file)?)
}

/// The number of a device that is gone is given to the next one: a holder must not take that for its own.
#[test]
fn what_is_mounted_after_an_unmount_stays() {
    let s3 = S3::start();
    readers::data(&s3);
    let Some(mut pair) = Pair::start(&s3.endpoint(), &[], &[]) else { return };
    let at = pair.path("");
    let run = |program: &mut Command| assert!(program.status().unwrap().success());
    run(Command::new("umount").arg(&at));
    run(Command::new("mount").args(["-t", "tmpfs", "next"]).arg(&at));
    fs::write(at.join("marker"), "").unwrap();
    pair.worker_ended();
    pair.holder_ended();
    assert!(at.join("marker").exists());
    run(Command::new("umount").arg(&at));
}

/// It has no root, no capability, no way to get one, and no device to open.
#[test]
fn a_worker_needs_no_privilege() {
    let s3 = S3::start();
    readers::data(&s3);
    let starter = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
        "--no-new-privs",
    ];
    let options = ["--uid=0", "--gid=0"];
    let Some(mut pair) = Pair::start_by(&starter, &s3.endpoint(), &[], &options, None) else { return };
    let file = File::open(pair.path("file-1")).unwrap();
    assert_eq!(file.metadata().unwrap().uid(), 0);
    pair.kill_worker();
    pair.next_worker();
    let mut bytes = vec![0; 1000];
    file.read_exact_at(&mut bytes, 70_000).unwrap();
    assert_eq!(readers::content(1).difference(70_000, &bytes), None);
    let status = fs::read_to_string(format!("/proc/{}/status", pair.worker())).unwrap();
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line}: {status}");
    }
}

#[test]
fn a_worker_that_is_told_to_end_is_followed_by_another() {
    let s3 = S3::start();
    readers::data(&s3);
    let Some(mut pair) = Pair::start(&s3.endpoint(), &[], &["--linger", "300ms"]) else { return };
    let readers = Readers::start(&pair.place.mountpoint());
    for _ in 0..3 {
        readers.go_on();
        pair.signal_worker(Signal::TERM);
        assert_eq!(pair.worker_ended(), 0, "{}", pair.log());
        pair.next_worker();
        readers.go_on();
        assert_eq!(readers.wrong(), Vec::<String>::new());
    }
    readers.end();
    // Nobody has anything open: it ends at once.
    pair.signal_worker(Signal::TERM);
    assert_eq!(pair.worker_ended(), 0);
}

/// kubelet starts the worker's container again, and the next gate may pass: the holder keeps the mount until then.
#[test]
fn a_failed_gate_ends_the_worker_and_not_the_mount() {
    let s3 = S3::start();
    readers::data(&s3);
    let Some(mut pair) = Pair::start(&s3.endpoint(), &[], &["--guard", "--linger", "300ms"]) else { return };
    let file = File::open(pair.path("file-1")).unwrap();
    pair.signal_worker(Signal::HUP);
    assert_eq!(pair.worker_ended(), 1, "{}", pair.log());
    pair.next_worker();
    let mut bytes = vec![0; 1000];
    file.read_exact_at(&mut bytes, 70_000).unwrap();
    assert_eq!(readers::content(1).difference(70_000, &bytes), None);
    pair.signal_worker(Signal::USR1);
    pair.signal_worker(Signal::TERM);
    assert_eq!(pair.worker_ended(), 0, "{}", pair.log());
}

#[test]
fn a_holder_that_is_told_to_end_ends_its_worker() {
    let s3 = S3::start();
    readers::data(&s3);
    let Some(mut pair) = Pair::start(&s3.endpoint(), &[], &[]) else { return };
    fs::read(pair.path("file-0")).unwrap();
    pair.signal_holder(Signal::TERM);
    assert_eq!((pair.holder_ended(), pair.place.kind()), (Some(0), None), "{}", pair.log());
    assert_eq!(pair.worker_ended(), 0, "{}", pair.log());
}

/// kubelet asks for the attributes of mount points, and a mount that nobody serves must not hold a Pod's end up.
#[test]
fn a_holder_without_a_worker_ends_and_unmounts() {
    let s3 = S3::start();
    let Some(mut pair) = Pair::start(&s3.endpoint(), &[], &[]) else { return };
    pair.kill_worker();
    let waits = pair.path("nothing");
    let waits = thread::spawn(move || fs::metadata(waits).map(drop));
    thread::sleep(Duration::from_millis(100));
    assert!(!waits.is_finished());
    pair.signal_holder(Signal::TERM);
    assert_eq!((pair.holder_ended(), pair.place.kind()), (Some(0), None), "{}", pair.log());
    assert!(waits.join().unwrap().is_err());
}

#[test]
fn a_holder_waits_for_a_worker_only_so_long() {
    let s3 = S3::start();
    let Some(mut pair) = Pair::start(&s3.endpoint(), &["--patience", "1s"], &[]) else { return };
    pair.kill_worker();
    let error = fs::metadata(pair.path("nothing")).unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(103 | 107)), "{error}");
    assert_eq!(pair.holder_ended(), Some(1));
}

/// As without a holder: what was open is dead, and a new pair mounts again.
#[test]
fn a_holder_that_is_killed_takes_everything_along() {
    let s3 = S3::start();
    readers::data(&s3);
    let Some(mut pair) = Pair::start(&s3.endpoint(), &[], &[]) else { return };
    pair.holder.kill().unwrap();
    pair.holder.wait().unwrap();
    assert_eq!(pair.worker_ended(), 1, "{}", pair.log());
    let error = fs::metadata(pair.path("file-1")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(107), "{error}");
    pair.again();
    assert_eq!(fs::read(pair.path("file-1")).unwrap().len() as u64, readers::SIZE);
}

fn written_through_kills(holding: &[&str]) {
    let Some((mut pair, root)) = writable(holding) else { return };
    let (mut whole, mut failed) = (0, 0);
    for number in 0..24_u8 {
        let (name, content) = (format!("file-{number}"), vec![number; 300_000]);
        let path = pair.path(&name);
        let bytes = content.clone();
        let writer = thread::spawn(move || -> io::Result<()> {
            let mut file = created(&path)?;
            for part in bytes.chunks(50_000) {
                file.write_all(part)?;
                thread::sleep(Duration::from_millis(fastrand::u64(..15)));
            }
            close(file)
        });
        if number % 4 > 0 {
            thread::sleep(Duration::from_millis(fastrand::u64(..100)));
            pair.kill_worker();
            pair.next_worker();
        }
        match writer.join().unwrap() {
            Ok(()) => {
                whole += 1;
                assert_eq!(stored(&root, &name).as_deref(), Some(&content[..]), "{name}");
            }
            Err(error) => {
                failed += 1;
                assert!(number % 4 > 0, "{error}");
                let half = stored(&root, &name).filter(|stored| *stored != content);
                assert_eq!(half.map(|half| half.len()), None, "{name}: {error}");
            }
        }
    }
    println!("files that were written: {whole} whole, {failed} failed");
    assert!(whole >= 6 && failed > 0, "{whole} {failed}");
}

#[test]
fn a_file_is_whole_in_the_store_or_its_close_has_failed() {
    written_through_kills(&[]);
}

#[test]
fn a_file_is_whole_or_its_close_has_failed_without_the_kernels_help() {
    written_through_kills(&["--no-resend"]);
}

#[test]
fn what_was_not_written_yet_or_all_finished_goes_on() {
    let Some((mut pair, root)) = writable(&[]) else { return };
    let mut begun = created(&pair.path("begun")).unwrap();
    let mut finished = created(&pair.path("finished")).unwrap();
    finished.write_all(b"first").unwrap();
    finished.sync_all().unwrap();
    let empty = created(&pair.path("empty")).unwrap();
    let mut lost = created(&pair.path("lost")).unwrap();
    lost.write_all(b"nobody has this").unwrap();
    pair.kill_worker();
    pair.next_worker();
    begun.write_all(b"all").unwrap();
    close(begun).unwrap();
    finished.write_all(b" and second").unwrap();
    close(finished).unwrap();
    close(empty).unwrap();
    assert_eq!(close(lost).unwrap_err().raw_os_error(), Some(5));
    assert_eq!(stored(&root, "begun").as_deref(), Some(&b"all"[..]));
    assert_eq!(stored(&root, "finished").as_deref(), Some(&b"first and second"[..]));
    let end = Instant::now() + Duration::from_secs(20);
    while stored(&root, "empty").is_none() {
        assert!(Instant::now() < end, "{}", pair.log());
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(stored(&root, "lost"), None);
    assert_eq!(fs::read(pair.path("finished")).unwrap(), b"first and second");
}

fn renamed_through_a_kill(holding: &[&str]) {
    // Copies have other ETags than their originals.
    let root = TempDir::new().unwrap();
    let data = root.path().join("data");
    fs::create_dir_all(data.join("old")).unwrap();
    let store = Store::directories(root.path(), true).unwrap().for_key(Some(KEY.to_string()));
    let pace = Pace { first_byte: Duration::from_millis(5), ..Pace::default() };
    let s3 = S3::bind(SocketAddr::from(([127, 0, 0, 1], 0)), Arc::new(store), pace).unwrap();
    let names: Vec<_> = (0..FILES_OF_DIRECTORY).map(|number| format!("file-{number}")).collect();
    names.iter().for_each(|name| fs::write(data.join("old").join(name), name).unwrap());
    let Some(mut pair) = Pair::start(&s3.endpoint(), holding, &["--read-only=false"]) else { return };
    let count = |directory: &str| fs::read_dir(data.join(directory)).map_or(0, Iterator::count);
    let (from, to) = (pair.path("old"), pair.path("new"));
    let rename = thread::spawn(move || renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE));
    eventually(|| (count("new") > 1).then_some(()));
    pair.kill_worker();
    assert!(count("old") > 0, "the rename was too fast");
    pair.next_worker();
    assert_eq!(rename.join().unwrap(), Ok(()), "{}", pair.log());
    assert_eq!(count("old"), 0);
    for name in names {
        assert_eq!(stored(&root, &format!("new/{name}")).as_deref(), Some(name.as_bytes()));
    }
}

/// Object stores copy and delete. mv(1) asks not to replace anything (`RENAME_NOREPLACE`), and would get `EEXIST` because of
/// the copies of its own rename.
#[test]
fn the_rename_of_a_directory_goes_on() {
    renamed_through_a_kill(&[]);
}

#[test]
fn the_rename_of_a_directory_goes_on_without_the_kernels_help() {
    renamed_through_a_kill(&["--no-resend"]);
}

/// Names that are changed in the moment of a kill are changed once.
#[test]
fn names_are_changed_once() {
    let Some((mut pair, root)) = writable(&[]) else { return };
    for number in 0..12 {
        let (one, other) = (pair.path("one"), pair.path(&format!("other-{number}")));
        fs::write(&one, "x").unwrap();
        let directory = pair.path(&format!("directory-{number}"));
        let changes = thread::spawn(move || -> io::Result<()> {
            fs::create_dir(&directory)?;
            fs::rename(&one, &other)?;
            fs::remove_file(&other)?;
            fs::remove_dir(&directory)
        });
        thread::sleep(Duration::from_millis(fastrand::u64(..40)));
        pair.kill_worker();
        pair.next_worker();
        changes.join().unwrap().unwrap_or_else(|error| panic!("{number}: {error} {}", pair.log()));
        assert_eq!(stored(&root, &format!("other-{number}")), None);
    }
}
