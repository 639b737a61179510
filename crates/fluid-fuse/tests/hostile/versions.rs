//! Versions: what an ETag may be, and what proves that bytes are of one.

use std::io::Read as _;
use std::time::Duration;

use fluid_fuse::remote::{self, Bucket, Item, Version};
use fluid_fuse::store::StoreError;

use crate::store::{Asked, Store, entry};

const EVER: Duration = Duration::from_secs(60);
const CONTENT: &str = "0123456789";

fn read(bucket: &dyn Bucket, version: &Version) -> Result<String, StoreError> {
    let mut text = String::new();
    let mut body = bucket.get(version, 0..version.size)?;
    body.read_to_string(&mut text).map_err(|error| StoreError::Unavailable(error.to_string()))?;
    Ok(text)
}

fn versions(bucket: &dyn Bucket) -> Vec<Version> {
    let mut found = Vec::new();
    let listed = bucket.list("", &mut |items| {
        found.extend(items.into_iter().filter_map(|item| match item {
            Item::Object(version) => Some(version),
            Item::Prefix(_) => None,
        }));
        std::ops::ControlFlow::Continue(())
    });
    assert!(listed.unwrap());
    found
}

const EVIL: &[&str] = &[
    "&quot;e1&quot;&#13;&#10;X-Evil: injected",
    "&quot;e1&#13;&#10;&#13;&#10;GET /evil HTTP/1.1&#13;&#10;&#13;&#10;&quot;",
    "&quot;a&#10;X-Evil: 1&quot;",
    "&quot;a&quot;, &quot;*&quot;",
    "*",
    "&quot;a b&quot;",
    "&quot;&#127;&quot;",
    "&quot;&#x1b;[31m&quot;",
];

#[test]
fn f12_an_etag_stays_in_its_line() {
    let entries: String =
        (0..).zip(EVIL).map(|(number, etag)| entry(&format!("f{number}"), "10", etag)).collect();
    let store = Store::start(move |asked| match asked.is_listing() {
        true => asked.list(&entries),
        false => asked.bytes("Last-Modified: Sat, 03 Feb 2024 04:05:06 GMT\r\nETag: \"x\"\r\n", CONTENT),
    });
    let bucket = store.s3("s3://data", EVER);
    let found = versions(&*bucket);
    assert_eq!(found.len(), EVIL.len());
    for version in &found {
        let read = read(&*bucket, version);
        match &version.etag {
            None => assert_eq!(read.unwrap(), CONTENT, "{version:?}"),
            // In quotes it is one, and not what stands for any.
            Some(etag) => assert!(etag == "\"*\"" && matches!(read, Err(StoreError::Stale)), "{version:?}"),
        }
    }
    for head in store.heads() {
        assert!(!head.to_lowercase().contains("evil") && !head.contains('\u{1b}'), "{head}");
        assert_eq!(head.matches("HTTP/1.1\r\n").count(), 1, "{head}");
    }
}

#[test]
fn f12_an_etag_of_a_manifest_stays_in_its_line() {
    let manifest = "a\t10\tx\" y\nb\t10\t\"e\"\u{1b}\nc\t10\t\u{202e}\nd\t10\tgood\n";
    let store = Store::start(move |asked| match asked.is("/manifest") {
        true => asked.answer("200 OK", "", manifest),
        false => asked.bytes("ETag: \"good\"\r\n", CONTENT),
    });
    let options = [("manifest".to_string(), format!("{}/manifest", store.endpoint))];
    let bucket = remote::open(&store.endpoint, &options.into()).unwrap();
    let found = versions(&*bucket);
    assert_eq!(found.len(), 4);
    for version in &found {
        let _ = read(&*bucket, version);
    }
    let conditions: Vec<_> = store
        .heads()
        .iter()
        .filter_map(|head| {
            head.split_once("if-match: ").map(|(_, rest)| rest.split("\r\n").next().unwrap().to_string())
        })
        .collect();
    assert!(
        conditions.iter().all(|condition| ["\"good\"", "\"\u{202e}\""].contains(&condition.as_str())),
        "{conditions:?}"
    );
}

/// Answers for a file whose parts do not tell their version.
fn silent(asked: &Asked<'_>, now: &str) -> bool {
    match asked.is("HEAD ") {
        true => asked.answer("200 OK", &format!("ETag: {now}\r\n"), CONTENT),
        false => asked.bytes("", CONTENT),
    }
}

#[test]
fn f13_a_part_that_does_not_tell_its_version_is_no_proof() {
    let version = Version {
        key: "file".to_string(),
        size: 10,
        etag: Some("\"a\"".to_string()),
        modified: std::time::UNIX_EPOCH,
    };
    let same = Store::start(|asked| silent(asked, "\"a\""));
    let other = Store::start(|asked| silent(asked, "\"b\""));
    for way in ["http1", "library"] {
        let web = |store: &Store| {
            remote::open(&store.endpoint, &[("http_client".to_string(), way.to_string())].into()).unwrap()
        };
        for bucket in [web(&same), same.s3("s3://data", EVER)] {
            assert_eq!(read(&*bucket, &version).unwrap(), CONTENT);
        }
        for bucket in [web(&other), other.s3("s3://data", EVER)] {
            assert!(matches!(read(&*bucket, &version), Err(StoreError::Stale)), "{way}");
        }
    }
    assert!(same.heads().iter().any(|head| head.starts_with("HEAD ")));
}
