//! When is the sidecar ready, and how does the Pod know?
//!
//! The gate is the sidecar's postStart hook: kubelet starts the next container once the hook has returned.
//! It answers one question, "is the file system mounted?", for up to the gate's timeout. For our own sidecar
//! that is `fluid-fuse wait`; a Runtime's own image has only a shell, so there it is a script.
//!
//! When does the Pod end? kubelet runs the preStop hook then, and our own sidecar is told by it that no container of
//! the Pod is started again, so that nothing needs to stay mounted for one.
//!
//! Nothing is ever put into a script: it is constant, and paths reach it as arguments. Hooks that a fuse
//! DaemonSet has for itself are not taken over: its preStop hook unmounts, and for a sidecar that is at the
//! beginning of the Pod's end, while the application still writes.

use fluid_sidecar_layout::contract::{command, option};
use k8s_openapi::api::core::v1::{ExecAction, Lifecycle, LifecycleHandler, Probe};

use crate::destination::{Device, GateKind};

/// Waits until something is mounted on `$1`, for at most `$2` seconds. POSIX sh and `sleep`, no other program.
/// If `$3` is given and there is such a program, it waits instead.
const GATE_SCRIPT: &str = r#"if [ -x "$3" ]; then exec "$3"; fi
left=$2
while :; do
  while read -r _ _ _ _ mount_point _; do
    if [ "$mount_point" = "$1" ]; then exit 0; fi
  done < /proc/self/mountinfo
  if [ "$left" -le 0 ]; then echo "nothing is mounted on $1 after $2 s" >&2; exit 1; fi
  left=$((left - 1))
  sleep 1
done"#;

/// Alibaba's images of the Runtimes carry this program, which waits for the platform's FUSE device by an ioctl
/// (Fluid v1.0.3, the last with vfuse, calls it in its postStart hook and nothing else).
const DEVICE_GATE: &str = "/tools/ioctl_sync";

/// How to ask whether the file system is mounted, inside the sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The mount point as the sidecar sees it.
    pub mount_point: String,
    /// Our program, as the image has it; an image of others has none.
    pub fluid_fuse: Option<String>,
    /// How the sidecar gets its FUSE device.
    pub device: Device,
}

impl Gate {
    /// The postStart hook, if that is the gate, blocks until mounted; the preStop hook of our sidecar tells it that the Pod
    /// ends.
    pub fn lifecycle(&self, kind: GateKind, timeout_seconds: u32) -> Lifecycle {
        let release = |program| run(vec![program, command::RELEASE.to_string()]);
        Lifecycle {
            post_start: (kind == GateKind::Hook).then(|| run(self.wait(timeout_seconds, true))),
            pre_stop: self.fluid_fuse.clone().map(release),
            ..Lifecycle::default()
        }
    }

    /// The readiness probe: is it mounted now?
    pub fn readiness_probe(&self) -> Probe {
        Probe { period_seconds: Some(2), ..self.probe(false) }
    }

    /// The startup probe, if that is the gate: the same, each second for as long as the gate waits.
    pub fn startup_probe(&self, kind: GateKind, timeout_seconds: u32) -> Option<Probe> {
        (kind == GateKind::Probe).then(|| Probe {
            period_seconds: Some(1),
            failure_threshold: i32::try_from(timeout_seconds).ok(),
            ..self.probe(true)
        })
    }

    fn probe(&self, is_gate: bool) -> Probe {
        let command = match &self.fluid_fuse {
            Some(program) => {
                let gate = is_gate.then(|| flag(option::GATE));
                let options = [flag(option::MOUNTPOINT), self.mount_point.clone()];
                [program.clone(), command::CHECK.into()].into_iter().chain(gate).chain(options).collect()
            }
            None => self.wait(0, false),
        };
        Probe {
            exec: Some(ExecAction { command: Some(command) }),
            timeout_seconds: Some(2),
            ..Probe::default()
        }
    }

    fn wait(&self, timeout_seconds: u32, is_gate: bool) -> Vec<String> {
        let mount_point = self.mount_point.clone();
        if let Some(program) = &self.fluid_fuse {
            let timeout = format!("{timeout_seconds}s");
            let program = [program.clone(), command::WAIT.into()];
            let options = [flag(option::MOUNTPOINT), mount_point, flag(option::TIMEOUT), timeout];
            let gate = is_gate.then(|| flag(option::GATE));
            return program.into_iter().chain(gate).chain(options).collect();
        }
        let script = ["sh", "-c", GATE_SCRIPT, "gate"].map(str::to_string);
        let device_gate = (self.device == Device::ExtendedResource).then(|| DEVICE_GATE.to_string());
        script.into_iter().chain([mount_point, timeout_seconds.to_string()]).chain(device_gate).collect()
    }
}

/// A hook that runs a command.
fn run(command: Vec<String>) -> LifecycleHandler {
    LifecycleHandler { exec: Some(ExecAction { command: Some(command) }), ..LifecycleHandler::default() }
}

/// Seconds of the grace period that are left to a sidecar to end, once it serves no more.
pub const LEFT_AT_THE_END: i64 = 5;

/// How long an ordinary container serves when kubelet ends all of the Pod at once: nearly as long as it may. POSIX sh and
/// `sleep`; `$1` is seconds.
pub fn serve_on(seconds: i64) -> LifecycleHandler {
    let command = ["sh", "-c", r#"sleep "$1""#, "serve-on"].map(str::to_string);
    run(command.into_iter().chain([seconds.to_string()]).collect())
}

/// An option as it is written in a command.
fn flag(name: &str) -> String {
    format!("--{name}")
}
