//! Logging in with a password or a login token, which starts a session.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#login).

use ruma::{OwnedDeviceId, OwnedUserId, api::client::session::login};

use super::{IssuedTokens, Users, check_text, secrets, usernames};
use crate::{
    error::{Error, Result},
    storage::{
        UserNum, WriteTx,
        devices::device_table,
        users::{accounts, tokens},
    },
};

/// The longest device id, in bytes.
const DEVICE_ID_BYTES: usize = 255;
/// The largest number of a user's devices. Beyond it, those that were not seen for the longest time are logged out.
const MAX_DEVICES: i64 = 1_000;
/// The longest display name of a device, in bytes.
pub(crate) const DEVICE_NAME_BYTES: usize = 255;

/// The device for a login or registration.
#[derive(Debug, Default)]
pub struct NewDevice {
    /// The device id. An existing device of the user gets new tokens. Without an id the server generates one.
    pub device_id: Option<OwnedDeviceId>,
    /// The display name, which is used only for a new device.
    pub display_name: Option<String>,
    /// Whether the client supports refresh tokens.
    pub refresh_token: bool,
}

/// A session that was started.
#[derive(Clone, Debug)]
pub struct StartedSession {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    pub tokens: IssuedTokens,
}

impl NewDevice {
    /// Checks the device id and the display name.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(device_id) = &self.device_id {
            check_text("device_id", device_id.as_str(), DEVICE_ID_BYTES)?;
        }
        if let Some(name) = &self.display_name {
            check_text("initial_device_display_name", name, DEVICE_NAME_BYTES)?;
        }
        Ok(())
    }
}

impl Users {
    /// Logs a device in.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the user or the password is wrong, which takes the same time;
    /// [`Error::UserDeactivated`]; [`Error::UserLocked`]; [`Error::Refused`] for login types other than a password or a
    /// login token.
    #[tracing::instrument(skip_all, err(level = "debug"))]
    pub async fn login(&self, request: login::v3::Request) -> Result<StartedSession> {
        let device = NewDevice {
            device_id: request.device_id.filter(|id| !id.as_str().is_empty()),
            display_name: request.initial_device_display_name,
            refresh_token: request.refresh_token,
        };
        device.check()?;
        let (user, user_id) = match request.login_info {
            login::v3::LoginInfo::Password(credentials) => {
                let name = named_user(&credentials)?;
                self.check_password(&name, credentials.password).await?
            }
            login::v3::LoginInfo::Token(login) => self.redeem_login_token(&login.token).await?,
            _ => return Err(Error::Refused("unknown login type".to_owned())),
        };
        let now = self.inner.clock.now_ms();
        let mut tx = self.inner.db.write().await?;
        // The account may have been deactivated while the password was checked.
        match accounts::find(&mut tx, user).await? {
            Some(account) if account.locked => return Err(Error::UserLocked),
            Some(account) if !account.deactivated => {}
            _ => return Err(Error::UserDeactivated),
        }
        let (device_id, issued) = begin_session(&mut tx, user, device, now).await?;
        tx.commit().await?;
        Ok(StartedSession {
            user_id,
            device_id,
            tokens: issued,
        })
    }

    /// Returns the user id in a login by password, whether or not there is such an account.
    pub fn attempted_user(&self, request: &login::v3::Request) -> Option<OwnedUserId> {
        let login::v3::LoginInfo::Password(credentials) = &request.login_info else {
            return None;
        };
        let name = named_user(credentials).ok()?;
        usernames::named_user_id(&name, &self.inner.server_name)
    }

    /// Returns the user with this name, if the password is correct.
    pub(super) async fn check_password(
        &self,
        name: &str,
        password: String,
    ) -> Result<(UserNum, OwnedUserId)> {
        let wrong = || Error::forbidden("the user name or the password is wrong");
        let account = match usernames::named_user_id(name, &self.inner.server_name) {
            Some(user_id) => self.load_account(&user_id).await?.map(|a| (a, user_id)),
            None => None,
        };
        let hash = account
            .as_ref()
            .and_then(|(account, _)| account.password_hash.clone());
        let is_right = self.inner.passwords.verify(password, hash).await?;
        let (account, user_id) = account.ok_or_else(wrong)?;
        if account.deactivated {
            // The password is deleted. It is no secret that the name is taken, because it can never be registered
            // again.
            return Err(Error::UserDeactivated);
        }
        if !is_right {
            return Err(wrong());
        }
        Ok((account.user_num, user_id))
    }

    async fn load_account(&self, user_id: &OwnedUserId) -> Result<Option<accounts::Account>> {
        let mut db = self.inner.db.read().await?;
        let strings = &self.inner.db.strings;
        match strings.find_user(&mut db, user_id.as_str()).await? {
            Some(user) => accounts::find(&mut db, user).await,
            None => Ok(None),
        }
    }
}

/// Returns the user in a login, from the current field or from the one of the first specifications.
fn named_user(credentials: &login::v3::Password) -> Result<String> {
    use ruma::api::client::uiaa::UserIdentifier;
    #[expect(deprecated, reason = "clients still send it")]
    let legacy = credentials.user.clone();
    match (&credentials.identifier, legacy) {
        (Some(UserIdentifier::Matrix(identifier)), _) => Ok(identifier.user.clone()),
        (
            Some(
                UserIdentifier::Email(_)
                | UserIdentifier::Msisdn(_)
                | UserIdentifier::PhoneNumber(_),
            ),
            _,
        ) => Err(Error::forbidden(
            "log in with a user name, email addresses and phone numbers are not supported",
        )),
        (Some(_), _) => Err(Error::Refused("unknown login identifier type".to_owned())),
        (None, Some(user)) => Ok(user),
        (None, None) => Err(Error::MissingParam("identifier is missing".to_owned())),
    }
}

/// Starts a session of a device. Earlier tokens of the device are revoked.
pub(super) async fn begin_session(
    tx: &mut WriteTx,
    user: UserNum,
    wanted: NewDevice,
    now: i64,
) -> Result<(OwnedDeviceId, IssuedTokens)> {
    let device_id = wanted
        .device_id
        .unwrap_or_else(|| secrets::random_device_id().into());
    if let Some(known) = device_table::find(tx, user, device_id.as_str()).await? {
        tokens::delete_of_devices(tx, &[known.num]).await?;
        device_table::announce_ended_sessions(tx, user, vec![known.num]);
    }
    let name = wanted.display_name;
    let device = device_table::upsert(tx, user, device_id.as_str(), name, now).await?;
    // Scripts that log in repeatedly and never log out lose their old devices.
    let mut forgotten = device_table::least_recently_seen(tx, user, MAX_DEVICES).await?;
    forgotten.retain(|forgotten| *forgotten != device);
    device_table::delete(tx, user, forgotten).await?;
    let issued = IssuedTokens::issue(tx, device, wanted.refresh_token, now).await?;
    Ok((device_id, issued))
}

#[cfg(test)]
mod tests {
    use ruma::api::IncomingRequestExt;
    use serde_json::{Value, json};

    use super::*;
    use crate::users::testing::TestUsers;

    fn request(body: &Value) -> login::v3::Request {
        let body = serde_json::to_vec(body).unwrap();
        let request = axum::http::Request::post("/").body(&body[..]).unwrap();
        login::v3::Request::try_from_http_request(request, &[] as &[&str]).unwrap()
    }

    fn by_name(user: &str, password: &str) -> login::v3::Request {
        request(&json!({
            "type": "m.login.password", "password": password,
            "identifier": {"type": "m.id.user", "user": user},
        }))
    }

    #[tokio::test]
    async fn login_accepts_localparts_full_ids_and_the_deprecated_field() {
        let test = TestUsers::new(|_| {}).await;
        test.register("alice").await;
        let old = json!({"type": "m.login.password", "password": "password", "user": "alice"});

        for request in [
            by_name("alice", "password"),
            by_name("@Alice:localhost", "password"),
            request(&old),
        ] {
            let login = test.users.login(request).await.unwrap();
            assert_eq!(login.user_id, "@alice:localhost");
        }
    }

    #[tokio::test]
    async fn too_many_devices_log_out_the_least_recently_seen() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let mut tx = test.test.db.write().await.unwrap();
        for n in 0..MAX_DEVICES {
            let name = format!("DEVICE{n}");
            device_table::upsert(&mut tx, alice.user, &name, None, n)
                .await
                .unwrap();
        }
        tx.commit().await.unwrap();

        let login = test
            .users
            .login(by_name("alice", "password"))
            .await
            .unwrap();

        let mut db = test.test.db.read().await.unwrap();
        let kept = device_table::of_user(&mut db, alice.user).await.unwrap();
        let has = |id: &str| kept.iter().any(|device| device.device_id == id);
        assert_eq!(kept.len(), usize::try_from(MAX_DEVICES).unwrap());
        assert!(has(login.device_id.as_str()) && has(alice.device_id.as_str()));
        assert!(!has("DEVICE0") && has("DEVICE999"));
    }

    #[tokio::test]
    async fn a_wrong_user_or_password_is_forbidden() {
        let test = TestUsers::new(|_| {}).await;
        test.register("alice").await;

        for (name, password) in [
            ("alice", "wrong"),
            ("bob", "password"),
            ("@alice:elsewhere.org", "password"),
            ("a b\0", "password"),
        ] {
            let refused = test.users.login(by_name(name, password)).await;
            assert!(matches!(refused, Err(Error::Forbidden(_))), "{name}");
        }
    }

    #[tokio::test]
    async fn a_login_to_a_device_replaces_its_tokens() {
        let test = TestUsers::new(|_| {}).await;
        let first = test.register("alice").await;
        let token = first.tokens.access_token;
        test.users.authenticate(&token).await.unwrap();

        let mut again = by_name("alice", "password");
        again.device_id = Some(first.device_id.clone());
        let second = test.users.login(again).await.unwrap();

        assert_eq!(second.device_id, first.device_id);
        assert!(test.users.authenticate(&token).await.is_err());
        let token = second.tokens.access_token;
        assert!(test.users.authenticate(&token).await.is_ok());
    }

    #[tokio::test]
    async fn an_unknown_login_type_is_refused() {
        let test = TestUsers::new(|_| {}).await;
        let request = request(&json!({"type": "org.example.smile"}));

        let refused = test.users.login(request).await;

        assert!(matches!(refused, Err(Error::Refused(_))));
    }
}
