//! A store behind a front that misbehaves. Each change is seen as a whole or not at all, as S3 promises, so that bytes
//! that do not fit together are the mount's fault. It knows nothing of mounts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use test_store::{BUCKET, Fault, KEY, Request, S3, Store};

/// Answers that go wrong in calm weather, in thousandths.
const OFTEN: u32 = 60;

/// How all requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manners {
    /// Nothing goes wrong.
    Fine,
    /// Something goes wrong at times.
    Moody,
    /// Nothing is answered.
    Silent,
    /// Connections are reset.
    Resets,
    /// Each answer is 503.
    Busy,
}

pub(crate) struct Server {
    pub(crate) data: PathBuf,
    front: S3,
    /// The same store, where nothing goes wrong.
    back: S3,
    fate: Arc<Fate>,
}

struct Fate {
    dice: Mutex<fastrand::Rng>,
    faults: Mutex<BTreeMap<&'static str, u64>>,
}

impl Server {
    /// Serves the directories of a directory as buckets; `data` is one of them.
    pub(crate) fn start(root: &Path, seed: u64) -> Self {
        let data = root.join(BUCKET);
        fs::create_dir(&data).unwrap();
        let store = Arc::new(Store::directories(root, true).unwrap().for_key(Some(KEY.to_string())));
        let fate = Fate { dice: Mutex::new(fastrand::Rng::with_seed(seed)), faults: Mutex::default() };
        Server { data, front: S3::over(store.clone()), back: S3::over(store), fate: Arc::new(fate) }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.front.endpoint()
    }

    /// Where nothing goes wrong.
    pub(crate) fn back(&self) -> String {
        self.back.endpoint()
    }

    pub(crate) fn behave(&self, manners: Manners) {
        let fate = Arc::clone(&self.fate);
        self.front.behave(move |request| fate.roll(manners, request));
        if !matches!(manners, Manners::Fine | Manners::Moody) {
            self.front.hang_up();
        }
    }

    /// How many of each there were.
    pub(crate) fn faults(&self) -> BTreeMap<&'static str, u64> {
        self.fate.faults.lock().unwrap().clone()
    }
}

impl Fate {
    /// What happens to the next request.
    fn roll(&self, manners: Manners, request: &Request) -> Fault {
        let mut dice = self.dice.lock().unwrap();
        let bytes = dice.usize(1..400_000);
        let (name, fault) = match manners {
            Manners::Fine => return Fault::Fine,
            Manners::Silent => ("outage: no answer", Fault::Hang),
            Manners::Resets => ("outage: reset", Fault::Reset),
            Manners::Busy => ("outage: 503", Fault::Status(503, "SlowDown")),
            Manners::Moody if dice.u32(0..1000) >= OFTEN => return Fault::Fine,
            Manners::Moody => match dice.u32(0..20) {
                0..8 => ("late", Fault::Late(Duration::from_millis(dice.u64(20..400)))),
                8..10 => ("500", Fault::Status(500, "InternalError")),
                10..12 => ("503", Fault::Status(503, "SlowDown")),
                12 => ("429", Fault::Status(429, "TooManyRequests")),
                13..15 => ("reset", Fault::Reset),
                15 => ("no answer", Fault::Hang),
                16 => ("stalled body", Fault::StallIn(bytes)),
                17 => ("reset in the body", Fault::ResetIn(bytes)),
                _ => ("truncated body", Fault::CutIn(bytes)),
            },
        };
        *self.faults.lock().unwrap().entry(name).or_default() += 1;
        // A change may have been made, and only its answer be lost.
        let is_done = !matches!(&*request.method, "GET" | "HEAD") && dice.bool();
        match fault {
            Fault::Hang if is_done => Fault::HangAfter,
            Fault::Reset if is_done => Fault::ResetAfter,
            _ => fault,
        }
    }
}
