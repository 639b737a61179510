//! An S3 store for tests and the benchmark.
//!
//! A [`Server`] is a listener whose connections can be cut; it reads requests, and the answers are its owner's. A
//! [`Store`] answers requests of S3, from memory or from the directories below a root, and knows no sockets. [`S3`] is
//! both: a store behind a server, whose answers go wrong as [`S3::behave`] says.
//!
//! Signatures are not checked; the access key in them is, where a store has one. Nothing that is released depends on
//! this crate.

mod http;
mod listing;
mod object;
mod pace;
mod s3;
mod server;
mod store;

pub use http::Request;
pub use listing::escape;
pub use object::Source;
pub use pace::Pace;
pub use s3::{Fault, S3};
pub use server::{Connection, Server};
pub use store::Store;

/// The access key that tests sign with.
pub const KEY: &str = "access-key";
/// Its secret.
pub const SECRET: &str = "secret-that-nobody-sees";

/// The one bucket of a store in memory.
pub const BUCKET: &str = "data";
