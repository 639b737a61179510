//! What the tests share: the policy's library, run on manifests as the compiled policy is by `evaluate`.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "a module of each test program, which uses a part of it"
)]

use evaluate::input;
use evaluate::objects::Objects;
use fluid_sidecar_policy::cluster::Host;
use fluid_sidecar_policy::review::review;
use serde_json::{Value, json};

/// The cluster of a test.
pub struct Cluster(pub Objects);

impl Host for Cluster {
    fn call(&self, namespace: &str, operation: &str, payload: &[u8]) -> Result<Vec<u8>, String> {
        // As the text reaches a guest through waPC.
        self.0.answer(namespace, operation, payload).map_err(|error| format!("Host error: {error}"))
    }
}

impl Cluster {
    pub fn of(documents: Vec<Value>) -> Cluster {
        let mut objects = Objects::default();
        for document in documents {
            objects.add(document).unwrap();
        }
        Cluster(objects)
    }
}

/// Reviews the creation of a manifest's Pod.
pub fn create(manifest: &Value, cluster: &Cluster, settings: &Value) -> Value {
    let request = input::request(manifest.clone(), None, "CREATE").unwrap();
    validate(&json!({"request": request.admission, "settings": settings}), cluster)
}

/// The answer to `validate`, as the host sees it.
pub fn validate(payload: &Value, cluster: &Cluster) -> Value {
    serde_json::to_value(review(payload.to_string().as_bytes(), cluster)).unwrap()
}
