//! User-interactive authentication: its stages, and the stages that a request still needs.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api).

mod pages;
mod sessions;

use ruma::api::{
    client::uiaa::{AuthData, AuthFlow, AuthType, UiaaInfo, UserIdentifier},
    error::{ErrorKind, StandardErrorBody},
};
use serde::Serialize;
use sha2::{Digest, Sha256};

pub use self::pages::StageInput;
pub(super) use self::sessions::UiaSessions;
use super::{Session, Users, usernames};
use crate::{
    error::{Error, Result},
    storage::{rooms::invite_links, users::tokens},
};

/// A request that needs authentication.
pub(super) struct UiaRequest<'a> {
    pub(super) endpoint: &'static str,
    /// The session of the requesting user, if they are logged in.
    pub(super) session: Option<&'a Session>,
    /// The digest of the request's parameters, without `auth`; `None` when the request only asks for the flows.
    pub(super) operation: Option<OperationDigest>,
    /// The flows that the user can choose from.
    pub(super) flows: Vec<AuthFlow>,
}

/// A digest of the parameters of a request. A session authenticates one request, not others of the same kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OperationDigest([u8; 32]);

impl OperationDigest {
    pub(super) fn of_parameters(parameters: &impl Serialize) -> Result<Self> {
        let json = serde_json::to_vec(parameters)?;
        Ok(Self(Sha256::digest(json).into()))
    }
}

/// The result of completed stages.
#[derive(Clone, Debug, Default)]
pub(super) struct StageResult {
    /// The registration token that was used.
    pub(super) registration_token: Option<String>,
}

impl Users {
    /// Requires a logged-in user to authenticate again with their password.
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
        let ask = UiaRequest {
            endpoint,
            session: Some(session),
            operation: Some(OperationDigest::of_parameters(parameters)?),
            flows: vec![AuthFlow::new(vec![AuthType::Password])],
        };
        self.authorize(&ask, auth).await.map(drop)
    }

    /// Stores the first request of a session, unless one is stored already.
    pub fn remember_uia_request(&self, id: &str, body: &str) {
        self.inner.uia.store_first_request(id, body);
    }

    /// Returns the first request of a user's session, if it is stored.
    pub fn first_uia_request(&self, id: &str, session: &Session) -> Option<String> {
        let now = self.inner.clock.now_ms();
        self.inner.uia.first_request(id, session.user, now)
    }

    /// Handles one stage of a request, and returns the result once all stages are complete.
    pub(super) async fn authorize(
        &self,
        request: &UiaRequest<'_>,
        auth: Option<&AuthData>,
    ) -> Result<StageResult> {
        let now = self.inner.clock.now_ms();
        let sessions = &self.inner.uia;
        let Some(auth) = auth else {
            let id = sessions.begin(request, now);
            return Err(self.uia_error(request, id, None));
        };
        let id = match auth.session() {
            None => sessions.begin(request, now),
            Some(id) if sessions.resume(id, request, now)? => id.to_owned(),
            Some(_) => {
                let id = sessions.begin(request, now);
                let error = (
                    ErrorKind::Forbidden,
                    "the session is unknown or has expired",
                );
                return Err(self.uia_error(request, id, Some(error)));
            }
        };
        if let Some(proven) = sessions.completed_result(&id) {
            return Ok(proven);
        }
        let Some(stage) = auth.auth_type() else {
            return Err(self.uia_error(request, id, None));
        };
        if !is_next_stage(&stage, &sessions.completed_stages(&id), &request.flows) {
            let error = (ErrorKind::Forbidden, "this stage is not the next one");
            return Err(self.uia_error(request, id, Some(error)));
        }
        let Some(proven) = self.try_stage(request, auth).await? else {
            let error = (ErrorKind::Forbidden, "the authentication failed");
            return Err(self.uia_error(request, id, Some(error)));
        };
        match sessions.complete_stage(&id, (stage, proven), &request.flows, now) {
            Some(proven) => Ok(proven),
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
            AuthData::RegistrationToken(shown) => {
                let is_valid = self.is_registration_token_valid(&shown.token).await?;
                Ok(is_valid.then(|| StageResult {
                    registration_token: Some(shown.token.clone()),
                }))
            }
            AuthData::Password(shown) => {
                let UserIdentifier::Matrix(identifier) = &shown.identifier else {
                    return Ok(None);
                };
                let named = usernames::named_user_id(&identifier.user, &self.inner.server_name);
                let is_own = named.is_some_and(|named| {
                    request
                        .session
                        .is_some_and(|session| session.user_id == named)
                });
                if !is_own {
                    // The password is not checked, so that nobody can use this to guess another user's password.
                    return Err(Error::forbidden("you have to authenticate as yourself"));
                }
                let password = shown.password.clone();
                match self.check_password(&identifier.user, password).await {
                    Ok(_) => Ok(Some(StageResult::default())),
                    Err(Error::Forbidden(_) | Error::UserDeactivated) => Ok(None),
                    Err(error) => Err(error),
                }
            }
            _ => Ok(None),
        }
    }

    /// Returns whether a registration token is valid.
    pub async fn is_registration_token_valid(&self, token: &str) -> Result<bool> {
        if token.contains('\0') {
            return Ok(false);
        }
        let now = self.inner.clock.now_ms();
        let mut db = self.inner.db.read().await?;
        let found = tokens::valid_registration(&mut db, token, now).await?;
        if found.is_some() || !self.inner.registration.invite_links {
            return Ok(found.is_some());
        }
        let link = invite_links::find(&mut db, token, now).await?;
        Ok(link.is_some_and(|link| link.has_uses_left()))
    }

    fn uia_error(
        &self,
        request: &UiaRequest<'_>,
        id: String,
        error: Option<(ErrorKind, &str)>,
    ) -> Error {
        let mut info = UiaaInfo::new(request.flows.clone());
        info.completed = self.inner.uia.completed_stages(&id);
        info.params = serde_json::value::to_raw_value(&serde_json::json!({})).ok();
        info.session = Some(id);
        info.auth_error =
            error.map(|(kind, text)| Box::new(StandardErrorBody::new(kind, text.to_owned())));
        Error::Uia(Box::new(info))
    }
}

/// "The flow's stages must be completed in order."
fn is_next_stage(stage: &AuthType, completed: &[AuthType], flows: &[AuthFlow]) -> bool {
    flows.iter().any(|flow| {
        let next = flow.stages.get(completed.len());
        flow.stages.starts_with(completed) && next == Some(stage)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::users::testing::TestUsers;

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
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let ask = async |auth: Option<&AuthData>| {
            test.users
                .reauthenticate("e", &alice, &json!({}), auth)
                .await
        };

        let begun = info(ask(None).await);
        assert_eq!(begun.flows[0].stages, [AuthType::Password]);
        assert!(begun.params.is_some());
        let right = password("alice", "password", begun.session.as_deref());
        ask(Some(&right)).await.unwrap();
        // A client that lost the response sends the same request again, with any password.
        ask(Some(&right)).await.unwrap();
        let wrong = password("alice", "wrong", begun.session.as_deref());
        ask(Some(&wrong)).await.unwrap();
        test.advance(Duration::from_hours(1));
        info(ask(Some(&right)).await);
        ask(Some(&password("@alice:localhost", "password", None)))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_session_accepts_another_try_after_a_wrong_password() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let ask = async |auth: &AuthData| {
            test.users
                .reauthenticate("e", &alice, &json!({}), Some(auth))
                .await
        };

        let failed = info(ask(&password("alice", "wrong", None)).await);
        let error = failed.auth_error.clone().unwrap();
        assert_eq!(error.kind, ErrorKind::Forbidden);

        let again = password("alice", "password", failed.session.as_deref());
        ask(&again).await.unwrap();
    }

    #[tokio::test]
    async fn a_stage_submitted_twice_at_once_is_complete() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let ask = async |auth: Option<&AuthData>| {
            test.users
                .reauthenticate("e", &alice, &json!({}), auth)
                .await
        };
        let begun = info(ask(None).await);
        let right = password("alice", "password", begun.session.as_deref());

        let (one, other) = tokio::join!(ask(Some(&right)), ask(Some(&right)));

        one.unwrap();
        other.unwrap();
        ask(Some(&right)).await.unwrap();
    }

    #[tokio::test]
    async fn passwords_of_other_users_are_always_refused() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        test.register("bob").await;

        let mut refusals = Vec::new();
        for (user, word) in [("bob", "password"), ("bob", "wrong"), ("nobody", "wrong")] {
            let shown = password(user, word, None);
            let refused = test
                .users
                .reauthenticate("e", &alice, &json!({}), Some(&shown))
                .await;
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
        let begun = info(users.reauthenticate("e", &alice, &one, None).await);
        let alices = password("alice", "password", begun.session.as_deref());
        let bobs = password("bob", "password", begun.session.as_deref());

        let other_endpoint = users.reauthenticate("f", &alice, &one, Some(&alices));
        assert!(matches!(other_endpoint.await, Err(Error::Forbidden(_))));
        let other_user = users.reauthenticate("e", &bob, &one, Some(&bobs));
        assert!(matches!(other_user.await, Err(Error::Forbidden(_))));
        let other_parameters = users.reauthenticate("e", &alice, &two, Some(&alices));
        assert!(matches!(other_parameters.await, Err(Error::Forbidden(_))));

        let same = users.reauthenticate("e", &alice, &one, Some(&alices));
        same.await.unwrap();
    }

    #[tokio::test]
    async fn an_expired_session_is_not_accepted() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let ask = async |auth: Option<&AuthData>| {
            test.users
                .reauthenticate("e", &alice, &json!({}), auth)
                .await
        };
        let begun = info(ask(None).await);

        test.advance(Duration::from_hours(1));

        let late = password("alice", "password", begun.session.as_deref());
        let fresh = info(ask(Some(&late)).await);
        assert_ne!(fresh.session, begun.session);
    }

    #[test]
    fn stages_are_completed_in_order() {
        let flows = [AuthFlow::new(vec![AuthType::Dummy, AuthType::Password])];

        assert!(is_next_stage(&AuthType::Dummy, &[], &flows));
        assert!(!is_next_stage(&AuthType::Password, &[], &flows));
        assert!(is_next_stage(
            &AuthType::Password,
            &[AuthType::Dummy],
            &flows
        ));
        assert!(!is_next_stage(&AuthType::Dummy, &[AuthType::Dummy], &flows));
    }
}
