//! Authentication stages that a user completes on a web page of this server, because their client does not support
//! them.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#fallback).

use std::sync::Arc;

use ruma::{OwnedUserId, api::client::uiaa::AuthType};

use super::{
    StageResult,
    flows::is_next_stage,
    sessions::{PassedStage, UiaSessions},
};
use crate::{
    clock::Clock,
    error::{Error, Result},
    users::{Session, UserEnvironment, password_check::PasswordCheck},
};

/// The input of a user on the page of a stage.
pub enum StageInput {
    /// The user continues.
    Dummy,
    /// The user's password.
    Password(String),
    /// A registration token, which the caller has validated.
    RegistrationToken(String),
    /// The user has signed in with an identity provider, a short time ago.
    ProviderSignIn(OwnedUserId),
}

impl StageInput {
    fn stage(&self) -> AuthType {
        match self {
            Self::Dummy => AuthType::Dummy,
            Self::Password(_) => AuthType::Password,
            Self::RegistrationToken(_) => AuthType::RegistrationToken,
            Self::ProviderSignIn(_) => AuthType::Sso,
        }
    }
}

/// The pages on which users complete stages.
#[derive(Clone)]
pub struct UiaPages {
    clock: Clock,
    sessions: Arc<UiaSessions>,
    password_check: PasswordCheck,
}

impl UiaPages {
    /// Creates the service.
    pub(in crate::users) fn new(
        environment: &UserEnvironment,
        sessions: &Arc<UiaSessions>,
        password_check: &PasswordCheck,
    ) -> Self {
        Self {
            clock: environment.clock.clone(),
            sessions: sessions.clone(),
            password_check: password_check.clone(),
        }
    }

    /// Returns the logged-in user whose request a session authenticates, if there is one.
    pub fn session_user(&self, id: &str) -> Option<OwnedUserId> {
        let now = self.clock.now_ms();
        self.sessions.remaining_stages(id, now)?.user_id
    }

    /// Lets the apps of a user reset the cross-signing keys for a while.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#oauth-authentication).
    pub fn allow_cross_signing_reset(&self, session: &Session) {
        let now = self.clock.now_ms();
        self.sessions.allow_cross_signing_reset(session.user, now);
    }

    /// Completes a stage of a session. The client then sends its request with the session alone.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the session is unknown or has expired, the stage is not the next one, or the password
    /// is wrong.
    pub async fn submit_stage(&self, id: &str, input: StageInput) -> Result<()> {
        let now = self.clock.now_ms();
        let sessions = &self.sessions;
        let remaining = sessions.remaining_stages(id, now);
        let remaining =
            remaining.ok_or_else(|| Error::forbidden("the session is unknown or has expired"))?;
        let stage = input.stage();
        if remaining.completed.contains(&stage) {
            return Ok(());
        }
        if !is_next_stage(&stage, &remaining.completed, &remaining.flows) {
            return Err(Error::forbidden("this stage is not the next one"));
        }
        let mut result = StageResult::default();
        match input {
            StageInput::Dummy => {}
            StageInput::RegistrationToken(token) => result.registration_token = Some(token),
            StageInput::ProviderSignIn(user_id) => {
                if remaining.user_id != Some(user_id) {
                    return Err(Error::forbidden("you have to authenticate as yourself"));
                }
            }
            StageInput::Password(password) => {
                let user_id = remaining.user_id;
                let user_id = user_id.ok_or_else(|| Error::forbidden("nobody is logged in"))?;
                self.password_check
                    .check(user_id.as_str(), password)
                    .await?;
            }
        }
        let passed = PassedStage { stage, result };
        sessions.complete_stage(id, passed, &remaining.flows, now);
        Ok(())
    }
}
