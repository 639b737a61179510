//! What the API server would send to the policy for a manifest.
//!
//! A Pod, or the Pod that the controller of a workload would make of its template, becomes the
//! AdmissionRequest of its creation; an AdmissionReview is taken as it is. Of a controller's doing only what
//! a policy can see at admission is imitated: names, labels, owner and the claims of a StatefulSet. UIDs and
//! hashes are constant, so that the same manifest always gives the same request.

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

/// What to ask of the policy.
#[derive(Clone, Debug)]
pub struct Request {
    /// The AdmissionRequest, as policy-server passes it on.
    pub admission: Value,
}

impl Request {
    /// The object of the request; `null` when it has none.
    pub fn object(&self) -> &Value {
        self.admission.get("object").unwrap_or(&Value::Null)
    }

    /// `CREATE`, `UPDATE`, …; empty when the request does not say.
    pub fn operation(&self) -> &str {
        self.admission.get("operation").and_then(Value::as_str).unwrap_or_default()
    }

    /// `namespace/name` of the object; its `generateName` as long as the API server has not made a name of it.
    pub fn full_name(&self) -> String {
        let field = |pointer| {
            self.admission.pointer(pointer).and_then(Value::as_str).filter(|text: &&str| !text.is_empty())
        };
        let made = || field("/object/metadata/name").or(field("/object/metadata/generateName"));
        let name = field("/name").or_else(made).unwrap_or("?");
        format!("{}/{name}", field("/namespace").unwrap_or("default"))
    }
}

/// Makes the request for one manifest. `namespace` overrides the manifest's own.
pub fn request(manifest: Value, namespace: Option<&str>, operation: &str) -> Result<Request> {
    let kind = manifest.get("kind").and_then(Value::as_str).unwrap_or_default();
    if kind == "AdmissionReview" {
        let admission = manifest.get("request").context("the AdmissionReview has no request")?;
        return Ok(Request { admission: admission.clone() });
    }
    let pod = match kind {
        "Pod" => manifest,
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "CronJob" => pod_of(&manifest)?,
        "" => bail!("kind is missing: the manifest must be a Pod, a workload or an AdmissionReview"),
        _ => bail!("kind {kind} makes no Pods: expected a Pod, a workload or an AdmissionReview"),
    };
    let own = pod.pointer("/metadata/namespace").and_then(Value::as_str);
    let namespace = namespace.or(own).unwrap_or("default").to_string();
    let name = pod.pointer("/metadata/name").cloned().unwrap_or_default();
    let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
    let resource = json!({"group": "", "version": "v1", "resource": "pods"});
    let mut admission = json!({
        "uid": "00000000-0000-0000-0000-000000000000",
        "kind": kind, "requestKind": kind,
        "resource": resource, "requestResource": resource,
        "name": name, "namespace": namespace, "operation": operation,
        "userInfo": {"username": "evaluate", "groups": ["system:authenticated"]},
        "dryRun": true,
    });
    // The API server sends the object that goes as oldObject.
    admission[if operation == "DELETE" { "oldObject" } else { "object" }] = pod;
    Ok(Request { admission })
}

/// The Pod that a workload's controller makes of its template.
fn pod_of(workload: &Value) -> Result<Value> {
    let text = |pointer: &str| workload.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (kind, name) = (text("/kind"), text("/metadata/name"));
    let pointer = if kind == "CronJob" { "/spec/jobTemplate/spec/template" } else { "/spec/template" };
    let template = workload
        .pointer(pointer)
        .and_then(Value::as_object)
        .with_context(|| format!("{kind} {name} has no {}", pointer[1..].replace('/', ".")))?;
    let mut metadata = template.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut spec = template.get("spec").cloned().unwrap_or_default();

    let hash = "0000000000";
    // The owner is a ReplicaSet for a Deployment, a Job for a CronJob, the workload itself for the others.
    let (owner_kind, owner) = match kind {
        "Deployment" => ("ReplicaSet", format!("{name}-{hash}")),
        "CronJob" => ("Job", format!("{name}-{hash}")),
        _ => (kind, name.to_string()),
    };
    let mut labels: Vec<(&str, String)> = Vec::new();
    match owner_kind {
        "ReplicaSet" => labels.push(("pod-template-hash", hash.into())),
        "Job" => {
            labels.extend([("batch.kubernetes.io/job-name", owner.clone()), ("job-name", owner.clone())])
        }
        "StatefulSet" => labels.extend([
            ("apps.kubernetes.io/pod-index", "0".into()),
            ("statefulset.kubernetes.io/pod-name", format!("{name}-0")),
        ]),
        _ => {}
    }
    if kind == "StatefulSet" {
        metadata.insert("name".into(), format!("{name}-0").into());
        add_claims(workload, name, &mut spec)?;
    } else {
        metadata.insert("generateName".into(), format!("{owner}-").into());
    }
    if let Some(namespace) = workload.pointer("/metadata/namespace") {
        metadata.insert("namespace".into(), namespace.clone());
    }
    let all = metadata.entry("labels").or_insert_with(|| Value::Object(Map::new()));
    for (key, value) in labels {
        all[key] = value.into();
    }
    let api_version = if owner_kind == "Job" { "batch/v1" } else { "apps/v1" };
    metadata.insert(
        "ownerReferences".into(),
        json!([{
            "apiVersion": api_version, "kind": owner_kind, "name": owner, "controller": true,
            "blockOwnerDeletion": true, "uid": "00000000-0000-0000-0000-000000000000",
        }]),
    );
    Ok(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
}

/// Each volumeClaimTemplate becomes a volume of its name, instead of one that the template has.
fn add_claims(workload: &Value, name: &str, spec: &mut Value) -> Result<()> {
    let templates = workload.pointer("/spec/volumeClaimTemplates").and_then(Value::as_array);
    for template in templates.into_iter().flatten() {
        let volume = template
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .context("spec.volumeClaimTemplates: metadata.name is missing")?;
        let volumes = spec["volumes"].take();
        let mut volumes = volumes.as_array().cloned().unwrap_or_default();
        volumes.retain(|known| known["name"] != volume);
        volumes.push(json!({
            "name": volume,
            "persistentVolumeClaim": {"claimName": format!("{volume}-{name}-0")},
        }));
        spec["volumes"] = volumes.into();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_give_the_pod_of_their_controller() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}});
        for (manifest, name, owner) in [
            (json!({"kind": "Deployment", "spec": {"template": template}}), "generateName", "ReplicaSet"),
            (
                json!({"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": template}}}}),
                "generateName",
                "Job",
            ),
            (json!({"kind": "StatefulSet", "spec": {"template": template}}), "name", "StatefulSet"),
        ] {
            let request = request(manifest, Some("ns"), "CREATE").unwrap();
            let metadata = &request.object()["metadata"];
            assert!(metadata[name].is_string(), "{metadata}");
            assert_eq!(metadata["labels"]["a"], "b");
            assert_eq!(metadata["ownerReferences"][0]["kind"], owner);
            assert_eq!(request.admission["namespace"], "ns");
        }
    }

    #[test]
    fn claim_templates_become_volumes() {
        let pod = pod_of(&json!({"kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {
            "template": {"spec": {"volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
        }}))
        .unwrap();
        assert_eq!(
            pod["spec"]["volumes"],
            json!([{"name": "tmp"}, {"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}])
        );
    }
}
