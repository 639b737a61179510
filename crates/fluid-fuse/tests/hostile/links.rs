//! Links that others have planted where the program mounts, looks or keeps what it fetched.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::{Duration, UNIX_EPOCH};

use fluid_fuse::fetch::DiskCache;
use fluid_fuse::mount::mounted_at;
use fluid_fuse::remote::Version;
use fluid_sidecar_layout::contract::env;
use rustix::fs::{CWD, Mode, mkdirat};

use crate::store::{Store, entry};
use crate::support::place::{fails, place, words};
use crate::support::start;

#[test]
fn f6_nothing_is_mounted_through_a_link() {
    let Some(place) = place() else { return };
    let root = place.root.path();
    fs::create_dir_all(root.join("victim/inner")).unwrap();
    // The mount point itself, and a directory above it.
    for (link, to, target) in [
        ("point", "victim", "point"),
        ("above", "victim", "above/inner"),
        ("new", "victim", "new/made/by/us"),
        ("dangling", "nowhere", "dangling"),
    ] {
        symlink(root.join(to), root.join(link)).unwrap();
        for guard in ["false", "true"] {
            let mut program = place.program("mount");
            program
                .env(env::SOURCE, place.url())
                .env(env::MOUNTPOINT, root.join(target))
                .env(env::GUARD, guard);
            assert!(fails(&mut program).contains("is a link"), "{target}");
        }
        for command in ["check", "unmount"] {
            let mut program = place.program(command);
            let output = program.env(env::MOUNTPOINT, root.join(target)).output().unwrap();
            assert!(command == "unmount" || !output.status.success(), "{}", words(&output));
        }
    }
    for directory in ["victim", "victim/inner"] {
        assert!(mounted_at(&root.join(directory)).unwrap().is_none());
    }
    assert_eq!(fs::read_dir(root.join("victim")).unwrap().count(), 1);
    assert!(!root.join("nowhere").exists());
}

#[test]
fn f6_the_gate_does_not_pass_on_what_a_link_leads_to() {
    let Some(mut place) = place() else { return };
    let root = place.root.path().to_path_buf();
    fs::write(place.source().join("file"), "x").unwrap();
    place.start(&[]);
    let wait = |point: &std::path::Path| {
        let mut program = place.program("wait");
        program.env(env::MOUNTPOINT, point).args(["--timeout", "200ms"]).output().unwrap().status.success()
    };
    assert!(wait(&place.mountpoint()));
    // A link to the mount, and one to the directory above it: the application would be given what they lead to later.
    symlink(place.mountpoint(), root.join("link")).unwrap();
    symlink(place.mountpoint().parent().unwrap(), root.join("above")).unwrap();
    assert!(!wait(&root.join("link")) && !wait(&root.join("above/mount point")));
    // Planted in place of a directory since it was mounted.
    fs::rename(root.join("deep"), root.join("moved")).unwrap();
    symlink(root.join("moved"), root.join("deep")).unwrap();
    assert!(!wait(&place.mountpoint()));
    fs::remove_file(root.join("deep")).unwrap();
    fs::rename(root.join("moved"), root.join("deep")).unwrap();
    assert!(wait(&place.mountpoint()));
}

#[test]
fn f6_links_of_the_content_lead_no_gate_out_of_it() {
    let Some(mut place) = place() else { return };
    for (name, target) in [("out", "/etc"), ("up", ".."), ("near", "directory")] {
        symlink(target, place.source().join(name)).unwrap();
    }
    fs::create_dir(place.source().join("directory")).unwrap();
    place.start(&[]);
    for (sub_path, passes) in [("directory", true), ("near", true), ("out", false), ("up", false)] {
        let mut program = place.program("wait");
        let output = program.args(["--timeout", "300ms", "--sub-path", sub_path]).output().unwrap();
        assert_eq!(output.status.success(), passes, "{sub_path} {}", words(&output));
    }
}

const CONTENT: &str = "0123456789";

fn store() -> Store {
    Store::start(|asked| match asked.is_listing() {
        true => asked.list(&entry("file", "10", "&quot;a&quot;")),
        false => asked.bytes("ETag: \"a\"\r\n", CONTENT),
    })
}

#[test]
fn f6_nothing_is_kept_through_a_link() {
    let Some(mut place) = place() else { return };
    let cache = place.root.path().join("cache");
    mkdirat(CWD, &cache, Mode::from_raw_mode(0o777)).unwrap();
    // Names of files are made of what everybody knows.
    let modified = UNIX_EPOCH + Duration::from_secs(1_706_933_106);
    let version = Version { key: "file".to_string(), size: 10, etag: Some("\"a\"".to_string()), modified };
    let name = DiskCache::stem("s3://data", &version);
    let victim = |kind: &str| place.root.path().join(format!("victim-{kind}"));
    for (kind, is_hard) in [("data", false), ("map", true), ("new", false)] {
        fs::write(victim(kind), "precious").unwrap();
        let planted = cache.join(format!("{name}.{kind}"));
        match is_hard {
            true => fs::hard_link(victim(kind), planted).unwrap(),
            false => symlink(victim(kind), planted).unwrap(),
        }
    }
    let victims = ["data", "map", "new"].map(victim);
    let store = store();
    start(&mut place, &store.endpoint, &["--source", "s3://data", "--cache-dir", cache.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(place.mountpoint().join("file")).unwrap(), CONTENT);
    place.signal(rustix::process::Signal::TERM);
    assert!(place.ended().success());
    for victim in victims {
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious", "{victim:?}");
    }
    let kept = cache.join(format!("{name}.data"));
    assert_eq!(fs::read_to_string(&kept).unwrap(), CONTENT);
    assert!(fs::symlink_metadata(&kept).unwrap().is_file());
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn f6_a_cache_directory_is_ours() {
    let Some(place) = place() else { return };
    let root = place.root.path();
    let victim = root.join("victim");
    fs::write(&victim, "precious").unwrap();
    let refused = |cache: &std::path::Path| {
        let mut program = place.program("mount");
        program.env(env::SOURCE, place.url()).env(env::CACHE_DIR, cache);
        fails(&mut program)
    };
    // The lock, and the directory itself.
    fs::create_dir(root.join("cache")).unwrap();
    symlink(&victim, root.join("cache/lock")).unwrap();
    assert!(refused(&root.join("cache")).contains("\"lock\""));
    symlink(root.join("cache"), root.join("link")).unwrap();
    assert!(refused(&root.join("link")).contains("is a link"));
    // In a directory of everybody there is one of ours, unless somebody was faster.
    let shared = root.join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    symlink(root.join("cache"), shared.join("fluid-fuse-0")).unwrap();
    assert!(refused(&shared).contains("is a link"));
    fs::remove_file(shared.join("fluid-fuse-0")).unwrap();
    fs::create_dir(shared.join("fluid-fuse-0")).unwrap();
    std::os::unix::fs::chown(shared.join("fluid-fuse-0"), Some(65534), None).unwrap();
    assert!(refused(&shared).contains("belongs to the user 65534"));
    assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
    assert_eq!(fs::metadata(&shared).unwrap().permissions().mode() & 0o7777, 0o1777);
}
