//! The profiles of users.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#profiles).

use ruma::{
    UserId,
    profile::{ProfileFieldName, ProfileFieldValue, UserProfile},
};
use serde_json::Value;

use super::{AccountLookup, Session, UserEnvironment, check_text};
use crate::{
    error::{Error, RefusalCode, Result},
    storage::{
        Db, JournalChange, WriteTx,
        users::{profile_changes, profiles, user_directory},
    },
};

/// "The whole profile MUST NOT exceed 64 KiB as canonical JSON."
const PROFILE_BYTES: usize = 64 * 1024;
/// "The key MUST NOT exceed 255 bytes."
const KEY_BYTES: usize = 255;
/// The longest display name and avatar address, in bytes. Every membership event contains them.
pub(super) const NAME_BYTES: usize = 1024;
/// The size of a field besides its key and value: quotes, colon, comma.
const FIELD_OVERHEAD: usize = 4;

/// A changed field of a profile. The name and the avatar are also part of membership events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileChange {
    pub field: ProfileFieldName,
    /// The new value; `None` when the field was removed.
    pub value: Option<Value>,
}

/// The profiles of the users of this server.
#[derive(Clone)]
pub struct UserProfiles {
    db: Db,
    lookup: AccountLookup,
}

impl UserProfiles {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment, lookup: &AccountLookup) -> Self {
        Self {
            db: environment.db.clone(),
            lookup: lookup.clone(),
        }
    }

    /// Returns the profile of a user of this server.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such user.
    pub async fn get(&self, user_id: &UserId) -> Result<UserProfile> {
        let user = self.lookup.user_num(user_id).await?;
        let mut db = self.db.read().await?;
        let mut profile = UserProfile::new();
        for row in profiles::of_user(&mut db, user).await? {
            profile.set(row.field, serde_json::from_str(&row.value)?);
        }
        Ok(profile)
    }

    /// Returns a field of the profile of a user of this server.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such user, or the field is not set.
    pub async fn field(
        &self,
        user_id: &UserId,
        field: &ProfileFieldName,
    ) -> Result<ProfileFieldValue> {
        check_text("keyName", field.as_str(), KEY_BYTES)?;
        let user = self.lookup.user_num(user_id).await?;
        let mut db = self.db.read().await?;
        let value = profiles::field(&mut db, user, field.as_str()).await?;
        let value = value.ok_or_else(|| Error::not_found("the profile has no such field"))?;
        let value = serde_json::from_str(&value)?;
        Ok(ProfileFieldValue::new(field.as_str(), value)?)
    }

    /// Sets a field of the requesting user's profile; returns `None` if it already had the value.
    ///
    /// An empty display name or avatar address removes it, as clients expect.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for the profile of another user, `RefusalCode::ProfileTooLarge`,
    /// `RefusalCode::KeyTooLarge`.
    pub async fn set_field(
        &self,
        session: &Session,
        user_id: &UserId,
        value: &ProfileFieldValue,
    ) -> Result<Option<ProfileChange>> {
        let field = value.field_name();
        check_grammar(&field)?;
        if check_value(value)? == ValueEffect::Remove {
            return self.remove_field(session, user_id, field).await;
        }
        session.must_be_user(user_id)?;
        let value = value.value().into_owned();
        let json = serde_json::to_string(&value)?;
        let mut tx = self.db.write().await?;
        let fields = profiles::of_user(&mut tx, session.user).await?;
        if fields
            .iter()
            .any(|row| row.field == field.as_str() && row.value == json)
        {
            return Ok(None);
        }
        let others = fields.iter().filter(|row| row.field != field.as_str());
        let size: usize = others
            .map(|row| row.field.len() + row.value.len() + FIELD_OVERHEAD)
            .sum();
        if size + field.as_str().len() + json.len() + FIELD_OVERHEAD > PROFILE_BYTES {
            return Err(Error::refused(
                RefusalCode::ProfileTooLarge,
                "the profile would be larger than 64 KiB".to_owned(),
            ));
        }
        profiles::set(&mut tx, session.user, field.as_str(), &json).await?;
        record_change(&mut tx, session, &field).await?;
        if field == ProfileFieldName::DisplayName {
            let name = value.as_str();
            let user_id = session.user_id.as_str();
            user_directory::set_search_text(&mut tx, session.user, user_id, name).await?;
        }
        tx.commit().await?;
        let value = Some(value);
        Ok(Some(ProfileChange { field, value }))
    }

    /// Removes a field of the requesting user's profile; returns `None` if it was not set.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for the profile of another user.
    pub async fn remove_field(
        &self,
        session: &Session,
        user_id: &UserId,
        field: ProfileFieldName,
    ) -> Result<Option<ProfileChange>> {
        session.must_be_user(user_id)?;
        check_key(&field)?;
        let mut tx = self.db.write().await?;
        if !profiles::remove(&mut tx, session.user, field.as_str()).await? {
            return Ok(None);
        }
        record_change(&mut tx, session, &field).await?;
        if field == ProfileFieldName::DisplayName {
            let user_id = session.user_id.as_str();
            user_directory::set_search_text(&mut tx, session.user, user_id, None).await?;
        }
        tx.commit().await?;
        Ok(Some(ProfileChange { field, value: None }))
    }
}

/// Records the change of a field, so that clients receive it.
async fn record_change(
    tx: &mut WriteTx,
    session: &Session,
    field: &ProfileFieldName,
) -> Result<()> {
    let (user, position) = (session.user, tx.next_position());
    profile_changes::record(tx, user, field.as_str(), position).await?;
    tx.publish(position, JournalChange::Profile { user });
    Ok(())
}

/// Checks the name of a field to set. A field whose name was set before this check existed can still be removed.
fn check_grammar(field: &ProfileFieldName) -> Result<()> {
    check_key(field)?;
    if is_namespaced(field.as_str()) {
        return Ok(());
    }
    Err(Error::invalid_param(
        "keyName must start with a letter a-z and may contain only a-z, 0-9, `-`, `_` and `.`",
    ))
}

/// Returns whether a name follows the [Common Namespaced Identifier
/// Grammar](https://spec.matrix.org/v1.19/appendices/#common-namespaced-identifier-grammar).
fn is_namespaced(name: &str) -> bool {
    let is_inner = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.');
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(is_inner)
}

fn check_key(field: &ProfileFieldName) -> Result<()> {
    if field.as_str().len() > KEY_BYTES {
        return Err(Error::refused(
            RefusalCode::KeyTooLarge,
            format!("the key is longer than {KEY_BYTES} bytes"),
        ));
    }
    check_text("keyName", field.as_str(), KEY_BYTES)
}

/// The effect of setting a value.
#[derive(PartialEq, Eq)]
enum ValueEffect {
    Set,
    Remove,
}

fn check_value(value: &ProfileFieldValue) -> Result<ValueEffect> {
    let text = match value {
        ProfileFieldValue::DisplayName(name) => name.as_str(),
        // Clients do set addresses other than mxc://; other clients then show no avatar.
        ProfileFieldValue::AvatarUrl(address) => address.as_str(),
        _ => return Ok(ValueEffect::Set),
    };
    check_text(value.field_name().as_str(), text, NAME_BYTES)?;
    Ok(if text.is_empty() {
        ValueEffect::Remove
    } else {
        ValueEffect::Set
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::users::testing::TestUsers;

    fn value(field: &str, value: Value) -> ProfileFieldValue {
        ProfileFieldValue::new(field, value).unwrap()
    }

    #[tokio::test]
    async fn the_changed_field_is_returned() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let set = async |field: &str, new: Value| {
            let value = value(field, new);
            let set = test
                .users
                .profiles
                .set_field(&alice, &alice.user_id, &value);
            set.await.unwrap()
        };

        let change = set("displayname", json!("Alice")).await.unwrap();
        assert_eq!(change.field, ProfileFieldName::DisplayName);
        assert_eq!(change.value, Some(json!("Alice")));
        assert_eq!(set("displayname", json!("Alice")).await, None);
        let profile = test.users.profiles.get(&alice.user_id).await.unwrap();
        assert_eq!(profile.get("displayname"), Some(&json!("Alice")));

        let removed = set("displayname", json!("")).await.unwrap();
        assert_eq!(removed.value, None);
        let field = test
            .users
            .profiles
            .field(&alice.user_id, &removed.field)
            .await;
        assert!(matches!(field, Err(Error::NotFound(_))));
    }

    #[tokio::test]
    async fn too_large_profiles_and_keys_are_refused() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let set = async |field: &str, new: Value| {
            let value = value(field, new);
            test.users
                .profiles
                .set_field(&alice, &alice.user_id, &value)
                .await
        };

        let large = set("org.example.a", json!("x".repeat(40_000))).await;
        assert!(large.unwrap().is_some());
        let too_large = set("org.example.b", json!("x".repeat(40_000))).await;
        assert!(matches!(
            too_large,
            Err(Error::Refused {
                code: RefusalCode::ProfileTooLarge,
                ..
            })
        ));
        let long = set(&"k".repeat(256), json!(1)).await;
        assert!(matches!(
            long,
            Err(Error::Refused {
                code: RefusalCode::KeyTooLarge,
                ..
            })
        ));
        let avatar = set("avatar_url", json!("x".repeat(2000))).await;
        assert!(matches!(avatar, Err(Error::InvalidParam(_))));
        let name = set("displayname", json!("x".repeat(2000))).await;
        assert!(matches!(name, Err(Error::InvalidParam(_))));
    }

    #[test]
    fn names_of_fields_follow_the_grammar_of_namespaced_identifiers() {
        for name in ["a", "m.tz", "org.example-1_x.y", "displayname"] {
            assert!(is_namespaced(name), "{name}");
        }
        for name in ["", "A", "bad key", "UPPER", "1a", ".a", "a/b", "ü", "m.Tz"] {
            assert!(!is_namespaced(name), "{name}");
        }
    }

    #[tokio::test]
    async fn another_users_profile_cannot_be_set() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let bob = test.session("bob").await;

        let name = value("displayname", json!("Bob"));
        let refused = test
            .users
            .profiles
            .set_field(&alice, &bob.user_id, &name)
            .await;

        assert!(matches!(refused, Err(Error::Forbidden(_))));
    }
}
