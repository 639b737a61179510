//! Reads objects: which bytes to request, when, and where they are kept until they are read.
//!
//! One read, from the file system and back:
//!
//! 1. [`Fetcher::file`] finds the file of a version. A [`RemoteFile`] is its handle; the state of the version, which all
//!    handles share, is a [`FileState`](file_state::FileState).
//! 2. [`RemoteFile::read`] asks the [`Prefetcher`](prefetcher::Prefetcher) for advice. It follows the file's
//!    sequential streams, each with a [`Window`](window::Window), by the numbers in [`Tuning`](tuning::Tuning).
//! 3. The [`BlockMap`](block_map::BlockMap) looks for the read's blocks. If one is missing, the read waits in the map,
//!    not in a thread, and the map makes a [`RangeRequest`](request::RangeRequest) for the gap.
//! 4. Further requests are made for the advised bytes, as far as the [`PrefetchQuota`](quota::PrefetchQuota) allows.
//! 5. The [`RequestRunner`](runner::RequestRunner) starts the requests, in threads of a [`Queue`](crate::queue::Queue)
//!    with a concurrency limit. A short random read is requested in its own thread.
//! 6. A [`Transfer`](transfer::Transfer) takes each block from the [`BlockPool`](block::BlockPool) and fills it, from the
//!    [`CachedFile`](disk::CachedFile) if the [`DiskCache`] has the block, else from the [`Origin`](origin::Origin). If
//!    the pool is empty, [`OpenFiles`](open_files::OpenFiles) evicts blocks of files that were unused for longest.
//! 7. If the store is unavailable, the runner repeats the rest of the request, as [`Retry`](retry::Retry) says.
//! 8. Each block that comes goes into the map. The map returns an [`Outcome`](block_map::Outcome) for each read that
//!    waited for it, and [`RequestRunner::settle`](runner::RequestRunner::settle) answers the reads that are complete.
//! 9. A block that was handed out whole leaves the map. It returns to the pool once the answer was written.
//!
//! [`Shared`] connects these parts; [`Metrics`] counts. No part knows those that are named before it, but by what it
//! returns: reads go down this list once, and come back once.

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
pub(crate) use self::request::{MAX_REQUEST_SIZE, request_ranges};
pub use self::shared::{Budget, Shared};

#[cfg(test)]
mod tests;
