//! The application starts when its data is there, and not before.

use std::thread;
use std::time::Duration;

use crate::world::{BY_PROCESSES, CHECK, ECI, KUBERNETES, NATIVE, and, pod, world};

#[test]
fn a_pod_reads_its_dataset() {
    let Some(world) = world() else { return };
    let unprivileged =
        and(KUBERNETES, "destinations: {kubernetes: {device: extendedResource, holder: false}}");
    for settings in [ECI, BY_PROCESSES, NATIVE, &unprivileged] {
        let run = world.run(&pod("Never", &format!("{CHECK} && sleep 0.2")), settings);
        run.assert_order(&[
            "fluid-fuse started",
            "fluid-fuse postStart exited 0",
            "app started",
            "app | big.bin: OK",
            "app | deep/file: OK",
            "app exited 0",
            "fluid-fuse exited 0",
            "pod Succeeded",
        ]);
        assert_eq!(run.code, 0);
    }
}

#[test]
fn an_init_container_reads_data_from_a_native_sidecar() {
    let Some(world) = world() else { return };
    let init = "  initContainers:\n  - name: prepare\n    image: busybox\n    \
                command: [sh, -c, \"cp /data/hello.txt /scratch\"]\n    \
                volumeMounts: [{name: data, mountPath: /data}, {name: scratch, mountPath: /scratch}]\n";
    let pod =
        pod("Never", "cat /scratch/hello.txt").replace("  containers:", &format!("{init}  containers:"));
    world.run(&pod, NATIVE).assert_order(&[
        "fluid-fuse postStart exited 0",
        "prepare started",
        "prepare exited 0",
        "app | hello",
        "app exited 0",
        "fluid-fuse gets SIGTERM",
        "fluid-fuse exited 0",
        "pod Succeeded",
    ]);
}

#[test]
fn the_gate_holds_the_app_until_the_store_answers() {
    let Some(mut world) = world() else { return };
    for settings in [ECI, NATIVE] {
        world.store.stop();
        let mut running = world.start(&pod("Never", "cat /data/hello.txt"), settings);
        running.until("fluid-fuse started");
        // An app that is not held would have started long since.
        thread::sleep(Duration::from_secs(2));
        assert!(!running.has("app started"));
        world.store.resume();
        let run = running.end();
        run.assert_order(&["fluid-fuse postStart exited 0", "app started", "app | hello", "app exited 0"]);
    }
}

#[test]
fn a_mount_that_never_comes_is_told_and_a_native_sidecar_holds_the_app_for_good() {
    let Some(mut world) = world() else { return };
    world.store.stop();
    // Short: it may be asked to end before it heeds SIGTERM.
    let pod = pod("Never", "ls /data")
        .replace("terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: 2");
    let mut running = world.start(&pod, &and(NATIVE, "gateTimeoutSeconds: 2"));
    running.until("fluid-fuse postStart exited 1");
    // Again.
    running.until("fluid-fuse started");
    let run = running.delete();
    let told = |line: &&String| line.contains("not ready after 2s") && line.contains("does not answer");
    assert!(run.lines.iter().any(|line| line.starts_with("fluid-fuse postStart") && told(&line)));
    assert!(!run.has("app started"));
}

#[test]
fn an_app_that_starts_although_the_gate_has_failed_finds_no_empty_directory() {
    let Some(mut world) = world() else { return };
    world.store.stop();
    let ordinary = and(
        KUBERNETES,
        "gateTimeoutSeconds: 1\ndestinations: {kubernetes: {order: firstContainer, holder: false}}",
    );
    let serverless = and(ECI, "gateTimeoutSeconds: 1");
    let script = "ls /data && echo listed; echo x >/data/written && echo written; exit 0";
    let root = pod("Never", script);
    let user = root.replace(
        "image: busybox",
        "image: busybox\n    securityContext: {runAsUser: 1000, runAsGroup: 1000}",
    );
    // Where its exit code counts, the sidecar fails a Job whose program heeds no error.
    for (pod, settings, code) in [(&root, &ordinary, 1), (&user, &ordinary, 1), (&root, &serverless, 0)] {
        let run = world.run(pod, settings);
        // kubelet starts the next container in any case. The hook and the sidecar that it ends are through at a time.
        for ended in ["fluid-fuse postStart exited 1", "fluid-fuse exited 1"] {
            run.assert_order(&[ended, "app started", "app exited 0"]);
        }
        let told: Vec<_> = run.lines.iter().filter(|line| line.starts_with("app | ")).collect();
        assert!(told.len() == 2 && told.iter().all(|line| line.ends_with("endpoint is not connected")));
        assert_eq!((run.has("pod Failed (fluid-fuse exited 1)"), run.code), (code == 1, code));
    }
}
