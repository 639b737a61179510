//! A FUSE sidecar: one Dataset as a directory, for the containers of one Pod.
//!
//! The way of a request: the kernel → [`fs`] (inodes, handles, error numbers) → [`store::Store`] (paths and
//! bytes). The way of the process: [`cli`] (what was asked) →
//! [`settings`] (what is meant) → [`daemon`] (mount, serve, end) with [`mount`] for everything that touches the mount
//! table, [`descriptor`] for mounts that others make, [`guard`] for what is below ours, [`place`] for the Pod's directory
//! on its node, and [`users`] for who uses it. [`hold`] divides it in two, so that an application outlives the process
//! that serves it. [`probe`] is for the commands that look from outside, [`in_pod`] for what
//! kubelet's hooks tell, [`warm`] and [`mod@bench`] are for those that read, and [`watch`] tells how it goes.
//!
//! It never calls Kubernetes. Of the Pod it knows what a container sees: the variables and files with which Fluid or
//! the policy starts it (their names are in [`fluid_sidecar_layout::contract`]), the memory limit of its cgroup, and the
//! processes of the Pod's other containers ([`users`]). Messages name the field of the Pod that would have to change.
//! Only [`remote`] speaks the protocols of stores and holds credentials; others ask it which options are secrets.
//!
//! Nobody from outside is trusted: `limits` says what a store may cost, [`trust`] what a Dataset may name, `nofollow` opens
//! what others could have planted, and [`plain`] shows the words of others.

pub mod bench;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod descriptor;
pub mod fetch;
pub mod fs;
pub mod guard;
mod handles;
mod histogram;
pub mod hold;
pub mod in_pod;
pub mod inodes;
mod limits;
pub mod mount;
mod nofollow;
pub mod object_store;
mod outage;
pub mod place;
pub mod plain;
pub mod probe;
mod queue;
pub mod remote;
pub mod settings;
pub mod store;
pub mod trust;
pub mod union;
pub mod users;
pub mod warm;
pub mod watch;
