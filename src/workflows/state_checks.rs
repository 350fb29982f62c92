//! Checks of state events that a user sends, if other endpoints or the server restrict them.

use ruma::{
    RoomId,
    events::{StateEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Workflows;
use crate::{
    error::{Error, Result},
    matrix,
    users::Session,
};

/// The checked part of a member event.
#[derive(Deserialize)]
struct CheckedMember {
    membership: Option<MembershipState>,
}

/// The checked part of a tombstone.
#[derive(Deserialize)]
struct TombstoneContent {
    replacement_room: Option<String>,
}

/// Refuses a tombstone with an invalid replacement, or with the room itself, which would send clients in a circle.
fn check_tombstone(room_id: &RoomId, content: &RawValue) -> Result<()> {
    let tombstone: TombstoneContent =
        serde_json::from_str(content.get()).map_err(|error| Error::BadJson(error.to_string()))?;
    match tombstone.replacement_room {
        Some(replacement) if replacement == room_id.as_str() => {
            Err(Error::invalid_param("a room cannot be replaced by itself"))
        }
        Some(replacement) if RoomId::parse(&replacement).is_err() => {
            Err(Error::invalid_param("`replacement_room` is not a room id"))
        }
        _ => Ok(()),
    }
}

impl Workflows {
    /// Checks a state event that a user wants to send, now or later.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] for a second create event, and for an invalid tombstone; [`Error::BadJson`] for
    /// malformed power levels; [`Error::BadAlias`] for an alias that points to another room;
    /// [`Error::GuestAccessForbidden`] and [`Error::CannotLeaveServerNoticeRoom`] for the user's own membership.
    pub async fn check_state(
        &self,
        session: &Session,
        room_id: &RoomId,
        (kind, state_key): (&StateEventType, &str),
        content: &RawValue,
    ) -> Result<()> {
        match kind {
            StateEventType::RoomCreate => Err(Error::invalid_param("a room is created only once")),
            StateEventType::RoomCanonicalAlias => {
                self.rooms
                    .directory
                    .check_canonical_alias(room_id, content)
                    .await
            }
            StateEventType::RoomServerAcl => self.rooms.state.check_server_acl(content),
            StateEventType::RoomPowerLevels => matrix::check_power_levels(content),
            StateEventType::RoomTombstone => check_tombstone(room_id, content),
            StateEventType::RoomMember => {
                // Guests must join and leave by the specific endpoints, which check the guest access of the room.
                session.must_not_be_guest()?;
                let member: Option<CheckedMember> = serde_json::from_str(content.get()).ok();
                let membership = member.and_then(|member| member.membership);
                if state_key == session.user_id && membership == Some(MembershipState::Leave) {
                    self.check_leave(session, room_id).await?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
