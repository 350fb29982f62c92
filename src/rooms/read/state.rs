//! Reading the state of a room, limited to what a user may see.

use std::sync::Arc;

use ruma::{
    UserId,
    events::{
        StateEventType,
        room::{member::MembershipState, server_acl::RoomServerAclEventContent},
    },
};
use serde_json::value::RawValue;

use super::StateReader;
use crate::{
    error::{Error, Result},
    matrix::{EventVisibility, Pdu, StateMap},
    numbers::{Position, PositionRange, StringNum, UserNum},
    rooms::memory::{
        room::Room,
        stored_events::{state_map, state_map_at},
    },
    storage::rooms::{event_graph, events, state_snapshots},
};

/// The number of events after which a room has a member: the create event and the creator's join.
const FIRST_EVENT_COUNT: i64 = 2;

impl StateReader {
    /// Returns the state of a room that a user may see, at a place in the timeline or now.
    ///
    /// Members see the current state, as does everyone if the history is world readable. Users who
    /// have left see the state at the time they left.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for all other users.
    pub async fn visible_state_at(
        &self,
        room: &Room,
        user: UserNum,
        user_id: &UserId,
        at: Option<Position>,
    ) -> Result<StateMap> {
        let current = room.view().state.clone();
        let is_open = EventVisibility::of_state(&current) == EventVisibility::WorldReadable;
        if is_open || current.membership(user_id) == MembershipState::Join {
            return match at {
                Some(at) => self.state_at(room, at).await,
                None => Ok(current),
            };
        }
        let is_forgotten = self.memory.has_forgotten(user, room).await?;
        let access = self.access.load_access(room, user, user_id).await?;
        match access.left_at() {
            Some(left_at) if !is_forgotten => {
                self.state_at(room, at.map_or(left_at, |at| at.min(left_at)))
                    .await
            }
            _ => Err(Error::forbidden("you are not in this room")),
        }
    }

    /// Returns the state of a room after the events up to a place in its timeline.
    pub async fn state_at(&self, room: &Room, place: Position) -> Result<StateMap> {
        if let Some(state) = state_in_memory(room, place) {
            return Ok(state);
        }
        let mut tx = self.db.snapshot().await?;
        let last = events::before_place(&mut tx, room.num, place.next(), 1).await?;
        let Some(last) = last.into_iter().next() else {
            return Ok(StateMap::default());
        };
        if !last.backfilled {
            let snapshot = room.view().snapshot;
            return state_map_at(&mut tx, snapshot, place).await;
        }
        let node = event_graph::find_nodes(&mut tx, [&last.event_id])
            .await?
            .pop();
        let after = node.and_then(|node| node.state_after);
        state_map(&mut tx, after.unwrap_or(last.state)).await
    }

    /// Checks that a server ACL does not deny this server. Users of this server could never undo
    /// that.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when it denies this server; [`Error::BadJson`] when the content is
    /// not a server ACL.
    pub fn check_server_acl(&self, content: &RawValue) -> Result<()> {
        let acl: RoomServerAclEventContent = serde_json::from_str(content.get())
            .map_err(|e| Error::BadJson(format!("m.room.server_acl: {e}")))?;
        if acl.is_allowed(self.memory.server_name()) {
            return Ok(());
        }
        Err(Error::invalid_param(
            "the server ACL must not deny this server",
        ))
    }

    /// Returns the state of a room right after its creator joined.
    pub async fn first_state(&self, room: &Room) -> Result<StateMap> {
        let mut conn = self.db.read().await?;
        let first =
            events::after_place(&mut conn, room.num, Position::MIN, FIRST_EVENT_COUNT).await?;
        drop(conn);
        match first.last() {
            Some(last) => self.state_at(room, last.timeline).await,
            None => Ok(StateMap::default()),
        }
    }

    /// Returns the state events that changed in a room between two positions, with their values in
    /// `state`.
    pub async fn state_changes(
        &self,
        room: &Room,
        state: &StateMap,
        after: Position,
        up_to: Position,
    ) -> Result<Vec<Arc<Pdu>>> {
        let in_memory = {
            let view = room.view();
            (after >= view.ring_after).then(|| {
                let within = |place: Position| place > after && place <= up_to;
                let events = view.ring.iter().filter(|event| within(event.timeline));
                events
                    .flat_map(|event| event.changed_state_keys())
                    .collect()
            })
        };
        let keys: Vec<(StateEventType, String)> = match in_memory {
            Some(keys) => keys,
            None => self.load_changed_keys(room, after, up_to).await?,
        };
        let mut changed: Vec<Arc<Pdu>> = Vec::new();
        for (kind, state_key) in keys {
            if let Some(pdu) = state.get(&kind, &state_key)
                && !changed.iter().any(|known| known.event_id == pdu.event_id)
            {
                changed.push(pdu.clone());
            }
        }
        Ok(changed)
    }

    async fn load_changed_keys(
        &self,
        room: &Room,
        after: Position,
        up_to: Position,
    ) -> Result<Vec<(StateEventType, String)>> {
        let mut conn = self.db.read().await?;
        let snapshot = room.view().snapshot;
        let range = PositionRange { after, up_to };
        let keys = state_snapshots::keys_changed(&mut conn, snapshot, range).await?;
        let numbers: Vec<StringNum> = keys
            .iter()
            .flat_map(|key| [key.kind, key.state_key])
            .collect();
        let texts = self.db.strings.find_texts(&mut conn, &numbers).await?;
        let text = |number: StringNum| texts.get(&number).map(ToString::to_string);
        Ok(keys
            .into_iter()
            .filter_map(|key| {
                let kind = StateEventType::from(text(key.kind)?);
                Some((kind, text(key.state_key)?))
            })
            .collect())
    }
}

/// Returns the state after a place in the timeline, if the events around it are in memory.
fn state_in_memory(room: &Room, place: Position) -> Option<StateMap> {
    let view = room.view();
    if view
        .ring
        .back()
        .is_none_or(|newest| newest.timeline <= place)
    {
        return Some(view.state.clone());
    }
    if place < view.ring_after {
        return None;
    }
    let next = view.ring.iter().find(|event| event.timeline > place)?;
    next.state_before.clone()
}
