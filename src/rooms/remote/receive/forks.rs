//! Places events that do not follow all forward extremities of a room, and updates the room's
//! state.

use std::collections::{HashMap, HashSet, VecDeque};

use ruma::OwnedEventId;

use super::verdict::{CheckedEvent, PrevEventStates};
use crate::{
    error::Result,
    matrix::{Pdu, StateMap},
    numbers::SnapshotId,
    rooms::{
        log::{accepted_event::EventFork, resolution::pdu_from_node, snapshots::SnapshotBase},
        memory::{
            recent_events::RecentRoomEvent,
            room::{MAX_PREV_EVENTS, Room, RoomExtremity, RoomTip},
            stored_events::state_map,
        },
        remote::EventReceiver,
    },
    storage::rooms::{
        event_graph::{self, EventNode},
        events::EventStatus,
    },
};

/// The largest number of forward extremities of a room. Extremities with the same state as another
/// are dropped first, where there are more than one event can name; an event that would exceed this
/// number is soft-failed.
const MAX_FORWARD_EXTREMITIES: usize = 50;
/// The largest number of refused events that are followed backwards to find the accepted events
/// before them.
const MAX_REFUSED_EVENTS: usize = 100;

/// A forward extremity: an event that no other event follows yet.
pub(super) struct ForwardExtremity {
    id: OwnedEventId,
    hash: Option<String>,
    after: Option<RecentRoomEvent>,
}

/// Returns whether two lists name the same events.
pub(crate) fn is_same_set(one: &[OwnedEventId], other: &[OwnedEventId]) -> bool {
    one.iter().all(|id| other.contains(id)) && other.iter().all(|id| one.contains(id))
}

impl EventReceiver {
    /// Returns the state before an event, and the form in which to store it.
    pub(crate) async fn state_before(
        &self,
        room: &Room,
        tip: &RoomTip,
        pdu: &Pdu,
        followed: &PrevEventStates,
    ) -> Result<(SnapshotBase, StateMap)> {
        if is_same_set(&pdu.prev_events, &tip.forward_extremities) {
            return Ok((SnapshotBase::Stored(tip.snapshot), tip.state.clone()));
        }
        let afters = with_distinct_states(followed.known.clone());
        let Some(first) = afters.first().cloned() else {
            return Ok((SnapshotBase::Stored(SnapshotId::EMPTY), StateMap::default()));
        };
        if afters.len() == 1 {
            return Ok((SnapshotBase::Stored(first.snapshot), first.state));
        }
        let sets = afters.into_iter().map(|after| after.state).collect();
        let state = self.log.resolve_states(&room.rules, sets).await?;
        Ok((
            SnapshotBase::from_change(first.snapshot, &first.state, &state),
            state,
        ))
    }

    /// Returns the changes to a room when an event is accepted into it; `None` if the room has too
    /// many other forward extremities.
    pub(super) async fn plan_fork(
        &self,
        room: &Room,
        pdu: &Pdu,
        checked: &CheckedEvent,
        mut others: Vec<ForwardExtremity>,
    ) -> Result<Option<EventFork>> {
        drop_redundant_extremities(&mut others);
        if others.len() >= MAX_FORWARD_EXTREMITIES {
            return Ok(None);
        }
        let current = self
            .resolve_current_state(room, pdu, checked, &others)
            .await?;
        let others = others.into_iter().map(|other| (other.id, other.hash));
        let own = (pdu.event_id.clone(), pdu.reference_hash.clone());
        Ok(Some(EventFork {
            base: checked.base.clone(),
            before: checked.state_before.clone(),
            current,
            extremities: others.chain([own]).collect(),
            missing: checked.missing_prev.clone(),
            gap_at: None,
        }))
    }

    /// Returns the events that an event follows: by name, or through refused events, which are no
    /// extremities themselves.
    async fn find_covered_events(
        &self,
        tip: &RoomTip,
        pdu: &Pdu,
        followed: &PrevEventStates,
    ) -> Result<HashSet<OwnedEventId>> {
        let mut covered: HashSet<OwnedEventId> = pdu.prev_events.iter().cloned().collect();
        let refused = |after: &RecentRoomEvent| after.status != EventStatus::Accepted;
        let mut next: VecDeque<OwnedEventId> = followed
            .known
            .iter()
            .filter(|after| refused(after))
            .flat_map(|after| after.prev_events.iter().cloned())
            .collect();
        for _ in 0..MAX_REFUSED_EVENTS {
            let Some(id) = next.pop_front() else { break };
            if !covered.insert(id.clone()) || tip.forward_extremities.contains(&id) {
                continue;
            }
            match tip.recent_events.get(&id) {
                Some(after) if refused(after) => next.extend(after.prev_events.iter().cloned()),
                Some(_) => {}
                None => next.extend(self.prev_events_if_refused(&id).await?),
            }
        }
        Ok(covered)
    }

    /// Returns the events before a stored event, if it is a refused one.
    async fn prev_events_if_refused(&self, id: &OwnedEventId) -> Result<Vec<OwnedEventId>> {
        let node = {
            let mut conn = self.db.read().await?;
            event_graph::find_nodes(&mut conn, [id.as_str()])
                .await?
                .pop()
        };
        match node.filter(|node| node.status() != EventStatus::Accepted) {
            Some(node) => Ok(pdu_from_node(&node)?.prev_events.clone()),
            None => Ok(Vec::new()),
        }
    }

    /// Returns the forward extremities that an event does not follow.
    pub(super) async fn find_other_extremities(
        &self,
        tip: &RoomTip,
        pdu: &Pdu,
        followed: &PrevEventStates,
    ) -> Result<Vec<ForwardExtremity>> {
        let covered = self.find_covered_events(tip, pdu, followed).await?;
        let mut others = Vec::new();
        for RoomExtremity { event_id: id, hash } in tip.extremities() {
            if covered.contains(id) {
                continue;
            }
            let after = match tip.recent_events.get(id) {
                Some(after) => Some(after.clone()),
                None => self.find_state_after(tip, id).await?,
            };
            let (id, hash) = (id.clone(), hash.cloned());
            others.push(ForwardExtremity { id, hash, after });
        }
        Ok(others)
    }

    /// Returns the state after a stored event.
    pub(crate) async fn state_after_node(
        &self,
        tip: &RoomTip,
        snapshot: SnapshotId,
        node: &EventNode,
    ) -> Result<RecentRoomEvent> {
        let state = if snapshot == tip.snapshot {
            tip.state.clone()
        } else {
            let mut conn = self.db.read().await?;
            state_map(&mut conn, snapshot).await?
        };
        Ok(RecentRoomEvent {
            status: node.status(),
            snapshot,
            state,
            prev_events: pdu_from_node(node)?.prev_events.clone(),
        })
    }

    async fn find_state_after(
        &self,
        tip: &RoomTip,
        id: &OwnedEventId,
    ) -> Result<Option<RecentRoomEvent>> {
        let node = {
            let mut conn = self.db.read().await?;
            event_graph::find_nodes(&mut conn, [id.as_str()])
                .await?
                .pop()
        };
        match node.and_then(|node| Some((node.state_after?, node))) {
            Some((snapshot, node)) => self.state_after_node(tip, snapshot, &node).await.map(Some),
            None => Ok(None),
        }
    }

    /// Returns the state of the room after an event: resolved from the state after it and the
    /// states after the other forward extremities.
    async fn resolve_current_state(
        &self,
        room: &Room,
        pdu: &Pdu,
        checked: &CheckedEvent,
        others: &[ForwardExtremity],
    ) -> Result<StateMap> {
        let mut after = checked.state_before.clone();
        if pdu.state_key.is_some() {
            after.insert(pdu.clone().into());
        }
        if others.is_empty() {
            return Ok(after);
        }
        let afters = others.iter().filter_map(|other| other.after.clone());
        let mut sets: Vec<StateMap> = with_distinct_states(afters.collect())
            .into_iter()
            .map(|after| after.state)
            .collect();
        sets.push(after);
        self.log.resolve_states(&room.rules, sets).await
    }
}

/// Drops forward extremities that share their state with another one, the oldest first, until one
/// event can name all that remain.
fn drop_redundant_extremities(others: &mut Vec<ForwardExtremity>) {
    let mut surplus = (others.len() + 1).saturating_sub(MAX_PREV_EVENTS);
    let mut with_state: HashMap<SnapshotId, usize> = HashMap::new();
    for after in others.iter().filter_map(|other| other.after.as_ref()) {
        *with_state.entry(after.snapshot).or_default() += 1;
    }
    others.retain(|other| {
        let snapshot = other.after.as_ref().map(|after| after.snapshot);
        let left = snapshot.and_then(|snapshot| with_state.get_mut(&snapshot));
        let Some(left) = left.filter(|left| **left > 1 && surplus > 0) else {
            return true;
        };
        *left -= 1;
        surplus -= 1;
        false
    });
}

/// Keeps one of the events that have the same state after them.
fn with_distinct_states(afters: Vec<RecentRoomEvent>) -> Vec<RecentRoomEvent> {
    let mut seen = HashSet::new();
    let is_new = |after: &RecentRoomEvent| seen.insert(after.snapshot);
    afters.into_iter().filter(is_new).collect()
}
