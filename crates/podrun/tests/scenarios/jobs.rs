//! Jobs end, with the exit code of their application, whatever ends the sidecar.

use nix::sys::signal::Signal;

use crate::world::{ECI, NATIVE, and, at, pod, worlds};

/// The sidecar ends by itself.
pub(crate) fn by_processes() -> String {
    and(ECI, "destinations: {eci: {exit: processNamespace, readinessProbe: false}}")
}

#[test]
fn a_job_that_fails_fails_with_the_apps_code() {
    for world in worlds() {
        for settings in [ECI, NATIVE, &by_processes()] {
            let run = world.run(&pod("Never", "cat /data/hello.txt; sleep 0.2; exit 7"), settings);
            run.assert_order(&["app: hello", "app exited 7", "fluid-fuse exited 0"]);
            let last = run.event("finished");
            assert_eq!(
                (last["container"].as_str(), last["exit_code"].as_i64(), run.code),
                (Some("app"), Some(7), 1)
            );
        }
    }
}

#[test]
fn a_job_that_is_retried_keeps_its_mount() {
    let script =
        "cat /data/hello.txt; sleep 0.2; [ -e /scratch/tried ] && exit 0; touch /scratch/tried; exit 1";
    for world in worlds() {
        for settings in [ECI, NATIVE] {
            let run = world.run(&pod("OnFailure", script), settings);
            run.assert_order(&["app: hello", "app exited 1", "app started", "app: hello", "app exited 0"]);
            let started = run.trace().iter().filter(|line| *line == "fluid-fuse started").count();
            assert_eq!((started, run.code), (1, 0));
        }
    }
}

#[test]
fn the_sidecar_ends_with_the_containers_that_it_sees() {
    let second = "  - name: second\n    image: busybox\n    \
                  command: [sh, -c, \"sleep 1; cat /data/hello.txt; sleep 1; cat /data/deep/file\"]\n    \
                  volumeMounts: [{name: data, mountPath: /data}]\n  volumes:";
    let pod = pod("Never", "cat /data/hello.txt; sleep 0.2").replace("  volumes:", second);
    for world in worlds() {
        let run = world.run(&pod, &by_processes());
        // The first is long gone when the second has read.
        run.assert_order(&["app exited 0", "second: below", "second exited 0", "fluid-fuse exited 0"]);
        assert!(!run.has("fluid-fuse SIGTERM"));
        assert!(at(&run, "fluid-fuse exited 0") < at(&run, "second exited 0") + 5000);
        assert_eq!(run.code, 0);
        world.assert_nothing_left();
    }
}

#[test]
fn a_sidecar_that_no_container_uses_ends_by_itself() {
    let mount = "{name: data, mountPath: /data}, ";
    let pod = pod("Never", "sleep 0.2");
    assert!(pod.contains(mount));
    for world in worlds() {
        let run = world.run(&pod.replace(mount, ""), &by_processes());
        run.assert_order(&["fluid-fuse postStart 0", "fluid-fuse exited 0"]);
        assert!(!run.has("fluid-fuse SIGTERM"));
        assert_eq!(run.code, 0);
    }
}

#[test]
fn a_sidecar_that_sees_processes_waits_for_those_that_are_started_again() {
    let script =
        "cat /data/hello.txt; sleep 0.2; [ -e /scratch/tried ] && exit 0; touch /scratch/tried; exit 1";
    for world in worlds() {
        // The policy's five minutes are kubelet's backoff; podrun's is shorter.
        let admitted = world.admit(&pod("OnFailure", script), &by_processes());
        assert!(admitted.contains("\"310s\""));
        let run = world.start_admitted(&admitted.replace("310s", "3s"), &[]).end();
        run.assert_order(&[
            "app exited 1",
            "app started",
            "app: hello",
            "app exited 0",
            "fluid-fuse exited 0",
        ]);
        assert_eq!(run.code, 0);
    }
}

#[test]
fn the_pod_of_a_deployment_restarts_its_app_without_losing_the_mount() {
    let serve = "trap 'exit 0' TERM; cat /data/hello.txt; while :; do sleep 0.1; done";
    for world in worlds() {
        for settings in [ECI, NATIVE, &by_processes()] {
            let mut running = world.start(&pod("Always", serve), settings);
            running.until("app: hello");
            running.signal("app", Signal::SIGKILL);
            running.until("app exited 137");
            running.until("app: hello");
            let run = running.delete();
            let started = run.trace().iter().filter(|line| *line == "fluid-fuse started").count();
            assert_eq!(started, 1);
            run.assert_order(&["app exited 0"]);
            run.assert_order(&["fluid-fuse exited 0"]);
            world.assert_nothing_left();
        }
    }
}
