//! What does the Pod ask for its sidecars, by annotations, and may it?

use fluid_sidecar_layout::Named as _;
use serde_json::Value;
use wildmatch::WildMatch;

use crate::json::{at, elements, name_of};
use crate::reason::{Code, POLICY, Reason};
use crate::request::{Entries, PodGlance, Texts};
use crate::settings::text::{LIMIT, check_unit, quantity};
use crate::settings::{PodResource, Settings, entry_of};

/// Has Fluid add a container that reads files into the cache before the application does.
const PREFETCH: &str = "file-prefetcher.fluid.io/inject";

/// The limits that the Pod asks for, if the administrator lets it.
pub fn limits(annotations: Texts<'_>, settings: &Settings) -> Result<Entries, Reason> {
    let mut limits = Entries::new();
    for resource in PodResource::ALL {
        let key = format!("{POLICY}/{resource}");
        let Some(asked) = annotations.get(&key) else { continue };
        let refuse = |why: String| Err(Reason::new(Code::Unsupported, format!("annotation {key}: {why}")));
        if let Err(error) = (LIMIT.check)(asked).and_then(|()| check_unit(resource.name(), asked)) {
            return refuse(error.to_string());
        }
        match entry_of(&settings.pod_overrides, *resource) {
            None => {
                return refuse(format!(
                    "the policy's settings allow none; they need podOverrides.{resource}"
                ));
            }
            Some(most) if quantity(most) < quantity(asked) => {
                return refuse(format!(
                    "{asked} is more than the {most} that podOverrides.{resource} allows"
                ));
            }
            Some(_) => drop(limits.insert(resource.to_string(), asked.to_string())),
        }
    }
    Ok(limits)
}

/// Names init containers that mount a Dataset and need none of its files.
pub const WITHOUT_DATA: &str = "fluid-sidecar-policy/init-containers-without-data";

/// The init containers that need no data: those that the Pod names, and those of the settings.
pub struct WithoutData<'s> {
    named: Vec<String>,
    settings: &'s Settings,
}

impl<'s> WithoutData<'s> {
    /// What a Pod and the settings say.
    pub fn of(pod: &Value, settings: &'s Settings) -> Self {
        let annotation = at(pod, &["metadata", "annotations", WITHOUT_DATA]).as_str().unwrap_or_default();
        WithoutData { named: annotation.split(',').map(|name| name.trim().to_string()).collect(), settings }
    }

    /// Whether a container is one of them.
    pub fn has(&self, container: &Value) -> bool {
        let name = name_of(container).unwrap_or_default();
        let words = ["command", "args"].into_iter().flat_map(|list| elements(container.get(list)));
        let command: Vec<_> = words.filter_map(Value::as_str).collect();
        let command = command.join(" ");
        self.named.iter().any(|named| !named.is_empty() && named == name)
            || self.settings.init_containers_without_data.iter().any(|pattern| {
                WildMatch::new(pattern).matches(if pattern.contains(' ') { &command } else { name })
            })
    }
}

/// What is asked of Fluid and not done here.
pub fn ignored(annotations: Texts<'_>) -> Option<Reason> {
    let asked = annotations.get(PREFETCH) == Some("true");
    asked.then(|| {
        Reason::new(Code::Ignored, format!("annotation {PREFETCH} is ignored: nothing prefetches files"))
    })
}

/// The same of Pods that mount nothing: HEAD of Fluid tells them by variables where the Runtimes of Datasets are.
pub fn ignored_configuration(pod: &PodGlance<'_>) -> Option<Reason> {
    let (inject, datasets) = ("fluid.io/inject", "fluid.io/datasets");
    let asked = pod.labels.get(inject).map(|_| inject).or(pod.annotations.get(datasets).map(|_| datasets))?;
    let text = format!("{asked} is ignored: no configuration of Datasets is injected; mount their claims");
    Some(Reason::new(Code::Ignored, text))
}
