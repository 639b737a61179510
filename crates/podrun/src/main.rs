//! Runs the containers of one Pod under runc, for the demo and for quick tests of the sidecar's life.
//!
//! podrun is no kubelet and shall not become one: what a real kubelet and containerd can show is shown in
//! `e2e/cluster`. podrun needs no cluster. It knows the fields that the demo and its tests use, and refuses a Pod with
//! others. The parts:
//!
//! * [`cli`] is the command line, and `--help` says what podrun does as kubelet and as ECI do it;
//! * [`pod`] reads the Pod;
//! * [`oci`] writes the `config.json` of a container;
//! * [`node`] is the machine that the Pod seems to run on, [`runtime`] calls runc, and [`sandbox`] starts a container
//!   with both;
//! * [`lifecycle`] decides which container starts, restarts and ends, and when; [`timeline`] prints it.

mod cli;
mod lifecycle;
mod node;
mod oci;
mod pod;
mod runtime;
mod sandbox;
mod timeline;

use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};

use anyhow::Result;
use clap::Parser as _;

use crate::cli::Options;
use crate::lifecycle::{Lifecycle, Phase};
use crate::node::Node;
use crate::sandbox::{Message, Sandbox};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(Phase::Succeeded) => ExitCode::SUCCESS,
        Ok(Phase::Failed) => ExitCode::from(1),
        Err(error) => {
            eprintln!("podrun: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<Phase> {
    let pod = pod::read(&options.pod, &options.secrets)?;
    // Before there are threads: they would stay in the mount namespace of the machine.
    let node = Node::new(options.node_root.as_deref())?;
    let (sender, messages) = mpsc::channel();
    forward_signals(sender.clone())?;
    let sandbox = Sandbox::new(&pod, options, &node, sender)?;
    Lifecycle::new(&pod, &sandbox, messages).run()
}

fn forward_signals(sender: Sender<Message>) -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || signals.forever().all(|_| sender.send(Message::Signal).is_ok()));
    Ok(())
}
