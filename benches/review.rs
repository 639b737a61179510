//! What a review costs natively, without the host: Pods that are not ours, the seed's Pod, many Datasets, and
//! growing Pods, whose cost must grow no faster than they do.
//!
//! `make bench` runs it, and after it the benchmark of `crates/kubectl-fluid-sidecar`, which reviews the same cases in the compiled
//! policy.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

#[path = "../tests/support/mod.rs"]
mod support;

mod cases;

use cases::{Case, NAMES};
use divan::Bencher;
use fluid_sidecar_policy::review::review;
use support::Cluster;

fn main() {
    divan::main();
}

#[divan::bench(args = NAMES)]
fn one_review(bencher: Bencher<'_, '_>, name: &str) {
    bench(Case::named(name), bencher);
}

#[divan::bench(args = [1, 10, 100, 1000])]
fn containers(bencher: Bencher<'_, '_>, containers: usize) {
    bench(Case::containers(containers), bencher);
}

fn bench(case: Case, bencher: Bencher<'_, '_>) {
    let containers = case.pod["spec"]["containers"].as_array().unwrap().len();
    let payload = case.payload();
    let cluster = Cluster::of(case.objects);
    let items = divan::counter::ItemsCount::new(containers);
    bencher.counter(items).bench(|| assert!(review(&payload, &cluster).accepted));
}
