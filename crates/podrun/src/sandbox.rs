//! Starts one container of the plan with everything it needs, and reports what becomes of it.
//!
//! Decides how the parts go together: image, volumes, configuration, runtime. It decides nothing about when.
//! All reports come through one channel, in the order in which they can be told: a container's output is
//! complete before its exit is reported.

use std::io::{BufRead as _, BufReader, PipeReader};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cli::Options;
use crate::node::{Node, Overlay};
use crate::oci::{self, Machine};
use crate::pod::Plan;
use crate::rootfs::{Image, Images};
use crate::runtime::{Created, Runtime};
use crate::volumes::Volumes;

/// What is reported. Containers are named by their index in the plan.
#[derive(Debug)]
#[allow(missing_docs, reason = "fields are named for what they hold")]
pub enum Message {
    /// A line that a container wrote.
    Output { container: usize, stream: &'static str, line: String },
    /// A container's process ended.
    Exited { container: usize, code: i32 },
    /// A hook or probe ended.
    Hook { container: usize, hook: &'static str, code: i32, took: Duration, output: String },
    /// podrun got a signal.
    Signal(&'static str),
}

/// All that is needed to start containers.
#[derive(Debug)]
pub struct Sandbox<'a> {
    plan: &'a Plan,
    node: &'a Node,
    runtime: Arc<Runtime>,
    machine: Machine,
    images: Vec<Image>,
    volumes: Volumes,
    sender: Sender<Message>,
    /// What the user ought to know about this Pod's images.
    pub notes: Vec<String>,
}

/// A container that runs.
#[derive(Debug)]
pub struct Running {
    id: String,
    _root: Overlay,
}

impl<'a> Sandbox<'a> {
    /// Makes the images and volumes of the Pod.
    pub fn new(
        plan: &'a Plan,
        options: &Options,
        node: &'a Node,
        runtime: Runtime,
        sender: Sender<Message>,
    ) -> Result<Self> {
        let mut images = Images::new(node, &options.images);
        let all =
            plan.containers.iter().map(|container| images.image(&container.image)).collect::<Result<_>>()?;
        let volumes = Volumes::new(&plan.volumes, &options.volumes, node)?;
        let (runtime, notes) = (Arc::new(runtime), images.notes);
        Ok(Sandbox { plan, node, runtime, machine: machine()?, images: all, volumes, sender, notes })
    }

    /// The runtime's name.
    pub fn runtime(&self) -> &'static str {
        self.runtime.name
    }

    /// Starts a container; `attempt` tells its restarts apart.
    pub fn start(&self, index: usize, attempt: u32) -> Result<Running> {
        let (container, image) = (&self.plan.containers[index], &self.images[index]);
        ensure!(!container.vfuse || self.machine.fuse.is_some(), "the machine has no /dev/fuse to grant");
        let id = format!("{}-{}-{attempt}", self.node.name(), container.name);
        let bundle = self.node.directory(&format!("containers/{id}"))?;
        let root = Overlay::new(&image.layers, bundle.clone())?;
        let entrypoint = if container.command.is_empty() { &image.entrypoint } else { &container.command };
        let args: Vec<_> = entrypoint.iter().chain(&container.args).cloned().collect();
        ensure!(!args.is_empty(), "no command, and the image has no entrypoint");
        let binds = self.volumes.binds(container)?;
        let process = oci::process(container, &args, &self.plan.name, &self.machine);
        let config = oci::config(container, process, &root.root, &self.plan.name, &binds, &self.machine);
        std::fs::write(bundle.join("config.json"), config.to_string()).context("cannot write config.json")?;
        let created = self.runtime.create(&id, &bundle)?;
        if let Err(error) = self.runtime.start(&id) {
            let _ = self.runtime.delete(&id);
            wait(created.pid);
            return Err(error);
        }
        self.watch(index, created);
        Ok(Running { id, _root: root })
    }

    fn watch(&self, container: usize, created: Created) {
        let Created { pid, stdout, stderr } = created;
        let readers = [("stdout", stdout), ("stderr", stderr)].map(|(stream, pipe)| {
            let sender = self.sender.clone();
            thread::spawn(move || {
                read_lines(pipe, |line| Message::Output { container, stream, line }, &sender)
            })
        });
        let sender = self.sender.clone();
        thread::spawn(move || {
            let code = wait(pid);
            for reader in readers {
                let _ = reader.join();
            }
            let _ = sender.send(Message::Exited { container, code });
        });
    }

    /// Runs a hook or probe in a container; its end is reported.
    pub fn hook(
        &self,
        index: usize,
        running: &Running,
        hook: &'static str,
        command: &[String],
    ) -> Result<()> {
        let process = oci::process(&self.plan.containers[index], command, &self.plan.name, &self.machine);
        let file = self.node.directory(&format!("containers/{}", running.id))?.join(hook);
        std::fs::write(&file, process.to_string()).context("cannot write a process's file")?;
        let (runtime, id, sender) = (Arc::clone(&self.runtime), running.id.clone(), self.sender.clone());
        thread::spawn(move || {
            let begun = Instant::now();
            let (code, output) = match runtime.exec(&id, &file) {
                Ok(result) => {
                    let written = [result.stdout, result.stderr].concat();
                    (result.status.code().unwrap_or(255), String::from_utf8_lossy(&written).into_owned())
                }
                Err(error) => (255, format!("{error:#}")),
            };
            let _ =
                sender.send(Message::Hook { container: index, hook, code, took: begun.elapsed(), output });
        });
        Ok(())
    }

    /// Sends a signal to a container; that it ended just now is no error.
    pub fn kill(&self, running: &Running, signal: &str) {
        let _ = self.runtime.kill(&running.id, signal);
    }

    /// Forgets a container, with what it wrote to its root.
    pub fn remove(&self, running: Running) {
        let _ = self.runtime.delete(&running.id);
    }
}

fn read_lines(pipe: PipeReader, message: impl Fn(String) -> Message, sender: &Sender<Message>) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line);
        let _ = sender.send(message(text.strip_suffix('\n').unwrap_or(&text).to_owned()));
        line.clear();
    }
}

/// Waits for a process that runc or crun left to us, and gives its exit code as a shell would.
fn wait(pid: Pid) -> i32 {
    loop {
        match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, code)) => return code,
            Ok(WaitStatus::Signaled(_, signal, _)) => return 128 + signal as i32,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return 255,
        }
    }
}

fn machine() -> Result<Machine> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no CapEff")?;
    let mask = u64::from_str_radix(mask.trim(), 16).context("CapEff")?;
    let fuse = std::fs::metadata("/dev/fuse").ok().map(|metadata| metadata.rdev());
    let fuse = fuse.map(|device| (nix::sys::stat::major(device), nix::sys::stat::minor(device)));
    Ok(Machine { capabilities: oci::capability_names(mask), fuse })
}
