//! Where among the containers does the sidecar stand, and does the order work?
//!
//! It starts before those that read the data, and behind what it needs itself: the proxy of a service mesh to which its
//! network is redirected ([`crate::mesh`]). Where no order does both, the error names the container and the way out.

use serde_json::Value;

use crate::destination::{EXIT_PRIORITY, Exit, LAUNCH_PRIORITY, Order, Strategy};
use crate::json::{elements, name_of, text};
use crate::mesh::{self, Proxy};
use crate::reason::{Code, Reason};

/// Where the sidecars go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In the list of the strategy's order.
    pub index: usize,
    /// On ECI, where the list says nothing: their launch and exit priorities, unless they are the usual ones.
    pub priorities: Option<(i64, i64)>,
}

/// ECI's priorities: the largest, and what a container without one has.
const HIGHEST: i64 = 1000;
const DEFAULT: i64 = 0;

/// Those of a sidecar beside which there is no proxy, as [`Exit::Eci`] has them.
const USUAL: (i64, i64) = (HIGHEST, -HIGHEST);

/// Finds the place. `reads` says which containers mount a Dataset.
pub fn place(pod: &Value, strategy: Strategy, reads: impl Fn(&Value) -> bool) -> Result<Place, Reason> {
    let list = elements(pod.get("spec").and_then(|spec| spec.get(strategy.order.list())));
    let proxies = mesh::proxies(pod);
    let refuse = |text: String| Err(Reason::new(Code::Unsupported, text));
    let index = match strategy.order {
        // Otherwise last, so that other injectors' sidecars keep their places.
        Order::NativeSidecar => list.iter().position(&reads).unwrap_or(list.len()),
        Order::FirstContainer => {
            let is_proxy = |container: &&Value| {
                proxies.iter().any(|proxy| !proxy.is_native && name_of(container) == Some(proxy.name()))
            };
            list.iter().take_while(|container| is_proxy(container) && !reads(container)).count()
        }
    };
    for proxy in &proxies {
        let name = proxy.name();
        match (strategy.order, proxy.is_native) {
            (Order::NativeSidecar, false) => {
                return refuse(format!(
                    "container {name} starts after the sidecar, whose network goes through it: neither would ever be ready; {}",
                    proxy.ways_out(true)
                ));
            }
            (Order::NativeSidecar, true) if index <= proxy.place => {
                let reader = list.get(index).and_then(name_of).unwrap_or_default();
                return refuse(format!(
                    "initContainers {reader:?} reads a Dataset and starts before {name}, through which the sidecar's network \
                     goes; put it behind, or {}",
                    proxy.around()
                ));
            }
            (Order::FirstContainer, false) if index <= proxy.place => {
                return refuse(format!(
                    "container {name} starts after the sidecar, whose network goes through it: neither would ever be ready; {}",
                    proxy.ways_out(false)
                ));
            }
            _ => {}
        }
    }
    let by_priority = strategy.exit == Exit::Eci && strategy.order == Order::FirstContainer;
    let priorities = by_priority.then(|| priorities(list, &proxies, reads)).transpose()?;
    Ok(Place { index, priorities: priorities.filter(|priorities| *priorities != USUAL) })
}

/// ECI starts containers by their launch priorities, the largest first, and ends them by their exit priorities, the smallest
/// last: the sidecar comes between the proxies and the containers that read.
fn priorities(
    list: &[Value],
    proxies: &[Proxy<'_>],
    reads: impl Fn(&Value) -> bool,
) -> Result<(i64, i64), Reason> {
    let proxies: Vec<_> = proxies.iter().filter(|proxy| !proxy.is_native).collect();
    let lowest_proxy = proxies.iter().min_by_key(|proxy| priority(proxy.container, LAUNCH_PRIORITY));
    let launch = lowest_proxy.map_or(HIGHEST, |proxy| priority(proxy.container, LAUNCH_PRIORITY) - 1);
    let readers = || list.iter().filter(|container| reads(container));
    let refuse = |text: String| Err(Reason::new(Code::Unsupported, text));
    if let Some(early) = readers().find(|reader| priority(reader, LAUNCH_PRIORITY) >= launch) {
        let early = name_of(early).unwrap_or_default();
        return refuse(match lowest_proxy {
            Some(proxy) => format!(
                "on ECI container {} does not start before the sidecar, whose network goes through it, and container \
                 {early} after; give {0} {LAUNCH_PRIORITY} {HIGHEST}, and {early} at most {}, or {}",
                proxy.name(),
                HIGHEST - 2,
                proxy.around()
            ),
            None => format!(
                "container {early} has {LAUNCH_PRIORITY} {HIGHEST} and would start together with the sidecar, whose data it \
                 reads; give it at most {}",
                HIGHEST - 1
            ),
        });
    }
    // Before the proxies end, if that is after the readers.
    let last = -HIGHEST;
    let first_exit = readers().map(|reader| priority(reader, EXIT_PRIORITY)).min().unwrap_or(DEFAULT);
    let before_proxies = proxies.iter().map(|proxy| priority(proxy.container, EXIT_PRIORITY) + 1).max();
    let exit = before_proxies.filter(|exit| *exit < first_exit).unwrap_or(last);
    match readers().find(|reader| priority(reader, EXIT_PRIORITY) <= exit).and_then(name_of) {
        Some(late) => refuse(format!(
            "container {late} has {EXIT_PRIORITY} {last} and would end together with the sidecar, whose data it uses; give it \
             at least {}",
            last + 1
        )),
        None => Ok((launch, exit)),
    }
}

/// A priority of a container.
fn priority(container: &Value, name: &str) -> i64 {
    let env = elements(container.get("env"));
    let variable = env.iter().rev().find(|variable| name_of(variable) == Some(name));
    let value = variable.and_then(|variable| text(variable, "value"));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(DEFAULT).clamp(-HIGHEST, HIGHEST)
}
