//! Whom to trust: the system's certificate authorities, or Mozilla's where the system has none.
//!
//! Read when the first `https` URL is, not before: it takes milliseconds, which a mount of plain HTTP need not
//! wait for. `SSL_CERT_FILE` and `SSL_CERT_DIR` are respected. What is signed, and with what, is not known here.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use log::warn;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use rustls_native_certs::{load_certs_from_paths, load_native_certs};

/// The provider of cryptography, the same for both clients.
pub(super) static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(ring::default_provider()));

/// Where distributions keep all authorities in one file. The directory beside it has the same ones, a file each:
/// reading both takes four times as long, and far longer from a disk that is cold.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The system's authorities; none where it has none.
pub(super) static SYSTEM: LazyLock<Vec<CertificateDer<'static>>> = LazyLock::new(|| {
    let chosen = ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|name| std::env::var_os(name).is_some());
    let bundle = BUNDLES.iter().map(Path::new).find(|path| !chosen && path.is_file());
    let found = match bundle {
        Some(bundle) => load_certs_from_paths(Some(bundle), None),
        None => load_native_certs(),
    };
    for error in &found.errors {
        warn!("certificate authorities of the system: {error}");
    }
    found.certs
});

/// The configuration of the client for reads, which keeps the sessions that can be resumed.
pub(super) static CLIENT: LazyLock<Result<Arc<ClientConfig>, rustls::Error>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(SYSTEM.iter().cloned());
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let client = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(client))
});
