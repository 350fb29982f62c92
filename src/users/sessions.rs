//! The sessions of access tokens, cached in memory, and the times at which devices were last seen.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use tokio::sync::mpsc;

use super::{Users, secrets};
use crate::{
    error::{Error, Result},
    storage::{
        Db, DeviceNum, JournalChange, JournalFollower, Position, ReadSnapshot, UserNum,
        devices::device_table,
        users::{
            accounts,
            tokens::{self, TokenHash},
        },
    },
    tasks::Tasks,
};

/// The largest number of sessions in the cache. Beyond it, the cache is emptied.
const MAX_CACHED_SESSIONS: usize = 100_000;
/// The interval for storing when a device was last seen, in milliseconds. It is short enough for users to read.
const LAST_SEEN_INTERVAL_MS: i64 = 5 * 60 * 1000;
/// The interval for storing a new address of a device, in milliseconds: phones change between networks.
const ADDRESS_INTERVAL_MS: i64 = 60 * 1000;
/// The number of updates that may wait to be written. Beyond it, a device is updated at a later request.
const MAX_QUEUED_UPDATES: usize = 4096;
/// The number of updates in one write.
const UPDATES_PER_WRITE: usize = 64;

/// A logged-in device and its user.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a property of the account, independent of the others"
)]
#[derive(Debug)]
pub struct Session {
    pub user_id: OwnedUserId,
    pub user: UserNum,
    pub device_id: OwnedDeviceId,
    pub device: DeviceNum,
    /// Whether the user is an administrator of the server.
    pub is_admin: bool,
    pub is_guest: bool,
    pub is_suspended: bool,
    pub is_locked: bool,
    /// The time at which the access token expires; `None` means never.
    expires_ts: Option<i64>,
    /// The time and address that were last recorded for the device.
    recorded: Mutex<RecordedAccess>,
}

#[derive(Debug)]
struct RecordedAccess {
    ts: i64,
    ip: Option<IpAddr>,
}

/// The kind of update that a request of a device needs.
#[derive(Debug, PartialEq, Eq)]
enum LastSeenUpdate {
    /// The recorded time and address are recent enough.
    NotNeeded,
    /// No address is recorded yet.
    First,
    /// The address is new, or the recorded time is too old.
    Later,
}

impl Session {
    /// Checks that the user id in a request is the user's own.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when it is another user's.
    pub fn must_be_user(&self, user_id: &UserId) -> Result<()> {
        if self.user_id != user_id {
            return Err(Error::forbidden("this belongs to another user"));
        }
        Ok(())
    }

    /// Checks that the user is not a guest.
    ///
    /// # Errors
    ///
    /// [`Error::GuestAccessForbidden`] for a guest.
    pub fn must_not_be_guest(&self) -> Result<()> {
        if self.is_guest {
            return Err(Error::GuestAccessForbidden);
        }
        Ok(())
    }

    /// Checks that no administrator has suspended the user.
    ///
    /// # Errors
    ///
    /// [`Error::UserSuspended`] for a suspended user.
    pub fn must_not_be_suspended(&self) -> Result<()> {
        if self.is_suspended {
            return Err(Error::UserSuspended);
        }
        Ok(())
    }

    /// Records a request at this time from this address; returns the kind of update that it needs.
    fn record_request(&self, now: i64, ip: IpAddr) -> LastSeenUpdate {
        let mut noted = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let age_ms = now.saturating_sub(noted.ts);
        let sight = match noted.ip {
            None => LastSeenUpdate::First,
            Some(known) if known == ip && age_ms < LAST_SEEN_INTERVAL_MS => {
                LastSeenUpdate::NotNeeded
            }
            Some(known) if known != ip && age_ms < ADDRESS_INTERVAL_MS => LastSeenUpdate::NotNeeded,
            Some(_) => LastSeenUpdate::Later,
        };
        if sight != LastSeenUpdate::NotNeeded {
            *noted = RecordedAccess {
                ts: now,
                ip: Some(ip),
            };
        }
        sight
    }

    fn check_expiry(&self, now: i64) -> Result<()> {
        if self.expires_ts.is_some_and(|expires_ts| expires_ts <= now) {
            // The device still exists: after a refresh, or a login to it, it continues as before.
            return Err(Error::UnknownToken { soft_logout: true });
        }
        Ok(())
    }
}

impl Users {
    /// Returns the session of an access token. For a session in use, nothing is read from the database.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownToken`] when there is no session, or the token has expired.
    pub async fn authenticate(&self, token: &str) -> Result<Arc<Session>> {
        let hash = secrets::hash_token(token);
        let now = self.inner.clock.now_ms();
        if let Some(session) = self.inner.sessions.get(&hash) {
            session.check_expiry(now)?;
            return Ok(session);
        }
        let generation = self.inner.sessions.generation();
        let session = self.load_session(&hash).await?;
        let session = Arc::new(session.ok_or(Error::UnknownToken { soft_logout: false })?);
        session.check_expiry(now)?;
        self.record_first_use(session.device, &hash).await?;
        self.inner
            .sessions
            .remember(generation, hash, session.clone());
        Ok(session)
    }

    /// Records that a device made a request. The first address of a device is stored before this returns. Later ones
    /// are written every few minutes, after the request.
    pub async fn record_seen(&self, session: &Session, ip: IpAddr) {
        let now = self.inner.clock.now_ms();
        let seen = DeviceSeen {
            device: session.device,
            ts: now,
            ip,
        };
        match session.record_request(now, ip) {
            LastSeenUpdate::NotNeeded => {}
            LastSeenUpdate::First => write_batch(&self.inner.db, &mut vec![seen]).await,
            LastSeenUpdate::Later => self.inner.last_seen.queue_update(seen),
        }
    }

    async fn load_session(&self, hash: &TokenHash) -> Result<Option<Session>> {
        let mut db = self.inner.db.snapshot().await?;
        let Some(token) = tokens::find_access(&mut db, hash).await? else {
            return Ok(None);
        };
        let Some(device) = device_table::get(&mut db, token.device).await? else {
            return Ok(None);
        };
        let Some(account) = accounts::find(&mut db, device.user_num).await? else {
            return Ok(None);
        };
        if account.deactivated {
            return Ok(None);
        }
        let user_id = self.user_id_of(&mut db, device.user_num).await?;
        Ok(Some(Session {
            user_id,
            user: device.user_num,
            device_id: device.device_id.into(),
            device: token.device,
            is_admin: account.admin,
            is_guest: account.guest,
            is_suspended: account.suspended,
            is_locked: account.locked,
            expires_ts: token.expires_ts,
            recorded: Mutex::new(RecordedAccess {
                ts: device.last_seen_ts,
                ip: device.last_seen_ip.and_then(|ip| ip.parse().ok()),
            }),
        }))
    }

    async fn user_id_of(&self, db: &mut ReadSnapshot, user: UserNum) -> Result<OwnedUserId> {
        let text = self.inner.db.strings.user_id(db, user).await?;
        UserId::parse(&*text).map_err(|e| Error::internal("read a stored user id", e))
    }
}

/// The cached sessions.
#[derive(Default)]
pub(super) struct SessionCache {
    cached: RwLock<CachedSessions>,
}

#[derive(Default)]
struct CachedSessions {
    /// The number of removals so far. A session that was read before a removal must not be cached after it.
    generation: u64,
    by_hash: HashMap<TokenHash, Arc<Session>>,
    by_device: HashMap<DeviceNum, Vec<TokenHash>>,
}

impl SessionCache {
    fn read(&self) -> RwLockReadGuard<'_, CachedSessions> {
        self.cached.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, CachedSessions> {
        self.cached.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, hash: &TokenHash) -> Option<Arc<Session>> {
        self.read().by_hash.get(hash).cloned()
    }

    fn generation(&self) -> u64 {
        self.read().generation
    }

    fn remember(&self, generation: u64, hash: TokenHash, session: Arc<Session>) {
        let mut known = self.write();
        if known.generation != generation {
            return;
        }
        if known.by_hash.len() >= MAX_CACHED_SESSIONS {
            known.by_hash.clear();
            known.by_device.clear();
        }
        let device = session.device;
        if known.by_hash.insert(hash, session).is_none() {
            known.by_device.entry(device).or_default().push(hash);
        }
    }

    /// Removes the sessions of devices from the cache, so that their next requests read the database.
    pub(super) fn forget(&self, devices: &[DeviceNum]) {
        let mut known = self.write();
        known.generation += 1;
        for device in devices {
            for hash in known.by_device.remove(device).unwrap_or_default() {
                known.by_hash.remove(&hash);
            }
        }
    }
}

impl JournalFollower for SessionCache {
    fn committed(&self, changes: &[(Position, JournalChange)]) {
        for (_, change) in changes {
            match change {
                JournalChange::SessionsEnded { devices, .. } => self.forget(devices),
                JournalChange::TokensChanged { device } => self.forget(&[*device]),
                _ => {}
            }
        }
    }

    fn failed(&self) {
        // The cache only holds data that was read from the database, and that is committed.
    }
}

/// The time and address of a device's latest request.
struct DeviceSeen {
    device: DeviceNum,
    ts: i64,
    ip: IpAddr,
}

/// Writes when devices were last seen, outside of the requests.
pub(super) struct LastSeenWriter {
    queue: mpsc::Sender<DeviceSeen>,
}

impl LastSeenWriter {
    /// Starts the task that writes.
    pub(super) fn start(db: &Db, tasks: &Tasks) -> Self {
        let (queue, waiting) = mpsc::channel(MAX_QUEUED_UPDATES);
        let stopping = tasks.stopping().clone();
        let db = db.clone();
        drop(tasks.spawn(async move {
            tokio::select! {
                () = write_seen(&db, waiting) => {}
                () = stopping.cancelled() => {}
            }
        }));
        Self { queue }
    }

    fn queue_update(&self, seen: DeviceSeen) {
        // If the queue is full, only a time is lost.
        let _ = self.queue.try_send(seen);
    }
}

async fn write_seen(db: &Db, mut waiting: mpsc::Receiver<DeviceSeen>) {
    let mut batch = Vec::with_capacity(UPDATES_PER_WRITE);
    while waiting.recv_many(&mut batch, UPDATES_PER_WRITE).await > 0 {
        write_batch(db, &mut batch).await;
        batch.clear();
    }
}

/// Writes when devices were seen. A failure is logged and does not fail a request.
async fn write_batch(db: &Db, batch: &mut Vec<DeviceSeen>) {
    if let Err(error) = try_write_batch(db, batch).await {
        tracing::warn!(%error, "could not store when devices were last seen");
    }
}

async fn try_write_batch(db: &Db, batch: &mut Vec<DeviceSeen>) -> Result<()> {
    let mut tx = db.write().await?;
    for seen in batch.drain(..) {
        let ip = Some(seen.ip.to_string());
        device_table::set_last_seen(&mut tx, seen.device, seen.ts, ip).await?;
    }
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::users::testing::TestUsers;

    #[tokio::test]
    async fn a_cached_session_causes_no_disk_reads() {
        let test = TestUsers::new(|_| {}).await;
        let login = test.register("alice").await;
        let token = &login.tokens.access_token;
        let session = test.users.authenticate(token).await.unwrap();

        test.test.db.close().await;

        let again = test.users.authenticate(token).await.unwrap();
        assert!(Arc::ptr_eq(&session, &again));
        assert_eq!(again.user_id, login.user_id);
        assert!(test.users.authenticate("unknown").await.is_err());
    }

    #[tokio::test]
    async fn an_ended_session_leaves_the_cache_at_once() {
        let test = TestUsers::new(|_| {}).await;
        let login = test.register("alice").await;
        let token = &login.tokens.access_token;
        let session = test.users.authenticate(token).await.unwrap();

        test.users.logout(&session).await.unwrap();

        let refused = test.users.authenticate(token).await;
        let hard = Error::UnknownToken { soft_logout: false };
        assert_eq!(refused.unwrap_err().to_string(), hard.to_string());
    }

    #[tokio::test]
    async fn a_session_read_before_its_end_is_not_cached_later() {
        let test = TestUsers::new(|_| {}).await;
        let session = test.session("alice").await;
        let sessions = SessionCache::default();
        let generation = sessions.generation();

        sessions.forget(&[session.device]);
        sessions.remember(generation, [1; 32], session);

        assert!(sessions.get(&[1; 32]).is_none());
    }

    #[tokio::test]
    async fn the_session_cache_is_bounded() {
        let test = TestUsers::new(|_| {}).await;
        let session = test.session("alice").await;
        let sessions = SessionCache::default();

        for n in 0..=MAX_CACHED_SESSIONS {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_le_bytes());
            sessions.remember(0, hash, session.clone());
        }

        assert!(sessions.read().by_hash.len() <= MAX_CACHED_SESSIONS);
    }

    #[tokio::test]
    async fn later_addresses_of_a_device_are_stored_after_a_while() {
        let test = TestUsers::new(|_| {}).await;
        let session = test.session("alice").await;
        let [home, work]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        let seen = async || {
            let mut db = test.test.db.read().await.unwrap();
            let found = device_table::get(&mut db, session.device)
                .await
                .unwrap()
                .unwrap();
            (found.last_seen_ts, found.last_seen_ip.unwrap_or_default())
        };

        test.users.record_seen(&session, home).await;
        assert_eq!(seen().await, (1_000_000, home.to_string()));
        test.users.record_seen(&session, work).await;
        assert_eq!(
            session.record_request(1_000_000, work),
            LastSeenUpdate::NotNeeded
        );
        test.advance(Duration::from_mins(10));
        test.users.record_seen(&session, work).await;

        // The write runs in the background; the loop waits for it.
        while seen().await != (1_600_000, work.to_string()) {
            tokio::task::yield_now().await;
        }
    }
}
