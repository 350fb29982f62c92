//! Rendezvous sessions, through which two devices of a user exchange messages while one signs the other in with a QR
//! code. The messages are encrypted by the devices.
//!
//! See [MSC4108](https://github.com/matrix-org/matrix-spec-proposals/pull/4108) and
//! [MSC4388](https://github.com/matrix-org/matrix-spec-proposals/pull/4388).

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::serde::{Base64, base64::UrlSafe};

use crate::{
    clock::Clock,
    error::{Error, Result},
};

/// The largest message, in bytes.
const MAX_MESSAGE_BYTES: usize = 4_096;
/// The lifetime of a session. "The maximum timeout SHOULD be 300 seconds for security."
const SESSION_LIFETIME: Duration = Duration::from_mins(5);
/// The largest number of sessions. They are for strangers, too, so their number is bounded.
const MAX_SESSIONS: usize = 2_000;
/// The number of random bytes of an id, which nobody may guess.
const ID_BYTES: usize = 24;

/// The open sessions.
pub struct RendezvousSessions {
    clock: Clock,
    sessions: Mutex<HashMap<String, StoredSession>>,
}

struct StoredSession {
    message: String,
    token: u64,
    modified_ms: i64,
    expires_ms: i64,
}

/// A session and its latest message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RendezvousSession {
    pub id: String,
    pub message: String,
    /// The token of the message. Each message of a session has another one.
    pub token: String,
    /// The time of the message, in milliseconds since the Unix epoch.
    pub modified_ms: i64,
    /// The time at which the session expires, in milliseconds since the Unix epoch.
    pub expires_ms: i64,
    /// The time until then.
    pub expires_in: Duration,
}

/// The result of sending a message.
#[derive(Debug, PartialEq, Eq)]
pub enum RendezvousUpdate {
    Sent(RendezvousSession),
    /// The other device has sent a message that the sender has not read. This is the session with that message.
    Conflict(RendezvousSession),
}

impl RendezvousSessions {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            sessions: Mutex::default(),
        }
    }

    /// Opens a session with a first message.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`]; [`Error::LimitExceeded`] when there are too many sessions.
    pub fn create(&self, message: String) -> Result<RendezvousSession> {
        check_size(&message)?;
        let now = self.clock.now_ms();
        let mut sessions = self.lock();
        if sessions.len() >= MAX_SESSIONS {
            sessions.retain(|_, session| session.expires_ms > now);
        }
        if sessions.len() >= MAX_SESSIONS {
            return Err(Error::LimitExceeded {
                retry_after: SESSION_LIFETIME,
            });
        }
        let id: Base64<UrlSafe, _> = Base64::new(rand::random::<[u8; ID_BYTES]>());
        let id = id.encode();
        let lifetime = i64::try_from(SESSION_LIFETIME.as_millis()).unwrap_or(i64::MAX);
        let session = StoredSession {
            message,
            token: rand::random(),
            modified_ms: now,
            expires_ms: now.saturating_add(lifetime),
        };
        let created = session.with_id(&id, now);
        sessions.insert(id, session);
        Ok(created)
    }

    /// Returns a session with its latest message.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when it does not exist or has expired.
    pub fn get(&self, id: &str) -> Result<RendezvousSession> {
        let now = self.clock.now_ms();
        let sessions = self.lock();
        let session = sessions.get(id).filter(|session| session.expires_ms > now);
        let session = session.ok_or_else(unknown_session)?;
        Ok(session.with_id(id, now))
    }

    /// Replaces the message of a session, if `token` is that of the present message.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the session does not exist or has expired; [`Error::TooLarge`].
    pub fn send(&self, id: &str, token: &str, message: String) -> Result<RendezvousUpdate> {
        check_size(&message)?;
        let now = self.clock.now_ms();
        let mut sessions = self.lock();
        let session = sessions.get_mut(id);
        let session = session
            .filter(|session| session.expires_ms > now)
            .ok_or_else(unknown_session)?;
        if token_text(session.token) != token {
            return Ok(RendezvousUpdate::Conflict(session.with_id(id, now)));
        }
        session.message = message;
        session.token = session.token.wrapping_add(1);
        session.modified_ms = now;
        Ok(RendezvousUpdate::Sent(session.with_id(id, now)))
    }

    /// Closes a session.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when it does not exist.
    pub fn close(&self, id: &str) -> Result<()> {
        let removed = self.lock().remove(id);
        removed.map(drop).ok_or_else(unknown_session)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, StoredSession>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoredSession {
    fn with_id(&self, id: &str, now: i64) -> RendezvousSession {
        let remaining_ms = self.expires_ms.saturating_sub(now);
        RendezvousSession {
            id: id.to_owned(),
            message: self.message.clone(),
            token: token_text(self.token),
            modified_ms: self.modified_ms,
            expires_ms: self.expires_ms,
            expires_in: Duration::from_millis(u64::try_from(remaining_ms).unwrap_or(0)),
        }
    }
}

fn token_text(token: u64) -> String {
    format!("{token:016x}")
}

fn check_size(message: &str) -> Result<()> {
    if message.len() > MAX_MESSAGE_BYTES {
        return Err(Error::TooLarge(format!(
            "the message is larger than {MAX_MESSAGE_BYTES} bytes"
        )));
    }
    Ok(())
}

fn unknown_session() -> Error {
    Error::not_found("the rendezvous session does not exist or has expired")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_replaces_only_the_one_that_its_sender_has_read() {
        let sessions = RendezvousSessions::new(Clock::manual(0));
        let first = sessions.create("first".to_owned()).unwrap();
        let sent = sessions.send(&first.id, &first.token, "second".to_owned());
        let RendezvousUpdate::Sent(second) = sent.unwrap() else {
            panic!("the message was not sent");
        };
        assert_ne!(first.token, second.token);

        let late = sessions.send(&first.id, &first.token, "late".to_owned());

        assert_eq!(late.unwrap(), RendezvousUpdate::Conflict(second.clone()));
        assert_eq!(sessions.get(&first.id).unwrap(), second);
    }

    #[test]
    fn a_session_expires_even_if_it_is_used() {
        let clock = Clock::manual(0);
        let sessions = RendezvousSessions::new(clock.clone());
        let session = sessions.create("first".to_owned()).unwrap();
        clock.advance(Duration::from_mins(4));
        let sent = sessions.send(&session.id, &session.token, "second".to_owned());
        assert!(matches!(sent, Ok(RendezvousUpdate::Sent(_))));

        clock.advance(Duration::from_mins(1));

        assert!(matches!(sessions.get(&session.id), Err(Error::NotFound(_))));
    }

    #[test]
    fn the_size_and_the_number_of_sessions_are_bounded() {
        let clock = Clock::manual(0);
        let sessions = RendezvousSessions::new(clock.clone());
        let long = "x".repeat(MAX_MESSAGE_BYTES + 1);
        assert!(matches!(sessions.create(long), Err(Error::TooLarge(_))));
        for _ in 0..MAX_SESSIONS {
            sessions.create(String::new()).unwrap();
        }
        let full = sessions.create(String::new());
        assert!(matches!(full, Err(Error::LimitExceeded { .. })));

        clock.advance(SESSION_LIFETIME);

        assert!(sessions.create(String::new()).is_ok());
    }
}
