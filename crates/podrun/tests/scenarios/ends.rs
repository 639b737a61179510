//! Pods that are deleted, and what is left of them: nothing.

use crate::world::{ECI, NATIVE, at, pod, worlds};

/// Reads with many processes at a time, on and on.
const STREAMS: &str = "trap 'exit 0' TERM; for i in $(seq 64); do (while :; do cat /data/big.bin >/dev/null; done) & done; \
    sleep 0.5; echo reading; while :; do sleep 0.1; done";

#[test]
fn a_pod_that_is_deleted_amid_64_streams_ends_in_time() {
    for world in worlds() {
        for settings in [ECI, NATIVE] {
            let mut running = world.start(&pod("Never", STREAMS), settings);
            running.until("app: reading");
            let run = running.delete();
            assert!(run.has("fluid-fuse exited 0") && !run.has("fluid-fuse SIGKILL"));
            let deleted = run.event("deleting")["time_ms"].as_u64().unwrap();
            assert!(at(&run, "fluid-fuse exited 0") < deleted + 20_000);
            world.assert_nothing_left();
        }
    }
}

#[test]
fn a_pod_without_a_grace_period_leaves_nothing_behind() {
    let pod = pod("Never", STREAMS)
        .replace("terminationGracePeriodSeconds: 20", "terminationGracePeriodSeconds: 0");
    for world in worlds() {
        for settings in [ECI, NATIVE] {
            let mut running = world.start(&pod, settings);
            running.until("app: reading");
            running.delete();
            world.assert_nothing_left();
        }
    }
}

#[test]
fn a_hundred_pods_in_a_row_leave_nothing_behind() {
    for world in worlds() {
        let admitted = world.admit(&pod("Never", "cat /data/hello.txt"), NATIVE);
        let run = || world.start_admitted(&admitted, &[]).end();
        assert_eq!(run().code, 0);
        for _ in 0..if world.is_crun() { 10 } else { 100 } {
            let run = run();
            assert!(run.has("app: hello") && run.code == 0);
        }
        world.assert_nothing_left();
    }
}
