//! Is the injection of a Pod still whole? The same module as a validating policy, with `mode: verify`.
//!
//! Kubewarden's mutating webhooks see a Pod once, and others may come after ours: known ones strip
//! `restartPolicy` from native sidecars or reorder containers. A validating policy runs last and sees what
//! will be stored. What is checked is what the Pod needs to run, not that it equals what was injected: other
//! injectors may add to it.

use serde_json::Value;

use crate::destination::{Device, Order, Strategy};
use crate::settings::Settings;
use crate::status::{Claim, Status};

/// What is wrong with an injected Pod, each one sentence.
pub fn damages(pod: &Value, status: &Status, strategy: Strategy, settings: &Settings) -> Vec<String> {
    let mut damages = Vec::new();
    let (list, other) = match strategy.order {
        Order::FirstContainer => ("containers", "initContainers"),
        Order::NativeSidecar => ("initContainers", "containers"),
    };
    for sidecar in &status.sidecars {
        let name = sidecar.container.as_str();
        let Some(position) = elements(pod, list).iter().position(|container| is_named(container, name))
        else {
            let moved = elements(pod, other).iter().any(|container| is_named(container, name));
            let what = if moved { "was moved to" } else { "is missing; it is not in" };
            let place = if moved { other } else { list };
            damages.push(format!("sidecar {name} {what} spec.{place}"));
            continue;
        };
        let container = &elements(pod, list)[position];
        let mut lost = |what: &str| damages.push(format!("sidecar {name} lost its {what}"));
        if container.pointer("/lifecycle/postStart").is_none() {
            lost("postStart hook, which holds the application back");
        }
        match strategy.device {
            Device::ExtendedResource => {
                let limits = container.pointer("/resources/limits").and_then(Value::as_object);
                if !limits.is_some_and(|limits| limits.contains_key(&settings.vfuse_resource_name)) {
                    lost(&format!("limit {}, which grants the FUSE device", settings.vfuse_resource_name));
                }
            }
            Device::Privileged => {
                if container.pointer("/securityContext/privileged") != Some(&Value::Bool(true)) {
                    lost("securityContext.privileged, which lets it mount");
                }
            }
        }
        if strategy.order == Order::NativeSidecar
            && container.get("restartPolicy").and_then(Value::as_str) != Some("Always")
        {
            lost("restartPolicy: Always, which makes it a native sidecar");
        }
        let early = elements(pod, list)[..position].iter().find(|earlier| {
            elements_of(earlier, "volumeMounts")
                .iter()
                .any(|mount| status.claims.iter().any(|claim| is_named(mount, &claim.volume)))
        });
        if let Some(early) = early.and_then(|early| early.get("name")).and_then(Value::as_str) {
            damages.push(format!("container {early} now starts before sidecar {name}, whose data it reads"));
        }
    }
    for Claim { volume, .. } in &status.claims {
        let path = elements(pod, "volumes")
            .iter()
            .find(|known| is_named(known, volume))
            .and_then(|known| known.pointer("/hostPath/path"))
            .and_then(Value::as_str);
        let root = settings.mount_root.as_str();
        if !path.and_then(|path| path.strip_prefix(root)).is_some_and(|below| below.starts_with('/')) {
            damages.push(format!("volume {volume} is no longer a hostPath below {root}"));
        }
    }
    damages
}

fn elements<'v>(pod: &'v Value, list: &str) -> &'v [Value] {
    pod.get("spec").map(|spec| elements_of(spec, list)).unwrap_or_default()
}

fn elements_of<'v>(object: &'v Value, list: &str) -> &'v [Value] {
    object.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn is_named(element: &Value, name: &str) -> bool {
    element.get("name").and_then(Value::as_str) == Some(name)
}
