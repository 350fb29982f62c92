//! Registering accounts.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#account-registration-and-management).

use ruma::{
    OwnedUserId,
    api::client::{
        account::register::{RegistrationKind, v3::Request},
        uiaa::{AuthData, AuthFlow, AuthType},
    },
};

use super::{
    NewDevice, StartedSession, Users,
    login::begin_session,
    passwords::Passwords,
    secrets,
    uia::{OperationDigest, StageResult, UiaRequest},
    usernames,
};
use crate::{
    error::{Error, Result},
    storage::{
        UserNum, WriteTx,
        rooms::invite_links::{self, LinkUse},
        users::{
            accounts::{self, Account},
            tokens::{self, RegistrationToken},
            user_directory,
        },
    },
};

/// An account that was registered.
#[derive(Clone, Debug)]
pub struct RegisteredAccount {
    pub user_id: OwnedUserId,
    /// The first session, unless the client did not want one.
    pub login: Option<StartedSession>,
}

/// The data of an account to create.
pub(super) struct NewAccount {
    pub(super) user_id: OwnedUserId,
    pub(super) password_hash: Option<String>,
    pub(super) admin: bool,
    pub(super) guest: bool,
    /// `None` inhibits the login.
    pub(super) device: Option<NewDevice>,
}

impl Users {
    /// Registers an account, after the request has authenticated itself.
    ///
    /// # Errors
    ///
    /// [`Error::Uia`] with the flows until it has; [`Error::InvalidUsername`], [`Error::UserInUse`];
    /// [`Error::GuestAccessForbidden`] if guests are not allowed.
    #[tracing::instrument(skip_all, err(level = "debug"))]
    pub async fn register(&self, request: Request) -> Result<RegisteredAccount> {
        match request.kind {
            RegistrationKind::User => {}
            RegistrationKind::Guest => return self.register_guest(request).await,
            _ => return Err(Error::invalid_param("kind must be `user` or `guest`")),
        }
        let id = request.auth.as_ref().and_then(AuthData::session);
        let now = self.inner.clock.now_ms();
        let Some(session) = id.and_then(|id| self.inner.uia.registration(id, now)) else {
            return self.register_in_session(request).await;
        };
        // Requests of the same session run one at a time: the second one gets the result of the first.
        let mut session = session.lock().await;
        let request = session.complete_request(request);
        if let Some(outcome) = session.registered_account(&request)? {
            return Ok(outcome);
        }
        check_has_parameters(&request)?;
        if session.request.is_none() {
            session.request = request_parameters(&request);
        }
        let registered = self.register_user(request).await?;
        session.account = Some(registered.clone());
        Ok(registered)
    }

    /// Registers a user. If this starts an interactive authentication session, the session remembers the request.
    async fn register_in_session(&self, request: Request) -> Result<RegisteredAccount> {
        let parameters = request_parameters(&request);
        let registered = self.register_user(request).await;
        if let Err(Error::Uia(info)) = &registered
            && let Some(id) = &info.session
            && let Some(session) = self.inner.uia.registration(id, self.inner.clock.now_ms())
        {
            session.lock().await.request = parameters;
        }
        registered
    }

    async fn register_user(&self, request: Request) -> Result<RegisteredAccount> {
        if request.guest_access_token.is_some() {
            return self.upgrade_guest(request).await;
        }
        let user_id = match &request.username {
            Some(name) => Some(self.available_user_id(name).await?),
            None => None,
        };
        let device = requested_device(&request)?;
        if let Some(password) = &request.password {
            Passwords::check(password)?;
        }
        let proven = self
            .authorize_registration(&request, user_id.as_ref())
            .await?;
        let user_id =
            user_id.map_or_else(|| usernames::generated_user_id(&self.inner.server_name), Ok)?;
        let password_hash = match request.password {
            Some(password) => Some(self.inner.passwords.hash(password).await?),
            None => None,
        };
        let account = NewAccount {
            user_id,
            password_hash,
            admin: false,
            guest: false,
            device: (!request.inhibit_login).then_some(device),
        };
        self.create_account(account, proven.registration_token)
            .await
    }

    /// Returns the user id for a user name that can be registered.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidUsername`] or [`Error::UserInUse`] when it cannot.
    pub async fn available_user_id(&self, name: &str) -> Result<OwnedUserId> {
        let user_id = usernames::registrable_user_id(name, &self.inner.server_name)?;
        if self.inner.notices_sender.as_ref() == Some(&user_id) {
            return Err(Error::UserInUse);
        }
        let mut db = self.inner.db.read().await?;
        let strings = &self.inner.db.strings;
        let Some(user) = strings.find_user(&mut db, user_id.as_str()).await? else {
            return Ok(user_id);
        };
        match accounts::find(&mut db, user).await? {
            Some(_) => Err(Error::UserInUse),
            None => Ok(user_id),
        }
    }

    /// Returns the one-time token with which the first administrator registers; `None` once there is an administrator.
    pub async fn first_admin_token(&self) -> Result<Option<String>> {
        let mut tx = self.inner.db.write().await?;
        if accounts::has_admin(&mut tx).await? {
            return Ok(None);
        }
        if let Some(token) = tokens::unused_admin_registration(&mut tx).await? {
            return Ok(Some(token));
        }
        let token = secrets::random_token();
        let registration = RegistrationToken {
            token: token.clone(),
            uses_allowed: Some(1),
            completed: 0,
            expires_ts: None,
            makes_admin: true,
        };
        tokens::insert_registration(&mut tx, &registration).await?;
        tx.commit().await?;
        Ok(Some(token))
    }

    /// Stores an account in one transaction, which checks every rule that two concurrent registrations could break.
    pub(super) async fn create_account(
        &self,
        account: NewAccount,
        registration_token: Option<String>,
    ) -> Result<RegisteredAccount> {
        let now = self.inner.clock.now_ms();
        let mut tx = self.inner.db.write().await?;
        let mut admin = account.admin;
        let user = tx.intern_user(account.user_id.as_str()).await?;
        if let Some(token) = registration_token {
            admin |= self.use_token(&mut tx, &token, user).await?;
        }
        let row = Account {
            user_num: user,
            password_hash: account.password_hash,
            admin,
            guest: account.guest,
            deactivated: false,
            suspended: false,
            locked: false,
            erased_position: None,
            created_ts: now,
        };
        if !accounts::insert(&mut tx, &row).await? {
            return Err(Error::UserInUse);
        }
        user_directory::set_search_text(&mut tx, user, account.user_id.as_str(), None).await?;
        if admin {
            // The link for the first administrator is no longer needed.
            tokens::delete_unused_admin_registrations(&mut tx).await?;
        }
        let login = match account.device {
            Some(device) => {
                Some(begin_first_session(&mut tx, user, &account.user_id, device, now).await?)
            }
            None => None,
        };
        tx.commit().await?;
        tracing::info!(user_id = %account.user_id, admin, "account registered");
        Ok(RegisteredAccount {
            user_id: account.user_id,
            login,
        })
    }

    /// Uses a registration token, and returns whether it makes the account an administrator.
    ///
    /// The token of a room invite link does not. Each account counts as one use of the link.
    async fn use_token(&self, tx: &mut WriteTx, token: &str, user: UserNum) -> Result<bool> {
        let now = self.inner.clock.now_ms();
        if let Some(makes_admin) = tokens::use_registration(tx, token, now).await? {
            return Ok(makes_admin);
        }
        let takes_links = self.inner.registration.invite_links;
        if takes_links && invite_links::use_link(tx, token, user, now).await? != LinkUse::Refused {
            return Ok(false);
        }
        Err(Error::forbidden(
            "the registration token has been used up in the meantime",
        ))
    }

    /// Returns whether registration is open, or possible with a room invite link.
    pub fn accepts_invite_links(&self) -> bool {
        self.inner.registration.open || self.inner.registration.invite_links
    }

    async fn authorize_registration(
        &self,
        request: &Request,
        user_id: Option<&OwnedUserId>,
    ) -> Result<StageResult> {
        let mut flows = vec![AuthFlow::new(vec![AuthType::RegistrationToken])];
        if self.inner.registration.open {
            flows.insert(0, AuthFlow::new(vec![AuthType::Dummy]));
        }
        let ask = UiaRequest {
            endpoint: "register",
            session: None,
            // A request without a user name and password only asks for the flows.
            operation: match (user_id, &request.password) {
                (None, None) => None,
                parameters => Some(OperationDigest::of_parameters(&parameters)?),
            },
            flows,
        };
        self.authorize(&ask, request.auth.as_ref()).await
    }

    /// Registers a guest. "All other parameters are ignored" except the device name: a guest has no name and no
    /// password.
    async fn register_guest(&self, request: Request) -> Result<RegisteredAccount> {
        if !self.inner.registration.guests {
            return Err(Error::GuestAccessForbidden);
        }
        let device = NewDevice {
            device_id: None,
            display_name: request.initial_device_display_name,
            refresh_token: request.refresh_token,
        };
        device.check()?;
        let account = NewAccount {
            user_id: usernames::generated_user_id(&self.inner.server_name)?,
            password_hash: None,
            admin: false,
            guest: true,
            device: Some(device),
        };
        self.create_account(account, None).await
    }

    /// Turns a guest account into a user account, which keeps its user id and gets a password.
    async fn upgrade_guest(&self, request: Request) -> Result<RegisteredAccount> {
        let Some(token) = &request.guest_access_token else {
            return Err(Error::MissingParam(
                "guest_access_token is missing".to_owned(),
            ));
        };
        let guest = self.authenticate(token).await?;
        let name = request.username.as_deref();
        let name = name.ok_or_else(|| Error::MissingParam("username is missing".to_owned()))?;
        if !guest.is_guest || name != guest.user_id.localpart() {
            return Err(Error::forbidden(
                "this is not the access token of that guest",
            ));
        }
        let device = requested_device(&request)?;
        let password = request.password.clone();
        let password =
            password.ok_or_else(|| Error::MissingParam("password is missing".to_owned()))?;
        Passwords::check(&password)?;
        let user_id = guest.user_id.clone();
        let proven = self
            .authorize_registration(&request, Some(&user_id))
            .await?;
        let hash = self.inner.passwords.hash(password).await?;
        let now = self.inner.clock.now_ms();
        let mut tx = self.inner.db.write().await?;
        if let Some(token) = proven.registration_token {
            // A guest who upgrades their own account never becomes an administrator.
            self.use_token(&mut tx, &token, guest.user).await?;
        }
        if !accounts::upgrade_guest(&mut tx, guest.user, &hash).await? {
            return Err(Error::UserInUse);
        }
        let devices = crate::storage::devices::device_table::of_user(&mut tx, guest.user).await?;
        let devices = devices.into_iter().map(|device| device.num).collect();
        crate::storage::devices::device_table::delete(&mut tx, guest.user, devices).await?;
        let login = if request.inhibit_login {
            None
        } else {
            Some(begin_first_session(&mut tx, guest.user, &user_id, device, now).await?)
        };
        tx.commit().await?;
        Ok(RegisteredAccount { user_id, login })
    }
}

/// Returns the parameters of a request, if it has a user name or a password.
fn request_parameters(request: &Request) -> Option<Request> {
    let has_any = request.username.is_some() || request.password.is_some();
    has_any.then(|| {
        let mut parameters = request.clone();
        parameters.auth = None;
        parameters
    })
}

/// Checks that a request that continues a session has parameters: an account that was requested with a name and a
/// password must not be created without them.
fn check_has_parameters(request: &Request) -> Result<()> {
    let shows_proof = request
        .auth
        .as_ref()
        .is_some_and(|auth| auth.auth_type().is_some());
    if shows_proof && request_parameters(request).is_none() {
        return Err(Error::MissingParam(
            "username and password are missing".to_owned(),
        ));
    }
    Ok(())
}

fn requested_device(request: &Request) -> Result<NewDevice> {
    let device = NewDevice {
        device_id: request
            .device_id
            .clone()
            .filter(|id| !id.as_str().is_empty()),
        display_name: request.initial_device_display_name.clone(),
        refresh_token: request.refresh_token,
    };
    device.check()?;
    Ok(device)
}

async fn begin_first_session(
    tx: &mut WriteTx,
    user: UserNum,
    user_id: &OwnedUserId,
    device: NewDevice,
    now: i64,
) -> Result<StartedSession> {
    let (device_id, issued) = begin_session(tx, user, device, now).await?;
    Ok(StartedSession {
        user_id: user_id.clone(),
        device_id,
        tokens: issued,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::users::testing::{TestUsers, register_request};

    fn closed_registration(config: &mut crate::config::Config) {
        config.registration.open = false;
    }

    fn with_token(name: &str, token: &str) -> Value {
        json!({
            "username": name, "password": "password",
            "auth": {"type": "m.login.registration_token", "token": token},
        })
    }

    async fn flows(test: &TestUsers, body: Value) -> (Vec<Vec<AuthType>>, String) {
        match test.register_with(body).await {
            Err(Error::Uia(info)) => {
                let stages = info.flows.iter().map(|flow| flow.stages.clone());
                (stages.collect(), info.session.unwrap())
            }
            other => panic!("expected to be asked for authentication, got {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_request_without_parameters_gets_the_flows() {
        let test = TestUsers::new(|_| {}).await;

        let (stages, session) = flows(&test, json!({})).await;
        assert_eq!(stages[0], [AuthType::Dummy]);
        let (again, same) = flows(&test, json!({"auth": {"session": session}})).await;

        assert_eq!((again, same), (stages, session.clone()));
        let finish = json!({
            "username": "alice", "password": "password",
            "auth": {"type": "m.login.dummy", "session": session},
        });
        assert!(test.register_with(finish).await.is_ok());
    }

    #[tokio::test]
    async fn a_session_alone_registers_the_user_of_its_first_request() {
        let test = TestUsers::new(|_| {}).await;
        let first = json!({"username": "alice", "password": "password", "device_id": "PHONE"});
        let (_, session) = flows(&test, first).await;
        let auth = json!({"auth": {"type": "m.login.dummy", "session": session}});

        let login = test.register_with(auth.clone()).await.unwrap();

        assert_eq!(login.user_id, "@alice:localhost");
        assert_eq!(login.device_id, "PHONE");
        let checked = test.users.check_password("alice", "password".to_owned());
        assert!(checked.await.is_ok());
        // A client that lost the response gets it again.
        let again = test.register_with(auth.clone()).await.unwrap();
        assert_eq!(again.tokens.access_token, login.tokens.access_token);
        let mut other = auth;
        other["username"] = json!("bob");
        let refused = test.register_with(other).await;
        assert!(matches!(refused, Err(Error::Forbidden(_))));
    }

    #[tokio::test]
    async fn a_session_without_a_user_name_registers_no_account() {
        let test = TestUsers::new(|_| {}).await;
        let (_, session) = flows(&test, json!({})).await;

        let auth = json!({"auth": {"type": "m.login.dummy", "session": session}});
        let refused = test.register_with(auth).await;

        assert!(matches!(refused, Err(Error::MissingParam(_))));
    }

    #[tokio::test]
    async fn an_inhibited_login_is_remembered_by_the_session() {
        let test = TestUsers::new(|_| {}).await;
        let body = json!({"username": "alice", "password": "password", "inhibit_login": true});
        let (_, session) = flows(&test, body).await;

        let body = json!({
            "username": "alice", "password": "password",
            "auth": {"type": "m.login.dummy", "session": session},
        });
        let registered = test.users.register(register_request(&body)).await.unwrap();

        assert!(registered.login.is_none());
    }

    #[tokio::test]
    async fn concurrent_equal_requests_of_a_session_make_one_account() {
        let test = TestUsers::new(|_| {}).await;
        let first = json!({"username": "alice", "password": "password"});
        let (_, session) = flows(&test, first).await;
        let auth = json!({"auth": {"type": "m.login.dummy", "session": session}});

        let (one, other) = tokio::join!(
            test.register_with(auth.clone()),
            test.register_with(auth.clone()),
        );

        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!(one.tokens.access_token, other.tokens.access_token);
    }

    #[tokio::test]
    async fn closed_registration_accepts_only_a_token() {
        let test = TestUsers::new(closed_registration).await;
        let dummy = json!({"username": "alice", "auth": {"type": "m.login.dummy"}});

        let (stages, _) = flows(&test, dummy).await;

        assert_eq!(stages, [[AuthType::RegistrationToken]]);
        flows(&test, with_token("alice", "wrong")).await;
    }

    #[tokio::test]
    async fn concurrent_first_registrations_make_only_one_administrator() {
        let test = TestUsers::new(closed_registration).await;
        let token = test.users.first_admin_token().await.unwrap().unwrap();
        let again = test.users.first_admin_token().await.unwrap().unwrap();
        assert_eq!(token, again);

        let (one, other) = tokio::join!(
            test.register_with(with_token("alice", &token)),
            test.register_with(with_token("bob", &token)),
        );

        assert!(one.is_ok() ^ other.is_ok());
        let login = one.or(other).unwrap();
        let session = test.users.authenticate(&login.tokens.access_token).await;
        assert!(session.unwrap().is_admin);
        assert_eq!(test.users.first_admin_token().await.unwrap(), None);
    }

    #[tokio::test]
    async fn later_registrations_do_not_make_administrators() {
        let test = TestUsers::new(|_| {}).await;

        let session = test.session("alice").await;

        assert!(!session.is_admin);
        assert!(test.users.first_admin_token().await.unwrap().is_some());
    }

    #[tokio::test]
    async fn only_one_of_two_registrations_of_a_name_succeeds() {
        let test = TestUsers::new(|_| {}).await;
        let body = json!({"username": "alice", "auth": {"type": "m.login.dummy"}});

        let (one, other) = tokio::join!(
            test.register_with(body.clone()),
            test.register_with(body.clone()),
        );

        assert!(one.is_ok() ^ other.is_ok());
        let refused = test.register_with(body).await;
        assert!(matches!(refused, Err(Error::UserInUse)));
        let refused = test.users.available_user_id("ALICE").await;
        assert!(matches!(refused, Err(Error::UserInUse)));
        assert!(test.users.available_user_id("bob").await.is_ok());
    }

    #[tokio::test]
    async fn the_server_chooses_a_name_and_login_can_be_inhibited() {
        let test = TestUsers::new(|_| {}).await;
        let body = json!({"inhibit_login": true, "auth": {"type": "m.login.dummy"}});

        let registered = test.users.register(register_request(&body)).await.unwrap();

        assert!(registered.login.is_none());
        assert!(!registered.user_id.localpart().is_empty());
    }

    #[tokio::test]
    async fn guests_register_only_if_allowed_and_can_become_users() {
        let test = TestUsers::new(|_| {}).await;
        let mut guest = Request::new();
        guest.kind = RegistrationKind::Guest;
        let refused = test.users.register(guest.clone()).await;
        assert!(matches!(refused, Err(Error::GuestAccessForbidden)));

        let test = TestUsers::new(|config| config.registration.guests = true).await;
        let guest = test.users.register(guest).await.unwrap().login.unwrap();
        let session = test.users.authenticate(&guest.tokens.access_token).await;
        assert!(session.unwrap().is_guest);

        let upgrade = json!({
            "username": guest.user_id.localpart(), "password": "password",
            "guest_access_token": guest.tokens.access_token, "auth": {"type": "m.login.dummy"},
        });
        let login = test.register_with(upgrade).await.unwrap();
        assert_eq!(login.user_id, guest.user_id);
        let session = test.users.authenticate(&login.tokens.access_token).await;
        assert!(!session.unwrap().is_guest);
        assert!(
            test.users
                .authenticate(&guest.tokens.access_token)
                .await
                .is_err()
        );
    }
    #[tokio::test]
    async fn a_token_for_one_use_upgrades_only_one_guest() {
        let test = TestUsers::new(|config| {
            closed_registration(config);
            config.registration.guests = true;
        })
        .await;
        let token = test.users.first_admin_token().await.unwrap().unwrap();
        let upgrade = async || {
            let mut guest = Request::new();
            guest.kind = RegistrationKind::Guest;
            let guest = test.users.register(guest).await.unwrap().login.unwrap();
            let mut upgrade = with_token(guest.user_id.localpart(), &token);
            upgrade["guest_access_token"] = json!(guest.tokens.access_token);
            upgrade
        };
        let (one, other) = (upgrade().await, upgrade().await);

        let (one, other) = tokio::join!(test.register_with(one), test.register_with(other));

        assert!(one.is_ok() ^ other.is_ok());
    }
}
