//! Deleted rooms, for users who were in them and have not been notified yet.

use ruma::{
    api::client::sync::sync_events::v3::{LeftRoom, Response},
    serde::Raw,
};
use serde_json::value::RawValue;

use super::{
    Inner, event_fields, place_token,
    room_view::{Viewer, room_id},
    snapshot::RoomMoment,
};
use crate::{
    error::Result,
    storage::{Position, Removed, RoomNum, UserNum},
};

/// Returns a deleted room for a user who was in it: the event by which they left.
pub(super) fn removed_room(
    viewer: &Viewer<'_>,
    left_at: Position,
    removed: &Removed,
) -> Result<LeftRoom> {
    let mut left = LeftRoom::new();
    left.timeline.limited = false;
    left.timeline.prev_batch = Some(place_token(left_at));
    if let Some(event) = &removed.event {
        let event = RawValue::from_string(event.clone())?;
        let fields = viewer.request.filter.event_fields.as_deref();
        let event = event_fields::keep(event, fields);
        left.timeline.events.push(Raw::from_json(event));
    }
    Ok(left)
}

impl Inner {
    /// Returns whether a room was deleted in which the user had a membership.
    pub(super) async fn is_removed(&self, user: UserNum, room: RoomNum) -> Result<bool> {
        Ok(self
            .rooms
            .memory
            .of_user(user)
            .await?
            .removed(room)
            .is_some())
    }

    /// Corrects the response for a room that was deleted while it was read: the data that was read may be incomplete.
    pub(super) async fn unless_removed(
        &self,
        viewer: &Viewer<'_>,
        moment: &RoomMoment,
        added: Result<()>,
        response: &mut Response,
    ) -> Result<()> {
        if moment.inside.is_none() {
            return added;
        }
        let mine = self.rooms.memory.of_user(viewer.session.user).await?;
        let Some((left_at, removed)) = mine.removed(moment.num) else {
            return added;
        };
        let room_id = room_id(self, moment).await?;
        response.rooms.join.remove(&room_id);
        let left = removed_room(viewer, left_at, &removed)?;
        response.rooms.leave.insert(room_id, left);
        Ok(())
    }
}
