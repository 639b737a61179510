//! Which proxies of service meshes stand between a sidecar and its store?
//!
//! A mesh redirects the network of a Pod to its proxy, by an init container or a CNI plugin. A sidecar that starts before
//! the proxy, and holds it back until its file system is mounted, waits for ever (GKE #53). A Pod says that it keeps its
//! store out of the mesh by an annotation of the mesh; then nothing needs an order.
//!
//! Dapr and Cilium are not here: Dapr's `daprd` redirects nothing, and Cilium has no container in the Pod.

use fluid_sidecar_layout::{Named as _, named};
use serde_json::Value;

use crate::json::{elements, name_of, text};

/// What is known of a mesh.
#[derive(Debug)]
pub struct Facts {
    /// The proxy's container.
    proxy: &'static str,
    /// Init containers of which one is in every Pod whose network is redirected; empty: a CNI plugin may have done it.
    needs: &'static [&'static str],
    /// What annotations that keep addresses or ports out of the mesh begin with.
    excludes: &'static [&'static str],
    /// What has the proxy start first; empty: nothing.
    first: &'static str,
    /// What makes the proxy a native sidecar; empty: nothing.
    native: &'static str,
}

named! {
    /// Service meshes.
    pub enum Mesh: Facts {
        /// And ASM, Alibaba Cloud's.
        Istio = "Istio" => Facts {
            proxy: "istio-proxy",
            needs: &[],
            excludes: &[
                "traffic.sidecar.istio.io/excludeOutbound",
                "traffic.sidecar.istio.io/includeOutboundIPRanges",
            ],
            first: "the annotation proxy.istio.io/config: 'holdApplicationUntilProxyStarts: true'",
            native: "the annotation sidecar.istio.io/nativeSidecar: \"true\"",
        },
        /// Linkerd.
        Linkerd = "Linkerd" => Facts {
            proxy: "linkerd-proxy",
            needs: &[],
            excludes: &["config.linkerd.io/skip-outbound-ports", "config.linkerd.io/skip-subnets"],
            first: "the annotation config.linkerd.io/proxy-await: enabled",
            native: "the annotation config.beta.linkerd.io/proxy-enable-native-sidecar: \"true\"",
        },
        /// And Kong Mesh.
        Kuma = "Kuma" => Facts {
            proxy: "kuma-sidecar",
            needs: &[],
            excludes: &["traffic.kuma.io/exclude-outbound"],
            first: "the annotation kuma.io/wait-for-dataplane-ready: \"true\"",
            native: "KUMA_EXPERIMENTAL_SIDECAR_CONTAINERS of its control plane",
        },
        /// AWS App Mesh. The name of its proxy is also that of others.
        AppMesh = "App Mesh" => Facts {
            proxy: "envoy",
            needs: &["proxyinit"],
            excludes: &["appmesh.k8s.aws/egressIgnored"],
            first: "",
            native: "",
        },
        /// Consul.
        Consul = "Consul" => Facts {
            proxy: "consul-dataplane",
            needs: &["consul-connect-inject-init"],
            excludes: &["consul.hashicorp.com/transparent-proxy-exclude-outbound"],
            first: "",
            native: "",
        },
    }
}

/// A proxy without which the sidecars have no network.
pub struct Proxy<'p> {
    /// Its mesh.
    pub mesh: Mesh,
    /// Its container.
    pub container: &'p Value,
    /// Its place in its list.
    pub place: usize,
    /// Whether it is a native sidecar, in `initContainers`.
    pub is_native: bool,
}

impl Proxy<'_> {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.mesh.facts().proxy
    }

    /// What the Pod's owner can do where the order does not work: have the proxy be a native sidecar, or the first
    /// container, or go around it.
    pub fn ways_out(&self, native: bool) -> String {
        let facts = self.mesh.facts();
        match if native { facts.native } else { facts.first } {
            "" => self.around(),
            way => format!("set {way}, or {}", self.around()),
        }
    }

    /// What keeps the sidecar's traffic out of the mesh.
    pub fn around(&self) -> String {
        format!("keep the store out of {} (annotation {}…)", self.mesh, self.mesh.facts().excludes[0])
    }
}

/// The proxies that redirect the network of a Pod.
pub fn proxies<'p>(pod: &'p Value) -> Vec<Proxy<'p>> {
    let list = |key: &str| elements(pod.get("spec").and_then(|spec| spec.get(key)));
    let annotations = pod.get("metadata").and_then(|metadata| metadata.get("annotations")?.as_object());
    let (init, containers) = (list("initContainers"), list("containers"));
    let mut proxies = Vec::new();
    for mesh in Mesh::ALL.iter().copied() {
        let facts = mesh.facts();
        let named = |list: &'p [Value], name: &str| {
            list.iter().enumerate().find(|(_, container)| name_of(container) == Some(name))
        };
        let is_redirected =
            facts.needs.is_empty() || facts.needs.iter().any(|name| named(init, name).is_some());
        let excludes = |key: &String| facts.excludes.iter().any(|begin| key.starts_with(begin));
        if !is_redirected || annotations.is_some_and(|annotations| annotations.keys().any(excludes)) {
            continue;
        }
        let native = named(init, facts.proxy)
            .filter(|(_, container)| text(container, "restartPolicy") == Some("Always"));
        let found =
            native.map(|found| (found, true)).or(named(containers, facts.proxy).map(|found| (found, false)));
        proxies.extend(found.map(|((place, container), is_native)| Proxy {
            mesh,
            container,
            place,
            is_native,
        }));
    }
    proxies
}
