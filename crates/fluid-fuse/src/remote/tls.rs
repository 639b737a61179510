//! TLS: the certificate authorities of the system, or Mozilla's if the system has none.
//!
//! They are loaded for the first `https` URL: that takes milliseconds, which a mount over plain HTTP need not wait
//! for. `SSL_CERT_FILE` and `SSL_CERT_DIR` are respected, and the certificates in `AWS_CA_BUNDLE` are trusted, too. A
//! trusted certificate may be the server's own, as in other clients, even if it may sign others; its names and dates
//! are checked.

use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use log::warn;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_native_certs::{load_certs_from_paths, load_native_certs};

/// Whether the certificates of servers are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verification {
    /// They are.
    Full,
    /// They are not: anybody on the path can pretend to be the server.
    None,
}

/// The provider of cryptography.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));

/// Files in which distributions keep all authorities. The directory beside such a file has the same ones in one file
/// each: reading both takes four times as long, and far longer from a cold disk.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The certificates of the system and of the environment.
fn trusted() -> Vec<CertificateDer<'static>> {
    let chosen = ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|name| std::env::var_os(name).is_some());
    let bundle = BUNDLES.iter().map(Path::new).find(|path| !chosen && path.is_file());
    let mut found = match bundle {
        Some(bundle) => load_certs_from_paths(Some(bundle), None),
        None => load_native_certs(),
    };
    if let Some(path) = std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty()) {
        let named = load_certs_from_paths(Some(Path::new(&path)), None);
        found.certs.extend(named.certs);
        found.errors.extend(named.errors);
    }
    for error in &found.errors {
        warn!("certificate authorities of the system: {error}");
    }
    found.certs
}

/// The configuration of clients, which also keeps sessions that can be resumed.
pub(super) fn client(verification: Verification) -> Result<Arc<ClientConfig>, Error> {
    static FULL: LazyLock<Result<Arc<ClientConfig>, Error>> =
        LazyLock::new(|| configured(CertificateCheck::Full(FullCheck::new(trusted())?)));
    static NONE: LazyLock<Result<Arc<ClientConfig>, Error>> =
        LazyLock::new(|| configured(CertificateCheck::Skipped));
    match verification {
        Verification::Full => FULL.clone(),
        Verification::None => NONE.clone(),
    }
}

fn configured(trust: CertificateCheck) -> Result<Arc<ClientConfig>, Error> {
    let client = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trust))
        .with_no_client_auth();
    Ok(Arc::new(client))
}

/// How the certificate of a server is checked.
#[derive(Debug)]
enum CertificateCheck {
    /// It is checked.
    Full(FullCheck),
    /// Any certificate is accepted; the server proves that it has the key.
    Skipped,
}

/// Accepts certificates that an authority has signed, and those that are trusted themselves.
#[derive(Debug)]
struct FullCheck {
    authorities: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
}

impl FullCheck {
    fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), PROVIDER.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(FullCheck { authorities, certificates })
    }
}

/// The message for a failed connection; for a failed certificate with the option to set.
pub(super) fn explain(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
    match cause {
        Some(
            Error::InvalidCertificate(CertificateError::NotValidForName)
            | Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. }),
        ) => format!(
            "{error} (check the option endpoint; a bucket with dots in its name needs the option path_style)"
        ),
        Some(Error::InvalidCertificate(_)) => {
            format!("{error} (SSL_CERT_FILE or AWS_CA_BUNDLE names a file of further certificates to trust)")
        }
        _ => error.to_string(),
    }
}

/// Whether a certificate is refused only because it may sign others. Its dates were checked before.
fn may_sign_others(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(CertificateError::Other(reason))
            if matches!(reason.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
    )
}

impl ServerCertVerifier for CertificateCheck {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let CertificateCheck::Full(FullCheck { authorities, certificates }) = self else {
            return Ok(ServerCertVerified::assertion());
        };
        match authorities.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(error) if may_sign_others(&error) && certificates.contains(certificate) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &PROVIDER.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &PROVIDER.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}
