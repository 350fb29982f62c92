//! Who an access token belongs to, remembered in memory, and when their devices were last seen.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicI64, Ordering},
    },
};

use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use tokio::sync::mpsc;

use super::{Users, secrets};
use crate::{
    error::{Error, Result},
    storage::{
        Change, Db, DeviceNum, Follower, Position, Snapshot, UserNum, accounts, devices,
        tokens::{self, TokenHash},
    },
    tasks::Tasks,
};

/// Sessions remembered in memory; when there are more, the memory starts afresh.
const REMEMBERED: usize = 100_000;
/// How often it is written when a device was last seen, in milliseconds: often enough for people to read.
const SEEN_EVERY_MS: i64 = 5 * 60 * 1000;
/// Devices whose last sight waits to be written; more are noted at their next request.
const SEEN_QUEUE: usize = 4096;
/// Devices whose last sight one write notes.
const SEEN_BATCH: usize = 64;

/// A device that is logged in, and its user.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is told of the account, and independent of the others"
)]
#[derive(Debug)]
pub struct Session {
    /// The user.
    pub user_id: OwnedUserId,
    /// The user's number.
    pub user: UserNum,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// The device's number.
    pub device: DeviceNum,
    /// Whether the user administers the server.
    pub is_admin: bool,
    /// Whether the user is a guest.
    pub is_guest: bool,
    /// Whether an administrator has suspended the user.
    pub is_suspended: bool,
    /// Whether an administrator has locked the user's account.
    pub is_locked: bool,
    /// When the access token expires; `None` is never.
    expires_ts: Option<i64>,
    /// When it was last noted that the device was seen.
    noted_ts: AtomicI64,
}

impl Session {
    /// Checks that what a request names is the user's own.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when it is another's.
    pub fn must_be(&self, user_id: &UserId) -> Result<()> {
        if self.user_id != user_id {
            return Err(Error::forbidden("this belongs to another user"));
        }
        Ok(())
    }

    /// Checks that the user is no guest.
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
    /// [`Error::UserSuspended`] for one who is.
    pub fn must_not_be_suspended(&self) -> Result<()> {
        if self.is_suspended {
            return Err(Error::UserSuspended);
        }
        Ok(())
    }

    fn check_time(&self, now: i64) -> Result<()> {
        if self.expires_ts.is_some_and(|expires_ts| expires_ts <= now) {
            // The device is still there: a refresh, or a login to it, goes on where it was.
            return Err(Error::UnknownToken { soft_logout: true });
        }
        Ok(())
    }
}

impl Users {
    /// Returns the session that an access token belongs to; in a session in use it reads nothing from disk.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownToken`] when it belongs to none, or has expired.
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

    /// Notes that a device made a request; written every few minutes, after the request.
    pub fn note_seen(&self, session: &Session, ip: Option<IpAddr>) {
        let now = self.inner.clock.now_ms();
        let noted = session.noted_ts.load(Ordering::Relaxed);
        if now - noted < SEEN_EVERY_MS {
            return;
        }
        let is_first = session
            .noted_ts
            .compare_exchange(noted, now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if is_first {
            let seen = Seen {
                device: session.device,
                ts: now,
                ip,
            };
            self.inner.last_seen.note(seen);
        }
    }

    async fn load_session(&self, hash: &TokenHash) -> Result<Option<Session>> {
        let mut db = self.inner.db.snapshot().await?;
        let Some((num, expires_ts)) = tokens::find_access(&mut db, hash).await? else {
            return Ok(None);
        };
        let Some(device) = devices::get(&mut db, num).await? else {
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
            noted_ts: AtomicI64::new(device.last_seen_ts),
        }))
    }

    async fn user_id_of(&self, db: &mut Snapshot, user: UserNum) -> Result<OwnedUserId> {
        let text = self.inner.db.strings.get(db, user).await?;
        UserId::parse(&*text).map_err(|e| Error::internal("read a stored user id", e))
    }
}

/// The sessions in memory.
#[derive(Default)]
pub(super) struct Sessions {
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    /// Counts what was forgotten: what was read before that may not be remembered after it.
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

    /// Forgets the sessions of devices: the next request of each asks the database.
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
        // Only what was read from the database is remembered, and that is on disk.
    }
}

/// When and from where a device was seen.
struct Seen {
    device: DeviceNum,
    ts: i64,
    ip: Option<IpAddr>,
}

/// Writes down when devices were last seen, beside the requests.
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
        // A full queue loses a time of day, no more.
        let _ = self.queue.try_send(seen);
    }
}

async fn write_seen(db: &Db, mut waiting: mpsc::Receiver<Seen>) {
    let mut batch = Vec::with_capacity(SEEN_BATCH);
    while waiting.recv_many(&mut batch, SEEN_BATCH).await > 0 {
        if let Err(error) = write_batch(db, &mut batch).await {
            tracing::warn!(%error, "could not note when devices were last seen");
        }
        batch.clear();
    }
}

async fn write_batch(db: &Db, batch: &mut Vec<Seen>) -> Result<()> {
    let mut tx = db.write().await?;
    for seen in batch.drain(..) {
        let ip = seen.ip.map(|ip| ip.to_string());
        devices::seen(&mut tx, seen.device, seen.ts, ip).await?;
    }
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{storage::Read, users::testing::TestUsers};

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
    async fn a_sight_is_written_once_in_a_while() {
        let test = TestUsers::new(|_| {}).await;
        let session = test.session("alice").await;
        let ip: IpAddr = "10.0.0.1".parse().unwrap();

        test.users.note_seen(&session, Some(ip));
        assert_eq!(session.noted_ts.load(Ordering::Relaxed), 1_000_000);
        test.later(Duration::from_mins(10));
        test.users.note_seen(&session, Some(ip));

        // The write runs beside; the next turns of the journal come after it.
        let seen = async || {
            let mut db = test.test.db.read().await.unwrap();
            let last = db.query("SELECT last_seen_ts FROM devices");
            last.fetch_scalar::<i64>().await.unwrap().unwrap()
        };
        while seen().await != 1_600_000 {
            tokio::task::yield_now().await;
        }
    }
}
