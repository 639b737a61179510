//! Signed requests of the fast path, which are used for several minutes.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use fluid_sidecar_layout::source::Scheme;
use http::Method;

use super::open::{Session, Signature};
use crate::remote::http1::{FastPathError, SignedRequest};
use crate::remote::request::describe;
use crate::remote::transport::SignRequest as _;
use crate::store::StoreError;
use crate::sync::lock;

/// How long a signature is valid: stores accept a clock that is wrong by as much.
const SIGNATURE_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// The same for credentials that expire sooner.
const SHORT_SIGNATURE_LIFETIME: Duration = Duration::from_secs(60);

/// Largest number of signatures that are kept.
const MAX_SIGNATURES: usize = 8192;

impl Session {
    /// The signed request of an object. It is signed again after half of its lifetime.
    pub(super) fn signed(&self, key: &str) -> Result<Arc<SignedRequest>, FastPathError> {
        let now = Instant::now();
        if let Some(signature) = self.signatures().get_mut(key)
            && now < signature.until
        {
            signature.used = true;
            return Ok(signature.signed.clone());
        }
        let (signed, time) = match self.location.scheme {
            Scheme::Http => (self.unsigned(key)?, SIGNATURE_LIFETIME),
            _ => match self.sign(key, SIGNATURE_LIFETIME) {
                Err(FastPathError::Store(StoreError::Denied(_))) => {
                    (self.sign(key, SHORT_SIGNATURE_LIFETIME)?, SHORT_SIGNATURE_LIFETIME)
                }
                signed => (signed?, SIGNATURE_LIFETIME),
            },
        };
        let signed = Arc::new(signed);
        let mut signatures = self.signatures();
        if signatures.len() >= MAX_SIGNATURES {
            signatures.clear();
        }
        let signature = Signature { signed: signed.clone(), until: now + time / 2, used: false };
        signatures.insert(key.to_string(), signature);
        Ok(signed)
    }

    fn sign(&self, key: &str, time: Duration) -> Result<SignedRequest, FastPathError> {
        let request = self.run(key, |path| async move {
            let request = self.operator.presign_read(path, time).await?;
            let mut signed = http::Request::<()>::from(request).into_parts().0;
            if let Some(signer) = &self.signer {
                signer.sign(&mut signed, Some(time)).await?;
            }
            Ok(signed)
        })?;
        let description = describe(&request.method, &request.uri);
        SignedRequest::new(&request.uri, &request.headers, description)
    }

    /// The request to a web server.
    fn unsigned(&self, key: &str) -> Result<SignedRequest, FastPathError> {
        let url = self.file(key)?.url;
        let mut headers = http::HeaderMap::new();
        if let Some(value) = self.authorization() {
            headers.insert(http::header::AUTHORIZATION, value);
        }
        let description = describe(&Method::GET, &url);
        SignedRequest::new(&url, &headers, description)
    }

    pub(super) fn signatures(&self) -> MutexGuard<'_, HashMap<String, Signature>> {
        lock(&self.signatures)
    }
}
