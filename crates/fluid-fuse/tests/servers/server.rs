//! A store of others, as a process that ends with its test.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tempfile::TempDir;

use crate::support::place::{eventually, skip::skip};

/// What need not be encoded in a path, nor in a query.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub(crate) struct Server {
    process: Child,
    pub(crate) endpoint: String,
    directory: TempDir,
}

/// A file of what `scripts/test-servers.sh` installed.
pub(crate) fn installed(name: &str, path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-servers").join(path);
    if !path.exists() {
        skip(&format!("{name} is not installed (scripts/test-servers.sh)"));
        return None;
    }
    Some(path)
}

impl Server {
    /// Starts a program that is told its port, and waits until it listens there.
    pub(crate) fn start(program: &Path, arguments: impl Fn(&mut Command, &str)) -> Self {
        loop {
            let directory = TempDir::new().unwrap();
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            // Whatever becomes of the test, the kernel ends it with the thread that started it.
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL"]).arg(program).current_dir(directory.path());
            arguments(&mut command, &port.to_string());
            let log = File::create(directory.path().join("log")).unwrap();
            command.stdout(log.try_clone().unwrap()).stderr(log);
            let endpoint = format!("http://127.0.0.1:{port}");
            let mut server = Server { process: command.spawn().unwrap(), endpoint, directory };
            let listens = eventually(|| match server.process.try_wait().unwrap() {
                Some(_) => Some(false),
                None => TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(true),
            });
            if listens {
                return server;
            }
            // Somebody else may have taken the port meanwhile.
            let log = server.log().to_lowercase();
            assert!(log.contains("in use"), "{log}");
        }
    }

    fn log(&self) -> String {
        logged(self.directory.path())
    }
}

fn logged(directory: &Path) -> String {
    fs::read_to_string(directory.join("log")).unwrap_or_default()
}

/// Shows the end of the log in a directory, should the test have failed.
pub(crate) fn tell_of_failure(who: &str, directory: &Path) {
    if std::thread::panicking() {
        let log = logged(directory);
        let end: Vec<_> = log.lines().rev().take(30).collect();
        eprintln!("{who}: …\n{}", end.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        tell_of_failure("the server", self.directory.path());
    }
}

pub(crate) fn encoded(key: &str) -> String {
    utf8_percent_encode(key, PLAIN).to_string()
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().proxy(None).http_status_as_error(false).build().into()
}

/// Sends bytes, which must be taken.
pub(crate) fn send(method: &str, url: &str, headers: &[(&str, &str)], bytes: &[u8]) -> Vec<u8> {
    let mut request = ureq::http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = agent().run(request.body(bytes).unwrap()).unwrap();
    let answer = response.body_mut().read_to_vec().unwrap();
    assert!(
        response.status().is_success(),
        "{method} {url}: {} {}",
        response.status(),
        String::from_utf8_lossy(&answer)
    );
    answer
}

/// What is there.
pub(crate) fn fetch(url: &str, headers: &[(&str, &str)]) -> Option<Vec<u8>> {
    let request =
        headers.iter().fold(agent().get(url), |request, (name, value)| request.header(*name, *value));
    let mut response = request.call().unwrap();
    let bytes = response.body_mut().with_config().limit(u64::MAX).read_to_vec().unwrap();
    match response.status().as_u16() {
        404 => None,
        status => {
            assert_eq!(status, 200, "{url}: {}", String::from_utf8_lossy(&bytes));
            Some(bytes)
        }
    }
}
