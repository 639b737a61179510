//! Addresses of hosts, within a time.
//!
//! The system's resolver may block for long, often 20 s where no server answers. So threads of this module call it,
//! one for each name at a time. Callers that look up the same name meanwhile wait for the same answer, and a lookup
//! that hangs is not started again. Answers are cached for a short time (`CACHE_TIME`), failures are not. The module knows
//! neither connections nor proxies.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::outage::{ConnectPhase, InPhase};
use crate::sync::lock;

/// How long an answer is cached: a burst of connections makes one lookup, and a changed address is used after this
/// time at the latest.
const CACHE_TIME: Duration = Duration::from_secs(5);

/// Largest number of lookups at a time. A mount has a name for each source and some for redirects; hostile redirects
/// may bring more.
const MAX_LOOKUPS: usize = 64;

/// Largest number of cached names.
const CACHED_NAMES: usize = 256;

/// The stack of a thread that looks up a name: the system's resolver keeps its buffers there.
const STACK: usize = 256 * 1024;

/// The port that the C libraries expect and return.
const NO_PORT: u16 = 0;

type Resolve = fn(&str) -> io::Result<Vec<IpAddr>>;

static DNS: LazyLock<DnsCache> = LazyLock::new(|| DnsCache::new(system));

struct DnsCache {
    lookup: Resolve,
    known: Mutex<HashMap<String, DnsEntry>>,
    changed: Condvar,
}

enum DnsEntry {
    Pending,
    Found(Vec<IpAddr>, Instant),
    Failed(ErrorKind, String, Instant),
}

/// The addresses of a host, if they are found in that time. The host may be an address itself.
pub(super) fn addresses(host: &str, port: u16, time: Duration) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let found = DNS.find(host, time)?;
    Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect())
}

fn system(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, NO_PORT).to_socket_addrs()?.map(|address| address.ip()).collect())
}

impl DnsCache {
    fn new(lookup: Resolve) -> Self {
        DnsCache { lookup, known: Mutex::default(), changed: Condvar::new() }
    }

    fn find(&'static self, host: &str, time: Duration) -> io::Result<Vec<IpAddr>> {
        let _phase = InPhase::begin(ConnectPhase::Name);
        let begun = Instant::now();
        let mut known = lock(&self.known);
        loop {
            match known.get(host) {
                Some(DnsEntry::Found(addresses, at)) if at.elapsed() < CACHE_TIME || *at >= begun => {
                    return Ok(addresses.clone());
                }
                Some(DnsEntry::Failed(kind, reason, at)) if *at >= begun => {
                    return Err(io::Error::new(*kind, reason.clone()));
                }
                Some(DnsEntry::Pending) => {
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

    fn begin(&'static self, host: &str, known: &mut HashMap<String, DnsEntry>) -> io::Result<()> {
        let is_pending = |known: &DnsEntry| matches!(known, DnsEntry::Pending);
        if known.len() >= CACHED_NAMES {
            known.retain(|_, known| is_pending(known));
        }
        if known.values().filter(|known| is_pending(known)).count() >= MAX_LOOKUPS {
            return Err(io::Error::other(format!(
                "the name {host:?} cannot be resolved: {MAX_LOOKUPS} others are being looked up"
            )));
        }
        let name = host.to_string();
        let look_up = move || {
            let end = Ended { names: self, name: &name };
            let found = (self.lookup)(&name);
            let now = Instant::now();
            let known = match found {
                Ok(addresses) => DnsEntry::Found(addresses, now),
                Err(error) => {
                    DnsEntry::Failed(error.kind(), format!("the name {name:?} is not known: {error}"), now)
                }
            };
            lock(&self.known).insert(name.clone(), known);
            drop(end);
        };
        thread::Builder::new().name("name".into()).stack_size(STACK).spawn(look_up)?;
        known.insert(host.to_string(), DnsEntry::Pending);
        Ok(())
    }
}

/// Ends a lookup, even if it panics.
struct Ended<'a> {
    names: &'static DnsCache,
    name: &'a str,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut known = lock(&self.names.known);
        if let Some(DnsEntry::Pending) = known.get(self.name) {
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
        let names: &'static DnsCache = Box::leak(Box::new(DnsCache::new(|host| {
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
