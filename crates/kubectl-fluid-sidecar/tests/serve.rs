//! `kubectl-fluid_sidecar serve` as an API server meets it: the program itself, TLS, the compiled policy, and an API server for
//! the policy's reads, which answers from the golden cases' objects over TLS as well.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum_server::tls_rustls::RustlsConfig;
use k8s_openapi::ByteString;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::CertifiedKey;
use rustls::crypto::ring;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::RwLock;
use tool::{input, yaml};
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::support::{golden, policy, root};

mod support;

/// So long that only what hangs fails.
const LONG: Duration = Duration::from_secs(60);

/// Apiversion, kind, plural, whether in a namespace: what the stand-in has, and what the policy declares.
const KINDS: [(&str, &str, &str, bool); 5] = [
    ("v1", "Namespace", "namespaces", false),
    ("v1", "PersistentVolume", "persistentvolumes", false),
    ("v1", "PersistentVolumeClaim", "persistentvolumeclaims", true),
    ("apps/v1", "DaemonSet", "daemonsets", true),
    ("data.fluid.io/v1alpha1", "Dataset", "datasets", true),
];

/// Of the webhook and of the stand-in: both are 127.0.0.1.
static IDENTITY: LazyLock<CertifiedKey<rcgen::KeyPair>> =
    LazyLock::new(|| rcgen::generate_simple_self_signed(["127.0.0.1".to_string()]).unwrap());

// --- the API server ----------------------------------------------------------------------------------------

/// The API server's part of a cluster that has the documents of a golden case.
#[derive(Default)]
struct Cluster {
    documents: Mutex<Vec<Value>>,
    /// The paths of all requests.
    asked: Mutex<Vec<String>>,
    /// Nothing is answered while it is write-locked.
    gate: RwLock<()>,
}

const TOKEN: &str = "Bearer sesame";

impl Cluster {
    /// Its API on a free port, until the test ends.
    fn serve(self: &Arc<Self>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(Arc::clone(self));
        std::thread::spawn(move || {
            ring::default_provider().install_default().ok();
            Runtime::new().unwrap().block_on(async {
                let (certificate, key) = (IDENTITY.cert.pem(), IDENTITY.signing_key.serialize_pem());
                let tls = RustlsConfig::from_pem(certificate.into(), key.into()).await.unwrap();
                let server = axum_server::from_tcp_rustls(listener, tls).unwrap();
                server.serve(router.into_make_service()).await.unwrap();
            });
        });
        url
    }

    fn load(&self, documents: Vec<Value>) {
        *self.documents.lock().unwrap() = documents;
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn find(&self, path: &str) -> (StatusCode, Value) {
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let (version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] => (version.to_string(), rest),
            ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
            _ => return status(StatusCode::NOT_FOUND, "NotFound"),
        };
        let kinds = || KINDS.iter().filter(|(of, ..)| *of == version);
        let (namespace, plural, name) = match rest {
            [] => {
                let resources: Vec<Value> = kinds()
                    .map(|(_, kind, plural, namespaced)| {
                        json!({"kind": kind, "name": plural, "namespaced": namespaced, "singularName": "",
                            "verbs": ["get"]})
                    })
                    .collect();
                let list =
                    json!({"kind": "APIResourceList", "groupVersion": version, "resources": resources});
                return (StatusCode::OK, list);
            }
            [plural, name] => (None, plural, name),
            ["namespaces", namespace, plural, name] => (Some(*namespace), plural, name),
            _ => return status(StatusCode::NOT_FOUND, "NotFound"),
        };
        let kind = kinds().find(|(_, _, of, namespaced)| of == plural && *namespaced == namespace.is_some());
        let Some((_, kind, ..)) = kind else { return status(StatusCode::NOT_FOUND, "NotFound") };
        let documents = self.documents.lock().unwrap();
        let forbidden = |it: &&Value| it["error"]["kind"] == *kind && it["error"]["name"] == *name;
        if documents.iter().any(|it| forbidden(&it)) {
            return status(StatusCode::FORBIDDEN, "Forbidden");
        }
        let object = documents.iter().find(|it| {
            let of = (it["apiVersion"].as_str(), it["kind"].as_str(), it["metadata"]["namespace"].as_str());
            of == (Some(&version), Some(kind), namespace) && it["metadata"]["name"] == *name
        });
        object.map_or_else(|| status(StatusCode::NOT_FOUND, "NotFound"), |it| (StatusCode::OK, it.clone()))
    }
}

async fn answer(State(cluster): State<Arc<Cluster>>, uri: Uri, headers: HeaderMap) -> (StatusCode, String) {
    cluster.asked.lock().unwrap().push(uri.to_string());
    let _open = cluster.gate.read().await;
    let (code, body) = if headers.get(AUTHORIZATION).is_some_and(|it| it == TOKEN) {
        cluster.find(uri.path())
    } else {
        status(StatusCode::UNAUTHORIZED, "Unauthorized")
    };
    (code, body.to_string())
}

fn status(code: StatusCode, reason: &str) -> (StatusCode, Value) {
    let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "message": "told by a test",
        "reason": reason, "code": code.as_u16()});
    (code, status)
}

// --- the webhook -------------------------------------------------------------------------------------------

/// Files for the program, and its command line so far.
struct Setup {
    directory: TempDir,
    arguments: Vec<PathBuf>,
}

impl Setup {
    /// `None` when the policy is not built. `declared` are the kinds that the metadata declares.
    fn new(mutating: bool, declared: &[&str]) -> Option<Setup> {
        let policy = policy()?;
        let mut setup = Setup { directory: TempDir::new().unwrap(), arguments: vec!["serve".into()] };
        let resources: Vec<Value> = KINDS
            .iter()
            .filter(|(_, kind, ..)| declared.contains(kind))
            .map(|(version, kind, ..)| json!({"apiVersion": version, "kind": kind}))
            .collect();
        let metadata = json!({"rules": [], "mutating": mutating, "contextAwareResources": resources});
        setup.file("--metadata", &metadata.to_string());
        setup.file("--tls-cert", &IDENTITY.cert.pem());
        setup.file("--tls-key", &IDENTITY.signing_key.serialize_pem());
        setup.arguments.extend(["--listen".into(), "127.0.0.1:0".into(), "--policy".into(), policy]);
        Some(setup)
    }

    fn all() -> Option<Setup> {
        Setup::new(true, &KINDS.map(|(_, kind, ..)| kind))
    }

    /// A file for an option, instead of one that it has.
    fn file(&mut self, option: &str, text: &str) {
        let file = self.directory.path().join(option.trim_start_matches('-'));
        std::fs::write(&file, text).unwrap();
        if !self.arguments.contains(&file) {
            self.arguments.extend([option.into(), file]);
        }
    }

    fn kubeconfig(mut self, url: &str) -> Setup {
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "users": [{"name": "test", "user": {"token": TOKEN.trim_start_matches("Bearer ")}}],
            "clusters": [{"name": "test", "cluster": {
                "server": url,
                "certificate-authority-data": ByteString(IDENTITY.cert.pem().into_bytes()),
            }}],
        });
        self.file("--kubeconfig", &kubeconfig.to_string());
        self
    }

    /// The objects of a golden case, if it has any.
    fn objects(mut self, case: &str) -> Setup {
        let file = golden::given(&case_directory(case), "objects.yaml");
        if file.exists() {
            self.arguments.extend(["--objects".into(), file]);
        }
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-fluid_sidecar"));
        command.args(&self.arguments).stdin(Stdio::null());
        command
    }

    fn start(self) -> Webhook {
        let mut child = self.command().stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines() {
                sender.send(line.unwrap()).ok();
            }
        });
        let mut webhook = Webhook { child, lines, url: String::new(), _setup: self };
        let line = webhook.line("serving ");
        webhook.url = line["serving ".len()..].split(": ").next().unwrap().to_string();
        webhook
    }

    /// For a program that does not come to serve.
    fn fail(&self) -> Output {
        self.command().output().unwrap()
    }
}

struct Webhook {
    child: Child,
    lines: Receiver<String>,
    url: String,
    _setup: Setup,
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Webhook {
    /// Waits for a line on standard error that begins so.
    fn line(&self, beginning: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(LONG).unwrap();
            if line.starts_with(beginning) {
                return line;
            }
        }
    }

    fn post(&self, path: &str, body: &[u8]) -> (u16, String) {
        post(&self.url, path, body)
    }

    /// The response to a review of this request.
    fn review(&self, request: &Value) -> Value {
        let review = review(request);
        let (code, body) = self.post("/validate/some-policy", review.to_string().as_bytes());
        assert_eq!(code, 200, "{body}");
        let mut review: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(review["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(review["kind"], "AdmissionReview");
        assert_eq!(review["response"]["uid"], request["uid"]);
        review["response"].take()
    }
}

fn review(request: &Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
}

fn wait_until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < LONG, "it does not come to be");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn agent() -> Agent {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&[Certificate::from_der(IDENTITY.cert.der()).to_owned()]))
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .build();
    Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .timeout_global(Some(LONG))
        .build()
        .new_agent()
}

fn post(url: &str, path: &str, body: &[u8]) -> (u16, String) {
    let request = agent().post(format!("{url}{path}")).header("content-type", "application/json");
    let mut response = request.send(body).unwrap();
    (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
}

// --- the cases ---------------------------------------------------------------------------------------------

fn case_directory(case: &str) -> PathBuf {
    root().join("tests/cases").join(case)
}

fn documents(path: &Path) -> Vec<Value> {
    if path.exists() { yaml::read_file(path).unwrap() } else { Vec::new() }
}

/// Request, objects and expectation of a golden case.
fn case(name: &str) -> (Value, Vec<Value>, Value) {
    let directory = case_directory(name);
    let manifest = documents(&golden::given(&directory, "pod.yaml")).pop().unwrap();
    let request = input::request(manifest, None, "CREATE").unwrap().admission;
    let expected = yaml::read_single(&directory.join("expected.yaml")).unwrap();
    (request, documents(&golden::given(&directory, "objects.yaml")), expected)
}

/// What the patch of the response makes of the object; nothing when there is no patch.
fn patched(request: &Value, response: &Value) -> Option<Value> {
    let patch = response.get("patch")?;
    assert_eq!(response["patchType"], "JSONPatch");
    let ByteString(patch) = serde_json::from_value(patch.clone()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut object = request["object"].clone();
    json_patch::patch(&mut object, &patch).unwrap();
    Some(object)
}

fn assert_expected(name: &str, request: &Value, response: &Value, expected: &Value) {
    assert_eq!(response["allowed"], expected["decision"] != "rejected", "{name}: {response}");
    assert_eq!(patched(request, response).as_ref(), expected.get("pod"), "{name}");
    assert_eq!(response.pointer("/status/message"), expected.get("message"), "{name}");
    // `null` where there are none, as the host has it.
    assert_eq!(response.get("warnings"), Some(&expected["warnings"]), "{name}");
    let annotations = &response["auditAnnotations"];
    assert_eq!(annotations["decision"], expected["decision"], "{name}");
    let reasons: Value = annotations["reasons"].as_str().unwrap().lines().collect();
    assert_eq!(reasons, expected["reasons"], "{name}");
}

#[test]
fn golden_cases_come_out_the_same_with_an_api_server() {
    let Some(setup) = Setup::all() else { return };
    let cluster = Arc::new(Cluster::default());
    let webhook = setup.kubeconfig(&cluster.serve()).start();
    let mut reviewed = 0;
    for path in golden::below(&case_directory("")) {
        let name = path.strip_prefix(case_directory("")).unwrap().display().to_string();
        let (request, documents, expected) = case(&name);
        // The only failure of a read that the stand-in knows.
        let known = |it: &Value| it["error"]["message"].as_str().is_none_or(|it| it.contains("code: 403"));
        if case_directory(&name).join("settings.yaml").exists() || !documents.iter().all(known) {
            continue;
        }
        cluster.load(documents);
        assert_expected(&name, &request, &webhook.review(&request), &expected);
        reviewed += 1;
    }
    assert!(reviewed > 40, "{reviewed} cases");
    // Each kind is looked up once.
    for (discovery, kinds) in [("/api/v1", 2), ("/apis/apps/v1", 1), ("/apis/data.fluid.io/v1alpha1", 1)] {
        assert_eq!(cluster.asked().iter().filter(|it| *it == discovery).count(), kinds, "{discovery}");
    }
}

#[test]
fn files_serve_as_the_cluster() {
    for (name, verdict) in
        [("seed-thin", "allowed"), ("dataset-not-bound", "denied"), ("no-claims", "allowed")]
    {
        let Some(setup) = Setup::all() else { return };
        let (request, _, expected) = case(name);
        let webhook = setup.objects(name).start();
        let response = webhook.review(&request);
        assert_expected(name, &request, &response, &expected);
        let line = webhook.line("default/app ");
        assert!(line.starts_with(&format!("default/app CREATE {verdict}, ")), "{line}");
        let operations = match response.get("patch") {
            Some(patch) => {
                let ByteString(patch) = serde_json::from_value(patch.clone()).unwrap();
                serde_json::from_slice::<json_patch::Patch>(&patch).unwrap().len()
            }
            None => 0,
        };
        assert!(line.ends_with(&format!(" {operations} patch operations")), "{line}");
    }
}

#[test]
fn what_is_not_declared_is_not_read() {
    let Some(setup) = Setup::new(true, &["PersistentVolume", "DaemonSet", "Dataset"]) else { return };
    let cluster = Arc::new(Cluster::default());
    let webhook = setup.kubeconfig(&cluster.serve()).start();
    let (request, _, expected) = case("read-not-granted");
    assert_expected("read-not-granted", &request, &webhook.review(&request), &expected);
    assert_eq!(cluster.asked(), [""; 0]);
}

#[test]
fn a_name_does_not_leave_its_kind() {
    let Some(setup) = Setup::all() else { return };
    let cluster = Arc::new(Cluster::default());
    let webhook = setup.kubeconfig(&cluster.serve()).start();
    let (mut request, documents, _) = case("seed-thin");
    cluster.load(documents);
    for name in ["../../../persistentvolumes/default-data", "data?watch=true", ".."] {
        request["object"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] = name.into();
        assert_eq!(webhook.review(&request)["allowed"], false, "{name}");
        let asked = cluster.asked();
        assert!(asked.iter().all(|path| path == "/api/v1"), "{name}: {asked:?}");
    }
}

#[test]
fn a_cluster_out_of_reach_is_a_failure_to_read() {
    let Some(setup) = Setup::all() else { return };
    // A port that nobody listens on any more.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (request, ..) = case("seed-thin");
    let webhook = setup.kubeconfig(&format!("https://{address}")).start();
    let message = webhook.review(&request)["status"]["message"].to_string();
    assert!(message.contains("PersistentVolumeClaim default/data could not be read: "), "{message}");
    let line = webhook.line("cannot read v1 PersistentVolumeClaim default/data: ");
    assert!(line.contains("refused"), "{line}");

    let Some(setup) = Setup::all() else { return };
    let message = setup.start().review(&request)["status"]["message"].to_string();
    assert!(message.contains("neither --kubeconfig nor --objects is given"), "{message}");
}

#[test]
fn a_policy_that_may_not_mutate_is_refused_its_mutation() {
    let Some(setup) = Setup::new(false, &KINDS.map(|(_, kind, ..)| kind)) else { return };
    let webhook = setup.objects("seed-thin").start();
    let response = webhook.review(&case("seed-thin").0);
    assert_eq!((&response["allowed"], response.get("patch")), (&json!(false), None));
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.contains("configured to not allow mutations"), "{message}");
    assert_eq!(webhook.review(&case("no-claims").0)["allowed"], true);
}

#[test]
fn requests_that_are_no_reviews_are_told_why() {
    let Some(setup) = Setup::all() else { return };
    let webhook = setup.start();
    let (request, ..) = case("no-claims");
    let whole = review(&request);
    let without = |key: &str| {
        let mut review = whole.clone();
        review["request"].as_object_mut().unwrap().remove(key);
        review.to_string()
    };
    let older = whole.to_string().replace("admission.k8s.io/v1", "admission.k8s.io/v1beta1");
    let large = format!("{whole}{}", " ".repeat(9 << 20));
    for (path, body, code, says) in [
        ("/mutate", whole.to_string(), 200, "\"allowed\":true"),
        ("/mutate", String::new(), 400, "not JSON"),
        ("/mutate", "{\"apiVersion\": ".into(), 400, "not JSON"),
        ("/mutate", "[]".into(), 400, "expected an AdmissionReview"),
        ("/mutate", older, 400, "admissionReviewVersions: [v1]"),
        ("/mutate", without("uid"), 400, "request.uid is missing"),
        ("/mutate", large, 413, "at most 8388608 bytes"),
        ("/elsewhere", whole.to_string(), 404, "/validate/<any id>"),
    ] {
        let (got, text) = webhook.post(path, body.as_bytes());
        assert!(got == code && text.contains(says), "{path} {code} {says}: {got} {text}");
    }
    let ready = agent().get(format!("{}/readiness", webhook.url)).call().unwrap();
    assert_eq!(ready.status(), 200);
}

#[test]
fn sigterm_lets_reviews_end() {
    let Some(setup) = Setup::all() else { return };
    let cluster = Arc::new(Cluster::default());
    let (request, documents, expected) = case("seed-thin");
    cluster.load(documents);
    let mut webhook = setup.kubeconfig(&cluster.serve()).start();
    let closed = cluster.gate.blocking_write();
    let (url, body) = (webhook.url.clone(), review(&request).to_string());
    let under_way = std::thread::spawn(move || post(&url, "/mutate", body.as_bytes()));
    wait_until(|| !cluster.asked().is_empty());
    kill(Pid::from_raw(webhook.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    webhook.line("ending");
    let address = webhook.url.trim_start_matches("https://");
    wait_until(|| TcpStream::connect(address).is_err());
    drop(closed);
    let (code, body) = under_way.join().unwrap();
    assert_eq!(code, 200, "{body}");
    let review: Value = serde_json::from_str(&body).unwrap();
    assert_expected("seed-thin", &request, &review["response"], &expected);
    assert!(webhook.child.wait().unwrap().success());
}

#[test]
fn what_cannot_be_served_is_told_with_its_file() {
    for (option, text) in [
        ("--metadata", "some: other"),
        ("--tls-key", "no key"),
        ("--settings", "destinatoin: eci"),
        ("--kubeconfig", "clusters: []"),
    ] {
        let Some(mut broken) = Setup::all() else { return };
        broken.file(option, text);
        let output = broken.fail();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        let says = if option == "--settings" { "destinatoin" } else { option.trim_start_matches('-') };
        assert!(stderr.starts_with("error: ") && stderr.contains(says), "{option}: {stderr}");
    }
}
