//! A store that keeps its objects in a directory, behind a wire that can be cut.

use std::fs;
use std::sync::Arc;

use tempfile::TempDir;
use test_store::{BUCKET, Fault, KEY, S3, Store};

/// What the wire does.
#[derive(Clone, Copy)]
pub(crate) enum Wire {
    Carries,
    /// Answers each request with the status.
    Answers(u16),
    Resets,
}

pub(crate) struct Server {
    pub(crate) root: TempDir,
    s3: S3,
}

impl Server {
    pub(crate) fn start() -> Self {
        let root = TempDir::new().unwrap();
        fs::create_dir(root.path().join(BUCKET)).unwrap();
        let store = Store::directories(root.path(), true).unwrap().for_key(Some(KEY.to_string()));
        Server { root, s3: S3::over(Arc::new(store)) }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.s3.endpoint()
    }

    /// How many requests came since the wire does what it does.
    pub(crate) fn requests(&self) -> usize {
        self.s3.requests()
    }

    /// What happens from now on, also to what is on its way.
    pub(crate) fn wire(&self, wire: Wire) {
        self.s3.behave(move |_| match wire {
            Wire::Carries => Fault::Fine,
            Wire::Answers(status) => Fault::Status(status, "Refused"),
            Wire::Resets => Fault::Reset,
        });
        self.s3.hang_up();
    }
}
