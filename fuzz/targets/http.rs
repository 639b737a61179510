//! Bytes as all that a server sends: any get an answer or an error, from the reads' own client and from the library's.
#![no_main]
#![allow(clippy::unwrap_used, reason = "a test")]

mod store;

use std::io::Read as _;
use std::time::SystemTime;

use fluid_fuse::remote::{self, Version};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let address = store::answer(bytes.to_vec());
    let version =
        Version { key: "k".into(), size: 100, etag: Some("\"e\"".into()), modified: SystemTime::UNIX_EPOCH };
    for client in ["", "http_client=library"] {
        let bucket = remote::open(&format!("http://{address}/p"), &store::options(client)).unwrap();
        let _ = bucket.head("k");
        if let Ok(body) = bucket.get(&version, 10..20) {
            let mut read = Vec::new();
            let _ = body.take(1000).read_to_end(&mut read);
        }
    }
});
