//! The proxies that the environment names.
//!
//! Decides as curl does: `http_proxy` and `https_proxy` are for URLs of their scheme, `all_proxy` is for schemes
//! without a variable of their own. `no_proxy` names servers that need no proxy: hosts with all names below them,
//! addresses and networks, with or without a port. Names of variables may have lower or upper case; lower case comes
//! first. `connect` speaks to the proxy.

use std::net::IpAddr;
use std::sync::LazyLock;

use log::warn;
use opendal::raw::format_authorization_by_basic;
use ureq::ProxyProtocol;

/// A proxy for requests of one scheme.
#[derive(Clone, Debug)]
pub(super) struct Proxy {
    /// For ureq, which opens tunnels.
    pub(super) tunnel: ureq::Proxy,
}

impl Proxy {
    fn parse(variable: &str, text: &str) -> Option<Self> {
        match ureq::Proxy::new(text) {
            Ok(proxy) if matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https) => {
                Some(Proxy { tunnel: proxy })
            }
            Ok(_) => {
                warn!("the proxy of {variable} is not used: only http:// and https:// proxies are supported");
                None
            }
            Err(_) => {
                warn!("the proxy of {variable} is not used: it is no URL");
                None
            }
        }
    }

    /// The URL without credentials, for messages.
    pub(super) fn shown(&self) -> String {
        let scheme = if self.tunnel.protocol() == ProxyProtocol::Https { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.tunnel.host(), self.tunnel.port())
    }

    /// The value of `proxy-authorization`, if the URL has a user.
    pub(super) fn authorization(&self) -> Option<String> {
        let user = self.tunnel.username()?;
        format_authorization_by_basic(user, self.tunnel.password().unwrap_or_default()).ok()
    }

    /// Whether a URL is the proxy itself.
    pub(super) fn is(&self, uri: &http::Uri) -> bool {
        uri.authority() == self.tunnel.uri().authority()
    }
}

/// The proxies that the environment names.
#[derive(Default)]
struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    exceptions: Vec<Exception>,
}

static PROXIES: LazyLock<Proxies> = LazyLock::new(|| Proxies::read(|name| std::env::var(name).ok()));

/// The proxy for requests to a URL, if there is one.
pub(super) fn of(uri: &http::Uri) -> Option<&'static Proxy> {
    PROXIES.of(uri)
}

impl Proxies {
    fn read(environment: impl Fn(&str) -> Option<String>) -> Self {
        let value = |name: &str| {
            let of =
                |name: String| Some((environment(&name).filter(|value| !value.trim().is_empty())?, name));
            of(name.to_string()).or_else(|| of(name.to_uppercase()))
        };
        let proxy = |name: &str| {
            let (text, variable) = value(name).or_else(|| value("all_proxy"))?;
            Proxy::parse(&variable, text.trim())
        };
        let exceptions = value("no_proxy").map(|(text, _)| text).unwrap_or_default();
        Proxies {
            http: proxy("http_proxy"),
            https: proxy("https_proxy"),
            exceptions: exceptions
                .split([',', ' ', '\t'])
                .filter(|entry| !entry.is_empty())
                .map(Exception::parse)
                .collect(),
        }
    }

    fn of(&self, uri: &http::Uri) -> Option<&Proxy> {
        let (proxy, usual_port) = match uri.scheme_str()? {
            "https" => (self.https.as_ref()?, 443),
            _ => (self.http.as_ref()?, 80),
        };
        let host = uri.host()?.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(usual_port);
        (!self.exceptions.iter().any(|exception| exception.is_of(&host, port))).then_some(proxy)
    }
}

/// Servers that are reached without a proxy.
struct Exception {
    hosts: Hosts,
    port: Option<u16>,
}

enum Hosts {
    All,
    /// A name and all names below it.
    Domain(String),
    /// The addresses that have the first bits of this one in common.
    Network(IpAddr, u32),
}

impl Exception {
    fn parse(entry: &str) -> Self {
        let entry = entry.to_ascii_lowercase();
        if entry == "*" {
            return Exception { hosts: Hosts::All, port: None };
        }
        if let Some((address, bits)) = entry.split_once('/')
            && let (Ok(address), Ok(bits)) = (address.parse(), bits.parse())
        {
            return Exception { hosts: Hosts::Network(address, bits), port: None };
        }
        // The last part of an IPv6 address without brackets is no port.
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()),
            _ => (entry.as_str(), None),
        };
        let host = host.trim_matches(['[', ']']);
        let hosts = match host.parse() {
            Ok(address) => Hosts::Network(address, u32::MAX),
            Err(_) => Hosts::Domain(host.trim_start_matches("*.").trim_matches('.').to_string()),
        };
        Exception { hosts, port }
    }

    fn is_of(&self, host: &str, port: u16) -> bool {
        let is_host = match &self.hosts {
            Hosts::All => true,
            Hosts::Domain(domain) => {
                let above = host.strip_suffix(domain.as_str());
                above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
            }
            Hosts::Network(network, bits) => {
                host.parse().is_ok_and(|address| begins_alike(*network, address, *bits))
            }
        };
        is_host && self.port.is_none_or(|wanted| wanted == port)
    }
}

fn begins_alike(one: IpAddr, other: IpAddr, bits: u32) -> bool {
    // The first bits first, as many as the address has.
    let bits_of = |address: IpAddr| match address.to_canonical() {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let ((one, length), (other, other_length)) = (bits_of(one), bits_of(other));
    let rest = 128 - bits.min(length);
    length == other_length && (one ^ other).checked_shr(rest).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy_of(environment: &[(&str, &str)], url: &str) -> Option<String> {
        let value =
            |name: &str| environment.iter().find(|(of, _)| *of == name).map(|(_, value)| value.to_string());
        Proxies::read(value).of(&url.parse().unwrap()).map(Proxy::shown)
    }

    #[test]
    fn a_proxy_is_for_its_scheme() {
        let (http, https) = (("http_proxy", "http://a:1"), ("HTTPS_PROXY", "b:2"));
        let all = ("all_proxy", "https://user:secret@c");
        let shown = |name: &str| Some(name.to_string());
        assert_eq!(proxy_of(&[http, https], "http://x"), shown("http://a:1"));
        assert_eq!(proxy_of(&[http, https], "https://x"), shown("http://b:2"));
        assert_eq!(proxy_of(&[https], "http://x"), None);
        assert_eq!(proxy_of(&[http], "https://x"), None);
        assert_eq!(proxy_of(&[all, http], "https://x"), shown("https://c:443"));
        assert_eq!(proxy_of(&[("HTTP_PROXY", "u"), ("http_proxy", "l")], "http://x"), shown("http://l:80"));
        assert_eq!(proxy_of(&[("http_proxy", " ")], "http://x"), None);
        assert_eq!(proxy_of(&[("http_proxy", "socks5://a")], "http://x"), None);
    }

    #[test]
    fn some_servers_are_reached_without() {
        let is_direct = |exceptions: &str, url: &str| {
            proxy_of(&[("all_proxy", "p"), ("no_proxy", exceptions)], url).is_none()
        };
        for (exceptions, direct, proxied) in [
            ("*", &["http://x", "https://[::1]:3/"][..], &[][..]),
            ("a.b", &["http://a.b", "https://A.b.:3", "http://c.a.b"], &["http://aa.b", "http://b"]),
            (".a.b, d", &["http://c.a.b", "http://a.b", "http://d"], &["http://xa.b", "http://dd"]),
            ("*.a.b", &["http://c.a.b"], &["http://xa.b"]),
            ("a:81 b:443", &["http://a:81", "https://b"], &["http://a", "http://b"]),
            (
                "10.0.0.0/8",
                &["http://10.1.2.3:9000"],
                &["http://11.0.0.1", "http://10.x", "http://[::a00:1]"],
            ),
            ("0.0.0.0/0", &["http://1.2.3.4"], &["http://[::1]", "http://x"]),
            (
                "127.0.0.1:90,::1",
                &["http://127.0.0.1:90", "http://[::1]:7"],
                &["http://127.0.0.1", "http://[::2]"],
            ),
            ("fd00::/8,[fe80::1]:80", &["http://[fd12::1]", "http://[fe80::1]"], &["http://[fe80::1]:81"]),
            ("10.0.0.0/40,a/b,:", &[], &["http://10.0.0.1", "http://a"]),
        ] {
            for url in direct {
                assert!(is_direct(exceptions, url), "{exceptions} {url}");
            }
            for url in proxied {
                assert!(!is_direct(exceptions, url), "{exceptions} {url}");
            }
        }
    }
}
