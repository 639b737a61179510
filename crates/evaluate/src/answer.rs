//! What the API server would receive: the policy's answer turned into an AdmissionResponse, as policy-server
//! does it.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::engine::{Host, Policy};
use crate::input::Request;

/// The policy's answer to `validate`.
#[derive(Clone, Debug, Deserialize)]
pub struct Answer {
    /// Whether the request is allowed.
    pub accepted: bool,
    /// Why not.
    pub message: Option<String>,
    /// HTTP status of a rejection.
    pub code: Option<u16>,
    /// The object as it shall be; absent when it shall stay as it is.
    pub mutated_object: Option<Value>,
    /// For the audit log.
    #[serde(default)]
    pub audit_annotations: Option<Map<String, Value>>,
    /// For the user.
    #[serde(default)]
    pub warnings: Option<Vec<String>>,
}

impl Answer {
    /// Asks the policy. Settings that it refuses are an error with all their problems.
    pub fn ask(policy: &Policy, request: &Request, settings: &Value, host: &Host) -> Result<Answer> {
        #[derive(Deserialize)]
        struct Checked {
            valid: bool,
            message: Option<String>,
        }
        let checked = policy.call("validate_settings", &serde_json::to_vec(settings)?, host)?;
        let checked: Checked = serde_json::from_slice(&checked).context("the answer to validate_settings")?;
        if !checked.valid {
            bail!("the settings are not valid:\n{}", checked.message.unwrap_or_default());
        }
        let payload = json!({"request": request.admission, "settings": settings});
        let answer = policy.call("validate", &serde_json::to_vec(&payload)?, host)?;
        serde_json::from_slice(&answer).context("the answer to validate")
    }

    /// The object after admission.
    pub fn object<'a>(&'a self, request: &'a Request) -> &'a Value {
        self.mutated_object.as_ref().unwrap_or(request.object())
    }

    /// The RFC 6902 patch that policy-server makes of it; empty when nothing changes.
    pub fn patch(&self, request: &Request) -> json_patch::Patch {
        json_patch::diff(request.object(), self.object(request))
    }

    /// The AdmissionResponse, with its patch as JSON where the API server gets it in base64.
    pub fn response(&self, request: &Request) -> Value {
        let mut response = json!({
            "uid": request.admission.get("uid").cloned().unwrap_or_default(),
            "allowed": self.accepted,
        });
        if self.mutated_object.is_some() && self.accepted {
            response["patchType"] = "JSONPatch".into();
            response["patch"] = json!(self.patch(request));
        }
        if !self.accepted {
            response["status"] = json!({"message": self.message, "code": self.code});
        }
        if let Some(annotations) = &self.audit_annotations {
            response["auditAnnotations"] = json!(annotations);
        }
        if let Some(warnings) = &self.warnings {
            response["warnings"] = json!(warnings);
        }
        response
    }
}
