//! State events that users send: the checks of those that other endpoints or the server restrict, and the sending.

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, RoomId, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    WorkflowSources, guests::RoomGuests, remote::RemoteInvitations, server_notices::ServerNotices,
};
use crate::{
    application_services::ServiceQueries,
    error::{Error, Result},
    matrix::{self, StickyDuration},
    rooms::{DelayRequest, EventToSend, Rooms},
    users::Session,
};

/// The state event that is checked.
struct CheckedStateEvent<'a> {
    kind: &'a StateEventType,
    state_key: &'a str,
    content: &'a RawValue,
}

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

/// A state event that a user wants to send.
#[derive(Debug)]
pub struct StateEventRequest {
    pub room_id: OwnedRoomId,
    pub kind: StateEventType,
    pub state_key: String,
    pub content: Box<RawValue>,
    /// The time for which the event is sticky.
    pub sticky: Option<StickyDuration>,
    /// The time that an application service gives the event.
    pub timestamp: Option<MilliSecondsSinceUnixEpoch>,
}

/// Checks and sends the state events of local users. Cheap to clone.
#[derive(Clone)]
pub struct StateEvents {
    rooms: Rooms,
    notices: ServerNotices,
    remote_invitations: RemoteInvitations,
    guests: RoomGuests,
    service_queries: ServiceQueries,
}

impl StateEvents {
    pub(super) fn new(
        sources: &WorkflowSources,
        notices: &ServerNotices,
        remote_invitations: &RemoteInvitations,
        guests: &RoomGuests,
    ) -> Self {
        Self {
            rooms: sources.rooms.clone(),
            notices: notices.clone(),
            remote_invitations: remote_invitations.clone(),
            guests: guests.clone(),
            service_queries: sources.service_queries.clone(),
        }
    }

    /// Checks and sends a state event, and does what follows from it.
    ///
    /// # Errors
    ///
    /// As [`Self::schedule_event`] for an event that must not be sent; [`Error::Forbidden`] with the rule that refuses
    /// it; [`Error::Unreachable`] when it is an invite and the server of the invited user does not answer.
    pub async fn send_state_event(
        &self,
        session: &Session,
        request: StateEventRequest,
    ) -> Result<OwnedEventId> {
        let StateEventRequest {
            room_id,
            kind,
            state_key,
            content,
            sticky,
            timestamp,
        } = request;
        let checked = CheckedStateEvent {
            kind: &kind,
            state_key: &state_key,
            content: &content,
        };
        self.check_state(session, &room_id, checked).await?;
        if kind == StateEventType::RoomMember
            && let Ok(user_id) = <&UserId>::try_from(&*state_key)
        {
            self.service_queries.create_user_on_demand(user_id).await?;
        }
        let event = EventToSend::state(session.user_id.clone(), &kind, &state_key, content);
        let event = event.at(timestamp).sticky_for(sticky);
        let event_id = if self.remote_invitations.is_remote_invitation(&event) {
            self.remote_invitations
                .invite_remote_user(&room_id, event)
                .await?
        } else {
            self.rooms.sender.send(&room_id, event).await?
        };
        if kind == StateEventType::RoomGuestAccess {
            // The background task would do this too, but the answer comes after the guests have left.
            self.guests.expel_guests(&room_id).await?;
        }
        Ok(event_id)
    }

    /// Checks an event, and schedules it. Returns the delay id.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] for a second create event, and for an invalid tombstone; [`Error::BadJson`] for
    /// malformed power levels; `RefusalCode::BadAlias` for an alias that points to another room;
    /// [`Error::GuestAccessForbidden`] and [`Error::CannotLeaveServerNoticeRoom`] for the user's own membership; and
    /// as [`crate::rooms::DelayedEvents::schedule_event`].
    pub async fn schedule_event(
        &self,
        session: &Session,
        room_id: &RoomId,
        delay: DelayRequest,
    ) -> Result<String> {
        if let Some(state_key) = &delay.state_key {
            let checked = CheckedStateEvent {
                kind: &StateEventType::from(&*delay.kind),
                state_key,
                content: &delay.content,
            };
            self.check_state(session, room_id, checked).await?;
        }
        self.rooms
            .delayed_events
            .schedule_event(room_id, delay)
            .await
    }

    /// Checks a state event that a user wants to send, now or later.
    async fn check_state(
        &self,
        session: &Session,
        room_id: &RoomId,
        event: CheckedStateEvent<'_>,
    ) -> Result<()> {
        let CheckedStateEvent {
            kind,
            state_key,
            content,
        } = event;
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
                    self.notices.check_leave(session, room_id).await?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
