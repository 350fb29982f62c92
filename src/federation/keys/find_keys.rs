//! Finds the keys with which signatures are verified, and fetches those that are not known.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use ruma::{ServerName, serde::Base64, signatures::PublicKeyMap};
use tokio::time::timeout;

use super::{ServerKeyStore, WantedKey};
use crate::error::{Error, Result};

/// The number of servers asked at the same time for the keys of one request. Any sender can claim to be any server.
const MAX_FETCHES_PER_REQUEST: usize = 16;
/// The time that a caller waits until this server may ask another for their keys.
const CALLER_WAIT_TIMEOUT: Duration = Duration::from_secs(10);

impl ServerKeyStore {
    /// Returns a key of a server that is valid at a time, and fetches it if necessary. `None` if it cannot be found.
    ///
    /// # Errors
    ///
    /// When the stored keys cannot be read, or new ones cannot be stored.
    pub async fn find_key(
        &self,
        server: &ServerName,
        key_id: &str,
        valid_at: i64,
    ) -> Result<Option<Base64>> {
        let asking = async {
            self.fetch_keys(server).await;
            Ok(())
        };
        self.find_or_fetch_key(server, key_id, valid_at, asking)
            .await
    }

    /// Returns a key of a server as [`ServerKeyStore::find_key`] does, for a caller who claims to be that server. If it
    /// must be fetched, `admit` decides whether the caller may cause that.
    ///
    /// # Errors
    ///
    /// As [`ServerKeyStore::find_key`], and those of `admit`; [`Error::LimitExceeded`] when too many fetches for
    /// callers are running.
    pub(crate) async fn find_caller_key(
        &self,
        server: &ServerName,
        key_id: &str,
        valid_at: i64,
        admit: impl FnOnce() -> Result<()>,
    ) -> Result<Option<Base64>> {
        let asking = async {
            admit()?;
            let waiting = timeout(CALLER_WAIT_TIMEOUT, self.inner.caller_permits.acquire());
            let _permit = waiting.await.map_err(|_| Error::LimitExceeded {
                retry_after: CALLER_WAIT_TIMEOUT,
            })?;
            self.fetch_with_permit(server).await;
            Ok(())
        };
        self.find_or_fetch_key(server, key_id, valid_at, asking)
            .await
    }

    /// Returns a key of a server, and runs `asking` first if the key is not known.
    async fn find_or_fetch_key(
        &self,
        server: &ServerName,
        key_id: &str,
        valid_at: i64,
        asking: impl Future<Output = Result<()>>,
    ) -> Result<Option<Base64>> {
        let known = self.known_or_own_keys(server).await?;
        if let Some(key) = known.valid_key(key_id, valid_at) {
            return Ok(Some(key.clone()));
        }
        if server == self.inner.own.server_name() {
            return Ok(None);
        }
        asking.await?;
        let known = self.known_keys(server).await?;
        Ok(known.valid_key(key_id, valid_at).cloned())
    }

    /// Returns the wanted keys that can be found.
    ///
    /// # Errors
    ///
    /// As [`ServerKeyStore::find_key`].
    pub async fn find_keys(
        &self,
        wanted: impl IntoIterator<Item = WantedKey>,
    ) -> Result<PublicKeyMap> {
        let looking = stream::iter(wanted).map(async |wanted: WantedKey| {
            let key = self.find_key(&wanted.server, &wanted.key_id, wanted.valid_at);
            (key.await, wanted)
        });
        let mut looking = std::pin::pin!(looking.buffer_unordered(MAX_FETCHES_PER_REQUEST));
        let mut found = PublicKeyMap::new();
        while let Some((key, wanted)) = looking.next().await {
            if let Some(key) = key? {
                let of_server = found.entry(wanted.server.to_string()).or_default();
                of_server.insert(wanted.key_id, key);
            }
        }
        Ok(found)
    }
}
