//! Is the injection of a Pod still whole? The same module as a validating policy, with `mode: verify`.
//!
//! Kubewarden's mutating webhooks see a Pod once, and others may come after this one: known ones strip
//! `restartPolicy` from native sidecars or reorder containers. A validating policy runs last and sees what
//! will be stored. What is checked is what the Pod needs to run, not that it equals what was injected: other
//! injectors may add to it.

use fluid_sidecar_layout::Named as _;
use serde_json::Value;

use crate::destination::{Destination, Device, Exit, Order, Strategy};
use crate::json::{at, elements, name_of, places_of, text};
use crate::reason::{Because as _, Code, Reason};
use crate::settings::Settings;
use crate::status::{Claim, Status};

/// Says that the injection of a Pod is whole, if it has one; the error says what is damaged.
pub fn check(pod: &Value, settings: &Settings) -> Result<Option<Reason>, Reason> {
    let Some(status) = Status::of(pod).because(Code::Malformed)? else { return Ok(None) };
    let destination = Destination::from_name(&status.destination).ok_or_else(|| {
        let text = format!("the Pod's status names an unknown destination {:?}", status.destination);
        Reason::new(Code::Malformed, text)
    })?;
    let damages = damages(pod, &status, settings.strategy(destination), settings);
    if damages.is_empty() {
        return Ok(Some(Reason::new(Code::Verified, format!("the injection for {destination} is whole"))));
    }
    let text = format!("a later webhook damaged the injection: {}", damages.join("; "));
    Err(Reason::new(Code::Damaged, text))
}

/// A Dataset's claim is still there.
pub fn never_injected(claim: &str) -> Reason {
    Reason::new(Code::Damaged, format!("claim {claim} is a Dataset's, but no sidecar was injected for it"))
}

/// What is wrong with an injected Pod, each one sentence.
fn damages(pod: &Value, status: &Status, strategy: Strategy, settings: &Settings) -> Vec<String> {
    let mut damages = Vec::new();
    let list_of = |list: &str| elements(pod.get("spec").and_then(|spec| spec.get(list)));
    let (list, other) = match strategy.order {
        Order::FirstContainer => ("containers", "initContainers"),
        Order::NativeSidecar => ("initContainers", "containers"),
    };
    let (in_list, in_other) = (places_of(list_of(list)), places_of(list_of(other)));
    let volumes = places_of(list_of("volumes"));
    let claims = status.claims_by_volume();
    let reads = |container: &Value| {
        let mut mounts = elements(container.get("volumeMounts")).iter().filter_map(name_of);
        mounts.any(|name| claims.contains_key(name))
    };
    let first_reader = list_of(list).iter().position(reads);
    for sidecar in &status.sidecars {
        let name = sidecar.container.as_str();
        let Some(&position) = in_list.get(name) else {
            let moved = in_other.contains_key(name);
            let what = if moved { "was moved to" } else { "is missing; it is not in" };
            let place = if moved { other } else { list };
            damages.push(format!("sidecar {name} {what} spec.{place}"));
            continue;
        };
        let container = &list_of(list)[position];
        let mut lost = |what: &str| damages.push(format!("sidecar {name} lost its {what}"));
        if at(container, &["lifecycle", "postStart"]).is_null() {
            lost("postStart hook, which holds the application back");
        }
        match strategy.device {
            Device::ExtendedResource => {
                let limits = at(container, &["resources", "limits"]).as_object();
                if !limits.is_some_and(|limits| limits.contains_key(&settings.vfuse_resource_name)) {
                    lost(&format!("limit {}, which grants the FUSE device", settings.vfuse_resource_name));
                }
            }
            Device::Privileged => {
                if at(container, &["securityContext", "privileged"]) != &Value::Bool(true) {
                    lost("securityContext.privileged, which lets it mount");
                }
            }
        }
        if strategy.order == Order::NativeSidecar && text(container, "restartPolicy") != Some("Always") {
            lost("restartPolicy: Always, which makes it a native sidecar");
        }
        let early = first_reader.filter(|reader| *reader < position).map(|reader| &list_of(list)[reader]);
        if let Some(early) = early.and_then(name_of) {
            damages.push(format!("container {early} now starts before sidecar {name}, whose data it reads"));
        }
    }
    if strategy.exit == Exit::ProcessNamespace
        && status.share_process_namespace
        && at(pod, &["spec", "shareProcessNamespace"]) != &Value::Bool(true)
    {
        damages.push("spec.shareProcessNamespace is no longer true, so the sidecar would never end".into());
    }
    let path_of = |volume: &str| {
        let volume = &list_of("volumes")[*volumes.get(volume)?];
        text(volume.get("hostPath")?, "path")
    };
    let is_below = |path: &str, directory: &str| {
        path.strip_prefix(directory).is_some_and(|below| below.starts_with('/'))
    };
    // Where the sidecars mount, on nodes that Pods share.
    let sidecars_volumes = status.sidecars.iter().flat_map(|sidecar| &sidecar.volumes);
    let directories: Vec<_> = sidecars_volumes.filter_map(|volume| path_of(volume)).collect();
    for Claim { volume, .. } in &status.claims {
        let path = path_of(volume);
        let root = settings.mount_root.as_str();
        if !path.is_some_and(|path| is_below(path, root)) {
            damages.push(format!("volume {volume} is no longer a hostPath below {root}"));
        } else if strategy.device == Device::Privileged
            && !directories.iter().any(|directory| path.is_some_and(|path| is_below(path, directory)))
        {
            damages.push(format!("volume {volume} is no longer below a directory that a sidecar mounts in"));
        }
    }
    damages
}
