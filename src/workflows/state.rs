//! State that a user sets by itself, where other endpoints or the server have a say.

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

/// What is looked at of a member event.
#[derive(Deserialize)]
struct Member {
    membership: Option<MembershipState>,
}

/// What is looked at of a tombstone.
#[derive(Deserialize)]
struct Tombstone {
    replacement_room: Option<String>,
}

/// Refuses a tombstone that leads nowhere: clients would go round in circles.
fn check_tombstone(room_id: &RoomId, content: &RawValue) -> Result<()> {
    let tombstone: Tombstone =
        serde_json::from_str(content.get()).map_err(|error| Error::BadJson(error.to_string()))?;
    match tombstone.replacement_room {
        Some(replacement) if replacement == room_id.as_str() => Err(Error::invalid_param(
            "the room cannot be replaced by itself",
        )),
        Some(replacement) if RoomId::parse(&replacement).is_err() => {
            Err(Error::invalid_param("`replacement_room` is no room id"))
        }
        _ => Ok(()),
    }
}

impl Workflows {
    /// Checks state that a user wants to set, now or later.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] for what is set only once, and for a tombstone that leads nowhere; [`Error::BadJson`] for
    /// malformed power levels; [`Error::BadAlias`] for an alias that points elsewhere;
    /// [`Error::GuestAccessForbidden`] and [`Error::CannotLeaveServerNoticeRoom`] for memberships of one's own.
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
                // Guests come and go by the endpoints for that, which look at whether the room admits them.
                session.must_not_be_guest()?;
                let member: Option<Member> = serde_json::from_str(content.get()).ok();
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
