//! Signatures of version 4 for OSS.
//!
//! opendal signs for OSS with version 1, which OSS does not accept for new users and new buckets. Version 4 needs the
//! region. Where it is known, opendal makes requests unsigned, and this module signs them with reqsign, which opendal
//! uses, too. Decides the order in which credentials are looked for: the options, the environment, the Pod's OIDC
//! token (RRSA), a role to assume, profiles, the machine's RAM role.

use std::pin::Pin;
use std::time::Duration;

use fluid_sidecar_layout::source::Scheme;
use opendal::{Error, ErrorKind, HttpTransporter};
use reqsign_aliyun_oss::{
    AssumeRoleWithOidcCredentialProvider, Credential, DefaultCredentialProvider, EnvCredentialProvider,
    RequestSigner, SigningVersion, StaticCredentialProvider,
};
use reqsign_core::{Context, Env, OsEnv, ProvideCredentialChain, Signer, StaticEnv};
use reqsign_file_read_tokio::TokioFileRead;

use super::executor::SIGNING;
use super::location::StoreLocation;
use super::transport::{SignRequest, Transport, TransportConfig};

/// Signs requests for one bucket.
#[derive(Clone)]
pub(super) struct OssSigner {
    signer: Signer<Credential>,
    bucket: String,
}

impl OssSigner {
    /// The signer of a location that is in OSS, is not anonymous and has a region.
    pub(super) fn new(location: &StoreLocation, config: &TransportConfig) -> Option<Self> {
        let setting = |name: &str| location.settings.get(name).map(String::as_str);
        let anonymous = setting("skip_signature") == Some("true");
        let region = location.region.as_deref().filter(|_| location.scheme == Scheme::Oss && !anonymous)?;

        let own = OsEnv;
        let mut envs = own.vars();
        for (variable, name) in [
            ("ALIBABA_CLOUD_ROLE_ARN", "role_arn"),
            ("ALIBABA_CLOUD_ROLE_SESSION_NAME", "role_session_name"),
            ("ALIBABA_CLOUD_EXTERNAL_ID", "external_id"),
            ("ALIBABA_CLOUD_OIDC_PROVIDER_ARN", "oidc_provider_arn"),
            ("ALIBABA_CLOUD_OIDC_TOKEN_FILE", "oidc_token_file"),
            ("ALIBABA_CLOUD_STS_ENDPOINT", "sts_endpoint"),
            ("ALIBABA_CLOUD_ACCESS_KEY_ID", "access_key_id"),
            ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "access_key_secret"),
            ("ALIBABA_CLOUD_SECURITY_TOKEN", "security_token"),
        ] {
            if let Some(value) = setting(name) {
                envs.insert(variable.to_string(), value.to_string());
            }
        }
        let mut chain = ProvideCredentialChain::new();
        // Without a role to assume, the keys sign. With one, they assume the role.
        if setting("role_arn").is_none() {
            if let (Some(id), Some(secret)) = (setting("access_key_id"), setting("access_key_secret")) {
                let key = StaticCredentialProvider::new(id, secret);
                chain = chain.push(match setting("security_token") {
                    Some(token) => key.with_security_token(token),
                    None => key,
                });
            }
            chain = chain.push(EnvCredentialProvider::new());
        }
        // The Pod's role comes before that of the machine, for which the default chain asks first.
        chain =
            chain.push(AssumeRoleWithOidcCredentialProvider::new()).push(DefaultCredentialProvider::new());
        let context = Context::new()
            .with_file_read(TokioFileRead)
            .with_http_send(HttpTransporter::new(Transport::new(
                TransportConfig { scheme: None, ..config.clone() },
                None,
            )))
            .with_env(StaticEnv { home_dir: own.home_dir(), envs });
        let bucket = setting("bucket").unwrap_or_default().to_string();
        let signer = RequestSigner::new(&bucket).with_region(region).with_signing_version(SigningVersion::V4);
        Some(Self { signer: Signer::new(context, chain, signer), bucket })
    }
}

impl SignRequest for OssSigner {
    fn sign<'a>(
        &'a self,
        request: &'a mut http::request::Parts,
        query_expiry: Option<Duration>,
    ) -> Pin<Box<dyn Future<Output = opendal::Result<()>> + Send + 'a>> {
        Box::pin(async move {
            // OSS signs a bucket in the path as a directory; opendal leaves the slash out.
            let target = request.uri.to_string();
            if request.uri.path().trim_start_matches('/') == self.bucket
                && let Some(slashed) = target.split_once('?').map(|(path, query)| format!("{path}/?{query}"))
                && let Ok(uri) = slashed.parse()
            {
                request.uri = uri;
            }
            let signed = self.signer.sign(request, query_expiry).await;
            signed.map_err(|error| Error::new(ErrorKind::Unexpected, SIGNING).set_source(error))
        })
    }
}
