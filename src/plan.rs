//! What exactly changes in the Pod?
//!
//! [`make`] compares the Pod with the Datasets it mounts and lists edits; [`Plan::apply`] carries them out on
//! the Pod's JSON, so that fields which nobody here has heard of stay as they are. A plan is whole or it is
//! an error: nothing is half injected.
//!
//! Nothing marks a Pod as done. Once its Dataset claims are `hostPath` volumes there is nothing left to
//! plan, so planning again changes nothing, and no label or annotation copied from a live Pod can switch the
//! injection off. The annotation [`crate::status::ANNOTATION`] tells people, and `uninject`, what was done.

use std::collections::BTreeSet;

use fluid_sidecar_layout::FLUID_FUSE;
use serde_json::{Map, Value, json};

use crate::dataset::Dataset;
use crate::destination::{Destination, Exit, Order};
use crate::json::{elements, name_of};
use crate::limits;
use crate::reason::{Code, Reason};
use crate::request::Entries;
use crate::settings::Settings;
use crate::sidecar::{self, Sidecar};
use crate::status::{self, Claim, InjectedSidecar, Status};

/// The longest name of a container or a volume (a DNS-1123 label).
const NAME_MAX: usize = 63;

/// Proxies of service meshes that hold all other containers back until they are ready. A sidecar before them
/// would wait for a network that cannot come (GKE #53).
const MESH_PROXIES: &[&str] = &["istio-proxy", "linkerd-proxy"];

/// A Dataset and the volumes of the Pod that are its claim.
#[derive(Clone, Debug)]
pub struct Use {
    /// What is mounted.
    pub dataset: Dataset,
    /// Where.
    pub volumes: Vec<ClaimVolume>,
}

/// One volume of the Pod that is a claim.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimVolume {
    /// Its index in `spec.volumes`.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// `persistentVolumeClaim.readOnly`.
    pub read_only: bool,
    /// `persistentVolumeClaim`, as it is.
    pub source: Value,
}

/// The edits of one Pod, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    edits: Vec<Edit>,
    /// One for each sidecar, and what the user should know of it.
    pub reasons: Vec<Reason>,
}

/// One change of a JSON document. Indices mean the document as it was; insertions come last.
#[derive(Clone, Debug, PartialEq)]
enum Edit {
    /// Sets a field of a map, making the maps on the way to it.
    Set(Vec<Step>, String, Value),
    /// Removes a field of a map.
    Remove(Vec<Step>, &'static str),
    /// Inserts elements into a list, making it when it is absent.
    Insert { list: Vec<Step>, index: usize, elements: Vec<Value> },
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Key(&'static str),
    Index(usize),
}

use Step::{Index, Key};

/// Plans the injection of `uses`, in that order: the sidecars start in the order of the Pod's volumes.
/// `resource_limits` are what the Pod asks for its sidecars.
pub fn make(
    pod: &Value,
    uses: &[Use],
    destination: Destination,
    resource_limits: &Entries,
    settings: &Settings,
) -> Result<Plan, Reason> {
    let malformed = |error| Reason::new(Code::Malformed, error);
    let mut strategy = settings.strategy(destination);
    let restart_policy = pod.pointer("/spec/restartPolicy").and_then(Value::as_str).unwrap_or("Always");
    if restart_policy == "Always" || strategy.order == Order::NativeSidecar {
        // A Pod that ends when it is deleted, where kubelet tells every container, or a sidecar that kubelet ends
        // and would start again.
        strategy.exit = strategy.exit.unwatched();
    }
    let containers = Containers::of(pod).map_err(malformed)?;
    let volumes = list(pod, "volumes").map_err(malformed)?;
    let mut container_names = containers.names();
    let mut volume_names: BTreeSet<String> = volumes.iter().filter_map(name_of).map(str::to_string).collect();

    let host_network = pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true));
    // What all containers together may ask for (KEP-2837); ours shares it.
    let pod_resources =
        pod.pointer("/spec/resources").and_then(Value::as_object).is_some_and(|map| !map.is_empty());
    let mut plan = Plan { edits: Vec::new(), reasons: Vec::new() };
    let mut status = Status::new(destination, settings);
    let mut sidecars = Vec::new();
    for one @ Use { dataset, volumes } in uses {
        let name = unused(FLUID_FUSE, &mut container_names);
        let mut sidecar = sidecar::build(dataset, &name, strategy, resource_limits, settings)
            .map_err(|error| Reason::new(Code::Unresolved, error))?;
        if strategy.exit == Exit::ProcessNamespace {
            let users = containers.0.iter().filter(|(list, _, container)| {
                *list == "containers" && reads(container, std::slice::from_ref(one))
            });
            sidecar.end_with(users.count(), restart_policy != "Never").map_err(malformed)?;
        }
        rename_volumes(&mut sidecar, &mut volume_names);
        if host_network {
            // They would be ports of the node, which two Pods cannot share.
            sidecar.container.remove("ports");
        }
        if pod_resources {
            sidecar.share_resources();
        }
        for volume in volumes {
            plan.replace_volume(volume, dataset, &containers, strategy.order, &mut status)?;
        }
        let used: Vec<_> = volumes.iter().map(|volume| volume.name.as_str()).collect();
        let dataset = format!("{}/{}", dataset.namespace, dataset.name);
        plan.reasons.push(Reason::new(
            Code::Injected,
            format!("container {name} serves Dataset {dataset} as volume {}", used.join(", ")),
        ));
        if !sidecar.left_out.is_empty() {
            let left_out = sidecar.left_out.join(", ");
            plan.reasons.push(Reason::new(
                Code::TemplateReduced,
                format!("container {name} runs without {left_out}"),
            ));
        }
        let volumes = sidecar.volumes.iter().filter_map(name_of).map(str::to_string).collect();
        status.sidecars.push(InjectedSidecar { container: name, dataset, volumes });
        sidecars.push(sidecar);
    }
    if strategy.exit == Exit::ProcessNamespace {
        plan.share_processes(pod, &mut status)?;
    }
    plan.pull_secrets(pod, &sidecars, &mut status).map_err(malformed)?;
    plan.grace_period(pod, &sidecars, &mut status);

    let (list, index) = match strategy.order {
        Order::FirstContainer => ("containers", containers.behind_mesh_proxies(uses)),
        Order::NativeSidecar => ("initContainers", containers.first_init_use(uses)),
    };
    let sidecar_volumes: Vec<_> =
        sidecars.iter().flat_map(|sidecar| sidecar.volumes.iter().cloned()).collect();
    limits::check(destination, containers.0.len() + sidecars.len(), volumes.len() + sidecar_volumes.len())?;
    let elements = sidecars.into_iter().map(|sidecar| Value::Object(sidecar.container)).collect();
    plan.edits.push(Edit::Insert { list: vec![Key("spec"), Key(list)], index, elements });
    if !sidecar_volumes.is_empty() {
        let list = vec![Key("spec"), Key("volumes")];
        plan.edits.push(Edit::Insert { list, index: volumes.len(), elements: sidecar_volumes });
    }
    let status = status.to_json().map_err(malformed)?;
    limits::check_annotations(pod, status::ANNOTATION, &status)?;
    plan.set(&[Key("metadata"), Key("annotations")], status::ANNOTATION, status.into());
    Ok(plan)
}

impl Plan {
    fn set(&mut self, path: &[Step], key: &str, value: Value) {
        self.edits.push(Edit::Set(path.to_vec(), key.into(), value));
    }

    /// The claim's volume becomes a directory of the node, under the same name and at the same place, and
    /// every mount of it follows what the sidecar mounts there.
    fn replace_volume(
        &mut self,
        volume: &ClaimVolume,
        dataset: &Dataset,
        containers: &Containers<'_>,
        order: Order,
        status: &mut Status,
    ) -> Result<(), Reason> {
        let unsupported = |what: String| Err(Reason::new(Code::Unsupported, what));
        // No type: kubelet must not check for the directory before the sidecar has mounted it.
        let at = vec![Key("spec"), Key("volumes"), Index(volume.index)];
        self.set(&at, "hostPath", json!({"path": dataset.data.as_str()}));
        self.edits.push(Edit::Remove(at, "persistentVolumeClaim"));
        let mut claim = Claim {
            volume: volume.name.clone(),
            persistent_volume_claim: volume.source.clone(),
            mounts: Vec::new(),
        };

        for (list, index, container) in &containers.0 {
            let container_name = name_of(container).unwrap_or_default();
            let who = || format!("{list}[{index}] {container_name:?}");
            let uses = |entry: &&Value| name_of(entry) == Some(volume.name.as_str());
            if elements(container.get("volumeDevices")).iter().any(|device| uses(&device)) {
                return unsupported(format!(
                    "{} uses volume {:?} as a block device, but a Dataset is a file system; use volumeMounts",
                    who(),
                    volume.name
                ));
            }
            let mounts =
                elements(container.get("volumeMounts")).iter().enumerate().filter(|(_, mount)| uses(mount));
            for (mount_index, mount) in mounts {
                if *list == "initContainers" && order == Order::FirstContainer {
                    return unsupported(format!(
                        "{} mounts Dataset volume {:?}, but the sidecar is a container and starts after init \
                         containers; read the data in a container, or use a destination whose order is nativeSidecar",
                        who(),
                        volume.name,
                    ));
                }
                let at = [Key("spec"), Key(list), Index(*index), Key("volumeMounts"), Index(mount_index)];
                claim.mounts.extend(status::Mount::of(container_name, mount));
                // Recursive read-only mounts must not propagate (the API server's rule), and a privileged
                // container's Bidirectional already includes HostToContainer.
                let recursive = mount.get("recursiveReadOnly").and_then(Value::as_str);
                let propagation = mount.get("mountPropagation").and_then(Value::as_str);
                if matches!(recursive, None | Some("Disabled")) && propagation != Some("Bidirectional") {
                    self.set(&at, "mountPropagation", "HostToContainer".into());
                }
                // hostPath has no readOnly of its own.
                if volume.read_only {
                    self.set(&at, "readOnly", true.into());
                }
            }
        }
        status.claims.push(claim);
        Ok(())
    }

    /// The containers see each other's processes, unless the Pod's owner has decided otherwise.
    fn share_processes(&mut self, pod: &Value, status: &mut Status) -> Result<(), Reason> {
        let key = "shareProcessNamespace";
        let field = |key: &str| pod.get("spec").and_then(|spec| spec.get(key)).and_then(Value::as_bool);
        let refused = match (field(key), field("hostPID")) {
            // All processes of the node would count, and the two exclude each other.
            (_, Some(true)) => "hostPID: true",
            (Some(false), _) => "shareProcessNamespace: false",
            (Some(true), _) => return Ok(()),
            (None, _) => {
                self.set(&[Key("spec")], key, true.into());
                status.share_process_namespace = true;
                self.reasons.push(Reason::new(
                    Code::ProcessesShared,
                    "shareProcessNamespace is set, so that the sidecar ends with the containers that it serves",
                ));
                return Ok(());
            }
        };
        Err(Reason::new(
            Code::Unsupported,
            format!(
                "spec.{refused} keeps the sidecar from ending with the Pod; remove it, or let the administrator \
                 choose another exit than processNamespace"
            ),
        ))
    }

    /// The sidecar's image may need secrets that the application's does not.
    fn pull_secrets(&mut self, pod: &Value, sidecars: &[Sidecar], status: &mut Status) -> Result<(), String> {
        let known = list(pod, "imagePullSecrets")?;
        let mut taken: BTreeSet<&str> = known.iter().filter_map(name_of).collect();
        for secret in sidecars.iter().flat_map(|sidecar| &sidecar.image_pull_secrets) {
            if taken.insert(secret) {
                status.image_pull_secrets.push(secret.clone());
            }
        }
        if !status.image_pull_secrets.is_empty() {
            let elements = status.image_pull_secrets.iter().map(|name| json!({"name": name})).collect();
            let list = vec![Key("spec"), Key("imagePullSecrets")];
            self.edits.push(Edit::Insert { list, index: known.len(), elements });
        }
        Ok(())
    }

    /// The Pod gives its sidecars the time to end that their DaemonSet gives them, at least.
    fn grace_period(&mut self, pod: &Value, sidecars: &[Sidecar], status: &mut Status) {
        let key = "terminationGracePeriodSeconds";
        let given = pod.get("spec").and_then(|spec| spec.get(key)).and_then(Value::as_i64);
        let needed = sidecars.iter().filter_map(|sidecar| sidecar.grace_seconds).max().unwrap_or_default();
        // 30 is Kubernetes' default.
        if needed > given.unwrap_or(30) {
            self.set(&[Key("spec")], key, needed.into());
            status.termination_grace_period_seconds = Some(given);
            self.reasons.push(Reason::new(
                Code::GracePeriodRaised,
                format!("{key} is raised to {needed}, which the sidecar needs to end"),
            ));
        }
    }

    /// Changes the Pod. On an error, which names the field, the Pod is to be thrown away.
    pub fn apply(self, pod: &mut Value) -> Result<(), String> {
        for edit in self.edits {
            match edit {
                Edit::Set(path, key, value) => {
                    map_at(pod, &path)?.insert(key, value);
                }
                Edit::Remove(path, key) => {
                    map_at(pod, &path)?.remove(key);
                }
                Edit::Insert { list, index, elements } => {
                    let target = at(pod, &list)?;
                    if target.is_null() {
                        *target = Value::Array(Vec::new());
                    }
                    let target = target.as_array_mut().ok_or_else(|| must_be(&list, "a list"))?;
                    let index = index.min(target.len());
                    target.splice(index..index, elements);
                }
            }
        }
        Ok(())
    }
}

/// All containers of a Pod with the list and the index they stand at.
struct Containers<'a>(Vec<(&'static str, usize, &'a Value)>);

impl<'a> Containers<'a> {
    fn of(pod: &'a Value) -> Result<Self, String> {
        let mut all = Vec::new();
        for key in ["initContainers", "containers", "ephemeralContainers"] {
            all.extend(list(pod, key)?.iter().enumerate().map(|(index, container)| (key, index, container)));
        }
        Ok(Containers(all))
    }

    fn names(&self) -> BTreeSet<String> {
        self.0.iter().filter_map(|(_, _, container)| name_of(container)).map(str::to_string).collect()
    }

    /// Where sidecars go among the containers: in front, but behind mesh proxies that come first.
    fn behind_mesh_proxies(&self, uses: &[Use]) -> usize {
        let containers = self.0.iter().filter(|(list, _, _)| *list == "containers");
        containers
            .take_while(|(_, _, container)| {
                name_of(container).is_some_and(|name| MESH_PROXIES.contains(&name)) && !reads(container, uses)
            })
            .count()
    }

    /// Where native sidecars go: before the first init container that reads the data, otherwise last, so
    /// that other injectors' sidecars keep their places.
    fn first_init_use(&self, uses: &[Use]) -> usize {
        let inits = self.0.iter().filter(|(list, _, _)| *list == "initContainers");
        inits.clone().position(|(_, _, container)| reads(container, uses)).unwrap_or_else(|| inits.count())
    }
}

/// Whether a container mounts one of the Datasets.
fn reads(container: &Value, uses: &[Use]) -> bool {
    let served = |name| uses.iter().flat_map(|one| &one.volumes).any(|volume| volume.name == name);
    elements(container.get("volumeMounts")).iter().filter_map(name_of).any(served)
}

/// Volumes of the sidecar whose names the Pod already uses get others.
fn rename_volumes(sidecar: &mut Sidecar, taken: &mut BTreeSet<String>) {
    let renamed: Vec<_> = sidecar
        .volumes
        .iter_mut()
        .filter_map(|volume| {
            let entry = volume.get_mut("name")?;
            let old = entry.as_str()?.to_string();
            let new = unused(&old, taken);
            *entry = new.as_str().into();
            Some((old, new))
        })
        .collect();
    for name in sidecar::volume_names(&mut sidecar.container) {
        if let Some((_, new)) = renamed.iter().find(|(old, _)| name.as_str() == Some(old)) {
            *name = new.as_str().into();
        }
    }
}

/// The name itself when it is free, else with the first free number behind it. Takes it.
fn unused(name: &str, taken: &mut BTreeSet<String>) -> String {
    let mut candidate = name.to_string();
    let mut number = 0;
    while taken.contains(&candidate) {
        number += 1;
        let suffix = format!("-{number}");
        // Volume and container names are ASCII; anything else is refused by the API server anyway.
        let stem: String = name.chars().take(NAME_MAX - suffix.len()).collect();
        candidate = format!("{}{suffix}", stem.trim_end_matches('-'));
    }
    taken.insert(candidate.clone());
    candidate
}

/// A list of `spec`; absent is empty.
fn list<'v>(pod: &'v Value, key: &str) -> Result<&'v [Value], String> {
    match pod.get("spec").and_then(|spec| spec.get(key)) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(entries)) => Ok(entries),
        Some(_) => Err(format!("spec.{key}: must be a list")),
    }
}

/// The value at a path; maps on the way are made, list elements must exist.
fn at<'v>(document: &'v mut Value, path: &[Step]) -> Result<&'v mut Value, String> {
    let mut value = document;
    for (depth, step) in path.iter().enumerate() {
        value = match step {
            Key(key) => {
                if value.is_null() {
                    *value = Value::Object(Map::new());
                }
                let map = value.as_object_mut().ok_or_else(|| must_be(&path[..depth], "a map"))?;
                map.entry(*key).or_insert(Value::Null)
            }
            Index(index) => value.get_mut(*index).ok_or_else(|| must_be(&path[..depth], "a list"))?,
        };
    }
    Ok(value)
}

fn map_at<'v>(document: &'v mut Value, path: &[Step]) -> Result<&'v mut Map<String, Value>, String> {
    let value = at(document, path)?;
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().ok_or_else(|| must_be(path, "a map"))
}

fn must_be(path: &[Step], what: &str) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Key(key) if text.is_empty() => text.push_str(key),
            Key(key) => text.push_str(&format!(".{key}")),
            Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    format!("{text}: must be {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_names_stay_and_taken_ones_get_a_number() {
        let mut taken = BTreeSet::from(["fluid-fuse".to_string(), "fluid-fuse-1".to_string()]);
        assert_eq!(unused("fluid-fuse", &mut taken), "fluid-fuse-2");
        assert_eq!(unused("fluid-fuse", &mut taken), "fluid-fuse-3");
        assert_eq!(unused("other", &mut taken), "other");
        let long = "a".repeat(NAME_MAX);
        assert_eq!(unused(&long, &mut taken), long);
        let next = unused(&long, &mut taken);
        assert_eq!((next.len(), next.ends_with("a-1")), (NAME_MAX, true));
    }
}
