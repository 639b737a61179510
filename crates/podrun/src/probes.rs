//! What the results of a container's probes mean: that it has started up, is ready, or must be ended.
//!
//! Pure: it is told the time and the results, and says which probe is due. Like kubelet it runs no other probe
//! before the startup probe has succeeded, and counts failures in a row. It does not know how a probe is run.

use std::time::{Duration, Instant};

use crate::pod::{Container, Probe};

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `startupProbe`.
    Startup,
    /// `livenessProbe`.
    Liveness,
    /// `readinessProbe`.
    Readiness,
}

impl Kind {
    /// The name of its field.
    pub fn field(self) -> &'static str {
        match self {
            Kind::Startup => "startupProbe",
            Kind::Liveness => "livenessProbe",
            Kind::Readiness => "readinessProbe",
        }
    }

    /// Why its failure ends a container.
    fn reason(self) -> Option<&'static str> {
        match self {
            Kind::Startup => Some("its startup probe failed"),
            Kind::Liveness => Some("its liveness probe failed"),
            Kind::Readiness => None,
        }
    }
}

/// What follows from a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the result is worth an event.
    pub tell: bool,
    /// That the container must end.
    pub condemned: Option<Condemned>,
}

/// Why a container must end, and how long it may take if the probe says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are named for what they hold")]
pub struct Condemned {
    pub reason: &'static str,
    pub grace: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Prober<'a> {
    kind: Kind,
    probe: &'a Probe,
    /// None while it runs, and where nothing more is to be asked.
    next: Option<Instant>,
    running: bool,
    last: Option<bool>,
    /// How many results like the last came in a row.
    row: i32,
    passed: bool,
}

/// The probes of one run of a container; none when it does not run.
#[derive(Clone, Debug, Default)]
pub struct Probers<'a>(Vec<Prober<'a>>);

impl<'a> Probers<'a> {
    /// Probes of a container that started at that time.
    pub fn new(container: &'a Container, started: Instant) -> Self {
        let probes = [
            (Kind::Startup, &container.startup_probe),
            (Kind::Liveness, &container.liveness_probe),
            (Kind::Readiness, &container.readiness_probe),
        ];
        let prober = |(kind, probe): (Kind, &'a Option<Probe>)| {
            let probe = probe.as_ref()?;
            let next = Some(started + probe.initial_delay);
            Some(Prober { kind, probe, next, running: false, last: None, row: 0, passed: false })
        };
        Probers(probes.into_iter().filter_map(prober).collect())
    }

    /// Whether the startup probe, if there is one, has succeeded.
    pub fn started_up(&self) -> bool {
        self.passed(Kind::Startup)
    }

    /// Whether the readiness probe, if there is one, succeeds.
    pub fn ready(&self) -> bool {
        self.started_up() && self.passed(Kind::Readiness)
    }

    fn passed(&self, kind: Kind) -> bool {
        self.0.iter().all(|prober| prober.kind != kind || prober.passed)
    }

    /// When the next probe is due.
    pub fn due(&self) -> Option<Instant> {
        let started_up = self.started_up();
        let may = self.0.iter().filter(|prober| started_up || prober.kind == Kind::Startup);
        may.filter_map(|prober| prober.next).min()
    }

    /// The probe that is due; it counts as running until its result comes.
    pub fn take_due(&mut self, now: Instant) -> Option<(Kind, &'a Probe)> {
        let due = self.due().filter(|due| *due <= now)?;
        let started_up = self.started_up();
        let mut may = self.0.iter_mut().filter(|prober| started_up || prober.kind == Kind::Startup);
        let prober = may.find(|prober| prober.next == Some(due))?;
        (prober.next, prober.running) = (None, true);
        Some((prober.kind, prober.probe))
    }

    /// Takes the result of the probe whose field has this name. None if it is not one that runs.
    pub fn result(&mut self, field: &str, success: bool, now: Instant) -> Option<Verdict> {
        let prober = self.0.iter_mut().find(|prober| prober.kind.field() == field && prober.running)?;
        let (kind, probe) = (prober.kind, prober.probe);
        let changed = prober.last != Some(success);
        prober.row = if changed { 1 } else { prober.row.saturating_add(1) };
        (prober.last, prober.running) = (Some(success), false);
        let settled = prober.row >= if success { probe.success_threshold } else { probe.failure_threshold };
        if settled {
            prober.passed = success;
        }
        let reason = kind.reason().filter(|_| settled && !success);
        let condemned = reason.map(|reason| Condemned { reason, grace: probe.grace });
        let over = condemned.is_some() || kind == Kind::Startup && prober.passed;
        prober.next = (!over).then(|| now + probe.period);
        let tell = changed || kind == Kind::Startup || kind == Kind::Liveness && !success;
        Some(Verdict { tell, condemned })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn container(probes: Value) -> Container {
        let mut app = json!({"name": "app"});
        app.as_object_mut().unwrap().extend(probes.as_object().unwrap().clone());
        crate::pod::tests::plan(json!({"containers": [app]})).unwrap().containers.remove(0)
    }

    fn probe(fields: Value) -> Value {
        let mut probe = json!({"exec": {"command": ["true"]}});
        probe.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        probe
    }

    #[test]
    fn failures_in_a_row_condemn() {
        let container = container(json!({"livenessProbe": probe(json!({"failureThreshold": 2}))}));
        let now = Instant::now();
        let mut probers = Probers::new(&container, now);
        let mut results = Vec::new();
        for success in [true, true, false, true, false, false] {
            let later = probers.due().unwrap();
            probers.take_due(later).unwrap();
            let verdict = probers.result("livenessProbe", success, later).unwrap();
            results.push((verdict.tell, verdict.condemned.is_some()));
        }
        let (silent, told, condemned) = ((false, false), (true, false), (true, true));
        assert_eq!(results, [told, silent, told, told, told, condemned]);
        assert_eq!(probers.due(), None);
    }

    #[test]
    fn nothing_is_asked_before_the_start_up() {
        let probes = json!({
            "startupProbe": probe(json!({"periodSeconds": 3})),
            "livenessProbe": probe(json!({"initialDelaySeconds": 1})),
        });
        let (container, now) = (container(probes), Instant::now());
        let mut probers = Probers::new(&container, now);
        assert_eq!(probers.take_due(now).unwrap().0, Kind::Startup);
        assert!(probers.take_due(now + Duration::from_secs(9)).is_none());
        assert!(probers.result("livenessProbe", true, now).is_none());
        probers.result("startupProbe", false, now).unwrap();
        assert_eq!(probers.due(), Some(now + Duration::from_secs(3)));
        probers.take_due(now + Duration::from_secs(3)).unwrap();
        probers.result("startupProbe", true, now + Duration::from_secs(3)).unwrap();
        assert!(probers.started_up());
        assert_eq!(probers.take_due(now + Duration::from_secs(3)).unwrap().0, Kind::Liveness);
    }

    #[test]
    fn readiness_comes_and_goes() {
        let probe = probe(json!({"successThreshold": 2, "failureThreshold": 1}));
        let container = container(json!({"readinessProbe": probe}));
        let mut probers = Probers::new(&container, Instant::now());
        let ready = [true, true, false, true].map(|success| {
            let later = probers.due().unwrap();
            probers.take_due(later).unwrap();
            assert_eq!(probers.result("readinessProbe", success, later).unwrap().condemned, None);
            probers.ready()
        });
        assert_eq!(ready, [false, true, false, false]);
    }
}
