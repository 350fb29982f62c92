//! Creation of rooms.

use std::collections::HashMap;

use ruma::{OwnedRoomId, api::client::room::create_room};

use super::{
    WorkflowSources, profiles::UserProfiles, remote::RemoteInvitations, upgrade::RoomUpgrades,
};
use crate::{
    error::Result,
    rooms::{CreateRoom, Rooms},
    users::Session,
};

/// Creates rooms. Cheap to clone.
#[derive(Clone)]
pub struct RoomCreator {
    rooms: Rooms,
    profiles: UserProfiles,
    remote_invitations: RemoteInvitations,
    upgrades: RoomUpgrades,
}

impl RoomCreator {
    pub(super) fn new(
        sources: &WorkflowSources,
        profiles: &UserProfiles,
        remote_invitations: &RemoteInvitations,
        upgrades: &RoomUpgrades,
    ) -> Self {
        Self {
            rooms: sources.rooms.clone(),
            profiles: profiles.clone(),
            remote_invitations: remote_invitations.clone(),
            upgrades: upgrades.clone(),
        }
    }

    /// Creates a room for a user.
    pub async fn create_room(
        &self,
        session: &Session,
        request: create_room::v3::Request,
    ) -> Result<OwnedRoomId> {
        let creator = session.user_id.clone();
        let mut profiles = HashMap::new();
        for user_id in request.invite.iter().chain([&creator]) {
            profiles.insert(user_id.clone(), self.profiles.member_profile(user_id).await);
        }
        let invitations = self
            .remote_invitations
            .draft_remote_invitations(session, &request, &profiles);
        let created = CreateRoom {
            creator,
            request,
            profiles,
        };
        let room_id = self.rooms.creation.create_room(created).await?;
        self.upgrades
            .copy_predecessor_settings(session, &room_id)
            .await?;
        self.remote_invitations
            .invite_remote_users(&room_id, invitations)
            .await;
        Ok(room_id)
    }
}
