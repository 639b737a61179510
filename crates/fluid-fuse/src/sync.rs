//! Mutexes without poison.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose data is consistent at every moment, also after a panic of another thread.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
