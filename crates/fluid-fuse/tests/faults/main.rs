//! What a reader of a real mount sees when the store fails, and after: the table of `FAULTS.md`.
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../support/mod.rs"]
mod support;

mod outage;
mod table;
mod waiting;
