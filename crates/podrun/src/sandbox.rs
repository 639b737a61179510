//! Starts one container of the plan with everything it needs, and reports what becomes of it.
//!
//! Decides how the parts go together: image, volumes, configuration, runtime, and the pause process where
//! containers share a pid namespace. It decides nothing about when.
//! All reports come through one channel, in the order in which they can be told: a container's output is
//! complete before its exit is reported.

use std::io::{BufRead as _, BufReader, PipeReader};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cgroup::Cgroup;
use crate::cli::Options;
use crate::node::{Node, Overlay};
use crate::oci::{self, Bind, Machine};
use crate::pod::{Container, Plan, SeccompProfile};
use crate::rootfs::{Image, Images};
use crate::runtime::{Created, Runtime};
use crate::secrets::Secrets;
use crate::volumes::Volumes;

/// What is reported. Containers are named by their index in the plan.
#[derive(Debug)]
#[allow(missing_docs, reason = "fields are named for what they hold")]
pub enum Message {
    /// A line that a container wrote.
    Output { container: usize, stream: &'static str, line: String },
    /// A container's process ended, maybe for want of memory.
    Exited { container: usize, code: i32, out_of_memory: bool },
    /// A hook or probe ended, of the container's run that is told by its restarts.
    Hook { container: usize, attempt: u32, hook: &'static str, code: i32, took: Duration, output: String },
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
    /// The process that holds the containers' pid namespace, if they share one.
    pause: Option<(String, Created, Overlay)>,
    /// What the user ought to know about this Pod's images and the machine.
    pub notes: Vec<String>,
}

/// A container that runs.
#[derive(Debug)]
pub struct Running {
    /// Its first process.
    pub pid: Pid,
    id: String,
    attempt: u32,
    cgroup: Arc<Cgroup>,
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
        let secrets = Secrets::new(&options.secrets);
        let volumes = Volumes::new(&plan.volumes, &options.volumes, secrets, node)?;
        let pause_image = plan.share_processes.then(|| images.pause()).transpose()?;
        let (runtime, notes) = (Arc::new(runtime), images.notes);
        let limited = plan.containers.iter().any(|container| container.memory.is_some());
        let machine = machine(&runtime, limited)?;
        let pause = None;
        let mut sandbox =
            Sandbox { plan, node, runtime, machine, images: all, volumes, sender, pause, notes };
        if let Some(image) = pause_image {
            sandbox.pause(&image).context("cannot make the Pod's process namespace")?;
        }
        sandbox.note_limits();
        Ok(sandbox)
    }

    fn pause(&mut self, image: &Image) -> Result<()> {
        // No container of a Pod can have this name.
        let id = format!("{}-POD", self.node.name());
        let container = Container {
            name: "POD".into(),
            working_dir: "/".into(),
            // As kubelet does, whatever the Pod asks for.
            seccomp_profile: SeccompProfile::RuntimeDefault,
            ..Container::default()
        };
        let (created, root) = self.create(&id, &container, image, &[])?;
        self.machine.pid_namespace = Some(format!("/proc/{}/ns/pid", created.pid).into());
        if created.cgroup.paths().next().is_none() {
            self.notes.push(
                "no cgroups: processes of different containers look alike, and what a container leaves behind \
                 lives until the Pod ends"
                    .to_owned(),
            );
        }
        self.pause = Some((id, created, root));
        Ok(())
    }

    fn note_limits(&mut self) {
        let limited = self.plan.containers.iter().filter(|container| container.memory.is_some());
        let limited: Vec<_> = limited.map(|container| container.name.as_str()).collect();
        if !limited.is_empty() && !self.machine.memory {
            let name = self.runtime.name;
            self.notes.push(format!(
                "memory cannot be limited here under {name}, so resources.limits.memory is not enforced: {}",
                limited.join(", ")
            ));
        }
    }

    /// The runtime's name.
    pub fn runtime(&self) -> &'static str {
        self.runtime.name
    }

    /// Starts a container; `attempt` tells its restarts apart.
    pub fn start(&self, index: usize, attempt: u32) -> Result<Running> {
        let (container, image) = (&self.plan.containers[index], &self.images[index]);
        ensure!(!container.vfuse || self.machine.fuse.is_some(), "the machine has no /dev/fuse to grant");
        if let Some(message) = &container.forbidden {
            bail!("{message}");
        }
        let id = format!("{}-{}-{attempt}", self.node.name(), container.name);
        let (created, root) = self.create(&id, container, image, &self.volumes.binds(container)?)?;
        let (pid, cgroup) = (created.pid, Arc::clone(&created.cgroup));
        self.watch(index, created);
        Ok(Running { pid, id, attempt, cgroup, _root: root })
    }

    /// Creates a container and starts it.
    fn create(
        &self,
        id: &str,
        container: &Container,
        image: &Image,
        binds: &[Bind],
    ) -> Result<(Created, Overlay)> {
        let bundle = self.node.directory(&format!("containers/{id}"))?;
        let root = Overlay::new(&image.layers, bundle.clone())?;
        let entrypoint = if container.command.is_empty() { &image.entrypoint } else { &container.command };
        let args: Vec<_> = entrypoint.iter().chain(&container.args).cloned().collect();
        ensure!(!args.is_empty(), "no command, and the image has no entrypoint");
        let process = oci::process(container, &args, &self.plan.name, &self.machine);
        let config = oci::config(container, process, &root.root, &self.plan.name, binds, &self.machine);
        std::fs::write(bundle.join("config.json"), config.to_string()).context("cannot write config.json")?;
        let created = self.runtime.create(id, &bundle, container.memory.filter(|_| self.machine.memory))?;
        if let Err(error) = self.runtime.start(id) {
            let _ = self.runtime.delete(id);
            wait(created.pid);
            return Err(error);
        }
        Ok((created, root))
    }

    fn watch(&self, container: usize, created: Created) {
        let Created { pid, cgroup, stdout, stderr } = created;
        let shared = self.pause.is_some();
        let readers = [("stdout", stdout), ("stderr", stderr)].map(|(stream, pipe)| {
            let sender = self.sender.clone();
            thread::spawn(move || {
                read_lines(pipe, |line| Message::Output { container, stream, line }, &sender)
            })
        });
        let sender = self.sender.clone();
        thread::spawn(move || {
            let code = wait(pid);
            let out_of_memory = cgroup.was_out_of_memory();
            if shared {
                // Of a pid namespace of its own, the kernel does this; and while one lives, output may come.
                cgroup.kill();
            }
            drop(cgroup);
            for reader in readers {
                let _ = reader.join();
            }
            let _ = sender.send(Message::Exited { container, code, out_of_memory });
        });
    }

    /// Runs a hook or probe in a container; its end is reported. It is killed when its time is up.
    pub fn hook(
        &self,
        index: usize,
        running: &Running,
        hook: &'static str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<()> {
        let process = oci::process(&self.plan.containers[index], command, &self.plan.name, &self.machine);
        let file = self.node.directory(&format!("containers/{}", running.id))?.join(hook);
        std::fs::write(&file, process.to_string()).context("cannot write a process's file")?;
        let (runtime, id, sender) = (Arc::clone(&self.runtime), running.id.clone(), self.sender.clone());
        let (attempt, cgroup) = (running.attempt, Arc::clone(&running.cgroup));
        thread::spawn(move || {
            let begun = Instant::now();
            let (code, output) = match runtime.exec(&id, &file, &cgroup, timeout) {
                Ok(executed) => (executed.code, executed.output),
                Err(error) => (255, format!("{error:#}")),
            };
            drop(cgroup);
            let took = begun.elapsed();
            let _ = sender.send(Message::Hook { container: index, attempt, hook, code, took, output });
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
        // A hook that has not ended has a share in it.
        running.cgroup.remove();
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        if let Some((id, created, _root)) = self.pause.take() {
            // With it the kernel kills all who are left in its namespace, and it ends when they were reaped. A hook
            // whose crun was killed with its container is podrun's to reap: wait for everybody.
            let _ = self.runtime.kill(&id, "SIGKILL");
            loop {
                match waitpid(None, None) {
                    Ok(status) if status.pid() == Some(created.pid) => break,
                    Err(Errno::ECHILD) => break,
                    Ok(_) | Err(_) => {}
                }
            }
            let _ = self.runtime.delete(&id);
        }
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
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return 255,
        }
    }
}

/// What the machine can give; memory limits only where a container is `limited`.
fn machine(runtime: &Runtime, limited: bool) -> Result<Machine> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no CapEff")?;
    let mask = u64::from_str_radix(mask.trim(), 16).context("CapEff")?;
    let fuse = std::fs::metadata("/dev/fuse").ok().map(|metadata| metadata.rdev());
    let fuse = fuse.map(|device| (nix::sys::stat::major(device), nix::sys::stat::minor(device)));
    let (capabilities, memory) = (oci::capability_names(mask), limited && runtime.limits_memory());
    Ok(Machine { capabilities, fuse, memory, pid_namespace: None })
}
