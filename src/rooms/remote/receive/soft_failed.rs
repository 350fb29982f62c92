//! Stores events that were not accepted: they are in the event graph, but in no timeline.

use super::verdict::{CheckedEvent, EventVerdict};
use crate::{
    error::Result,
    matrix::{NotificationCounters, VerifiedEvent},
    numbers::{Position, SnapshotId},
    rooms::{
        log::{
            event_placement::{event_visibility, intern_event},
            snapshots,
        },
        memory::{
            recent_events::RecentRoomEvent,
            room::{Room, RoomTip},
        },
    },
    storage::{
        WriteTx,
        rooms::{
            events::{self, NewEventRow},
            timeline_gaps,
        },
    },
};

/// Stores an event that was soft-failed or rejected; returns its position, or `None` if it was
/// known.
pub(crate) async fn store_refused_event(
    tx: &mut WriteTx,
    room: &Room,
    tip: &mut RoomTip,
    event: &VerifiedEvent,
    checked: CheckedEvent,
) -> Result<Option<Position>> {
    let pdu = event.pdu();
    let numbers = intern_event(tx, pdu, checked.stored_at).await?;
    let snapshot = snapshots::store_snapshot(tx, &checked.base, tip.snapshot_chain).await?;
    let mut after = RecentRoomEvent {
        status: checked.verdict.status(),
        snapshot,
        state: checked.state_before.clone(),
        prev_events: pdu.prev_events.clone(),
    };
    if let (EventVerdict::SoftFailed(_), Some(state_key)) = (&checked.verdict, numbers.state_key) {
        let entry = numbers.state_entry(state_key);
        after.snapshot =
            snapshots::store_branch(tx, snapshot, &[entry], tip.snapshot_chain).await?;
        after.state.insert(pdu.clone().into());
    }
    // The place of a rejected event in the graph may be unknown.
    let is_placed = snapshot != SnapshotId::EMPTY;
    let row = NewEventRow {
        position: numbers.stored_at,
        room: room.num,
        event_id: pdu.event_id.as_str(),
        timeline: None,
        kind: numbers.kind,
        state_key: numbers.state_key,
        sender: numbers.sender,
        state: is_placed.then_some(snapshot),
        state_after: is_placed.then_some(after.snapshot),
        backfilled: false,
        goes_out: false,
        withheld: false,
        visibility: event_visibility(&checked.state_before, pdu).number(),
        status: checked.verdict.status(),
        notified: 0,
        mentioned: 0,
        threaded_counters: NotificationCounters::default(),
        thread: None,
        origin_server_ts: pdu.origin_server_ts.0.into(),
        transaction: None,
        json: event.json(),
    };
    if checked.stored_at.is_some() {
        events::update_placement(tx, &row).await?;
    } else if !events::insert(tx, &row).await? {
        return Ok(None);
    }
    if let Some(gap) = checked.gap {
        timeline_gaps::close_gap(tx, room.num, pdu.event_id.as_str()).await?;
        timeline_gaps::insert(tx, room.num, &checked.missing_prev, gap).await?;
    }
    if is_placed {
        tip.recent_events.push(pdu.event_id.clone(), after);
    }
    Ok(Some(numbers.position))
}
