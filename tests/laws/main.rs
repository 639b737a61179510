//! What holds for every Pod, whatever the cluster and the settings: the laws of ARCHITECTURE.md, by number.
//!
//! `PROPTEST_CASES=100000 cargo test --test laws` looks longer than the numbers below.
#![allow(clippy::unwrap_used, reason = "a test")]

mod generators;
#[path = "../support/mod.rs"]
mod support;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use fluid_sidecar_policy::cluster::Host;
use fluid_sidecar_policy::review::review;
use generators::{Situation, any_json, image, pod, resource_name, situation};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};
use support::validation::violations;
use support::{Cluster, create};

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

/// Unlike an index, makes no `null` where there is nothing.
fn entries_mut<'v>(holder: &'v mut Value, key: &str) -> impl Iterator<Item = &'v mut Value> {
    holder.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

fn list_mut<'v>(pod: &'v mut Value, key: &str) -> impl Iterator<Item = &'v mut Value> {
    entries_mut(&mut pod["spec"], key)
}

fn names(entries: &[Value]) -> Vec<&str> {
    entries.iter().map(|entry| entry["name"].as_str().unwrap()).collect()
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
    /// The Dataset of each volume that has one, and whether its claim is read-only.
    fn dataset_volumes(&self) -> BTreeMap<&str, (&str, bool)> {
        let volumes = list(&self.pod, "volumes").iter().filter_map(|volume| {
            let claim = volume.get("persistentVolumeClaim")?;
            let dataset = self.dataset(claim["claimName"].as_str()?)?;
            Some((volume["name"].as_str()?, (dataset, claim["readOnly"] == true)))
        });
        volumes.collect()
    }

    /// Law 3 as a model: the Pod as it came, with what may change in the user's own parts changed.
    fn with_mounts_that_follow(&self) -> Value {
        let datasets = self.dataset_volumes();
        let mut pod = self.pod.clone();
        for key in CONTAINERS {
            for container in list_mut(&mut pod, key) {
                for mount in entries_mut(container, "volumeMounts") {
                    let Some((_, read_only)) = datasets.get(mount["name"].as_str().unwrap()) else {
                        continue;
                    };
                    let recursive =
                        matches!(mount["recursiveReadOnly"].as_str(), Some("Enabled" | "IfPossible"));
                    if !recursive && mount["mountPropagation"] != "Bidirectional" {
                        mount["mountPropagation"] = "HostToContainer".into();
                    }
                    if *read_only {
                        mount["readOnly"] = true.into();
                    }
                }
            }
        }
        without_sources(pod, &datasets)
    }

    /// The Pod as it went, without what was added.
    fn of_the_user(&self, mutated: &Value) -> Value {
        let mut pod = mutated.clone();
        for key in ["initContainers", "containers", "volumes"] {
            let known = names(list(&self.pod, key));
            if let Some(entries) = pod["spec"].get_mut(key).and_then(Value::as_array_mut) {
                entries.retain(|entry| known.contains(&entry["name"].as_str().unwrap()));
            }
        }
        // A sidecar brings its pull secrets, which stand behind, and may be given more time to end.
        let secrets = list(&self.pod, "imagePullSecrets").len();
        if let Some(entries) = pod["spec"].get_mut("imagePullSecrets").and_then(Value::as_array_mut) {
            entries.truncate(secrets);
        }
        let seconds = "terminationGracePeriodSeconds";
        let given = self.pod["spec"].get(seconds);
        if mutated["spec"][seconds].as_i64() > given.map_or(Some(30), Value::as_i64) {
            match given {
                Some(given) => pod["spec"][seconds] = given.clone(),
                None => drop(pod["spec"].as_object_mut().unwrap().remove(seconds)),
            }
        }
        without_sources(pod, &self.dataset_volumes())
    }
}

/// Without what the policy sets anew; maps and lists that are empty then are as good as none.
fn without_sources(mut pod: Value, datasets: &BTreeMap<&str, (&str, bool)>) -> Value {
    for volume in list_mut(&mut pod, "volumes") {
        if datasets.contains_key(volume["name"].as_str().unwrap()) {
            *volume = json!({"name": volume["name"]});
        }
    }
    let metadata = pod["metadata"].as_object_mut().unwrap();
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove("fluid-sidecar-policy/injected");
    }
    metadata.retain(|_, value| *value != json!({}));
    pod["spec"].as_object_mut().unwrap().retain(|_, value| *value != json!([]));
    pod
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

        // 3. The rest is the user's.
        prop_assert_eq!(situation.of_the_user(mutated), situation.with_mounts_that_follow());

        is_whole(&situation, mutated)?;
        stands_where_it_must(&situation, mutated)?;

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
    let datasets: BTreeSet<_> = volumes.values().map(|(dataset, _)| dataset).collect();
    let sidecars = added_containers(&situation.pod, mutated);
    prop_assert_eq!(sidecars.len(), datasets.len());
    // 5. Paths.
    for volume in list(mutated, "volumes") {
        if volumes.contains_key(volume["name"].as_str().unwrap()) {
            let path = volume["hostPath"]["path"].as_str().unwrap();
            let below = path.strip_prefix("/runtime-mnt/").unwrap();
            prop_assert!(below.split('/').all(|part| !matches!(part, "" | "." | "..")), "{}", path);
            prop_assert_eq!(volume.as_object().unwrap().len(), 2);
        }
    }
    let destination = destination(mutated);
    for sidecar in sidecars {
        prop_assert!(sidecar["lifecycle"]["postStart"].is_object(), "no gate");
        prop_assert_eq!(sidecar["lifecycle"].get("preStop"), None);
        // A user of the application's Pod must not reach it (Fluid #2500).
        prop_assert!(sidecar["securityContext"]["runAsUser"].is_number());
        let privileged = &sidecar["securityContext"]["privileged"];
        prop_assert_eq!(privileged, destination != "eci");
        if destination == "eci" {
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
    for volume in added(list(&situation.pod, "volumes"), list(mutated, "volumes")) {
        prop_assert!(destination != "eci" || volume.get("hostPath").is_none(), "{}", volume);
    }
    Ok(())
}

/// Sidecars stand before all containers that need them, and displace as little as they can.
fn stands_where_it_must(situation: &Situation, mutated: &Value) -> Result<(), TestCaseError> {
    let volumes = situation.dataset_volumes();
    let reads = |container: &Value| {
        entries(container, "volumeMounts")
            .iter()
            .any(|mount| volumes.contains_key(mount["name"].as_str().unwrap()))
    };
    let native = destination(mutated) == "kubernetes";
    let key = if native { "initContainers" } else { "containers" };
    let (before, after) = (list(&situation.pod, key), list(mutated, key));
    let count = added(before, after).len();
    prop_assert_eq!(count, added_containers(&situation.pod, mutated).len());
    let index = if native { before.iter().position(reads).unwrap_or(before.len()) } else { 0 };
    prop_assert_eq!(added(before, &after[index..index + count]).len(), count);
    prop_assert!(
        after[index..index + count].iter().all(|sidecar| native == (sidecar["restartPolicy"] == "Always"))
    );
    Ok(())
}

fn destination(mutated: &Value) -> String {
    let status = mutated["metadata"]["annotations"]["fluid-sidecar-policy/injected"].as_str().unwrap();
    let status: Value = serde_json::from_str(status).unwrap();
    status["destination"].as_str().unwrap().to_string()
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

    /// 7, the reads: five for a Dataset's claim at most, one for another, however often it is mounted.
    #[test]
    fn reads_are_few(situation in situation()) {
        struct Counting(Cluster, Cell<usize>);
        impl Host for Counting {
            fn call(&self, namespace: &str, operation: &str, payload: &[u8]) -> Result<Vec<u8>, String> {
                self.1.set(self.1.get() + 1);
                self.0.call(namespace, operation, payload)
            }
        }
        let host = Counting(situation.cluster(), Cell::default());
        review(&payload(&situation.pod, "default", &situation.settings), &host);
        let claims = list(&situation.pod, "volumes").iter();
        let claims: BTreeSet<_> =
            claims.filter_map(|volume| volume.pointer("/persistentVolumeClaim/claimName")?.as_str()).collect();
        let most = |claim: &&str| if situation.dataset(claim).is_some() { 5 } else { 1 };
        let calls = host.1.get();
        prop_assert!(calls <= claims.iter().map(most).sum(), "{} reads for {:?}", calls, claims);
        if situation.settings["datasetsFrom"] == "settings" {
            prop_assert_eq!(calls, 0);
        }
    }

    /// 2.
    #[test]
    fn pods_that_are_not_ours_cost_no_read(pod in pod(), why in 0..4) {
        struct NoReads;
        impl Host for NoReads {
            fn call(&self, _: &str, operation: &str, _: &[u8]) -> Result<Vec<u8>, String> {
                panic!("{operation} was called");
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

        let mut cluster = evaluate::objects::Objects::default();
        for object in objects {
            // An object that has lost its name is not there.
            let _ = cluster.add(object);
        }
        let cluster = Cluster(cluster);
        let create = |pod: &Value| {
            serde_json::to_value(review(&payload(pod, "default", &settings), &cluster)).unwrap()
        };
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
    for _ in 0..PODS {
        let situation = situation().new_tree(&mut runner).unwrap().current();
        let template = situation.template.spec("/runtime-mnt/thin/default/thin");
        let daemon = json!({"metadata": {"name": "p"}, "spec": template});
        assert_eq!(violations(&daemon), [""; 0], "a DaemonSet's Pod is always valid: {daemon:#}");
        let is_valid = violations(&situation.pod).is_empty();
        valid += usize::from(is_valid);
        let answer = situation.answer();
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
    assert!(two > PODS / 20, "{two} of {PODS} Pods are valid and have two sidecars");
}
