//! Is the injection of a Pod still whole? The same module as a validating policy, with `mode: verify`.
//!
//! Kubewarden's mutating webhooks see a Pod once, and others may come after ours: known ones strip
//! `restartPolicy` from native sidecars or reorder containers. A validating policy runs last and sees what
//! will be stored. What is checked is what the Pod needs to run, not that it equals what was injected: other
//! injectors may add to it.

use serde_json::Value;

use crate::destination::{Device, Exit, Order, Strategy};
use crate::json::{elements, name_of};
use crate::settings::Settings;
use crate::status::{Claim, Status};

/// What is wrong with an injected Pod, each one sentence.
pub fn damages(pod: &Value, status: &Status, strategy: Strategy, settings: &Settings) -> Vec<String> {
    let mut damages = Vec::new();
    let list_of = |list: &str| elements(pod.get("spec").and_then(|spec| spec.get(list)));
    let (list, other) = match strategy.order {
        Order::FirstContainer => ("containers", "initContainers"),
        Order::NativeSidecar => ("initContainers", "containers"),
    };
    for sidecar in &status.sidecars {
        let name = sidecar.container.as_str();
        let Some(position) = list_of(list).iter().position(|container| name_of(container) == Some(name))
        else {
            let moved = list_of(other).iter().any(|container| name_of(container) == Some(name));
            let what = if moved { "was moved to" } else { "is missing; it is not in" };
            let place = if moved { other } else { list };
            damages.push(format!("sidecar {name} {what} spec.{place}"));
            continue;
        };
        let container = &list_of(list)[position];
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
        let early = list_of(list)[..position].iter().find(|earlier| {
            elements(earlier.get("volumeMounts"))
                .iter()
                .any(|mount| status.claims.iter().any(|claim| name_of(mount) == Some(claim.volume.as_str())))
        });
        if let Some(early) = early.and_then(|early| early.get("name")).and_then(Value::as_str) {
            damages.push(format!("container {early} now starts before sidecar {name}, whose data it reads"));
        }
    }
    if strategy.exit == Exit::ProcessNamespace
        && status.share_process_namespace
        && pod.pointer("/spec/shareProcessNamespace") != Some(&Value::Bool(true))
    {
        damages.push("spec.shareProcessNamespace is no longer true, so the sidecar would never end".into());
    }
    for Claim { volume, .. } in &status.claims {
        let path = list_of("volumes")
            .iter()
            .find(|known| name_of(known) == Some(volume.as_str()))
            .and_then(|known| known.pointer("/hostPath/path"))
            .and_then(Value::as_str);
        let root = settings.mount_root.as_str();
        if !path.and_then(|path| path.strip_prefix(root)).is_some_and(|below| below.starts_with('/')) {
            damages.push(format!("volume {volume} is no longer a hostPath below {root}"));
        }
    }
    damages
}
