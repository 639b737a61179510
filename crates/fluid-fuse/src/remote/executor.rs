//! Runs opendal's futures on the calling thread.
//!
//! All that these futures wait for are calls that block, so the process has no runtime's threads. opendal's own errors
//! know fewer statuses than [`StoreError`] and show more than they should. So the transport keeps its error for the
//! thread, and [`block_on`] returns that one.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;

use opendal::{Error, ErrorKind, Execute};
use tokio::runtime::{Builder, Runtime};

use super::listing::ListingGuard;
use crate::store::StoreError;

/// The message of opendal's error for a request that cannot be signed.
pub(super) const SIGNING: &str = "signing http request";

/// Letters of opendal's message that an error shows.
const MAX_LIBRARY_MESSAGE: usize = 200;

thread_local! {
    /// The last error response on this thread.
    static FAILURE: RefCell<Option<StoreError>> = const { RefCell::new(None) };
    /// The listing that this thread requests.
    static LISTING: RefCell<Option<ListingGuard>> = const { RefCell::new(None) };
}

/// Threads that read files for reqsign, which reads few small ones.
const FILE_THREADS: usize = 2;

/// For reqsign, which reads files with tokio. The runtime has threads only while a file is read.
static RUNTIME: LazyLock<Option<Runtime>> =
    LazyLock::new(|| Builder::new_current_thread().max_blocking_threads(FILE_THREADS).build().ok());

/// Runs one of opendal's futures on this thread.
pub(super) fn block_on<T>(
    description: impl FnOnce() -> String,
    future: impl Future<Output = opendal::Result<T>>,
) -> Result<T, StoreError> {
    let _context = RUNTIME.as_ref().map(Runtime::enter);
    FAILURE.take();
    pollster::block_on(future).map_err(|error| explain(description, &error))
}

/// Runs one of opendal's futures that requests pages of a listing.
pub(super) fn block_on_listing<T>(
    listing: &mut ListingGuard,
    description: impl FnOnce() -> String,
    future: impl Future<Output = opendal::Result<T>>,
) -> Result<T, StoreError> {
    // Returned even if the library panics: the thread serves other requests, too.
    struct ReturnGuard<'a>(&'a mut ListingGuard);
    impl Drop for ReturnGuard<'_> {
        fn drop(&mut self) {
            if let Some(guard) = LISTING.take() {
                *self.0 = guard;
            }
        }
    }
    let returned = ReturnGuard(listing);
    LISTING.set(Some(std::mem::take(returned.0)));
    block_on(description, future)
}

fn explain(description: impl FnOnce() -> String, error: &Error) -> StoreError {
    let response = FAILURE.take();
    if error.message() == SIGNING {
        let reason = response.map(|error| format!(" ({error})")).unwrap_or_default();
        return StoreError::Denied(format!("{}: no credentials were found{reason}", description()));
    }
    match (response, error.kind()) {
        (Some(error), _) => error,
        (None, ErrorKind::NotFound) => StoreError::NotFound,
        (None, ErrorKind::PermissionDenied) => StoreError::Denied(description()),
        (None, ErrorKind::ConditionNotMatch | ErrorKind::RangeNotSatisfied) => StoreError::Stale,
        (None, ErrorKind::Unsupported) => StoreError::Unsupported("this operation"),
        (None, _) if error.is_temporary() => StoreError::Unavailable(unreadable(&description(), error)),
        (None, _) => StoreError::Failed(unreadable(&description(), error)),
    }
}

/// The error for a response that opendal cannot read. Its causes are left out, since they may repeat the response.
fn unreadable(description: &str, error: &Error) -> String {
    let text: String = error.message().chars().take(MAX_LIBRARY_MESSAGE).collect();
    format!("{description}: the response is not that of such a store ({text}): check the option endpoint")
}

/// Makes opendal fail with this error, and keeps it for [`block_on`].
pub(super) fn fail(error: StoreError) -> Error {
    let is_temporary = matches!(error, StoreError::Unavailable(_));
    let error = fail_permanently(error);
    if is_temporary { error.set_temporary() } else { error }
}

/// The same for an error that opendal must not take for a temporary one.
pub(super) fn fail_permanently(error: StoreError) -> Error {
    let text = error.to_string();
    FAILURE.set(Some(error));
    Error::new(ErrorKind::Unexpected, text)
}

/// Runs tasks on the thread that starts them: all that they wait for blocks.
pub(super) struct CallingThread;

impl Execute for CallingThread {
    fn execute(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        pollster::block_on(task);
    }
}

/// Keeps the error of a response that opendal gets nevertheless.
pub(super) fn keep_failure(error: StoreError) {
    FAILURE.set(Some(error));
}

/// The last error response of this thread.
pub(super) fn take_failure() -> Option<StoreError> {
    FAILURE.take()
}

/// Calls a function with the listing that this thread requests, if it requests one.
pub(super) fn with_listing<T>(visit: impl FnOnce(Option<&mut ListingGuard>) -> T) -> T {
    LISTING.with_borrow_mut(|listing| visit(listing.as_mut()))
}
