//! The filters that clients store for `/sync` and `/messages`.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#filtering).

use std::ops::Deref;

use ruma::{UserId, api::client::filter::FilterDefinition, canonical_json::to_canonical_value};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Session, UserEnvironment};
use crate::{
    error::{Error, Result},
    matrix::is_known_format,
    numbers::{FilterId, UserNum},
    storage::{Db, users::filters},
};

/// The largest number of filters of a user. Clients store one or two for each of their versions.
const MAX_FILTERS_PER_USER: i64 = 200;
/// The largest filter, in bytes.
const MAX_FILTER_BYTES: usize = 64 * 1024;

/// The number of profile fields that a filter names, and the length of their names.
const MAX_PROFILE_FIELDS: usize = 100;
const MAX_PROFILE_FIELD_BYTES: usize = 255;
/// The field of a filter that names profile fields.
const PROFILE_FIELDS_KEY: &str = "org.matrix.msc4429.profile_fields";

/// The filter of a sync.
#[derive(Clone, Debug, Default)]
pub struct SyncFilter {
    definition: FilterDefinition,
    /// The profile fields whose changes are sent.
    ///
    /// See [MSC4429](https://github.com/matrix-org/matrix-spec-proposals/pull/4429).
    pub profile_fields: Vec<String>,
}

#[derive(Default, Deserialize)]
struct ProfileFieldFilter {
    #[serde(default)]
    ids: Vec<String>,
}

#[derive(Deserialize)]
struct UnstableFilterFields {
    #[serde(default, rename = "org.matrix.msc4429.profile_fields")]
    profile_fields: ProfileFieldFilter,
}

impl Deref for SyncFilter {
    type Target = FilterDefinition;

    fn deref(&self) -> &FilterDefinition {
        &self.definition
    }
}

impl From<FilterDefinition> for SyncFilter {
    fn from(definition: FilterDefinition) -> Self {
        Self {
            definition,
            profile_fields: Vec::new(),
        }
    }
}

impl SyncFilter {
    /// Reads a filter.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when it is not valid.
    pub fn parse(json: &str) -> Result<Self> {
        let invalid = |_| Error::invalid_param("the filter is not valid");
        let definition: FilterDefinition = serde_json::from_str(json).map_err(invalid)?;
        let fields: UnstableFilterFields = serde_json::from_str(json).map_err(invalid)?;
        if !is_known_format(&definition.event_format) {
            return Err(Error::invalid_param(
                "event_format must be client or federation",
            ));
        }
        let profile_fields = fields.profile_fields.ids;
        let is_too_long = |field: &String| field.len() > MAX_PROFILE_FIELD_BYTES;
        if profile_fields.len() > MAX_PROFILE_FIELDS || profile_fields.iter().any(is_too_long) {
            return Err(Error::invalid_param(format!(
                "a filter may name at most {MAX_PROFILE_FIELDS} profile fields of {MAX_PROFILE_FIELD_BYTES} bytes"
            )));
        }
        Ok(Self {
            definition,
            profile_fields,
        })
    }

    /// Returns the filter as JSON.
    pub fn to_json(&self) -> Result<Value> {
        let mut filter = serde_json::to_value(&self.definition)?;
        if let Some(fields) = filter.as_object_mut()
            && !self.profile_fields.is_empty()
        {
            let ids = json!({ "ids": self.profile_fields });
            fields.insert(PROFILE_FIELDS_KEY.to_owned(), ids);
        }
        Ok(filter)
    }
}

/// The stored filters of users.
#[derive(Clone)]
pub struct StoredFilters {
    db: Db,
}

impl StoredFilters {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
        }
    }

    /// Stores a filter and returns its id. Equal filters have the same id.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when it is too large, or the user has too many; [`Error::Forbidden`] for another user.
    pub async fn create(
        &self,
        session: &Session,
        owner: &UserId,
        filter: &SyncFilter,
    ) -> Result<String> {
        session.must_be_user(owner)?;
        let definition = to_canonical_value(filter.to_json()?)
            .map_err(|e| Error::invalid_param(format!("the filter is not canonical: {e}")))?
            .to_string();
        if definition.len() > MAX_FILTER_BYTES {
            return Err(Error::invalid_param("the filter is too large"));
        }
        let user = session.user;
        let mut tx = self.db.write().await?;
        if let Some(id) = filters::find(&mut tx, user, &definition).await? {
            return Ok(id.to_string());
        }
        let last = filters::last_id(&mut tx, user).await?;
        let id = last.map_or(FilterId::FIRST, FilterId::next);
        if id.as_i64() > MAX_FILTERS_PER_USER {
            return Err(Error::invalid_param("the user has too many filters"));
        }
        filters::insert(&mut tx, user, id, &definition).await?;
        tx.commit().await?;
        Ok(id.to_string())
    }

    /// Returns a stored filter.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none with this id.
    pub async fn get(&self, user: UserNum, id: &str) -> Result<SyncFilter> {
        let unknown = || Error::not_found("there is no such filter");
        let id: FilterId = id.parse().map_err(|_| unknown())?;
        let mut db = self.db.read().await?;
        let definition = filters::get(&mut db, user, id).await?;
        SyncFilter::parse(&definition.ok_or_else(unknown)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::testing::TestUsers;

    #[tokio::test]
    async fn the_same_definition_has_the_same_id() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let bob = test.session("bob").await;
        let read = |value: Value| SyncFilter::parse(&value.to_string()).unwrap();
        let one = read(json!({"room": {"timeline": {"limit": 10}}}));
        let other = read(json!({"room": {"timeline": {"limit": 20}}}));

        let first = test
            .users
            .filters
            .create(&alice, &alice.user_id, &one)
            .await
            .unwrap();
        let again = test
            .users
            .filters
            .create(&alice, &alice.user_id, &one)
            .await
            .unwrap();
        let second = test
            .users
            .filters
            .create(&alice, &alice.user_id, &other)
            .await
            .unwrap();

        assert_eq!(first, again);
        assert_ne!(first, second);
        let stored = test.users.filters.get(alice.user, &second).await.unwrap();
        assert_eq!(stored.room.timeline.limit, other.room.timeline.limit);
        for id in ["999", "x", ""] {
            let none = test.users.filters.get(alice.user, id).await;
            assert!(matches!(none, Err(Error::NotFound(_))));
        }
        let bobs = test.users.filters.get(bob.user, &first).await;
        assert!(matches!(bobs, Err(Error::NotFound(_))));
    }
}
