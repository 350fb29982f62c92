//! Profiles, of this server's users and of others.

use ruma::{
    UserId,
    profile::{ProfileFieldName, ProfileFieldValue, UserProfile},
};

use super::WorkflowSources;
use crate::{
    application_services::ServiceQueries,
    error::{Error, Result},
    federation::Federation,
    rooms::{MemberProfile, Rooms},
    users::{ProfileChange, Session, Users},
};

/// Reads the profiles of users of any server, and publishes those of local users. Cheap to clone.
#[derive(Clone)]
pub struct UserProfiles {
    users: Users,
    rooms: Rooms,
    federation: Federation,
    service_queries: ServiceQueries,
}

impl UserProfiles {
    pub(super) fn new(sources: &WorkflowSources) -> Self {
        Self {
            users: sources.users.clone(),
            rooms: sources.rooms.clone(),
            federation: sources.federation.clone(),
            service_queries: sources.service_queries.clone(),
        }
    }

    /// Returns the profile of a user of any server.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the user does not exist; [`Error::Unreachable`] when their server does not answer.
    pub async fn profile(&self, user_id: &UserId) -> Result<UserProfile> {
        if self.rooms.memory.is_local(user_id) {
            self.service_queries.create_user_on_demand(user_id).await?;
            return self.users.profiles.get(user_id).await;
        }
        self.federation.fetch_profile(user_id, None).await
    }

    /// Returns a profile field of a user of any server.
    ///
    /// # Errors
    ///
    /// As [`UserProfiles::profile`]; [`Error::NotFound`] when the field is not set.
    pub async fn profile_field(
        &self,
        user_id: &UserId,
        field: &ProfileFieldName,
    ) -> Result<ProfileFieldValue> {
        if self.rooms.memory.is_local(user_id) {
            self.service_queries.create_user_on_demand(user_id).await?;
            return self.users.profiles.field(user_id, field).await;
        }
        let profile = self
            .federation
            .fetch_profile(user_id, Some(field.clone()))
            .await?;
        let value = profile.get(field.as_str()).filter(|value| !value.is_null());
        let value =
            value.ok_or_else(|| Error::not_found("the user has not set this profile field"))?;
        ProfileFieldValue::new(field.as_str(), value.clone()).map_err(|error| {
            Error::Unreachable(format!("the other server sent an invalid answer: {error}"))
        })
    }

    /// Publishes a changed profile in the rooms of the user.
    pub async fn publish_profile(
        &self,
        session: &Session,
        change: Option<ProfileChange>,
    ) -> Result<()> {
        let is_shown = change
            .is_some_and(|change| matches!(change.field.as_str(), "displayname" | "avatar_url"));
        if !is_shown {
            return Ok(());
        }
        let profile = self.member_profile(&session.user_id).await;
        self.rooms
            .memberships
            .update_profile(session.user, &session.user_id, profile)
            .await
    }

    /// Returns the profile that a user has in rooms; an empty one for users of other servers.
    pub(super) async fn member_profile(&self, user_id: &UserId) -> MemberProfile {
        let Ok(profile) = self.users.profiles.get(user_id).await else {
            return MemberProfile::default();
        };
        let text = |field: &str| {
            profile
                .get(field)
                .and_then(|value| value.as_str())
                .map(ToOwned::to_owned)
        };
        MemberProfile {
            displayname: text("displayname"),
            avatar_url: text("avatar_url").map(Into::into),
        }
    }
}
