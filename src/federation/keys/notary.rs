//! Answers other servers that request keys from this server as a notary.

use std::{collections::BTreeSet, sync::PoisonError, time::Duration};

use ruma::{ServerName, canonical_json::CanonicalJsonObject};

use super::{MAX_CACHED_SERVERS, ServerKeyStore, key_documents::KeyDocument};
use crate::{error::Result, storage::federation::server_keys};

/// The number of requests to one server as a notary in an interval. A key that has just been renewed is found, and no
/// one can make this server send endless requests to another.
const MAX_NOTARY_FETCHES_PER_SERVER: u32 = 4;
const NOTARY_FETCH_INTERVAL: Duration = Duration::from_secs(10);

impl ServerKeyStore {
    /// Returns the key lists that a server published, for another server: the newest one, and older ones if only they
    /// contain wanted keys. The server is asked again if these are not valid until the given time. If it does not
    /// answer, or is asked too often, the known lists are returned.
    pub(crate) async fn notary_documents(
        &self,
        server: &ServerName,
        key_ids: &BTreeSet<String>,
        valid_until_ms: i64,
    ) -> Result<Vec<CanonicalJsonObject>> {
        let stored = self.stored_documents(server).await?;
        let chosen = KeyDocument::choose_documents(stored, key_ids);
        if !KeyDocument::are_sufficient(&chosen, key_ids, valid_until_ms)
            && self.may_fetch_as_notary(server)
            && let Ok(_permit) = self.inner.notary_permits.try_acquire()
        {
            self.inner.fetched.forget(&server.to_owned());
            self.fetch_with_permit(server).await;
            let stored = self.stored_documents(server).await?;
            let chosen = KeyDocument::choose_documents(stored, key_ids);
            return Ok(chosen.into_iter().map(|known| known.object).collect());
        }
        Ok(chosen.into_iter().map(|known| known.object).collect())
    }

    /// Counts a request to a server as a notary, and returns whether it may be sent.
    fn may_fetch_as_notary(&self, server: &ServerName) -> bool {
        let now = self.inner.clock.now_ms();
        let fetches = self.inner.notary_fetches.lock();
        let mut fetches = fetches.unwrap_or_else(PoisonError::into_inner);
        let interval = i64::try_from(NOTARY_FETCH_INTERVAL.as_millis()).unwrap_or(i64::MAX);
        let is_over = |since: i64| now.saturating_sub(since) >= interval;
        if fetches.len() >= MAX_CACHED_SERVERS {
            fetches.retain(|_, (since, _)| !is_over(*since));
        }
        if fetches.len() >= MAX_CACHED_SERVERS && !fetches.contains_key(server) {
            return false;
        }
        let (since, count) = fetches.entry(server.to_owned()).or_insert((now, 0));
        if is_over(*since) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= MAX_NOTARY_FETCHES_PER_SERVER
    }

    /// Returns the stored key lists of a server, the newest first.
    async fn stored_documents(&self, server: &ServerName) -> Result<Vec<KeyDocument>> {
        let db = &self.inner.db;
        let mut conn = db.read().await?;
        let Some(server) = db.strings.find_number(&mut conn, server.as_str()).await? else {
            return Ok(Vec::new());
        };
        let newest = server_keys::latest_document(&mut conn, server).await?;
        let former = server_keys::former_documents(&mut conn, server).await?;
        let rows = newest.into_iter().chain(former);
        rows.map(|row| KeyDocument::parse(&row)).collect()
    }
}
