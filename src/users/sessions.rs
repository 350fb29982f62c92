//! Who an access token belongs to, remembered in memory, and when their devices were last seen.

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

/// Sessions remembered in memory; when there are more, the memory starts afresh.
const REMEMBERED: usize = 100_000;
/// How often it is written when a device was last seen, in milliseconds: often enough for people to read.
const SEEN_EVERY_MS: i64 = 5 * 60 * 1000;
/// How often it is written that a device has another address, in milliseconds: phones change between networks.
const ADDRESS_EVERY_MS: i64 = 60 * 1000;
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
    /// When and from where the device was seen, as it was last noted.
    noted: Mutex<Noted>,
}

#[derive(Debug)]
struct Noted {
    ts: i64,
    ip: Option<IpAddr>,
}

/// Whether a request says something new about its device.
#[derive(Debug, PartialEq, Eq)]
enum Sight {
    /// It is known from where the device is used, and when it was used last.
    Known,
    /// It was not known from where the device is used.
    First,
    /// The device is used from another address, or was last noted a while ago.
    Later,
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

    /// Returns what a request at this time from this address says, and notes that.
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

    /// Notes that a device made a request. The first address of a device is stored when this returns; later ones are
    /// written every few minutes, after the request.
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
    ip: IpAddr,
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
        write_batch(db, &mut batch).await;
        batch.clear();
    }
}

/// Writes when devices were seen. No request fails because that cannot be written.
async fn write_batch(db: &Db, batch: &mut Vec<Seen>) {
    if let Err(error) = try_write_batch(db, batch).await {
        tracing::warn!(%error, "could not note when devices were last seen");
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

        // The write runs beside; the next turns of the journal come after it.
        while seen().await != (1_600_000, work.to_string()) {
            tokio::task::yield_now().await;
        }
    }
}
