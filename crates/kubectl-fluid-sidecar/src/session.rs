//! What a policy asked and was answered, in the form that `kwctl run
//! --replay-host-capabilities-interactions` reads: the same case runs there without a cluster.
//!
//! kwctl replays strictly: the policy must ask the same questions in the same order.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use serde_json::{Value, json};

use crate::yaml;

/// The exchanges so far.
#[derive(Debug, Default)]
pub struct Session(Mutex<Vec<Value>>);

impl Session {
    /// Adds one call of `get_resource` and its answer.
    pub fn add(&self, payload: &[u8], answer: &Result<Vec<u8>, String>) {
        let request: Value = serde_json::from_slice(payload).unwrap_or_default();
        let response = match answer {
            Ok(object) => json!({"type": "Success", "payload": String::from_utf8_lossy(object)}),
            Err(text) => {
                let text = text.strip_prefix("Callback evaluation failure: ").unwrap_or(text);
                json!({"type": "Error", "message": text})
            }
        };
        let request = yaml::print(&request).unwrap_or_default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(json!({
            "type": "Exchange",
            "request": format!("!KubernetesGetResource\n{request}"),
            "response": response,
        }));
    }

    /// The session file.
    pub fn to_yaml(&self) -> Result<String> {
        yaml::print(&Value::Array(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()))
    }
}
