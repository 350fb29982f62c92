//! Creation of rooms.

use std::collections::HashMap;

use ruma::{OwnedRoomAliasId, OwnedRoomId, api::client::room::create_room};

use super::{
    WorkflowSources, profiles::UserProfiles, remote::RemoteInvitations, upgrade::RoomUpgrades,
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
    users: Users,
    service_queries: ServiceQueries,
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
        request: create_room::v3::Request,
    ) -> Result<OwnedRoomId> {
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
        Ok(room_id)
    }
}
