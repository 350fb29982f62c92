//! Fetches the keys of servers, from them or from notaries, and stores them.

use std::{collections::BTreeMap, time::Duration};

use ruma::{
    OwnedServerName, ServerName,
    api::federation::discovery::{
        ServerSigningKeys, get_remote_server_keys_batch::v2 as batch, get_server_keys::v2 as direct,
    },
    canonical_json::CanonicalJsonObject,
    serde::Raw,
};

use super::{ServerKeyStore, key_documents::store_keys, known_keys::SignedKeyList};
use crate::{error::Result, federation::client::RequestLimits, matrix::ServerKeys};

/// The limits of a request for keys.
const KEY_REQUEST_LIMITS: RequestLimits = RequestLimits {
    time: Duration::from_secs(10),
    bytes: 64 * 1024,
};
/// The time after which a server is asked again. Without it, keys that no server has would be requested repeatedly.
const FETCH_INTERVAL: Duration = Duration::from_mins(1);
const FAILED_FETCH_INTERVAL: Duration = Duration::from_secs(10);

impl ServerKeyStore {
    /// Asks a server itself for its keys, without notaries.
    pub(crate) async fn fetch_without_notaries(&self, server: &ServerName) {
        let asking = async {
            // The semaphore is never closed.
            let _permit = self.inner.fetch_permits.acquire().await;
            match self.fetch_from_server(server).await {
                Ok(true) => return ((), FETCH_INTERVAL),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the keys of a server were not stored"),
            }
            ((), FAILED_FETCH_INTERVAL)
        };
        self.inner.fetched.get(&server.to_owned(), asking).await;
    }

    /// Stores the key lists that a notary returned.
    pub(crate) async fn store_documents(
        &self,
        notary: &OwnedServerName,
        documents: Vec<Raw<ServerSigningKeys>>,
    ) -> Result<()> {
        let mut read = Vec::with_capacity(documents.len());
        for document in documents {
            if let Some(SignedKeyList { server, mut keys }) = self.read_document(&document)
                && self.is_signed_by_notary(notary, &document).await?
            {
                keys.keep_old_keys(&*self.known_keys(&server).await?);
                read.push((server, keys, document));
            }
        }
        if read.is_empty() {
            return Ok(());
        }
        let mut tx = self.inner.db.write().await?;
        for (server, keys, document) in &read {
            store_keys(&mut tx, server, keys, document.json().get()).await?;
        }
        tx.commit().await?;
        for (server, ..) in &read {
            self.inner.known.forget(server);
        }
        Ok(())
    }

    /// Asks a server for its keys, or notaries if it does not answer, and stores them. Callers who ask at the same time
    /// wait for one answer.
    pub(crate) async fn fetch_keys(&self, server: &ServerName) {
        let asking = async {
            // The semaphore is never closed.
            let _permit = self.inner.fetch_permits.acquire().await;
            self.fetch_from_all_sources(server).await
        };
        // Boxed, because asking a notary can first ask for the notary's own keys.
        let asking = Box::pin(asking);
        self.inner.fetched.get(&server.to_owned(), asking).await;
    }

    /// Asks as [`ServerKeyStore::fetch_keys`] does, for callers who already hold a permit.
    pub(crate) async fn fetch_with_permit(&self, server: &ServerName) {
        let asking = Box::pin(self.fetch_from_all_sources(server));
        self.inner.fetched.get(&server.to_owned(), asking).await;
    }

    /// Asks a server, and then the notaries. Returns the time for which nobody needs to ask again.
    async fn fetch_from_all_sources(&self, server: &ServerName) -> ((), Duration) {
        let is_found = match self.fetch_from_server(server).await {
            Ok(false) => self.fetch_from_notaries(server).await,
            outcome => outcome,
        };
        match is_found {
            Ok(true) => return ((), FETCH_INTERVAL),
            Ok(false) => {
                tracing::debug!(server = %server, "no source returned the keys of a server");
            }
            Err(error) => tracing::warn!(%error, "the keys of a server were not stored"),
        }
        ((), FAILED_FETCH_INTERVAL)
    }

    async fn fetch_from_server(&self, server: &ServerName) -> Result<bool> {
        let request = direct::Request::new();
        let response = self
            .inner
            .client
            .send_unsigned(server, request, KEY_REQUEST_LIMITS)
            .await;
        let Ok(answer) = response else {
            return Ok(false);
        };
        self.store_document(server, &answer.server_key).await
    }

    async fn fetch_from_notaries(&self, server: &ServerName) -> Result<bool> {
        for notary in &self.inner.notaries {
            if server == notary || notary == self.inner.own.server_name() {
                continue;
            }
            if self.fetch_through_notary(notary, server).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn fetch_through_notary(
        &self,
        notary: &OwnedServerName,
        server: &ServerName,
    ) -> Result<bool> {
        let wanted = BTreeMap::from([(server.to_owned(), BTreeMap::new())]);
        let request = batch::Request::new(wanted);
        let response = self
            .inner
            .client
            .send_unsigned(notary, request, KEY_REQUEST_LIMITS)
            .await;
        let Ok(answer) = response else {
            return Ok(false);
        };
        for document in answer.server_keys {
            if self.is_signed_by_notary(notary, &document).await?
                && self.store_document(server, &document).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns whether a notary has signed a key list that it returned.
    async fn is_signed_by_notary(
        &self,
        notary: &OwnedServerName,
        document: &Raw<ServerSigningKeys>,
    ) -> Result<bool> {
        let Ok(object) = serde_json::from_str(document.json().get()) else {
            return Ok(false);
        };
        let now = self.inner.clock.now_ms();
        if self
            .known_keys(notary)
            .await?
            .is_signed_by_notary(notary, &object, now)
        {
            return Ok(true);
        }
        let asking = async {
            let is_found = self.fetch_from_server(notary).await;
            drop(is_found.inspect_err(
                |error| tracing::warn!(%error, "the keys of a notary could not be fetched"),
            ));
            ((), FETCH_INTERVAL)
        };
        self.inner.fetched.get(notary, asking).await;
        let known = self.known_keys(notary).await?;
        Ok(known.is_signed_by_notary(notary, &object, now))
    }

    /// Stores a key list, if the server really published it.
    async fn store_document(
        &self,
        server: &ServerName,
        document: &Raw<ServerSigningKeys>,
    ) -> Result<bool> {
        let now = self.inner.clock.now_ms();
        let Ok(object) = serde_json::from_str::<CanonicalJsonObject>(document.json().get()) else {
            return Ok(false);
        };
        let mut keys = match ServerKeys::from_document(server, &object, now) {
            Ok(keys) => keys,
            Err(error) => {
                tracing::debug!(%error, "a key list is invalid");
                return Ok(false);
            }
        };
        keys.keep_old_keys(&*self.known_keys(server).await?);
        let mut tx = self.inner.db.write().await?;
        store_keys(&mut tx, server, &keys, &serde_json::to_string(&object)?).await?;
        tx.commit().await?;
        self.inner.known.forget(&server.to_owned());
        Ok(true)
    }
}
