//! The memory over time as a picture: a line for each life, with outages as bands and restarts as ticks. It
//! decides sizes and colours, which are readable on light and dark grounds; it does not know what they mean.

use std::fmt::Write as _;

use crate::watch::Sample;

const LEFT: f64 = 44.0;
const TOP: f64 = 48.0;
const WIDTH: f64 = 940.0;
const HEIGHT: f64 = 320.0;
const RIGHT: f64 = WIDTH - 12.0;
const BOTTOM: f64 = HEIGHT - 24.0;

/// Lines across, and down.
const MARKS: usize = 5;

const STYLE: &str = "
text { font: 12px system-ui, sans-serif; fill: #24292f }
.head { font-weight: 600; font-size: 14px }
.faint { fill: #6e7781; font-size: 11px } .end { text-anchor: end } .middle { text-anchor: middle }
.line { fill: none; stroke: #1a7f37; stroke-width: 1.5 }
.restart { stroke: #bc4c00 } .outage { fill: #afb8c1; opacity: 0.4 } .grid { stroke: #afb8c1; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .faint { fill: #9198a1 }
  .line { stroke: #3fb950 } .restart { stroke: #db6d28 } .outage { fill: #59636e } .grid { stroke: #59636e }
}
";

/// Draws the samples; spans and moments are in seconds.
pub(crate) fn draw(samples: &[Sample], outages: &[(f64, f64)], restarts: &[f64]) -> String {
    let seconds = samples.last().map_or(1.0, |sample| sample.seconds).max(1.0);
    let most = samples.iter().map(|sample| sample.rss).fold(1.0, f64::max) * 1.1;
    let x = |at: f64| LEFT + (RIGHT - LEFT) * at.min(seconds) / seconds;
    let y = |rss: f64| BOTTOM - (BOTTOM - TOP) * rss / most;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"memory of fluid-fuse over time\">\n<style>{STYLE}</style>\n"
    );
    svg += &text(0.0, 16.0, "head", "resident memory of fluid-fuse, in MiB");
    svg += &text(0.0, 34.0, "faint", "grey: the store is away; orange: the process is restarted");
    for (from, to) in outages {
        let (from, to) = (x(*from), x(*to));
        let (width, height) = (to - from, BOTTOM - TOP);
        writeln!(
            svg,
            "<rect class=\"outage\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\"/>"
        )
        .unwrap();
    }
    for mark in 0..=MARKS {
        let share = mark as f64 / MARKS as f64;
        let (across, down) = (y(most * share), x(seconds * share));
        writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{across:.1}\" y2=\"{across:.1}\"/>"
        )
        .unwrap();
        svg += &text(LEFT - 6.0, across + 4.0, "faint end", &format!("{:.0}", most * share));
        svg += &text(down, BOTTOM + 16.0, "faint middle", &format!("{:.0} s", seconds * share));
    }
    for at in restarts.iter().map(|at| x(*at)) {
        let top = BOTTOM - 10.0;
        writeln!(svg, "<line class=\"restart\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{BOTTOM}\"/>")
            .unwrap();
    }
    for life in samples.chunk_by(|one, next| one.life == next.life) {
        let points: Vec<_> =
            life.iter().map(|sample| format!("{:.1},{:.1}", x(sample.seconds), y(sample.rss))).collect();
        writeln!(svg, "<polyline class=\"line\" points=\"{}\"/>", points.join(" ")).unwrap();
    }
    svg + "</svg>\n"
}

fn text(x: f64, y: f64, class: &str, text: &str) -> String {
    format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>\n")
}
