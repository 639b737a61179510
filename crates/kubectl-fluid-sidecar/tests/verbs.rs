//! The program's verbs, as shells call them: without a cluster, and before a stand-in for an API server.
#![cfg(feature = "kubectl")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{golden, root};

mod support;

// --- the program -------------------------------------------------------------------------------------------

struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Said {
    /// The documents on standard output.
    fn json(&self) -> Vec<Value> {
        let documents = serde_json::Deserializer::from_str(&self.stdout).into_iter();
        documents
            .collect::<Result<_, _>>()
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }
}

/// Runs the program in the project's directory. `cluster` is its kubeconfig.
fn run(arguments: &[&str], input: &str, cluster: Option<&Path>) -> Said {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kubectl-fluid_sidecar"))
        .args(arguments)
        .current_dir(root())
        .env("HOME", "/nonexistent")
        .env("KUBECONFIG", cluster.unwrap_or(Path::new("/nonexistent")))
        .env_remove("KUBERNETES_SERVICE_HOST")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end without reading.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Without a cluster.
fn offline(arguments: &[&str], input: &str) -> Said {
    run(arguments, input, None)
}

const CLUSTER: [&str; 2] = ["--objects", "demo/cluster"];

#[test]
fn explain_says_as_json_what_became_of_each_pod() {
    let claimless =
        "---\n{apiVersion: v1, kind: Pod, metadata: {name: other}, spec: {containers: [{name: c}]}}";
    let demo = std::fs::read_to_string(root().join("demo/pod.yaml")).unwrap();
    let said =
        offline(&[&["explain", "-", "-o", "json"], &CLUSTER[..]].concat(), &format!("{demo}\n{claimless}"));
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    let documents = said.json();
    let [injected, untouched] = documents.as_slice() else { unreachable!("{documents:?}") };
    assert_eq!((&injected["verdict"], &untouched["verdict"]), (&json!("mutated"), &json!("untouched")));
    let codes: Vec<_> = injected["reasons"].as_array().unwrap().iter().map(|it| &it["code"]).collect();
    assert!(codes.contains(&&json!("injected")) && codes.contains(&&json!("serverless")), "{injected}");
    assert!(injected["patch"].as_array().unwrap().len() > 1, "{injected}");
    assert_eq!((&untouched["patch"], &untouched["pod"]), (&json!([]), &json!("default/other")));
    assert_eq!(untouched["reasons"][0]["code"], "no-claims");

    // What is denied has a message, and what cannot be read is a document, too.
    let case = root().join("tests/cases/dataset-not-bound");
    let given = |file: &str| golden::given(&case, file).display().to_string();
    let said =
        offline(&["explain", &given("pod.yaml"), "--objects", &given("objects.yaml"), "-o", "json"], "");
    assert_eq!((said.code, &said.json()[0]["verdict"]), (1, &json!("rejected")));
    assert!(said.json()[0]["message"].as_str().unwrap().contains("is not bound"), "{}", said.stdout);
    let broken = "{kind: Deployment, metadata: {name: broken}}\n---\n".to_string() + &demo;
    let said = offline(&[&["explain", "-", "-o", "json"], &CLUSTER[..]].concat(), &broken);
    let verdicts: Vec<_> = said.json().iter().map(|it| it["verdict"].clone()).collect();
    assert_eq!((said.code, verdicts), (2, vec![json!("failed"), json!("mutated")]));
}

#[test]
fn several_files_and_directories_are_explained() {
    let said =
        offline(&[&["explain", "demo/pod.yaml", "demo/cluster", "-o", "json"], &CLUSTER[..]].concat(), "");
    assert_eq!(said.json()[0]["verdict"], "mutated", "{}", said.stderr);
    // Those of Fluid's DaemonSet are Pods, too; a claim has none.
    assert!(said.json().len() > 1 && said.stderr.contains("claim.yaml: skipped"), "{}", said.stderr);
    let said = offline(&["explain", "demo/nothing.yaml", "--objects", "demo/cluster"], "");
    assert_eq!(said.code, 2);
    assert!(
        said.stderr.contains("demo/nothing.yaml is no file, and as an object of a cluster"),
        "{}",
        said.stderr
    );
}

#[test]
fn without_any_cluster_the_policy_finds_nothing_and_that_is_said() {
    let said = offline(&["explain", "demo/pod.yaml"], "");
    assert!(said.stderr.contains("note: there is no kubeconfig and no --objects"), "{}", said.stderr);
    assert!(said.stdout.contains("not-serverless") || said.stdout.contains("unresolved"), "{}", said.stdout);
}

#[test]
fn uninject_gives_back_the_pod_as_json_or_yaml() {
    let said = offline(&[&["explain", "demo/pod.yaml", "-o", "pod"], &CLUSTER[..]].concat(), "");
    let before = tool::yaml::read_single(&root().join("demo/pod.yaml")).unwrap();
    for output in ["json", "yaml"] {
        let given = offline(&["uninject", "-", "--output", output], &said.stdout);
        assert_eq!((given.code, given.stderr.as_str()), (0, ""), "{output}");
        assert_eq!(tool::yaml::parse(&given.stdout).unwrap(), std::slice::from_ref(&before), "{output}");
    }
}

#[test]
fn settings_are_checked_with_every_problem_and_its_field() {
    let valid = offline(&["settings", "check", "-"], "destination: eci");
    assert_eq!((valid.code, valid.stdout.as_str()), (0, "-: valid\n"));
    let invalid = "mode: verify\ndestinatoin: eci\nmountRoot: x";
    let said = offline(&["settings", "check", "-"], invalid);
    assert_eq!(said.code, 1);
    assert!(
        said.stdout.contains("\n  destinatoin: unknown field; did you mean destination?\n"),
        "{}",
        said.stdout
    );
    let said = offline(&["settings", "check", "-", "--output", "json"], invalid);
    let document = &said.json()[0];
    let fields: Vec<_> = document["problems"].as_array().unwrap().iter().map(|it| &it["field"]).collect();
    assert_eq!((said.code, &document["valid"]), (1, &json!(false)));
    assert_eq!(fields, ["destinatoin", "mountRoot"]);

    // Of a manifest it is the policies of this project.
    let said = offline(&["settings", "check", "deploy", "--output", "json"], "");
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
    let names: Vec<_> = said.json().iter().map(|it| it["name"].as_str().unwrap().to_string()).collect();
    assert!(
        names.contains(&"deploy/eci.yaml: clusteradmissionpolicy/fluid-sidecar-eci".to_string()),
        "{names:?}"
    );
    let said = offline(&["settings", "check", "demo/pod.yaml"], "");
    assert!(said.code == 2 && said.stderr.contains("demo/pod.yaml has no settings"), "{}", said.stderr);
}

#[test]
fn record_prints_the_request_and_writes_the_session() {
    let directory = TempDir::new().unwrap();
    let session = directory.path().join("session.yaml");
    let file = session.to_str().unwrap();
    let said = offline(&[&["record", "demo/pod.yaml", "--session", file], &CLUSTER[..]].concat(), "");
    assert_eq!((said.code, &said.json()[0]["operation"]), (0, &json!("CREATE")));
    let exchanges = tool::yaml::read_single(&session).unwrap();
    assert!(exchanges.as_array().unwrap().len() > 2, "{exchanges}");
    let request = offline(&[&["explain", "demo/pod.yaml", "-o", "request"], &CLUSTER[..]].concat(), "");
    assert_eq!(request.json(), said.json());
}

#[test]
fn the_compiled_policy_is_measured_and_nothing_else() {
    let said = offline(&[&["bench", "demo/pod.yaml"], &CLUSTER[..]].concat(), "");
    assert!(said.code == 2 && said.stderr.contains("--policy is missing"), "{}", said.stderr);
    let Some(policy) = support::policy() else { return };
    let policy = policy.to_str().unwrap();
    let count = [&["bench", "demo/pod.yaml", "--policy", policy, "--count"], &CLUSTER[..]].concat();
    let said = offline(&count, "");
    match cfg!(feature = "server") {
        true => assert!(said.stdout.contains("instructions for the review"), "{}", said.stderr),
        false => assert!(said.code == 2 && said.stderr.contains("--features server"), "{}", said.stderr),
    }
}

#[test]
fn every_verb_teaches_by_its_help() {
    for verb in ["explain", "uninject", "settings check", "record", "bench", "serve", "completions"] {
        let arguments: Vec<_> = verb.split(' ').chain(["--help"]).collect();
        let said = offline(&arguments, "");
        let serves = verb != "serve" || cfg!(feature = "server");
        assert!(said.code == 0 && (!serves || said.stdout.contains("xample") || verb == "record"), "{verb}");
    }
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let said = offline(&["completions", shell], "");
        assert!(said.code == 0 && said.stdout.contains("uninject"), "{shell}: {}", said.stderr);
    }
    let script = offline(&["completions", "kubectl"], "").stdout;
    assert!(script.ends_with("exec kubectl fluid-sidecar __complete -- \"$@\"\n"), "{script}");
    for (words, expected) in [
        (&["un"][..], "uninject\n:4\n"),
        (&["settings", ""], "check\nhelp\n:4\n"),
        (&["explain", "--output", "p"], "pod\npatch\n:4\n"),
        (&["explain", "-n", "team", "-o", "j"], "json\n:4\n"),
        (&["explain", "--kubec"], "--kubeconfig\n:4\n"),
        (&["completions", "f"], "fish\n:4\n"),
        (&["explain", ""], ":0\n"),
    ] {
        let said = offline(&[&["__complete", "--"], words].concat(), "");
        assert_eq!((said.code, said.stdout.as_str()), (0, expected), "{words:?}{}", said.stderr);
    }
}

// --- a live cluster ----------------------------------------------------------------------------------------

/// What stands for an API server: answers by the path of the request, and everything else is not found.
struct Server {
    answers: Arc<Mutex<BTreeMap<String, (u16, Value)>>>,
    asked: Arc<Mutex<Vec<String>>>,
    kubeconfig: PathBuf,
    _directory: TempDir,
}

impl Server {
    fn new() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let directory = TempDir::new().unwrap();
        let kubeconfig = directory.path().join("config");
        let server = format!("http://{}", listener.local_addr().unwrap());
        std::fs::write(&kubeconfig, config(&server).to_string()).unwrap();
        let (answers, asked) = (Arc::new(Mutex::new(BTreeMap::new())), Arc::new(Mutex::new(Vec::new())));
        let (by_path, seen) = (Arc::clone(&answers), Arc::clone(&asked));
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (by_path, seen) = (Arc::clone(&by_path), Arc::clone(&seen));
                std::thread::spawn(move || answer_all(connection.unwrap(), &by_path, &seen));
            }
        });
        let server = Server { answers, asked, kubeconfig, _directory: directory };
        server.answer(
            "/version",
            json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "",
            "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}),
        );
        let resource = |plural: &str,
                        singular: &str,
                        kind: &str,
                        short: &[&str],
                        scope: &str,
                        group: &str,
                        version: &str| {
            json!({"resource": plural, "singularResource": singular, "shortNames": short, "scope": scope, "verbs": ["get"],
                "responseKind": {"group": group, "version": version, "kind": kind}})
        };
        let group = |name: &str, version: &str, resources: Value| json!({"metadata": {"name": name}, "versions": [{"version": version, "resources": resources}]});
        let list = |items: Value| json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
        server.answer(
            "/api",
            list(json!([group(
                "",
                "v1",
                json!([resource("pods", "pod", "Pod", &["po"], "Namespaced", "", "v1")])
            )])),
        );
        server.answer(
            "/apis",
            list(json!([
                group(
                    "apps",
                    "v1",
                    json!([resource(
                        "deployments",
                        "deployment",
                        "Deployment",
                        &["deploy"],
                        "Namespaced",
                        "apps",
                        "v1"
                    )])
                ),
                group(
                    "batch",
                    "v1",
                    json!([resource("jobs", "job", "Job", &[], "Namespaced", "batch", "v1")])
                ),
                group(
                    "batch.volcano.sh",
                    "v1alpha1",
                    json!([resource(
                        "jobs",
                        "job",
                        "Job",
                        &["vcjob"],
                        "Namespaced",
                        "batch.volcano.sh",
                        "v1alpha1"
                    )])
                ),
            ])),
        );
        for (path, version, resources) in [
            (
                "/api/v1",
                "v1",
                vec![
                    ("persistentvolumeclaims", "PersistentVolumeClaim", true),
                    ("persistentvolumes", "PersistentVolume", false),
                    ("namespaces", "Namespace", false),
                ],
            ),
            ("/apis/apps/v1", "apps/v1", vec![("daemonsets", "DaemonSet", true)]),
            ("/apis/data.fluid.io/v1alpha1", "data.fluid.io/v1alpha1", vec![("datasets", "Dataset", true)]),
        ] {
            let resources: Vec<_> = resources.into_iter().map(|(name, kind, namespaced)| {
                json!({"name": name, "kind": kind, "namespaced": namespaced, "singularName": "", "verbs": ["get"]})
            }).collect();
            server.answer(
                path,
                json!({"kind": "APIResourceList", "groupVersion": version, "resources": resources}),
            );
        }
        server
    }

    /// Kubewarden, with these policies.
    fn kubewarden(&self, policies: &[(&str, bool, Value)]) {
        self.answer("/apis/policies.kubewarden.io/v1", json!({"kind": "APIResourceList",
            "groupVersion": "policies.kubewarden.io/v1", "resources": [
            {"name": "clusteradmissionpolicies", "kind": "ClusterAdmissionPolicy", "namespaced": false, "singularName": "", "verbs": []},
            {"name": "admissionpolicies", "kind": "AdmissionPolicy", "namespaced": true, "singularName": "", "verbs": []}]}));
        let items: Vec<_> =
            policies.iter().map(|(name, mutating, settings)| policy(name, *mutating, settings)).collect();
        for policy in &items {
            let path = "/apis/policies.kubewarden.io/v1/clusteradmissionpolicies";
            self.answer(&format!("{path}/{}", policy["metadata"]["name"].as_str().unwrap()), policy.clone());
        }
        let list = |items: Vec<Value>| json!({"kind": "List", "apiVersion": "policies.kubewarden.io/v1", "metadata": {}, "items": items});
        self.answer("/apis/policies.kubewarden.io/v1/clusteradmissionpolicies", list(items));
        self.answer("/apis/policies.kubewarden.io/v1/namespaces/team/admissionpolicies", list(Vec::new()));
    }

    fn answer(&self, path: &str, body: Value) {
        self.answers.lock().unwrap().insert(path.into(), (200, body));
    }

    /// As RBAC refuses it.
    fn forbid(&self, path: &str, resource: &str, group: &str) {
        let message =
            format!("{resource} is forbidden: User \"system:serviceaccount:team:dev\" cannot get resource");
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403,
            "message": message, "details": {"kind": resource, "group": group}});
        self.answers.lock().unwrap().insert(path.into(), (403, status));
    }

    /// The objects of the demo, in the namespace `team`.
    fn demo(&self) {
        for file in std::fs::read_dir(root().join("demo/cluster")).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            // Their names follow the namespace, too.
            let text = text.replace(": default", ": team").replace("/default/", "/team/");
            for object in tool::yaml::parse(&text).unwrap() {
                let name = object["metadata"]["name"].as_str().unwrap();
                let plural = object["kind"].as_str().unwrap().to_lowercase() + "s";
                let version = object["apiVersion"].as_str().unwrap();
                let base = if version.contains('/') { "/apis" } else { "/api" };
                let namespace = object["metadata"].get("namespace").map_or("", |_| "/namespaces/team");
                self.answer(&format!("{base}/{version}{namespace}/{plural}/{name}"), object.clone());
            }
        }
    }

    fn run(&self, arguments: &[&str]) -> Said {
        run(arguments, "", Some(&self.kubeconfig))
    }
}

fn policy(name: &str, mutating: bool, settings: &Value) -> Value {
    json!({"apiVersion": "policies.kubewarden.io/v1", "kind": "ClusterAdmissionPolicy", "metadata": {"name": name},
        "spec": {"module": "registry://ghcr.io/org/fluid-sidecar-policy:v0.1.0", "mutating": mutating, "settings": settings,
            "contextAwareResources": [
                {"apiVersion": "apps/v1", "kind": "DaemonSet"}, {"apiVersion": "data.fluid.io/v1alpha1", "kind": "Dataset"},
                {"apiVersion": "v1", "kind": "PersistentVolume"}, {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}]}})
}

fn config(server: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Config", "current-context": "dev",
        "contexts": [{"name": "dev", "context": {"cluster": "here", "user": "me", "namespace": "team"}},
            {"name": "lost", "context": {"cluster": "gone", "user": "me"}}],
        "users": [{"name": "me", "user": {}}],
        "clusters": [{"name": "here", "cluster": {"server": server}}]})
}

/// HTTP/1.1, as much as a client that asks and waits needs.
fn answer_all(
    mut connection: TcpStream,
    answers: &Mutex<BTreeMap<String, (u16, Value)>>,
    asked: &Mutex<Vec<String>>,
) {
    let mut requests = BufReader::new(connection.try_clone().unwrap());
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if requests.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let target = head.split(' ').nth(1).unwrap_or_default().to_string();
        asked.lock().unwrap().push(format!("{} {target}", head.split(' ').next().unwrap_or_default()));
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        requests.read_exact(&mut body).unwrap();
        let path = target.split('?').next().unwrap_or_default();
        let not_found = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
            "message": format!("{path} not found"), "code": 404});
        let (code, body) = answers.lock().unwrap().get(path).cloned().unwrap_or((404, not_found));
        let body = body.to_string();
        let answer = format!(
            "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if connection.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn demo_pod() -> Value {
    let mut pod = tool::yaml::read_single(&root().join("demo/pod.yaml")).unwrap();
    pod["metadata"]["namespace"] = "team".into();
    pod
}

#[test]
fn the_live_cluster_answers_with_the_settings_of_its_policy() {
    let server = Server::new();
    server.demo();
    server.kubewarden(&[
        ("eci", true, json!({"destination": "eci"})),
        ("verify", false, json!({"mode": "verify"})),
    ]);
    let said = server.run(&["explain", "demo/pod.yaml", "-o", "json"]);
    assert_eq!(
        (said.code, &said.json()[0]["verdict"]),
        (0, &json!("mutated")),
        "{}{}",
        said.stdout,
        said.stderr
    );
    assert_eq!(said.json()[0]["pod"], "team/app");
    assert!(said.stderr.contains("the settings are those of clusteradmissionpolicy/eci"), "{}", said.stderr);
    assert!(said.stderr.contains("the cluster is that of context dev (http://127.0.0.1:"), "{}", said.stderr);
    let asked = server.asked.lock().unwrap().clone();
    assert!(asked.iter().all(|request| request.starts_with("GET ")), "{asked:?}");

    // The policy is not granted what its manifest does not have.
    let mut ungranted = policy("eci", true, &json!({"destination": "eci"}));
    ungranted["spec"]["contextAwareResources"] = json!([]);
    server.answer("/apis/policies.kubewarden.io/v1/clusteradmissionpolicies/eci", ungranted);
    let said = server.run(&["explain", "demo/pod.yaml", "--settings", "clusteradmissionpolicy/eci"]);
    assert!(said.code == 1 && said.stderr.contains("contextAwareResources"), "{}", said.stderr);

    server.kubewarden(&[("eci", true, json!({})), ("ask", true, json!({}))]);
    let said = server.run(&["explain", "demo/pod.yaml"]);
    assert_eq!(said.code, 2);
    for name in ["eci", "ask"] {
        assert!(
            said.stderr.contains(&format!("\n  --settings clusteradmissionpolicy/{name}\n")),
            "{}",
            said.stderr
        );
    }
    server.forbid(
        "/apis/policies.kubewarden.io/v1/clusteradmissionpolicies",
        "clusteradmissionpolicies",
        "policies.kubewarden.io",
    );
    let said = server.run(&["explain", "demo/pod.yaml"]);
    assert!(
        said.stderr.contains("may not be listed") && said.stderr.contains("the default settings are used"),
        "{}",
        said.stderr
    );
}

#[test]
fn objects_of_a_live_cluster_are_found_as_kubectl_finds_them() {
    let server = Server::new();
    server.demo();
    let spec = demo_pod()["spec"].clone();
    let template =
        json!({"template": {"metadata": {"labels": demo_pod()["metadata"]["labels"]}, "spec": spec}});
    let object = |version: &str, kind: &str, spec: &Value| json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x", "namespace": "team", "uid": "u"}, "spec": spec});
    server.answer("/api/v1/namespaces/team/pods/app", demo_pod());
    server.answer("/apis/apps/v1/namespaces/team/deployments/x", object("apps/v1", "Deployment", &template));
    server.answer("/apis/batch/v1/namespaces/team/jobs/x", object("batch/v1", "Job", &template));
    server.answer(
        "/apis/batch.volcano.sh/v1alpha1/namespaces/team/jobs/x",
        object(
            "batch.volcano.sh/v1alpha1",
            "Job",
            &json!({"tasks": [{"name": "t", "template": template["template"]}]}),
        ),
    );
    for (name, pod) in [
        ("pod/app", "team/app"),
        ("po/app", "team/app"),
        ("Pods/app", "team/app"),
        ("deploy/x", "team/x-0000000000-"),
        ("deployments.v1.apps/x", "team/x-0000000000-"),
        ("job/x", "team/x-"),
        ("job.batch/x", "team/x-"),
        ("vcjob/x", ""),
        ("jobs.batch.volcano.sh/x", ""),
    ] {
        let said = server.run(&["explain", name, "-o", "json"]);
        let document = said.json().pop().unwrap();
        assert_eq!(document["verdict"], "mutated", "{name}: {}", said.stderr);
        match pod {
            "" => assert!(document["foundAt"].as_str().unwrap().starts_with("Job team/x: "), "{document}"),
            pod => assert_eq!(document["pod"], pod, "{name}"),
        }
    }
    for (name, says) in [
        ("pod/none", "there is no none of pods in namespace team"),
        ("shoe/x", "no resource type \"shoe\""),
        ("job.shoe.io/x", "no resource type \"job.shoe.io\""),
        ("pod/app --namespace other", "there is no app of pods in namespace other"),
    ] {
        let said = server.run(&[&["explain"], &name.split(' ').collect::<Vec<_>>()[..]].concat());
        assert!(said.code == 2 && said.stderr.contains(says), "{name}: {}", said.stderr);
    }
}

#[test]
fn a_live_pod_that_was_injected_is_seen_as_its_owner_wrote_it() {
    let server = Server::new();
    server.demo();
    let said = server.run(&["explain", "demo/pod.yaml", "-o", "pod"]);
    let mut live = said.json().pop().unwrap();
    live["spec"]["nodeName"] = "virtual-kubelet".into();
    live["status"] = json!({"phase": "Running"});
    live["metadata"]["uid"] = "u".into();
    server.answer("/api/v1/namespaces/team/pods/app", live);
    let given = server.run(&["uninject", "pod/app"]);
    assert_eq!(given.json(), [demo_pod()], "{}", given.stderr);
    let again = server.run(&["explain", "pod/app", "-o", "pod"]);
    assert_eq!(again.json(), said.json(), "{}", again.stderr);
    assert!(again.stderr.contains("note: pod/app was injected"), "{}", again.stderr);
}

#[test]
fn a_token_file_may_end_in_a_line_as_for_kubectl() {
    let server = Server::new();
    server.demo();
    let token = server.kubeconfig.with_file_name("token");
    std::fs::write(&token, "sesame\n").unwrap();
    let mut kubeconfig = tool::yaml::read_single(&server.kubeconfig).unwrap();
    kubeconfig["users"][0]["user"] = json!({"tokenFile": token});
    std::fs::write(&server.kubeconfig, kubeconfig.to_string()).unwrap();
    let said = server.run(&["explain", "demo/pod.yaml"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(!said.stderr.contains("sesame"), "{}", said.stderr);
}

#[test]
fn a_missing_right_is_no_verdict_and_who_grants_it_is_told() {
    let server = Server::new();
    server.demo();
    server.forbid("/api/v1/namespaces/team/persistentvolumeclaims/data", "persistentvolumeclaims", "");
    let said = server.run(&["explain", "demo/pod.yaml"]);
    assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{}", said.stderr);
    for line in [
        "\n  kubectl create clusterrole fluid-sidecar-reader --verb=get \
         --resource=persistentvolumeclaims,persistentvolumes,datasets.data.fluid.io,daemonsets.apps,namespaces\n",
        "\n  kubectl create clusterrolebinding fluid-sidecar-reader:team:dev --clusterrole=fluid-sidecar-reader \
         --serviceaccount=team:dev\n",
    ] {
        assert!(said.stderr.contains(line), "{line}{}", said.stderr);
    }
    server.forbid("/api/v1/namespaces/team/pods/app", "pods", "");
    let said = server.run(&["uninject", "pod/app"]);
    let role = "kubectl create role fluid-sidecar-get-pods --verb=get --resource=pods --namespace=team\n";
    assert!(said.code == 2 && said.stderr.contains(role), "{}", said.stderr);
}

#[test]
fn a_cluster_that_cannot_be_asked_is_told_with_its_field_and_the_fix() {
    let directory = TempDir::new().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let file = directory.path().join("config");
    let mut broken = config(&format!("http://{address}"));
    std::fs::write(&file, broken.to_string()).unwrap();
    let try_with =
        |arguments: &[&str]| run(&[&["explain", "demo/pod.yaml"], arguments].concat(), "", Some(&file));
    for (arguments, says) in [
        (&["--context", "none"][..], vec!["--context is \"none\"", "one of its contexts: dev, lost"]),
        (&["--context", "lost"], vec!["names the cluster \"gone\"", "among its clusters: here"]),
        (&[], vec!["cannot be reached: ", "refused", "`--objects`"]),
        (&["--kubeconfig", "/nonexistent/config"], vec!["the kubeconfig /nonexistent/config cannot be read"]),
    ] {
        let said = try_with(arguments);
        assert_eq!(said.code, 2);
        assert!(says.iter().all(|part| said.stderr.contains(part)), "{says:?}: {}", said.stderr);
    }
    broken.as_object_mut().unwrap().remove("current-context");
    std::fs::write(&file, broken.to_string()).unwrap();
    assert!(try_with(&[]).stderr.contains("current-context is not set"), "{}", try_with(&[]).stderr);
    // With files no cluster is asked.
    assert_eq!(try_with(&CLUSTER).code, 0);
}
