//! Speaks to the OCI runtime on this machine: runc, else crun.
//!
//! Containers are created, then started, as containerd does: when `start` returned, the process runs, and
//! its exit is podrun's to see, which is a subreaper. It does not know what is in a container.

use std::ffi::OsString;
use std::io::{PipeReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Pid;

use crate::cli::Choice;
use crate::node::Node;

/// The OCI runtime.
#[derive(Debug)]
pub struct Runtime {
    /// Its program's name.
    pub name: &'static str,
    options: Vec<OsString>,
}

/// The process of a container that was created, and what it will write.
#[derive(Debug)]
#[allow(missing_docs, reason = "fields are named for what they hold")]
pub struct Created {
    pub pid: Pid,
    pub stdout: PipeReader,
    pub stderr: PipeReader,
}

impl Runtime {
    /// Finds the runtime that was chosen.
    pub fn find(choice: Choice, node: &Node) -> Result<Self> {
        let names: &[&'static str] = match choice {
            Choice::Auto => &["runc", "crun"],
            Choice::Runc => &["runc"],
            Choice::Crun => &["crun"],
        };
        let works = |name: &&&str| {
            let version = Command::new(name).arg("--version").output();
            version.is_ok_and(|output| output.status.success())
        };
        let Some(name) = names.iter().find(works) else {
            bail!("needs an OCI runtime: install {} (packages of the same name)", names.join(" or "));
        };
        let mut options = vec!["--root".into(), node.directory("state")?.into_os_string()];
        if *name == "crun" {
            // crun refuses the hybrid of cgroup v1 and v2; without the v2 half, and with no cgroups, it works.
            let _ = nix::mount::umount2("/sys/fs/cgroup/unified", nix::mount::MntFlags::MNT_DETACH);
            options.push("--cgroup-manager=disabled".into());
        }
        Ok(Runtime { name, options })
    }

    /// Creates a container from the bundle, a directory with a `config.json`.
    pub fn create(&self, id: &str, bundle: &Path) -> Result<Created> {
        let pid_file = bundle.join("pid");
        let (stdout, stdout_writer) = std::io::pipe()?;
        let (mut stderr, stderr_writer) = std::io::pipe()?;
        let status = {
            let mut command = self.command("create");
            command.arg("--bundle").arg(bundle).arg("--pid-file").arg(&pid_file).arg(id);
            command.stdout(stdout_writer).stderr(stderr_writer).status()
        };
        if !status.with_context(|| format!("cannot run {}", self.name))?.success() {
            let mut message = String::new();
            stderr.read_to_string(&mut message)?;
            bail!("{} create: {}", self.name, message.trim());
        }
        let pid = std::fs::read_to_string(&pid_file).context("cannot read the pid file")?;
        Ok(Created { pid: Pid::from_raw(pid.trim().parse().context("pid file")?), stdout, stderr })
    }

    /// Starts the process of a container that was created.
    pub fn start(&self, id: &str) -> Result<()> {
        self.run("start", &[id])
    }

    /// Sends a signal to the container's process.
    pub fn kill(&self, id: &str, signal: &str) -> Result<()> {
        self.run("kill", &[id, signal])
    }

    /// Removes the container, with all its processes.
    pub fn delete(&self, id: &str) -> Result<()> {
        self.run("delete", &["--force", id])
    }

    /// Runs another process in the container, to its end.
    pub fn exec(&self, id: &str, process: &Path) -> Result<Output> {
        let mut command = self.command("exec");
        command.arg("--process").arg(process).arg(id);
        command.output().with_context(|| format!("cannot run {}", self.name))
    }

    fn run(&self, verb: &str, arguments: &[&str]) -> Result<()> {
        let output = self.command(verb).args(arguments).output();
        let output = output.with_context(|| format!("cannot run {}", self.name))?;
        if !output.status.success() {
            bail!("{} {verb}: {}", self.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// In a process group of its own: Ctrl-C is podrun's to handle.
    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(self.name);
        command.args(&self.options).arg(verb).stdin(Stdio::null()).process_group(0);
        command
    }
}
