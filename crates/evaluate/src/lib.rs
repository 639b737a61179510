//! Runs the compiled policy offline, the way Kubewarden's policy-server does.
//!
//! ```text
//!  Pods, workloads,                                target/policy.wasm
//!  AdmissionReview ──▶ input ──▶ AdmissionRequest ──▶ engine ──▶ answer ──▶ Pod, patch, explanation
//!                                                       │ ▲
//!                                          cluster reads▼ │
//!                                                      reads ◀── objects (YAML files), api_server
//! ```
//!
//! - [`engine`]: WebAssembly under waPC, a new instance for each request.
//! - `guest`: a small host of waPC, to count instructions, and for builds that must be quick.
//! - [`reads`]: what a policy asks of the cluster, and how it is answered.
//! - [`objects`]: the cluster, made of YAML files.
//! - [`api_server`]: the cluster itself.
//! - [`metadata`]: what the policy may read there.
//! - [`serve`]: all of it as a webhook server.
//! - [`doctor`]: why a Pod with a Dataset does not work.
//! - [`session`]: the same, written down for kwctl.
//! - [`input`]: what the API server would send for a manifest.
//! - [`pods`]: the Pods of custom resources.
//! - [`answer`]: what the API server would receive.
//! - [`explain`]: the same for people.
//! - [`mod@bench`]: how long it takes.
//! - [`count`]: how many instructions and bytes it takes, on every machine the same.
//!
//! Any Kubewarden policy that reads through `get_resource` runs. Two names are those of this project's policy: the audit
//! annotation `reasons`, which [`explain`] prints, and the operation `uninject`, which `evaluate --uninject` calls.

#[cfg(feature = "evaluate")]
pub mod answer;
#[cfg(feature = "server")]
pub mod api_server;
#[cfg(feature = "evaluate")]
pub mod bench;
#[cfg(feature = "server")]
pub mod count;
#[cfg(feature = "server")]
pub mod doctor;
#[cfg(feature = "evaluate")]
pub mod engine;
#[cfg(feature = "evaluate")]
pub mod explain;
#[cfg(feature = "evaluate")]
mod guest;
pub mod input;
#[cfg(feature = "server")]
pub mod metadata;
pub mod objects;
pub mod pods;
pub mod reads;
#[cfg(feature = "server")]
pub mod serve;
pub mod session;
pub mod yaml;
