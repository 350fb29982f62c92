//! A single event of a room's history that has no place in the timeline here: it was fetched from another server, and the
//! events between it and the known timeline were not.
//!
//! It is not stored. The state before it, according to the server that sent it, shows whether it is allowed, and who may
//! see it.

use std::{collections::HashMap, sync::Arc};

use ruma::{
    OwnedEventId, OwnedUserId, UserId,
    events::{StateEventType, room::member::MembershipState},
};

use super::EventReceiver;
use crate::{
    error::Result,
    matrix::{self, EventVisibility, Pdu, StateMap, VerifiedEvent},
    rooms::{
        log::{event_placement::event_visibility, redactions, resolution::pdu_from_node},
        memory::room::Room,
    },
    storage::rooms::{event_graph, events::EventStatus},
};

/// The number of event ids in one query.
const IDS_PER_QUERY: usize = 500;

/// An event without a place in the timeline, as far as it concerns the users of this server.
#[derive(Debug)]
pub struct UnplacedEvent {
    pub pdu: Arc<Pdu>,
    visibility: EventVisibility,
    /// The memberships of the users of this server before the event.
    memberships: HashMap<OwnedUserId, MembershipState>,
}

impl UnplacedEvent {
    /// Returns the membership of a user of this server before the event.
    pub fn membership(&self, user_id: &UserId) -> MembershipState {
        let membership = self.memberships.get(user_id);
        membership.cloned().unwrap_or(MembershipState::Leave)
    }

    /// Returns whether a user who has joined the room now may see the event.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility).
    pub fn may_be_seen_by_member(&self, user_id: &UserId) -> bool {
        if self.pdu.member() == Some(user_id) {
            return true;
        }
        match (self.visibility, self.membership(user_id)) {
            (_, MembershipState::Join)
            | (EventVisibility::WorldReadable | EventVisibility::Shared, _)
            | (EventVisibility::Invited, MembershipState::Invite) => true,
            (EventVisibility::Invited | EventVisibility::Joined, _) => false,
        }
    }
}

impl EventReceiver {
    /// Checks an event by the state before it, whose events are stored as far as they are known. Returns `None` if the
    /// event is not allowed.
    pub async fn check_unplaced_event(
        &self,
        room: &Room,
        event: &VerifiedEvent,
        state_ids: &[OwnedEventId],
    ) -> Result<Option<UnplacedEvent>> {
        let pdu = event.pdu();
        let known = self.load_known_auth_events(room.num, [event]).await?;
        let mut auth_events: Vec<Arc<Pdu>> = pdu
            .auth_events
            .iter()
            .filter_map(|id| known.get(id).cloned())
            .collect();
        if auth_events.len() < pdu.auth_events.len() {
            return Ok(None);
        }
        let state = self.load_state(room, state_ids).await?;
        // In some room versions, no event names the create event.
        auth_events.extend(state.get(&StateEventType::RoomCreate, "").cloned());
        let rules = &room.rules;
        let allowed = matrix::authorize_by_auth_events(pdu, rules, &auth_events)
            .and_then(|()| matrix::authorize(pdu, rules, &state));
        if allowed.is_err() {
            return Ok(None);
        }
        let members = state.of_type(&StateEventType::RoomMember);
        let memberships = members.filter_map(|member| {
            let user_id = member
                .member()
                .filter(|user_id| self.memory.is_local(user_id));
            Some((user_id?.to_owned(), member.membership()?))
        });
        Ok(Some(UnplacedEvent {
            visibility: event_visibility(&state, pdu),
            memberships: memberships.collect(),
            pdu: Arc::new(pdu.clone()),
        }))
    }

    /// Returns a state that consists of stored events, without those that are unknown or rejected.
    async fn load_state(&self, room: &Room, ids: &[OwnedEventId]) -> Result<StateMap> {
        let mut state = StateMap::default();
        for chunk in ids.chunks(IDS_PER_QUERY) {
            let mut conn = self.db.read().await?;
            let chunk = chunk.iter().map(|id| id.as_str());
            let mut nodes = event_graph::find_nodes(&mut conn, chunk).await?;
            nodes.retain(|node| node.room == room.num && node.status() != EventStatus::Rejected);
            for node in &nodes {
                state.insert(pdu_from_node(node)?);
            }
        }
        Ok(state)
    }

    /// Returns the redaction of an event that has no place in the timeline, if there is one.
    pub async fn find_redaction_of_unplaced_event(
        &self,
        room: &Room,
        pdu: &Pdu,
    ) -> Result<Option<Pdu>> {
        let mut tx = self.db.write().await?;
        let redaction = redactions::find_waiting_redaction(&mut tx, room, pdu).await?;
        tx.commit().await?;
        Ok(redaction)
    }
}
