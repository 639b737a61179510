//! Pods under the seccomp profile that hardened clusters ask for.

use serde_json::json;

use crate::jobs::by_processes;
use crate::support::{self, manifest, sh, vfuse, with};
use crate::world::{ECI, NATIVE, and, pod, worlds};

#[test]
fn a_confined_pod_reads_its_dataset_and_ends() {
    let confined = "  securityContext: {seccompProfile: {type: RuntimeDefault}}\n  containers:";
    let script = "grep Seccomp: /proc/self/status; cd /data && sha256sum -c SUMS; sleep 0.2";
    let pod = pod("Never", script).replace("  containers:", confined);
    let unprivileged = and(NATIVE, "destinations: {kubernetes: {device: extendedResource}}");
    for world in worlds() {
        // With `device: privileged` the runtime ignores the profile, which is not the Pod's to change.
        for (settings, sidecar) in
            [(ECI, true), (&by_processes(), true), (&unprivileged, true), (NATIVE, false)]
        {
            let mut running = world.start(&pod, settings);
            running.until("fluid-fuse postStart 0");
            assert_eq!(running.is_confined("fluid-fuse"), sidecar);
            let run = running.end();
            run.assert_order(&["app: Seccomp:\t2", "app: big.bin: OK", "app: deep/file: OK", "app exited 0"]);
            assert!(run.has("fluid-fuse exited 0"));
            assert_eq!(run.code, 0);
            world.assert_nothing_left();
        }
    }
}

#[test]
fn a_confined_sidecar_takes_a_descriptor_that_it_inherits() {
    // The shell mounts, as a node's driver does.
    let script = r#"set -e; grep Seccomp: /proc/self/status; mkdir /m /source; echo hello >/source/file
        exec 7<>/dev/fuse; mount -t fuse -o fd=7,rootmode=40000,user_id=0,group_id=0 driver /m
        fluid-fuse mount --fuse-fd 7 --source file:///source --mountpoint /m & sidecar=$!
        exec 7>&-; cat /m/file; kill $sidecar; wait $sidecar"#;
    let security = json!({"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}});
    let app = with(vfuse(sh("app", script)), with(security, json!({"image": "fluid-fuse"})));
    for world in worlds() {
        let run = world.start_admitted(&manifest(&support::pod(json!([app]))), &[]).end();
        run.assert_order(&["app: Seccomp:\t2", "app: hello", "app exited 0"]);
    }
}
