//! Pods whose containers find their data: which of them, and from when on.

use crate::world::{ECI, NATIVE, and, at, pod, worlds};

const CHECK: &str = "cd /data && sha256sum -c SUMS";

#[test]
fn the_seeds_pod_reads_its_dataset() {
    for world in worlds() {
        let run = world.run(&pod("Never", CHECK), ECI);
        run.assert_order(&[
            "fluid-fuse started",
            "fluid-fuse postStart 0",
            "app started",
            "app: big.bin: OK",
            "app: deep/file: OK",
            "app exited 0",
            "fluid-fuse exited 0",
        ]);
        assert_eq!(run.code, 0);
        world.assert_nothing_left();
    }
}

#[test]
fn two_datasets_of_two_runtimes() {
    let two = pod("Never", "cd /data && sha256sum -c SUMS && cd /labels && sha256sum -c SUMS")
        .replace("mountPath: /data}", "mountPath: /data}, {name: labels, mountPath: /labels}")
        .replace("  volumes:", "  volumes:\n  - {name: labels, persistentVolumeClaim: {claimName: labels}}");
    for world in worlds() {
        for settings in [ECI, NATIVE] {
            let run = world.run(&two, settings);
            assert!(run.has("fluid-fuse postStart 0") && run.has("fluid-fuse-1 postStart 0"));
            run.assert_order(&["app: big.bin: OK", "app: 1.txt: OK", "app exited 0"]);
            assert_eq!(run.code, 0);
        }
    }
}

#[test]
fn an_init_container_reads_data() {
    let init = "  initContainers:\n  - name: prepare\n    image: busybox\n    \
                command: [sh, -c, \"cp /data/hello.txt /scratch\"]\n    \
                volumeMounts: [{name: data, mountPath: /data}, {name: scratch, mountPath: /scratch}]\n";
    let pod =
        pod("Never", "cat /scratch/hello.txt").replace("  containers:", &format!("{init}  containers:"));
    for world in worlds() {
        let run = world.run(&pod, NATIVE);
        run.assert_order(&[
            "fluid-fuse postStart 0",
            "prepare started",
            "prepare exited 0",
            "app: hello",
            "app exited 0",
            "fluid-fuse SIGTERM",
            "fluid-fuse exited 0",
        ]);
        assert_eq!(run.code, 0);
    }
}

#[test]
fn a_sub_path_is_the_directory_of_that_name() {
    let pod = pod("Never", "cat /data/file").replace("mountPath: /data}", "mountPath: /data, subPath: deep}");
    for world in worlds() {
        assert!(world.run(&pod, ECI).has("app: below"));
    }
}

#[test]
fn any_user_can_read() {
    let user = "  securityContext: {runAsUser: 1000, runAsGroup: 1000, runAsNonRoot: true}\n  containers:";
    let pod =
        pod("Never", "cd /data && sha256sum -c SUMS && ! echo x > /data/x").replace("  containers:", user);
    for world in worlds() {
        for settings in [ECI, NATIVE] {
            let run = world.run(&pod, settings);
            assert!(run.has("app: big.bin: OK") && run.code == 0);
        }
    }
}

#[test]
fn the_sidecar_needs_no_root_file_system_to_write_to() {
    for world in worlds() {
        let admitted = world.admit(&pod("Never", CHECK), ECI);
        // A policy of the cluster may ask for it.
        let as_admitted = "\"allowPrivilegeEscalation\": false";
        let hardened = format!("{as_admitted}, \"readOnlyRootFilesystem\": true");
        assert!(admitted.contains(as_admitted), "{admitted}");
        let run = world.start_admitted(&admitted.replace(as_admitted, &hardened), &[]).end();
        assert!(run.has("app: big.bin: OK") && run.code == 0);
    }
}

#[test]
fn the_gate_holds_the_app_until_the_store_answers() {
    for world in worlds().map(|world| world.slow(&["--first-byte", "1500ms"])) {
        for settings in [ECI, NATIVE] {
            let run = world.run(&pod("Never", "cat /data/hello.txt"), settings);
            run.assert_order(&["fluid-fuse postStart 0", "app started", "app: hello"]);
            assert!(at(&run, "app started") >= at(&run, "fluid-fuse started") + 1500);
        }
    }
}

#[test]
fn a_mount_that_never_comes_is_told_and_a_native_sidecar_holds_the_app_for_good() {
    for mut world in worlds() {
        world.store().stop();
        let mut running = world.start(&pod("Never", "ls /data"), &and(NATIVE, "gateTimeoutSeconds: 2"));
        running.until("fluid-fuse postStart 1");
        running.until("fluid-fuse started");
        let run = running.delete();
        let hook = run.event("hook");
        let said = hook["output"].as_str().unwrap();
        assert!(said.contains("not ready after 2s") && said.contains("does not answer"), "{said}");
        assert!(!run.has("app started"));
        world.assert_nothing_left();
    }
}

#[test]
fn an_app_that_starts_although_the_gate_has_failed_finds_no_empty_directory() {
    // kubelet starts the next container in any case.
    let user = "  securityContext: {runAsUser: 1000}\n  containers:";
    let pod = pod("Never", "ls /data").replace("  containers:", user);
    for mut world in worlds() {
        world.store().stop();
        let settings =
            and(NATIVE, "gateTimeoutSeconds: 1\ndestinations: {kubernetes: {order: firstContainer}}");
        let run = world.run(&pod, &settings);
        run.assert_order(&["fluid-fuse postStart 1", "fluid-fuse exited 0", "app started"]);
        assert!(run.trace().iter().any(|line| line.starts_with("app: ls:") && line.contains("denied")));
        assert_eq!(run.code, 1);
    }
}
