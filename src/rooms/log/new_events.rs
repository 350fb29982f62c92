//! Building events of users of this server: at the tip of a room, and the first events of a new
//! room.

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, RoomVersionId, UInt,
    events::room::member::MembershipState, room_version_rules::RoomVersionRules,
};

use super::{EventLog, accepted_event::AcceptedEvent, append::append};
use crate::{
    error::{Error, RefusalCode, Result},
    matrix::{self, EventContext, EventDraft, InviteTreatment},
    numbers::{RoomNum, SnapshotId},
    rooms::{
        EventToSend,
        memory::room::{Room, RoomIdentity, RoomTip, RoomView},
        unread::push_counts::UnreadIncrement,
    },
    storage::{WriteTx, rooms::room_table},
};

/// Turns the rejection of one of a room's first events into an error of the request, which asked
/// for an impossible state.
pub(crate) fn into_invalid_state(error: Error) -> Error {
    match error {
        Error::Forbidden(reason) => Error::refused(RefusalCode::InvalidRoomState, reason),
        other => other,
    }
}

impl EventLog {
    /// Returns an id for a new event; `None` in room versions where the id is a hash of the event.
    pub(crate) fn new_event_id(&self, rules: &RoomVersionRules) -> Option<OwnedEventId> {
        let is_chosen = rules.event_format.require_event_id;
        is_chosen.then(|| EventId::new_v1(self.key.server_name()))
    }

    /// Builds, authorizes and signs an event at the tip of a room.
    pub(crate) async fn build_event(
        &self,
        room: &Room,
        tip: &RoomTip,
        event: EventToSend,
    ) -> Result<AcceptedEvent> {
        let transaction = event.transaction;
        let draft = EventDraft {
            sender: event.sender,
            kind: event.kind,
            state_key: event.state_key,
            content: event.content,
            redacts: event.redacts,
            sticky: event.sticky,
            timestamp: event.timestamp.unwrap_or_else(|| self.clock.now()),
            event_id: self.new_event_id(&room.rules),
        };
        let prev_events = tip.choose_prev_events();
        let context = EventContext {
            room_id: (tip.snapshot != SnapshotId::EMPTY
                || room.rules.event_format.require_room_create_room_id)
                .then_some(&room.room_id),
            rules: &room.rules,
            state: &tip.state,
            prev_events: &prev_events.ids,
            prev_hashes: &prev_events.hashes,
            depth: UInt::new_saturating(tip.depth + 1),
        };
        let (pdu, json) = matrix::build_event(draft, context, &self.key)?;
        let counting = self.unread.count_event(room, tip, &pdu).await;
        Ok(AcceptedEvent {
            pdu,
            json,
            counting,
            transaction,
            delayed_event: None,
            unattended: false,
            arrival: None,
        })
    }

    /// Builds the create event of a new room. In some room versions, the room id follows from it.
    pub(crate) fn build_create_event(
        &self,
        version: RoomVersionId,
        create: EventToSend,
        timestamp: MilliSecondsSinceUnixEpoch,
    ) -> Result<(Room, AcceptedEvent)> {
        let rules = matrix::room_version_rules(&version).ok_or_else(|| {
            Error::UnsupportedRoomVersion(format!("room version {version} is not supported"))
        })?;
        let named_before = rules.event_format.require_room_create_room_id;
        let room_id = named_before.then(|| RoomId::new_v1(self.key.server_name()));
        let draft = EventDraft {
            sender: create.sender,
            kind: create.kind,
            state_key: create.state_key,
            content: create.content,
            redacts: None,
            sticky: None,
            timestamp,
            event_id: self.new_event_id(&rules),
        };
        let context = EventContext {
            room_id: room_id.as_ref(),
            rules: &rules,
            state: &matrix::StateMap::default(),
            prev_events: &[],
            prev_hashes: &[],
            depth: 1_u32.into(),
        };
        let (pdu, json) =
            matrix::build_event(draft, context, &self.key).map_err(into_invalid_state)?;
        let room_id = pdu.room_id.clone();
        let accepted = AcceptedEvent {
            pdu,
            json,
            counting: UnreadIncrement::default(),
            transaction: None,
            delayed_event: None,
            unattended: false,
            arrival: None,
        };
        let identity = RoomIdentity {
            num: RoomNum::new(0),
            room_id,
            version,
            rules,
        };
        let room = Room::new(identity, RoomTip::default(), RoomView::default());
        Ok((room, accepted))
    }

    /// Stores a new room with its first events; returns `false` if the room id is already in use.
    pub(crate) async fn insert_room(
        &self,
        tx: &mut WriteTx,
        room: &mut Room,
        events: Vec<AcceptedEvent>,
    ) -> Result<bool> {
        let num = room_table::insert(tx, room.room_id.as_str(), room.version.as_str()).await?;
        let Some(num) = num else { return Ok(false) };
        room.num = num;
        let mut tip = RoomTip::default();
        for accepted in events {
            append(self, tx, room, &mut tip, accepted).await?;
        }
        Ok(true)
    }

    /// Checks that the invited user accepts invitations from the sender.
    ///
    /// # Errors
    ///
    /// [`Error::InviteBlocked`] or [`Error::InviteFiltered`] if the user does not.
    pub(crate) async fn check_invite_permission(&self, event: &EventToSend) -> Result<()> {
        if event.membership() != Some(MembershipState::Invite) {
            return Ok(());
        }
        let mut conn = self.db.read().await?;
        let invited = event.state_key.as_deref().unwrap_or_default();
        let Some(invited) = self.db.strings.find_user(&mut conn, invited).await? else {
            return Ok(());
        };
        let settings = self.ignored_users.find(invited);
        match settings.map(|settings| settings.invite_treatment(&event.sender)) {
            Some(InviteTreatment::Blocked) => Err(Error::InviteBlocked),
            Some(InviteTreatment::Filtered) => Err(Error::InviteFiltered),
            Some(InviteTreatment::Shown | InviteTreatment::Hidden) | None => Ok(()),
        }
    }
}
