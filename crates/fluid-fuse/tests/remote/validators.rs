//! Stores whose responses disagree on the version of an object: a read fails only if the object did change.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fluid_fuse::remote::{Bucket, Item, Version};
use fluid_fuse::store::StoreError;

use super::faults::{Server, say};
use super::{WAYS, list, open, read};

const CONTENT: &[u8] = b"0123456789";
const SATURDAY: &str = "Sat, 03 Feb 2024 04:05:06 GMT";
const SUNDAY: &str = "Sun, 04 Feb 2024 04:05:06 GMT";

/// How a store evaluates `If-Match`.
#[derive(Clone, Copy)]
enum Condition {
    Understood,
    Ignored,
    Answered(&'static str),
}

/// How a store describes its one object.
#[derive(Clone, Copy)]
struct Manners {
    /// In the listing; none: no `ETag` at all.
    listed: Option<&'static str>,
    listed_time: &'static str,
    /// In responses for the object, one after another.
    told: &'static [&'static str],
    time: &'static str,
    condition: Condition,
    /// The response to requests with a signature in the query.
    of_query: Option<&'static str>,
}

const SOUND: Manners = Manners {
    listed: Some("\"a\""),
    listed_time: "2024-02-03T04:05:06.000Z",
    told: &["\"a\""],
    time: SATURDAY,
    condition: Condition::Understood,
    of_query: None,
};

/// The descriptions before and after the object is replaced; the second part of a response replaces it.
fn start(before: Manners, after: Manners) -> (Server, Arc<AtomicUsize>) {
    let is_replaced = Arc::new(AtomicUsize::new(0));
    let (replaced, asked) = (is_replaced.clone(), AtomicUsize::new(0));
    let server = Server::start(move |_, head, socket| {
        let manners = if replaced.load(Ordering::SeqCst) == 0 { before } else { after };
        let answer = |status: &str, headers: &str, body: &str| {
            let body = if head.starts_with("HEAD ") { "" } else { body };
            let length = if head.starts_with("HEAD ") { CONTENT.len() } else { body.len() };
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
        };
        if head.contains("list-type=2") {
            let etag = manners.listed.map(|etag| format!("<ETag>{etag}</ETag>")).unwrap_or_default();
            let listing = format!(
                "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>file</Key><LastModified>{}</LastModified>{etag}<Size>10</Size></Contents></ListBucketResult>",
                manners.listed_time
            );
            return say(socket, &answer("200 OK", "", &listing));
        }
        if let Some(status) = manners.of_query.filter(|_| head.contains("X-Amz-Signature")) {
            return say(socket, &answer(status, "", "<Error><Code>Refused</Code></Error>"));
        }
        let etag = manners.told[asked.fetch_add(1, Ordering::SeqCst) % manners.told.len()];
        let wanted = head.lines().find_map(|line| line.strip_prefix("if-match: "));
        if let (Some(wanted), false) = (wanted, head.starts_with("HEAD ")) {
            match manners.condition {
                Condition::Understood if wanted != etag => return say(socket, &answer("412 X", "", "")),
                Condition::Answered(status) => return say(socket, &answer(status, "", "")),
                Condition::Understood | Condition::Ignored => {}
            }
        }
        let etag = if etag.is_empty() { String::new() } else { format!("ETag: {etag}\r\n") };
        let common = format!("{etag}Last-Modified: {}\r\n", manners.time);
        match head.starts_with("HEAD ") {
            true => say(socket, &answer("200 OK", &common, "")),
            false => {
                let range = format!("{common}Content-Range: bytes 0-9/10\r\n");
                say(socket, &answer("206 X", &range, "0123456789"))
            }
        }
    });
    (server, is_replaced)
}

fn bucket(server: &Server, way: &str) -> Arc<dyn Bucket> {
    let options = [
        ("endpoint", server.endpoint.as_str()),
        ("access_key_id", "key"),
        ("secret_access_key", "secret"),
        ("http_client", way),
    ];
    open("s3://data", &options)
}

fn listed(bucket: &dyn Bucket) -> Version {
    let items = list(bucket, "").unwrap();
    let version = items.iter().find_map(|item| match item {
        Item::Object(version) => Some(version.clone()),
        Item::Prefix(_) => None,
    });
    version.unwrap()
}

/// The object is read, and again with one request; after it is replaced it is stale, and the new one can be read.
fn is_readable_until_replaced(before: Manners, after: Manners) {
    for way in WAYS {
        let (server, is_replaced) = start(before, after);
        let bucket = bucket(&server, way);
        let version = listed(&*bucket);
        assert_eq!(read(&*bucket, &version, 0..10).unwrap(), CONTENT, "{way}");
        let requests = server.requests();
        for _ in 0..5 {
            assert_eq!(read(&*bucket, &version, 0..10).unwrap(), CONTENT, "{way}");
        }
        assert_eq!(server.requests() - requests, 5, "{way}: what was learned is kept");

        is_replaced.store(1, Ordering::SeqCst);
        let stale = read(&*bucket, &version, 0..10);
        assert!(matches!(stale, Err(StoreError::Stale)), "{way}: {stale:?}");
        assert_eq!(read(&*bucket, &listed(&*bucket), 0..10).unwrap(), CONTENT, "{way}");
    }
}

#[test]
fn seaweedfs_7274_the_etag_of_a_listing_may_be_another() {
    let other = Manners { listed: Some("\"a-x\""), ..SOUND };
    let after = Manners { listed: Some("\"b-x\""), told: &["\"b\""], ..SOUND };
    // Replaced within the same second, by one of the same size.
    is_readable_until_replaced(other, after);
    // The listing is late.
    let late =
        Manners { listed: other.listed, time: SUNDAY, listed_time: "2024-02-04T04:05:06.000Z", ..after };
    is_readable_until_replaced(other, late);
    // A proxy weakens ETags.
    is_readable_until_replaced(Manners { told: &["W/\"a\""], ..SOUND }, after);
}

#[test]
fn mc_1187_an_empty_etag_is_none() {
    let later = Manners { time: SUNDAY, listed_time: "2024-02-04T04:05:06.000Z", ..SOUND };
    for listed in [Some(""), Some("\"\""), Some("&quot;&quot;"), None] {
        for told in [&[""], &["\"\""]] {
            let of = |manners| Manners { listed, told, ..manners };
            is_readable_until_replaced(of(SOUND), of(later));
        }
    }
    // Denied for another reason.
    let of = |manners| Manners { listed: Some("\"\""), condition: Condition::Answered("412 X"), ..manners };
    is_readable_until_replaced(of(SOUND), of(later));
}

#[test]
fn times_of_a_listing_may_be_rounded_or_differ() {
    let of = |listed_time, manners| Manners { listed: None, told: &[""], listed_time, ..manners };
    for listed_time in ["2024-02-03T04:05:05.700Z", "2024-02-03T12:05:06.000Z"] {
        let later = Manners { time: SUNDAY, ..SOUND };
        is_readable_until_replaced(of(listed_time, SOUND), of("2024-02-04T12:05:06.000Z", later));
    }
}

#[test]
fn minio_1981_a_condition_need_not_be_understood() {
    let after = Manners { listed: Some("\"b\""), told: &["\"b\""], ..SOUND };
    for condition in [Condition::Answered("501 X"), Condition::Answered("412 X"), Condition::Ignored] {
        let of = |manners| Manners { condition, ..manners };
        is_readable_until_replaced(of(SOUND), of(after));
    }
}

#[test]
fn the_etags_of_a_server_farm_may_vary() {
    let of = |condition, manners| Manners { told: &["\"a\"", "\"b\"", "\"c\""], condition, ..manners };
    let later = Manners { time: SUNDAY, listed_time: "2024-02-04T04:05:06.000Z", ..SOUND };
    for condition in [Condition::Understood, Condition::Ignored] {
        for etag in ["\"a\"", "\"d\""] {
            let (before, after) =
                (Manners { listed: Some(etag), ..SOUND }, Manners { listed: Some("\"e\""), ..later });
            for way in WAYS {
                let (server, is_replaced) = start(of(condition, before), of(condition, after));
                let bucket = bucket(&server, way);
                let version = listed(&*bucket);
                for _ in 0..20 {
                    assert_eq!(read(&*bucket, &version, 0..10).unwrap(), CONTENT, "{way}");
                }
                is_replaced.store(1, Ordering::SeqCst);
                let stale = read(&*bucket, &version, 0..10);
                assert!(matches!(stale, Err(StoreError::Stale)), "{way}: {stale:?}");
                for _ in 0..5 {
                    assert_eq!(read(&*bucket, &listed(&*bucket), 0..10).unwrap(), CONTENT, "{way}");
                }
            }
        }
    }
}

/// An object that changes all the time has another ETag each time, and never a former one.
#[test]
fn an_object_that_is_being_replaced_is_stale() {
    let count = AtomicUsize::new(0);
    let now = http_date(std::time::SystemTime::now());
    let server = Server::start(move |_, head, socket| {
        let number = count.fetch_add(1, Ordering::SeqCst) / 3;
        let common = format!("ETag: \"{number}\"\r\nLast-Modified: {now}\r\n");
        match head.starts_with("HEAD ") {
            true => say(socket, &format!("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n{common}\r\n")),
            false => say(socket, &format!("HTTP/1.1 412 X\r\nContent-Length: 0\r\n{common}\r\n")),
        }
    });
    let bucket = open(&server.endpoint, &[]);
    let version = bucket.head("file").unwrap();
    let stale = read(&*bucket, &version, 0..10);
    assert!(matches!(stale, Err(StoreError::Stale)), "{stale:?}");
    assert!(bucket.head("file").unwrap().etag.is_some(), "ETags still count");
}

fn http_date(time: std::time::SystemTime) -> String {
    opendal::raw::Timestamp::try_from(time).unwrap().format_http_date()
}

#[test]
fn minio_20469_a_policy_may_deny_signatures_in_the_query() {
    for status in ["403 X", "401 X", "400 X", "501 X"] {
        let refusing = Manners { of_query: Some(status), ..SOUND };
        let (server, _) = start(refusing, refusing);
        let bucket = bucket(&server, "http1");
        let version = listed(&*bucket);
        let requests = server.requests();
        for _ in 0..5 {
            assert_eq!(read(&*bucket, &version, 0..10).unwrap(), CONTENT, "{status}");
        }
        assert_eq!(server.requests() - requests, 6, "{status}: it is tried once in the query");
    }
}
