//! The cluster of the user's kubeconfig, found as kubectl finds it, with the user's rights. It is only read.

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use fluid_sidecar_layout::Named as _;
use fluid_sidecar_policy::cluster::Kind as PolicyKind;
use kube::Config;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::api_server::{ApiServer, Forbidden, Kind, Refusal};
use crate::engine::Host;
use crate::metadata::Metadata;
use crate::reads::Read;
use crate::rights::{self, Right};

/// The environment variable of kubectl with a list of files.
const KUBECONFIG: &str = "KUBECONFIG";
/// The environment variable that kubelet gives every container.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

/// Which cluster, and as whom. The options are kubectl's.
#[derive(Args, Clone, Debug, Default)]
pub struct Connection {
    /// The kubeconfig [default: the files of $KUBECONFIG, else ~/.kube/config].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// A cluster that answers.
pub struct Live {
    server: ApiServer,
    /// Not dropped: a request that was given up on would hold the end back.
    _runtime: ManuallyDrop<Runtime>,
    /// As an error names it: the context and the address.
    name: String,
    namespace: String,
}

/// What is known of a kubeconfig before it is used.
struct Found {
    kubeconfig: Kubeconfig,
    /// Its files, for messages.
    files: String,
}

impl Live {
    /// The cluster that kubectl would take; `None` where there is neither a kubeconfig nor a Pod around this process.
    pub fn find(connection: &Connection) -> Result<Option<Live>> {
        let Some(Configured { config, name, hint }) = configuration(connection)? else { return Ok(None) };
        let runtime = Runtime::new().context("no threads")?;
        let namespace = config.default_namespace.clone();
        let server = runtime.block_on(async { ApiServer::new(config) })?;
        let name = format!("{name} ({})", server.url());
        let live = Live { server, _runtime: ManuallyDrop::new(runtime), name, namespace };
        match live.server.reach() {
            Ok(()) => Ok(Some(live)),
            Err(Refusal::Unauthorized(text)) => bail!(
                "the cluster of {} does not accept the user's credentials ({text}): log in again, or name another \
                 context with `--context`",
                live.name
            ),
            Err(Refusal::Other(text)) => bail!(
                "the cluster of {} cannot be reached: {text}; {hint}. `--objects` reads a cluster of files instead",
                live.name
            ),
            Err(refusal) => Err(live.refused("get", "the version of the cluster", None, refusal)),
        }
    }

    /// The context and the address.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace of the context.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The API server.
    pub fn server(&self) -> &ApiServer {
        &self.server
    }

    /// The object that kubectl would take by `KIND/NAME`.
    pub fn object(&self, resource: &str, name: &str, namespace: &str) -> Result<Value> {
        let kind = self.server.kind_named(resource).map_err(|refusal| match refusal {
            Refusal::UnknownKind => {
                anyhow!("the cluster has no resource type {resource:?}; `kubectl api-resources` lists them")
            }
            refusal => self.refused("get", "the resource types of the cluster", None, refusal),
        })?;
        self.object_of(&kind, name, namespace)
    }

    /// The object of a kind.
    pub fn object_of(&self, kind: &Kind, name: &str, namespace: &str) -> Result<Value> {
        let scope = kind.is_namespaced().then_some(namespace);
        let found = self.server.object(kind, namespace, name);
        let found = found.map_err(|refusal| self.refused("get", &kind.resource(), scope, refusal))?;
        found.with_context(|| match scope {
            Some(namespace) => format!(
                "there is no {name} of {} in namespace {namespace}; `--namespace` names another",
                kind.resource()
            ),
            None => format!("there is no {name} of {}", kind.resource()),
        })
    }

    /// What is said of a refusal, with what grants the right that is missing.
    pub fn refused(
        &self,
        verb: &str,
        resource: &str,
        namespace: Option<&str>,
        refusal: Refusal,
    ) -> anyhow::Error {
        match refusal {
            Refusal::Forbidden(forbidden) => {
                let right = Right { verbs: verb, resources: vec![resource.to_string()], namespace };
                anyhow!("{}", rights::missing(&forbidden, &right))
            }
            Refusal::Unauthorized(text) => {
                anyhow!("the cluster of {} does not accept the user's credentials: {text}", self.name)
            }
            Refusal::UnknownKind => anyhow!("the cluster of {} does not know {resource}", self.name),
            Refusal::Other(text) => anyhow!("cannot {verb} {resource} in {}: {text}", self.name),
        }
    }

    /// What is said when the policy's reads are refused: the right to all of them, so that it is granted once.
    fn reads_refused(&self, forbidden: &Forbidden) -> anyhow::Error {
        let known = PolicyKind::ALL.iter().filter_map(|kind| self.server.kind_of(kind.facts(), kind.name()));
        // kubectl refuses to grant what the cluster does not know, such as Datasets without Fluid.
        let mut resources: Vec<String> = known.map(|kind| kind.resource()).collect();
        if !resources.contains(&forbidden.resource) {
            resources.push(forbidden.resource.clone());
        }
        let right = Right { verbs: "get", resources, namespace: None };
        anyhow!("{}", rights::missing(forbidden, &right))
    }
}

/// A cluster whose answers to a policy's reads are watched.
///
/// A read that the policy server's account may make and the user's may not would otherwise become a verdict about the Pod.
pub struct Watched {
    live: Arc<Live>,
    failed: Mutex<Option<anyhow::Error>>,
}

impl Watched {
    /// Watches a cluster.
    pub fn new(live: Arc<Live>) -> Arc<Watched> {
        Arc::new(Watched { live, failed: Mutex::default() })
    }

    /// Answers the policy's reads, within what the metadata of a policy grants.
    pub fn host(self: &Arc<Self>, metadata: Option<Arc<Metadata>>) -> Host {
        let watched = Arc::clone(self);
        Arc::new(move |namespace, operation, payload| {
            let read = Read::parse(namespace, operation, payload)?;
            metadata.as_ref().map_or(Ok(()), |metadata| metadata.grant(&read))?;
            let found = watched.live.server.read(&read).map_err(|(text, refusal)| {
                watched.note(&read, refusal);
                text
            });
            read.answer(found)
        })
    }

    fn note(&self, read: &Read, refusal: Refusal) {
        let error = match refusal {
            // The policy server would be told the same.
            Refusal::UnknownKind => return,
            Refusal::Forbidden(forbidden) => self.live.reads_refused(&forbidden),
            Refusal::Unauthorized(text) | Refusal::Other(text) => {
                anyhow!("cannot read {read} from the cluster of {}: {text}", self.live.name)
            }
        };
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// The first read since the last call that failed.
    pub fn failed(&self) -> Option<anyhow::Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// How to reach a cluster.
pub(crate) struct Configured {
    pub(crate) config: Config,
    /// The context, for messages.
    name: String,
    /// Where its address is from, for messages.
    hint: String,
}

/// The account and the address that kubectl would take; `None` where there is neither a kubeconfig nor a Pod around this
/// process.
pub(crate) fn configuration(connection: &Connection) -> Result<Option<Configured>> {
    let found = match &connection.kubeconfig {
        Some(file) => Some(read(std::slice::from_ref(file))?),
        None => default_kubeconfig()?,
    };
    // Fails only when there is one already, which would do.
    rustls::crypto::ring::default_provider().install_default().ok();
    let (mut config, name, hint) = match found {
        Some(found) => {
            let context = context_of(&found, connection.context.as_deref())?;
            let load = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
            let loaded = Runtime::new()
                .context("no threads")?
                .block_on(Config::from_custom_kubeconfig(found.kubeconfig, &load));
            let config = loaded.with_context(|| {
                format!("context {context:?} of the kubeconfig {} cannot be used", found.files)
            })?;
            let hint = format!("the address is `server` of the context's cluster in {}", found.files);
            (config, format!("context {context}"), hint)
        }
        None => match &connection.context {
            Some(context) => bail!("there is no kubeconfig that could have the context {context:?}"),
            None if std::env::var_os(IN_CLUSTER).is_some() => {
                let config = Config::incluster().context("the ServiceAccount of this Pod cannot be used")?;
                let hint = format!("the address is that of the variable {IN_CLUSTER}");
                (config, "the cluster of this Pod".to_string(), hint)
            }
            None => return Ok(None),
        },
    };
    read_token(&mut config.auth_info)?;
    Ok(Some(Configured { config, name, hint }))
}

/// The kubeconfig that kubectl would read; files of `$KUBECONFIG` that are not there are skipped, as by kubectl.
fn default_kubeconfig() -> Result<Option<Found>> {
    let listed = std::env::var_os(KUBECONFIG).filter(|list| !list.is_empty());
    let mut files: Vec<PathBuf> = match listed {
        Some(list) => std::env::split_paths(&list).filter(|file| !file.as_os_str().is_empty()).collect(),
        None => std::env::home_dir().map(|home| home.join(".kube/config")).into_iter().collect(),
    };
    files.retain(|file| file.exists());
    if files.is_empty() { Ok(None) } else { read(&files).map(Some) }
}

fn read(files: &[PathBuf]) -> Result<Found> {
    let one = |file: &Path| {
        Kubeconfig::read_from(file).with_context(|| {
            format!("the kubeconfig {} cannot be read; `--kubeconfig` names another", file.display())
        })
    };
    let mut kubeconfig = Kubeconfig::default();
    for file in files {
        kubeconfig = kubeconfig.merge(one(file)?)?;
    }
    let files = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
    Ok(Found { kubeconfig, files })
}

/// Reads the token of a file as kubectl does, without the line's end, with which the client could not send it.
fn read_token(user: &mut AuthInfo) -> Result<()> {
    if let (None, Some(file)) = (&user.token, &user.token_file) {
        let token = std::fs::read_to_string(file)
            .with_context(|| format!("tokenFile of the user in the kubeconfig, {file}, cannot be read"))?;
        user.token = Some(token.trim().to_string().into());
        user.token_file = None;
    }
    Ok(())
}

/// The context to use; the error names the field that is wrong, and what it may be.
fn context_of(found: &Found, wanted: Option<&str>) -> Result<String> {
    let Found { kubeconfig, files } = found;
    let all = |names: Vec<&str>| if names.is_empty() { "none".to_string() } else { names.join(", ") };
    let contexts = || all(kubeconfig.contexts.iter().map(|it| it.name.as_str()).collect());
    let current = kubeconfig.current_context.as_deref().filter(|name| !name.is_empty());
    let (field, name) = match (wanted, current) {
        (Some(name), _) => ("--context", name),
        (None, Some(name)) => ("current-context", name),
        (None, None) => bail!(
            "current-context is not set in the kubeconfig {files}: `--context NAME` or `kubectl config use-context NAME` \
             chooses one of its contexts: {}",
            contexts()
        ),
    };
    let context = kubeconfig.contexts.iter().find(|it| it.name == name);
    let context = context.and_then(|it| it.context.as_ref()).with_context(|| {
        format!(
            "{field} is {name:?}, and the kubeconfig {files} has no such context: `--context NAME` or `kubectl config \
             use-context NAME` chooses one of its contexts: {}",
            contexts()
        )
    })?;
    if !kubeconfig.clusters.iter().any(|it| it.name == context.cluster) {
        bail!(
            "the context {name:?} of the kubeconfig {files} names the cluster {:?}, which is not among its clusters: {}; \
             `kubectl config set-context {name} --cluster=NAME` corrects it",
            context.cluster,
            all(kubeconfig.clusters.iter().map(|it| it.name.as_str()).collect())
        );
    }
    Ok(name.to_string())
}
