//! How Pods end, and what is left of them: nothing, as [`Running::end`](crate::running::Running::end) asserts.

use crate::world::{BY_PROCESSES, ECI, NATIVE, pod, world};

/// Reads with many processes at a time, on and on.
const STREAMS: &str = "trap 'exit 0' TERM; for i in $(seq 64); do (while :; do cat /data/big.bin >/dev/null; done) & done; \
    sleep 0.5; echo reading; while :; do sleep 0.1; done";

#[test]
fn a_pod_that_is_deleted_while_it_reads_ends_by_itself() {
    let Some(world) = world() else { return };
    for settings in [ECI, NATIVE, BY_PROCESSES] {
        let mut running = world.start(&pod("Never", STREAMS), settings);
        running.until("app | reading");
        let run = running.delete();
        run.assert_order(&["fluid-fuse preStop exited 0", "app gets SIGTERM", "fluid-fuse exited 0"]);
        assert!(!run.has("fluid-fuse gets SIGKILL"));
        assert_eq!(world.left_by_pods(), 0);
    }
}

#[test]
fn a_pod_without_a_grace_period_leaves_no_more_than_its_directory() {
    let Some(world) = world() else { return };
    let pod = pod("Never", STREAMS)
        .replace("terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: 0");
    // That there is time for no hook is nothing that the sidecar knows: it may be started again.
    for (settings, left) in [(ECI, 0), (NATIVE, 1)] {
        let mut running = world.start(&pod, settings);
        running.until("app | reading");
        running.delete();
        assert_eq!(world.left_by_pods(), left);
    }
}

#[test]
fn a_job_that_fails_fails_with_the_apps_code() {
    let Some(world) = world() else { return };
    for settings in [ECI, NATIVE, BY_PROCESSES] {
        let run = world.run(&pod("Never", "cat /data/hello.txt; sleep 0.2; exit 7"), settings);
        run.assert_order(&[
            "app | hello",
            "app exited 7",
            "fluid-fuse exited 0",
            "pod Failed (app exited 7)",
        ]);
        assert_eq!(run.code, 1);
    }
}

#[test]
fn the_sidecar_ends_with_the_containers_that_it_sees() {
    let Some(world) = world() else { return };
    let second = "  - name: second\n    image: busybox\n    \
                  command: [sh, -c, \"until [ -e /scratch/first ]; do sleep 0.1; done; cat /data/deep/file; sleep 1\"]\n    \
                  volumeMounts: [{name: data, mountPath: /data}, {name: scratch, mountPath: /scratch}]\n  volumes:";
    let pod =
        pod("Never", "cat /data/hello.txt; sleep 1; touch /scratch/first").replace("  volumes:", second);
    let run = world.run(&pod, BY_PROCESSES);
    run.assert_order(&["app exited 0", "second exited 0"]);
    run.assert_order(&["second | below", "second exited 0", "fluid-fuse exited 0"]);
    assert_eq!(run.code, 0);
}

#[test]
fn a_sidecar_that_no_container_uses_ends_by_itself() {
    let Some(world) = world() else { return };
    let mount = "{name: data, mountPath: /data}, ";
    let pod = pod("Never", "until [ -e /scratch/end ]; do sleep 0.1; done");
    assert!(pod.contains(mount));
    let mut running = world.start(&pod.replace(mount, ""), BY_PROCESSES);
    running.until("fluid-fuse postStart exited 0");
    running.until("fluid-fuse exited 0");
    assert!(!running.has("fluid-fuse gets SIGTERM"));
    running.delete();
}
