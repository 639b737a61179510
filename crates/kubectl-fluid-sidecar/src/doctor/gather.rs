//! Reads what [`Evidence`] needs from the cluster, and changes nothing there.
//!
//! The kinds are known, so nothing has to be discovered, and each read is one request. A read that fails is noted and the
//! next one is made; only an API server that does not answer at all, or an object that is asked for and is not there,
//! ends the search.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fluid_sidecar_layout::contract::env;
use futures::AsyncReadExt as _;
use k8s_openapi::jiff::Timestamp;
use kube::api::{GetParams, ListParams, LogParams, Request};
use kube::core::GroupVersionKind;
use kube::{Client, Config};
use serde_json::{Map, Value};

use fluid_sidecar_policy::status::Status;

use super::evidence::{Asked, Evidence, Unread, list, text};

/// The longest wait for one answer: all reads of a diagnosis together should not take longer than a user waits.
const LONGEST_READ: Duration = Duration::from_secs(10);
/// The most objects of one list: the newest events and the policies of any cluster are among them.
const LARGEST_LIST: u32 = 500;
/// The last lines of a log. fluid-fuse limits its messages, so these are the last outages at least.
const LOG_LINES: i64 = 400;
/// The most bytes of a log or of metrics that are read: 400 lines have less, and a Pod can answer anything.
const LARGEST_TEXT: u64 = 256 << 10;
/// The owners above a Pod: CronJob, Job; custom resources add a few.
const LONGEST_CHAIN: usize = 5;

/// Kinds that can be asked about, by the names that kubectl takes.
const ASKABLE: &[(&[&str], &str, &str)] = &[
    (&["pod", "pods", "po"], "", "Pod"),
    (&["deployment", "deployments", "deploy", "deployment.apps"], "apps/v1", "Deployment"),
    (&["replicaset", "replicasets", "rs", "replicaset.apps"], "apps/v1", "ReplicaSet"),
    (&["statefulset", "statefulsets", "sts", "statefulset.apps"], "apps/v1", "StatefulSet"),
    (&["daemonset", "daemonsets", "ds", "daemonset.apps"], "apps/v1", "DaemonSet"),
    (&["job", "jobs", "job.batch"], "batch/v1", "Job"),
    (&["cronjob", "cronjobs", "cj", "cronjob.batch"], "batch/v1", "CronJob"),
];

const DATASETS: &str = "data.fluid.io/v1alpha1";
const POLICIES: &str = "policies.kubewarden.io/v1";
const ADMISSION: &str = "admissionregistration.k8s.io/v1";

/// `POD` or `KIND/NAME`, as kind and name.
pub fn parse_target(target: &str) -> Result<(&'static str, &str)> {
    let (kind, name) = target.split_once('/').unwrap_or(("pod", target));
    let lower = kind.to_ascii_lowercase();
    let known = ASKABLE.iter().find(|(names, _, _)| names.contains(&lower.as_str()));
    let kinds: Vec<_> = ASKABLE.iter().map(|(names, _, _)| names[0]).collect();
    let (_, _, kind) = known
        .with_context(|| format!("{target}: doctor takes POD or KIND/NAME with {}", kinds.join(", ")))?;
    let is_name = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
    };
    if !is_name(name) {
        bail!("{target}: {name:?} is no name of an object");
    }
    Ok((kind, name))
}

/// Looks at everything that may say why a Pod does not work, in this namespace, else in that of the context.
pub async fn gather(config: Config, namespace: Option<&str>, target: &str) -> Result<Evidence> {
    let (kind, name) = parse_target(target)?;
    let namespace = namespace.unwrap_or(&config.default_namespace).to_string();
    let url = config.cluster_url.to_string();
    let client = Client::try_from(config).context("no client can be made of the kubeconfig")?;
    let asked = Asked {
        kind: kind.into(),
        namespace: namespace.clone(),
        name: name.into(),
        now: Timestamp::from_second(Timestamp::now().as_second())?.to_string(),
    };
    let mut reader = Reader { client, url, namespace, evidence: Evidence { asked, ..Evidence::default() } };
    reader.all().await?;
    Ok(reader.evidence)
}

/// An object's kind, and where it is.
struct Place<'a> {
    api_version: &'a str,
    kind: &'a str,
    /// Whether it is in the namespace of the question.
    namespaced: bool,
}

const fn namespaced<'a>(api_version: &'a str, kind: &'a str) -> Place<'a> {
    Place { api_version, kind, namespaced: true }
}

const fn clusterwide<'a>(api_version: &'a str, kind: &'a str) -> Place<'a> {
    Place { api_version, kind, namespaced: false }
}

impl Place<'_> {
    fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// As in the path.
    fn plural(&self) -> String {
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", self.api_version));
        kube::api::ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, self.kind)).plural
    }

    fn path(&self, namespace: &str) -> String {
        let base = if self.group().is_empty() { "/api" } else { "/apis" };
        let plural = self.plural();
        match self.namespaced {
            true => format!("{base}/{}/namespaces/{namespace}/{plural}", self.api_version),
            false => format!("{base}/{}/{plural}", self.api_version),
        }
    }

    /// As RBAC names it.
    fn resource(&self) -> String {
        match self.group() {
            "" => self.plural(),
            group => format!("{}.{group}", self.plural()),
        }
    }
}

struct Reader {
    client: Client,
    url: String,
    namespace: String,
    evidence: Evidence,
}

impl Reader {
    async fn all(&mut self) -> Result<()> {
        let Asked { kind, name, .. } = self.evidence.asked.clone();
        let (_, api_version, _) =
            ASKABLE.iter().find(|(_, _, known)| *known == kind).context("an unknown kind")?;
        let place = namespaced(if api_version.is_empty() { "v1" } else { api_version }, &kind);
        let (url, namespace) = (self.url.clone(), self.namespace.clone());
        let asked = self.get(&place, &name).await.with_context(|| format!("{url} does not answer"))?;
        let forbidden = self.evidence.unread.iter().any(|unread| unread.forbidden);
        let Some(asked) = asked else {
            if forbidden {
                return Ok(());
            }
            bail!(
                "there is no {kind} {name} in namespace {namespace}. A Pod that was refused never is: ask about its \
                 owner, such as deployment/NAME or job/NAME"
            );
        };
        self.evidence.add(asked.clone());
        let pod = match kind.as_str() {
            "Pod" => Some(asked),
            _ => self.newest_pod(&asked).await?,
        };
        let of_pod = pod.clone().unwrap_or_default();
        if let Some(pod) = &pod {
            self.evidence.add(pod.clone());
            self.owners(pod).await?;
            self.containers(pod).await?;
        }
        let policies = [
            clusterwide(POLICIES, "ClusterAdmissionPolicy"),
            namespaced(POLICIES, "AdmissionPolicy"),
            clusterwide(ADMISSION, "MutatingWebhookConfiguration"),
            clusterwide(ADMISSION, "ValidatingWebhookConfiguration"),
        ];
        for place in policies {
            self.list(&place, &ListParams::default()).await?;
        }
        self.read(&clusterwide("v1", "Namespace"), &namespace).await?;
        for claim in claims(&of_pod).into_iter().chain(claims_of_templates(&self.evidence.objects)) {
            self.claim(&claim).await?;
        }
        self.events().await
    }

    /// One object; nothing if there is none, or if it cannot be read, which is noted. The error is that of a server
    /// that does not answer.
    async fn get(&mut self, place: &Place<'_>, name: &str) -> Result<Option<Value>> {
        let what = match place.namespaced {
            true => format!("{} {}/{name}", place.kind, self.namespace),
            false => format!("{} {name}", place.kind),
        };
        let request = Request::new(place.path(&self.namespace)).get(name, &GetParams::default())?;
        let answer = tokio::time::timeout(LONGEST_READ, self.client.request::<Value>(request)).await;
        let answer = answer.with_context(|| format!("no answer within {LONGEST_READ:?}"))?;
        match answer {
            Ok(mut object) => {
                // What lists leave out.
                if let Some(fields) = object.as_object_mut() {
                    fields.insert("apiVersion".into(), place.api_version.into());
                    fields.insert("kind".into(), place.kind.into());
                }
                shorten(&mut object);
                Ok(Some(object))
            }
            Err(error) => self.note(error, place, "", "get", what).map(|()| None),
        }
    }

    /// The same, kept as evidence.
    async fn read(&mut self, place: &Place<'_>, name: &str) -> Result<Option<Value>> {
        let known = self.evidence.object(place.kind, name).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let object = self.get(place, name).await?;
        if let Some(object) = &object {
            self.evidence.add(object.clone());
        }
        Ok(object)
    }

    /// The objects of a list, kept as evidence.
    async fn list(&mut self, place: &Place<'_>, parameters: &ListParams) -> Result<Vec<Value>> {
        let parameters = parameters.clone().limit(LARGEST_LIST);
        let request = Request::new(place.path(&self.namespace)).list(&parameters)?;
        let answer = tokio::time::timeout(LONGEST_READ, self.client.request::<Value>(request)).await;
        match answer.with_context(|| format!("no answer within {LONGEST_READ:?}"))? {
            Ok(mut answer) => {
                let items = answer.get_mut("items").and_then(Value::as_array_mut);
                let mut items = items.map(std::mem::take).unwrap_or_default();
                for item in &mut items {
                    let mut object = Map::new();
                    object.insert("apiVersion".into(), place.api_version.into());
                    object.insert("kind".into(), place.kind.into());
                    object.extend(item.as_object().cloned().unwrap_or_default());
                    *item = object.into();
                    shorten(item);
                    if place.kind != "Pod" {
                        self.evidence.add(item.clone());
                    }
                }
                Ok(items)
            }
            Err(error) => {
                let what = format!("the list of {}", place.plural());
                self.note(error, place, "", "list", what).map(|()| Vec::new())
            }
        }
    }

    /// Notes a read that failed. An object or a kind that is not there is no failure.
    fn note(
        &mut self,
        error: kube::Error,
        place: &Place<'_>,
        subresource: &str,
        verb: &str,
        what: String,
    ) -> Result<()> {
        let kube::Error::Api(status) = &error else { return Err(error.into()) };
        if status.code == 404 {
            return Ok(());
        }
        self.evidence.unread.push(Unread {
            what,
            verb: verb.into(),
            resource: match subresource {
                "" => place.resource(),
                subresource => format!("{}/{subresource}", place.resource()),
            },
            namespace: place.namespaced.then(|| self.namespace.clone()),
            message: status.message.clone(),
            forbidden: matches!(status.code, 401 | 403),
        });
        Ok(())
    }

    /// The newest Pod of an owner, directly or through ReplicaSets and Jobs.
    async fn newest_pod(&mut self, owner: &Value) -> Result<Option<Value>> {
        let mut owners = vec![text(owner, "/metadata/uid").to_string()];
        let between = match text(owner, "/kind") {
            "Deployment" => Some(namespaced("apps/v1", "ReplicaSet")),
            "CronJob" => Some(namespaced("batch/v1", "Job")),
            _ => None,
        };
        let selector = owner.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
        let labels = selector.map(|labels| {
            let label =
                |(key, value): (&String, &Value)| format!("{key}={}", value.as_str().unwrap_or_default());
            labels.iter().map(label).collect::<Vec<_>>().join(",")
        });
        let parameters = match &labels {
            Some(labels) => ListParams::default().labels(labels),
            None => ListParams::default(),
        };
        if let Some(between) = between {
            let mut found = self.list(&between, &parameters).await?;
            found.retain(|object| is_owned(object, &owners));
            found.sort_by_key(|object| text(object, "/metadata/creationTimestamp").to_string());
            let kept = found.last().map(|object| text(object, "/metadata/uid").to_string());
            // Older ones say what was wrong before.
            let is_kept = |object: &Value| {
                text(object, "/kind") != between.kind
                    || Some(text(object, "/metadata/uid")) == kept.as_deref()
            };
            self.evidence.objects.retain(is_kept);
            owners.extend(kept);
        }
        let mut pods = self.list(&namespaced("v1", "Pod"), &parameters).await?;
        pods.retain(|pod| is_owned(pod, &owners));
        Ok(pods.into_iter().max_by_key(|pod| {
            let is_going = pod.pointer("/metadata/deletionTimestamp").is_some();
            (!is_going, text(pod, "/metadata/creationTimestamp").to_string())
        }))
    }

    /// The owners of a Pod.
    async fn owners(&mut self, pod: &Value) -> Result<()> {
        let mut object = pod.clone();
        for _ in 0..LONGEST_CHAIN {
            let references = list(&object, "/metadata/ownerReferences");
            let controller = references.iter().find(|it| it.get("controller") == Some(&Value::Bool(true)));
            let Some(reference) = controller.cloned() else { return Ok(()) };
            let place = namespaced(text(&reference, "/apiVersion"), text(&reference, "/kind"));
            let Some(owner) = self.read(&place, text(&reference, "/name")).await? else { return Ok(()) };
            object = owner;
        }
        Ok(())
    }

    /// Logs and metrics of a Pod's sidecars.
    async fn containers(&mut self, pod: &Value) -> Result<()> {
        let name = text(pod, "/metadata/name");
        let Ok(Some(status)) = Status::of(pod) else { return Ok(()) };
        for sidecar in status.sidecars {
            let container = sidecar.container.as_str();
            let Some(state) = container_status(pod, container) else { continue };
            // kubelet has it although the state says ContainerCreating, as it does while a postStart hook runs; or it
            // says that there is none.
            self.log(name, container, false).await?;
            if state.get("restartCount").and_then(Value::as_i64).unwrap_or_default() > 0 {
                self.log(name, container, true).await?;
            }
            if state.pointer("/state/running").is_some()
                && let Some(port) = metrics_port(pod, container)
            {
                self.metrics(name, container, port).await?;
            }
        }
        Ok(())
    }

    async fn log(&mut self, pod: &str, container: &str, previous: bool) -> Result<()> {
        let parameters = LogParams {
            container: Some(container.into()),
            previous,
            tail_lines: Some(LOG_LINES),
            ..LogParams::default()
        };
        let place = namespaced("v1", "Pod");
        let request = Request::new(place.path(&self.namespace)).logs(pod, &parameters)?;
        let what = format!("the log of container {container}");
        if let Some(text) = self.text(request, &place, "log", what).await? {
            self.evidence.logs.insert((container.into(), previous), text);
        }
        Ok(())
    }

    async fn metrics(&mut self, pod: &str, container: &str, port: u16) -> Result<()> {
        let place = namespaced("v1", "Pod");
        let name = format!("{pod}:{port}");
        let request = Request::new(place.path(&self.namespace)).get_subresource("proxy/metrics", &name)?;
        let what = format!("the metrics of container {container}");
        // Whoever may use the proxy reaches every port of a Pod, which is more than anybody should be asked to grant.
        let noted = self.evidence.unread.len();
        if let Some(text) = self.text(request, &place, "proxy", what).await? {
            self.evidence.metrics.insert(container.into(), text);
        }
        self.evidence.unread.truncate(noted);
        Ok(())
    }

    /// A text of at most [`LARGEST_TEXT`] bytes.
    async fn text(
        &mut self,
        request: http::Request<Vec<u8>>,
        place: &Place<'_>,
        subresource: &str,
        what: String,
    ) -> Result<Option<String>> {
        let answer = tokio::time::timeout(LONGEST_READ, async {
            let mut bytes = Vec::new();
            let stream = std::pin::pin!(self.client.request_stream(request).await?);
            stream.take(LARGEST_TEXT).read_to_end(&mut bytes).await.map_err(kube::Error::ReadEvents)?;
            Ok::<_, kube::Error>(String::from_utf8_lossy(&bytes).into_owned())
        });
        match answer.await {
            Ok(Ok(text)) => Ok(Some(text)),
            // A log or metrics that cannot be had say nothing, unless a right is missing.
            Ok(Err(kube::Error::Api(status))) if status.code != 403 => Ok(None),
            Ok(Err(error @ kube::Error::Api(_))) => {
                self.note(error, place, subresource, "get", what).map(|()| None)
            }
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }

    /// A claim, and what is behind it.
    async fn claim(&mut self, name: &str) -> Result<()> {
        let claim = self.read(&namespaced("v1", "PersistentVolumeClaim"), name).await?;
        let volume = claim.as_ref().map(|claim| text(claim, "/spec/volumeName").to_string());
        if let Some(volume) = volume.filter(|volume| !volume.is_empty()) {
            self.read(&clusterwide("v1", "PersistentVolume"), &volume).await?;
        }
        // The labels of a claim may name another one, which is rare; the policy's rules are not repeated here.
        let Some(dataset) = self.read(&namespaced(DATASETS, "Dataset"), name).await? else { return Ok(()) };
        let runtime = list(&dataset, "/status/runtimes").first().cloned().unwrap_or_default();
        let kind = super::runtime_kind(text(&runtime, "/type"));
        let runtime_name = match text(&runtime, "/name") {
            "" => name,
            name => name,
        };
        if let Some(kind) = kind {
            // No diagnosis needs it, so nothing is hidden by a right that is missing.
            let noted = self.evidence.unread.len();
            self.read(&namespaced(DATASETS, kind), runtime_name).await?;
            self.evidence.unread.truncate(noted);
        }
        self.read(&namespaced("apps/v1", "DaemonSet"), &format!("{runtime_name}-fuse")).await?;
        Ok(())
    }

    /// The events of all objects that are evidence.
    async fn events(&mut self) -> Result<()> {
        let wanted: Vec<_> = self
            .evidence
            .objects
            .iter()
            .filter(|object| object.pointer("/metadata/namespace").is_some())
            .map(|object| (text(object, "/kind").to_string(), text(object, "/metadata/name").to_string()))
            .collect();
        let mut is_forbidden = false;
        for (kind, name) in wanted {
            if is_forbidden || kind == "AdmissionPolicy" {
                continue;
            }
            let before = self.evidence.unread.len();
            let fields = format!("involvedObject.kind={kind},involvedObject.name={name}");
            self.list(&namespaced("v1", "Event"), &ListParams::default().fields(&fields)).await?;
            is_forbidden = self.evidence.unread.len() > before;
        }
        Ok(())
    }
}

/// The claims that a Pod mounts, and those that sidecars took the place of.
fn claims(pod: &Value) -> Vec<String> {
    let mounted =
        list(pod, "/spec/volumes").iter().map(|volume| text(volume, "/persistentVolumeClaim/claimName"));
    let status = Status::of(pod).ok().flatten();
    let replaced = status.iter().flat_map(|status| &status.claims);
    let replaced = replaced.map(|claim| text(&claim.persistent_volume_claim, "/claimName"));
    mounted.chain(replaced).filter(|name| !name.is_empty()).map(str::to_string).collect()
}

/// The same of the templates of owners, whose Pods may not be there.
fn claims_of_templates(objects: &[Value]) -> Vec<String> {
    let templates = ["/spec/template", "/spec/jobTemplate/spec/template"];
    objects
        .iter()
        .flat_map(|it| templates.iter().filter_map(|path| it.pointer(path)))
        .flat_map(claims)
        .collect()
}

fn is_owned(object: &Value, owners: &[String]) -> bool {
    list(object, "/metadata/ownerReferences")
        .iter()
        .any(|reference| owners.iter().any(|owner| text(reference, "/uid") == owner))
}

/// The status of a container, wherever it stands.
pub fn container_status<'p>(pod: &'p Value, container: &str) -> Option<&'p Value> {
    let lists = ["/status/initContainerStatuses", "/status/containerStatuses"];
    lists.iter().flat_map(|path| list(pod, path)).find(|status| text(status, "/name") == container)
}

/// The port of a sidecar's metrics, if the Pod's address has them.
fn metrics_port(pod: &Value, container: &str) -> Option<u16> {
    let lists = ["/spec/initContainers", "/spec/containers"];
    let container =
        lists.iter().flat_map(|path| list(pod, path)).find(|it| text(it, "/name") == container)?;
    let variable = list(container, "/env").iter().find(|it| text(it, "/name") == env::METRICS)?;
    let address: std::net::SocketAddr = text(variable, "/value").parse().ok()?;
    (!address.ip().is_loopback()).then_some(address.port())
}

/// Leaves out what says nothing to anybody who looks for a fault.
fn shorten(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    for webhook in object.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(config) = webhook.get_mut("clientConfig").and_then(Value::as_object_mut) {
            config.remove("caBundle");
        }
    }
}
