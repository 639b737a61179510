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

/// What opendal says of a request that cannot be signed.
pub(super) const SIGNING: &str = "signing http request";

/// Letters of what the library says of an answer.
const UNREADABLE: usize = 200;

thread_local! {
    /// The last answer on this thread that was an error.
    static FAILURE: RefCell<Option<StoreError>> = const { RefCell::new(None) };
    /// The listing that this thread is asking for.
    static LISTING: RefCell<Option<ListingGuard>> = const { RefCell::new(None) };
}

/// For the library that signs, which reads files with tokio; it has threads only while a file is read.
static RUNTIME: LazyLock<Option<Runtime>> =
    LazyLock::new(|| Builder::new_current_thread().max_blocking_threads(2).build().ok());

/// Runs one of opendal's futures here and now.
pub(super) fn block_on<T>(
    what: impl FnOnce() -> String,
    future: impl Future<Output = opendal::Result<T>>,
) -> Result<T, StoreError> {
    let _context = RUNTIME.as_ref().map(Runtime::enter);
    FAILURE.take();
    pollster::block_on(future).map_err(|error| explain(what, &error))
}

/// Runs one of opendal's futures that asks for pages of a listing.
pub(super) fn block_on_listing<T>(
    listing: &mut ListingGuard,
    what: impl FnOnce() -> String,
    future: impl Future<Output = opendal::Result<T>>,
) -> Result<T, StoreError> {
    // Given back in any case, also by a panic of the library: the thread serves others, too.
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
    block_on(what, future)
}

fn explain(what: impl FnOnce() -> String, error: &Error) -> StoreError {
    let answered = FAILURE.take();
    if error.message() == SIGNING {
        let reason = answered.map(|answer| format!(" ({answer})")).unwrap_or_default();
        return StoreError::Denied(format!("{}: no credentials were found{reason}", what()));
    }
    match (answered, error.kind()) {
        (Some(answered), _) => answered,
        (None, ErrorKind::NotFound) => StoreError::NotFound,
        (None, ErrorKind::PermissionDenied) => StoreError::Denied(what()),
        (None, ErrorKind::ConditionNotMatch | ErrorKind::RangeNotSatisfied) => StoreError::Stale,
        (None, ErrorKind::Unsupported) => StoreError::Unsupported("this operation"),
        (None, _) if error.is_temporary() => StoreError::Unavailable(unreadable(&what(), error)),
        (None, _) => StoreError::Failed(unreadable(&what(), error)),
    }
}

/// The library could not do with an answer what it should. Its causes may repeat the answer, so they are not told.
fn unreadable(what: &str, error: &Error) -> String {
    let text: String = error.message().chars().take(UNREADABLE).collect();
    format!("{what}: the answer is not that of such a store ({text}): check the option endpoint")
}

pub(super) fn fail(error: StoreError, temporary: bool) -> Error {
    let text = error.to_string();
    FAILURE.set(Some(error));
    let error = Error::new(ErrorKind::Unexpected, text);
    if temporary { error.set_temporary() } else { error }
}

/// Runs tasks where they are started: all that they wait for blocks.
pub(super) struct CallingThread;

impl Execute for CallingThread {
    fn execute(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        pollster::block_on(task);
    }
}

/// Keeps the error of a response that opendal is given all the same.
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
