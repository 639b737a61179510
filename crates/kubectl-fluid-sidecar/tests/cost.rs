//! What a review costs, in numbers that no machine and no minute changes: `bench/review.md` has them, no change of the
//! policy makes them grow unnoticed, and they are linear in the size of the Pod.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test")]

#[path = "../../../benches/cases/mod.rs"]
mod cases;
#[path = "support/report.rs"]
mod report;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::sync::OnceLock;

use serde_json::{Value, json};
use tool::count::Counter;
use tool::engine::Policy;

use crate::cases::Case;
use crate::report::{KINDS, Measured, numbers, times};

/// By how much a number may be larger than in the report: the standard libraries of rustup and of Debian differ.
const TOLERANCE: f64 = 1.05;

/// Counted once for all tests.
fn measured() -> Option<&'static Measured> {
    static MEASURED: OnceLock<Option<Measured>> = OnceLock::new();
    MEASURED.get_or_init(|| Some(Measured::count(&support::policy()?, &support::yardstick()?))).as_ref()
}

#[test]
fn no_review_costs_more_than_the_report_says() {
    let Some(measured) = measured() else { return };
    let path = report::path();
    let written = fs::read_to_string(&path).unwrap_or_default();
    let report = measured.report(&times(&written));
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, report).unwrap();
        return;
    }
    let (found, written) = (numbers(&report), numbers(&written));
    let (larger, smaller) = compare(&found, &written);
    // Not by eprintln, which the test harness swallows.
    let mut stderr = std::io::stderr();
    for line in smaller {
        writeln!(stderr, "hint: {line}; UPDATE_EXPECT=1 lowers bench/review.md").unwrap();
    }
    assert!(
        larger.is_empty(),
        "UPDATE_EXPECT=1 writes bench/review.md anew, if this is meant:\n{}",
        larger.join("\n")
    );
}

/// What costs more than is written or stands on one side only; what costs less.
fn compare(
    found: &BTreeMap<String, Vec<u64>>,
    written: &BTreeMap<String, Vec<u64>>,
) -> (Vec<String>, Vec<String>) {
    let (mut larger, mut smaller) = (Vec::new(), Vec::new());
    for (name, found) in found {
        let Some(written) = written.get(name).filter(|written| written.len() == found.len()) else {
            larger.push(format!("{name}: found {found:?}, the report has no such row"));
            continue;
        };
        let line = format!("{name}: found {found:?}, the report has {written:?}");
        let any = |more: &[u64], less: &[u64]| {
            more.iter().zip(less).any(|(more, less)| *more as f64 > *less as f64 * TOLERANCE)
        };
        if any(found, written) {
            larger.push(line);
        } else if any(written, found) {
            smaller.push(line);
        }
    }
    let stale = written.keys().filter(|name| !found.contains_key(*name));
    larger.extend(stale.map(|name| format!("{name}: is in the report, but no longer measured")));
    (larger, smaller)
}

#[test]
fn what_grows_is_found() {
    let rows = |rows: &[(&str, &[u64])]| -> BTreeMap<String, Vec<u64>> {
        rows.iter().map(|(name, numbers)| (name.to_string(), numbers.to_vec())).collect()
    };
    let written = rows(&[("a", &[100, 1000]), ("b", &[100])]);
    for (found, expected) in [
        (rows(&[("a", &[105, 960]), ("b", &[100])]), (0, 0)),
        (rows(&[("a", &[106, 900]), ("b", &[100])]), (1, 0)),
        (rows(&[("a", &[100, 900]), ("b", &[100])]), (0, 1)),
        (rows(&[("a", &[100, 1000])]), (1, 0)),
        (rows(&[("a", &[100]), ("b", &[100]), ("c", &[1])]), (2, 0)),
    ] {
        let (larger, smaller) = compare(&found, &written);
        assert_eq!((larger.len(), smaller.len()), expected, "{found:?}: {larger:?}, {smaller:?}");
    }
}

#[test]
fn the_policy_costs_little_more_than_the_yardstick() {
    let Some(measured) = measured() else { return };
    // Otherwise it answers another question; its constants are those of the policy's answer to the same Pod.
    let [policy, yardstick] = measured.answers.each_ref().map(Vec::len);
    let alike = policy.abs_diff(yardstick) * 10 <= policy;
    assert!(
        alike,
        "the yardstick answers with {yardstick} bytes, the policy with {policy}: change crates/yardstick"
    );
    let ratio = measured.ratio();
    assert!(
        ratio <= 1.6,
        "the policy takes {ratio:.2} times the instructions of the yardstick, more than 1.6"
    );
}

#[test]
fn costs_are_linear_in_claims_containers_and_volumes() {
    let Some(measured) = measured() else { return };
    let mut problems = Vec::new();
    for (kind, _, growth) in KINDS {
        let each = |number: usize| measured.cost(&format!("{number} {kind}")).call as f64 / number as f64;
        // What a review costs whatever its size makes the first smaller ones dearer, so it hides nothing.
        let [first, .., last] = growth;
        if each(last) / each(first) > 1.15 {
            let all = growth.map(|number| format!("{:.0} with {number}", each(number))).join(", ");
            problems.push(format!("instructions for each of the {kind}: {all}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// As large as the API server lets an object be, 3 MB, in every list and map that somebody may fill (F10).
#[test]
fn security_f10_no_pod_keeps_the_policy_busy() {
    let Some(path) = support::policy() else { return };
    let counter = Counter::load(&path).unwrap();
    let claim = |number| json!({"name": format!("v{number}"), "persistentVolumeClaim": {"claimName": format!("c{number}")}});
    let same_claim =
        |number| json!({"name": format!("v{number}"), "persistentVolumeClaim": {"claimName": "data"}});
    let volume = |number| json!({"name": format!("v{number}"), "emptyDir": {}});
    let container = |number| json!({"name": format!("c{number}"), "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/d"}]});
    let mount = |number| json!({"name": "data", "mountPath": format!("/d{number}")});
    let toleration = |number| json!({"key": format!("k{number}"), "operator": "Exists"});
    let text = |_| json!("x".repeat(1000));
    type Shape<'s> = (&'s str, &'s dyn Fn(usize) -> Value, &'s str);
    let shapes: [Shape<'_>; 9] = [
        ("claims", &claim, "/spec/volumes"),
        ("volumes of one claim", &same_claim, "/spec/volumes"),
        ("volumes", &volume, "/spec/volumes"),
        ("containers", &container, "/spec/containers"),
        ("mounts", &mount, "/spec/containers/0/volumeMounts"),
        ("tolerations", &toleration, "/spec/tolerations"),
        ("labels", &text, "/metadata/labels"),
        ("annotations", &text, "/metadata/annotations"),
        ("fields that nobody knows", &text, "/spec"),
    ];
    for (shape, fill, place) in shapes {
        for settings in [json!({}), json!({"destination": "kubernetes"}), json!({"mode": "verify"})] {
            let mut case = Case::named("seed");
            case.pod["spec"]["tolerations"] = json!([]);
            case.pod["metadata"]["annotations"] = json!({});
            let entries = (0..3_000_000 / fill(0).to_string().len()).map(fill);
            match case.pod.pointer_mut(place).unwrap() {
                Value::Array(list) => list.extend(entries),
                map => map
                    .as_object_mut()
                    .unwrap()
                    .extend(entries.enumerate().map(|(key, it)| (key.to_string(), it))),
            }
            case.settings = settings.clone();
            let (cost, _) = counter.call("validate", &case.payload(), &case.host()).unwrap();
            eprintln!("{shape} {settings}: {} instructions, {} reads", cost.call, cost.reads);
            assert!(cost.reads <= 100, "{shape}: {} reads", cost.reads);
            // Of a machine that runs seven in a nanosecond 20 ms.
            assert!(cost.call < 150_000_000, "{shape}: {} instructions", cost.call);
        }
    }
}

#[test]
fn counts_and_answers_do_not_depend_on_the_run_or_the_host() {
    let Some(path) = support::policy() else { return };
    let (counter, policy) = (Counter::load(&path).unwrap(), Policy::load(&path).unwrap());
    for name in cases::NAMES {
        let case = Case::named(name);
        let (payload, host) = (case.payload(), case.host());
        let once = counter.call("validate", &payload, &host).unwrap();
        let again = Counter::load(&path).unwrap().call("validate", &payload, &host).unwrap();
        assert_eq!(once, again, "{name}");
        let parsed = |answer: &[u8]| serde_json::from_slice::<serde_json::Value>(answer).unwrap();
        let answer = policy.call("validate", &payload, &host).unwrap();
        assert_eq!(parsed(&answer), parsed(&once.1), "{name}");
    }
}
