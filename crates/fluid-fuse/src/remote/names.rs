//! Addresses of hosts, within a time.
//!
//! The system's resolver blocks for as long as it likes, often 20 s where no server answers. So it is called by threads of
//! their own, one for each name at a time: those who ask for a name while it is looked up wait for the same answer, and a
//! lookup that hangs is not begun again. Answers are kept for a short time (`KEPT`), failures are not. It knows neither
//! connections nor proxies.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::inodes::lock;
use crate::outage::{ConnectPhase, InPhase};

/// How long an answer is used again: a burst of connections asks once, and who changes a name waits for no more than this.
const KEPT: Duration = Duration::from_secs(5);

/// Lookups at a time. A mount has a name for each source, and some for redirects; hostile ones may bring more.
const LOOKUPS: usize = 64;

/// Names whose answers are kept.
const NAMES: usize = 256;

/// The stack of a thread that looks up a name: the system's resolver keeps its buffers there.
const STACK: usize = 256 * 1024;

/// The C libraries want a port, and give it back.
const NO_PORT: u16 = 0;

type Lookup = fn(&str) -> io::Result<Vec<IpAddr>>;

static NAMES_OF_HOSTS: LazyLock<Names> = LazyLock::new(|| Names::new(system));

struct Names {
    lookup: Lookup,
    known: Mutex<HashMap<String, Known>>,
    changed: Condvar,
}

enum Known {
    Asked,
    Found(Vec<IpAddr>, Instant),
    Failed(ErrorKind, String, Instant),
}

/// The addresses of a host, which may be an address itself, if they are found in that time.
pub(super) fn addresses(host: &str, port: u16, time: Duration) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let found = NAMES_OF_HOSTS.find(host, time)?;
    Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect())
}

fn system(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, NO_PORT).to_socket_addrs()?.map(|address| address.ip()).collect())
}

impl Names {
    fn new(lookup: Lookup) -> Self {
        Names { lookup, known: Mutex::default(), changed: Condvar::new() }
    }

    fn find(&'static self, host: &str, time: Duration) -> io::Result<Vec<IpAddr>> {
        let _phase = InPhase::begin(ConnectPhase::Name);
        let begun = Instant::now();
        let mut known = lock(&self.known);
        loop {
            match known.get(host) {
                Some(Known::Found(addresses, at)) if at.elapsed() < KEPT || *at >= begun => {
                    return Ok(addresses.clone());
                }
                Some(Known::Failed(kind, reason, at)) if *at >= begun => {
                    return Err(io::Error::new(*kind, reason.clone()));
                }
                Some(Known::Asked) => {
                    let left = time.saturating_sub(begun.elapsed());
                    if left.is_zero() {
                        return Err(io::Error::other(format!(
                            "the name {host:?} could not be resolved in {:.1} s (check the DNS of the Pod)",
                            time.as_secs_f64()
                        )));
                    }
                    known = self.changed.wait_timeout(known, left).unwrap_or_else(PoisonError::into_inner).0;
                }
                _ => self.begin(host, &mut known)?,
            }
        }
    }

    fn begin(&'static self, host: &str, known: &mut HashMap<String, Known>) -> io::Result<()> {
        let is_asked = |known: &Known| matches!(known, Known::Asked);
        if known.len() >= NAMES {
            known.retain(|_, known| is_asked(known));
        }
        if known.values().filter(|known| is_asked(known)).count() >= LOOKUPS {
            return Err(io::Error::other(format!(
                "the name {host:?} cannot be resolved: {LOOKUPS} others are being looked up"
            )));
        }
        let name = host.to_string();
        let look_up = move || {
            let end = Ended { names: self, name: &name };
            let found = (self.lookup)(&name);
            let now = Instant::now();
            let known = match found {
                Ok(addresses) => Known::Found(addresses, now),
                Err(error) => {
                    Known::Failed(error.kind(), format!("the name {name:?} is not known: {error}"), now)
                }
            };
            lock(&self.known).insert(name.clone(), known);
            drop(end);
        };
        thread::Builder::new().name("name".into()).stack_size(STACK).spawn(look_up)?;
        known.insert(host.to_string(), Known::Asked);
        Ok(())
    }
}

/// A lookup that has ended, also by a panic.
struct Ended<'a> {
    names: &'static Names,
    name: &'a str,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut known = lock(&self.names.known);
        if let Some(Known::Asked) = known.get(self.name) {
            known.remove(self.name);
        }
        drop(known);
        self.names.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_lookup_that_hangs_is_waited_for_in_time_and_not_begun_again() {
        static LOOKUPS_BEGUN: AtomicUsize = AtomicUsize::new(0);
        static HANG: Mutex<()> = Mutex::new(());
        let names: &'static Names = Box::leak(Box::new(Names::new(|host| {
            LOOKUPS_BEGUN.fetch_add(1, Ordering::SeqCst);
            if host == "silent" {
                drop(lock(&HANG));
            }
            match host {
                "unknown" => Err(io::Error::other("no such name")),
                _ => Ok(vec![Ipv4Addr::LOCALHOST.into()]),
            }
        })));
        let count = || LOOKUPS_BEGUN.load(Ordering::SeqCst);
        let held = lock(&HANG);
        let waited = || names.find("silent", Duration::from_millis(100)).unwrap_err().to_string();
        thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(waited)).collect();
            for one in all {
                let error = one.join().unwrap();
                assert!(error.starts_with("the name \"silent\" could not be resolved in 0.1 s"), "{error}");
            }
        });
        assert_eq!(count(), 1);
        // Others are found meanwhile, once while that is kept.
        let minute = Duration::from_secs(60);
        for _ in 0..3 {
            assert_eq!(names.find("well", minute).unwrap(), [Ipv4Addr::LOCALHOST]);
        }
        assert_eq!(count(), 2);
        // Failures are not kept.
        for number in 1..3 {
            let error = names.find("unknown", minute).unwrap_err().to_string();
            assert_eq!(error, "the name \"unknown\" is not known: no such name");
            assert_eq!(count(), 2 + number);
        }
        drop(held);
        assert_eq!(names.find("silent", minute).unwrap(), [Ipv4Addr::LOCALHOST]);
        assert_eq!(count(), 4);
    }

    #[test]
    fn addresses_need_no_lookup() {
        for (host, shown) in [("127.0.0.1", "127.0.0.1:1"), ("::1", "[::1]:1"), ("[::1]", "[::1]:1")] {
            let found = addresses(host, 1, Duration::ZERO).unwrap();
            assert_eq!(found, [shown.parse::<SocketAddr>().unwrap()]);
        }
    }
}
