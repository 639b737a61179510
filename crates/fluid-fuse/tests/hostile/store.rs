//! A store that answers as a test wants it to, and counts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use fluid_fuse::remote::{self, Bucket, BucketConfig, Item};
use fluid_fuse::store::StoreError;
use test_store::{Connection, KEY, SECRET, Server};

pub(crate) const DATE: &str = "2024-02-03T04:05:06.000Z";

/// A request and the connection that it came over.
pub(crate) struct Asked<'a> {
    pub(crate) head: &'a str,
    /// How many there were before.
    pub(crate) number: usize,
    connection: &'a Connection,
    sent: &'a AtomicUsize,
}

impl Asked<'_> {
    /// The method, the path and the query.
    pub(crate) fn is(&self, what: &str) -> bool {
        self.head.split("\r\n").next().unwrap().contains(what)
    }

    pub(crate) fn is_listing(&self) -> bool {
        self.is("list-type=2")
    }

    /// Sends bytes as they are; whether they were taken.
    pub(crate) fn send(&self, bytes: &[u8]) -> bool {
        let taken = self.connection.send(bytes);
        self.sent.fetch_add(if taken { bytes.len() } else { 0 }, Ordering::SeqCst);
        taken
    }

    /// An answer with a status and headers, each with its line feed, and a body.
    pub(crate) fn answer(&self, status: &str, headers: &str, body: &str) -> bool {
        let length = body.len();
        let body = if self.head.starts_with("HEAD ") { "" } else { body };
        self.send(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n{body}").as_bytes())
    }

    pub(crate) fn list(&self, entries: &str) -> bool {
        self.answer("200 OK", "", &listing(entries, None))
    }

    /// Bytes of a file, which has this ETag.
    pub(crate) fn bytes(&self, etag: &str, content: &str) -> bool {
        let range = format!("Content-Range: bytes 0-{}/{}\r\n", content.len() - 1, content.len());
        self.answer("206 Partial Content", &format!("{range}{etag}"), content)
    }

    /// A byte now and then, until the other side has had enough or the test ends.
    pub(crate) fn trickle(&self) -> bool {
        self.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while self.send(b"1\r\n \r\n") {
            thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

pub(crate) fn listing(entries: &str, token: Option<&str>) -> String {
    let more = match token {
        Some(token) => {
            format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>")
        }
        None => "<IsTruncated>false</IsTruncated>".to_string(),
    };
    format!("<?xml version=\"1.0\"?><ListBucketResult><Name>data</Name>{more}{entries}</ListBucketResult>")
}

pub(crate) fn entry(key: &str, size: &str, etag: &str) -> String {
    format!(
        "<Contents><Key>{key}</Key><LastModified>{DATE}</LastModified><ETag>{etag}</ETag><Size>{size}</Size></Contents>"
    )
}

pub(crate) fn prefix(key: &str) -> String {
    format!("<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>")
}

pub(crate) struct Store {
    pub(crate) endpoint: String,
    server: Server,
    sent: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Store {
    /// The answer says whether the connection stays.
    pub(crate) fn start(answer: impl Fn(&Asked<'_>) -> bool + Send + Sync + 'static) -> Self {
        let (sent, heads) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (counted, heard) = (sent.clone(), heads.clone());
        let server = Server::start(move |request, connection| {
            heard.lock().unwrap().push(request.head.clone());
            answer(&Asked { head: &request.head, number: request.number, connection, sent: &counted })
        });
        Store { endpoint: server.endpoint(), server, sent, heads }
    }

    pub(crate) fn requests(&self) -> usize {
        self.server.requests()
    }

    /// Bytes that were taken, those in the sockets' buffers included.
    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    /// All that was asked for.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// The store as S3, whose answers may take so long.
    pub(crate) fn s3(&self, url: &str, io_timeout: Duration) -> Arc<dyn Bucket> {
        let options = [
            ("endpoint", self.endpoint.as_str()),
            ("region", "nowhere"),
            ("access_key_id", KEY),
            ("secret_access_key", SECRET),
        ];
        let options = options.map(|(name, value)| (name.to_string(), value.to_string())).into();
        remote::open_with(url, &options, &BucketConfig { io_timeout, ..BucketConfig::default() }).unwrap()
    }
}

/// The keys of a listing, in its order.
pub(crate) fn keys(bucket: &dyn Bucket, prefix: &str) -> Result<Vec<String>, StoreError> {
    let mut keys = Vec::new();
    bucket.list(prefix, &mut |items| {
        keys.extend(items.into_iter().map(|item| match item {
            Item::Object(version) => version.key,
            Item::Prefix(key) => key,
        }));
        std::ops::ControlFlow::Continue(())
    })?;
    Ok(keys)
}
