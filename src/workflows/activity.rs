//! The activity of users: presence, typing and read receipts.

use std::{sync::Arc, time::Duration};

use ruma::{EventId, RoomId, events::receipt::ReceiptThread};

use super::WorkflowSources;
use crate::{
    ephemeral::{EphemeralState, PresenceUpdate},
    error::{Error, Result},
    rooms::{ReceiptUpdate, Room, Rooms},
    users::{Session, Users},
};

/// A user's record of the event up to which they have read.
#[derive(Clone, Copy)]
pub struct ReadReceipt<'a> {
    /// `m.read`, `m.read.private` or `m.fully_read`.
    pub kind: &'a str,
    /// The last event that the user has read.
    pub event_id: &'a EventId,
    /// The thread in which the user has read.
    pub thread: &'a ReceiptThread,
}

/// Records the activity of users. Cheap to clone.
#[derive(Clone)]
pub struct UserActivity {
    users: Users,
    rooms: Rooms,
    ephemeral: EphemeralState,
}

impl UserActivity {
    pub(super) fn new(sources: &WorkflowSources) -> Self {
        Self {
            users: sources.users.clone(),
            rooms: sources.rooms.clone(),
            ephemeral: sources.ephemeral.clone(),
        }
    }

    /// Records that a user is active.
    pub fn record_activity(&self, session: &Session) {
        self.ephemeral
            .presence
            .update(session.user, &session.user_id, PresenceUpdate::Active);
    }

    /// Records that a user is typing in a room, or has stopped.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for a user who is not in the room.
    pub async fn set_typing(
        &self,
        session: &Session,
        room_id: &RoomId,
        lasting: Option<Duration>,
    ) -> Result<()> {
        let room = self.joined_room(session, room_id).await?;
        self.record_activity(session);
        self.ephemeral
            .typing
            .set_typing(room.num, &session.user_id, lasting);
        Ok(())
    }

    /// Returns a room that a user has joined.
    async fn joined_room(&self, session: &Session, room_id: &RoomId) -> Result<Arc<Room>> {
        let room = self.rooms.memory.room_of_member(room_id).await?;
        if self.rooms.memory.is_joined(session.user, &room).await? {
            return Ok(room);
        }
        Err(Error::forbidden("you are not in this room"))
    }

    /// Records that a user has read a room up to an event.
    pub async fn mark_read(
        &self,
        session: &Session,
        room_id: &RoomId,
        receipt: ReadReceipt<'_>,
    ) -> Result<()> {
        let ReadReceipt {
            kind,
            event_id,
            thread,
        } = receipt;
        let room = self.joined_room(session, room_id).await?;
        self.record_activity(session);
        let is_known = matches!(
            thread,
            ReceiptThread::Unthreaded | ReceiptThread::Main | ReceiptThread::Thread(_)
        );
        if !is_known || (kind == "m.fully_read" && *thread != ReceiptThread::Unthreaded) {
            return Err(Error::invalid_param(
                "thread_id is not valid for this receipt",
            ));
        }
        match kind {
            "m.fully_read" => {
                return self
                    .users
                    .account_data
                    .set_fully_read(session, room.num, event_id)
                    .await;
            }
            "m.read" | "m.read.private" => {}
            other => {
                return Err(Error::invalid_param(format!(
                    "the receipt type {other} does not exist"
                )));
            }
        }
        let thread = thread.as_str().unwrap_or_default();
        let (user, user_id) = (session.user, &session.user_id);
        self.rooms
            .unread
            .receive_receipt(
                &room,
                ReceiptUpdate {
                    user,
                    user_id,
                    kind,
                    thread,
                    event_id,
                    ts: None,
                },
            )
            .await
    }
}
