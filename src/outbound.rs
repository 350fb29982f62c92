//! HTTP connections from this server to others. They must not lead into the private network of this server.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use reqwest::{
    Certificate, Client, ClientBuilder, Response, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};
use url::Host;

use crate::error::{Error, Result};

/// The maximum time for making a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum number of redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// The time for which an unused connection to another server is kept, and the number of such connections.
const IDLE_TIMEOUT: Duration = Duration::from_mins(5);
const MAX_IDLE_CONNECTIONS: usize = 4;
/// The interval at which an open connection is checked while a response is awaited, and the time limit for each check.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// The `User-Agent` header of this server.
const USER_AGENT: &str = concat!("Parlour/", env!("CARGO_PKG_VERSION"));

/// The addresses that may be contacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkReach {
    /// Only addresses of the public network.
    Public,
    /// Loopback and private addresses as well: for tests and closed networks.
    Everywhere,
}

/// The certificates that are trusted.
#[derive(Clone, Debug)]
pub struct CertificateTrust {
    authorities: Vec<Certificate>,
    verify: bool,
}

impl Default for CertificateTrust {
    fn default() -> Self {
        Self {
            authorities: Vec::new(),
            verify: true,
        }
    }
}

impl CertificateTrust {
    /// Reads PEM files of authorities that are trusted in addition to the system's. Without `verify`, every certificate
    /// is accepted.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or contains no certificate.
    pub fn read(files: &[PathBuf], verify: bool) -> Result<Self> {
        let mut authorities = Vec::new();
        for file in files {
            let failed = |source: String| {
                let source = format!("{}: {source}", file.display());
                Error::internal("read a trusted authority", source)
            };
            let pem = fs::read(file).map_err(|error| failed(error.to_string()))?;
            let found = Certificate::from_pem_bundle(&pem).unwrap_or_default();
            if found.is_empty() {
                let text = "the file contains no certificate: expected a PEM file with `-----BEGIN CERTIFICATE-----`";
                return Err(failed(text.to_owned()));
            }
            authorities.extend(found);
        }
        Ok(Self {
            authorities,
            verify,
        })
    }
}

/// Chooses the TLS cryptography implementation for the whole process. An earlier choice is kept.
pub fn choose_cryptography() {
    // An error only means that an implementation was already chosen.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Returns a client for web pages that users name. It contacts only HTTP and HTTPS addresses within `reach`, also after
/// name resolution and redirects.
///
/// The caller must [check](check_url) an address before requesting it.
///
/// # Errors
///
/// When the system's certificates cannot be used.
pub fn web_client(reach: NetworkReach) -> Result<Client> {
    web_client_with_trust(reach, &CertificateTrust::default())
}

/// Returns a client like [`web_client`] that also trusts other certificates.
///
/// # Errors
///
/// When the certificates cannot be used.
pub fn web_client_with_trust(reach: NetworkReach, trust: &CertificateTrust) -> Result<Client> {
    let redirects = Policy::custom(move |attempt| {
        if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("too many redirects")
        } else if check_url(attempt.url(), reach).is_err() {
            attempt.error("the redirect leads to an address that this server does not contact")
        } else {
            attempt.follow()
        }
    });
    let resolver = Arc::new(ReachableResolver { reach });
    build_client(client_builder(trust, resolver).redirect(redirects))
}

/// Returns a client for requests to other servers, which keeps its connections. The resolver must make sure that no
/// name leads [out of reach](resolve_addresses).
///
/// # Errors
///
/// When the certificates cannot be used.
pub fn server_client(trust: &CertificateTrust, resolver: Arc<dyn Resolve>) -> Result<Client> {
    let builder = client_builder(trust, resolver)
        .redirect(Policy::none())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        .tcp_keepalive(KEEP_ALIVE_INTERVAL)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .http2_keep_alive_timeout(KEEP_ALIVE_INTERVAL)
        .http2_adaptive_window(true);
    build_client(builder)
}

/// Returns a client for services whose addresses the administrator has configured. They may have private addresses. It
/// follows no redirects.
///
/// # Errors
///
/// When the system's certificates cannot be used.
pub fn configured_service_client() -> Result<Client> {
    let resolver = Arc::new(ReachableResolver {
        reach: NetworkReach::Everywhere,
    });
    let builder = client_builder(&CertificateTrust::default(), resolver);
    build_client(builder.redirect(Policy::none()))
}

fn client_builder(trust: &CertificateTrust, resolver: Arc<dyn Resolve>) -> ClientBuilder {
    choose_cryptography();
    ClientBuilder::new()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_TIMEOUT)
        .referer(false)
        .no_proxy()
        .dns_resolver(resolver)
        .tls_certs_merge(trust.authorities.iter().cloned())
        .tls_danger_accept_invalid_certs(!trust.verify)
}

fn build_client(builder: ClientBuilder) -> Result<Client> {
    builder
        .build()
        .map_err(|source| Error::internal("set up an HTTP client", source))
}

/// Reads the body of a response, of at most `max_bytes`.
///
/// # Errors
///
/// [`Error::Unreachable`] when it is larger, or ends before it is complete.
pub async fn read_body(mut response: Response, max_bytes: usize) -> Result<Vec<u8>> {
    let failed = |error: reqwest::Error| Error::Unreachable(error.without_url().to_string());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len().saturating_add(chunk.len()) > max_bytes {
            let text = format!("the answer is larger than {max_bytes} bytes");
            return Err(Error::Unreachable(text));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Resolves a name to its addresses within `reach`.
///
/// # Errors
///
/// When it has none.
pub async fn resolve_addresses(
    name: &str,
    port: u16,
    reach: NetworkReach,
) -> io::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((name, port)).await?;
    let within: Vec<SocketAddr> = found.filter(|to| is_within(to.ip(), reach)).collect();
    if within.is_empty() {
        let text = "the name has no address that this server may contact";
        return Err(io::Error::other(text));
    }
    Ok(within)
}

/// Checks that a URL may be requested. Names are resolved and checked later, when they are used.
///
/// # Errors
///
/// [`Error::Forbidden`] when it may not.
pub fn check_url(url: &Url, reach: NetworkReach) -> Result<()> {
    let refused = || Error::forbidden("this server does not contact such an address");
    if !matches!(url.scheme(), "http" | "https")
        || !url.username().is_empty()
        || url.password().is_some()
    {
        return Err(refused());
    }
    let ip = match url.host() {
        Some(Host::Domain(_)) => return Ok(()),
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip),
        None => return Err(refused()),
    };
    if is_within(ip, reach) {
        Ok(())
    } else {
        Err(refused())
    }
}

/// Resolves names to addresses that may be contacted. The connection is made to the address returned here, so a name
/// cannot resolve to something else between the check and the connection.
struct ReachableResolver {
    reach: NetworkReach,
}

impl Resolve for ReachableResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.reach;
        Box::pin(async move {
            let found = resolve_addresses(name.as_str(), 0, reach).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn is_within(ip: IpAddr, reach: NetworkReach) -> bool {
    let is_public = match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    };
    reach == NetworkReach::Everywhere || is_public
}

/// Returns whether an address belongs to the public network, according to the [registry of special-purpose
/// addresses](https://www.iana.org/assignments/iana-ipv4-special-registry).
fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let is_special = ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_documentation()
        // "this network", shared by providers, protocol assignments, 6to4 relays, benchmarks, reserved
        || a == 0
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b))
        || a >= 240;
    !is_special
}

/// Returns whether an address belongs to the public network. An embedded IPv4 address is checked instead.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    let embedded = |high: u16, low: u16| {
        let bits = (u32::from(high) << 16) | u32::from(low);
        is_public_v4(Ipv4Addr::from_bits(bits))
    };
    match segments {
        // mapped, compatible (with loopback and unspecified), translated, 6to4
        [0, 0, 0, 0, 0, 0xffff | 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => embedded(high, low),
        // documentation, Teredo and other protocol assignments
        [0x2001, 0xdb8 | 0..=0x1ff, ..] => false,
        // global unicast is 2000::/3, and nothing else belongs to the public network
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for public in [
            "1.1.1.1",
            "100.63.0.1",
            "172.32.0.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
        ] {
            assert!(
                is_within(public.parse().unwrap(), NetworkReach::Public),
                "{public}"
            );
        }
        for special in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "192.0.0.8",
            "203.0.113.5",
            "240.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
            "100::1",
        ] {
            let ip = special.parse().unwrap();
            assert!(!is_within(ip, NetworkReach::Public), "{special}");
            assert!(is_within(ip, NetworkReach::Everywhere), "{special}");
        }
    }

    #[test]
    fn only_web_urls_without_a_login_may_be_requested() {
        let check = |text: &str| check_url(&text.parse().unwrap(), NetworkReach::Public).is_ok();

        assert!(check("https://example.org/a?b"));
        assert!(check("http://1.1.1.1:8080/"));
        for refused in [
            "file:///etc/passwd",
            "ftp://example.org/",
            "http://user@example.org/",
            "http://127.0.0.1/",
            "http://[::1]/",
            "http://2130706433/",
            "http://0x7f.1/",
        ] {
            assert!(!check(refused), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_this_machine_is_refused() {
        let resolver = |reach| ReachableResolver { reach };
        let name = || "localhost".parse::<Name>().unwrap();

        assert!(
            resolver(NetworkReach::Public)
                .resolve(name())
                .await
                .is_err()
        );
        assert!(
            resolver(NetworkReach::Everywhere)
                .resolve(name())
                .await
                .is_ok()
        );
    }
}
