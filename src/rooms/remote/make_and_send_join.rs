//! Lets users of other servers join, leave and knock: makes event templates for their servers to
//! sign, and accepts the signed events.
//!
//! [Joining rooms](https://spec.matrix.org/v1.19/server-server-api/#joining-rooms)

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId, UInt, UserId,
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    events::{
        StateEventType, TimelineEventType,
        room::member::{MembershipState, RoomMemberEventContent},
    },
    room::{AllowRule, Restricted},
};
use serde_json::value::{RawValue, to_raw_value};

use super::ResidentServer;
use crate::{
    error::{Error, Result},
    matrix::{self, EventContext, EventDraft, StateMap, VerifiedEvent},
    rooms::{
        ReceiveHints, ReceiveOutcome,
        memory::room::{Room, RoomTip},
        read::{
            join_rules::{find_authorising_user, restricted_rule},
            server_acl::check_server_allowed,
        },
    },
};

/// The kind of request that a user of another server makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipHandshake {
    /// To join the room.
    Join,
    /// To leave it, reject an invitation, or withdraw a knock.
    Leave,
    /// To request an invitation.
    Knock,
}

/// An event template for another server to sign.
#[derive(Debug)]
pub struct MembershipDraft {
    pub version: RoomVersionId,
    /// The event, without hashes and signatures.
    pub event: Box<RawValue>,
}

/// A user of another server who wants to join, leave or knock.
#[derive(Clone, Debug)]
pub struct RemoteApplicant {
    /// The server that makes the request.
    pub origin: OwnedServerName,
    pub user_id: OwnedUserId,
    pub room_id: OwnedRoomId,
}

impl MembershipHandshake {
    fn membership(self) -> MembershipState {
        match self {
            Self::Join => MembershipState::Join,
            Self::Leave => MembershipState::Leave,
            Self::Knock => MembershipState::Knock,
        }
    }
}

impl ResidentServer {
    /// Makes the event template with which a user of another server joins a room, leaves it, or
    /// knocks.
    ///
    /// `supported` are the room versions that the other server supports; empty for all.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when this server is not in the room; [`Error::IncompatibleRoomVersion`];
    /// [`Error::Forbidden`] with the rule that refuses it; [`Error::UnableToAuthoriseJoin`] and
    /// [`Error::UnableToGrantJoin`] when another server may be able to let the user in.
    pub async fn make_membership_event(
        &self,
        handshake: MembershipHandshake,
        applicant: &RemoteApplicant,
        supported: &[RoomVersionId],
    ) -> Result<MembershipDraft> {
        if applicant.user_id.server_name() != applicant.origin {
            return Err(Error::forbidden(
                "the user does not belong to the requesting server",
            ));
        }
        let room = self.memory.resident_room(&applicant.room_id).await?;
        if !supported.is_empty() && !supported.contains(&room.version) {
            return Err(Error::IncompatibleRoomVersion(room.version.clone()));
        }
        let tip = room.tip.lock().await.clone();
        check_server_allowed(&tip.state, &applicant.origin)?;
        let mut content = RoomMemberEventContent::new(handshake.membership());
        if handshake == MembershipHandshake::Join {
            content.join_authorized_via_users_server = self
                .find_authoriser(&room, &tip.state, &applicant.user_id)
                .await?;
        }
        self.draft_membership_event(&room, &tip, applicant, to_raw_value(&content)?)
    }

    fn draft_membership_event(
        &self,
        room: &Room,
        tip: &RoomTip,
        applicant: &RemoteApplicant,
        content: Box<RawValue>,
    ) -> Result<MembershipDraft> {
        let draft = EventDraft {
            sender: applicant.user_id.clone(),
            kind: TimelineEventType::RoomMember,
            state_key: Some(applicant.user_id.to_string()),
            content,
            redacts: None,
            sticky: None,
            timestamp: self.clock.now(),
            event_id: self.log.new_event_id(&room.rules),
        };
        let prev_events = tip.choose_prev_events();
        let event_context = EventContext {
            room_id: Some(&room.room_id),
            rules: &room.rules,
            state: &tip.state,
            prev_events: &prev_events.ids,
            prev_hashes: &prev_events.hashes,
            depth: UInt::new_saturating(tip.depth + 1),
        };
        Ok(MembershipDraft {
            version: room.version.clone(),
            event: matrix::build_template(draft, event_context)?.event,
        })
    }

    /// Returns the user of this server who authorises a join to a restricted room; `None` if nobody
    /// has to.
    async fn find_authoriser(
        &self,
        room: &Room,
        state: &StateMap,
        user_id: &UserId,
    ) -> Result<Option<OwnedUserId>> {
        let before = state.membership(user_id);
        if matches!(before, MembershipState::Join | MembershipState::Invite) {
            return Ok(None);
        }
        let Some(restricted) = restricted_rule(room, state) else {
            return Ok(None);
        };
        if !self
            .join_rules
            .meets_allow_condition(room, state, user_id)
            .await?
        {
            return Err(self.unmet_condition_error(&restricted).await);
        }
        let authoriser = find_authorising_user(room, state).ok_or_else(|| {
            Error::UnableToGrantJoin(
                "no user of this server who may invite is in the room".to_owned(),
            )
        })?;
        Ok(Some(authoriser))
    }

    /// Returns the error for a user who meets none of the conditions for a join.
    async fn unmet_condition_error(&self, restricted: &Restricted) -> Error {
        let mut is_known = restricted.allow.is_empty();
        for rule in &restricted.allow {
            if let AllowRule::RoomMembership(condition) = rule {
                is_known |= self.memory.resident_room(&condition.room_id).await.is_ok();
            }
        }
        if is_known {
            return Error::forbidden("the user is in none of the rooms that would let them in");
        }
        Error::UnableToAuthoriseJoin(
            "this server is in none of the rooms that would let the user in".to_owned(),
        )
    }

    /// Checks an event that another server signed for its user, and also signs it if a user of this
    /// server authorises the join. Its signatures must be verified afterwards.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when the event does not match the request; otherwise the same as for
    /// [`ResidentServer::make_membership_event`].
    pub async fn countersign(
        &self,
        handshake: MembershipHandshake,
        applicant: &RemoteApplicant,
        mut object: CanonicalJsonObject,
    ) -> Result<CanonicalJsonObject> {
        let room = self.memory.resident_room(&applicant.room_id).await?;
        let state = room.tip.lock().await.state.clone();
        check_server_allowed(&state, &applicant.origin)?;
        check_signed_event(handshake, applicant, &object)?;
        let content = object
            .get("content")
            .and_then(CanonicalJsonValue::as_object);
        let via = content
            .and_then(|content| content.get("join_authorised_via_users_server")?.as_str())
            .and_then(|via| OwnedUserId::try_from(via).ok());
        if handshake == MembershipHandshake::Join
            && via.is_some_and(|via| self.memory.is_local(&via))
            && restricted_rule(&room, &state).is_some()
        {
            self.find_authoriser(&room, &state, &applicant.user_id)
                .await?;
            self.key.sign_event(&mut object, &room.rules)?;
        }
        Ok(object)
    }

    /// Stores an event that another server signed for its user in the room; returns the state
    /// before it.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] with the rule that refuses it; [`Error::InvalidParam`] when it follows
    /// events that this server does not have, which is never true of an event made from its
    /// template.
    pub async fn accept_signed_event(
        &self,
        handshake: MembershipHandshake,
        applicant: &RemoteApplicant,
        event: VerifiedEvent,
    ) -> Result<StateMap> {
        let object = serde_json::from_str(event.json())?;
        check_signed_event(handshake, applicant, &object)?;
        let room = self.memory.resident_room(&applicant.room_id).await?;
        let (num, origin) = (room.num, applicant.origin.clone());
        let id = event.pdu().event_id.clone();
        let hints = ReceiveHints {
            is_passed_on: true,
            ..ReceiveHints::default()
        };
        let received = self
            .tasks
            .run_to_completion(self, async move |rooms: Self| {
                rooms
                    .receiver
                    .receive_with_state(num, &origin, &event, &hints)
                    .await
            })
            .await?;
        match received {
            (ReceiveOutcome::Accepted, before) => Ok(before),
            (ReceiveOutcome::Duplicate, _) => {
                self.receiver.check_accepted(&id).await?;
                self.federation.state_before_event(&room, &id).await
            }
            (ReceiveOutcome::SoftFailed(reason) | ReceiveOutcome::Rejected(reason), _) => {
                Err(Error::Forbidden(reason))
            }
            (ReceiveOutcome::Missing { .. }, _) => Err(Error::invalid_param(
                "the event follows events that this server does not know",
            )),
        }
    }
}

/// Checks that a signed event matches the request of the user of another server.
fn check_signed_event(
    handshake: MembershipHandshake,
    applicant: &RemoteApplicant,
    object: &CanonicalJsonObject,
) -> Result<()> {
    let text = |field: &str| object.get(field).and_then(CanonicalJsonValue::as_str);
    let content = object
        .get("content")
        .and_then(CanonicalJsonValue::as_object);
    let membership = content.and_then(|content| content.get("membership")?.as_str());
    let user_id = Some(applicant.user_id.as_str());
    let is_right = text("type") == Some("m.room.member")
        && membership == Some(handshake.membership().as_str())
        && text("room_id") == Some(applicant.room_id.as_str())
        && text("sender") == user_id
        && text("state_key") == user_id
        && applicant.user_id.server_name() == applicant.origin;
    if is_right {
        return Ok(());
    }
    Err(Error::invalid_param(
        "the event does not match the request in its type, room, sender, state key or membership",
    ))
}

/// Returns whether state of a type may be shown to users who knock or are invited, and to their
/// servers.
pub(crate) fn is_stripped_state_type(kind: &StateEventType) -> bool {
    matches!(
        kind,
        StateEventType::RoomCreate
            | StateEventType::RoomName
            | StateEventType::RoomAvatar
            | StateEventType::RoomTopic
            | StateEventType::RoomJoinRules
            | StateEventType::RoomCanonicalAlias
            | StateEventType::RoomEncryption
    )
}

impl ResidentServer {
    /// Returns the stripped state of a room for a user who knocks.
    ///
    /// [Stripped state](https://spec.matrix.org/v1.19/client-server-api/#stripped-state)
    pub fn knock_room_state(&self, state: &StateMap) -> Vec<Box<RawValue>> {
        let shown = state
            .iter()
            .filter(|pdu| is_stripped_state_type(&pdu.state_type()));
        let shown = shown.filter(|pdu| pdu.state_key.as_deref() == Some(""));
        shown.map(|pdu| matrix::stripped_state_event(pdu)).collect()
    }

    /// Returns the ids of the state events that a user who knocks or is invited may see.
    pub fn stripped_state_ids(&self, state: &StateMap) -> Vec<OwnedEventId> {
        let shown = state.iter().filter(|pdu| {
            pdu.state_key.as_deref() == Some("") && is_stripped_state_type(&pdu.state_type())
        });
        shown.map(|pdu| pdu.event_id.clone()).collect()
    }
}
