//! What a destination or the API server refuses, told at admission instead of by a Pod that never starts.

use serde_json::Value;

use crate::destination::Destination;
use crate::reason::{Code, Reason};

/// The most bytes of all annotations of an object (Kubernetes: `TotalAnnotationSizeLimitB`).
const ANNOTATIONS_MAX: usize = 256 << 10;

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
