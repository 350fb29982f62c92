//! Limits the number of open connections, in total and for each address.

use std::{
    collections::HashMap,
    fs,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::{
    api::{TrustedProxies, subscriber_network},
    config::ConnectionsSection,
};

/// The number of file descriptors that are reserved for the database, media and requests to other servers.
const RESERVED_DESCRIPTORS: usize = 256;
/// The minimum number of connections, even if the system allows very few file descriptors.
const MIN_CONNECTIONS: usize = 64;
/// The shortest interval between warnings about a reached limit.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);

/// The limits of the open connections. Clones share the same limits. Cheap to clone.
#[derive(Clone)]
pub(super) struct ConnectionLimits {
    free: Arc<Semaphore>,
    open: Arc<Mutex<OpenConnections>>,
    max_per_address: usize,
    proxies: TrustedProxies,
}

#[derive(Default)]
struct OpenConnections {
    by_network: HashMap<IpAddr, usize>,
    /// The time when each warning was last logged.
    warned: HashMap<LimitWarning, Instant>,
}

/// A limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum LimitWarning {
    /// An address has its maximum number of connections.
    Address,
    /// The server has its maximum number of connections.
    Full,
}

/// The place of one connection. It becomes free when this is dropped.
pub(super) struct ConnectionPermit {
    /// The address for which the place counts. A trusted proxy may use all places.
    counted: Option<(Arc<Mutex<OpenConnections>>, IpAddr)>,
    _permit: OwnedSemaphorePermit,
}

impl ConnectionLimits {
    /// Creates as many places as the configuration and the system allow.
    pub(super) fn new(config: &ConnectionsSection, proxies: TrustedProxies) -> Self {
        let allowed = max_descriptors().map_or(usize::MAX, |max| {
            max.saturating_sub(RESERVED_DESCRIPTORS)
                .max(MIN_CONNECTIONS)
        });
        if allowed < config.max_open {
            tracing::info!(
                count = allowed,
                "the system's limit on open files allows fewer connections than connections.max_open"
            );
        }
        let max_open = config.max_open.min(allowed);
        Self {
            free: Arc::new(Semaphore::new(max_open)),
            open: Arc::default(),
            // One address must not use all places.
            max_per_address: config.max_open_per_address.min(max_open.div_ceil(2)),
            proxies,
        }
    }

    /// Waits until another connection may be accepted.
    pub(super) async fn wait_for_permit(&self) -> OwnedSemaphorePermit {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return permit;
        }
        if lock(&self.open).is_warning_due(LimitWarning::Full) {
            tracing::warn!(
                "the number of connections has reached connections.max_open; new clients have to wait"
            );
        }
        match Arc::clone(&self.free).acquire_owned().await {
            Ok(permit) => permit,
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// Gives an accepted connection a place, or returns `None` if its address already has the maximum number.
    pub(super) fn admit_address(
        &self,
        permit: OwnedSemaphorePermit,
        address: IpAddr,
    ) -> Option<ConnectionPermit> {
        if self.proxies.contains(address) {
            return Some(ConnectionPermit {
                counted: None,
                _permit: permit,
            });
        }
        let network = subscriber_network(address);
        let mut taken = lock(&self.open);
        let count = taken.by_network.get(&network).copied().unwrap_or(0);
        if count >= self.max_per_address {
            if taken.is_warning_due(LimitWarning::Address) {
                tracing::warn!(
                    "an address has as many connections as connections.max_open_per_address allows; if it is a \
                     reverse proxy, add it to connections.trusted_proxies"
                );
            }
            return None;
        }
        taken.by_network.insert(network, count + 1);
        Some(ConnectionPermit {
            counted: Some((Arc::clone(&self.open), network)),
            _permit: permit,
        })
    }
}

impl OpenConnections {
    /// Returns whether a warning should be logged because it was not logged recently.
    fn is_warning_due(&mut self, warning: LimitWarning) -> bool {
        let now = Instant::now();
        let last = self.warned.get(&warning);
        if last.is_some_and(|last| now - *last < WARNING_INTERVAL) {
            return false;
        }
        self.warned.insert(warning, now);
        true
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let Some((taken, network)) = &self.counted else {
            return;
        };
        let mut taken = lock(taken);
        match taken.by_network.get_mut(network) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.by_network.remove(network)),
        }
    }
}

fn lock(taken: &Mutex<OpenConnections>) -> MutexGuard<'_, OpenConnections> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the maximum number of open files of this process, on systems that have it in `/proc`.
fn max_descriptors() -> Option<usize> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max_open: usize, max_open_per_address: usize) -> ConnectionLimits {
        let config = ConnectionsSection {
            max_open,
            max_open_per_address,
            trusted_proxies: vec!["192.0.2.1".parse().unwrap()],
            ..ConnectionsSection::default()
        };
        let proxies = TrustedProxies::new(&config);
        ConnectionLimits::new(&config, proxies)
    }

    async fn admit(places: &ConnectionLimits, address: &str) -> Option<ConnectionPermit> {
        let permit = places.wait_for_permit().await;
        places.admit_address(permit, address.parse().unwrap())
    }

    #[tokio::test]
    async fn each_address_has_its_own_limit() {
        let places = limits(10, 2);

        let first = admit(&places, "198.51.100.1").await;
        let second = admit(&places, "198.51.100.1").await;
        assert!(first.is_some() && second.is_some());
        assert!(admit(&places, "198.51.100.1").await.is_none());
        assert!(admit(&places, "198.51.100.2").await.is_some());

        drop(first);
        assert!(admit(&places, "198.51.100.1").await.is_some());
    }

    #[tokio::test]
    async fn an_ipv6_subscriber_network_counts_as_one_address() {
        let places = limits(10, 1);

        let _first = admit(&places, "2001:db8::1").await.unwrap();

        assert!(admit(&places, "2001:db8::2").await.is_none());
        assert!(admit(&places, "2001:db8:0:1::1").await.is_some());
    }

    #[tokio::test]
    async fn a_trusted_proxy_may_open_all_connections() {
        let places = limits(3, 1);

        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.push(admit(&places, "192.0.2.1").await.unwrap());
        }

        assert_eq!(places.free.available_permits(), 0);
    }

    #[tokio::test]
    async fn one_address_gets_at_most_half_of_all_connections() {
        let places = limits(4, 100);

        let _first = admit(&places, "198.51.100.1").await.unwrap();
        let _second = admit(&places, "198.51.100.1").await.unwrap();

        assert!(admit(&places, "198.51.100.1").await.is_none());
    }
}
