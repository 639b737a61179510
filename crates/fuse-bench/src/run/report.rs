//! The report: what the figures say of the table's goals. It decides which goals are reached, and how all of
//! it reads as text; it does not know where figures come from.
//!
//! A figure is the median of its rounds, and a ratio is the median of the rounds' ratios: a machine that others use,
//! too, is fast or slow for minutes, and a round is the same minutes for both.

use std::collections::{BTreeMap, BTreeSet};

use super::Task;
use super::peers::Peer;
use super::table::{Contender, Goal, Line, Metric, Yardstick};

/// The middle one; of none, no number.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count => (sorted[count / 2] + sorted[(count - 1) / 2]) / 2.0,
    }
}

/// What was measured, and what could not be.
#[derive(Default)]
pub(super) struct Results {
    figures: BTreeMap<(Contender, Metric), Vec<f64>>,
    failures: BTreeMap<(Contender, &'static str), String>,
}

impl Results {
    pub(super) fn add(&mut self, contender: Contender, metric: Metric, value: f64) {
        self.figures.entry((contender, metric)).or_default().push(value);
    }

    /// It failed once, and what it did before does not count.
    pub(super) fn fail(&mut self, contender: Contender, task: &Task, error: &anyhow::Error) {
        self.failures.insert((contender, task.name), format!("{error:#}"));
        for metric in task.metrics {
            self.figures.remove(&(contender, *metric));
        }
    }

    /// It could not be mounted at all.
    pub(super) fn absent(&mut self, peer: Peer, error: &anyhow::Error) {
        self.failures.insert((Contender::Peer(peer), "all rows"), format!("{error:#}"));
    }

    pub(super) fn failed(&self, contender: Contender, task: &'static str) -> bool {
        self.failures.contains_key(&(contender, task))
    }

    fn get(&self, contender: Contender, metric: Metric) -> Option<f64> {
        self.figures.get(&(contender, metric)).map(|values| median(values))
    }

    /// How many times the yardstick's figure ours is, round by round.
    fn ratio(&self, ours: Metric, yardstick: (Contender, Metric)) -> Option<f64> {
        let (ours, theirs) = (self.figures.get(&(OURS, ours))?, self.figures.get(&yardstick)?);
        let ratios: Vec<_> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        Some(median(&ratios))
    }

    /// The best of these, and who that is.
    fn best(&self, contenders: &[Contender], line: &Line, metric: Metric) -> Option<(Contender, f64)> {
        let known =
            contenders.iter().filter_map(|contender| Some((*contender, self.get(*contender, metric)?)));
        known.max_by(|one, other| {
            let order = one.1.total_cmp(&other.1);
            if line.more_is_better { order } else { order.reverse() }
        })
    }
}

const OURS: Contender = Contender::Peer(Peer::FluidFuse);

/// A goal's yardstick.
struct Measure {
    name: String,
    value: f64,
    /// How many times as much ours is.
    ratio: Option<f64>,
}

/// How one goal stands.
struct Standing {
    text: String,
    reached: bool,
}

/// How a line is drawn: figures as shares of its limit, more of which is better.
pub(super) struct Shares {
    pub(super) ours: Option<f64>,
    pub(super) best_peer: Option<(Contender, f64)>,
    pub(super) goal: f64,
    /// The limit's name.
    pub(super) limit: String,
}

/// The lines and their figures.
pub(super) struct Report<'a> {
    lines: &'a [&'a Line],
    results: &'a Results,
    rounds: u64,
}

impl<'a> Report<'a> {
    pub(super) fn new(lines: &'a [&'a Line], results: &'a Results, rounds: u64) -> Self {
        Report { lines, results, rounds }
    }

    fn measure(&self, line: &Line, goal: &Goal) -> Option<Measure> {
        let measured = |name: String, contender: Contender, metric: Metric| {
            let (value, ratio) =
                (self.results.get(contender, metric)?, self.results.ratio(line.metric, (contender, metric)));
            Some(Measure { name, value, ratio })
        };
        match goal.yardstick {
            Yardstick::Fixed(value) => {
                let ratio = self.results.get(OURS, line.metric).map(|ours| ours / value);
                Some(Measure { name: figure(value), value, ratio })
            }
            Yardstick::Own(metric) => measured("its own sequential".into(), OURS, metric),
            Yardstick::Of(contenders, metric) => {
                let (contender, _) = self.results.best(contenders, line, metric)?;
                measured(contender.to_string(), contender, metric)
            }
        }
    }

    fn standing(&self, line: &Line, goal: &Goal) -> Option<Standing> {
        let ours = self.results.get(OURS, line.metric)?;
        let Measure { name, ratio, .. } = self.measure(line, goal)?;
        let ratio = ratio?;
        let sign = if line.more_is_better { "≥" } else { "≤" };
        let text = match goal.yardstick {
            Yardstick::Fixed(_) => format!("{} {} ({sign} {name})", figure(ours), line.unit),
            _ => format!("{} × {name} ({sign} {})", figure(ratio), goal.factor),
        };
        let reached = if line.more_is_better { ratio >= goal.factor } else { ratio <= goal.factor };
        Some(Standing { text, reached })
    }

    /// What a goal says of which the yardstick was not measured.
    fn unjudged(&self, line: &Line, goal: &Goal) -> Option<String> {
        self.results.get(OURS, line.metric)?;
        let Yardstick::Of(contenders, _) = goal.yardstick else { return None };
        let names: Vec<_> = contenders.iter().map(Contender::to_string).collect();
        Some(format!("{} not measured", names.join(", ")))
    }

    /// Whether all goals of the line that can be judged are reached.
    pub(super) fn reached(&self, line: &Line) -> Option<bool> {
        line.goals
            .iter()
            .filter_map(|goal| self.standing(line, goal))
            .map(|one| one.reached)
            .reduce(|a, b| a && b)
    }

    /// The lines that have goals.
    pub(super) fn judged(&self) -> impl Iterator<Item = &'a Line> + use<'a> {
        self.lines.iter().copied().filter(|line| !line.goals.is_empty())
    }

    fn best_peer(&self, line: &Line) -> Option<(Contender, f64)> {
        let peers: Vec<Contender> = self
            .contenders()
            .into_iter()
            .filter(|one| matches!(one, Contender::Peer(_)) && *one != OURS)
            .collect();
        self.results.best(&peers, line, line.metric)
    }

    fn contenders(&self) -> BTreeSet<Contender> {
        self.results.figures.keys().map(|(contender, _)| *contender).collect()
    }

    /// The line as it is drawn; none without its limit.
    pub(super) fn shares(&self, line: &Line) -> Option<Shares> {
        let goal = line.goals.first()?;
        let Measure { name, value: yardstick, ratio } = self.measure(line, goal)?;
        let limit = match goal.yardstick {
            Yardstick::Fixed(_) => format!("{name} {}", line.unit),
            _ => name,
        };
        let share = |ratio: f64| if line.more_is_better { ratio } else { 1.0 / ratio };
        Some(Shares {
            ours: ratio.map(share),
            best_peer: self.best_peer(line).map(|(peer, value)| (peer, share(value / yardstick))),
            goal: share(goal.factor),
            limit,
        })
    }

    /// The report as text, with its picture, if there is one beside it.
    pub(super) fn markdown(&self, picture: Option<&str>) -> String {
        let picture = picture.map(|name| format!("![Each row as a share of its limit]({name})\n\n"));
        let mut text = format!(
            "# fluid-fuse, its peers and the limits\n\n{}Medians of {} round{}, all in turns in one run; ratios are medians of the rounds' ratios. A: the endpoint \
             is as fast as the machine. B: 15 ms to the first byte, 90 MB/s per connection. direct: the same bytes \
             without FUSE; zeros: FUSE without bytes; raw: the source's own files. Endpoint, \
             sidecar and reader share the machine's processors: what keeps them busy is as fast as they are in that \
             minute, and direct over B, which waits for its 16 connections, is not.\n\n\
             | # | work | reached | fluid-fuse | times as good as the best peer |\n|---|---|---|---|---|\n",
            picture.unwrap_or_default(),
            self.rounds,
            if self.rounds == 1 { "" } else { "s" },
        );
        for line in self.judged() {
            let text_of = |goal| {
                let judged = self.standing(line, goal).map(|one| one.text);
                judged.or_else(|| self.unjudged(line, goal))
            };
            let goals: Vec<String> = line.goals.iter().filter_map(text_of).collect();
            let goals = if goals.is_empty() { "–".into() } else { goals.join("; ") };
            let reached = match self.reached(line) {
                Some(true) => "yes",
                Some(false) => "**no**",
                None => "–",
            };
            let ratio = |peer| self.results.ratio(line.metric, (peer, line.metric));
            let beside = match self.best_peer(line).map(|(peer, _)| (peer, ratio(peer))) {
                Some((peer, Some(ratio))) => {
                    let better = if line.more_is_better { ratio } else { 1.0 / ratio };
                    format!("{} ({peer})", figure(better))
                }
                Some((peer, None)) => peer.to_string(),
                None => "–".into(),
            };
            text += &format!("| {} | {} | {reached} | {goals} | {beside} |\n", line.row, line.work);
        }
        let contenders = self.contenders();
        text += "\n| # | work | unit |";
        contenders.iter().for_each(|contender| text += &format!(" {contender} |"));
        text += &format!("\n|---|---|---|{}\n", "---|".repeat(contenders.len()));
        for line in self.lines {
            text += &format!("| {} | {} | {} |", line.row, line.work, line.unit);
            for contender in &contenders {
                let value = self.results.get(*contender, line.metric);
                text += &format!(" {} |", value.map_or("–".into(), figure));
            }
            text.push('\n');
        }
        if !self.results.failures.is_empty() {
            text += "\nNot measured:\n\n";
            for ((contender, task), reason) in &self.results.failures {
                text += &format!("- {contender}, {task}: {reason}\n");
            }
        }
        text
    }
}

/// Three digits that count.
fn figure(value: f64) -> String {
    let places = match value.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        small if small >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.places$}")
}

#[cfg(test)]
mod tests {
    use super::super::peers::Peer;
    use super::super::table::{Contender, Metric, TABLE};
    use super::{OURS, Report, Results, median};

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn goals() {
        let lines: Vec<_> = TABLE
            .iter()
            .filter(|line| matches!(line.metric, Metric::SequentialA | Metric::BusyA | Metric::RandomCold))
            .collect();
        let mut results = Results::default();
        results.add(Contender::Zeros, Metric::SequentialA, 2000.0);
        results.add(Contender::Direct, Metric::RandomCold, 16.0);
        results.add(Contender::Peer(Peer::Rclone), Metric::RandomCold, 32.0);
        let none = Report::new(&lines, &results, 1);
        assert_eq!(none.reached(lines[0]), None);
        assert!(none.markdown(None).contains("| 1 | 1 GiB sequential, cold, A | – | – | – |"));

        results.add(OURS, Metric::SequentialA, 1400.0);
        results.add(OURS, Metric::BusyA, 99.0);
        results.add(OURS, Metric::RandomCold, 17.0);
        let report = Report::new(&lines, &results, 1);
        assert_eq!((report.reached(lines[0]), report.reached(lines[2])), (Some(true), Some(true)));
        assert!(report.markdown(None).contains("| yes | 0.700 × zeros (≥ 0.65); mount-s3 not measured; "));
        // What has no goal explains.
        assert_eq!(report.markdown(None).matches("busy meanwhile").count(), 1);
        let shares = report.shares(lines[2]).unwrap();
        assert!(shares.goal < 1.0 && shares.ours > Some(shares.goal));
        assert_eq!(shares.best_peer.map(|(_, share)| share), Some(0.5));

        // Rounds in which the machine is slow are slow for both.
        for (zeros, ours) in [(1000.0, 700.0), (900.0, 630.0)] {
            results.add(Contender::Zeros, Metric::SequentialA, zeros);
            results.add(OURS, Metric::SequentialA, ours);
        }
        assert!(Report::new(&lines, &results, 3).markdown(None).contains("| yes | 0.700 × zeros"));

        results.add(Contender::Peer(Peer::S3fs), Metric::SequentialA, 1000.0);
        assert_eq!(Report::new(&lines, &results, 3).reached(lines[0]), Some(false));
    }
}
