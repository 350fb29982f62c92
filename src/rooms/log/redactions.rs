//! Applying redactions: at once, or when the redacted event arrives.
//!
//! See the specification on [redactions](https://spec.matrix.org/v1.19/rooms/v12/#redactions).

use std::sync::Arc;

use ruma::events::{StateEventType, TimelineEventType};

use super::relations;
use crate::{
    error::Result,
    matrix::{self, NotificationCounters, Pdu, StateMap, TimelineEvent},
    rooms::memory::{
        room::{Room, RoomTip, replace_redacted},
        stored_events::{event_from_row, pdu_by_id},
    },
    storage::{
        JournalChange, WriteTx,
        rooms::{
            event_graph,
            events::{self, EventRow, RoomCounters},
            room_table, state_snapshots, sticky_events, text_index,
        },
    },
};

/// The outcome of checking a redaction.
enum RedactionOutcome {
    /// The redaction is valid and applies to this event.
    Valid(Box<RedactedEvent>),
    /// The redacted event has not arrived yet.
    AwaitsTarget,
    /// The sender may not redact the event, or the event is in another room.
    Invalid,
}

/// The event that a redaction redacts.
struct RedactedEvent {
    row: EventRow,
    pdu: Pdu,
}

/// Returns whether an event is a redaction that must not be sent to clients, because it has not
/// taken effect.
///
/// In room versions 1 and 2, the authorization rules have already checked it.
///
/// See [Handling redactions](https://spec.matrix.org/v1.19/rooms/v3/#handling-redactions).
pub(crate) async fn is_withheld(
    tx: &mut WriteTx,
    room: &Room,
    before: &StateMap,
    pdu: &Pdu,
) -> Result<bool> {
    if pdu.kind != TimelineEventType::RoomRedaction
        || room.rules.authorization.special_case_room_redaction
    {
        return Ok(false);
    }
    let outcome = check_redaction(tx, room, before, pdu).await?;
    Ok(!matches!(outcome, RedactionOutcome::Valid(_)))
}

/// Checks a redaction against the state before it.
async fn check_redaction(
    tx: &mut WriteTx,
    room: &Room,
    before: &StateMap,
    redaction: &Pdu,
) -> Result<RedactionOutcome> {
    let Some(target) = redaction.redacts(&room.rules) else {
        return Ok(RedactionOutcome::Invalid);
    };
    let Some(row) = events::get_anywhere(tx, target.as_str()).await? else {
        return Ok(RedactionOutcome::AwaitsTarget);
    };
    let target = Pdu::parse(target.clone(), &row.json)?;
    if row.room != room.num || !may_redact(room, before, redaction, &target) {
        return Ok(RedactionOutcome::Invalid);
    }
    let redacted = RedactedEvent { row, pdu: target };
    Ok(RedactionOutcome::Valid(Box::new(redacted)))
}

/// Returns whether the sender of a redaction may redact an event.
fn may_redact(room: &Room, before: &StateMap, redaction: &Pdu, target: &Pdu) -> bool {
    let levels = matrix::power_levels(before, &room.rules);
    levels.user_can_redact_event_of_other(&redaction.sender)
        || target.sender.server_name() == redaction.sender.server_name()
}

/// Applies an accepted redaction, if its sender may redact the event. Returns whether the redaction
/// is valid.
///
/// If the redacted event has not arrived yet, the redaction is stored until it does.
pub(crate) async fn apply_redaction(
    tx: &mut WriteTx,
    room: &Room,
    tip: &mut RoomTip,
    redaction: &Arc<Pdu>,
    before: &StateMap,
) -> Result<bool> {
    let RedactedEvent { row, pdu: target } =
        match check_redaction(tx, room, before, redaction).await? {
            RedactionOutcome::Valid(redacted) => *redacted,
            RedactionOutcome::AwaitsTarget => {
                let target = redaction.redacts(&room.rules);
                if let Some(target) = target {
                    let (target, redaction) = (target.as_str(), redaction.event_id.as_str());
                    event_graph::store_waiting_redaction(tx, room.num, target, redaction).await?;
                }
                return Ok(false);
            }
            RedactionOutcome::Invalid => return Ok(false),
        };
    if row.redacted_by.is_some() {
        return Ok(true);
    }
    let json = matrix::redact_json(&row.json, &room.rules)?;
    events::redact(
        tx,
        target.event_id.as_str(),
        &json,
        redaction.event_id.as_str(),
    )
    .await?;
    relations::remove_relation(tx, &row, &target).await?;
    text_index::remove(tx, row.position).await?;
    sticky_events::remove(tx, target.event_id.as_str()).await?;
    let pdu = Arc::new(Pdu::parse(target.event_id, &json)?);
    replace_redacted(&mut tip.state, &pdu);
    if pdu.state_key.is_some() {
        tip.recent_events.clear();
    }
    let redacted = TimelineEvent {
        head: matrix::write_event_head(&pdu, &room.rules),
        redacted_by: Some(redaction.clone()),
        ..event_from_row(row, pdu, &room.rules)
    };
    let position = tx.next_position();
    tx.publish(
        position,
        JournalChange::Redacted {
            room: room.num,
            event: Arc::new(redacted),
        },
    );
    Ok(true)
}

/// Applies an event of another server if it is a redaction, and then the redactions of the event
/// that arrived before it.
pub(crate) async fn apply_redactions_on_arrival(
    tx: &mut WriteTx,
    room: &Room,
    tip: &mut RoomTip,
    pdu: &Pdu,
    before: &StateMap,
) -> Result<()> {
    if pdu.kind == TimelineEventType::RoomRedaction {
        apply_redaction(tx, room, tip, &Arc::new(pdu.clone()), before).await?;
    }
    for redaction in
        event_graph::take_waiting_redactions(tx, room.num, pdu.event_id.as_str()).await?
    {
        let Some(row) = events::get_anywhere(tx, &redaction).await? else {
            continue;
        };
        let Some(redaction) = pdu_by_id(tx, &redaction).await? else {
            continue;
        };
        let redaction = Arc::new(redaction);
        let before = load_power_levels_before(tx, &row).await?;
        let is_valid = apply_redaction(tx, room, tip, &redaction, &before).await?;
        if is_valid && row.withheld {
            show_redaction(tx, room, tip, row, redaction).await?;
        }
    }
    Ok(())
}

/// Returns a redaction that waits for an event and whose sender may redact it.
pub(crate) async fn find_waiting_redaction(
    tx: &mut WriteTx,
    room: &Room,
    target: &Pdu,
) -> Result<Option<Pdu>> {
    let target_id = target.event_id.as_str();
    for id in event_graph::waiting_redactions(tx, room.num, target_id).await? {
        let (Some(row), Some(redaction)) = (
            events::get_anywhere(tx, &id).await?,
            pdu_by_id(tx, &id).await?,
        ) else {
            continue;
        };
        let before = load_power_levels_before(tx, &row).await?;
        if may_redact(room, &before, &redaction, target) {
            return Ok(Some(redaction));
        }
    }
    Ok(None)
}

/// Returns the part of the state before an event that determines power levels.
async fn load_power_levels_before(tx: &mut WriteTx, row: &EventRow) -> Result<StateMap> {
    let mut before = StateMap::default();
    let key = tx.intern("").await?;
    for kind in [StateEventType::RoomCreate, StateEventType::RoomPowerLevels] {
        let kind = tx.intern(&kind.to_string()).await?;
        let state_row = state_snapshots::state_event(tx, row.state, kind, key).await?;
        let event_id = state_row.and_then(|state_row| state_row.event_id);
        if let Some(event_id) = event_id
            && let Some(pdu) = pdu_by_id(tx, &event_id).await?
        {
            before.insert(Arc::new(pdu));
        }
    }
    Ok(before)
}

/// Makes a redaction visible that was withheld until the redacted event arrived. It becomes the
/// newest event of the room, so that clients receive it. A redaction from backfilled history
/// becomes visible in its place.
async fn show_redaction(
    tx: &mut WriteTx,
    room: &Room,
    tip: &RoomTip,
    row: EventRow,
    redaction: Arc<Pdu>,
) -> Result<()> {
    if row.backfilled {
        let counters = RoomCounters {
            all: NotificationCounters {
                notified: row.notified,
                mentioned: row.mentioned,
            },
            threaded: row.threaded_counters(),
        };
        return events::show_redaction(tx, &row.event_id, None, counters).await;
    }
    let position = tx.next_position();
    let counters = RoomCounters {
        all: NotificationCounters {
            notified: tip.notified,
            mentioned: tip.mentioned,
        },
        threaded: tip.threaded,
    };
    events::show_redaction(tx, &row.event_id, Some(position), counters).await?;
    let extremities = serde_json::to_string(&tip.forward_extremities)?;
    room_table::set_tip(tx, room.num, &extremities, tip.snapshot, position).await?;
    let sender = tx.intern_user(redaction.sender.as_str()).await?;
    let shown = TimelineEvent {
        position,
        timeline: position,
        is_withheld: false,
        state_before: Some(tip.state.clone()),
        notified: tip.notified,
        mentioned: tip.mentioned,
        threaded_counters: tip.threaded,
        ..event_from_row(row, redaction, &room.rules)
    };
    let change = JournalChange::Event {
        room: room.num,
        sender,
        event: Arc::new(shown),
    };
    tx.publish(position, change);
    Ok(())
}
