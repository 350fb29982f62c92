//! Joining, inviting, leaving, kicking, banning, forgetting.
//!
//! [Room membership](https://spec.matrix.org/v1.19/client-server-api/#room-membership)

use ruma::{
    OwnedMxcUri, OwnedUserId, RoomId, UserId,
    events::{
        StateEventType,
        room::member::{MembershipState, RoomMemberEventContent},
    },
};
use serde_json::value::to_raw_value;

use super::{NewEvent, Rooms, send::not_in_room, warm::Room};
use crate::{
    error::{Error, Result},
    storage::{Change, UserNum, memberships},
};

/// How a user is shown in a room.
#[derive(Clone, Debug, Default)]
pub struct MemberProfile {
    /// The display name.
    pub displayname: Option<String>,
    /// The avatar.
    pub avatar_url: Option<OwnedMxcUri>,
}

/// A change of someone's membership.
#[derive(Clone, Debug)]
pub struct MemberChange {
    /// Who makes the change.
    pub sender: OwnedUserId,
    /// Whose membership changes.
    pub target: OwnedUserId,
    /// What the target becomes.
    pub membership: MembershipState,
    /// How the target is shown; only for those who join or are invited.
    pub profile: MemberProfile,
    /// Why.
    pub reason: Option<String>,
    /// Whether an invitation is to a direct chat.
    pub is_direct: bool,
}

impl MemberChange {
    /// Returns a change of one's own membership.
    pub fn own(
        user_id: &UserId,
        membership: MembershipState,
        profile: MemberProfile,
        reason: Option<String>,
    ) -> Self {
        Self {
            sender: user_id.to_owned(),
            target: user_id.to_owned(),
            membership,
            profile,
            reason,
            is_direct: false,
        }
    }

    /// Returns the member event.
    pub(super) fn event(self) -> Result<NewEvent> {
        let mut content = RoomMemberEventContent::new(self.membership);
        content.displayname = self.profile.displayname;
        content.avatar_url = self.profile.avatar_url;
        content.reason = self.reason;
        content.is_direct = self.is_direct.then_some(true);
        let content = to_raw_value(&content)?;
        Ok(NewEvent::state(
            self.sender,
            StateEventType::RoomMember,
            self.target.as_str(),
            content,
        ))
    }
}

impl Rooms {
    /// Changes a membership, if the rules of the room allow it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for an unknown room; [`Error::Forbidden`] with the rule that refuses it.
    pub async fn change_membership(&self, room_id: &RoomId, change: MemberChange) -> Result<()> {
        let num = self.number(room_id).await?;
        let room = self.room_by_number(num).await?;
        let before = room.view().state.membership(&change.target);
        if is_void(&before, &change)? {
            return Ok(());
        }
        let event = change.event()?;
        self.detached(async move |rooms: Rooms| rooms.send_now(num, event).await)
            .await?;
        Ok(())
    }

    /// Lets a user forget a room that they are not in; nothing of it is shown to them any more.
    ///
    /// # Errors
    ///
    /// [`Error::BadState`] while the user is in the room.
    pub async fn forget(&self, room_id: &RoomId, user: UserNum, user_id: &UserId) -> Result<()> {
        let room = self
            .number(room_id)
            .await
            .map_err(|error| not_in_room(error, room_id))?;
        match self
            .of_user(user)
            .await?
            .get(room)
            .map(|room| room.membership)
        {
            Some(MembershipState::Leave | MembershipState::Ban) => {}
            Some(_) => {
                return Err(Error::BadState(
                    "leave the room before you forget it".to_owned(),
                ));
            }
            None => return Err(Error::forbidden("you were never in that room")),
        }
        let user_id = user_id.to_owned();
        let mut tx = self.inner.db.write().await?;
        let position = tx.position();
        memberships::forget(&mut tx, user, room).await?;
        let change = Change::Membership {
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

    /// Shows a user's new profile in every room that the user has joined.
    ///
    /// A room that refuses is passed over: the others shall not wait for it.
    pub async fn update_profile(
        &self,
        user: UserNum,
        user_id: &UserId,
        profile: MemberProfile,
    ) -> Result<()> {
        for num in self.of_user(user).await?.joined() {
            let room = self.room_by_number(num).await?;
            if shows(&room, user_id, &profile) {
                continue;
            }
            let mut change =
                MemberChange::own(user_id, MembershipState::Join, profile.clone(), None);
            change.reason = None;
            let event = change.event()?;
            if let Err(error) = self
                .detached(async move |rooms: Rooms| rooms.send_now(num, event).await)
                .await
            {
                tracing::debug!(%error, room_id = %room.room_id, "the room refused the new profile");
            }
        }
        Ok(())
    }
}

fn shows(room: &Room, user_id: &UserId, profile: &MemberProfile) -> bool {
    let content = room
        .view()
        .state
        .member(user_id)
        .and_then(|pdu| pdu.content_as::<RoomMemberEventContent>());
    content.is_some_and(|content| {
        content.displayname == profile.displayname && content.avatar_url == profile.avatar_url
    })
}

/// Returns whether a change would change nothing; some changes need a certain membership before.
fn is_void(before: &MembershipState, change: &MemberChange) -> Result<bool> {
    let own = change.sender == change.target;
    match (&change.membership, before) {
        (MembershipState::Join, MembershipState::Join) if own => Ok(true),
        (MembershipState::Leave, MembershipState::Leave) if own => Ok(true),
        (MembershipState::Leave, MembershipState::Leave) => {
            Err(Error::forbidden("the user is not in the room"))
        }
        (MembershipState::Ban, MembershipState::Ban) => Ok(true),
        _ => Ok(false),
    }
}
