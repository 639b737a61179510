//! Pods, settings and clusters, put together from parts that mattered in the past. Most Pods are valid, so that
//! the laws about valid ones are seen at work; [`super::generated_pods_are_worth_the_name`] counts.

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use serde_json::{Map, Value, json};

/// The longest name, as long as the policy itself would make one of it.
const LONG: &str = "a23456789-123456789-123456789-123456789-123456789-123456789-123";
/// What the policy calls a second volume of the name above.
const LONG_1: &str = "a23456789-123456789-123456789-123456789-123456789-123456789-1-1";

/// What the policy is asked.
#[derive(Clone)]
pub(crate) struct Situation {
    pub(crate) pod: Value,
    pub(crate) settings: Value,
    pub(crate) template: Template,
    /// The `status.phase` of one of the Datasets.
    phase: Value,
    /// The labels of the namespace; `null`: there is no such namespace.
    namespace_labels: Value,
}

/// Of the Runtimes' fuse DaemonSets.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// Where the container mounts the directory of the node, when that is not the same path.
    mount_path: Option<&'static str>,
    /// Fields of the container.
    container: Value,
    /// Fields of the Pods' spec.
    spec: Value,
    /// Volumes with their mounts, which differ from Runtime to Runtime by no more than their place.
    volumes: Vec<(Value, Value)>,
}

/// Claims of Datasets: the claim, the Dataset, its type, the directory below its own, the sub path.
const DATASETS: &[(&str, &str, &str, &str, &str)] = &[
    ("thin", "thin", "thin", "thin-fuse", ""),
    ("thin-too", "thin", "thin", "thin-fuse", ""),
    ("jindo", "jindo", "jindo", "jindofs-fuse", ""),
    ("part", "part", "juicefs", "juicefs-fuse", "a/b"),
    // Its container mounts the mount point itself.
    ("cache", "cache", "cache", "cache-fuse", ""),
    // It refers to a Dataset of another namespace: see `directory_of`.
    ("borrowed", "borrowed", "thin", "juicefs-fuse", "a"),
    ("borrowed-too", "borrowed-too", "thin", "juicefs-fuse", "b"),
    // None of these can be served: the first not by `fluid-fuse`, the second by nothing else.
    ("odd-source", "odd-source", "goosefs", "goosefs-fuse", ""),
    ("next-runtime", "next-runtime", "nextfs", "next-fuse", ""),
    ("vineyard", "vineyard", "vineyard", "vineyard-fuse", ""),
    ("odd-path", "odd-path", "thin", "../../../etc", ""),
    ("odd-part", "odd-part", "juicefs", "juicefs-fuse", "a/../b"),
];

/// The directory of the node above the mount point of a Dataset.
fn directory_of(dataset: &str, runtime: &str) -> String {
    match dataset {
        "borrowed" | "borrowed-too" => "/runtime-mnt/juicefs/lender/lent".to_string(),
        _ => format!("/runtime-mnt/{runtime}/default/{dataset}"),
    }
}

pub(crate) fn situation() -> impl Strategy<Value = Situation> {
    let phase = prop_oneof![
        8 => Just(json!("Bound")),
        1 => select(vec![json!("Failed"), json!("NotBound"), Value::Null]),
    ];
    let namespace_labels = one_of(vec![
        json!({}),
        json!({"env": "prod"}),
        json!({"env": "prod", "alibabacloud.com/eci": "true"}),
        json!({"env": "test", "eci": "true"}),
        json!({"virtual-node-affinity-injection": "enabled"}),
        Value::Null,
    ]);
    let pod = (pod(), proptest::option::weighted(0.3, placement()), asked());
    let pod = pod.prop_map(|(mut pod, placement, asked)| {
        if let Some(placement) = placement {
            for key in MARKERS {
                pod["metadata"]["labels"].as_object_mut().map(|labels| labels.remove(key));
            }
            overlay(&mut pod, &placement);
        }
        overlay(&mut pod, &asked);
        pod
    });
    (pod, settings(), template(), phase, namespace_labels).prop_map(
        |(pod, settings, template, phase, namespace_labels)| Situation {
            pod,
            settings,
            template,
            phase,
            namespace_labels,
        },
    )
}

/// As JSON, to be read by people.
impl fmt::Debug for Situation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let template = self.template.spec("/runtime-mnt/<runtime>/default/<dataset>");
        write!(formatter, "pod {:#}\nsettings {:#}\ntemplate {template:#}\n", self.pod, self.settings)?;
        write!(formatter, "phase {} namespace {}", self.phase, self.namespace_labels)
    }
}

impl Situation {
    /// The mount of a claim, by the name of a Dataset that has it.
    pub(crate) fn mount<'a>(&self, claim: &'a str) -> Option<&'a str> {
        if self.settings["datasetsFrom"] == "settings" {
            return Some(claim);
        }
        let claim = if claim == "borrowed-too" { "borrowed" } else { claim };
        DATASETS.iter().find(|(name, ..)| *name == claim).map(|(_, dataset, ..)| *dataset)
    }

    /// The objects of the cluster: some Datasets and an ordinary claim. Any other claim is missing.
    pub(crate) fn objects(&self) -> Vec<Value> {
        let mut objects = vec![
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": "ordinary", "namespace": "default"}}),
            // That of a client's own source, whose Dataset it is by its label.
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": "wrapped", "namespace": "default", "labels": {"fluid.io/wrapped-by": "thin"}}}),
        ];
        objects.push(json!({"apiVersion": "data.fluid.io/v1alpha1", "kind": "Dataset",
            "metadata": {"name": "lent", "namespace": "lender"}, "spec": mounts("juicefs")}));
        if !self.namespace_labels.is_null() {
            let metadata = json!({"name": "default", "labels": self.namespace_labels});
            objects.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
        }
        for (claim, name, runtime, directory, sub_path) in DATASETS {
            let parent = directory_of(name, runtime);
            let mut labels = json!({format!("fluid.io/s-default-{name}"): "true"});
            if claim != name {
                labels["fluid.io/managed-by"] = (*name).into();
            }
            let phase = if *name == "jindo" { self.phase.clone() } else { "Bound".into() };
            let daemonset = match *runtime {
                "jindo" => "jindo-jindofs-fuse",
                "cache" => "cache-client",
                _ => &format!("{name}-fuse"),
            };
            let spec = match *name {
                "borrowed" => json!({"mounts": [{"mountPoint": "dataset://lender/lent/a"}]}),
                "borrowed-too" => json!({"mounts": [{"mountPoint": "dataset://lender/lent/b"}]}),
                "odd-source" => json!({"mounts": [{"mountPoint": "pvc://nas"}]}),
                _ => mounts(runtime),
            };
            let mounted = if *name == "cache" { format!("{parent}/{directory}") } else { parent.clone() };
            objects.extend([
                json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "metadata": {"name": claim, "namespace": "default", "labels": labels}}),
                json!({"apiVersion": "data.fluid.io/v1alpha1", "kind": "Dataset",
                    "metadata": {"name": name, "namespace": "default"},
                    "spec": spec,
                    "status": {"phase": phase, "runtimes": [{"type": runtime}]}}),
                json!({"apiVersion": "v1", "kind": "PersistentVolume",
                    "metadata": {"name": format!("default-{name}")},
                    "spec": {
                        "claimRef": {"namespace": "default", "name": name},
                        "csi": {"driver": "fuse.csi.fluid.io", "volumeAttributes": {
                            "fluid_path": format!("{parent}/{directory}"), "fluid_sub_path": sub_path}}}}),
                json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
                    "metadata": {"name": daemonset, "namespace": "default"},
                    "spec": {"template": {"spec": self.template.spec(&mounted)}}}),
            ]);
        }
        objects
    }
}

/// The `spec` of a Dataset.
fn mounts(runtime: &str) -> Value {
    let secret = |option: &str, key: &str| {
        let key = json!({"secretKeyRef": {"name": "keys", "key": key}});
        json!({"name": option, "valueFrom": key})
    };
    match runtime {
        "thin" => json!({
            "accessModes": ["ReadOnlyMany"],
            "sharedOptions": {"endpoint": "$(HOST)", "timeout": "30"},
            "sharedEncryptOptions": [secret("id", "shared-id")],
            "mounts": [
                {"mountPoint": "s3://bucket/a", "name": "a", "readOnly": true, "options": {"timeout": "60"},
                    "encryptOptions": [secret("secret", "a-secret"), secret("id", "a-id")]},
                {"mountPoint": "oss://bucket/b", "name": "b", "path": "/b", "shared": true},
            ],
        }),
        "goosefs" => json!({"mounts": [{"mountPoint": "local:///mnt"}]}),
        _ => json!({"mounts": [{"mountPoint": "https://server/mnt/"}]}),
    }
}

impl Template {
    /// `spec.template.spec` of a DaemonSet whose container mounts this directory of the node.
    pub(crate) fn spec(&self, directory: &str) -> Value {
        let privileged = self.container["securityContext"]["privileged"] == true;
        let propagation = if privileged { "Bidirectional" } else { "HostToContainer" };
        let mut volumes =
            vec![json!({"name": "mount", "hostPath": {"path": directory, "type": "DirectoryOrCreate"}})];
        let mount_path = self.mount_path.unwrap_or(directory);
        let mut mounts =
            vec![json!({"name": "mount", "mountPath": mount_path, "mountPropagation": propagation})];
        let mut devices = Vec::new();
        for (volume, mount) in &self.volumes {
            volumes.push(volume.clone());
            let uses = if mount.get("devicePath").is_some() { &mut devices } else { &mut mounts };
            uses.push(mount.clone());
        }
        let mut container = json!({"name": "fuse", "image": "fuse", "volumeMounts": mounts});
        // A DaemonSet runs, so what its probes name is there.
        if self.container.to_string().contains("\"port\":\"http\"") {
            container["ports"] = json!([{"containerPort": 8080, "name": "http"}]);
        }
        if !devices.is_empty() {
            container["volumeDevices"] = devices.into();
        }
        let named = container.get("ports").cloned();
        let mut container = merge(container, &self.container);
        if let Some(ports) = named {
            container["ports"] = ports;
        }
        let spec = json!({"containers": [container], "volumes": volumes});
        merge(spec, &self.spec)
    }
}

// --- parts -------------------------------------------------------------------------------------------------

/// A map with any of these fields.
fn some_of(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> impl Strategy<Value = Value> + Clone {
    let (keys, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
    let values: Vec<_> = values.into_iter().map(|value| proptest::option::weighted(0.3, value)).collect();
    values.prop_map(move |values| {
        let entries = keys.iter().zip(values).filter_map(|(key, value)| Some((key.to_string(), value?)));
        Value::Object(entries.collect::<Map<_, _>>())
    })
}

fn one_of(values: Vec<Value>) -> BoxedStrategy<Value> {
    select(values).boxed()
}

fn merge(mut map: Value, fields: &Value) -> Value {
    for (key, value) in fields.as_object().into_iter().flatten() {
        map[key] = value.clone();
    }
    map
}

/// Maps become one, recursively; anything else replaces what is there.
fn overlay(value: &mut Value, over: &Value) {
    match over {
        Value::Object(fields) => {
            for (key, over) in fields {
                overlay(&mut value[key], over);
            }
        }
        _ => *value = over.clone(),
    }
}

fn handler() -> BoxedStrategy<Value> {
    one_of(vec![
        json!({"exec": {"command": ["true"]}}),
        json!({"httpGet": {"path": "/", "port": 80}}),
        json!({"tcpSocket": {"port": "http"}}),
    ])
}

fn probe() -> BoxedStrategy<Value> {
    let numbers = some_of(vec![
        ("periodSeconds", one_of(vec![json!(0), json!(5)])),
        ("successThreshold", Just(json!(1)).boxed()),
        ("terminationGracePeriodSeconds", Just(json!(5)).boxed()),
    ]);
    (handler(), numbers).prop_map(|(handler, numbers)| merge(handler, &numbers)).boxed()
}

fn readiness_probe() -> BoxedStrategy<Value> {
    (handler(), 0..3).prop_map(|(handler, times)| merge(handler, &json!({"successThreshold": times}))).boxed()
}

/// A host port may be one that the Pod, or another sidecar, has, too.
fn ports() -> BoxedStrategy<Value> {
    let ports = vec![
        json!({"containerPort": 8080, "name": "http"}),
        json!({"containerPort": 8081}),
        json!({"containerPort": 8082, "protocol": "UDP"}),
        json!({"containerPort": 8083, "hostPort": 8083}),
    ];
    subsequence(ports, 1..=2).prop_map(Value::Array).boxed()
}

fn resources() -> BoxedStrategy<Value> {
    one_of(vec![
        json!({"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "1024Mi"}}),
        json!({"limits": {"cpu": 1, "example.com/gpu": "1"}}),
        json!({"requests": {"example.com/gpu": 2}, "limits": {"example.com/gpu": "2"}}),
        json!({"requests": null}),
    ])
}

/// Fields that a container of the user may have, and one of a DaemonSet.
fn container_fields() -> Vec<(&'static str, BoxedStrategy<Value>)> {
    vec![
        ("command", Just(json!(["run", "$(A)"])).boxed()),
        (
            "env",
            one_of(vec![
                json!([{"name": "A", "value": "$(B)"}]),
                json!([
                    {"name": "ECI_CONTAINER_TYPE", "value": "mine"},
                    {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ]),
            ]),
        ),
        (
            "fieldOfTomorrow",
            one_of(vec![json!({"deep": [{"er": 0.1}, null, 1e300]}), json!(18446744073709551615u64)]),
        ),
        ("imagePullPolicy", Just(json!("Always")).boxed()),
        ("livenessProbe", probe()),
        ("readinessProbe", readiness_probe()),
        ("resources", resources()),
        ("startupProbe", probe()),
    ]
}

// --- Pods --------------------------------------------------------------------------------------------------

fn volume_source() -> impl Strategy<Value = Value> {
    let claims = select(vec![
        "thin",
        "thin",
        "thin-too",
        "jindo",
        "part",
        "cache",
        "borrowed",
        "borrowed-too",
        "ordinary",
    ]);
    let read_only = select(vec![json!({}), json!({"readOnly": false}), json!({"readOnly": true})]);
    let unserved =
        vec!["missing", "missing", "odd-source", "next-runtime", "vineyard", "odd-path", "odd-part"];
    let claim = (prop_oneof![40 => claims, 1 => select(unserved)], read_only).prop_map(
        |(name, read_only)| json!({"persistentVolumeClaim": merge(json!({"claimName": name}), &read_only)}),
    );
    let other = one_of(vec![
        json!({"emptyDir": {}}),
        json!({"hostPath": {"path": "/var/log", "type": ""}}),
        json!({"ephemeral": {"volumeClaimTemplate": {}}}),
        json!({"sourceOfTomorrow": {"a": null}}),
    ]);
    prop_oneof![3 => claim, 1 => other]
}

/// A mount without its volume's name and its path.
fn mount() -> impl Strategy<Value = Value> {
    one_of(vec![
        json!({}),
        json!({"readOnly": false}),
        json!({"mountPropagation": "None", "subPath": "a/b"}),
        json!({"mountPropagation": "HostToContainer", "subPathExpr": "$(POD)"}),
        json!({"mountPropagation": "Bidirectional"}),
        json!({"readOnly": true, "recursiveReadOnly": "Enabled"}),
        json!({"readOnly": true, "recursiveReadOnly": "IfPossible", "mountPropagation": "None"}),
        json!({"recursiveReadOnly": "Disabled", "optionOfTomorrow": [1.5, null]}),
    ])
}

/// A container of the user without its name and the names of the volumes it uses.
#[derive(Clone, Debug)]
struct Parts {
    fields: Value,
    mounts: Vec<(Index, Value)>,
    device: Option<Index>,
    privileged: bool,
    /// What it names without a declaration: a volume, a volume of keys, a container.
    dangling: Value,
}

/// Names that the injection, or a DaemonSet, would like to have, in places where the API server would refuse them if
/// nobody declared them later.
fn dangling() -> impl Strategy<Value = Value> {
    let names = vec![
        "fluid-fuse",
        "fluid-fuse-1",
        "fluid-fuse-places",
        "fluid-fuse-cache",
        "mount",
        "conf",
        "shared",
    ];
    let places = select(names).prop_flat_map(|name| {
        one_of(vec![
            json!({"volumeMounts": [{"name": name, "mountPath": "/stolen"}]}),
            json!({"volumeDevices": [{"name": name, "devicePath": "/dev/stolen"}]}),
            json!({"env": [{"name": "KEY", "valueFrom": {"fileKeyRef": {"volumeName": name, "path": "k", "key": "K"}}}]}),
            json!({"env": [{"name": "CPUS", "valueFrom": {"resourceFieldRef": {
                "containerName": name, "resource": "limits.cpu"}}}]}),
        ])
    });
    prop_oneof![30 => Just(json!({})), 1 => places]
}

fn parts() -> impl Strategy<Value = Parts> {
    let mut fields = container_fields();
    fields.push(("ports", ports()));
    fields.push((
        "lifecycle",
        (handler(), handler()).prop_map(|(start, stop)| json!({"postStart": start, "preStop": stop})).boxed(),
    ));
    fields.push((
        "securityContext",
        one_of(vec![
            json!({"runAsUser": 1000, "allowPrivilegeEscalation": false}),
            json!({"capabilities": {"add": ["CAP_SYS_ADMIN"]}}),
        ]),
    ));
    let mounts = vec((any::<Index>(), mount()), 0..4);
    let device = proptest::option::weighted(0.03, any::<Index>());
    (some_of(fields), mounts, device, prop::bool::weighted(0.1), dangling()).prop_map(
        |(fields, mounts, device, privileged, dangling)| Parts {
            fields,
            mounts,
            device,
            privileged,
            dangling,
        },
    )
}

impl Parts {
    fn container(self, name: &str, volumes: &[Value]) -> Value {
        let mut container = merge(json!({"name": name, "image": "i"}), &self.fields);
        if self.privileged {
            container["securityContext"] = json!({"privileged": true});
        }
        if volumes.is_empty() {
            return container;
        }
        let dangling = self.dangling;
        if let Some(index) = self.device {
            container["volumeDevices"] =
                json!([{"name": index.get(volumes)["name"], "devicePath": "/dev/x"}]);
        }
        let mounts = self.mounts.into_iter().enumerate().map(|(number, (index, mut mount))| {
            mount["name"] = index.get(volumes)["name"].clone();
            mount["mountPath"] = format!("/mnt/{number}").into();
            // Mostly as it must be.
            if mount["mountPropagation"] == "Bidirectional" && !self.privileged && number > 0 {
                mount["mountPropagation"] = "None".into();
            }
            mount
        });
        container["volumeMounts"] = mounts.collect();
        for (list, entries) in dangling.as_object().into_iter().flatten() {
            let known = container[list].as_array().cloned().unwrap_or_default();
            container[list] = [known, entries.as_array().cloned().unwrap_or_default()].concat().into();
        }
        container
    }
}

/// The labels that [`metadata`] places Pods with.
const MARKERS: [&str; 5] = [
    "alibabacloud.com/eci",
    "eci",
    "alibabacloud.com/fluid-sidecar-target",
    "alibabacloud.com/acs",
    "serverless.fluid.io/inject",
];

/// What places a Pod, or lets it alone: one or more of what SEMANTICS.md lists, and things that look like it.
fn placement() -> impl Strategy<Value = Value> {
    let label = |key: &str, value: &str| json!({"metadata": {"labels": {key: value}}});
    let annotation = |key: &str, value: &str| json!({"metadata": {"annotations": {key: value}}});
    let node = |name: &str| json!({"spec": {"nodeName": name}});
    let node_selector = |key: &str, value: &str| json!({"spec": {"nodeSelector": {key: value}}});
    let affinity = |kind: &str, terms: Value| json!({"spec": {"affinity": {"nodeAffinity": {kind: terms}}}});
    let term = |operator: &str, key: &str, values: &[&str]| {
        json!({"matchExpressions": [
            {"key": "zone", "operator": "Exists"},
            {"key": key, "operator": operator, "values": values},
        ]})
    };
    let required = |terms: &[Value]| {
        affinity("requiredDuringSchedulingIgnoredDuringExecution", json!({"nodeSelectorTerms": terms}))
    };
    let preferred = |term: Value| {
        let terms = json!([{"weight": 1, "preference": term}]);
        affinity("preferredDuringSchedulingIgnoredDuringExecution", terms)
    };
    let to_virtual = || term("In", "type", &["virtual-kubelet"]);
    let to_vnode = || term("In", "k8s.aliyun.com/vnode", &["true"]);
    let away = || term("NotIn", "type", &["virtual-kubelet"]);
    let mut markers = vec![
        label("alibabacloud.com/fluid-sidecar-target", "acs"),
        label("alibabacloud.com/eci", "true"),
        label("alibabacloud.com/eci", "false"),
        label("alibabacloud.com/compute-class", "gpu"),
        label("serverless.fluid.io/inject", "true"),
        label("fuse.sidecar.fluid.io/inject", "true"),
        label("unprivileged.sidecar.fluid.io/inject", "true"),
        label("virtual-kubelet.io/burst-to-cci", "enforce"),
        label("bursting.cci.io/burst-to-cci", "enforce"),
        label("fluid.io/enable-injection", "false"),
        label("fluid.io/enable-injection", "true"),
        annotation("serverless.fluid.io/platform", "unprivileged"),
        annotation("alibabacloud.com/burst-resource", "eci_only"),
        annotation("alibabacloud.com/burst-resource", "eci"),
        annotation("vke.volcengine.com/burst-to-vci", "enforce"),
        annotation("kubernetes.io/config.mirror", ""),
        node("virtual-kubelet-cn-hangzhou"),
        node("cn-hangzhou.vnd-1"),
        node("worker-1"),
        node_selector("type", "virtual-kubelet"),
        node_selector("k8s.aliyun.com/vnode", "true"),
        node_selector("k8s.aliyun.com/vnode", "false"),
        node_selector("node.kubernetes.io/instance-type", "eklet"),
        required(&[to_virtual()]),
        required(&[to_vnode(), to_vnode()]),
        required(&[to_virtual(), to_vnode()]),
        required(&[to_virtual(), term("In", "zone", &["a"])]),
        required(&[away()]),
        required(&[away(), away()]),
        required(&[away(), term("In", "zone", &["a"])]),
        preferred(to_virtual()),
        preferred(to_vnode()),
        preferred(away()),
        json!({"spec": {"os": {"name": "windows"}}}),
    ];
    // Away from the label's value, and an alternative to it, beside another value.
    markers.extend([
        required(&[term("NotIn", "type", &["virtual-kubelet", "other"])]),
        required(&[term("In", "type", &["virtual-kubelet", "other"])]),
    ]);
    for key in ["virtual-kubelet.io/provider", "k8s.aliyun.com/vnode", "node.kubernetes.io/unreachable"] {
        markers.push(
            json!({"spec": {"tolerations": [{"operator": "Exists"}, {"key": key, "operator": "Exists"}]}}),
        );
    }
    vec(select(markers), 1..=3).prop_map(|markers| {
        let mut all = json!({});
        markers.iter().for_each(|marker| overlay(&mut all, marker));
        all
    })
}

/// The annotations by which a Pod asks for limits of its sidecars.
fn asked() -> impl Strategy<Value = Value> {
    let asked = select(vec![
        json!({"fluid-sidecar-policy/cpu": "500m"}),
        json!({"fluid-sidecar-policy/cpu": "50m", "fluid-sidecar-policy/memory": "512Mi"}),
        json!({"fluid-sidecar-policy/cpu": "3"}),
        json!({"fluid-sidecar-policy/memory": "much"}),
    ]);
    prop_oneof![
        9 => Just(json!({})),
        1 => asked.prop_map(|asked| json!({"metadata": {"annotations": asked}})),
    ]
}

fn metadata() -> impl Strategy<Value = Value> {
    let marker = prop_oneof![
        3 => select(vec![
            json!({"alibabacloud.com/eci": "true"}),
            json!({"eci": "true"}),
            json!({"alibabacloud.com/fluid-sidecar-target": "eci"}),
        ]),
        3 => select(vec![
            json!({"alibabacloud.com/acs": "true"}),
            json!({"alibabacloud.com/fluid-sidecar-target": "acs"}),
        ]),
        1 => Just(json!({"serverless.fluid.io/inject": "true"})),
        1 => Just(json!({})),
    ];
    // As of a Pod that was copied from one that ran.
    let copied = one_of(vec![
        json!({}),
        json!({
            "labels": {"done.sidecar.fluid.io/inject": "true", "app": ""},
            "annotations": {"fluid-sidecar-policy/injected": r#"{"destination":"eci","sidecars":[]}"#, "a/b": "c"},
        }),
    ]);
    let name = one_of(vec![json!({"name": LONG}), json!({"generateName": "app-"})]);
    (name, marker, copied).prop_map(|(name, marker, copied)| {
        let labels = json!({"labels": merge(copied["labels"].clone(), &marker)});
        merge(merge(name, &copied), &labels)
    })
}

fn spec_fields() -> impl Strategy<Value = Value> {
    let pod_resources = vec![
        json!({"limits": {"memory": "64Gi"}}),
        json!({"requests": {"cpu": "100"}, "limits": {"cpu": "100"}}),
        json!({"requests": {"cpu": "1"}}),
    ];
    some_of(vec![
        ("fieldOfTomorrow", Just(json!({"a": [1e30, null]})).boxed()),
        ("hostNetwork", Just(json!(true)).boxed()),
        ("imagePullSecrets", one_of(vec![json!([{"name": "push"}]), json!([])])),
        ("os", Just(json!({"name": "linux"})).boxed()),
        ("resources", one_of(pod_resources)),
        ("shareProcessNamespace", one_of(vec![json!(true), json!(false)])),
        ("restartPolicy", one_of(vec![json!("Never"), json!("OnFailure")])),
        (
            "securityContext",
            one_of(vec![
                json!({"runAsUser": 1000, "runAsNonRoot": true, "fsGroup": 1000}),
                json!({"runAsGroup": 7}),
            ]),
        ),
        ("terminationGracePeriodSeconds", one_of(vec![json!(0), json!(600)])),
    ])
}

pub(crate) fn pod() -> impl Strategy<Value = Value> {
    // Names that the policy, or a DaemonSet, would like to have.
    let volume_names = vec!["mount", "conf", "conf-1", "fluid-fuse", "data", LONG, LONG_1];
    let container_names =
        vec!["app", "fluid-fuse", "fluid-fuse-1", "fluid-fuse-2", "fuse", "istio-proxy", LONG];
    let volumes = (subsequence(volume_names, 1..=5).prop_shuffle(), vec(volume_source(), 5));
    let inits = prop_oneof![1 => Just(Vec::new()), 1 => vec((parts(), prop::bool::weighted(0.7)), 0..3)];
    let containers = (Just(container_names).prop_shuffle(), vec(parts(), 1..4), inits);
    // Enough volumes for ECI's limit.
    let padding = prop_oneof![30 => Just(0), 1 => 14..20];
    (metadata(), spec_fields(), volumes, containers, padding).prop_map(
        |(metadata, fields, (volume_names, sources), (container_names, containers, inits), padding)| {
            let named = volume_names.into_iter().zip(sources);
            let mut volumes: Vec<_> =
                named.map(|(name, source)| merge(json!({"name": name}), &source)).collect();
            let mut names = container_names.into_iter();
            let mut container = |parts: Parts| parts.container(names.next().unwrap_or_default(), &volumes);
            let containers: Vec<_> = containers.into_iter().map(&mut container).collect();
            let inits = inits.into_iter().map(|(parts, native)| {
                let mut init = container(parts);
                if native {
                    init["restartPolicy"] = "Always".into();
                } else if let Some(init) = init.as_object_mut() {
                    init.retain(|key, _| !key.ends_with("Probe") && key != "lifecycle");
                }
                init
            });
            let inits: Vec<_> = inits.collect();
            volumes
                .extend((0..padding).map(|number| json!({"name": format!("pad-{number}"), "emptyDir": {}})));
            let mut spec = merge(json!({"containers": containers, "volumes": volumes}), &fields);
            if !inits.is_empty() {
                spec["initContainers"] = inits.into();
            }
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        },
    )
}

// --- what is not the Pod -----------------------------------------------------------------------------------

pub(crate) fn settings() -> impl Strategy<Value = Value> {
    let fields = some_of(vec![
        ("destination", one_of(vec![json!("eci"), json!("acs"), json!("kubernetes"), json!("kubernetes")])),
        (
            "destinations",
            one_of(vec![
                json!({"eci": {"order": "nativeSidecar", "exit": "kubelet", "readinessProbe": false}}),
                json!({"acs": {"order": "nativeSidecar", "exit": "kruise", "readinessProbe": true}}),
                json!({
                    "kubernetes": {"order": "firstContainer", "exit": "kruise"},
                    "eci": {"device": "privileged"},
                }),
                json!({"kubernetes": {"device": "extendedResource"}, "acs": {"exit": "eci"}}),
                json!({"kubernetes": {"holder": false}, "acs": {"holder": false}, "eci": {"holder": true}}),
                json!({
                    "eci": {"exit": "processNamespace"},
                    "kubernetes": {"order": "firstContainer", "exit": "processNamespace"},
                }),
            ]),
        ),
        ("gateTimeoutSeconds", Just(json!(600)).boxed()),
        ("injectFailedDatasets", one_of(vec![json!(false), json!(true)])),
        ("injectIncompleteReferences", one_of(vec![json!(false), json!(true), json!(true)])),
        ("namespaceLabels", Just(json!("read")).boxed()),
        ("onUndecidable", one_of(vec![json!("reject"), json!("allow")])),
        ("onUnresolved", Just(json!("allow")).boxed()),
        ("podOverrides", one_of(vec![json!({"cpu": 1, "memory": "1Gi"}), json!({"cpu": "100m"})])),
        ("selectors", selectors()),
        ("sidecarImages", Just(json!({"thin": "other"})).boxed()),
        ("sidecars", sidecars()),
        ("vfuseResourceName", Just(json!("example.com/gpu")).boxed()),
    ]);
    let from_settings = one_of(vec![
        json!({}),
        json!({}),
        json!({}),
        json!({"sidecarFrom": "fluid-fuse", "sidecarImages": {"thin": "fluid-fuse", "jindo": "unused"}}),
        json!({"datasetsFrom": "settings", "datasets": [{"claim": "*", "namespace": "*", "source": "file:///$(X)"}],
            "sidecarImages": {"thin": "fluid-fuse"}}),
        json!({"datasetsFrom": "settings", "datasets": [{"claim": "*", "namespace": "*", "runtime": "jindo"}],
            "sidecarImages": {"jindo": "fuse"}}),
    ]);
    // Markers reach no more than what the settings name; without them that is ECI.
    let enabled = select(vec![true, true, true, false]);
    (fields, from_settings, enabled).prop_map(|(mut fields, from_settings, enabled)| {
        for destination in ["eci", "acs", "kubernetes"].into_iter().filter(|_| enabled) {
            if fields["destinations"][destination].is_null() {
                fields["destinations"][destination] = json!({});
            }
        }
        merge(fields, &from_settings)
    })
}

fn selectors() -> BoxedStrategy<Value> {
    let mut all = vec![
        json!([{"podLabels": {"app": ""}, "destination": "acs"}]),
        json!([
            {"podLabels": {"eci": "true"}, "namespaceLabels": {"env": "prod"}, "destination": "eci"},
            {"podLabels": {"eci": "true"}, "destination": "kubernetes"},
        ]),
        json!([{"namespaceLabels": {"env": "prod"}, "destination": "acs"}]),
    ];
    // The first matches, so no namespace needs to be read.
    all.push(json!([
        {"podLabels": {"eci": "true"}, "destination": "kubernetes"},
        {"namespaceLabels": {"env": "prod"}, "destination": "eci"},
    ]));
    one_of(all)
}

fn sidecars() -> BoxedStrategy<Value> {
    let mut all = vec![
        json!({"thin": {
            "args": ["-x"], "env": {"A": "2", "N": 3},
            "limits": {"memory": "2Gi"}, "requests": {"cpu": "50m"},
        }}),
        json!({"jindo": {"cacheDirectory": "/scratch", "imagePullSecrets": ["pull", "mine"]}}),
        json!({
            "juicefs": {"cacheDirectory": "/tmp/x"},
            "thin": {"cacheDirectory": "/a", "cacheSizeLimit": "1Gi"},
        }),
    ];
    // The volume that was mounted there is not needed any more.
    all.push(json!({"thin": {"cacheDirectory": "/cache"}, "jindo": {"cacheDirectory": "/conf"}}));
    // Less than the DaemonSet requests.
    all.push(json!({"thin": {"limits": {"memory": "512Mi", "cpu": "10m"}}}));
    one_of(all)
}

pub(crate) fn template() -> impl Strategy<Value = Template> {
    let mut container = container_fields();
    container.push(("args", Just(json!(["-a"])).boxed()));
    container.push(("command", one_of(vec![json!(["run", "$(A)"]), json!(["/opt/fluid-fuse", "mount"])])));
    container.push((
        "image",
        one_of(vec![json!("registry:5000/fluid-fuse:1@sha256:0"), json!("fluid-fuse-of-others")]),
    ));
    container.push(("lifecycle", handler().prop_map(|stop| json!({"preStop": stop})).boxed()));
    container.push(("terminationMessagePolicy", Just(json!("FallbackToLogsOnError")).boxed()));
    container.push(("ports", ports()));
    let resize = Just(json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}])).boxed();
    container.push(("resizePolicy", resize));
    let security = one_of(vec![
        json!({"privileged": true}),
        json!({"privileged": true, "allowPrivilegeEscalation": true, "runAsUser": 1000, "runAsNonRoot": true}),
        json!({"privileged": true, "capabilities": {"add": ["CAP_SYS_ADMIN", "IPC_LOCK", "cap_chown", "all", "Sys_Module"]}}),
        json!({"allowPrivilegeEscalation": false, "capabilities": {"add": ["SYS_ADMIN"], "drop": ["ALL"]}}),
    ]);
    let container = (some_of(container), security)
        .prop_map(|(fields, security)| merge(fields, &json!({"securityContext": security})));
    let spec = some_of(vec![
        ("hostNetwork", Just(json!(true)).boxed()),
        ("hostPID", Just(json!(true)).boxed()),
        ("imagePullSecrets", Just(json!([{"name": "pull"}, {"name": "push"}])).boxed()),
        ("initContainers", Just(json!([{"name": "init", "image": "i"}])).boxed()),
        ("securityContext", one_of(vec![json!({"runAsUser": 7}), json!({"runAsGroup": 7, "fsGroup": 7})])),
        ("terminationGracePeriodSeconds", one_of(vec![json!(5), json!(120)])),
    ]);
    let volume = |name: &str, source: Value, mount: Value| {
        (merge(json!({"name": name}), &source), merge(json!({"name": name}), &mount))
    };
    let mut volumes = vec![
        volume(
            "device",
            json!({"hostPath": {"path": "/dev/fuse", "type": "CharDevice"}}),
            json!({"mountPath": "/dev/fuse"}),
        ),
        volume("cache", json!({"hostPath": {"path": "/var/cache"}}), json!({"mountPath": "/cache"})),
        volume(
            "conf",
            json!({"configMap": {"name": "conf"}}),
            json!({"mountPath": "/conf", "readOnly": true}),
        ),
        volume(LONG, json!({"emptyDir": {}}), json!({"mountPath": "/tmp", "subPathExpr": "$(A)"})),
    ];
    let bidirectional = json!({"mountPath": "/shared", "mountPropagation": "Bidirectional"});
    volumes.push(volume("shared", json!({"emptyDir": {}}), bidirectional));
    let block = json!({"persistentVolumeClaim": {"claimName": "wrapped"}});
    volumes.push(volume("block", block, json!({"devicePath": "/dev/x"})));
    let volumes = (0..=volumes.len()).prop_flat_map(move |count| subsequence(volumes.clone(), count));
    let mount_path = select(vec![None, None, Some("/else/where")]);
    (container, spec, volumes, mount_path).prop_map(|(container, spec, mut volumes, mount_path)| {
        if container["securityContext"]["privileged"] != true {
            volumes.retain(|(_, mount)| mount["mountPropagation"] != "Bidirectional");
        }
        Template { mount_path, container, spec, volumes }
    })
}

/// What the settings may accept as a resource, and what they must not.
pub(crate) fn resource_name() -> &'static str {
    "(requests[.])?[a-zA-Z_.]{1,3}/[a-zA-Z0-9_.-]{1,3}"
}

pub(crate) fn image() -> &'static str {
    " ?[a-z]{1,2} ?"
}

/// Any JSON, to be put where something else is expected.
pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        select(vec!["Always", "/", "..", "thin", "eci", "-"]).prop_map(Value::from),
    ];
    let key = prop_oneof![
        select(vec!["name", "claimName", "containers", "path"]).prop_map(str::to_string),
        ".{0,3}"
    ];
    scalar.prop_recursive(3, 8, 3, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::Array),
            proptest::collection::btree_map(key.clone(), inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
