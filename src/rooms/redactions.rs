//! Redactions that take effect: at once, or when the event comes that they redact.
//!
//! [Redactions](https://spec.matrix.org/v1.19/rooms/v12/#redactions)

use std::sync::Arc;

use ruma::events::TimelineEventType;

use super::{
    load, relations,
    timeline::event_of_row,
    warm::{Room, Tip, put_redacted},
};
use crate::{
    error::Result,
    matrix::{self, Pdu, TimelineEvent},
    storage::{Change, WriteTx, events, graph, search},
};

/// Lets an accepted redaction take effect, if its sender may redact the event.
///
/// One whose event is not here yet waits for it.
pub(super) async fn redact(
    tx: &mut WriteTx,
    room: &Room,
    tip: &mut Tip,
    redaction: &Arc<Pdu>,
) -> Result<()> {
    let Some(target) = &redaction.redacts else {
        return Ok(());
    };
    let Some(row) = events::any(tx, target.as_str()).await? else {
        let (target, redaction) = (target.as_str(), redaction.event_id.as_str());
        return graph::await_target(tx, room.num, target, redaction).await;
    };
    let target = Pdu::parse(target.clone(), &row.json)?;
    let levels = matrix::power_levels(&tip.state, &room.rules);
    let may = levels.user_can_redact_event_of_other(&redaction.sender)
        || target.sender.server_name() == redaction.sender.server_name();
    if row.room != room.num || row.redacted_by.is_some() || !may {
        return Ok(());
    }
    let json = matrix::redact_json(&row.json, &room.rules)?;
    events::redact(
        tx,
        target.event_id.as_str(),
        &json,
        redaction.event_id.as_str(),
    )
    .await?;
    relations::redact(tx, &row, &target).await?;
    search::remove(tx, row.position).await?;
    let pdu = Arc::new(Pdu::parse(target.event_id, &json)?);
    put_redacted(&mut tip.state, &pdu);
    if pdu.state_key.is_some() {
        tip.lately.forget();
    }
    let redacted = TimelineEvent {
        head: matrix::head(&pdu, &room.rules),
        redacted_by: Some(redaction.clone()),
        ..event_of_row(row, pdu, &room.rules)
    };
    let position = tx.position();
    tx.publish(
        position,
        Change::Redacted {
            room: room.num,
            event: Arc::new(redacted),
        },
    );
    Ok(())
}

/// Lets an event of another server take effect, if it is a redaction, and those redactions of it that came before.
pub(super) async fn arrived(tx: &mut WriteTx, room: &Room, tip: &mut Tip, pdu: &Pdu) -> Result<()> {
    if pdu.kind == TimelineEventType::RoomRedaction {
        redact(tx, room, tip, &Arc::new(pdu.clone())).await?;
    }
    for redaction in graph::take_waiting(tx, room.num, pdu.event_id.as_str()).await? {
        if let Some(redaction) = load::pdu_by_id(tx, &redaction).await? {
            redact(tx, room, tip, &Arc::new(redaction)).await?;
        }
    }
    Ok(())
}
