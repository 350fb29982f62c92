//! The keys with which other servers sign: fetched from them or from notaries, and stored.
//!
//! `find_keys` finds the keys with which signatures are verified, and lets `fetch_keys` fetch those that `known_keys`
//! does not have. `notary` answers other servers from the lists in `key_documents`.
//!
//! See the [specification](https://spec.matrix.org/v1.19/server-server-api/#retrieving-server-keys).

mod fetch_keys;
mod find_keys;
mod key_documents;
mod known_keys;
mod notary;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use ruma::OwnedServerName;
use tokio::sync::Semaphore;

use super::{cache::LookupCache, client::FederationClient};
use crate::{
    clock::Clock,
    matrix::{ServerKeys, SigningKey},
    storage::Db,
};

/// The number of servers whose keys are in memory (about 10 MB).
const MAX_CACHED_SERVERS: usize = 10_000;
/// The number of servers asked at the same time for the keys of all requests. Any sender can claim to be any server.
const MAX_FETCHES: usize = 128;
/// The number of servers asked at the same time as a notary. Other requests must not have to wait for these.
const MAX_NOTARY_FETCHES: usize = 16;
/// The number of servers asked at the same time because a caller claims to be them. A caller who names many slow
/// servers delays only other unknown callers.
const MAX_CALLER_FETCHES: usize = 64;

/// The keys of other servers. Cheap to clone.
#[derive(Clone)]
pub struct ServerKeyStore {
    inner: Arc<ServerKeyStoreInner>,
}

struct ServerKeyStoreInner {
    db: Db,
    clock: Clock,
    own: Arc<SigningKey>,
    client: FederationClient,
    notaries: Vec<OwnedServerName>,
    known: LookupCache<OwnedServerName, Arc<ServerKeys>>,
    fetched: LookupCache<OwnedServerName, ()>,
    /// The servers asked as a notary, each with the start of its interval and the number of requests since.
    notary_fetches: Mutex<HashMap<OwnedServerName, (i64, u32)>>,
    fetch_permits: Semaphore,
    notary_permits: Semaphore,
    caller_permits: Semaphore,
}

/// A key that is needed to verify a signature.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WantedKey {
    /// The server that signed.
    pub server: OwnedServerName,
    pub key_id: String,
    /// The time of the signature, in milliseconds since the Unix epoch, at which the key has to be valid. 0 for room
    /// versions that do not require that.
    pub valid_at: i64,
}

impl ServerKeyStore {
    pub(super) fn new(
        db: &Db,
        clock: &Clock,
        own: Arc<SigningKey>,
        client: FederationClient,
        notaries: Vec<OwnedServerName>,
    ) -> Self {
        let inner = ServerKeyStoreInner {
            db: db.clone(),
            clock: clock.clone(),
            own,
            client,
            notaries,
            known: LookupCache::new(clock, MAX_CACHED_SERVERS),
            fetched: LookupCache::new(clock, MAX_CACHED_SERVERS),
            notary_fetches: Mutex::default(),
            fetch_permits: Semaphore::new(MAX_FETCHES),
            notary_permits: Semaphore::new(MAX_NOTARY_FETCHES),
            caller_permits: Semaphore::new(MAX_CALLER_FETCHES),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    pub(super) fn notaries(&self) -> &[OwnedServerName] {
        &self.inner.notaries
    }

    pub(super) fn client(&self) -> &FederationClient {
        &self.inner.client
    }
}
