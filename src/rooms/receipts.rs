//! Receipts: who has read how far.

use ruma::{EventId, OwnedUserId};

use super::{Rooms, warm::Room};
use crate::{
    error::{Error, Result},
    storage::{Change, ReadMarker, Receipt, UserNum, receipts, unread},
};

/// A receipt to be noted.
#[derive(Clone, Debug)]
pub struct NewReceipt<'a> {
    /// Who has read, by number.
    pub user: UserNum,
    /// Who has read.
    pub user_id: &'a OwnedUserId,
    /// `m.read` or `m.read.private`.
    pub kind: &'a str,
    /// Empty for an unthreaded receipt, `main`, or the thread's root.
    pub thread: &'a str,
    /// Up to which event.
    pub event_id: &'a EventId,
}

impl Rooms {
    /// Notes that a user has read a room up to an event. A receipt never goes back.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the room has no such event.
    pub async fn receive_receipt(&self, room: &Room, new: NewReceipt<'_>) -> Result<()> {
        let event = self.find_event(room, new.event_id).await?;
        let event = event.ok_or_else(|| Error::not_found("the room has no such event"))?;
        let marker = ReadMarker {
            timeline: event.timeline,
            notified: event.notified,
            mentioned: event.mentioned,
        };
        let mut tx = self.inner.db.write().await?;
        let position = tx.position();
        let ts = self.inner.clock.now_ms();
        let row = receipts::NewReceipt {
            room: room.num,
            user: new.user,
            kind: new.kind,
            thread: new.thread,
            event_id: new.event_id.as_str(),
            event_timeline: event.timeline,
            ts,
            position,
        };
        if !receipts::advance(&mut tx, &row).await? {
            return Ok(());
        }
        if matches!(new.thread, "" | "main") {
            unread::mark_read(&mut tx, new.user, room.num, marker).await?;
            unread::clear_exceptions(&mut tx, new.user, room.num, marker.timeline).await?;
            tx.publish(
                position,
                Change::Read {
                    user: new.user,
                    room: room.num,
                    marker,
                },
            );
        }
        let receipt = Receipt {
            user_id: new.user_id.clone(),
            kind: new.kind.to_owned(),
            thread: new.thread.to_owned(),
            event_id: new.event_id.to_owned(),
            ts,
            position,
        };
        tx.publish(
            position,
            Change::Receipt {
                room: room.num,
                receipt: receipt.into(),
            },
        );
        tx.commit().await
    }
}
