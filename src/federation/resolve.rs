//! Finds the address of a server by the specification's steps, up to the names that are resolved when connecting.
//!
//! See the [specification](https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names).

use reqwest::{Client, Url};
use ruma::{OwnedServerName, ServerName};
use tokio::sync::OnceCell;

use super::{cache::LookupCache, well_known};
use crate::{
    clock::Clock,
    error::{Error, Result},
    outbound::{self, CertificateTrust, NetworkReach},
};

/// The default port of a server.
const DEFAULT_PORT: u16 = 8448;
/// The number of hosts whose delegation is cached (about 2 MB).
const MAX_CACHED_HOSTS: usize = 10_000;

/// The address to which requests for a server are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerAddress {
    /// The host and port of the address. The certificate must be valid for this host.
    pub(super) authority: String,
    /// The value of the `Host` header, where it differs from the authority.
    pub(super) host: Option<String>,
    /// Whether the host is resolved by SRV records; otherwise the address has a port.
    pub(super) uses_srv_records: bool,
}

impl ServerAddress {
    /// Returns the name that must be resolved.
    pub(super) fn dns_name(&self) -> &str {
        if self.uses_srv_records {
            return &self.authority;
        }
        let name = self.authority.rsplit_once(':');
        name.map_or(&*self.authority, |(name, _)| name)
    }
}

/// Finds servers, and caches the delegations of their hosts.
pub(super) struct ServerResolver {
    reach: NetworkReach,
    trust: CertificateTrust,
    /// Built when first needed, because loading the system's certificates takes a while.
    client: OnceCell<Client>,
    delegations: LookupCache<String, Option<OwnedServerName>>,
}

impl ServerResolver {
    pub(super) fn new(clock: &Clock, reach: NetworkReach, trust: CertificateTrust) -> Self {
        Self {
            reach,
            trust,
            client: OnceCell::new(),
            delegations: LookupCache::new(clock, MAX_CACHED_HOSTS),
        }
    }

    /// Returns the address to which requests for a server are sent.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] for an address to which this server must not connect.
    pub(super) async fn resolve(&self, server: &ServerName) -> Result<ServerAddress> {
        // Steps 1 and 2: the server name is an IP literal, or has a port.
        if server.is_ip_literal() || server.port().is_some() {
            return self.check_reach(server);
        }
        // Step 3: the host's `.well-known` is asked.
        let client = self
            .client
            .get_or_try_init(async || outbound::web_client_with_trust(self.reach, &self.trust))
            .await?;
        let host = server.host().to_ascii_lowercase();
        self.check_reach(server)?;
        let delegation = self
            .delegations
            .get(&host, well_known::fetch_delegation(client, &host))
            .await;
        match delegation {
            Some(delegated) => self.check_reach(&delegated),
            // Steps 4 to 6: the host is resolved by SRV records when connecting.
            None => self.check_reach(server),
        }
    }

    fn check_reach(&self, name: &ServerName) -> Result<ServerAddress> {
        let place = address_from_name(name);
        // Parsed as a URL, because URLs interpret some host names as IP addresses.
        let url = Url::parse(&format!("https://{}/", place.authority));
        let is_within = url.is_ok_and(|url| outbound::check_url(&url, self.reach).is_ok());
        if is_within {
            return Ok(place);
        }
        let text = "the server's address is not permitted";
        Err(Error::Unreachable(text.to_owned()))
    }
}

/// Returns the address of a server name, without asking its host.
fn address_from_name(name: &ServerName) -> ServerAddress {
    if name.port().is_some() {
        return ServerAddress {
            authority: name.to_string(),
            host: None,
            uses_srv_records: false,
        };
    }
    if name.is_ip_literal() {
        return ServerAddress {
            authority: format!("{name}:{DEFAULT_PORT}"),
            host: Some(name.to_string()),
            uses_srv_records: false,
        };
    }
    ServerAddress {
        authority: name.to_string(),
        host: None,
        uses_srv_records: true,
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    fn servers(reach: NetworkReach) -> ServerResolver {
        ServerResolver::new(&Clock::system(), reach, CertificateTrust::default())
    }

    #[test]
    fn a_name_with_an_address_or_port_needs_no_delegation() {
        let place = |name: &str| {
            let name: OwnedServerName = name.try_into().unwrap();
            let place = address_from_name(&name);
            (place.authority, place.host, place.uses_srv_records)
        };
        let text = str::to_owned;

        let literal = (text("1.2.3.4:8448"), Some(text("1.2.3.4")), false);
        assert_eq!(place("1.2.3.4"), literal);
        assert_eq!(place("1.2.3.4:80"), (text("1.2.3.4:80"), None, false));
        let literal = (text("[::1]:8448"), Some(text("[::1]")), false);
        assert_eq!(place("[::1]"), literal);
        let named = (text("a.example:443"), None, false);
        assert_eq!(place("a.example:443"), named);
        assert_eq!(place("a.example"), (text("a.example"), None, true));
    }

    #[tokio::test]
    async fn an_address_out_of_reach_is_refused() {
        for refused in ["127.0.0.1", "10.0.0.1:443", "[::1]:8448", "0x7f.1:443"] {
            let name: OwnedServerName = refused.try_into().unwrap();
            let place = servers(NetworkReach::Public).resolve(&name).await;
            assert!(matches!(place, Err(Error::Unreachable(_))), "{refused}");
            assert!(
                servers(NetworkReach::Everywhere)
                    .resolve(&name)
                    .await
                    .is_ok()
            );
        }
        let servers = servers(NetworkReach::Public);
        let number = servers.resolve(server_name!("2130706433")).await;
        assert!(number.is_err());
    }

    #[tokio::test]
    async fn the_delegation_of_a_host_precedes_its_srv_records() {
        let servers = servers(NetworkReach::Public);
        let says = async |host: &str, delegated: &str| {
            let delegated = ServerName::parse(delegated).ok();
            let lifetime = std::time::Duration::from_mins(1);
            let key = host.to_owned();
            servers
                .delegations
                .get(&key, std::future::ready((delegated, lifetime)))
                .await;
        };
        says("a.example", "b.example:443").await;
        says("c.example", "127.0.0.1:443").await;
        says("d.example", "").await;
        says("e.example", "f.example").await;

        let place = async |name| servers.resolve(name).await;
        let a = place(server_name!("A.example")).await.unwrap();
        assert_eq!(a.authority, "b.example:443");
        assert!(place(server_name!("c.example")).await.is_err());
        let d = place(server_name!("d.example")).await.unwrap();
        assert_eq!((&*d.authority, d.uses_srv_records), ("d.example", true));
        let e = place(server_name!("e.example")).await.unwrap();
        assert_eq!((&*e.authority, e.uses_srv_records), ("f.example", true));
        let own_port = place(server_name!("a.example:1")).await.unwrap();
        assert_eq!(own_port.authority, "a.example:1");
    }
}
