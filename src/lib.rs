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
//! | [`operation`] | what does the host ask, and which module answers it? |
//! | [`review`] | what is the answer to this AdmissionReview? (the order of all that follows) |
//! | [`request`] | what did the host ask, and what does the Pod say at a glance? |
//! | [`exemption`] | may the Pod be touched? |
//! | [`settings`] | what did the administrator decide? |
//! | [`verify`] | is what was injected still whole? |
//! | [`placement`] | will the Pod run on a serverless node, and on which destination? |
//! | [`destination`], [`marker`] | what is known of each destination, and what sends a Pod there? |
//! | [`dataset`] | which of its claims are Datasets, and what serves them? |
//! | [`asked`] | what does the Pod ask for its sidecars? |
//! | [`order`], [`mesh`] | where among the containers does the sidecar stand? |
//! | [`pod`] | what must its sidecars fit? |
//! | [`injection`] | what exactly changes in the Pod? |
//! | [`sidecar`] | what container serves a Dataset? |
//! | [`lifecycle`] | when is it ready, and when does it end? |
//! | [`limits`] | what would the destination refuse? |
//! | [`status`] | what was done, and how is it undone? |
//! | [`reason`] | why? |
//!
//! All of it is pure functions over data but for [`cluster`], through which the policy reads objects: one
//! trait, answered by the Kubewarden host, and in the tests and in the kubectl plugin by files or an API server.

#[cfg(target_arch = "wasm32")]
mod allocator;
pub mod asked;
pub mod cluster;
pub mod dataset;
pub mod destination;
pub mod exemption;
#[cfg(target_arch = "wasm32")]
mod guest;
pub mod injection;
mod json;
pub mod lifecycle;
pub mod limits;
pub mod marker;
pub mod mesh;
pub mod operation;
pub mod order;
pub mod placement;
pub mod pod;
pub mod reason;
pub mod request;
pub mod review;
pub mod settings;
pub mod sidecar;
pub mod status;
pub mod verify;
