//! State resolution. `ruma` has the algorithm; this module passes it the state sets, reduced to the parts that it
//! needs. The algorithm of room version 1 is in `version_1`.
//!
//! The part that a state of a hundred thousand members shares with another is neither copied nor read. The algorithm
//! reads only the keys in conflict, the keys by which the events in conflict are authorized, and the part of the auth
//! chains that differs.
//!
//! See the [specification](https://spec.matrix.org/v1.19/rooms/v12/#state-resolution).

mod version_1;

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::{RoomVersionRules, StateResolutionV2Rules, StateResolutionVersion},
    state_res::{StateMap as IdMap, utils::event_id_set::EventIdSet},
};

use super::{Pdu, StateMap, state_map::StateMapKey, verified_event::auth_types};
use crate::error::{Error, Result};

/// The events that are available to a resolution in addition to those in the states themselves.
pub type KnownEvents = HashMap<OwnedEventId, Arc<Pdu>>;

/// The result of a resolution.
#[derive(Debug)]
pub enum ResolutionResult {
    /// The resolved state.
    Resolved(StateMap),
    /// The resolution needs these events first. Those that cannot be found are passed as absent in the next attempt.
    NeedsEvents(BTreeSet<OwnedEventId>),
}

/// The most states that are resolved together: more than a room has branches.
const MAX_STATE_SETS: usize = u64::BITS as usize;

/// The states whose auth chains contain an event: one bit for each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ChainBits(u64);

impl ChainBits {
    /// Returns the bits of the first `count` states, of which there is at least one.
    fn of_first(count: usize) -> Self {
        Self(u64::MAX >> (MAX_STATE_SETS - count))
    }

    /// Returns the bit of the state with an index.
    fn of_state(index: usize) -> Self {
        Self(1 << index)
    }

    fn add_all(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// The extent to which the auth chains of the events in conflict are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChainReach {
    /// Up to the events that are in all states.
    Conflict,
    /// To the end: a path between events in conflict may lead through events that are not.
    Whole,
}

/// Resolves states that differ. `absent` are the events that were asked for and that this server does not have.
///
/// # Errors
///
/// [`Error::Unavailable`] when there are more than 64 states. Others when an event breaks the rules.
pub fn resolve_state(
    rules: &RoomVersionRules,
    sets: &[StateMap],
    known: &KnownEvents,
    absent: &BTreeSet<OwnedEventId>,
) -> Result<ResolutionResult> {
    let Some((first, others)) = sets.split_first() else {
        return Ok(ResolutionResult::Resolved(StateMap::default()));
    };
    let mut keys: HashSet<StateMapKey> = HashSet::new();
    for other in others {
        keys.extend(first.differing_keys(other));
    }
    if keys.is_empty() {
        return Ok(ResolutionResult::Resolved(first.clone()));
    }
    if sets.len() > MAX_STATE_SETS {
        let text = "the room has too many conflicting states";
        return Err(Error::Unavailable(text.to_owned()));
    }
    if rules.state_res == StateResolutionVersion::V1 {
        return Ok(ResolutionResult::Resolved(version_1::resolve(
            rules, sets, &keys,
        )));
    }
    let held = sets.iter().flat_map(|set| {
        let held = keys.iter().filter_map(|(kind, key)| set.get(kind, key));
        held.map(|pdu| (pdu.event_id.clone(), pdu.clone()))
    });
    let conflict = StateConflict {
        sets,
        conflicted_events: held.collect(),
        conflicted_keys: keys,
        known,
        absent,
        needs: RefCell::default(),
    };
    conflict.resolve(rules)
}

/// States in conflict.
struct StateConflict<'a> {
    sets: &'a [StateMap],
    conflicted_keys: HashSet<StateMapKey>,
    /// The events under the keys in conflict.
    conflicted_events: KnownEvents,
    known: &'a KnownEvents,
    absent: &'a BTreeSet<OwnedEventId>,
    needs: RefCell<BTreeSet<OwnedEventId>>,
}

/// The events of auth chains that are in the full conflicted set besides the events in conflict.
struct ChainConflicts {
    /// The auth difference.
    difference: HashSet<OwnedEventId>,
    /// The conflicted state subgraph.
    subgraph: HashSet<OwnedEventId>,
}

impl StateConflict<'_> {
    fn resolve(&self, rules: &RoomVersionRules) -> Result<ResolutionResult> {
        let resolution = *rules.state_res.v2_rules().ok_or_else(|| {
            Error::UnsupportedRoomVersion(
                "this server does not support the state resolution of this room version".to_owned(),
            )
        })?;
        let reach = if resolution.consider_conflicted_state_subgraph {
            ChainReach::Whole
        } else {
            ChainReach::Conflict
        };
        let chains = self.auth_chains(reach);
        if let Some(needs) = self.take_needs() {
            return Ok(ResolutionResult::NeedsEvents(needs));
        }
        let difference = self.auth_difference(&chains);
        if let Some(needs) = self.take_needs() {
            return Ok(ResolutionResult::NeedsEvents(needs));
        }
        let subgraph = match reach {
            ChainReach::Whole => self.conflicted_subgraph(&chains),
            ChainReach::Conflict => HashSet::new(),
        };
        let chain_conflicts = ChainConflicts {
            difference,
            subgraph,
        };
        let sets = self.reduced_state_sets(rules, &chain_conflicts);
        if let Some(needs) = self.take_needs() {
            return Ok(ResolutionResult::NeedsEvents(needs));
        }
        let resolved = self.run_resolution(rules, resolution, &sets, chain_conflicts)?;
        if let Some(needs) = self.take_needs() {
            return Ok(ResolutionResult::NeedsEvents(needs));
        }
        Ok(ResolutionResult::Resolved(self.merge_resolved(&resolved)))
    }

    fn take_needs(&self) -> Option<BTreeSet<OwnedEventId>> {
        let needs = self.needs.take();
        (!needs.is_empty()).then_some(needs)
    }

    /// Returns an event, and records that it is needed if it is not available.
    fn request_event(&self, event_id: &EventId) -> Option<Arc<Pdu>> {
        if let Some(pdu) = self.available_event(event_id) {
            return Some(pdu.clone());
        }
        if !self.absent.contains(event_id) {
            self.needs.borrow_mut().insert(event_id.to_owned());
        }
        None
    }

    fn available_event(&self, event_id: &EventId) -> Option<&Arc<Pdu>> {
        self.conflicted_events
            .get(event_id)
            .or_else(|| self.known.get(event_id))
    }

    /// Returns whether all states contain an event.
    fn is_in_all(&self, pdu: &Pdu) -> bool {
        let Some(state_key) = &pdu.state_key else {
            return false;
        };
        let kind = pdu.state_type();
        self.sets.iter().all(|set| {
            set.get(&kind, state_key)
                .is_some_and(|held| held.event_id == pdu.event_id)
        })
    }

    /// Returns the events in conflict and their auth chains, and for each event the states whose chains contain it. A
    /// chain may stop at an event that is in all states, since everything below it is then in common.
    fn auth_chains(&self, reach: ChainReach) -> HashMap<OwnedEventId, ChainBits> {
        let order = self.events_in_order(reach);
        let no_state = |pdu: &Arc<Pdu>| (pdu.event_id.clone(), ChainBits::default());
        let mut chains: HashMap<OwnedEventId, ChainBits> = order.iter().map(no_state).collect();
        for (n, set) in self.sets.iter().enumerate() {
            let keys = self.conflicted_keys.iter();
            for pdu in keys.filter_map(|(kind, key)| set.get(kind, key)) {
                add_states(&mut chains, &pdu.event_id, ChainBits::of_state(n));
            }
        }
        for pdu in order {
            let of_event = chains.get(&pdu.event_id).copied().unwrap_or_default();
            for auth_event in &pdu.auth_events {
                add_states(&mut chains, auth_event, of_event);
            }
        }
        chains
    }

    /// Returns the events of all chains, each before its auth events.
    fn events_in_order(&self, reach: ChainReach) -> Vec<Arc<Pdu>> {
        let mut order = Vec::new();
        let mut seen: HashSet<OwnedEventId> = HashSet::new();
        let roots = self.conflicted_events.values().cloned();
        let mut stack: Vec<(Arc<Pdu>, bool)> = roots.map(|pdu| (pdu, false)).collect();
        while let Some((pdu, is_back)) = stack.pop() {
            if is_back {
                order.push(pdu);
                continue;
            }
            if !seen.insert(pdu.event_id.clone())
                || (reach == ChainReach::Conflict && self.is_in_all(&pdu))
            {
                continue;
            }
            stack.push((pdu.clone(), true));
            for auth_event in pdu.auth_events.iter().filter(|id| !seen.contains(*id)) {
                let event = self.request_event(auth_event);
                stack.extend(event.map(|event| (event, false)));
            }
        }
        order.reverse();
        order
    }

    /// Returns the auth difference: the events that are not in the auth chains of all states.
    ///
    /// The full chain of a state consists of the chains of its events in conflict and those of all its other events,
    /// which are the same for all states. So an event that is in one chain only may still be in the common part; an
    /// event outside it is part of the difference.
    fn auth_difference(&self, chains: &HashMap<OwnedEventId, ChainBits>) -> HashSet<OwnedEventId> {
        let of_all = ChainBits::of_first(self.sets.len());
        let apart = chains.iter().filter(|(_, chains)| **chains != of_all);
        let mut apart: HashSet<OwnedEventId> = apart.map(|(id, _)| id.clone()).collect();
        // The events in conflict are in the full conflicted set anyway.
        let is_other = |id: &&OwnedEventId| !self.conflicted_events.contains_key(*id);
        let mut unknown: HashSet<OwnedEventId> = apart.iter().filter(is_other).cloned().collect();
        if !unknown.is_empty() {
            self.remove_common_events(&mut unknown);
            apart.retain(|id| self.conflicted_events.contains_key(id) || unknown.contains(id));
        }
        apart
    }

    /// Removes the events that are in the auth chains of the events in all states.
    ///
    /// The events that most probably lead to them are followed first: those other than member events, then the latest
    /// member events.
    fn remove_common_events(&self, unknown: &mut HashSet<OwnedEventId>) {
        let Some(first) = self.sets.first() else {
            return;
        };
        let mut next: Vec<Arc<Pdu>> = first
            .iter()
            .filter(|pdu| self.is_in_all(pdu))
            .cloned()
            .collect();
        next.sort_by_key(|pdu| (pdu.kind != TimelineEventType::RoomMember, pdu.depth));
        let mut seen: HashSet<OwnedEventId> = next.iter().map(|pdu| pdu.event_id.clone()).collect();
        let mut waiting: Vec<OwnedEventId> = Vec::new();
        while let Some(pdu) = next.pop() {
            unknown.remove(&pdu.event_id);
            if unknown.is_empty() {
                self.needs.borrow_mut().clear();
                return;
            }
            let auth_events = pdu.auth_events.iter();
            for auth_event in auth_events.filter(|id| seen.insert((*id).clone())) {
                match self.available_event(auth_event) {
                    Some(pdu) => next.push(pdu.clone()),
                    None => waiting.push(auth_event.clone()),
                }
            }
        }
        // Events are read only if the available ones did not settle the question.
        let waiting = waiting.into_iter().filter(|id| !self.absent.contains(id));
        self.needs.borrow_mut().extend(waiting);
    }

    /// Returns the events on paths between events in conflict: those in the auth chain of one, with another in their
    /// own auth chain.
    fn conflicted_subgraph(
        &self,
        chains: &HashMap<OwnedEventId, ChainBits>,
    ) -> HashSet<OwnedEventId> {
        let mut reaches_conflict: HashMap<OwnedEventId, bool> = HashMap::new();
        for id in self.conflicted_events.keys() {
            self.mark_conflicted(id, &mut reaches_conflict);
        }
        let between = reaches_conflict
            .into_iter()
            .filter(|(id, reaches_conflict)| *reaches_conflict && chains.contains_key(id));
        between.map(|(id, _)| id).collect()
    }

    /// Records, for an event and everything in its auth chain, whether the event is in conflict or has an event in
    /// conflict in its own auth chain.
    fn mark_conflicted(
        &self,
        id: &OwnedEventId,
        reaches_conflict: &mut HashMap<OwnedEventId, bool>,
    ) {
        let mut stack = vec![(id.clone(), false)];
        while let Some((id, is_back)) = stack.pop() {
            if reaches_conflict.contains_key(&id) && !is_back {
                continue;
            }
            let Some(pdu) = self.available_event(&id) else {
                reaches_conflict.insert(id, false);
                continue;
            };
            let reaches = self.conflicted_events.contains_key(&id)
                || (is_back
                    && pdu
                        .auth_events
                        .iter()
                        .any(|id| reaches_conflict.get(id) == Some(&true)));
            reaches_conflict.insert(id.clone(), reaches);
            if !is_back {
                stack.push((id, true));
                stack.extend(pdu.auth_events.iter().map(|id| (id.clone(), false)));
            }
        }
    }

    /// Returns, for each state, its events under the keys in conflict and under the keys by which the events of the
    /// full conflicted set are authorized.
    fn reduced_state_sets(
        &self,
        rules: &RoomVersionRules,
        chain_conflicts: &ChainConflicts,
    ) -> Vec<IdMap<OwnedEventId>> {
        let mut keys: HashSet<StateMapKey> = self.conflicted_keys.clone();
        for kind in [
            StateEventType::RoomCreate,
            StateEventType::RoomPowerLevels,
            StateEventType::RoomJoinRules,
        ] {
            keys.insert((kind, String::new()));
        }
        let others = chain_conflicts.difference.iter();
        let others = others.chain(&chain_conflicts.subgraph);
        let others: Vec<Arc<Pdu>> = others.filter_map(|id| self.request_event(id)).collect();
        for pdu in self.conflicted_events.values().chain(&others) {
            keys.extend(auth_types(pdu, rules).unwrap_or_default());
            keys.extend(pdu.state_key.clone().map(|key| (pdu.state_type(), key)));
        }
        let of_set = |set: &StateMap| -> IdMap<OwnedEventId> {
            let held = keys.iter().filter_map(|(kind, key)| {
                let pdu = set.get(kind, key)?;
                Some(((kind.clone(), key.clone()), pdu.event_id.clone()))
            });
            held.collect()
        };
        self.sets.iter().map(of_set).collect()
    }

    fn run_resolution(
        &self,
        rules: &RoomVersionRules,
        resolution: StateResolutionV2Rules,
        sets: &[IdMap<OwnedEventId>],
        chain_conflicts: ChainConflicts,
    ) -> Result<IdMap<OwnedEventId>> {
        let in_states: KnownEvents = self
            .sets
            .iter()
            .zip(sets)
            .flat_map(|(set, ids)| {
                let keys = ids.keys();
                keys.filter_map(|(kind, key)| set.get(kind, key))
            })
            .map(|pdu| (pdu.event_id.clone(), pdu.clone()))
            .collect();
        // Ruma's own computation of the difference must give the result that is already known.
        let difference: EventIdSet<OwnedEventId> = chain_conflicts.difference.into_iter().collect();
        let subgraph: EventIdSet<OwnedEventId> = chain_conflicts.subgraph.into_iter().collect();
        ruma::state_res::resolve(
            &rules.authorization,
            &resolution,
            sets,
            vec![difference, EventIdSet::new()],
            |event_id| {
                let held = in_states.get(event_id).cloned();
                held.or_else(|| self.request_event(event_id))
            },
            |_| Some(subgraph.clone()),
        )
        .or_else(|error| {
            if self.needs.borrow().is_empty() {
                return Err(Error::internal("resolve the state of a room", error));
            }
            Ok(IdMap::new())
        })
    }

    /// Applies the resolved events to the state that all sets have in common.
    fn merge_resolved(&self, resolved: &IdMap<OwnedEventId>) -> StateMap {
        let mut state = self.sets.first().cloned().unwrap_or_default();
        let mut keys: Vec<StateMapKey> = self.conflicted_keys.iter().cloned().collect();
        // A key that was in no state may have been restored from the auth chains.
        keys.extend(resolved.keys().cloned());
        for key in keys {
            let (kind, state_key) = &key;
            let held = resolved.get(&key).and_then(|id| {
                let mut in_states = self.sets.iter().filter_map(|set| set.get(kind, state_key));
                let of_id = in_states.find(|pdu| pdu.event_id == *id);
                of_id.or_else(|| self.available_event(id)).cloned()
            });
            let is_common =
                !self.conflicted_keys.contains(&key) && state.get(kind, state_key).is_some();
            if !is_common {
                state.set_or_remove(kind, state_key, held.as_ref());
            }
        }
        state
    }
}

/// Adds states to those whose auth chains contain an event, if it is one of the events of `chains`.
fn add_states(
    chains: &mut HashMap<OwnedEventId, ChainBits>,
    event_id: &OwnedEventId,
    states: ChainBits,
) {
    if let Some(of_event) = chains.get_mut(event_id) {
        of_event.add_all(states);
    }
}

#[cfg(test)]
mod tests;
