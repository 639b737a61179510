//! What a review costs natively, without the host: Pods that are not ours, the seed's Pod, many Datasets, and
//! growing Pods, whose cost must grow no faster than they do.
//!
//! `make bench` runs it, and `evaluate --bench` on the compiled policy after it.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

#[path = "../tests/support/mod.rs"]
mod support;

use divan::Bencher;
use evaluate::input;
use fluid_sidecar_policy::review::review;
use serde_json::{Value, json};
use support::{Cluster, read};

fn main() {
    divan::main();
}

fn payload(pod: &Value) -> Vec<u8> {
    let request = input::request(pod.clone(), None, "CREATE").unwrap();
    json!({"request": request.admission, "settings": {}}).to_string().into_bytes()
}

fn case(name: &str) -> (Vec<u8>, Cluster) {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(name);
    let objects = evaluate::objects::Objects::read(&[directory.join("objects.yaml")]).unwrap();
    (payload(&read(&directory.join("pod.yaml"))), Cluster(objects))
}

#[divan::bench(args = [
    "not-serverless",
    "seed-from-settings",
    "seed-jindo",
    "two-claims-two-runtimes",
    "ten-containers-four-datasets",
])]
fn one_review(bencher: Bencher<'_, '_>, name: &str) {
    let (payload, cluster) = match name {
        "seed-from-settings" => {
            let pod = read(std::path::Path::new("tests/cases/seed-from-settings/pod.yaml"));
            let settings = read(std::path::Path::new("tests/cases/seed-from-settings/settings.yaml"));
            let request = input::request(pod, None, "CREATE").unwrap();
            let payload = json!({"request": request.admission, "settings": settings});
            (payload.to_string().into_bytes(), Cluster::of(Vec::new()))
        }
        "ten-containers-four-datasets" => {
            let case = read(std::path::Path::new("tests/fluid/ten-containers-four-datasets/case.yaml"));
            let mut pod = case["pod"].clone();
            pod["metadata"]["labels"] = json!({"alibabacloud.com/eci": "true"});
            (payload(&pod), Cluster::of(case["objects"].as_array().unwrap().clone()))
        }
        name => case(name),
    };
    bencher.bench(|| review(&payload, &cluster));
}

/// The seed's Pod with more containers, each of which mounts the Dataset.
#[divan::bench(args = [1, 10, 100, 1000])]
fn containers(bencher: Bencher<'_, '_>, containers: usize) {
    let (_, cluster) = case("seed-thin");
    let mut pod = read(std::path::Path::new("tests/cases/kubernetes-native-sidecar/pod.yaml"));
    pod["metadata"]["labels"] = json!({"serverless.fluid.io/inject": "true"});
    let one = pod["spec"]["containers"][0].clone();
    let many = (0..containers).map(|number| {
        let mut container = one.clone();
        container["name"] = format!("app-{number}").into();
        container
    });
    pod["spec"]["containers"] = many.collect();
    let payload = payload(&pod);
    bencher
        .counter(divan::counter::ItemsCount::new(containers))
        .bench(|| assert!(review(&payload, &cluster).accepted));
}
