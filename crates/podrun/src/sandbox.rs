//! Starts a container of the Pod with all that it needs, and reports what becomes of it.
//!
//! Decides how the parts go together: image, volumes, configuration, runc, and the process that holds the pid
//! namespace where containers share one. It decides nothing about when. Reports come through one channel; a
//! container's output is complete before its exit is reported.

use std::fs;
use std::io::{BufRead as _, BufReader, PipeReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fluid_sidecar_layout::contract::MOUNT_ROOT;
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cli::{Options, given};
use crate::node::{Node, Overlay};
use crate::oci::{self, Bind};
use crate::pod::{Container, Hook, Pod, Propagation, Volume};
use crate::runtime::{Process, Runtime};

/// What is reported. Containers are named by their index in the Pod.
#[derive(Debug)]
pub(crate) enum Message {
    /// A line that a container wrote.
    Output { container: usize, line: String },
    /// A container's first process ended.
    Exited { container: usize, code: i32 },
    /// A container's hook ended.
    Hook { container: usize, hook: Hook, code: i32, took: Duration, output: String },
    /// podrun got a signal that asks it to end.
    Signal,
}

/// All that is needed to start containers.
#[derive(Debug)]
pub(crate) struct Sandbox<'a> {
    pod: &'a Pod,
    options: &'a Options,
    node: &'a Node,
    runtime: Arc<Runtime>,
    busybox: PathBuf,
    /// The capabilities that podrun has itself.
    capabilities: u64,
    sender: Sender<Message>,
    /// The process that holds the containers' pid namespace, if they share one.
    pause: Option<Running>,
}

/// A container that runs.
#[derive(Debug)]
pub(crate) struct Running {
    /// Its first process.
    pub(crate) pid: Pid,
    id: String,
    _root: Overlay,
}

impl<'a> Sandbox<'a> {
    /// Makes what the Pod's containers share.
    pub(crate) fn new(
        pod: &'a Pod,
        options: &'a Options,
        node: &'a Node,
        sender: Sender<Message>,
    ) -> Result<Self> {
        let (runtime, busybox) = (Arc::new(Runtime::new(node)?), node.busybox()?);
        let capabilities = own_capabilities()?;
        let mut sandbox = Sandbox { pod, options, node, runtime, busybox, capabilities, sender, pause: None };
        for container in &pod.spec.containers {
            sandbox.image(container)?;
            sandbox.volumes(container)?;
        }
        if pod.spec.share_process_namespace {
            // A shell reaps the orphans that it inherits.
            let container = Container::shell("while :; do sleep 1; done");
            // No container of a Pod can have this name.
            let (pause, _) = sandbox.create(format!("{}-POD", node.name()), &container)?;
            sandbox.pause = Some(pause);
        }
        Ok(sandbox)
    }

    /// Starts a container; `attempt` tells its restarts apart.
    pub(crate) fn start(&self, index: usize, attempt: u32) -> Result<Running> {
        let container = &self.pod.spec.containers[index];
        let id = format!("{}-{}-{attempt}", self.node.name(), container.name);
        let (running, output) = self.create(id, container)?;
        self.watch(index, &running, output);
        Ok(running)
    }

    fn create(&self, id: String, container: &Container) -> Result<(Running, [PipeReader; 2])> {
        let (image, program) = self.image(container)?;
        let mut binds = self.volumes(container)?;
        for bind in &binds {
            // Of a file system whose server died this says "File exists", as containerd does.
            fs::create_dir_all(&bind.source)
                .with_context(|| format!("cannot make {}", bind.source.display()))?;
        }
        binds.extend(program);
        // Parents before what lies below them.
        binds.sort_by_key(|bind| Path::new(&bind.destination).components().count());
        let bundle = self.node.directory(&format!("containers/{id}"))?;
        let root = Overlay::new(&image, bundle.clone())?;
        let process = oci::process(container, &container.command, self.capabilities);
        let pid_namespace = self.pause.as_ref().map(|pause| format!("/proc/{}/ns/pid", pause.pid));
        let config =
            oci::config(container, &process, &root.root, &binds, pid_namespace.as_ref().map(Path::new));
        fs::write(bundle.join("config.json"), config.to_string()).context("cannot write config.json")?;
        let Process { pid, output } = self.runtime.run(&id, &bundle)?;
        Ok((Running { pid, id, _root: root }, output))
    }

    /// The root file system of a container's image, and the program that is put into it.
    fn image(&self, container: &Container) -> Result<(PathBuf, Option<Bind>)> {
        let name = repository(&container.image);
        let Some(path) = given(&self.options.images, name) else {
            ensure!(name == "busybox", "image {:?}: give --image {name}=PATH", container.image);
            return Ok((self.busybox.clone(), None));
        };
        let path = path.canonicalize().with_context(|| format!("--image {name}={}", path.display()))?;
        if path.is_dir() {
            return Ok((path, None));
        }
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        let destination = format!("/usr/bin/{file_name}");
        let program = Bind { source: path, destination, read_only: true, propagation: Propagation::None };
        Ok((self.busybox.clone(), Some(program)))
    }

    /// The directories of volumes that a container binds.
    fn volumes(&self, container: &Container) -> Result<Vec<Bind>> {
        let mut binds = Vec::new();
        for mount in &container.volume_mounts {
            let volume = self.pod.spec.volumes.iter().find(|volume| volume.name == mount.name);
            let volume = volume.with_context(|| format!("the Pod has no volume {:?}", mount.name))?;
            binds.push(Bind {
                source: self.volume(volume)?,
                destination: mount.mount_path.clone(),
                read_only: mount.read_only,
                propagation: mount.mount_propagation,
            });
        }
        if container.vfuse() {
            binds.push(Bind {
                source: self.node.host_path(MOUNT_ROOT),
                destination: MOUNT_ROOT.to_owned(),
                read_only: false,
                propagation: Propagation::Bidirectional,
            });
        }
        Ok(binds)
    }

    /// Where a volume is on this machine.
    fn volume(&self, Volume { name, host_path, empty_dir }: &Volume) -> Result<PathBuf> {
        if let Some(directory) = given(&self.options.volumes, name) {
            return directory
                .canonicalize()
                .with_context(|| format!("--volume {name}={}", directory.display()));
        }
        if let Some(host_path) = host_path {
            return Ok(self.node.host_path(&host_path.path));
        }
        ensure!(empty_dir.is_some(), "volume {name}: podrun cannot provide it: give --volume {name}=DIR");
        let directory = self.node.directory(&format!("volumes/{name}"))?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?;
        Ok(directory)
    }

    fn watch(&self, container: usize, running: &Running, output: [PipeReader; 2]) {
        let readers = output.map(|pipe| {
            let sender = self.sender.clone();
            thread::spawn(move || report_lines(pipe, container, &sender))
        });
        let (sender, runtime) = (self.sender.clone(), Arc::clone(&self.runtime));
        let (pid, id) = (running.pid, running.id.clone());
        thread::spawn(move || {
            let code = wait(pid);
            // In a pid namespace that it shared this kills what it left behind, which could hold the pipes open.
            runtime.delete(&id);
            for reader in readers {
                let _ = reader.join();
            }
            let _ = sender.send(Message::Exited { container, code });
        });
    }

    /// Runs a hook in a container; its end is reported.
    pub(crate) fn hook(&self, index: usize, running: &Running, hook: Hook, command: &[String]) -> Result<()> {
        let process = oci::process(&self.pod.spec.containers[index], command, self.capabilities);
        let file = self.node.directory(&format!("containers/{}", running.id))?.join(hook.to_string());
        fs::write(&file, process.to_string()).context("cannot write a process's file")?;
        let (runtime, id, sender) = (Arc::clone(&self.runtime), running.id.clone(), self.sender.clone());
        thread::spawn(move || {
            let begun = Instant::now();
            let ended = runtime.exec(&id, &file);
            let (code, output) = ended.unwrap_or_else(|error| (255, format!("{error:#}")));
            let took = begun.elapsed();
            let _ = sender.send(Message::Hook { container: index, hook, code, took, output });
        });
        Ok(())
    }

    /// Sends a signal to a container.
    pub(crate) fn kill(&self, running: &Running, signal: &str) {
        self.runtime.kill(&running.id, signal);
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        if let Some(pause) = self.pause.take() {
            // With it the kernel kills all who are left in its namespace.
            self.runtime.kill(&pause.id, "SIGKILL");
            wait(pause.pid);
            self.runtime.delete(&pause.id);
        }
    }
}

/// The last component of an image's repository: `registry:5000/a/name:tag@sha256:…` is `name`.
fn repository(image: &str) -> &str {
    let path = image.split('@').next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default();
    last.split(':').next().unwrap_or_default()
}

fn report_lines(pipe: PipeReader, container: usize, sender: &Sender<Message>) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
        let _ = sender.send(Message::Output { container, line: text });
        line.clear();
    }
}

/// Waits for a process that runc left to podrun, and gives its exit code as a shell would.
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

fn own_capabilities() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no CapEff")?;
    u64::from_str_radix(mask.trim(), 16).context("CapEff")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images() {
        for image in ["name", "name:0.1", "registry.example/a/name:0.1", "localhost:5000/name@sha256:0123"] {
            assert_eq!(repository(image), "name", "{image}");
        }
    }
}
