//! What the program does, a module for each verb, and what the verbs share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::answer::{Answer, check_settings};
use crate::engine::{Host, Policy};
use crate::input::{Request, Requests, as_created};
#[cfg(feature = "kubectl")]
use crate::live::{self, Live, Watched};
use crate::metadata::Metadata;
use crate::objects::Objects;
use crate::policies::{Chosen, Reference};
use crate::session::Session;
use crate::yaml;

pub mod bench;
#[cfg(feature = "kubectl")]
pub mod completions;
pub mod explain;
pub mod record;
pub mod settings;
pub mod uninject;

/// The annotation of an injected Pod.
const INJECTED: &str = "fluid-sidecar-policy/injected";

/// As the exit status tells it; of several Pods the worst counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The Pod is allowed, the settings are valid.
    Good = 0,
    /// The Pod is denied, the settings are not valid.
    Bad = 1,
    /// It is not known.
    Failed = 2,
}

/// Tells an error, on standard error.
pub fn failed(error: &anyhow::Error) -> Outcome {
    anstream::eprintln!("error: {error:#}");
    Outcome::Failed
}

/// Tells what the reader should know of an answer, on standard error.
fn note(text: impl std::fmt::Display) {
    anstream::eprintln!("note: {text}");
}

/// JSON for people and programs.
fn pretty(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// The objects that KIND/NAME may name.
#[derive(Args, Clone, Debug)]
struct LiveOptions {
    /// The namespace of KIND/NAME, and of manifests, whose own it replaces [default: the manifest's, else that of the
    /// context, else `default`].
    #[arg(short, long)]
    namespace: Option<String>,
    #[cfg(feature = "kubectl")]
    #[command(flatten)]
    connection: live::Connection,
}

/// A cluster, live or of files.
#[derive(Args, Clone, Debug)]
struct ClusterOptions {
    #[command(flatten)]
    live: LiveOptions,
    /// A cluster of files instead of a live one: the objects that the policy may read. A directory means all its YAML and
    /// JSON files. A document `{error: {kind: …, name: …, message: …}}` makes that read fail.
    #[arg(long, value_name = "FILE_OR_DIR")]
    #[cfg_attr(feature = "kubectl", arg(conflicts_with_all = ["kubeconfig", "context"]))]
    objects: Vec<PathBuf>,
}

/// Which cluster there is.
enum Cluster {
    Files(Objects),
    #[cfg(feature = "kubectl")]
    Live(Arc<Live>),
}

impl ClusterOptions {
    /// The cluster: of files if some are given, else a live one, else one without objects.
    fn open(&self) -> Result<Cluster> {
        if !self.objects.is_empty() {
            return Ok(Cluster::Files(Objects::read(&self.objects)?));
        }
        let cluster = self.live.open()?;
        if matches!(cluster, Cluster::Files(_)) {
            note("there is no kubeconfig and no --objects: the policy finds no object in the cluster");
        }
        Ok(cluster)
    }
}

impl LiveOptions {
    /// The live cluster if there is one, else one without objects.
    fn open(&self) -> Result<Cluster> {
        #[cfg(feature = "kubectl")]
        if let Some(live) = Live::find(&self.connection)? {
            note(format_args!("the cluster is that of {}", live.name()));
            return Ok(Cluster::Live(Arc::new(live)));
        }
        Ok(Cluster::Files(Objects::default()))
    }

    /// For verbs that need the cluster only for what is named by KIND/NAME.
    fn open_if(&self, needed: bool) -> Result<Cluster> {
        if needed { self.open() } else { Ok(Cluster::Files(Objects::default())) }
    }
}

impl Cluster {
    /// The namespace where nothing says another one.
    fn namespace(&self) -> &str {
        match self {
            Cluster::Files(_) => "default",
            #[cfg(feature = "kubectl")]
            Cluster::Live(live) => live.namespace(),
        }
    }

    /// The live cluster; the error is for `what`, which needs one.
    #[cfg(feature = "kubectl")]
    fn live(&self, what: &str) -> Result<&Arc<Live>> {
        match self {
            Cluster::Live(live) => Ok(live),
            Cluster::Files(_) => bail!(
                "{what} is no file, and as an object of a cluster it needs a live one: without `--objects`, and with a \
                 kubeconfig"
            ),
        }
    }
}

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Input {
    /// A file, a directory, or `-`.
    Path(PathBuf),
    /// `KIND/NAME` of a live cluster.
    Object { resource: String, name: String },
}

impl Input {
    /// A path that is there, else what has the form of `KIND/NAME`.
    fn parse(text: &str) -> Result<Input> {
        let path = Path::new(text);
        if text == "-" || path.exists() {
            return Ok(Input::Path(path.into()));
        }
        match text.split_once('/') {
            Some((resource, name))
                if !resource.is_empty()
                    && !resource.starts_with('.')
                    && !name.is_empty()
                    && !name.contains('/') =>
            {
                Ok(Input::Object { resource: resource.into(), name: name.into() })
            }
            _ => bail!("there is no file {text}; expected a file, a directory, - or KIND/NAME"),
        }
    }

    fn parse_all(texts: &[String]) -> Result<Vec<Input>> {
        let inputs: Vec<Input> = texts.iter().map(|text| Input::parse(text)).collect::<Result<_>>()?;
        let stdin = Input::Path("-".into());
        ensure!(
            inputs.iter().filter(|input| **input == stdin).count() <= 1,
            "- is given twice, and standard input can be read once"
        );
        Ok(inputs)
    }

    fn is_object(&self) -> bool {
        matches!(self, Input::Object { .. })
    }

    /// The documents, each file of a directory by itself, with its name. Of a live Pod that was injected it is the Pod as
    /// its owner wrote it.
    fn read(
        &self,
        cluster: &Cluster,
        namespace: Option<&str>,
        policy: &Policy,
    ) -> Result<Vec<(String, Vec<Value>)>> {
        match self {
            Input::Path(path) => {
                let files = yaml::files(path)?;
                ensure!(!files.is_empty(), "{} has no YAML and no JSON files", path.display());
                let read = |file: &PathBuf| Ok((file.display().to_string(), yaml::read_file(file)?));
                files.iter().map(read).collect()
            }
            Input::Object { resource, name } => {
                let title = format!("{resource}/{name}");
                let object = read_object(cluster, resource, name, namespace)
                    .and_then(|object| as_owner_wrote_it(object, policy, &title))?;
                Ok(vec![(title, vec![object])])
            }
        }
    }
}

#[cfg(feature = "kubectl")]
fn read_object(cluster: &Cluster, resource: &str, name: &str, namespace: Option<&str>) -> Result<Value> {
    let live = cluster.live(&format!("{resource}/{name}"))?;
    live.object(resource, name, namespace.unwrap_or(live.namespace()))
}

#[cfg(not(feature = "kubectl"))]
fn read_object(_: &Cluster, resource: &str, name: &str, _: Option<&str>) -> Result<Value> {
    bail!("{resource}/{name} is no file, and this program reads no live cluster")
}

/// An object of a live cluster as it could be created again: without what the cluster set, and without an injection.
fn as_owner_wrote_it(mut object: Value, policy: &Policy, title: &str) -> Result<Value> {
    as_created(&mut object);
    let annotations = object.pointer("/metadata/annotations").and_then(Value::as_object);
    if annotations.is_some_and(|annotations| annotations.contains_key(INJECTED)) {
        note(format_args!(
            "{title} was injected (annotation {INJECTED}); this is the Pod as its owner wrote it"
        ));
        return uninject::uninject(policy, &object).with_context(|| title.to_string());
    }
    Ok(object)
}

/// What to ask of the policy.
#[derive(Args, Clone, Debug)]
struct Question {
    /// Pods, objects with Pod templates, AdmissionReviews, and Lists of them, as YAML or JSON: files, directories, or `-` for
    /// standard input. KIND/NAME is an object of the live cluster, such as pod/app, deployment/web or job.batch/train.
    ///
    /// Each Pod is reviewed. Of a Deployment, StatefulSet, DaemonSet, Job, CronJob or ReplicaSet it is the Pod that its
    /// controller makes; of any other object (PyTorchJob, RayCluster, Workflow, SparkApplication, InferenceService, …)
    /// what is written in it, without the labels, names and containers that its controller adds and without patches
    /// like Argo's `podSpecPatch`. Documents without Pods are skipped, which is said on standard error.
    ///
    /// A live Pod that was injected is reviewed as its owner wrote it.
    #[arg(value_name = "FILE|DIRECTORY|-|KIND/NAME", required = true)]
    inputs: Vec<String>,
    #[command(flatten)]
    cluster: ClusterOptions,
    /// The operation of the request.
    #[arg(long, default_value = "CREATE", value_parser = ["CREATE", "UPDATE", "DELETE", "CONNECT"])]
    operation: String,
    /// The policy's settings: a file with what stands under `spec.settings`, or with the policy; or a policy of the live
    /// cluster, clusteradmissionpolicy/NAME or admissionpolicy/NAMESPACE/NAME [default: those of the live cluster's only
    /// policy of this project, else the defaults].
    #[arg(long, value_name = "FILE|POLICY")]
    settings: Option<String>,
    /// A compiled policy, instead of the one in this program.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

/// Whom to ask, and what.
struct Asked {
    policy: Policy,
    /// The inputs, for messages.
    names: String,
    requests: Vec<Result<Request>>,
    settings: Value,
    metadata: Option<Arc<Metadata>>,
    host: Host,
    /// The reads of the policy so far.
    session: Arc<Session>,
    #[cfg(feature = "kubectl")]
    watched: Option<Arc<Watched>>,
}

impl Question {
    /// Reads all that is needed to ask.
    fn read(&self) -> Result<Asked> {
        let policy = Policy::open(self.policy.as_deref())?;
        let inputs = Input::parse_all(&self.inputs)?;
        let namespace = self.cluster.live.namespace.as_deref();
        let cluster = self.cluster.open()?;
        let chosen = self.settings(&cluster)?;
        check_settings(&policy, &chosen.settings).with_context(|| chosen.name.clone())?;
        let (mut all, mut skipped) = (Requests::default(), Vec::new());
        for input in &inputs {
            for (name, mut documents) in input.read(&cluster, namespace, &policy)? {
                documents.iter_mut().for_each(|document| default_namespace(document, cluster.namespace()));
                let mut of_file = Requests::default();
                of_file.add(documents, namespace, &self.operation).with_context(|| name.clone())?;
                if !of_file.without_pods.is_empty() {
                    skipped.push(format!(
                        "{name}: skipped what has no Pod or Pod template: {}",
                        of_file.kinds_without_pods()
                    ));
                }
                for (kind, count) in of_file.without_pods {
                    *all.without_pods.entry(kind).or_default() += count;
                }
                let named = of_file.requests.into_iter().map(|request| request.with_context(|| name.clone()));
                all.requests.extend(named);
            }
        }
        let names = self.inputs.join(", ");
        all.check().with_context(|| names.clone())?;
        skipped.iter().for_each(note);
        let metadata = chosen.metadata.map(Arc::new);
        let session = Arc::new(Session::default());
        #[cfg(feature = "kubectl")]
        let watched = match &cluster {
            Cluster::Live(live) => Some(Watched::new(Arc::clone(live))),
            Cluster::Files(_) => None,
        };
        let host = match cluster {
            Cluster::Files(objects) => of_files(objects, metadata.clone()),
            #[cfg(feature = "kubectl")]
            Cluster::Live(live) => {
                watched.clone().unwrap_or_else(|| Watched::new(live)).host(metadata.clone())
            }
        };
        Ok(Asked {
            policy,
            names,
            requests: all.requests,
            settings: chosen.settings,
            metadata,
            host: recorded(host, &session),
            session,
            #[cfg(feature = "kubectl")]
            watched,
        })
    }

    fn settings(&self, cluster: &Cluster) -> Result<Chosen> {
        match &self.settings {
            Some(given) if !Path::new(given).exists() => match Reference::parse(given)? {
                Some(reference) => of_reference(&reference, given, cluster),
                None => Chosen::of_file(Path::new(given)),
            },
            Some(given) => Chosen::of_file(Path::new(given)),
            None => match cluster {
                Cluster::Files(_) => Ok(Chosen::defaults()),
                #[cfg(feature = "kubectl")]
                Cluster::Live(live) => {
                    let namespace = self.cluster.live.namespace.as_deref().unwrap_or(live.namespace());
                    let (chosen, text) = crate::policies::find(live, namespace)?;
                    note(text);
                    Ok(chosen)
                }
            },
        }
    }
}

#[cfg(feature = "kubectl")]
fn of_reference(reference: &Reference, given: &str, cluster: &Cluster) -> Result<Chosen> {
    Chosen::of_manifest(&reference.read(cluster.live(given)?)?)
}

#[cfg(not(feature = "kubectl"))]
fn of_reference(_: &Reference, given: &str, _: &Cluster) -> Result<Chosen> {
    bail!("{given} is no file, and this program reads no live cluster")
}

/// The API server fills in the namespace of the request.
fn default_namespace(document: &mut Value, namespace: &str) {
    let is_review = document.get("kind").and_then(Value::as_str) == Some("AdmissionReview");
    let metadata = document.get_mut("metadata").and_then(Value::as_object_mut);
    if let (Some(metadata), false, true) = (metadata, is_review, namespace != "default") {
        metadata.entry("namespace").or_insert_with(|| namespace.into());
    }
}

fn of_files(objects: Objects, metadata: Option<Arc<Metadata>>) -> Host {
    Arc::new(move |namespace, operation, payload| {
        let read = crate::reads::Read::parse(namespace, operation, payload)?;
        metadata.as_ref().map_or(Ok(()), |metadata| metadata.grant(&read))?;
        read.answer(objects.get(&read))
    })
}

fn recorded(host: Host, session: &Arc<Session>) -> Host {
    let session = Arc::clone(session);
    Arc::new(move |namespace, operation, payload| {
        let answer = host(namespace, operation, payload);
        session.add(payload, &answer);
        answer
    })
}

impl Asked {
    /// The only request; `option` is for one Pod.
    fn single(&mut self, option: &str) -> Result<Request> {
        self.check_single(option)?;
        self.requests.swap_remove(0)
    }

    fn check_single(&self, option: &str) -> Result<()> {
        ensure!(
            self.requests.len() == 1,
            "{option} is for one Pod, and {} has {}",
            self.names,
            self.requests.len()
        );
        Ok(())
    }

    /// The payload of `validate`.
    fn payload(&self, request: &Request) -> Result<Vec<u8>> {
        Ok(serde_json::to_vec(&json!({"request": request.admission, "settings": self.settings}))?)
    }

    /// The policy's answer. An error: it cannot be known, as of what the policy could not read of a live cluster.
    fn answer(&self, request: &Request) -> Result<Answer> {
        let answer = Answer::ask(&self.policy, request, &self.settings, &self.host);
        #[cfg(feature = "kubectl")]
        if let Some(error) = self.watched.as_ref().and_then(|watched| watched.failed()) {
            return Err(error).with_context(|| request.title());
        }
        let mutating = self.metadata.as_ref().is_none_or(|metadata| metadata.mutating);
        Ok(answer.with_context(|| request.title())?.constrained(request, mutating))
    }

    /// The reads of the policy, written down for kwctl.
    fn write_session(&self, file: &Path) -> Result<()> {
        std::fs::write(file, self.session.to_yaml()?)
            .with_context(|| format!("cannot write {}", file.display()))
    }
}
