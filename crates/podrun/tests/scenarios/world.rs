//! What a scenario needs: an object store, the policy, and Pods that it has admitted.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::running::{Run, Running, runs_containers, skip};

/// On Elastic Container Instances.
pub(crate) const ECI: &str = "sidecarFrom: fluid-fuse\nsidecarImages: {thin: 'fluid-fuse:0.1'}\n";

/// The same; the sidecar ends by itself.
pub(crate) const BY_PROCESSES: &str = "sidecarFrom: fluid-fuse\nsidecarImages: {thin: 'fluid-fuse:0.1'}\n\
    destinations: {eci: {exit: processNamespace, readinessProbe: false}}\n";

/// On ordinary nodes.
pub(crate) const KUBERNETES: &str =
    "sidecarFrom: fluid-fuse\nsidecarImages: {thin: 'fluid-fuse:0.1'}\ndestination: kubernetes\n";

/// The same, as a native sidecar. Holders are seen where a kubelet starts their workers again: `e2e/cluster/outlive.bats`.
pub(crate) const NATIVE: &str = "sidecarFrom: fluid-fuse\nsidecarImages: {thin: 'fluid-fuse:0.1'}\n\
    destination: kubernetes\ndestinations: {kubernetes: {holder: false}}\n";

/// Reads all there is and compares it with its checksums.
pub(crate) const CHECK: &str = "cd /data && sha256sum -c SUMS";

/// The settings with more in them.
pub(crate) fn and(settings: &str, more: &str) -> String {
    format!("{settings}{more}\n")
}

/// A Pod for ECI whose only container is `app`, with the claim `data` at /data.
pub(crate) fn pod(restart_policy: &str, script: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: job, labels: {{alibabacloud.com/eci: "true"}}}}
spec:
  restartPolicy: {restart_policy}
  terminationGracePeriodSeconds: 60
  containers:
  - name: app
    image: busybox
    command: [sh, -c, {script}]
    volumeMounts: [{{name: data, mountPath: /data}}, {{name: scratch, mountPath: /scratch}}]
  volumes:
  - {{name: data, persistentVolumeClaim: {{claimName: data}}}}
  - {{name: scratch, emptyDir: {{}}}}
"#,
        script = serde_json::to_string(script).unwrap()
    )
}

/// What the tests run, made by `make wasm tools`.
struct Tools {
    policy: PathBuf,
    tool: PathBuf,
    fluid_fuse: PathBuf,
    fuse_bench: PathBuf,
}

fn tools() -> Tools {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tool = |variable: &str, path: &str| {
        root.join(std::env::var_os(variable).map_or_else(|| path.into(), PathBuf::from))
    };
    // For its image it is built static, for a target that is named.
    let built = fs::read_dir(root.join("target")).into_iter().flatten().flatten();
    let built = built.map(|target| target.path().join("debug/fluid-fuse")).find(|path| path.exists());
    let fluid_fuse = built.unwrap_or_else(|| "target/*/debug/fluid-fuse".into());
    Tools {
        policy: tool("POLICY", "target/policy.wasm"),
        tool: tool("TOOL", "target/debug/kubectl-fluid_sidecar"),
        fluid_fuse: tool("FLUID_FUSE", fluid_fuse.to_str().unwrap()),
        fuse_bench: tool("FUSE_BENCH", "target/debug/fuse-bench"),
    }
}

/// The endpoint of the benchmark, which serves the directories of [`buckets`].
pub(crate) struct Store {
    process: Child,
    address: String,
}

impl Store {
    fn start(listen: &str, slowly: &[&str]) -> Store {
        let mut process = Command::new(tools().fuse_bench)
            .args(["serve", "--root"])
            .arg(buckets())
            .args(["--listen", listen])
            .args(slowly)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Store { process, address: address.trim().to_owned() }
    }

    /// It is gone, as if the network were.
    pub(crate) fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// It is there again, where it was.
    pub(crate) fn resume(&mut self) {
        *self = Store::start(&self.address.clone(), &[]);
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `train`, with a file that has the checksums of the others.
fn buckets() -> &'static Path {
    static BUCKETS: OnceLock<PathBuf> = OnceLock::new();
    BUCKETS.get_or_init(|| {
        let buckets = Path::new(env!("CARGO_TARGET_TMPDIR")).join("buckets");
        let script = r#"set -e; mkdir -p "$0/train/deep"; cd "$0/train"
            [ -e big.bin ] || { head -c 50000000 /dev/urandom >new; mv new big.bin; }
            echo hello >hello.txt; echo below >deep/file; sha256sum big.bin hello.txt deep/file >SUMS"#;
        assert!(Command::new("sh").args(["-c", script]).arg(&buckets).status().unwrap().success());
        buckets
    })
}

/// An object store of its own, and the node that Pods run on.
pub(crate) struct World {
    pub(crate) store: Store,
    temporary: TempDir,
}

/// None, and a line that says why, where scenarios cannot run.
pub(crate) fn world() -> Option<World> {
    let Tools { policy, tool, fluid_fuse, fuse_bench } = tools();
    if let Some(tool) = [policy, tool, fluid_fuse, fuse_bench].iter().find(|tool| !tool.exists()) {
        skip(&format!("{} is not built (make wasm tools)", tool.display()));
        return None;
    }
    if File::options().read(true).write(true).open("/dev/fuse").is_err() {
        skip("needs /dev/fuse");
        return None;
    }
    runs_containers().then(|| {
        let temporary = tempfile::tempdir().unwrap();
        for directory in ["keys", "node"] {
            fs::create_dir(temporary.path().join(directory)).unwrap();
        }
        for (key, value) in [("keys/id", "AKID"), ("keys/secret", "s3cr3t")] {
            fs::write(temporary.path().join(key), value).unwrap();
        }
        World { store: Store::start("127.0.0.1:0", &[]), temporary }
    })
}

impl World {
    /// The same with a store that sends slowly.
    pub(crate) fn slow(mut self, how: &[&str]) -> World {
        self.store = Store::start("127.0.0.1:0", how);
        self
    }

    /// The Pod as the policy leaves it.
    pub(crate) fn admit(&self, pod: &str, settings: &str) -> String {
        let write = |name: &str, text: &str| {
            let path = self.temporary.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let cluster = include_str!("cluster.yaml");
        let cluster = cluster.replace("ENDPOINT", &format!("\"http://{}\"", self.store.address));
        let admitted = Command::new(tools().tool)
            .arg("explain")
            .arg(write("pod.yaml", pod))
            .args(["--output", "pod", "--policy"])
            .arg(tools().policy)
            .arg("--objects")
            .arg(write("cluster.yaml", &cluster))
            .arg("--settings")
            .arg(write("settings.yaml", settings))
            .output()
            .unwrap();
        assert!(admitted.status.success(), "{}", String::from_utf8_lossy(&admitted.stderr));
        String::from_utf8(admitted.stdout).unwrap()
    }

    /// Admits the Pod and starts it.
    pub(crate) fn start(&self, pod: &str, settings: &str) -> Running {
        self.start_admitted(&self.admit(pod, settings))
    }

    /// Starts what was admitted.
    pub(crate) fn start_admitted(&self, pod: &str) -> Running {
        let image = format!("fluid-fuse={}", tools().fluid_fuse.display());
        let place = |name: &str| self.temporary.path().join(name).to_str().unwrap().to_owned();
        let (secret, node_root) = (format!("keys={}", place("keys")), place("node"));
        Running::start(pod, &["--image", &image, "--secret", &secret, "--node-root", &node_root])
    }

    /// How many Pods have left their directory on the node.
    pub(crate) fn left_by_pods(&self) -> usize {
        let dataset = self.temporary.path().join("node/runtime-mnt/thin/default/data");
        let entries = fs::read_dir(dataset).unwrap().map(|entry| entry.unwrap().file_name());
        // A mount point that is not below one is that of the serverless platform, whose node ends with the Pod.
        entries.filter(|name| name != "thin-fuse").count()
    }

    /// Admits the Pod and runs it to its end.
    pub(crate) fn run(&self, pod: &str, settings: &str) -> Run {
        self.start(pod, settings).end()
    }
}
