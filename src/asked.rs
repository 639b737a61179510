//! What does the Pod ask for its sidecars, by annotations, and may it?

use fluid_sidecar_layout::Named as _;

use crate::reason::{Code, POLICY, Reason};
use crate::request::{Entries, Texts};
use crate::settings::text::quantity;
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
        let Some(amount) = quantity(asked) else {
            return refuse(format!("{asked:?} is no quantity; expected one like 500m, 2 or 4Gi"));
        };
        match entry_of(&settings.pod_overrides, *resource) {
            None => {
                return refuse(format!(
                    "the policy's settings allow none; they need podOverrides.{resource}"
                ));
            }
            Some(most) if quantity(most) < Some(amount) => {
                return refuse(format!(
                    "{asked} is more than the {most} that podOverrides.{resource} allows"
                ));
            }
            Some(_) => drop(limits.insert(resource.to_string(), asked.to_string())),
        }
    }
    Ok(limits)
}

/// What is asked of Fluid and not done here.
pub fn ignored(annotations: Texts<'_>) -> Option<Reason> {
    let asked = annotations.get(PREFETCH) == Some("true");
    asked.then(|| {
        Reason::new(Code::Ignored, format!("annotation {PREFETCH} is ignored: nothing prefetches files"))
    })
}
