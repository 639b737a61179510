//! Bytes as the index of a web server (HTML) and as a manifest: any get an answer or an error.
#![no_main]
#![allow(clippy::unwrap_used, reason = "a test")]

mod store;

use std::ops::ControlFlow;

use fluid_fuse::remote;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let address = store::answer_body("text/html", body);
    for options in [String::new(), format!("manifest=http://{address}/manifest")] {
        let bucket = remote::open(&format!("http://{address}/p/"), &store::options(&options)).unwrap();
        // Which of the names can be files is asked by who shows them.
        let _ = bucket.list("", &mut |_| ControlFlow::Continue(()));
    }
});
