//! Google's objects, as gcp-storage-emulator has them, for readers alone: it answers to what is written here with a
//! type of content that is null, and knows neither conditions nor multipart uploads.

use crate::server::{Server, encoded, fetch, installed, send};
use crate::{Mounted, Mounting, Store, reads};

struct Google(Server);

impl Google {
    /// With an empty bucket.
    fn start() -> Option<Self> {
        let program = installed("gcp-storage-emulator", "venv/bin/gcp-storage-emulator")?;
        let google = Google(Server::start(&program, |command, port| {
            command.args(["start", "--host", "127.0.0.1", "--port", port, "--in-memory"]);
            command.args(["--default-bucket", "data"]);
        }));
        Some(google)
    }
}

impl Store for Google {
    fn put(&self, key: &str, bytes: &[u8]) {
        let to =
            format!("{}/upload/storage/v1/b/data/o?uploadType=media&name={}", self.0.endpoint, encoded(key));
        send("POST", &to, &[("content-type", "application/octet-stream")], bytes);
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        fetch(&format!("{}/data/{}", self.0.endpoint, encoded(key)), &[])
    }

    fn mounted(&self) -> Mounting {
        Mounting {
            url: "gs://data",
            options: vec![("endpoint", self.0.endpoint.clone()), ("anonymous", "true".to_string())],
            secrets: Vec::new(),
        }
    }
}

#[test]
fn googles_emulator_is_read() {
    let Some(google) = Google::start() else { return };
    reads::fill(&google);
    let Some(mounted) = Mounted::new(google, reads::ARGUMENTS) else { return };
    reads::what_is_there(&mounted);
    reads::replaced(&mounted);
}
