//! The diagnoses of recorded Pods: each directory of `doctor/` is what `doctor --record` has written in the cluster of
//! e2e/cluster/doctor.bats, and `expected.txt` what doctor says of it. `UPDATE_EXPECT=1 cargo test -p kubectl-fluid-sidecar --test doctor`
//! writes that, and docs/troubleshooting.md, anew.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tool::doctor::evidence::{Evidence, Unread};
use tool::doctor::print;
use tool::doctor::table::{ROWS, diagnose};

fn records() -> Vec<(String, PathBuf)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/doctor");
    let mut records: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_string(), path)
        })
        .collect();
    records.sort();
    records
}

/// Compares with a file, or writes it.
fn expect(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(path, text).unwrap();
    }
    assert_eq!(fs::read_to_string(path).unwrap_or_default(), text, "{}", path.display());
}

fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[test]
fn recorded_pods_are_diagnosed() {
    let mut first = BTreeSet::new();
    for (name, path) in records() {
        let evidence = Evidence::read(&path).unwrap();
        let findings = diagnose(&evidence);
        first.extend(findings.first().map(|finding| finding.row.code));
        expect(&path.join("expected.txt"), &plain(&print::text(&evidence, &findings)));
        let json = print::json(&evidence, &findings);
        assert_eq!(json["findings"].as_array().unwrap().len(), findings.len(), "{name}");
    }
    assert!(first.len() > 20, "{first:?}");
}

#[test]
fn the_document_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/troubleshooting.md");
    expect(&path, &print::document());
}

#[test]
fn the_table_is_sound() {
    let codes: BTreeSet<_> = ROWS.iter().map(|row| row.code).collect();
    assert_eq!(codes.len(), ROWS.len(), "codes are unique");
    for row in ROWS {
        assert!(row.explains.iter().all(|code| codes.contains(code) && *code != row.code), "{}", row.code);
        assert!(
            !row.remedy.is_empty() && !row.title.ends_with('.') && row.meaning.ends_with('.'),
            "{}",
            row.code
        );
    }
}

fn record(name: &str) -> Evidence {
    Evidence::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/doctor").join(name)).unwrap()
}

fn codes(evidence: &Evidence) -> Vec<&'static str> {
    diagnose(evidence).iter().map(|finding| finding.row.code).collect()
}

fn the_pod(evidence: &mut Evidence) -> &mut Value {
    evidence.objects.iter_mut().find(|object| object["kind"] == "Pod").unwrap()
}

#[test]
fn a_worker_behind_a_holder_that_ran_out_of_memory_was_a_pause() {
    // The holder was killed in one record, the worker in the other.
    assert_eq!(codes(&record("holder-was-lost")), ["mount-was-lost"]);
    let killed = |name: &str| {
        let mut evidence = record(name);
        for status in the_pod(&mut evidence)["status"]["initContainerStatuses"].as_array_mut().unwrap() {
            if status["name"] == "fluid-fuse" {
                status["lastState"] = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
            }
        }
        evidence
    };
    assert_eq!(codes(&record("sidecar-restarted")), ["sidecar-restarted"]);
    let evidence = killed("sidecar-restarted");
    assert_eq!(codes(&evidence), ["sidecar-memory"]);
    let sentence = &diagnose(&evidence)[0].found.sentence;
    assert!(sentence.ends_with("The application waits while it is away."), "{sentence}");
    // The worker's end is no reason for the holder's.
    assert_eq!(codes(&killed("holder-was-lost")), ["sidecar-memory", "mount-was-lost"]);
}

#[test]
fn a_policy_that_does_not_select_the_pod_does_not_count() {
    let mut evidence = record("no-answer");
    let policies = evidence.objects.iter_mut().filter(|it| it["kind"] == "ClusterAdmissionPolicy");
    let mut other = policies.last().unwrap().clone();
    other["metadata"]["name"] = "fluid-sidecar-inactive".into();
    other["status"] = json!({"policyStatus": "pending"});
    evidence.objects.push(other.clone());
    assert_eq!(codes(&evidence), ["policy-not-active"]);
    other["spec"]["namespaceSelector"] =
        json!({"matchExpressions": [{"key": "destination", "operator": "In", "values": ["elsewhere"]}]});
    *evidence.objects.last_mut().unwrap() = other;
    assert_eq!(codes(&evidence), ["no-answer"]);
}

#[test]
fn a_policy_for_other_nodes_has_nothing_to_say_while_another_one_has() {
    let mut evidence = record("claim-missing");
    assert_eq!(codes(&evidence), ["unresolved"]);
    let at = evidence.objects.iter().position(|it| it["kind"] == "MutatingWebhookConfiguration").unwrap();
    let mut webhook = evidence.objects[at].clone();
    webhook["metadata"]["name"] = "clusterwide-fluid-sidecar-other".into();
    webhook["webhooks"][0]["namespaceSelector"] = json!({});
    let mut policy =
        evidence.objects.iter().find(|it| it["kind"] == "ClusterAdmissionPolicy").unwrap().clone();
    policy["metadata"]["name"] = "fluid-sidecar-other".into();
    policy["spec"]["settings"] = json!({"destination": "eci"});
    evidence.objects.extend([policy, webhook]);
    // Without its marker it is the other policy's alone.
    the_pod(&mut evidence)["metadata"]["labels"] = json!({});
    assert_eq!(codes(&evidence), ["unresolved"]);
}

#[test]
fn text_of_others_is_shown_as_it_is_and_bounded() {
    let mut evidence = record("store-refuses");
    let pod = the_pod(&mut evidence);
    pod["metadata"]["name"] = "app; rm -rf ~".into();
    for container in pod["status"]["containerStatuses"].as_array_mut().unwrap() {
        let message = format!("refuses access \u{1b}[2J\u{202e} {}", "x".repeat(100_000));
        container["lastState"] = json!({"terminated": {"exitCode": 1, "message": message}});
    }
    let findings = diagnose(&evidence);
    assert_eq!(findings[0].row.code, "store-refuses");
    let text = plain(&print::text(&evidence, &findings));
    assert!(text.contains("\\u{1b}[2J\\u{202e}"), "{text}");
    assert!(text.len() < 10_000, "{}", text.len());
    assert!(findings.iter().all(|finding| finding.remedy.iter().all(|step| !step.contains("rm -rf"))));
}

/// A read that the API server refused.
fn refusal(resource: &str, namespace: Option<&str>) -> Unread {
    Unread {
        what: resource.into(),
        verb: "get".into(),
        resource: resource.into(),
        namespace: namespace.map(str::to_string),
        message: "x is forbidden: User \"system:serviceaccount:team:reader\" cannot get resource".into(),
        forbidden: true,
    }
}

#[test]
fn what_may_not_be_read_is_not_taken_for_missing() {
    let mut evidence = record("no-answer");
    assert_eq!(codes(&evidence), ["no-answer"]);
    evidence.objects.retain(|object| object["kind"] != "PersistentVolumeClaim");
    assert_eq!(codes(&evidence), ["unresolved"]);
    evidence.unread = vec![
        refusal("persistentvolumeclaims", Some("team")),
        refusal("datasets.data.fluid.io", Some("team")),
        refusal("persistentvolumes", None),
    ];
    assert_eq!(codes(&evidence), ["missing-rights"]);
    assert_eq!(
        diagnose(&evidence)[0].remedy[1..],
        [
            "kubectl create clusterrole fluid-sidecar-doctor --verb=get,list \
             --resource=mutatingwebhookconfigurations.admissionregistration.k8s.io,namespaces,persistentvolumes,\
             validatingwebhookconfigurations.admissionregistration.k8s.io",
            "kubectl create clusterrolebinding fluid-sidecar-doctor:team:reader --clusterrole=fluid-sidecar-doctor \
             --serviceaccount=team:reader",
            "kubectl create role fluid-sidecar-doctor --verb=get,list --resource=cronjobs.batch,daemonsets.apps,\
             datasets.data.fluid.io,deployments.apps,events,jobs.batch,persistentvolumeclaims,pods,pods/log,\
             replicasets.apps,statefulsets.apps --namespace=team",
            "kubectl create rolebinding fluid-sidecar-doctor:team:reader --role=fluid-sidecar-doctor \
             --serviceaccount=team:reader --namespace=team",
        ]
    );
}

#[test]
fn refusals_that_are_over_are_not_told() {
    let mut evidence = record("refused");
    assert_eq!(codes(&evidence), ["refused"]);
    let mut pod = record("nothing").objects.into_iter().find(|object| object["kind"] == "Pod").unwrap();
    pod["metadata"]["creationTimestamp"] = "2099-01-01T00:00:00Z".into();
    evidence.objects.push(pod);
    assert!(!codes(&evidence).contains(&"refused"), "{:?}", codes(&evidence));
}

#[test]
fn faults_of_a_sidecar_that_is_well_again_are_not_told() {
    let mut evidence = record("store-refuses");
    assert_eq!(codes(&evidence), ["store-refuses"]);
    // That of the sidecar which has failed.
    evidence.logs.remove(&("fluid-fuse".to_string(), false));
    for container in the_pod(&mut evidence)["status"]["containerStatuses"].as_array_mut().unwrap() {
        container["state"] = json!({"running": {"startedAt": "2026-11-30T00:00:00Z"}});
        container["ready"] = true.into();
        container["lastState"] = match container["name"] == "app" {
            true => json!({}),
            false => container["lastState"].clone(),
        };
    }
    assert_eq!(codes(&evidence), Vec::<&str>::new());
}

#[test]
fn a_record_is_what_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let evidence = record("store-was-away");
    evidence.write(directory.path()).unwrap();
    let again = Evidence::read(directory.path()).unwrap();
    assert_eq!(again.asked, evidence.asked);
    assert_eq!(again.objects, evidence.objects);
    assert_eq!(again.logs, evidence.logs);
    assert_eq!(again.metrics, evidence.metrics);
}

#[test]
fn settings_that_have_changed_since_are_told() {
    let mut evidence = record("nothing");
    assert_eq!(codes(&evidence), Vec::<&str>::new());
    for policy in evidence.objects.iter_mut().filter(|it| it["kind"] == "ClusterAdmissionPolicy") {
        policy["spec"]["settings"]["gateTimeoutSeconds"] = 17.into();
    }
    assert_eq!(codes(&evidence), ["other-settings"]);
}

#[test]
fn a_runtime_that_the_policy_does_not_know_is_told_in_its_words() {
    let mut evidence = record("dataset-not-bound");
    let dataset = evidence.objects.iter_mut().find(|object| object["kind"] == "Dataset").unwrap();
    dataset["status"] = json!({"phase": "Bound", "runtimes": [{"name": "data", "type": "nobodys"}]});
    let findings = diagnose(&evidence);
    assert_eq!(findings[0].row.code, "unresolved");
    assert!(
        findings[0].found.quotes[0].text.contains("runtime \"nobodys\""),
        "{:?}",
        findings[0].found.quotes
    );
}
