//! User-interactive authentication: sessions in memory, stages, and what a request still needs.
//!
//! See <https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api>.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::api::{
    client::account::register::v3::Request,
    client::uiaa::{AuthData, AuthFlow, AuthType, UiaaInfo, UserIdentifier},
    error::{ErrorKind, StandardErrorBody},
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{Registered, Session, Users, names, secrets};
use crate::{
    error::{Error, Result},
    storage::{UserNum, invite_links, tokens},
};

/// How long a session lasts, in milliseconds: time to find a password or a token.
const LIFETIME_MS: i64 = 15 * 60 * 1000;
/// How long a session is kept at least once it is completed, in milliseconds: a client that lost the answer asks again.
const COMPLETED_LIFETIME_MS: i64 = 5 * 60 * 1000;
/// Sessions at a time; the oldest make room for new ones.
const SESSIONS: usize = 10_000;

/// What a request asks to be authenticated for.
pub(super) struct Ask<'a> {
    /// The endpoint.
    pub(super) endpoint: &'static str,
    /// Who asks, where somebody is logged in.
    pub(super) session: Option<&'a Session>,
    /// The request's parameters, without `auth`; `None` when it only asks for the flows.
    pub(super) operation: Option<Operation>,
    /// The ways to authenticate.
    pub(super) flows: Vec<AuthFlow>,
}

/// A digest of the parameters of a request: a session authenticates one request, not its likes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Operation([u8; 32]);

impl Operation {
    pub(super) fn of(parameters: &impl Serialize) -> Result<Self> {
        let json = serde_json::to_vec(parameters)?;
        Ok(Self(Sha256::digest(json).into()))
    }
}

/// What was proven on the way.
#[derive(Clone, Debug, Default)]
pub(super) struct Proven {
    /// The registration token that was shown.
    pub(super) registration_token: Option<String>,
}

/// What a session remembers of the registration that it is for.
#[derive(Default)]
pub(super) struct RegistrationSession {
    /// The first request that had parameters, without `auth`.
    pub(super) request: Option<Request>,
    /// What came of it.
    pub(super) outcome: Option<Registered>,
}

impl RegistrationSession {
    /// Returns a request with what the first request of the session asked for, where it does not say so again.
    pub(super) fn completed(&self, mut request: Request) -> Request {
        let Some(first) = &self.request else {
            return request;
        };
        if request.username.is_none() && request.password.is_none() {
            request.username.clone_from(&first.username);
            request.password.clone_from(&first.password);
        }
        let first = first.clone();
        request.device_id = request.device_id.or(first.device_id);
        request.initial_device_display_name = request
            .initial_device_display_name
            .or(first.initial_device_display_name);
        request.guest_access_token = request.guest_access_token.or(first.guest_access_token);
        request.inhibit_login |= first.inhibit_login;
        request.refresh_token |= first.refresh_token;
        request
    }

    /// Returns what came of the request, if it is the one that the session has completed.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the session has completed another request.
    pub(super) fn outcome_of(&self, request: &Request) -> Result<Option<Registered>> {
        let (Some(first), Some(outcome)) = (&self.request, &self.outcome) else {
            return Ok(None);
        };
        if request.username != first.username || request.password != first.password {
            return Err(changed());
        }
        Ok(Some(outcome.clone()))
    }
}

fn changed() -> Error {
    Error::forbidden("the request is not the one that this session began with")
}

/// The sessions that go on.
#[derive(Default)]
pub(super) struct UiaSessions {
    sessions: Mutex<HashMap<String, UiaSession>>,
}

struct UiaSession {
    endpoint: &'static str,
    user: Option<UserNum>,
    operation: Option<Operation>,
    completed: Vec<AuthType>,
    proven: Proven,
    /// Whether a flow is complete: the same request is then authenticated for a while.
    is_done: bool,
    registration: Arc<tokio::sync::Mutex<RegistrationSession>>,
    expires_ms: i64,
}

impl UiaSessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, UiaSession>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, ask: &Ask<'_>, now: i64) -> String {
        let id = secrets::token();
        let mut sessions = self.lock();
        if sessions.len() >= SESSIONS {
            sessions.retain(|_, session| session.expires_ms > now);
        }
        if sessions.len() >= SESSIONS {
            let oldest = sessions
                .iter()
                .min_by_key(|(_, session)| session.expires_ms);
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                sessions.remove(&oldest);
            }
        }
        let session = UiaSession {
            endpoint: ask.endpoint,
            user: ask.session.map(|session| session.user),
            operation: ask.operation.clone(),
            completed: Vec::new(),
            proven: Proven::default(),
            is_done: false,
            registration: Arc::default(),
            expires_ms: now.saturating_add(LIFETIME_MS),
        };
        sessions.insert(id.clone(), session);
        id
    }

    /// Returns whether the session goes on and is of this request.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the session is of another request.
    fn resume(&self, id: &str, ask: &Ask<'_>, now: i64) -> Result<bool> {
        let mut sessions = self.lock();
        let Some(session) = sessions.get_mut(id).filter(|s| s.expires_ms > now) else {
            return Ok(false);
        };
        let user = ask.session.map(|session| session.user);
        if session.endpoint != ask.endpoint || session.user != user {
            return Err(changed());
        }
        match (&session.operation, &ask.operation) {
            (Some(begun), Some(asked)) if begun != asked => return Err(changed()),
            // A session that began by asking for the flows is of the first real request.
            (None, Some(asked)) => session.operation = Some(asked.clone()),
            _ => {}
        }
        Ok(true)
    }

    fn completed(&self, id: &str) -> Vec<AuthType> {
        let sessions = self.lock();
        let session = sessions.get(id);
        session.map_or_else(Vec::new, |session| session.completed.clone())
    }

    /// Returns what was proven in a session in which a flow is complete.
    fn proven(&self, id: &str) -> Option<Proven> {
        let sessions = self.lock();
        let session = sessions.get(id).filter(|session| session.is_done)?;
        Some(session.proven.clone())
    }

    /// Returns what a session remembers of a registration; `None` if the session is unknown or has ended.
    pub(super) fn registration(
        &self,
        id: &str,
        now: i64,
    ) -> Option<Arc<tokio::sync::Mutex<RegistrationSession>>> {
        let sessions = self.lock();
        let session = sessions.get(id).filter(|s| s.expires_ms > now)?;
        Some(session.registration.clone())
    }

    /// Notes that a stage is complete; returns what was proven once a flow is complete.
    fn complete(
        &self,
        id: &str,
        (stage, proven): (AuthType, Proven),
        flows: &[AuthFlow],
        now: i64,
    ) -> Option<Proven> {
        let mut sessions = self.lock();
        let session = sessions.get_mut(id)?;
        // Another request of the session may have completed the stage meanwhile.
        if is_next(&stage, &session.completed, flows) {
            session.completed.push(stage);
            if proven.registration_token.is_some() {
                session.proven = proven;
            }
        }
        session.is_done = flows.iter().any(|flow| flow.stages == session.completed);
        if !session.is_done {
            return None;
        }
        let kept_until = now.saturating_add(COMPLETED_LIFETIME_MS);
        session.expires_ms = session.expires_ms.max(kept_until);
        Some(session.proven.clone())
    }
}

impl Users {
    /// Has a user who is logged in prove once more who they are, with their password.
    ///
    /// `parameters` are those of the request: the session is good for this request alone.
    ///
    /// # Errors
    ///
    /// [`Error::Uia`] until they have; [`Error::Forbidden`] when they prove to be somebody else.
    pub async fn reauthenticate(
        &self,
        endpoint: &'static str,
        session: &Session,
        parameters: &(impl Serialize + Sync),
        auth: Option<&AuthData>,
    ) -> Result<()> {
        let ask = Ask {
            endpoint,
            session: Some(session),
            operation: Some(Operation::of(parameters)?),
            flows: vec![AuthFlow::new(vec![AuthType::Password])],
        };
        self.authorize(&ask, auth).await.map(drop)
    }

    /// Takes a request one stage further and returns what was proven once all stages are complete.
    pub(super) async fn authorize(&self, ask: &Ask<'_>, auth: Option<&AuthData>) -> Result<Proven> {
        let now = self.inner.clock.now_ms();
        let sessions = &self.inner.uia;
        let Some(auth) = auth else {
            let id = sessions.begin(ask, now);
            return Err(self.needs(ask, id, None));
        };
        let id = match auth.session() {
            None => sessions.begin(ask, now),
            Some(id) if sessions.resume(id, ask, now)? => id.to_owned(),
            Some(_) => {
                let id = sessions.begin(ask, now);
                let error = (ErrorKind::Forbidden, "the session is unknown or has ended");
                return Err(self.needs(ask, id, Some(error)));
            }
        };
        if let Some(proven) = sessions.proven(&id) {
            return Ok(proven);
        }
        let Some(stage) = auth.auth_type() else {
            return Err(self.needs(ask, id, None));
        };
        if !is_next(&stage, &sessions.completed(&id), &ask.flows) {
            let error = (ErrorKind::Forbidden, "this stage is not the next one");
            return Err(self.needs(ask, id, Some(error)));
        }
        let Some(proven) = self.try_stage(ask, auth).await? else {
            let error = (ErrorKind::Forbidden, "the authentication failed");
            return Err(self.needs(ask, id, Some(error)));
        };
        match sessions.complete(&id, (stage, proven), &ask.flows, now) {
            Some(proven) => Ok(proven),
            None => Err(self.needs(ask, id, None)),
        }
    }

    /// Returns what a stage proves, or `None` when it fails.
    async fn try_stage(&self, ask: &Ask<'_>, auth: &AuthData) -> Result<Option<Proven>> {
        match auth {
            AuthData::Dummy(_) => Ok(Some(Proven::default())),
            AuthData::RegistrationToken(shown) => {
                let is_valid = self.registration_token_is_valid(&shown.token).await?;
                Ok(is_valid.then(|| Proven {
                    registration_token: Some(shown.token.clone()),
                }))
            }
            AuthData::Password(shown) => {
                let UserIdentifier::Matrix(identifier) = &shown.identifier else {
                    return Ok(None);
                };
                let named = names::named(&identifier.user, &self.inner.server_name);
                let is_own = named.is_some_and(|named| {
                    ask.session.is_some_and(|session| session.user_id == named)
                });
                if !is_own {
                    // The password is not looked at: nobody learns here whether it is that of another user.
                    return Err(Error::forbidden("you have to authenticate as yourself"));
                }
                let password = shown.password.clone();
                match self.check_password(&identifier.user, password).await {
                    Ok(_) => Ok(Some(Proven::default())),
                    Err(Error::Forbidden(_) | Error::UserDeactivated) => Ok(None),
                    Err(error) => Err(error),
                }
            }
            _ => Ok(None),
        }
    }

    /// Returns whether somebody may register with a token.
    pub async fn registration_token_is_valid(&self, token: &str) -> Result<bool> {
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

    fn needs(&self, ask: &Ask<'_>, id: String, error: Option<(ErrorKind, &str)>) -> Error {
        let mut info = UiaaInfo::new(ask.flows.clone());
        info.completed = self.inner.uia.completed(&id);
        info.params = serde_json::value::to_raw_value(&serde_json::json!({})).ok();
        info.session = Some(id);
        info.auth_error =
            error.map(|(kind, text)| Box::new(StandardErrorBody::new(kind, text.to_owned())));
        Error::Uia(Box::new(info))
    }
}

/// "The flow's stages must be completed in order."
fn is_next(stage: &AuthType, completed: &[AuthType], flows: &[AuthFlow]) -> bool {
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
        // A client that lost the answer sends the same again, whatever it shows.
        ask(Some(&right)).await.unwrap();
        let wrong = password("alice", "wrong", begun.session.as_deref());
        ask(Some(&wrong)).await.unwrap();
        test.later(Duration::from_hours(1));
        info(ask(Some(&right)).await);
        ask(Some(&password("@alice:localhost", "password", None)))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_wrong_password_can_be_tried_again_in_the_same_session() {
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
    async fn a_stage_that_is_shown_twice_at_once_is_complete() {
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
    async fn passwords_of_other_users_are_refused_whether_they_are_right_or_wrong() {
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
    async fn a_session_ends_with_its_time() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let ask = async |auth: Option<&AuthData>| {
            test.users
                .reauthenticate("e", &alice, &json!({}), auth)
                .await
        };
        let begun = info(ask(None).await);

        test.later(Duration::from_hours(1));

        let late = password("alice", "password", begun.session.as_deref());
        let fresh = info(ask(Some(&late)).await);
        assert_ne!(fresh.session, begun.session);
    }

    #[tokio::test]
    async fn sessions_are_bounded() {
        let sessions = UiaSessions::default();
        let ask = Ask {
            endpoint: "e",
            session: None,
            operation: None,
            flows: vec![],
        };

        for now in 0..10_010 {
            sessions.begin(&ask, now);
        }

        assert_eq!(sessions.lock().len(), SESSIONS);
    }

    #[test]
    fn stages_are_completed_in_order() {
        let flows = [AuthFlow::new(vec![AuthType::Dummy, AuthType::Password])];

        assert!(is_next(&AuthType::Dummy, &[], &flows));
        assert!(!is_next(&AuthType::Password, &[], &flows));
        assert!(is_next(&AuthType::Password, &[AuthType::Dummy], &flows));
        assert!(!is_next(&AuthType::Dummy, &[AuthType::Dummy], &flows));
    }
}
