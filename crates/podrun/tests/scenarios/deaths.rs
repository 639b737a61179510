//! What the application gets when it or the sidecar dies or the store is away, and how it goes on.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::world::{BY_PROCESSES, CHECK, ECI, KUBERNETES, NATIVE, and, pod, world};

/// Reads in turns until it cannot, and says why; when it is started again it reads once.
const READ_ON: &str = "if [ -e /scratch/died ]; then cat /data/hello.txt; exit; fi; \
    touch /scratch/died; echo reading; while cat /data/hello.txt >/dev/null; do sleep 0.05; done; exit 3";

/// Whether a line tells of a mount without a server.
fn is_broken(line: &str) -> bool {
    line.ends_with("endpoint is not connected") || line.ends_with("connection abort")
}

#[test]
fn a_sidecar_that_is_killed_is_replaced_and_a_restarted_app_reads_again() {
    let Some(world) = world() else { return };
    let mut running = world.start(&pod("OnFailure", READ_ON), NATIVE);
    running.until("app | reading");
    running.signal("fluid-fuse", Signal::SIGKILL);
    let run = running.end();
    assert!(run.lines.iter().any(|line| is_broken(line)));
    run.assert_order(&["fluid-fuse exited 137", "fluid-fuse started", "fluid-fuse postStart exited 0"]);
    run.assert_order(&["app exited 3", "app started", "app | hello", "app exited 0", "pod Succeeded"]);
}

#[test]
fn a_running_app_gets_an_error_when_the_sidecar_is_killed_and_its_data_when_that_is_back() {
    let Some(world) = world() else { return };
    let script = "cat /data/hello.txt; while cat /data/hello.txt >/dev/null; do sleep 0.05; done; echo broken; \
        until cat /data/hello.txt; do sleep 0.05; done; echo whole";
    for settings in [ECI, NATIVE] {
        let mut running = world.start(&pod("OnFailure", script), settings);
        running.until("app | hello");
        running.signal("fluid-fuse", Signal::SIGKILL);
        let run = running.end();
        run.assert_order(&["fluid-fuse exited 137", "fluid-fuse started", "fluid-fuse postStart exited 0"]);
        run.assert_order(&["app | hello", "app | broken", "app | hello", "app | whole", "app exited 0"]);
        // In the directory below there would be no such file.
        let mut errors = run.lines.iter().filter(|line| line.starts_with("app | cat:")).peekable();
        assert!(errors.peek().is_some() && errors.all(|line| is_broken(line)));
        assert_eq!((run.count("app started"), run.code), (1, 0));
        assert_eq!(world.left_by_pods(), 0);
    }
}

#[test]
fn an_app_that_was_there_before_the_mount_gets_it_without_a_restart() {
    let Some(mut world) = world() else { return };
    // It starts upon the guard.
    let script = "trap 'exit 0' TERM; until cat /data/hello.txt 2>/dev/null; do sleep 0.1; done; \
        while :; do sleep 0.1; done";
    let settings = and(
        KUBERNETES,
        "gateTimeoutSeconds: 1\ndestinations: {kubernetes: {order: firstContainer, holder: false}}",
    );
    world.store.stop();
    let mut running = world.start(&pod("Always", script), &settings);
    running.until("fluid-fuse postStart exited 1");
    running.until("app started");
    world.store.resume();
    running.until("app | hello");
    assert_eq!(running.delete().count("app started"), 1);
}

#[test]
fn an_outage_in_mid_read_is_waited_for() {
    let Some(world) = world() else { return };
    // 25 seconds for the file.
    let mut world = world.slow(&["--rate", "2MB"]);
    let settings = and(NATIVE, "sidecars: {thin: {env: {FLUID_FUSE_REQUESTS: '1'}}}");
    let mut running = world.start(&pod("Never", &format!("echo reading; {CHECK}")), &settings);
    running.until("app | reading");
    thread::sleep(Duration::from_secs(1));
    world.store.stop();
    thread::sleep(Duration::from_secs(5));
    assert!(!running.has("app | big.bin: OK") && !running.has("app exited 1"));
    world.store.resume();
    let run = running.end();
    assert!(run.has("app | big.bin: OK") && run.code == 0);
}

#[test]
fn an_app_that_is_killed_is_restarted_and_finds_its_mount() {
    let Some(world) = world() else { return };
    let serve = "trap 'exit 0' TERM; cat /data/hello.txt; while :; do sleep 0.1; done";
    for settings in [ECI, NATIVE, BY_PROCESSES] {
        let mut running = world.start(&pod("Always", serve), settings);
        running.until("app | hello");
        running.signal("app", Signal::SIGKILL);
        running.until("app exited 137");
        running.until("app | hello");
        let run = running.delete();
        assert_eq!(run.count("fluid-fuse started"), 1);
        assert!(run.has("app exited 0") && run.has("fluid-fuse exited 0"));
    }
}

#[test]
fn a_job_that_is_retried_keeps_its_mount() {
    let Some(world) = world() else { return };
    let script =
        "cat /data/hello.txt; sleep 0.2; [ -e /scratch/tried ] && exit 0; touch /scratch/tried; exit 1";
    for settings in [ECI, NATIVE, BY_PROCESSES] {
        let admitted = world.admit(&pod("OnFailure", script), settings);
        // How long the sidecar that ends by itself waits for a restart: kubelet's longest backoff, which podrun's is not.
        assert_eq!(admitted.contains("\"310s\""), settings == BY_PROCESSES);
        let run = world.start_admitted(&admitted.replace("310s", "10s")).end();
        run.assert_order(&[
            "app | hello",
            "app exited 1",
            "app started",
            "app | hello",
            "app exited 0",
            "fluid-fuse exited 0",
        ]);
        assert_eq!((run.count("fluid-fuse started"), run.code), (1, 0));
    }
}
