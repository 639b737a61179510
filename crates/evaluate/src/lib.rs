//! Runs the compiled policy offline, the way Kubewarden's policy-server does.
//!
//! ```text
//!  Pod, workload or                                target/policy.wasm
//!  AdmissionReview ──▶ input ──▶ AdmissionRequest ──▶ engine ──▶ answer ──▶ Pod, patch, explanation
//!                                                       │ ▲
//!                                          cluster reads▼ │
//!                                                     objects ◀── YAML files
//! ```
//!
//! - [`engine`]: WebAssembly under waPC, a new instance for each request.
//! - [`objects`]: the cluster, made of YAML files.
//! - [`session`]: the same, written down for kwctl.
//! - [`input`]: what the API server would send for a manifest.
//! - [`answer`]: what the API server would receive.
//! - [`explain`]: the same for people.
//! - [`mod@bench`]: how long it takes.
//!
//! Nothing here knows what the policy does: any Kubewarden policy that reads through `get_resource` runs.

#[cfg(feature = "engine")]
pub mod answer;
#[cfg(feature = "engine")]
pub mod bench;
#[cfg(feature = "engine")]
pub mod engine;
#[cfg(feature = "engine")]
pub mod explain;
pub mod input;
pub mod objects;
pub mod session;
pub mod yaml;
