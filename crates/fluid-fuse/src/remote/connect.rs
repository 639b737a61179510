//! How ureq reaches a server: directly or through a proxy, with the TLS of this crate.
//!
//! Decides that `http` goes through a proxy as a request with a complete URL, and `https` through a tunnel, as in
//! curl: most proxies open tunnels to port 443 only. TLS is configured in one place for ureq and the fast path
//! ([`super::tls`]). The time to connect includes the lookup of the name ([`super::dns`]). [`super::proxy`] decides
//! which proxy leads to a server.

use std::cell::Cell;
use std::fmt;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use ureq::config::Config;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout,
    TcpConnector, Transport, TransportAdapter,
};
use ureq::{Agent, Error};

use super::dns;
use super::proxy;
use super::tls::{self, Verification};
use crate::outage::{ConnectPhase, InPhase};

/// Largest number of addresses of a name that are tried: ureq has room for 16.
const ADDRESSES: usize = 16;

/// The shortest time to connect to an address, so that a slow lookup leaves some.
const SHORTEST: Duration = Duration::from_millis(10);

/// Makes a client that connects through this module.
pub(super) fn agent(config: Config, verification: Verification) -> Agent {
    let connector = ().chain(ForwardProxy);
    let connector = connector.chain(ConnectProxyConnector::default()).chain(Sockets::default());
    Agent::with_parts(config, connector.chain(Tls(verification)), DnsResolver)
}

thread_local! {
    /// How long the last lookup of a name took on this thread. It is subtracted from the time to connect.
    static LOOKED_UP: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Looks up addresses, but not those of servers that the proxy looks up.
#[derive(Debug)]
struct DnsResolver;

impl Resolver for DnsResolver {
    fn resolve(
        &self,
        uri: &http::Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        LOOKED_UP.set(Duration::ZERO);
        let mut found = self.empty();
        if forward_proxy(uri).is_some() {
            return Ok(found);
        }
        let begun = Instant::now();
        let connect = config.timeouts().connect;
        let time = connect.map_or(*timeout.after, |connect| connect.min(*timeout.after));
        let host = uri.host().ok_or(Error::HostNotFound)?;
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let addresses = dns::addresses(host, port, time)?;
        LOOKED_UP.set(begun.elapsed());
        for address in config.ip_family().keep_wanted(addresses.into_iter()).take(ADDRESSES) {
            found.push(address);
        }
        if found.is_empty() { Err(Error::HostNotFound) } else { Ok(found) }
    }
}

/// Connects to an address in the time that the lookup of its name has left.
#[derive(Debug, Default)]
struct Sockets(TcpConnector);

impl<In: Transport> Connector<In> for Sockets {
    type Out = <TcpConnector as Connector<In>>::Out;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let _phase = InPhase::begin(ConnectPhase::Connection);
        let mut timeout = details.timeout;
        if !timeout.after.is_not_happening() {
            timeout.after = timeout.after.saturating_sub(LOOKED_UP.take()).max(SHORTEST).into();
        }
        self.0.connect(&ConnectionDetails { timeout, ..again(details) }, chained)
    }
}

/// A copy of the details of a connection.
fn again<'a>(details: &ConnectionDetails<'a>) -> ConnectionDetails<'a> {
    ConnectionDetails {
        uri: details.uri,
        addrs: details.addrs.clone(),
        config: details.config,
        request_level: details.request_level,
        resolver: details.resolver,
        now: details.now,
        timeout: details.timeout,
        current_time: details.current_time.clone(),
        run_connector: details.run_connector.clone(),
        register_shutdown: details.register_shutdown.clone(),
    }
}

/// The proxy that gets requests with complete URLs for a server.
fn forward_proxy(uri: &http::Uri) -> Option<&'static proxy::Proxy> {
    // A connection to a proxy, or to the proxy of a tunnel, does not go through another proxy.
    let is_plain = uri.scheme_str() == Some("http");
    proxy::of(uri).filter(|proxy| is_plain && !proxy.is(uri) && !is_tunnel(uri))
}

/// Whether a URL is the proxy of a tunnel.
fn is_tunnel(uri: &http::Uri) -> bool {
    let anywhere = http::Uri::from_static("https://anywhere.invalid/");
    proxy::of(&anywhere).is_some_and(|proxy| proxy.is(uri))
}

/// Connects to the proxy instead of the server.
#[derive(Debug)]
struct ForwardProxy;

impl Connector<()> for ForwardProxy {
    type Out = Layer<Forwarded>;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Self::Out>, Error> {
        let Some(proxy) = forward_proxy(details.uri) else { return Ok(None) };
        let uri = proxy.tunnel.uri();
        let addrs = details.resolver.resolve(uri, details.config, details.timeout)?;
        let connection = (details.run_connector)(&ConnectionDetails { uri, addrs, ..again(details) })?;
        let authority = details.uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let stream = Forwarded {
            stream: TransportAdapter::new(connection, details.current_time.clone()),
            origin: format!("http://{authority}"),
            authorization: proxy.authorization(),
            begins: true,
        };
        Ok(Some(Layer::new(details, stream)))
    }
}

/// Speaks TLS where a URL wants it.
struct Tls(Verification);

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Tls")
    }
}

impl<In: Transport> Connector<In> for Tls {
    type Out = Either<In, Layer<Encrypted>>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']).to_string();
        let name = ServerName::try_from(host).map_err(|_| Error::Tls("the host has no name for TLS"))?;
        let session = tls::client(self.0).and_then(|client| ClientConnection::new(client, name));
        let mut session = session.map_err(std::io::Error::other)?;
        let mut stream = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        stream.set_timeout(details.timeout);
        session.complete_io(&mut stream)?;
        Ok(Some(Either::B(Layer::new(details, Encrypted(StreamOwned::new(session, stream))))))
    }
}

/// A layer of a connection: TLS, or the requests of a proxy.
trait Through: Read + Write + Send + Sync + 'static {
    const IS_TLS: bool;

    fn connection(&mut self) -> &mut TransportAdapter;
}

struct Encrypted(StreamOwned<ClientConnection, TransportAdapter>);

impl Through for Encrypted {
    const IS_TLS: bool = true;

    fn connection(&mut self) -> &mut TransportAdapter {
        &mut self.0.sock
    }
}

impl Read for Encrypted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Encrypted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Requests with complete URLs, for a proxy.
struct Forwarded {
    stream: TransportAdapter,
    origin: String,
    authorization: Option<String>,
    /// Whether what is written next begins a request.
    begins: bool,
}

impl Through for Forwarded {
    const IS_TLS: bool = false;

    fn connection(&mut self) -> &mut TransportAdapter {
        &mut self.stream
    }
}

impl Read for Forwarded {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.begins = true;
        self.stream.read(buffer)
    }
}

impl Write for Forwarded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // The client writes the head of a request at once.
        if std::mem::take(&mut self.begins)
            && let Some(space) = bytes.iter().position(|byte| *byte == b' ')
            && let Some(line) = bytes.windows(2).position(|end| end == b"\r\n")
        {
            let (method, rest) = bytes.split_at(space + 1);
            let (target, rest) = rest.split_at((line + 2).saturating_sub(space + 1));
            let authorization = self.authorization.iter();
            let authorization: String =
                authorization.map(|value| format!("proxy-authorization: {value}\r\n")).collect();
            let whole = [method, self.origin.as_bytes(), target, authorization.as_bytes(), rest].concat();
            self.stream.write_all(&whole)?;
            return Ok(bytes.len());
        }
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

/// A stream with the buffers that ureq expects.
struct Layer<S> {
    buffers: LazyBuffers,
    stream: S,
}

impl<S> Layer<S> {
    fn new(details: &ConnectionDetails<'_>, stream: S) -> Self {
        let (input, output) = (details.config.input_buffer_size(), details.config.output_buffer_size());
        Layer { buffers: LazyBuffers::new(input, output), stream }
    }
}

impl<S> fmt::Debug for Layer<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Layer")
    }
}

impl<S: Through> Transport for Layer<S> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.connection().set_timeout(timeout);
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        Ok(self.stream.write_all(output)?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.connection().set_timeout(timeout);
        let read = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.connection().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        S::IS_TLS
    }
}
