//! User-interactive authentication of requests, stage by stage.

use std::sync::Arc;

use ruma::{
    OwnedServerName,
    api::{
        client::uiaa::{AuthData, AuthFlow, AuthType, UiaaInfo, UserIdentifier},
        error::{ErrorKind, StandardErrorBody},
    },
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    OperationDigest, StageResult, UiaRequest,
    flows::is_next_stage,
    sessions::{PassedStage, UiaSessions},
};
use crate::{
    clock::Clock,
    error::{Error, Result},
    storage::{
        Db,
        users::{accounts, oauth_clients},
    },
    users::{
        ACCOUNT_PATH, EmailValidations, RegistrationTokens, Session, UserEnvironment,
        ValidationPurpose, email::ValidatedAddress, password_check::PasswordCheck, usernames,
    },
};

/// User-interactive authentication.
#[derive(Clone)]
pub struct InteractiveAuth {
    db: Db,
    clock: Clock,
    server_name: OwnedServerName,
    /// The page on which users let their apps reset the cross-signing keys.
    reset_page: Arc<str>,
    pub(in crate::users) sessions: Arc<UiaSessions>,
    password_check: PasswordCheck,
    tokens: RegistrationTokens,
    emails: EmailValidations,
    /// Whether users can sign in with identity providers.
    has_providers: bool,
}

impl InteractiveAuth {
    /// Creates the service.
    pub(in crate::users) fn new(
        environment: &UserEnvironment,
        sessions: &Arc<UiaSessions>,
        password_check: &PasswordCheck,
        tokens: &RegistrationTokens,
        emails: &EmailValidations,
    ) -> Self {
        let reset_page = format!(
            "{}{ACCOUNT_PATH}?action=org.matrix.cross_signing_reset",
            environment.config.public_url()
        );
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            reset_page: reset_page.into(),
            server_name: environment.server_name.clone(),
            sessions: sessions.clone(),
            password_check: password_check.clone(),
            tokens: tokens.clone(),
            emails: emails.clone(),
            has_providers: !environment.config.oauth.providers.is_empty(),
        }
    }

    /// Requires a logged-in user to authenticate again, with their password or, if they have none, with an identity
    /// provider.
    ///
    /// `parameters` are those of the request: the session is valid only for this request.
    ///
    /// # Errors
    ///
    /// [`Error::Uia`] until they have; [`Error::Forbidden`] when they authenticate as another user.
    pub async fn reauthenticate(
        &self,
        endpoint: &'static str,
        session: &Session,
        parameters: &(impl Serialize + Sync),
        auth: Option<&AuthData>,
    ) -> Result<()> {
        if session.application_service.is_some() {
            // It authenticates with its token, and its users have no passwords.
            return Ok(());
        }
        let request = UiaRequest {
            endpoint,
            session: Some(session),
            operation: Some(OperationDigest::of_parameters(parameters)?),
            flows: vec![AuthFlow::new(vec![self.stage_of(session).await?])],
            email_purpose: ValidationPurpose::Password,
        };
        self.authorize(&request, auth).await.map(drop)
    }

    /// Returns the stage with which a user authenticates again.
    async fn stage_of(&self, session: &Session) -> Result<AuthType> {
        if !self.has_providers {
            return Ok(AuthType::Password);
        }
        let mut db = self.db.read().await?;
        let account = accounts::find(&mut db, session.user).await?;
        let has_password = account.is_some_and(|account| self.password_check.is_usable(&account));
        Ok(if has_password {
            AuthType::Password
        } else {
            AuthType::Sso
        })
    }

    /// Requires a user to authenticate before their cross-signing keys are replaced: with the password or, if the device
    /// was signed in on the pages of this server, by a permission on the page of the account.
    ///
    /// # Errors
    ///
    /// [`Error::Uia`] until they have.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#oauth-authentication).
    pub async fn authorize_cross_signing_reset(
        &self,
        session: &Session,
        parameters: &(impl Serialize + Sync),
        auth: Option<&AuthData>,
    ) -> Result<()> {
        if self
            .sessions
            .take_reset_permission(session.user, self.clock.now_ms())
        {
            return Ok(());
        }
        let mut db = self.db.read().await?;
        let client = oauth_clients::client_of_device(&mut db, session.device).await?;
        drop(db);
        if client.is_none() {
            return self
                .reauthenticate("device_signing", session, parameters, auth)
                .await;
        }
        let request = UiaRequest {
            endpoint: "device_signing",
            session: Some(session),
            operation: Some(OperationDigest::of_parameters(parameters)?),
            flows: vec![
                AuthFlow::new(vec![AuthType::OAuth]),
                AuthFlow::new(vec![self.stage_of(session).await?]),
            ],
            email_purpose: ValidationPurpose::Password,
        };
        self.authorize(&request, auth).await.map(drop)
    }

    /// Requires a user who is not logged in to confirm an e-mail address, to set another password.
    ///
    /// # Errors
    ///
    /// [`Error::Uia`] until they have.
    pub(in crate::users) async fn authenticate_by_email(
        &self,
        parameters: &(impl Serialize + Sync),
        auth: Option<&AuthData>,
    ) -> Result<ValidatedAddress> {
        let request = UiaRequest {
            endpoint: "password/email",
            session: None,
            operation: Some(OperationDigest::of_parameters(parameters)?),
            flows: vec![AuthFlow::new(vec![AuthType::EmailIdentity])],
            email_purpose: ValidationPurpose::Password,
        };
        let result = self.authorize(&request, auth).await?;
        let missing = || Error::forbidden("no e-mail address was confirmed");
        result.email.ok_or_else(missing)
    }

    /// Stores the first request of a session, unless one is stored already.
    pub fn store_first_request(&self, id: &str, body: &str) {
        self.sessions.store_first_request(id, body);
    }

    /// Returns the first request of a user's session, if it is stored.
    pub fn first_request(&self, id: &str, session: &Session) -> Option<String> {
        let now = self.clock.now_ms();
        self.sessions.first_request(id, session.user, now)
    }

    /// Handles one stage of a request, and returns the result once all stages are complete.
    pub(in crate::users) async fn authorize(
        &self,
        request: &UiaRequest<'_>,
        auth: Option<&AuthData>,
    ) -> Result<StageResult> {
        let now = self.clock.now_ms();
        let sessions = &self.sessions;
        let Some(auth) = auth else {
            let id = sessions.begin(request, now);
            return Err(self.uia_error(request, id, None));
        };
        let id = match auth.session() {
            None => sessions.begin(request, now),
            Some(id) if sessions.resume(id, request, now)? => id.to_owned(),
            Some(_) => {
                let id = sessions.begin(request, now);
                let refusal = "the session is unknown or has expired";
                return Err(self.uia_error(request, id, Some(refusal)));
            }
        };
        if let Some(result) = sessions.completed_result(&id) {
            return Ok(result);
        }
        let Some(stage) = auth.auth_type() else {
            return Err(self.uia_error(request, id, None));
        };
        if !is_next_stage(&stage, &sessions.completed_stages(&id), &request.flows) {
            let refusal = "this stage is not the next one";
            return Err(self.uia_error(request, id, Some(refusal)));
        }
        let Some(result) = self.try_stage(request, auth).await? else {
            let refusal = "the authentication failed";
            return Err(self.uia_error(request, id, Some(refusal)));
        };
        let passed = PassedStage { stage, result };
        match sessions.complete_stage(&id, passed, &request.flows, now) {
            Some(result) => Ok(result),
            None => Err(self.uia_error(request, id, None)),
        }
    }

    /// Returns the result of a stage, or `None` when it fails.
    async fn try_stage(
        &self,
        request: &UiaRequest<'_>,
        auth: &AuthData,
    ) -> Result<Option<StageResult>> {
        match auth {
            AuthData::Dummy(_) => Ok(Some(StageResult::default())),
            AuthData::RegistrationToken(stage) => {
                let is_valid = self.tokens.is_valid(&stage.token).await?;
                Ok(is_valid.then(|| StageResult {
                    registration_token: Some(stage.token.clone()),
                    ..StageResult::default()
                }))
            }
            AuthData::EmailIdentity(stage) => {
                let credentials = &stage.thirdparty_id_creds;
                let purpose = request.email_purpose;
                let email = self.emails.validated_address(credentials, purpose).await?;
                Ok(email.map(|email| StageResult {
                    email: Some(email),
                    ..StageResult::default()
                }))
            }
            AuthData::Password(stage) => {
                let UserIdentifier::Matrix(identifier) = &stage.identifier else {
                    return Ok(None);
                };
                let user_id = usernames::named_user_id(&identifier.user, &self.server_name);
                let is_own = user_id.is_some_and(|user_id| {
                    request
                        .session
                        .is_some_and(|session| session.user_id == user_id)
                });
                if !is_own {
                    // The password is not checked, so that nobody can use this to guess another user's password.
                    return Err(Error::forbidden("you have to authenticate as yourself"));
                }
                let password = stage.password.clone();
                match self.password_check.check(&identifier.user, password).await {
                    Ok(_) => Ok(Some(StageResult::default())),
                    Err(Error::Forbidden(_) | Error::UserDeactivated) => Ok(None),
                    Err(error) => Err(error),
                }
            }
            _ => Ok(None),
        }
    }

    /// Returns the parameters of the stages that have some.
    fn stage_parameters(&self, flows: &[AuthFlow]) -> Value {
        let has_account_page = flows
            .iter()
            .any(|flow| flow.stages.contains(&AuthType::OAuth));
        if !has_account_page {
            return json!({});
        }
        let page = &*self.reset_page;
        // The second name is that of MSC4312.
        json!({ "m.oauth": { "url": page }, "org.matrix.cross_signing_reset": { "url": page } })
    }

    fn uia_error(&self, request: &UiaRequest<'_>, id: String, refusal: Option<&str>) -> Error {
        let mut info = UiaaInfo::new(request.flows.clone());
        info.completed = self.sessions.completed_stages(&id);
        info.params = serde_json::value::to_raw_value(&self.stage_parameters(&request.flows)).ok();
        info.session = Some(id);
        info.auth_error = refusal.map(|text| {
            Box::new(StandardErrorBody::new(
                ErrorKind::Forbidden,
                text.to_owned(),
            ))
        });
        Error::Uia(Box::new(info))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::users::testing::TestUsers;

    /// A user who makes requests that need authentication.
    struct LoggedInUser {
        test: TestUsers,
        session: Arc<Session>,
    }

    impl LoggedInUser {
        async fn new() -> Self {
            let test = TestUsers::new(|_| {}).await;
            let session = test.session("alice").await;
            Self { test, session }
        }

        async fn authenticate(&self, auth: Option<&AuthData>) -> Result<()> {
            let uia = &self.test.users.uia;
            uia.reauthenticate("e", &self.session, &json!({}), auth)
                .await
        }
    }

    fn auth(value: Value) -> AuthData {
        serde_json::from_value(value).unwrap()
    }

    fn password(user: &str, password: &str, session: Option<&str>) -> AuthData {
        auth(json!({
            "type": "m.login.password", "password": password, "session": session,
            "identifier": {"type": "m.id.user", "user": user},
        }))
    }

    fn info(result: Result<()>) -> UiaaInfo {
        match result {
            Err(Error::Uia(info)) => *info,
            other => panic!("expected to be asked for authentication, got {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_password_authenticates_with_and_without_a_session() {
        let alice = LoggedInUser::new().await;

        let begun = info(alice.authenticate(None).await);
        assert_eq!(begun.flows[0].stages, [AuthType::Password]);
        assert!(begun.params.is_some());
        let right = password("alice", "password", begun.session.as_deref());
        alice.authenticate(Some(&right)).await.unwrap();
        // A client that lost the response sends the same request again, with any password.
        alice.authenticate(Some(&right)).await.unwrap();
        let wrong = password("alice", "wrong", begun.session.as_deref());
        alice.authenticate(Some(&wrong)).await.unwrap();
        alice.test.advance(Duration::from_hours(1));
        info(alice.authenticate(Some(&right)).await);
        alice
            .authenticate(Some(&password("@alice:localhost", "password", None)))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_session_accepts_another_try_after_a_wrong_password() {
        let alice = LoggedInUser::new().await;

        let failed = info(
            alice
                .authenticate(Some(&password("alice", "wrong", None)))
                .await,
        );
        let error = failed.auth_error.clone().unwrap();
        assert_eq!(error.kind, ErrorKind::Forbidden);

        let again = password("alice", "password", failed.session.as_deref());
        alice.authenticate(Some(&again)).await.unwrap();
    }

    #[tokio::test]
    async fn a_stage_submitted_twice_at_once_is_complete() {
        let alice = LoggedInUser::new().await;
        let begun = info(alice.authenticate(None).await);
        let right = password("alice", "password", begun.session.as_deref());

        let (one, other) = tokio::join!(
            alice.authenticate(Some(&right)),
            alice.authenticate(Some(&right))
        );

        one.unwrap();
        other.unwrap();
        alice.authenticate(Some(&right)).await.unwrap();
    }

    #[tokio::test]
    async fn passwords_of_other_users_are_always_refused() {
        let alice = LoggedInUser::new().await;
        alice.test.register("bob").await;

        let mut refusals = Vec::new();
        for (user, word) in [("bob", "password"), ("bob", "wrong"), ("nobody", "wrong")] {
            let auth = password(user, word, None);
            let refused = alice.authenticate(Some(&auth)).await;
            assert!(matches!(refused, Err(Error::Forbidden(_))), "{user}");
            refusals.push(refused.unwrap_err().to_string());
        }

        refusals.dedup();
        assert_eq!(refusals.len(), 1, "{refusals:?}");
    }

    #[tokio::test]
    async fn a_session_is_bound_to_endpoint_user_and_parameters() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let bob = test.session("bob").await;
        let users = &test.users;
        let (one, two) = (json!({"a": 1}), json!({"a": 2}));
        let begun = info(users.uia.reauthenticate("e", &alice, &one, None).await);
        let alices = password("alice", "password", begun.session.as_deref());
        let bobs = password("bob", "password", begun.session.as_deref());

        let other_endpoint = users.uia.reauthenticate("f", &alice, &one, Some(&alices));
        assert!(matches!(other_endpoint.await, Err(Error::Forbidden(_))));
        let other_user = users.uia.reauthenticate("e", &bob, &one, Some(&bobs));
        assert!(matches!(other_user.await, Err(Error::Forbidden(_))));
        let other_parameters = users.uia.reauthenticate("e", &alice, &two, Some(&alices));
        assert!(matches!(other_parameters.await, Err(Error::Forbidden(_))));

        let same = users.uia.reauthenticate("e", &alice, &one, Some(&alices));
        same.await.unwrap();
    }

    #[tokio::test]
    async fn an_expired_session_is_not_accepted() {
        let alice = LoggedInUser::new().await;
        let begun = info(alice.authenticate(None).await);

        alice.test.advance(Duration::from_hours(1));

        let late = password("alice", "password", begun.session.as_deref());
        let fresh = info(alice.authenticate(Some(&late)).await);
        assert_ne!(fresh.session, begun.session);
    }
}
