//! opendal's HTTP transport: its requests on ureq, a complete HTTP client that blocks.
//!
//! Checks each response where it arrives: a range must be the requested one, a body that is not the bytes of a file
//! has limits, and a listing must pass [`super::listing`]. An error response becomes a [`StoreError`], which
//! [`block_on`] returns: opendal's own errors know fewer statuses and show more than they should. The transport does
//! not know how requests are signed.

use std::future::Future;
use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fluid_sidecar_layout::source::Scheme;
use http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, COOKIE, ETAG, HOST, HeaderMap, IF_MATCH,
    RANGE, RETRY_AFTER,
};
use http::{Method, Request, Response};
use log::debug;
use opendal::{
    Buffer, Error, ErrorKind, Executor, HttpBody, HttpTransport, HttpTransporter, OperationContext,
};
use ureq::{Agent, SendBody};

use super::Host;
use super::body::{BufferedBody, CHUNK, Once, StreamedBody, read_body, read_until};
use super::executor::{
    CallingThread, block_on, fail, fail_permanently, keep_failure, take_failure, with_listing,
};
use super::request::{BUCKET_REGION, describe, describe_with_proxy, head_text, header, origin};
use super::response::{self, ErrorResponse, Headers};
use super::timeouts::{IDLE_TIME, Timeouts};
use super::tls::{self, Verification};
use super::{connect, proxy, redirect};
use crate::limits::{self, Until};
use crate::store::StoreError;

/// Largest head of a response, in bytes: ureq keeps a head in less than 64 KiB.
const MAX_HEAD: usize = 32 * 1024;

/// Largest body that is sent with a deadline for the response, in bytes. Sockets on the path buffer some MiB at most,
/// so a server that accepts a larger body works.
const MAX_BUFFERED: usize = 1 << 20;

/// Largest number of idle connections to one host: metadata requests of more threads open new ones.
const MAX_IDLE_PER_HOST: usize = 8;

/// The shortest timeout of a request, so that ureq reports the timeout itself.
const SHORTEST: Duration = Duration::from_millis(10);

/// Bytes that are read of the body of an error.
const ERROR_BODY: u64 = 64 * 1024;

/// The context in which opendal's operations run.
pub(super) fn context(config: TransportConfig, signer: Option<Arc<dyn SignRequest>>) -> OperationContext {
    let transport = HttpTransporter::new(Transport::new(config, signer));
    OperationContext::new().with_http_transport(transport).with_executor(Executor::with(CallingThread))
}

/// Makes the requests that opendal sends without a context, to assume roles, use this transport, too.
pub(super) fn install(config: TransportConfig) {
    HttpTransporter::install_default(Transport::new(
        TransportConfig { scheme: None, verification: Verification::Full, ..config },
        None,
    ));
}

/// How much is read of the response to a request of this crate.
#[derive(Clone, Copy, Debug)]
pub(super) enum ResponseExtent {
    /// Its head only.
    Head,
    /// All of it, up to this number of bytes.
    Whole(usize),
}

/// The head of a response, and its error if it is one.
pub(super) struct ResponseHead {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) refused: Option<StoreError>,
}

/// Sends a request; returns the head of the response.
pub(super) fn head(context: &OperationContext, request: Request<Buffer>) -> Result<ResponseHead, StoreError> {
    let description = describe(request.method(), request.uri());
    let response = block_on(|| description, context.http_transport().fetch(request))?;
    let refused = take_failure();
    let (parts, _) = response.into_parts();
    Ok(ResponseHead { status: parts.status.as_u16(), headers: parts.headers, refused })
}

/// Sends a request; returns the headers and the body of the response.
pub(super) fn document(
    context: &OperationContext,
    request: Request<Buffer>,
) -> Result<(HeaderMap, Buffer), StoreError> {
    let description = describe(request.method(), request.uri());
    let response = block_on(|| description, async {
        let response = context.http_transport().send(request).await?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(Error::new(ErrorKind::Unexpected, "not a document")),
        }
    })?;
    let (parts, body) = response.into_parts();
    Ok((parts.headers, body))
}

/// Requests a text.
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

/// The configuration of a transport for one store.
#[derive(Clone, Debug)]
pub(super) struct TransportConfig {
    /// None for servers of credentials.
    pub(super) scheme: Option<Scheme>,
    pub(super) timeouts: Timeouts,
    pub(super) verification: Verification,
    /// How long a response may take that is not the bytes of a file.
    pub(super) io_timeout: Duration,
    /// The hosts to which redirects may lead beside their origin.
    pub(super) redirects: Arc<[Host]>,
}

/// Signs the requests that opendal leaves unsigned.
pub(super) trait SignRequest: Send + Sync {
    /// Signs the headers, or the query for that time.
    fn sign<'a>(
        &'a self,
        request: &'a mut http::request::Parts,
        query_expiry: Option<Duration>,
    ) -> Pin<Box<dyn Future<Output = opendal::Result<()>> + Send + 'a>>;
}

/// opendal's HTTP transport on a client that blocks.
pub(super) struct Transport {
    /// Signs requests that opendal leaves unsigned.
    signer: Option<Arc<dyn SignRequest>>,
    config: TransportConfig,
    agent: Agent,
}

impl Transport {
    pub(super) fn new(config: TransportConfig, signer: Option<Arc<dyn SignRequest>>) -> Self {
        let agent = connect::agent(configuration(config.timeouts), config.verification);
        Self { signer, config, agent }
    }

    /// Whether the response is the bytes of a file, which the reader counts.
    fn is_read(&self, request: &Request<Buffer>) -> bool {
        let query = request.uri().query().unwrap_or_default();
        let opens = || query.split('&').any(|part| part.eq_ignore_ascii_case("op=OPEN"));
        request.headers().contains_key(RANGE) || self.config.scheme == Some(Scheme::Webhdfs) && opens()
    }

    /// Whether the document `Error` is an error with any status: not where documents are files.
    fn has_errors_in_success(&self) -> bool {
        !matches!(self.config.scheme, None | Some(Scheme::Http | Scheme::Webhdfs))
    }

    /// The message for an error, without the request: its query may hold a signature.
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

    /// Sends a request, and follows redirects. The timeout is for requests without a body.
    fn exchange(
        &self,
        mut parts: http::request::Parts,
        body: Buffer,
        timeout: Option<Duration>,
    ) -> Result<(http::Uri, Response<ureq::Body>), StoreError> {
        let sends = matches!(parts.method, Method::PUT | Method::POST | Method::PATCH) || !body.is_empty();
        for _ in 0..=limits::REDIRECTS {
            let uri = parts.uri.clone();
            let description = describe_with_proxy(&parts.method, &uri);
            let unavailable = |error: &ureq::Error| {
                StoreError::Unavailable(format!("{description}: {}", self.explain_ureq(error)))
            };
            let agent = &self.agent;
            // Requests to `http` go through a proxy without a tunnel (`connect`).
            let tunnel = proxy::of(&uri).filter(|_| uri.scheme_str() == Some("https"));
            let tunnel = tunnel.map(|proxy| proxy.tunnel.clone());
            let answered = if sends {
                let mut parts = parts.clone();
                parts.headers.entry(CONTENT_LENGTH).or_insert(body.len().into());
                let request = Request::from_parts(parts, SendBody::from_owned_reader(body.clone()));
                let request = agent.configure_request(request).proxy(tunnel);
                // A store that accepts a large body works. A small one may be in buffers on the path to a store that
                // has stopped.
                if body.len() <= MAX_BUFFERED {
                    let within = |time| Some(Until::left(time).max(SHORTEST));
                    let Timeouts { connect, first_byte, .. } = self.config.timeouts;
                    let request = request.timeout_connect(within(connect));
                    agent.run(request.timeout_recv_response(within(first_byte)).build())
                } else {
                    agent.run(request.build())
                }
            } else {
                // The lookup, the connection and the response have one deadline.
                let timeout = timeout.map(Until::left);
                let request = Request::from_parts(parts.clone(), ());
                agent.run(agent.configure_request(request).proxy(tunnel).timeout_global(timeout).build())
            };
            let response = answered.map_err(|error| match &error {
                // The proxy will refuse the next time, too.
                ureq::Error::ConnectProxyFailed(reason) if reason.contains("407") => StoreError::Failed(
                    format!("{description}: {reason} (its user and password belong into its URL)"),
                ),
                error => unavailable(error),
            })?;
            let (answer, answer_body) = response.into_parts();
            let is_repeatable = !sends && matches!(parts.method, Method::GET | Method::HEAD);
            match redirect::target(self.config.scheme, &self.config.redirects, &uri, &answer)?
                .filter(|_| is_repeatable)
            {
                None => return Ok((uri, Response::from_parts(answer, answer_body))),
                Some(to) => {
                    if origin(&to) != origin(&uri) {
                        // Credentials of one server are not sent to another.
                        for name in [AUTHORIZATION, COOKIE, HOST] {
                            parts.headers.remove(name);
                        }
                    }
                    parts.uri = to;
                }
            }
        }
        Err(StoreError::Failed(format!("{}: too many redirects", describe(&parts.method, &parts.uri))))
    }
}

fn configuration(timeouts: Timeouts) -> ureq::config::Config {
    Agent::config_builder()
        // The proxy is chosen for each request.
        .proxy(None)
        .http_status_as_error(false)
        // This module follows redirects, after `redirect` has checked them.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_response_header_size(MAX_HEAD)
        .user_agent(concat!("fluid-fuse/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity")
        .input_buffer_size(CHUNK)
        .max_idle_connections_per_host(MAX_IDLE_PER_HOST)
        .max_idle_age(IDLE_TIME)
        .timeout_connect(Some(timeouts.connect))
        .timeout_recv_response(Some(timeouts.first_byte))
        .timeout_per_read(Some(timeouts.stall.max(timeouts.first_byte)))
        .timeout_per_write(Some(timeouts.stall))
        .build()
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let description = describe_with_proxy(request.method(), request.uri());
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
        // The extensions are for opendal only.
        parts.extensions = http::Extensions::new();
        let (url, headers) = (parts.uri.clone(), parts.headers.clone());
        let sent = || head_text(&url, &headers);
        let timeout = (!is_read).then_some(self.config.io_timeout);
        let (uri, response) = self.exchange(parts, body, timeout).map_err(fail)?;
        let (mut parts, body) = response.into_parts();
        let status = parts.status.as_u16();
        debug!("{description}: {status}");
        let length = header(&parts.headers, CONTENT_LENGTH).and_then(|length| length.parse().ok());
        // S3 answers with a redirect for a bucket in another region.
        if status >= 400 || status >= 300 && !redirect::is_followed(self.config.scheme) {
            // The status is known. The reason is read as far as it arrives in time.
            let until = Instant::now() + self.config.timeouts.stall;
            let text = read_until(body.into_reader().take(ERROR_BODY), until);
            let error = ErrorResponse {
                request: description,
                status,
                reason: response::reason(&text, &sent()),
                retry_after: header(&parts.headers, RETRY_AFTER).map(str::to_string),
                region: header(&parts.headers, BUCKET_REGION).map(str::to_string),
                scheme: self.config.scheme,
            };
            keep_failure(error.into_error());
            let text = Buffer::from(text);
            let size = text.len() as u64;
            let size = (!head).then_some(size);
            return Ok(Response::from_parts(parts, HttpBody::new(Once(Some(text)), size)));
        }
        if let Some(ResponseExtent::Head) = extent {
            return Ok(Response::from_parts(parts, HttpBody::new(Once(None), None)));
        }
        if let (Some(range), 200..=299) = (&range, status) {
            let content_range = header(&parts.headers, CONTENT_RANGE);
            let headers = Headers { length, range: content_range, etag: header(&parts.headers, ETAG) };
            response::check_range(status, &headers, range, None, etag.as_deref())
                .map_err(fail_permanently)?;
        }
        if header(&parts.headers, ETAG).is_none_or(|etag| response::etag(etag).is_none()) {
            parts.headers.remove(ETAG);
        }
        if !is_read {
            // The time for the body of the request does not count.
            let _uncounted = is_sent.then(|| Until::uncounted(limits::WRITTEN));
            let until = if is_sent { Instant::now() + limits::WRITTEN } else { until };
            let most = if let Some(ResponseExtent::Whole(most)) = extent { most } else { limits::ANSWER };
            let text = if head {
                BufferedBody::default()
            } else {
                read_body(&description, body, length, most, until)?
            };
            let has_errors = self.has_errors_in_success();
            if has_errors && let Some(reason) = response::error_in_success(&text.bytes, &sent()) {
                let scheme = self.config.scheme;
                let error = ErrorResponse {
                    request: description,
                    status,
                    reason,
                    scheme,
                    ..ErrorResponse::default()
                }
                .into_error();
                return Err(fail(error));
            }
            let size = if head { length } else { Some(text.bytes.len() as u64) };
            return self.checked(parts, &uri, text, size.filter(|_| !head));
        }
        let encoded = parts.headers.contains_key(CONTENT_ENCODING);
        let size = length.filter(|_| !head && !encoded);
        let chunk =
            size.and_then(|size| usize::try_from(size).ok()).map_or(CHUNK, |size| size.clamp(1, CHUNK));
        Ok(Response::from_parts(
            parts,
            HttpBody::new(StreamedBody { body: body.into_reader(), size: chunk, request: description }, size),
        ))
    }
}

impl Transport {
    /// The response without the entries of a listing that opendal must not read.
    fn checked(
        &self,
        mut parts: http::response::Parts,
        uri: &http::Uri,
        mut answer: BufferedBody,
        size: Option<u64>,
    ) -> opendal::Result<Response<HttpBody>> {
        let before = answer.bytes.len();
        let listed = with_listing(|listing| match listing {
            Some(listing) if parts.status.is_success() => listing.take(uri, &mut answer.bytes),
            _ => Ok(()),
        });
        listed.map_err(fail_permanently)?;
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
