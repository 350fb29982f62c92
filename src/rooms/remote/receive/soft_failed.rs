//! Stores events that were not accepted: they are in the event graph, but in no timeline.

use super::checks::{After, Judged, Verdict};
use crate::{
    error::Result,
    matrix::{Counters, Verified},
    rooms::{
        log::{
            append::{intern, visibility_of},
            snapshots,
        },
        memory::room::{Room, Tip},
    },
    storage::{
        WriteTx,
        rooms::{
            events::{self, NewEvent, Status},
            timeline_gaps,
        },
    },
};

/// Stores an event that was soft-failed or rejected; returns its position, or `None` if it was
/// known.
pub(crate) async fn store(
    tx: &mut WriteTx,
    room: &Room,
    tip: &mut Tip,
    event: &Verified,
    (judged, status): (Judged, Status),
) -> Result<Option<i64>> {
    let pdu = event.pdu();
    let numbers = intern(tx, pdu, judged.stored_at).await?;
    let snapshot = snapshots::keep(tx, &judged.base, tip.chain).await?;
    let mut after = After {
        status,
        snapshot,
        state: judged.before.clone(),
        prev_events: pdu.prev_events.clone(),
    };
    if let (Verdict::SoftFailed(_), Some(state_key)) = (&judged.verdict, numbers.state_key) {
        let entry = (numbers.kind, state_key, Some(numbers.row));
        after.snapshot = snapshots::branch(tx, snapshot, &[entry], tip.chain).await?;
        after.state.insert(pdu.clone().into());
    }
    // The place of a rejected event in the graph may be unknown.
    let is_placed = snapshot != 0;
    let row = NewEvent {
        position: numbers.row,
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
        visibility: visibility_of(&judged.before, pdu).number(),
        status,
        notified: 0,
        mentioned: 0,
        threaded: Counters::default(),
        thread: None,
        origin_server_ts: pdu.origin_server_ts.0.into(),
        transaction: None,
        json: event.json(),
    };
    if judged.stored_at.is_some() {
        events::place(tx, &row).await?;
    } else if !events::insert(tx, &row).await? {
        return Ok(None);
    }
    if let Some(gap) = judged.gap {
        timeline_gaps::close(tx, room.num, pdu.event_id.as_str()).await?;
        timeline_gaps::insert(tx, room.num, &judged.missing, gap).await?;
    }
    if is_placed {
        tip.lately.push(pdu.event_id.clone(), after);
    }
    Ok(Some(numbers.position))
}
