//! The documents do what they say: their commands work, their links lead somewhere, and the tests that they name exist.
//!
//! A comment right above each block that is marked `sh` says what becomes of it:
//!
//! - `<!-- run -->`: it is run as it stands, after the document's others in one shell, in a copy of the project, with
//!   the tools on PATH that `make wasm tools` builds;
//! - `<!-- run with FUSE -->`: the same where this machine may mount, skipped elsewhere;
//! - `<!-- not run: <reason> -->`.
//!
//! A block of any kind below `<!-- output -->` is what the block before it prints; `UPDATE_EXPECT=1 cargo test --test
//! docs` writes it anew.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::expect::expect;
use support::{root, skip};

/// Printed between two blocks.
const NEXT: &str = "\u{1e}next block\u{1e}\n";

/// Runs a command in namespaces of its own, so that its mounts and processes end with it.
const ISOLATED: [&str; 6] = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];

#[derive(Debug, PartialEq)]
enum Kind {
    Run,
    RunWithFuse,
    NotRun,
    Output,
}

/// A fenced block.
struct Block {
    kind: Kind,
    /// The number of the line that ends it.
    line: usize,
    /// Where its lines are in the document.
    text: std::ops::Range<usize>,
}

/// The blocks of commands and of what they print.
fn blocks(document: &str) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::new();
    let (mut above, mut at) = ("", 0);
    let mut open: Option<(Option<Kind>, usize)> = None;
    for (number, line) in (1..).zip(document.split_inclusive('\n')) {
        let start = at;
        at += line.len();
        let line = line.trim();
        if line == "```" && open.is_some() {
            if let Some((Some(kind), from)) = open.take() {
                blocks.push(Block { kind, line: number, text: from..start });
            }
        } else if let (Some(language), None) = (line.strip_prefix("```"), &open) {
            let comment = above.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
            let kind = match (language, comment.unwrap_or_default()) {
                ("bash" | "shell" | "console", _) => {
                    return Err(format!("line {number}: mark commands as sh, so that they are run"));
                }
                (_, "output") => Some(Kind::Output),
                ("sh", "run") => Some(Kind::Run),
                ("sh", "run with FUSE") => Some(Kind::RunWithFuse),
                ("sh", comment) if comment.starts_with("not run: ") => Some(Kind::NotRun),
                ("sh", _) => {
                    return Err(format!(
                        "line {number}: put <!-- run --> above the block, or <!-- not run: <reason> -->"
                    ));
                }
                _ => None,
            };
            open = Some((kind, at));
        }
        above = line;
    }
    Ok(blocks)
}

/// The document with the outputs that its commands have, run in `directory`. What is skipped keeps its output.
fn run(document: &str, directory: &Path, path: &str, fuse: bool) -> Result<String, String> {
    let blocks = blocks(document)?;
    let runs = |block: &&Block| block.kind == Kind::Run || block.kind == Kind::RunWithFuse && fuse;
    let run: Vec<_> = blocks.iter().filter(runs).collect();
    let mut script = String::from("set -euo pipefail\n");
    for block in &run {
        script.push_str(&format!("printf '{NEXT}'\n{}", &document[block.text.clone()]));
    }
    let mut command = Command::new("timeout");
    command.arg("300").args(ISOLATED.iter().filter(|_| fuse)).args(["bash", "-c", &script]);
    let output = command.current_dir(directory).env("PATH", path).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let printed: Vec<_> = printed.split(NEXT).skip(1).collect();
    // A block that ends the shell is one that fails.
    if !output.status.success() || printed.len() != run.len() {
        let last = printed.len().saturating_sub(1);
        return Err(format!(
            "the block that ends in line {} fails ({}):\n{}\n{}{}",
            run.get(last).map(|block| block.line).unwrap_or_default(),
            output.status,
            run.get(last).map(|block| &document[block.text.clone()]).unwrap_or_default(),
            printed.last().unwrap_or(&""),
            String::from_utf8_lossy(&output.stderr),
        ));
    }
    let (mut found, mut copied, mut printed) = (String::new(), 0, printed.into_iter());
    let mut before = None;
    for block in &blocks {
        match (&block.kind, before) {
            (Kind::Output, Some(printed)) => {
                found.push_str(&document[copied..block.text.start]);
                found.push_str(printed);
                copied = block.text.end;
            }
            (Kind::Output, None) => {}
            _ => before = if runs(&block) { printed.next() } else { None },
        }
    }
    found.push_str(&document[copied..]);
    Ok(found)
}

/// The files of the project, but for what is built or hidden.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        match name.starts_with('.') || name == "target" {
            true => {}
            false if path.is_dir() => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

fn documents() -> impl Iterator<Item = PathBuf> {
    files(root()).into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "md"))
}

/// A copy of the project, with what is built of it.
fn copy_of_the_project(name: &str) -> PathBuf {
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("docs").join(name);
    let _ = fs::remove_dir_all(&copy);
    for file in files(root()) {
        let to = copy.join(file.strip_prefix(root()).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&file, &to).unwrap();
    }
    std::os::unix::fs::symlink(root().join("target"), copy.join("target")).unwrap();
    copy
}

fn may_mount() -> bool {
    let isolated = Command::new(ISOLATED[0]).args(&ISOLATED[1..]).arg("true").output();
    Path::new("/dev/fuse").exists() && isolated.is_ok_and(|output| output.status.success())
}

#[test]
fn commands_work() {
    let target = root().join("target");
    let hosts = fs::read_dir(&target).into_iter().flatten().map(|host| host.unwrap().path());
    let ours =
        |host: &PathBuf| host.file_name().unwrap().to_string_lossy().starts_with(std::env::consts::ARCH);
    let mut builds = hosts.filter(ours).map(|host| host.join("debug"));
    let fluid_fuse = builds.find(|build| build.join("fluid-fuse").exists());
    let built = target.join("policy.wasm").exists() && target.join("debug/kubectl-fluid_sidecar").exists();
    let (true, Some(fluid_fuse)) = (built, fluid_fuse) else {
        return skip("the commands of the documents were not run: make wasm tools first");
    };
    let path = format!(
        "{}:{}:{}",
        fluid_fuse.display(),
        target.join("debug").display(),
        std::env::var("PATH").unwrap()
    );
    let fuse = may_mount();
    let mut failures = Vec::new();
    for file in documents() {
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        let document = fs::read_to_string(&file).unwrap();
        match blocks(&document) {
            Ok(blocks) if blocks.iter().all(|block| block.kind == Kind::NotRun) => continue,
            Ok(blocks) if !fuse && blocks.iter().any(|block| block.kind == Kind::RunWithFuse) => {
                skip(&format!("commands of {name} need root and /dev/fuse"));
            }
            _ => {}
        }
        let outcome = run(&document, &copy_of_the_project(&name.replace('/', "-")), &path, fuse);
        if let Err(error) = outcome.and_then(|found| expect(&file, &found)) {
            failures.push(format!("{name}: {error}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_does_not_work_is_seen() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let run = |document: &str| run(document, directory, &std::env::var("PATH").unwrap(), false);
    let error = run("<!-- run -->\n```sh\ntrue\n```\n<!-- run -->\n```sh\necho before\nfalse\n```\n");
    assert!(error.is_err_and(|error| error.contains("line 9") && error.contains("before")));
    assert!(run("<!-- run -->\n```sh\nfalse | true\n```\n").is_err(), "a pipe hides nothing");
    for unmarked in ["", "<!-- note -->\n", "<!-- not run: -->\n", "<!-- run -->\n\n"] {
        assert!(run(&format!("{unmarked}```sh\ntrue\n```\n")).is_err(), "{unmarked:?}");
    }
    assert!(run("<!-- run -->\n```bash\ntrue\n```\n").is_err());
    for skipped in ["not run: needs a cluster", "run with FUSE"] {
        assert!(run(&format!("<!-- {skipped} -->\n```sh\nfalse\n```\n")).is_ok(), "{skipped:?}");
    }
    assert!(run("<!-- run -->\n```sh\nexit\n```\n<!-- run -->\n```sh\nfalse\n```\n").is_err());
    // What a block sets is there for the next one, and its output is the one that is compared.
    let document = "<!-- run -->\n```sh\na=1\n```\n<!-- run -->\n```sh\necho $a\n```\n<!-- output -->\n```text\n2\n```\nend\n";
    assert_eq!(run(document).unwrap(), document.replace("2\n", "1\n"));
}

/// Documents that name the test of a promise.
const NAMING_TESTS: &[&str] = &["ARCHITECTURE.md", "docs/known-complaints.md", "docs/security.md"];

/// Names with fewer words may be a field or a metric.
const WORDS_OF_A_TEST: usize = 4;

#[test]
fn tests_that_are_named_exist() {
    let mut known = BTreeSet::new();
    for file in files(root()) {
        if file.extension().is_some_and(|extension| extension == "rs") {
            let code = fs::read_to_string(&file).unwrap();
            let names = code.split("fn ").skip(1).filter_map(|rest| rest.split('(').next());
            known.extend(names.map(str::to_string));
        } else if let Some(case) = file.parent().and_then(Path::file_name) {
            known.insert(case.to_string_lossy().into_owned());
        }
    }
    let mut unknown = Vec::new();
    let mut seen = 0;
    for document in NAMING_TESTS {
        let text = fs::read_to_string(root().join(document)).unwrap();
        for name in text.split('`').skip(1).step_by(2) {
            let is_name = name.chars().all(|char| char.is_ascii_alphanumeric() || char == '_');
            if is_name && name.split('_').count() >= WORDS_OF_A_TEST {
                seen += 1;
                if !known.contains(name) {
                    unknown.push(format!("{document}: there is no {name}"));
                }
            }
        }
    }
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
    assert!(seen > 50, "{seen}");
}

#[test]
fn links_lead_somewhere() {
    let mut failures = Vec::new();
    for file in documents() {
        let document = fs::read_to_string(&file).unwrap();
        for link in document.split("](").skip(1).filter_map(|rest| rest.split_once(')')) {
            let target = link.0.split('#').next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !file.with_file_name(target).exists() {
                failures.push(format!("{}: there is no {target}", file.display()));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
