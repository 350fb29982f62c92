//! The keys of the many servers whose events arrive together, as with the state of a room.
//!
//! They are fetched before the events are verified, all at the same time: from notaries, which know the keys of many
//! servers, and from the servers themselves. So servers that no longer exist cause one delay, and not one for each event.
//!
//! See the [specification](https://spec.matrix.org/v1.19/server-server-api/#querying-keys-through-another-server).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, OwnedServerSigningKeyId, UInt,
    api::federation::discovery::{
        ServerSigningKeys,
        get_remote_server_keys_batch::v2::{self as batch, QueryCriteria},
    },
    canonical_json::CanonicalJsonObject,
    room_version_rules::RoomVersionRules,
    serde::Raw,
    signatures::PublicKeyMap,
};
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::{Federation, ServerKeyStore, WantedKey, client::RequestLimits, events::wanted_keys};
use crate::{
    error::{Error, Result},
    matrix::{ServerKeys, VerifiedEvent, read_event},
};

/// The number of servers in one request to a notary.
const SERVERS_PER_REQUEST: usize = 100;
/// The number of requests in flight to one notary, and of requests to servers for their own keys.
const MAX_NOTARY_REQUESTS: usize = 4;
const MAX_DIRECT_REQUESTS: usize = 64;
/// The time in which all servers have to answer with their own keys.
const DIRECT_TIMEOUT: Duration = Duration::from_secs(12);
/// The limits of a request to a notary, which may have to fetch keys itself.
const NOTARY_LIMITS: RequestLimits = RequestLimits {
    time: Duration::from_secs(15),
    bytes: 4 * 1024 * 1024,
};

/// The keys for events that one server sends together. Servers that could not be asked are not asked again.
pub struct KeyRing {
    keys: ServerKeyStore,
    /// The server that sends the events.
    source: OwnedServerName,
    trusts_source: bool,
    known: HashMap<OwnedServerName, Arc<ServerKeys>>,
    tried: HashSet<OwnedServerName>,
}

impl Federation {
    /// Returns an empty key ring for the events that a server will send.
    pub fn key_ring(&self, source: OwnedServerName) -> KeyRing {
        KeyRing {
            keys: self.keys().clone(),
            source,
            trusts_source: false,
            known: HashMap::new(),
            tried: HashSet::new(),
        }
    }
}

impl KeyRing {
    /// Trusts the sending server about the keys of servers for which there is no other source. Many servers that once
    /// took part in a large room no longer exist, and without their events nobody could join it.
    #[must_use]
    pub(super) fn trusting_source(self) -> Self {
        Self {
            trusts_source: true,
            ..self
        }
    }

    /// Checks events as [`Federation::verify_events`] does, with the keys that can be fetched in a short time. The
    /// result is
    /// `None` for an event that must be dropped.
    ///
    /// # Errors
    ///
    /// When the stored keys cannot be read.
    pub async fn verify_events(
        &mut self,
        events: Vec<Box<RawValue>>,
        rules: &Arc<RoomVersionRules>,
    ) -> Result<Vec<Option<VerifiedEvent>>> {
        let mut parsed = Vec::with_capacity(events.len());
        for event in events {
            let object = read_event(&event).ok();
            let event = object.and_then(|object| {
                let wanted = wanted_keys(&object, rules).ok()?;
                Some((object, wanted))
            });
            parsed.push(event);
        }
        let all = parsed.iter().flatten().flat_map(|(_, wanted)| wanted);
        self.gather_keys(all).await?;
        let with_keys = |(object, wanted): (CanonicalJsonObject, Vec<WantedKey>)| {
            let keys = self.select_known_keys(&wanted);
            (object, keys)
        };
        let parsed: Vec<_> = parsed
            .into_iter()
            .map(|event| event.map(with_keys))
            .collect();
        let rules = rules.clone();
        let check = move || {
            let check = |(object, keys)| match VerifiedEvent::verify(object, &rules, &keys) {
                Ok(event) => Some(event),
                Err(error) => {
                    tracing::debug!(%error, "an event is dropped");
                    None
                }
            };
            let checked = parsed.into_iter().map(|event| event.and_then(check));
            checked.collect()
        };
        tokio::task::spawn_blocking(check)
            .await
            .map_err(|source| Error::internal("verify events", source))
    }

    /// Returns the wanted keys that are known.
    fn select_known_keys(&self, wanted: &[WantedKey]) -> PublicKeyMap {
        let mut chosen = PublicKeyMap::new();
        for WantedKey {
            server,
            key_id,
            valid_at,
        } in wanted
        {
            let known = self.known.get(server);
            if let Some(key) = known.and_then(|known| known.valid_key(key_id, *valid_at)) {
                let of_server = chosen.entry(server.to_string()).or_default();
                of_server.insert(key_id.clone(), key.clone());
            }
        }
        chosen
    }

    async fn gather_keys(&mut self, wanted: impl Iterator<Item = &WantedKey>) -> Result<()> {
        let mut missing: BTreeMap<OwnedServerName, Vec<WantedKey>> = BTreeMap::new();
        let wanted: HashSet<&WantedKey> = wanted.collect();
        for wanted in wanted {
            let server = &wanted.server;
            if !self.known.contains_key(server) {
                let known = self.keys.known_or_own_keys(server).await?;
                self.known.insert(server.clone(), known);
            }
            let is_known = self
                .known
                .get(server)
                .is_some_and(|known| known.valid_key(&wanted.key_id, wanted.valid_at).is_some());
            if !is_known && !self.tried.contains(server) {
                missing
                    .entry(server.clone())
                    .or_default()
                    .push(wanted.clone());
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        self.tried.extend(missing.keys().cloned());
        for notary in self.keys.notaries().to_vec() {
            let documents = self.keys.fetch_from_notary(&notary, &missing).await;
            self.keys.store_documents(&notary, documents).await?;
            self.reload_missing_keys(&mut missing).await?;
        }
        let servers = missing.keys().cloned().collect();
        self.keys.fetch_directly(servers).await;
        self.reload_missing_keys(&mut missing).await?;
        if self.trusts_source {
            // The source is trusted only about servers of which no key is known, and so never about this server.
            missing.retain(|server, _| {
                let known = self.known.get(server);
                *server != self.source && known.is_none_or(|known| known.keys.is_empty())
            });
            self.trust_source_keys(&missing).await;
        }
        Ok(())
    }

    /// Looks up the keys that have been stored since, and removes them from the missing ones.
    async fn reload_missing_keys(
        &mut self,
        missing: &mut BTreeMap<OwnedServerName, Vec<WantedKey>>,
    ) -> Result<()> {
        let servers: Vec<OwnedServerName> = missing.keys().cloned().collect();
        for server in servers {
            let known = self.keys.known_or_own_keys(&server).await?;
            if let Some(wanted) = missing.get_mut(&server) {
                wanted.retain(|wanted| known.valid_key(&wanted.key_id, wanted.valid_at).is_none());
            }
            self.known.insert(server, known);
        }
        missing.retain(|_, wanted| !wanted.is_empty());
        Ok(())
    }

    /// Trusts the sending server about keys, for these events only. The keys are not stored: the server must not decide
    /// permanently which keys belong to other servers.
    async fn trust_source_keys(&mut self, missing: &BTreeMap<OwnedServerName, Vec<WantedKey>>) {
        if missing.is_empty() {
            return;
        }
        for document in self.keys.fetch_from_notary(&self.source, missing).await {
            let read = self.keys.read_document(&document);
            if let Some(read) = read.filter(|read| missing.contains_key(&read.server)) {
                self.known.insert(read.server, Arc::new(read.keys));
            }
        }
    }
}

impl ServerKeyStore {
    /// Asks a notary for the keys of many servers.
    async fn fetch_from_notary(
        &self,
        notary: &OwnedServerName,
        missing: &BTreeMap<OwnedServerName, Vec<WantedKey>>,
    ) -> Vec<Raw<ServerSigningKeys>> {
        let servers: Vec<_> = missing.iter().filter(|(name, _)| *name != notary).collect();
        let requests = servers.chunks(SERVERS_PER_REQUEST).map(|some| {
            let queries = some.iter().map(|(server, wanted)| {
                let criteria = |wanted| Some((key_id_of(wanted)?, query_criteria(wanted)));
                let wanted = wanted.iter().filter_map(criteria).collect();
                ((*server).clone(), wanted)
            });
            batch::Request::new(queries.collect())
        });
        let requests: Vec<_> = requests.collect();
        let asking = stream::iter(requests).map(async |request| {
            self.client()
                .send_unsigned(notary, request, NOTARY_LIMITS)
                .await
        });
        let mut asking = std::pin::pin!(asking.buffer_unordered(MAX_NOTARY_REQUESTS));
        let mut documents = Vec::new();
        while let Some(answer) = asking.next().await {
            match answer {
                Ok(answer) => documents.extend(answer.server_keys),
                Err(failure) => {
                    tracing::debug!(%notary, %failure, "a notary did not answer with keys");
                }
            }
        }
        documents
    }

    /// Asks servers for their keys, and stops waiting after a short time.
    async fn fetch_directly(&self, servers: Vec<OwnedServerName>) {
        let asking = stream::iter(servers)
            .map(async |server: OwnedServerName| self.fetch_without_notaries(&server).await);
        let asking = asking
            .buffer_unordered(MAX_DIRECT_REQUESTS)
            .for_each(async |()| {});
        if timeout(DIRECT_TIMEOUT, asking).await.is_err() {
            tracing::debug!("not all servers answered with their keys in time");
        }
    }
}

fn key_id_of(wanted: &WantedKey) -> Option<OwnedServerSigningKeyId> {
    OwnedServerSigningKeyId::try_from(wanted.key_id.as_str()).ok()
}

fn query_criteria(wanted: &WantedKey) -> QueryCriteria {
    let mut criteria = QueryCriteria::new();
    let valid_at = UInt::new_saturating(u64::try_from(wanted.valid_at).unwrap_or(0));
    criteria.minimum_valid_until_ts = Some(MilliSecondsSinceUnixEpoch(valid_at));
    criteria
}
