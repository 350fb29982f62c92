//! Creation of rooms.

use std::collections::HashMap;

use ruma::{OwnedRoomAliasId, OwnedRoomId, api::client::room::create_room};

use super::{
    ThirdPartyInvites, WorkflowSources, profiles::UserProfiles, remote::RemoteInvitations,
    upgrade::RoomUpgrades,
};
use crate::{
    application_services::ServiceQueries,
    error::Result,
    rooms::{CreateRoom, Rooms},
    users::{Session, Users},
};

/// Creates rooms. Cheap to clone.
#[derive(Clone)]
pub struct RoomCreator {
    rooms: Rooms,
    profiles: UserProfiles,
    remote_invitations: RemoteInvitations,
    upgrades: RoomUpgrades,
    third_party_invites: ThirdPartyInvites,
    users: Users,
    service_queries: ServiceQueries,
}

impl RoomCreator {
    pub(super) fn new(
        sources: &WorkflowSources,
        profiles: &UserProfiles,
        remote_invitations: &RemoteInvitations,
        upgrades: &RoomUpgrades,
        third_party_invites: &ThirdPartyInvites,
    ) -> Self {
        Self {
            rooms: sources.rooms.clone(),
            profiles: profiles.clone(),
            remote_invitations: remote_invitations.clone(),
            upgrades: upgrades.clone(),
            third_party_invites: third_party_invites.clone(),
            users: sources.users.clone(),
            service_queries: sources.service_queries.clone(),
        }
    }

    /// Checks that the user may create the alias in a request.
    fn check_alias(&self, session: &Session, request: &create_room::v3::Request) -> Result<()> {
        let Some(localpart) = &request.room_alias_name else {
            return Ok(());
        };
        let server_name = self.rooms.memory.server_name();
        // An alias that is not valid is refused later, with the reason.
        let Ok(alias) = OwnedRoomAliasId::try_from(format!("#{localpart}:{server_name}")) else {
            return Ok(());
        };
        self.users
            .application_services
            .check_alias(&alias, session.application_service.as_deref())
    }

    /// Creates a room for a user.
    ///
    /// # Errors
    ///
    /// [`Error::Exclusive`](crate::error::Error::Exclusive) for an alias that is reserved for an application service.
    pub async fn create_room(
        &self,
        session: &Session,
        mut request: create_room::v3::Request,
    ) -> Result<OwnedRoomId> {
        let third_party = std::mem::take(&mut request.invite_3pid);
        self.third_party_invites.check_invites(&third_party)?;
        self.check_alias(session, &request)?;
        for user_id in &request.invite {
            self.service_queries.create_user_on_demand(user_id).await?;
        }
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
        for invite in third_party {
            // The room is there, so the request has succeeded.
            if let Err(error) = self
                .third_party_invites
                .invite(session, &room_id, invite)
                .await
            {
                tracing::warn!(%error, %room_id, "an invite to an address failed while a room was created");
            }
        }
        Ok(room_id)
    }
}
