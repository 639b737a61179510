//! Speaks to the OCI runtime on this machine: runc, else crun.
//!
//! Containers are created, then started, as containerd does: when `start` returned, the process runs, and
//! its exit is podrun's to see, which is a subreaper. Decides who makes a container's cgroups: runc, and for
//! crun, which refuses this machine's kind, podrun. It does not know what is in a container.

use std::ffi::OsString;
use std::fs::File;
use std::io::{PipeReader, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::{Cgroup, Cgroups};
use crate::cli::Choice;
use crate::node::Node;

/// The OCI runtime.
#[derive(Debug)]
pub struct Runtime {
    /// Its program's name.
    pub name: &'static str,
    options: Vec<OsString>,
    cgroups: Cgroups,
    /// podrun makes the cgroups, not the runtime.
    makes_cgroups: bool,
}

/// The process of a container that was created, and what it will write.
#[derive(Debug)]
#[allow(missing_docs, reason = "fields are named for what they hold")]
pub struct Created {
    pub pid: Pid,
    pub cgroup: Arc<Cgroup>,
    pub stdout: PipeReader,
    pub stderr: PipeReader,
}

/// A process that ran in a container to its end.
#[derive(Debug)]
#[allow(missing_docs, reason = "fields are named for what they hold")]
pub struct Executed {
    pub code: i32,
    pub output: String,
}

/// Moves the shell into the cgroups before `--`, then becomes the command after it.
const JOIN: &str =
    r#"while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@""#;

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
        let makes_cgroups = *name == "crun";
        if makes_cgroups {
            // crun refuses the hybrid of cgroup v1 and v2; with the v2 half out of its sight, and with no cgroups
            // of its own, it works.
            let _ = crate::node::move_mount("/sys/fs/cgroup/unified".as_ref(), &node.directory("cgroup2")?);
            options.push("--cgroup-manager=disabled".into());
        }
        Ok(Runtime { name, options, cgroups: Cgroups::find()?, makes_cgroups })
    }

    /// Whether containers' memory can be limited.
    pub fn limits_memory(&self) -> bool {
        if self.makes_cgroups { self.cgroups.can_limit_memory() } else { self.cgroups.counts_memory() }
    }

    /// Creates a container from the bundle, a directory with a `config.json`. Its memory is what the
    /// configuration says too.
    pub fn create(&self, id: &str, bundle: &Path, memory: Option<u64>) -> Result<Created> {
        let made = self.makes_cgroups.then(|| self.cgroups.make(id, memory)).transpose()?;
        let pid_file = bundle.join("pid");
        let (stdout, stdout_writer) = std::io::pipe()?;
        let (mut stderr, stderr_writer) = std::io::pipe()?;
        let status = {
            let mut command = self.command("create", made.as_ref());
            command.arg("--bundle").arg(bundle).arg("--pid-file").arg(&pid_file).arg(id);
            command.stdout(stdout_writer).stderr(stderr_writer).status()
        };
        if !status.with_context(|| format!("cannot run {}", self.name))?.success() {
            let mut message = String::new();
            stderr.read_to_string(&mut message)?;
            bail!("{} create: {}", self.name, message.trim());
        }
        let pid = std::fs::read_to_string(&pid_file).context("cannot read the pid file")?;
        let pid = Pid::from_raw(pid.trim().parse().context("pid file")?);
        let cgroup = Arc::new(made.unwrap_or_else(|| self.cgroups.of(pid)));
        Ok(Created { pid, cgroup, stdout, stderr })
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

    /// Runs another process in the container, to its end or until its time is up. `process` is the file
    /// that describes it.
    pub fn exec(
        &self,
        id: &str,
        process: &Path,
        cgroup: &Cgroup,
        timeout: Option<Duration>,
    ) -> Result<Executed> {
        let mut command = self.command("exec", Some(cgroup));
        let pid_file = process.with_extension("pid");
        command.arg("--process").arg(process).arg("--pid-file").arg(&pid_file).arg(id);
        let Some(timeout) = timeout else {
            let result = command.output().with_context(|| format!("cannot run {}", self.name))?;
            let output = String::from_utf8_lossy(&[result.stdout, result.stderr].concat()).into_owned();
            return Ok(Executed { code: exit_code(result.status), output });
        };
        // Not through pipes: what a killed process left behind would hold them open.
        let output_file = process.with_extension("output");
        let file = File::create(&output_file).context("cannot make a file for a process's output")?;
        command.stdout(file.try_clone()?).stderr(file);
        let mut child = command.spawn().with_context(|| format!("cannot run {}", self.name))?;
        let ended = wait_for(&mut child, timeout)?;
        let killed = if ended.is_none() { Some(kill_executed(&mut child, &pid_file)?) } else { None };
        let output = std::fs::read(&output_file).unwrap_or_default();
        let mut output = String::from_utf8_lossy(&output).into_owned();
        let code = match (ended, killed) {
            (Some(status), _) => exit_code(status),
            (None, status) => {
                output += &format!("timed out after {timeout:?}");
                // It may have ended well, but too late.
                status.map(exit_code).filter(|code| *code != 0).unwrap_or(137)
            }
        };
        Ok(Executed { code, output })
    }

    fn run(&self, verb: &str, arguments: &[&str]) -> Result<()> {
        let output = self.command(verb, None).args(arguments).output();
        let output = output.with_context(|| format!("cannot run {}", self.name))?;
        if !output.status.success() {
            bail!("{} {verb}: {}", self.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// In a process group of its own: Ctrl-C is podrun's to handle. What it runs is in the cgroup, if
    /// that is podrun's to see to.
    fn command(&self, verb: &str, cgroup: Option<&Cgroup>) -> Command {
        let mut command = match cgroup.filter(|_| self.makes_cgroups) {
            None => Command::new(self.name),
            Some(cgroup) => {
                let mut command = Command::new("sh");
                command.args(["-c", JOIN, "sh"]).args(cgroup.paths()).args(["--", self.name]);
                command
            }
        };
        command.args(&self.options).arg(verb).stdin(Stdio::null()).process_group(0);
        command
    }
}

/// As a shell would tell it.
fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(127))
}

/// None when the time is up first.
fn wait_for(child: &mut Child, timeout: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        let ended = child.try_wait()?;
        if ended.is_some() || Instant::now() >= deadline {
            return Ok(ended);
        }
        sleep(Duration::from_millis(5));
    }
}

/// Kills the process in the container, of whose end the runtime then tells; else the runtime's own.
fn kill_executed(child: &mut Child, pid_file: &Path) -> Result<ExitStatus> {
    let pid = std::fs::read_to_string(pid_file).ok().and_then(|pid| pid.trim().parse().ok());
    if let Some(pid) = pid {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    if wait_for(child, Duration::from_secs(1))?.is_none() {
        child.kill()?;
    }
    Ok(child.wait()?)
}
