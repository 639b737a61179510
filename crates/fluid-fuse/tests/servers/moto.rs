//! S3, as moto has it.

use crate::server::{Server, encoded, fetch, installed, send};
use crate::{Mounted, Mounting, Store, reads, writes};

struct Moto(Server);

/// It asks for a signature, and takes any.
const SIGNED: &[(&str, &str)] = &[(
    "authorization",
    "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x",
)];

impl Moto {
    /// With an empty bucket.
    fn start() -> Option<Self> {
        let program = installed("moto", "venv/bin/moto_server")?;
        let moto = Moto(Server::start(&program, |command, port| {
            command.args(["-H", "127.0.0.1", "-p", port]);
        }));
        send("PUT", &format!("{}/data", moto.0.endpoint), SIGNED, b"");
        Some(moto)
    }

    fn object(&self, key: &str) -> String {
        format!("{}/data/{}", self.0.endpoint, encoded(key))
    }
}

impl Store for Moto {
    fn put(&self, key: &str, bytes: &[u8]) {
        send("PUT", &self.object(key), SIGNED, bytes);
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        fetch(&self.object(key), SIGNED)
    }

    fn mounted(&self) -> Mounting {
        Mounting {
            url: "s3://data",
            options: vec![("endpoint", self.0.endpoint.clone()), ("region", "us-east-1".to_string())],
            secrets: vec![
                ("AWS_ACCESS_KEY_ID", "testing".to_string()),
                ("AWS_SECRET_ACCESS_KEY", "testing".to_string()),
            ],
        }
    }
}

#[test]
fn moto_is_read() {
    let Some(moto) = Moto::start() else { return };
    reads::fill(&moto);
    let Some(mounted) = Mounted::new(moto, reads::ARGUMENTS) else { return };
    reads::what_is_there(&mounted);
    reads::walked(&mounted);
    reads::takes_the_short_way(&mounted);
    reads::another_version(&mounted);
}

#[test]
fn moto_is_written() {
    let Some(moto) = Moto::start() else { return };
    writes::all(moto);
}
