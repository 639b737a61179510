//! What holds for every Pod, whatever the cluster and the settings: the laws of ARCHITECTURE.md, by number.
//!
//! `PROPTEST_CASES=100000 cargo test --test laws` looks longer than the numbers below.
#![allow(clippy::unwrap_used, reason = "a test")]

mod generators;
mod model;
#[path = "../support/mod.rs"]
mod support;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use fluid_sidecar_policy::cluster::{self, Masked, Masks};
use fluid_sidecar_policy::review::review;
use fluid_sidecar_policy::status::uninject;
use generators::{Situation, any_json, image, pod, resource_name, situation};
use kubewarden_policy_sdk::host_capabilities::kubernetes::GetResourceRequest;
use model::{Outcome, UID};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};
use support::validation::violations;
use support::{Cluster, as_seen, create, create_in, same};

/// So many cases, unless `PROPTEST_CASES` says otherwise.
fn cases(number: u32) -> ProptestConfig {
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = number;
    }
    config
}

/// The payload of `validate`, of whatever is to be taken for a Pod.
fn payload(pod: &Value, namespace: &str, settings: &Value) -> Vec<u8> {
    let kind = json!({"kind": "Pod"});
    let request = json!({"operation": "CREATE", "kind": kind, "namespace": namespace, "object": pod});
    json!({"request": request, "settings": settings}).to_string().into_bytes()
}

impl Situation {
    fn cluster(&self) -> Cluster {
        Cluster::of(self.objects())
    }

    fn answer(&self) -> Value {
        create(&self.pod, &self.cluster(), &self.settings)
    }
}

// --- looking at Pods ---------------------------------------------------------------------------------------

const CONTAINERS: [&str; 2] = ["initContainers", "containers"];

fn list<'v>(pod: &'v Value, key: &str) -> &'v [Value] {
    pod["spec"][key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn entries<'v>(container: &'v Value, key: &str) -> &'v [Value] {
    container[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn names(entries: &[Value]) -> Vec<&str> {
    entries.iter().map(|entry| entry["name"].as_str().unwrap()).collect()
}

fn names_of(entries: Vec<&Value>) -> Vec<&Value> {
    entries.into_iter().map(|entry| &entry["name"]).collect()
}

fn all_containers(pod: &Value) -> impl Iterator<Item = &Value> {
    CONTAINERS.into_iter().flat_map(|key| list(pod, key))
}

/// What the second list has and the first has not, by name.
fn added<'v>(before: &[Value], after: &'v [Value]) -> Vec<&'v Value> {
    let known = names(before);
    after.iter().filter(|entry| !known.contains(&entry["name"].as_str().unwrap())).collect()
}

fn added_containers<'v>(before: &Value, after: &'v Value) -> Vec<&'v Value> {
    CONTAINERS.into_iter().flat_map(|key| added(list(before, key), list(after, key))).collect()
}

impl Situation {
    /// The mount of each volume that shows one, and whether its claim is read-only.
    fn dataset_volumes(&self) -> BTreeMap<&str, (&str, bool)> {
        let volumes = list(&self.pod, "volumes").iter().filter_map(|volume| {
            let claim = volume.get("persistentVolumeClaim")?;
            let dataset = self.mount(claim["claimName"].as_str()?)?;
            Some((volume["name"].as_str()?, (dataset, claim["readOnly"] == true)))
        });
        volumes.collect()
    }
}

// --- the laws ----------------------------------------------------------------------------------------------

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn injection_keeps_the_laws(situation in situation()) {
        let Situation { pod, settings, .. } = &situation;
        let cluster = situation.cluster();
        let answer = create(pod, &cluster, settings);
        // 6. The same input gives the same bytes.
        prop_assert_eq!(answer.to_string(), create(pod, &cluster, settings).to_string());
        let Some(mutated) = answer.get("mutated_object") else { return Ok(()) };
        prop_assert_eq!(&answer["accepted"], true);

        // 1. Once.
        let again = create(mutated, &cluster, settings);
        prop_assert_eq!(again.get("mutated_object"), None);
        prop_assert_eq!(&again["accepted"], true);

        is_whole(&situation, mutated)?;

        // 4. What the API server took before, it takes now; names are unique even if it would not.
        let all: Vec<_> = all_containers(mutated).map(|container| &container["name"]).collect();
        prop_assert_eq!(all.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>().len(), all.len());
        let before = violations(pod);
        if before.is_empty() {
            prop_assert_eq!(violations(mutated), before);
        }
    }
}

/// Every Dataset has its sidecar and no claim of one is left, as the plan is whole; and all that was added is
/// such as the destination allows.
fn is_whole(situation: &Situation, mutated: &Value) -> Result<(), TestCaseError> {
    let volumes = situation.dataset_volumes();
    let mounts: BTreeSet<_> = volumes.values().map(|(mount, _)| mount).collect();
    let sidecars = added_containers(&situation.pod, mutated);
    let is_held = |server: &Value| entries(server, "env").iter().any(|it| it["name"] == "FLUID_FUSE_FD");
    let is_holder = |container: &Value| container["command"][1] == "hold";
    let (holders, servers): (Vec<&Value>, Vec<&Value>) = sidecars.iter().partition(|one| is_holder(one));
    // One for each mount, however many Datasets have it.
    prop_assert_eq!(servers.len(), mounts.len());
    let brought = names_of(added(list(&situation.pod, "volumes"), list(mutated, "volumes")));
    for sidecar in &sidecars {
        // 10. Nothing that it names dangles, or is the user's.
        for volume in ["volumeMounts", "volumeDevices"].into_iter().flat_map(|key| entries(sidecar, key)) {
            // A server without a directory of its own sees its holder's mount as the application does.
            let sees = volumes.contains_key(volume["name"].as_str().unwrap())
                && volume["readOnly"] == true
                && is_held(sidecar);
            prop_assert!(brought.contains(&&volume["name"]) || sees, "{}", volume);
        }
        let ports: Vec<_> = entries(sidecar, "ports").iter().map(|port| &port["name"]).collect();
        for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
            let named = ["httpGet", "tcpSocket"].map(|kind| &sidecar[probe][kind]["port"]);
            let named = named.into_iter().filter(|port| port.is_string());
            prop_assert!(named.clone().all(|port| ports.contains(&port)), "{}", sidecar[probe]);
        }
    }
    // 5. Paths.
    for volume in list(mutated, "volumes") {
        if volumes.contains_key(volume["name"].as_str().unwrap()) {
            let path = volume["hostPath"]["path"].as_str().unwrap();
            let below = path.strip_prefix("/runtime-mnt/").unwrap();
            prop_assert!(below.split('/').all(|part| !matches!(part, "" | "." | "..")), "{}", path);
            prop_assert_eq!(volume.as_object().unwrap().len(), 2);
        }
    }
    let how = model::how(&destination(mutated), &situation.settings);
    // 7. A node that Pods share has a directory for each, which the application is below and never sees.
    let directories: Vec<_> =
        list(mutated, "volumes").iter().filter_map(|volume| volume["hostPath"]["path"].as_str()).collect();
    for volume in list(mutated, "volumes")
        .iter()
        .filter(|volume| volumes.contains_key(volume["name"].as_str().unwrap()))
    {
        let path = volume["hostPath"]["path"].as_str().unwrap();
        let own = path.split_once(UID).map(|(above, _)| format!("{above}{UID}"));
        prop_assert_eq!(own.is_some(), how.privileged, "{}", path);
        prop_assert!(own.is_none_or(|own| path != own && directories.contains(&own.as_str())), "{}", path);
    }
    // 11. A holder meets one server, and nobody else does.
    for holder in &holders {
        let mounts = |container: &Value, name: &Value| {
            entries(container, "volumeMounts").iter().any(|mount| mount["name"] == *name)
        };
        let socket =
            entries(holder, "volumeMounts").iter().find(|it| it["mountPath"] == "/run/fluid-fuse/holder");
        let meeting = &socket.unwrap()["name"];
        let meet: Vec<_> = all_containers(mutated).filter(|one| mounts(one, meeting)).collect();
        prop_assert_eq!(meet.len(), 2, "{:#}", mutated);
        let server = meet.into_iter().find(|one| one["name"] != holder["name"]).unwrap();
        prop_assert!(servers.contains(&server), "{}", server);
        // What talks to a store has no privilege; what has one knows no store and no secret.
        let security = &server["securityContext"];
        prop_assert_eq!(&security["privileged"], false);
        prop_assert_eq!(&security["capabilities"]["drop"], &json!(["ALL"]));
        let writes = |it: &Value| it["mountPropagation"] == "Bidirectional";
        prop_assert!(!entries(server, "volumeMounts").iter().any(writes), "{}", server);
        let tells = |it: &Value| {
            it.get("valueFrom").is_some()
                || it["name"].as_str().unwrap().starts_with("FLUID_FUSE_CONFIG")
                || it["name"] == "FLUID_FUSE_SOURCE"
        };
        prop_assert!(!entries(holder, "env").iter().any(tells), "{}", holder);
        prop_assert_eq!(holder.get("args"), None);
    }
    for server in &servers {
        prop_assert!(server["lifecycle"]["postStart"].is_object(), "no gate");
    }
    for sidecar in sidecars.iter().filter(|one| !is_held(one)) {
        // A hook that unmounts would run while the application still writes.
        let pre_stop = &sidecar["lifecycle"]["preStop"]["exec"]["command"];
        let releases = pre_stop[0].as_str().is_some_and(|program| program.ends_with("fluid-fuse"));
        let serves_on = pre_stop[3] == "serve-on";
        prop_assert!(pre_stop.is_null() || serves_on || releases && pre_stop[1] == "release", "{}", pre_stop);
        // A user of the application's Pod must not reach it (Fluid #2500).
        prop_assert!(sidecar["securityContext"]["runAsUser"].is_number());
        let privileged = &sidecar["securityContext"]["privileged"];
        prop_assert_eq!(privileged, how.privileged);
        if !how.privileged {
            let resource =
                situation.settings["vfuseResourceName"].as_str().unwrap_or("alibabacloud.com/vfuse");
            prop_assert_eq!(&sidecar["resources"]["limits"][resource], "1");
        } else {
            // Otherwise its mount would stay its own.
            let mut mounts = entries(sidecar, "volumeMounts").iter();
            let propagates = mounts.any(|mount| mount["mountPropagation"] == "Bidirectional");
            prop_assert!(propagates, "{}", sidecar);
        }
    }
    // 9. Nobody else gets what was brought, whatever names dangled before.
    let volumes = names_of(added(list(&situation.pod, "volumes"), list(mutated, "volumes")));
    let sidecars = names_of(added_containers(&situation.pod, mutated));
    for container in all_containers(&situation.pod) {
        let env = entries(container, "env").iter().map(|it| &it["valueFrom"]);
        let uses = ["volumeMounts", "volumeDevices"].into_iter().flat_map(|list| entries(container, list));
        let uses = uses.map(|it| &it["name"]).chain(env.clone().map(|it| &it["fileKeyRef"]["volumeName"]));
        let about = env.map(|it| &it["resourceFieldRef"]["containerName"]);
        let taken = uses
            .filter(|name| volumes.contains(name))
            .chain(about.filter(|name| sidecars.contains(name)))
            .next();
        prop_assert_eq!(taken, None, "{:#}", mutated);
    }
    for volume in added(list(&situation.pod, "volumes"), list(mutated, "volumes")) {
        prop_assert!(how.privileged || volume.get("hostPath").is_none(), "{}", volume);
    }
    Ok(())
}

fn destination(mutated: &Value) -> String {
    let status = mutated["metadata"]["annotations"]["fluid-sidecar-policy/injected"].as_str().unwrap();
    let status: Value = serde_json::from_str(status).unwrap();
    status["destination"].as_str().unwrap().to_string()
}

proptest! {
    #![proptest_config(cases(10_000))]

    /// 3, and all else that SEMANTICS.md says: the decision, and every field of the Pod.
    #[test]
    fn the_model_agrees(situation in situation(), namespace in namespace()) {
        let Situation { pod, settings, .. } = &situation;
        let answer = create_in(Some(namespace), pod, &situation.cluster(), settings);
        let expected = model::mutate(pod, &situation.objects(), settings, namespace);
        let found = match answer.get("mutated_object") {
            Some(mutated) => Outcome::Mutated(mutated.clone()),
            None if answer["accepted"] == true => Outcome::Untouched,
            None => Outcome::Rejected,
        };
        match (&expected, &found) {
            (Outcome::Mutated(expected), Outcome::Mutated(found)) => {
                let ((expected_status, expected), (found_status, found)) =
                    (model::comparable(expected), model::comparable(found));
                let diff = same(("model", &expected), ("review", &found));
                prop_assert!(diff.is_ok(), "{}", diff.unwrap_err());
                prop_assert_eq!(expected_status, found_status);
            }
            _ => prop_assert_eq!(expected, found, "{}", answer),
        }
    }

    /// What was done is undone, and seen to be whole before.
    #[test]
    fn an_injection_is_verified_and_undone(situation in situation()) {
        let Some(mutated) = situation.answer().get("mutated_object").cloned() else { return Ok(()) };
        let mut settings = situation.settings.clone();
        settings["mode"] = "verify".into();
        let verified = create(&mutated, &situation.cluster(), &settings);
        prop_assert_eq!(&verified["accepted"], true, "{}", verified);
        prop_assert_eq!(verified.get("mutated_object"), None);

        let mut undone = mutated;
        prop_assert!(uninject(&mut undone).unwrap());
        normalise(&mut undone);
        prop_assert_eq!(undone, undoable(&situation.pod));
    }
}

/// Mostly the one that the objects are in.
fn namespace() -> impl Strategy<Value = &'static str> {
    prop_oneof![30 => Just("default"), 1 => Just("kube-system"), 1 => Just("other")]
}

/// The Pod as [`uninject`] can give it back: a status that was copied from another Pod is lost, as it was
/// overwritten; no annotations are as good as an empty map of them, and no secrets as an empty list; `readOnly: false`
/// of a claim is what it is without it.
fn undoable(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if let Some(annotations) = pod["metadata"].get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove("fluid-sidecar-policy/injected");
    }
    normalise(&mut pod);
    pod
}

fn normalise(pod: &mut Value) {
    pod["metadata"].as_object_mut().unwrap().retain(|key, value| key != "annotations" || *value != json!({}));
    pod["spec"]
        .as_object_mut()
        .unwrap()
        .retain(|key, value| key != "imagePullSecrets" || *value != json!([]));
    for volume in pod["spec"]["volumes"].as_array_mut().unwrap() {
        if let Some(claim) = volume.get_mut("persistentVolumeClaim").and_then(Value::as_object_mut) {
            claim.retain(|key, value| key != "readOnly" || *value != false);
        }
    }
}

proptest! {
    #![proptest_config(cases(2_000))]

    /// 1, with others about: an injector that runs between two runs of ours finds its additions untouched.
    #[test]
    fn other_injectors_are_left_alone(situation in situation(), front in any::<bool>()) {
        let answer = situation.answer();
        let Some(mutated) = answer.get("mutated_object") else { return Ok(()) };
        let mut pod = mutated.clone();
        let additions = [
            ("containers", json!({"name": "proxy", "image": "i"})),
            ("initContainers", json!({"name": "proxy-init", "image": "i"})),
            ("volumes", json!({"name": "proxy", "persistentVolumeClaim": {"claimName": "ordinary"}})),
        ];
        // With `datasetsFrom: settings` any claim is a Dataset's here.
        let all_are_datasets = situation.settings["datasetsFrom"] == "settings";
        for (key, mut addition) in additions {
            if key == "volumes" && all_are_datasets {
                addition = json!({"name": "proxy", "emptyDir": {}});
            }
            if pod["spec"][key].is_null() {
                pod["spec"][key] = json!([]);
            }
            let entries = pod["spec"][key].as_array_mut().unwrap();
            entries.insert(if front { 0 } else { entries.len() }, addition);
        }
        let again = create(&pod, &situation.cluster(), &situation.settings);
        prop_assert_eq!(again.get("mutated_object"), None);
        prop_assert_eq!(&again["accepted"], true);
    }

    /// 7, the reads: five for a Dataset's claim at most (its client mounts one more), one for another, two for a missing one, however often it is
    /// mounted; and one of the namespace, if the settings look at its labels.
    #[test]
    fn reads_are_few(situation in situation()) {
        struct Counting(Cluster, Cell<usize>);
        impl cluster::Cluster for Counting {
            fn get<M: Masks>(&self, request: &GetResourceRequest) -> anyhow::Result<Masked<M>> {
                self.1.set(self.1.get() + 1);
                self.0.get(request)
            }
        }
        let host = Counting(situation.cluster(), Cell::default());
        review(&payload(&situation.pod, "default", &situation.settings), &host);
        let claims = list(&situation.pod, "volumes").iter();
        let claims: BTreeSet<_> =
            claims.filter_map(|volume| volume.pointer("/persistentVolumeClaim/claimName")?.as_str()).collect();
        let most = |claim: &&str| match situation.mount(claim) {
            Some(_) => 5,
            None if *claim == "missing" => 2,
            None => 1,
        };
        let calls = host.1.get();
        let settings = &situation.settings;
        let namespace = usize::from(settings.get("namespaceLabels").or(settings.get("selectors")).is_some());
        let most = namespace + claims.iter().map(most).sum::<usize>();
        prop_assert!(calls <= most, "{} reads for {:?}", calls, claims);
        if settings["datasetsFrom"] == "settings" {
            prop_assert!(calls <= namespace, "{} reads", calls);
        }
    }

    /// 2.
    #[test]
    fn pods_that_are_not_ours_cost_no_read(pod in pod(), why in 0..4) {
        struct NoReads;
        impl cluster::Cluster for NoReads {
            fn get<M: Masks>(&self, request: &GetResourceRequest) -> anyhow::Result<Masked<M>> {
                panic!("{request:?} was read");
            }
        }
        let mut pod = pod;
        let mut namespace = "default";
        pod["metadata"]["labels"] = json!({"alibabacloud.com/eci": "true"});
        match why {
            0 => pod["metadata"]["labels"]["fluid.io/enable-injection"] = "false".into(),
            1 => pod["metadata"]["labels"] = json!({"app": "x"}),
            2 => namespace = "kube-system",
            _ => pod["spec"]["volumes"] = json!([{"name": "mount", "emptyDir": {}}]),
        }
        let answer = review(&payload(&pod, namespace, &json!({})), &NoReads);
        prop_assert!(answer.accepted, "{:?}", answer);
        prop_assert!(answer.mutated_object.is_none());
    }

    /// 8, near to what is valid: one value anywhere in what goes in is another.
    #[test]
    fn any_value_may_stand_anywhere(
        situation in situation(), part in 0..3, object in any::<Index>(), at in any::<Index>(), value in any_json(),
    ) {
        let Situation { mut pod, mut settings, .. } = situation.clone();
        let mut objects = situation.objects();
        let document = match part {
            0 => &mut pod,
            1 => &mut settings,
            _ => object.get_mut(&mut objects),
        };
        let mut pointers = Vec::new();
        collect_pointers(document, String::new(), &mut pointers);
        *document.pointer_mut(at.get::<String>(&pointers)).unwrap() = value;

        let mut cluster = tool::objects::Objects::default();
        for object in objects {
            // An object that has lost its name is not there.
            let _ = cluster.add(object);
        }
        let cluster = Cluster(cluster);
        let create = |pod: &Value| as_seen(review(&payload(pod, "default", &settings), &cluster));
        let answer = create(&pod);
        prop_assert_eq!(answer.get("message").is_some(), answer["accepted"] == false);
        if let Some(mutated) = answer.get("mutated_object") {
            prop_assert_eq!(&answer["accepted"], true);
            let again = create(mutated);
            prop_assert_eq!(again.get("mutated_object"), None);
            if part == 0 && violations(&pod).is_empty() {
                prop_assert_eq!(violations(mutated), Vec::<String>::new());
            }
        }
    }

    /// 8, of bytes.
    #[test]
    fn any_bytes_get_an_answer(bytes in vec(any::<u8>(), 0..300), depth in 0..5000usize) {
        let cluster = Cluster::of(Vec::new());
        review(&bytes, &cluster);
        let deep = format!(r#"{{"request":{{"operation":"CREATE","kind":{{"kind":"Pod"}},"object":{}{}}}}}"#,
            r#"{"spec":"#.repeat(depth), "}".repeat(depth));
        review(deep.as_bytes(), &cluster);
    }

    /// Settings that are accepted make Pods that are accepted.
    #[test]
    fn settings_cannot_make_pods_invalid(
        situation in situation(), resource in resource_name(), image in image(),
    ) {
        let mut situation = situation;
        situation.settings["destination"] = "eci".into();
        situation.settings["vfuseResourceName"] = resource.into();
        situation.settings["sidecarImages"] = json!({"thin": image, "jindo": "i"});
        let answer = situation.answer();
        if let Some(mutated) = answer.get("mutated_object") {
            if violations(&situation.pod).is_empty() {
                prop_assert_eq!(violations(mutated), Vec::<String>::new());
            }
        }
    }
}

fn collect_pointers(value: &Value, pointer: String, all: &mut Vec<String>) {
    match value {
        Value::Array(entries) => {
            for (index, entry) in entries.iter().enumerate() {
                collect_pointers(entry, format!("{pointer}/{index}"), all);
            }
        }
        Value::Object(map) => {
            for (key, entry) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                collect_pointers(entry, format!("{pointer}/{key}"), all);
            }
        }
        _ => {}
    }
    all.push(pointer);
}

/// A law about what is never generated would always hold.
#[test]
fn generated_pods_are_worth_the_name() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    const PODS: usize = 1_000;
    let mut runner = TestRunner::deterministic();
    let (mut valid, mut injected, mut two) = (0, BTreeMap::<_, usize>::new(), 0);
    let (mut untouched, mut rejected) = (0, 0);
    for _ in 0..PODS {
        let situation = situation().new_tree(&mut runner).unwrap().current();
        let template = situation.template.spec("/runtime-mnt/thin/default/thin");
        let daemon = json!({"metadata": {"name": "p"}, "spec": template});
        assert_eq!(violations(&daemon), [""; 0], "a DaemonSet's Pod is always valid: {daemon:#}");
        let is_valid = violations(&situation.pod).is_empty();
        valid += usize::from(is_valid);
        let answer = situation.answer();
        match answer["audit_annotations"]["decision"].as_str().unwrap() {
            "untouched" => untouched += 1,
            "rejected" => rejected += 1,
            _ => {}
        }
        if let Some(mutated) = answer.get("mutated_object").filter(|_| is_valid) {
            *injected.entry(destination(mutated)).or_default() += 1;
            two += usize::from(added_containers(&situation.pod, mutated).len() > 1);
        }
    }
    assert!(valid > PODS * 2 / 3, "{valid} of {PODS} Pods are valid");
    for destination in ["acs", "eci", "kubernetes"] {
        let count = injected.get(destination).copied().unwrap_or_default();
        assert!(
            count > PODS / 20,
            "{count} of {PODS} Pods are valid and injected for {destination}: {injected:?}"
        );
    }
    assert!(untouched > PODS / 20, "{untouched} of {PODS} Pods are left untouched");
    assert!(rejected > PODS / 20, "{rejected} of {PODS} Pods are rejected");
    assert!(two > PODS / 20, "{two} of {PODS} Pods are valid and have two sidecars");
    eprintln!(
        "of {PODS}: {valid} valid, {injected:?}, {two} two, {untouched} untouched, {rejected} rejected"
    );
}
