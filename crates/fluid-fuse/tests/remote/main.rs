//! Buckets at real servers: one of others that checks signatures (`s3s-fs`), and one that misbehaves on purpose.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod clouds;
mod faults;
mod oss;
mod part_copies;
mod proxy;
mod responses;
mod s3;
#[path = "../support/s3s.rs"]
mod s3s;
#[path = "../support/skip.rs"]
mod skip;
mod tls;
mod validators;
mod web;

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::{ControlFlow, Range};
use std::process::Command;
use std::sync::Arc;

use fluid_fuse::remote::{self, Bucket, Item, Version};
use fluid_fuse::store::StoreError;

/// The clients that can read.
const WAYS: [&str; 2] = ["http1", "library"];

fn open(url: &str, options: &[(&str, &str)]) -> Arc<dyn Bucket> {
    remote::open(url, &map(options)).unwrap()
}

fn map(options: &[(&str, &str)]) -> BTreeMap<String, String> {
    options.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn read(bucket: &dyn Bucket, version: &Version, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    let mut body = bucket.get(version, range)?;
    body.read_to_end(&mut bytes).map_err(|error| StoreError::Unavailable(error.to_string()))?;
    Ok(bytes)
}

fn list(bucket: &dyn Bucket, prefix: &str) -> Result<Vec<Item>, StoreError> {
    let mut items = Vec::new();
    let whole = bucket.list(prefix, &mut |page| {
        items.extend(page);
        ControlFlow::Continue(())
    })?;
    assert!(whole);
    Ok(items)
}

/// Bytes that differ by offset.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(0x9e37_79b1) >> 13) as u8).collect()
}

/// Runs an ignored test of this program in a process with another environment.
fn elsewhere(test: &str, environment: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).envs(environment.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
