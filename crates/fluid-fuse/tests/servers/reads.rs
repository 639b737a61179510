//! What readers do.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use crate::support::check;
use crate::support::content::Content;
use crate::support::place::{eventually, names, words};
use crate::{Mounted, Store};

/// So that what is replaced is seen soon.
pub(crate) const ARGUMENTS: &[&str] = &["--metadata-ttl=500ms"];

const SEQUENTIAL: (&str, Content) =
    ("nested/deep/er/sequential.bin", Content { seed: 1, size: (8 << 20) + 5 });
const RANDOM: (&str, Content) = ("random.bin", Content { seed: 2, size: (12 << 20) + 7 });
const HELD: (&str, Content) = ("held.bin", Content { seed: 3, size: (12 << 20) + 9 });
const ODD: (&str, Content) = ("nested/a b+ü&=%20#.txt", Content { seed: 4, size: 777 });
const TOP: (&str, Content) = ("top.txt", Content { seed: 5, size: 100 });
const SMALL: u64 = 30;

fn small(number: u64) -> (String, Content) {
    (format!("small/{number:03}"), Content::new(10 + number, 1 + number * 997))
}

/// What is read then.
pub(crate) fn fill(store: &impl Store) {
    for (key, content) in [SEQUENTIAL, RANDOM, HELD, ODD, TOP] {
        store.put(key, &content.whole());
    }
    for (key, content) in (0..SMALL).map(small) {
        store.put(&key, &content.whole());
    }
}

/// Names, attributes and bytes.
pub(crate) fn what_is_there(mounted: &Mounted<impl Store>) {
    assert_eq!(names(&mounted.path("")), ["held.bin", "nested", "random.bin", "small", "top.txt"]);
    assert_eq!(names(&mounted.path("nested")), ["a b+ü&=%20#.txt", "deep"]);
    assert_eq!(names(&mounted.path("nested/deep/er")), ["sequential.bin"]);
    assert!(!mounted.path("nested/none").exists() && !mounted.path("none/at all").exists());

    let listed = Command::new("ls").args(["-l", "--time-style=+%s"]).arg(mounted.path("small")).output();
    let listed = listed.unwrap();
    assert!(listed.status.success(), "{}", words(&listed));
    let listed = String::from_utf8(listed.stdout).unwrap();
    let rows: Vec<Vec<_>> = listed.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len() as u64, SMALL, "{listed}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for (number, row) in rows.iter().enumerate() {
        let (size, time): (u64, u64) = (row[4].parse().unwrap(), row[5].parse().unwrap());
        assert_eq!((row[0], size), ("-r--r--r--", 1 + number as u64 * 997), "{listed}");
        assert!(time.abs_diff(now) < 600, "{listed}");
    }

    let (name, content) = SEQUENTIAL;
    check(&mounted.path(name), &content);
    for (name, content) in [ODD, TOP] {
        check(&mounted.path(name), &content);
    }
    for (name, content) in (0..SMALL).map(small) {
        check(&mounted.path(&name), &content);
    }

    let (name, content) = RANDOM;
    let file = File::open(mounted.path(name)).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..40 {
        let (offset, length) = (random.u64(..content.size), random.usize(1..20_000));
        let mut bytes = vec![0; content.expected(offset, length)];
        file.read_exact_at(&mut bytes, offset).unwrap();
        assert_eq!(content.difference(offset, &bytes), None, "at {offset}");
    }
}

/// Directories that are listed in turn are right, and the store lists them flat.
pub(crate) fn walked(mounted: &Mounted<impl Store>) {
    let directories: Vec<_> = (0..8).map(|number| format!("walked/d{number}")).collect();
    for directory in &directories {
        for name in ["a", "b-c", "b/c"] {
            mounted.store.put(&format!("{directory}/{name}"), b"walked");
        }
    }
    eventually(|| mounted.path("walked").exists().then_some(()));
    assert_eq!(names(&mounted.path("walked")).len(), directories.len());
    for directory in &directories {
        assert_eq!(names(&mounted.path(directory)), ["a", "b", "b-c"]);
        assert_eq!(names(&mounted.path(&format!("{directory}/b"))), ["c"]);
    }
    let log = mounted.log();
    assert!(log.contains("listing \"walked/\" flat"), "{log}");
    let failed = log.lines().find(|line| line.contains("is not listed flat"));
    assert_eq!(failed, None);
}

/// That signatures are put on objects, not on each request.
pub(crate) fn takes_the_short_way(mounted: &Mounted<impl Store>) {
    let log = mounted.log();
    let long = log.lines().find(|line| line.contains("so reads take the library's way"));
    assert_eq!(long, None);
}

/// What is replaced is another version when it is opened again.
pub(crate) fn replaced(mounted: &Mounted<impl Store>) {
    let (name, old) = TOP;
    let new = Content::new(6, old.size);
    check(&mounted.path(name), &old);
    mounted.store.put(name, &new.whole());
    eventually(|| {
        let bytes = fs::read(mounted.path(name)).ok()?;
        assert!(bytes == new.whole() || bytes == old.whole());
        (bytes == new.whole()).then_some(())
    });
}

/// The same, and who has the old version open reads nothing of the new one.
pub(crate) fn another_version(mounted: &Mounted<impl Store>) {
    replaced(mounted);
    let (name, content) = HELD;
    let file = File::open(mounted.path(name)).unwrap();
    mounted.store.put(name, &Content::new(7, content.size).whole());
    let stale = file.read_at(&mut [0; 100], content.size / 2).unwrap_err();
    assert_eq!(stale.raw_os_error(), Some(Errno::STALE.raw_os_error()), "{stale}");
}
