//! Storing states other than the current state of the room: before and after events in forks.
//!
//! The states of the room itself form one chain, from its creation until now, which never branches.
//! So reading a value at any place in the timeline is one look-up, and so is reading the changes
//! since a place. The states of forks branch from this chain.

use std::{collections::HashMap, sync::Arc};

use ruma::{
    OwnedEventId, OwnedUserId,
    events::{StateEventType, room::member::MembershipState},
};

use super::{EventLog, append::store_membership};
use crate::{
    error::{Error, Result},
    matrix::{Pdu, ResolvedState, StateMap},
    rooms::{
        memory::room::{Room, RoomTip, count_joined_between},
        read::listing::{build_listing, is_directory_state},
    },
    storage::{
        JournalChange, UserNum, WriteTx,
        rooms::{
            event_graph,
            memberships::{self, MembershipOfMany, NewMembership},
            room_table,
            state_snapshots::{self, MAX_CHAIN_DEPTH, StateEntry},
        },
    },
};

/// Event ids in one query.
const IDS_PER_QUERY: usize = 1_000;

/// The snapshot of a state.
#[derive(Clone, Debug)]
pub(crate) enum SnapshotBase {
    /// It is already stored.
    Stored(i64),
    /// It must be stored, as a stored snapshot with changes.
    Changed {
        /// The stored snapshot.
        parent: i64,
        /// The changed keys, each with its new event.
        changes: Vec<(StateEventType, String, Option<OwnedEventId>)>,
    },
}

impl SnapshotBase {
    /// Returns the snapshot of a state, as the difference from a stored snapshot.
    pub(crate) fn from_change(parent: (i64, &StateMap), state: &StateMap) -> Self {
        let (snapshot, before) = parent;
        let keys = before.differing_keys(state);
        if keys.is_empty() {
            return Self::Stored(snapshot);
        }
        let change = |(kind, key): (StateEventType, String)| {
            let held = state.get(&kind, &key).map(|pdu| pdu.event_id.clone());
            (kind, key, held)
        };
        Self::Changed {
            parent: snapshot,
            changes: keys.into_iter().map(change).collect(),
        }
    }
}

/// Returns the number of a snapshot. Stores the snapshot if it is not stored yet.
pub(crate) async fn store_snapshot(
    tx: &mut WriteTx,
    base: &SnapshotBase,
    own_chain: i64,
) -> Result<i64> {
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
    parent: i64,
    changed: &[StateEntry],
    own_chain: i64,
) -> Result<i64> {
    let snapshot = tx.next_position();
    let end = state_snapshots::end_of_chain(tx, parent).await?;
    let chain = match end {
        Some(end) if end.newest == parent && end.id != own_chain => end.id,
        Some(end) if end.depth < MAX_CHAIN_DEPTH => {
            state_snapshots::insert_chain(tx, snapshot, Some(parent), end.depth + 1).await?;
            snapshot
        }
        _ => {
            state_snapshots::insert_chain(tx, snapshot, None, 0).await?;
            let mut whole = state_snapshots::whole_state_entries(tx, parent).await?;
            let is_changed = |entry: &StateEntry| {
                let mut keys = changed.iter().map(|(kind, key, _)| (kind, key));
                keys.any(|key| key == (&entry.0, &entry.1))
            };
            whole.retain(|entry| !is_changed(entry));
            state_snapshots::insert_entries(tx, (snapshot, snapshot), &whole).await?;
            snapshot
        }
    };
    state_snapshots::insert_snapshot(tx, snapshot, chain).await?;
    state_snapshots::insert_entries(tx, (chain, snapshot), changed).await?;
    Ok(snapshot)
}

/// Returns changes with numbers instead of strings and event ids. Their events must be stored.
pub(crate) async fn intern_entries(
    tx: &mut WriteTx,
    changes: &[(StateEventType, String, Option<OwnedEventId>)],
) -> Result<Vec<StateEntry>> {
    let events: Vec<&OwnedEventId> = changes.iter().filter_map(|(.., id)| id.as_ref()).collect();
    let positions = find_positions(tx, &events).await?;
    let kinds: Vec<String> = changes.iter().map(|(kind, ..)| kind.to_string()).collect();
    let keys = changes.iter().map(|(_, key, _)| key.as_str());
    let texts: Vec<&str> = kinds.iter().map(String::as_str).chain(keys).collect();
    let numbers = tx.intern_all(&texts).await?;
    let number = |text: &str| {
        let number = numbers.get(text).copied();
        number.ok_or_else(|| Error::internal("intern a text", "the text vanished"))
    };
    let mut entries = Vec::with_capacity(changes.len());
    for ((_, key, id), kind) in changes.iter().zip(&kinds) {
        let event = match id {
            Some(id) => Some(*positions.get(id.as_str()).ok_or_else(|| {
                Error::internal("store a state", format!("the event {id} is not stored"))
            })?),
            None => None,
        };
        entries.push((number(kind)?, number(key)?, event));
    }
    Ok(entries)
}

/// Returns the positions of events by their ids.
pub(crate) async fn find_positions(
    tx: &mut WriteTx,
    events: &[&OwnedEventId],
) -> Result<HashMap<String, i64>> {
    let mut found = HashMap::with_capacity(events.len());
    for chunk in events.chunks(IDS_PER_QUERY) {
        let rows = event_graph::positions(tx, chunk.iter().map(|id| id.as_str())).await?;
        found.extend(rows.into_iter().map(|row| (row.event_id, row.position)));
    }
    Ok(found)
}

/// Returns the user and membership of a member event that needs no more than a row in the table:
/// the user is on another server, and is neither invited nor knocking.
fn plain_remote_member(log: &EventLog, pdu: &Pdu) -> Option<(OwnedUserId, MembershipState)> {
    let (user_id, membership) = (pdu.member()?, pdu.membership()?);
    let is_remote = user_id.server_name() != log.key.server_name();
    let is_plain = !matches!(membership, MembershipState::Invite | MembershipState::Knock);
    (is_remote && is_plain).then(|| (user_id.to_owned(), membership))
}

/// Stores that a user has left the room, because the resolved state has no member event for them.
async fn store_absence(
    log: &EventLog,
    tx: &mut WriteTx,
    room: &Room,
    (place, user, user_id): (i64, UserNum, &str),
) -> Result<()> {
    // An invalid user id was never a member.
    let Ok(user_id) = OwnedUserId::try_from(user_id) else {
        return Ok(());
    };
    let membership = MembershipState::Leave;
    let left = NewMembership {
        user,
        room: room.num,
        membership: membership.as_str(),
        position: place,
        event: None,
        stripped_state: None,
    };
    memberships::set(tx, left).await?;
    let change = JournalChange::Membership {
        user,
        local: user_id.server_name() == log.key.server_name(),
        user_id,
        room: room.num,
        membership: Some(membership),
        stripped_state: None,
    };
    tx.publish(place, change);
    Ok(())
}

/// Makes a resolved state the current state of the room, from a place in the timeline on.
pub(crate) async fn set_current_state(
    log: &EventLog,
    tx: &mut WriteTx,
    room: &Room,
    tip: &mut RoomTip,
    (place, resolved): (i64, &Arc<ResolvedState>),
) -> Result<()> {
    let keys = &resolved.changed_keys;
    if keys.is_empty() {
        return Ok(());
    }
    let changes: Vec<_> = keys
        .iter()
        .map(|(kind, key)| {
            let held = resolved.state.get(kind, key);
            (
                kind.clone(),
                key.clone(),
                held.map(|pdu| pdu.event_id.clone()),
            )
        })
        .collect();
    let entries = intern_entries(tx, &changes).await?;
    if tip.snapshot_chain == 0 {
        tip.snapshot_chain = place;
        state_snapshots::insert_chain(tx, place, None, 0).await?;
    }
    state_snapshots::insert_snapshot(tx, place, tip.snapshot_chain).await?;
    state_snapshots::insert_entries(tx, (tip.snapshot_chain, place), &entries).await?;
    tip.snapshot = place;
    tip.joined_members += count_joined_between(&tip.state, &resolved.state, keys);
    tip.state = resolved.state.clone();
    let mut many = Vec::new();
    for ((kind, key), (_, user, row)) in keys.iter().zip(entries) {
        if *kind != StateEventType::RoomMember {
            continue;
        }
        let user = UserNum::new(user);
        let Some(pdu) = tip.state.get(kind, key) else {
            store_absence(log, tx, room, (place, user, key)).await?;
            continue;
        };
        let row = row.unwrap_or_default();
        let Some((user_id, membership)) = plain_remote_member(log, pdu) else {
            let member = (user, Some(pdu), row);
            store_membership(log, tx, room, (place, member), &tip.state).await?;
            continue;
        };
        many.push(MembershipOfMany {
            user,
            membership: membership.to_string(),
            event: row,
        });
        let change = JournalChange::Membership {
            user,
            user_id,
            local: false,
            room: room.num,
            membership: Some(membership),
            stripped_state: None,
        };
        tx.publish(place, change);
    }
    memberships::set_all(tx, room.num, place, &many).await?;
    if keys.iter().any(|(kind, _)| is_directory_state(kind)) {
        let listing = build_listing(&tip.state, tip.joined_members);
        room_table::set_directory_entry(tx, room.num, &listing).await?;
    }
    Ok(())
}
