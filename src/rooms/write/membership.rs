//! Changes memberships: joining, inviting, leaving, kicking, banning, forgetting.
//!
//! [Room membership](https://spec.matrix.org/v1.19/client-server-api/#room-membership)

use ruma::{
    OwnedMxcUri, OwnedUserId, RoomId, UserId,
    events::{
        StateEventType,
        room::member::{MembershipState, RoomMemberEventContent},
    },
};
use serde_json::{Map, Value, value::to_raw_value};

use super::{Memberships, send::Occasion};
use crate::{
    error::{Error, Result},
    rooms::{
        NewEvent, UserRoom,
        memory::{not_in_room, room::Room},
    },
    storage::{Change, RoomNum, UserNum, rooms::memberships},
};

/// The profile of a user in a room.
#[derive(Clone, Debug, Default)]
pub struct MemberProfile {
    /// The display name.
    pub displayname: Option<String>,
    /// The avatar.
    pub avatar_url: Option<OwnedMxcUri>,
}

/// A kind of membership change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The sender joins or shows a new profile.
    Join,
    /// The sender invites the target.
    Invite,
    /// The sender leaves or declines an invitation.
    Leave,
    /// The sender removes the target.
    Kick,
    /// The sender removes the target, who may not join again.
    Ban,
    /// The sender lifts a ban.
    Unban,
    /// The sender asks for an invitation.
    Knock,
}

impl Action {
    /// Returns the membership of the target after the action.
    fn membership(self) -> MembershipState {
        match self {
            Self::Join => MembershipState::Join,
            Self::Invite => MembershipState::Invite,
            Self::Leave | Self::Kick | Self::Unban => MembershipState::Leave,
            Self::Ban => MembershipState::Ban,
            Self::Knock => MembershipState::Knock,
        }
    }
}

/// A change of a user's membership.
#[derive(Clone, Debug)]
pub struct MemberChange {
    /// The user who makes the change.
    pub sender: OwnedUserId,
    /// The user whose membership changes.
    pub target: OwnedUserId,
    /// The kind of the change.
    pub action: Action,
    /// The profile of the target; only for a join or an invitation.
    pub profile: MemberProfile,
    /// The reason of the change.
    pub reason: Option<String>,
    /// Whether an invitation is to a direct chat.
    pub is_direct: bool,
    /// Other fields that the client sets in the content of the member event.
    pub extra: Map<String, Value>,
}

/// Fields of a member event that a client cannot set when it joins, because only the server sets them.
const OWN_FIELDS: [&str; 7] = [
    "membership",
    "displayname",
    "avatar_url",
    "is_direct",
    "join_authorised_via_users_server",
    "third_party_signed",
    "third_party_invite",
];

impl MemberChange {
    /// Returns a change of a user's own membership.
    pub fn own(user_id: &UserId, action: Action, profile: MemberProfile) -> Self {
        let (sender, target) = (user_id.to_owned(), user_id.to_owned());
        Self {
            sender,
            target,
            action,
            profile,
            reason: None,
            is_direct: false,
            extra: Map::new(),
        }
    }

    /// Returns the content of the member event for this change.
    pub fn content(self) -> Result<Map<String, Value>> {
        let mut content = RoomMemberEventContent::new(self.action.membership());
        content.displayname = self.profile.displayname;
        content.avatar_url = self.profile.avatar_url;
        content.reason = self.reason;
        content.is_direct = self.is_direct.then_some(true);
        let mut whole = self.extra;
        for field in OWN_FIELDS {
            whole.remove(field);
        }
        if let Value::Object(content) = serde_json::to_value(&content)? {
            whole.extend(content);
        }
        Ok(whole)
    }

    /// Returns the member event for this change.
    pub fn event(self) -> Result<NewEvent> {
        let (sender, target) = (self.sender.clone(), self.target.clone());
        let content = to_raw_value(&self.content()?)?;
        Ok(NewEvent::state(
            sender,
            &StateEventType::RoomMember,
            target.as_str(),
            content,
        ))
    }
}

impl Memberships {
    /// Changes a membership, if the rules of the room allow it.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Forbidden`] with the rule that refuses the change, and for an unknown room. A user who wants to
    /// join or knock at an unknown room gets [`Error::NotFound`].
    pub async fn change_membership(&self, room_id: &RoomId, change: MemberChange) -> Result<()> {
        let occasion = Occasion::Membership(change.action);
        self.change_on(room_id, change, occasion).await
    }

    /// Changes a membership like [`Rooms::change_membership`], but without a request of the user: the change marks
    /// nothing as read.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`Rooms::change_membership`].
    pub async fn change_membership_for(
        &self,
        room_id: &RoomId,
        change: MemberChange,
    ) -> Result<()> {
        self.change_on(room_id, change, Occasion::Background).await
    }

    async fn change_on(
        &self,
        room_id: &RoomId,
        change: MemberChange,
        occasion: Occasion,
    ) -> Result<()> {
        let room = match change.action {
            Action::Join | Action::Knock => self.memory.room(room_id).await?,
            _ => self.memory.room_of_member(room_id).await?,
        };
        if matches!(change.action, Action::Join | Action::Knock) {
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
        if is_void(before.as_ref(), change.action)? {
            return Ok(());
        }
        let event = change.event()?;
        self.tasks
            .run_to_completion(self, async move |rooms: Self| {
                rooms.sender.send_on(num, event, occasion).await
            })
            .await?;
        Ok(())
    }

    /// Forgets a room for a user who has left it, so that nothing of the room is shown to them any more.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotLeft`] if the user has not left the room.
    pub async fn forget(&self, room_id: &RoomId, user: UserNum, user_id: &UserId) -> Result<()> {
        let room = self
            .memory
            .number(room_id)
            .await
            .map_err(|error| not_in_room(error, room_id))?;
        match self
            .memory
            .of_user(user)
            .await?
            .get(room)
            .map(|room| room.membership)
        {
            Some(MembershipState::Leave | MembershipState::Ban) => {}
            Some(_) => {
                return Err(Error::NotLeft(
                    "leave the room before you forget it".to_owned(),
                ));
            }
            None => return Err(Error::forbidden("you were never in that room")),
        }
        let user_id = user_id.to_owned();
        let mut tx = self.db.write().await?;
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

    /// Makes a user leave every room and decline every invitation.
    ///
    /// A room that refuses is skipped, so that it does not keep the user in the others.
    pub async fn leave_all(&self, user: UserNum, user_id: &UserId) -> Result<()> {
        let rooms = self.memory.of_user(user).await?;
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
            self.change_quietly(
                room,
                MemberChange::own(user_id, Action::Leave, MemberProfile::default()),
            )
            .await?;
        }
        Ok(())
    }

    /// Returns the number of rooms that a user has joined.
    pub async fn number_of_joined(&self, user: UserNum) -> Result<usize> {
        Ok(self.memory.of_user(user).await?.joined().len())
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
        for num in self.memory.of_user(user).await?.joined() {
            let room = match self.memory.room_by_number(num).await {
                // The room was deleted meanwhile.
                Err(Error::NotFound(_)) => continue,
                room => room?,
            };
            if !shows(&room, user_id, &profile) {
                self.change_quietly(
                    num,
                    MemberChange::own(user_id, Action::Join, profile.clone()),
                )
                .await?;
            }
        }
        Ok(())
    }

    /// Changes a membership in one of many rooms. A refusal is only logged.
    async fn change_quietly(&self, room: RoomNum, change: MemberChange) -> Result<()> {
        let event = change.event()?;
        let sent = self
            .tasks
            .run_to_completion(self, async move |rooms: Self| {
                rooms
                    .sender
                    .send_on(room, event, Occasion::Background)
                    .await
            })
            .await;
        if let Err(error) = sent {
            tracing::debug!(%error, room, "a room refused a membership change");
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

/// Returns whether an action would change nothing.
///
/// # Errors
///
/// Returns [`Error::Forbidden`] if the action is impossible with the current membership.
pub(crate) fn is_void(before: Option<&MembershipState>, action: Action) -> Result<bool> {
    let refuse = |reason: &str| Err(Error::forbidden(reason));
    match (action, before) {
        (Action::Join, Some(MembershipState::Join))
        | (Action::Leave, Some(MembershipState::Leave)) => Ok(true),
        (Action::Leave, None) => refuse("you are not in this room"),
        (Action::Kick, None | Some(MembershipState::Leave | MembershipState::Ban)) => {
            refuse("the user is not in this room")
        }
        (Action::Unban, before) if before != Some(&MembershipState::Ban) => {
            refuse("the user is not banned from this room")
        }
        _ => Ok(false),
    }
}
