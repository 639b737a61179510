//! Bytes as the payload of `validate_settings`: any get an answer, and it is the one that a request gets.
#![no_main]

use fluid_sidecar_policy::settings::{Settings, validate_settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    let answer = validate_settings(payload);
    assert_eq!(answer.valid, answer.message.is_none());
    if let Ok(settings) = serde_json::from_slice(payload) {
        assert_eq!(answer.valid, Settings::parse(&settings).is_ok());
    }
});
