//! Received EDUs about typing and presence.

use std::time::Duration;

use ruma::{
    OwnedUserId, ServerName, api::federation::transactions::edu::TypingContent,
    presence::PresenceState,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{parse, speaks_for};
use crate::{
    ephemeral::{PresenceUpdate, Told},
    error::Result,
    workflows::Workflows,
};

/// The time for which a user is typing without a further EDU. Servers repeat them sooner.
const TYPING: Duration = Duration::from_mins(1);
/// The largest number of users in one presence EDU.
const USERS: usize = 1_000;
/// The longest status message that is shown, in bytes.
const STATUS_BYTES: usize = 4_096;

#[derive(Deserialize)]
struct Presences {
    push: Vec<Box<RawValue>>,
}

/// The presence of a user, as in the specification, but with the fields optional that some servers
/// leave out.
#[derive(Deserialize)]
struct OfUser {
    user_id: OwnedUserId,
    presence: PresenceState,
    status_msg: Option<String>,
    last_active_ago: Option<i64>,
    #[serde(default)]
    currently_active: bool,
}

impl Workflows {
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
            let Some(room) = self.room_told_of(origin, &content.room_id).await? else {
                continue;
            };
            if speaks_for(origin, &room, &content.user_id) {
                let lasting = content.typing.then_some(TYPING);
                self.ephemeral
                    .typing
                    .set(room.num, &content.user_id, lasting);
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
            let all = parse::<Presences>(edu).map_or_else(Vec::new, |all| all.push);
            for one in all.iter().take(USERS) {
                let Some(one) = parse::<OfUser>(one) else {
                    continue;
                };
                let is_known = matches!(
                    one.presence,
                    PresenceState::Online | PresenceState::Unavailable | PresenceState::Offline
                );
                if !is_known {
                    continue;
                }
                let Some(user) = self.neighbour(origin, &one.user_id).await? else {
                    continue;
                };
                let told = Told {
                    state: one.presence,
                    status_msg: one.status_msg.filter(|text| text.len() <= STATUS_BYTES),
                    last_active_ago: one.last_active_ago.filter(|ago| *ago >= 0),
                    currently_active: one.currently_active,
                };
                self.ephemeral
                    .presence
                    .update(user, &one.user_id, PresenceUpdate::Told(told));
            }
        }
        Ok(())
    }
}
