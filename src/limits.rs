//! What a destination or the API server refuses, told at admission instead of by a Pod that never starts.

use serde_json::Value;

use crate::destination::Destination;
use crate::json::elements;
use crate::reason::{Code, Reason};

/// The most bytes of all annotations of an object (Kubernetes: `TotalAnnotationSizeLimitB`).
pub const ANNOTATIONS_MAX: usize = 256 << 10;

/// The most volumes that are claims.
const CLAIMS_MAX: usize = 100;

/// The most containers of a Pod with a Dataset, init containers and all. Kubernetes has no limit but the size of an
/// object; a Pod that somebody means to run has far fewer.
const CONTAINERS_MAX: usize = 256;

/// The most volumes of a Pod with a Dataset, and of a fuse DaemonSet.
pub const VOLUMES_MAX: usize = 512;

/// The most bytes of a Pod with a Dataset. An object can have 1.5 MiB; a Pod that somebody wrote has some 10 KiB.
const BYTES_MAX: usize = 512 << 10;

/// Checks what is known at a glance, before anything else is read.
pub fn check_glance(bytes: usize, claims: usize) -> Result<(), Reason> {
    at_most("bytes", bytes, BYTES_MAX)?;
    at_most("volumes that are claims", claims, CLAIMS_MAX)
}

/// Checks the lists of a Pod, before anything is changed in it.
pub fn check_size(pod: &Value) -> Result<(), Reason> {
    let list = |key: &str| elements(pod.get("spec").and_then(|spec| spec.get(key))).len();
    at_most("containers", list("containers") + list("initContainers"), CONTAINERS_MAX)?;
    at_most("volumes", list("volumes"), VOLUMES_MAX)
}

fn at_most(what: &str, count: usize, most: usize) -> Result<(), Reason> {
    if count <= most {
        return Ok(());
    }
    let text = format!("the Pod has {count} {what}; with a Dataset it can have {most}");
    Err(Reason::new(Code::Unsupported, text))
}

/// Checks that the Pod's annotations leave room for the policy's own.
pub fn check_annotations(pod: &Value, key: &str, value: &str) -> Result<(), Reason> {
    let annotations = pod.get("metadata").and_then(|metadata| metadata.get("annotations")?.as_object());
    let others = annotations.into_iter().flatten().filter(|(other, _)| *other != key);
    let size: usize = others.map(|(key, value)| key.len() + value.as_str().unwrap_or_default().len()).sum();
    if size + key.len() + value.len() > ANNOTATIONS_MAX {
        return Err(Reason::new(
            Code::Unsupported,
            format!("the Pod's annotations take {size} bytes, which leaves no room for {key}; shorten them"),
        ));
    }
    Ok(())
}

/// Checks the numbers that the Pod would have with its sidecars.
pub fn check(destination: Destination, containers: usize, volumes: usize) -> Result<(), Reason> {
    let Some((instance, most)) = destination.facts().limit else { return Ok(()) };
    for (what, count) in [("containers", containers), ("volumes", volumes)] {
        if count > most {
            return Err(Reason::new(
                Code::Unsupported,
                format!("with its sidecars the Pod has {count} {what}, but {instance} can have {most}"),
            ));
        }
    }
    Ok(())
}
