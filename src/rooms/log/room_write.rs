//! Storing changes of the current state of a room, in a write transaction.

use std::sync::Arc;

use ruma::events::StateEventType;

use super::{
    EventLog,
    event_placement::EventNumbers,
    snapshots::{ChangedStateKey, intern_entries},
    stored_memberships::{self, AbsentMember, MemberRecord},
};
use crate::{
    error::Result,
    matrix::{ResolvedState, TimelineEvent},
    numbers::{Position, SnapshotId, StateChainNum, StringNum, UserNum},
    rooms::{
        memory::room::{Room, RoomTip, count_joined_between},
        read::listing::{build_listing, is_directory_state},
    },
    storage::{
        WriteTx,
        rooms::{
            memberships::{self, MembershipOfMany},
            room_table,
            state_snapshots::{self, SnapshotPlace, StateEntry},
        },
    },
};

/// A room that is changed in a write transaction, and its tip after the changes.
pub(crate) struct RoomWrite<'a> {
    pub(crate) log: &'a EventLog,
    pub(crate) tx: &'a mut WriteTx,
    pub(crate) room: &'a Room,
    pub(crate) tip: &'a mut RoomTip,
}

impl RoomWrite<'_> {
    /// Stores the state after a state event that the tip already contains: the snapshot, the
    /// membership and the entry in the room directory.
    pub(super) async fn store_state_event(
        &mut self,
        numbers: &EventNumbers,
        state_key: StringNum,
        event: &TimelineEvent,
    ) -> Result<()> {
        let entry = numbers.state_entry(state_key);
        self.extend_chain(SnapshotId::at(event.position), &[entry])
            .await?;
        if event.pdu.member().is_some() {
            let member = MemberRecord {
                room: self.room.num,
                user: UserNum::of_string(state_key),
                since: numbers.position,
                stored_at: numbers.stored_at,
                pdu: &event.pdu,
            };
            let state = &self.tip.state;
            stored_memberships::store_membership(self.log, self.tx, &member, state).await?;
        }
        if is_directory_state(&event.pdu.state_type()) {
            self.store_listing().await?;
        }
        Ok(())
    }

    /// Makes a resolved state the current state of the room, from a place in the timeline on.
    pub(crate) async fn set_current_state(
        &mut self,
        place: Position,
        resolved: &Arc<ResolvedState>,
    ) -> Result<()> {
        let keys = &resolved.changed_keys;
        if keys.is_empty() {
            return Ok(());
        }
        let changes = keys.iter().map(|(kind, key)| ChangedStateKey {
            kind: kind.clone(),
            state_key: key.clone(),
            event_id: resolved
                .state
                .get(kind, key)
                .map(|pdu| pdu.event_id.clone()),
        });
        let changes: Vec<ChangedStateKey> = changes.collect();
        let entries = intern_entries(self.tx, &changes).await?;
        self.extend_chain(SnapshotId::at(place), &entries).await?;
        let tip = &mut *self.tip;
        tip.joined_members += count_joined_between(&tip.state, &resolved.state, keys);
        tip.state = resolved.state.clone();
        self.store_changed_members(place, keys, &entries).await?;
        if keys.iter().any(|(kind, _)| is_directory_state(kind)) {
            self.store_listing().await?;
        }
        Ok(())
    }

    /// Stores a snapshot in the chain of the room.
    async fn extend_chain(&mut self, snapshot: SnapshotId, entries: &[StateEntry]) -> Result<()> {
        let RoomWrite { tx, room, tip, .. } = self;
        if tip.snapshot_chain == StateChainNum::NONE {
            tracing::debug!(room_id = %room.room_id, "a new chain of state snapshots was started");
            tip.snapshot_chain = StateChainNum::from_first(snapshot);
            state_snapshots::insert_chain(tx, tip.snapshot_chain, None, 0).await?;
        }
        let chain = tip.snapshot_chain;
        state_snapshots::insert_snapshot(tx, snapshot, chain).await?;
        let place = SnapshotPlace { chain, snapshot };
        match entries {
            [entry] => state_snapshots::insert_entry(tx, place, *entry).await?,
            entries => state_snapshots::insert_entries(tx, place, entries).await?,
        }
        tip.snapshot = snapshot;
        Ok(())
    }

    /// Stores the memberships that changed with the state of the room. `entries` belong to `keys`.
    async fn store_changed_members(
        &mut self,
        place: Position,
        keys: &[(StateEventType, String)],
        entries: &[StateEntry],
    ) -> Result<()> {
        let (log, room, tip) = (self.log, self.room.num, &*self.tip);
        let mut remote_members = Vec::new();
        for ((kind, key), entry) in keys.iter().zip(entries) {
            if *kind != StateEventType::RoomMember {
                continue;
            }
            let Some(pdu) = tip.state.get(kind, key) else {
                let absent = AbsentMember {
                    room,
                    user: UserNum::of_string(entry.state_key),
                    user_id: key,
                    since: place,
                };
                stored_memberships::store_absence(log, self.tx, absent).await?;
                continue;
            };
            let member = MemberRecord {
                room,
                user: UserNum::of_string(entry.state_key),
                since: place,
                stored_at: entry.event.unwrap_or_default(),
                pdu,
            };
            match member.remote_membership(log) {
                Some(membership) => {
                    remote_members.push(MembershipOfMany {
                        user: member.user,
                        membership: membership.to_string(),
                        event: member.stored_at,
                    });
                    member.publish(log, self.tx, membership, None)?;
                }
                None => {
                    stored_memberships::store_membership(log, self.tx, &member, &tip.state).await?;
                }
            }
        }
        memberships::set_all(self.tx, room, place, &remote_members).await
    }

    /// Updates the entry of the room in the room directory.
    async fn store_listing(&mut self) -> Result<()> {
        let listing = build_listing(&self.tip.state, self.tip.joined_members);
        room_table::set_directory_entry(self.tx, self.room.num, &listing).await
    }
}
