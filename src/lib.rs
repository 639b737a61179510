//! Fluid Datasets for Pods on serverless nodes, as a Kubewarden policy.
//!
//! A serverless node (Alibaba Cloud ECI behind a virtual node) runs no CSI driver, so a Pod that mounts a
//! Fluid Dataset through its PersistentVolumeClaim cannot start there. At admission this policy gives such a
//! Pod a FUSE sidecar and turns the claim's volume into a `hostPath` that the sidecar mounts.
//!
//! One question a module, in the order they are asked:
//!
//! | module | question |
//! |---|---|
//! | [`review`] | what is the answer to this AdmissionReview? (the order of all that follows) |
//! | [`request`] | what did the host ask, and in what form does it want the answer? |
//! | [`settings`] | what did the administrator decide? |
//! | [`placement`] | will the Pod run on a serverless node, and on which destination? |
//! | [`dataset`] | which of its claims are Datasets, and what serves them? |
//! | [`sidecar`] | what container serves a Dataset? |
//! | [`lifecycle`] | when is it ready, and when does it end? |
//! | [`plan`] | what exactly changes in the Pod? |
//! | [`limits`] | what would the destination refuse? |
//! | [`status`] | what was done, and how is it undone? |
//! | [`verify`] | is it still whole? |
//! | [`reason`] | why? |
//!
//! All of it is pure functions over data but for [`cluster`], through which the policy reads objects: one
//! trait, answered by the Kubewarden host, and by files in the tests and in the offline evaluator.

pub mod cluster;
pub mod dataset;
pub mod destination;
mod json;
pub mod lifecycle;
pub mod limits;
pub mod placement;
pub mod plan;
pub mod reason;
pub mod request;
pub mod review;
pub mod settings;
pub mod sidecar;
pub mod status;
pub mod verify;

/// The waPC entry points: the only code that knows it runs inside a WebAssembly host.
#[cfg(target_arch = "wasm32")]
mod guest {
    use serde_json::Value;
    use wapc_guest::{CallResult, host_call, register_function};

    use crate::{cluster::Host, review::review, settings::validate_settings};

    struct Kubewarden;

    impl Host for Kubewarden {
        fn call(&self, namespace: &str, operation: &str, payload: &[u8]) -> Result<Vec<u8>, String> {
            host_call("kubewarden", namespace, operation, payload).map_err(|error| error.to_string())
        }
    }

    /// Called once by the host in each new instance.
    #[allow(unsafe_code, reason = "waPC looks the function up by this name; nothing else exports it")]
    #[unsafe(no_mangle)]
    extern "C" fn wapc_init() {
        register_function("protocol_version", |_| Ok(br#""v1""#.to_vec()));
        register_function("validate", |payload| to_json(&review(payload, &Kubewarden)));
        register_function("uninject", |payload| {
            let mut pod: Value = std::str::from_utf8(payload)?.parse()?;
            crate::status::uninject(&mut pod)?;
            to_json(&pod)
        });
        register_function("validate_settings", |payload| to_json(&validate_settings(payload)));
    }

    fn to_json(response: &impl serde::Serialize) -> CallResult {
        Ok(serde_json::to_vec(response)?)
    }
}
