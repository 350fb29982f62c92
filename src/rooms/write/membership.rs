//! Changes memberships: joining, inviting, leaving, kicking, banning, forgetting.
//!
//! [Room membership](https://spec.matrix.org/v1.19/client-server-api/#room-membership)

use ruma::{
    RoomId, UserId,
    events::room::member::{MembershipState, RoomMemberEventContent},
};

use super::{
    Memberships,
    member_change::{MemberChange, MemberProfile, MembershipAction, is_redundant_change},
    send_occasion::SendOccasion,
};
use crate::{
    error::{Error, RefusalCode, Result},
    numbers::{RoomNum, UserNum},
    rooms::{
        UserRoom,
        memory::{not_in_room, room::Room},
    },
    storage::{JournalChange, rooms::memberships},
};

impl Memberships {
    /// Changes a membership, if the rules of the room allow it.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Forbidden`] with the rule that refuses the change, and for an unknown room. A user who wants to
    /// join or knock at an unknown room gets [`Error::NotFound`].
    pub async fn change_membership(&self, room_id: &RoomId, change: MemberChange) -> Result<()> {
        let occasion = SendOccasion::Membership(change.action);
        self.change_with_occasion(room_id, change, occasion).await
    }

    /// Changes a membership like [`Memberships::change_membership`], but without a request of the user: the change
    /// marks nothing as read.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`Memberships::change_membership`].
    pub async fn change_membership_in_background(
        &self,
        room_id: &RoomId,
        change: MemberChange,
    ) -> Result<()> {
        self.change_with_occasion(room_id, change, SendOccasion::Background)
            .await
    }

    async fn change_with_occasion(
        &self,
        room_id: &RoomId,
        change: MemberChange,
        occasion: SendOccasion,
    ) -> Result<()> {
        let room = match change.action {
            MembershipAction::Join | MembershipAction::Knock => self.memory.room(room_id).await?,
            _ => self.memory.room_of_member(room_id).await?,
        };
        if matches!(
            change.action,
            MembershipAction::Join | MembershipAction::Knock
        ) {
            self.invitations
                .withdraw_if_expired(&room, &change.target)
                .await?;
        }
        let num = room.num;
        let (sender, before) = {
            let state = &room.view().state;
            let before = state.member(&change.target);
            let before = before.and_then(|pdu| pdu.membership());
            (state.membership(&change.sender), before)
        };
        if change.sender != change.target && sender != MembershipState::Join {
            // The error must not reveal who is in the room.
            return Err(Error::forbidden("you are not in this room"));
        }
        if is_redundant_change(before.as_ref(), change.action)? {
            return Ok(());
        }
        let event = change.into_event()?;
        self.sender
            .send_to_completion(num, event, occasion)
            .await
            .map(drop)
    }

    /// Forgets a room for a user who has left it, so that nothing of the room is shown to them any more.
    ///
    /// # Errors
    ///
    /// Returns `RefusalCode::NotLeft` if the user has not left the room.
    pub async fn forget_room(
        &self,
        room_id: &RoomId,
        user: UserNum,
        user_id: &UserId,
    ) -> Result<()> {
        let room = self
            .memory
            .room_number(room_id)
            .await
            .map_err(|error| not_in_room(error, room_id))?;
        match self
            .memory
            .rooms_of_user(user)
            .await?
            .get(room)
            .map(|room| room.membership)
        {
            Some(MembershipState::Leave | MembershipState::Ban) => {}
            Some(_) => {
                return Err(Error::refused(
                    RefusalCode::NotLeft,
                    "leave the room before you forget it".to_owned(),
                ));
            }
            None => return Err(Error::forbidden("you were never in that room")),
        }
        let user_id = user_id.to_owned();
        let mut tx = self.db.write().await?;
        let position = tx.next_position();
        memberships::forget(&mut tx, user, room).await?;
        let change = JournalChange::Membership {
            user,
            user_id,
            local: true,
            room,
            membership: None,
            stripped_state: None,
        };
        tx.publish(position, change);
        tx.commit().await
    }

    /// Makes a user leave every room and decline every invitation.
    ///
    /// A room that refuses is skipped, so that it does not keep the user in the others.
    pub async fn leave_all_rooms(&self, user: UserNum, user_id: &UserId) -> Result<()> {
        let rooms = self.memory.rooms_of_user(user).await?;
        let is_in = |room: &UserRoom| {
            !matches!(
                room.membership,
                MembershipState::Leave | MembershipState::Ban
            )
        };
        let rooms: Vec<RoomNum> = rooms
            .all()
            .iter()
            .filter(|(_, room)| is_in(room))
            .map(|(num, _)| *num)
            .collect();
        for room in rooms {
            self.try_change_membership(
                room,
                MemberChange::for_self(user_id, MembershipAction::Leave, MemberProfile::default()),
            )
            .await?;
        }
        Ok(())
    }

    /// Returns the number of rooms that a user has joined.
    pub async fn count_joined_rooms(&self, user: UserNum) -> Result<usize> {
        Ok(self.memory.rooms_of_user(user).await?.joined_rooms().len())
    }

    /// Shows a user's new profile in every room that the user has joined.
    ///
    /// A room that refuses is skipped, so that it does not keep the old profile in the others.
    pub async fn update_profile(
        &self,
        user: UserNum,
        user_id: &UserId,
        profile: MemberProfile,
    ) -> Result<()> {
        for num in self.memory.rooms_of_user(user).await?.joined_rooms() {
            let room = match self.memory.room_by_number(num).await {
                // The room was deleted meanwhile.
                Err(Error::NotFound(_)) => continue,
                room => room?,
            };
            if !shows_profile(&room, user_id, &profile) {
                self.try_change_membership(
                    num,
                    MemberChange::for_self(user_id, MembershipAction::Join, profile.clone()),
                )
                .await?;
            }
        }
        Ok(())
    }

    /// Changes a membership in one of many rooms. A refusal is only logged.
    async fn try_change_membership(&self, room: RoomNum, change: MemberChange) -> Result<()> {
        let event = change.into_event()?;
        let sent = self
            .sender
            .send_to_completion(room, event, SendOccasion::Background)
            .await;
        if let Err(error) = sent {
            tracing::debug!(%error, room_num = %room, "a room refused a membership change");
        }
        Ok(())
    }
}

fn shows_profile(room: &Room, user_id: &UserId, profile: &MemberProfile) -> bool {
    let content = room
        .view()
        .state
        .member(user_id)
        .and_then(|pdu| pdu.content_as::<RoomMemberEventContent>());
    content.is_some_and(|content| {
        content.displayname == profile.displayname && content.avatar_url == profile.avatar_url
    })
}
