//! An object store for a cluster on one machine (`make e2e-cluster`): `s3s-fs` over a directory, whose
//! directories are the buckets. It checks signatures against the one key of the tests.
//!
//!     s3-store DIRECTORY ADDRESS:PORT
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::net::TcpListener;
use std::path::Path;

#[path = "../tests/support/s3s.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod s3s_server;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [directory, address] = arguments.as_slice() else {
        anyhow::bail!("usage: s3-store DIRECTORY ADDRESS:PORT");
    };
    s3s_server::serve_forever(Path::new(directory), TcpListener::bind(address)?);
    Ok(())
}
