//! Authentication stages that a user completes on a web page of this server, because their client does not support
//! them.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#fallback).

use ruma::{OwnedUserId, api::client::uiaa::AuthType};

use super::{StageResult, is_next_stage};
use crate::{
    error::{Error, Result},
    users::Users,
};

/// The input of a user on the page of a stage.
pub enum StageInput {
    /// The user continues.
    Dummy,
    /// The user's password.
    Password(String),
    /// A registration token, which the caller has validated.
    RegistrationToken(String),
}

impl StageInput {
    fn stage(&self) -> AuthType {
        match self {
            Self::Dummy => AuthType::Dummy,
            Self::Password(_) => AuthType::Password,
            Self::RegistrationToken(_) => AuthType::RegistrationToken,
        }
    }
}

impl Users {
    /// Returns the logged-in user whose request a session authenticates, if there is one.
    pub fn uia_session_user(&self, id: &str) -> Option<OwnedUserId> {
        let now = self.inner.clock.now_ms();
        self.inner.uia.remaining_stages(id, now)?.user_id
    }

    /// Completes a stage of a session. The client then sends its request with the session alone.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the session is unknown or has expired, the stage is not the next one, or the password
    /// is wrong.
    pub async fn submit_stage(&self, id: &str, answer: StageInput) -> Result<()> {
        let now = self.inner.clock.now_ms();
        let sessions = &self.inner.uia;
        let waiting = sessions.remaining_stages(id, now);
        let waiting =
            waiting.ok_or_else(|| Error::forbidden("the session is unknown or has expired"))?;
        let stage = answer.stage();
        if waiting.completed.contains(&stage) {
            return Ok(());
        }
        if !is_next_stage(&stage, &waiting.completed, &waiting.flows) {
            return Err(Error::forbidden("this stage is not the next one"));
        }
        let mut proven = StageResult::default();
        match answer {
            StageInput::Dummy => {}
            StageInput::RegistrationToken(token) => proven.registration_token = Some(token),
            StageInput::Password(password) => {
                let user_id = waiting.user_id;
                let user_id = user_id.ok_or_else(|| Error::forbidden("nobody is logged in"))?;
                self.check_password(user_id.as_str(), password).await?;
            }
        }
        sessions.complete_stage(id, (stage, proven), &waiting.flows, now);
        Ok(())
    }
}
