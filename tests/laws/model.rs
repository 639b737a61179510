//! SEMANTICS.md as a program: what becomes of a Pod, told as simply as can be, without any code of the policy.
//!
//! It says what is decided, not why: no reasons, no warnings, no reads that fail half-way. It knows as much as
//! [`super::generators`] generate; anything else it may take for something simpler than it is.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

/// What becomes of a Pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Untouched,
    Rejected,
    Mutated(Value),
}

/// Where a Pod goes.
enum Place {
    Serverless(String),
    Undecidable,
    Ordinary,
}

/// A Dataset cannot be served, or the namespace not be read: `onUnresolved` says what follows.
struct Problem;

/// How things are done on a destination.
pub(crate) struct How {
    /// The sidecar is privileged; otherwise an extended resource grants its device.
    pub(crate) privileged: bool,
    /// It is a native sidecar; otherwise it is among the first containers.
    pub(crate) native: bool,
    exit: String,
    readiness_probe: bool,
    /// A container of its own mounts for `fluid-fuse`.
    holder: bool,
}

struct Dataset {
    name: String,
    runtime: String,
    /// Where its client mounts it.
    mount_point: String,
    /// What of it the application gets.
    sub_path: String,
    server: Server,
}

enum Server {
    /// `spec.template.spec` of a DaemonSet.
    DaemonSet(Value),
    /// An image that knows its source, or `fluid-fuse` with the variables that hold it.
    Image(Value, Option<Vec<Value>>),
}

struct Sidecar {
    container: Value,
    /// If that is `fluid-fuse`, its program and where it mounts.
    fluid_fuse: Option<(String, String)>,
    /// Where the node has what it mounts.
    mount_point: String,
    /// kubelet makes the directory of the mount.
    makes_directory: bool,
    volumes: Vec<Value>,
    secrets: Vec<Value>,
    grace_seconds: i64,
}

struct Request<'a> {
    pod: &'a Value,
    cluster: &'a [Value],
    settings: &'a Value,
    namespace: &'a str,
}

/// The creation of a Pod.
pub(crate) fn mutate(pod: &Value, cluster: &[Value], settings: &Value, namespace: &str) -> Outcome {
    let request = Request { pod, cluster, settings, namespace };
    let reaction = |setting: &str, default: &str| match settings[setting].as_str().unwrap_or(default) {
        "allow" => Outcome::Untouched,
        _ => Outcome::Rejected,
    };
    let claims = request.claims();
    if request.is_left_alone() || claims.is_empty() {
        return Outcome::Untouched;
    }
    let destination = match request.place() {
        Ok(Place::Serverless(destination)) => destination,
        Ok(Place::Undecidable) if claims.iter().any(|claim| request.is_dataset(claim)) => {
            return reaction("onUndecidable", "allow");
        }
        Ok(Place::Undecidable | Place::Ordinary) => return Outcome::Untouched,
        Err(Problem) => return reaction("onUnresolved", "reject"),
    };
    match request.inject(&destination) {
        Ok(Some(pod)) => Outcome::Mutated(pod),
        Ok(None) => Outcome::Untouched,
        Err(Problem) => reaction("onUnresolved", "reject"),
    }
}

// --- which requests, and where the Pod goes ----------------------------------------------------------------

impl Request<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        self.pod["metadata"]["labels"][key].as_str()
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.pod["metadata"]["annotations"][key].as_str()
    }

    fn object(&self, kind: &str, name: &str) -> Option<&Value> {
        self.object_of(self.namespace, kind, name)
    }

    fn object_of(&self, namespace: &str, kind: &str, name: &str) -> Option<&Value> {
        self.cluster.iter().find(|object| {
            let metadata = &object["metadata"];
            object["kind"] == kind
                && metadata["name"] == name
                && metadata["namespace"].as_str().is_none_or(|its| its == namespace)
        })
    }

    fn is_left_alone(&self) -> bool {
        self.label("fluid.io/enable-injection") == Some("false")
            || self.namespace == "kube-system"
            || self.annotation("kubernetes.io/config.mirror").is_some()
            || self.pod["spec"]["os"]["name"] == "windows"
    }

    /// In the order of the volumes, each once.
    fn claims(&self) -> Vec<&str> {
        let mut claims = Vec::new();
        for volume in list(&self.pod["spec"], "volumes") {
            if let Some(claim) = volume["persistentVolumeClaim"]["claimName"].as_str() {
                if !claims.contains(&claim) {
                    claims.push(claim);
                }
            }
        }
        claims
    }

    fn namespace_labels(&self) -> Result<&Value, Problem> {
        Ok(&self.object("Namespace", self.namespace).ok_or(Problem)?["metadata"]["labels"])
    }

    fn place(&self) -> Result<Place, Problem> {
        if let Some(destination) = self.settings["destination"].as_str() {
            return Ok(Place::Serverless(destination.to_string()));
        }
        for selector in list(self.settings, "selectors") {
            let selects = |wanted: &Value, labels: &Value| {
                wanted.as_object().into_iter().flatten().all(|(key, value)| labels[key] == *value)
            };
            if !selects(&selector["podLabels"], &self.pod["metadata"]["labels"]) {
                continue;
            }
            let namespace = &selector["namespaceLabels"];
            if namespace.is_null() || selects(namespace, self.namespace_labels()?) {
                return Ok(Place::Serverless(text(&selector["destination"])));
            }
        }
        self.builtin_place()
    }

    /// The table of SEMANTICS.md, row by row.
    fn builtin_place(&self) -> Result<Place, Problem> {
        let enabled = |destination: &str| match self.settings.get("destinations") {
            Some(named) => named.get(destination).is_some(),
            None => destination == "eci",
        };
        let to = |destination: &str| {
            Ok(if enabled(destination) {
                Place::Serverless(destination.to_string())
            } else {
                Place::Ordinary
            })
        };
        let label = |key: &str, value: &str| self.label(key) == Some(value);
        let annotation = |key: &str, value: &str| self.annotation(key) == Some(value);
        let spec = &self.pod["spec"];

        if label("alibabacloud.com/fluid-sidecar-target", "eci") {
            return to("eci");
        }
        if label("alibabacloud.com/fluid-sidecar-target", "acs") {
            return to("acs");
        }
        if label("alibabacloud.com/eci", "true") || label("eci", "true") {
            return to("eci");
        }
        if label("alibabacloud.com/acs", "true") || self.label("alibabacloud.com/compute-class").is_some() {
            return to("acs");
        }
        // Fluid's labels ask for a sidecar; the rest of the table says where, if it does.
        let asks =
            label("serverless.fluid.io/inject", "true") || label("fuse.sidecar.fluid.io/inject", "true");
        let unprivileged = label("unprivileged.sidecar.fluid.io/inject", "true")
            || annotation("serverless.fluid.io/platform", "unprivileged");
        let ordinary = || if asks && !unprivileged { to("kubernetes") } else { Ok(Place::Ordinary) };
        if let Some(node) = spec["nodeName"].as_str() {
            let is_virtual = node == "virtual-kubelet"
                || node.starts_with("virtual-kubelet-")
                || node.starts_with("virtual-node-")
                || node.contains(".vnd-");
            return if is_virtual { to("eci") } else { ordinary() };
        }

        let virtual_nodes = [("type", "virtual-kubelet"), ("k8s.aliyun.com/vnode", "true")];
        let node_affinity = &spec["affinity"]["nodeAffinity"];
        let required =
            list(&node_affinity["requiredDuringSchedulingIgnoredDuringExecution"], "nodeSelectorTerms");
        if virtual_nodes.iter().any(|(key, value)| spec["nodeSelector"][key] == *value) {
            return to("eci");
        }
        if virtual_nodes.iter().any(|(key, value)| {
            // No other value is left to the scheduler.
            !required.is_empty()
                && required.iter().all(|term| values(term, "In", key).is_some_and(|all| all == [*value]))
        }) {
            return to("eci");
        }
        if !required.is_empty()
            && required.iter().all(|term| {
                values(term, "NotIn", "type").is_some_and(|all| all.contains(&"virtual-kubelet".into()))
            })
        {
            return ordinary();
        }
        if annotation("alibabacloud.com/burst-resource", "eci_only") {
            return to("eci");
        }
        if self.settings["namespaceLabels"] == "read" {
            let labels = self.namespace_labels()?;
            if labels["alibabacloud.com/eci"] == "true"
                || labels["eci"] == "true"
                || labels["virtual-node-affinity-injection"] == "enabled"
            {
                return to("eci");
            }
        }

        let preferred = list(node_affinity, "preferredDuringSchedulingIgnoredDuringExecution");
        let terms: Vec<_> = required.iter().chain(preferred.iter().map(|term| &term["preference"])).collect();
        let elsewhere = annotation("vke.volcengine.com/burst-to-vci", "enforce")
            || label("virtual-kubelet.io/burst-to-cci", "enforce")
            || label("bursting.cci.io/burst-to-cci", "enforce")
            || spec["nodeSelector"]["node.kubernetes.io/instance-type"] == "eklet";
        if elsewhere {
            return Ok(Place::Undecidable);
        }
        let destination = if unprivileged { "eci" } else { "kubernetes" };
        if asks && enabled(destination) {
            return to(destination);
        }
        let undecidable = annotation("alibabacloud.com/burst-resource", "eci")
            || virtual_nodes.iter().any(|(key, value)| {
                let mentions =
                    |term| values(term, "In", key).is_some_and(|all| all.contains(&(*value).into()));
                terms.iter().any(|term| mentions(term))
            })
            || list(spec, "tolerations").iter().any(|toleration| {
                toleration["key"] == "virtual-kubelet.io/provider"
                    || toleration["key"] == "k8s.aliyun.com/vnode"
            });
        Ok(if undecidable { Place::Undecidable } else { Place::Ordinary })
    }
}

/// The values of the expression of a node selector term with this operator and key.
fn values<'v>(term: &'v Value, operator: &str, key: &str) -> Option<&'v [Value]> {
    let mut expressions = list(term, "matchExpressions").iter();
    let expression =
        expressions.find(|expression| expression["operator"] == operator && expression["key"] == key)?;
    Some(list(expression, "values"))
}

// --- which volumes -----------------------------------------------------------------------------------------

impl Request<'_> {
    /// The entry of `datasets` for a claim. The generated patterns have no namespace.
    fn rule(&self, claim: &str) -> Option<&Value> {
        list(self.settings, "datasets").iter().find(|rule| rule["claim"] == "*" || rule["claim"] == claim)
    }

    fn is_dataset(&self, claim: &str) -> bool {
        match self.settings["datasetsFrom"] == "settings" {
            true => self.rule(claim).is_some(),
            false => self
                .object("PersistentVolumeClaim", claim)
                .is_some_and(|object| dataset_of(object, claim).is_some()),
        }
    }

    /// The Dataset of a claim, `None` of an ordinary one.
    fn dataset(&self, claim: &str, how: &How) -> Result<Option<Dataset>, Problem> {
        let image = |runtime: &str| self.settings["sidecarImages"][runtime].clone();
        if self.settings["datasetsFrom"] == "settings" {
            let Some(rule) = self.rule(claim) else { return Ok(None) };
            let runtime = rule["runtime"].as_str().unwrap_or("thin").to_string();
            let mount_point =
                format!("/runtime-mnt/{runtime}/{}/{claim}/{}-fuse", self.namespace, directory(&runtime));
            let source = rule["source"].as_str();
            let source = source.map(|url| vec![variable("FLUID_FUSE_SOURCE", url)]);
            return Ok(Some(Dataset {
                name: claim.to_string(),
                sub_path: String::new(),
                mount_point,
                server: Server::Image(image(&runtime), source),
                runtime,
            }));
        }

        let object = self.object("PersistentVolumeClaim", claim).ok_or(Problem)?;
        let Some(name) = dataset_of(object, claim) else { return Ok(None) };
        let dataset = self.object("Dataset", name).ok_or(Problem)?;
        match dataset["status"]["phase"].as_str() {
            None | Some("NotBound") => return Err(Problem),
            Some("Failed") if self.settings["injectFailedDatasets"] == false => return Err(Problem),
            _ => {}
        }
        let fluid_fuse = self.settings["sidecarFrom"] == "fluid-fuse";
        let named = dataset["status"]["runtimes"][0]["type"].as_str().unwrap_or_default();
        if !fluid_fuse && !["alluxio", "cache", "goosefs", "jindo", "juicefs", "thin"].contains(&named) {
            return Err(Problem);
        }
        let volume = self.object("PersistentVolume", &format!("{}-{name}", self.namespace)).ok_or(Problem)?;
        let attributes = &volume["spec"]["csi"]["volumeAttributes"];
        let mount_point = attributes["fluid_path"].as_str().ok_or(Problem)?.to_string();
        let sub_path = attributes["fluid_sub_path"].as_str().unwrap_or_default();
        let climbs = |path: &str| path.split('/').any(|part| part == "..");
        if climbs(&mount_point) || climbs(sub_path) || !mount_point.starts_with("/runtime-mnt/") {
            return Err(Problem);
        }
        // /runtime-mnt/<runtime>/<namespace>/<name>/<directory>
        let place: Vec<_> = mount_point.split('/').skip(2).collect();
        let borrowed = place[1] != self.namespace;
        let (server, runtime) = if fluid_fuse {
            let url = dataset["spec"]["mounts"][0]["mountPoint"].as_str().unwrap_or_default();
            let mounts = match url.split_once("://").ok_or(Problem)? {
                ("dataset", _) => mounts_of(self.object_of(place[1], "Dataset", place[2]).ok_or(Problem)?),
                ("s3" | "https", _) => mounts_of(dataset),
                // Of `pvc` it knows nothing, and a directory of a node is not in it.
                _ => return Err(Problem),
            };
            (Server::Image(image("thin"), Some(mounts)), "thin")
        } else {
            let kind = match named {
                "jindo" => "jindofs-fuse",
                "cache" => "client",
                _ => "fuse",
            };
            let daemonset = self.object("DaemonSet", &format!("{name}-{kind}")).ok_or(Problem)?;
            let spec = daemonset["spec"]["template"]["spec"].clone();
            // Of the generated objects Fluid copies none.
            let names = |volume: &Value| {
                // A privileged sidecar has no block devices, for which the claim is.
                let claim = !how.privileged && volume.get("persistentVolumeClaim").is_some();
                volume.get("configMap").is_some() || claim
            };
            let lacks =
                list(&spec, "volumes").iter().any(names) || !list(&spec, "imagePullSecrets").is_empty();
            if borrowed && lacks && self.settings["injectIncompleteReferences"] != true {
                return Err(Problem);
            }
            (Server::DaemonSet(spec), place[0])
        };
        Ok(Some(Dataset {
            name: name.to_string(),
            runtime: runtime.to_string(),
            sub_path: sub_path.to_string(),
            mount_point,
            server,
        }))
    }
}

fn dataset_of<'v>(object: &'v Value, claim: &'v str) -> Option<&'v str> {
    let labels = &object["metadata"]["labels"];
    let is_fluids = labels.as_object()?.keys().any(|key| key.starts_with("fluid.io/s-"));
    labels["fluid.io/managed-by"].as_str().or(is_fluids.then_some(claim))
}

/// What the directory of a Runtime's mounts begins with.
fn directory(runtime: &str) -> &str {
    if runtime == "jindo" { "jindofs" } else { runtime }
}

/// The variables that hold the mounts of a Dataset and its secrets.
fn mounts_of(dataset: &Value) -> Vec<Value> {
    let spec = &dataset["spec"];
    let mut secrets = Vec::new();
    let mut mounts = Vec::new();
    for mount in list(spec, "mounts") {
        let mut options = json!({});
        for (key, value) in
            [&spec["sharedOptions"], &mount["options"]].into_iter().filter_map(Value::as_object).flatten()
        {
            options[key] = value.clone();
        }
        let mut secret_options = json!({});
        for option in list(spec, "sharedEncryptOptions").iter().chain(list(mount, "encryptOptions")) {
            let name = format!("FLUID_FUSE_SECRET_{}", secrets.len());
            secrets.push(json!({"name": name, "valueFrom": option["valueFrom"]}));
            secret_options[option["name"].as_str().unwrap()] = name.into();
        }
        let mut known = json!({
            "mountPoint": mount["mountPoint"], "options": options, "secretOptions": secret_options,
        });
        for key in ["name", "path", "readOnly"] {
            if let Some(value) = mount.get(key) {
                known[key] = value.clone();
            }
        }
        mounts.push(known);
    }
    let config = json!({"mounts": mounts, "accessModes": list(spec, "accessModes")});
    [vec![variable("FLUID_FUSE_CONFIG_JSON", &config.to_string())], secrets].concat()
}

/// kubelet replaces nothing in the value.
fn variable(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value.replace("$(", "$$(")})
}

// --- what the sidecar is -----------------------------------------------------------------------------------

impl Request<'_> {
    fn sidecar(&self, dataset: &Dataset, how: &How, limits: &[(&str, &str)]) -> Result<Sidecar, Problem> {
        let ours = matches!(dataset.server, Server::Image(_, Some(_)));
        let image = &self.settings["sidecarImages"][&dataset.runtime];
        let (mut sidecar, gate, program) = match &dataset.server {
            Server::DaemonSet(spec) => from_daemonset(dataset, spec, image, how),
            Server::Image(image, source) => {
                let sidecar = self.of_image(dataset, image, source.as_deref(), how);
                (sidecar, dataset.mount_point.clone(), ours.then(|| "fluid-fuse".to_string()))
            }
        };
        let fluid_fuse = program.is_some();
        sidecar.fluid_fuse = program.clone().map(|program| (program, gate.clone()));
        if how.exit == "processNamespace" && !fluid_fuse {
            return Err(Problem);
        }
        if fluid_fuse {
            // It keeps a guard, and removes the Pod's directory through the one above.
            set_env(&mut sidecar.container, "FLUID_FUSE_GUARD", "true");
            if how.privileged {
                set_env(&mut sidecar.container, "FLUID_FUSE_PLACE", &format!("/run/fluid-fuse/places/{UID}"));
                let name = "fluid-fuse-places";
                let above = dataset.mount_point.rsplit_once('/').unwrap().0;
                append(
                    &mut sidecar.container,
                    "volumeMounts",
                    &[json!({
                        "name": name, "mountPath": "/run/fluid-fuse/places", "mountPropagation": "Bidirectional",
                    })],
                );
                sidecar.volumes.push(directory_of_the_node(name, above));
            }
        }
        let container = &mut sidecar.container;
        container["terminationMessagePolicy"] = "FallbackToLogsOnError".into();
        if !ours && image.is_string() {
            container["image"] = image.clone();
        }

        // What the administrator changes.
        let overrides = &self.settings["sidecars"][&dataset.runtime];
        append(container, "args", list(overrides, "args"));
        for (name, value) in overrides["env"].as_object().into_iter().flatten() {
            set_env(container, name, &text(value));
        }
        for kind in ["limits", "requests"] {
            for (resource, quantity) in overrides[kind].as_object().into_iter().flatten() {
                container["resources"][kind][resource] = text(quantity).into();
            }
        }
        if let Some(directory) = overrides["cacheDirectory"].as_str() {
            retain(container, "volumeMounts", |mount| mount["mountPath"] != directory);
            append(container, "volumeMounts", &[json!({"name": "fluid-fuse-cache", "mountPath": directory})]);
            let mut cache = json!({"name": "fluid-fuse-cache", "emptyDir": {}});
            if let Some(size) = overrides.get("cacheSizeLimit") {
                cache["emptyDir"]["sizeLimit"] = size.clone();
            }
            sidecar.volumes.push(cache);
        }
        sidecar.secrets.extend_from_slice(list(overrides, "imagePullSecrets"));

        // What the platform and the Pod want.
        let exit: &[(&str, &str)] = match how.exit.as_str() {
            "eci" => &[
                ("ECI_CONTAINER_TYPE", "sidecar"),
                ("ECI_CONTAINER_IGNORE_EXIT_CODE", "true"),
                ("ECI_CONTAINER_LAUNCH_PRIORITY", "1000"),
                ("ECI_CONTAINER_EXIT_PRIORITY", "-1000"),
            ],
            "acs" => &[("__IS_SIDECAR__", "true")],
            "kruise" => &[("KRUISE_TERMINATE_SIDECAR_WHEN_JOB_EXIT", "true")],
            "processNamespace" => &[("FLUID_FUSE_EXIT_WITH_POD", "process-namespace")],
            _ => &[],
        };
        for (name, value) in exit {
            set_env(container, name, value);
        }
        for (resource, limit) in limits {
            container["resources"]["limits"][resource] = (*limit).into();
        }
        let limits = container["resources"]["limits"].as_object().cloned().unwrap_or_default();
        for (resource, limit) in limits {
            let request = container["resources"]["requests"].get(&resource).map(text);
            if request.is_some_and(|request| quantity(&request) > quantity(&text(&limit))) {
                container["resources"]["requests"][resource] = limit;
            }
        }
        if !how.privileged {
            let device = self.settings["vfuseResourceName"].as_str().unwrap_or("alibabacloud.com/vfuse");
            container["resources"]["limits"][device] = "1".into();
            container["resources"]["requests"][device] = "1".into();
        }
        if self.pod["spec"]["resources"].as_object().is_some_and(|resources| !resources.is_empty()) {
            // Shared by all containers of the Pod.
            for kind in ["limits", "requests"] {
                for resource in ["cpu", "memory"] {
                    if let Some(amounts) = container.pointer_mut(&format!("/resources/{kind}")) {
                        remove(amounts, resource);
                    }
                }
            }
        }

        // Order.
        let seconds = self.settings["gateTimeoutSeconds"].as_u64().unwrap_or(300);
        let wait = |seconds: u64| match fluid_fuse {
            true => {
                json!([program, "wait", "--gate", "--mountpoint", gate, "--timeout", format!("{seconds}s")])
            }
            false if how.privileged => json!(["sh", "-c", SCRIPT, "gate", gate, seconds.to_string()]),
            false => json!(["sh", "-c", SCRIPT, "gate", gate, seconds.to_string(), "/tools/ioctl_sync"]),
        };
        container["lifecycle"] = json!({"postStart": {"exec": {"command": wait(seconds)}}});
        if fluid_fuse {
            container["lifecycle"]["preStop"] = json!({"exec": {"command": [program, "release"]}});
        }
        if how.readiness_probe {
            let check = json!([program, "check", "--mountpoint", gate]);
            let command = if fluid_fuse { check } else { wait(0) };
            container["readinessProbe"] =
                json!({"exec": {"command": command}, "periodSeconds": 2, "timeoutSeconds": 2});
        }
        if how.native {
            container["restartPolicy"] = "Always".into();
        }
        remove(container, "resizePolicy");
        if self.pod["spec"]["hostNetwork"] == true {
            // They would be ports of the node. Probes keep the number.
            for key in ["livenessProbe", "readinessProbe"] {
                if let Some(port) = container.pointer_mut(&format!("/{key}/tcpSocket/port")) {
                    *port = 8080.into();
                }
            }
            remove(container, "ports");
        }

        // Of the volumes those that it mounts.
        let used: Vec<_> = ["volumeMounts", "volumeDevices"]
            .into_iter()
            .flat_map(|key| list(container, key).iter().map(|entry| entry["name"].clone()))
            .collect();
        sidecar.volumes.retain(|volume| used.contains(&volume["name"]));
        Ok(sidecar)
    }

    fn of_image(&self, dataset: &Dataset, image: &Value, source: Option<&[Value]>, how: &How) -> Sidecar {
        let mut env = vec![
            variable("FLUID_RUNTIME_TYPE", &dataset.runtime),
            variable("FLUID_RUNTIME_NS", self.namespace),
            variable("FLUID_RUNTIME_NAME", &dataset.name),
            variable("MOUNT_POINT", &dataset.mount_point),
        ];
        env.extend_from_slice(source.unwrap_or_default());
        let mut container = json!({
            "image": image,
            "env": env,
            "securityContext": {
                "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false, "privileged": how.privileged,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        });
        if source.is_some() {
            container["command"] = json!(["fluid-fuse", "mount"]);
        }
        let mut volumes = Vec::new();
        if how.privileged {
            let above = dataset.mount_point.rsplit_once('/').unwrap().0;
            container["volumeMounts"] =
                json!([{"name": "fluid-fuse", "mountPath": above, "mountPropagation": "Bidirectional"}]);
            volumes.push(directory_of_the_node("fluid-fuse", &format!("{above}/{UID}")));
        } else {
            container["securityContext"]["allowPrivilegeEscalation"] = false.into();
            container["securityContext"]["capabilities"] = json!({"drop": ["ALL"]});
        }
        let mount_point = on_the_node(&dataset.mount_point, how);
        let secrets = Vec::new();
        Sidecar {
            container,
            fluid_fuse: None,
            mount_point,
            makes_directory: false,
            volumes,
            secrets,
            grace_seconds: 0,
        }
    }
}

/// What names the request, as the tests' requests have it.
pub(crate) const UID: &str = "00000000-0000-0000-0000-000000000000";

/// On nodes that Pods share, each Pod has a directory of its own above the mount point.
fn on_the_node(mount_point: &str, how: &How) -> String {
    let (above, name) = mount_point.rsplit_once('/').unwrap();
    if how.privileged { format!("{above}/{UID}/{name}") } else { mount_point.to_string() }
}

fn directory_of_the_node(name: &str, path: &str) -> Value {
    json!({"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}})
}

/// The first container of a DaemonSet's Pods, where it sees the mount point, and its program if that is `fluid-fuse`.
fn from_daemonset(
    dataset: &Dataset,
    spec: &Value,
    image: &Value,
    how: &How,
) -> (Sidecar, String, Option<String>) {
    let mut container = spec["containers"][0].clone();
    remove(&mut container, "startupProbe");
    // Of an image without command the name tells. The generated ones have no other colons.
    let image = image.as_str().or(container["image"].as_str()).unwrap();
    let of_image = image == "fluid-fuse" || image.contains("/fluid-fuse:");
    let program = match container["command"][0].as_str() {
        Some(program) => (program.rsplit('/').next() == Some("fluid-fuse")).then(|| program.to_string()),
        None => of_image.then(|| "fluid-fuse".to_string()),
    };
    let mut volumes = list(spec, "volumes").to_vec();
    let above = |volume: &Value| {
        let path = volume["hostPath"]["path"].as_str()?;
        let below = dataset.mount_point.strip_prefix(path);
        below.filter(|below| below.is_empty() || below.starts_with('/')).map(str::to_string)
    };
    let (name, mut below) =
        volumes.iter().find_map(|volume| Some((volume["name"].clone(), above(volume)?))).unwrap();
    let mounts = list_mut(&mut container, "volumeMounts");
    let mount = mounts.iter_mut().find(|mount| mount["name"] == name).unwrap();
    let gate = format!("{}{below}", mount["mountPath"].as_str().unwrap());
    // The mount point itself: its directory is mounted instead.
    let is_it = below.is_empty();
    if is_it {
        below = format!("/{}", dataset.mount_point.rsplit_once('/').unwrap().1);
        mount["mountPath"] = gate.rsplit_once('/').unwrap().0.into();
    }

    // Its own user: the container's, its DaemonSet's, else root.
    for key in ["runAsUser", "runAsGroup"] {
        let security = &mut container["securityContext"];
        if security[key].is_null() {
            security[key] = spec["securityContext"].get(key).cloned().unwrap_or_else(|| 0.into());
        }
    }
    let security = &mut container["securityContext"];
    security["runAsNonRoot"] = (security["runAsUser"] != 0).into();
    security["privileged"] = how.privileged.into();
    if how.privileged {
        remove(security, "allowPrivilegeEscalation");
        for mount in list_mut(&mut container, "volumeMounts") {
            if mount["name"] == name {
                mount["mountPropagation"] = "Bidirectional".into();
            }
        }
        // Of the generated ones: nothing else of the node, and no field that nobody knows.
        for field in ["fieldOfTomorrow", "volumeDevices"] {
            remove(&mut container, field);
        }
        let is_elsewhere =
            |volume: &Value| volume["hostPath"]["path"].as_str().is_some_and(|path| path == "/var/cache");
        let elsewhere: Vec<_> = volumes.iter().filter(|volume| is_elsewhere(volume)).cloned().collect();
        volumes.retain(|volume| !is_elsewhere(volume));
        retain(&mut container, "volumeMounts", |mount| {
            !elsewhere.iter().any(|volume| volume["name"] == mount["name"])
        });
        let above = dataset.mount_point.strip_suffix(below.as_str()).unwrap();
        let volume = volumes.iter_mut().find(|volume| volume["name"] == name).unwrap();
        *volume = directory_of_the_node(name.as_str().unwrap(), &format!("{above}/{UID}"));
    } else {
        if security.get("capabilities").is_some() {
            let capabilities = &mut security["capabilities"];
            // Of the generated ones.
            retain(capabilities, "add", |added| [json!("IPC_LOCK"), json!("cap_chown")].contains(added));
            if list(capabilities, "add").is_empty() {
                remove(capabilities, "add");
            }
            if *capabilities == json!({}) {
                remove(security, "capabilities");
            }
        }
        // Without directories of the node and without propagation to it.
        let (of_the_node, others): (Vec<_>, Vec<_>) =
            volumes.into_iter().partition(|volume| volume.get("hostPath").is_some());
        volumes = others;
        retain(&mut container, "volumeMounts", |mount| {
            !of_the_node.iter().any(|volume| volume["name"] == mount["name"])
        });
        for mount in list_mut(&mut container, "volumeMounts") {
            if mount["mountPropagation"] == "Bidirectional" {
                remove(mount, "mountPropagation");
            }
        }
        if list(&container, "volumeMounts").is_empty() {
            remove(&mut container, "volumeMounts");
        }
    }
    for port in list_mut(&mut container, "ports") {
        remove(port, "hostPort");
    }
    let secrets = list(spec, "imagePullSecrets").iter().map(|secret| secret["name"].clone()).collect();
    let grace_seconds = spec["terminationGracePeriodSeconds"].as_i64().unwrap_or_default();
    let mount_point = on_the_node(&dataset.mount_point, how);
    let makes_directory = is_it && how.privileged;
    let sidecar = Sidecar {
        container,
        fluid_fuse: None,
        mount_point,
        makes_directory,
        volumes,
        secrets,
        grace_seconds,
    };
    (sidecar, gate, program)
}

/// As `destinations` says, or as is usual there.
pub(crate) fn how(destination: &str, settings: &Value) -> How {
    let given = &settings["destinations"][destination];
    let (device, order, exit, readiness_probe, holder) = match destination {
        "eci" => ("extendedResource", "firstContainer", "eci", true, false),
        "acs" => ("privileged", "firstContainer", "acs", false, true),
        _ => ("privileged", "nativeSidecar", "kubelet", false, true),
    };
    let text = |key: &str, usual: &'static str| given[key].as_str().unwrap_or(usual).to_string();
    How {
        privileged: text("device", device) == "privileged",
        native: text("order", order) == "nativeSidecar",
        exit: text("exit", exit),
        readiness_probe: given["readinessProbe"].as_bool().unwrap_or(readiness_probe),
        holder: given["holder"].as_bool().unwrap_or(holder),
    }
}

// --- what is changed ---------------------------------------------------------------------------------------

impl Request<'_> {
    fn inject(&self, destination: &str) -> Result<Option<Value>, Problem> {
        let mut how = how(destination, self.settings);
        // Each Dataset with its claims, in the order of the volumes.
        let mut datasets: Vec<(Dataset, Vec<&str>)> = Vec::new();
        let mut sub_paths = BTreeMap::new();
        for claim in self.claims() {
            let Some(dataset) = self.dataset(claim, &how)? else { continue };
            sub_paths.insert(claim, dataset.sub_path.clone());
            match datasets.iter_mut().find(|(known, _)| known.mount_point == dataset.mount_point) {
                Some((_, claims)) => claims.push(claim),
                None => datasets.push((dataset, vec![claim])),
            }
        }
        if datasets.is_empty() {
            return Ok(None);
        }
        let limits = self.asked_limits()?;
        let (index, priorities) = self.order(&how, &datasets)?;
        let restart_policy = self.pod["spec"]["restartPolicy"].as_str().unwrap_or("Always");
        if how.exit == "processNamespace" && (restart_policy == "Always" || how.native) {
            how.exit = "kubelet".into();
        }
        let mut pod = self.pod.clone();
        let mut container_names: BTreeSet<String> =
            CONTAINERS.iter().flat_map(|key| names(&pod, key)).collect();
        let mut volume_names: BTreeSet<String> = names(&pod, "volumes").into_iter().collect();
        // A name that is used is taken, declared or not.
        for container in CONTAINERS.iter().flat_map(|key| list(&pod["spec"], key)) {
            let uses = ["volumeMounts", "volumeDevices"].into_iter().flat_map(|key| list(container, key));
            volume_names.extend(uses.filter_map(|entry| Some(entry["name"].as_str()?.to_string())));
            for variable in list(container, "env") {
                let from = &variable["valueFrom"];
                volume_names.extend(from["fileKeyRef"]["volumeName"].as_str().map(str::to_string));
                container_names
                    .extend(from["resourceFieldRef"]["containerName"].as_str().map(str::to_string));
            }
        }

        let mut containers = Vec::new();
        let mut volumes = Vec::new();
        let mut secrets = Vec::new();
        let mut grace_seconds = 0;
        let mut status = json!({"sidecars": [], "claims": []});
        let mut replaced = Vec::new();
        let mut empty = String::new();
        for (dataset, claims) in &datasets {
            let mut sidecar = self.sidecar(dataset, &how, &limits)?;
            if how.exit == "processNamespace" {
                let is_claim = |name: &Value| {
                    let mut volumes = list(&self.pod["spec"], "volumes").iter();
                    volumes.any(|volume| {
                        let claim = &volume["persistentVolumeClaim"]["claimName"];
                        volume["name"] == *name && claims.iter().any(|known| claim == known)
                    })
                };
                let users = list(&self.pod["spec"], "containers").iter().filter(|container| {
                    list(container, "volumeMounts").iter().any(|mount| is_claim(&mount["name"]))
                });
                set_env(&mut sidecar.container, "FLUID_FUSE_EXIT_CONTAINERS", &users.count().to_string());
                if restart_policy == "OnFailure" {
                    set_env(&mut sidecar.container, "FLUID_FUSE_EXIT_SETTLE", "310s");
                }
            }
            if let Some((launch, exit)) = priorities {
                set_env(&mut sidecar.container, "ECI_CONTAINER_LAUNCH_PRIORITY", &launch.to_string());
                set_env(&mut sidecar.container, "ECI_CONTAINER_EXIT_PRIORITY", &exit.to_string());
            }
            self.request_defaults(&mut sidecar.container);
            let name = free("fluid-fuse", &mut container_names);
            sidecar.container["name"] = name.as_str().into();
            let mut added = Vec::new();
            // All at once: one's new name may be another's old one.
            let before = sidecar.container.clone();
            for volume in &mut sidecar.volumes {
                let old = volume["name"].clone();
                let new = free(old.as_str().unwrap(), &mut volume_names);
                volume["name"] = new.as_str().into();
                for key in ["volumeMounts", "volumeDevices"] {
                    let uses = list(&before, key).iter().zip(list_mut(&mut sidecar.container, key));
                    for (_, entry) in uses.filter(|(before, _)| before["name"] == old) {
                        entry["name"] = new.as_str().into();
                    }
                }
                added.push(new);
            }
            // Where the Pod's token would be they all see one empty volume, which the first of them brings.
            if containers.is_empty() {
                empty = free("fluid-fuse-no-token", &mut volume_names);
                sidecar.volumes.insert(0, json!({"name": empty, "emptyDir": {}}));
                added.insert(0, empty.clone());
            }
            let place = "/var/run/secrets/kubernetes.io/serviceaccount";
            append(
                &mut sidecar.container,
                "volumeMounts",
                &[json!({"name": empty, "mountPath": place, "readOnly": true})],
            );
            let is_held = how.holder && (how.native || restart_policy != "Never");
            if is_held && sidecar.fluid_fuse.is_some() {
                let holder = free("fluid-fuse-mount", &mut container_names);
                let meeting = free("fluid-fuse-holder", &mut volume_names);
                let shown = list(&self.pod["spec"], "volumes").iter().find(|volume| {
                    claims.iter().any(|claim| volume["persistentVolumeClaim"]["claimName"] == *claim)
                });
                let shown = shown.map(|volume| &volume["name"]).filter(|_| !how.privileged);
                containers.push(self.divide(&mut sidecar, &how, &holder, &meeting, shown));
                added.push(meeting);
                let dataset = format!("{}/{}", self.namespace, dataset.name);
                append(&mut status, "sidecars", &[json!({"container": holder, "dataset": dataset})]);
            }
            let mut note =
                json!({"container": name, "dataset": format!("{}/{}", self.namespace, dataset.name)});
            if !added.is_empty() {
                note["volumes"] = added.into();
            }
            append(&mut status, "sidecars", &[note]);
            for volume in list_mut(&mut pod["spec"], "volumes") {
                if claims.iter().any(|claim| volume["persistentVolumeClaim"]["claimName"] == *claim) {
                    let source = volume["persistentVolumeClaim"].clone();
                    remove(volume, "persistentVolumeClaim");
                    volume["hostPath"] = json!({"path": sidecar.mount_point});
                    if sidecar.makes_directory {
                        volume["hostPath"]["type"] = "DirectoryOrCreate".into();
                    }
                    let name = volume["name"].as_str().unwrap().to_string();
                    let sub_path = sub_paths[source["claimName"].as_str().unwrap()].clone();
                    replaced.push((name, source, sub_path));
                }
            }
            secrets.extend(sidecar.secrets);
            grace_seconds = grace_seconds.max(sidecar.grace_seconds);
            containers.push(sidecar.container);
            volumes.extend(sidecar.volumes);
        }

        for (volume, source, sub_path) in &replaced {
            let mounts = follow(&mut pod, volume, source["readOnly"] == true, sub_path, how.native)?;
            let mut note = json!({"volume": volume, "persistentVolumeClaim": source});
            if !sub_path.is_empty() {
                note["subPath"] = sub_path.as_str().into();
            }
            if !mounts.is_empty() {
                note["mounts"] = mounts.into();
            }
            append(&mut status, "claims", &[note]);
        }

        // The sidecars stand before all that read the data, and serve as long as these may.
        if grace_seconds > pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30) {
            pod["spec"]["terminationGracePeriodSeconds"] = grace_seconds.into();
        }
        if !how.native && how.exit != "eci" {
            let grace = pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
            let seconds = (grace - 5).max(1).to_string();
            for container in &mut containers {
                let is_worker = list(container, "env").iter().any(|it| it["name"] == "FLUID_FUSE_FD");
                let is_ours = container["lifecycle"]["preStop"].is_object() || is_worker;
                if is_ours {
                    set_env(container, "FLUID_FUSE_LINGER", &format!("{seconds}s"));
                } else if restart_policy == "Always" {
                    let command = json!(["sh", "-c", "sleep \"$1\"", "serve-on", seconds]);
                    container["lifecycle"]["preStop"] = json!({"exec": {"command": command}});
                }
            }
        }
        let key = if how.native { "initContainers" } else { "containers" };
        let others = list(&pod["spec"], key);
        let (front, behind) = others.split_at(index);
        let behind = behind.to_vec();
        pod["spec"][key] = [front, &containers, &behind].concat().into();
        append(&mut pod["spec"], "volumes", &volumes);
        for secret in secrets {
            if !list(&pod["spec"], "imagePullSecrets").iter().any(|known| known["name"] == secret) {
                append(&mut pod["spec"], "imagePullSecrets", &[json!({"name": secret})]);
            }
        }
        if how.exit == "processNamespace" {
            let spec = &mut pod["spec"];
            if spec["hostPID"] == true || spec["shareProcessNamespace"] == false {
                return Err(Problem);
            }
            spec["shareProcessNamespace"] = true.into();
        }
        let ours: Vec<_> = replaced
            .iter()
            .map(|(name, ..)| name.clone())
            .chain(volumes.iter().map(|it| text(&it["name"])))
            .collect();
        let local = list(&pod["spec"], "volumes").iter().filter(|it| {
            ours.contains(&text(&it["name"]))
                && (it.get("hostPath").is_some() || it.get("emptyDir").is_some())
        });
        let local: Vec<_> = local.map(|it| text(&it["name"])).collect();
        let annotations = &mut pod["metadata"]["annotations"];
        // A claim would keep no node from being removed.
        if how.privileged {
            annotations["cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"] =
                local.join(",").into();
        }
        if !how.native && annotations["kubectl.kubernetes.io/default-container"].is_null() {
            if let Some(first) = behind.first() {
                annotations["kubectl.kubernetes.io/default-container"] = first["name"].clone();
                status["defaultContainer"] = true.into();
            }
        }
        annotations["fluid-sidecar-policy/injected"] = status.to_string().into();

        let count: usize = CONTAINERS.iter().map(|key| list(&pod["spec"], key).len()).sum();
        if destination == "eci" && (count > 20 || list(&pod["spec"], "volumes").len() > 20) {
            return Err(Problem);
        }
        Ok(Some(pod))
    }

    /// Leaves the work to the sidecar, and makes the container that mounts for it.
    fn divide(
        &self,
        sidecar: &mut Sidecar,
        how: &How,
        name: &str,
        meeting: &str,
        shown: Option<&Value>,
    ) -> Value {
        let (program, mount_point) = sidecar.fluid_fuse.clone().unwrap();
        let worker = &mut sidecar.container;
        let mut holder = json!({
            "name": name,
            "image": worker["image"],
            "command": [program, "hold"],
            "securityContext": worker["securityContext"],
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "lifecycle": {"preStop": {"exec": {"command": [program, "release"]}}},
        });
        if let Some(when) = worker.get("imagePullPolicy") {
            holder["imagePullPolicy"] = when.clone();
        }
        if how.native {
            holder["restartPolicy"] = "Always".into();
        }
        remove(&mut worker["lifecycle"], "preStop");

        // It needs no more than to know where to mount, and when to end.
        let moves = |name: &str| name == "FLUID_FUSE_PLACE" || name.starts_with("FLUID_FUSE_EXIT_");
        let is_of_the_platform = |name: &str| match how.exit.as_str() {
            "eci" => name.starts_with("ECI_CONTAINER_"),
            "acs" => name == "__IS_SIDECAR__",
            "kruise" => name == "KRUISE_TERMINATE_SIDECAR_WHEN_JOB_EXIT",
            _ => false,
        };
        let variables = list(worker, "env").to_vec();
        let named = |is: &dyn Fn(&str) -> bool| -> Vec<Value> {
            variables.iter().filter(|it| is(it["name"].as_str().unwrap())).cloned().collect()
        };
        let both = |name: &str| {
            matches!(name, "MOUNT_POINT" | "FLUID_FUSE_GUARD") || moves(name) || is_of_the_platform(name)
        };
        holder["env"] = named(&both).into();
        set_env(&mut holder, "MOUNT_POINT", &mount_point);
        set_env(&mut holder, "FLUID_FUSE_SOCKET", "/run/fluid-fuse/holder/socket");
        worker["env"] = named(&|name| !moves(name)).into();
        set_env(worker, "FLUID_FUSE_FD", "unix:/run/fluid-fuse/holder/socket");

        let meets = json!({"name": meeting, "mountPath": "/run/fluid-fuse/holder"});
        let hides = |mount: &&Value| mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount";
        let mounts = list(worker, "volumeMounts").to_vec();
        let devices: Vec<_> =
            sidecar.volumes.iter().filter(|volume| volume["hostPath"]["path"] == "/dev/fuse").collect();
        let is_device = |mount: &Value| devices.iter().any(|device| device["name"] == mount["name"]);
        let mounting =
            mounts.iter().filter(|mount| mount["mountPropagation"] == "Bidirectional" || is_device(mount));
        holder["volumeMounts"] =
            mounting.chain(mounts.iter().filter(hides)).chain([&meets]).cloned().collect();
        retain(worker, "volumeMounts", |mount| {
            mount["mountPath"] != "/run/fluid-fuse/places" && !is_device(mount)
        });
        append(worker, "volumeMounts", &[meets]);
        if let Some(shown) = shown {
            append(worker, "volumeMounts", &[json!({"name": shown, "mountPath": mount_point})]);
        }
        for mount in list_mut(worker, "volumeMounts") {
            if mount["mountPath"] == mount_point || mount["mountPropagation"] == "Bidirectional" {
                mount["mountPropagation"] = "HostToContainer".into();
                mount["readOnly"] = true.into();
            }
        }
        sidecar.volumes.push(json!({"name": meeting, "emptyDir": {}}));

        let device = self.settings["vfuseResourceName"].as_str().unwrap_or("alibabacloud.com/vfuse");
        for kind in ["limits", "requests"] {
            if worker
                .pointer(&format!("/resources/{kind}"))
                .is_some_and(|amounts| amounts.get(device).is_some())
            {
                holder["resources"][kind][device] = worker["resources"][kind][device].take();
                remove(&mut worker["resources"][kind], device);
            }
        }
        if let Some(resources) = worker.get_mut("resources").and_then(Value::as_object_mut) {
            resources.retain(|_, kind| kind.as_object().is_some_and(|kind| !kind.is_empty()));
            if resources.is_empty() {
                remove(worker, "resources");
            }
        }
        self.request_for_holders(&mut holder);

        let is_local = |url: &str| !url.contains("://") || url.starts_with("file:");
        let sources: Vec<String> = variables
            .iter()
            .flat_map(|it| match it["name"].as_str().unwrap() {
                "FLUID_FUSE_SOURCE" => vec![text(&it["value"])],
                "FLUID_FUSE_CONFIG_JSON" => {
                    let config: Value = serde_json::from_str(it["value"].as_str().unwrap()).unwrap();
                    list(&config, "mounts").iter().map(|mount| text(&mount["mountPoint"])).collect()
                }
                _ => Vec::new(),
            })
            .collect();
        let security = &mut worker["securityContext"];
        security["privileged"] = false.into();
        security["allowPrivilegeEscalation"] = false.into();
        security["capabilities"] = json!({"drop": ["ALL"]});
        security["seccompProfile"] = json!({"type": "RuntimeDefault"});
        // What is known to be a store alone needs no user in particular, and no file.
        if !sources.is_empty() && !sources.iter().any(|source| is_local(source)) {
            security["readOnlyRootFilesystem"] = true.into();
            security["runAsUser"] = 65534.into();
            security["runAsGroup"] = 65534.into();
            security["runAsNonRoot"] = true.into();
            set_env(worker, "FLUID_FUSE_UID", "0");
            set_env(worker, "FLUID_FUSE_GID", "0");
        } else if security["runAsUser"] == 0 {
            security["capabilities"]["add"] = json!(["DAC_OVERRIDE"]);
        }
        holder
    }

    /// A little, where the other containers request something; a Guaranteed Pod stays one.
    fn request_for_holders(&self, holder: &mut Value) {
        let spec = &self.pod["spec"];
        if spec["resources"].as_object().is_some_and(|resources| !resources.is_empty()) {
            return;
        }
        let amount =
            |container: &Value, kind: &str, resource: &str| container["resources"][kind][resource].clone();
        let all = || CONTAINERS.iter().flat_map(|key| list(spec, key));
        let guaranteed = all().all(|container| {
            ["cpu", "memory"].iter().all(|resource| {
                let limit = amount(container, "limits", resource);
                let request = amount(container, "requests", resource);
                !limit.is_null() && (request.is_null() || request == limit)
            })
        });
        for (resource, small) in [("cpu", "50m"), ("memory", "64Mi")] {
            let has = |container: &Value| {
                ["requests", "limits"].iter().any(|kind| !amount(container, kind, resource).is_null())
            };
            let containers = list(spec, "containers");
            if !containers.is_empty() && containers.iter().all(has) {
                holder["resources"]["requests"][resource] = small.into();
                if guaranteed {
                    holder["resources"]["limits"][resource] = small.into();
                }
            }
        }
    }

    /// Where the sidecars stand in their list, and ECI's priorities: before what reads, behind the proxy of a mesh.
    fn order(
        &self,
        how: &How,
        datasets: &[(Dataset, Vec<&str>)],
    ) -> Result<(usize, Option<(i64, i64)>), Problem> {
        let claims: Vec<_> = datasets.iter().flat_map(|(_, claims)| claims).collect();
        let shown: Vec<_> = list(&self.pod["spec"], "volumes")
            .iter()
            .filter(|volume| {
                claims.iter().any(|claim| volume["persistentVolumeClaim"]["claimName"] == ***claim)
            })
            .map(|volume| &volume["name"])
            .collect();
        let reads = |container: &Value| {
            list(container, "volumeMounts").iter().any(|mount| shown.contains(&&mount["name"]))
        };
        let is_proxy =
            |container: &Value| container["name"] == "istio-proxy" || container["name"] == "linkerd-proxy";
        let is_native = |container: &Value| is_proxy(container) && container["restartPolicy"] == "Always";
        let (inits, containers) =
            (list(&self.pod["spec"], "initContainers"), list(&self.pod["spec"], "containers"));
        // Of two with one name the native one counts.
        let ordinary: Vec<_> = containers
            .iter()
            .enumerate()
            .filter(|(_, it)| {
                is_proxy(it) && !inits.iter().any(|init| is_native(init) && init["name"] == it["name"])
            })
            .map(|(place, _)| place)
            .collect();
        if how.native {
            let index = inits.iter().position(reads).unwrap_or(inits.len());
            let late = inits.iter().enumerate().any(|(place, it)| is_native(it) && index <= place);
            return if late || !ordinary.is_empty() { Err(Problem) } else { Ok((index, None)) };
        }
        let in_front =
            containers.iter().enumerate().take_while(|(place, it)| ordinary.contains(place) && !reads(it));
        let index = in_front.count();
        if ordinary.iter().any(|place| *place >= index) {
            return Err(Problem);
        }
        let priorities = match (how.exit == "eci", ordinary.is_empty()) {
            (false, _) => None,
            (true, true) => Some((1000, -1000)),
            // No generated container has a priority, so a reader would start with the proxy.
            (true, false) if containers.iter().any(reads) => return Err(Problem),
            (true, false) => Some((-1, -1000)),
        };
        Ok((index, priorities))
    }

    /// Where every container requests something, or has a limit of it, a sidecar requests the default.
    fn request_defaults(&self, sidecar: &mut Value) {
        let has = |container: &Value, resource: &str| {
            ["requests", "limits"].iter().any(|kind| !container["resources"][kind][resource].is_null())
        };
        if self.pod["spec"]["resources"].as_object().is_some_and(|resources| !resources.is_empty()) {
            return;
        }
        let containers = list(&self.pod["spec"], "containers");
        for (resource, amount) in [("cpu", "100m"), ("memory", "256Mi")] {
            let all = !containers.is_empty() && containers.iter().all(|container| has(container, resource));
            if all && !has(sidecar, resource) {
                sidecar["resources"]["requests"][resource] = amount.into();
            }
        }
    }

    /// What the Pod's annotations ask for its sidecars.
    fn asked_limits(&self) -> Result<Vec<(&'static str, &str)>, Problem> {
        let mut limits = Vec::new();
        for resource in ["cpu", "memory"] {
            let Some(asked) = self.annotation(&format!("fluid-sidecar-policy/{resource}")) else { continue };
            let most = &self.settings["podOverrides"][resource];
            if most.is_null() || quantity(asked).ok_or(Problem)? > quantity(&text(most)).unwrap() {
                return Err(Problem);
            }
            limits.push((resource, asked));
        }
        Ok(limits)
    }
}

/// Makes the mounts of a volume that is no claim any more follow what is mounted there. Gives what they had.
fn follow(
    pod: &mut Value,
    volume: &str,
    read_only: bool,
    sub_path: &str,
    native: bool,
) -> Result<Vec<Value>, Problem> {
    let mut had = Vec::new();
    for key in CONTAINERS {
        for container in list_mut(&mut pod["spec"], key) {
            if list(container, "volumeDevices").iter().any(|device| device["name"] == volume) {
                return Err(Problem);
            }
            let name = container["name"].clone();
            for mount in
                list_mut(container, "volumeMounts").iter_mut().filter(|mount| mount["name"] == volume)
            {
                if key == "initContainers" && !native {
                    return Err(Problem);
                }
                let mut before = json!({"container": name, "mountPath": mount["mountPath"]});
                for key in ["mountPropagation", "readOnly"].into_iter().filter(|key| mount.get(key).is_some())
                {
                    before[key] = mount[key].clone();
                }
                if before.as_object().is_some_and(|before| before.len() > 2) {
                    had.push(before);
                }
                if !sub_path.is_empty() {
                    let key = if mount["subPathExpr"].is_null() { "subPath" } else { "subPathExpr" };
                    let own = mount[key].as_str().map(|own| format!("/{own}")).unwrap_or_default();
                    mount[key] = format!("{sub_path}{own}").into();
                }
                let recursive =
                    mount["recursiveReadOnly"] == "Enabled" || mount["recursiveReadOnly"] == "IfPossible";
                if !recursive && mount["mountPropagation"] != "Bidirectional" {
                    mount["mountPropagation"] = "HostToContainer".into();
                }
                if read_only {
                    mount["readOnly"] = true.into();
                }
            }
        }
    }
    Ok(had)
}

// --- small things ------------------------------------------------------------------------------------------

const CONTAINERS: [&str; 2] = ["initContainers", "containers"];

/// Stands for the script that waits for a mount: that it does is seen where it is run.
const SCRIPT: &str = "<script>";

/// What the model and the policy are compared in: the status of the annotation, and the Pod without what the
/// model does not know, the script and the order of keys in JSON that is text.
pub(crate) fn comparable(pod: &Value) -> (Value, Value) {
    let mut pod = pod.clone();
    let annotation = pod["metadata"]["annotations"]["fluid-sidecar-policy/injected"].take();
    let status: Value = serde_json::from_str(annotation.as_str().unwrap()).unwrap();
    for key in CONTAINERS {
        for container in list_mut(&mut pod["spec"], key) {
            for pointer in ["/lifecycle/postStart/exec/command", "/readinessProbe/exec/command"] {
                if let Some(Value::Array(words)) = container.pointer_mut(pointer) {
                    if words.len() > 3 && words[0] == "sh" && words[3] == "gate" {
                        words[2] = SCRIPT.into();
                    }
                }
            }
            for entry in list_mut(container, "env") {
                if entry["name"] == "FLUID_FUSE_CONFIG_JSON" {
                    entry["value"] = serde_json::from_str(entry["value"].as_str().unwrap()).unwrap();
                }
            }
        }
    }
    (json!({"sidecars": status["sidecars"], "claims": status["claims"]}), pod)
}

fn list<'v>(holder: &'v Value, key: &str) -> &'v [Value] {
    holder[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn list_mut<'v>(holder: &'v mut Value, key: &str) -> &'v mut [Value] {
    let entries = holder.get_mut(key).and_then(Value::as_array_mut);
    entries.map(Vec::as_mut_slice).unwrap_or_default()
}

fn append(holder: &mut Value, key: &str, more: &[Value]) {
    if !more.is_empty() {
        holder[key] = [list(holder, key), more].concat().into();
    }
}

fn retain(holder: &mut Value, key: &str, keep: impl Fn(&Value) -> bool) {
    if let Some(entries) = holder.get_mut(key).and_then(Value::as_array_mut) {
        entries.retain(keep);
    }
}

fn remove(holder: &mut Value, key: &str) {
    if let Some(map) = holder.as_object_mut() {
        map.remove(key);
    }
}

fn names(pod: &Value, key: &str) -> Vec<String> {
    let entries = list(&pod["spec"], key).iter();
    entries.filter_map(|entry| entry["name"].as_str()).map(str::to_string).collect()
}

/// The name, or with the first number behind it that makes it a new one of at most 63 characters.
fn free(name: &str, taken: &mut BTreeSet<String>) -> String {
    let mut candidate = name.to_string();
    for number in 1.. {
        if taken.insert(candidate.clone()) {
            break;
        }
        let suffix = format!("-{number}");
        let stem = &name[..name.len().min(63 - suffix.len())];
        candidate = format!("{}{suffix}", stem.trim_end_matches('-'));
    }
    candidate
}

/// Sets a variable in its old place, if it had one.
fn set_env(container: &mut Value, name: &str, value: &str) {
    let entry = json!({"name": name, "value": value});
    match list_mut(container, "env").iter_mut().find(|known| known["name"] == name) {
        Some(known) => *known = entry,
        None => append(container, "env", &[entry]),
    }
}

/// Numbers may be written as such.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

/// Of the generated ones, in thousandths.
fn quantity(text: &str) -> Option<u64> {
    let suffixes = [("m", 1), ("Mi", 1000 << 20), ("Gi", 1000 << 30), ("", 1000)];
    suffixes
        .iter()
        .find_map(|(suffix, factor)| Some(text.strip_suffix(suffix)?.parse::<u64>().ok()? * factor))
}
