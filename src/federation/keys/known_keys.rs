//! The keys that are stored, this server's own, and those in key lists.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ruma::{
    OwnedServerName, ServerName,
    api::federation::discovery::ServerSigningKeys,
    canonical_json::CanonicalJsonObject,
    serde::{Base64, Raw},
};

use super::ServerKeyStore;
use crate::{
    error::Result,
    matrix::{KnownKey, ServerKeys},
    storage::federation::server_keys,
};

/// The validity of this server's own keys, counted from the request: the longest that others accept, so that its events
/// can be verified while it is offline.
const OWN_KEY_VALIDITY: Duration = Duration::from_hours(7 * 24);
/// The time that keys read from the database stay in memory.
const MEMORY_LIFETIME: Duration = Duration::from_hours(1);

/// The keys in a list that a server signed.
pub(crate) struct SignedKeyList {
    pub(crate) server: OwnedServerName,
    pub(crate) keys: ServerKeys,
}

impl ServerKeyStore {
    /// Returns the list of this server's own keys, as it is published.
    pub(crate) fn own_document(&self) -> Result<CanonicalJsonObject> {
        let validity = i64::try_from(OWN_KEY_VALIDITY.as_millis()).unwrap_or(i64::MAX);
        let until = self.inner.clock.now_ms().saturating_add(validity);
        self.inner.own.published_keys(until)
    }

    /// Returns the known keys of another server.
    pub(crate) async fn known_keys(&self, server: &ServerName) -> Result<Arc<ServerKeys>> {
        let key = server.to_owned();
        let mut failure = None;
        let load = async {
            let loaded = self.load_keys(server).await.map(Arc::new);
            let lifetime = if loaded.is_ok() {
                MEMORY_LIFETIME
            } else {
                Duration::ZERO
            };
            let loaded = loaded.unwrap_or_else(|error| {
                failure = Some(error);
                Arc::default()
            });
            (loaded, lifetime)
        };
        let known = self.inner.known.get(&key, load).await;
        match failure {
            Some(error) => Err(error),
            None => Ok(known),
        }
    }

    async fn load_keys(&self, server: &ServerName) -> Result<ServerKeys> {
        let db = &self.inner.db;
        let mut conn = db.read().await?;
        let Some(server) = db.strings.find_number(&mut conn, server.as_str()).await? else {
            return Ok(ServerKeys::default());
        };
        let mut known = ServerKeys::default();
        for row in server_keys::of_server(&mut conn, server).await? {
            if let Ok(key) = Base64::parse(&row.public_key) {
                let valid_until_ts = row.valid_until_ts;
                let key = KnownKey {
                    key,
                    valid_until_ts,
                };
                known.keys.insert(row.key_id, key);
            }
        }
        Ok(known)
    }

    /// Returns the known keys of a server, which may be this one.
    pub(crate) async fn known_or_own_keys(&self, server: &ServerName) -> Result<Arc<ServerKeys>> {
        let own = &self.inner.own;
        if server != own.server_name() {
            return self.known_keys(server).await;
        }
        let key = KnownKey {
            key: own.public_key(),
            valid_until_ts: i64::MAX,
        };
        let keys = BTreeMap::from([(own.key_id().to_string(), key)]);
        let valid_until_ts = i64::MAX;
        Ok(Arc::new(ServerKeys {
            keys,
            valid_until_ts,
        }))
    }

    /// Reads a published key list, if its signatures are valid.
    pub(crate) fn read_document(&self, document: &Raw<ServerSigningKeys>) -> Option<SignedKeyList> {
        let object: CanonicalJsonObject = serde_json::from_str(document.json().get()).ok()?;
        let server = object.get("server_name")?.as_str()?;
        let server = OwnedServerName::try_from(server).ok()?;
        let keys = ServerKeys::from_document(&server, &object, self.inner.clock.now_ms()).ok()?;
        Some(SignedKeyList { server, keys })
    }
}
