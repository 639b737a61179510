//! Runs the containers of one Pod under runc or crun, with what matters of kubelet's semantics.
//!
//! A test tool, not a kubelet: it exists to show that a Pod which the admission policy has changed works,
//! that is, that the application sees what its FUSE sidecar mounts and that the Pod ends when it should.
//! What it leaves out is in [`cli::Options`]' `--help`. The parts, from decision to deed:
//!
//! * [`pod`] reads a Pod into a plan, [`expand`] its `$(VARIABLES)`, [`quantity`] its limits; pure.
//! * [`secrets`] are the Secrets that it asks for.
//! * [`oci`] writes the runtime's `config.json` of one container, [`seccomp`] its part on system calls; pure.
//! * [`node`] is the machine it pretends to have, [`rootfs`] its images, [`volumes`] its volumes.
//! * [`runtime`] speaks to runc and crun, [`cgroup`] is what a container's processes are known by, [`pause`]
//!   the first process of a namespace that containers share, and [`sandbox`] starts one container of the plan
//!   with all of these.
//! * [`lifecycle`] decides which container starts, restarts and stops, and when, [`probes`] what the results of
//!   probes mean for it; [`event`] tells of it.

pub mod cgroup;
pub mod cli;
pub mod event;
pub mod expand;
pub mod lifecycle;
pub mod node;
pub mod oci;
pub mod pause;
pub mod pod;
pub mod probes;
pub mod quantity;
pub mod rootfs;
pub mod runtime;
pub mod sandbox;
pub mod seccomp;
pub mod secrets;
pub mod volumes;

use std::sync::mpsc;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;

use crate::cli::Options;
use crate::event::{Events, Phase};
use crate::sandbox::{Message, Sandbox};
use crate::secrets::Secrets;

/// Runs the Pod to its end and leaves nothing of it on the machine.
///
/// Must be called while the process has one thread: it moves into a mount namespace of its own.
pub fn run(options: &Options) -> Result<Phase> {
    let pod: Pod = serde_json::from_reader(options.open_pod()?).context("cannot read the Pod as JSON")?;
    let secrets = Secrets::new(&options.secrets);
    let plan = pod::read(&pod, &options.vfuse_resource, secrets)?;
    let events = Events::new(options.format);

    let node = node::Node::new(options.node_root.as_deref())?;
    let runtime = runtime::Runtime::find(options.runtime, &node)?;
    let (sender, messages) = mpsc::channel();
    forward_signals(sender.clone())?;
    let sandbox = Sandbox::new(&plan, options, &node, runtime, sender)?;
    lifecycle::Lifecycle::new(&plan, &sandbox, messages, events, options).run()
}

fn forward_signals(sender: mpsc::Sender<Message>) -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
            if sender.send(Message::Signal(name)).is_err() {
                return;
            }
        }
    });
    Ok(())
}
