//! Receipts, which show how far users have read.

use std::sync::Arc;

use ruma::{
    EventId, OwnedUserId,
    events::receipt::ReceiptThread::{self, Main, Thread, Unthreaded},
};

use super::{
    UnreadCounts,
    read_markers::{self, RoomReader},
};
use crate::{
    error::{Error, Result},
    matrix::TimelineEvent,
    numbers::UserNum,
    rooms::memory::room::Room,
    storage::{JournalChange, Receipt, WriteTx, rooms::receipts},
};

/// A receipt to be stored.
#[derive(Clone, Debug)]
pub struct ReceiptUpdate<'a> {
    /// The number of the user who has read.
    pub user: UserNum,
    /// The id of the user who has read.
    pub user_id: &'a OwnedUserId,
    /// `m.read` or `m.read.private`.
    pub kind: &'a str,
    /// Empty for an unthreaded receipt, `main`, or the thread's root.
    pub thread: &'a str,
    /// The event up to which the user has read.
    pub event_id: &'a EventId,
    /// The time of the receipt in milliseconds since the Unix epoch; `None` is now.
    pub ts: Option<i64>,
}

/// A receipt whose event is known here and belongs to its thread.
struct CheckedReceipt<'a> {
    new: ReceiptUpdate<'a>,
    event: Arc<TimelineEvent>,
    thread: ReceiptThread,
}

impl UnreadCounts {
    /// Records that a user has read a room up to an event. A receipt never moves back.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the room has no such event; [`Error::InvalidParam`] when it belongs to
    /// another thread.
    pub async fn receive_receipt(&self, room: &Room, new: ReceiptUpdate<'_>) -> Result<()> {
        let event = self.timeline.find_event(room, new.event_id).await?;
        let event = event.ok_or_else(|| Error::not_found("the room has no such event"))?;
        let thread = self.thread_of_receipt(room, &event, new.thread).await?;
        let checked = CheckedReceipt { new, event, thread };
        let mut tx = self.db.write().await?;
        if self.advance_receipt(&mut tx, room, &checked).await? {
            tx.commit().await?;
        }
        Ok(())
    }

    /// Stores receipts of users of another server for a room, in one transaction. Receipts that name the
    /// wrong thread are ignored. Returns the receipts whose events are not known here.
    pub async fn receive_receipts<'a>(
        &self,
        room: &Room,
        all: Vec<ReceiptUpdate<'a>>,
    ) -> Result<Vec<ReceiptUpdate<'a>>> {
        let (mut found, mut unknown) = (Vec::new(), Vec::new());
        for new in all {
            let Some(event) = self.timeline.find_event(room, new.event_id).await? else {
                unknown.push(new);
                continue;
            };
            match self.thread_of_receipt(room, &event, new.thread).await {
                Ok(thread) => found.push(CheckedReceipt { new, event, thread }),
                Err(Error::InvalidParam(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if found.is_empty() {
            return Ok(unknown);
        }
        let mut tx = self.db.write().await?;
        let mut has_advanced = false;
        for receipt in &found {
            has_advanced |= self.advance_receipt(&mut tx, room, receipt).await?;
        }
        if has_advanced {
            tx.commit().await?;
        }
        Ok(unknown)
    }

    /// Moves a receipt forward, and the read marker with it if the user belongs to this server. Returns
    /// `false` if the receipt was already as far.
    async fn advance_receipt(
        &self,
        tx: &mut WriteTx,
        room: &Room,
        receipt: &CheckedReceipt<'_>,
    ) -> Result<bool> {
        let CheckedReceipt { new, event, thread } = receipt;
        let position = tx.next_position();
        let ts = new.ts.unwrap_or_else(|| self.clock.now_ms());
        let row = receipts::NewReceiptRow {
            room: room.num,
            user: new.user,
            kind: new.kind,
            thread: new.thread,
            event_id: new.event_id.as_str(),
            event_timeline: event.timeline,
            ts,
            position,
        };
        if !receipts::move_forward(tx, &row).await? {
            return Ok(false);
        }
        if self.memory.is_local(new.user_id) {
            let reader = RoomReader {
                user: new.user,
                room: room.num,
                position,
            };
            match thread {
                Unthreaded => read_markers::mark_room_read(tx, reader, event).await?,
                Main => read_markers::mark_thread_read(tx, reader, None, event).await?,
                Thread(thread_root) => {
                    read_markers::mark_thread_read(tx, reader, Some(thread_root), event).await?;
                }
                _ => {}
            }
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
            JournalChange::Receipt {
                room: room.num,
                receipt: receipt.into(),
            },
        );
        Ok(true)
    }

    /// Returns the thread of a receipt, if the event belongs to it.
    ///
    /// See [Threaded read receipts](https://spec.matrix.org/v1.19/client-server-api/#threaded-read-receipts).
    async fn thread_of_receipt(
        &self,
        room: &Room,
        event: &TimelineEvent,
        thread: &str,
    ) -> Result<ReceiptThread> {
        let matching_thread =
            match ReceiptThread::try_from(Some(thread).filter(|it| !it.is_empty())) {
                Ok(Unthreaded) => return Ok(Unthreaded),
                Ok(Main) => event.thread.is_none().then_some(Main),
                Ok(Thread(thread_root)) => {
                    let is_of_it = self
                        .timeline
                        .is_in_thread(room, event, &thread_root)
                        .await?;
                    is_of_it.then_some(Thread(thread_root))
                }
                _ => None,
            };
        matching_thread
            .ok_or_else(|| Error::invalid_param("the event is not related to the thread"))
    }
}
