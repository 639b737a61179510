//! Azure's blobs, as Azurite has them.

use std::collections::BTreeMap;
use std::process::Command;

use fluid_fuse::store::StoreError;

use crate::server::{Server, encoded, fetch, installed, send};
use crate::{Mounted, Mounting, Store, reads, writes};

const ACCOUNT: &str = "account";

/// In base64.
const KEY: &str = "c2VjcmV0LXRoYXQtbm9ib2R5LXNlZXM=";

const OTHER: &str = "YW5vdGhlciBrZXk=";

/// Signs for the account as its documentation says.
const SIGN: &str = r#"
const [account, key] = process.argv.slice(1);
const [version, expiry] = ["2022-11-02", "2099-01-01T00:00:00Z"];
const text = [account, "rwdlac", "b", "sco", "", expiry, "", "", version, "", ""].join("\n");
const hmac = require("crypto").createHmac("sha256", Buffer.from(key, "base64")).update(text, "utf8").digest("base64");
console.log(`sv=${version}&ss=b&srt=sco&sp=rwdlac&se=${encodeURIComponent(expiry)}&sig=${encodeURIComponent(hmac)}`);
"#;

/// How it is known who asks.
enum By {
    Key,
    Signature,
}

struct Azurite {
    server: Server,
    /// A shared access signature.
    signature: String,
    by: By,
}

impl Azurite {
    /// With an empty container.
    fn start(by: By) -> Option<Self> {
        let program = installed("Azurite", "npm/node_modules/azurite/dist/src/blob/main.js")?;
        let server = Server::start("node".as_ref(), |command, port| {
            command.arg(&program).args(["--blobHost", "127.0.0.1", "--blobPort", port]);
            command.args(["--inMemoryPersistence", "--disableTelemetry", "--silent"]);
            command.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"));
        });
        let signed = Command::new("node").args(["-e", SIGN, ACCOUNT, KEY]).output().unwrap();
        let signature = String::from_utf8(signed.stdout).unwrap().trim().to_string();
        let azurite = Azurite { server, signature, by };
        let container = format!("{}?restype=container&{}", azurite.container(), azurite.signature);
        send("PUT", &container, &[], b"");
        Some(azurite)
    }

    fn container(&self) -> String {
        format!("{}/{ACCOUNT}/data", self.server.endpoint)
    }

    fn object(&self, key: &str) -> String {
        format!("{}/{}?{}", self.container(), encoded(key), self.signature)
    }
}

impl Store for Azurite {
    fn put(&self, key: &str, bytes: &[u8]) {
        send("PUT", &self.object(key), &[("x-ms-blob-type", "BlockBlob")], bytes);
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        fetch(&self.object(key), &[])
    }

    fn mounted(&self) -> Mounting {
        Mounting {
            url: "az://data",
            options: vec![
                ("endpoint", format!("{}/{ACCOUNT}", self.server.endpoint)),
                ("account_name", ACCOUNT.to_string()),
            ],
            secrets: vec![match self.by {
                By::Key => ("AZURE_STORAGE_ACCOUNT_KEY", KEY.to_string()),
                By::Signature => ("AZURE_STORAGE_SAS_TOKEN", self.signature.clone()),
            }],
        }
    }
}

#[test]
fn azurite_is_read_with_the_accounts_key() {
    let Some(azurite) = Azurite::start(By::Key) else { return };
    reads::fill(&azurite);
    let Some(mounted) = Mounted::new(azurite, reads::ARGUMENTS) else { return };
    reads::what_is_there(&mounted);
    reads::walked(&mounted);
    reads::another_version(&mounted);
}

#[test]
fn azurite_is_read_with_a_shared_access_signature() {
    let Some(azurite) = Azurite::start(By::Signature) else { return };
    reads::fill(&azurite);
    let Some(mounted) = Mounted::new(azurite, reads::ARGUMENTS) else { return };
    reads::what_is_there(&mounted);
    reads::takes_the_short_way(&mounted);
    reads::another_version(&mounted);
}

#[test]
fn azurite_is_written() {
    let Some(azurite) = Azurite::start(By::Key) else { return };
    writes::all(azurite);
}

#[test]
fn azurite_is_denied_to_another_key() {
    let Some(azurite) = Azurite::start(By::Key) else { return };
    azurite.put("file", b"content");
    let how = azurite.mounted();
    let mut options: BTreeMap<String, String> =
        how.options.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
    for (key, denied) in [(KEY, false), (OTHER, true)] {
        options.insert("account_key".to_string(), key.to_string());
        let head = fluid_fuse::remote::open(how.url, &options).unwrap().head("file");
        assert_eq!(matches!(head, Err(StoreError::Denied(_))), denied, "{head:?}");
        assert_eq!(head.is_ok(), !denied);
    }
}
