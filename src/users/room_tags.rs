//! The tags of rooms, which are account data of the type `m.tag`.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#room-tagging).

use ruma::{
    RoomId, UserId,
    events::tag::{TagEventContent, TagInfo, TagName, Tags},
};

use super::{
    Session, UserEnvironment, check_text,
    stored_account_data::{self, MAX_NAME_BYTES, TAG_TYPE},
};
use crate::{
    error::{Error, Result},
    numbers::{RoomNum, UserNum},
    storage::{Db, WriteTx, users::account_data},
};

/// The largest number of tags of a room: far more than a list of rooms can show.
const MAX_TAGS_PER_ROOM: usize = 100;

/// The tags that users give to rooms.
#[derive(Clone)]
pub struct RoomTags {
    db: Db,
}

/// A tag to add to a room.
#[derive(Clone, Debug)]
pub struct NewRoomTag<'a> {
    /// The name of the tag.
    pub name: &'a str,
    /// The place of the room among those with the tag.
    pub info: TagInfo,
}

impl RoomTags {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
        }
    }

    /// Returns the tags of a room.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for another user's.
    pub async fn of_room(
        &self,
        session: &Session,
        owner: &UserId,
        room_id: &RoomId,
    ) -> Result<Tags> {
        session.must_be_user(owner)?;
        let mut db = self.db.read().await?;
        let room = stored_account_data::room_number(&mut db, Some(room_id)).await?;
        let content = account_data::get(&mut db, session.user, room, TAG_TYPE).await?;
        Ok(read_tags(content.as_deref()))
    }

    /// Adds a tag to a room, or changes it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when the tag is too long or the room has too many, [`Error::Forbidden`] for another
    /// user's.
    pub async fn set(
        &self,
        session: &Session,
        owner: &UserId,
        room_id: &RoomId,
        tag: NewRoomTag<'_>,
    ) -> Result<()> {
        session.must_be_user(owner)?;
        check_text("tag", tag.name, MAX_NAME_BYTES)?;
        self.change(session, room_id, |tags| {
            tags.insert(TagName::from(tag.name), tag.info);
            if tags.len() > MAX_TAGS_PER_ROOM {
                return Err(Error::invalid_param(
                    "the room has too many tags: remove some of them",
                ));
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
    pub async fn remove(
        &self,
        session: &Session,
        owner: &UserId,
        room_id: &RoomId,
        tag: &str,
    ) -> Result<()> {
        session.must_be_user(owner)?;
        self.change(session, room_id, |tags| {
            tags.remove(&TagName::from(tag));
            Ok(())
        })
        .await
    }

    async fn change(
        &self,
        session: &Session,
        room_id: &RoomId,
        change: impl FnOnce(&mut Tags) -> Result<()>,
    ) -> Result<()> {
        let mut tx = self.db.write().await?;
        let room = stored_account_data::room_number(&mut tx, Some(room_id)).await?;
        let content = account_data::get(&mut tx, session.user, room, TAG_TYPE).await?;
        let mut tags = read_tags(content.as_deref());
        change(&mut tags)?;
        let content = serde_json::to_string(&TagEventContent::new(tags))?;
        stored_account_data::store(&mut tx, session.user, room, TAG_TYPE, &content).await?;
        stored_account_data::check_size(&mut tx, session.user).await?;
        tx.commit().await
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
    tag: &str,
    info: TagInfo,
) -> Result<()> {
    let content = account_data::get(tx, user, Some(room), TAG_TYPE).await?;
    let mut tags = read_tags(content.as_deref());
    tags.insert(TagName::from(tag), info);
    let content = serde_json::to_string(&TagEventContent::new(tags))?;
    stored_account_data::store(tx, user, Some(room), TAG_TYPE, &content).await
}

#[cfg(test)]
mod tests {
    use ruma::room_id;
    use serde_json::{Value, json};

    use super::*;
    use crate::users::testing::TestUsers;

    #[tokio::test]
    async fn tags_are_room_account_data() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let id = &alice.user_id;
        let room_id = test.room().await;
        let mut info = TagInfo::new();
        info.order = Some(0.5);
        let users = &test.users;

        for (name, info) in [("u.work", info), ("m.favourite", TagInfo::new())] {
            let tag = NewRoomTag { name, info };
            let setting = users.room_tags.set(&alice, id, room_id, tag);
            setting.await.unwrap();
        }
        users
            .room_tags
            .remove(&alice, id, room_id, "m.favourite")
            .await
            .unwrap();

        assert_eq!(
            users
                .room_tags
                .of_room(&alice, id, room_id)
                .await
                .unwrap()
                .len(),
            1
        );
        let unknown = users
            .room_tags
            .of_room(&alice, id, room_id!("!b:localhost"))
            .await;
        assert!(matches!(unknown, Err(Error::NotFound(_))));
        let content = users
            .account_data
            .get(&alice, id, Some(room_id), "m.tag")
            .await;
        let content: Value = serde_json::from_str(&content.unwrap()).unwrap();
        assert_eq!(content, json!({"tags": {"u.work": {"order": 0.5}}}));
    }
}
