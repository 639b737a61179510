//! Permissions, and times of change.

use std::fs::{self, File, FileTimes};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::Mounted;
use crate::files::run;
use crate::place::bytes;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn mountpoint_s3_866_files_can_be_executable() {
    for (read_only, expected) in [("--read-only=false", [0o755, 0o750]), ("--read-only", [0o555, 0o550])] {
        let Some(mounted) =
            Mounted::new(&[read_only, "--file-mode=755", "--dir-mode", "0750", "--metadata-ttl=0s"])
        else {
            return;
        };
        let script = mounted.path("run.sh");
        fs::write(mounted.stored("run.sh"), "#!/bin/sh\nexit 0\n").unwrap();
        assert_eq!([mode(&script), mode(&mounted.place.mountpoint())], expected);
        run(&mut Command::new(script));
        if read_only.ends_with("false") {
            let file = File::create(mounted.path("new")).unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
            drop(file);
            assert_eq!(mode(&mounted.path("new")), 0o755);
        }
    }
}

#[test]
fn rclone_4070_times_of_change_stay() {
    let Some(mut mounted) = Mounted::new(&["--read-only=false", "--metadata-ttl=0s"]) else { return };
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    let times = FileTimes::new().set_modified(time);
    let modified =
        |mounted: &Mounted, name: &str| fs::metadata(mounted.path(name)).unwrap().modified().unwrap();
    for size in [0, 1000, 20 << 20] {
        // As cp and tar do it, before the file is closed; as rsync does it, when it was, and before a rename.
        let mut file = File::create(mounted.path("open")).unwrap();
        file.write_all(&bytes(size)).unwrap();
        file.set_times(times).unwrap();
        drop(file);
        fs::write(mounted.path("closed"), bytes(size)).unwrap();
        File::open(mounted.path("closed")).unwrap().set_times(times).unwrap();
        fs::rename(mounted.path("closed"), mounted.path("renamed")).unwrap();
        for name in ["open", "renamed"] {
            assert_eq!(modified(&mounted, name), time, "{name} of {size}");
            assert!(fs::read(mounted.path(name)).unwrap() == bytes(size), "{name} of {size}");
        }
        // What is written is newer.
        File::options().append(true).open(mounted.path("open")).unwrap().write_all(b"more").unwrap();
        assert!(modified(&mounted, "open") > time);
    }
    // For another mount, too.
    mounted.again(&["--read-only=false", "--kept-times"]);
    assert_eq!(modified(&mounted, "renamed"), time);
    assert!(modified(&mounted, "open") > time);
    let listed = fs::read_dir(mounted.place.mountpoint()).unwrap().map(Result::unwrap);
    let listed = listed.filter(|entry| entry.file_name() == "renamed").map(|entry| entry.metadata().unwrap());
    assert_eq!(listed.map(|found| found.modified().unwrap()).collect::<Vec<_>>(), [time]);
}
