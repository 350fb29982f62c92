//! The address of the client that sent a request: the other end of the connection or, behind a reverse proxy, the
//! address that the proxy names.

use std::{
    any::Any,
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, request::Parts},
};

use crate::{
    config::{AddressHeader, ConnectionsSection, IpNetwork},
    error::Result,
};

/// The address of the client that sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

impl<S: Sync> FromRequestParts<S> for ClientAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::from_parts(parts))
    }
}

impl ClientAddress {
    /// Returns the address of the client that sent a request.
    pub fn from_parts(parts: &Parts) -> Self {
        // Without a connection, as in tests of a handler, all requests share one address.
        let unspecified = Self(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        parts.extensions.get().copied().unwrap_or(unspecified)
    }
}

/// Returns the address that represents one subscriber. For IPv6 it is the /64 network, because one subscriber has all
/// of it.
pub fn subscriber_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => {
            let network = ip.to_bits() & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Marks the connection of a request as in use while a clone exists. Requests and their responses do this
/// automatically. Anything that outlasts the response, such as a WebSocket, keeps a clone.
#[derive(Clone)]
pub struct KeepOpen {
    _open_request: Arc<dyn Any + Send + Sync>,
}

impl KeepOpen {
    /// Wraps a request that counts as open until the last clone is dropped.
    pub fn new(open_request: Arc<dyn Any + Send + Sync>) -> Self {
        Self {
            _open_request: open_request,
        }
    }
}

/// The reverse proxies that are trusted to name a client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TrustedProxies {
    networks: Arc<[IpNetwork]>,
    headers: Arc<[AddressHeader]>,
}

impl TrustedProxies {
    /// Returns the proxies that the configuration names.
    pub fn new(config: &ConnectionsSection) -> Self {
        Self {
            networks: config.trusted_proxies.as_slice().into(),
            headers: config.address_headers.as_slice().into(),
        }
    }

    /// Returns whether an address is that of a trusted proxy.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks
            .iter()
            .any(|network| network.contains(address))
    }

    /// Returns the client of a request that came over a connection from `connected`.
    ///
    /// It is the last address that is not a trusted proxy; a client can invent the addresses before it.
    pub fn client_address(&self, connected: IpAddr, headers: &HeaderMap) -> ClientAddress {
        let mut client = connected.to_canonical();
        if !self.contains(client) {
            return ClientAddress(client);
        }
        let header = self.headers.iter().find(|h| headers.contains_key(h.name()));
        let Some(header) = header else {
            return ClientAddress(client);
        };
        let values: Vec<&str> = headers
            .get_all(header.name())
            .iter()
            .map(|value| value.to_str().unwrap_or_default())
            .flat_map(|value| value.split(','))
            .collect();
        for value in values.into_iter().rev() {
            let named = match header {
                AddressHeader::Forwarded => forwarded_for(value).and_then(read_address),
                AddressHeader::XForwardedFor | AddressHeader::XRealIp => read_address(value),
            };
            let Some(named) = named else { break };
            client = named;
            if !self.contains(client) {
                break;
            }
        }
        ClientAddress(client)
    }
}

/// Returns the `for` value of one element of a `Forwarded` header.
///
/// See [RFC 7239](https://www.rfc-editor.org/rfc/rfc7239#section-4).
fn forwarded_for(element: &str) -> Option<&str> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let is_for = name.trim().eq_ignore_ascii_case("for");
        is_for.then(|| value.trim().trim_matches('"'))
    })
}

/// Parses an address with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn read_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let address = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None if text.matches(':').count() == 1 => text.split_once(':')?.0,
        None => text,
    };
    let address: IpAddr = address.parse().ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn proxies() -> TrustedProxies {
        TrustedProxies::new(&ConnectionsSection {
            trusted_proxies: vec!["127.0.0.1".parse().unwrap(), "10.0.0.0/8".parse().unwrap()],
            ..ConnectionsSection::default()
        })
    }

    /// Returns the client of a request with these headers that comes from an address.
    fn client(connected: &str, headers: &[(&'static str, &str)]) -> String {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let ClientAddress(address) =
            proxies().client_address(connected.parse().unwrap(), &headers.collect());
        address.to_string()
    }

    #[test]
    fn each_supported_header_names_the_client() {
        for header in [
            ("x-forwarded-for", "198.51.100.7"),
            ("x-forwarded-for", "198.51.100.7:4711"),
            ("forwarded", "for=198.51.100.7;proto=https;by=10.0.0.1"),
            ("forwarded", "proto=https; For=\"198.51.100.7:80\""),
            ("x-real-ip", "198.51.100.7"),
            ("x-forwarded-for", "::ffff:198.51.100.7"),
        ] {
            assert_eq!(client("127.0.0.1", &[header]), "198.51.100.7", "{header:?}");
        }
        let v6 = ("forwarded", "for=\"[2001:db8::17]:4711\"");
        assert_eq!(client("::ffff:10.1.2.3", &[v6]), "2001:db8::17");
    }

    #[test]
    fn headers_from_untrusted_addresses_are_ignored() {
        let header = ("x-forwarded-for", "198.51.100.7");

        assert_eq!(client("192.0.2.1", &[header]), "192.0.2.1");
    }

    #[test]
    fn the_last_untrusted_address_is_the_client() {
        let chain = [("x-forwarded-for", "1.1.1.1, 198.51.100.7, 10.0.0.2")];
        assert_eq!(client("127.0.0.1", &chain), "198.51.100.7");

        let lines = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "198.51.100.7"),
        ];
        assert_eq!(client("127.0.0.1", &lines), "198.51.100.7");

        let only_proxies = [("x-forwarded-for", "10.0.0.3, 10.0.0.2")];
        assert_eq!(client("127.0.0.1", &only_proxies), "10.0.0.3");
    }

    #[test]
    fn an_unreadable_address_ends_the_search() {
        let chain = [("x-forwarded-for", "198.51.100.7, unknown, 10.0.0.2")];

        assert_eq!(client("127.0.0.1", &chain), "10.0.0.2");
        assert_eq!(client("127.0.0.1", &[("forwarded", "for=_x")]), "127.0.0.1");
    }

    #[test]
    fn only_the_first_configured_header_of_a_request_counts() {
        let both = [
            ("forwarded", "for=1.1.1.1"),
            ("x-forwarded-for", "198.51.100.7"),
        ];

        assert_eq!(client("127.0.0.1", &both), "198.51.100.7");
    }
}
