//! The real program with real mounts. Without root or `/dev/fuse` each test says that it was skipped.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod given;
mod guarded;
mod life;
mod place;
mod view;
