//! How long requests wait: the options `connect_timeout`, `first_byte_timeout` and `stall_timeout`.

use std::time::Duration;

/// How long an idle connection is kept: stores close theirs after 10 to 60 s.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(8);

/// The default of `connect_timeout`, in seconds.
pub(super) const CONNECT: u64 = 5;

/// The default of `first_byte_timeout`, in seconds.
pub(super) const FIRST_BYTE: u64 = 20;

/// The default of `stall_timeout`, in seconds.
pub(super) const STALL: u64 = 10;

/// The times that one request may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeouts {
    pub(super) connect: Duration,
    pub(super) first_byte: Duration,
    pub(super) stall: Duration,
}

impl Timeouts {
    /// Limits the times to that of a whole operation, but not below the defaults: an upload may take longer than
    /// that.
    pub(super) fn within(self, most: Duration) -> Self {
        let within = |time: Duration, seconds| time.min(most.max(Duration::from_secs(seconds)));
        Timeouts {
            connect: within(self.connect, CONNECT),
            first_byte: within(self.first_byte, FIRST_BYTE),
            stall: within(self.stall, STALL),
        }
    }
}
