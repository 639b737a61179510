//! What is published, as files: the annotated policy, and OCI image layouts of the policy and of the sidecar.
//!
//! - [`metadata`]: what does Kubewarden know of the policy before it runs it?
//! - [`module`]: how does the metadata get into the module, and out of it?
//! - [`policy`]: what does a registry hold of a policy? The same, byte for byte, as after `kwctl push`.
//! - [`image`]: what is in the sidecar's image?
//! - [`layout`]: how does an artifact lie in a directory?
//!
//! The same input gives the same bytes: time is an argument, and JSON has its keys in order. Nothing here knows
//! registries: `scripts/publish.sh` brings a layout there with skopeo, which knows protocols and credentials.

pub mod image;
pub mod layout;
pub mod metadata;
pub mod module;
pub mod policy;
