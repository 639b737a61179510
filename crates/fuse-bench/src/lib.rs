//! What fluid-fuse is measured with: an S3 endpoint that costs next to nothing ([`test_store`]), the same bytes
//! without FUSE ([`direct`]) and FUSE without bytes ([`zeros`]) as limits, and the run that puts it and its
//! peers through the same work in turns ([`run`]).
//!
//! It knows fluid-fuse as a program only, so that it measures what is shipped.

pub mod direct;
pub mod run;
pub mod size;
pub mod zeros;
