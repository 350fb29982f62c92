//! Guests in rooms: they may be in those alone that say so.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#guest-access

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
    rooms::{Action, MemberChange, MemberProfile, Room},
    users::Session,
};

impl Workflows {
    /// Checks that a guest may join a room; everybody else is not held up here.
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

    /// Takes the guests of this server out of a room that admits them no more.
    pub async fn expel_guests(&self, room_id: &RoomId) -> Result<()> {
        let room = self.rooms.memory.room(room_id).await?;
        if admits_guests(&room) {
            return Ok(());
        }
        let members = room.view().local_members.clone();
        let numbers: Vec<_> = members.keys().copied().collect();
        let guests = self.users.guests_among(&numbers).await?;
        let workflows = self.clone();
        // A task of its own: a client that hangs up now cannot leave half of them in the room.
        let leaving = self.tasks.spawn(async move {
            for user_id in guests.iter().filter_map(|guest| members.get(guest)) {
                let leave = MemberChange::own(user_id, Action::Leave, MemberProfile::default());
                let left = workflows
                    .rooms
                    .memberships
                    .change_membership_for(&room.room_id, leave);
                left.await?;
            }
            Ok(())
        });
        leaving
            .await
            .map_err(|source| Error::internal("take guests out of a room", source))?
    }
}

/// Returns whether guests may be in a room.
pub(super) fn admits_guests(room: &Room) -> bool {
    let state = room.view().state.clone();
    state
        .content::<RoomGuestAccessEventContent>(&StateEventType::RoomGuestAccess)
        .is_some_and(|content| content.guest_access == GuestAccess::CanJoin)
}
