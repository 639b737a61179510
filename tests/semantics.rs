//! SEMANTICS.md says what the code does: its tables are made of the code's own.
//!
//! `UPDATE_EXPECT=1 cargo test --test semantics` writes them anew.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::fmt::Write as _;
use std::path::Path;

use fluid_sidecar_policy::placement;
use fluid_sidecar_policy::reason::Code;
use support::expect::expect;

#[test]
fn the_tables_are_those_of_the_code() {
    let mut rows = String::from("| the Pod has | it goes to |\n|---|---|\n");
    for (marker, answer) in placement::table() {
        writeln!(rows, "| {marker} | {answer} |").unwrap();
    }
    rows.push_str("| none of these | not serverless |\n");
    let mut reasons = String::from("| code | meaning |\n|---|---|\n");
    for (code, about) in Code::ALL {
        writeln!(reasons, "| `{}` |{about} |", code.as_str()).unwrap();
    }

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("SEMANTICS.md");
    let mut document = std::fs::read_to_string(&path).unwrap();
    for (name, table) in [("placement", rows), ("reasons", reasons)] {
        let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
        let (before, rest) = document.split_once(&begin).unwrap();
        let (_, after) = rest.split_once(&end).unwrap();
        document = format!("{before}{begin}{table}{end}{after}");
    }
    expect(&path, &document).unwrap();
}
