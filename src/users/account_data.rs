//! Account data, globally and by room, and the tags of rooms.
//!
//! See <https://spec.matrix.org/v1.19/client-server-api/#client-config>.

use ruma::events::tag::{TagEventContent, TagInfo, TagName, Tags};
use serde_json::{Map, Value};

use super::{Session, Users, check_text};
use crate::{
    error::{Error, Result},
    storage::{
        Change, Position, RoomNum, UserNum, WriteTx,
        account_data::{self, AccountData},
    },
};

/// The longest type of account data and the longest tag, in bytes.
const NAME_BYTES: usize = 255;
/// The most tags of a room: far more than a list of rooms can show.
const TAGS: usize = 100;
/// The account data that the server keeps itself.
const OWN: [&str; 2] = ["m.fully_read", "m.push_rules"];
/// The account data that holds the tags of a room.
const TAG: &str = "m.tag";

impl Users {
    /// Returns the content of a piece of account data as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none.
    pub async fn account_data(
        &self,
        user: UserNum,
        room: Option<RoomNum>,
        kind: &str,
    ) -> Result<String> {
        check_text("type", kind, NAME_BYTES)?;
        let mut db = self.inner.db.read().await?;
        let content = account_data::get(&mut db, user, room, kind).await?;
        content.ok_or_else(|| Error::not_found("there is no such account data"))
    }

    /// Returns a user's account data that changed after one position, up to another, in order.
    pub async fn account_data_changed(
        &self,
        user: UserNum,
        after: Position,
        up_to: Position,
    ) -> Result<Vec<AccountData>> {
        let mut db = self.inner.db.read().await?;
        account_data::changed(&mut db, user, after, up_to).await
    }

    /// Sets a piece of account data.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`] for what the server keeps, [`Error::BadJson`] when the content is no object.
    pub async fn set_account_data(
        &self,
        session: &Session,
        room: Option<RoomNum>,
        kind: &str,
        content: &str,
    ) -> Result<()> {
        check_text("type", kind, NAME_BYTES)?;
        if OWN.contains(&kind) {
            return Err(Error::ReadOnly(format!(
                "{kind} cannot be set through this endpoint"
            )));
        }
        serde_json::from_str::<Map<String, Value>>(content)
            .map_err(|_| Error::BadJson("the content is no JSON object".to_owned()))?;
        let mut tx = self.inner.db.write().await?;
        store(&mut tx, session.user, room, kind, content).await?;
        tx.commit().await
    }

    /// Returns the tags of a room.
    pub async fn tags(&self, user: UserNum, room: RoomNum) -> Result<Tags> {
        let mut db = self.inner.db.read().await?;
        let content = account_data::get(&mut db, user, Some(room), TAG).await?;
        Ok(read_tags(content.as_deref()))
    }

    /// Puts a tag on a room, or changes it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when the tag is too long or the room has too many.
    pub async fn set_tag(
        &self,
        session: &Session,
        room: RoomNum,
        tag: &str,
        info: TagInfo,
    ) -> Result<()> {
        check_text("tag", tag, NAME_BYTES)?;
        let tag = TagName::from(tag);
        self.change_tags(session, room, |tags| {
            tags.insert(tag, info);
            if tags.len() > TAGS {
                return Err(Error::invalid_param("the room has too many tags"));
            }
            Ok(())
        })
        .await
    }

    /// Takes a tag from a room.
    pub async fn remove_tag(&self, session: &Session, room: RoomNum, tag: &str) -> Result<()> {
        let tag = TagName::from(tag);
        self.change_tags(session, room, |tags| {
            tags.remove(&tag);
            Ok(())
        })
        .await
    }

    async fn change_tags(
        &self,
        session: &Session,
        room: RoomNum,
        change: impl FnOnce(&mut Tags) -> Result<()>,
    ) -> Result<()> {
        let mut tx = self.inner.db.write().await?;
        let content = account_data::get(&mut tx, session.user, Some(room), TAG).await?;
        let mut tags = read_tags(content.as_deref());
        change(&mut tags)?;
        let content = serde_json::to_string(&TagEventContent::new(tags))?;
        store(&mut tx, session.user, Some(room), TAG, &content).await?;
        tx.commit().await
    }
}

/// Reads the tags of a room; a client may have stored anything, which counts as none.
fn read_tags(content: Option<&str>) -> Tags {
    content
        .and_then(|content| serde_json::from_str::<TagEventContent>(content).ok())
        .map(|content| content.tags)
        .unwrap_or_default()
}

/// Stores a piece of account data and tells of it.
pub(super) async fn store(
    tx: &mut WriteTx,
    user: UserNum,
    room: Option<RoomNum>,
    kind: &str,
    content: &str,
) -> Result<()> {
    let position = account_data::set(tx, user, room, kind, content).await?;
    let change = Change::AccountData {
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
    use serde_json::json;

    use super::*;
    use crate::users::testing::TestUsers;

    #[tokio::test]
    async fn account_data_is_an_object_and_not_the_servers_own() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let set = async |kind: &str, content: &str| {
            test.users
                .set_account_data(&alice, None, kind, content)
                .await
        };

        set("org.example", r#"{"a":1}"#).await.unwrap();
        assert!(matches!(
            set("org.example", "[]").await,
            Err(Error::BadJson(_))
        ));
        assert!(matches!(
            set("m.push_rules", "{}").await,
            Err(Error::ReadOnly(_))
        ));
        assert!(matches!(
            set("m.fully_read", "{}").await,
            Err(Error::ReadOnly(_))
        ));

        let content = test
            .users
            .account_data(alice.user, None, "org.example")
            .await;
        assert_eq!(content.unwrap(), r#"{"a":1}"#);
        let none = test
            .users
            .account_data(alice.user, Some(1), "org.example")
            .await;
        assert!(matches!(none, Err(Error::NotFound(_))));
    }

    #[tokio::test]
    async fn account_data_has_a_position() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let before = test.test.db.journal().published();

        let set = test.users.set_account_data(&alice, Some(3), "k", "{}");
        set.await.unwrap();

        let now = test.test.db.journal().published();
        let changed = test
            .users
            .account_data_changed(alice.user, before, now)
            .await;
        let changed = changed.unwrap();
        assert_eq!(changed.len(), 1);
        assert_eq!(
            (changed[0].kind.as_str(), changed[0].room()),
            ("k", Some(3))
        );
        let none = test.users.account_data_changed(alice.user, now, now).await;
        assert!(none.unwrap().is_empty());
    }

    #[tokio::test]
    async fn tags_are_room_account_data() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let mut info = TagInfo::new();
        info.order = Some(0.5);

        test.users.set_tag(&alice, 3, "u.work", info).await.unwrap();
        test.users
            .set_tag(&alice, 3, "m.favourite", TagInfo::new())
            .await
            .unwrap();
        test.users
            .remove_tag(&alice, 3, "m.favourite")
            .await
            .unwrap();

        assert_eq!(test.users.tags(alice.user, 3).await.unwrap().len(), 1);
        assert!(test.users.tags(alice.user, 4).await.unwrap().is_empty());
        let content = test.users.account_data(alice.user, Some(3), "m.tag").await;
        let content: Value = serde_json::from_str(&content.unwrap()).unwrap();
        assert_eq!(content, json!({"tags": {"u.work": {"order": 0.5}}}));
    }
}
