//! What the API server would receive: the policy's answer turned into an AdmissionResponse, as policy-server
//! does it.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::engine::{Host, Policy, no_reads};
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

/// Asks the policy whether it can work with these settings; if not, the error has all their problems.
pub fn check_settings(policy: &Policy, settings: &Value) -> Result<()> {
    match answer_to_settings(policy, settings)? {
        Some(message) => bail!("the settings are not valid:\n{message}"),
        None => Ok(()),
    }
}

/// The problems of settings, each with the path of its field, as in `mountRoot: must be absolute`.
pub fn settings_problems(policy: &Policy, settings: &Value) -> Result<Vec<String>> {
    let message = answer_to_settings(policy, settings)?.unwrap_or_default();
    // Before a problem stands whose it is.
    let problem = |line: &str| line.split_once(": ").map_or(line, |(_, problem)| problem).to_string();
    // `(mode: verify)` is a part of the name.
    Ok(message.lines().map(|line| problem(&line.replacen(" (mode: verify)", "", 1))).collect())
}

/// `None`: they are valid.
fn answer_to_settings(policy: &Policy, settings: &Value) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct Checked {
        valid: bool,
        message: Option<String>,
    }
    let checked = policy.call("validate_settings", &serde_json::to_vec(settings)?, &no_reads())?;
    let checked: Checked = serde_json::from_slice(&checked).context("the answer to validate_settings")?;
    Ok((!checked.valid).then(|| checked.message.unwrap_or_default()))
}

impl Answer {
    /// Asks the policy.
    pub fn ask(policy: &Policy, request: &Request, settings: &Value, host: &Host) -> Result<Answer> {
        let payload = json!({"request": request.admission, "settings": settings});
        let answer = policy.call("validate", &serde_json::to_vec(&payload)?, host)?;
        serde_json::from_slice(&answer).context("the answer to validate")
    }

    /// The reasons, each `<code>: <sentence>`.
    pub fn reasons(&self) -> impl Iterator<Item = &str> {
        let annotations = self.audit_annotations.iter().flatten();
        let reasons =
            annotations.filter(|(key, _)| *key == "reasons").filter_map(|(_, value)| value.as_str());
        reasons.flat_map(str::lines)
    }

    /// A rejection that is not the policy's.
    pub fn rejection(message: String, code: Option<u16>) -> Answer {
        Answer {
            accepted: false,
            message: Some(message),
            code,
            mutated_object: None,
            audit_annotations: None,
            warnings: None,
        }
    }

    /// What becomes of the answer where mutations are not allowed, for this policy or for this request.
    pub fn constrained(self, request: &Request, mutating: bool) -> Answer {
        if self.mutated_object.is_none() {
            return self;
        }
        if request.object().is_null() {
            let text = "Incoming object is null, which happens only with DELETE operations, but the policy is \
                        attempting a mutation. This is not allowed";
            return Answer::rejection(text.into(), None);
        }
        if !mutating && !self.patch(request).is_empty() {
            let text = "The policy attempted to mutate the request, but it is currently configured to not allow \
                        mutations.";
            return Answer {
                accepted: false,
                message: Some(text.into()),
                code: None,
                mutated_object: None,
                ..self
            };
        }
        self
    }

    /// The object after admission.
    pub fn object<'a>(&'a self, request: &'a Request) -> &'a Value {
        self.mutated_object.as_ref().unwrap_or(request.object())
    }

    /// The RFC 6902 patch that policy-server makes of it; empty when nothing changes.
    pub fn patch(&self, request: &Request) -> json_patch::Patch {
        json_patch::diff(request.object(), self.object(request))
    }

    /// The AdmissionResponse, field by field as policy-server writes it, but for the patch, which is JSON here and
    /// base64 there. `auditAnnotations` and `warnings` are `null` where there are none; the other fields are absent.
    pub fn response(&self, request: &Request) -> Value {
        let mut response = json!({
            "uid": request.admission.get("uid").cloned().unwrap_or_default(),
            "allowed": self.accepted,
            "auditAnnotations": self.audit_annotations,
            "warnings": self.warnings,
        });
        let patch = self.patch(request);
        if !patch.is_empty() {
            response["patchType"] = "JSONPatch".into();
            response["patch"] = json!(patch);
        }
        let message = self.message.as_ref().map(|message| ("message", json!(message)));
        let code = self.code.map(|code| ("code", json!(code)));
        for (field, value) in message.into_iter().chain(code) {
            response["status"][field] = value;
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_not_be_mutated_is_refused() {
        let answer = |mutated: Value| Answer {
            accepted: true,
            mutated_object: Some(mutated),
            ..Answer::rejection(String::new(), None)
        };
        let request = |key: &str| Request::new(json!({key: {"a": 1}, "uid": "u"}));
        for (key, mutated, mutating, accepted) in [
            ("object", json!({"a": 2}), true, true),
            ("object", json!({"a": 2}), false, false),
            ("object", json!({"a": 1}), false, true),
            // As for DELETE.
            ("oldObject", json!({"a": 2}), true, false),
        ] {
            let request = request(key);
            let answer = answer(mutated.clone()).constrained(&request, mutating);
            assert_eq!(answer.accepted, accepted, "{key} {mutated} {mutating}");
            let changes = accepted && mutated != *request.object();
            assert_eq!(
                answer.response(&request).get("patch").is_some(),
                changes,
                "{key} {mutated} {mutating}"
            );
        }
    }
    #[test]
    fn the_response_is_the_hosts() {
        let request = Request::new(json!({"uid": "u", "object": {"a": 1}}));
        let accepted = Answer { accepted: true, message: None, ..Answer::rejection(String::new(), None) };
        assert_eq!(
            accepted.response(&request),
            json!({"uid": "u", "allowed": true, "auditAnnotations": null, "warnings": null})
        );
        let rejected = Answer {
            warnings: Some(vec!["w".into()]),
            audit_annotations: json!({"k": "v"}).as_object().cloned(),
            ..Answer::rejection("no".into(), None)
        };
        assert_eq!(
            rejected.response(&request),
            json!({
                "uid": "u", "allowed": false, "status": {"message": "no"},
                "auditAnnotations": {"k": "v"}, "warnings": ["w"],
            })
        );
        let rejected = Answer::rejection("no".into(), Some(403));
        assert_eq!(rejected.response(&request)["status"], json!({"message": "no", "code": 403}));
    }
}
