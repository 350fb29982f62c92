//! The keys with which other servers sign: asked of them, or of notaries, and remembered.
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#retrieving-server-keys

use std::{collections::BTreeMap, sync::Arc, time::Duration};

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
        server_keys::{self, DocumentRow, ServerKeyRow},
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

    /// Returns what a server published of its keys, for somebody else. It is asked for anew if that is not valid until a
    /// time; if it does not answer, or too many are asked for others now, what is known is better than nothing.
    pub(super) async fn document(
        &self,
        server: &ServerName,
        valid_until_ms: i64,
    ) -> Result<Option<CanonicalJsonObject>> {
        let stored = self.stored_document(server).await?;
        let is_valid = |row: &DocumentRow| row.valid_until_ts >= valid_until_ms;
        let row = if stored.as_ref().is_some_and(is_valid) {
            stored
        } else if let Ok(_turn) = self.inner.turns_for_others.try_acquire() {
            self.ask_in_turn(server).await;
            self.stored_document(server).await?
        } else {
            stored
        };
        match row {
            Some(row) => Ok(Some(serde_json::from_str(&row.document)?)),
            None => Ok(None),
        }
    }

    async fn stored_document(&self, server: &ServerName) -> Result<Option<DocumentRow>> {
        let db = &self.inner.db;
        let mut conn = db.read().await?;
        match db.strings.find(&mut conn, server.as_str()).await? {
            Some(server) => server_keys::document(&mut conn, server).await,
            None => Ok(None),
        }
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
    server_keys::set_document(tx, num, &row).await
}
