//! Bytes as the payload of `validate`, in a small cluster that is always the same: any get an answer, and
//! what was injected is not injected again and can be undone.
#![no_main]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::LazyLock;

use anyhow::anyhow;
use tool::objects::Objects;
use tool::yaml;
use fluid_sidecar_policy::cluster::{self, Masked, Masks};
use fluid_sidecar_policy::review::review;
use fluid_sidecar_policy::status::uninject;
use kubewarden_policy_sdk::host_capabilities::kubernetes::GetResourceRequest;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// Later ones replace earlier ones of the same name: the Dataset `data` is the one with secrets.
const OBJECTS: [&str; 3] = [
    include_str!("../../tests/cases/placement-namespace-label/objects.yaml"),
    include_str!("../../tests/cases/two-claims-two-runtimes/objects.yaml"),
    include_str!("../../tests/cases/fluid-fuse-for-a-dataset-with-secrets/objects.yaml"),
];

struct Cluster(Objects);

impl cluster::Cluster for Cluster {
    fn get<M: Masks>(&self, request: &GetResourceRequest) -> anyhow::Result<Masked<M>> {
        let request = serde_json::to_vec(request).unwrap();
        let answer = self.0.answer("kubernetes", "get_resource", &request);
        Ok(serde_json::from_slice(&answer.map_err(|error| anyhow!("Host error: {error}"))?)?)
    }
}

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    let mut objects = Objects::default();
    for document in OBJECTS.iter().flat_map(|text| yaml::parse(text).unwrap()) {
        objects.add(document).unwrap();
    }
    Cluster(objects)
});

fuzz_target!(|payload: &[u8]| {
    let answer = review(payload, &*CLUSTER);
    assert_eq!(answer.accepted, answer.message.is_none());
    let Some(mut pod) = answer.mutated_object else { return };
    assert!(answer.accepted);

    let mut payload: Value = serde_json::from_slice(payload).unwrap();
    payload["request"]["object"] = pod.clone();
    let again = review(payload.to_string().as_bytes(), &*CLUSTER);
    assert!(again.accepted, "{:?}", again.message);
    assert_eq!(again.mutated_object, None);

    assert!(uninject(&mut pod).unwrap());
});
