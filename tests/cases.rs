//! Golden cases: `tests/cases/<name>/` holds what goes in and what must come out. `tests/cases/fluid/<situation>/` has
//! what Fluid's own controllers made (the first line says of which version), and a case for each of several settings.
//!
//! - `pod.yaml`: a Pod, an object with one Pod template or an AdmissionReview; the last, if there are several;
//! - `objects.yaml`: the cluster that the policy reads (optional);
//! - `settings.yaml`: the policy's settings (optional);
//! - `expected.yaml`: decision, reasons, warnings, message, and the Pod when it was changed.
//!
//! `UPDATE_EXPECT=1 cargo test --test cases` writes `expected.yaml` anew: read the difference before you
//! commit it. The same cases run through the compiled policy in `crates/kubectl-fluid-sidecar/tests/wasm.rs`.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test")]

mod support;

use std::path::Path;

use support::{cases, cluster_of, compare, create, given, has_only, is_settled, settings_of};

const FILES: [&str; 4] = ["expected.yaml", "objects.yaml", "pod.yaml", "settings.yaml"];

#[test]
fn every_case_gives_what_it_expects() {
    let cases = cases("tests/cases");
    let failures: Vec<String> = cases.iter().filter_map(|case| check(case).err()).collect();
    assert!(failures.is_empty(), "{} of {} cases:\n\n{}", failures.len(), cases.len(), failures.join("\n"));
}

fn check(case: &Path) -> Result<(), String> {
    has_only(case, &FILES);
    let (cluster, settings) = (cluster_of(case), settings_of(case));
    let answer = create(&given(case, "pod.yaml"), &cluster, &settings);
    is_settled(case, &answer, |pod| create(pod, &cluster, &settings));
    compare(case, &answer)
}
