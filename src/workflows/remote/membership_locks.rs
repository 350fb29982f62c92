//! Locks of memberships that other servers have to change.

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId, events::room::member::MembershipState};

use crate::{
    error::{Error, Result},
    keyed_semaphore::{KeyedPermit, KeyedSemaphore},
    numbers::UserNum,
    rooms::Rooms,
    workflows::WorkflowSources,
};

/// The number of changes to one membership that wait while another server processes an earlier one.
const MAX_WAITING_REMOTE_CHANGES: usize = 32;

/// Lets other servers change a membership only once at a time. Cheap to clone.
#[derive(Clone)]
pub(in crate::workflows) struct MembershipLocks {
    rooms: Rooms,
    remote_changes: KeyedSemaphore<(OwnedRoomId, OwnedUserId)>,
}

impl MembershipLocks {
    pub(in crate::workflows) fn new(sources: &WorkflowSources) -> Self {
        Self {
            rooms: sources.rooms.clone(),
            remote_changes: KeyedSemaphore::new(1, MAX_WAITING_REMOTE_CHANGES),
        }
    }

    /// Waits until no other request changes this membership, so that equal concurrent requests create one event.
    pub(super) async fn lock_membership(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<KeyedPermit> {
        let key = (room_id.to_owned(), user_id.to_owned());
        let place = self.remote_changes.enqueue(&key).ok_or_else(|| {
            Error::Unavailable(
                "too many requests are changing this membership, try again later".to_owned(),
            )
        })?;
        Ok(place.acquire().await)
    }

    /// Returns the membership of a user in a room, as far as this server knows it.
    pub(super) async fn known_membership(
        &self,
        user: UserNum,
        room_id: &RoomId,
    ) -> Result<MembershipState> {
        match self.rooms.memory.room_number(room_id).await {
            Ok(room) => Ok(self
                .rooms
                .memory
                .rooms_of_user(user)
                .await?
                .membership(room)),
            Err(Error::NotFound(_)) => Ok(MembershipState::Leave),
            Err(error) => Err(error),
        }
    }
}
