//! Global account data, room account data, and the tags of rooms.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#client-config).

use ruma::{
    EventId, RoomId, UserId,
    events::tag::{TagEventContent, TagInfo, TagName, Tags},
};
use serde_json::{Map, Value};

use super::{Session, Users, check_text, push_rules};
use crate::{
    error::{Error, Result},
    storage::{
        JournalChange, Position, ReadAccess, RoomNum, UserNum, WriteTx,
        rooms::room_table,
        users::account_data::{self, AccountData},
    },
};

/// The longest type of account data and the longest tag, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// The largest number of a user's account data entries, in all rooms and globally, and their total size.
const MAX_ENTRIES: i64 = 20_000;
const MAX_TOTAL_BYTES: i64 = 10 * 1024 * 1024;
/// The largest number of tags of a room: far more than a list of rooms can show.
const MAX_TAGS_PER_ROOM: usize = 100;
/// The account data type for the fully read marker of a room.
const FULLY_READ_TYPE: &str = "m.fully_read";
/// The account data types that only the server sets.
const SERVER_SET_TYPES: [&str; 2] = [FULLY_READ_TYPE, PUSH_RULES_TYPE];
/// The account data type for the users that a user ignores.
const IGNORED_USERS_TYPE: &str = "m.ignored_user_list";
/// The account data type for the push rules.
pub(super) const PUSH_RULES_TYPE: &str = "m.push_rules";
/// The account data type for the tags of a room.
pub(super) const TAG_TYPE: &str = "m.tag";

impl Users {
    /// Returns the content of an account data entry as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none, [`Error::Forbidden`] for another user's.
    pub async fn account_data(
        &self,
        session: &Session,
        owner: &UserId,
        room_id: Option<&RoomId>,
        kind: &str,
    ) -> Result<String> {
        session.must_be_user(owner)?;
        check_text("type", kind, MAX_NAME_BYTES)?;
        if room_id.is_none() && kind == PUSH_RULES_TYPE {
            let rules = self.push_rules(session.user, &session.user_id).await?;
            return push_rules::push_rules_content(&rules);
        }
        let mut db = self.inner.db.read().await?;
        let room = room_number(&mut db, room_id).await?;
        let content = account_data::get(&mut db, session.user, room, kind).await?;
        let content = content.filter(|content| content != account_data::REMOVED_CONTENT);
        content.ok_or_else(|| Error::not_found("there is no such account data"))
    }

    /// Returns a user's account data that changed after one position and up to another, in order.
    ///
    /// It does not contain push rules that the user never changed: see [`Users::push_rules`].
    pub async fn account_data_changed(
        &self,
        user: UserNum,
        after: Position,
        up_to: Position,
    ) -> Result<Vec<AccountData>> {
        let mut db = self.inner.db.read().await?;
        account_data::changed_between(&mut db, user, after, up_to).await
    }

    /// Sets an account data entry. An empty object removes it (MSC3391).
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`] for types that only the server sets, [`Error::BadJson`] when the content is not an object,
    /// [`Error::InvalidParam`] for users who try to ignore themselves, [`Error::Forbidden`] for another user's.
    pub async fn set_account_data(
        &self,
        session: &Session,
        owner: &UserId,
        room_id: Option<&RoomId>,
        event: (&str, &str),
    ) -> Result<()> {
        let (kind, content) = event;
        session.must_be_user(owner)?;
        check_text("type", kind, MAX_NAME_BYTES)?;
        if SERVER_SET_TYPES.contains(&kind) {
            return Err(Error::ReadOnly(format!(
                "{kind} cannot be set through this endpoint"
            )));
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
        let mut tx = self.inner.db.write().await?;
        let room = room_number(&mut tx, room_id).await?;
        store_account_data(&mut tx, session, room, kind, content).await?;
        check_size(&mut tx, session.user).await?;
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
        let mut tx = self.inner.db.write().await?;
        store_account_data(&mut tx, session, Some(room), FULLY_READ_TYPE, &content).await?;
        tx.commit().await
    }

    /// Returns the tags of a room.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for another user's.
    pub async fn tags(&self, session: &Session, owner: &UserId, room_id: &RoomId) -> Result<Tags> {
        session.must_be_user(owner)?;
        let mut db = self.inner.db.read().await?;
        let room = room_number(&mut db, Some(room_id)).await?;
        let content = account_data::get(&mut db, session.user, room, TAG_TYPE).await?;
        Ok(read_tags(content.as_deref()))
    }

    /// Adds a tag to a room, or changes it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when the tag is too long or the room has too many, [`Error::Forbidden`] for another
    /// user's.
    pub async fn set_tag(
        &self,
        session: &Session,
        owner: &UserId,
        room_id: &RoomId,
        tag: (&str, TagInfo),
    ) -> Result<()> {
        let (name, info) = tag;
        session.must_be_user(owner)?;
        check_text("tag", name, MAX_NAME_BYTES)?;
        self.change_tags(session, room_id, |tags| {
            tags.insert(TagName::from(name), info);
            if tags.len() > MAX_TAGS_PER_ROOM {
                return Err(Error::invalid_param("the room has too many tags"));
            }
            Ok(())
        })
        .await
    }

    /// Removes a tag from a room.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for another user's.
    pub async fn remove_tag(
        &self,
        session: &Session,
        owner: &UserId,
        room_id: &RoomId,
        tag: &str,
    ) -> Result<()> {
        session.must_be_user(owner)?;
        self.change_tags(session, room_id, |tags| {
            tags.remove(&TagName::from(tag));
            Ok(())
        })
        .await
    }

    async fn change_tags(
        &self,
        session: &Session,
        room_id: &RoomId,
        change: impl FnOnce(&mut Tags) -> Result<()>,
    ) -> Result<()> {
        let mut tx = self.inner.db.write().await?;
        let room = room_number(&mut tx, Some(room_id)).await?;
        let content = account_data::get(&mut tx, session.user, room, TAG_TYPE).await?;
        let mut tags = read_tags(content.as_deref());
        change(&mut tags)?;
        let content = serde_json::to_string(&TagEventContent::new(tags))?;
        store_account_data(&mut tx, session, room, TAG_TYPE, &content).await?;
        check_size(&mut tx, session.user).await?;
        tx.commit().await
    }
}

/// Checks that the account data of a user stays within the limits. Every device reads all of it in its initial sync.
///
/// # Errors
///
/// [`Error::TooLarge`] when it does not.
async fn check_size(tx: &mut WriteTx, user: UserNum) -> Result<()> {
    let size = account_data::size(tx, user).await?;
    if size.count > MAX_ENTRIES || size.bytes > MAX_TOTAL_BYTES {
        return Err(Error::TooLarge(format!(
            "a user may have at most {MAX_ENTRIES} account data entries with {MAX_TOTAL_BYTES} bytes of it"
        )));
    }
    Ok(())
}

/// Checks that a user does not ignore themselves.
fn must_not_ignore_oneself(content: &Map<String, Value>, user_id: &UserId) -> Result<()> {
    let ignored = content.get("ignored_users").and_then(Value::as_object);
    if ignored.is_some_and(|ignored| ignored.contains_key(user_id.as_str())) {
        return Err(Error::invalid_param("you cannot ignore yourself"));
    }
    Ok(())
}

/// Returns the number of a room.
///
/// # Errors
///
/// [`Error::NotFound`] when this server does not know it.
async fn room_number(
    db: &mut impl ReadAccess,
    room_id: Option<&RoomId>,
) -> Result<Option<RoomNum>> {
    let Some(room_id) = room_id else {
        return Ok(None);
    };
    match room_table::find_number(db, room_id.as_str()).await? {
        Some(room) => Ok(Some(room)),
        None => Err(Error::not_found("this server does not know the room")),
    }
}

/// Reads the tags of a room. Content that a client stored and that is not valid counts as no tags.
fn read_tags(content: Option<&str>) -> Tags {
    content
        .and_then(|content| serde_json::from_str::<TagEventContent>(content).ok())
        .map(|content| content.tags)
        .unwrap_or_default()
}

/// Adds a tag to a user's room on behalf of the server.
pub(super) async fn add_tag(
    tx: &mut WriteTx,
    user: UserNum,
    room: RoomNum,
    (name, info): (&str, TagInfo),
) -> Result<()> {
    let content = account_data::get(tx, user, Some(room), TAG_TYPE).await?;
    let mut tags = read_tags(content.as_deref());
    tags.insert(TagName::from(name), info);
    let content = serde_json::to_string(&TagEventContent::new(tags))?;
    store_account_data_for(tx, user, Some(room), TAG_TYPE, &content).await
}

/// Stores an account data entry of the session's user and publishes the change.
pub(super) async fn store_account_data(
    tx: &mut WriteTx,
    session: &Session,
    room: Option<RoomNum>,
    kind: &str,
    content: &str,
) -> Result<()> {
    store_account_data_for(tx, session.user, room, kind, content).await
}

/// Stores an account data entry of a user and publishes the change.
pub(super) async fn store_account_data_for(
    tx: &mut WriteTx,
    user: UserNum,
    room: Option<RoomNum>,
    kind: &str,
    content: &str,
) -> Result<()> {
    let position = account_data::set(tx, user, room, kind, content).await?;
    let change = JournalChange::AccountData {
        user,
        room,
        kind: kind.into(),
        content: content.into(),
    };
    tx.publish(position, change);
    Ok(())
}

#[cfg(test)]
mod tests {
    use ruma::room_id;
    use serde_json::json;

    use super::*;
    use crate::users::testing::TestUsers;

    /// Creates a room that this server knows.
    async fn room(test: &TestUsers) -> &'static RoomId {
        let room_id = room_id!("!a:localhost");
        let mut tx = test.test.db.write().await.unwrap();
        let made = room_table::insert(&mut tx, room_id.as_str(), "12").await;
        assert!(made.unwrap().is_some());
        tx.commit().await.unwrap();
        room_id
    }

    #[tokio::test]
    async fn clients_set_only_objects_of_types_that_are_theirs() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let id = &alice.user_id;
        let set = async |kind: &str, content: &str| {
            let set = test
                .users
                .set_account_data(&alice, id, None, (kind, content));
            set.await
        };

        set("org.example", r#"{"a":1}"#).await.unwrap();
        let list = set("org.example", "[]").await;
        assert!(matches!(list, Err(Error::BadJson(_))));
        for own in SERVER_SET_TYPES {
            assert!(matches!(set(own, "{}").await, Err(Error::ReadOnly(_))));
        }

        let content = test.users.account_data(&alice, id, None, "org.example");
        assert_eq!(content.await.unwrap(), r#"{"a":1}"#);
        let room_id = room(&test).await;
        let none = test
            .users
            .account_data(&alice, id, Some(room_id), "org.example");
        assert!(matches!(none.await, Err(Error::NotFound(_))));
    }

    #[tokio::test]
    async fn account_data_has_a_position() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let id = &alice.user_id;
        let room_id = room(&test).await;
        let before = test.test.db.journal().published_position();

        let set = test
            .users
            .set_account_data(&alice, id, Some(room_id), ("k", r#"{"a":1}"#));
        set.await.unwrap();

        let now = test.test.db.journal().published_position();
        let changed = test.users.account_data_changed(alice.user, before, now);
        let changed = changed.await.unwrap();
        assert_eq!(changed.len(), 1);
        assert!(changed[0].kind == "k" && changed[0].room().is_some());
        let none = test.users.account_data_changed(alice.user, now, now);
        assert!(none.await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn default_push_rules_are_readable_but_not_a_change() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;

        let rules = test
            .users
            .account_data(&alice, &alice.user_id, None, PUSH_RULES_TYPE);
        assert!(rules.await.unwrap().starts_with(r#"{"global":{"#));
        let changed = test.users.account_data_changed(alice.user, 0, i64::MAX);
        assert!(changed.await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn tags_are_room_account_data() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let id = &alice.user_id;
        let room_id = room(&test).await;
        let mut info = TagInfo::new();
        info.order = Some(0.5);
        let users = &test.users;

        users
            .set_tag(&alice, id, room_id, ("u.work", info))
            .await
            .unwrap();
        let favourite = ("m.favourite", TagInfo::new());
        users.set_tag(&alice, id, room_id, favourite).await.unwrap();
        users
            .remove_tag(&alice, id, room_id, "m.favourite")
            .await
            .unwrap();

        assert_eq!(users.tags(&alice, id, room_id).await.unwrap().len(), 1);
        let unknown = users.tags(&alice, id, room_id!("!b:localhost")).await;
        assert!(matches!(unknown, Err(Error::NotFound(_))));
        let content = users.account_data(&alice, id, Some(room_id), "m.tag").await;
        let content: Value = serde_json::from_str(&content.unwrap()).unwrap();
        assert_eq!(content, json!({"tags": {"u.work": {"order": 0.5}}}));
    }
}
