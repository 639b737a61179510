//! Calls runc. It does not know what is in a container.

use std::io::{PipeReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::Pid;

use crate::node::Node;

/// runc, with a state directory of its own.
#[derive(Debug)]
pub(crate) struct Runtime {
    state: PathBuf,
}

/// The first process of a container, which is podrun's child, and its stdout and stderr.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) output: [PipeReader; 2],
}

impl Runtime {
    /// Fails where there is no runc.
    pub(crate) fn new(node: &Node) -> Result<Self> {
        let version = Command::new("runc").arg("--version").output();
        ensure!(version.is_ok_and(|output| output.status.success()), "needs runc (package runc)");
        Ok(Runtime { state: node.directory("runc")? })
    }

    /// Starts a container from the bundle, a directory with a `config.json`.
    pub(crate) fn run(&self, id: &str, bundle: &Path) -> Result<Process> {
        let pid_file = bundle.join("pid");
        let (stdout, stdout_writer) = std::io::pipe()?;
        let (mut stderr, stderr_writer) = std::io::pipe()?;
        let mut command = self.command("run");
        command.arg("--detach").arg("--bundle").arg(bundle).arg("--pid-file").arg(&pid_file).arg(id);
        let status = command.stdout(stdout_writer).stderr(stderr_writer).status();
        // It holds the pipes' other ends.
        drop(command);
        if !status.context("cannot run runc")?.success() {
            let mut message = String::new();
            stderr.read_to_string(&mut message)?;
            bail!("runc run: {}", message.trim());
        }
        let pid = std::fs::read_to_string(&pid_file).context("cannot read the pid file")?;
        Ok(Process { pid: Pid::from_raw(pid.parse().context("pid file")?), output: [stdout, stderr] })
    }

    /// Sends a signal to the container's first process.
    pub(crate) fn kill(&self, id: &str, signal: &str) {
        // That it has ended just now is no error.
        let _ = self.command("kill").arg(id).arg(signal).output();
    }

    /// Removes the container, with all processes of its cgroup.
    pub(crate) fn delete(&self, id: &str) {
        let _ = self.command("delete").arg("--force").arg(id).output();
    }

    /// Runs another process in the container to its end; gives its exit code and what it wrote. `process` is the file
    /// that describes it.
    pub(crate) fn exec(&self, id: &str, process: &Path) -> Result<(i32, String)> {
        let result = self.command("exec").arg("--process").arg(process).arg(id).output();
        let result = result.context("cannot run runc")?;
        let output = String::from_utf8_lossy(&[result.stdout, result.stderr].concat()).into_owned();
        Ok((result.status.code().unwrap_or(255), output))
    }

    /// In a process group of its own: Ctrl-C is podrun's to handle.
    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(&self.state).arg(verb).stdin(Stdio::null()).process_group(0);
        command
    }
}
