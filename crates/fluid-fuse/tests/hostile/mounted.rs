//! A real mount of a malicious store: who waits, what it costs, and what is written into the log.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::store::{Asked, Store, entry, listing, prefix};
use crate::support::place::{Place, eventually, place};
use crate::support::{log, start};

fn mount(place: &mut Place, store: &Store, arguments: &[&str]) {
    start(place, &store.endpoint, &[&["--source", "s3://data"], arguments].concat());
}

/// The root has directories; the others are the test's.
fn serve(asked: &Asked<'_>, others: impl Fn(&str) -> bool) -> bool {
    let query = asked.head.split("prefix=").nth(1).map(|rest| rest.split(['&', ' ']).next().unwrap());
    match query.map(|prefix| prefix.replace("%2F", "/")) {
        Some(prefix) if asked.is_listing() && !prefix.is_empty() => others(&prefix),
        _ if asked.is_listing() => {
            let slow: String = (0..SLOW).map(|number| self::prefix(&format!("slow{number}/"))).collect();
            asked.list(&[self::prefix("bad/"), self::prefix("good/"), slow].concat())
        }
        _ => asked.answer("404 Not Found", "", ""),
    }
}

/// More than there are threads that ask for names.
const SLOW: usize = 90;

/// Kilobytes of memory that the process had at most.
fn memory(place: &Place) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", place.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn f11_slow_listings_keep_nobody_else_waiting() {
    let Some(mut place) = place() else { return };
    let held = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&held);
    let store = Store::start(move |asked| {
        serve(asked, |prefix| match prefix {
            "good/" => asked.list(&entry("good/file", "1", "e")),
            _ => {
                counter.fetch_add(1, Ordering::SeqCst);
                asked.trickle()
            }
        })
    });
    mount(&mut place, &store, &["--io-timeout", "20s"]);
    let ended = AtomicUsize::new(0);
    thread::scope(|scope| {
        let directory = |name: String| place.mountpoint().join(name);
        for number in 0..SLOW {
            let (directory, ended) = (directory(format!("slow{number}")), &ended);
            scope.spawn(move || {
                let found = fs::read_dir(directory).and_then(|mut found| found.next().transpose());
                assert!(found.is_err(), "{found:?}");
                ended.fetch_add(1, Ordering::SeqCst);
            });
        }
        // More are under way than there are threads without being stuck.
        eventually(|| (held.load(Ordering::SeqCst) > 32).then_some(()));
        let names: Vec<_> =
            fs::read_dir(directory("good".into())).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!((names, ended.load(Ordering::SeqCst)), (vec!["file".into()], 0));
    });
    assert_eq!(ended.load(Ordering::SeqCst), SLOW);
}

#[test]
fn f11_whoever_waits_can_be_killed_once_the_time_is_up() {
    let Some(mut place) = place() else { return };
    let store = Store::start(|asked| serve(asked, |_| asked.trickle()));
    mount(&mut place, &store, &["--io-timeout", "1s"]);
    let before = store.requests();
    let mut children: Vec<_> = (0..SLOW)
        .map(|number| {
            let slow: PathBuf = place.mountpoint().join(format!("slow{number}"));
            Command::new("ls").arg(slow).stderr(std::process::Stdio::null()).spawn().unwrap()
        })
        .collect();
    eventually(|| (store.requests() > before).then_some(()));
    for child in &mut children {
        child.kill().unwrap();
        eventually(|| child.try_wait().unwrap());
    }
}

#[test]
fn f11_no_answer_takes_the_memory() {
    let Some(mut place) = place() else { return };
    let piece = entry("bad/a", "1", "e").repeat(1000);
    let store = Store::start(move |asked| {
        serve(asked, |prefix| match prefix {
            "good/" => asked.list(&entry("good/file", "1", "e")),
            "bad/" => {
                // New names without end.
                let name =
                    |number: usize| entry(&format!("bad/{:09}", asked.number * 100 + number), "1", "e");
                let names: String = (0..100).map(name).collect();
                asked.answer("200 OK", "", &listing(&names, Some("same")))
            }
            _ => {
                asked.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
                while asked.send(piece.as_bytes()) {}
                false
            }
        })
    });
    mount(&mut place, &store, &["--io-timeout", "5s", "--memory", "16MiB"]);
    let before = memory(&place);
    thread::scope(|scope| {
        for number in 0..6 {
            let directory = place.mountpoint().join(format!("slow{number}"));
            scope.spawn(move || assert!(fs::read_dir(directory).unwrap().next().unwrap().is_err()));
        }
    });
    assert!(fs::read_dir(place.mountpoint().join("bad")).unwrap().any(|name| name.is_err()));
    assert_eq!(fs::read_dir(place.mountpoint().join("good")).unwrap().count(), 1);
    // Six answers of 16 MiB, each in a buffer that has grown to twice of that at most.
    let grown = memory(&place) - before;
    assert!(grown < 256 << 10, "{grown} kB");
}

#[test]
fn f13_nothing_of_a_store_is_in_the_log_but_escaped() {
    let Some(mut place) = place() else { return };
    let odd = "x&#27;[2J&#10;[2024-01-01T00:00:00Z ERROR forged&#13;\u{202e}\u{9b}\u{200b}";
    let name = "x\u{1b}[2J\n[2024-01-01T00:00:00Z ERROR forged\r\u{202e}\u{9b}\u{200b}";
    let entries =
        [entry(&format!("bad/{odd}"), "10", "&quot;a&quot;"), entry(&format!("bad/{odd}2"), "-1", odd)]
            .concat();
    let store = Store::start(move |asked| match asked.is_listing() {
        true => serve(asked, |prefix| match prefix {
            "bad/" => asked.list(&entries),
            _ => asked.answer(
                "400 \u{202e}",
                "Retry-After: \u{1b}\r\n",
                "<Error><Code>\u{1b}[2J\u{202e}Evil</Code></Error>",
            ),
        }),
        // Of some, the bytes are refused; of others, they are too few.
        false => match asked.number % 3 {
            0 => {
                asked.answer("403 \u{1b}[2J", "", "<Error><Code>Access\u{1b}[2JDenied\u{202e}</Code></Error>")
            }
            1 => asked.answer("503 \u{9b}", "Retry-After: 9\u{1b}\r\n", "<Error><Code>\u{1b}</Code></Error>"),
            _ => asked.bytes("ETag: \"a\u{1b}\"\r\n", "012345678"),
        },
    });
    mount(&mut place, &store, &["--io-timeout", "1s", "--slow-read", "100ms"]);
    for _ in 0..3 {
        let _ = fs::read(place.mountpoint().join("bad").join(name));
        let _ = fs::metadata(place.mountpoint().join("bad").join(format!("{name}3")));
        let _ = fs::read_dir(place.mountpoint().join("good")).and_then(|mut names| names.next().transpose());
        thread::sleep(Duration::from_millis(10));
    }
    let log = log(&place);
    assert!(log.contains("forged"), "names are in the log: {log}");
    for line in log.lines() {
        assert!(line.starts_with("[20") && !line.contains("ERROR forged]"), "{line:?}");
        let hidden = |letter: char| letter.is_control() || "\u{202e}\u{200b}\u{9b}".contains(letter);
        assert!(!line.contains(hidden), "{line:?}");
    }
    assert!(!log.lines().any(|line| line.starts_with("[2024-01-01")), "{log}");
}
