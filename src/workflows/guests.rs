//! Guests in rooms: they may only be in rooms that permit guest access.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#guest-access).

use ruma::{
    RoomId,
    events::{
        StateEventType,
        room::guest_access::{GuestAccess, RoomGuestAccessEventContent},
    },
};

use super::Workflows;
use crate::{
    error::{Error, Result},
    rooms::{MemberChange, MemberProfile, MembershipAction, Room},
    users::Session,
};

impl Workflows {
    /// Checks that a guest may join a room. Other users always pass.
    ///
    /// # Errors
    ///
    /// [`Error::GuestAccessForbidden`].
    pub(super) async fn check_guest(&self, session: &Session, room_id: &RoomId) -> Result<()> {
        if !session.is_guest || admits_guests(&*self.rooms.memory.room(room_id).await?) {
            return Ok(());
        }
        Err(Error::GuestAccessForbidden)
    }

    /// Removes the local guests from a room that no longer permits guest access.
    pub async fn expel_guests(&self, room_id: &RoomId) -> Result<()> {
        let room = self.rooms.memory.room(room_id).await?;
        if admits_guests(&room) {
            return Ok(());
        }
        let members = room.view().local_members.clone();
        let numbers: Vec<_> = members.keys().copied().collect();
        let guests = self.users.lookup.guests_among(&numbers).await?;
        let workflows = self.clone();
        // In a task of its own: if the client disconnects, the remaining guests must still be
        // removed.
        let leaving = self.tasks.spawn(async move {
            for user_id in guests.iter().filter_map(|guest| members.get(guest)) {
                let leave = MemberChange::for_self(
                    user_id,
                    MembershipAction::Leave,
                    MemberProfile::default(),
                );
                let left = workflows
                    .rooms
                    .memberships
                    .change_membership_in_background(&room.room_id, leave);
                left.await?;
            }
            Ok(())
        });
        leaving
            .await
            .map_err(|source| Error::internal("remove guests from a room", source))?
    }
}

/// Returns whether a room permits guest access.
pub(super) fn admits_guests(room: &Room) -> bool {
    let state = room.view().state.clone();
    state
        .content::<RoomGuestAccessEventContent>(&StateEventType::RoomGuestAccess)
        .is_some_and(|content| content.guest_access == GuestAccess::CanJoin)
}
