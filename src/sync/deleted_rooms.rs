//! Deleted rooms, for users who were in them and have not been notified yet.

use ruma::{
    api::client::sync::sync_events::v3::{LeftRoom, Response},
    serde::Raw,
};
use serde_json::value::RawValue;

use super::{
    SyncEnvironment, event_fields, snapshot::RoomSnapshot, sync_viewer::SyncViewer, timeline_token,
};
use crate::{
    error::Result,
    numbers::{Position, RoomNum, UserNum},
    rooms::Rooms,
    storage::RoomRemoval,
};

/// Finds deleted rooms, and reports them. Cheap to clone.
#[derive(Clone)]
pub(super) struct RemovedRoomReader {
    rooms: Rooms,
}

/// Returns a deleted room for a user who was in it: the event by which they left.
pub(super) fn removed_room(
    viewer: &SyncViewer<'_>,
    left_at: Position,
    removed: &RoomRemoval,
) -> Result<LeftRoom> {
    let mut left = LeftRoom::new();
    left.timeline.limited = false;
    left.timeline.prev_batch = Some(timeline_token(left_at));
    if let Some(event) = &removed.event {
        let event = RawValue::from_string(event.clone())?;
        let fields = viewer.request.filter.event_fields.as_deref();
        let event = event_fields::keep_fields(event, fields);
        left.timeline.events.push(Raw::from_json(event));
    }
    Ok(left)
}

impl RemovedRoomReader {
    pub(super) fn new(environment: &SyncEnvironment) -> Self {
        Self {
            rooms: environment.rooms.clone(),
        }
    }

    /// Returns whether a room was deleted in which the user had a membership.
    pub(super) async fn is_removed(&self, user: UserNum, room: RoomNum) -> Result<bool> {
        let user_rooms = self.rooms.memory.rooms_of_user(user).await?;
        Ok(user_rooms.deleted_room(room).is_some())
    }

    /// Corrects the response for a room that was deleted while it was read: the data that was read may be incomplete.
    pub(super) async fn correct_response(
        &self,
        viewer: &SyncViewer<'_>,
        snapshot: &RoomSnapshot,
        added: Result<()>,
        response: &mut Response,
    ) -> Result<()> {
        let Some(contents) = &snapshot.contents else {
            return added;
        };
        let user_rooms = self.rooms.memory.rooms_of_user(viewer.session.user).await?;
        let Some(deleted) = user_rooms.deleted_room(snapshot.num) else {
            return added;
        };
        let room_id = contents.room.room_id.clone();
        response.rooms.join.remove(&room_id);
        let left = removed_room(viewer, deleted.left_at, &deleted.removal)?;
        response.rooms.leave.insert(room_id, left);
        Ok(())
    }
}
