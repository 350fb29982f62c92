//! Global account data, and account data of rooms.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#client-config).

use ruma::{EventId, RoomId, UserId};
use serde_json::{Map, Value};

use super::{
    Session, UserEnvironment, UserPushRules, check_text, push_rules,
    stored_account_data::{self, MAX_NAME_BYTES, PUSH_RULES_TYPE},
};
use crate::{
    error::{Error, RefusalCode, Result},
    numbers::{Position, RoomNum, UserNum},
    storage::{
        Db,
        users::account_data::{self, AccountData},
    },
};

/// The account data type for the fully read marker of a room.
const FULLY_READ_TYPE: &str = "m.fully_read";
/// The account data types that only the server sets.
const SERVER_SET_TYPES: [&str; 2] = [FULLY_READ_TYPE, PUSH_RULES_TYPE];
/// The account data type for the users that a user ignores.
const IGNORED_USERS_TYPE: &str = "m.ignored_user_list";
/// The account data of users, as clients read and set it.
#[derive(Clone)]
pub struct AccountDataEntries {
    db: Db,
    push_rules: UserPushRules,
}

/// An account data entry, as a user sets it.
#[derive(Clone, Copy, Debug)]
pub struct AccountDataEntry<'a> {
    /// The room to which it belongs; `None` for a global one.
    pub room_id: Option<&'a RoomId>,
    /// Its type.
    pub kind: &'a str,
    /// Its content as JSON.
    pub content: &'a str,
}

impl<'a> AccountDataEntry<'a> {
    /// Returns the entry that removes one of a type.
    pub fn removed(room_id: Option<&'a RoomId>, kind: &'a str) -> Self {
        Self {
            room_id,
            kind,
            content: account_data::REMOVED_CONTENT,
        }
    }
}

impl AccountDataEntries {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment, push_rules: &UserPushRules) -> Self {
        Self {
            db: environment.db.clone(),
            push_rules: push_rules.clone(),
        }
    }

    /// Returns the content of an account data entry as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none, [`Error::Forbidden`] for another user's.
    pub async fn get(
        &self,
        session: &Session,
        owner: &UserId,
        room_id: Option<&RoomId>,
        kind: &str,
    ) -> Result<String> {
        session.must_be_user(owner)?;
        check_text("type", kind, MAX_NAME_BYTES)?;
        if room_id.is_none() && kind == PUSH_RULES_TYPE {
            let rules = self.push_rules.all(session.user, &session.user_id).await?;
            return push_rules::push_rules_content(&rules);
        }
        let mut db = self.db.read().await?;
        let room = stored_account_data::room_number(&mut db, room_id).await?;
        let content = account_data::get(&mut db, session.user, room, kind).await?;
        let content = content.filter(|content| content != account_data::REMOVED_CONTENT);
        content.ok_or_else(|| Error::not_found("there is no such account data"))
    }

    /// Returns a user's account data that changed after one position and up to another, in order.
    ///
    /// It does not contain push rules that the user never changed: see [`UserPushRules::all`].
    pub async fn changed_between(
        &self,
        user: UserNum,
        after: Position,
        up_to: Position,
    ) -> Result<Vec<AccountData>> {
        let mut db = self.db.read().await?;
        account_data::changed_between(&mut db, user, after, up_to).await
    }

    /// Sets an account data entry. An empty object removes it (MSC3391).
    ///
    /// # Errors
    ///
    /// `RefusalCode::ReadOnly` for types that only the server sets, [`Error::BadJson`] when the content is not an
    /// object,
    /// [`Error::InvalidParam`] for users who try to ignore themselves, [`Error::Forbidden`] for another user's.
    pub async fn set(
        &self,
        session: &Session,
        owner: &UserId,
        entry: AccountDataEntry<'_>,
    ) -> Result<()> {
        let AccountDataEntry {
            room_id,
            kind,
            content,
        } = entry;
        session.must_be_user(owner)?;
        check_text("type", kind, MAX_NAME_BYTES)?;
        if SERVER_SET_TYPES.contains(&kind) {
            return Err(Error::refused(
                RefusalCode::ReadOnly,
                format!("{kind} cannot be set through this endpoint"),
            ));
        }
        let object = serde_json::from_str::<Map<String, Value>>(content)
            .map_err(|_| Error::BadJson("the content must be a JSON object".to_owned()))?;
        if room_id.is_none() && kind == IGNORED_USERS_TYPE {
            must_not_ignore_oneself(&object, owner)?;
        }
        let content = if object.is_empty() {
            account_data::REMOVED_CONTENT
        } else {
            content
        };
        let mut tx = self.db.write().await?;
        let room = stored_account_data::room_number(&mut tx, room_id).await?;
        stored_account_data::store(&mut tx, session.user, room, kind, content).await?;
        stored_account_data::check_size(&mut tx, session.user).await?;
        tx.commit().await
    }

    /// Stores the event up to which a user has read a room.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#fully-read-markers).
    pub async fn set_fully_read(
        &self,
        session: &Session,
        room: RoomNum,
        event_id: &EventId,
    ) -> Result<()> {
        let content = serde_json::json!({ "event_id": event_id }).to_string();
        let (user, room) = (session.user, Some(room));
        let mut tx = self.db.write().await?;
        stored_account_data::store(&mut tx, user, room, FULLY_READ_TYPE, &content).await?;
        tx.commit().await
    }
}

/// Checks that a user does not ignore themselves.
fn must_not_ignore_oneself(content: &Map<String, Value>, user_id: &UserId) -> Result<()> {
    let ignored = content.get("ignored_users").and_then(Value::as_object);
    if ignored.is_some_and(|ignored| ignored.contains_key(user_id.as_str())) {
        return Err(Error::invalid_param("you cannot ignore yourself"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::testing::TestUsers;

    #[tokio::test]
    async fn clients_set_only_objects_of_types_that_are_theirs() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let id = &alice.user_id;
        let set = async |kind: &str, content: &str| {
            let entry = AccountDataEntry {
                room_id: None,
                kind,
                content,
            };
            let set = test.users.account_data.set(&alice, id, entry);
            set.await
        };

        set("org.example", r#"{"a":1}"#).await.unwrap();
        let list = set("org.example", "[]").await;
        assert!(matches!(list, Err(Error::BadJson(_))));
        for own in SERVER_SET_TYPES {
            assert!(matches!(
                set(own, "{}").await,
                Err(Error::Refused {
                    code: RefusalCode::ReadOnly,
                    ..
                })
            ));
        }

        let content = test.users.account_data.get(&alice, id, None, "org.example");
        assert_eq!(content.await.unwrap(), r#"{"a":1}"#);
        let room_id = test.room().await;
        let none = test
            .users
            .account_data
            .get(&alice, id, Some(room_id), "org.example");
        assert!(matches!(none.await, Err(Error::NotFound(_))));
    }

    #[tokio::test]
    async fn account_data_has_a_position() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let id = &alice.user_id;
        let room_id = test.room().await;
        let before = test.test.db.journal().published_position();

        let entry = AccountDataEntry {
            room_id: Some(room_id),
            kind: "k",
            content: r#"{"a":1}"#,
        };
        let set = test.users.account_data.set(&alice, id, entry);
        set.await.unwrap();

        let now = test.test.db.journal().published_position();
        let changed = test
            .users
            .account_data
            .changed_between(alice.user, before, now);
        let changed = changed.await.unwrap();
        assert_eq!(changed.len(), 1);
        assert!(changed[0].kind == "k" && changed[0].room().is_some());
        let none = test
            .users
            .account_data
            .changed_between(alice.user, now, now);
        assert!(none.await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn default_push_rules_are_readable_but_not_a_change() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;

        let rules = test
            .users
            .account_data
            .get(&alice, &alice.user_id, None, PUSH_RULES_TYPE);
        assert!(rules.await.unwrap().starts_with(r#"{"global":{"#));
        let changed =
            test.users
                .account_data
                .changed_between(alice.user, Position::ZERO, Position::MAX);
        assert!(changed.await.unwrap().is_empty());
    }
}
