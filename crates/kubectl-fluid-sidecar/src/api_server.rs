//! A real API server, as a policy sees it through policy-server.
//!
//! The same requests (discovery of a kind, once, then one GET for each read) by the same library, so that the
//! errors of both read alike. Unlike there nothing is kept: a read shows what is true now, where policy-server's
//! answers may be five seconds old.
//!
//! Which reads are allowed is not known here; that is the policy's [`crate::metadata`] and the account's RBAC.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::core::discovery::v2::{APIGroupDiscovery, APIResourceDiscovery, APIVersionDiscovery};
use kube::{Client, Config};
use serde_json::Value;
use tokio::runtime::Handle;

use crate::reads::Read;

/// The API server waits for a webhook for 10 s by default; the policy must have time left to say what it lacks.
const LONGEST_READ: Duration = Duration::from_secs(5);

/// The most policies that are listed: more than a cluster has.
const LISTED_MAX: u32 = 500;

/// HTTP statuses of the API server that are told apart.
const UNAUTHORIZED: u16 = 401;
const FORBIDDEN: u16 = 403;
const NOT_FOUND: u16 = 404;

/// An API server and the account to read with.
pub struct ApiServer {
    client: Client,
    url: String,
    runtime: Handle,
    kinds: Mutex<HashMap<(String, String), Kind>>,
}

/// A kind of objects that the API server has.
#[derive(Clone, Debug)]
pub struct Kind {
    resource: ApiResource,
    namespaced: bool,
}

impl Kind {
    /// Whether its objects are in namespaces.
    pub fn is_namespaced(&self) -> bool {
        self.namespaced
    }

    /// As RBAC and kubectl name it: `pods`, `daemonsets.apps`.
    pub fn resource(&self) -> String {
        resource_name(&self.resource.plural, &self.resource.group)
    }
}

fn resource_name(plural: &str, group: &str) -> String {
    if group.is_empty() { plural.into() } else { format!("{plural}.{group}") }
}

/// The reason why a request to the API server has no result.
#[derive(Debug)]
pub enum Refusal {
    /// The account may not do this.
    Forbidden(Forbidden),
    /// The API server does not know who asks; its own words.
    Unauthorized(String),
    /// There is no such kind of objects.
    UnknownKind,
    /// Anything else: the API server is out of reach, or fails.
    Other(String),
}

/// A right that the account lacks.
#[derive(Clone, Debug)]
pub struct Forbidden {
    /// The API server's own words.
    pub message: String,
    /// The account, as the API server names it; empty where it does not say.
    pub user: String,
    /// The resource, by its name in RBAC rules.
    pub resource: String,
}

impl Forbidden {
    fn new(status: &Status) -> Forbidden {
        let user = status.message.split_once("User \"").and_then(|(_, rest)| rest.split_once('"'));
        let details = status.details.as_ref();
        Forbidden {
            message: status.message.clone(),
            user: user.map(|(user, _)| user.to_string()).unwrap_or_default(),
            resource: details.map(|it| resource_name(&it.kind, &it.group)).unwrap_or_default(),
        }
    }
}

/// A group of kinds, or a kind, that the API server does not have.
#[derive(Debug)]
struct UnknownKind(String);

impl fmt::Display for UnknownKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for UnknownKind {}

/// Tells errors of requests apart.
fn refusal(error: &anyhow::Error) -> Refusal {
    if error.is::<UnknownKind>() {
        return Refusal::UnknownKind;
    }
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) if status.code == FORBIDDEN => {
            Refusal::Forbidden(Forbidden::new(status))
        }
        Some(kube::Error::Api(status)) if status.code == UNAUTHORIZED => {
            Refusal::Unauthorized(status.message.clone())
        }
        Some(kube::Error::Api(status)) => Refusal::Other(status.message.clone()),
        // The causes repeat one another; the last says most.
        Some(error) => {
            let mut last: &dyn std::error::Error = error;
            while let Some(source) = last.source() {
                last = source;
            }
            Refusal::Other(last.to_string())
        }
        None => Refusal::Other(format!("{error:#}")),
    }
}

impl ApiServer {
    /// Takes address and account from a kubeconfig. Nothing is sent yet. Within a tokio runtime only.
    pub async fn from_kubeconfig(path: &Path) -> Result<ApiServer> {
        let kubeconfig = Kubeconfig::read_from(path)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .with_context(|| format!("the kubeconfig {} cannot be used", path.display()))?;
        ApiServer::new(config)
            .with_context(|| format!("no client can be made of the kubeconfig {}", path.display()))
    }

    /// Of a configuration. Nothing is sent yet. Within a tokio runtime only.
    pub fn new(config: Config) -> Result<ApiServer> {
        let url = config.cluster_url.to_string();
        let client = Client::try_from(config)?;
        Ok(ApiServer { client, url, runtime: Handle::current(), kinds: Mutex::default() })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The object that is asked for, if there is one; the error is the host's text. Blocks, so it must not be
    /// called from a task.
    pub fn get(&self, read: &Read) -> Result<Option<Value>, String> {
        self.read(read).map_err(|(text, _)| text)
    }

    /// The same; the error tells, beside the host's text, what it is.
    pub fn read(&self, read: &Read) -> Result<Option<Value>, (String, Refusal)> {
        // As policy-server prints it, causes and all.
        self.wait(self.fetch(read)).map_err(|error| (format!("{error:?}"), refusal(&error)))
    }

    /// Asks the API server for its version, as everybody may, to see whether it can be reached.
    pub fn reach(&self) -> Result<(), Refusal> {
        let reached = self.wait(async { Ok(self.client.apiserver_version().await?) });
        match reached.map_err(|error| refusal(&error)) {
            // It can be reached, whatever it thinks of the account.
            Ok(_) | Err(Refusal::Forbidden(_)) => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }

    /// The kind that kubectl would take by this name: plural, singular, short name or kind, with its group or without, as
    /// in `pods`, `deploy`, `jobs.batch`, `deployments.v1.apps`.
    pub fn kind_named(&self, name: &str) -> Result<Kind, Refusal> {
        let found = self.wait(async {
            let mut groups = self.client.list_core_api_versions_aggregated().await?.items;
            groups.extend(self.client.list_api_groups_aggregated().await?.items);
            find_kind(&groups, name).ok_or_else(|| anyhow!(UnknownKind(name.into())))
        });
        found.map_err(|error| refusal(&error))
    }

    /// The kind that manifests name so, if the API server has it.
    pub fn kind_of(&self, api_version: &str, kind: &str) -> Option<Kind> {
        self.wait(self.kind(api_version, kind)).ok()
    }

    /// An object by its name; the namespace is only of kinds that have one.
    pub fn object(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Option<Value>, Refusal> {
        let Kind { resource, namespaced } = kind;
        let namespace = namespaced.then_some(namespace);
        let object = self.wait(self.named(resource, namespace, name));
        object.map_err(|error| refusal(&error))
    }

    /// All objects of a kind, of one namespace or of all.
    pub fn list(&self, kind: &Kind, namespace: Option<&str>) -> Result<Vec<Value>, Refusal> {
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &kind.resource),
            None => Api::all_with(self.client.clone(), &kind.resource),
        };
        let listed = self.wait(async {
            let list = api.list(&ListParams::default().limit(LISTED_MAX)).await?;
            list.items.into_iter().map(|item| Ok(serde_json::to_value(item)?)).collect()
        });
        listed.map_err(|error| refusal(&error))
    }

    fn wait<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(async {
            let timeout = || anyhow!("no answer from {} within {LONGEST_READ:?}", self.url);
            tokio::time::timeout(LONGEST_READ, answer).await.map_err(|_| timeout())?
        })
    }

    async fn named(
        &self,
        resource: &ApiResource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Value>> {
        if !can_be_a_name(name) || namespace.is_some_and(|namespace| !can_be_a_name(namespace)) {
            return Ok(None);
        }
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        };
        Ok(api.get_opt(name).await?.map(serde_json::to_value).transpose()?)
    }

    async fn fetch(&self, read: &Read) -> Result<Option<Value>> {
        let Read { api_version, kind, name, namespace, .. } = read;
        let Kind { resource, namespaced } = self.kind(api_version, kind).await?;
        let namespace = match namespaced {
            true => Some(namespace.as_deref().with_context(|| {
                format!("Resource {api_version}/{kind} is namespaced, but no namespace was provided")
            })?),
            false => None,
        };
        self.named(&resource, namespace, name).await
    }

    async fn kind(&self, api_version: &str, kind: &str) -> Result<Kind> {
        let key = (api_version.to_string(), kind.to_string());
        let known = || self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kind) = known().get(&key) {
            return Ok(kind.clone());
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let list = if group.is_empty() {
            self.client.list_core_api_resources(version).await?
        } else {
            let list = self.client.list_api_group_resources(api_version).await;
            list.map_err(|error| {
                let text = format!("error finding resource {api_version} / {kind}: {error}");
                match error {
                    kube::Error::Api(status) if status.code == NOT_FOUND => anyhow!(UnknownKind(text)),
                    _ => anyhow!(text),
                }
            })?
        };
        let found = list.resources.into_iter().find(|resource| resource.kind == kind);
        let found = found
            .ok_or_else(|| anyhow!(UnknownKind(format!("Cannot find resource {api_version}/{kind}"))))?;
        let resource = ApiResource {
            group: group.into(),
            version: version.into(),
            api_version: api_version.into(),
            kind: kind.into(),
            plural: found.name,
        };
        let kind = Kind { resource, namespaced: found.namespaced };
        known().insert(key, kind.clone());
        Ok(kind)
    }
}

/// The first kind of that name, in the order of the API server, which has the core group first. Names in full go before
/// short ones.
fn find_kind(groups: &[APIGroupDiscovery], name: &str) -> Option<Kind> {
    let (name, qualifier) = name.split_once('.').unwrap_or((name, ""));
    let in_full = |resource: &APIResourceDiscovery| {
        let kind = resource.response_kind.as_ref().and_then(|it| it.kind.as_deref());
        let names = [resource.resource.as_deref(), resource.singular_resource.as_deref(), kind];
        names.into_iter().flatten().any(|known| known.eq_ignore_ascii_case(name))
    };
    let short = |resource: &APIResourceDiscovery| resource.short_names.iter().any(|known| known == name);
    let by = |matches: &dyn Fn(&APIResourceDiscovery) -> bool| {
        groups.iter().find_map(|group| {
            let group_name = group.metadata.as_ref().and_then(|it| it.name.clone()).unwrap_or_default();
            // The first version is the preferred one.
            let of_version = |version: &&APIVersionDiscovery| {
                let full = format!("{}.{group_name}", version.version.as_deref().unwrap_or_default());
                qualifier.is_empty() || qualifier == group_name || qualifier == full
            };
            group.versions.iter().filter(of_version).find_map(|version| {
                let resource = version.resources.iter().find(|resource| matches(resource))?;
                kind_of_discovery(&group_name, version.version.as_deref()?, resource)
            })
        })
    };
    by(&in_full).or_else(|| by(&short))
}

fn kind_of_discovery(group: &str, version: &str, resource: &APIResourceDiscovery) -> Option<Kind> {
    let api_version = if group.is_empty() { version.into() } else { format!("{group}/{version}") };
    let resource_of = ApiResource {
        group: group.into(),
        version: version.into(),
        api_version,
        kind: resource.response_kind.as_ref()?.kind.clone()?,
        plural: resource.resource.clone()?,
    };
    Some(Kind { resource: resource_of, namespaced: resource.scope.as_deref() == Some("Namespaced") })
}

/// Names come from Pods that nobody has validated yet, and kube puts them into the path as they are:
/// `../secrets/password` would leave the kind that was granted.
fn can_be_a_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    !matches!(text, "" | "." | "..") && text.bytes().all(allowed)
}
