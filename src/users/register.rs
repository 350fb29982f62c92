//! Registering accounts.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#account-registration-and-management).

use std::sync::Arc;

use ruma::api::client::{
    account::register::{RegistrationKind, v3::Request},
    uiaa::AuthData,
};

use super::{
    ApplicationService, UserEnvironment, UserNames,
    account_creation::{AccountCreation, NewAccount, RegisteredAccount},
    guest_registration::{GuestRegistration, RegistrationParts},
    passwords::Passwords,
    registration_auth::{RegistrationAuth, requested_device},
    uia::StageResult,
};
use crate::{
    clock::Clock,
    error::{Error, RefusalCode, Result},
};

/// Registers accounts.
#[derive(Clone)]
pub struct AccountRegistration {
    clock: Clock,
    passwords: Arc<Passwords>,
    usernames: UserNames,
    auth: RegistrationAuth,
    creation: AccountCreation,
    guests: GuestRegistration,
    accepts_invite_links: bool,
}

impl AccountRegistration {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment, parts: &RegistrationParts<'_>) -> Self {
        let settings = &environment.registration;
        Self {
            clock: environment.clock.clone(),
            passwords: environment.passwords.clone(),
            usernames: parts.usernames.clone(),
            auth: parts.auth.clone(),
            creation: parts.creation.clone(),
            guests: GuestRegistration::new(environment, parts),
            accepts_invite_links: settings.open || settings.invite_links,
        }
    }

    /// Registers an account, after the request has authenticated itself.
    ///
    /// # Errors
    ///
    /// [`Error::Uia`] with the flows until it has; `RefusalCode::InvalidUsername`, [`Error::UserInUse`];
    /// [`Error::GuestAccessForbidden`] if guests are not allowed.
    #[tracing::instrument(skip_all, err(level = "debug"))]
    pub async fn register(&self, request: Request) -> Result<RegisteredAccount> {
        match request.kind {
            RegistrationKind::User => {}
            RegistrationKind::Guest => return self.guests.register(request).await,
            _ => return Err(Error::invalid_param("kind must be `user` or `guest`")),
        }
        let id = request.auth.as_ref().and_then(AuthData::session);
        let now = self.clock.now_ms();
        let Some(session) = id.and_then(|id| self.auth.session(id, now)) else {
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
            && let Some(session) = self.auth.session(id, self.clock.now_ms())
        {
            session.lock().await.request = parameters;
        }
        registered
    }

    /// Registers a user of an application service, which has no password.
    ///
    /// # Errors
    ///
    /// `RefusalCode::MissingParam` without a user name; `RefusalCode::InvalidUsername`; [`Error::Exclusive`] when the
    /// user is not in the namespace of the service; [`Error::UserInUse`].
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/application-service-api/#server-admin-style-permissions).
    pub async fn register_for_service(
        &self,
        request: Request,
        service: &ApplicationService,
    ) -> Result<RegisteredAccount> {
        let name = request.username.as_deref();
        let name =
            name.ok_or_else(|| Error::refused(RefusalCode::MissingParam, "username is missing"))?;
        let user_id = self.usernames.available_to_service(name, service).await?;
        let device = requested_device(&request)?;
        let account = NewAccount {
            user_id,
            password_hash: None,
            admin: false,
            guest: false,
            device: (!request.inhibit_login).then_some(device),
        };
        self.creation.create(account, StageResult::default()).await
    }

    async fn register_user(&self, request: Request) -> Result<RegisteredAccount> {
        if request.guest_access_token.is_some() {
            return self.guests.upgrade(request).await;
        }
        let user_id = match &request.username {
            Some(name) => Some(self.usernames.available_user_id(name).await?),
            None => None,
        };
        let device = requested_device(&request)?;
        if let Some(password) = &request.password {
            Passwords::check(password)?;
        }
        let result = self.auth.authorize(&request, user_id.as_ref()).await?;
        let user_id = user_id.map_or_else(|| self.usernames.generated_user_id(), Ok)?;
        let password_hash = match request.password {
            Some(password) => Some(self.passwords.hash(password).await?),
            None => None,
        };
        let account = NewAccount {
            user_id,
            password_hash,
            admin: false,
            guest: false,
            device: (!request.inhibit_login).then_some(device),
        };
        self.creation.create(account, result).await
    }

    /// Returns whether registration is open, or possible with a room invite link.
    pub fn accepts_invite_links(&self) -> bool {
        self.accepts_invite_links
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
        return Err(Error::refused(
            RefusalCode::MissingParam,
            "username and password are missing".to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ruma::api::client::uiaa::AuthType;
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
        let checked = test
            .users
            .password_check
            .check("alice", "password".to_owned());
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

        assert!(matches!(
            refused,
            Err(Error::Refused {
                code: RefusalCode::MissingParam,
                ..
            })
        ));
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
        let registered = test
            .users
            .registration
            .register(register_request(&body))
            .await
            .unwrap();

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
        let token = test
            .users
            .registration_tokens
            .first_admin_token()
            .await
            .unwrap()
            .unwrap();
        let again = test
            .users
            .registration_tokens
            .first_admin_token()
            .await
            .unwrap()
            .unwrap();
        assert_eq!(token, again);

        let (one, other) = tokio::join!(
            test.register_with(with_token("alice", &token)),
            test.register_with(with_token("bob", &token)),
        );

        assert!(one.is_ok() ^ other.is_ok());
        let login = one.or(other).unwrap();
        let session = test
            .users
            .sessions
            .authenticate(&login.tokens.access_token)
            .await;
        assert!(session.unwrap().is_admin);
        assert_eq!(
            test.users
                .registration_tokens
                .first_admin_token()
                .await
                .unwrap(),
            None
        );
    }

    #[tokio::test]
    async fn later_registrations_do_not_make_administrators() {
        let test = TestUsers::new(|_| {}).await;

        let session = test.session("alice").await;

        assert!(!session.is_admin);
        assert!(
            test.users
                .registration_tokens
                .first_admin_token()
                .await
                .unwrap()
                .is_some()
        );
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
        let refused = test.users.usernames.available_user_id("ALICE").await;
        assert!(matches!(refused, Err(Error::UserInUse)));
        assert!(test.users.usernames.available_user_id("bob").await.is_ok());
    }

    #[tokio::test]
    async fn the_server_chooses_a_name_and_login_can_be_inhibited() {
        let test = TestUsers::new(|_| {}).await;
        let body = json!({"inhibit_login": true, "auth": {"type": "m.login.dummy"}});

        let registered = test
            .users
            .registration
            .register(register_request(&body))
            .await
            .unwrap();

        assert!(registered.login.is_none());
        assert!(!registered.user_id.localpart().is_empty());
    }

    #[tokio::test]
    async fn guests_register_only_if_allowed_and_can_become_users() {
        let test = TestUsers::new(|_| {}).await;
        let mut guest = Request::new();
        guest.kind = RegistrationKind::Guest;
        let refused = test.users.registration.register(guest.clone()).await;
        assert!(matches!(refused, Err(Error::GuestAccessForbidden)));

        let test = TestUsers::new(|config| config.registration.guests = true).await;
        let guest = test
            .users
            .registration
            .register(guest)
            .await
            .unwrap()
            .login
            .unwrap();
        let session = test
            .users
            .sessions
            .authenticate(&guest.tokens.access_token)
            .await;
        assert!(session.unwrap().is_guest);

        let upgrade = json!({
            "username": guest.user_id.localpart(), "password": "password",
            "guest_access_token": guest.tokens.access_token, "auth": {"type": "m.login.dummy"},
        });
        let login = test.register_with(upgrade).await.unwrap();
        assert_eq!(login.user_id, guest.user_id);
        let session = test
            .users
            .sessions
            .authenticate(&login.tokens.access_token)
            .await;
        assert!(!session.unwrap().is_guest);
        assert!(
            test.users
                .sessions
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
        let token = test
            .users
            .registration_tokens
            .first_admin_token()
            .await
            .unwrap()
            .unwrap();
        let upgrade = async || {
            let mut guest = Request::new();
            guest.kind = RegistrationKind::Guest;
            let guest = test
                .users
                .registration
                .register(guest)
                .await
                .unwrap()
                .login
                .unwrap();
            let mut upgrade = with_token(guest.user_id.localpart(), &token);
            upgrade["guest_access_token"] = json!(guest.tokens.access_token);
            upgrade
        };
        let (one, other) = (upgrade().await, upgrade().await);

        let (one, other) = tokio::join!(test.register_with(one), test.register_with(other));

        assert!(one.is_ok() ^ other.is_ok());
    }
}
