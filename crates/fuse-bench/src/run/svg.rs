//! The table as a picture: for each line a bar for fluid-fuse and one for its best peer, as shares of the
//! limit, and a tick at what is to be reached. It decides sizes and colours, which are readable on light and
//! dark grounds; it does not know what a share means.

use super::report::Report;
use test_store::escape;

const LABEL: f64 = 300.0;
/// The length of a share of 1.
const UNIT: f64 = 280.0;
/// What is longer is cut off; its number says how long it is.
const LONGEST: f64 = 1.4;
/// Where the shares are written.
const LABELS: f64 = LABEL + UNIT * LONGEST + 8.0;
const STEP: f64 = 34.0;
const TOP: f64 = 56.0;
const WIDTH: f64 = 940.0;

const STYLE: &str = "
text { font: 12px system-ui, sans-serif; fill: #24292f }
.head { font-weight: 600; font-size: 14px }
.faint { fill: #6e7781; font-size: 11px }
.ours { fill: #1a7f37 } .short { fill: #bc4c00 } .peer { fill: #afb8c1 }
.goal { stroke: #24292f; stroke-width: 2 } .limit { stroke: #afb8c1; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .faint { fill: #9198a1 }
  .ours { fill: #3fb950 } .short { fill: #db6d28 } .peer { fill: #59636e }
  .goal { stroke: #e6edf3 } .limit { stroke: #59636e }
}
";

/// Draws the report.
pub(super) fn draw(report: &Report<'_>) -> String {
    let height = TOP + STEP * report.judged().count() as f64 + 8.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"fluid-fuse beside its limits and its best peer\">\n<style>{STYLE}</style>\n"
    );
    svg += &text(0.0, 16.0, "head", "fluid-fuse as a share of the limit");
    svg += &text(
        0.0,
        34.0,
        "faint",
        "green: goal reached, orange: not yet; grey: best peer; tick: goal; dashes: the limit",
    );
    let limit = LABEL + UNIT;
    svg += &format!(
        "<line class=\"limit\" x1=\"{limit}\" x2=\"{limit}\" y1=\"{}\" y2=\"{height}\"/>\n",
        TOP - 8.0
    );
    for (index, line) in report.judged().enumerate() {
        let top = TOP + STEP * index as f64;
        svg += &text(0.0, top + 13.0, "", &format!("{} {}", line.row, line.work));
        let Some(shares) = report.shares(line) else {
            svg += &text(LABEL, top + 13.0, "faint", "not measured");
            continue;
        };
        let mut bar = |top: f64, height: f64, class: &str, share: f64, name: &str| {
            let length = UNIT * share.clamp(0.0, LONGEST);
            svg += &format!(
                "<rect class=\"{class}\" x=\"{LABEL}\" y=\"{top}\" width=\"{length:.1}\" height=\"{height}\" rx=\"1\"/>\n"
            );
            svg += &text(LABELS, top + height - 1.0, "faint", &format!("{share:.2}{name}"));
        };
        if let Some(ours) = shares.ours {
            let class = if report.reached(line) == Some(true) { "ours" } else { "short" };
            bar(top + 2.0, 12.0, class, ours, &format!(" of {}", shares.limit));
        }
        if let Some((peer, share)) = shares.best_peer {
            bar(top + 17.0, 8.0, "peer", share, &format!(" {peer}"));
        }
        let goal = LABEL + UNIT * shares.goal.min(LONGEST);
        svg += &format!(
            "<line class=\"goal\" x1=\"{goal:.1}\" x2=\"{goal:.1}\" y1=\"{top}\" y2=\"{}\"/>\n",
            top + 16.0
        );
    }
    svg + "</svg>\n"
}

fn text(x: f64, y: f64, class: &str, text: &str) -> String {
    format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>\n", escape(text))
}
