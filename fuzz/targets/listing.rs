//! Bytes as a store's listing, of S3 and what speaks like it (XML), and of Google (JSON): any get an answer or an error.
#![no_main]
#![allow(clippy::unwrap_used, reason = "a test")]

mod store;

use std::ops::ControlFlow;

use fluid_fuse::remote;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let address = store::answer_body("application/xml", body);
    for (url, more) in [
        ("s3://bucket/p", "access_key_id=a secret_access_key=b region=r"),
        ("az://bucket/p", "account_name=a account_key=YQ=="),
        ("gs://bucket/p", "anonymous=true"),
    ] {
        let options = store::options(&format!("endpoint=http://{address} {more}"));
        let bucket = remote::open(url, &options).unwrap();
        // The same page again and again is no page of another input.
        let mut pages = 0;
        let _ = bucket.list("", &mut |_| {
            pages += 1;
            if pages < 2 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    }
});
