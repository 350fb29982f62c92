//! Received EDUs about typing and presence.

use std::time::Duration;

use ruma::{
    OwnedUserId, ServerName, api::federation::transactions::edu::TypingContent,
    presence::PresenceState,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::origin::{EduOrigins, is_joined_user_of, parse};
use crate::{
    ephemeral::{EphemeralState, PresenceUpdate, ReportedPresence},
    error::Result,
    workflows::WorkflowSources,
};

/// The time for which a user is typing without a further EDU. Servers repeat them sooner.
const TYPING_TIMEOUT: Duration = Duration::from_mins(1);
/// The largest number of users in one presence EDU.
const MAX_PRESENCE_USERS: usize = 1_000;
/// The longest status message that is shown, in bytes.
const MAX_STATUS_BYTES: usize = 4_096;

#[derive(Deserialize)]
struct PresenceEdu {
    push: Vec<Box<RawValue>>,
}

/// The presence of a user, as in the specification, but with the fields optional that some servers
/// leave out.
#[derive(Deserialize)]
struct PresenceEntry {
    user_id: OwnedUserId,
    presence: PresenceState,
    status_msg: Option<String>,
    last_active_ago: Option<i64>,
    #[serde(default)]
    currently_active: bool,
}

/// Receives EDUs about typing and presence. Cheap to clone.
#[derive(Clone)]
pub(super) struct EphemeralEdus {
    ephemeral: EphemeralState,
    origins: EduOrigins,
}

impl EphemeralEdus {
    pub(super) fn new(sources: &WorkflowSources, origins: &EduOrigins) -> Self {
        Self {
            ephemeral: sources.ephemeral.clone(),
            origins: origins.clone(),
        }
    }

    /// Processes `m.typing`.
    pub(super) async fn receive_typing(
        &self,
        origin: &ServerName,
        edus: &[Box<RawValue>],
    ) -> Result<()> {
        for edu in edus {
            let Some(content) = parse::<TypingContent>(edu) else {
                continue;
            };
            let Some(room) = self
                .origins
                .room_shared_with(origin, &content.room_id)
                .await?
            else {
                continue;
            };
            if is_joined_user_of(origin, &room, &content.user_id) {
                let lasting = content.typing.then_some(TYPING_TIMEOUT);
                self.ephemeral
                    .typing
                    .set_typing(room.num, &content.user_id, lasting);
            }
        }
        Ok(())
    }

    /// Processes `m.presence`.
    pub(super) async fn receive_presence(
        &self,
        origin: &ServerName,
        edus: &[Box<RawValue>],
    ) -> Result<()> {
        for edu in edus {
            let all = parse::<PresenceEdu>(edu).map_or_else(Vec::new, |all| all.push);
            let entries = all.iter().take(MAX_PRESENCE_USERS);
            for entry in entries.filter_map(|entry| parse::<PresenceEntry>(entry)) {
                self.receive_presence_of_user(origin, entry).await?;
            }
        }
        Ok(())
    }

    async fn receive_presence_of_user(
        &self,
        origin: &ServerName,
        entry: PresenceEntry,
    ) -> Result<()> {
        let is_known = matches!(
            entry.presence,
            PresenceState::Online | PresenceState::Unavailable | PresenceState::Offline
        );
        if !is_known {
            return Ok(());
        }
        let user_id = entry.user_id;
        let Some(user) = self.origins.user_sharing_a_room(origin, &user_id).await? else {
            return Ok(());
        };
        let reported = ReportedPresence {
            state: entry.presence,
            status_msg: entry
                .status_msg
                .filter(|text| text.len() <= MAX_STATUS_BYTES),
            last_active_ago: entry.last_active_ago.filter(|ago| *ago >= 0),
            currently_active: entry.currently_active,
        };
        let update = PresenceUpdate::Reported(reported);
        self.ephemeral.presence.update(user, &user_id, update);
        Ok(())
    }
}
