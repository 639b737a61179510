//! The manifests of `deploy/` work: they have the fields of their kinds, agree with the policy's metadata and with each
//! other, never keep a Pod with a Dataset from the policy, and make of the examples what these say in their comments.
//!
//! `UPDATE_EXPECT=1 cargo test --test deploy` writes those comments anew. The examples go through the policy's library
//! and, where they are built (`make wasm tools`), through `evaluate` and the compiled policy; `EVALUATE` and `POLICY`
//! name others than those in `target/`.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use evaluate::{input, yaml};
use fluid_sidecar_layout::Named as _;
use fluid_sidecar_policy::cluster::Kind;
use fluid_sidecar_policy::settings::Settings;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use support::expect::expect;
use support::manifests;
use support::validation::violations;
use support::{Cluster, cases, cluster_of, create, given, metadata, name, read, root};

// --- reading -----------------------------------------------------------------------------------------------

/// All manifests by their files, relative to `deploy/`.
fn files() -> BTreeMap<String, Vec<Value>> {
    let deploy = root().join("deploy");
    let mut files = BTreeMap::new();
    for directory in [deploy.clone(), deploy.join("examples")] {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let file = path.strip_prefix(&deploy).unwrap().display().to_string();
                files.insert(file, yaml::read_file(&path).unwrap());
            }
        }
    }
    files
}

fn of_kind(kind: &str) -> Vec<Value> {
    files().into_values().flatten().filter(|manifest| manifest["kind"] == kind).collect()
}

fn only(kind: &str) -> Value {
    let mut found = of_kind(kind);
    assert_eq!(found.len(), 1, "{kind}");
    found.pop().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The second policy of `verify.yaml`.
const TWIN_OF_NAMESPACES: &str = "verify.yaml (fluid-sidecar-verify-namespaces)";

/// The manifests of this policy, by file. The second one of a file has its own name behind the file's.
fn policies() -> BTreeMap<String, Value> {
    let ours = format!("/{}:", env!("CARGO_PKG_NAME"));
    let mut policies = BTreeMap::new();
    for (file, manifests) in files() {
        for manifest in manifests {
            if manifest["kind"] != "ClusterAdmissionPolicy"
                || !text(&manifest["spec"]["module"]).contains(&ours)
            {
                continue;
            }
            let key = match policies.contains_key(&file) {
                true => format!("{file} ({})", text(&manifest["metadata"]["name"])),
                false => file.clone(),
            };
            policies.insert(key, manifest);
        }
    }
    assert!(policies.len() >= 6, "{:?}", policies.keys());
    policies
}

fn policy_server(name: &str) -> Value {
    let mut servers = of_kind("PolicyServer").into_iter().filter(|it| it["metadata"]["name"] == name);
    servers.next().unwrap_or_else(|| panic!("no PolicyServer {name}"))
}

fn examples() -> Vec<PathBuf> {
    let examples = support::files("deploy/examples");
    assert!(examples.len() >= 4);
    examples
}

/// The cluster once Fluid has bound the Dataset of `fluid.yaml`.
fn documents() -> Vec<Value> {
    let made = root().join("tests/cases/fluid/deploy-fluid-yaml/objects.yaml");
    let mut documents = yaml::read_file(&made).unwrap();
    documents.retain(|document| document["kind"] != "Namespace");
    // What the controller makes of the StatefulSet's claim template.
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": {"volumeName": "d-1"},
        "metadata": {"name": "state-index-0", "namespace": "training"}});
    documents.extend([claim, only("Namespace")]);
    documents
}

// --- what the manifests are --------------------------------------------------------------------------------

#[test]
fn manifests_have_the_fields_of_their_kinds() {
    for (file, manifests) in files() {
        let source = fs::read_to_string(root().join("deploy").join(&file)).unwrap();
        assert!(source.starts_with("# "), "{file} does not begin with what it is for");
        for manifest in manifests {
            let of = format!("{file}, {} {}", manifest["kind"], manifest["metadata"]["name"]);
            manifests::check(&manifest).unwrap_or_else(|error| panic!("{of}: {error}"));
        }
    }
}

/// Otherwise the test before says nothing.
#[test]
fn manifests_with_mistakes_are_refused() {
    for (kind, pointer, mistake) in [
        ("ClusterAdmissionPolicy", "/spec/failurePolicy", json!("fail")),
        ("ClusterAdmissionPolicy", "/spec/timeoutSeconds", json!(31)),
        ("ClusterAdmissionPolicy", "/spec/policyserver", json!("default")),
        ("ClusterAdmissionPolicy", "/spec/namespaceSelector/matchNames", json!([])),
        ("ClusterRole", "/rules/0/resource", json!("pods")),
        ("CronJob", "/spec/jobTemplate/spec/template/spec/container", json!([])),
        ("DaemonSet", "/spec/template/spec/containers/0/ports/0/containerPort", json!("8080")),
        ("Dataset", "/spec/mounts/0/encryptOptions/0/valueFrom/secretKeyRef/name", json!(1)),
        ("PolicyServer", "/spec/replicas", json!("2")),
        ("StatefulSet", "/spec/volumeClaimTemplates/0/spec/storage", json!("1Gi")),
        ("ThinRuntimeProfile", "/spec/fuse/resources/limit", json!({})),
    ] {
        let mut manifest = of_kind(kind).swap_remove(0);
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        manifest.pointer_mut(parent).unwrap()[field] = mistake;
        assert!(manifests::check(&manifest).is_err(), "{kind}: {pointer} was taken");
    }
}

const SERVER: &str = "fluid-sidecar";
const TWINS_SERVER: &str = "fluid-sidecar-verify";

#[test]
fn policies_agree_with_the_metadata() {
    let metadata = metadata();
    let module = format!(
        "registry://{}:v{}",
        text(&metadata["annotations"]["io.kubewarden.policy.ociUrl"]),
        env!("CARGO_PKG_VERSION")
    );
    for (file, policy) in policies() {
        let spec = &policy["spec"];
        let settings = &spec["settings"];
        Settings::parse(settings).unwrap_or_else(|problems| panic!("{file}: {problems:?}"));
        assert_eq!(spec["module"], module, "{file}");
        assert_eq!(spec["rules"], metadata["rules"], "{file}");
        assert_eq!(spec["backgroundAudit"], metadata["backgroundAudit"], "{file}");
        assert_eq!(spec["mutating"], settings["mode"] != "verify", "{file}");
        // Who reads nothing needs no PolicyServer of its own, and shall be granted nothing.
        let (resources, server) = match settings["datasetsFrom"] == "settings" {
            true => (&Value::Null, "default"),
            false if settings["mode"] == "verify" => (&metadata["contextAwareResources"], TWINS_SERVER),
            false => (&metadata["contextAwareResources"], SERVER),
        };
        assert_eq!(&spec["contextAwareResources"], resources, "{file}");
        assert_eq!(spec["policyServer"], server, "{file}");
        let seconds = |field: &str, default| spec[field].as_u64().unwrap_or(default);
        assert!(seconds("timeoutEvalSeconds", 2) <= seconds("timeoutSeconds", 10), "{file}");
    }
}

#[test]
fn the_twin_verifies_what_the_policy_does() {
    let policies = policies();
    let eci = &policies["eci.yaml"]["spec"];
    for file in ["verify.yaml", TWIN_OF_NAMESPACES] {
        let twin = &policies[file]["spec"];
        let mut settings = twin["settings"].clone();
        assert_eq!(settings.as_object_mut().unwrap().remove("mode"), Some(json!("verify")), "{file}");
        assert_eq!(settings, eci["settings"], "{file}");
        for field in ["objectSelector", "timeoutSeconds", "timeoutEvalSeconds"] {
            assert_eq!(twin[field], eci[field], "{file}: {field}");
        }
        // After an injection the claim is gone, and the annotation there.
        let claims = format!(
            "({})\n|| (has(object.metadata.annotations) && 'fluid-sidecar-policy/injected' in object.metadata.annotations)",
            text(&eci["matchConditions"][0]["expression"])
        );
        let words = |expression: &str| expression.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(text(&twin["matchConditions"][0]["expression"])), words(&claims), "{file}");
        // It holds while the server of the other does not answer.
        assert_eq!((text(&twin["failurePolicy"]), text(&eci["failurePolicy"])), ("Fail", "Ignore"), "{file}");
        assert_ne!(twin["policyServer"], eci["policyServer"], "{file}");
    }
    assert_eq!(policies["verify.yaml"]["spec"]["namespaceSelector"], eci["namespaceSelector"]);
    let namespaces = &policies[TWIN_OF_NAMESPACES]["spec"]["namespaceSelector"];
    let marked = json!({"alibabacloud.com/eci": "true", "kubernetes.io/metadata.name": "training"});
    assert!(selects(namespaces, &marked));
    assert!(!selects(namespaces, &json!({"kubernetes.io/metadata.name": "training"})));
}

#[test]
fn the_twins_server_differs_from_the_policys_in_its_name_alone() {
    let renamed = policy_server(TWINS_SERVER).to_string().replace(TWINS_SERVER, SERVER);
    assert_eq!(serde_json::from_str::<Value>(&renamed).unwrap(), policy_server(SERVER));
}

/// The examples for closed networks in `policy-server.yaml`.
#[test]
fn commented_fields_are_fields() {
    let mut source = fs::read_to_string(root().join("deploy/policy-server.yaml")).unwrap();
    for field in ["imagePullSecret", "insecureSources", "sigstoreTrustConfig", "sourceAuthorities"] {
        let commented = format!("\n  # {field}: ");
        assert!(source.contains(&commented), "{field}");
        source = source.replace(&commented, &format!("\n  {field}: "));
    }
    for manifest in yaml::parse(&source).unwrap() {
        manifests::check(&manifest).unwrap();
    }
}

/// Kubewarden's controller drops matchLabels of a cluster-wide policy's namespaceSelector, so that it selects all.
#[test]
fn namespaces_are_selected_by_expressions() {
    for policy in of_kind("ClusterAdmissionPolicy") {
        let selector = &policy["spec"]["namespaceSelector"];
        assert!(selector.get("matchLabels").is_none(), "{}", policy["metadata"]["name"]);
        assert!(!list(&selector["matchExpressions"]).is_empty(), "{}", policy["metadata"]["name"]);
        let mut labels = only("Namespace")["metadata"]["labels"].clone();
        labels["kubernetes.io/metadata.name"] = "training".into();
        assert!(selects(selector, &labels), "{} does not select training", policy["metadata"]["name"]);
        let system = json!({"kubernetes.io/metadata.name": "kube-system"});
        assert!(!selects(selector, &system), "{} selects kube-system", policy["metadata"]["name"]);
    }
}

#[test]
fn the_role_grants_what_the_policy_reads_and_no_more() {
    let mut granted = BTreeSet::new();
    for rule in list(&only("ClusterRole")["rules"]) {
        assert_eq!(rule["verbs"], json!(["get"]));
        for (group, resource) in list(&rule["apiGroups"])
            .iter()
            .flat_map(|group| list(&rule["resources"]).iter().map(move |it| (group, it)))
        {
            granted.insert(format!("{}/{}", text(group), text(resource)));
        }
    }
    let read = Kind::ALL.iter().map(|kind| {
        let group = kind.facts().split_once('/').map_or("", |(group, _)| group);
        format!("{group}/{}s", kind.name().to_lowercase())
    });
    assert_eq!(granted, read.collect::<BTreeSet<_>>());

    let (binding, account) = (only("ClusterRoleBinding"), only("ServiceAccount"));
    assert_eq!(binding["roleRef"]["name"], only("ClusterRole")["metadata"]["name"]);
    let subject = json!([{"kind": "ServiceAccount", "name": account["metadata"]["name"],
        "namespace": account["metadata"]["namespace"]}]);
    assert_eq!(binding["subjects"], subject);
    for server in [SERVER, TWINS_SERVER] {
        assert_eq!(policy_server(server)["spec"]["serviceAccountName"], account["metadata"]["name"]);
    }
}

#[test]
fn fluids_objects_find_each_other() {
    let (dataset, runtime, profile) = (only("Dataset"), only("ThinRuntime"), only("ThinRuntimeProfile"));
    assert_eq!(runtime["spec"]["profileName"], profile["metadata"]["name"]);
    assert_eq!(runtime["metadata"], dataset["metadata"]);
    let secret = only("Secret");
    assert_eq!(secret["metadata"]["namespace"], dataset["metadata"]["namespace"]);
    for option in list(&dataset["spec"]["mounts"][0]["encryptOptions"]) {
        let reference = &option["valueFrom"]["secretKeyRef"];
        assert_eq!(reference["name"], secret["metadata"]["name"]);
        assert!(secret["stringData"].get(text(&reference["key"])).is_some(), "{reference}");
    }
    // One sidecar, whichever way it comes.
    let fuse = &profile["spec"]["fuse"];
    let image = format!("{}:{}", text(&fuse["image"]), text(&fuse["imageTag"]));
    assert_eq!(fuse["imageTag"], concat!("v", env!("CARGO_PKG_VERSION")));
    assert_eq!(
        policies()["eci-without-cluster-reads.yaml"]["spec"]["settings"]["sidecarImages"]["thin"],
        image
    );
    let made = |kind: &str| documents().into_iter().find(|document| document["kind"] == kind).unwrap();
    assert_eq!(made("Dataset")["spec"], dataset["spec"], "what Fluid made, of these objects");
    let daemonset = made("DaemonSet");
    assert_eq!(daemonset["spec"]["template"]["spec"]["containers"][0]["image"], image);
}

#[test]
fn the_device_plugin_offers_the_resource_that_the_policy_asks_for() {
    let plugin = only("DaemonSet");
    let container = &plugin["spec"]["template"]["spec"]["containers"][0];
    let args: Vec<&str> = list(&container["args"]).iter().map(text).collect();
    let domain = args.iter().find_map(|arg| arg.strip_prefix("--domain=")).unwrap();
    let device = args.iter().position(|arg| *arg == "--device").unwrap() + 1;
    let device = yaml::parse(args[device]).unwrap().pop().unwrap();
    assert_eq!(device["groups"][0]["paths"], json!([{"path": "/dev/fuse"}]));
    let resource = format!("{domain}/{}", text(&device["name"]));
    assert_eq!(resource, Settings::parse(&json!({})).unwrap().vfuse_resource_name);
    let limits = &policies()["kubernetes.yaml"]["spec"]["settings"]["sidecars"]["thin"]["limits"];
    assert_eq!(limits[resource], "1");
}

// --- which Pods reach the policy ---------------------------------------------------------------------------

fn selects(selector: &Value, labels: &Value) -> bool {
    let value = |key: &Value| labels.get(text(key));
    list(&selector["matchExpressions"]).iter().all(|expression| {
        let (value, values) = (value(&expression["key"]), list(&expression["values"]));
        match text(&expression["operator"]) {
            "In" => value.is_some_and(|value| values.contains(value)),
            "NotIn" => value.is_none_or(|value| !values.contains(value)),
            operator => panic!("operator {operator}"),
        }
    })
}

/// Whether the API server would ask the policy, by the labels and the fields of the Pod.
fn is_asked(policy: &Value, pod: &Value) -> bool {
    let mut context = cel::Context::default();
    context.add_variable("object", pod).unwrap();
    let conditions = list(&policy["spec"]["matchConditions"]);
    assert!(!conditions.is_empty());
    selects(&policy["spec"]["objectSelector"], &pod["metadata"]["labels"])
        && conditions.iter().all(|condition| {
            let expression = text(&condition["expression"]);
            let program =
                cel::Program::compile(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
            match program.execute(&context).unwrap_or_else(|error| panic!("{expression}: {error}\n{pod:#}")) {
                cel::Value::Bool(matches) => matches,
                other => panic!("{expression}: {other:?}"),
            }
        })
}

/// Pods of the golden cases that the API server could have: of the right types.
fn pods() -> Vec<(String, Value, Cluster)> {
    let mut pods = Vec::new();
    for case in cases("tests/cases") {
        let request = input::request(given(&case, "pod.yaml"), None, "CREATE").unwrap();
        let pod = request.object().clone();
        if pod["kind"] == "Pod" && serde_json::from_value::<Pod>(pod.clone()).is_ok() {
            pods.push((name(&case), pod, cluster_of(&case)));
        }
    }
    assert!(pods.len() > 50, "{} Pods", pods.len());
    pods
}

#[test]
fn only_pods_that_the_policy_would_leave_alone_are_kept_from_it() {
    let pods = pods();
    // What the twin is asked about is narrower, and has tests of its own.
    for (file, policy) in policies().into_iter().filter(|(_, it)| it["spec"]["mutating"] == true) {
        let (mut asked, mut spared, mut concerned) = (0, 0, 0);
        for (case, pod, cluster) in &pods {
            let answer = create(pod, cluster, &policy["spec"]["settings"]);
            let concerns =
                answer["audit_annotations"]["decision"] != "untouched" || answer.get("warnings").is_some();
            let is_asked = is_asked(&policy, pod);
            assert!(
                is_asked || !concerns,
                "{file} keeps the Pod of tests/cases/{case} from the policy: {answer}"
            );
            asked += usize::from(is_asked);
            spared += usize::from(!is_asked);
            concerned += usize::from(concerns);
        }
        assert!(asked > 0 && spared > 0, "{file}: {asked} asked, {spared} spared");
        // Its Datasets are those of the example.
        assert!(concerned > 0 || policy["spec"]["settings"]["datasetsFrom"] == "settings", "{file}");
    }
}

#[test]
fn pods_without_a_claim_cost_no_call() {
    for (file, policy) in policies() {
        for volumes in [None, Some(json!([])), Some(json!([{"name": "scratch", "emptyDir": {}}]))] {
            let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app"},
                "spec": {"containers": [{"name": "app", "image": "app"}]}});
            if let Some(volumes) = volumes {
                pod["spec"]["volumes"] = volumes;
            }
            assert!(!is_asked(&policy, &pod), "{file}: {pod}");
        }
    }
}

/// The claim is gone from an injected Pod, and so may be its sidecar.
#[test]
fn the_twins_are_asked_about_injected_pods() {
    let policies = policies();
    let twins = ["verify.yaml", TWIN_OF_NAMESPACES].map(|file| &policies[file]);
    let mut rejected = 0;
    for (case, pod, cluster) in pods() {
        let answer = create(&pod, &cluster, &json!({}));
        let Some(injected) = answer.get("mutated_object") else { continue };
        assert!(twins.iter().all(|twin| is_asked(twin, injected)), "{case}");
        let mut damaged = injected.clone();
        damaged["spec"]["containers"].as_array_mut().unwrap().retain(|it| it["name"] != "fluid-fuse");
        if let Some(sidecars) = damaged["spec"]["initContainers"].as_array_mut() {
            sidecars.retain(|it| it["name"] != "fluid-fuse");
        }
        assert!(twins.iter().all(|twin| is_asked(twin, &damaged)), "{case}");
        rejected +=
            usize::from(create(&damaged, &cluster, &twins[0]["spec"]["settings"])["accepted"] == false);
    }
    assert!(rejected > 10, "{rejected}");
}

/// With `failurePolicy: Fail` the API server refuses the Pods that it would ask the twin about. So these are the Pods
/// that go to a serverless node with a claim, and no others.
#[test]
fn the_twin_is_asked_about_marked_pods_and_no_others() {
    let policies = policies();
    let twin = &policies["verify.yaml"];
    let (mut marked, mut by_namespace, mut ordinary) = (0, 0, 0);
    for (case, pod, cluster) in pods() {
        let answer = create(&pod, &cluster, &of_all_destinations(&twin["spec"]["settings"]));
        let reasons = answer["audit_annotations"]["reasons"].as_str().unwrap_or_default();
        // Being asked costs nothing but the call: these Pods have a marker, and something that outweighs it.
        if reasons.starts_with("exempt: ") || case == "placement-node-name-of-an-ordinary-node" {
            continue;
        }
        let placement = reasons.lines().find(|line| line.starts_with("serverless: "));
        let is_asked = |file: &str| is_asked(&policies[file], &pod);
        if !pod["metadata"]["annotations"]["fluid-sidecar-policy/injected"].is_null() {
            assert!(is_asked("verify.yaml"), "{case}");
        } else if placement.is_some_and(|line| line.contains("namespace label")) {
            assert!(is_asked(TWIN_OF_NAMESPACES) && !is_asked("verify.yaml"), "{case}: {reasons}");
            by_namespace += 1;
        } else {
            assert_eq!(is_asked("verify.yaml"), placement.is_some(), "{case}: {reasons}");
            marked += usize::from(placement.is_some());
            ordinary += usize::from(placement.is_none());
        }
    }
    assert!(marked > 10 && by_namespace > 0 && ordinary > 5, "{marked}, {by_namespace}, {ordinary}");
}

/// Of a marker that the settings do not enable the twin is asked, too, and has nothing to say.
fn of_all_destinations(settings: &Value) -> Value {
    let mut settings = settings.clone();
    settings["destinations"] = json!({"acs": {}, "eci": {}, "kubernetes": {}});
    settings
}

#[test]
fn the_twin_knows_the_markers_of_pods() {
    let affinity = |operator: &str, key: &str, values: &[&str]| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]}}}})
    };
    let label = |key: &str, value: &str| (json!({"labels": {key: value}}), json!({}));
    let annotation = |key: &str, value: &str| (json!({"annotations": {key: value}}), json!({}));
    let node = |fields: Value| (json!({}), fields);
    let policies = policies();
    let twin = &policies["verify.yaml"];
    for (is_marked, (metadata, fields)) in [
        (true, label("alibabacloud.com/fluid-sidecar-target", "eci")),
        (true, label("alibabacloud.com/fluid-sidecar-target", "acs")),
        (true, label("alibabacloud.com/eci", "true")),
        (true, label("eci", "true")),
        (true, label("alibabacloud.com/acs", "true")),
        (true, label("alibabacloud.com/compute-class", "general-purpose")),
        (true, label("serverless.fluid.io/inject", "true")),
        (true, label("fuse.sidecar.fluid.io/inject", "true")),
        (true, annotation("alibabacloud.com/burst-resource", "eci_only")),
        (true, node(json!({"nodeName": "virtual-kubelet-cn-hangzhou-b"}))),
        (true, node(json!({"nodeName": "virtual-node-eci-0"}))),
        (true, node(json!({"nodeName": "cn-hangzhou.vnd-1"}))),
        (true, node(json!({"nodeSelector": {"disk": "ssd", "type": "virtual-kubelet"}}))),
        (true, node(json!({"nodeSelector": {"k8s.aliyun.com/vnode": "true"}}))),
        (true, node(affinity("In", "type", &["virtual-kubelet"]))),
        (true, node(affinity("In", "k8s.aliyun.com/vnode", &["true"]))),
        (false, node(json!({}))),
        (false, label("alibabacloud.com/eci", "false")),
        (false, label("app", "true")),
        (false, annotation("alibabacloud.com/burst-resource", "eci")),
        (false, node(json!({"nodeName": "cn-hangzhou.10.0.0.1"}))),
        (false, node(json!({"nodeSelector": {"type": "gpu"}}))),
        (false, node(affinity("NotIn", "type", &["virtual-kubelet"]))),
        (false, node(affinity("In", "type", &["virtual-kubelet", "gpu"]))),
        (
            false,
            node(json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "type", "operator": "In", "values": ["virtual-kubelet"]}]}}]}}})),
        ),
        (false, node(json!({"tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}]}))),
    ] {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": fields});
        pod["metadata"]["name"] = "app".into();
        pod["spec"]["containers"] = json!([{"name": "app", "image": "app"}]);
        assert!(!is_asked(twin, &pod), "without a claim: {pod}");
        pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
        assert_eq!(is_asked(twin, &pod), is_marked, "{pod}");
        let answer =
            create(&pod, &Cluster::of(Vec::new()), &of_all_destinations(&json!({"onUnresolved": "allow"})));
        let reasons = text(&answer["audit_annotations"]["reasons"]);
        assert_eq!(
            reasons.lines().any(|line| line.starts_with("serverless: ")),
            is_marked,
            "{reasons}\n{pod}"
        );
    }
}

/// A row of the table that is new must be told to the API server, too.
#[test]
fn the_twin_knows_every_row_of_the_table() {
    let semantics = fs::read_to_string(root().join("SEMANTICS.md")).unwrap();
    let (_, table) = semantics.split_once("<!-- placement:begin -->").unwrap();
    let (table, _) = table.split_once("<!-- placement:end -->").unwrap();
    let policies = policies();
    let expression = text(&policies["verify.yaml"]["spec"]["matchConditions"][1]["expression"]);
    let mut rows = 0;
    for row in table.lines() {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, marker, answer, _] = cells[..] else { continue };
        if !answer.starts_with('`') || marker.starts_with("namespace label") {
            continue;
        }
        rows += 1;
        let quoted = marker.split('`').skip(1).step_by(2).map(|it| format!("'{}'", it.trim_matches('*')));
        assert!(quoted.into_iter().any(|it| expression.contains(&it)), "{marker}");
    }
    assert!(rows > 10, "{rows}");
}

// --- the examples ------------------------------------------------------------------------------------------

const WRITTEN: &str = "# What the policies make of its Pods (written by tests/deploy.rs):\n";

/// What a reader wants to know of a Pod that was admitted.
fn outcome(answer: &Value, vfuse: &str) -> String {
    let mut lines = String::new();
    let Some(pod) = answer.get("mutated_object") else {
        let _ = writeln!(lines, "#     {}", text(&answer["audit_annotations"]["decision"]));
        return lines;
    };
    for field in ["initContainers", "containers"] {
        let described: Vec<String> = list(&pod["spec"][field]).iter().map(|it| describe(it, vfuse)).collect();
        if !described.is_empty() {
            let _ = writeln!(lines, "#     {field}: {}", described.join(", "));
        }
    }
    for volume in list(&pod["spec"]["volumes"]) {
        let source = match (
            volume["hostPath"]["path"].as_str(),
            volume["persistentVolumeClaim"]["claimName"].as_str(),
        ) {
            (Some(path), _) => format!("hostPath {path}"),
            (_, Some(claim)) => format!("claim {claim}"),
            _ => continue,
        };
        let _ = writeln!(lines, "#     volume {}: {source}", text(&volume["name"]));
    }
    for warning in list(&answer["warnings"]) {
        let _ = writeln!(lines, "#     warning: {}", text(warning));
    }
    lines
}

fn describe(container: &Value, vfuse: &str) -> String {
    let mut traits = Vec::new();
    if container["restartPolicy"] == "Always" {
        traits.push("native sidecar");
    }
    match container["securityContext"]["privileged"].as_bool() {
        Some(true) => traits.push("privileged"),
        Some(false) => traits.push("unprivileged"),
        None => {}
    }
    if container["resources"]["limits"].get(vfuse).is_some() {
        traits.push(vfuse);
    }
    match traits.is_empty() {
        true => text(&container["name"]).to_string(),
        false => format!("{} ({})", text(&container["name"]), traits.join(", ")),
    }
}

#[test]
fn examples_become_what_their_comments_say() {
    let cluster = Cluster::of(documents());
    let compiled = Compiled::find();
    let mut stale = Vec::new();
    for path in examples() {
        let example = read(&path);
        // Policies with the same outcome share it.
        let mut outcomes: Vec<(Vec<String>, String)> = Vec::new();
        for (file, policy) in policies() {
            let settings = &policy["spec"]["settings"];
            let answer = create(&example, &cluster, settings);
            if let Some(compiled) = &compiled {
                compiled.same(&path, &file, settings, &answer);
            }
            if settings["mode"] == "verify" {
                continue;
            }
            let pod =
                answer.get("mutated_object").unwrap_or_else(|| panic!("{file} injects nothing: {answer}"));
            assert_eq!(violations(pod), [""; 0], "{file}");
            let vfuse = Settings::parse(settings).unwrap().vfuse_resource_name;
            let outcome = outcome(&answer, &vfuse);
            match outcomes.iter_mut().find(|(_, known)| *known == outcome) {
                Some((files, _)) => files.push(file),
                None => outcomes.push((vec![file], outcome)),
            }
        }
        let source = fs::read_to_string(&path).unwrap();
        let header: usize =
            source.split_inclusive('\n').take_while(|it| it.starts_with('#')).map(str::len).sum();
        let (header, manifest) = source.split_at(header);
        let own = header.split(WRITTEN).next().unwrap();
        let mut expected = format!("{own}{WRITTEN}");
        for (files, outcome) in outcomes {
            let _ = write!(expected, "#   {}\n{outcome}", files.join(", "));
        }
        stale.extend(expect(&path, &(expected + manifest)).err());
    }
    assert!(stale.is_empty(), "UPDATE_EXPECT=1 writes the comments anew\n{}", stale.join("\n"));
}

/// The compiled policy in `evaluate`.
struct Compiled {
    evaluate: PathBuf,
    policy: PathBuf,
    objects: PathBuf,
}

impl Compiled {
    /// `None` says why on standard error, where `scripts/test.sh` counts it.
    fn find() -> Option<Compiled> {
        let given = |variable: &str, default: &str| {
            root().join(std::env::var_os(variable).map_or_else(|| default.into(), PathBuf::from))
        };
        let evaluate = given("EVALUATE", "target/debug/evaluate");
        let policy = given("POLICY", "target/policy.wasm");
        if !evaluate.exists() || !policy.exists() {
            support::skip("target/debug/evaluate and target/policy.wasm are not built (make wasm tools)");
            return None;
        }
        let objects = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy-objects.json");
        fs::write(&objects, json!({"kind": "List", "items": documents()}).to_string()).unwrap();
        Some(Compiled { evaluate, policy, objects })
    }

    /// It takes the settings, and answers as the library does.
    fn same(&self, example: &Path, file: &str, settings: &Value, answer: &Value) {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy-settings.json");
        fs::write(&path, settings.to_string()).unwrap();
        let output = Command::new(&self.evaluate)
            .args(["--output", "pod", "--policy"])
            .arg(&self.policy)
            .arg("--pod")
            .arg(example)
            .arg("--objects")
            .arg(&self.objects)
            .arg("--settings")
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let accepted = answer["accepted"] == true;
        assert_eq!(output.status.code(), Some(if accepted { 0 } else { 1 }), "{file}: {said}");
        match answer.get("mutated_object") {
            Some(pod) => {
                let found: Value = serde_json::from_slice(&output.stdout).unwrap();
                assert_eq!(support::same(("the library", pod), ("the module", &found)), Ok(()), "{file}");
            }
            None => assert!(accepted || said.contains(text(&answer["message"])), "{file}: {said}"),
        }
    }
}

#[test]
fn the_twin_takes_what_the_policy_made_and_refuses_what_it_did_not_see() {
    let (policies, cluster) = (policies(), Cluster::of(documents()));
    let settings = |file: &str| &policies[file]["spec"]["settings"];
    for path in examples() {
        let example = read(&path);
        let injected = create(&example, &cluster, settings("eci.yaml"))["mutated_object"].clone();
        let twin = |pod: &Value| create(pod, &cluster, settings("verify.yaml"));
        assert_eq!(twin(&injected)["accepted"], true, "{}", path.display());
        assert_eq!(twin(&example)["accepted"], false, "{}", path.display());
    }
}

// --- Pod security ------------------------------------------------------------------------------------------

/// What the three policies of `pod-security.yaml` say of a Pod: ports of Kubewarden's hostpaths-psp,
/// pod-privileged and capabilities-psp, of which only the settings used here.
fn refusals(pod: &Value) -> Vec<String> {
    let policies = of_kind("ClusterAdmissionPolicy");
    let settings = |module: &str| {
        let policy = policies.iter().find(|it| text(&it["spec"]["module"]).contains(&format!("/{module}:")));
        policy.unwrap_or_else(|| panic!("no {module}"))["spec"]["settings"].clone()
    };
    let (hostpaths, privileged) = (settings("hostpaths-psp"), settings("pod-privileged"));
    let capabilities = settings("capabilities-psp");
    let mut refusals = Vec::new();
    for field in ["initContainers", "containers"] {
        let skip = field == "initContainers" && privileged["skip_init_containers"] == true;
        for container in list(&pod["spec"][field]) {
            let security = &container["securityContext"];
            if security["privileged"] == true && !skip {
                refusals.push(format!("{} is privileged", container["name"]));
            }
            for capability in list(&security["capabilities"]["add"]) {
                if !list(&capabilities["allowed_capabilities"]).contains(capability) {
                    refusals.push(format!("{} adds {capability}", container["name"]));
                }
            }
            for mount in list(&container["volumeMounts"]) {
                let volume =
                    list(&pod["spec"]["volumes"]).iter().find(|it| it["name"] == mount["name"]).unwrap();
                let Some(path) = volume["hostPath"]["path"].as_str() else { continue };
                let read_only = mount["readOnly"] == true;
                let prefix = |entry: &Value| {
                    let prefix = text(&entry["pathPrefix"]).trim_end_matches('/').to_string();
                    format!("{path}/").starts_with(&format!("{prefix}/")).then_some(prefix.len())
                };
                let entries = list(&hostpaths["allowedHostPaths"]).iter();
                let most_specific =
                    entries.filter(|entry| prefix(entry).is_some()).max_by_key(|entry| prefix(entry));
                if most_specific.is_none_or(|entry| (entry["readOnly"] == true) != read_only) {
                    refusals.push(format!("{} mounts {path}", container["name"]));
                }
            }
        }
    }
    refusals
}

#[test]
fn pod_security_admits_unprivileged_sidecars_and_nothing_beside_them() {
    let (policies, cluster) = (policies(), Cluster::of(documents()));
    for path in examples() {
        for (file, policy) in &policies {
            let answer = create(&read(&path), &cluster, &policy["spec"]["settings"]);
            let Some(pod) = answer.get("mutated_object") else { continue };
            let refusals = refusals(pod);
            let privileged = file == "kubernetes.yaml";
            assert_eq!(!refusals.is_empty(), privileged, "{file}, {}: {refusals:?}", path.display());
        }
    }
    for path in ["/", "/etc", "/runtime-mnt-2"] {
        let pod = json!({"spec": {
            "containers": [{"name": "app", "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}]}],
            "volumes": [{"name": "v", "hostPath": {"path": path}}],
        }});
        assert_eq!(refusals(&pod).len(), 1, "{path}");
    }
}
