//! Storing states other than the current state of the room: before and after events in forks.
//!
//! The states of the room itself form one chain, from its creation until now, which never branches.
//! So reading a value at any place in the timeline is one look-up, and so is reading the changes
//! since a place. The states of forks branch from this chain.

use std::collections::HashMap;

use ruma::{OwnedEventId, events::StateEventType};

use crate::{
    error::{Error, Result},
    matrix::StateMap,
    numbers::{Position, SnapshotId, StateChainNum},
    storage::{
        WriteTx,
        rooms::{
            event_graph,
            state_snapshots::{self, MAX_CHAIN_DEPTH, SnapshotPlace, StateEntry},
        },
    },
};

/// The number of event ids in one query.
const IDS_PER_QUERY: usize = 1_000;

/// The snapshot of a state.
#[derive(Clone, Debug)]
pub(crate) enum SnapshotBase {
    /// It is already stored.
    Stored(SnapshotId),
    /// It must be stored, as a stored snapshot with changes.
    Changed {
        /// The stored snapshot.
        parent: SnapshotId,
        /// The changed keys, each with its new event.
        changes: Vec<ChangedStateKey>,
    },
}

/// A state key with its new event.
#[derive(Clone, Debug)]
pub(crate) struct ChangedStateKey {
    pub(crate) kind: StateEventType,
    pub(crate) state_key: String,
    /// `None` if the state no longer has an event for the key.
    pub(crate) event_id: Option<OwnedEventId>,
}

impl SnapshotBase {
    /// Returns the snapshot of a state, as the difference from the state before it, which is stored
    /// as the snapshot `parent`.
    pub(crate) fn from_change(parent: SnapshotId, before: &StateMap, state: &StateMap) -> Self {
        let keys = before.differing_keys(state);
        if keys.is_empty() {
            return Self::Stored(parent);
        }
        let changes = keys.into_iter().map(|(kind, state_key)| {
            let pdu = state.get(&kind, &state_key);
            ChangedStateKey {
                event_id: pdu.map(|pdu| pdu.event_id.clone()),
                kind,
                state_key,
            }
        });
        Self::Changed {
            parent,
            changes: changes.collect(),
        }
    }
}

/// Returns the number of a snapshot. Stores the snapshot if it is not stored yet.
pub(crate) async fn store_snapshot(
    tx: &mut WriteTx,
    base: &SnapshotBase,
    own_chain: StateChainNum,
) -> Result<SnapshotId> {
    match base {
        SnapshotBase::Stored(snapshot) => Ok(*snapshot),
        SnapshotBase::Changed { parent, changes } => {
            let entries = intern_entries(tx, changes).await?;
            store_branch(tx, *parent, &entries, own_chain).await
        }
    }
}

/// Stores a snapshot that differs from another by some entries. It is never added to the chain of
/// the room itself.
pub(crate) async fn store_branch(
    tx: &mut WriteTx,
    parent: SnapshotId,
    changed: &[StateEntry],
    own_chain: StateChainNum,
) -> Result<SnapshotId> {
    let snapshot = SnapshotId::at(tx.next_position());
    let new_chain = StateChainNum::from_first(snapshot);
    let end = state_snapshots::chain_with_newest(tx, parent).await?;
    let chain = match end {
        Some(end) if end.newest == parent && end.id != own_chain => end.id,
        Some(end) if end.depth < MAX_CHAIN_DEPTH => {
            state_snapshots::insert_chain(tx, new_chain, Some(parent), end.depth + 1).await?;
            new_chain
        }
        _ => {
            state_snapshots::insert_chain(tx, new_chain, None, 0).await?;
            let mut whole = state_snapshots::whole_state_entries(tx, parent).await?;
            let is_changed = |entry: &StateEntry| {
                let mut keys = changed.iter().map(StateEntry::key);
                keys.any(|key| key == entry.key())
            };
            whole.retain(|entry| !is_changed(entry));
            state_snapshots::insert_entries(
                tx,
                SnapshotPlace {
                    chain: new_chain,
                    snapshot,
                },
                &whole,
            )
            .await?;
            new_chain
        }
    };
    state_snapshots::insert_snapshot(tx, snapshot, chain).await?;
    state_snapshots::insert_entries(tx, SnapshotPlace { chain, snapshot }, changed).await?;
    Ok(snapshot)
}

/// Returns changes with numbers instead of strings and event ids. Their events must be stored.
pub(crate) async fn intern_entries(
    tx: &mut WriteTx,
    changes: &[ChangedStateKey],
) -> Result<Vec<StateEntry>> {
    let events: Vec<&OwnedEventId> = changes
        .iter()
        .filter_map(|change| change.event_id.as_ref())
        .collect();
    let positions = find_positions(tx, &events).await?;
    let kinds = changes.iter().map(|change| change.kind.to_string());
    let kinds: Vec<String> = kinds.collect();
    let keys = changes.iter().map(|change| change.state_key.as_str());
    let texts: Vec<&str> = kinds.iter().map(String::as_str).chain(keys).collect();
    let numbers = tx.intern_all(&texts).await?;
    let number = |text: &str| {
        let number = numbers.get(text).copied();
        number.ok_or_else(|| Error::internal("intern a text", "the text has no number"))
    };
    let mut entries = Vec::with_capacity(changes.len());
    for (change, kind) in changes.iter().zip(&kinds) {
        let event = match &change.event_id {
            Some(id) => Some(*positions.get(id.as_str()).ok_or_else(|| {
                Error::internal("store a state", format!("the event {id} is not stored"))
            })?),
            None => None,
        };
        entries.push(StateEntry {
            kind: number(kind)?,
            state_key: number(&change.state_key)?,
            event,
        });
    }
    Ok(entries)
}

/// Returns the positions of events by their ids.
pub(crate) async fn find_positions(
    tx: &mut WriteTx,
    events: &[&OwnedEventId],
) -> Result<HashMap<String, Position>> {
    let mut found = HashMap::with_capacity(events.len());
    for chunk in events.chunks(IDS_PER_QUERY) {
        let rows = event_graph::positions(tx, chunk.iter().map(|id| id.as_str())).await?;
        found.extend(rows.into_iter().map(|row| (row.event_id, row.position)));
    }
    Ok(found)
}
