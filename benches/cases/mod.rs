//! The reviews whose cost is measured: natively by `benches/review.rs`, in the compiled policy by the benchmark and the
//! test of `crates/kubectl-fluid-sidecar`.
//!
//! The program that includes this module has a module `support` with a function `root`: the directory of the project.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "a module of several programs")]

use std::path::Path;

use serde_json::{Value, json};
use tool::{input, yaml};

use crate::support::{golden, root};

/// In the order of the report.
pub const NAMES: [&str; 8] = [
    "not-ours",
    "not-serverless",
    "seed",
    "seed-from-settings",
    "seed-jindo",
    "two-claims-two-runtimes",
    "ten-containers-four-datasets",
    "hundred-containers",
];

pub struct Case {
    pub pod: Value,
    pub objects: Vec<Value>,
    pub settings: Value,
}

impl Case {
    /// One of [`NAMES`]; the golden case of that name, if none is made here.
    pub fn named(name: &str) -> Case {
        match name {
            "not-ours" => Case::not_ours(),
            "seed" => Case::seed(),
            "ten-containers-four-datasets" => Case::wide(10, 4),
            "hundred-containers" => Case::containers(100),
            golden => Case::golden(golden),
        }
    }

    fn golden(name: &str) -> Case {
        let read = |file: &str| {
            let path = golden::given(&root().join("tests/cases").join(name), file);
            if path.exists() { yaml::read_file(&path).unwrap() } else { Vec::new() }
        };
        let one = |file: &str| read(file).pop();
        Case {
            pod: one("pod.yaml").unwrap(),
            objects: read("objects.yaml"),
            settings: one("settings.yaml").unwrap_or(json!({})),
        }
    }

    /// The Pod and the cluster of `tests/fluid/seed-pod`.
    fn seed() -> Case {
        let mut case = yaml::read_single(&root().join(Path::new("tests/fluid/seed-pod/case.yaml"))).unwrap();
        let objects = case["objects"].take();
        Case { pod: case["pod"].take(), objects: objects.as_array().unwrap().clone(), settings: json!({}) }
    }

    /// The seed's Pod without claims and without a label that means anything here.
    fn not_ours() -> Case {
        let mut case = Case::seed();
        case.pod["metadata"]["labels"] = json!({"app": "x"});
        case.pod["spec"]["volumes"] = json!([]);
        case.pod["spec"]["containers"][0]["volumeMounts"] = json!([]);
        case.objects.clear();
        case
    }

    /// The seed's Pod with more containers, each of which mounts more Datasets.
    fn wide(containers: usize, datasets: usize) -> Case {
        let mut case = Case::seed();
        let names: Vec<String> = (0..datasets).map(|number| format!("d{number}")).collect();
        let text = json!(case.objects).to_string();
        case.objects.clear();
        for name in &names {
            // The Dataset of the seed is called `data`, and what belongs to it `data-…`, `default-data`, `…/default/data/…`.
            let text = text
                .replace("\"data\"", &format!("\"{name}\""))
                .replace("default-data", &format!("default-{name}"))
                .replace("\"data-", &format!("\"{name}-"))
                .replace("default/data", &format!("default/{name}"));
            let objects: Vec<Value> = serde_json::from_str(&text).unwrap();
            case.objects.extend(objects);
        }
        let volume = |name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
        let mount = |name| json!({"name": name, "mountPath": format!("/{name}")});
        let mut container = case.pod["spec"]["containers"][0].take();
        container["volumeMounts"] = names.iter().map(mount).collect();
        let container = |number| {
            let mut container = container.clone();
            container["name"] = format!("c{number}").into();
            container
        };
        case.pod["spec"]["volumes"] = names.iter().map(volume).collect();
        case.pod["spec"]["containers"] = (0..containers).map(container).collect();
        case
    }

    /// Not on ECI, which takes 20 containers and volumes.
    fn unlimited(mut self) -> Case {
        self.settings = json!({"destination": "kubernetes"});
        self
    }

    /// A Pod with `number` containers, each of which mounts its one Dataset.
    pub fn containers(number: usize) -> Case {
        Case::wide(number, 1).unlimited()
    }

    /// A Pod with `number` Datasets in its one container.
    pub fn claims(number: usize) -> Case {
        Case::wide(1, number).unlimited()
    }

    /// A Pod with `number` volumes, mounted in its one container, beside its Dataset.
    pub fn volumes(number: usize) -> Case {
        let mut case = Case::wide(1, 1).unlimited();
        for number in 0..number {
            let name = format!("empty-{number}");
            let spec = &mut case.pod["spec"];
            let mount = json!({"name": name, "mountPath": format!("/{name}")});
            spec["containers"][0]["volumeMounts"].as_array_mut().unwrap().push(mount);
            spec["volumes"].as_array_mut().unwrap().push(json!({"name": name, "emptyDir": {}}));
        }
        case
    }

    /// The payload of `validate`.
    pub fn payload(&self) -> Vec<u8> {
        let request = input::request(self.pod.clone(), None, "CREATE").unwrap();
        json!({"request": request.admission, "settings": self.settings}).to_string().into_bytes()
    }
}
