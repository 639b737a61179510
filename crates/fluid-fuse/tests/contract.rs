//! What cannot import the names of `fluid_sidecar_layout::contract` agrees with them: manifests, scripts and documents
//! of this repository. `UPDATE_EXPECT=1 cargo test -p fluid-fuse --test contract` makes `e2e/cluster/contract.sh` anew.

#![allow(clippy::unwrap_used, reason = "a test")]

#[allow(unreachable_pub, reason = "what other tests see")]
#[path = "../../../tests/support/expect.rs"]
mod expect;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use fluid_fuse::cli::Cli;
use fluid_sidecar_layout::config::Config;
use fluid_sidecar_layout::contract::{
    CONFIG_FILE, FLUID_FUSE, MOUNT_ROOT, SECRETS_DIRECTORY, VFUSE_RESOURCE, command, env, exit_code,
};
use fluid_sidecar_layout::{MountPoint, Named as _, Runtime};
use serde_json::Value;

/// Where names are imported from the contract, and not spelled.
const IMPORTING: &[&str] =
    &["crates/fluid-fuse/src", "crates/fuse-bench/src", "crates/podrun/src", "e2e", "src"];

/// Where names are spelled.
const SPELLING: &[&str] = &["README.md", "SEMANTICS.md", "crates", "demo", "deploy", "docs", "e2e"];

/// The directories of manifests with Datasets.
const DATASETS: &[&str] = &["crates/podrun/tests/scenarios", "demo/cluster", "e2e/cluster/fluid"];

const SCRIPT: &str = "e2e/cluster/contract.sh";

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The files at and below a path that are text, but what tools keep there.
fn texts(path: &Path) -> Vec<(PathBuf, String)> {
    if path.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.retain(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            !name.starts_with('.') && !matches!(name, "target" | "node_modules" | "__pycache__")
        });
        entries.sort();
        return entries.iter().flat_map(|path| texts(path)).collect();
    }
    fs::read_to_string(path).map(|text| (path.to_path_buf(), text)).into_iter().collect()
}

#[test]
fn shell() {
    let text = format!(
        "# shellcheck shell=bash disable=SC2034\n\
         # Made from crates/layout/src/contract.rs by crates/fluid-fuse/tests/contract.rs; change it there. Sourced.\n\
         mount_root={MOUNT_ROOT}\n\
         sidecar={FLUID_FUSE}\n\
         vfuse_resource={VFUSE_RESOURCE}\n"
    );
    if let Err(difference) = expect::expect(&project().join(SCRIPT), &text) {
        panic!("{difference}");
    }
    // In Go, it has a copy.
    let plugin = fs::read_to_string(project().join("e2e/cluster/go/vfuse-device-plugin/main.go")).unwrap();
    assert!(plugin.contains(&format!("resource = \"{VFUSE_RESOURCE}\"\n")), "main.go has another resource");
}

#[test]
fn code_imports() {
    let names = [MOUNT_ROOT, CONFIG_FILE, SECRETS_DIRECTORY, VFUSE_RESOURCE, "FLUID_FUSE_", "FLUID_RUNTIME_"];
    let quoted = [env::MOUNT_POINT, env::MOUNT_OPTIONS].map(|name| format!("\"{name}\""));
    let mut found = Vec::new();
    for (path, text) in IMPORTING.iter().flat_map(|path| texts(&project().join(path))) {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("bats" | "yaml" | "md" | "go")) || path.ends_with(SCRIPT) {
            continue;
        }
        // Tests are others, who spell what they see.
        if path.ends_with("tests.rs") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap();
        for (number, line) in code.lines().enumerate() {
            let spelled = || names.iter().copied().chain(quoted.iter().map(String::as_str));
            if !line.trim_start().starts_with(['/', '#']) && spelled().any(|name| line.contains(name)) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "import these from fluid_sidecar_layout::contract:\n{}", found.join("\n"));
}

/// Every variable that `fluid-fuse` reads.
fn variables() -> BTreeSet<String> {
    let program = Cli::command();
    let arguments = program.get_subcommands().flat_map(|command| command.get_arguments());
    let options = arguments.filter_map(|argument| argument.get_env()?.to_str());
    let fluid = [env::RUNTIME_TYPE, env::RUNTIME_NAMESPACE, env::RUNTIME_NAME];
    let fluid = fluid.into_iter().chain([env::MOUNT_POINT, env::MOUNT_OPTIONS]);
    options.chain(fluid).chain([env::LOG]).map(str::to_string).collect()
}

#[test]
fn every_variable_is_known() {
    let known = variables();
    let mut unknown = Vec::new();
    // The yardstick's sidecar is a JindoRuntime's, with variables of its own.
    let others = project().join("crates/yardstick");
    let spelling = SPELLING.iter().flat_map(|path| texts(&project().join(path)));
    for (path, text) in spelling.filter(|(path, _)| !path.starts_with(&others)) {
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        for word in words {
            let ours = ["FLUID_FUSE_", "FLUID_RUNTIME_"]
                .iter()
                .any(|prefix| word.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty()));
            if ours && !known.contains(word) && !word.starts_with(env::SECRET_PREFIX) {
                unknown.push(format!("{}: {word}", path.display()));
            }
        }
    }
    assert!(unknown.is_empty(), "fluid-fuse reads no such variable:\n{}", unknown.join("\n"));
}

/// A manifest's field as text, `""` if it has none.
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[test]
fn manifests() {
    let known = variables();
    let mut kinds = BTreeMap::new();
    for directory in DATASETS {
        let files = texts(&project().join(directory));
        let yaml =
            files.iter().filter(|(path, _)| path.extension().is_some_and(|extension| extension == "yaml"));
        let documents: Vec<Value> =
            yaml.flat_map(|(_, text)| serde_saphyr::from_multiple::<Value>(text).unwrap()).collect();
        let datasets = documents.iter().filter(|document| document["kind"] == "Dataset");
        let mount_points: BTreeSet<String> = datasets
            .flat_map(|dataset| list(dataset, "/status/runtimes"))
            .map(|runtime| {
                let kind = Runtime::from_name(text(runtime, "/type")).unwrap();
                let place =
                    MountPoint::new(MOUNT_ROOT, kind, text(runtime, "/namespace"), text(runtime, "/name"));
                place.unwrap().to_string()
            })
            .collect();
        for document in &documents {
            let kind = text(document, "/kind");
            *kinds.entry(kind.to_string()).or_insert(0) += 1;
            match kind {
                "PersistentVolume" => {
                    let path = text(document, "/spec/csi/volumeAttributes/fluid_path");
                    assert!(mount_points.contains(path), "{directory}: fluid_path {path:?}");
                }
                "ConfigMap" => {
                    let config: Config = serde_json::from_str(text(document, "/data/config.json")).unwrap();
                    let path = config.target_path.unwrap();
                    assert!(mount_points.contains(&path), "{directory}: targetPath {path:?}");
                    for (name, value) in config.mounts.iter().flat_map(|mount| &mount.options) {
                        let is_path = value.starts_with('/');
                        assert!(
                            !is_path || value.starts_with(SECRETS_DIRECTORY),
                            "{directory}: {name}: {value}"
                        );
                    }
                }
                "ThinRuntimeProfile" => {
                    let fuse = &document["spec"]["fuse"];
                    assert_eq!(
                        fuse["command"],
                        serde_json::json!([FLUID_FUSE, command::MOUNT]),
                        "{directory}"
                    );
                }
                "DaemonSet" => daemonset(document, &mount_points, &known),
                _ => {}
            }
        }
    }
    for kind in ["PersistentVolume", "ConfigMap", "ThinRuntimeProfile", "DaemonSet"] {
        assert!(kinds.contains_key(kind), "no {kind} was looked at");
    }
}

/// A fuse DaemonSet: `fluid-fuse` as Fluid starts it.
fn daemonset(document: &Value, mount_points: &BTreeSet<String>, known: &BTreeSet<String>) {
    let pod = &document["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(container["command"], serde_json::json!([FLUID_FUSE, command::MOUNT]));
    let env: BTreeMap<&str, &str> =
        list(container, "/env").iter().map(|entry| (text(entry, "/name"), text(entry, "/value"))).collect();
    for name in env.keys() {
        assert!(known.contains(*name), "fluid-fuse reads no variable {name}");
    }
    let runtime = Runtime::from_name(env[env::RUNTIME_TYPE]).unwrap();
    let place =
        MountPoint::new(MOUNT_ROOT, runtime, env[env::RUNTIME_NAMESPACE], env[env::RUNTIME_NAME]).unwrap();
    assert_eq!(env[env::MOUNT_POINT], place.as_str());
    assert!(mount_points.contains(place.as_str()), "no Dataset is mounted on {place}");
    let stop = list(container, "/lifecycle/preStop/exec/command").last().unwrap();
    assert_eq!(stop.as_str(), Some(place.as_str()));

    let config = Path::new(CONFIG_FILE).parent().unwrap().to_str().unwrap();
    let mut mounts_parent = false;
    for mount in list(container, "/volumeMounts") {
        let path = text(mount, "/mountPath");
        let volume = list(pod, "/volumes").iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        if volume.get("configMap").is_some() {
            assert_eq!(path, config);
        } else if volume.get("secret").is_some() {
            assert!(path.starts_with(SECRETS_DIRECTORY), "{path}");
        } else if volume.get("hostPath").is_some() {
            assert_eq!((path, text(volume, "/hostPath/path")), (place.parent(), place.parent()));
            mounts_parent = true;
        }
    }
    assert!(mounts_parent, "{} is not mounted", place.parent());
}

#[test]
fn exit_codes() {
    let code = |arguments: &[&str]| {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_fluid-fuse"));
        program.args(arguments).env_remove(env::MOUNTPOINT).env_remove(env::MOUNT_POINT);
        program.output().unwrap().status.code()
    };
    assert_eq!(code(&["--version"]), Some(exit_code::SUCCESS.into()));
    assert_eq!(code(&[command::CHECK]), Some(exit_code::FAILURE.into()));
    assert_eq!(code(&["no-such-command"]), Some(exit_code::USAGE.into()));
}
