//! Resolves host names, and the SRV records of servers.
//!
//! Addresses are resolved by the operating system, which uses the files and services that its administrator chose. The
//! system has no interface for SRV records, so these are requested from its configured name servers.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use hickory_resolver::{
    TokioResolver,
    proto::rr::{RData, RecordType},
};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::OnceCell;

use super::cache::LookupCache;
use crate::{
    clock::Clock,
    outbound::{self, NetworkReach},
};

/// The default port of a server.
const DEFAULT_PORT: u16 = 8448;
/// "An SRV record is looked up for `_matrix-fed._tcp.<hostname>`", and then for the deprecated name.
const SRV_SERVICES: [&str; 2] = ["_matrix-fed._tcp", "_matrix._tcp"];
/// The time limit of a request to a name server, and the number of attempts. A user who sends a message waits for it.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(2);
const LOOK_UP_ATTEMPTS: usize = 2;
/// The number of SRV targets that are tried.
const MAX_TARGETS: usize = 8;
/// The time for which addresses are cached. The system does not report their lifetime.
const ADDRESS_LIFETIME: Duration = Duration::from_mins(5);
/// The time for which a failed look-up is cached.
const FAILURE_LIFETIME: Duration = Duration::from_secs(30);
/// The number of names in the cache (about 2 MB).
const MAX_CACHED_NAMES: usize = 10_000;

/// The addresses of a name, or the reason why there are none.
type ResolvedAddresses = Result<Arc<[SocketAddr]>, Arc<str>>;

/// Resolves names, and caches the results.
pub(super) struct DnsResolver {
    reach: NetworkReach,
    hosts: LookupCache<String, ResolvedAddresses>,
    servers: LookupCache<String, ResolvedAddresses>,
    srv_resolver: OnceCell<Option<TokioResolver>>,
}

/// A host and port that an SRV record names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SrvTarget {
    priority: u16,
    weight: u16,
    host: String,
    port: u16,
}

impl DnsResolver {
    pub(super) fn new(clock: &Clock, reach: NetworkReach) -> Arc<Self> {
        Arc::new(Self {
            reach,
            hosts: LookupCache::new(clock, MAX_CACHED_NAMES),
            servers: LookupCache::new(clock, MAX_CACHED_NAMES),
            srv_resolver: OnceCell::new(),
        })
    }

    /// Forgets the addresses of a name, because no server answered there.
    pub(super) fn forget(&self, name: &str) {
        let key = name.to_ascii_lowercase();
        self.hosts.forget(&key);
        self.servers.forget(&key);
    }

    /// Returns the addresses of a host, without a port.
    async fn host_addresses(&self, name: &str) -> ResolvedAddresses {
        let key = name.to_ascii_lowercase();
        self.hosts.get(&key, self.look_up_host(&key)).await
    }

    async fn look_up_host(&self, name: &str) -> (ResolvedAddresses, Duration) {
        with_lifetime(
            outbound::resolve_addresses(name, 0, self.reach)
                .await
                .map(Arc::from)
                .map_err(|error| Arc::from(error.to_string())),
        )
    }

    /// Returns the addresses and ports of a server whose name has no port.
    async fn server_addresses(&self, name: &str) -> ResolvedAddresses {
        let key = name.to_ascii_lowercase();
        self.servers.get(&key, self.look_up_server(&key)).await
    }

    async fn look_up_server(&self, name: &str) -> (ResolvedAddresses, Duration) {
        let mut targets = self.srv_targets(name).await;
        if targets.is_empty() {
            let target = SrvTarget {
                priority: 0,
                weight: 0,
                host: name.to_owned(),
                port: DEFAULT_PORT,
            };
            targets.push(target);
        }
        let looked_up = targets
            .iter()
            .map(|target| self.host_addresses(&target.host));
        let (mut found, mut failure) = (Vec::new(), Arc::from("the name does not exist"));
        for (target, addresses) in targets.iter().zip(join_all(looked_up).await) {
            match addresses {
                Ok(addresses) => found.extend(addresses.iter().map(|address| {
                    let mut address = *address;
                    address.set_port(target.port);
                    address
                })),
                Err(error) => failure = error,
            }
        }
        with_lifetime(if found.is_empty() {
            Err(failure)
        } else {
            Ok(Arc::from(found))
        })
    }

    /// Returns the hosts in the SRV records of a server, in the order in which to try them.
    async fn srv_targets(&self, name: &str) -> Vec<SrvTarget> {
        let records = self.srv_resolver.get_or_init(async || srv_resolver()).await;
        let Some(records) = records else {
            return Vec::new();
        };
        // Both at the same time, because most servers have neither.
        let look_ups = SRV_SERVICES.map(|service| async move {
            let name = format!("{service}.{name}.");
            let found = records.lookup(name, RecordType::SRV).await;
            found.inspect_err(|error| tracing::debug!(%error, "no SRV record"))
        });
        for found in join_all(look_ups).await.into_iter().flatten() {
            let targets: Vec<SrvTarget> = found
                .answers()
                .iter()
                .filter_map(|record| match &record.data {
                    RData::SRV(srv) if !srv.target.is_root() => Some(SrvTarget {
                        priority: srv.priority,
                        weight: srv.weight,
                        host: srv.target.to_utf8().trim_end_matches('.').to_owned(),
                        port: srv.port,
                    }),
                    _ => None,
                })
                .collect();
            if !targets.is_empty() {
                return sort_targets(targets, rand::random);
            }
        }
        Vec::new()
    }
}

/// Returns a resolver with the system's name servers; `None` if none are configured.
fn srv_resolver() -> Option<TokioResolver> {
    let build = || {
        let mut builder = TokioResolver::builder_tokio()?;
        let options = builder.options_mut();
        options.timeout = LOOK_UP_TIMEOUT;
        options.attempts = LOOK_UP_ATTEMPTS;
        builder.build()
    };
    build()
        .inspect_err(|error| tracing::warn!(%error, "SRV records cannot be looked up"))
        .ok()
}

/// Sorts targets by priority, and randomly by weight within a priority: twice the weight, twice the chance to be first.
fn sort_targets(targets: Vec<SrvTarget>, mut chance: impl FnMut() -> f64) -> Vec<SrvTarget> {
    let mut keyed: Vec<(u16, f64, SrvTarget)> = targets
        .into_iter()
        .map(|target| {
            // A weight of 0 should have "a very small chance of being selected".
            let weight = f64::from(target.weight).max(0.01);
            let key = -chance().max(f64::MIN_POSITIVE).ln() / weight;
            (target.priority, key, target)
        })
        .collect();
    keyed.sort_by(|(one, a, _), (other, b, _)| one.cmp(other).then(a.total_cmp(b)));
    keyed.truncate(MAX_TARGETS);
    keyed.into_iter().map(|(_, _, target)| target).collect()
}

fn with_lifetime(found: ResolvedAddresses) -> (ResolvedAddresses, Duration) {
    let lifetime = if found.is_ok() {
        ADDRESS_LIFETIME
    } else {
        FAILURE_LIFETIME
    };
    (found, lifetime)
}

/// Resolves the host of an address that has a port.
pub(super) struct HostResolver(pub(super) Arc<DnsResolver>);

/// Resolves the host of an address without a port as a server name, by its SRV records.
pub(super) struct SrvRecordResolver(pub(super) Arc<DnsResolver>);

impl Resolve for HostResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.0.clone();
        Box::pin(async move { to_addrs(names.host_addresses(name.as_str()).await) })
    }
}

impl Resolve for SrvRecordResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.0.clone();
        Box::pin(async move { to_addrs(names.server_addresses(name.as_str()).await) })
    }
}

fn to_addrs(found: ResolvedAddresses) -> Result<Addrs, Box<dyn std::error::Error + Send + Sync>> {
    match found {
        Ok(found) => Ok(Box::new(Vec::from(&*found).into_iter())),
        Err(error) => Err(io::Error::other(error.to_string()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(priority: u16, weight: u16, host: &str) -> SrvTarget {
        SrvTarget {
            priority,
            weight,
            host: host.to_owned(),
            port: 1,
        }
    }

    #[test]
    fn targets_are_tried_by_priority_and_weight() {
        let targets = vec![
            target(2, 100, "last"),
            target(1, 0, "seldom"),
            target(1, 10, "first"),
        ];

        let ordered = sort_targets(targets, || 0.5);

        let hosts: Vec<&str> = ordered.iter().map(|target| &*target.host).collect();
        assert_eq!(hosts, ["first", "seldom", "last"]);
    }

    #[test]
    fn only_a_limited_number_of_targets_is_tried() {
        let many = (0..100).map(|n| target(n, 0, "a")).collect();

        assert_eq!(sort_targets(many, || 0.0).len(), MAX_TARGETS);
    }

    #[tokio::test]
    async fn a_server_without_records_listens_at_8448() {
        let names = DnsResolver::new(&Clock::system(), NetworkReach::Everywhere);
        // No name server is asked.
        names.srv_resolver.set(None).unwrap();

        let found = names.server_addresses("localhost").await.unwrap();

        assert!(found.iter().all(|address| address.port() == DEFAULT_PORT));
        assert!(found.iter().any(|address| address.ip().is_loopback()));
    }

    #[tokio::test]
    async fn a_name_out_of_reach_has_no_address() {
        let names = DnsResolver::new(&Clock::system(), NetworkReach::Public);

        let found = names.host_addresses("localhost").await;

        assert!(found.is_err());
    }
}
