//! Bytes as the index of a web server (HTML) and as a manifest: any get an answer or an error, and names that can be.
#![no_main]
#![allow(clippy::unwrap_used, reason = "a test")]

mod store;

use std::ops::ControlFlow;

use fluid_fuse::remote::{self, Item};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let address = store::answer_body("text/html", body);
    for options in [String::new(), format!("manifest=http://{address}/manifest")] {
        let bucket = remote::open(&format!("http://{address}/p/"), &store::options(&options)).unwrap();
        let _ = bucket.list("", &mut |items| {
            for item in items {
                let (Item::Object(remote::Version { key: name, .. }) | Item::Prefix(name)) = item;
                assert!(!name.trim_end_matches('/').contains('/'), "{name:?} is not right below");
                assert!(!matches!(name.trim_end_matches('/'), "." | ".."), "{name:?}");
            }
            ControlFlow::Continue(())
        });
    }
});
