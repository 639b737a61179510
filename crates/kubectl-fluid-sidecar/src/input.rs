//! What the API server would send to the policy for a manifest.
//!
//! A Pod, or the Pod that the controller of a workload would make of its template, becomes the
//! AdmissionRequest of its creation; an AdmissionReview is taken as it is. Of a built-in controller's doing only what
//! a policy can see at admission is imitated: names, labels, owner and the claims of a StatefulSet. Of other objects
//! the Pod templates are taken as they are ([`crate::pods`]). UIDs and hashes are constant, so that the same manifest
//! always gives the same request.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::pods;

const EXPECTED: &str =
    "expected a Pod, a workload or other object with a Pod template, or an AdmissionReview";

/// Fields of an object's metadata that the API server sets.
const SET_BY_THE_SERVER: [&str; 8] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// What to ask of the policy.
#[derive(Clone, Debug)]
pub struct Request {
    /// The AdmissionRequest, as policy-server passes it on.
    pub admission: Value,
    /// The object and the path in it where the Pod was found; nothing for Pods, and for built-in workloads, whose Pods'
    /// names tell it.
    found_at: Option<String>,
}

impl Request {
    /// Asks what an AdmissionReview asks.
    pub fn new(admission: Value) -> Request {
        Request { admission, found_at: None }
    }

    /// The headline of the Pod: its name, or the place of its template in an object.
    pub fn title(&self) -> String {
        match &self.found_at {
            Some(place) => format!("Pod of {place}"),
            None => format!("Pod {}", self.full_name()),
        }
    }

    /// The place of the template in an object, unless it is a built-in workload.
    pub fn found_at(&self) -> Option<&str> {
        self.found_at.as_deref()
    }

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

/// Takes from an object of a cluster what its owner did not write but the cluster did, so that it could be created again.
pub fn as_created(object: &mut Value) {
    let is_pod = pods::group(object).is_empty() && kind(object) == "Pod";
    let Some(fields) = object.as_object_mut() else { return };
    fields.remove("status");
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|field, _| !SET_BY_THE_SERVER.contains(&field.as_str()));
    }
    // The scheduler's. If it was the owner's, nothing tells it apart.
    if let (true, Some(spec)) = (is_pod, fields.get_mut("spec").and_then(Value::as_object_mut)) {
        spec.remove("nodeName");
    }
}

/// The requests that are made of the documents of a file.
#[derive(Debug, Default)]
pub struct Requests {
    /// One for each Pod, in the order of the file; an error for each document that cannot be read.
    pub requests: Vec<Result<Request>>,
    /// How many documents of each kind have no Pod.
    pub without_pods: BTreeMap<String, usize>,
}

impl Requests {
    /// Makes the requests for all documents; fails if there is none. `namespace` overrides the documents' own.
    pub fn of(documents: Vec<Value>, namespace: Option<&str>, operation: &str) -> Result<Requests> {
        let mut all = Requests::default();
        all.add(documents, namespace, operation)?;
        all.check()?;
        Ok(all)
    }

    /// Adds the requests for the documents of one more file.
    pub fn add(&mut self, documents: Vec<Value>, namespace: Option<&str>, operation: &str) -> Result<()> {
        ensure!(!documents.is_empty(), "there is no document; {EXPECTED}");
        let several = documents.len() > 1;
        for (number, document) in (1..).zip(documents) {
            let kind = kind(&document).to_string();
            match in_document(document, namespace, operation) {
                Ok(none) if none.is_empty() => *self.without_pods.entry(kind).or_default() += 1,
                Ok(requests) => self.requests.extend(requests.into_iter().map(Ok)),
                Err(error) if several => self.requests.push(Err(error.context(format!("document {number}")))),
                Err(error) => self.requests.push(Err(error)),
            }
        }
        Ok(())
    }

    /// Fails if there is no request.
    pub fn check(&self) -> Result<()> {
        ensure!(
            !self.requests.is_empty(),
            "no Pod or Pod template in {}; {EXPECTED}",
            self.kinds_without_pods()
        );
        Ok(())
    }

    /// The kinds without Pods, for a message.
    pub fn kinds_without_pods(&self) -> String {
        let kinds = self.without_pods.iter().map(|(kind, count)| format!("{count} {kind}"));
        kinds.collect::<Vec<_>>().join(", ")
    }
}

/// Makes the request for a manifest with one Pod. `namespace` overrides the manifest's own.
pub fn request(manifest: Value, namespace: Option<&str>, operation: &str) -> Result<Request> {
    let kind = kind(&manifest).to_string();
    let mut requests = in_document(manifest, namespace, operation)?;
    match (requests.pop(), requests.len()) {
        (Some(request), 0) => Ok(request),
        (None, _) => bail!("no Pod or Pod template in kind {kind}; {EXPECTED}"),
        (_, more) => bail!("kind {kind} has {} Pods; expected one", more + 1),
    }
}

fn kind(manifest: &Value) -> &str {
    manifest.get("kind").and_then(Value::as_str).unwrap_or_default()
}

/// The requests for all Pods of a document.
fn in_document(manifest: Value, namespace: Option<&str>, operation: &str) -> Result<Vec<Request>> {
    let creation = |pod| creation(pod, namespace, operation);
    Ok(match (pods::group(&manifest), kind(&manifest)) {
        (_, "") => bail!("kind is missing: {EXPECTED}"),
        ("" | "admission.k8s.io", "AdmissionReview") => {
            let admission = manifest.get("request").context("the AdmissionReview has no request")?;
            vec![Request::new(admission.clone())]
        }
        ("", "Pod") => vec![creation(manifest)],
        (
            "" | "apps" | "batch" | "extensions",
            "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "CronJob",
        ) => vec![creation(pod_of(&manifest)?)],
        (_, kind) => {
            let field = |pointer| manifest.pointer(pointer).and_then(Value::as_str);
            let own = field("/metadata/name").or(field("/metadata/generateName")).unwrap_or("?");
            let namespace = namespace.or(field("/metadata/namespace")).unwrap_or("default");
            let object = format!("{kind} {namespace}/{own}");
            let found = pods::find(&manifest).with_context(|| object.clone())?;
            let found_at = |path: &str| Some(format!("{object}: {path}"));
            found.into_iter().map(|it| Request { found_at: found_at(&it.path), ..creation(it.pod) }).collect()
        }
    })
}

/// The request for an operation on a Pod.
fn creation(pod: Value, namespace: Option<&str>, operation: &str) -> Request {
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
        "userInfo": {"username": "kubectl-fluid_sidecar", "groups": ["system:authenticated"]},
        "dryRun": true,
    });
    // The API server sends the object that goes as oldObject.
    admission[if operation == "DELETE" { "oldObject" } else { "object" }] = pod;
    Request::new(admission)
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
        let templates = workload.pointer("/spec/volumeClaimTemplates");
        pods::add_claims(templates, |volume| format!("{volume}-{name}-0"), &mut spec)?;
    } else {
        metadata.insert("generateName".into(), format!("{owner}-").into());
    }
    if let Some(namespace) = workload.pointer("/metadata/namespace") {
        metadata.insert("namespace".into(), namespace.clone());
    }
    // Labels that are no map are the policy's to refuse.
    if let Some(all) = pods::object_mut(metadata.entry("labels").or_insert(Value::Null)) {
        all.extend(labels.into_iter().map(|(key, value)| (key.into(), value.into())));
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
