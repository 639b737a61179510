//! The names and host paths on which the admission policy and the sidecar must agree.
//!
//! A Dataset is published to the containers of a Pod through one directory of the node, Fluid's own layout:
//!
//! ```text
//! /runtime-mnt / <runtime> / <namespace> / <dataset> / <fuse directory>
//!  mount root     thin        default       data        thin-fuse
//! ```
//!
//! The sidecar mounts its file system on the last component; the application's volume is a `hostPath` to it.
//! The directory above the mount point is never a mount itself, so a sidecar that died can be replaced there.
//!
//! | module | holds |
//! |---|---|
//! | [`contract`] | every name by which others talk to `fluid-fuse`: variables, commands, options, exit codes |
//! | [`config`] | Fluid's configuration of a ThinRuntime (feature `serde`) |
//! | [`runtime`] | what is known of each Runtime |
//! | [`path`] | the layout above |
//! | [`source`] | the URLs that `fluid-fuse` serves |
//! | [`named`](mod@named) | how this workspace writes enumerations with names |
//! | [`clap_parser()`] | these enumerations on command lines (feature `clap`) |
//!
//! This crate does no I/O. It knows neither Kubernetes objects nor FUSE.
//!
//! ```
//! use fluid_sidecar_layout::contract::MOUNT_ROOT;
//! use fluid_sidecar_layout::{MountPoint, Runtime};
//!
//! let mount_point = MountPoint::new(MOUNT_ROOT, Runtime::Thin, "default", "data")?;
//! assert_eq!(mount_point.as_str(), "/runtime-mnt/thin/default/data/thin-fuse");
//! assert_eq!(mount_point.parent(), "/runtime-mnt/thin/default/data");
//! # Ok::<(), fluid_sidecar_layout::PathError>(())
//! ```
#![no_std]

extern crate alloc;

#[cfg(feature = "clap")]
mod clap_parser;
#[cfg(feature = "serde")]
pub mod config;
pub mod contract;
pub mod named;
pub mod path;
pub mod runtime;
pub mod source;

#[cfg(feature = "clap")]
pub use clap_parser::clap_parser;
pub use named::Named;
pub use path::{MountPoint, PathError, below, check_absolute};
pub use runtime::Runtime;
