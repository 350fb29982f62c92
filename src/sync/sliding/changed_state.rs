//! The new state of a room that a client wants, and the members that the client then has.

use std::{collections::HashSet, sync::Arc};

use ruma::OwnedUserId;

use super::{connection_state::SentRoom, context::SlidingContext, response_plan::PlannedRoom};
use crate::{
    error::Result,
    matrix::{Pdu, StateMap},
    numbers::Position,
    rooms::{Room, Rooms},
    sync::{SyncEnvironment, timeline_slice::TimelineSlice},
};

/// Reads the new state of rooms. Cheap to clone.
#[derive(Clone)]
pub(super) struct ChangedStateReader {
    rooms: Rooms,
}

/// The new part of a room's timeline, and the state after it.
pub(super) struct RoomChanges<'a> {
    pub(super) room: &'a Room,
    pub(super) slice: &'a TimelineSlice,
    /// Whether the client receives the room for the first time.
    pub(super) is_initial: bool,
    /// Whether the client asked for more events than before.
    pub(super) is_expanded: bool,
    /// The state at the end.
    pub(super) state: &'a StateMap,
    /// The position up to which the timeline and the state extend.
    pub(super) end: Position,
}

impl ChangedStateReader {
    pub(super) fn new(environment: &SyncEnvironment) -> Self {
        Self {
            rooms: environment.rooms.clone(),
        }
    }

    /// Returns the new state of the kinds that the client wants, and records which members the client then has.
    pub(super) async fn changed_state(
        &self,
        context: &SlidingContext<'_>,
        planned: &PlannedRoom,
        changes: &RoomChanges<'_>,
        sent: &mut SentRoom,
    ) -> Result<Vec<Arc<Pdu>>> {
        let user_id = &context.session.user_id;
        let required = &planned.parameters.required_state;
        let is_lazy = required.is_lazy_loading();
        let since = planned.since.filter(|_| !changes.is_initial);
        let mut state = match since {
            None => required.select(changes.state, user_id),
            Some(since) => {
                let events = self.rooms.state.state_changes(
                    changes.room,
                    changes.state,
                    since.position,
                    changes.end,
                );
                let mut events = events.await?;
                // A client that missed events gets the members it needs from the state instead.
                let with_members = is_lazy && !changes.slice.is_limited;
                events.retain(|pdu| {
                    required.wants(pdu, user_id) || (with_members && pdu.member().is_some())
                });
                events
            }
        };
        let before = planned.sent.as_ref().map(|sent| &sent.required_state);
        if let Some(before) = before.filter(|before| since.is_some() && *before != required) {
            let added = required.select(changes.state, user_id).into_iter();
            let known: HashSet<_> = state.iter().map(|pdu| pdu.event_id.clone()).collect();
            let is_new =
                |pdu: &Arc<Pdu>| !before.wants(pdu, user_id) && !known.contains(&pdu.event_id);
            state.extend(added.filter(is_new));
        }
        if is_lazy {
            if changes.is_initial || changes.slice.is_limited {
                sent.members = Arc::default();
            }
            add_members(changes, sent, &mut state);
        }
        Ok(state)
    }
}

/// Adds the members that the timeline mentions and the client does not have.
fn add_members(changes: &RoomChanges<'_>, sent: &mut SentRoom, state: &mut Vec<Arc<Pdu>>) {
    let mut needed: HashSet<OwnedUserId> = HashSet::new();
    for event in &changes.slice.events {
        needed.insert(event.pdu.sender.clone());
        needed.extend(event.pdu.member().map(ToOwned::to_owned));
    }
    let sent_members: HashSet<OwnedUserId> = state
        .iter()
        .filter_map(|pdu| pdu.member().map(ToOwned::to_owned))
        .collect();
    let lacking = needed
        .into_iter()
        .filter(|member| !sent_members.contains(member) && !sent.has_member(member));
    let lacking: Vec<Arc<Pdu>> = lacking
        .filter_map(|member| changes.state.member(&member).cloned())
        .collect();
    state.extend(lacking);
    let members = state
        .iter()
        .filter_map(|pdu| pdu.member().map(ToOwned::to_owned));
    let members: Vec<OwnedUserId> = members.collect();
    sent.add_members(members.into_iter());
}
