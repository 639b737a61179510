//! The Pods of an object that is neither a Pod nor a built-in workload.
//!
//! Most custom resources hold Pod templates, or PodSpecs alone: a walk finds them wherever they stand. Some put a Pod
//! together of fields of their own; `COMPOSED` says how. Only the manifest is known here: containers, labels and names
//! that a controller adds, and fields that it patches (Argo's `podSpecPatch`), are not in these Pods.

use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};

/// More Pods in one object are an error: no object that people write has as many, and each is a copy of what is shared.
const MAX_PODS: usize = 100;

/// How deep an object is searched. No Pod template is as deep, even in an object within another one.
const MAX_DEPTH: usize = 64;

/// A Pod in an object.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where it stands, as in `spec.workerGroupSpecs[0].template`.
    pub path: String,
    /// The Pod, as far as the object says what it is.
    pub pod: Value,
}

/// Objects with containers of Pods that they do not make, by group and kind; no kind means the whole group.
const MAKE_NO_PODS: [(&str, &str); 11] = [
    ("apiextensions.k8s.io", ""),
    ("apps", "ControllerRevision"),
    ("apps.kruise.io", "ContainerRecreateRequest"),
    ("apps.kruise.io", "SidecarSet"),
    ("constraints.gatekeeper.sh", ""),
    ("kyverno.io", ""),
    ("metrics.k8s.io", ""),
    ("mutations.gatekeeper.sh", ""),
    ("policies.kyverno.io", ""),
    ("serving.kserve.io", "ClusterServingRuntime"),
    ("serving.kserve.io", "ServingRuntime"),
];

/// How a controller puts Pods together of fields that are no Pod template. Fields are named by their path; `*` is each
/// element of a list.
struct Composed {
    group: &'static str,
    kinds: &'static [&'static str],
    /// The maps whose fields all its Pods get: those of a PodSpec, volumes where they are mounted, `templateDefaults`.
    shared: &'static [&'static str],
    /// In what is shared: labels and annotations of all its Pods.
    shared_metadata: Option<&'static str>,
    /// In what is shared: what makes one Pod each. It has fields of a PodSpec, which replace those that are shared, or a
    /// Pod template, to which they are added, or is one.
    places: &'static [&'static str],
    /// In such a place: labels and annotations.
    metadata: &'static str,
    /// In such a place: the containers, one of which makes it a Pod. `sidecars` are added.
    containers: &'static [&'static str],
    /// The name of a container that has none.
    container_name: &'static str,
    restart_policy: &'static str,
}

const COMPOSED: [Composed; 5] = [
    Composed {
        group: "argoproj.io",
        kinds: &["Workflow", "WorkflowTemplate", "ClusterWorkflowTemplate", "CronWorkflow"],
        shared: &["spec", "spec.workflowSpec"],
        shared_metadata: Some("podMetadata"),
        places: &["templates.*", "templates.*.steps.*.*.inline", "templates.*.dag.tasks.*.inline"],
        metadata: "metadata",
        containers: &["container", "script", "containerSet.containers.*"],
        container_name: "main",
        restart_policy: "Never",
    },
    Composed {
        group: "sparkoperator.k8s.io",
        kinds: &["SparkApplication", "ScheduledSparkApplication"],
        shared: &["spec", "spec.template"],
        shared_metadata: None,
        places: &["driver"],
        metadata: "",
        containers: &[""],
        container_name: "spark-kubernetes-driver",
        restart_policy: "Never",
    },
    Composed {
        group: "sparkoperator.k8s.io",
        kinds: &["SparkApplication", "ScheduledSparkApplication"],
        shared: &["spec", "spec.template"],
        shared_metadata: None,
        places: &["executor"],
        metadata: "",
        containers: &[""],
        container_name: "spark-kubernetes-executor",
        restart_policy: "Never",
    },
    Composed {
        group: "serving.kserve.io",
        kinds: &["InferenceService"],
        shared: &[""],
        shared_metadata: Some("metadata"),
        places: &["spec.predictor", "spec.predictor.workerSpec", "spec.transformer", "spec.explainer"],
        metadata: "",
        containers: &[
            "model",
            "huggingface",
            "lightgbm",
            "mlserver",
            "onnx",
            "paddle",
            "pmml",
            "pytorch",
            "sklearn",
            "tensorflow",
            "triton",
            "xgboost",
            "art",
            "containers.*",
        ],
        container_name: "kserve-container",
        restart_policy: "Always",
    },
    Composed {
        group: "batch.volcano.sh",
        kinds: &["Job"],
        shared: &["spec"],
        shared_metadata: None,
        places: &["tasks.*.template"],
        metadata: "metadata",
        containers: &[],
        container_name: "",
        restart_policy: "OnFailure",
    },
];

/// Fields of a PodSpec that other objects have under the same name and with the same meaning.
const POD_FIELDS: [&str; 31] = [
    "affinity",
    "automountServiceAccountToken",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostUsers",
    "hostname",
    "imagePullSecrets",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "os",
    "overhead",
    "preemptionPolicy",
    "priorityClassName",
    "resourceClaims",
    "runtimeClassName",
    "schedulerName",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
];

/// The same of a container.
const CONTAINER_FIELDS: [&str; 25] = [
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resizePolicy",
    "resources",
    "restartPolicy",
    "restartPolicyRules",
    "securityContext",
    "startupProbe",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
];

/// Finds the Pods of an object, in the order of their paths' fields.
pub fn find(object: &Value) -> Result<Vec<Found>> {
    let mut search = Search { object, found: Vec::new() };
    search.walk(object, None, "", 0)?;
    Ok(search.found)
}

/// The group of an object's apiVersion; empty for Kubernetes' core, and where there is no apiVersion.
pub fn group(object: &Value) -> &str {
    text(object, "apiVersion").rsplit_once('/').map_or("", |(group, _)| group)
}

/// Makes volumes of claim templates, instead of volumes of the same name, as StatefulSets have it.
pub fn add_claims(templates: Option<&Value>, claim: impl Fn(&str) -> String, spec: &mut Value) -> Result<()> {
    for template in templates.and_then(Value::as_array).into_iter().flatten() {
        let name = template.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        ensure!(!name.is_empty(), "spec.volumeClaimTemplates: metadata.name is missing");
        set_volume(spec, json!({"name": name, "persistentVolumeClaim": {"claimName": claim(name)}}));
    }
    Ok(())
}

struct Search<'a> {
    object: &'a Value,
    found: Vec<Found>,
}

impl Search<'_> {
    /// Looks into a value, whose parent is `holder`.
    fn walk(&mut self, value: &Value, holder: Option<&Value>, path: &str, depth: usize) -> Result<()> {
        let (group, kind) = (group(value), text(value, "kind"));
        let has_no_pods = |&(of, only): &(&str, &str)| of == group && (only.is_empty() || only == kind);
        if depth > MAX_DEPTH || MAKE_NO_PODS.iter().any(has_no_pods) {
            return Ok(());
        }
        let mut rows =
            COMPOSED.iter().filter(|row| row.group == group && row.kinds.contains(&kind)).peekable();
        if rows.peek().is_some() {
            return rows.try_for_each(|row| self.compose_all(row, value, path));
        }
        for (child_path, key, child) in children(value, path) {
            // Of the object itself `metadata` is no Pod's, and `status` tells of Pods that are.
            if depth == 0 && matches!(key, "metadata" | "status") {
                continue;
            }
            if is_pod_spec(child) {
                let mut spec = child.clone();
                // A template has its own metadata; what stands at the top of an object is the object's.
                if key == "spec" && depth > 0 {
                    let templates = holder.and_then(|holder| holder.get("volumeClaimTemplates"));
                    let claim = |volume: &str| format!("{volume}-{}-0", self.name());
                    add_claims(templates, claim, &mut spec)?;
                    self.push(path.into(), map(value.get("metadata")), spec)?;
                } else {
                    self.push(child_path.clone(), Map::new(), spec)?;
                }
            }
            self.walk(child, Some(value), &child_path, depth + 1)?;
        }
        Ok(())
    }

    fn compose_all(&mut self, row: &Composed, object: &Value, path: &str) -> Result<()> {
        for base in row.shared {
            for (path, shared) in select(object, path, base) {
                for place in row.places {
                    for (path, place) in select(shared, &path, place) {
                        if let Some((metadata, spec)) = self.compose(row, shared, place)? {
                            self.push(path, metadata, spec)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The metadata and the spec of one Pod; nothing where there is no container, as in a step that only calls others.
    fn compose(
        &self,
        row: &Composed,
        shared: &Value,
        place: &Value,
    ) -> Result<Option<(Map<String, Value>, Value)>> {
        let template = if place.get("spec").is_some() { Some(place) } else { place.get("template") };
        // Defaults do not make a container of a place that has none of this sort.
        let mut sorts: Vec<&str> = row.containers.to_vec();
        sorts.retain(|sort| select(place, "", sort).iter().any(|(_, it)| it.is_object()));
        let of_template = template.and_then(|template| template.get("spec"));
        if sorts.is_empty() && !of_template.is_some_and(is_pod_spec) {
            return Ok(None);
        }
        sorts.push("sidecars.*");
        let mut whole = json!({});
        overlay(&mut whole, shared.get("templateDefaults").unwrap_or(&Value::Null));
        overlay(&mut whole, place);
        let place = &whole;

        let mut spec = json!({"restartPolicy": row.restart_policy});
        set_fields(&mut spec, &only(shared, &POD_FIELDS));
        let claims = shared.get("volumeClaimTemplates");
        add_claims(claims, |volume| format!("{}-{volume}", self.name()), &mut spec)?;
        let volumes_if_mounted = names(&spec["volumes"]);
        set_fields(&mut spec, of_template.unwrap_or(&Value::Null));
        let mut own = only(place, &POD_FIELDS);
        if row.containers.contains(&"") {
            // The place's securityContext is that of its container.
            own["securityContext"] = place.get("podSecurityContext").unwrap_or(&Value::Null).clone();
        }
        set_fields(&mut spec, &own);
        let sources = sorts.iter().flat_map(|sort| select(place, "", sort));
        for (_, source) in sources.filter(|(_, it)| it.is_object()) {
            let mut container = only(source, &CONTAINER_FIELDS);
            let defaults =
                [("name", Some(json!(row.container_name))), ("image", shared.get("image").cloned())];
            for (field, default) in defaults {
                if let (None, Some(default)) = (container.get(field), default) {
                    container[field] = default;
                }
            }
            mount_model(text(source, "storageUri"), &mut container, &mut spec);
            overlay(&mut spec["containers"], &json!([container]));
        }
        mount_for_all(shared.get("volumes"), &mut spec);
        let mounted: Vec<String> = ["containers", "initContainers"]
            .iter()
            .flat_map(|list| list_of(&spec, list))
            .flat_map(|container| ["volumeMounts", "volumeDevices"].map(|list| names(&container[list])))
            .flatten()
            .collect();
        if let Some(volumes) = spec["volumes"].as_array_mut() {
            let stays = |name: &str| {
                !volumes_if_mounted.iter().any(|it| it == name) || mounted.iter().any(|it| it == name)
            };
            volumes.retain(|volume| stays(text(volume, "name")));
        }
        if let Some(fields) = spec.as_object_mut() {
            fields.retain(|_, value| !value.is_null() && *value != json!([]));
        }

        let mut metadata = template.map(|template| map(template.get("metadata"))).unwrap_or_default();
        let of_all = row.shared_metadata.map(|pattern| select(shared, "", pattern)).unwrap_or_default();
        for (_, source) in of_all.into_iter().chain(select(place, "", row.metadata)) {
            for field in ["labels", "annotations"] {
                let mut added = map(source.get(field));
                added.remove("kubectl.kubernetes.io/last-applied-configuration");
                if !added.is_empty() {
                    overlay(metadata.entry(field).or_insert(Value::Null), &added.into());
                }
            }
        }
        Ok(Some((metadata, spec)))
    }

    fn push(&mut self, path: String, mut metadata: Map<String, Value>, spec: Value) -> Result<()> {
        ensure!(self.found.len() < MAX_PODS, "more than {MAX_PODS} Pods in one object");
        metadata.remove("name");
        if !self.name().is_empty() {
            metadata.insert("generateName".into(), format!("{}-", self.name()).into());
        }
        if let Some(namespace) = self.object.pointer("/metadata/namespace") {
            metadata.insert("namespace".into(), namespace.clone());
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        self.found.push(Found { path, pod });
        Ok(())
    }

    /// The object's name; the beginning of it where the API server makes the rest.
    fn name(&self) -> &str {
        let metadata = &self.object["metadata"];
        match text(metadata, "name") {
            "" => text(metadata, "generateName").trim_end_matches('-'),
            name => name,
        }
    }
}

/// A map with a list of containers, each of which has a name or an image.
fn is_pod_spec(value: &Value) -> bool {
    let is_container = |it: &Value| !text(it, "name").is_empty() || !text(it, "image").is_empty();
    let containers = value.get("containers").and_then(Value::as_array);
    containers.is_some_and(|containers| !containers.is_empty() && containers.iter().all(is_container))
}

/// The values below a value, with their paths and keys.
fn children<'a>(value: &'a Value, path: &str) -> Vec<(String, &'a str, &'a Value)> {
    match value {
        Value::Array(list) => {
            list.iter().enumerate().map(|(index, it)| (format!("{path}[{index}]"), "", it)).collect()
        }
        Value::Object(map) => map.iter().map(|(key, it)| (join(path, key), key.as_str(), it)).collect(),
        _ => Vec::new(),
    }
}

/// The values that a pattern of [`Composed`] matches below a value, each with its path. An empty pattern matches the
/// value itself.
fn select<'a>(value: &'a Value, path: &str, pattern: &str) -> Vec<(String, &'a Value)> {
    let mut found = vec![(path.to_string(), value)];
    for step in pattern.split('.').filter(|step| !step.is_empty()) {
        let next = |(path, value): (String, &'a Value)| -> Vec<(String, &'a Value)> {
            match step {
                "*" if value.is_array() => {
                    children(value, &path).into_iter().map(|(path, _, it)| (path, it)).collect()
                }
                _ => value.get(step).map(|it| (join(&path, step), it)).into_iter().collect(),
            }
        };
        found = found.into_iter().flat_map(next).collect();
    }
    found
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.into() } else { format!("{path}.{key}") }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn map(value: Option<&Value>) -> Map<String, Value> {
    value.and_then(Value::as_object).cloned().unwrap_or_default()
}

fn list_of<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

fn names(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|it| text(it, "name").to_string()).collect()
}

/// Those of a map's fields that are listed.
fn only(value: &Value, fields: &[&str]) -> Value {
    let mut map = map(Some(value));
    map.retain(|field, _| fields.contains(&field.as_str()));
    map.into()
}

/// Sets fields of a PodSpec: volumes and containers beside those of other names, all else in the place of what was there.
fn set_fields(spec: &mut Value, fields: &Value) {
    for (field, value) in fields.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        match field.as_str() {
            "volumes" => {
                let named =
                    value.as_array().into_iter().flatten().filter(|volume| volume.get("name").is_some());
                named.for_each(|volume| set_volume(spec, volume.clone()));
            }
            "containers" => overlay(&mut spec["containers"], value),
            _ => spec[field] = value.clone(),
        }
    }
}

/// Adds a volume to a PodSpec, in the place of one of its name.
fn set_volume(spec: &mut Value, volume: Value) {
    // A spec that is no map is the policy's to refuse.
    let Some(spec) = object_mut(spec) else { return };
    let mut volumes = match spec.remove("volumes") {
        Some(Value::Array(volumes)) => volumes,
        _ => Vec::new(),
    };
    volumes.retain(|known| known["name"] != volume["name"]);
    volumes.push(volume);
    spec.insert("volumes".into(), volumes.into());
}

/// A value as a map, which is made where there is nothing.
pub fn object_mut(value: &mut Value) -> Option<&mut Map<String, Value>> {
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut()
}

/// KServe mounts the claim of `pvc://CLAIM/PATH`, the place of a model, into the container that serves it.
fn mount_model(storage_uri: &str, container: &mut Value, spec: &mut Value) {
    let Some(place) = storage_uri.strip_prefix("pvc://") else { return };
    let (claim, path) = place.split_once('/').unwrap_or((place, ""));
    let volume = "kserve-pvc-source";
    set_volume(spec, json!({"name": volume, "persistentVolumeClaim": {"claimName": claim}}));
    let mount = json!([{"name": volume, "mountPath": "/mnt/models", "subPath": path, "readOnly": true}]);
    overlay(&mut container["volumeMounts"], &mount);
}

/// Volcano mounts the claims that a Job names with a path into each container of each Pod.
fn mount_for_all(volumes: Option<&Value>, spec: &mut Value) {
    for volume in volumes.and_then(Value::as_array).into_iter().flatten() {
        let (claim, path) = (text(volume, "volumeClaimName"), text(volume, "mountPath"));
        if claim.is_empty() || path.is_empty() {
            continue;
        }
        let name = format!("volcano-{claim}");
        set_volume(spec, json!({"name": name, "persistentVolumeClaim": {"claimName": claim}}));
        let containers = spec["containers"].as_array_mut().into_iter().flatten();
        for container in containers.filter(|container| container.is_object()) {
            overlay(&mut container["volumeMounts"], &json!([{"name": name, "mountPath": path}]));
        }
    }
}

/// Lays one value over another, as Kubernetes merges: maps field by field, lists of maps by their `mountPath` or `name`;
/// all else replaces what was there.
fn overlay(base: &mut Value, top: &Value) {
    match (base, top) {
        (_, Value::Null) => {}
        (Value::Object(base), Value::Object(top)) => {
            for (field, value) in top {
                overlay(base.entry(field).or_insert(Value::Null), value);
            }
        }
        (Value::Array(base), Value::Array(top)) if merge_key(top).is_some() => {
            let key = merge_key(top).unwrap_or_default();
            for element in top {
                match base.iter_mut().find(|known| known.get(key) == element.get(key)) {
                    Some(known) => overlay(known, element),
                    None => base.push(element.clone()),
                }
            }
        }
        (base, top) => *base = top.clone(),
    }
}

/// The field by which elements of a list are told apart.
fn merge_key(list: &[Value]) -> Option<&'static str> {
    ["mountPath", "name"].into_iter().find(|key| list.iter().all(|element| element.get(key).is_some()))
}
