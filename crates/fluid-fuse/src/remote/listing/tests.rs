use super::json::{google, hdfs};
use super::xml::xml;
use super::*;

fn cleaned(scheme: Scheme, prefix: &str, body: &str) -> (String, usize, Vec<String>) {
    let mut body = body.as_bytes().to_vec();
    let found = match scheme {
        Scheme::Gcs => google(&mut body, prefix),
        Scheme::Webhdfs => hdfs(&mut body),
        _ => xml(&mut body, prefix),
    };
    let found = found.unwrap().unwrap();
    let keys = found.keys.into_iter().map(|(key, _)| key).collect();
    (String::from_utf8(body).unwrap(), found.skipped, keys)
}

const DATE: &str = "<LastModified>2024-02-03T04:05:06.000Z</LastModified>";

fn contents(key: &str, size: &str, rest: &str) -> String {
    format!("<Contents><Key>{key}</Key>{rest}<Size>{size}</Size></Contents>")
}

#[test]
fn what_cannot_be_is_cut_out_of_s3s() {
    let good =
        contents("p/a&amp;b", "1", &format!("{DATE}<ETag>&quot;x&quot;</ETag><Owner><ID>1</ID></Owner>"));
    let prefix = "<CommonPrefixes><Prefix>p/d/</Prefix></CommonPrefixes>";
    let long = "x".repeat(2000);
    let bad = [
        contents("p/n", "-5", DATE),
        contents("p/n", "18446744073709551616", DATE),
        contents("p/n", "1", "<LastModified>yesterday</LastModified>"),
        contents("elsewhere", "1", DATE),
        contents("", "1", DATE),
        contents(&format!("p/{long}"), "1", DATE),
        contents("p/n&#0;&unknown;", "1", DATE),
        contents("p/n<Key>m</Key>", "1", DATE),
        contents("p/n", "1", &format!("{DATE}{DATE}")),
        "<Contents/>".to_string(),
        "<Contents><Key nil='true'>p/n</Key><Size>1</Size></Contents>".to_string(),
        "<CommonPrefixes><Prefix>q/</Prefix></CommonPrefixes>".to_string(),
    ];
    let root = |inner: &str| {
        format!("<?xml version='1.0'?><ListBucketResult xmlns='x'><Name>n</Name>{inner}</ListBucketResult>")
    };
    let (body, skipped, keys) =
        cleaned(Scheme::S3, "p/", &root(&format!("{}{good}{prefix}{}", bad.concat(), bad.concat())));
    assert_eq!((body, skipped), (root(&format!("{good}{prefix}")), 2 * bad.len()));
    assert_eq!(keys, ["p/a&b", "p/d/"]);
    // Invalid ETags are removed.
    let without = contents("p/a", "1", DATE);
    for etag in ["&quot;a&#13;&#10;X-Evil: 1&quot;", "a b", &format!("&quot;{long}&quot;"), "\u{1b}"] {
        let etag = contents("p/a", "1", &format!("{DATE}<ETag>{etag}</ETag>"));
        assert_eq!(cleaned(Scheme::S3, "p/", &root(&etag)).0, root(&without));
    }
}

#[test]
fn what_cannot_be_is_cut_out_of_azures() {
    let blob = |name: &str, size: &str, date: &str, etag: &str| {
        format!(
            "<Blob><Name>{name}</Name><Properties><Last-Modified>{date}</Last-Modified><Etag>{etag}</Etag>\
             <Content-Length>{size}</Content-Length><Content-Type>t</Content-Type></Properties></Blob>"
        )
    };
    let date = "Sat, 03 Feb 2024 04:05:06 GMT";
    let good = blob("a", "1", date, "0x8");
    let bad =
        [blob("b", "-1", date, "0x8"), blob("c", "1", "2024", "0x8"), "<Blob><Name>d</Name></Blob>".into()];
    let root = |inner: &str| {
        format!(
            "<EnumerationResults><Blobs>{inner}<BlobPrefix><Name>p/</Name></BlobPrefix></Blobs><NextMarker/></EnumerationResults>"
        )
    };
    let (body, skipped, keys) =
        cleaned(Scheme::Azblob, "", &root(&format!("{}{good}{}", bad.concat(), bad[0])));
    assert_eq!((body, skipped, keys), (root(&good), 4, vec!["a".to_string(), "p/".to_string()]));
}

#[test]
fn what_cannot_be_is_cut_out_of_json() {
    let item = |name: &str, size: &str, updated: &str| {
        format!(r#"{{"name":"{name}","size":"{size}","updated":"{updated}","generation":"17"}}"#)
    };
    let good = item("p/a", "1", "2024-02-03T04:05:06Z");
    let bad =
        [item("p/b", "-1", "2024-02-03T04:05:06Z"), item("p/c", "1", "x"), item("q", "1", "x"), "7".into()];
    let page = |items: &str, prefixes: &str| {
        format!(r#"{{"items":[{items}], "prefixes":[{prefixes}],"nextPageToken":"t"}}"#)
    };
    let listed =
        page(&[&bad[..], std::slice::from_ref(&good), &bad[..]].concat().join(" , "), r#""p/d/","q/",3"#);
    let (body, skipped, keys) = cleaned(Scheme::Gcs, "p/", &listed);
    assert_eq!((body, skipped), (page(&good, r#""p/d/""#), 10));
    assert_eq!(keys, ["p/a", "p/d/"]);

    let status = |name: &str, kind: &str, length: &str, time: &str| {
        format!(r#"{{"length":{length},"modificationTime":{time},"pathSuffix":"{name}","type":"{kind}"}}"#)
    };
    let good = status("a", "FILE", "1", "1");
    let bad = [
        status("b", "FILE", "-1", "1"),
        status("c", "SYMLINK", "1", "1"),
        status("d/e", "FILE", "1", "1"),
        status("f", "FILE", "1", "9223372036854775807"),
    ];
    for (start, end) in [
        (r#"{"FileStatuses":{"FileStatus":["#, "]}}"),
        (
            r#"{"DirectoryListing":{"partialListing":{"FileStatuses":{"FileStatus":["#,
            r#"]}},"remainingEntries":0}}"#,
        ),
    ] {
        let listed = format!("{start}{},{good}{end}", bad.join(","));
        let (body, skipped, keys) = cleaned(Scheme::Webhdfs, "", &listed);
        assert_eq!((body, skipped, keys), (format!("{start}{good}{end}"), 4, vec!["a".to_string()]));
    }
}

#[test]
fn a_listing_must_make_progress() {
    let page = |names: std::ops::Range<u32>| {
        let entries: String = names.map(|name| contents(&name.to_string(), "1", DATE)).collect();
        format!("<ListBucketResult>{entries}</ListBucketResult>").into_bytes()
    };
    let take = |guard: &mut ListingGuard, token: u32, names| {
        let uri = format!("http://store/?token={token}").parse().unwrap();
        guard.take(&uri, &mut page(names)).map_err(|error| error.to_string())
    };
    let mut guard = ListingGuard::new(Scheme::S3, String::new());
    assert_eq!(take(&mut guard, 0, 0..5), Ok(()));
    assert_eq!(take(&mut guard, 1, 4..6), Ok(()));
    assert!(take(&mut guard, 1, 6..7).unwrap_err().contains("the same page twice"));
    assert!(take(&mut guard, 2, 1..4).unwrap_err().contains("makes no progress"));
    assert_eq!(take(&mut guard, 3, 0..0), Ok(()));
    let empty = (4..).map(|token| take(&mut guard, token, 0..0)).take_while(Result::is_ok).count();
    assert_eq!(empty, EMPTY_PAGES - 1);
    // A server of credentials may repeat its response.
    let uri = "http://169.254.169.254/".parse().unwrap();
    for _ in 0..3 {
        assert!(guard.take(&uri, &mut b"<Other/>".to_vec()).is_ok());
    }
}

#[test]
fn any_bytes_are_taken() {
    let whole =
        format!("<ListBucketResult><Contents><Key>a</Key>{DATE}<Size>1</Size></Contents></ListBucketResult>");
    for end in 0..whole.len() {
        let mut cut = whole.as_bytes()[..end].to_vec();
        let _ = xml(&mut cut, "");
        for odd in [b'<', b'&', b'"', 0, 0xff] {
            let mut changed = whole.as_bytes().to_vec();
            changed[end] = odd;
            let _ = xml(&mut changed, "");
            let _ = google(&mut changed, "");
            let _ = hdfs(&mut changed);
        }
    }
}
