//! Fluid's own answers beside ours: `tests/fluid/<name>/` holds one Pod that both were asked about.
//!
//! - `case.yaml`: what it shows, the cluster, the namespace of the request, the Pod;
//! - `expected.yaml`: our answer, as in `tests/cases` (`UPDATE_EXPECT=1 cargo test --test fluid` writes it);
//! - `fluid-v1.0.3.yaml`: what the webhook of Fluid v1.0.3 (the last with the vfuse resource, unprivileged)
//!   answered to the Pod with the labels of that mode added. Cases without it are of Pods with labels of their
//!   own, about which later versions of Fluid were asked.
//!
//! We agree with Fluid, or we differ on purpose. Each purpose is a rule: a function that rewrites what Fluid made
//! into what we make, and does one thing. Fluid's Pod, rewritten by the rules of its case, must be our Pod in
//! every field, and without any one of them it must not. So a difference that nobody decided fails, and so does
//! a rule that is no longer true. `docs/differences-from-fluid.md` explains every rule; it lists no other.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use Case::{Differs, Injected, Ours, Refused, Untouched};
use Decision as D;
use serde_json::{Value, json};
use support::{Cluster, cases, compare, create_in, has_only, is_settled, name, read, same};

const FILES: [&str; 3] = ["case.yaml", "expected.yaml", "fluid-v1.0.3.yaml"];

/// Fluid's labels for a sidecar without privileges, which the Pods of `fluid-v1.0.3.yaml` had.
const LABELS: [&str; 2] = ["serverless.fluid.io/inject", "unprivileged.sidecar.fluid.io/inject"];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Decision {
    Injected,
    /// Volumes are replaced, but there is no sidecar that mounts anything.
    VolumesOnly,
    Untouched,
    Refused,
}

/// How the two answers to a case compare.
enum Case {
    /// Both inject. Fluid's Pod is ours by the rules of [`BASE`] and of these lists; `-rule` takes one out again.
    Injected(&'static [&'static [&'static str]]),
    /// Neither injects. Fluid's Pod is the one that came by these rules.
    Untouched(&'static [&'static str]),
    /// Both refuse the Pod.
    Refused,
    /// Fluid's decision, ours, and the rule that is the reason.
    Differs(Decision, Decision, &'static str),
    /// Ours alone.
    Ours,
}

/// Every Pod that both inject needs all of these, or says which it does not.
const BASE: &[&str] = &[
    "zero_values_of_go",
    "no_check_scripts_of_config_maps",
    "post_start_is_a_constant",
    "no_pre_stop",
    "reason_of_the_end",
    "default_container",
    "no_service_account_token",
    "eci_sidecar_env",
    "readiness_is_the_mount",
    "pinned_user",
    "no_labels_of_fluid",
    "injected_annotation",
    "sidecar_names",
];

/// What the DaemonSet of a JindoRuntime needs on top.
const JINDO: &[&str] = &["grace_period_of_the_daemonset", "metrics_ports_kept", "volume_names_without_index"];

/// Of the other Runtimes' those that mount something else than directories of the node.
const CONFIGURED: &[&str] = &["volume_names_without_index"];

const CASES: &[(&str, Case)] = &[
    ("already-injected", Differs(D::Untouched, D::Injected, "done_label_is_not_trusted")),
    ("app-post-start", Injected(&[JINDO, &["app_post_start_untouched"]])),
    ("app-post-start-thin", Injected(&[CONFIGURED, &["app_post_start_untouched"]])),
    ("cachedir-enabled", Injected(&[JINDO, &["host_paths_dropped_by_kind"]])),
    ("claim-not-mounted", Differs(D::VolumesOnly, D::Injected, "sidecar_for_every_dataset")),
    ("daemonset-without-fuse-mount", Refused),
    ("dataset-failed-phase", Injected(&[JINDO])),
    ("dataset-not-bound", Refused),
    ("dataset-not-bound-skip-precheck", Refused),
    ("dataset-not-bound-with-condition", Refused),
    ("deprecated-fuse-sidecar-label", Ours),
    ("dry-run", Injected(&[JINDO])),
    ("existing-fluid-fuse-container", Injected(&[JINDO, &["-sidecar_names"]])),
    ("file-prefetcher", Injected(&[JINDO])),
    ("fstype-empty", Injected(&[CONFIGURED])),
    ("injection-disabled-env", Differs(D::Untouched, D::Injected, "no_switch_in_the_environment")),
    ("injection-disabled-label", Untouched(&[])),
    ("job-pod", Injected(&[JINDO])),
    ("job-pod-native-sidecar", Injected(&[JINDO])),
    ("label-value-not-true", Ours),
    ("metrics-all", Injected(&[JINDO, &["-metrics_ports_kept", "no_scrape_annotation"]])),
    ("metrics-mountpod", Injected(&[JINDO])),
    ("missing-daemonset", Refused),
    ("missing-dataset", Refused),
    ("missing-pv", Refused),
    ("missing-pvc", Refused),
    ("mount-propagation-set-by-user", Injected(&[JINDO, &["bidirectional_mounts_kept"]])),
    ("native-sidecar", Injected(&[JINDO])),
    ("native-sidecar-init", Differs(D::Injected, D::Refused, "init_containers_are_refused")),
    ("native-sidecar-two-datasets", Injected(&[JINDO, &["order_of_volumes"]])),
    ("newer-fields-no-dataset", Untouched(&["unknown_fields_survive", "zero_values_of_go"])),
    ("no-volumes", Untouched(&["zero_values_of_go"])),
    ("ordinary-claim", Untouched(&["zero_values_of_go"])),
    ("platform-annotation-and-unprivileged-label", Ours),
    ("platform-annotation-unprivileged", Ours),
    (
        "pod-host-network",
        Injected(&[JINDO, &["-metrics_ports_kept", "no_ports_on_the_host_network", "no_scrape_annotation"]]),
    ),
    ("pod-run-as-user", Injected(&[JINDO])),
    ("random-suffix", Injected(&[JINDO])),
    ("read-only-mount", Injected(&[JINDO])),
    ("reference-dataset", Injected(&[JINDO])),
    (
        "reference-dataset-app-post-start",
        Injected(&[&["app_post_start_untouched", "host_paths_dropped_by_kind"]]),
    ),
    ("reference-dataset-subpath", Injected(&[JINDO, &["sub_path_of_the_mount"]])),
    (
        "rich-daemonset",
        Injected(&[CONFIGURED, &["capabilities_by_an_allow_list", "pull_secrets_come_along"]]),
    ),
    ("runtime-alluxio", Injected(&[&["host_paths_dropped_by_kind"]])),
    ("runtime-efc", Refused),
    ("runtime-juicefs", Injected(&[CONFIGURED])),
    ("runtime-thin", Injected(&[CONFIGURED])),
    ("seed-labels-only", Ours),
    ("seed-labels-platform-key", Ours),
    ("seed-labels-platform-key-and-inject", Ours),
    ("seed-pod", Injected(&[JINDO])),
    ("serverful-label", Ours),
    ("skip-check-mount-ready-annotation", Injected(&[JINDO])),
    ("stale-configmap", Injected(&[JINDO])),
    ("ten-containers-four-datasets", Injected(&[JINDO, &["host_paths_dropped_by_kind", "order_of_volumes"]])),
    ("termination-grace", Injected(&[JINDO])),
    ("two-datasets", Injected(&[JINDO, &["order_of_volumes"]])),
    ("two-juicefs-datasets", Injected(&[CONFIGURED, &["order_of_volumes"]])),
    ("unprivileged-label-alone", Ours),
    ("volume-name-conflict", Injected(&[JINDO, &["-volume_names_without_index", "taken_volume_names"]])),
];

#[test]
fn every_case_is_fluids_answer_but_for_the_rules() {
    let cases = cases("tests/fluid");
    let found: Vec<String> = cases.iter().map(|case| name(case)).collect();
    let listed: Vec<&str> = CASES.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, listed, "the directories of tests/fluid and CASES");
    let failures: Vec<String> =
        cases.iter().zip(CASES).filter_map(|(path, (_, case))| check(path, case).err()).collect();
    assert!(failures.is_empty(), "{} of {} cases:\n\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn the_document_explains_every_rule_and_no_other() {
    let text =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/differences-from-fluid.md")).unwrap();
    let explained: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let mut rules = BTreeSet::new();
    for (_, case) in CASES {
        match case {
            Injected(lists) => {
                let more = lists.iter().copied().flatten().filter(|rule| !rule.starts_with('-'));
                rules.extend(BASE.iter().chain(more));
            }
            Untouched(more) => rules.extend(*more),
            Differs(_, _, rule) => drop(rules.insert(rule)),
            Refused | Ours => {}
        }
    }
    for (rule, _) in RULES {
        assert!(rules.contains(rule), "no case needs the rule {rule}");
    }
    assert_eq!(explained.iter().collect::<BTreeSet<_>>(), rules, "explained rules and rules in use");
    assert_eq!(explained.len(), rules.len(), "a rule is explained twice");
}

fn check(path: &Path, case: &Case) -> Result<(), String> {
    has_only(path, &FILES);
    let given = read(&path.join("case.yaml"));
    let fluid = read(&path.join("fluid-v1.0.3.yaml"));
    let labelled = !fluid.is_null();
    assert_eq!(labelled, !matches!(case, Ours), "{}: fluid-v1.0.3.yaml and the kind of the case", name(path));

    let mut pod = given["pod"].clone();
    if labelled {
        for label in LABELS {
            pod["metadata"]["labels"][label] = "true".into();
        }
    }
    let objects = given["objects"].as_array().unwrap();
    let cluster = Cluster::of(objects.clone());
    let namespace = given["namespace"].as_str().unwrap_or("default");
    let ask = |pod: &Value| create_in(Some(namespace), pod, &cluster, &json!({}));
    let answer = ask(&pod);
    is_settled(path, &answer, ask);
    compare(path, &answer)?;

    let in_case = |text: String| format!("{}: {text}", name(path));
    let decisions = (decision_of_fluid(&fluid, &pod), our_decision(&answer));
    let decisions_are = |fluid: Decision, ours: Decision| {
        let expected = (fluid, ours);
        if decisions == expected {
            return Ok(());
        }
        Err(in_case(format!("decisions of Fluid and ours: found {decisions:?}, not {expected:?}")))
    };
    let ours = answer.get("mutated_object").unwrap_or(&pod);
    match case {
        Ours => Ok(()),
        Refused => decisions_are(D::Refused, D::Refused),
        Differs(theirs, ours, _) => decisions_are(*theirs, *ours),
        Untouched(rules) => {
            decisions_are(D::Untouched, D::Untouched)?;
            let context = Context { given: &pod, ours, sidecars: Vec::new() };
            equal_by(rules, &fluid["mutatedPod"], &context).map_err(in_case)
        }
        Injected(lists) => {
            decisions_are(D::Injected, D::Injected)?;
            let mut rules = BASE.to_vec();
            for rule in lists.iter().copied().flatten() {
                match rule.strip_prefix('-') {
                    Some(rule) => rules.retain(|known| known != &rule),
                    None => rules.push(rule),
                }
            }
            let sidecars = sidecars(&fluid["mutatedPod"], &pod, objects);
            let context = Context { given: &pod, ours, sidecars };
            equal_by(&rules, &fluid["mutatedPod"], &context).map_err(in_case)
        }
    }
}

fn our_decision(answer: &Value) -> Decision {
    match answer["audit_annotations"]["decision"].as_str() {
        Some("injected") => D::Injected,
        Some("untouched") => D::Untouched,
        Some("rejected") => D::Refused,
        other => unreachable!("{other:?}"),
    }
}

/// Fluid marks what it has changed, and names each sidecar in a label.
fn decision_of_fluid(fluid: &Value, given: &Value) -> Decision {
    let done = |pod: &Value| pod["metadata"]["labels"][DONE] == "true";
    match fluid["allowed"].as_bool() {
        Some(true) if !done(&fluid["mutatedPod"]) || done(given) => D::Untouched,
        Some(true) if injected_by_fluid(&fluid["mutatedPod"]).is_empty() => D::VolumesOnly,
        Some(true) => D::Injected,
        _ => D::Refused,
    }
}

/// Rewrites Fluid's Pod into ours; each of the rules must be needed.
fn equal_by(rules: &[&str], fluid: &Value, context: &Context<'_>) -> Result<(), String> {
    for rule in rules {
        assert!(RULES.iter().any(|(name, _)| name == rule), "there is no rule {rule}");
    }
    let rewritten = |without: Option<&str>| {
        let mut pod = fluid.clone();
        for (name, rule) in RULES {
            if rules.contains(name) && Some(*name) != without {
                rule(&mut pod, context);
            }
        }
        pod
    };
    same(("Fluid's Pod by the rules", &rewritten(None)), ("ours", context.ours))?;
    match rules.iter().find(|rule| rewritten(Some(rule)) == *context.ours) {
        Some(rule) => Err(format!("the rule {rule} is not needed any more; remove it from the case")),
        None => Ok(()),
    }
}

const DONE: &str = "done.sidecar.fluid.io/inject";
const MAPPING: &str = "container-dataset-mapping.sidecar.fluid.io/";

/// What the rules know of a case.
struct Context<'a> {
    /// The Pod as it came.
    given: &'a Value,
    /// Our Pod, for what a test cannot work out again: the text of the gate and the hash of the settings.
    ours: &'a Value,
    /// In the order of the Pod's volumes.
    sidecars: Vec<Sidecar<'a>>,
}

/// One sidecar in Fluid's Pod, and what must become of it.
struct Sidecar<'a> {
    /// `default/data`
    dataset: String,
    /// Its name in Fluid's Pod, `fluid-fuse-<index>`.
    fluid: String,
    /// Its name in ours.
    ours: String,
    /// Where the file system is mounted, as the sidecar sees it.
    mount_point: String,
    /// The Pod that Fluid's DaemonSet makes, `spec.template.spec`.
    template: &'a Value,
}

/// Containers and their Datasets by Fluid's labels, `<namespace>_<name>`.
fn injected_by_fluid(pod: &Value) -> Vec<(&str, &str)> {
    let labels = pod["metadata"]["labels"].as_object().into_iter().flatten();
    let mapped = labels.filter_map(|(key, value)| Some((key.strip_prefix(MAPPING)?, value.as_str()?)));
    mapped.collect()
}

fn sidecars<'a>(fluid: &Value, given: &Value, objects: &'a [Value]) -> Vec<Sidecar<'a>> {
    let injected = injected_by_fluid(fluid);
    let mut taken = names(&given["spec"]["containers"]);
    let mut sidecars = Vec::new();
    for volume in given["spec"]["volumes"].as_array().unwrap() {
        let claim = volume["persistentVolumeClaim"]["claimName"].as_str().unwrap_or_default();
        let dataset = |mapped: &str| mapped.split_once('_').filter(|(_, name)| *name == claim).is_some();
        let Some((container, mapped)) = injected.iter().find(|(_, mapped)| dataset(mapped)) else { continue };
        let (namespace, name) = mapped.split_once('_').unwrap();
        let object = |kind: &str, names: &[String]| {
            let is = |object: &&Value| {
                object["kind"] == kind && names.iter().any(|name| object["metadata"]["name"] == **name)
            };
            let in_namespace = |object: &&Value| {
                object["metadata"].get("namespace").is_none_or(|it| it.as_str() == Some(namespace))
            };
            objects.iter().find(|object| is(object) && in_namespace(object)).unwrap()
        };
        let daemonset = object("DaemonSet", &[format!("{name}-fuse"), format!("{name}-jindofs-fuse")]);
        let template = &daemonset["spec"]["template"]["spec"];
        let volume = object("PersistentVolume", &[format!("{namespace}-{name}")]);
        // Jindo mounts elsewhere than on the node, and says where.
        let env = template["containers"][0]["env"].as_array().unwrap();
        let mount_point = env
            .iter()
            .find(|variable| variable["name"] == "FLUID_FUSE_MOUNTPOINT")
            .map_or(&volume["spec"]["csi"]["volumeAttributes"]["fluid_path"], |variable| &variable["value"]);
        sidecars.push(Sidecar {
            dataset: format!("{namespace}/{name}"),
            fluid: container.to_string(),
            ours: first_free("fluid-fuse", &mut taken),
            mount_point: mount_point.as_str().unwrap().to_string(),
            template,
        });
    }
    assert_eq!(sidecars.len(), injected.len(), "a sidecar for each of Fluid's labels");
    sidecars
}

// --- the rules -----------------------------------------------------------------------------------------------

type Rule = fn(&mut Value, &Context<'_>);

macro_rules! rules {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name as Rule)),*] };
}

/// In the order in which they are applied: the others know sidecars and volumes by Fluid's names.
const RULES: &[(&str, Rule)] = rules![
    zero_values_of_go,
    unknown_fields_survive,
    no_check_scripts_of_config_maps,
    app_post_start_untouched,
    host_paths_dropped_by_kind,
    post_start_is_a_constant,
    no_pre_stop,
    reason_of_the_end,
    default_container,
    eci_sidecar_env,
    readiness_is_the_mount,
    pinned_user,
    capabilities_by_an_allow_list,
    metrics_ports_kept,
    no_ports_on_the_host_network,
    no_scrape_annotation,
    bidirectional_mounts_kept,
    sub_path_of_the_mount,
    grace_period_of_the_daemonset,
    pull_secrets_come_along,
    no_labels_of_fluid,
    injected_annotation,
    order_of_volumes,
    taken_volume_names,
    volume_names_without_index,
    no_service_account_token,
    sidecar_names,
];

/// Fluid decodes the Pod into Go's type and encodes it again, which writes out fields that nobody set and leaves
/// out empty lists.
fn zero_values_of_go(pod: &mut Value, context: &Context<'_>) {
    remove_if(&mut pod["metadata"], "creationTimestamp", |value| value.is_null());
    remove_if(pod, "status", |value| *value == json!({}));
    for container in containers(pod) {
        remove_if(container, "resources", |value| *value == json!({}));
    }
    if context.given["spec"].get("volumes") == Some(&json!([])) && pod["spec"].get("volumes").is_none() {
        pod["spec"]["volumes"] = json!([]);
    }
}

/// The same round trip removes what the type does not have: fields of newer versions of Kubernetes.
fn unknown_fields_survive(pod: &mut Value, context: &Context<'_>) {
    for field in [
        "/spec/containers/0/securityContext/appArmorProfile",
        "/spec/hostnameOverride",
        "/spec/resources",
        "/spec/securityContext/appArmorProfile",
        "/spec/securityContext/supplementalGroupsPolicy",
    ] {
        let (parent, key) = field.rsplit_once('/').unwrap();
        if let Some(value) = context.given.pointer(field) {
            pod.pointer_mut(parent).unwrap()[key] = value.clone();
        }
    }
}

/// Fluid keeps scripts in ConfigMaps that it writes at admission, in dry runs, too, and mounts them into the
/// sidecar and into every container that reads a Dataset. Ours is an argument.
fn no_check_scripts_of_config_maps(pod: &mut Value, context: &Context<'_>) {
    let script = |volume: &Value| {
        let config_map = volume["configMap"]["name"].as_str().unwrap_or_default();
        config_map == "check-fluid-mount-ready" || config_map.ends_with("-check-mount-unprivileged")
    };
    drop_added_volumes(pod, context, script);
}

/// With `app.poststart.fluid.io/inject` Fluid puts a hook into the application's containers, which needs bash,
/// awk and tr in their images. The order of containers is enough.
fn app_post_start_untouched(pod: &mut Value, context: &Context<'_>) {
    for container in containers(pod) {
        let given = context.given["spec"]["containers"].as_array().unwrap();
        let Some(given) = given.iter().find(|given| given["name"] == container["name"]) else { continue };
        let command = &container["lifecycle"]["postStart"]["exec"]["command"][2];
        let hook = command.as_str().is_some_and(|text| text.starts_with("time /check-fluid-mount-ready.sh "));
        match given.get("lifecycle") {
            Some(lifecycle) => container["lifecycle"] = lifecycle.clone(),
            None => remove_if(container, "lifecycle", |_| hook),
        }
    }
}

/// A serverless node has no directories to share. Fluid leaves out some volumes by how their names begin.
fn host_paths_dropped_by_kind(pod: &mut Value, context: &Context<'_>) {
    drop_added_volumes(pod, context, |volume| volume.get("hostPath").is_some());
}

/// The same question as Fluid's (does the platform's FUSE device work?), and whether something is mounted;
/// needs no bash, and paths are arguments.
fn post_start_is_a_constant(pod: &mut Value, context: &Context<'_>) {
    let fluids = json!({"exec": {"command": ["bash", "-c", "time /check-mount.sh >> /proc/1/fd/1"]}});
    for (container, sidecar) in sidecar_containers(pod, context) {
        if container["lifecycle"]["postStart"] == fluids {
            let command =
                json!(["sh", "-c", gate(context), "gate", sidecar.mount_point, "300", "/tools/ioctl_sync"]);
            container["lifecycle"]["postStart"] = json!({"exec": {"command": command}});
        }
    }
}

/// The DaemonSet's hook unmounts. All preStop hooks run when a Pod begins to end, while the application still
/// writes.
fn no_pre_stop(pod: &mut Value, context: &Context<'_>) {
    for (container, _) in sidecar_containers(pod, context) {
        remove_if(&mut container["lifecycle"], "preStop", |_| true);
    }
}

/// `kubectl describe pod` shows why a sidecar ended.
fn reason_of_the_end(pod: &mut Value, context: &Context<'_>) {
    for (container, _) in sidecar_containers(pod, context) {
        container["terminationMessagePolicy"] = "FallbackToLogsOnError".into();
    }
}

/// `kubectl logs` is about the application, although the sidecar is the first container.
fn default_container(pod: &mut Value, context: &Context<'_>) {
    let first = context.given["spec"]["containers"][0]["name"].clone();
    pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] = first;
}

/// The API server mounts the Pod's token into Fluid's sidecars, too.
fn no_service_account_token(pod: &mut Value, context: &Context<'_>) {
    let name = "fluid-fuse-no-token";
    let mount =
        json!({"name": name, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true});
    for (container, _) in sidecar_containers(pod, context) {
        match container["volumeMounts"].as_array_mut() {
            Some(mounts) => mounts.push(mount.clone()),
            None => container["volumeMounts"] = json!([mount]),
        }
    }
    let given = context.given["spec"]["volumes"].as_array().unwrap().len();
    pod["spec"]["volumes"].as_array_mut().unwrap().insert(given, json!({"name": name, "emptyDir": {}}));
}

/// ECI starts the sidecar first and ends it last, when these say so.
fn eci_sidecar_env(pod: &mut Value, context: &Context<'_>) {
    for (container, _) in sidecar_containers(pod, context) {
        container["env"].as_array_mut().unwrap().extend([
            json!({"name": "ECI_CONTAINER_TYPE", "value": "sidecar"}),
            json!({"name": "ECI_CONTAINER_IGNORE_EXIT_CODE", "value": "true"}),
            json!({"name": "ECI_CONTAINER_LAUNCH_PRIORITY", "value": "1000"}),
            json!({"name": "ECI_CONTAINER_EXIT_PRIORITY", "value": "-1000"}),
        ]);
    }
}

/// ECI starts containers of a lower priority once those of a higher one are ready; ready is mounted.
fn readiness_is_the_mount(pod: &mut Value, context: &Context<'_>) {
    for (container, sidecar) in sidecar_containers(pod, context) {
        let command =
            json!(["sh", "-c", gate(context), "gate", sidecar.mount_point, "0", "/tools/ioctl_sync"]);
        container["readinessProbe"] =
            json!({"exec": {"command": command}, "periodSeconds": 2, "timeoutSeconds": 2});
    }
}

/// The sidecar has its own user (its container's, its DaemonSet's, else root), whatever the Pod's is.
fn pinned_user(pod: &mut Value, context: &Context<'_>) {
    for (container, sidecar) in sidecar_containers(pod, context) {
        let security = container["securityContext"].as_object_mut().unwrap();
        for key in ["runAsUser", "runAsGroup"] {
            let inherited = sidecar.template["securityContext"].get(key).unwrap_or(&json!(0)).clone();
            security.entry(key).or_insert(inherited);
        }
        let root = security["runAsUser"] == 0;
        security.insert("runAsNonRoot".into(), (!root).into());
    }
}

/// Fluid removes `SYS_ADMIN`, but not its other spelling, which some container runtimes accept as well.
fn capabilities_by_an_allow_list(pod: &mut Value, context: &Context<'_>) {
    for (container, _) in sidecar_containers(pod, context) {
        // None of those that it names is on the list.
        remove_if(&mut container["securityContext"], "capabilities", |_| true);
    }
}

/// Fluid removes ports whose name ends in `-metrics` unless the Runtime wants sidecars to be scraped.
fn metrics_ports_kept(pod: &mut Value, context: &Context<'_>) {
    for (container, sidecar) in sidecar_containers(pod, context) {
        let Some(ports) = sidecar.template["containers"][0]["ports"].as_array() else { continue };
        let metrics = |port: &&Value| port["name"].as_str().is_some_and(|name| name.ends_with("-metrics"));
        let others: Vec<_> = ports.iter().filter(|port| !metrics(port)).cloned().collect();
        if container.get("ports").and_then(Value::as_array).map_or(&[][..], Vec::as_slice) == others {
            container["ports"] = ports.clone().into();
        }
    }
}

/// On the host network a sidecar's ports would be the node's.
fn no_ports_on_the_host_network(pod: &mut Value, context: &Context<'_>) {
    if pod["spec"]["hostNetwork"] == true {
        for (container, _) in sidecar_containers(pod, context) {
            container.as_object_mut().unwrap().remove("ports");
        }
    }
}

/// That the Runtime wants sidecars to be scraped is not read.
fn no_scrape_annotation(pod: &mut Value, _: &Context<'_>) {
    remove_if(&mut pod["metadata"]["annotations"], "prometheus.fuse.fluid.io/scrape", |value| {
        value == "true"
    });
}

/// `Bidirectional` is `HostToContainer` and more; the user who asked for it keeps it.
fn bidirectional_mounts_kept(pod: &mut Value, context: &Context<'_>) {
    for given in context.given["spec"]["containers"].as_array().unwrap() {
        for mount in given["volumeMounts"].as_array().into_iter().flatten() {
            if mount["mountPropagation"] == "Bidirectional" {
                let container = containers(pod).find(|container| container["name"] == given["name"]).unwrap();
                let mut mounts = container["volumeMounts"].as_array_mut().unwrap().iter_mut();
                let found = mounts.find(|found| found["mountPath"] == mount["mountPath"]).unwrap();
                found["mountPropagation"] = "Bidirectional".into();
            }
        }
    }
}

/// Fluid puts the part of a Dataset into the path of the node, where the node follows links.
fn sub_path_of_the_mount(pod: &mut Value, context: &Context<'_>) {
    let text = context.ours["metadata"]["annotations"]["fluid-sidecar-policy/injected"].as_str().unwrap();
    let status: Value = serde_json::from_str(text).unwrap();
    for claim in status["claims"].as_array().unwrap() {
        let part = claim["subPath"].as_str().unwrap_or_default();
        for volume in pod["spec"]["volumes"].as_array_mut().unwrap() {
            let path =
                volume["hostPath"]["path"].as_str().and_then(|path| path.strip_suffix(&format!("/{part}")));
            if let Some(path) = path.filter(|_| volume["name"] == claim["volume"]).map(str::to_string) {
                volume["hostPath"]["path"] = path.into();
            }
        }
        for container in containers(pod) {
            for mount in container["volumeMounts"].as_array_mut().into_iter().flatten() {
                if mount["name"] == claim["volume"] {
                    mount["subPath"] = part.into();
                }
            }
        }
    }
}

/// The Pod gives the sidecar the time to end that its DaemonSet gives it; 30 s are Kubernetes' default.
fn grace_period_of_the_daemonset(pod: &mut Value, context: &Context<'_>) {
    let key = "terminationGracePeriodSeconds";
    let needed = context.sidecars.iter().filter_map(|sidecar| sidecar.template[key].as_i64()).max();
    let given = context.given["spec"][key].as_i64().unwrap_or(30);
    if let Some(needed) = needed.filter(|needed| *needed > given) {
        pod["spec"][key] = needed.into();
    }
}

/// The secrets that the DaemonSet pulls its image with.
fn pull_secrets_come_along(pod: &mut Value, context: &Context<'_>) {
    assert!(pod["spec"].get("imagePullSecrets").is_none(), "no case has a Pod with secrets of its own");
    for sidecar in &context.sidecars {
        if let Some(secrets) = sidecar.template.get("imagePullSecrets") {
            pod["spec"]["imagePullSecrets"] = secrets.clone();
        }
    }
}

/// Nothing marks a Pod as done, and no controller of Fluid's shall take it for its own.
fn no_labels_of_fluid(pod: &mut Value, _: &Context<'_>) {
    let metadata = &mut pod["metadata"];
    let labels = metadata["labels"].as_object_mut().unwrap();
    labels.retain(|key, _| key != DONE && key != "fluid.io/managed-by" && !key.starts_with(MAPPING));
    remove_if(&mut metadata["annotations"], "fluid.io/datasets-in-use", |_| true);
    remove_if(metadata, "annotations", |annotations| *annotations == json!({}));
}

/// Says what was injected: the same sidecars for the same Datasets as in Fluid's labels.
fn injected_annotation(pod: &mut Value, context: &Context<'_>) {
    let key = "fluid-sidecar-policy/injected";
    let text = context.ours["metadata"]["annotations"][key].as_str().unwrap();
    let status: Value = serde_json::from_str(text).unwrap();
    let said: Vec<_> = status["sidecars"].as_array().unwrap().iter().collect();
    let fits = said
        .iter()
        .zip(&context.sidecars)
        .all(|(said, sidecar)| said["container"] == *sidecar.ours && said["dataset"] == *sidecar.dataset);
    if fits && said.len() == context.sidecars.len() {
        pod["metadata"]["annotations"][key] = text.into();
    }
}

/// Sidecars stand, and start, in the order of the Pod's volumes. Fluid's stand in the opposite order of the
/// names of claims.
fn order_of_volumes(pod: &mut Value, context: &Context<'_>) {
    let list = pod["spec"]["containers"].as_array_mut().unwrap();
    list.sort_by_key(|container| {
        let position = context.sidecars.iter().position(|sidecar| container["name"] == *sidecar.fluid);
        position.unwrap_or(context.sidecars.len())
    });
}

/// Where a name is taken, Fluid overwrites its first letters by `fluid-`.
fn taken_volume_names(pod: &mut Value, context: &Context<'_>) {
    rename_added_volumes(pod, context, |name, index, template| {
        let tail = name.strip_prefix("fluid-")?;
        let templates = template["volumes"].as_array().unwrap().iter().filter_map(|it| it["name"].as_str());
        templates.map(str::to_string).find(|it| format!("{it}-{index}").get(6..) == Some(tail))
    });
}

/// Volumes keep their names in the DaemonSet. Fluid appends the number of the sidecar to all of them.
fn volume_names_without_index(pod: &mut Value, context: &Context<'_>) {
    rename_added_volumes(pod, context, |name, index, _| {
        name.strip_suffix(&format!("-{index}")).map(str::to_string)
    });
}

/// `fluid-fuse`, and a number only when that is taken. Fluid's always have one.
fn sidecar_names(pod: &mut Value, context: &Context<'_>) {
    for (container, sidecar) in sidecar_containers(pod, context) {
        container["name"] = sidecar.ours.as_str().into();
    }
}

// --- what the rules share ------------------------------------------------------------------------------------

fn containers(pod: &mut Value) -> impl Iterator<Item = &mut Value> {
    pod["spec"]["containers"].as_array_mut().unwrap().iter_mut()
}

fn sidecar_containers<'p, 'c>(
    pod: &'p mut Value,
    context: &'c Context<'_>,
) -> impl Iterator<Item = (&'p mut Value, &'c Sidecar<'c>)> {
    containers(pod).filter_map(|container| {
        let sidecar = context.sidecars.iter().find(|sidecar| container["name"] == *sidecar.fluid)?;
        Some((container, sidecar))
    })
}

/// The text of the gate, which must be the same in all sidecars of all Pods.
fn gate(context: &Context<'_>) -> &'static str {
    static TEXT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    TEXT.get_or_init(|| {
        let container = &context.ours["spec"]["containers"][0];
        container["lifecycle"]["postStart"]["exec"]["command"][2].as_str().unwrap().to_string()
    })
}

fn remove_if(parent: &mut Value, key: &str, condition: impl Fn(&Value) -> bool) {
    if let Some(map) = parent.as_object_mut() {
        if map.get(key).is_some_and(condition) {
            map.remove(key);
        }
    }
}

/// Keeps the elements of a list that fulfil the condition; a list that they leave goes.
fn retain(parent: &mut Value, key: &str, keep: impl Fn(&Value) -> bool) {
    if let Some(list) = parent.get_mut(key).and_then(Value::as_array_mut) {
        list.retain(keep);
        remove_if(parent, key, |list| *list == json!([]));
    }
}

fn names(list: &Value) -> BTreeSet<String> {
    let names = list.as_array().into_iter().flatten().filter_map(|entry| entry["name"].as_str());
    names.map(str::to_string).collect()
}

fn first_free(name: &str, taken: &mut BTreeSet<String>) -> String {
    let numbered = (1..).map(|number| format!("{name}-{number}"));
    let free = std::iter::once(name.to_string()).chain(numbered).find(|it| !taken.contains(it)).unwrap();
    taken.insert(free.clone());
    free
}

/// Removes volumes that Fluid added, and every mount of them.
fn drop_added_volumes(pod: &mut Value, context: &Context<'_>, condition: impl Fn(&Value) -> bool) {
    let given = names(&context.given["spec"]["volumes"]);
    let volumes = pod["spec"]["volumes"].as_array().unwrap().clone();
    let dropped: Vec<Value> = volumes
        .into_iter()
        .filter(|volume| !given.contains(volume["name"].as_str().unwrap()) && condition(volume))
        .map(|volume| volume["name"].clone())
        .collect();
    retain(&mut pod["spec"], "volumes", |volume| !dropped.contains(&volume["name"]));
    for container in containers(pod) {
        retain(container, "volumeMounts", |mount| !dropped.contains(&mount["name"]));
    }
}

/// Gives volumes that Fluid added for a sidecar the name that `rename` makes of the present one, the number of
/// the sidecar and its template, or the first free one after it.
fn rename_added_volumes(
    pod: &mut Value,
    context: &Context<'_>,
    rename: impl Fn(&str, &str, &Value) -> Option<String>,
) {
    let mut taken = names(&context.given["spec"]["volumes"]);
    let added: Vec<String> = names(&pod["spec"]["volumes"]).difference(&taken).cloned().collect();
    for sidecar in &context.sidecars {
        let index = sidecar.fluid.strip_prefix("fluid-fuse-").unwrap();
        let mounts = containers(pod)
            .find(|container| container["name"] == *sidecar.fluid)
            .and_then(|container| container.get_mut("volumeMounts")?.as_array_mut());
        let mut renamed: Vec<(Value, Value)> = Vec::new();
        for mount in mounts.into_iter().flatten() {
            let old = mount["name"].clone();
            let name = old.as_str().unwrap().to_string();
            if !added.contains(&name) {
                continue;
            }
            let known = renamed.iter().find(|(known, _)| *known == old).map(|(_, new)| new.clone());
            let new = known
                .or_else(|| Some(first_free(&rename(&name, index, sidecar.template)?, &mut taken).into()));
            if let Some(new) = new {
                mount["name"] = new.clone();
                renamed.push((old, new));
            }
        }
        for volume in pod["spec"]["volumes"].as_array_mut().unwrap() {
            if let Some((_, new)) = renamed.iter().find(|(old, _)| volume["name"] == *old) {
                volume["name"] = new.clone();
            }
        }
    }
}
