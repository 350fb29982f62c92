//! Profiles, of this server's users and of others.

use ruma::{
    UserId,
    profile::{ProfileFieldName, ProfileFieldValue, UserProfile},
};

use super::Workflows;
use crate::error::{Error, Result};

impl Workflows {
    /// Returns the profile of a user of any server.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the user does not exist; [`Error::Unreachable`] when their server does not answer.
    pub async fn profile(&self, user_id: &UserId) -> Result<UserProfile> {
        if self.rooms.memory.is_local(user_id) {
            return self.users.profiles.get(user_id).await;
        }
        self.federation.fetch_profile(user_id, None).await
    }

    /// Returns a profile field of a user of any server.
    ///
    /// # Errors
    ///
    /// As [`Workflows::profile`]; [`Error::NotFound`] when the field is not set.
    pub async fn profile_field(
        &self,
        user_id: &UserId,
        field: &ProfileFieldName,
    ) -> Result<ProfileFieldValue> {
        if self.rooms.memory.is_local(user_id) {
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
}
