//! What the mount has to live through, and what may be seen of it: the one place that knows which errors are
//! documented (`FAULTS.md`, `SEMANTICS.md`, `WRITES.md`).
//!
//! It decides from times alone. It knows neither what was read nor who makes the weather.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::METADATA_TTL;
use crate::support::content::Content;

/// How long after an outage an operation may still be one that began in it.
const AFTER: Duration = Duration::from_secs(3);

/// What a thread may be late by between two looks at the clock.
const SLACK: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) from: Instant,
    /// Not yet over if there is none.
    pub(crate) to: Option<Instant>,
}

impl Span {
    fn meets(&self, from: Instant, after: Duration) -> bool {
        self.to.is_none_or(|to| to + after >= from)
    }
}

/// A version of an object: it may be seen from its put on until the next one's is answered.
struct Version {
    content: Content,
    superseded: Option<Instant>,
}

#[derive(Default)]
pub(crate) struct Weather(Mutex<State>);

#[derive(Default)]
struct State {
    restarts: Vec<Span>,
    /// Each with whether it lasts longer than the mount tries for.
    outages: Vec<(Span, bool)>,
    objects: HashMap<String, Vec<Version>>,
}

/// What somebody is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doing<'a> {
    /// The object, where it is one that is replaced behind the mount's back.
    pub(crate) key: Option<&'a str>,
    /// When this operation began.
    pub(crate) since: Instant,
    /// When its file was opened; the operation, if it is one on a path.
    pub(crate) opened: Instant,
}

impl<'a> Doing<'a> {
    pub(crate) fn path(key: Option<&'a str>) -> Self {
        let now = Instant::now();
        Doing { key, since: now, opened: now }
    }

    /// The next operation on the same file.
    pub(crate) fn next(self) -> Self {
        Doing { since: Instant::now(), ..self }
    }
}

/// What may be of an object at a moment.
pub(crate) struct Versions {
    pub(crate) allowed: Vec<Content>,
    /// All that were ever there, for those who want to know what is wrong.
    pub(crate) old: Vec<Content>,
}

impl Weather {
    pub(crate) fn restart_begins(&self) {
        self.0.lock().unwrap().restarts.push(Span { from: Instant::now(), to: None });
    }

    pub(crate) fn restart_ends(&self) {
        end(self.0.lock().unwrap().restarts.last_mut());
    }

    pub(crate) fn outage_begins(&self, lasting: bool) {
        self.0.lock().unwrap().outages.push((Span { from: Instant::now(), to: None }, lasting));
    }

    pub(crate) fn outage_ends(&self) {
        end(self.0.lock().unwrap().outages.last_mut().map(|(span, _)| span));
    }

    pub(crate) fn restarts(&self) -> Vec<Span> {
        self.0.lock().unwrap().restarts.clone()
    }

    pub(crate) fn outages(&self) -> Vec<Span> {
        self.0.lock().unwrap().outages.iter().map(|(span, _)| *span).collect()
    }

    /// An object is about to have another content.
    pub(crate) fn replacing(&self, key: &str, content: Content) {
        let mut state = self.0.lock().unwrap();
        let versions = state.objects.entry(key.to_string()).or_default();
        versions.push(Version { content, superseded: None });
    }

    /// It has it: who asks now finds nothing older.
    pub(crate) fn replaced(&self, key: &str) {
        let mut state = self.0.lock().unwrap();
        let versions = state.objects.entry(key.to_string()).or_default();
        let last = versions.len().saturating_sub(1);
        for version in versions.iter_mut().take(last) {
            version.superseded.get_or_insert_with(Instant::now);
        }
    }

    /// What somebody may see who opens the object at that moment, or later.
    pub(crate) fn versions(&self, key: &str, opened: Instant) -> Versions {
        let state = self.0.lock().unwrap();
        let mut versions = Versions { allowed: Vec::new(), old: Vec::new() };
        for version in state.objects.get(key).into_iter().flatten() {
            match version.superseded.is_none_or(|at| at + METADATA_TTL + SLACK >= opened) {
                true => versions.allowed.push(version.content),
                false => versions.old.push(version.content),
            }
        }
        versions
    }

    /// How long ago a version was superseded.
    pub(crate) fn age(&self, key: &str, content: Content) -> Option<Duration> {
        let state = self.0.lock().unwrap();
        let version = state.objects.get(key)?.iter().find(|version| version.content == content)?;
        version.superseded.map(|at| at.elapsed())
    }

    /// Why an operation may end so, if it may.
    pub(crate) fn excuse(&self, errno: Errno, doing: &Doing<'_>) -> Option<&'static str> {
        let state = self.0.lock().unwrap();
        // A file that was opened before a restart is of a process that is gone, or will be.
        let restarted = state.restarts.iter().any(|restart| restart.meets(doing.opened, Duration::ZERO));
        let parted = [Errno::NOTCONN, Errno::CONNABORTED, Errno::IO, Errno::STALE, Errno::NOENT, Errno::ROFS];
        if restarted && parted.contains(&errno) {
            return Some("restart");
        }
        match errno {
            Errno::IO => {
                let met = |(outage, lasting): &(Span, bool)| *lasting && outage.meets(doing.since, AFTER);
                state.outages.iter().any(met).then_some("outage")
            }
            Errno::STALE => {
                let versions = state.objects.get(doing.key?)?;
                let trusted = METADATA_TTL + SLACK;
                // A version that was there, or trusted to be, when it was opened.
                let gone =
                    |version: &Version| version.superseded.is_some_and(|at| at + trusted >= doing.opened);
                // The last one may be there although its put is not answered yet.
                let coming = versions.iter().filter(|version| version.superseded.is_none()).count() > 1;
                (coming || versions.iter().any(gone)).then_some("replaced")
            }
            _ => None,
        }
    }
}

fn end(span: Option<&mut Span>) {
    if let Some(span) = span.filter(|span| span.to.is_none()) {
        span.to = Some(Instant::now());
    }
}

/// As the manual writes it.
pub(crate) fn name(errno: Errno) -> String {
    match errno {
        Errno::IO => "EIO",
        Errno::STALE => "ESTALE",
        Errno::NOENT => "ENOENT",
        Errno::NOTCONN => "ENOTCONN",
        Errno::CONNABORTED => "ECONNABORTED",
        Errno::ROFS => "EROFS",
        Errno::BUSY => "EBUSY",
        Errno::BADF => "EBADF",
        Errno::EXIST => "EEXIST",
        Errno::ACCESS => "EACCES",
        Errno::NOTEMPTY => "ENOTEMPTY",
        other => return format!("{other:?}"),
    }
    .to_string()
}

/// The number of an error; EIO for what has none.
pub(crate) fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}
