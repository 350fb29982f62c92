//! Updates of a user's presence: by the user, by a sync, or by the user's server.

use ruma::presence::PresenceState;

use crate::error::{Error, Result};

/// The longest status message. It is sent to everyone who shares a room, in one transaction with those of other users.
const MAX_STATUS_BYTES: usize = 1_024;

/// An event that affects a user's presence.
#[derive(Clone, Debug)]
pub enum PresenceUpdate {
    /// The user sets their state and status message.
    Set(PresenceState, Option<String>),
    /// The user syncs, with the state to show while they do.
    Sync(PresenceState),
    /// The user sends, types or reads.
    Active,
    /// The user's server reports their presence.
    Reported(ReportedPresence),
}

/// The presence of a user of another server, as that server reports it.
#[derive(Clone, Debug)]
pub struct ReportedPresence {
    pub state: PresenceState,
    pub status_msg: Option<String>,
    /// The time since the user's last action, in milliseconds.
    pub last_active_ago: Option<i64>,
    /// Whether the user is currently active.
    pub currently_active: bool,
}

impl PresenceUpdate {
    /// Returns the update by which a user sets their presence.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] for a state that the specification does not define; [`Error::TooLarge`] for a status
    /// message of more than 1,024 bytes.
    pub fn set_by_user(state: PresenceState, status_msg: Option<String>) -> Result<Self> {
        check_state("presence", &state)?;
        if status_msg
            .as_ref()
            .is_some_and(|text| text.len() > MAX_STATUS_BYTES)
        {
            return Err(Error::TooLarge(format!(
                "a status message may have at most {MAX_STATUS_BYTES} bytes"
            )));
        }
        Ok(Self::Set(state, status_msg))
    }

    /// Returns the update for a sync, with the state to show while the user syncs.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] for a state that the specification does not define.
    pub fn set_by_sync(state: PresenceState) -> Result<Self> {
        check_state("set_presence", &state)?;
        Ok(Self::Sync(state))
    }
}

fn check_state(field: &str, state: &PresenceState) -> Result<()> {
    match state {
        PresenceState::Online | PresenceState::Offline | PresenceState::Unavailable => Ok(()),
        _ => Err(Error::invalid_param(format!(
            "{field} must be online, offline or unavailable"
        ))),
    }
}
