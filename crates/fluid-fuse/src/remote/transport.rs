//! The long way of bytes: opendal's requests on a whole HTTP client that blocks.
//!
//! Decides how a future that only ever waits for blocking calls is run on the calling thread ([`block_on`]),
//! and checks each answer where it arrives: a part of a file must be the part that was asked for, and what is an
//! error is kept as ours ([`block_on`] gives it back), since opendal's own errors know fewer statuses and show
//! more than they should. It does not know which store it talks to.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fluid_sidecar_layout::source::Scheme;
use http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, COOKIE, ETAG, HOST, HeaderMap,
    HeaderName, IF_MATCH, LOCATION, RANGE, RETRY_AFTER,
};
use http::{Method, Request, Response};
use log::debug;
use opendal::{
    Buffer, Error, ErrorKind, Execute, Executor, HttpBody, HttpTransport, HttpTransporter, OperationContext,
};
use tokio::runtime::{Builder, Runtime};
use ureq::{Agent, SendBody};

use super::Host;
use super::listing::ListingGuard;
use super::options::Timeouts;
use super::oss::OssSigner;
use super::response::{self, ErrorResponse, Headers};
use super::tls::{self, Verification};
use super::{connect, proxy};
use crate::limits::{self, Held, Until};
use crate::store::StoreError;

/// Bytes of a body that are read at once: beyond 128 KiB, the allocator asks the kernel each time.
const PIECE: usize = 96 * 1024;

/// What opendal says of a request that cannot be signed.
pub(super) const SIGNING: &str = "signing http request";

/// The head of an answer, as the library keeps it in less than 64 KiB.
const HEAD: usize = 32 * 1024;

/// Bytes that are sent although the server takes none: what the sockets on the way keep is some MiB at most.
const BUFFERED: usize = 1 << 20;

/// The shortest time that a request is given, so that it fails by itself.
const SHORTEST: Duration = Duration::from_millis(10);

/// What is read of the body of an error.
const ERROR_BODY: u64 = 64 * 1024;

/// Letters of what the library says of an answer.
const UNREADABLE: usize = 200;

/// Where S3 says in which region a bucket is.
pub(super) const BUCKET_REGION: HeaderName = HeaderName::from_static("x-amz-bucket-region");

thread_local! {
    /// The last answer on this thread that was an error.
    static FAILURE: RefCell<Option<StoreError>> = const { RefCell::new(None) };
    /// The listing that this thread is asking for.
    static LISTING: RefCell<Option<ListingGuard>> = const { RefCell::new(None) };
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
        (None, _) if error.is_temporary() => StoreError::Unavailable(unreadable(&what(), error)),
        (None, _) => StoreError::Failed(unreadable(&what(), error)),
    }
}

/// The library could not do with an answer what it should. Its causes may repeat the answer, so they are not told.
fn unreadable(what: &str, error: &Error) -> String {
    let text: String = error.message().chars().take(UNREADABLE).collect();
    format!("{what}: the answer is not that of such a store ({text}): check the option endpoint")
}

/// What opendal's operations run on.
pub(super) fn context(config: TransportConfig, signer: Option<OssSigner>) -> OperationContext {
    let transport = HttpTransporter::new(Transport::new(config, signer));
    OperationContext::new().with_http_transport(transport).with_executor(Executor::with(Here))
}

/// Makes what opendal asks for without a context (roles are assumed so) go the same way.
pub(super) fn install(config: TransportConfig) {
    HttpTransporter::install_default(Transport::new(
        TransportConfig { scheme: None, verification: Verification::Full, ..config },
        None,
    ));
}

/// How much is wanted of the answer to a request that is ours and not opendal's.
#[derive(Clone, Copy, Debug)]
pub(super) enum ResponseExtent {
    /// Its head alone.
    Head,
    /// All of it, and at most so many bytes.
    Whole(usize),
}

/// The head of an answer, and what it means if it is an error.
pub(super) struct ResponseHead {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) refused: Option<StoreError>,
}

/// The head of the answer to a request.
pub(super) fn head(context: &OperationContext, request: Request<Buffer>) -> Result<ResponseHead, StoreError> {
    let asked = shown(request.method(), request.uri());
    let response = block_on(|| asked, context.http_transport().fetch(request))?;
    let refused = FAILURE.take();
    let (parts, _) = response.into_parts();
    Ok(ResponseHead { status: parts.status.as_u16(), headers: parts.headers, refused })
}

/// A document and the headers that it came with, by the same client.
pub(super) fn document(
    context: &OperationContext,
    request: Request<Buffer>,
) -> Result<(HeaderMap, Buffer), StoreError> {
    let asked = shown(request.method(), request.uri());
    let response = block_on(|| asked, async {
        let response = context.http_transport().send(request).await?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(Error::new(ErrorKind::Unexpected, "not a document")),
        }
    })?;
    let (parts, body) = response.into_parts();
    Ok((parts.headers, body))
}

/// A text, by the same client.
pub(super) fn text(
    context: &OperationContext,
    uri: &http::Uri,
    authorization: Option<http::HeaderValue>,
) -> Result<String, StoreError> {
    let mut request = Request::new(Buffer::new());
    *request.uri_mut() = uri.clone();
    request.headers_mut().extend(authorization.map(|value| (AUTHORIZATION, value)));
    let (_, body) = document(context, request)?;
    Ok(String::from_utf8_lossy(&body.to_vec()).into_owned())
}

/// A URL as it may be shown: without its query, where signatures are.
pub(super) fn shown(method: &Method, uri: &http::Uri) -> String {
    let host =
        uri.authority().map(|of| of.as_str().rsplit('@').next().unwrap_or_default()).unwrap_or_default();
    format!("{method} {}://{host}{}", uri.scheme_str().unwrap_or_default(), uri.path())
}

/// What is asked, and through which proxy: an answer may be the proxy's.
fn asked(method: &Method, uri: &http::Uri) -> String {
    match proxy::of(uri) {
        Some(proxy) => format!("{} through the proxy {}", shown(method, uri), proxy.shown()),
        None => shown(method, uri),
    }
}

/// The head of a request, as far as it may have secrets.
fn head_of(url: &http::Uri, headers: &HeaderMap) -> String {
    let lines = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes())));
    format!("GET {url} HTTP/1.1\r\n{}", lines.collect::<String>())
}

/// Runs tasks where they are started: all that they wait for blocks.
struct Here;

impl Execute for Here {
    fn execute(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        pollster::block_on(task);
    }
}

/// What a transport needs to know of the store that it leads to.
#[derive(Clone, Debug)]
pub(super) struct TransportConfig {
    /// None for those who give out credentials.
    pub(super) scheme: Option<Scheme>,
    pub(super) timeouts: Timeouts,
    pub(super) verification: Verification,
    /// How long an answer may take that is not the bytes of a file.
    pub(super) io_timeout: Duration,
    /// Where redirects may lead beside their origin.
    pub(super) redirects: Arc<[Host]>,
}

pub(super) struct Transport {
    /// What signs requests that opendal leaves unsigned.
    signer: Option<OssSigner>,
    config: TransportConfig,
    agent: Agent,
}

impl Transport {
    pub(super) fn new(config: TransportConfig, signer: Option<OssSigner>) -> Self {
        let agent = connect::agent(configuration(config.timeouts), config.verification);
        Self { signer, config, agent }
    }

    /// Whether the answer to a request is the bytes of a file, which who reads them counts.
    fn is_read(&self, request: &Request<Buffer>) -> bool {
        let query = request.uri().query().unwrap_or_default();
        let opens = || query.split('&').any(|part| part.eq_ignore_ascii_case("op=OPEN"));
        request.headers().contains_key(RANGE) || self.config.scheme == Some(Scheme::Webhdfs) && opens()
    }

    /// Whether redirects are followed: where there is one server, a plain one, or where they are how the store works.
    fn follows(&self) -> bool {
        matches!(self.config.scheme, Some(Scheme::Http | Scheme::Webhdfs))
    }

    /// Whether the document `Error` is an error whatever the status: not where documents are files.
    fn has_errors_in_success(&self) -> bool {
        !matches!(self.config.scheme, None | Some(Scheme::Http | Scheme::Webhdfs))
    }

    /// Where a redirect leads, if it is one that is followed.
    fn redirect(
        &self,
        from: &http::Uri,
        parts: &http::response::Parts,
    ) -> Result<Option<http::Uri>, StoreError> {
        if !self.follows() || !matches!(parts.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let asked = shown(&Method::GET, from);
        let to = header(&parts.headers, LOCATION).and_then(|location| resolve(from, location));
        let to = to.ok_or_else(|| StoreError::Failed(format!("{asked}: a redirect to nowhere")))?;
        // A node of HDFS has the bytes of the very file whose name another node knows.
        let is_node = self.config.scheme == Some(Scheme::Webhdfs)
            && to.path() == from.path()
            && to.path().starts_with("/webhdfs/v1/");
        let is_allowed = origin(&to) == origin(from)
            || is_node
            || self.config.redirects.iter().any(|host| host.is_of(&to));
        let is_downgrade = from.scheme_str() == Some("https") && to.scheme_str() != Some("https");
        match is_allowed && !is_downgrade {
            true => Ok(Some(to)),
            false => Err(StoreError::Failed(format!(
                "{asked}: it redirects to {}, another server, which is not followed (--allow-redirects)",
                shown_server(&to)
            ))),
        }
    }

    /// Without what was asked: it can have a query.
    fn explain_ureq(&self, error: &ureq::Error) -> String {
        match error {
            ureq::Error::BadUri(_) => "not a URL".to_string(),
            ureq::Error::Timeout(what) => format!("no answer in time ({what:?})"),
            ureq::Error::RequireHttpsOnly(_) => "not https".to_string(),
            ureq::Error::Io(error) => tls::explain(error),
            ureq::Error::HostNotFound if self.has_errors_in_success() => {
                "the host name is not known (check the option endpoint, and path_style if the name begins with the \
                 bucket)"
                    .to_string()
            }
            other => other.to_string(),
        }
    }

    /// Sends a request, and where its answer redirects to.
    fn exchange(
        &self,
        mut parts: http::request::Parts,
        body: Buffer,
        is_read: bool,
    ) -> Result<(http::Uri, Response<ureq::Body>), StoreError> {
        let sends = matches!(parts.method, Method::PUT | Method::POST | Method::PATCH) || !body.is_empty();
        for _ in 0..=limits::REDIRECTS {
            let uri = parts.uri.clone();
            let asked = asked(&parts.method, &uri);
            let unavailable = |error: &ureq::Error| {
                StoreError::Unavailable(format!("{asked}: {}", self.explain_ureq(error)))
            };
            let agent = &self.agent;
            // To `http` it leads otherwise.
            let tunnel = proxy::of(&uri).filter(|_| uri.scheme_str() == Some("https"));
            let tunnel = tunnel.map(|proxy| proxy.tunnel.clone());
            let answered = if sends {
                let mut parts = parts.clone();
                parts.headers.entry(CONTENT_LENGTH).or_insert(body.len().into());
                let request = Request::from_parts(parts, SendBody::from_owned_reader(body.clone()));
                let request = agent.configure_request(request).proxy(tunnel);
                // A store that takes much gets on. Little lies in buffers on the way to one that has stopped.
                if body.len() <= BUFFERED {
                    let within = |time| Some(Until::left(time).max(SHORTEST));
                    let Timeouts { connect, first_byte, .. } = self.config.timeouts;
                    let request = request.timeout_connect(within(connect));
                    agent.run(request.timeout_recv_response(within(first_byte)).build())
                } else {
                    agent.run(request.build())
                }
            } else {
                // Who looks for an address, connects and reads has one time for all of it.
                let time = (!is_read).then(|| Until::left(self.config.io_timeout));
                let request = Request::from_parts(parts.clone(), ());
                agent.run(agent.configure_request(request).proxy(tunnel).timeout_global(time).build())
            };
            let response = answered.map_err(|error| match &error {
                // It will not let us through the next time either.
                ureq::Error::ConnectProxyFailed(reason) if reason.contains("407") => StoreError::Failed(
                    format!("{asked}: {reason} (its user and password belong into its URL)"),
                ),
                error => unavailable(error),
            })?;
            let (answer, answer_body) = response.into_parts();
            let is_repeatable = !sends && matches!(parts.method, Method::GET | Method::HEAD);
            match self.redirect(&uri, &answer)?.filter(|_| is_repeatable) {
                None => return Ok((uri, Response::from_parts(answer, answer_body))),
                Some(to) => {
                    if origin(&to) != origin(&uri) {
                        // What is known to one server is not for another.
                        for name in [AUTHORIZATION, COOKIE, HOST] {
                            parts.headers.remove(name);
                        }
                    }
                    parts.uri = to;
                }
            }
        }
        Err(StoreError::Failed(format!("{}: too many redirects", shown(&parts.method, &parts.uri))))
    }
}

/// A URL that a redirect names, without its fragment; relative ones are of the same origin.
fn resolve(from: &http::Uri, location: &str) -> Option<http::Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    let text = match location {
        _ if location.contains("://") && !location.starts_with(['/', '?']) => location.to_string(),
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.starts_with('/') => format!("{scheme}://{authority}{location}"),
        _ => {
            let directory = from.path().rfind('/').and_then(|slash| from.path().get(..=slash)).unwrap_or("/");
            format!("{scheme}://{authority}{directory}{location}")
        }
    };
    let uri: http::Uri = text.parse().ok()?;
    let is_plain = matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    is_plain.then_some(uri)
}

/// Scheme, host and port.
fn origin(uri: &http::Uri) -> (Option<&str>, Option<String>, u16) {
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    (uri.scheme_str(), uri.host().map(str::to_ascii_lowercase), port)
}

fn shown_server(uri: &http::Uri) -> String {
    let (scheme, host, port) = origin(uri);
    format!("{}://{}:{port}", scheme.unwrap_or_default(), host.unwrap_or_default())
}

fn configuration(timeouts: Timeouts) -> ureq::config::Config {
    Agent::config_builder()
        // It is chosen for each request.
        .proxy(None)
        .http_status_as_error(false)
        // They are followed here, where it is decided whereto.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_response_header_size(HEAD)
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
}

fn fail(error: StoreError, temporary: bool) -> Error {
    let text = error.to_string();
    FAILURE.set(Some(error));
    let error = Error::new(ErrorKind::Unexpected, text);
    if temporary { error.set_temporary() } else { error }
}

pub(super) fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let asked = asked(request.method(), request.uri());
        let head = *request.method() == Method::HEAD;
        let range = header(request.headers(), RANGE).and_then(response::parse_range);
        let etag = header(request.headers(), IF_MATCH).map(str::to_string);
        let is_read = self.is_read(&request);
        let extent = request.extensions().get::<ResponseExtent>().copied();
        let is_sent = matches!(*request.method(), Method::PUT | Method::POST | Method::PATCH);
        let until = Until::moment().unwrap_or_else(|| Instant::now() + self.config.io_timeout);
        let (mut parts, body) = request.into_parts();
        if let Some(signer) = &self.signer {
            signer.sign(&mut parts, None).await?;
        }
        // Extensions are opendal's own.
        parts.extensions = http::Extensions::new();
        let (url, headers) = (parts.uri.clone(), parts.headers.clone());
        let sent = || head_of(&url, &headers);
        let answered = self.exchange(parts, body, is_read);
        let (uri, response) = answered.map_err(|error| {
            let temporary = matches!(error, StoreError::Unavailable(_));
            fail(error, temporary)
        })?;
        let (mut parts, body) = response.into_parts();
        let status = parts.status.as_u16();
        debug!("{asked}: {status}");
        let length = header(&parts.headers, CONTENT_LENGTH).and_then(|length| length.parse().ok());
        // A redirect that is not followed is how S3 answers for a bucket in another region.
        if status >= 400 || status >= 300 && !self.follows() {
            // The status is known; the reason is told as far as it comes in time.
            let until = Instant::now() + self.config.timeouts.stall;
            let text = read_until(body.into_reader().take(ERROR_BODY), until);
            let error = ErrorResponse {
                asked,
                status,
                reason: response::reason(&text, &sent()),
                retry_after: header(&parts.headers, RETRY_AFTER).map(str::to_string),
                region: header(&parts.headers, BUCKET_REGION).map(str::to_string),
                scheme: self.config.scheme,
            };
            FAILURE.set(Some(error.into_error()));
            let text = Buffer::from(text);
            let size = text.len() as u64;
            let size = (!head).then_some(size);
            return Ok(Response::from_parts(parts, HttpBody::new(Once(Some(text)), size)));
        }
        if let Some(ResponseExtent::Head) = extent {
            return Ok(Response::from_parts(parts, HttpBody::new(Once(None), None)));
        }
        if let (Some(range), 200..=299) = (&range, status) {
            let told = header(&parts.headers, CONTENT_RANGE);
            let headers = Headers { length, range: told, etag: header(&parts.headers, ETAG) };
            response::check_range(status, &headers, range, None, etag.as_deref())
                .map_err(|error| fail(error, false))?;
        }
        if header(&parts.headers, ETAG).is_none_or(|etag| response::etag(etag).is_none()) {
            parts.headers.remove(ETAG);
        }
        if !is_read {
            // What was sent may have taken its time.
            let _uncounted = is_sent.then(|| Until::uncounted(limits::WRITTEN));
            let until = if is_sent { Instant::now() + limits::WRITTEN } else { until };
            let most = if let Some(ResponseExtent::Whole(most)) = extent { most } else { limits::ANSWER };
            let text = if head { BufferedBody::default() } else { whole(&asked, body, length, most, until)? };
            let has_errors = self.has_errors_in_success();
            if has_errors && let Some(reason) = response::error_in_success(&text.bytes, &sent()) {
                let scheme = self.config.scheme;
                let error =
                    ErrorResponse { asked, status, reason, scheme, ..ErrorResponse::default() }.into_error();
                let temporary = matches!(error, StoreError::Unavailable(_));
                return Err(fail(error, temporary));
            }
            let size = if head { length } else { Some(text.bytes.len() as u64) };
            return self.checked(parts, &uri, text, size.filter(|_| !head));
        }
        let encoded = parts.headers.contains_key(CONTENT_ENCODING);
        let size = length.filter(|_| !head && !encoded);
        let piece =
            size.and_then(|size| usize::try_from(size).ok()).map_or(PIECE, |size| size.clamp(1, PIECE));
        Ok(Response::from_parts(
            parts,
            HttpBody::new(StreamedBody { body: body.into_reader(), size: piece, asked }, size),
        ))
    }
}

/// An answer that is here as a whole, and what counts its memory.
#[derive(Default)]
struct BufferedBody {
    bytes: Vec<u8>,
    _held: Held,
}

impl AsRef<[u8]> for BufferedBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// All of an answer that is not the bytes of a file, which has an end in bytes and in time.
fn whole(
    asked: &str,
    body: ureq::Body,
    length: Option<u64>,
    most: usize,
    until: Instant,
) -> opendal::Result<BufferedBody> {
    let too_large = || {
        let text = format!("{asked}: an answer of more than {} MiB", most >> 20);
        fail(StoreError::Failed(text), false)
    };
    if length.is_some_and(|length| length > most as u64) {
        return Err(too_large());
    }
    let (mut reader, mut answer) = (body.into_reader(), BufferedBody::default());
    let mut piece =
        vec![0; length.and_then(|it| usize::try_from(it).ok()).map_or(PIECE, |it| it.clamp(1, PIECE))];
    loop {
        let unavailable = |why: &str| fail(StoreError::Unavailable(format!("{asked}: {why}")), true);
        if Instant::now() > until {
            return Err(unavailable("the answer comes too slowly"));
        }
        let read = match reader.read(&mut piece) {
            Ok(0) => return Ok(answer),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unavailable(&error.kind().to_string())),
        };
        if answer.bytes.len() + read > most {
            return Err(too_large());
        }
        if !answer._held.take(read) {
            return Err(unavailable("too many large answers at a time"));
        }
        answer.bytes.extend_from_slice(piece.get(..read).unwrap_or_default());
    }
}

impl Transport {
    /// The answer as the library may read it.
    fn checked(
        &self,
        mut parts: http::response::Parts,
        uri: &http::Uri,
        mut answer: BufferedBody,
        size: Option<u64>,
    ) -> opendal::Result<Response<HttpBody>> {
        let before = answer.bytes.len();
        let listed = LISTING.with_borrow_mut(|listing| match listing {
            Some(listing) if parts.status.is_success() => listing.take(uri, &mut answer.bytes),
            _ => Ok(()),
        });
        listed.map_err(|error| fail(error, false))?;
        let size = match answer.bytes.len() {
            after if after != before => {
                parts.headers.remove(CONTENT_LENGTH);
                Some(after as u64)
            }
            _ => size,
        };
        let body = Buffer::from(Bytes::from_owner(answer));
        Ok(Response::from_parts(parts, HttpBody::new(Once(Some(body)), size)))
    }
}

/// Runs one of opendal's futures that asks for pages of a listing.
pub(super) fn block_on_listing<T>(
    listing: &mut ListingGuard,
    what: impl FnOnce() -> String,
    future: impl Future<Output = opendal::Result<T>>,
) -> Result<T, StoreError> {
    // Given back in any case, also by a panic of the library: the thread serves others, too.
    struct ReturnGuard<'a>(&'a mut ListingGuard);
    impl Drop for ReturnGuard<'_> {
        fn drop(&mut self) {
            if let Some(guard) = LISTING.take() {
                *self.0 = guard;
            }
        }
    }
    let returned = ReturnGuard(listing);
    LISTING.set(Some(std::mem::take(returned.0)));
    block_on(what, future)
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

/// A body that is there already.
struct Once(Option<Buffer>);

impl futures_core::Stream for Once {
    type Item = opendal::Result<Buffer>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.take().filter(|body| !body.is_empty()).map(Ok))
    }
}

/// A body as it arrives.
struct StreamedBody<R> {
    body: R,
    size: usize,
    asked: String,
}

impl<R: Read + Unpin> futures_core::Stream for StreamedBody<R> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn leads(scheme: Scheme, hosts: &[&str], from: &str, location: &str) -> Option<String> {
        let second = Duration::from_secs(1);
        let timeouts = Timeouts { connect: second, first_byte: second, stall: second };
        let redirects = hosts.iter().filter_map(|host| host.parse().ok()).collect();
        let config = TransportConfig {
            scheme: Some(scheme),
            timeouts,
            verification: Verification::Full,
            io_timeout: second,
            redirects,
        };
        let answer = Response::builder().status(302).header(LOCATION, location).body(()).unwrap();
        let to = Transport::new(config, None).redirect(&from.parse().unwrap(), &answer.into_parts().0);
        to.ok().flatten().map(|uri| uri.to_string())
    }

    #[test]
    fn f13_redirects_are_of_one_origin_and_never_down() {
        let from = "https://Host:443/a/b?q";
        let web = |hosts: &[&str], location| leads(Scheme::Http, hosts, from, location);
        for (location, to) in [
            ("https://host/x#y", "https://host/x"),
            ("/x", "https://host:443/x"),
            ("c?d", "https://host:443/a/c?d"),
            ("//host/x", "https://host/x"),
        ] {
            assert_eq!(web(&[], location).map(|to| to.to_lowercase()).as_deref(), Some(to), "{location}");
        }
        for location in
            ["http://host/x", "http://host:443/x", "https://host:444/x", "https://other/x", "//other/x"]
        {
            assert_eq!(web(&["host.example", "*.host"], location), None, "{location}");
        }
        assert!(web(&["other"], "https://OTHER/x").is_some() && web(&["*.b"], "https://a.b/x").is_some());
        assert_eq!(web(&["*.b"], "https://ab/x"), None);
        // Whatever is allowed.
        assert_eq!(web(&["*"], "http://host/x"), None);
        // S3 answers so for a bucket elsewhere.
        assert_eq!(leads(Scheme::S3, &["*"], from, "/x"), None);
        let hdfs = |location| leads(Scheme::Webhdfs, &[], "https://n/webhdfs/v1/f?op=OPEN", location);
        assert!(hdfs("https://d:9865/webhdfs/v1/f?op=OPEN&x=y").is_some());
        assert_eq!(hdfs("http://d:9864/webhdfs/v1/f?op=OPEN"), None);
        assert_eq!(hdfs("https://d:9865/webhdfs/v1/g?op=OPEN"), None);
    }
}
