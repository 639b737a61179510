//! Responses of a store that did not do as requested: the bucket is elsewhere, the store has no such operation, or it
//! failed after it had begun to respond.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use fluid_fuse::remote::{Bucket, Version};
use fluid_fuse::store::StoreError;
use test_store::Connection;

use super::faults::{Server, say};
use super::{list, open, read};

fn answer(socket: &Connection, head: &str, status: &str, headers: &str, body: &str) -> bool {
    let shown = if head.starts_with("HEAD ") { "" } else { body };
    say(socket, &format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{shown}", body.len()))
}

fn error(code: &str, more: &str) -> String {
    format!("<Error><Code>{code}</Code><Message>The store's own words</Message>{more}</Error>")
}

fn bucket(server: &Server, more: &[(&str, &str)]) -> Arc<dyn Bucket> {
    let options =
        [("endpoint", &*server.endpoint), ("access_key_id", "key"), ("secret_access_key", "secret")];
    open("s3://data", &[&options, more].concat())
}

const LISTING: &str = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>file</Key><LastModified>2024-02-03T04:05:06.000Z</LastModified><ETag>\"a\"</ETag><Size>10</Size></Contents></ListBucketResult>";

/// The responses of a bucket with one object.
fn well(socket: &Connection, head: &str) -> bool {
    let etag = "ETag: \"a\"\r\n";
    if head.contains("list-type=2") {
        answer(socket, head, "200 OK", "", LISTING)
    } else if head.contains("range: ") {
        answer(socket, head, "206 X", &format!("{etag}Content-Range: bytes 0-9/10\r\n"), "0123456789")
    } else {
        answer(socket, head, "200 OK", etag, "0123456789")
    }
}

#[test]
fn the_region_of_a_bucket_is_found_by_itself() {
    let header = "x-amz-bucket-region: eu-west-9\r\n";
    let in_body = "<Region>eu-west-9</Region>";
    // The status, a header and the body of an error, and a header that only the bucket itself sends.
    for (status, headers, body, of_bucket) in [
        ("301 X", header, error("PermanentRedirect", ""), ""),
        ("301 X", "", error("PermanentRedirect", ""), header),
        ("307 X", "Location: http://elsewhere/\r\n", error("TemporaryRedirect", ""), header),
        ("400 X", "", error("AuthorizationHeaderMalformed", in_body), ""),
        ("400 X", header, error("AuthorizationHeaderMalformed", ""), ""),
        ("400 X", "", error("AuthorizationHeaderMalformed", ""), header),
        ("403 X", header, error("SignatureDoesNotMatch", ""), ""),
    ] {
        let what = format!("{status} {headers:?} {body} {of_bucket:?}");
        let server = Server::start(move |_, head, socket| {
            if head.contains("/eu-west-9/s3/") || head.contains("%2Feu-west-9%2Fs3%2F") {
                return well(socket, head);
            }
            let is_of_bucket = head.starts_with("HEAD /data HTTP") || head.starts_with("HEAD /data/ HTTP");
            answer(socket, head, status, if is_of_bucket { of_bucket } else { headers }, &body)
        });
        let listed = bucket(&server, &[]);
        assert_eq!(list(&*listed, "").unwrap().len(), 1, "{what}");
        let requests = server.requests();
        assert!(requests <= 3, "{what}");
        let version = listed.head("file").unwrap();
        assert_eq!(read(&*listed, &version, 0..10).unwrap(), b"0123456789", "{what}");
        assert_eq!(server.requests() - requests, 2, "{what}: it is found once");
        // The response to HEAD has no body.
        let asked = bucket(&server, &[]);
        match headers == header || of_bucket == header {
            true => assert_eq!(asked.head("file").unwrap().size, 10, "{what}"),
            false => assert!(asked.head("file").is_err(), "{what}"),
        }
        let asked = bucket(&server, &[]);
        assert_eq!(read(&*asked, &version, 0..10).unwrap(), b"0123456789", "{what}");
    }
}

#[test]
fn an_unknown_region_is_an_error_that_says_so() {
    let server = Server::start(|_, head, socket| {
        answer(socket, head, "301 X", "x-amz-bucket-region: a/../b c\r\n", &error("PermanentRedirect", ""))
    });
    let error = list(&*bucket(&server, &[]), "").unwrap_err();
    assert!(matches!(&error, StoreError::NoBucket(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("301 PermanentRedirect: The store's own words (set the option region"), "{text}");
    assert!(!text.contains("a/../b"), "{text}");
}

/// Writes so that the store joins parts, and copies; returns the number of requests until it did.
fn changes(server: &Server) -> (Result<(), StoreError>, Result<(), StoreError>) {
    let bucket = bucket(server, &[]);
    let mut upload = bucket.put("file").unwrap();
    let written = upload.write(&vec![b'x'; 20 << 20]);
    let insist = |request: &mut dyn FnMut() -> Result<(), StoreError>| {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match request() {
                Err(StoreError::Unavailable(_)) if attempts < 5 => {}
                answer => return answer,
            }
        }
    };
    let written = written.and_then(|()| insist(&mut || upload.finish().map(|_| ())));
    (written, insist(&mut || bucket.copy("file", "other")))
}

#[test]
fn an_error_in_a_success_is_an_error() {
    for (code, is_retried) in [("InternalError", true), ("SlowDown", true), ("AccessDenied", false)] {
        let failed = Arc::new(AtomicUsize::new(0));
        let count = failed.clone();
        let server = Server::start(move |_, head, socket| {
            let is_join = head.starts_with("POST ") && head.contains("uploadId=");
            let is_copy = head.to_lowercase().contains("\r\nx-amz-copy-source: ");
            // Each kind of request fails twice, or always.
            if (is_join || is_copy) && (count.fetch_add(1, Ordering::SeqCst) % 3 < 2 || !is_retried) {
                return answer(socket, head, "200 OK", "", &format!("  {}", error(code, "")));
            }
            if head.contains("uploads") {
                let begun =
                    "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>";
                return answer(socket, head, "200 OK", "", begun);
            }
            if is_join {
                let joined =
                    "<CompleteMultipartUploadResult><ETag>\"a\"</ETag></CompleteMultipartUploadResult>";
                return answer(socket, head, "200 OK", "", joined);
            }
            if is_copy {
                let copied = "<CopyObjectResult><ETag>\"a\"</ETag><LastModified>2024-02-03T04:05:06Z</LastModified></CopyObjectResult>";
                return answer(socket, head, "200 OK", "", copied);
            }
            well(socket, head)
        });
        let (written, copied) = changes(&server);
        for answer in [written, copied] {
            match is_retried {
                true => answer.unwrap(),
                false => {
                    let words = "200 AccessDenied: The store's own words";
                    assert!(
                        matches!(&answer, Err(StoreError::Denied(text)) if text.contains(words)),
                        "{answer:?}"
                    );
                }
            }
        }
    }
    // Not an empty directory.
    let server =
        Server::start(|_, head, socket| answer(socket, head, "200 OK", "", &error("InternalError", "")));
    let listed = list(&*bucket(&server, &[]), "");
    assert!(matches!(&listed, Err(StoreError::Unavailable(text)) if text.contains("words")), "{listed:?}");
}

#[test]
fn backblaze_501_is_said_with_what_to_set_and_not_retried() {
    let server = Server::start(|_, head, socket| match head.starts_with("PUT ") {
        true => answer(socket, head, "501 X", "", &error("NotImplemented", "")),
        false => well(socket, head),
    });
    let bucket = bucket(&server, &[]);
    let mut upload = bucket.put("file").unwrap();
    upload.write(b"content").unwrap();
    let written = upload.finish().map(|_| ());
    assert!(
        matches!(&written, Err(StoreError::NotImplemented(text)) if text.contains("checksum_algorithm")),
        "{written:?}"
    );
}

#[test]
fn a_response_of_another_server_says_what_to_check() {
    let server = Server::start(|_, head, socket| {
        answer(socket, head, "200 OK", "", "<!doctype html><title>Console</title>")
    });
    let error = list(&*bucket(&server, &[]), "").unwrap_err();
    assert!(
        matches!(&error, StoreError::Failed(_)) && !error.to_string().contains("Unexpected"),
        "{error:?}"
    );
    assert!(error.to_string().contains("check the option endpoint"), "{error}");
}

/// The response to HEAD after an object was written.
fn written(answer_of_head: impl Fn() -> (&'static str, &'static str) + Send + Sync + 'static) -> Version {
    let server = Server::start(move |_, head, socket| match head.starts_with("HEAD ") {
        true => {
            let (status, headers) = answer_of_head();
            answer(socket, head, status, headers, "content")
        }
        false => answer(socket, head, "200 OK", "ETag: \"new\"\r\n", ""),
    });
    let bucket = bucket(&server, &[]);
    let mut upload = bucket.put("file").unwrap();
    upload.write(b"content").unwrap();
    upload.finish().unwrap()
}

#[test]
fn an_object_is_written_although_head_says_otherwise() {
    let since = SystemTime::now();
    for answer in [
        ("403 X", ""),
        ("404 X", ""),
        ("503 X", ""),
        // The former object.
        ("200 OK", "ETag: \"old\"\r\nLast-Modified: Sat, 03 Feb 2024 04:05:06 GMT\r\n"),
    ] {
        let version = written(move || answer);
        assert_eq!((version.size, version.etag.as_deref()), (7, Some("\"new\"")), "{answer:?}");
        assert!(version.modified >= since, "{answer:?}");
    }
    // The store's time is better than the local one.
    let version = written(|| ("200 OK", "ETag: \"new\"\r\nLast-Modified: Sat, 03 Feb 2024 04:05:06 GMT\r\n"));
    assert!(version.modified < since);
}
