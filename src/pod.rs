//! What does the Pod say of itself that its sidecars must fit?

use fluid_sidecar_layout::{Named as _, Runtime};
use serde_json::{Map, Value};

use crate::destination::Device;
use crate::json::{CONTAINER_LISTS, at, elements, text};
use crate::marker::matches;
use crate::reason::{Because as _, Code, Reason};
use crate::settings::{PodResource, Settings};
use crate::sidecar::Sidecar;

/// Refuses Pods whose isolation keeps a sidecar's mount from the other containers.
pub fn check_isolation(spec: &Map<String, Value>, device: Device, settings: &Settings) -> Result<(), Reason> {
    if spec.get("hostUsers") == Some(&Value::Bool(false)) {
        return Err(Reason::new(
            Code::Unsupported,
            "spec.hostUsers: false: what a sidecar mounts in the Pod's user namespace does not reach the other \
             containers; remove it from Pods with a Dataset",
        ));
    }
    let runtime_class = text_of(spec, "runtimeClassName").unwrap_or_default();
    if device == Device::Privileged
        && !runtime_class.is_empty()
        && matches(&settings.sandboxed_runtime_classes, runtime_class)
    {
        let text = format!(
            "spec.runtimeClassName: {runtime_class}: its sandbox does not let what a sidecar mounts reach the other containers; \
             use another class for Pods with a Dataset, or correct the setting sandboxedRuntimeClasses"
        );
        return Err(Reason::new(Code::Unsupported, text));
    }
    Ok(())
}

fn text_of<'v>(spec: &'v Map<String, Value>, key: &str) -> Option<&'v str> {
    spec.get(key)?.as_str()
}

/// How long the Pod may take to end; 30 is Kubernetes' default.
pub fn grace_seconds(spec: &Map<String, Value>) -> i64 {
    spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30)
}

/// Whether kubelet starts containers again that have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Restarts {
    /// None.
    Never,
    /// Some, after a failure.
    OnFailure,
    /// Some, always: the Pod ends only when it is deleted.
    ForEver,
}

impl Restarts {
    /// The rule for containers without one of their own, such as those that are added.
    pub fn of_the_pod(spec: &Map<String, Value>) -> Restarts {
        text_of(spec, "restartPolicy").map_or(Restarts::ForEver, Restarts::by)
    }

    /// As a `restartPolicy` says.
    fn by(policy: &str) -> Restarts {
        match policy {
            "Never" => Restarts::Never,
            "OnFailure" => Restarts::OnFailure,
            _ => Restarts::ForEver,
        }
    }

    /// The rule of the Pod, or of single containers (KEP-5307).
    pub fn of(spec: &Map<String, Value>) -> Restarts {
        let pods = Restarts::of_the_pod(spec);
        let rules = elements(spec.get("containers")).iter().map(|container| {
            let on_some_exits = !elements(container.get("restartPolicyRules")).is_empty();
            let rule = text(container, "restartPolicy").map_or(pods, Restarts::by);
            if on_some_exits { rule.max(Restarts::OnFailure) } else { rule }
        });
        rules.max().unwrap_or(Restarts::ForEver)
    }
}

/// Processor time of a holder, which works only when its Pod starts and ends.
const HOLDER_CPU: &str = "50m";

/// Memory of a holder: it takes 2 MiB itself; the container runtime needs the rest to run its hook.
const HOLDER_MEMORY: &str = "64Mi";

/// Of which resources every container of the Pod requests some.
pub struct Requests {
    all_have: Vec<PodResource>,
    /// The Pod is of the QoS class Guaranteed.
    guaranteed: bool,
}

impl Requests {
    /// Looks at all containers.
    pub fn of(spec: &Map<String, Value>) -> Requests {
        let containers = || CONTAINER_LISTS[..2].iter().flat_map(|list| elements(spec.get(*list)));
        fn amount<'c>(container: &'c Value, kind: &str, resource: &PodResource) -> &'c Value {
            at(container, &["resources", kind, resource.name()])
        }
        let has = |container: &Value, resource: &PodResource| {
            ["requests", "limits"].iter().any(|kind| !amount(container, kind, resource).is_null())
        };
        let ordinary = elements(spec.get("containers"));
        let all_have = PodResource::ALL.iter().copied();
        let all_have = all_have.filter(|resource| {
            !ordinary.is_empty() && ordinary.iter().all(|container| has(container, resource))
        });
        let guaranteed = containers().all(|container| {
            PodResource::ALL.iter().all(|resource| {
                let (request, limit) =
                    (amount(container, "requests", resource), amount(container, "limits", resource));
                !limit.is_null() && (request.is_null() || request == limit)
            })
        });
        Requests { all_have: all_have.collect(), guaranteed }
    }

    /// What a holder requests beside containers that request something. In a Guaranteed Pod these are its limits, too.
    pub fn of_a_holder(&self) -> Option<Value> {
        let amounts = PodResource::ALL.iter().filter(|resource| self.all_have.contains(resource));
        let amounts: Map<String, Value> = amounts
            .map(|resource| {
                let amount = match resource {
                    PodResource::Cpu => HOLDER_CPU,
                    PodResource::Memory => HOLDER_MEMORY,
                };
                (resource.to_string(), amount.into())
            })
            .collect();
        let kinds: &[&str] = if self.guaranteed { &["limits", "requests"] } else { &["requests"] };
        let resources = kinds.iter().map(|kind| (kind.to_string(), Value::Object(amounts.clone())));
        (!amounts.is_empty()).then(|| Value::Object(resources.collect()))
    }

    /// Gives a sidecar the requests that the Pod's other containers have. Says what it has now, and what the Pod has lost.
    pub fn complete(
        &self,
        sidecar: &mut Sidecar,
        name: &str,
        runtime: Runtime,
        settings: &Settings,
    ) -> Result<Vec<Reason>, Reason> {
        let mut reasons = Vec::new();
        let wanted = |resource| self.all_have.contains(&resource);
        let added = sidecar.request_defaults(settings, wanted).because(Code::Malformed)?;
        if !added.is_empty() {
            let text = format!(
                "container {name} requests {}, as the Pod's other containers request some (setting defaultRequests)",
                added.join(" and ")
            );
            reasons.push(Reason::new(Code::RequestsAdded, text));
        }
        if !self.guaranteed {
            return Ok(reasons);
        }
        let resources = sidecar.container.get("resources").unwrap_or(&Value::Null);
        let equal = |resource: &PodResource| {
            let limit = at(resources, &["limits", resource.name()]);
            !limit.is_null() && at(resources, &["requests", resource.name()]) == limit
        };
        if !PodResource::ALL.iter().all(equal) {
            let text = format!(
                "the Pod is not Guaranteed any more, as container {name} has no limits that equal its requests; set both in \
                 sidecars.{runtime}"
            );
            reasons.push(Reason::new(Code::QosLowered, text));
        }
        Ok(reasons)
    }
}
