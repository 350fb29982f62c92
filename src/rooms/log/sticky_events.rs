//! Recording sticky events when they are stored.
//!
//! See [MSC4354](https://github.com/matrix-org/matrix-spec-proposals/pull/4354).

use std::sync::Arc;

use super::EventLog;
use crate::{
    error::Result,
    matrix::Pdu,
    numbers::{Position, RoomNum},
    storage::{
        JournalChange, StickyEvent, WriteTx,
        rooms::sticky_events::{self, NewStickyEvent},
    },
};

/// The visibility of a sticky event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StickyVisibility {
    /// Clients are sent it.
    Shown,
    /// It is soft-failed, and may be accepted when the membership of its sender changes.
    Hidden,
}

/// An event that may be sticky.
pub(crate) struct StickyCandidate<'a> {
    pub(crate) room: RoomNum,
    pub(crate) pdu: &'a Pdu,
    /// The position in the journal at which it was stored or accepted.
    pub(crate) position: Position,
    pub(crate) visibility: StickyVisibility,
}

/// Records an event if it is sticky.
pub(crate) async fn record_sticky_event(
    log: &EventLog,
    tx: &mut WriteTx,
    candidate: StickyCandidate<'_>,
) -> Result<()> {
    let StickyCandidate {
        room,
        pdu,
        position,
        visibility,
    } = candidate;
    let now = log.clock.now_ms();
    let Some(duration) = pdu.sticky else {
        return Ok(());
    };
    let expires_ts = duration.expires_at(pdu.origin_server_ts, now);
    if expires_ts <= now {
        return Ok(());
    }
    let is_shown = visibility == StickyVisibility::Shown;
    let row = NewStickyEvent {
        event_id: pdu.event_id.as_str(),
        room,
        sender: tx.intern_user(pdu.sender.as_str()).await?,
        shown_at: is_shown.then_some(position),
        expires_ts,
    };
    sticky_events::set(tx, row).await?;
    let event = StickyEvent {
        event_id: pdu.event_id.clone(),
        room,
        sender: pdu.sender.clone(),
        expires_ts,
        is_shown,
    };
    let event = Arc::new(event);
    tx.publish(position, JournalChange::StickyEvent { event });
    Ok(())
}
