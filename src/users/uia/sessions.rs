//! The sessions of user-interactive authentication, in memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::{
    OwnedUserId,
    api::client::uiaa::{AuthFlow, AuthType},
};

use super::{
    OperationDigest, StageResult, UiaRequest,
    flows::is_next_stage,
    registration_session::{RegistrationSession, request_changed_error},
};
use crate::{error::Result, numbers::UserNum, users::secrets};

/// The lifetime of a session, in milliseconds: enough time to find a password or a token.
const LIFETIME_MS: i64 = 15 * 60 * 1000;
/// The shortest lifetime of a session after its completion, in milliseconds: a client that lost the response sends the
/// request again.
const COMPLETED_LIFETIME_MS: i64 = 5 * 60 * 1000;
/// The time for which a user's permission to reset the cross-signing keys holds, in milliseconds.
const RESET_PERMISSION_MS: i64 = 10 * 60 * 1000;
/// The longest request body that a session stores, in bytes. A client with a longer one has to send it again.
const MAX_REMEMBERED_BYTES: usize = 4 * 1024;
/// The largest number of sessions. Beyond it, the oldest are dropped.
const MAX_SESSIONS: usize = 10_000;

/// The sessions in memory.
#[derive(Default)]
pub(in crate::users) struct UiaSessions {
    sessions: Mutex<HashMap<String, UiaSession>>,
    /// The users who let their apps reset the cross-signing keys, and the times at which the permissions end.
    reset_permissions_end_ms: Mutex<HashMap<UserNum, i64>>,
}

struct UiaSession {
    endpoint: &'static str,
    user: Option<UserNum>,
    user_id: Option<OwnedUserId>,
    flows: Vec<AuthFlow>,
    operation: Option<OperationDigest>,
    /// The body of the first request, without `auth`.
    first_request: Option<Box<str>>,
    completed: Vec<AuthType>,
    result: StageResult,
    /// Whether a flow is complete. The same request is then authenticated for a while.
    is_done: bool,
    registration: Arc<tokio::sync::Mutex<RegistrationSession>>,
    expires_ms: i64,
}

/// A stage that a user has passed.
pub(super) struct PassedStage {
    pub(super) stage: AuthType,
    pub(super) result: StageResult,
}

/// The stages that a session still needs.
pub(super) struct RemainingStages {
    /// The requesting user, if they are logged in.
    pub(super) user_id: Option<OwnedUserId>,
    /// The flows that the user can choose from.
    pub(super) flows: Vec<AuthFlow>,
    /// The stages that are complete.
    pub(super) completed: Vec<AuthType>,
}

impl UiaSessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, UiaSession>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the apps of a user reset the cross-signing keys for a while.
    pub(super) fn allow_cross_signing_reset(&self, user: UserNum, now: i64) {
        let resets = self.reset_permissions_end_ms.lock();
        let mut resets = resets.unwrap_or_else(PoisonError::into_inner);
        resets.retain(|_, expires_ms| *expires_ms > now);
        resets.insert(user, now.saturating_add(RESET_PERMISSION_MS));
    }

    /// Returns whether a user lets their apps reset the cross-signing keys. The permission is for one reset.
    pub(super) fn take_reset_permission(&self, user: UserNum, now: i64) -> bool {
        let resets = self.reset_permissions_end_ms.lock();
        let mut resets = resets.unwrap_or_else(PoisonError::into_inner);
        resets
            .remove(&user)
            .is_some_and(|expires_ms| expires_ms > now)
    }

    pub(super) fn begin(&self, request: &UiaRequest<'_>, now: i64) -> String {
        let id = secrets::random_token();
        let mut sessions = self.lock();
        if sessions.len() >= MAX_SESSIONS {
            sessions.retain(|_, session| session.expires_ms > now);
        }
        if sessions.len() >= MAX_SESSIONS {
            let oldest = sessions
                .iter()
                .min_by_key(|(_, session)| session.expires_ms);
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                sessions.remove(&oldest);
            }
        }
        let session = UiaSession {
            endpoint: request.endpoint,
            user: request.session.map(|session| session.user),
            user_id: request.session.map(|session| session.user_id.clone()),
            flows: request.flows.clone(),
            operation: request.operation.clone(),
            first_request: None,
            completed: Vec::new(),
            result: StageResult::default(),
            is_done: false,
            registration: Arc::default(),
            expires_ms: now.saturating_add(LIFETIME_MS),
        };
        sessions.insert(id.clone(), session);
        id
    }

    /// Returns whether the session exists and belongs to this request.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::Forbidden`] when the session belongs to another request.
    pub(super) fn resume(&self, id: &str, request: &UiaRequest<'_>, now: i64) -> Result<bool> {
        let mut sessions = self.lock();
        let Some(session) = sessions.get_mut(id).filter(|s| s.expires_ms > now) else {
            return Ok(false);
        };
        let user = request.session.map(|session| session.user);
        if session.endpoint != request.endpoint || session.user != user {
            return Err(request_changed_error());
        }
        match (&session.operation, &request.operation) {
            (Some(begun), Some(requested)) if begun != requested => {
                return Err(request_changed_error());
            }
            // A session that started with a request for the flows belongs to the first real request.
            (None, Some(requested)) => session.operation = Some(requested.clone()),
            _ => {}
        }
        Ok(true)
    }

    /// Returns the stages that a session still needs, or `None` if it is unknown or has expired.
    pub(super) fn remaining_stages(&self, id: &str, now: i64) -> Option<RemainingStages> {
        let sessions = self.lock();
        let session = sessions.get(id).filter(|s| s.expires_ms > now)?;
        Some(RemainingStages {
            user_id: session.user_id.clone(),
            flows: session.flows.clone(),
            completed: session.completed.clone(),
        })
    }

    pub(super) fn completed_stages(&self, id: &str) -> Vec<AuthType> {
        let sessions = self.lock();
        let session = sessions.get(id);
        session.map_or_else(Vec::new, |session| session.completed.clone())
    }

    /// Stores the first request, if it is not too long.
    pub(super) fn store_first_request(&self, id: &str, body: &str) {
        let mut sessions = self.lock();
        let Some(session) = sessions.get_mut(id) else {
            return;
        };
        if session.first_request.is_none() && body.len() <= MAX_REMEMBERED_BYTES {
            session.first_request = Some(body.into());
        }
    }

    /// Returns the first request of a user's session.
    pub(super) fn first_request(&self, id: &str, user: UserNum, now: i64) -> Option<String> {
        let sessions = self.lock();
        let session = sessions.get(id).filter(|s| s.expires_ms > now)?;
        let first = session.first_request.as_ref();
        first
            .filter(|_| session.user == Some(user))
            .map(ToString::to_string)
    }

    /// Returns the result of a session in which a flow is complete.
    pub(super) fn completed_result(&self, id: &str) -> Option<StageResult> {
        let sessions = self.lock();
        let session = sessions.get(id).filter(|session| session.is_done)?;
        Some(session.result.clone())
    }

    /// Returns the registration of a session, or `None` if the session is unknown or has expired.
    pub(in crate::users) fn registration(
        &self,
        id: &str,
        now: i64,
    ) -> Option<Arc<tokio::sync::Mutex<RegistrationSession>>> {
        let sessions = self.lock();
        let session = sessions.get(id).filter(|s| s.expires_ms > now)?;
        Some(session.registration.clone())
    }

    /// Records that a stage is complete; returns the result once a flow is complete.
    pub(super) fn complete_stage(
        &self,
        id: &str,
        passed: PassedStage,
        flows: &[AuthFlow],
        now: i64,
    ) -> Option<StageResult> {
        let PassedStage { stage, result } = passed;
        let mut sessions = self.lock();
        let session = sessions.get_mut(id)?;
        // A concurrent request of the session may have completed the stage.
        if is_next_stage(&stage, &session.completed, flows) {
            session.completed.push(stage);
            session.result.add(result);
        }
        session.is_done = flows.iter().any(|flow| flow.stages == session.completed);
        if !session.is_done {
            return None;
        }
        let kept_until = now.saturating_add(COMPLETED_LIFETIME_MS);
        session.expires_ms = session.expires_ms.max(kept_until);
        Some(session.result.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::ValidationPurpose;

    #[tokio::test]
    async fn sessions_are_bounded() {
        let sessions = UiaSessions::default();
        let request = UiaRequest {
            endpoint: "e",
            session: None,
            operation: None,
            flows: vec![],
            email_purpose: ValidationPurpose::Register,
        };

        for now in 0..10_010 {
            sessions.begin(&request, now);
        }

        assert_eq!(sessions.lock().len(), MAX_SESSIONS);
    }
}
