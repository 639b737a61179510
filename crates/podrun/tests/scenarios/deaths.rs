//! What the application gets when the sidecar dies or the store is away, and how it goes on.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::world::{NATIVE, and, pod, worlds};

/// Reads in turns until it cannot, and says why; when it is started again it reads once.
const READ_ON: &str = "if [ -e /scratch/died ]; then cat /data/hello.txt; exit; fi; \
    touch /scratch/died; echo reading; while cat /data/hello.txt >/dev/null; do sleep 0.05; done; exit 3";

#[test]
fn a_sidecar_that_is_killed_is_replaced_and_a_restarted_app_reads_again() {
    for world in worlds() {
        let mut running = world.start(&pod("OnFailure", READ_ON), NATIVE);
        running.until("app: reading");
        running.signal("fluid-fuse", Signal::SIGKILL);
        let run = running.end();
        // An error, never an empty directory.
        let broken = |line: &String| line.contains("not connected") || line.contains("connection abort");
        assert!(run.trace().iter().any(broken));
        run.assert_order(&["fluid-fuse exited 137", "fluid-fuse started", "fluid-fuse postStart 0"]);
        run.assert_order(&["app exited 3", "app started", "app: hello", "app exited 0"]);
        assert_eq!(run.code, 0);
        world.assert_nothing_left();
    }
}

#[test]
fn an_app_that_was_there_before_the_mount_gets_it_without_a_restart() {
    // As root it sees the directory below, where the others are refused; what is mounted there comes to it.
    let script = "trap 'exit 0' TERM; until cat /data/hello.txt 2>/dev/null; do sleep 0.1; done; \
        while :; do sleep 0.1; done";
    let settings = and(NATIVE, "gateTimeoutSeconds: 1\ndestinations: {kubernetes: {order: firstContainer}}");
    for mut world in worlds() {
        world.store().stop();
        let mut running = world.start(&pod("Always", script), &settings);
        running.until("fluid-fuse postStart 1");
        running.until("app started");
        world.store().resume();
        running.until("app: hello");
        let run = running.delete();
        assert!(run.trace().iter().filter(|line| *line == "app started").count() == 1);
        world.assert_nothing_left();
    }
}

#[test]
fn a_sidecar_that_runs_out_of_memory_is_replaced() {
    // It is told to use more than it has, and of a file that fits it fetches all once enough of it was read at
    // random, to keep it.
    let settings =
        and(NATIVE, "sidecars: {thin: {env: {FLUID_FUSE_MEMORY: 256MiB}, limits: {memory: 20Mi}}}");
    let script = "if [ -e /scratch/died ]; then cat /data/hello.txt; exit; fi; touch /scratch/died; \
        exec 3</data/big.bin; at=0; while at=$((at + 1)); \
        dd if=/data/big.bin of=/dev/null bs=4k count=1 skip=$((at * at * 7 % 380 * 32)); do sleep 0.01; done; exit 3";
    for world in worlds() {
        let run = world.run(&pod("OnFailure", script), &settings);
        run.assert_order(&[
            "fluid-fuse exited 137 OOMKilled",
            "fluid-fuse started",
            "fluid-fuse postStart 0",
        ]);
        run.assert_order(&["app exited 3", "app: hello", "app exited 0"]);
        assert_eq!(run.code, 0);
    }
}

#[test]
fn a_sidecar_stays_within_the_memory_that_it_has() {
    let settings = and(NATIVE, "sidecars: {thin: {limits: {memory: 96Mi}}}");
    let script = "cd /data; for i in 1 2 3 4 5 6 7 8; do sha256sum -c SUMS & done; wait";
    for world in worlds() {
        let run = world.run(&pod("Never", script), &settings);
        let read = run.trace().iter().filter(|line| *line == "app: big.bin: OK").count();
        assert_eq!((read, run.code), (8, 0));
        assert!(!run.trace().iter().any(|line| line.contains("OOMKilled")));
    }
}

#[test]
fn an_outage_in_mid_read_is_waited_for() {
    for mut world in worlds() {
        if world.is_crun() {
            // The store's outage is the same under each.
            continue;
        }
        world = world.slow(&["--rate", "10MB"]);
        let settings = and(NATIVE, "sidecars: {thin: {env: {FLUID_FUSE_REQUESTS: '1'}}}");
        let mut running =
            world.start(&pod("Never", "echo reading; cd /data && sha256sum -c SUMS"), &settings);
        running.until("app: reading");
        thread::sleep(Duration::from_secs(1));
        world.store().stop();
        thread::sleep(Duration::from_secs(20));
        world.store().resume();
        let run = running.end();
        assert!(run.has("app: big.bin: OK") && run.code == 0);
    }
}

#[test]
fn an_outage_that_lasts_is_an_error_and_heals_by_itself() {
    let script = "echo reading; while head -c 65536 /data/big.bin >/dev/null; do sleep 0.1; done; echo away; \
        until cat /data/deep/file; do sleep 0.1; done";
    for mut world in worlds() {
        let settings =
            and(NATIVE, "sidecars: {thin: {env: {FLUID_FUSE_IO_TIMEOUT: 2s, FLUID_FUSE_METADATA_TTL: 1s}}}");
        let mut running = world.start(&pod("Never", script), &settings);
        running.until("app: reading");
        world.store().stop();
        running.until("app: away");
        world.store().resume();
        let run = running.end();
        run.assert_order(&["app: away", "app: below", "app exited 0"]);
        assert!(!run.has("fluid-fuse exited 137") && run.code == 0);
    }
}
