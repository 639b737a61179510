//! Listings, by the library: what they may be, how long, and how large.

use std::time::Duration;

use fluid_fuse::remote::{self, BucketConfig};
use fluid_fuse::store::StoreError;

use crate::store::{Asked, Store, entry, keys, listing, prefix};

/// Longer than any test here takes.
const EVER: Duration = Duration::from_secs(60);

/// What may lie in the buffers of two sockets, beside the 16 MiB that are read of an answer.
const MOST_SENT: usize = (16 + 16) << 20;

#[test]
fn f11_one_bad_entry_hides_no_other() {
    let long = "x".repeat(70_000);
    let bad = [
        entry("p/negative", "-1", "e"),
        entry("p/large", "99999999999999999999", "e"),
        entry(&format!("p/{long}"), "1", "e"),
        entry("elsewhere/x", "1", "e"),
        entry("p/control&#27;[2J&#0;", "1", "e"),
        entry("p/date", "1", "e").replace("2024", "yesterday"),
        "<Contents><Key>p/alone</Key></Contents>".to_string(),
        prefix("q/"),
        prefix(&format!("p/{long}/")),
    ]
    .concat();
    let good =
        [entry("p/good", "1", "&quot;e&quot;"), entry("p/long-etag", "1", &long), prefix("p/d/")].concat();
    let store = Store::start(move |asked| asked.list(&format!("{bad}{good}{bad}")));
    for url in ["s3://data/p", "s3://data"] {
        let (inside, below) = if url.ends_with('p') { ("", "") } else { ("p/", "p/") };
        let found = keys(&*store.s3(url, EVER), inside).unwrap();
        let expected = ["d/", "good", "long-etag"].map(|name| format!("{below}{name}"));
        assert_eq!(found, expected, "{url}");
    }
}

#[test]
fn f11_keys_outside_of_the_root_are_no_fault() {
    // Each of them made the library panic, or cut a letter in two.
    let entries = ["", "/", "t", "train", "trai\u{e9}\u{e9}", "/train/x", "train/../x", "train/ok"];
    let entries: String = entries.iter().map(|key| entry(key, "1", "e")).collect();
    let store = Store::start(move |asked| asked.list(&entries));
    for listed in [keys(&*store.s3("s3://data", EVER), ""), keys(&*store.s3("s3://data", EVER), "train/")] {
        assert!(listed.unwrap().iter().any(|key| key == "train/ok"));
    }
    let found = keys(&*store.s3("s3://data/train", EVER), "").unwrap();
    assert_eq!(found, ["../x", "ok"], "what cannot be a name is not shown by who shows it");
}

fn without_end(asked: &Asked<'_>, start: &str, piece: &str) -> bool {
    let mut goes_on = asked.send(start.as_bytes());
    while goes_on {
        goes_on = asked.send(piece.as_bytes());
    }
    false
}

#[test]
fn f11_an_answer_has_an_end() {
    let piece = entry("a", "1", "e").repeat(1000);
    let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
    let plain = "HTTP/1.1 200 OK\r\n";
    for (start, piece) in [
        (format!("{plain}Transfer-Encoding: chunked\r\n\r\n"), chunk),
        (format!("{plain}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"), piece.clone()),
        (format!("{plain}Content-Length: 18446744073709551615\r\n\r\n"), piece.clone()),
        (format!("{plain}Content-Length: 40000000\r\n\r\n"), piece.clone()),
        (format!("{plain}Connection: close\r\n\r\n"), piece.clone()),
        (format!("{plain}X: "), piece),
    ] {
        let shown = start.clone();
        let store = Store::start(move |asked| without_end(asked, &start, &piece));
        let listed = keys(&*store.s3("s3://data", EVER), "");
        assert!(
            matches!(listed, Err(StoreError::Failed(_) | StoreError::Unavailable(_))),
            "{shown} {listed:?}"
        );
        assert!(store.sent() < MOST_SENT && store.requests() == 1, "{shown}: {} bytes", store.sent());
    }
}

#[test]
fn f11_documents_of_a_web_server_have_an_end() {
    let piece = "<a href='x'>x</a>".repeat(1000);
    let start = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let store = Store::start(move |asked| without_end(asked, start, &piece));
    let options = [("manifest".to_string(), format!("{}/manifest", store.endpoint))];
    for options in [[].into(), options.into()] {
        let bucket = remote::open(&store.endpoint, &options).unwrap();
        assert!(matches!(keys(&*bucket, ""), Err(StoreError::Failed(_))));
    }
    assert!(store.sent() < 2 * MOST_SENT && store.requests() == 2);
}

/// How many pages are asked for until the listing is given up.
fn pages(page: impl Fn(usize) -> (String, String) + Send + Sync + 'static) -> usize {
    let store = Store::start(move |asked| {
        let (entries, token) = page(asked.number);
        asked.answer("200 OK", "", &listing(&entries, Some(&token)))
    });
    let listed = keys(&*store.s3("s3://data", EVER), "");
    assert!(matches!(&listed, Err(StoreError::Failed(_))), "{listed:?}");
    store.requests()
}

#[test]
fn f11_pages_have_an_end() {
    let names = |from: usize| -> String {
        (0..10).map(|name| entry(&format!("{:06}", from + name), "1", "e")).collect()
    };
    // The same token again and again, also with new names each time.
    assert_eq!(pages(move |_| (names(0), "same".to_string())), 2);
    assert_eq!(pages(move |number| (names(number * 10), "same".to_string())), 3);
    // Two in turn.
    assert_eq!(pages(move |number| (names(number * 10), format!("{}", number % 2))), 4);
    // Another token each time, and names that were there before.
    assert_eq!(pages(move |number| (names(0), number.to_string())), 2);
    // Pages without a name.
    assert_eq!(pages(|number| (String::new(), number.to_string())), 101);
}

/// The value of a parameter of a request.
fn parameter(asked: &Asked<'_>, name: &str) -> Option<String> {
    let target = asked.head.split(' ').nth(1)?;
    let query = target.split_once('?')?.1;
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.to_string())
}

/// A page of 25 keys from a place on, as ListObjects has it; the marker is missing if nobody asks for one.
fn page_by_marker(marker: Option<&str>, has_next: bool) -> String {
    let from = marker.map_or(0, |marker| marker.parse::<usize>().unwrap() + 1);
    let entries: String = (from..25).take(10).map(|name| entry(&format!("{name:06}"), "1", "e")).collect();
    let is_truncated = from + 10 < 25;
    let next = format!("<NextMarker>{:06}</NextMarker>", from + 9);
    let next = if is_truncated && has_next { next } else { String::new() };
    format!("<ListBucketResult><IsTruncated>{is_truncated}</IsTruncated>{next}{entries}</ListBucketResult>")
}

#[test]
fn minio_go_719_a_store_may_know_markers_alone() {
    for has_next in [true, false] {
        let store = Store::start(move |asked| {
            let marker = parameter(asked, "marker");
            asked.answer("200 OK", "", &page_by_marker(marker.as_deref(), has_next))
        });
        let bucket = store.s3("s3://data", EVER);
        let all: Vec<_> = (0..25).map(|name| format!("{name:06}")).collect();
        assert_eq!(keys(&*bucket, "").unwrap(), all);
        // Once as everybody else is asked, then by markers.
        assert_eq!(store.requests(), 1 + 3);
        assert_eq!(keys(&*bucket, "").unwrap(), all);
        assert_eq!(store.requests(), 4 + 3, "that is kept");
    }
}

#[test]
fn mc_3067_a_listing_that_goes_on_nowhere_ends() {
    // Says that there are more, and gives the same page whatever it is asked.
    let store = Store::start(|asked| asked.answer("200 OK", "", &page_by_marker(None, false)));
    let bucket = store.s3("s3://data", EVER);
    for requests in [3, 2] {
        let before = store.requests();
        let listed = keys(&*bucket, "");
        assert!(matches!(&listed, Err(StoreError::Failed(_))), "{listed:?}");
        assert_eq!(store.requests() - before, requests);
    }
    // A token that is empty, or comes with the second page no more.
    for tokens in [["", ""], ["1", ""]] {
        let store = Store::start(move |asked| {
            let names = entry(&format!("{:06}", asked.number.min(3)), "1", "e");
            asked.answer("200 OK", "", &listing(&names, Some(tokens[asked.number.min(1)])))
        });
        let listed = keys(&*store.s3("s3://data", EVER), "");
        assert!(matches!(&listed, Err(StoreError::Failed(_))), "{listed:?}");
        assert!(store.requests() <= 10, "{}", store.requests());
    }
}

#[test]
fn f11_a_directory_has_an_end() {
    // Keys of a kilobyte: 128 MiB are full after some 110 pages of 1,000.
    let tail = "k".repeat(240);
    let tail = format!("{tail}/{tail}/{tail}/{tail}");
    let asked = pages(move |number| {
        let one = |name: usize| prefix(&format!("{:09}{tail}/", number * 1000 + name));
        ((0..1000).map(one).collect(), number.to_string())
    });
    assert!(asked < 200, "{asked} pages");
}

#[test]
fn f11_a_slow_answer_has_an_end() {
    for start in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n",
    ] {
        let store = Store::start(move |asked| {
            let chunked = start.contains("chunked");
            let mut goes_on = asked.send(start.as_bytes());
            while goes_on {
                std::thread::sleep(Duration::from_millis(20));
                goes_on = asked.send(if chunked { b"1\r\n \r\n" } else { b" " });
            }
            false
        });
        let listed = keys(&*store.s3("s3://data", Duration::from_millis(500)), "");
        assert!(matches!(&listed, Err(StoreError::Unavailable(_))), "{listed:?}");
        assert_eq!(store.requests(), 1);
    }
}

#[test]
fn f11_a_head_may_be_large_and_no_fault() {
    for size in [1_000, 30_000, 60_000, 70_000, 1 << 20] {
        let long = format!("ETag: \"{}\"\r\nContent-Type: {}\r\n", "e".repeat(size), "t".repeat(size / 2));
        let store = Store::start(move |asked| asked.answer("200 OK", &long, "0123456789"));
        match store.s3("s3://data", EVER).head("file") {
            Ok(version) => {
                assert_eq!((version.size, version.etag.is_some()), (10, size < 1024), "{size}");
            }
            Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}"),
        }
    }
}

#[test]
fn f11_one_bad_line_of_an_index_hides_no_other() {
    let index = r#"[{"name":"a","type":"file","size":1},{"name":"b","type":"file","size":-1},7,{"name":5},
        {"name":"d","type":"directory"}]"#;
    let store = Store::start(move |asked| match asked.is("HEAD ") {
        true => asked.answer("404 Not Found", "", ""),
        false => asked.answer("200 OK", "", index),
    });
    let bucket = remote::open_with(&store.endpoint, &[].into(), &BucketConfig::default()).unwrap();
    assert_eq!(keys(&*bucket, "").unwrap(), ["a", "d/"]);
}
