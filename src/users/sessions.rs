//! The sessions of access tokens, and the times at which devices were last seen.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use super::{
    ApplicationService, UserEnvironment,
    last_seen::{DeviceSeen, LastSeenWriter, write_batch},
    refresh_tokens, secrets,
    session_cache::SessionCache,
};
use crate::{
    clock::Clock,
    error::{Error, RefusalCode, Result},
    numbers::{DeviceNum, UserNum},
    storage::{
        Db, WriteTx,
        devices::device_table::{self, Device},
        users::{
            accounts::{self, Account},
            browser_sessions,
            tokens::{self, TokenHash},
        },
    },
};

/// The interval for storing when a device was last seen, in milliseconds. It is short enough for users to read.
const LAST_SEEN_INTERVAL_MS: i64 = 5 * 60 * 1000;
/// The interval for storing a new address of a device, in milliseconds: phones change between networks.
const ADDRESS_INTERVAL_MS: i64 = 60 * 1000;
/// A logged-in device and its user.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a property of the account, independent of the others"
)]
#[derive(Debug)]
pub struct Session {
    pub user_id: OwnedUserId,
    pub user: UserNum,
    /// The device id; `None` for a request of an application service that names no device, and for a browser that is
    /// signed in to the pages of this server.
    pub device_id: Option<OwnedDeviceId>,
    /// The number of the device. Without a device, it is a number that no device has, and that all requests of the user
    /// without a device have.
    pub device: DeviceNum,
    /// Whether the user is an administrator of the server.
    pub is_admin: bool,
    pub is_guest: bool,
    pub is_suspended: bool,
    pub is_locked: bool,
    /// The application service that makes the request as this user.
    pub application_service: Option<Arc<ApplicationService>>,
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

/// The device and the token of a session.
struct SessionOrigin {
    device: Option<Device>,
    application_service: Option<Arc<ApplicationService>>,
    expires_ts: Option<i64>,
}

impl Session {
    /// Returns the session of a user in a browser that is signed in to the pages of this server. It has no device.
    pub(super) fn of_browser(user_id: OwnedUserId, account: &Account) -> Self {
        let origin = SessionOrigin {
            device: None,
            application_service: None,
            expires_ts: None,
        };
        Self::new(user_id, account, origin)
    }

    /// Returns the session of a request that an application service makes as a user.
    pub(super) fn of_service(
        service: &Arc<ApplicationService>,
        user_id: OwnedUserId,
        account: &Account,
        device: Option<Device>,
    ) -> Self {
        let origin = SessionOrigin {
            device,
            application_service: Some(service.clone()),
            expires_ts: None,
        };
        Self::new(user_id, account, origin)
    }

    fn new(user_id: OwnedUserId, account: &Account, origin: SessionOrigin) -> Self {
        let SessionOrigin {
            device,
            application_service,
            expires_ts,
        } = origin;
        let device_num = device.as_ref().map(|device| device.num);
        let recorded = RecordedAccess {
            ts: device.as_ref().map_or(0, |device| device.last_seen_ts),
            ip: device
                .as_ref()
                .and_then(|device| device.last_seen_ip.as_ref()?.parse().ok()),
        };
        Self {
            user_id,
            user: account.user_num,
            device: device_num.unwrap_or_else(|| DeviceNum::of_no_device(account.user_num)),
            device_id: device.map(|device| device.device_id.into()),
            is_admin: account.admin,
            is_guest: account.guest,
            is_suspended: account.suspended,
            is_locked: account.locked,
            application_service,
            expires_ts,
            recorded: Mutex::new(recorded),
        }
    }

    /// Returns the device id, for operations that need one.
    ///
    /// # Errors
    ///
    /// `RefusalCode::MissingParam` when an application service named no device.
    pub fn require_device_id(&self) -> Result<&DeviceId> {
        self.device_id.as_deref().ok_or_else(|| {
            Error::refused(
                RefusalCode::MissingParam,
                "an application service must name a device with the parameter device_id",
            )
        })
    }

    /// Returns whether the rate limits do not hold for the session.
    pub fn is_exempt_from_limits(&self) -> bool {
        let service = self.application_service.as_ref();
        service.is_some_and(|service| !service.registration.rate_limited)
    }

    /// Checks that the user id in a request is the user's own.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when it is another user's.
    pub fn must_be_user(&self, user_id: &UserId) -> Result<()> {
        if self.user_id != user_id {
            return Err(Error::forbidden(
                "the user id in the request must be your own",
            ));
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
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let age_ms = now.saturating_sub(recorded.ts);
        let update = match recorded.ip {
            None => LastSeenUpdate::First,
            Some(known) if known == ip && age_ms < LAST_SEEN_INTERVAL_MS => {
                LastSeenUpdate::NotNeeded
            }
            Some(known) if known != ip && age_ms < ADDRESS_INTERVAL_MS => LastSeenUpdate::NotNeeded,
            Some(_) => LastSeenUpdate::Later,
        };
        if update != LastSeenUpdate::NotNeeded {
            *recorded = RecordedAccess {
                ts: now,
                ip: Some(ip),
            };
        }
        update
    }

    fn check_expiry(&self, now: i64) -> Result<()> {
        if self.expires_ts.is_some_and(|expires_ts| expires_ts <= now) {
            // The device still exists: after a refresh, or a login to it, it continues as before.
            return Err(Error::UnknownToken { soft_logout: true });
        }
        Ok(())
    }
}

/// The sessions of logged-in devices.
#[derive(Clone)]
pub struct UserSessions {
    db: Db,
    clock: Clock,
    cache: Arc<SessionCache>,
    last_seen: Arc<LastSeenWriter>,
}

impl UserSessions {
    /// Starts the service, which follows the journal.
    pub(super) fn start(environment: &UserEnvironment) -> Self {
        let (db, cache) = (&environment.db, Arc::new(SessionCache::default()));
        db.journal().add_follower(cache.clone());
        Self {
            db: db.clone(),
            clock: environment.clock.clone(),
            cache,
            last_seen: Arc::new(LastSeenWriter::start(db, &environment.tasks)),
        }
    }

    /// Returns the session of an access token. For a session in use, nothing is read from the database.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownToken`] when there is no session, or the token has expired.
    pub async fn authenticate(&self, token: &str) -> Result<Arc<Session>> {
        let hash = secrets::hash_token(token);
        let now = self.clock.now_ms();
        if let Some(session) = self.cache.get(&hash) {
            session.check_expiry(now)?;
            return Ok(session);
        }
        let generation = self.cache.generation();
        let session = self.load_session(&hash).await?;
        let session = Arc::new(session.ok_or(Error::UnknownToken { soft_logout: false })?);
        session.check_expiry(now)?;
        refresh_tokens::record_first_use(&self.db, session.device, &hash).await?;
        self.cache.remember(generation, hash, session.clone());
        Ok(session)
    }

    /// Records that a device made a request. The first address of a device is stored before this returns. Later ones
    /// are written every few minutes, after the request.
    pub async fn record_seen(&self, session: &Session, ip: IpAddr) {
        if session.application_service.is_some() {
            // The address would be that of the service, and a service works without pause.
            return;
        }
        let now = self.clock.now_ms();
        let seen = DeviceSeen {
            device: session.device,
            ts: now,
            ip,
        };
        match session.record_request(now, ip) {
            LastSeenUpdate::NotNeeded => {}
            LastSeenUpdate::First => write_batch(&self.db, &mut vec![seen]).await,
            LastSeenUpdate::Later => self.last_seen.queue_update(seen),
        }
    }

    /// Logs a device out, and deletes it with its tokens and messages.
    pub async fn logout(&self, session: &Session) -> Result<()> {
        let mut tx = self.db.write().await?;
        device_table::delete(&mut tx, session.user, vec![session.device]).await?;
        tx.commit().await
    }

    /// Logs out every device of a user.
    pub async fn logout_all(&self, session: &Session) -> Result<()> {
        let mut tx = self.db.write().await?;
        delete_devices_except(&mut tx, session.user, None).await?;
        tx.commit().await
    }

    async fn load_session(&self, hash: &TokenHash) -> Result<Option<Session>> {
        let mut db = self.db.snapshot().await?;
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
        let user_id = self.db.strings.user_id(&mut db, device.user_num).await?;
        let origin = SessionOrigin {
            device: Some(device),
            application_service: None,
            expires_ts: token.expires_ts,
        };
        Ok(Some(Session::new(user_id, &account, origin)))
    }
}

/// Deletes the devices of a user, with their tokens and messages, except one.
pub(super) async fn delete_devices_except(
    tx: &mut WriteTx,
    user: UserNum,
    kept: Option<&Session>,
) -> Result<()> {
    let kept = kept.map(|session| session.device);
    let devices = device_table::of_user(tx, user).await?.into_iter();
    let ended = devices
        .map(|device| device.num)
        .filter(|num| Some(*num) != kept);
    device_table::delete(tx, user, ended.collect()).await?;
    browser_sessions::remove_all(tx, user).await
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
        let session = test.users.sessions.authenticate(token).await.unwrap();

        test.test.db.close().await;

        let again = test.users.sessions.authenticate(token).await.unwrap();
        assert!(Arc::ptr_eq(&session, &again));
        assert_eq!(again.user_id, login.user_id);
        assert!(test.users.sessions.authenticate("unknown").await.is_err());
    }

    #[tokio::test]
    async fn an_ended_session_leaves_the_cache_at_once() {
        let test = TestUsers::new(|_| {}).await;
        let login = test.register("alice").await;
        let token = &login.tokens.access_token;
        let session = test.users.sessions.authenticate(token).await.unwrap();

        test.users.sessions.logout(&session).await.unwrap();

        let refused = test.users.sessions.authenticate(token).await;
        let hard = Error::UnknownToken { soft_logout: false };
        assert_eq!(refused.unwrap_err().to_string(), hard.to_string());
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

        test.users.sessions.record_seen(&session, home).await;
        assert_eq!(seen().await, (1_000_000, home.to_string()));
        test.users.sessions.record_seen(&session, work).await;
        assert_eq!(
            session.record_request(1_000_000, work),
            LastSeenUpdate::NotNeeded
        );
        test.advance(Duration::from_mins(10));
        test.users.sessions.record_seen(&session, work).await;

        // The write runs in the background; the loop waits for it.
        while seen().await != (1_600_000, work.to_string()) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn logging_out_everywhere_ends_every_session() {
        let test = TestUsers::new(|_| {}).await;
        let login = test.register("alice").await;
        let alice = test
            .users
            .sessions
            .authenticate(&login.tokens.access_token)
            .await
            .unwrap();

        test.users.sessions.logout_all(&alice).await.unwrap();

        let token = &login.tokens.access_token;
        assert!(test.users.sessions.authenticate(token).await.is_err());
    }
}
