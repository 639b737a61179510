//! What exactly changes in the Pod?
//!
//! [`inject`] changes the Pod's JSON where it lies, so that fields which nobody here has heard of stay as they are. It
//! succeeds as a whole or fails, and then the Pod is to be thrown away: nothing is half injected.
//!
//! Nothing marks a Pod as done. Once its Dataset claims are `hostPath` volumes there is nothing left to inject, so a
//! second run changes nothing, and no label or annotation copied from a live Pod can switch the injection off. The
//! annotation [`crate::status::ANNOTATION`] tells people, `uninject` and `mode: verify` what was done.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use fluid_sidecar_layout::MountPoint;
use fluid_sidecar_layout::contract::{FLUID_FUSE, HOLDER};
use k8s_openapi::api::core::v1::{HostPathVolumeSource, LocalObjectReference};
use serde_json::{Map, Value};

use crate::dataset::{Dataset, Shown, Use};
use crate::destination::{Destination, Device, EXIT_PRIORITY, Exit, LAUNCH_PRIORITY, Order};
use crate::json::{
    CONTAINER_LISTS, Places, at, elements, json, list_field, map_field, mounts_any, name_of, places,
    places_of,
};
use crate::pod::{Requests, Restarts};
use crate::reason::{Because as _, Code, Reason};
use crate::request::{ClaimVolume, Entries};
use crate::settings::Settings;
use crate::sidecar::{self, HolderNames, Sidecar};
use crate::status::{self, Claim, InjectedSidecar, Mount, Status};
use crate::{asked, lifecycle, limits, order, pod};

/// The longest name of a container or a volume (a DNS-1123 label).
const NAME_MAX: usize = 63;

/// Injects the sidecars of `uses`, in that order: they start in the order of the Pod's volumes. `resource_limits` are
/// what the Pod asks for them, `request_uid` names its directories on nodes that Pods share, and `status` is that of a
/// Pod to which nothing was done. Returns a reason for each sidecar, and what the user should know of it.
pub fn inject(
    pod: &mut Value,
    uses: Vec<Use>,
    destination: Destination,
    resource_limits: &Entries,
    settings: &Settings,
    request_uid: &str,
    mut status: Status,
) -> Result<Vec<Reason>, Reason> {
    let mut strategy = settings.strategy(destination);
    let volumes = uses.iter().flat_map(|one| &one.volumes).map(|shown| shown.volume.name.as_str());
    let volumes = places(volumes);
    let place = order::place(pod, strategy, |container| mounts_any(container, &volumes))?;
    let without_data = asked::WithoutData::of(pod, settings);
    let spec = pod.get_mut("spec").and_then(Value::as_object_mut);
    let spec = spec.context("spec: must be a map").because(Code::Malformed)?;
    let restarts = Restarts::of(spec);
    if restarts == Restarts::ForEver || strategy.order == Order::NativeSidecar {
        // A Pod that ends when it is deleted, where kubelet tells every container, or a sidecar that kubelet ends
        // and would start again.
        strategy.exit = strategy.exit.unwatched();
    }
    pod::check_isolation(spec, strategy.device, settings)?;
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    // What all containers together may ask for (KEP-2837); the sidecar shares it.
    let pod_resources = spec.get("resources").and_then(Value::as_object).is_some_and(|map| !map.is_empty());

    if strategy.device == Device::Privileged {
        status.directory = request_uid.to_string();
    }

    let mut container_names = Names::default();
    let mut volume_names = Names::default();
    volume_names.take_all(spec, "volumes").because(Code::Malformed)?;
    for list in CONTAINER_LISTS {
        container_names.take_all(spec, list).because(Code::Malformed)?;
        // Also what a container names and nobody has declared: it must not get what the injection brings.
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            volume_names.take(texts(sidecar::volume_names(container)));
            container_names.take(texts(sidecar::shown_containers(container.get_mut("env"))));
        }
    }
    container_names.take(texts(sidecar::shown_containers(spec.get_mut("volumes"))));
    list_of(spec, "imagePullSecrets").because(Code::Malformed)?;

    note_claims(spec, &uses, &mut status);
    let readers = follow_volumes(spec, &uses, strategy.order, &without_data, &mut status)?;
    let requests = Requests::of(spec);
    // A worker that nobody starts again has no successor.
    let starts_again =
        strategy.order == Order::NativeSidecar || Restarts::of_the_pod(spec) != Restarts::Never;
    let holds = strategy.holder && starts_again;

    let mut reasons = Vec::new();
    let mut sidecars = Vec::new();
    let mut no_token = None;
    for (index, Use { dataset, server, volumes }) in uses.into_iter().enumerate() {
        let name = container_names.unused(FLUID_FUSE);
        let mut sidecar =
            sidecar::build(&dataset, server, &name, strategy, resource_limits, settings, request_uid)
                .because(Code::Unresolved)?;
        if !sidecar.not_copied.is_empty() {
            reasons.push(incomplete_reference(&dataset, &sidecar, settings)?);
        }
        let needs_directory = sidecar.needs_directory || readers.see_empty[index];
        replace_volumes(spec, &volumes, &sidecar.mount_point, needs_directory)?;
        if strategy.exit == Exit::ProcessNamespace {
            let may_restart = restarts != Restarts::Never;
            sidecar.end_with(readers.containers[index], may_restart).because(Code::Malformed)?;
        }
        if let Some((launch, exit)) = place.priorities {
            let (launch, exit) = (launch.to_string(), exit.to_string());
            let priorities = [(LAUNCH_PRIORITY, launch.as_str()), (EXIT_PRIORITY, exit.as_str())];
            sidecar::set_env(&mut sidecar.container, &priorities).because(Code::Malformed)?;
        }
        rename_volumes(&mut sidecar, &mut volume_names);
        if !sidecar.has_token {
            let is_first = no_token.is_none();
            let name = no_token.get_or_insert_with(|| volume_names.unused(sidecar::NO_TOKEN_VOLUME));
            sidecar.hide_token(name, is_first).because(Code::Malformed)?;
        }
        if host_network {
            // They would be ports of the node, which two Pods cannot share.
            sidecar.drop_ports();
        }
        if pod_resources {
            sidecar.share_resources();
        } else {
            reasons.extend(requests.complete(&mut sidecar, &name, dataset.runtime, settings)?);
        }
        if let Some(what) = sidecar.dangling(no_token.as_deref()) {
            let text = format!(
                "the sidecar of Dataset {}/{} names {what}, which it has not; correct its DaemonSet, or set sidecarFrom: \
                 fluid-fuse",
                dataset.namespace, dataset.name
            );
            return Err(Reason::new(Code::Unresolved, text));
        }
        let mut mounted_by = String::new();
        if holds && sidecar.can_be_divided() {
            let names = HolderNames {
                container: container_names.unused(HOLDER),
                volume: volume_names.unused(sidecar::HOLDER_VOLUME),
                shown: volumes.first().map(|shown| shown.volume.name.clone()).unwrap_or_default(),
            };
            let resources = if pod_resources { None } else { requests.of_a_holder() };
            status.sidecars.push(InjectedSidecar {
                container: names.container.clone(),
                dataset: format!("{}/{}", dataset.namespace, dataset.name),
                volumes: Vec::new(),
            });
            mounted_by = format!(", mounted by container {}", names.container);
            sidecar.divide(names, resources, strategy, settings).because(Code::Malformed)?;
        }
        for (shown, names) in names_of_volumes(&volumes) {
            reasons.push(Reason::new(
                Code::Injected,
                format!(
                    "container {name} serves Dataset {}/{shown} as volume {}{mounted_by}",
                    dataset.namespace,
                    names.join(", ")
                ),
            ));
        }
        let dataset = format!("{}/{}", dataset.namespace, dataset.name);
        if !sidecar.left_out.is_empty() {
            let left_out = sidecar.left_out.join(", ");
            reasons.push(Reason::new(
                Code::TemplateReduced,
                format!("container {name} runs without {left_out}"),
            ));
        }
        let volumes = sidecar.volumes.iter().filter_map(name_of).map(str::to_string).collect();
        status.sidecars.push(InjectedSidecar { container: name, dataset, volumes });
        sidecars.push(sidecar);
    }
    if strategy.exit == Exit::ProcessNamespace {
        reasons.extend(share_processes(spec, &mut status)?);
    }
    pull_secrets(spec, &sidecars, &mut status).because(Code::Malformed)?;
    reasons.extend(grace_period(spec, &sidecars, &mut status));
    if strategy.order == Order::FirstContainer && strategy.exit != Exit::Eci {
        let seconds = pod::grace_seconds(spec).saturating_sub(lifecycle::LEFT_AT_THE_END).max(1);
        // Those of others cannot tell when nobody uses them any more, and a Pod that ends by itself would wait for them.
        for sidecar in &mut sidecars {
            if sidecar.is_fluid_fuse || restarts == Restarts::ForEver {
                sidecar.serve_on(seconds).because(Code::Malformed)?;
            }
        }
    }
    reasons.extend(readers.without_data.iter().map(|name| {
        let text = format!(
            "init container {name} needs no data, by its name or annotation: it sees an empty directory"
        );
        Reason::new(Code::InitWithoutData, text)
    }));

    let containers = CONTAINER_LISTS.iter().map(|list| elements(spec.get(*list)).len()).sum::<usize>()
        + status.sidecars.len();
    let mut added = Vec::new();
    let all_volumes = list_field(spec, "volumes").because(Code::Malformed)?;
    for sidecar in sidecars {
        all_volumes.extend(sidecar.volumes);
        added.extend(sidecar.holder.map(Value::Object));
        added.push(Value::Object(sidecar.container));
    }
    limits::check(destination, containers, all_volumes.len())?;
    let list = list_field(spec, strategy.order.list()).because(Code::Malformed)?;
    // Before a sidecar took its place.
    let first = list.get(place.index).and_then(name_of).map(str::to_string);
    list.splice(place.index..place.index, added);
    if strategy.device == Device::Privileged {
        status.evictable = let_autoscalers_evict(pod, &status).because(Code::Malformed)?;
    }
    if let (Order::FirstContainer, Some(first)) = (strategy.order, first) {
        status.default_container =
            annotate_new(pod, status::DEFAULT_CONTAINER, first).because(Code::Malformed)?;
    }

    let text = status.to_json().because(Code::Malformed)?;
    limits::check_annotations(pod, status::ANNOTATION, &text)?;
    annotations(pod).because(Code::Malformed)?.insert(status::ANNOTATION.to_string(), text.into());
    Ok(reasons)
}

/// A Dataset refers to one in another namespace, and Fluid does not copy all that its client needs.
fn incomplete_reference(dataset: &Dataset, sidecar: &Sidecar, settings: &Settings) -> Result<Reason, Reason> {
    let Dataset { namespace, name, refers_to, .. } = dataset;
    let (owners_namespace, owner) = refers_to.clone().unwrap_or_default();
    let text = format!(
        "Dataset {namespace}/{name} refers to {owners_namespace}/{owner}, whose {} Fluid does not copy to namespace \
         {namespace}",
        sidecar.not_copied.join(" and "),
    );
    match settings.inject_incomplete_references {
        true => Ok(Reason::new(
            Code::IncompleteReference,
            format!("{text}; the Pod does not start before somebody does"),
        )),
        false => Err(Reason::new(
            Code::Unresolved,
            format!(
                "{text}; copy that and set injectIncompleteReferences: true, or run the Pod in namespace \
                 {owners_namespace}"
            ),
        )),
    }
}

/// The names of volumes by their Datasets, both in their order.
fn names_of_volumes(volumes: &[Shown]) -> Vec<(&str, Vec<&str>)> {
    let mut by_dataset: Vec<(&str, Vec<&str>)> = Vec::new();
    for Shown { volume, dataset, .. } in volumes {
        match by_dataset.iter_mut().find(|(known, _)| known == dataset) {
            Some((_, names)) => names.push(&volume.name),
            None => by_dataset.push((dataset, vec![&volume.name])),
        }
    }
    by_dataset
}

fn annotations(pod: &mut Value) -> Result<&mut Map<String, Value>> {
    let pod = pod.as_object_mut().context("the Pod must be a map")?;
    map_field(map_field(pod, "metadata")?, "annotations").context("metadata")
}

/// Sets an annotation that the Pod does not have. Whether it did.
fn annotate_new(pod: &mut Value, key: &str, text: String) -> Result<bool> {
    let annotations = annotations(pod)?;
    let is_new = !annotations.contains_key(key);
    if is_new {
        annotations.insert(key.to_string(), text.into());
    }
    Ok(is_new)
}

/// The claims' volumes become a directory of the node, under the same names and at the same places.
fn replace_volumes(
    spec: &mut Map<String, Value>,
    volumes: &[Shown],
    data: &MountPoint,
    needs_directory: bool,
) -> Result<(), Reason> {
    let all = list_field(spec, "volumes").context("spec").because(Code::Malformed)?;
    for Shown { volume: ClaimVolume { index, .. }, .. } in volumes {
        let volume = all.get_mut(*index).and_then(Value::as_object_mut);
        let volume = volume.with_context(|| format!("spec.volumes[{index}]: must be a map"));
        let volume = volume.because(Code::Malformed)?;
        // No type otherwise: kubelet must not check for the directory before the sidecar has mounted it.
        let type_ = needs_directory.then(|| "DirectoryOrCreate".to_string());
        let source = HostPathVolumeSource { path: data.to_string(), type_ };
        volume.insert("hostPath".into(), json(source).because(Code::Malformed)?);
        volume.remove("persistentVolumeClaim");
    }
    Ok(())
}

/// Notes the claims as they are, in the order of the Datasets.
fn note_claims(spec: &Map<String, Value>, uses: &[Use], status: &mut Status) {
    let all = elements(spec.get("volumes"));
    for Use { volumes, .. } in uses {
        for Shown { volume: ClaimVolume { index, name, .. }, sub_path, .. } in volumes {
            let claim = all.get(*index).and_then(|volume| volume.get("persistentVolumeClaim"));
            status.claims.push(Claim {
                volume: name.clone(),
                persistent_volume_claim: claim.cloned().unwrap_or_default(),
                sub_path: sub_path.clone(),
                mounts: Vec::new(),
            });
        }
    }
}

/// Who mounts the Datasets.
struct Readers {
    /// How many of `spec.containers` mount each of them.
    containers: Vec<usize>,
    /// Of which of them an init container that needs no data sees an empty directory.
    see_empty: Vec<bool>,
    /// The names of these init containers.
    without_data: Vec<String>,
}

/// Every mount of a Dataset's volume follows what the sidecar mounts there.
fn follow_volumes(
    spec: &mut Map<String, Value>,
    uses: &[Use],
    order: Order,
    without_data: &asked::WithoutData<'_>,
    status: &mut Status,
) -> Result<Readers, Reason> {
    // Of each claim, in the order of the status: the mount's place in `uses`, and what shows it.
    let mut claims = Vec::new();
    let mut by_volume = Places::new();
    for (dataset, one) in uses.iter().enumerate() {
        for shown in &one.volumes {
            by_volume.entry(shown.volume.name.clone()).or_insert(claims.len());
            claims.push((dataset, shown));
        }
    }
    // The container that was last seen to read each Dataset.
    let mut last_reader = vec![usize::MAX; uses.len()];
    let mut readers = Readers {
        containers: vec![0; uses.len()],
        see_empty: vec![false; uses.len()],
        without_data: Vec::new(),
    };
    for list in CONTAINER_LISTS {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for (index, container) in containers.into_iter().flatten().enumerate() {
            let container_name = name_of(container).unwrap_or_default().to_string();
            let who = || format!("{list}[{index}] {container_name:?}");
            let mut devices = elements(container.get("volumeDevices")).iter().filter_map(name_of);
            if let Some(name) = devices.find(|name| by_volume.contains_key(*name)) {
                return Err(Reason::new(
                    Code::Unsupported,
                    format!(
                        "{} uses volume {name:?} as a block device, but a Dataset is a file system; use volumeMounts",
                        who()
                    ),
                ));
            }
            let too_early = list == "initContainers" && order == Order::FirstContainer;
            let sees_empty = too_early && without_data.has(container);
            let mut saw_empty = false;
            let mounts = container.get_mut("volumeMounts").and_then(Value::as_array_mut);
            for mount in mounts.into_iter().flatten() {
                let Some((name, claim)) = name_of(mount).and_then(|name| Some((name, *by_volume.get(name)?)))
                else {
                    continue;
                };
                let (dataset, shown) = claims[claim];
                if too_early && !sees_empty {
                    return Err(Reason::new(
                        Code::Unsupported,
                        format!(
                            "{} mounts Dataset volume {name:?}, but the sidecar is a container and starts after init \
                             containers; read the data in a container, or use a destination whose order is \
                             nativeSidecar; if it needs no data, say so by the annotation {}: {container_name}, or have \
                             the setting initContainersWithoutData name it",
                            who(),
                            asked::WITHOUT_DATA
                        ),
                    ));
                }
                if list == "containers" && last_reader[dataset] != index {
                    last_reader[dataset] = index;
                    readers.containers[dataset] += 1;
                }
                status.claims[claim].mounts.extend(Mount::of(&container_name, mount));
                if sees_empty {
                    readers.see_empty[dataset] = true;
                    saw_empty = true;
                    // Nobody writes into the directory below.
                    if let Some(mount) = mount.as_object_mut() {
                        mount.insert("readOnly".into(), true.into());
                    }
                    continue;
                }
                follow(mount, shown.volume.read_only, &shown.sub_path);
            }
            if saw_empty {
                readers.without_data.push(container_name);
            }
        }
    }
    Ok(readers)
}

fn follow(mount: &mut Value, read_only: bool, sub_path: &str) {
    let Some(mount) = mount.as_object_mut() else { return };
    if !sub_path.is_empty() {
        put_below(mount, sub_path);
    }
    let is = |key: &str, text: &str| mount.get(key).is_some_and(|value| value == text);
    // Recursive read-only mounts must not propagate (the API server's rule), and a privileged container's
    // Bidirectional already includes HostToContainer.
    let recursive =
        mount.get("recursiveReadOnly").is_some_and(Value::is_string) && !is("recursiveReadOnly", "Disabled");
    if !recursive && !is("mountPropagation", "Bidirectional") {
        mount.insert("mountPropagation".into(), "HostToContainer".into());
    }
    // hostPath has no readOnly of its own.
    if read_only {
        mount.insert("readOnly".into(), true.into());
    }
}

/// A part of a Dataset is a sub path, in front of the mount's own: kubelet follows no link out of a volume. What stands
/// in the path of a volume would be followed on the node, wherever the files of the Dataset lead.
fn put_below(mount: &mut Map<String, Value>, sub_path: &str) {
    // In an expression `$(…)` would be a variable of the container.
    let literal = sub_path.replace("$(", "$$(");
    let (key, sub_path) = match mount.contains_key("subPathExpr") {
        true => ("subPathExpr", literal.as_str()),
        false => ("subPath", sub_path),
    };
    let path = match mount.get(key).and_then(Value::as_str).unwrap_or_default() {
        "" => sub_path.to_string(),
        own => format!("{sub_path}/{own}"),
    };
    mount.insert(key.into(), path.into());
}

/// The containers see each other's processes, unless the Pod's owner has decided otherwise.
fn share_processes(spec: &mut Map<String, Value>, status: &mut Status) -> Result<Option<Reason>, Reason> {
    let key = "shareProcessNamespace";
    let field = |key: &str| spec.get(key).and_then(Value::as_bool);
    let refused = match (field(key), field("hostPID")) {
        // All processes of the node would count, and the two exclude each other.
        (_, Some(true)) => "hostPID: true",
        (Some(false), _) => "shareProcessNamespace: false",
        (Some(true), _) => return Ok(None),
        (None, _) => {
            spec.insert(key.into(), true.into());
            status.share_process_namespace = true;
            return Ok(Some(Reason::new(
                Code::ProcessesShared,
                "shareProcessNamespace is set, so that the sidecar ends with the containers that it serves",
            )));
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
fn pull_secrets(spec: &mut Map<String, Value>, sidecars: &[Sidecar], status: &mut Status) -> Result<()> {
    let mut taken = places_of(elements(spec.get("imagePullSecrets")));
    for secret in sidecars.iter().flat_map(|sidecar| &sidecar.image_pull_secrets) {
        if taken.insert(secret.clone(), 0).is_none() {
            status.image_pull_secrets.push(secret.clone());
        }
    }
    if !status.image_pull_secrets.is_empty() {
        let all = list_field(spec, "imagePullSecrets")?;
        for name in &status.image_pull_secrets {
            all.push(json(LocalObjectReference { name: name.clone() })?);
        }
    }
    Ok(())
}

/// A volume of a claim keeps no node from being scaled down; a `hostPath` or an `emptyDir` does, unless the Pod says that it
/// may be lost.
fn let_autoscalers_evict(pod: &mut Value, status: &Status) -> Result<bool> {
    const SAFE: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";
    if annotations(pod)?.contains_key(SAFE) {
        return Ok(false);
    }
    let brought = status.sidecars.iter().flat_map(|sidecar| sidecar.volumes.iter().map(String::as_str));
    let ours = places(status.claims.iter().map(|claim| claim.volume.as_str()).chain(brought));
    let of_the_node = elements(Some(at(pod, &["spec", "volumes"])))
        .iter()
        .filter(|volume| ["hostPath", "emptyDir"].iter().any(|kind| volume.get(*kind).is_some()));
    let volumes = of_the_node.filter_map(name_of).filter(|name| ours.contains_key(*name));
    let volumes: Vec<_> = volumes.collect();
    annotate_new(pod, status::EVICTABLE, volumes.join(","))
}

/// The Pod gives its sidecars the time to end that their DaemonSet gives them, at least.
fn grace_period(spec: &mut Map<String, Value>, sidecars: &[Sidecar], status: &mut Status) -> Option<Reason> {
    let key = "terminationGracePeriodSeconds";
    let given = spec.get(key).and_then(Value::as_i64);
    let needed = sidecars.iter().filter_map(|sidecar| sidecar.grace_seconds).max().unwrap_or_default();
    if needed <= pod::grace_seconds(spec) {
        return None;
    }
    spec.insert(key.into(), needed.into());
    status.termination_grace_period_seconds = Some(given);
    Some(Reason::new(
        Code::GracePeriodRaised,
        format!("{key} is raised to {needed}, which the sidecar needs to end"),
    ))
}

/// What stands in some places of a container or a volume.
fn texts(places: Vec<&mut Value>) -> impl Iterator<Item = &str> {
    places.into_iter().filter_map(|place| place.as_str())
}

/// A list of `spec`; absent is empty.
fn list_of<'v>(spec: &'v Map<String, Value>, key: &str) -> Result<&'v [Value]> {
    match spec.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(list) => Ok(list.as_array().with_context(|| format!("spec.{key}: must be a list"))?),
    }
}

/// Names that are taken, each with the number behind it that was tried last.
#[derive(Default)]
struct Names(BTreeMap<String, usize>);

impl Names {
    fn take_all(&mut self, spec: &Map<String, Value>, list: &str) -> Result<()> {
        self.take(list_of(spec, list)?.iter().filter_map(name_of));
        Ok(())
    }

    fn take<'n>(&mut self, names: impl Iterator<Item = &'n str>) {
        self.0.extend(names.map(|name| (name.to_string(), 0)));
    }

    /// The name itself when it is free, else with the first free number behind it. Takes it.
    fn unused(&mut self, name: &str) -> String {
        let Some(mut number) = self.0.get(name).copied() else {
            self.0.insert(name.to_string(), 0);
            return name.to_string();
        };
        loop {
            number += 1;
            let suffix = format!("-{number}");
            // Volume and container names are ASCII; anything else is refused by the API server anyway.
            let stem: String = name.chars().take(NAME_MAX - suffix.len()).collect();
            let candidate = format!("{}{suffix}", stem.trim_end_matches('-'));
            if !self.0.contains_key(&candidate) {
                self.0.insert(name.to_string(), number);
                self.0.insert(candidate.clone(), 0);
                return candidate;
            }
        }
    }
}

/// Volumes of the sidecar whose names the Pod already uses get others.
fn rename_volumes(sidecar: &mut Sidecar, names: &mut Names) {
    let mut renamed: Vec<(String, String)> = Vec::new();
    for volume in &mut sidecar.volumes {
        let Some(name) = volume.get_mut("name") else { continue };
        let Some(old) = name.as_str() else { continue };
        let new = names.unused(old);
        if new != old {
            renamed.push((old.to_string(), new.clone()));
            *name = new.into();
        }
    }
    if renamed.is_empty() {
        return;
    }
    for name in sidecar::volume_names(&mut sidecar.container) {
        if let Some((_, new)) = renamed.iter().find(|(old, _)| name == old) {
            *name = new.as_str().into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_names_stay_and_taken_ones_get_a_number() {
        let mut names = Names::default();
        names.0.extend(["fluid-fuse", "fluid-fuse-1"].map(|name| (name.to_string(), 0)));
        assert_eq!(names.unused("fluid-fuse"), "fluid-fuse-2");
        assert_eq!(names.unused("fluid-fuse"), "fluid-fuse-3");
        assert_eq!(names.unused("other"), "other");
        let long = "a".repeat(NAME_MAX);
        assert_eq!(names.unused(&long), long);
        let next = names.unused(&long);
        assert_eq!((next.len(), next.ends_with("a-1")), (NAME_MAX, true));
    }
}
