//! Where an event stands that does not follow all that the room knows, and what becomes of the room's state.

use std::collections::{HashSet, VecDeque};

use ruma::OwnedEventId;

use super::judge::{After, Judged};
use crate::{
    error::Result,
    matrix::{Pdu, StateMap},
    rooms::{
        Rooms,
        append::Fork,
        resolution::pdu_of,
        snapshots::Base,
        warm::{Room, Tip},
    },
    storage::{events::Status, graph},
};

/// Lines of events that a room follows side by side: an event can name no more as those that it follows.
const MAX_EXTREMITIES: usize = 20;
/// Events that were not accepted, looked through for what an event follows by way of them.
const MAX_REFUSED: usize = 100;

/// What is known of the events that an event follows.
#[derive(Clone, Debug, Default)]
pub(super) struct Followed {
    pub(super) afters: Vec<After>,
    /// Those of which the state after them is not known.
    pub(super) missing: Vec<OwnedEventId>,
}

/// Returns whether two lists name the same events.
pub(super) fn is_same_set(one: &[OwnedEventId], other: &[OwnedEventId]) -> bool {
    one.iter().all(|id| other.contains(id)) && other.iter().all(|id| one.contains(id))
}

impl Rooms {
    /// Returns the state before an event, and how that is to be stored.
    pub(super) async fn state_before(
        &self,
        room: &Room,
        tip: &Tip,
        pdu: &Pdu,
        followed: &Followed,
    ) -> Result<(Base, StateMap)> {
        if is_same_set(&pdu.prev_events, &tip.forward_extremities) {
            return Ok((Base::Stored(tip.snapshot), tip.state.clone()));
        }
        let afters = distinct(followed.afters.clone());
        let Some(first) = afters.first().cloned() else {
            return Ok((Base::Stored(0), StateMap::default()));
        };
        if afters.len() == 1 {
            return Ok((Base::Stored(first.snapshot), first.state));
        }
        let sets = afters.into_iter().map(|after| after.state).collect();
        let state = self.resolve_states(&room.rules, sets).await?;
        Ok((
            Base::of_change((first.snapshot, &first.state), &state),
            state,
        ))
    }

    /// Returns what becomes of a room when an event is accepted into it.
    pub(super) async fn fork(
        &self,
        room: &Room,
        tip: &Tip,
        pdu: &Pdu,
        (judged, followed): (&Judged, &Followed),
    ) -> Result<Fork> {
        let covered = self.covered(tip, pdu, followed).await?;
        let mut extremities: Vec<(OwnedEventId, Option<String>)> = Vec::new();
        let mut hashes = tip.hashes.iter();
        for id in &tip.forward_extremities {
            let hash = hashes.next().cloned();
            if !covered.contains(id) {
                extremities.push((id.clone(), hash));
            }
        }
        let surplus = (extremities.len() + 1).saturating_sub(MAX_EXTREMITIES);
        extremities.drain(..surplus);
        let others: Vec<&OwnedEventId> = extremities.iter().map(|(id, _)| id).collect();
        let current = self
            .current_state(room, tip, (pdu, judged), &others)
            .await?;
        extremities.push((pdu.event_id.clone(), pdu.reference_hash.clone()));
        Ok(Fork {
            base: judged.base.clone(),
            before: judged.before.clone(),
            current,
            extremities,
            missing: judged.missing.clone(),
            gap_at: None,
        })
    }

    /// Returns the events that an event follows: by name, or by way of some that were not accepted and so are no
    /// extremities themselves.
    async fn covered(
        &self,
        tip: &Tip,
        pdu: &Pdu,
        followed: &Followed,
    ) -> Result<HashSet<OwnedEventId>> {
        let mut covered: HashSet<OwnedEventId> = pdu.prev_events.iter().cloned().collect();
        let refused = |after: &After| after.status != Status::Accepted;
        let mut next: VecDeque<OwnedEventId> = followed
            .afters
            .iter()
            .filter(|after| refused(after))
            .flat_map(|after| after.prev_events.iter().cloned())
            .collect();
        for _ in 0..MAX_REFUSED {
            let Some(id) = next.pop_front() else { break };
            if !covered.insert(id.clone()) || tip.forward_extremities.contains(&id) {
                continue;
            }
            if let Some(after) = tip.lately.get(&id) {
                if refused(after) {
                    next.extend(after.prev_events.iter().cloned());
                }
                continue;
            }
            let node = {
                let mut conn = self.inner.db.read().await?;
                graph::nodes(&mut conn, [id.as_str()]).await?.pop()
            };
            if let Some(node) = node.filter(|node| node.status() != Status::Accepted) {
                next.extend(pdu_of(node)?.prev_events.iter().cloned());
            }
        }
        Ok(covered)
    }

    /// Returns the state of the room after an event: that after it and the other extremities, resolved.
    async fn current_state(
        &self,
        room: &Room,
        tip: &Tip,
        (pdu, judged): (&Pdu, &Judged),
        others: &[&OwnedEventId],
    ) -> Result<StateMap> {
        let mut after = judged.before.clone();
        if pdu.state_key.is_some() {
            after.insert(pdu.clone().into());
        }
        if others.is_empty() {
            return Ok(after);
        }
        let mut afters = Vec::with_capacity(others.len());
        for id in others {
            if let Some(after) = tip.lately.get(id) {
                afters.push(after.clone());
                continue;
            }
            let node = {
                let mut conn = self.inner.db.read().await?;
                graph::nodes(&mut conn, [id.as_str()]).await?.pop()
            };
            if let Some((snapshot, node)) = node.and_then(|node| Some((node.state_after?, node))) {
                afters.push(self.after(tip, snapshot, node).await?);
            }
        }
        let mut sets: Vec<StateMap> = distinct(afters)
            .into_iter()
            .map(|after| after.state)
            .collect();
        sets.push(after);
        self.resolve_states(&room.rules, sets).await
    }
}

/// Of events with the same state after them, one will do.
fn distinct(afters: Vec<After>) -> Vec<After> {
    let mut seen = HashSet::new();
    let is_new = |after: &After| seen.insert(after.snapshot);
    afters.into_iter().filter(is_new).collect()
}
