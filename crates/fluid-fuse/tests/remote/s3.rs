//! S3 with signatures that are checked.

use std::fs;
use std::time::{Duration, SystemTime};

use fluid_fuse::remote::{Bucket, Item, Version};
use fluid_fuse::store::StoreError;
use tempfile::TempDir;
use test_store::{KEY, SECRET};

use super::faults::{self, say};
use super::s3s;
use super::{WAYS, bytes, elsewhere, list, open, read};

/// A server with an empty bucket `data`.
struct Server {
    root: TempDir,
    endpoint: String,
}

impl Server {
    fn start() -> Self {
        let root = TempDir::new().unwrap();
        fs::create_dir(root.path().join("data")).unwrap();
        let endpoint = s3s::serve(root.path());
        Self { root, endpoint }
    }

    fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    fn bucket(&self, url: &str, way: &str) -> std::sync::Arc<dyn Bucket> {
        let endpoint = self.endpoint();
        let options = [
            ("endpoint", &*endpoint),
            ("access-key-id", KEY),
            ("secret_access_key", SECRET),
            ("http_client", way),
        ];
        open(url, &options)
    }
}

fn put(bucket: &dyn Bucket, key: &str, content: &[u8]) -> Version {
    let mut upload = bucket.put(key).unwrap();
    for part in content.chunks(1_000_003) {
        upload.write(part).unwrap();
    }
    upload.finish().unwrap()
}

#[test]
fn what_is_written_is_read() {
    let server = Server::start();
    let content = bytes(20 * 1024 * 1024 + 17);
    for way in WAYS {
        let bucket = server.bucket("s3://data/deep/er", way);
        let version = put(&*bucket, "big", &content);
        assert_eq!((version.size, version.etag.is_some()), (content.len() as u64, true));
        assert!(version.modified > SystemTime::now() - Duration::from_secs(60));
        for range in [0..1, 0..version.size, 8_388_600..8_388_700, version.size - 1..version.size] {
            let expected = &content[range.start as usize..range.end as usize];
            assert!(read(&*bucket, &version, range.clone()).unwrap() == expected, "{way} {range:?}");
        }
        for key in ["small", "a b+c%20ä?&#.txt", "dir/x", "dir/y/z"] {
            let small = put(&*bucket, key, key.as_bytes());
            assert_eq!(read(&*bucket, &small, 0..small.size).unwrap(), key.as_bytes(), "{way} {key}");
        }
        assert_eq!(put(&*bucket, "empty", b"").size, 0);
        bucket.delete("empty").unwrap();
        bucket.copy("small", "copied").unwrap();
        assert_eq!(bucket.head("copied").unwrap().size, 5);

        let names = |prefix| {
            let items = list(&*bucket, prefix).unwrap();
            let mut names: Vec<_> = items
                .into_iter()
                .map(|item| match item {
                    Item::Prefix(prefix) => prefix,
                    Item::Object(version) => {
                        // This server's listings have no ETags.
                        let now = Version { etag: None, ..bucket.head(&version.key).unwrap() };
                        assert_eq!(now, version);
                        read(&*bucket, &version, 0..version.size.min(9)).unwrap();
                        version.key
                    }
                })
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(""), ["a b+c%20ä?&#.txt", "big", "copied", "dir/", "small"]);
        assert_eq!(names("dir/"), ["dir/x", "dir/y/"]);
        assert_eq!(names("none/"), [""; 0]);

        bucket.delete("small").unwrap();
        assert!(matches!(bucket.head("small"), Err(StoreError::NotFound)));
        assert!(matches!(bucket.head("a//b"), Err(StoreError::Unsupported(_))));
        drop(bucket.put("dropped").unwrap());
        let mut upload = bucket.put("dropped").unwrap();
        upload.write(&content).unwrap();
        drop(upload);
        assert!(matches!(bucket.head("dropped"), Err(StoreError::NotFound)));
    }
}

#[test]
fn another_version_is_not_read() {
    let server = Server::start();
    for way in WAYS {
        let bucket = server.bucket("s3://data", way);
        let old = put(&*bucket, "file", b"old content");
        let new = put(&*bucket, "file", b"new content");
        assert_ne!(old.etag, new.etag);
        assert!(matches!(read(&*bucket, &old, 0..3), Err(StoreError::Stale)), "{way}");
        assert_eq!(read(&*bucket, &new, 0..3).unwrap(), b"new");
        bucket.delete("file").unwrap();
        assert!(matches!(read(&*bucket, &new, 0..3), Err(StoreError::NotFound)), "{way}");
        let missing = server.bucket("s3://missing", way);
        assert!(matches!(list(&*missing, ""), Err(StoreError::NoBucket(_))));
    }
}

#[test]
fn refusals_name_their_reason() {
    let server = Server::start();
    let endpoint = server.endpoint();
    let list_with = |url: &str, key: &str, secret: &str| {
        let options = [("endpoint", &*endpoint), ("access-key-id", key), ("secret_access_key", secret)];
        list(&*open(url, &options), "").unwrap_err()
    };
    for (key, secret, code) in [(KEY, "wrong", "SignatureDoesNotMatch"), ("unknown", SECRET, "NotSignedUp")] {
        let error = list_with("s3://data", key, secret);
        assert!(matches!(&error, StoreError::Denied(reason) if reason.contains(code)), "{error:?}");
        assert!(!error.to_string().contains(SECRET), "{error}");
    }
    let error = list_with("s3://none", KEY, SECRET);
    assert!(matches!(&error, StoreError::NoBucket(reason) if reason.contains("NoSuchBucket")), "{error:?}");
    // The bucket exists, and has no such key.
    assert_eq!(list(&*server.bucket("s3://data/none", "http1"), "").unwrap(), []);
}

#[test]
fn credentials_are_loaded_again_when_their_file_changes() {
    let server = Server::start();
    fs::write(server.root.path().join("data/file"), "content").unwrap();
    let (endpoint, secrets) = (server.endpoint(), TempDir::new().unwrap());
    let secret = secrets.path().join("minio-access-secret");
    fs::write(secrets.path().join("minio-access-key"), KEY).unwrap();
    let file = secret.to_str().unwrap();
    let key = secrets.path().join("minio-access-key");
    let key = key.to_str().unwrap();
    let directory = secrets.path().to_str().unwrap();
    let ways: [&[(&str, &str)]; 3] = [
        &[("credentials_dir", directory)],
        &[("aws.accessKeyId", KEY), ("aws.secretKey_file", file)],
        // As Fluid hands encrypted options to a ThinRuntime.
        &[("minio-access-key", key), ("minio-access-secret", file)],
    ];
    for (at, options) in ways.into_iter().enumerate() {
        fs::write(&secret, "wrong").unwrap();
        let bucket = open("s3://data", &[&[("minio-url", &*endpoint)], options].concat());
        assert!(matches!(bucket.head("file"), Err(StoreError::Denied(_))), "{at}");
        assert!(matches!(list(&*bucket, ""), Err(StoreError::Denied(_))), "{at}");
        fs::write(&secret, format!("{SECRET}\n")).unwrap();
        let version = bucket.head("file").unwrap();
        assert_eq!(read(&*bucket, &version, 0..7).unwrap(), b"content");
    }
}

#[test]
fn an_upload_may_take_longer_than_the_credentials_it_was_begun_with() {
    let server = faults::Server::start(|_, head, socket| {
        let fine = head.starts_with("PUT ") || head.contains("Credential=new-key/");
        let status = if fine { "200 OK" } else { "403 Forbidden" };
        say(socket, &format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nETag: \"x\"\r\n\r\n"))
    });
    let secrets = TempDir::new().unwrap();
    let key = secrets.path().join("access_key_id");
    fs::write(&key, "key").unwrap();
    fs::write(secrets.path().join("secret_access_key"), SECRET).unwrap();
    let directory = secrets.path().to_str().unwrap();
    let bucket = open("s3://data", &[("endpoint", &server.endpoint), ("credentials_dir", directory)]);
    let mut upload = bucket.put("file").unwrap();
    fs::write(&key, "new-key").unwrap();
    let version = upload.finish().unwrap();
    assert_eq!((version.size, version.etag.as_deref()), (0, Some("\"x\"")));
}

#[test]
fn a_prefix_is_percent_encoded_in_the_url() {
    let server = Server::start();
    for way in WAYS {
        for (url, prefix) in [
            ("a%20b/c%25%2B%C3%A4", "a b/c%+ä"),
            ("a b/c%25+ä", "a b/c%+ä"),
            ("50%/x%2fy", "50%/x/y"),
            ("%20%20a/b%20", "  a/b "),
        ] {
            let bucket = server.bucket(&format!("s3://data/{url}"), way);
            let content = format!("{way} {url}");
            let written = put(&*bucket, "dir/file", content.as_bytes());
            let at = server.root.path().join("data").join(prefix).join("dir/file");
            assert_eq!(fs::read_to_string(&at).unwrap(), content);
            assert_eq!(list(&*bucket, "").unwrap(), [Item::Prefix("dir/".to_string())], "{url}");
            assert_eq!(read(&*bucket, &written, 0..written.size).unwrap(), content.as_bytes());
        }
    }
}

#[test]
fn credentials_of_the_environment() {
    let server = Server::start();
    fs::write(server.root.path().join("data/file"), "content").unwrap();
    let home = TempDir::new().unwrap();
    let profile = home.path().join("credentials");
    fs::write(&profile, format!("[other]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n"))
        .unwrap();
    let common = [("AWS_ENDPOINT_URL", &*server.endpoint()), ("AWS_EC2_METADATA_DISABLED", "true")]
        .map(|(n, v)| (n.to_string(), v.to_string()));
    for environment in [
        vec![("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)],
        vec![("AWS_SHARED_CREDENTIALS_FILE", profile.to_str().unwrap()), ("AWS_PROFILE", "other")],
    ] {
        let common = common.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        elsewhere("s3::reads_with_the_environment", &common.chain(environment).collect::<Vec<_>>());
    }
}

#[test]
#[ignore = "run by credentials_of_the_environment"]
fn reads_with_the_environment() {
    let bucket = open("s3://data", &[]);
    let version = bucket.head("file").unwrap();
    assert_eq!(read(&*bucket, &version, 0..7).unwrap(), b"content");
}
