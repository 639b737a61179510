//! Proxies of the environment: `http` with complete URLs, `https` through tunnels, and some servers directly.

use std::fs;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use fluid_fuse::store::StoreError;
use tempfile::TempDir;

use super::faults::{Server, say};
use super::skip::skip;
use super::{elsewhere, list, open, read, tls};

const USER: &str = "proxy-authorization: basic dxnlcjpzzwnyzxq=";

/// A proxy that opens tunnels to servers of this machine, whatever their name, and whatever their port if one is given,
/// and the requests that it got.
pub(super) fn tunnels(to: Option<u16>) -> (test_store::Server, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = asked.clone();
    let proxy = test_store::Server::start(move |request, connection| {
        heard.lock().unwrap().push(request.head.clone());
        let Some(target) = request.head.strip_prefix("CONNECT ") else {
            connection.answer(request, "403 X", "", "");
            return false;
        };
        let port = target.split(' ').next().unwrap().rsplit(':').next().unwrap().parse().unwrap();
        let port = to.unwrap_or(port);
        let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
        connection.send("HTTP/1.1 200 X\r\n\r\n");
        let mut client = connection.socket().try_clone().unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
        let _ = std::io::copy(&mut server, &mut client);
        let _ = client.shutdown(Shutdown::Both);
        false
    });
    (proxy, asked)
}

#[test]
fn http_requests_have_complete_urls_and_https_uses_tunnels() {
    // A request to the proxy without a complete URL is for no server.
    let web = Server::start(|_, head, socket| {
        let first = head.lines().next().unwrap();
        assert!(head.to_lowercase().contains(USER), "{head}");
        match first {
            "GET http://no-such-host.invalid:81/data/ HTTP/1.1" => {
                say(socket, "HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n<a href='file'>x</")
            }
            "HEAD http://no-such-host.invalid:81/data/file HTTP/1.1" => {
                say(socket, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nETag: \"x\"\r\n\r\n")
            }
            "GET http://no-such-host.invalid:81/data/file HTTP/1.1" => say(
                socket,
                "HTTP/1.1 206 X\r\nContent-Length: 7\r\nContent-Range: bytes 0-6/7\r\nETag: \"x\"\r\n\r\ncontent",
            ),
            other => panic!("{other}"),
        }
    });
    let refusing = Server::start(|_, _, socket| say(socket, "HTTP/1.1 407 X\r\nContent-Length: 0\r\n\r\n"));
    let direct = Server::start(|_, head, socket| {
        assert!(head.starts_with("GET / "), "{head}");
        say(socket, "HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n<a href='a/'>x</")
    });
    let of_user = |endpoint: &str| endpoint.replace("http://", "http://user:secret@");
    let common = [("no_proxy", "10.0.0.0/8,127.0.0.0/8"), ("TEST_DIRECT", &*direct.endpoint)];
    let mut environment = common.to_vec();
    let proxy = of_user(&web.endpoint);
    environment.push(("http_proxy", &proxy));
    elsewhere("proxy::reads_http", &environment);

    let mut environment = common.to_vec();
    let proxy = of_user(&refusing.endpoint);
    let named = refusing.endpoint.clone();
    environment.extend([("HTTP_PROXY", &*proxy), ("https_proxy", &*proxy), ("TEST_PROXY", &*named)]);
    elsewhere("proxy::is_refused", &environment);

    let directory = TempDir::new().unwrap();
    if !tls::certificate(directory.path(), "TRUE") {
        skip("openssl cannot make a certificate, so no tunnel was opened");
        return;
    }
    let (port, _) = tls::serve(directory.path());
    let (proxy, asked) = tunnels(None);
    let url = directory.path().join("url");
    fs::write(&url, format!("https://localhost:{port}/data")).unwrap();
    let proxy = format!("http://user:secret@{}", proxy.address());
    let authority = directory.path().join("cert.pem");
    let mut environment = common.to_vec();
    environment.extend([
        // The proxy of the other scheme.
        ("http_proxy", "http://127.0.0.1:9"),
        ("https_proxy", &*proxy),
        ("SSL_CERT_FILE", authority.to_str().unwrap()),
        ("TEST_URL_FILE", url.to_str().unwrap()),
    ]);
    elsewhere("proxy::reads_https", &environment);
    let asked = asked.lock().unwrap();
    assert!(!asked.is_empty());
    for head in asked.iter() {
        assert!(head.starts_with("CONNECT localhost:") && head.to_lowercase().contains(USER), "{head}");
    }
}

fn reads_directly() {
    let bucket = open(&std::env::var("TEST_DIRECT").unwrap(), &[]);
    assert_eq!(list(&*bucket, "").unwrap().len(), 1);
}

#[test]
#[ignore = "run by http_requests_have_complete_urls_and_https_uses_tunnels"]
fn reads_http() {
    let bucket = open("http://no-such-host.invalid:81/data", &[]);
    assert_eq!(list(&*bucket, "").unwrap().len(), 1);
    let version = bucket.head("file").unwrap();
    for _ in 0..3 {
        assert_eq!(read(&*bucket, &version, 0..7).unwrap(), b"content");
    }
    reads_directly();
}

#[test]
#[ignore = "run by http_requests_have_complete_urls_and_https_uses_tunnels"]
fn reads_https() {
    let url = fs::read_to_string(std::env::var_os("TEST_URL_FILE").unwrap()).unwrap();
    let bucket = open(&url, &[]);
    let version = tls::version();
    assert_eq!(read(&*bucket, &version, 0..version.size).unwrap().len() as u64, version.size);
    reads_directly();
}

#[test]
#[ignore = "run by http_requests_have_complete_urls_and_https_uses_tunnels"]
fn is_refused() {
    let proxy = std::env::var("TEST_PROXY").unwrap();
    for url in ["http://no-such-host.invalid/data", "https://no-such-host.invalid/data"] {
        let error = list(&*open(url, &[]), "").unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("through the proxy {proxy}")) && text.contains("407"), "{error:?}");
        assert!(!text.contains("secret"), "{text}");
        assert!(matches!(error, StoreError::Failed(_)), "{error:?}");
    }
}
