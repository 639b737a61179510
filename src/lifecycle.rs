//! When is the sidecar ready, and how does the Pod know?
//!
//! The gate is the sidecar's postStart hook: kubelet starts the next container once the hook has returned.
//! It answers one question, "is the file system mounted?", for up to the gate's timeout. For our own sidecar
//! that is `fluid-fuse wait`; a Runtime's own image has only a shell, so there it is a script.
//!
//! Nothing is ever put into a script: it is constant, and paths reach it as arguments. Hooks that a fuse
//! DaemonSet has for itself are not taken over: its preStop hook unmounts, and for a sidecar that is at the
//! beginning of the Pod's end, while the application still writes.

use fluid_sidecar_layout::FLUID_FUSE;
use serde_json::{Value, json};

use crate::destination::Device;

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
    /// The image has our program.
    pub fluid_fuse: bool,
    /// How the sidecar gets its FUSE device.
    pub device: Device,
}

impl Gate {
    /// The postStart hook: blocks until mounted.
    pub fn lifecycle(&self, timeout_seconds: u32) -> Value {
        json!({"postStart": {"exec": {"command": self.wait(timeout_seconds)}}})
    }

    /// The readiness probe: is it mounted now?
    pub fn readiness_probe(&self) -> Value {
        let command = if self.fluid_fuse {
            owned(&[FLUID_FUSE, "check", "--mountpoint", &self.mount_point])
        } else {
            self.wait(0)
        };
        json!({"exec": {"command": command}, "periodSeconds": 2, "timeoutSeconds": 2})
    }

    fn wait(&self, timeout_seconds: u32) -> Vec<String> {
        if self.fluid_fuse {
            let timeout = format!("{timeout_seconds}s");
            return owned(&[FLUID_FUSE, "wait", "--mountpoint", &self.mount_point, "--timeout", &timeout]);
        }
        let mut command =
            owned(&["sh", "-c", GATE_SCRIPT, "gate", &self.mount_point, &timeout_seconds.to_string()]);
        if self.device == Device::ExtendedResource {
            command.push(DEVICE_GATE.into());
        }
        command
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}
