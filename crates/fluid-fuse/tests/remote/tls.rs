//! Reads over TLS, with a certificate authority of the test.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::UNIX_EPOCH;

use fluid_fuse::remote::Version;
use fluid_fuse::store::StoreError;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use super::skip::skip;
use super::{WAYS, bytes, elsewhere, open, read};

const SIZE: usize = 300_000;

/// A certificate for `localhost` that signs itself, and may sign others (as `openssl req -x509` makes them) or not;
/// whether there is one.
pub(super) fn certificate(directory: &Path, may_sign: &str) -> bool {
    let mut command = Command::new("openssl");
    command.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]);
    command.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
    command.args(["-addext", &format!("basicConstraints=critical,CA:{may_sign}")]);
    command.args(["-keyout", "key.pem", "-out", "cert.pem"]);
    command.current_dir(directory).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// The object of the server.
pub(super) fn version() -> Version {
    let etag = Some("\"a\"".to_string());
    Version { key: "file".to_string(), size: SIZE as u64, etag, modified: UNIX_EPOCH }
}

/// A server of one object; the number of its handshakes that resumed a session.
pub(super) fn serve(directory: &Path) -> (u16, Arc<AtomicUsize>) {
    let head = format!(
        "HTTP/1.1 206 X\r\nConnection: close\r\nContent-Length: {SIZE}\r\nContent-Range: bytes 0-{}/{SIZE}\r\n\
         ETag: \"a\"\r\n\r\n",
        SIZE - 1
    );
    serve_with(directory, move |_| [head.as_bytes(), &bytes(SIZE)].concat())
}

/// A server that answers each request, told by its head, on a connection of its own, so that there are handshakes.
pub(super) fn serve_with(
    directory: &Path,
    answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
) -> (u16, Arc<AtomicUsize>) {
    let certificate = CertificateDer::from_pem_file(directory.join("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.join("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, resumed) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let (count, answer) = (resumed.clone(), Arc::new(answer));
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), socket);
            let (count, answer) = (count.clone(), answer.clone());
            thread::spawn(move || {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    match stream.read(&mut byte) {
                        Ok(1) => head.push(byte[0]),
                        _ => return,
                    }
                }
                if stream.conn.handshake_kind() == Some(HandshakeKind::Resumed) {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                let _ = stream.write_all(&answer(&String::from_utf8_lossy(&head)));
                stream.conn.send_close_notify();
                let _ = stream.flush();
            });
        }
    });
    (port, resumed)
}

#[test]
fn the_servers_certificate_is_checked() {
    for may_sign in ["TRUE", "FALSE"] {
        let directory = TempDir::new().unwrap();
        if !certificate(directory.path(), may_sign) {
            skip("openssl cannot make a certificate, so no TLS was spoken");
            return;
        }
        let (port, resumed) = serve(directory.path());
        let url = format!("https://localhost:{port}/data");
        let version = version();
        for way in WAYS {
            let bucket = open(&url, &[("http_client", way)]);
            let refused = read(&*bucket, &version, 0..version.size);
            assert!(
                matches!(&refused, Err(StoreError::Unavailable(text)) if text.contains("AWS_CA_BUNDLE")),
                "{way}: {refused:?}"
            );
            let bucket = open(&url, &[("http_client", way), ("insecure_skip_tls_verify", "true")]);
            assert!(read(&*bucket, &version, 0..version.size).unwrap() == bytes(SIZE), "{way}");
        }
        let file = directory.path().join("url");
        fs::write(&file, url).unwrap();
        let authority = directory.path().join("cert.pem");
        for variable in ["SSL_CERT_FILE", "AWS_CA_BUNDLE"] {
            let environment =
                [(variable, authority.to_str().unwrap()), ("TEST_URL_FILE", file.to_str().unwrap())];
            elsewhere("tls::reads_with_the_authority", &environment);
        }
        assert!(resumed.load(Ordering::SeqCst) >= 1);
    }
}

#[test]
#[ignore = "run by the_servers_certificate_is_checked"]
fn reads_with_the_authority() {
    let url = fs::read_to_string(std::env::var_os("TEST_URL_FILE").unwrap()).unwrap();
    let version = version();
    for way in WAYS {
        let bucket = open(&url, &[("http_client", way)]);
        for _ in 0..3 {
            assert!(read(&*bucket, &version, 0..version.size).unwrap() == bytes(SIZE), "{way}");
        }
        // It is trusted for its own names only.
        let other = open(&url.replace("localhost", "127.0.0.1"), &[("http_client", way)]);
        let refused = read(&*other, &version, 0..version.size);
        assert!(
            matches!(&refused, Err(StoreError::Unavailable(text)) if text.contains("not valid for name")),
            "{way}: {refused:?}"
        );
    }
}
