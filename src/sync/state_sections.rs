//! The state of a room that a client needs besides the timeline.

use std::{collections::HashSet, sync::Arc};

use ruma::{
    OwnedUserId,
    api::client::sync::sync_events::v3::{State, StateEvents},
    events::StateEventType,
    serde::Raw,
};

use super::{
    SyncEnvironment, lazy_members::LazyMembers, sync_viewer::SyncViewer,
    timeline_reader::TimelineReader, timeline_slice::TimelineSlice,
};
use crate::{
    error::Result,
    matrix::{Pdu, StateMap, wants_event},
    numbers::Position,
    rooms::{Room, Rooms},
};

/// Selects the state that clients receive. Cheap to clone.
#[derive(Clone)]
pub(super) struct StateSections {
    rooms: Rooms,
    timelines: TimelineReader,
    lazy_members: Arc<LazyMembers>,
}

/// A timeline, and the state at its end.
#[derive(Clone, Copy)]
pub(super) struct TimelineState<'a> {
    pub(super) room: &'a Room,
    pub(super) slice: &'a TimelineSlice,
    /// The position from which the client knows the room.
    pub(super) since: Option<Position>,
    /// The position up to which the timeline extends.
    pub(super) end: Position,
    /// The state there.
    pub(super) end_state: &'a StateMap,
}

impl StateSections {
    pub(super) fn new(
        environment: &SyncEnvironment,
        timelines: &TimelineReader,
        lazy_members: &Arc<LazyMembers>,
    ) -> Self {
        Self {
            rooms: environment.rooms.clone(),
            timelines: timelines.clone(),
            lazy_members: lazy_members.clone(),
        }
    }

    /// Returns the state that the client needs besides the timeline.
    pub(super) async fn state_besides_timeline(
        &self,
        viewer: &SyncViewer<'_>,
        timeline: TimelineState<'_>,
    ) -> Result<State> {
        let TimelineState { room, slice, .. } = timeline;
        let start = self.start_state(viewer, timeline).await?;
        let timeline = TimelineState {
            since: timeline.since.filter(|_| !viewer.request.full_state),
            ..timeline
        };
        let mut events = self.state_before_timeline(viewer, timeline, &start).await?;
        if viewer.includes_redundant_members().is_some() {
            let mut senders: HashSet<OwnedUserId> = HashSet::new();
            senders.extend(slice.events.iter().map(|event| event.pdu.sender.clone()));
            if timeline.since.is_none() {
                keep_members(viewer, &mut events, &senders);
            }
            self.add_lazy_members(viewer, &mut events, senders, &start);
        }
        let filter = &viewer.request.filter.room.state;
        events.retain(|pdu| wants_event(filter, pdu));
        let ids = events.iter().map(|pdu| &*pdu.event_id);
        let sources = self.timelines.event_sources(viewer, ids).await?;
        let written = events
            .iter()
            .map(|pdu| Raw::from_json(viewer.format_state_event_from(pdu, room, &sources)))
            .collect::<Vec<_>>();
        let written = StateEvents::with_events(written);
        Ok(if viewer.request.use_state_after {
            State::After(written)
        } else {
            State::Before(written)
        })
    }

    /// Returns the state at the start of the timeline, or at its end for a client that wants the state after it.
    async fn start_state(
        &self,
        viewer: &SyncViewer<'_>,
        timeline: TimelineState<'_>,
    ) -> Result<StateMap> {
        let slice = timeline.slice;
        match slice.events.first() {
            Some(first) if !viewer.request.use_state_after => match &first.state_before {
                Some(state) if state.get(&StateEventType::RoomCreate, "").is_some() => {
                    Ok(state.clone())
                }
                _ => self.rooms.state.state_at(timeline.room, slice.start).await,
            },
            _ => Ok(timeline.end_state.clone()),
        }
    }

    /// Returns the state events from which those that the client receives are selected.
    async fn state_before_timeline(
        &self,
        viewer: &SyncViewer<'_>,
        timeline: TimelineState<'_>,
        start: &StateMap,
    ) -> Result<Vec<Arc<Pdu>>> {
        let TimelineState { room, slice, .. } = timeline;
        let is_after = viewer.request.use_state_after;
        let mut events: Vec<Arc<Pdu>> = match timeline.since {
            None => start.iter().cloned().collect(),
            Some(since) => {
                let up_to = if is_after || slice.events.is_empty() {
                    timeline.end
                } else {
                    slice.start
                };
                let state = &self.rooms.state;
                state.state_changes(room, start, since, up_to).await?
            }
        };
        if !is_after {
            for pdu in self.changes_missing_from_timeline(timeline).await? {
                events.retain(|older| !has_same_state_key(older, &pdu));
                events.push(pdu);
            }
        }
        Ok(events)
    }

    /// Returns the state that changed during the timeline by an event that the timeline does not contain. Such an event
    /// is excluded by the filter, may not be seen by the user, was sent in a gap, or came from a fork.
    async fn changes_missing_from_timeline(
        &self,
        timeline: TimelineState<'_>,
    ) -> Result<Vec<Arc<Pdu>>> {
        let TimelineState {
            room,
            slice,
            end,
            end_state,
            ..
        } = timeline;
        let mut changed = self
            .rooms
            .state
            .state_changes(room, end_state, slice.start, end)
            .await?;
        changed.retain(|pdu| {
            !slice
                .events
                .iter()
                .any(|event| event.pdu.event_id == pdu.event_id)
        });
        Ok(changed)
    }

    /// Adds the needed members whose events the client does not have, and records which members it receives.
    fn add_lazy_members(
        &self,
        viewer: &SyncViewer<'_>,
        events: &mut Vec<Arc<Pdu>>,
        mut needed: HashSet<OwnedUserId>,
        state: &StateMap,
    ) {
        let device = viewer.session.device;
        let known_at = viewer.since().unwrap_or(Position::ZERO);
        let record_sent = |pdu: &Pdu| {
            self.lazy_members
                .record_sent(device, &pdu.event_id, known_at, viewer.now)
        };
        for pdu in events.iter() {
            if let Some(member) = pdu.member() {
                needed.remove(member);
                record_sent(pdu);
            }
        }
        let with_redundant = viewer.includes_redundant_members() == Some(true);
        for member in needed {
            if let Some(pdu) = state.member(&member)
                && (record_sent(pdu) || with_redundant)
            {
                events.push(pdu.clone());
            }
        }
    }
}

/// Removes all members except those who are needed, and the user themselves.
fn keep_members(
    viewer: &SyncViewer<'_>,
    events: &mut Vec<Arc<Pdu>>,
    needed: &HashSet<OwnedUserId>,
) {
    events.retain(|pdu| match pdu.member() {
        Some(member) => member == viewer.session.user_id || needed.contains(member),
        None => true,
    });
}

fn has_same_state_key(one: &Pdu, other: &Pdu) -> bool {
    one.kind == other.kind && one.state_key == other.state_key
}
