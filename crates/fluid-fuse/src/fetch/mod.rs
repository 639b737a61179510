//! Reads objects: which bytes to request, when, and where they are kept until they are read.
//!
//! One read, from the file system and back (each type is in the module of its name):
//!
//! 1. [`Fetcher::file`] finds the file of a version. A [`RemoteFile`] is its handle; all handles of a version share one
//!    `FileState`.
//! 2. [`RemoteFile::read`] asks the `Prefetcher` for advice. The prefetcher follows the file's sequential streams, each
//!    with a `Window`, by the numbers in `Tuning`.
//! 3. The `BlockMap` looks for the read's blocks. If one is missing, the read waits in the map, not in a thread, and the
//!    map makes a `RangeRequest` for the gap.
//! 4. Further requests are made for the advised bytes, as far as the `PrefetchQuota` allows.
//! 5. The `RequestRunner` starts the requests, in threads of a `Queue` with a concurrency limit. The thread that makes a
//!    random read runs its request itself.
//! 6. A `Transfer` takes each block from the `BlockPool` and fills it, from the `CachedFile` if the [`DiskCache`] has the
//!    block, else from the `Origin`. If the pool is empty, `OpenFiles` evicts blocks of files that were unused for
//!    longest.
//! 7. If the store is unavailable, the runner repeats the rest of the request, as `Retry` says. A prefetch that no read
//!    waits for is dropped instead.
//! 8. Each block that comes goes into the map. The map returns an `Outcome` for each read that waited for it, and
//!    `RequestRunner::settle` answers the reads that are complete.
//! 9. A block that was handed out whole leaves the map. It returns to the pool once the answer was written.
//!
//! [`Shared`] connects these parts; [`Metrics`] counts. No two modules depend on each other: a lower one returns to a
//! higher one, as the block map returns outcomes, and never calls it.

mod block;
mod block_map;
mod disk;
mod fetcher;
mod file;
mod file_state;
mod metrics;
mod open_files;
mod origin;
mod prefetcher;
mod quota;
mod request;
mod retry;
mod runner;
mod shared;
mod transfer;
mod tuning;
mod window;

pub use self::disk::DiskCache;
pub use self::fetcher::Fetcher;
pub use self::file::RemoteFile;
pub use self::metrics::Metrics;
pub(crate) use self::request::request_ranges;
pub use self::shared::{Budget, Shared};

#[cfg(test)]
mod tests;
