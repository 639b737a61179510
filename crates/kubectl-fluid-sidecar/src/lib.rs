//! `kubectl fluid-sidecar`: asks the policy about Pods the way Kubewarden's policy-server does, and explains its answers.
//!
//! ```text
//!  Pods, workloads,                             the policy: linked, or a module
//!  AdmissionReview ──▶ input ──▶ AdmissionRequest ──▶ engine ──▶ answer ──▶ Pod, patch, explanation
//!                                                       │ ▲
//!                                          cluster reads▼ │
//!                                                      reads ◀── objects (YAML files), api_server
//! ```
//!
//! - [`verbs`]: what the program does.
//! - [`engine`]: the policy, linked into the program (`linked`), or as WebAssembly under waPC, a new instance for each request.
//! - `guest`: a small host of waPC, to count instructions, and for builds that must be quick.
//! - [`reads`]: what a policy asks of the cluster, and how it is answered.
//! - [`objects`]: the cluster, made of YAML files.
//! - `api_server`: the cluster itself, and `live`, how the user's kubeconfig leads there.
//! - `rights`: what the user may not do there, and who grants it how.
//! - [`policies`]: Kubewarden's policies, with the settings.
//! - [`metadata`]: what the policy may read there.
//! - `serve`: all of it as a webhook server.
//! - `doctor`: why a Pod with a Dataset does not work.
//! - [`session`]: the same, written down for kwctl.
//! - [`input`]: what the API server would send for a manifest.
//! - [`pods`]: the Pods of custom resources.
//! - [`answer`]: what the API server would receive.
//! - [`explain`]: the same for people.
//! - [`html`]: the same as a page to attach to a review.
//! - [`mod@bench`]: how long it takes.
//! - `count`: how many instructions and bytes it takes, on every machine the same.
//!
//! With `--policy` any Kubewarden policy that reads through `get_resource` runs. Of this project's policy are the audit
//! annotation `reasons`, which [`explain`] prints, the operation `uninject`, and the name of the module.

#[cfg(all(feature = "program", not(any(feature = "kubectl", feature = "interpreter"))))]
compile_error!("the program needs the feature `kubectl`, `server` or `interpreter`");

#[cfg(feature = "program")]
pub mod answer;
#[cfg(feature = "kubectl")]
pub mod api_server;
#[cfg(feature = "program")]
pub mod bench;
#[cfg(feature = "server")]
pub mod count;
#[cfg(feature = "kubectl")]
pub mod doctor;
#[cfg(feature = "program")]
pub mod engine;
#[cfg(feature = "program")]
pub mod explain;
#[cfg(any(feature = "server", feature = "interpreter"))]
mod guest;
#[cfg(feature = "program")]
pub mod html;
pub mod input;
#[cfg(feature = "kubectl")]
mod linked;
#[cfg(feature = "kubectl")]
pub mod live;
#[cfg(feature = "program")]
pub mod metadata;
pub mod objects;
pub mod pods;
#[cfg(feature = "program")]
pub mod policies;
pub mod reads;
#[cfg(feature = "kubectl")]
mod rights;
#[cfg(feature = "server")]
pub mod serve;
pub mod session;
#[cfg(feature = "program")]
pub mod verbs;
pub mod yaml;
