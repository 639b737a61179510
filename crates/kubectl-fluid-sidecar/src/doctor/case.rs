//! What the checks ask of the evidence.

use serde_json::{Value, json};

use fluid_sidecar_policy::reason::{Code, one_line};
use fluid_sidecar_policy::status::{Status, undo};

use super::admission::{Policy, Verdict};
use super::evidence::{Evidence, event_time, list, text};
use super::gather::container_status;

/// The most characters of a quotation: a message of kubelet's or of the sidecar's is shorter, and the rest of a longer one
/// says nothing.
const LONGEST_QUOTE: usize = 500;
/// Seconds for which the API server keeps events.
const EVENTS_LIVE: i64 = 3600;

/// A piece of evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Where it stands: a field, an event, a log.
    pub source: String,
    /// What stands there.
    pub text: String,
}

/// A quotation, in one line that shows as it is.
pub fn quote(source: impl Into<String>, text: &str) -> Quote {
    let mut shown: String = one_line(text.trim().to_string()).chars().take(LONGEST_QUOTE).collect();
    if shown.len() < text.trim().len() && !shown.ends_with('…') && shown.chars().count() == LONGEST_QUOTE {
        shown.push('…');
    }
    Quote { source: one_line(source.into()), text: shown }
}

/// A container of the Pod.
#[derive(Clone, Copy)]
pub struct Container<'e> {
    /// Its name.
    pub name: &'e str,
    /// Its entry in the Pod's spec.
    pub spec: &'e Value,
    /// Its status; `null` if there is none yet.
    pub status: &'e Value,
    /// Whether it is an init container that goes on (a native sidecar).
    pub is_native: bool,
}

impl<'e> Container<'e> {
    /// Why it waits, and kubelet's words for it.
    pub fn waits(&self) -> Option<(&'e str, &'e str)> {
        let waiting = self.status.pointer("/state/waiting")?;
        Some((text(waiting, "/reason"), text(waiting, "/message")))
    }

    /// How it ended the last time, with the field that says so.
    pub fn last_end(&self) -> Option<(&'static str, &'e Value)> {
        let fields =
            [("state.terminated", "/state/terminated"), ("lastState.terminated", "/lastState/terminated")];
        fields.iter().find_map(|(name, path)| Some((*name, self.status.pointer(path)?)))
    }

    /// Since when it runs.
    pub fn runs_since(&self) -> Option<&'e str> {
        self.status.pointer("/state/running").map(|running| text(running, "/startedAt"))
    }

    /// Whether it runs and serves. While the hook of its gate runs, kubelet does not say that it runs.
    pub fn is_well(&self) -> bool {
        self.runs_since().is_some() && self.status.get("ready") == Some(&Value::Bool(true))
    }

    /// How often it was started again.
    pub fn restarts(&self) -> i64 {
        self.status.get("restartCount").and_then(Value::as_i64).unwrap_or_default()
    }

    /// The limit of a resource.
    pub fn limit(&self, resource: &str) -> Option<&'e str> {
        self.spec.pointer("/resources/limits")?.get(resource)?.as_str()
    }

    /// A quotation from its status.
    pub fn quote(&self, field: &str, value: &str) -> Quote {
        quote(format!("container {}, {field}", self.name), value)
    }
}

/// The evidence, as the checks need it.
pub struct Case<'e> {
    /// All of it.
    pub evidence: &'e Evidence,
    /// The Pod, if there is one.
    pub pod: Option<&'e Value>,
    /// What the policy has written on it.
    pub status: Option<Status>,
    /// The containers that the policy has added, as far as they are there.
    pub sidecars: Vec<Container<'e>>,
    /// The owner's containers that are no init containers.
    pub applications: Vec<Container<'e>>,
    /// The policies of this project that change Pods.
    pub policies: Vec<Policy<'e>>,
    /// Why the Pod has no sidecar: the code of a diagnosis, and what shows it.
    pub uninjected: Option<(&'static str, Found)>,
}

/// What a check has found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What is wrong, in one sentence.
    pub sentence: String,
    /// What shows it.
    pub quotes: Vec<Quote>,
    /// The container that it is about.
    pub container: String,
}

impl Found {
    /// Of the Pod as a whole.
    pub fn new(sentence: impl Into<String>, quotes: Vec<Quote>) -> Found {
        Found { sentence: one_line(sentence.into()), quotes, container: String::new() }
    }

    /// Of one container.
    pub fn of(container: &Container<'_>, sentence: impl Into<String>, quotes: Vec<Quote>) -> Found {
        Found { container: one_line(container.name.into()), ..Found::new(sentence, quotes) }
    }
}

impl<'e> Case<'e> {
    /// Looks at the evidence.
    pub fn new(evidence: &'e Evidence) -> Case<'e> {
        let pod = evidence.of_kind("Pod").next();
        let status = pod.and_then(|pod| Status::of(pod).ok().flatten());
        let (mut sidecars, mut applications) = (Vec::new(), Vec::new());
        for path in ["/spec/initContainers", "/spec/containers"] {
            for spec in pod.map(|pod| list(pod, path)).unwrap_or_default() {
                let name = text(spec, "/name");
                let found = pod.and_then(|pod| container_status(pod, name)).unwrap_or(&Value::Null);
                let is_native = path == "/spec/initContainers";
                let container = Container { name, spec, status: found, is_native };
                let is_sidecar = status.iter().flat_map(|it| &it.sidecars).any(|it| it.container == name);
                match (is_sidecar, is_native) {
                    (true, _) => sidecars.push(container),
                    (false, false) => applications.push(container),
                    (false, true) => {}
                }
            }
        }
        let policies = Policy::all(evidence);
        let mut case = Case { evidence, pod, status, sidecars, applications, policies, uninjected: None };
        case.uninjected = case.why_uninjected();
        case
    }

    /// The sidecars for the same Dataset: the first of them mounts, and if there are two, it holds the mount while the other
    /// one, the worker, comes and goes.
    fn same_dataset(&self, sidecar: &Container<'_>) -> impl Iterator<Item = &str> {
        let sidecars = || self.status.iter().flat_map(|status| &status.sidecars);
        let dataset = sidecars().find(|it| it.container == sidecar.name).map(|it| &it.dataset);
        sidecars().filter(move |it| Some(&it.dataset) == dataset).map(|it| it.container.as_str())
    }

    /// Whether another container holds the mount of this one, so that the application waits while this one is away.
    pub fn has_holder(&self, sidecar: &Container<'_>) -> bool {
        self.same_dataset(sidecar).next().is_some_and(|first| first != sidecar.name)
    }

    /// Whether this container holds the mount for another one.
    pub fn is_holder(&self, sidecar: &Container<'_>) -> bool {
        !self.has_holder(sidecar) && self.same_dataset(sidecar).nth(1).is_some()
    }

    /// Events of the Pod with this reason, the newest last.
    pub fn pod_events(&self, reason: &str) -> Vec<&'e Value> {
        let Some(pod) = self.pod else { return Vec::new() };
        let mut events = self.evidence.events("Pod", text(pod, "/metadata/name"));
        let uid = text(pod, "/metadata/uid");
        events.retain(|event| {
            // Of the name there may have been another Pod.
            text(event, "/reason") == reason
                && matches!(text(event, "/involvedObject/uid"), it if it == uid || it.is_empty())
        });
        events
    }

    /// Why an owner could not make a Pod, the last time that it tried, if no Pod has come since.
    pub fn failed_create(&self) -> Option<(String, &'e str)> {
        let made = self.pod.map_or("", |pod| text(pod, "/metadata/creationTimestamp"));
        let owners = self.evidence.objects.iter().filter(|it| !matches!(text(it, "/kind"), "Pod" | "Event"));
        let events =
            owners.flat_map(|it| self.evidence.events(text(it, "/kind"), text(it, "/metadata/name")));
        let failed = events.filter(|event| text(event, "/reason") == "FailedCreate");
        let last = failed.max_by_key(|event| event_time(event))?;
        let object = format!(
            "event FailedCreate of {} {}",
            text(last, "/involvedObject/kind"),
            text(last, "/involvedObject/name")
        );
        (made.is_empty() || made < event_time(last).as_str()).then(|| (object, text(last, "/message")))
    }

    /// What a sidecar has said: its termination messages, then the lines of its logs, the newest first. Of one that is well
    /// only what it says itself counts: the faults of those before it are over.
    pub fn said(&self, sidecar: &Container<'e>) -> Vec<(String, &'e str)> {
        let mut said = Vec::new();
        let is_well = sidecar.is_well();
        for (field, path) in
            [("state", "/state/terminated/message"), ("lastState", "/lastState/terminated/message")]
        {
            let message = text(sidecar.status, path);
            if !message.is_empty() && !is_well {
                said.push((format!("container {}, {field}.terminated.message", sidecar.name), message));
            }
        }
        for previous in [false, true] {
            let log = self.evidence.logs.get(&(sidecar.name.to_string(), previous));
            if let Some(log) = log.filter(|_| !previous || !is_well) {
                let option = if previous { " --previous" } else { "" };
                let source = format!("log of container {}{option}", sidecar.name);
                said.extend(log.lines().rev().map(|line| (source.clone(), line)));
            }
        }
        said
    }

    /// The first thing that a sidecar has said with these words, or with others.
    pub fn says(&self, words: &[&str]) -> Option<(Container<'e>, Quote)> {
        self.sidecars.iter().find_map(|sidecar| {
            let said = self.said(sidecar);
            let (source, line) = said.iter().find(|(_, line)| words.iter().any(|it| line.contains(it)))?;
            Some((*sidecar, quote(source.clone(), line)))
        })
    }

    /// The same in what the running container has logged, if none of the words that take it back came later.
    pub fn says_now(&self, words: &[&str], taken_back: &[&str]) -> Option<(Container<'e>, Quote)> {
        self.sidecars.iter().find_map(|sidecar| {
            let log = self.evidence.logs.get(&(sidecar.name.to_string(), false))?;
            let has = |line: &str, words: &[&str]| words.iter().any(|it| line.contains(it));
            let said = log.lines().rev().find(|line| has(line, words) || has(line, taken_back))?;
            has(said, words).then(|| (*sidecar, quote(format!("log of container {}", sidecar.name), said)))
        })
    }

    /// The claims that the Pod mounts.
    pub fn claims(&self) -> Vec<&'e str> {
        let volumes = self.pod.map(|pod| list(pod, "/spec/volumes")).unwrap_or_default();
        let names = volumes.iter().map(|volume| text(volume, "/persistentVolumeClaim/claimName"));
        names.filter(|name| !name.is_empty()).collect()
    }

    /// The Pod as the API server showed it to the policy: without the scheduler's choice of a node.
    fn as_created(&self) -> Option<Value> {
        let mut pod = self.pod?.clone();
        let is_old =
            self.evidence.age(text(&pod, "/metadata/creationTimestamp")).is_none_or(|age| age >= EVENTS_LIVE);
        if is_old || !self.pod_events("Scheduled").is_empty() {
            pod.get_mut("spec").and_then(Value::as_object_mut).map(|spec| spec.remove("nodeName"));
        }
        pod.as_object_mut().map(|pod| pod.remove("status"));
        Some(pod)
    }

    fn namespace(&self) -> &'e Value {
        self.evidence.object("Namespace", &self.evidence.asked.namespace).unwrap_or(&Value::Null)
    }

    /// The policies whose webhooks are called for the Pod, as it was before they changed it.
    pub fn asked(&self) -> Vec<&Policy<'e>> {
        let Some(mut pod) = self.pod.cloned() else { return Vec::new() };
        if let Some(status) = &self.status {
            undo(status, &mut pod);
        }
        let is_asked = |policy: &&Policy<'_>| {
            policy.webhook.is_some() && policy.spares(&pod, self.namespace()).is_none()
        };
        self.policies.iter().filter(is_asked).collect()
    }

    /// Events of what the Pod waits for when Fluid's CSI driver is to mount the claim.
    fn driver_events(&self) -> Vec<Quote> {
        let attach = self.pod_events("FailedAttachVolume");
        let events = attach.into_iter().chain(self.pod_events("FailedMount"));
        events.last().map(pod_event).into_iter().collect()
    }

    /// Why a Pod with claims has no sidecar. First come the reasons of the policy, then those of the API server.
    fn why_uninjected(&self) -> Option<(&'static str, Found)> {
        let pod = self.as_created().filter(|_| self.status.is_none())?;
        let claims = self.claims();
        let name = text(&pod, "/metadata/name");
        if claims.is_empty() {
            let found = Found::new(
                "The Pod mounts no claim, so there is no Dataset to serve.",
                vec![quote("spec.volumes", "no persistentVolumeClaim")],
            );
            return Some(("no-claim", found));
        }
        // By their rules; some may have no webhook.
        let concerned: Vec<_> =
            self.policies.iter().filter(|it| it.spares(&pod, self.namespace()).is_none()).collect();
        let known: Vec<Value> = concerned.iter().filter_map(|policy| policy.settings()).collect();
        let all: Vec<Value> = self.policies.iter().filter_map(Policy::settings).collect();
        let settings = match (known.is_empty(), all.is_empty()) {
            (false, _) => known,
            (true, false) => all,
            (true, true) => vec![json!({})],
        };
        let verdicts = || settings.iter().map(|settings| Verdict::of(self.evidence, &pod, settings));
        // A policy for other nodes has nothing to say of the Pod while another one has.
        let is_meant = |verdict: &Verdict| verdict.because(&[Code::NotServerless]).is_none();
        let verdict = verdicts().find(|verdict| verdict.injects);
        let verdict = verdict.or_else(|| verdicts().find(is_meant)).or_else(|| verdicts().next())?;
        let policy_says = |text: &str| {
            let mut quotes = vec![quote("the policy says", text)];
            quotes.extend(self.driver_events());
            quotes
        };
        let reasons: [(&str, &[Code], &str); 6] = [
            ("opted-out", &[Code::OptedOut], "The Pod asks the policy to leave it alone."),
            ("exempt", &[Code::Exempt], "The policy leaves Pods of this kind alone."),
            (
                "unresolved",
                &[Code::Unresolved, Code::Unsupported, Code::Malformed],
                "The policy cannot serve a Dataset of the Pod.",
            ),
            (
                "undecidable",
                &[Code::Undecidable],
                "Nothing makes certain that the Pod goes to a serverless node, so it got no sidecar.",
            ),
            (
                "not-a-dataset",
                &[Code::OrdinaryClaim],
                "No claim of the Pod is a Dataset's, so there is nothing to serve.",
            ),
            (
                "not-serverless",
                &[Code::NotServerless],
                "The policy takes the Pod for one that goes to an ordinary node, and gives it no sidecar.",
            ),
        ];
        if !verdict.injects {
            // Where the Pod goes is no matter if there is nothing to serve there.
            let is_dataset = |claim: &&str| self.is_dataset(claim);
            if !claims.iter().any(is_dataset) && claims.iter().all(|it| self.claim(it).is_some()) {
                let claim = format!("PersistentVolumeClaim {}", claims.join(", "));
                let quotes = vec![quote(
                    claim,
                    "no label fluid.io/s-NAMESPACE-DATASET, which Fluid gives to the claims of Datasets",
                )];
                return Some(("not-a-dataset", Found::new(reasons[4].2, quotes)));
            }
            for (code, codes, sentence) in reasons {
                if let Some(text) = verdict.because(codes) {
                    // To the policy what could not be read here is not there.
                    if code == "unresolved" && !self.evidence.unread.is_empty() {
                        return None;
                    }
                    return Some((code, Found::new(sentence, policy_says(text))));
                }
            }
            return None;
        }
        // What follows is found by exclusion, so nothing may be hidden.
        if !self.evidence.unread.is_empty() {
            return None;
        }
        if self.policies.is_empty() {
            let quotes =
                vec![quote("kubectl get mutatingwebhookconfigurations", "no webhook of this policy")];
            return Some(("no-policy", Found::new("The policy is not installed.", quotes)));
        }
        if let Some((policy, inactive)) = concerned.iter().find_map(|it| Some((it, it.inactive()?))) {
            let sentence = format!("The policy {} is not active.", policy.name);
            return Some(("policy-not-active", Found::new(sentence, vec![quote(policy.name, &inactive)])));
        }
        let asked = self.asked();
        if asked.is_empty() {
            let spared = |policy: &Policy<'_>| {
                let spared = policy.spares(&pod, self.namespace())?;
                Some(quote(format!("webhook {}, {}", policy.name, spared.field), &spared.value))
            };
            let mut quotes: Vec<_> = self.policies.iter().filter_map(spared).collect();
            // That of one policy is enough to see how it is meant.
            quotes.truncate(3);
            quotes.extend(self.driver_events());
            return Some((
                "not-asked",
                Found::new("The API server does not ask the policy about this Pod.", quotes),
            ));
        }
        let made = text(&pod, "/metadata/creationTimestamp");
        if let Some(policy) = asked.iter().find(|policy| policy.since > made) {
            let quotes = vec![
                quote(format!("Pod {name}, metadata.creationTimestamp"), made),
                quote(format!("webhook {}, metadata.creationTimestamp", policy.name), policy.since),
            ];
            return Some(("older-than-policy", Found::new("The Pod is older than the policy.", quotes)));
        }
        let mut quotes: Vec<_> = asked
            .iter()
            .map(|policy| {
                let fails = policy.webhook.map_or("", |webhook| text(webhook, "/failurePolicy"));
                quote(format!("webhook {}, failurePolicy", policy.name), fails)
            })
            .collect();
        quotes.truncate(3);
        quotes.extend(self.driver_events());
        let sentence = "The policy would give the Pod a sidecar, but did not answer when it was created.";
        Some(("no-answer", Found::new(sentence, quotes)))
    }

    /// A claim.
    pub fn claim(&self, name: &str) -> Option<&'e Value> {
        self.evidence.object("PersistentVolumeClaim", name)
    }

    /// Whether a claim is a Dataset's, as far as its labels tell.
    fn is_dataset(&self, name: &str) -> bool {
        let labels = self.claim(name).and_then(|claim| claim.pointer("/metadata/labels")?.as_object());
        let is_fluids = |key: &String| {
            key.starts_with("fluid.io/s-") || key == "fluid.io/managed-by" || key == "fluid.io/wrapped-by"
        };
        labels.is_some_and(|labels| labels.keys().any(is_fluids))
    }
}

/// An event of the Pod, quoted.
pub fn pod_event(event: &Value) -> Quote {
    quote(format!("event {} of the Pod", text(event, "/reason")), text(event, "/message"))
}
