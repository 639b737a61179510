//! A real API server, as a policy sees it through policy-server.
//!
//! The same requests (discovery of a kind, once, then one GET for each read) by the same library, so that the
//! errors of both read alike. Unlike there nothing is kept: a read shows what is true now, where policy-server's
//! answers may be five seconds old.
//!
//! Which reads are allowed is not known here; that is the policy's [`crate::metadata`] and the account's RBAC.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use kube::api::{Api, ApiResource, DynamicObject};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use tokio::runtime::Handle;

use crate::reads::Read;

/// The API server waits for a webhook for 10 s by default; the policy must have time left to say what it lacks.
const LONGEST_READ: Duration = Duration::from_secs(5);

/// An API server and the account to read with.
pub struct ApiServer {
    client: Client,
    url: String,
    runtime: Handle,
    kinds: Mutex<HashMap<(String, String), Kind>>,
}

#[derive(Clone)]
struct Kind {
    resource: ApiResource,
    namespaced: bool,
}

impl ApiServer {
    /// Takes address and account from a kubeconfig. Nothing is sent yet. Within a tokio runtime only.
    pub async fn from_kubeconfig(path: &Path) -> Result<ApiServer> {
        let kubeconfig = Kubeconfig::read_from(path)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .with_context(|| format!("the kubeconfig {} cannot be used", path.display()))?;
        let url = config.cluster_url.to_string();
        let client = Client::try_from(config)
            .with_context(|| format!("no client can be made of the kubeconfig {}", path.display()))?;
        Ok(ApiServer { client, url, runtime: Handle::current(), kinds: Mutex::default() })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The object that is asked for, if there is one; the error is the host's text. Blocks, so it must not be
    /// called from a task.
    pub fn get(&self, read: &Read) -> Result<Option<Value>, String> {
        let fetched = self.runtime.block_on(async {
            let timeout = || anyhow!("no answer from {} within {LONGEST_READ:?}", self.url);
            tokio::time::timeout(LONGEST_READ, self.fetch(read)).await.map_err(|_| timeout())?
        });
        // As policy-server prints it, causes and all.
        fetched.map_err(|error| format!("{error:?}"))
    }

    async fn fetch(&self, read: &Read) -> Result<Option<Value>> {
        let Read { api_version, kind, name, namespace, .. } = read;
        let Kind { resource, namespaced } = self.kind(api_version, kind).await?;
        let api: Api<DynamicObject> = if namespaced {
            let namespace = namespace.as_deref().with_context(|| {
                format!("Resource {api_version}/{kind} is namespaced, but no namespace was provided")
            })?;
            if !can_be_a_name(namespace) {
                return Ok(None);
            }
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        };
        if !can_be_a_name(name) {
            return Ok(None);
        }
        Ok(api.get_opt(name).await?.map(serde_json::to_value).transpose()?)
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
            list.map_err(|error| anyhow!("error finding resource {api_version} / {kind}: {error}"))?
        };
        let found = list.resources.into_iter().find(|resource| resource.kind == kind);
        let found = found.with_context(|| format!("Cannot find resource {api_version}/{kind}"))?;
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

/// Names come from Pods that nobody has validated yet, and kube puts them into the path as they are:
/// `../secrets/password` would leave the kind that was granted.
fn can_be_a_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    !matches!(text, "" | "." | "..") && text.bytes().all(allowed)
}
