//! The manifests of `deploy/` work: they have the fields of their kinds, agree with the policy's metadata and with each
//! other, never keep a Pod with a Dataset from the policy, and make of the examples what these say in their comments.
//!
//! `UPDATE_EXPECT=1 cargo test --test deploy` writes those comments anew. The examples go through the policy's library
//! and, where they are built (`make wasm tools`), through `kubectl fluid-sidecar` and the compiled policy; `TOOL` and `POLICY`
//! name others than those in `target/`.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fluid_sidecar_layout::Named as _;
use fluid_sidecar_policy::cluster::Kind;
use fluid_sidecar_policy::settings::Settings;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use support::admission::{Request, Rule};
use support::expect::expect;
use support::manifests;
use support::validation::violations;
use support::{Cluster, cases, cluster_of, create, given, metadata, name, read, root};
use tool::{input, yaml};

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
        // Not every case has a namespace to read; and who asks Fluid for its configuration is told that there is none.
        let unread = reasons.starts_with("unresolved: Namespace") || reasons.starts_with("ignored: ");
        if unread || reasons.starts_with("exempt: ") || case == "placement-node-name-of-an-ordinary-node" {
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
    assert!(marked > 10 && by_namespace > 0 && ordinary > 3, "{marked}, {by_namespace}, {ordinary}");
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
        // Of names of nodes it has one expression.
        let names = marker.starts_with("node name") && expression.contains("'^(virtual-kubelet(-.*)?|");
        assert!(names || quoted.into_iter().any(|it| expression.contains(&it)), "{marker}");
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

/// The compiled policy in `kubectl fluid-sidecar`.
struct Compiled {
    tool: PathBuf,
    policy: PathBuf,
    objects: PathBuf,
}

impl Compiled {
    /// `None` says why on standard error, where `scripts/test.sh` counts it.
    fn find() -> Option<Compiled> {
        let given = |variable: &str, default: &str| {
            root().join(std::env::var_os(variable).map_or_else(|| default.into(), PathBuf::from))
        };
        let tool = given("TOOL", "target/debug/kubectl-fluid_sidecar");
        let policy = given("POLICY", "target/policy.wasm");
        if !tool.exists() || !policy.exists() {
            support::skip(
                "target/debug/kubectl-fluid_sidecar and target/policy.wasm are not built (make wasm tools)",
            );
            return None;
        }
        let objects = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy-objects.json");
        fs::write(&objects, json!({"kind": "List", "items": documents()}).to_string()).unwrap();
        Some(Compiled { tool, policy, objects })
    }

    /// It takes the settings, and answers as the library does.
    fn same(&self, example: &Path, file: &str, settings: &Value, answer: &Value) {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy-settings.json");
        fs::write(&path, settings.to_string()).unwrap();
        let output = Command::new(&self.tool)
            .arg("explain")
            .arg(example)
            .args(["--output", "pod", "--policy"])
            .arg(&self.policy)
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

/// The namespace whose Pods the rules of `pod-security.yaml` are asked about here.
const NAMESPACE: &str = "training";

/// The rules, with variables of the administrator's replaced.
fn rules(replaced: &[(&str, Value)]) -> Vec<Rule> {
    let mut policies = of_kind("ValidatingAdmissionPolicy");
    for (name, value) in replaced {
        let variables = policies.iter_mut().filter_map(|it| it["spec"]["variables"].as_array_mut()).flatten();
        let variable = variables.into_iter().find(|it| it["name"] == *name);
        // JSON is CEL, too.
        variable.unwrap_or_else(|| panic!("no variable {name}"))["expression"] = value.to_string().into();
    }
    policies.iter().map(Rule::new).collect()
}

fn refusals(rules: &[Rule], request: &Request<'_>) -> Vec<String> {
    rules.iter().flat_map(|rule| rule.refusals(request)).collect()
}

fn creation<'a>(namespace: &'a str, pod: &'a Value) -> Request<'a> {
    Request { operation: "CREATE", resource: "pods", namespace, object: pod, old: &Value::Null }
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"].into_iter().flat_map(|field| list(&pod["spec"][field]))
}

/// Those whom the administrator would have to trust so that this Pod is taken: what its privileged sidecars run, where
/// they mount what, and the Datasets of others that it refers to.
fn trust(pod: &Value, namespace: &str) -> [(&'static str, Value); 5] {
    let (mut trusted, mut mounts, mut paths) = (json!({}), vec![json!("/runtime-mnt")], vec![]);
    let mut references = vec![json!("none/none")];
    let joined = |container: &Value| [list(&container["command"]), list(&container["args"])].concat();
    for sidecar in containers(pod).filter(|it| it["securityContext"]["privileged"] == true) {
        let mut commands = vec![json!(joined(sidecar))];
        commands.extend(sidecar.pointer("/livenessProbe/exec/command").cloned());
        trusted[text(&sidecar["image"])] = commands.into();
        mounts.extend(list(&sidecar["volumeMounts"]).iter().map(|mount| mount["mountPath"].clone()));
    }
    for path in list(&pod["spec"]["volumes"]).iter().filter_map(|it| it["hostPath"]["path"].as_str()) {
        match path.split('/').collect::<Vec<_>>()[..] {
            ["", "runtime-mnt", _, owner, dataset, ..] if owner != namespace => {
                references.push(format!("{owner}/{dataset}").into());
            }
            ["", "runtime-mnt", ..] => {}
            _ => paths.push(json!(path)),
        }
    }
    [
        ("trusted", trusted),
        ("sidecarMounts", mounts.into()),
        ("sidecarPaths", paths.into()),
        ("references", references.into()),
        ("takesVariables", true.into()),
    ]
}

/// The image of `fluid.yaml`.
fn shipped_image() -> String {
    let fuse = &only("ThinRuntimeProfile")["spec"]["fuse"];
    format!("{}:{}", text(&fuse["image"]), text(&fuse["imageTag"]))
}

/// What the policy makes of a Pod passes, wherever it goes, once its sidecar's image is trusted. And an image is needed
/// for that: without, no Pod with a privileged sidecar passes.
#[test]
fn pod_security_takes_what_the_policy_makes() {
    let shipped = rules(&[]);
    let mut taken = BTreeMap::new();
    for case in cases("tests/cases") {
        let answer = given(&case, "expected.yaml");
        let pod = &answer["pod"];
        let annotation = &pod["metadata"]["annotations"]["fluid-sidecar-policy/injected"];
        if pod["kind"] != "Pod" || annotation.is_null() || answer["decision"] != "injected" {
            continue;
        }
        let request = input::request(given(&case, "pod.yaml"), None, "CREATE").unwrap();
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or("default");
        let status: Value = serde_json::from_str(text(annotation)).unwrap();
        let of = name(&case);
        // What its owner wrote into it beside is not the policy's.
        let theirs: Vec<_> = refusals(&shipped, &creation(namespace, request.object()));
        let refusals = refusals(&rules(&trust(pod, namespace)), &creation(namespace, pod));
        let added: Vec<_> = refusals.iter().filter(|it| !theirs.contains(it)).collect();
        assert!(added.is_empty(), "{of}: {added:?}");
        *taken.entry(text(&status["destination"]).to_string()).or_insert(0) += 1;
        let strange =
            |it: &Value| it["securityContext"]["privileged"] == true && it["image"] != shipped_image();
        if containers(pod).any(strange) {
            let refusals = self::refusals(&shipped, &creation(namespace, pod));
            assert!(refusals.iter().any(|it| it.contains("does not trust")), "{of}: {refusals:?}");
        }
    }
    assert!(taken.len() == 3 && taken.values().all(|it| *it > 0) && taken["kubernetes"] > 10, "{taken:?}");
}

/// The examples, as every manifest here has them injected, need no change of `pod-security.yaml`.
#[test]
fn pod_security_takes_the_examples_as_shipped() {
    let (policies, cluster, rules) = (policies(), Cluster::of(documents()), rules(&[]));
    let mut taken = 0;
    for path in examples() {
        for (file, policy) in &policies {
            let answer = create(&read(&path), &cluster, &policy["spec"]["settings"]);
            let Some(pod) = answer.get("mutated_object") else { continue };
            let refusals = refusals(&rules, &creation(NAMESPACE, pod));
            assert!(refusals.is_empty(), "{file}, {}: {refusals:?}", path.display());
            taken += 1;
        }
    }
    assert!(taken > 10, "{taken}");
}

#[test]
fn pod_security_is_bound_to_its_namespaces() {
    let namespace = json!({"kubernetes.io/metadata.name": only("Namespace")["metadata"]["name"]});
    let bindings = of_kind("ValidatingAdmissionPolicyBinding");
    for policy in of_kind("ValidatingAdmissionPolicy") {
        assert_eq!(policy["spec"]["failurePolicy"], "Fail");
        let name = &policy["metadata"]["name"];
        let binding = bindings.iter().find(|it| it["spec"]["policyName"] == *name);
        let binding = &binding.unwrap_or_else(|| panic!("{name} is not bound"))["spec"];
        assert_eq!(binding["validationActions"], json!(["Deny"]));
        assert!(selects(&binding["matchResources"]["namespaceSelector"], &namespace));
    }
}

/// Nobody is told to look away from init containers: native sidecars are such, and so is everything else that somebody
/// writes there.
#[test]
fn nothing_here_skips_init_containers() {
    for entry in fs::read_dir(root().join("deploy")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let said = fs::read_to_string(&path).unwrap();
            assert!(!said.contains("skip_init_containers"), "{}", path.display());
        }
    }
}

/// An example as `kubernetes.yaml` has it injected: with a privileged native sidecar.
fn injected() -> Value {
    let example = root().join("deploy/examples/job.yaml");
    let mut settings = policies()["kubernetes.yaml"]["spec"]["settings"].clone();
    settings["destinations"]["kubernetes"]["holder"] = false.into();
    let pod = create(&read(&example), &Cluster::of(documents()), &settings)["mutated_object"].clone();
    assert_eq!(pod["spec"]["initContainers"][0]["securityContext"]["privileged"], true, "{pod:#}");
    pod
}

/// A change that makes of an injected Pod a hostile one: JSON pointer (`/-` appends) and value. What it needs beside
/// comes before.
type Change = (&'static str, Value);

fn changed(pod: &Value, changes: &[Change]) -> Value {
    let mut pod = pod.clone();
    for (pointer, value) in changes {
        // Parents that are missing are made.
        let mut at = &mut pod;
        let steps: Vec<&str> = pointer.split('/').skip(1).collect();
        for (depth, step) in steps.iter().enumerate() {
            let step = step.replace("~1", "/");
            at = match (*at).is_array() || step == "-" {
                true => {
                    if at.is_null() {
                        *at = json!([]);
                    }
                    let list = at.as_array_mut().unwrap();
                    let index = if step == "-" { list.len() } else { step.parse().unwrap() };
                    if index == list.len() {
                        list.push(Value::Null);
                    }
                    &mut list[index]
                }
                false => &mut at[&step],
            };
            if depth + 1 == steps.len() {
                *at = value.clone();
            }
        }
    }
    pod
}

const ANNOTATION: &str = "/metadata/annotations/fluid-sidecar-policy~1injected";

#[test]
fn pod_security_keeps_others_out_of_a_pair() {
    let pod = &given(&root().join("tests/cases/acs-holder"), "expected.yaml")["pod"];
    let pod = changed(pod, &[("/spec/containers/0/image", shipped_image().into())]);
    let pod = changed(&pod, &[("/spec/containers/1/image", shipped_image().into())]);
    let rules = rules(&[]);
    let refusals = |changes: &[Change]| refusals(&rules, &creation("default", &changed(&pod, changes)));
    assert_eq!(refusals(&[]), [""; 0]);
    let mount = |name: &str, extra: Value| {
        let mut mount = json!({"name": name, "mountPath": "/mine"});
        mount.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        ("/spec/containers/2/volumeMounts/-", mount)
    };
    let read_only = || json!({"readOnly": true});
    let cases: Vec<(&str, Vec<Change>, &str)> = vec![
        (
            "the socket in the application",
            vec![mount("fluid-fuse-holder", json!({}))],
            "a volume of a sidecar",
        ),
        (
            "the directory of the mount in the application",
            vec![mount("fluid-fuse", read_only())],
            "a hostPath of sidecars",
        ),
        (
            "a worker that may write to the directory of the mount",
            vec![("/spec/containers/1/volumeMounts/0/readOnly", json!(false))],
            "a hostPath of sidecars",
        ),
        (
            "a worker that sees the directories of all Pods",
            vec![(
                "/spec/containers/1/volumeMounts/-",
                json!({"name": "fluid-fuse-places", "mountPath": "/mine", "readOnly": true}),
            )],
            "a hostPath of sidecars",
        ),
        (
            "a worker that is privileged",
            vec![("/spec/containers/1/securityContext/privileged", json!(true))],
            "a volume of a sidecar",
        ),
        (
            "a holder with another command",
            vec![("/spec/containers/0/command", json!(["fluid-fuse", "mount"]))],
            "a hook or a probe",
        ),
        (
            "a holder with arguments",
            vec![("/spec/containers/0/args", json!(["--socket", "/x"]))],
            "does not trust",
        ),
        ("another image of the holder", vec![("/spec/containers/0/image", json!("evil"))], "does not trust"),
    ];
    for (attack, changes, reason) in cases {
        let refused = refusals(&changes);
        assert!(refused.iter().any(|it| it.contains(reason)), "{attack}: {refused:?}");
    }
}

#[test]
fn pod_security_refuses_hostile_pods() {
    let (rules, good) = (rules(&[]), injected());
    assert_eq!(refusals(&rules, &creation(NAMESPACE, &good)), [""; 0]);
    let sidecar = good["spec"]["initContainers"][0].clone();
    let with = |changes: &[Change]| changed(&sidecar, changes);
    let named = |names: &[&str]| {
        let sidecars: Vec<_> = names.iter().map(|name| json!({"container": name, "volumes": []})).collect();
        json!(json!({"destination": "kubernetes", "sidecars": sidecars, "claims": []}).to_string())
    };
    let others = "/runtime-mnt/thin/training/imagenet/11111111-1111-1111-1111-111111111111/thin-fuse";
    let volume = |path: &str| json!({"name": "mine", "hostPath": {"path": path}});
    let of_sidecar = text(&sidecar["volumeMounts"][0]["name"]).to_string();
    let mount = |name: &str| json!({"name": name, "mountPath": "/mine"});
    let nobody = json!({"name": "fluid-fuse", "image": "evil", "command": ["sh"], "securityContext": {"privileged": true}});
    let attacks: Vec<(&str, Vec<Change>, &str)> = vec![
        (
            "a privileged init container of one's own",
            vec![(
                "/spec/initContainers/-",
                json!({"name": "setup", "image": "evil", "securityContext": {"privileged": true}}),
            )],
            "may be privileged",
        ),
        ("one that is named so", vec![("/spec/initContainers/0", nobody.clone())], "does not trust"),
        (
            "one that is named so, without the annotation",
            vec![(ANNOTATION, json!("{}")), ("/spec/initContainers/0", nobody.clone())],
            "may be privileged",
        ),
        (
            "a second one that the annotation names",
            vec![
                (ANNOTATION, named(&["fluid-fuse", "fluid-fuse-1"])),
                (
                    "/spec/initContainers/-",
                    with(&[("/name", json!("fluid-fuse-1")), ("/image", json!("evil"))]),
                ),
            ],
            "does not trust",
        ),
        (
            "a name that is none of a sidecar's",
            vec![
                (ANNOTATION, named(&["fluid-fuse", "fluid-fuse-x"])),
                ("/spec/initContainers/-", with(&[("/name", json!("fluid-fuse-x"))])),
            ],
            "may be privileged",
        ),
        ("another image", vec![("/spec/initContainers/0/image", json!("evil"))], "does not trust"),
        (
            "another command",
            vec![("/spec/initContainers/0/command", json!(["fluid-fuse", "mount", "--source", "file:///"]))],
            "does not trust",
        ),
        (
            "arguments",
            vec![("/spec/initContainers/0/args", json!(["--source", "file:///"]))],
            "does not trust",
        ),
        (
            "another postStart hook",
            vec![("/spec/initContainers/0/lifecycle/postStart/exec/command", json!(["sh", "-c", "evil"]))],
            "a hook or a probe",
        ),
        ("no hook", vec![("/spec/initContainers/0/lifecycle", Value::Null)], "a hook or a probe"),
        (
            "another script in the hook",
            vec![(
                "/spec/initContainers/0/lifecycle/postStart/exec/command",
                json!(["sh", "-c", "evil", "gate", "/a", "1"]),
            )],
            "a hook or a probe",
        ),
        (
            "another preStop hook",
            vec![("/spec/initContainers/0/lifecycle/preStop/exec/command", json!(["sh", "-c", "evil"]))],
            "a hook or a probe",
        ),
        (
            "a probe that is a command",
            vec![("/spec/initContainers/0/startupProbe", json!({"exec": {"command": ["sh", "-c", "evil"]}}))],
            "a hook or a probe",
        ),
        (
            "a library for its program",
            vec![(
                "/spec/initContainers/0/env/-",
                json!({"name": "LD_PRELOAD", "value": "/etc/fluid/evil.so"}),
            )],
            "variables that decide",
        ),
        (
            "variables of a ConfigMap",
            vec![("/spec/initContainers/0/envFrom", json!([{"configMapRef": {"name": "evil"}}]))],
            "variables that decide",
        ),
        (
            "a ConfigMap over its program",
            vec![
                (
                    "/spec/volumes/-",
                    json!({"name": "mine", "configMap": {"name": "evil", "defaultMode": 493}}),
                ),
                ("/spec/initContainers/0/volumeMounts/-", json!({"name": "mine", "mountPath": "/usr/bin"})),
            ],
            "mounts a volume where",
        ),
        (
            "a ConfigMap over its program, around a corner",
            vec![
                (
                    "/spec/volumes/-",
                    json!({"name": "mine", "configMap": {"name": "evil", "defaultMode": 493}}),
                ),
                (
                    "/spec/initContainers/0/volumeMounts/-",
                    json!({"name": "mine", "mountPath": "/etc/fluid/../../usr/bin"}),
                ),
            ],
            "mounts a volume where",
        ),
        (
            "sidecars alone",
            vec![("/spec/containers", json!([with(&[("/name", json!("fluid-fuse"))])]))],
            "serves nobody",
        ),
        ("the node", vec![("/spec/volumes/-", volume("/"))], "is none of a Dataset"),
        ("the mount root", vec![("/spec/volumes/-", volume("/runtime-mnt"))], "is none of a Dataset"),
        (
            "a path around a corner",
            vec![("/spec/volumes/-", volume("/runtime-mnt/../etc"))],
            "is none of a Dataset",
        ),
        (
            "a path around a corner, deep enough",
            vec![("/spec/volumes/-", volume("/runtime-mnt/thin/training/imagenet/../../../../etc/x-fuse"))],
            "is none of a Dataset",
        ),
        (
            "below a mount, where its content decides",
            vec![("/spec/volumes/-", volume("/runtime-mnt/thin/training/imagenet/thin-fuse/link"))],
            "is none of a Dataset",
        ),
        (
            "a root with a similar name",
            vec![("/spec/volumes/-", volume("/runtime-mnt-2/thin/training/imagenet/thin-fuse"))],
            "is none of a Dataset",
        ),
        (
            "a Dataset of another namespace",
            vec![("/spec/volumes/-", volume("/runtime-mnt/thin/victim/imagenet/thin-fuse"))],
            "of another namespace",
        ),
        (
            "the directory above all Pods of a Dataset",
            vec![
                ("/spec/volumes/-", volume("/runtime-mnt/thin/training/imagenet")),
                ("/spec/containers/0/volumeMounts/-", mount("mine")),
            ],
            "mounts a hostPath of sidecars",
        ),
        (
            "another Pod's directory",
            vec![("/spec/volumes/-", volume(others))],
            "no sidecar of this Pod mounts there",
        ),
        (
            "a device",
            vec![
                ("/spec/volumes/-", volume("/dev/fuse")),
                ("/spec/containers/0/volumeMounts/-", mount("mine")),
            ],
            "mounts a hostPath of sidecars",
        ),
        (
            "a file that kubelet makes",
            vec![(
                "/spec/volumes/-",
                json!({"name": "mine", "hostPath": {"type": "FileOrCreate", "path": "/runtime-mnt/thin/training/imagenet/thin-fuse"}}),
            )],
            "has a type",
        ),
        (
            "a sidecar's hostPath",
            vec![("/spec/containers/0/volumeMounts/-", mount(&of_sidecar))],
            "mounts a volume of a sidecar",
        ),
        (
            "a sidecar's cache",
            vec![
                ("/spec/volumes/-", json!({"name": "mine", "emptyDir": {}})),
                (
                    "/spec/initContainers/0/volumeMounts/-",
                    json!({"name": "mine", "mountPath": "/etc/fluid/cache"}),
                ),
                ("/spec/containers/0/volumeMounts/-", mount("mine")),
            ],
            "mounts a volume of a sidecar",
        ),
        (
            "a sidecar's cache, in an unprivileged container that the annotation calls a sidecar",
            vec![
                (ANNOTATION, named(&["fluid-fuse", "fluid-fuse-1"])),
                ("/spec/volumes/-", json!({"name": "mine", "emptyDir": {}})),
                (
                    "/spec/initContainers/0/volumeMounts/-",
                    json!({"name": "mine", "mountPath": "/etc/fluid/cache"}),
                ),
                (
                    "/spec/containers/-",
                    json!({"name": "fluid-fuse-1", "image": "evil", "volumeMounts": [mount("mine")]}),
                ),
            ],
            "mounts a volume of a sidecar",
        ),
        (
            "Bidirectional in the application",
            vec![("/spec/containers/0/volumeMounts/0/mountPropagation", json!("Bidirectional"))],
            "Bidirectional",
        ),
        ("the node's processes", vec![("/spec/hostPID", json!(true))], "hostPID"),
        ("the node's IPC", vec![("/spec/hostIPC", json!(true))], "hostPID"),
        ("the node's network", vec![("/spec/hostNetwork", json!(true))], "hostPID"),
        (
            "a port of the node",
            vec![("/spec/containers/0/ports", json!([{"containerPort": 1, "hostPort": 22}]))],
            "host ports",
        ),
        (
            "a capability",
            vec![("/spec/containers/0/securityContext/capabilities/add", json!(["SYS_ADMIN"]))],
            "capability",
        ),
        (
            "a capability in lower case",
            vec![("/spec/containers/0/securityContext/capabilities/add", json!(["cap_sys_admin"]))],
            "capability",
        ),
        ("procMount", vec![("/spec/containers/0/securityContext/procMount", json!("Unmasked"))], "procMount"),
        (
            "no seccomp",
            vec![("/spec/containers/0/securityContext/seccompProfile/type", json!("Unconfined"))],
            "seccomp",
        ),
        (
            "no seccomp in the Pod",
            vec![("/spec/securityContext/seccompProfile/type", json!("Unconfined"))],
            "seccomp",
        ),
        (
            "no AppArmor",
            vec![("/spec/securityContext/appArmorProfile/type", json!("Unconfined"))],
            "AppArmor",
        ),
        (
            "no AppArmor, the older way",
            vec![(
                "/metadata/annotations/container.apparmor.security.beta.kubernetes.io~1app",
                json!("unconfined"),
            )],
            "AppArmor",
        ),
        (
            "an SELinux type",
            vec![("/spec/containers/0/securityContext/seLinuxOptions/type", json!("spc_t"))],
            "SELinux",
        ),
        (
            "a sysctl",
            vec![(
                "/spec/securityContext/sysctls",
                json!([{"name": "kernel.core_pattern", "value": "|/evil"}]),
            )],
            "sysctl",
        ),
        (
            "a host process",
            vec![("/spec/securityContext/windowsOptions/hostProcess", json!(true))],
            "hostProcess",
        ),
    ];
    for (attack, changes, message) in attacks {
        let pod = changed(&good, &changes);
        let refusals = refusals(&rules, &creation(NAMESPACE, &pod));
        assert!(refusals.iter().any(|it| it.contains(message)), "{attack}: {refusals:?}");
        // For its own reason, not because an expression fails.
        assert!(refusals.iter().all(|it| !it.contains("Err(")), "{attack}: {refusals:?}");
    }
    // An injected Pod of another namespace is one of another namespace's Dataset.
    assert_eq!(
        refusals(&rules, &creation("victim", &good)),
        ["A hostPath is of a Dataset of another namespace."]
    );
}

#[test]
fn pod_security_holds_after_admission() {
    let (rules, good) = (rules(&[]), injected());
    let update = |resource: &str, old: &Value, changes: &[Change]| {
        let pod = changed(old, changes);
        refusals(&rules, &Request { operation: "UPDATE", resource, namespace: NAMESPACE, object: &pod, old })
    };
    let refused = |message: &str, refusals: Vec<String>| {
        assert!(refusals.iter().any(|it| it.contains(message)), "{message}: {refusals:?}");
    };
    let evil = ("/spec/initContainers/0/image", json!("evil"));
    let message = "The image of a sidecar can only be changed";
    refused(message, update("pods", &good, std::slice::from_ref(&evil)));
    // Nor to another one that is trusted, nor by making it no sidecar first.
    let other = "registry.example/other";
    let trusting = self::rules(&[(
        "trusted",
        json!({other: [["fluid-fuse", "mount"]], "ghcr.io/fluid-sidecar-policy/fluid-fuse:v0.1.0": [["fluid-fuse", "mount"]]}),
    )]);
    let moved = changed(&good, &[("/spec/initContainers/0/image", json!(other))]);
    assert_eq!(refusals(&trusting, &creation(NAMESPACE, &moved)), [""; 0]);
    let request =
        Request { operation: "UPDATE", resource: "pods", namespace: NAMESPACE, object: &moved, old: &good };
    let refused_now = refusals(&trusting, &request);
    assert!(refused_now.len() == 1 && refused_now[0].starts_with(message), "{refused_now:?}");
    let forgotten = changed(&good, &[(ANNOTATION, json!(""))]);
    refused(message, update("pods", &forgotten, &[evil]));
    // What holds no privilege may be replaced by another version, and the application does not notice.
    let pair = given(&root().join("tests/cases/acs-holder"), "expected.yaml")["pod"].clone();
    let (holder, server) = ("/spec/containers/0/image", "/spec/containers/1/image");
    let replaced = |path: &'static str, image: &str| {
        let pod = changed(&pair, &[(path, json!(image))]);
        let request =
            Request { operation: "UPDATE", resource: "pods", namespace: "default", object: &pod, old: &pair };
        refusals(&rules, &request).iter().any(|it| it.starts_with(message))
    };
    assert!(
        !replaced(server, &shipped_image()) && replaced(server, "evil") && replaced(holder, &shipped_image())
    );

    let debugger = |fields: Value| {
        let mut container = json!({"name": "debugger", "image": "busybox"});
        container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        update("pods/ephemeralcontainers", &good, &[("/spec/ephemeralContainers/-", container)])
    };
    assert_eq!(debugger(json!({"targetContainerName": "train"})), [""; 0]);
    refused("join a sidecar", debugger(json!({"targetContainerName": "fluid-fuse"})));
    refused("may be privileged", debugger(json!({"securityContext": {"privileged": true}})));
    refused("capability", debugger(json!({"securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}})));
    let of_sidecar = &good["spec"]["initContainers"][0]["volumeMounts"][0]["name"];
    refused(
        "volume of a sidecar",
        debugger(json!({"volumeMounts": [{"name": of_sidecar, "mountPath": "/mine"}]})),
    );
    let named = json!({"name": "fluid-fuse", "securityContext": {"privileged": true}});
    refused("may be privileged", debugger(named));

    // The application is its owner's, and a Pod that was there before the rule can end.
    assert_eq!(update("pods", &good, &[("/spec/containers/0/image", json!("newer"))]), [""; 0]);
    let older = changed(&good, &[("/spec/hostPID", json!(true))]);
    assert_eq!(update("pods", &older, &[("/metadata/finalizers", json!([]))]), [""; 0]);
}

#[test]
fn pod_security_lets_nobody_into_a_sidecar() {
    let rules = rules(&[]);
    for (allowed, container) in [
        (false, Some("fluid-fuse")),
        (false, Some("fluid-fuse-1")),
        (true, Some("train")),
        (true, Some("fluid-fuse-viewer")),
        (true, None),
    ] {
        let mut options =
            json!({"kind": "PodExecOptions", "apiVersion": "v1", "stdin": true, "command": ["sh"]});
        if let Some(container) = container {
            options["container"] = container.into();
        }
        for resource in ["pods/exec", "pods/attach"] {
            let request = Request {
                operation: "CONNECT",
                resource,
                namespace: NAMESPACE,
                object: &options,
                old: &Value::Null,
            };
            assert_eq!(refusals(&rules, &request).is_empty(), allowed, "{resource} {container:?}");
        }
    }
}
