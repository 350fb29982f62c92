//! The keys with which other servers sign: fetched from them or from notaries, and stored.
//!
//! See the [specification](https://spec.matrix.org/v1.19/server-server-api/#retrieving-server-keys).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use ruma::{
    OwnedServerName, ServerName,
    api::federation::discovery::{
        ServerSigningKeys, get_remote_server_keys_batch::v2 as batch, get_server_keys::v2 as direct,
    },
    canonical_json::CanonicalJsonObject,
    serde::{Base64, Raw},
    signatures::PublicKeyMap,
};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    cache::LookupCache,
    client::{FederationClient, RequestLimits},
};
use crate::{
    clock::Clock,
    error::{Error, Result},
    matrix::{KnownKey, ServerKeys, SigningKey},
    storage::{
        Db, WriteTx,
        federation::server_keys::{self, KeyDocumentRow, ServerKeyRow},
    },
};

/// The limits of a request for keys.
const KEY_REQUEST_LIMITS: RequestLimits = RequestLimits {
    time: Duration::from_secs(10),
    bytes: 64 * 1024,
};
/// The validity of this server's own keys, counted from the request: the longest that others accept, so that its events
/// can be verified while it is offline.
const OWN_KEY_VALIDITY: Duration = Duration::from_hours(7 * 24);
/// The time after which a server is asked again. Without it, keys that no server has would be requested repeatedly.
const FETCH_INTERVAL: Duration = Duration::from_mins(1);
const FAILED_FETCH_INTERVAL: Duration = Duration::from_secs(10);
/// The time that keys read from the database stay in memory.
const MEMORY_LIFETIME: Duration = Duration::from_hours(1);
/// The number of servers whose keys are in memory (about 10 MB).
const MAX_CACHED_SERVERS: usize = 10_000;
/// The number of servers asked at the same time for the keys of one request, and for all requests. Any sender can claim
/// to be any server.
const MAX_FETCHES_PER_REQUEST: usize = 16;
const MAX_FETCHES: usize = 128;
/// The number of servers asked at the same time as a notary. Other requests must not have to wait for these.
const MAX_NOTARY_FETCHES: usize = 16;
/// The number of requests to one server as a notary in an interval. A key that has just been renewed is found, and no
/// one can make this server send endless requests to another.
const MAX_NOTARY_FETCHES_PER_SERVER: u32 = 4;
const NOTARY_FETCH_INTERVAL: Duration = Duration::from_secs(10);
/// The number of servers asked at the same time because a caller claims to be them, and the time that a caller waits
/// for a free place. A caller who names many slow servers delays only other unknown callers.
const MAX_CALLER_FETCHES: usize = 64;
const CALLER_WAIT_TIMEOUT: Duration = Duration::from_secs(10);

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

    /// Returns the list of this server's own keys, as it is published.
    pub(super) fn own_document(&self) -> Result<CanonicalJsonObject> {
        let validity = i64::try_from(OWN_KEY_VALIDITY.as_millis()).unwrap_or(i64::MAX);
        let until = self.inner.clock.now_ms().saturating_add(validity);
        self.inner.own.published_keys(until)
    }

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
        self.find_or_fetch_key(server, (key_id, valid_at), asking)
            .await
    }

    /// Returns a key of a server as [`ServerKeyStore::find_key`] does, for a caller who claims to be that server. If it must be
    /// fetched, `admit` decides whether the caller may cause that.
    ///
    /// # Errors
    ///
    /// As [`ServerKeyStore::find_key`], and those of `admit`; [`Error::LimitExceeded`] when too many fetches for callers are running.
    pub(super) async fn find_caller_key(
        &self,
        server: &ServerName,
        (key_id, valid_at): (&str, i64),
        admit: impl FnOnce() -> Result<()>,
    ) -> Result<Option<Base64>> {
        let asking = async {
            admit()?;
            let waiting = timeout(CALLER_WAIT_TIMEOUT, self.inner.caller_permits.acquire());
            let _turn = waiting.await.map_err(|_| Error::LimitExceeded {
                retry_after: CALLER_WAIT_TIMEOUT,
            })?;
            self.fetch_with_permit(server).await;
            Ok(())
        };
        self.find_or_fetch_key(server, (key_id, valid_at), asking)
            .await
    }

    /// Returns a key of a server, and runs `asking` first if the key is not known.
    async fn find_or_fetch_key(
        &self,
        server: &ServerName,
        (key_id, valid_at): (&str, i64),
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

    /// Returns the key lists that a server published, for another server: the newest one, and older ones if only they
    /// contain wanted keys. The server is asked again if these are not valid until the given time. If it does not
    /// answer, or is asked too often, the known lists are returned.
    pub(super) async fn notary_documents(
        &self,
        server: &ServerName,
        (key_ids, valid_until_ms): (&BTreeSet<String>, i64),
    ) -> Result<Vec<CanonicalJsonObject>> {
        let stored = self.stored_documents(server).await?;
        let chosen = KeyDocument::choose_documents(stored, key_ids);
        if !KeyDocument::are_sufficient(&chosen, key_ids, valid_until_ms)
            && self.may_fetch_as_notary(server)
            && let Ok(_turn) = self.inner.notary_permits.try_acquire()
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
        let asked = self.inner.notary_fetches.lock();
        let mut asked = asked.unwrap_or_else(PoisonError::into_inner);
        let interval = i64::try_from(NOTARY_FETCH_INTERVAL.as_millis()).unwrap_or(i64::MAX);
        let is_over = |since: i64| now.saturating_sub(since) >= interval;
        if asked.len() >= MAX_CACHED_SERVERS {
            asked.retain(|_, (since, _)| !is_over(*since));
        }
        if asked.len() >= MAX_CACHED_SERVERS && !asked.contains_key(server) {
            return false;
        }
        let (since, count) = asked.entry(server.to_owned()).or_insert((now, 0));
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

    async fn known_keys(&self, server: &ServerName) -> Result<Arc<ServerKeys>> {
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

    pub(super) fn notaries(&self) -> &[OwnedServerName] {
        &self.inner.notaries
    }

    pub(super) fn client(&self) -> &FederationClient {
        &self.inner.client
    }

    /// Returns the known keys of a server, which may be this one.
    pub(super) async fn known_or_own_keys(&self, server: &ServerName) -> Result<Arc<ServerKeys>> {
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
    pub(super) fn read_document(
        &self,
        document: &Raw<ServerSigningKeys>,
    ) -> Option<(OwnedServerName, ServerKeys)> {
        let object: CanonicalJsonObject = serde_json::from_str(document.json().get()).ok()?;
        let server = object.get("server_name")?.as_str()?;
        let server = OwnedServerName::try_from(server).ok()?;
        let keys = ServerKeys::from_document(&server, &object, self.inner.clock.now_ms()).ok()?;
        Some((server, keys))
    }

    /// Asks a server itself for its keys, without notaries.
    pub(super) async fn fetch_without_notaries(&self, server: &ServerName) {
        let asking = async {
            // The semaphore is never closed.
            let _turn = self.inner.fetch_permits.acquire().await;
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
    pub(super) async fn store_documents(
        &self,
        notary: &OwnedServerName,
        documents: Vec<Raw<ServerSigningKeys>>,
    ) -> Result<()> {
        let mut read = Vec::with_capacity(documents.len());
        for document in documents {
            if let Some((server, mut keys)) = self.read_document(&document)
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
    async fn fetch_keys(&self, server: &ServerName) {
        let asking = async {
            // The semaphore is never closed.
            let _turn = self.inner.fetch_permits.acquire().await;
            self.fetch_from_all_sources(server).await
        };
        // Boxed, because asking a notary can first ask for the notary's own keys.
        let asking = Box::pin(asking);
        self.inner.fetched.get(&server.to_owned(), asking).await;
    }

    /// Asks as [`ServerKeyStore::fetch_keys`] does, for callers who already hold a permit.
    async fn fetch_with_permit(&self, server: &ServerName) {
        let asking = Box::pin(self.fetch_from_all_sources(server));
        self.inner.fetched.get(&server.to_owned(), asking).await;
    }

    /// Asks a server, and then the notaries. Returns the time for which nobody needs to ask again.
    async fn fetch_from_all_sources(&self, server: &ServerName) -> ((), Duration) {
        let asked = match self.fetch_from_server(server).await {
            Ok(false) => self.fetch_from_notaries(server).await,
            asked => asked,
        };
        match asked {
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
        let asked = self
            .inner
            .client
            .send_unsigned(server, request, KEY_REQUEST_LIMITS)
            .await;
        let Ok(answer) = asked else {
            return Ok(false);
        };
        self.store_document(server, &answer.server_key).await
    }

    async fn fetch_from_notaries(&self, server: &ServerName) -> Result<bool> {
        for notary in &self.inner.notaries {
            if server == notary || notary == self.inner.own.server_name() {
                continue;
            }
            let wanted = BTreeMap::from([(server.to_owned(), BTreeMap::new())]);
            let request = batch::Request::new(wanted);
            let asked = self
                .inner
                .client
                .send_unsigned(notary, request, KEY_REQUEST_LIMITS)
                .await;
            let Ok(answer) = asked else {
                continue;
            };
            for document in answer.server_keys {
                if self.is_signed_by_notary(notary, &document).await?
                    && self.store_document(server, &document).await?
                {
                    return Ok(true);
                }
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
            let asked = self.fetch_from_server(notary).await;
            drop(asked.inspect_err(
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

/// A key list as a server published it.
struct KeyDocument {
    object: CanonicalJsonObject,
    key_ids: BTreeSet<String>,
    valid_until_ts: i64,
}

impl KeyDocument {
    fn parse(row: &KeyDocumentRow) -> Result<Self> {
        let object: CanonicalJsonObject = serde_json::from_str(&row.document)?;
        let lists = ["verify_keys", "old_verify_keys"].into_iter();
        let lists = lists.filter_map(|list| object.get(list)?.as_object());
        let key_ids = lists.flat_map(|list| list.keys().cloned()).collect();
        Ok(Self {
            object,
            key_ids,
            valid_until_ts: row.valid_until_ts,
        })
    }

    /// Returns the lists that contain wanted keys, the newest first: for each key the newest list. If no keys are
    /// named, or none of them is known, the newest list is returned.
    fn choose_documents(stored: Vec<Self>, key_ids: &BTreeSet<String>) -> Vec<Self> {
        let mut wanted = key_ids.clone();
        let is_any_known = stored.iter().any(|list| !list.key_ids.is_disjoint(&wanted));
        if !is_any_known {
            return stored.into_iter().take(1).collect();
        }
        let mut chosen = Vec::new();
        for list in stored {
            let before = wanted.len();
            wanted.retain(|key_id| !list.key_ids.contains(key_id));
            if wanted.len() < before {
                chosen.push(list);
            }
        }
        chosen
    }

    /// Returns whether the lists contain all wanted keys, and are valid until a time.
    fn are_sufficient(chosen: &[Self], key_ids: &BTreeSet<String>, valid_until_ms: i64) -> bool {
        let has = |key_id: &String| chosen.iter().any(|list| list.key_ids.contains(key_id));
        let is_valid = |list: &Self| list.valid_until_ts >= valid_until_ms;
        !chosen.is_empty() && key_ids.iter().all(has) && chosen.iter().all(is_valid)
    }
}

/// Keeps the list that a new one is about to replace, if it contains a key that the new one does not.
async fn keep_former_document(tx: &mut WriteTx, server: i64, new: &KeyDocumentRow) -> Result<()> {
    let Some(former) = server_keys::latest_document(tx, server).await? else {
        return Ok(());
    };
    let (before, after) = (KeyDocument::parse(&former)?, KeyDocument::parse(new)?);
    if before.key_ids.is_subset(&after.key_ids) {
        return Ok(());
    }
    server_keys::keep_former_document(tx, server, &former).await
}

async fn store_keys(
    tx: &mut WriteTx,
    server: &ServerName,
    keys: &ServerKeys,
    document: &str,
) -> Result<()> {
    let num = tx.intern(server.as_str()).await?;
    for (key_id, known) in &keys.keys {
        let row = ServerKeyRow {
            key_id: key_id.clone(),
            public_key: known.key.encode(),
            valid_until_ts: known.valid_until_ts,
        };
        server_keys::set_key(tx, num, &row).await?;
    }
    server_keys::delete_surplus_keys(tx, num).await?;
    let row = KeyDocumentRow {
        document: document.to_owned(),
        valid_until_ts: keys.valid_until_ts,
    };
    keep_former_document(tx, num, &row).await?;
    server_keys::set_document(tx, num, &row).await
}
