//! Stores an event that precedes others which are already in the timeline.

use super::verdict::CheckedEvent;
use crate::{
    error::Result,
    matrix::{NotificationCounters, ThreadPosition, VerifiedEvent},
    numbers::{Position, SnapshotId, StateChainNum},
    rooms::{
        log::{
            event_placement::{EventNumbers, event_visibility, intern_event},
            redactions, relations, snapshots,
        },
        memory::room::{Room, RoomTip},
    },
    storage::{
        JournalChange, WriteTx,
        rooms::{
            event_graph,
            events::{self, EventStatus, NewEventRow},
            timeline_gaps,
        },
    },
};

/// A checked event that belongs in a gap of the timeline.
pub(crate) struct HistoryEvent<'a> {
    pub(crate) event: &'a VerifiedEvent,
    pub(crate) checked: CheckedEvent,
    /// The place in the timeline before which the event belongs.
    pub(crate) gap: Position,
}

/// Stores an event in the gap before a place of the timeline; returns its position.
pub(crate) async fn store_history_event(
    tx: &mut WriteTx,
    room: &Room,
    tip: &mut RoomTip,
    history: HistoryEvent<'_>,
) -> Result<Option<Position>> {
    let HistoryEvent {
        event,
        checked,
        gap,
    } = history;
    let before = &checked.state_before;
    let pdu = event.pdu();
    let numbers = intern_event(tx, pdu, checked.stored_at).await?;
    let withheld = redactions::is_withheld(tx, room, before, pdu).await?;
    let snapshot = snapshots::store_snapshot(tx, &checked.base, tip.snapshot_chain).await?;
    let snapshot_after = store_snapshot_after(tx, &numbers, snapshot, tip.snapshot_chain).await?;
    let place = find_free_place(tx, room, gap).await?;
    let thread = match place {
        Some(_) => {
            relations::find_thread(tx, room.num, pdu, NotificationCounters::default()).await?
        }
        None => None,
    };
    let row = NewEventRow {
        position: numbers.stored_at,
        room: room.num,
        event_id: pdu.event_id.as_str(),
        timeline: place,
        kind: numbers.kind,
        state_key: numbers.state_key,
        sender: numbers.sender,
        state: Some(snapshot),
        state_after: Some(snapshot_after),
        backfilled: true,
        goes_out: false,
        withheld,
        visibility: event_visibility(before, pdu).number(),
        status: EventStatus::Accepted,
        notified: 0,
        mentioned: 0,
        threaded_counters: NotificationCounters::default(),
        thread: thread
            .as_ref()
            .map(|thread: &ThreadPosition| (thread.root.as_str(), thread.counters)),
        origin_server_ts: pdu.origin_server_ts.0.into(),
        transaction: None,
        json: event.json(),
    };
    if checked.stored_at.is_some() {
        events::update_placement(tx, &row).await?;
    } else if !events::insert(tx, &row).await? {
        return Ok(None);
    }
    timeline_gaps::close_gap(tx, room.num, pdu.event_id.as_str()).await?;
    if let Some(place) = place {
        timeline_gaps::insert(tx, room.num, &checked.missing_prev, place).await?;
        let stored = stored_history_event(room, &numbers, place);
        relations::store_relation(tx, stored, pdu, thread.as_ref()).await?;
    }
    redactions::apply_redactions_on_arrival(tx, room, tip, pdu, before).await?;
    let change = JournalChange::Backfilled { room: room.num };
    tx.publish(numbers.position, change);
    Ok(Some(numbers.position))
}

/// Stores the state after an event, unless it is the state before it. Returns the snapshot.
async fn store_snapshot_after(
    tx: &mut WriteTx,
    numbers: &EventNumbers,
    before: SnapshotId,
    chain: StateChainNum,
) -> Result<SnapshotId> {
    let Some(state_key) = numbers.state_key else {
        return Ok(before);
    };
    let entry = numbers.state_entry(state_key);
    snapshots::store_branch(tx, before, &[entry], chain).await
}

fn stored_history_event(
    room: &Room,
    numbers: &EventNumbers,
    place: Position,
) -> relations::RelatingEvent {
    relations::RelatingEvent {
        room: room.num,
        position: numbers.stored_at,
        timeline: place,
        kind: numbers.kind,
        sender: numbers.sender,
    }
}

/// Returns the place right before another one in a timeline, if it is free.
async fn find_free_place(
    tx: &mut WriteTx,
    room: &Room,
    before: Position,
) -> Result<Option<Position>> {
    let older = event_graph::place_before(tx, room.num, before).await?;
    let place = before.previous();
    Ok((older != Some(place)).then_some(place))
}
