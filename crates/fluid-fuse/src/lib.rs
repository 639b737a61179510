//! A FUSE sidecar: it shows one Dataset as a directory to the containers of one Pod.
//!
//! # Glossary
//!
//! - **source**: a directory or a prefix of an object store, named by a URL; a Dataset has one or several.
//! - **remote**: of a source that answers over a network, unlike a directory of this machine.
//! - **mount point**: the directory at which the containers see the file system.
//! - **version**: one state of a file, told apart by its ETag, or by size and time of change. An open file is one version.
//! - **block**: 128 KiB of a file, the usual largest read of the kernel and the unit in which memory and disk cache are counted.
//! - **range request**: one HTTP request for consecutive bytes of a version; it fills many blocks.
//! - **prefetch**: to request blocks before a read asks for them.
//! - **passthrough**: the kernel reads a file of the disk cache by itself (`FUSE_PASSTHROUGH`), without this process.
//! - **cached**: in the memory of this process or in its disk cache, and fresh enough to be used without a request.
//! - **evict**: to drop something from a cache. A request that is not needed any more is *cancelled*; an operation that
//!   gets an error *fails*.
//! - **flat listing**: a listing of a directory together with everything below it.
//! - **walk**: a program lists the directories below one directory in turn, as `find` does.
//! - **flight**: a request whose answer several operations wait for; only the first of them makes it (singleflight).
//! - **lane**: the share that one source has of the threads and the requests.
//! - **deadline**: the moment, `--io-timeout` after the kernel's request, at which an operation fails. A store that makes
//!   progress puts it off.
//! - **outage**: the time from the first request to a source that fails to the first that is answered.
//! - **gate**: holds the application back until the mount answers (`wait --gate` in the postStart hook).
//! - **guard**: a dead mount below the real one; without the file system the containers see errors, never the bare directory.
//! - **place**: the directory of a Pod on a node that several Pods share.
//! - **linger**: open files are served for this long after the mount was taken away.
//! - **holder**: the process that keeps a mount (`hold`) while others serve it.
//! - **worker**: the process that serves the mount of a holder. Its time is a **life** of the session.
//! - **state**: what a worker leaves to the next one: the inodes and open files of the kernel.
//!
//! # How a request is answered
//!
//! 1. The kernel sends a request to [`fs`]. [`inodes`] has the path of its inode, `handles` its open file or listing.
//! 2. [`fs`] asks a [`store::Store`] about that path: [`store::LocalStore`], [`object_store::ObjectStore`] or, with several
//!    sources, [`union`], which passes the request on to the store of the source that has the path.
//! 3. If the answer is cached, the thread that took the request answers it at once. Otherwise `fs/waiters.rs` keeps the reply
//!    until its deadline (`limits`), and a thread of `queue` in the lane of the source runs the operation. Reads go to 6.
//! 4. [`object_store`] turns the path into a key. Its name cache answers, or a listing or a request for the single name
//!    does (`lookup`). Operations with the same question share one `flight`.
//! 5. [`remote`] speaks the protocol of the store. `outage` notes how requests end, and logs outages.
//! 6. A read goes to [`fetch`]: it answers from blocks in memory or from the disk cache, or makes range requests, and
//!    prefetches. The thread that completes the last missing block answers the read.
//! 7. [`fs`] turns an error into an error number, and decides how long the kernel may cache an answer.
//! 8. Writes go through `fs/writing.rs`, in one thread for each file, to the [`store::Writer`] of the store.
//!
//! # How the process runs
//!
//! [`cli`] has the options as they were written, [`settings`] what they come to with the environment and Fluid's [`config`].
//! [`daemon`] mounts, serves and ends. [`mount`] changes the mount table, [`fuse_fd`] takes mounts that others have made,
//! [`guard`] mounts the guard, [`place`] makes and removes the Pod's directory, and [`users`] watches the containers that
//! use the mount. [`hold`] divides the process in two, so that an application outlives the one that serves it. [`probe`] checks a mount from outside. [`in_pod`] passes on the news of kubelet's hooks. [`warm`] fills the
//! caches of a mount, [`mod@bench`] measures it, and [`metrics`] counts for Prometheus (`histogram`).
//!
//! # What it trusts, and what it knows
//!
//! It never calls Kubernetes. It knows of its Pod as much as a container sees: the variables and files with which Fluid or
//! the policy starts it ([`fluid_sidecar_layout::contract`]), the memory limit of its cgroup, and the processes of the
//! Pod's other containers. Messages name the field of the Pod that has to change.
//!
//! Only [`remote`] speaks the protocols of stores and holds credentials; other modules ask it which options are secrets.
//! Nothing from outside is trusted: `limits` bounds the cost of a store, [`trust`] restricts the sources of a Dataset,
//! `nofollow` opens paths in which others could have planted links, [`plain`] escapes text of others before it is shown.
//! Names that outlive the process come from `stable_hash`.

pub mod bench;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod fetch;
mod fields;
mod flight;
pub mod fs;
pub mod fuse_fd;
pub mod guard;
mod handles;
mod histogram;
pub mod hold;
pub mod in_pod;
pub mod inodes;
mod limits;
pub mod metrics;
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
mod stable_hash;
pub mod store;
mod sync;
pub mod trust;
pub mod union;
pub mod users;
pub mod warm;
