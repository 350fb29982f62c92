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
        Change, Db, DeviceNum, Follower, Position, Snapshot, UserNum,
        devices::device_table,
        users::{
            accounts,
            tokens::{self, TokenHash},
        },
    },
    tasks::Tasks,
};

/// The largest number of sessions in the cache. Beyond it, the cache is emptied.
const REMEMBERED: usize = 100_000;
/// The interval for storing when a device was last seen, in milliseconds. It is short enough for users to read.
const SEEN_EVERY_MS: i64 = 5 * 60 * 1000;
/// The interval for storing a new address of a device, in milliseconds: phones change between networks.
const ADDRESS_EVERY_MS: i64 = 60 * 1000;
/// The number of updates that may wait to be written. Beyond it, a device is updated at a later request.
const SEEN_QUEUE: usize = 4096;
/// The number of updates in one write.
const SEEN_BATCH: usize = 64;

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
    noted: Mutex<Noted>,
}

#[derive(Debug)]
struct Noted {
    ts: i64,
    ip: Option<IpAddr>,
}

/// The kind of update that a request of a device needs.
#[derive(Debug, PartialEq, Eq)]
enum Sight {
    /// The recorded time and address are recent enough.
    Known,
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
    pub fn must_be(&self, user_id: &UserId) -> Result<()> {
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
    fn see(&self, now: i64, ip: IpAddr) -> Sight {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let age_ms = now.saturating_sub(noted.ts);
        let sight = match noted.ip {
            None => Sight::First,
            Some(known) if known == ip && age_ms < SEEN_EVERY_MS => Sight::Known,
            Some(known) if known != ip && age_ms < ADDRESS_EVERY_MS => Sight::Known,
            Some(_) => Sight::Later,
        };
        if sight != Sight::Known {
            *noted = Noted {
                ts: now,
                ip: Some(ip),
            };
        }
        sight
    }

    fn check_time(&self, now: i64) -> Result<()> {
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
        let hash = secrets::hash(token);
        let now = self.inner.clock.now_ms();
        if let Some(session) = self.inner.sessions.get(&hash) {
            session.check_time(now)?;
            return Ok(session);
        }
        let generation = self.inner.sessions.generation();
        let session = self.load_session(&hash).await?;
        let session = Arc::new(session.ok_or(Error::UnknownToken { soft_logout: false })?);
        session.check_time(now)?;
        self.note_use(session.device, &hash).await?;
        self.inner
            .sessions
            .remember(generation, hash, session.clone());
        Ok(session)
    }

    /// Records that a device made a request. The first address of a device is stored before this returns. Later ones
    /// are written every few minutes, after the request.
    pub async fn note_seen(&self, session: &Session, ip: IpAddr) {
        let now = self.inner.clock.now_ms();
        let seen = Seen {
            device: session.device,
            ts: now,
            ip,
        };
        match session.see(now, ip) {
            Sight::Known => {}
            Sight::First => write_batch(&self.inner.db, &mut vec![seen]).await,
            Sight::Later => self.inner.last_seen.note(seen),
        }
    }

    async fn load_session(&self, hash: &TokenHash) -> Result<Option<Session>> {
        let mut db = self.inner.db.snapshot().await?;
        let Some((num, expires_ts)) = tokens::find_access(&mut db, hash).await? else {
            return Ok(None);
        };
        let Some(device) = device_table::get(&mut db, num).await? else {
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
            device: num,
            is_admin: account.admin,
            is_guest: account.guest,
            is_suspended: account.suspended,
            is_locked: account.locked,
            expires_ts,
            noted: Mutex::new(Noted {
                ts: device.last_seen_ts,
                ip: device.last_seen_ip.and_then(|ip| ip.parse().ok()),
            }),
        }))
    }

    async fn user_id_of(&self, db: &mut Snapshot, user: UserNum) -> Result<OwnedUserId> {
        let text = self.inner.db.strings.get(db, user).await?;
        UserId::parse(&*text).map_err(|e| Error::internal("read a stored user id", e))
    }
}

/// The cached sessions.
#[derive(Default)]
pub(super) struct Sessions {
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    /// The number of removals so far. A session that was read before a removal must not be cached after it.
    generation: u64,
    by_hash: HashMap<TokenHash, Arc<Session>>,
    by_device: HashMap<DeviceNum, Vec<TokenHash>>,
}

impl Sessions {
    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
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
        if known.by_hash.len() >= REMEMBERED {
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

impl Follower for Sessions {
    fn committed(&self, changes: &[(Position, Change)]) {
        for (_, change) in changes {
            match change {
                Change::SessionsEnded { devices, .. } => self.forget(devices),
                Change::TokensChanged { device } => self.forget(&[*device]),
                _ => {}
            }
        }
    }

    fn failed(&self) {
        // The cache only holds data that was read from the database, and that is committed.
    }
}

/// The time and address of a device's latest request.
struct Seen {
    device: DeviceNum,
    ts: i64,
    ip: IpAddr,
}

/// Writes when devices were last seen, outside of the requests.
pub(super) struct LastSeen {
    queue: mpsc::Sender<Seen>,
}

impl LastSeen {
    /// Starts the task that writes.
    pub(super) fn start(db: &Db, tasks: &Tasks) -> Self {
        let (queue, waiting) = mpsc::channel(SEEN_QUEUE);
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

    fn note(&self, seen: Seen) {
        // If the queue is full, only a time is lost.
        let _ = self.queue.try_send(seen);
    }
}

async fn write_seen(db: &Db, mut waiting: mpsc::Receiver<Seen>) {
    let mut batch = Vec::with_capacity(SEEN_BATCH);
    while waiting.recv_many(&mut batch, SEEN_BATCH).await > 0 {
        write_batch(db, &mut batch).await;
        batch.clear();
    }
}

/// Writes when devices were seen. A failure is logged and does not fail a request.
async fn write_batch(db: &Db, batch: &mut Vec<Seen>) {
    if let Err(error) = try_write_batch(db, batch).await {
        tracing::warn!(%error, "could not store when devices were last seen");
    }
}

async fn try_write_batch(db: &Db, batch: &mut Vec<Seen>) -> Result<()> {
    let mut tx = db.write().await?;
    for seen in batch.drain(..) {
        let ip = Some(seen.ip.to_string());
        device_table::seen(&mut tx, seen.device, seen.ts, ip).await?;
    }
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::users::testing::TestUsers;

    #[tokio::test]
    async fn a_session_in_use_reads_nothing_from_disk() {
        let test = TestUsers::new(|_| {}).await;
        let login = test.register("alice").await;
        let token = &login.issued.access_token;
        let session = test.users.authenticate(token).await.unwrap();

        test.test.db.close().await;

        let again = test.users.authenticate(token).await.unwrap();
        assert!(Arc::ptr_eq(&session, &again));
        assert_eq!(again.user_id, login.user_id);
        assert!(test.users.authenticate("unknown").await.is_err());
    }

    #[tokio::test]
    async fn a_session_that_ended_is_forgotten_at_once() {
        let test = TestUsers::new(|_| {}).await;
        let login = test.register("alice").await;
        let token = &login.issued.access_token;
        let session = test.users.authenticate(token).await.unwrap();

        test.users.logout(&session).await.unwrap();

        let refused = test.users.authenticate(token).await;
        let hard = Error::UnknownToken { soft_logout: false };
        assert_eq!(refused.unwrap_err().to_string(), hard.to_string());
    }

    #[tokio::test]
    async fn what_was_read_before_an_end_is_not_remembered_after_it() {
        let test = TestUsers::new(|_| {}).await;
        let session = test.session("alice").await;
        let sessions = Sessions::default();
        let generation = sessions.generation();

        sessions.forget(&[session.device]);
        sessions.remember(generation, [1; 32], session);

        assert!(sessions.get(&[1; 32]).is_none());
    }

    #[tokio::test]
    async fn the_memory_is_bounded() {
        let test = TestUsers::new(|_| {}).await;
        let session = test.session("alice").await;
        let sessions = Sessions::default();

        for n in 0..=REMEMBERED {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_le_bytes());
            sessions.remember(0, hash, session.clone());
        }

        assert!(sessions.read().by_hash.len() <= REMEMBERED);
    }

    #[tokio::test]
    async fn the_first_address_is_stored_at_once_and_later_ones_after_a_while() {
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

        test.users.note_seen(&session, home).await;
        assert_eq!(seen().await, (1_000_000, home.to_string()));
        test.users.note_seen(&session, work).await;
        assert_eq!(session.see(1_000_000, work), Sight::Known);
        test.later(Duration::from_mins(10));
        test.users.note_seen(&session, work).await;

        // The write runs in the background; the loop waits for it.
        while seen().await != (1_600_000, work.to_string()) {
            tokio::task::yield_now().await;
        }
    }
}
