//! Stores whose buckets are in the names of their hosts: COS, OBS and TOS are sent requests that are signed as they want
//! them, and their answers are understood. A proxy leads all of these hosts to a server of the test.

use std::sync::{Arc, Mutex};

use fluid_fuse::remote::Item;
use tempfile::TempDir;

use super::skip::skip;
use super::{elsewhere, list, open, proxy, read, tls};

/// URL, options, host of the bucket, and how the authorization of each request begins.
type Cloud = (&'static str, &'static [(&'static str, &'static str)], &'static str, &'static str);

/// Of OBS, another host is taken for a bucket's own domain.
const STORES: [Cloud; 3] = [
    (
        "cos://bucket/path",
        &[("endpoint", "https://cos.invalid"), ("secret_id", "AK"), ("secret_key", "SK")],
        "bucket.cos.invalid",
        "q-sign-algorithm=sha1&q-ak=AK&",
    ),
    (
        "obs://bucket/path",
        &[
            ("endpoint", "https://obs.r.myhuaweicloud.com"),
            ("access_key_id", "AK"),
            ("secret_access_key", "SK"),
        ],
        "bucket.obs.r.myhuaweicloud.com",
        "OBS AK:",
    ),
    (
        "tos://bucket/path",
        &[
            ("endpoint", "https://tos.invalid"),
            ("access_key_id", "AK"),
            ("secret_access_key", "SK"),
            ("region", "r"),
        ],
        "bucket.tos.invalid",
        "TOS4-HMAC-SHA256 Credential=AK/",
    ),
];

const CONTENT: &str = "content";

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

/// Of each request: its host and its authorization.
type Seen = Arc<Mutex<Vec<(String, String)>>>;

fn answer(head: &str, seen: &Seen) -> Vec<u8> {
    let host = header(head, "host").unwrap_or_default().to_string();
    let is_json = host.contains("tos.");
    let target = head.split(' ').nth(1).unwrap_or_default();
    // A URL that is signed in its query carries the same.
    let authorization = header(head, "authorization").unwrap_or(target).to_string();
    seen.lock().unwrap().push((host, authorization));
    let date = "2024-02-03T04:05:06.000Z";
    let (status, body) = match target.contains("prefix=") {
        true if is_json => (
            "200 OK".to_string(),
            format!(
                r#"{{"Name":"bucket","Contents":[{{"Key":"path/file","Size":7,"LastModified":"{date}","ETag":"\"e\""}}]}}"#
            ),
        ),
        true => (
            "200 OK".to_string(),
            format!(
                "<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated><Contents><Key>path/file</Key>\
                 <Size>7</Size><LastModified>{date}</LastModified><ETag>\"e\"</ETag></Contents></ListBucketResult>"
            ),
        ),
        false => ("206 X\r\nContent-Range: bytes 0-6/7\r\nETag: \"e\"".to_string(), CONTENT.to_string()),
    };
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

#[test]
fn cos_obs_and_tos_are_sent_requests_that_are_signed_as_they_want() {
    let directory = TempDir::new().unwrap();
    if !tls::certificate(directory.path(), "TRUE") {
        skip("openssl cannot make a certificate, so no TLS was spoken");
        return;
    }
    let seen = Seen::default();
    let told = seen.clone();
    let (port, _) = tls::serve_with(directory.path(), move |head| answer(head, &told));
    let (tunnels, _) = proxy::tunnels(Some(port));
    let proxy = format!("http://{}", tunnels.address());
    elsewhere("clouds::lists_and_reads", &[("https_proxy", &proxy)]);
    let seen = seen.lock().unwrap();
    for (url, _, host, signature) in STORES {
        let of_store: Vec<_> = seen.iter().filter(|(asked, _)| asked == host).collect();
        assert!(of_store.len() >= 2, "{url}: {seen:?}");
        assert!(
            of_store.iter().all(|(_, authorization)| authorization.starts_with(signature)),
            "{url}: {seen:?}"
        );
    }
}

#[test]
#[ignore = "run by cos_obs_and_tos_are_sent_requests_that_are_signed_as_they_want"]
fn lists_and_reads() {
    for (url, options, ..) in STORES {
        let bucket = open(url, &[options, &[("insecure_skip_tls_verify", "true")]].concat());
        let items = list(&*bucket, "").unwrap();
        let [Item::Object(version)] = items.as_slice() else { panic!("{url}: {items:?}") };
        assert_eq!((version.key.as_str(), version.size), ("file", 7), "{url}");
        assert_eq!(read(&*bucket, version, 0..7).unwrap(), CONTENT.as_bytes(), "{url}");
    }
}
