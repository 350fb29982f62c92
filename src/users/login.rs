//! Logging in with a password or a login token, which starts a session.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#login).

use std::time::Duration;

use ruma::{
    OwnedServerName, OwnedUserId,
    api::client::{
        session::{get_login_token, login},
        uiaa::{AuthData, UserIdentifier},
    },
};

use super::{
    ApplicationService, BrowserUser, InteractiveAuth, NewDevice, Session, StartedSession,
    UserEnvironment, VerifiedUser, account_restrictions::must_be_usable,
    password_check::PasswordCheck, short_lived_tokens::ShortLivedTokens, usernames,
};
use crate::{
    clock::Clock,
    error::{Error, RefusalCode, Result},
    mail::EmailAddress,
    storage::{
        Db,
        users::{
            email_addresses,
            short_lived_tokens::{TokenOwner, TokenPurpose},
        },
    },
};

/// The lifetime of a login token, as the specification recommends.
const LOGIN_TOKEN_LIFETIME: Duration = Duration::from_mins(2);

/// Logs devices in.
#[derive(Clone)]
pub struct UserLogin {
    db: Db,
    clock: Clock,
    server_name: OwnedServerName,
    pub(super) password_check: PasswordCheck,
    uia: InteractiveAuth,
    tokens: ShortLivedTokens,
}

impl UserLogin {
    /// Creates the service.
    pub(super) fn new(
        environment: &UserEnvironment,
        password_check: &PasswordCheck,
        uia: &InteractiveAuth,
        tokens: &ShortLivedTokens,
    ) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            server_name: environment.server_name.clone(),
            password_check: password_check.clone(),
            uia: uia.clone(),
            tokens: tokens.clone(),
        }
    }

    /// Logs a device in. `service` is the application service that logs in one of its users.
    ///
    /// # Errors
    ///
    /// [`Error::Exclusive`] for a user who is not in the namespace of the service; [`Error::Forbidden`] when the user
    /// or the password is wrong, which takes the same time; [`Error::UserDeactivated`]; [`Error::UserLocked`];
    /// `RefusalCode::Unspecified` for other login types.
    #[tracing::instrument(skip_all, err(level = "debug"))]
    pub async fn log_in(
        &self,
        request: login::v3::Request,
        service: Option<&ApplicationService>,
    ) -> Result<StartedSession> {
        let device = NewDevice {
            device_id: request.device_id.filter(|id| !id.as_str().is_empty()),
            display_name: request.initial_device_display_name,
            refresh_token: request.refresh_token,
        };
        device.check()?;
        let user = match request.login_info {
            login::v3::LoginInfo::Password(credentials) => {
                let name = self.named_user(&credentials).await?;
                self.password_check
                    .check(&name, credentials.password)
                    .await?
            }
            login::v3::LoginInfo::Token(login) => self.redeem_token(&login.token).await?,
            login::v3::LoginInfo::ApplicationService(login) => {
                let service = service.ok_or(Error::MissingToken)?;
                self.user_of_service(&login, service).await?
            }
            _ => {
                return Err(Error::refused(
                    RefusalCode::Unspecified,
                    "unknown login type".to_owned(),
                ));
            }
        };
        let now = self.clock.now_ms();
        let mut tx = self.db.write().await?;
        // The account may have been deactivated while the password was checked.
        must_be_usable(&mut tx, user.user_num).await?;
        let started = StartedSession::start(&mut tx, user, device, now).await?;
        tx.commit().await?;
        Ok(started)
    }

    /// Returns the user id in a login by password, whether or not there is such an account.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn attempted_user(
        &self,
        request: &login::v3::Request,
    ) -> Result<Option<OwnedUserId>> {
        let login::v3::LoginInfo::Password(credentials) = &request.login_info else {
            return Ok(None);
        };
        match self.named_user(credentials).await {
            Ok(name) => Ok(usernames::named_user_id(&name, &self.server_name)),
            Err(Error::Forbidden(_) | Error::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the user in a login by password.
    async fn named_user(&self, credentials: &login::v3::Password) -> Result<String> {
        if let Some(UserIdentifier::Email(identifier)) = &credentials.identifier {
            let user_id = self.find_by_email(&identifier.address).await?;
            // The empty name is nobody's: the password is checked as for any unknown user, which takes the same time.
            return Ok(user_id.map_or_else(String::new, String::from));
        }
        password_user(credentials)
    }

    /// Returns the user who has confirmed an e-mail address.
    pub(super) async fn find_by_email(&self, address: &str) -> Result<Option<OwnedUserId>> {
        let Ok(address) = EmailAddress::parse(address) else {
            return Ok(None);
        };
        let mut db = self.db.read().await?;
        match email_addresses::owner(&mut db, address.as_str()).await? {
            Some(user) => self.db.strings.user_id(&mut db, user).await.map(Some),
            None => Ok(None),
        }
    }

    /// Issues a token with which another device can log in once, and returns its lifetime.
    ///
    /// # Errors
    ///
    /// [`Error::Uia`] until the user has authenticated with the password, which is needed for each token.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv1loginget_token).
    pub async fn issue_token(
        &self,
        session: &Session,
        auth: Option<&AuthData>,
    ) -> Result<get_login_token::v1::Response> {
        self.uia
            .reauthenticate("login/get_token", session, &(), auth)
            .await?;
        let token = self
            .tokens
            .issue(session.user, TokenPurpose::Login, LOGIN_TOKEN_LIFETIME)
            .await?;
        Ok(get_login_token::v1::Response::new(
            LOGIN_TOKEN_LIFETIME,
            token,
        ))
    }

    /// Issues a token with which an app can log in once, to a user who has let it on a page of this server.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`] when the user has too many.
    pub async fn issue_token_for_browser(&self, user: &BrowserUser) -> Result<String> {
        let owner = TokenOwner {
            user_num: user.session.user,
            upstream_session: user.upstream_session,
        };
        self.tokens
            .issue_for_owner(owner, TokenPurpose::Login, LOGIN_TOKEN_LIFETIME)
            .await
    }

    /// Returns a user whom an application service may log in.
    async fn user_of_service(
        &self,
        login: &login::v3::ApplicationService,
        service: &ApplicationService,
    ) -> Result<VerifiedUser> {
        #[expect(deprecated, reason = "application services still send it")]
        let name = named_user(login.identifier.as_ref(), login.user.as_ref())?;
        let user_id = usernames::named_user_id(&name, &self.server_name);
        let user_id = user_id
            .filter(|user_id| service.controls(user_id))
            .ok_or(usernames::NOT_IN_NAMESPACE)?;
        let mut db = self.db.read().await?;
        let user_num = self.db.strings.find_user(&mut db, user_id.as_str()).await?;
        let user_num = user_num.ok_or_else(|| Error::forbidden("this user is not registered"))?;
        Ok(VerifiedUser {
            user_num,
            user_id,
            upstream_session: None,
        })
    }

    /// Redeems a login token and returns its user.
    async fn redeem_token(&self, token: &str) -> Result<VerifiedUser> {
        let user = self.tokens.redeem(token, TokenPurpose::Login).await?;
        user.ok_or_else(|| Error::forbidden("the login token is not valid"))
    }
}

/// Returns the user in a login by password.
fn password_user(credentials: &login::v3::Password) -> Result<String> {
    #[expect(deprecated, reason = "clients still send it")]
    named_user(credentials.identifier.as_ref(), credentials.user.as_ref())
}

/// Returns the user in a login, from the current field or from the one of the first specifications.
fn named_user(identifier: Option<&UserIdentifier>, legacy: Option<&String>) -> Result<String> {
    match (identifier, legacy) {
        (Some(UserIdentifier::Matrix(identifier)), _) => Ok(identifier.user.clone()),
        (Some(UserIdentifier::Msisdn(_) | UserIdentifier::PhoneNumber(_)), _) => {
            Err(Error::forbidden(
                "log in with a user name or an e-mail address: phone numbers are not supported",
            ))
        }
        (Some(_), _) => Err(Error::refused(
            RefusalCode::Unspecified,
            "unknown login identifier type".to_owned(),
        )),
        (None, Some(user)) => Ok(user.clone()),
        (None, None) => Err(Error::refused(
            RefusalCode::MissingParam,
            "identifier is missing".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use ruma::api::IncomingRequestExt;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        storage::devices::device_table,
        users::{new_session::MAX_DEVICES, testing::TestUsers},
    };

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
            let login = test.users.login.log_in(request, None).await.unwrap();
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
            .login
            .log_in(by_name("alice", "password"), None)
            .await
            .unwrap();

        let mut db = test.test.db.read().await.unwrap();
        let kept = device_table::of_user(&mut db, alice.user).await.unwrap();
        let has = |id: &str| kept.iter().any(|device| device.device_id == id);
        assert_eq!(kept.len(), usize::try_from(MAX_DEVICES).unwrap());
        assert!(has(login.device_id.as_str()) && has(alice.require_device_id().unwrap().as_str()));
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
            let refused = test.users.login.log_in(by_name(name, password), None).await;
            assert!(matches!(refused, Err(Error::Forbidden(_))), "{name}");
        }
    }

    #[tokio::test]
    async fn a_login_to_a_device_replaces_its_tokens() {
        let test = TestUsers::new(|_| {}).await;
        let first = test.register("alice").await;
        let token = first.tokens.access_token;
        test.users.sessions.authenticate(&token).await.unwrap();

        let mut again = by_name("alice", "password");
        again.device_id = Some(first.device_id.clone());
        let second = test.users.login.log_in(again, None).await.unwrap();

        assert_eq!(second.device_id, first.device_id);
        assert!(test.users.sessions.authenticate(&token).await.is_err());
        let token = second.tokens.access_token;
        assert!(test.users.sessions.authenticate(&token).await.is_ok());
    }

    #[tokio::test]
    async fn an_unknown_login_type_is_refused() {
        let test = TestUsers::new(|_| {}).await;
        let request = request(&json!({"type": "org.example.smile"}));

        let refused = test.users.login.log_in(request, None).await;

        assert!(matches!(
            refused,
            Err(Error::Refused {
                code: RefusalCode::Unspecified,
                ..
            })
        ));
    }
}
