//! Links with which people can join rooms, and register accounts.

use std::sync::Arc;

use ruma::{
    OwnedRoomId, OwnedUserId,
    api::client::{account::register::v3::Request, uiaa::AuthData},
    events::{StateEventType, room::member::MembershipState},
};

use super::{
    WorkflowSources,
    memberships::{MembershipChanges, MembershipRequest},
    profiles::UserProfiles,
    upgrade::RoomUpgrades,
};
use crate::{
    error::{Error, Result},
    rooms::{InviteLink, MemberChange, MembershipAction, Room, Rooms},
    users::{RegisteredAccount, Session, Users},
};

/// The information that a link shows to anyone who has it.
#[derive(Debug)]
pub struct LinkPreview {
    pub room: Arc<Room>,
    pub inviter: OwnedUserId,
    /// The inviter's display name in the room.
    pub inviter_name: Option<String>,
    /// The time when the link expires.
    pub expires_at: i64,
    /// Whether it permits registration.
    pub registration: bool,
}

/// Lets people use links to rooms. Cheap to clone.
#[derive(Clone)]
pub struct LinkRedemption {
    users: Users,
    rooms: Rooms,
    profiles: UserProfiles,
    memberships: MembershipChanges,
    upgrades: RoomUpgrades,
}

impl LinkRedemption {
    pub(super) fn new(
        sources: &WorkflowSources,
        profiles: &UserProfiles,
        memberships: &MembershipChanges,
        upgrades: &RoomUpgrades,
    ) -> Self {
        Self {
            users: sources.users.clone(),
            rooms: sources.rooms.clone(),
            profiles: profiles.clone(),
            memberships: memberships.clone(),
            upgrades: upgrades.clone(),
        }
    }

    /// Returns the information that a link shows to anyone who has it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for a link that is no longer valid, whatever the reason.
    pub async fn preview_link(&self, token: &str) -> Result<LinkPreview> {
        let unknown = || Error::not_found("the link does not exist or is no longer valid");
        let link = self.rooms.invite_links.find_link(token).await?;
        if link.is_used_up() {
            return Err(unknown());
        }
        let room = match self.room_of_link(&link).await {
            Err(Error::Forbidden(_) | Error::NotFound(_)) => return Err(unknown()),
            room => room?,
        };
        let member = {
            let view = room.view();
            view.state.member(&link.creator).cloned()
        };
        Ok(LinkPreview {
            inviter_name: member.and_then(|member| member.content_str("displayname")),
            inviter: link.creator,
            expires_at: link.row.expires_ts,
            registration: self.users.registration.accepts_invite_links(),
            room,
        })
    }

    /// Lets a user join a room by a link: invites the user in the name of the link's creator, and joins the room.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for a link that is no longer valid; [`Error::Forbidden`] for a banned user, and when the
    /// creator may no longer invite.
    pub async fn redeem_link(&self, session: &Session, token: &str) -> Result<OwnedRoomId> {
        let link = self.rooms.invite_links.find_link(token).await?;
        let room = self.rooms.memory.room(&link.room_id).await?;
        let membership = room.view().state.membership(&session.user_id);
        match membership {
            MembershipState::Join => return Ok(link.room_id),
            MembershipState::Ban => {
                return Err(Error::forbidden("you are banned from this room"));
            }
            _ => {}
        }
        let room = self.room_of_link(&link).await?;
        let is_taken = self
            .rooms
            .invite_links
            .use_link(&link, session.user)
            .await?;
        let Err(refused) = self.join_by_link(session, &room, &link).await else {
            return Ok(link.room_id);
        };
        // A concurrent request may have joined the user, and a joined user cannot be invited.
        self.rooms.memory.wait_until_stored(&room).await?;
        if room.view().state.membership(&session.user_id) == MembershipState::Join {
            return Ok(link.room_id);
        }
        if is_taken {
            self.rooms
                .invite_links
                .return_link_use(&link, session.user)
                .await?;
        }
        Err(refused)
    }

    async fn join_by_link(&self, session: &Session, room: &Room, link: &InviteLink) -> Result<()> {
        let user_id = &session.user_id;
        self.rooms
            .invitations
            .withdraw_if_expired(room, user_id)
            .await?;
        let is_invited = room.view().state.membership(user_id) == MembershipState::Invite;
        if !is_invited && !room.is_public() {
            let profile = self.profiles.member_profile(user_id).await;
            let mut invitation = MemberChange::for_self(user_id, MembershipAction::Invite, profile);
            invitation.sender.clone_from(&link.creator);
            self.rooms
                .memberships
                .change_membership_in_background(&room.room_id, invitation)
                .await?;
        }
        let request = MembershipRequest::new(user_id.clone(), MembershipAction::Join, None);
        self.memberships
            .change_membership(session, &room.room_id, request)
            .await?;
        self.upgrades
            .copy_predecessor_settings(session, &room.room_id)
            .await
    }

    /// Returns the room of a link, whose creator must still be permitted to invite to it.
    async fn room_of_link(&self, link: &InviteLink) -> Result<Arc<Room>> {
        if !self.users.lookup.may_act(link.row.creator).await? {
            return Err(Error::forbidden(
                "the creator of this link may no longer invite",
            ));
        }
        self.rooms.invite_links.room_of_link(link).await
    }

    /// Creates an account. If the configuration permits it, an invite link serves as a registration token.
    ///
    /// # Errors
    ///
    /// As [`crate::users::AccountRegistration::register`]; and [`Error::Forbidden`] for a link that is no longer valid.
    pub async fn register(&self, request: Request) -> Result<RegisteredAccount> {
        if let Some(AuthData::RegistrationToken(shown)) = &request.auth
            && !self.is_link_usable(&shown.token).await?
        {
            return Err(Error::forbidden(
                "the creator of this link may no longer invite",
            ));
        }
        self.users.registration.register(request).await
    }

    /// Returns whether a token permits registration.
    pub async fn registration_token_is_valid(&self, token: &str) -> Result<bool> {
        Ok(self.users.registration_tokens.is_valid(token).await?
            && self.is_link_usable(token).await?)
    }

    /// Returns `false` if a token belongs to a link whose creator may no longer invite.
    async fn is_link_usable(&self, token: &str) -> Result<bool> {
        let link = match self.rooms.invite_links.find_link(token).await {
            Err(Error::NotFound(_)) => return Ok(true),
            link => link?,
        };
        match self.room_of_link(&link).await {
            Err(Error::Forbidden(_) | Error::NotFound(_)) => Ok(false),
            room => room.map(|_| true),
        }
    }
}

impl LinkPreview {
    /// Returns the text in a field of a state event of the room.
    pub fn state_text(&self, kind: &StateEventType, field: &str) -> Option<String> {
        let view = self.room.view();
        let text = view.state.get(kind, "")?.content_str(field);
        text.filter(|text| !text.is_empty())
    }
}
