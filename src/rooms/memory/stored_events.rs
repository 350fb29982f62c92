//! Reading stored events, and the states that they make up.

use std::{collections::HashMap, sync::Arc};

use ruma::{OwnedEventId, room_version_rules::RoomVersionRules};

use crate::{
    error::{Error, Result},
    matrix::{EventVisibility, Pdu, StateMap, TimelineEvent, write_event_head},
    numbers::{Position, SnapshotId, StringNum},
    storage::{
        ReadAccess,
        rooms::{
            events::{self, EventRow},
            state_snapshots::{self, StateRow},
        },
    },
};

/// Returns the event of a stored row, without the state before it.
pub(crate) fn event_from_row(
    row: EventRow,
    pdu: Arc<Pdu>,
    rules: &RoomVersionRules,
) -> TimelineEvent {
    TimelineEvent {
        // The event may have been stored earlier, without a place in the timeline.
        position: row.timeline,
        timeline: row.timeline,
        head: write_event_head(&pdu, rules),
        pdu,
        is_withheld: row.withheld,
        visibility: EventVisibility::from_number(row.visibility),
        snapshot: row.state,
        state_before: None,
        resolved: None,
        notified: row.notified,
        mentioned: row.mentioned,
        threaded_counters: row.threaded_counters(),
        thread: row.thread_position(),
        exceptions: Vec::new(),
        device: row.device,
        txn_id: row.txn_id,
        unattended: false,
        redacted_by: None,
    }
}

/// Returns a stored event by its id.
pub(crate) async fn pdu_by_id(db: &mut impl ReadAccess, event_id: &str) -> Result<Option<Pdu>> {
    let Some(row) = events::by_ids(db, [event_id]).await?.into_iter().next() else {
        return Ok(None);
    };
    Pdu::parse(parse_event_id(&row.event_id)?, &row.json).map(Some)
}

/// Returns the state of a snapshot.
pub(crate) async fn state_map(db: &mut impl ReadAccess, snapshot: SnapshotId) -> Result<StateMap> {
    state_from_rows(state_snapshots::whole_state(db, snapshot).await?)
}

/// Returns the state of a room at a place of its timeline. `snapshot` must be the snapshot of its
/// current state.
pub(crate) async fn state_map_at(
    db: &mut impl ReadAccess,
    snapshot: SnapshotId,
    place: Position,
) -> Result<StateMap> {
    state_from_rows(state_snapshots::earlier_state(db, snapshot, place).await?)
}

fn state_from_rows(rows: Vec<StateRow>) -> Result<StateMap> {
    let mut latest: HashMap<(StringNum, StringNum), StateRow> = HashMap::new();
    for row in rows {
        latest.insert((row.kind, row.state_key), row);
    }
    let mut map = StateMap::default();
    for row in latest.into_values() {
        if let Some(pdu) = parse_state_event(row.event_id, row.json)? {
            map.insert(pdu);
        }
    }
    Ok(map)
}

/// Returns the state event of a row; `None` if the row has no event.
pub(crate) fn parse_state_event(
    event_id: Option<String>,
    json: Option<String>,
) -> Result<Option<Arc<Pdu>>> {
    let Some((event_id, json)) = event_id.zip(json) else {
        return Ok(None);
    };
    let pdu = Pdu::parse(parse_event_id(&event_id)?, &json)?;
    Ok(Some(Arc::new(pdu)))
}

/// Returns a stored event id.
pub(crate) fn parse_event_id(event_id: &str) -> Result<OwnedEventId> {
    OwnedEventId::try_from(event_id).map_err(|source| Error::internal("read an event id", source))
}
