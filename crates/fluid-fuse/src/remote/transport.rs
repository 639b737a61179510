//! The long way of bytes: opendal's requests on a whole HTTP client that blocks.
//!
//! Decides how a future that only ever waits for blocking calls is run on the calling thread ([`block_on`]),
//! and checks each answer where it arrives: a part of a file must be the part that was asked for, and what is an
//! error is kept as ours ([`block_on`] gives it back), since opendal's own errors know fewer statuses and show
//! more than they should. It does not know which store it talks to.

use std::cell::RefCell;
use std::future::Future;
use std::io::Read;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, IF_MATCH,
    RANGE, RETRY_AFTER,
};
use http::{Method, Request, Response};
use log::debug;
use opendal::{
    Buffer, Error, ErrorKind, Execute, Executor, HttpBody, HttpTransport, HttpTransporter, OperationContext,
};
use tokio::runtime::{Builder, Runtime};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, SendBody};

use super::answer::{self, Headers, Refusal};
use super::options::Timeouts;
use super::oss::OssSigner;
use super::tls;
use crate::store::StoreError;

/// Bytes of a body that are read at once: beyond 128 KiB, the allocator asks the kernel each time.
const PIECE: usize = 96 * 1024;

/// What opendal says of a request that cannot be signed.
pub(super) const SIGNING: &str = "signing http request";

/// What is read of the body of an error.
const ERROR_BODY: u64 = 64 * 1024;

/// Where S3 says in which region a bucket is.
const BUCKET_REGION: HeaderName = HeaderName::from_static("x-amz-bucket-region");

thread_local! {
    /// The last answer on this thread that was an error.
    static FAILURE: RefCell<Option<StoreError>> = const { RefCell::new(None) };
}

/// For the library that signs, which reads files with tokio; it has threads only while a file is read.
static RUNTIME: LazyLock<Option<Runtime>> =
    LazyLock::new(|| Builder::new_current_thread().max_blocking_threads(2).build().ok());

/// Runs one of opendal's futures here and now.
pub(super) fn block_on<T>(
    what: impl FnOnce() -> String,
    future: impl Future<Output = opendal::Result<T>>,
) -> Result<T, StoreError> {
    let _context = RUNTIME.as_ref().map(Runtime::enter);
    FAILURE.take();
    pollster::block_on(future).map_err(|error| explain(what, &error))
}

fn explain(what: impl FnOnce() -> String, error: &Error) -> StoreError {
    let answered = FAILURE.take();
    if error.message() == SIGNING {
        let reason = answered.map(|answer| format!(" ({answer})")).unwrap_or_default();
        return StoreError::Denied(format!("{}: no credentials were found{reason}", what()));
    }
    match (answered, error.kind()) {
        (Some(answered), _) => answered,
        (None, ErrorKind::NotFound) => StoreError::NotFound,
        (None, ErrorKind::PermissionDenied) => StoreError::Denied(what()),
        (None, ErrorKind::ConditionNotMatch | ErrorKind::RangeNotSatisfied) => StoreError::Stale,
        (None, ErrorKind::Unsupported) => StoreError::Unsupported("this operation"),
        (None, kind) if error.is_temporary() => StoreError::Unavailable(format!("{}: {kind}", what())),
        (None, kind) => StoreError::Failed(format!("{}: {kind}", what())),
    }
}

/// What opendal's operations run on.
pub(super) fn context(timeouts: Timeouts, redirects: u32, signer: Option<OssSigner>) -> OperationContext {
    let transport = HttpTransporter::new(Transport::new(timeouts, redirects, signer));
    OperationContext::new().with_http_transport(transport).with_executor(Executor::with(Here))
}

/// Makes what opendal asks for without a context (roles are assumed so) go the same way.
pub(super) fn install(timeouts: Timeouts) {
    HttpTransporter::install_default(Transport::new(timeouts, 0, None));
}

/// A document, by the same client.
pub(super) fn text(
    context: &OperationContext,
    uri: &http::Uri,
    authorization: Option<http::HeaderValue>,
) -> Result<String, StoreError> {
    let mut request = Request::new(Buffer::new());
    *request.uri_mut() = uri.clone();
    request.headers_mut().extend(authorization.map(|value| (AUTHORIZATION, value)));
    let body = block_on(|| shown(&Method::GET, uri), async {
        let response = context.http_transport().send(request).await?;
        match response.status().is_success() {
            true => Ok(response.into_body()),
            false => Err(Error::new(ErrorKind::Unexpected, "not a document")),
        }
    })?;
    Ok(String::from_utf8_lossy(&body.to_vec()).into_owned())
}

/// A URL as it may be shown: without its query, where signatures are.
pub(super) fn shown(method: &Method, uri: &http::Uri) -> String {
    let host =
        uri.authority().map(|of| of.as_str().rsplit('@').next().unwrap_or_default()).unwrap_or_default();
    format!("{method} {}://{host}{}", uri.scheme_str().unwrap_or_default(), uri.path())
}

/// Runs tasks where they are started: all that they wait for blocks.
struct Here;

impl Execute for Here {
    fn execute(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        pollster::block_on(task);
    }
}

pub(super) struct Transport {
    /// What signs requests that opendal leaves unsigned.
    signer: Option<OssSigner>,
    timeouts: Timeouts,
    redirects: u32,
    plain: Agent,
    /// For `https`: made when it is needed, since it reads the system's certificates.
    secure: OnceLock<Agent>,
}

impl Transport {
    pub(super) fn new(timeouts: Timeouts, redirects: u32, signer: Option<OssSigner>) -> Self {
        Self { signer, timeouts, redirects, plain: agent(timeouts, redirects, None), secure: OnceLock::new() }
    }

    fn agent(&self, uri: &http::Uri) -> &Agent {
        match uri.scheme_str() {
            Some("https") => self.secure.get_or_init(|| {
                let roots = match tls::SYSTEM.as_slice() {
                    [] => RootCerts::WebPki,
                    system => RootCerts::Specific(Arc::new(
                        system.iter().map(|found| Certificate::from_der(found).to_owned()).collect(),
                    )),
                };
                agent(self.timeouts, self.redirects, Some(roots))
            }),
            _ => &self.plain,
        }
    }
}

fn agent(timeouts: Timeouts, redirects: u32, roots: Option<RootCerts>) -> Agent {
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(tls::PROVIDER.clone())
        .root_certs(roots.unwrap_or(RootCerts::WebPki));
    Agent::config_builder()
        .tls_config(tls.build())
        .http_status_as_error(false)
        .max_redirects(redirects)
        .max_redirects_will_error(false)
        .user_agent(concat!("fluid-fuse/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity")
        .input_buffer_size(PIECE)
        .max_idle_connections_per_host(8)
        .max_idle_age(Duration::from_secs(8))
        .timeout_connect(Some(timeouts.connect))
        .timeout_recv_response(Some(timeouts.first_byte))
        .timeout_per_read(Some(timeouts.stall.max(timeouts.first_byte)))
        .timeout_per_write(Some(timeouts.stall))
        .build()
        .into()
}

fn fail(error: StoreError, temporary: bool) -> Error {
    let text = error.to_string();
    FAILURE.set(Some(error));
    let error = Error::new(ErrorKind::Unexpected, text);
    if temporary { error.set_temporary() } else { error }
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let asked = shown(request.method(), request.uri());
        let head = *request.method() == Method::HEAD;
        let range = header(request.headers(), RANGE).and_then(answer::parse_range);
        let etag = header(request.headers(), IF_MATCH).map(str::to_string);
        let agent = self.agent(request.uri());
        let (mut parts, body) = request.into_parts();
        if let Some(signer) = &self.signer {
            signer.sign(&mut parts, None).await?;
        }
        // Extensions are opendal's own.
        parts.extensions = http::Extensions::new();
        let sends = matches!(parts.method, Method::PUT | Method::POST | Method::PATCH);
        let answered = match sends || !body.is_empty() {
            true => {
                parts.headers.entry(CONTENT_LENGTH).or_insert(body.len().into());
                agent.run(Request::from_parts(parts, SendBody::from_owned_reader(body)))
            }
            false => agent.run(Request::from_parts(parts, ())),
        };
        let response = answered.map_err(|error| {
            fail(StoreError::Unavailable(format!("{asked}: {}", explain_ureq(&error))), true)
        })?;
        let (parts, body) = response.into_parts();
        let status = parts.status.as_u16();
        debug!("{asked}: {status}");
        let length = header(&parts.headers, CONTENT_LENGTH).and_then(|length| length.parse().ok());
        // A redirect that is not followed is how S3 answers for a bucket in another region.
        if status >= 400 || status >= 300 && self.redirects == 0 {
            // The status is known; the reason is told as far as it comes in time.
            let text = read_until(body.into_reader().take(ERROR_BODY), Instant::now() + self.timeouts.stall);
            let refusal = Refusal {
                asked,
                status,
                code: answer::error_code(&text),
                retry_after: header(&parts.headers, RETRY_AFTER).map(str::to_string),
                region: header(&parts.headers, BUCKET_REGION).map(str::to_string),
            };
            FAILURE.set(Some(refusal.into_error()));
            let text = Buffer::from(text);
            let size = text.len() as u64;
            let size = (!head).then_some(size);
            return Ok(Response::from_parts(parts, HttpBody::new(Once(Some(text)), size)));
        }
        if let (Some(range), 200..=299) = (&range, status) {
            let told = header(&parts.headers, CONTENT_RANGE);
            let headers = Headers { length, range: told, etag: header(&parts.headers, ETAG) };
            answer::check_range(status, &headers, range, None, etag.as_deref())
                .map_err(|error| fail(error, false))?;
        }
        let encoded = parts.headers.contains_key(CONTENT_ENCODING);
        let size = length.filter(|_| !head && !encoded);
        let piece =
            size.and_then(|size| usize::try_from(size).ok()).map_or(PIECE, |size| size.clamp(1, PIECE));
        Ok(Response::from_parts(
            parts,
            HttpBody::new(Pieces { body: body.into_reader(), size: piece, asked }, size),
        ))
    }
}

/// What can be read until a moment; a byte now and then does not put it off.
fn read_until(mut body: impl Read, moment: Instant) -> Vec<u8> {
    let (mut text, mut piece) = (Vec::new(), [0; 4096]);
    while Instant::now() < moment
        && let Ok(read @ 1..) = body.read(&mut piece)
    {
        text.extend_from_slice(piece.get(..read).unwrap_or_default());
    }
    text
}

/// Without what was asked: it can have a query.
fn explain_ureq(error: &ureq::Error) -> String {
    match error {
        ureq::Error::BadUri(_) => "not a URL".to_string(),
        ureq::Error::Timeout(what) => format!("no answer in time ({what:?})"),
        ureq::Error::RequireHttpsOnly(_) => "not https".to_string(),
        other => other.to_string(),
    }
}

/// A body that is there already.
struct Once(Option<Buffer>);

impl futures_core::Stream for Once {
    type Item = opendal::Result<Buffer>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.take().filter(|body| !body.is_empty()).map(Ok))
    }
}

/// A body as it arrives.
struct Pieces<R> {
    body: R,
    size: usize,
    asked: String,
}

impl<R: Read + Unpin> futures_core::Stream for Pieces<R> {
    type Item = opendal::Result<Buffer>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut piece = vec![0; self.size];
        Poll::Ready(match self.body.read(&mut piece) {
            Ok(0) => None,
            Ok(read) => {
                piece.truncate(read);
                Some(Ok(Buffer::from(piece)))
            }
            Err(error) => {
                let text = format!("{}: {}", self.asked, error.kind());
                Some(Err(fail(StoreError::Unavailable(text), true)))
            }
        })
    }
}
