//! A webhook server for a real API server, for development and tests.
//!
//! What policy-server does for one policy, and no more: AdmissionReviews come in over TLS, each gets an instance of
//! its own, the policy's reads go to the cluster or to files, within what the policy's metadata declares, and the
//! answers leave as policy-server's would. It does not know how the webhook is registered, and it takes requests
//! from anybody, as webhooks do.
//!
//! Missing on purpose: several policies, reloads, metrics, the limit of a policy's time (the API server has one).

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use clap::Args;
use k8s_openapi::ByteString;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use crate::answer::{Answer, check_settings};
use crate::api_server::ApiServer;
use crate::engine::{Host, Policy};
use crate::input::Request;
use crate::metadata::Metadata;
use crate::objects::Objects;
use crate::reads::Read;
use crate::yaml;

/// The API server takes objects of 3 MiB at most; a review has up to two of them.
const LARGEST_BODY: usize = 8 << 20;
/// Each holds a thread and an instance of the policy, also while it waits for the cluster.
const REVIEWS_AT_ONCE: usize = 32;
/// The longest that an API server waits for a webhook.
const LONGEST_END: Duration = Duration::from_secs(30);

/// What to serve, and with what.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Options {
    /// The server's certificate, with its chain, as PEM. It must be valid for the name or address that the API
    /// server calls.
    #[arg(long, value_name = "FILE")]
    tls_cert: PathBuf,
    /// The key of the certificate, as PEM.
    #[arg(long, value_name = "FILE")]
    tls_key: PathBuf,
    /// Address and port to listen on; port 0 takes a free one, which is printed.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// The compiled policy.
    #[arg(long, value_name = "FILE", default_value = "target/policy.wasm")]
    policy: PathBuf,
    /// The policy's settings, as under `spec.settings` of a ClusterAdmissionPolicy.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// The policy's metadata: its `contextAwareResources` are what it may read, `mutating` whether it may change
    /// objects.
    #[arg(long, value_name = "FILE", default_value = "policy-metadata.yml")]
    metadata: PathBuf,
    /// Answer the policy's reads from the cluster of this kubeconfig, with its account's rights.
    #[arg(long, value_name = "FILE", conflicts_with = "objects")]
    kubeconfig: Option<PathBuf>,
    /// Answer the policy's reads from files, as without `serve`.
    #[arg(long, value_name = "FILE_OR_DIR")]
    objects: Vec<PathBuf>,
}

const AFTER_HELP: &str = "\
For development and tests. In production Kubewarden's policy-server runs the policy.

POST /mutate, or /validate/<any id> as policy-server has it, takes an AdmissionReview of
admission.k8s.io/v1; GET /readiness says that the server is up. Each review is a line on
standard error. SIGTERM and SIGINT end the server once the reviews under way are answered.

Example, for an API server that reaches this machine as 127.0.0.1:
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -keyout tls.key -out tls.crt \\
    -subj /CN=fluid-sidecar -addext subjectAltName=IP:127.0.0.1
  kubectl-fluid_sidecar serve --tls-cert tls.crt --tls-key tls.key --kubeconfig ~/.kube/config
  kubectl apply -f - <<END
  apiVersion: admissionregistration.k8s.io/v1
  kind: MutatingWebhookConfiguration
  metadata: {name: fluid-sidecar}
  webhooks:
  - name: fluid-sidecar.example.org
    admissionReviewVersions: [v1]
    sideEffects: None
    clientConfig:
      url: https://127.0.0.1:8443/mutate
      caBundle: $(base64 -w0 <tls.crt)
    rules:
    - {apiGroups: [''], apiVersions: [v1], resources: [pods], operations: [CREATE]}
  END";

/// Serves until SIGTERM or SIGINT.
pub fn serve(options: &Options) -> Result<()> {
    let metadata = Metadata::read(&options.metadata)
        .context("the policy's metadata says what it may read; `--metadata` names the file")?;
    let settings = yaml::read_settings(options.settings.as_deref())?;
    let policy = Policy::load(&options.policy)?;
    check_settings(&policy, &settings)?;
    // Fails only when there is one already, which would do.
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime = tokio::runtime::Runtime::new().context("no threads")?;
    let outcome = runtime.block_on(async {
        let source = Source::new(options).await?;
        let announcement = format!("{}, {source}", options.policy.display());
        let server = Server {
            policy,
            settings,
            mutating: metadata.mutating,
            host: source.into_host(metadata),
            places: Arc::new(Semaphore::new(REVIEWS_AT_ONCE)),
        };
        listen(options, &announcement, server).await
    });
    // A review that was given up on must not hold the end back.
    runtime.shutdown_background();
    outcome
}

async fn listen(options: &Options, announcement: &str, server: Server) -> Result<()> {
    let (certificate, key) = (&options.tls_cert, &options.tls_key);
    let tls = RustlsConfig::from_pem_file(certificate, key).await.with_context(|| {
        format!("--tls-cert {} and --tls-key {} cannot be used", certificate.display(), key.display())
    })?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener = TcpListener::bind(options.listen)
        .with_context(|| format!("cannot listen on {}; `--listen` names another address", options.listen))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;

    let handle = Handle::new();
    let ending = handle.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        anstream::eprintln!("ending: no new connections, the reviews under way are finished");
        ending.graceful_shutdown(Some(LONGEST_END));
    });

    let router = Router::new()
        .route("/mutate", post(take))
        .route("/validate/{id}", post(take))
        .route("/readiness", get(|| async {}))
        .fallback(|| async {
            (StatusCode::NOT_FOUND, "post an AdmissionReview to /validate/<any id> or /mutate\n")
        })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(Arc::new(server));
    let served = axum_server::from_tcp_rustls(listener, tls)?
        .handle(handle)
        // Above all TLS: an API server that does not trust the certificate ends the handshake without a word.
        .accept_error_handler(|from, error| match from {
            Some(from) => anstream::eprintln!("no connection with {from}: {error}"),
            None => anstream::eprintln!("no connection: {error}"),
        });
    anstream::eprintln!("serving https://{address}: {announcement}");
    Ok(served.serve(router.into_make_service()).await?)
}

struct Server {
    policy: Policy,
    settings: Value,
    mutating: bool,
    host: Host,
    places: Arc<Semaphore>,
}

async fn take(State(server): State<Arc<Server>>, body: Result<Bytes, BytesRejection>) -> Response {
    let request = match body {
        Ok(body) => parse(&body),
        Err(rejection) => {
            let text = format!("{}; at most {LARGEST_BODY} bytes are read\n", rejection.body_text());
            return (rejection.status(), text).into_response();
        }
    };
    let request = match request {
        Ok(request) => request,
        Err(text) => return (StatusCode::BAD_REQUEST, text + "\n").into_response(),
    };
    let reviewed = async {
        let place = Arc::clone(&server.places).acquire_owned().await?;
        let review = move || {
            // Kept to the end of the review, even when nobody waits for it any more.
            let _place = place;
            server.review(&request)
        };
        anyhow::Ok(tokio::task::spawn_blocking(review).await?)
    };
    match reviewed.await {
        Ok(review) => ([(CONTENT_TYPE, "application/json")], review.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}

/// The request of an AdmissionReview; the error says what is wrong with it.
fn parse(body: &[u8]) -> Result<Request, String> {
    let expected = "expected an AdmissionReview of admission.k8s.io/v1";
    let mut review: Value = serde_json::from_slice(body)
        .map_err(|error| format!("the body is not JSON ({error}); {expected}"))?;
    let text = |pointer: &str| review.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    match (text("/apiVersion"), text("/kind"), text("/request/uid")) {
        ("admission.k8s.io/v1", "AdmissionReview", "") => Err("request.uid is missing".into()),
        ("admission.k8s.io/v1", "AdmissionReview", _) => Ok(Request::new(review["request"].take())),
        (api_version, kind, _) => Err(format!(
            "apiVersion is {api_version:?} and kind {kind:?}; {expected}: the webhook configuration needs \
             `admissionReviewVersions: [v1]`"
        )),
    }
}

impl Server {
    /// The AdmissionReview that answers.
    fn review(&self, request: &Request) -> Value {
        let begun = Instant::now();
        let answer = Answer::ask(&self.policy, request, &self.settings, &self.host)
            .unwrap_or_else(|error| Answer::rejection(format!("internal server error: {error:#}"), Some(500)))
            .constrained(request, self.mutating);
        let mut response = answer.response(request);
        let mut operations = 0;
        if let Some(patch) = response.get_mut("patch") {
            operations = patch.as_array().map_or(0, Vec::len);
            *patch = json!(ByteString(patch.to_string().into_bytes()));
        }
        anstream::eprintln!(
            "{} {} {}, {:.1} ms, {operations} patch operations",
            request.full_name().escape_debug(),
            request.operation().escape_debug(),
            if answer.accepted { "allowed" } else { "denied" },
            begun.elapsed().as_secs_f64() * 1e3,
        );
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }
}

/// Who answers the policy's reads.
enum Source {
    ApiServer(ApiServer),
    Files(Objects),
    Nobody,
}

impl std::fmt::Display for Source {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::ApiServer(server) => write!(formatter, "reads from {}", server.url()),
            Source::Files(_) => formatter.write_str("reads from files"),
            Source::Nobody => formatter.write_str("reads fail: neither --kubeconfig nor --objects is given"),
        }
    }
}

impl Source {
    async fn new(options: &Options) -> Result<Source> {
        Ok(match &options.kubeconfig {
            Some(kubeconfig) => Source::ApiServer(ApiServer::from_kubeconfig(kubeconfig).await?),
            None if options.objects.is_empty() => Source::Nobody,
            None => Source::Files(Objects::read(&options.objects)?),
        })
    }

    fn get(&self, read: &Read) -> Result<Option<Value>, String> {
        match self {
            Source::ApiServer(server) => server.get(read),
            Source::Files(objects) => objects.get(read).map(Option::<&Value>::cloned),
            Source::Nobody => Err("serve has no cluster: neither --kubeconfig nor --objects is given".into()),
        }
    }

    /// Answers what the metadata declares. Who serves sees why a read failed, whatever the policy makes of it.
    fn into_host(self, metadata: Metadata) -> Host {
        Arc::new(move |namespace, operation, payload| {
            let read = Read::parse(namespace, operation, payload)?;
            let found = metadata.grant(&read).map(|()| self.get(&read));
            if let Err(text) | Ok(Err(text)) = &found {
                let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
                anstream::eprintln!(
                    "cannot read {}: {}",
                    read.to_string().escape_debug(),
                    text.escape_debug()
                );
            }
            read.answer(found?)
        })
    }
}
