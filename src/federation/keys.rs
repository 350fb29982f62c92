//! The keys with which other servers sign: asked of them, or of notaries, and remembered.
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#retrieving-server-keys

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
    cache::Cache,
    client::{Allowance, Client},
};
use crate::{
    clock::Clock,
    error::{Error, Result},
    matrix::{KnownKey, ServerKeys, SigningKey},
    storage::{
        Db, WriteTx,
        federation::server_keys::{self, DocumentRow, ServerKeyRow},
    },
};

/// What a list of keys may cost.
const ALLOWANCE: Allowance = Allowance {
    time: Duration::from_secs(10),
    bytes: 64 * 1024,
};
/// How long this server's own keys are valid once somebody asked: as long as others believe them at most, so that
/// what it said can be verified while it is away.
const OWN_VALIDITY: Duration = Duration::from_hours(7 * 24);
/// How long a server is not asked again: keys that nobody has are asked for again and again.
const PAUSE: Duration = Duration::from_mins(1);
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(10);
/// How long keys that were read from the database stay in memory.
const IN_MEMORY: Duration = Duration::from_hours(1);
/// Servers whose keys are in memory (about 10 MB).
const SERVERS: usize = 10_000;
/// Servers that are asked at once for the keys of one request, and for all: anybody can claim to be any server.
const AT_ONCE: usize = 16;
const ALL_AT_ONCE: usize = 128;
/// Servers that are asked at once for somebody else, to whom this server is a notary: that must keep nobody waiting.
const FOR_OTHERS_AT_ONCE: usize = 16;
/// How often a server is asked for somebody else in an interval, so that a key which has just been renewed is found, and
/// nobody can have this server ask another without end.
const MAX_ASKED_FOR_OTHERS: u32 = 4;
const ASKED_FOR_OTHERS_INTERVAL: Duration = Duration::from_secs(10);
/// Servers that are asked at once because somebody says to be them, and how long that waits until others were asked:
/// whoever names many that are slow keeps nobody waiting but those who are as unknown.
const FOR_CALLERS_AT_ONCE: usize = 64;
const CALLERS_WAIT: Duration = Duration::from_secs(10);

/// The keys of other servers. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    clock: Clock,
    own: Arc<SigningKey>,
    client: Client,
    notaries: Vec<OwnedServerName>,
    known: Cache<OwnedServerName, Arc<ServerKeys>>,
    asked: Cache<OwnedServerName, ()>,
    /// Servers that were asked for somebody else, and how often in the interval that began then.
    asked_for_others: Mutex<HashMap<OwnedServerName, (i64, u32)>>,
    turns: Semaphore,
    turns_for_others: Semaphore,
    turns_for_callers: Semaphore,
}

/// A key that is needed to verify a signature.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WantedKey {
    /// Whose signature.
    pub server: OwnedServerName,
    /// With which key.
    pub key_id: String,
    /// When it was signed, in milliseconds since the Unix epoch: the key has to be valid then. 0 for room versions
    /// that do not care.
    pub valid_at: i64,
}

impl Keys {
    pub(super) fn new(
        db: &Db,
        clock: &Clock,
        own: Arc<SigningKey>,
        client: Client,
        notaries: Vec<OwnedServerName>,
    ) -> Self {
        let inner = Inner {
            db: db.clone(),
            clock: clock.clone(),
            own,
            client,
            notaries,
            known: Cache::new(clock, SERVERS),
            asked: Cache::new(clock, SERVERS),
            asked_for_others: Mutex::default(),
            turns: Semaphore::new(ALL_AT_ONCE),
            turns_for_others: Semaphore::new(FOR_OTHERS_AT_ONCE),
            turns_for_callers: Semaphore::new(FOR_CALLERS_AT_ONCE),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Returns what this server publishes of its own keys.
    pub(super) fn published(&self) -> Result<CanonicalJsonObject> {
        let validity = i64::try_from(OWN_VALIDITY.as_millis()).unwrap_or(i64::MAX);
        let until = self.inner.clock.now_ms().saturating_add(validity);
        self.inner.own.published(until)
    }

    /// Returns a key of a server, which has to be valid at a time; it is asked for where it is not known. `None` if
    /// nobody has it.
    ///
    /// # Errors
    ///
    /// When what is known cannot be read or stored.
    pub async fn key(
        &self,
        server: &ServerName,
        key_id: &str,
        valid_at: i64,
    ) -> Result<Option<Base64>> {
        let asking = async {
            self.ask(server).await;
            Ok(())
        };
        self.known_or_asked(server, (key_id, valid_at), asking)
            .await
    }

    /// Returns a key of a server as [`Keys::key`] does, for somebody who says to be that server. Where it has to be
    /// asked for, that happens only if the caller is admitted.
    ///
    /// # Errors
    ///
    /// As [`Keys::key`], and those of `admit`; [`Error::LimitExceeded`] when too many are asked for callers already.
    pub(super) async fn key_of_caller(
        &self,
        server: &ServerName,
        (key_id, valid_at): (&str, i64),
        admit: impl FnOnce() -> Result<()>,
    ) -> Result<Option<Base64>> {
        let asking = async {
            admit()?;
            let waiting = timeout(CALLERS_WAIT, self.inner.turns_for_callers.acquire());
            let _turn = waiting.await.map_err(|_| Error::LimitExceeded {
                retry_after: CALLERS_WAIT,
            })?;
            self.ask_in_turn(server).await;
            Ok(())
        };
        self.known_or_asked(server, (key_id, valid_at), asking)
            .await
    }

    /// Returns a key of a server, after it was asked for if it was not known.
    async fn known_or_asked(
        &self,
        server: &ServerName,
        (key_id, valid_at): (&str, i64),
        asking: impl Future<Output = Result<()>>,
    ) -> Result<Option<Base64>> {
        let known = self.known_or_own(server).await?;
        if let Some(key) = known.at(key_id, valid_at) {
            return Ok(Some(key.clone()));
        }
        if server == self.inner.own.server_name() {
            return Ok(None);
        }
        asking.await?;
        let known = self.known(server).await?;
        Ok(known.at(key_id, valid_at).cloned())
    }

    /// Returns those of the keys that are needed which can be had.
    ///
    /// # Errors
    ///
    /// As [`Keys::key`].
    pub async fn public_keys(
        &self,
        wanted: impl IntoIterator<Item = WantedKey>,
    ) -> Result<PublicKeyMap> {
        let looking = stream::iter(wanted).map(async |wanted: WantedKey| {
            let key = self.key(&wanted.server, &wanted.key_id, wanted.valid_at);
            (key.await, wanted)
        });
        let mut looking = std::pin::pin!(looking.buffer_unordered(AT_ONCE));
        let mut found = PublicKeyMap::new();
        while let Some((key, wanted)) = looking.next().await {
            if let Some(key) = key? {
                let of_server = found.entry(wanted.server.to_string()).or_default();
                of_server.insert(wanted.key_id, key);
            }
        }
        Ok(found)
    }

    /// Returns what a server published of its keys, for somebody else: the newest list, and earlier ones where only they
    /// list keys that are wanted. The server is asked again if these are not valid until a time; if it does not answer,
    /// or is asked too often, what is known is better than nothing.
    pub(super) async fn documents(
        &self,
        server: &ServerName,
        (key_ids, valid_until_ms): (&BTreeSet<String>, i64),
    ) -> Result<Vec<CanonicalJsonObject>> {
        let stored = self.stored_documents(server).await?;
        let chosen = KeyDocument::choose(stored, key_ids);
        if !KeyDocument::suffice(&chosen, key_ids, valid_until_ms)
            && self.may_ask_for_others(server)
            && let Ok(_turn) = self.inner.turns_for_others.try_acquire()
        {
            self.inner.asked.forget(&server.to_owned());
            self.ask_in_turn(server).await;
            let stored = self.stored_documents(server).await?;
            let chosen = KeyDocument::choose(stored, key_ids);
            return Ok(chosen.into_iter().map(|known| known.object).collect());
        }
        Ok(chosen.into_iter().map(|known| known.object).collect())
    }

    /// Counts that a server is to be asked for somebody else; returns whether it may be.
    fn may_ask_for_others(&self, server: &ServerName) -> bool {
        let now = self.inner.clock.now_ms();
        let asked = self.inner.asked_for_others.lock();
        let mut asked = asked.unwrap_or_else(PoisonError::into_inner);
        let interval = i64::try_from(ASKED_FOR_OTHERS_INTERVAL.as_millis()).unwrap_or(i64::MAX);
        let is_over = |since: i64| now.saturating_sub(since) >= interval;
        if asked.len() >= SERVERS {
            asked.retain(|_, (since, _)| !is_over(*since));
        }
        if asked.len() >= SERVERS && !asked.contains_key(server) {
            return false;
        }
        let (since, count) = asked.entry(server.to_owned()).or_insert((now, 0));
        if is_over(*since) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= MAX_ASKED_FOR_OTHERS
    }

    /// Returns the lists of keys of a server that are known, the newest first.
    async fn stored_documents(&self, server: &ServerName) -> Result<Vec<KeyDocument>> {
        let db = &self.inner.db;
        let mut conn = db.read().await?;
        let Some(server) = db.strings.find(&mut conn, server.as_str()).await? else {
            return Ok(Vec::new());
        };
        let newest = server_keys::document(&mut conn, server).await?;
        let former = server_keys::former_documents(&mut conn, server).await?;
        let rows = newest.into_iter().chain(former);
        rows.map(|row| KeyDocument::parse(&row)).collect()
    }

    async fn known(&self, server: &ServerName) -> Result<Arc<ServerKeys>> {
        let key = server.to_owned();
        let mut failure = None;
        let load = async {
            let loaded = self.load(server).await.map(Arc::new);
            let lifetime = if loaded.is_ok() {
                IN_MEMORY
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

    async fn load(&self, server: &ServerName) -> Result<ServerKeys> {
        let db = &self.inner.db;
        let mut conn = db.read().await?;
        let Some(server) = db.strings.find(&mut conn, server.as_str()).await? else {
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

    pub(super) fn client(&self) -> &Client {
        &self.inner.client
    }

    /// Returns the keys that are known of a server, which may be this one.
    pub(super) async fn known_or_own(&self, server: &ServerName) -> Result<Arc<ServerKeys>> {
        let own = &self.inner.own;
        if server != own.server_name() {
            return self.known(server).await;
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

    /// Reads what somebody published, if it is what it says.
    pub(super) fn read(
        &self,
        document: &Raw<ServerSigningKeys>,
    ) -> Option<(OwnedServerName, ServerKeys)> {
        let object: CanonicalJsonObject = serde_json::from_str(document.json().get()).ok()?;
        let server = object.get("server_name")?.as_str()?;
        let server = OwnedServerName::try_from(server).ok()?;
        let keys = ServerKeys::read(&server, &object, self.inner.clock.now_ms()).ok()?;
        Some((server, keys))
    }

    /// Asks a server for its keys, and nobody else.
    pub(super) async fn ask_once(&self, server: &ServerName) {
        let asking = async {
            // The semaphore is never closed.
            let _turn = self.inner.turns.acquire().await;
            match self.ask_server(server).await {
                Ok(true) => return ((), PAUSE),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the keys of a server were not stored"),
            }
            ((), PAUSE_AFTER_FAILURE)
        };
        self.inner.asked.get(&server.to_owned(), asking).await;
    }

    /// Stores what a notary tells of servers.
    pub(super) async fn take_all(
        &self,
        notary: &OwnedServerName,
        documents: Vec<Raw<ServerSigningKeys>>,
    ) -> Result<()> {
        let mut read = Vec::with_capacity(documents.len());
        for document in documents {
            if let Some((server, mut keys)) = self.read(&document)
                && self.is_of_notary(notary, &document).await?
            {
                keys.keep_old(&*self.known(&server).await?);
                read.push((server, keys, document));
            }
        }
        if read.is_empty() {
            return Ok(());
        }
        let mut tx = self.inner.db.write().await?;
        for (server, keys, document) in &read {
            store(&mut tx, server, keys, document.json().get()).await?;
        }
        tx.commit().await?;
        for (server, ..) in &read {
            self.inner.known.forget(server);
        }
        Ok(())
    }

    /// Asks a server for its keys, or notaries if it does not answer; what is learned is stored. All who ask at the
    /// same time wait for one answer.
    async fn ask(&self, server: &ServerName) {
        let asking = async {
            // The semaphore is never closed.
            let _turn = self.inner.turns.acquire().await;
            self.ask_all(server).await
        };
        // In a box: whoever asks a notary asks for the notary's keys first.
        let asking = Box::pin(asking);
        self.inner.asked.get(&server.to_owned(), asking).await;
    }

    /// Asks as [`Keys::ask`] does, for those who have their turn already.
    async fn ask_in_turn(&self, server: &ServerName) {
        let asking = Box::pin(self.ask_all(server));
        self.inner.asked.get(&server.to_owned(), asking).await;
    }

    /// Asks a server, and then the notaries; says for how long nobody need be asked again.
    async fn ask_all(&self, server: &ServerName) -> ((), Duration) {
        let asked = match self.ask_server(server).await {
            Ok(false) => self.ask_notaries(server).await,
            asked => asked,
        };
        match asked {
            Ok(true) => return ((), PAUSE),
            Ok(false) => tracing::debug!(server = %server, "nobody told the keys of a server"),
            Err(error) => tracing::warn!(%error, "the keys of a server were not stored"),
        }
        ((), PAUSE_AFTER_FAILURE)
    }

    async fn ask_server(&self, server: &ServerName) -> Result<bool> {
        let request = direct::Request::new();
        let asked = self.inner.client.ask(server, request, ALLOWANCE).await;
        let Ok(answer) = asked else {
            return Ok(false);
        };
        self.take(server, &answer.server_key).await
    }

    async fn ask_notaries(&self, server: &ServerName) -> Result<bool> {
        for notary in &self.inner.notaries {
            if server == notary || notary == self.inner.own.server_name() {
                continue;
            }
            let wanted = BTreeMap::from([(server.to_owned(), BTreeMap::new())]);
            let request = batch::Request::new(wanted);
            let asked = self.inner.client.ask(notary, request, ALLOWANCE).await;
            let Ok(answer) = asked else {
                continue;
            };
            for document in answer.server_keys {
                if self.is_of_notary(notary, &document).await?
                    && self.take(server, &document).await?
                {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Returns whether a notary signed what it is said to tell.
    async fn is_of_notary(
        &self,
        notary: &OwnedServerName,
        document: &Raw<ServerSigningKeys>,
    ) -> Result<bool> {
        let Ok(object) = serde_json::from_str(document.json().get()) else {
            return Ok(false);
        };
        let now = self.inner.clock.now_ms();
        if self
            .known(notary)
            .await?
            .is_signed_by_notary(notary, &object, now)
        {
            return Ok(true);
        }
        let asking = async {
            let asked = self.ask_server(notary).await;
            drop(asked.inspect_err(|error| tracing::warn!(%error, "no keys of the notary")));
            ((), PAUSE)
        };
        self.inner.asked.get(notary, asking).await;
        let known = self.known(notary).await?;
        Ok(known.is_signed_by_notary(notary, &object, now))
    }

    /// Stores what a server published, if it did.
    async fn take(&self, server: &ServerName, document: &Raw<ServerSigningKeys>) -> Result<bool> {
        let now = self.inner.clock.now_ms();
        let Ok(object) = serde_json::from_str::<CanonicalJsonObject>(document.json().get()) else {
            return Ok(false);
        };
        let mut keys = match ServerKeys::read(server, &object, now) {
            Ok(keys) => keys,
            Err(error) => {
                tracing::debug!(%error, "keys are not believed");
                return Ok(false);
            }
        };
        keys.keep_old(&*self.known(server).await?);
        let mut tx = self.inner.db.write().await?;
        store(&mut tx, server, &keys, &serde_json::to_string(&object)?).await?;
        tx.commit().await?;
        self.inner.known.forget(&server.to_owned());
        Ok(true)
    }
}

/// A list of keys as a server published it.
struct KeyDocument {
    object: CanonicalJsonObject,
    key_ids: BTreeSet<String>,
    valid_until_ts: i64,
}

impl KeyDocument {
    fn parse(row: &DocumentRow) -> Result<Self> {
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

    /// Returns those of some lists, the newest first, that have keys which are wanted: of each key the newest. Where no
    /// keys are named, and where none of them is known, the newest list is returned.
    fn choose(stored: Vec<Self>, key_ids: &BTreeSet<String>) -> Vec<Self> {
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

    /// Returns whether lists have all keys that are wanted, and are valid until a time.
    fn suffice(chosen: &[Self], key_ids: &BTreeSet<String>, valid_until_ms: i64) -> bool {
        let has = |key_id: &String| chosen.iter().any(|list| list.key_ids.contains(key_id));
        let is_valid = |list: &Self| list.valid_until_ts >= valid_until_ms;
        !chosen.is_empty() && key_ids.iter().all(has) && chosen.iter().all(is_valid)
    }
}

/// Keeps the list of keys that a new one is about to replace, if it lists a key that the new one does not.
async fn keep_former(tx: &mut WriteTx, server: i64, new: &DocumentRow) -> Result<()> {
    let Some(former) = server_keys::document(tx, server).await? else {
        return Ok(());
    };
    let (before, after) = (KeyDocument::parse(&former)?, KeyDocument::parse(new)?);
    if before.key_ids.is_subset(&after.key_ids) {
        return Ok(());
    }
    server_keys::keep_former_document(tx, server, &former).await
}

async fn store(
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
        server_keys::set(tx, num, &row).await?;
    }
    server_keys::prune(tx, num).await?;
    let row = DocumentRow {
        document: document.to_owned(),
        valid_until_ts: keys.valid_until_ts,
    };
    keep_former(tx, num, &row).await?;
    server_keys::set_document(tx, num, &row).await
}
