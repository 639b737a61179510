//! What a review costs natively, without the host: Pods that are not ours, the seed's Pod, many Datasets, and
//! growing Pods, whose cost must grow no faster than they do.
//!
//! `make bench` runs it, and after it `evaluate --bench` on the compiled policy with the same inputs, which this
//! program leaves in `target/tmp/bench`.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;

use divan::Bencher;
use evaluate::{input, yaml};
use fluid_sidecar_policy::review::review;
use serde_json::{Value, json};
use support::{Cluster, read};

/// In the order in which `make bench` shows them.
const NAMES: [&str; 6] = [
    "1-not-ours",
    "2-seed-from-settings",
    "3-seed-jindo",
    "4-two-claims-two-runtimes",
    "5-ten-containers-four-datasets",
    "6-hundred-containers",
];

struct Case {
    pod: Value,
    objects: Vec<Value>,
    settings: Value,
}

impl Case {
    fn named(name: &str) -> Case {
        match name.split_once('-').unwrap().1 {
            "not-ours" => Case::golden("not-serverless"),
            "hundred-containers" => Case::of_containers(100),
            "ten-containers-four-datasets" => {
                let case = read(Path::new("tests/fluid/ten-containers-four-datasets/case.yaml"));
                let mut pod = case["pod"].clone();
                pod["metadata"]["labels"] = json!({"alibabacloud.com/eci": "true"});
                Case { pod, objects: case["objects"].as_array().unwrap().clone(), settings: json!({}) }
            }
            golden => Case::golden(golden),
        }
    }

    fn golden(name: &str) -> Case {
        let file = |file: &str| Path::new("tests/cases").join(name).join(file);
        let (objects, settings) = (file("objects.yaml"), file("settings.yaml"));
        Case {
            pod: read(&file("pod.yaml")),
            objects: if objects.exists() { yaml::read_file(&objects).unwrap() } else { Vec::new() },
            settings: if settings.exists() { read(&settings) } else { json!({}) },
        }
    }

    /// The seed's Pod with more containers, each of which mounts the Dataset; not on ECI, which has 20 at most.
    fn of_containers(containers: usize) -> Case {
        let mut case = Case::golden("seed-thin");
        case.pod["metadata"]["labels"] = json!({"serverless.fluid.io/inject": "true"});
        let one = case.pod["spec"]["containers"][0].clone();
        let many = (0..containers).map(|number| {
            let mut container = one.clone();
            container["name"] = format!("app-{number}").into();
            container
        });
        case.pod["spec"]["containers"] = many.collect();
        case
    }

    fn bench(self, bencher: Bencher<'_, '_>, containers: usize) {
        let request = input::request(self.pod, None, "CREATE").unwrap();
        let payload = json!({"request": request.admission, "settings": self.settings}).to_string();
        let cluster = Cluster::of(self.objects);
        let items = divan::counter::ItemsCount::new(containers);
        bencher.counter(items).bench(|| assert!(review(payload.as_bytes(), &cluster).accepted));
    }
}

fn main() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
    for name in NAMES {
        let Case { pod, objects, settings } = Case::named(name);
        let directory = directory.join(name);
        fs::create_dir_all(&directory).unwrap();
        let objects = json!({"kind": "List", "items": objects});
        for (file, value) in [("pod.json", pod), ("objects.json", objects), ("settings.json", settings)] {
            fs::write(directory.join(file), value.to_string()).unwrap();
        }
    }
    divan::main();
}

#[divan::bench(args = NAMES)]
fn one_review(bencher: Bencher<'_, '_>, name: &str) {
    let case = Case::named(name);
    let containers = case.pod["spec"]["containers"].as_array().unwrap().len();
    case.bench(bencher, containers);
}

#[divan::bench(args = [1, 10, 100, 1000])]
fn containers(bencher: Bencher<'_, '_>, containers: usize) {
    Case::of_containers(containers).bench(bencher, containers);
}
