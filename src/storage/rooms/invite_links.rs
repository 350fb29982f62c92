//! Links that let people into rooms, and their uses.

use crate::{
    error::Result,
    numbers::{InviteLinkNum, RoomNum, UserNum},
    storage::{ReadAccess, WriteTx},
};

/// A link in the table.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct InviteLinkRow {
    pub num: InviteLinkNum,
    /// The secret in the link.
    pub token: String,
    /// The room that the link leads to.
    pub room: RoomNum,
    pub creator: UserNum,
    pub created_ts: i64,
    pub expires_ts: i64,
    /// The number of users who may use it; `None` for any number.
    pub max_uses: Option<i64>,
    /// The number of users who have used it.
    pub uses: i64,
    /// The creator's label for it.
    pub label: Option<String>,
}

impl InviteLinkRow {
    /// Returns whether another user may use it.
    pub fn has_uses_left(&self) -> bool {
        self.max_uses.is_none_or(|most| self.uses < most)
    }
}

/// The result of an attempt to use a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkUse {
    /// The user has used it now.
    FirstUse,
    /// The user had used it before.
    RepeatedUse,
    /// The link does not exist any longer, or no other user may use it.
    Refused,
}

/// Stores a link.
pub async fn insert(tx: &mut WriteTx, link: &InviteLinkRow) -> Result<()> {
    tx.query(
        "INSERT INTO invite_links (token, room, creator, created_ts, expires_ts, max_uses, uses, label)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(&link.token)
    .bind(link.room)
    .bind(link.creator)
    .bind(link.created_ts)
    .bind(link.expires_ts)
    .bind(link.max_uses)
    .bind(link.uses)
    .bind(link.label.as_deref())
    .execute()
    .await?;
    Ok(())
}

/// Returns a link that has not expired.
pub async fn find(
    db: &mut impl ReadAccess,
    token: &str,
    now: i64,
) -> Result<Option<InviteLinkRow>> {
    db.query(
        "SELECT num, token, room, creator, created_ts, expires_ts, max_uses, uses, label
         FROM invite_links WHERE token = $1 AND expires_ts > $2",
    )
    .bind(token)
    .bind(now)
    .fetch_optional()
    .await
}

/// Returns the links into a room that have not expired, the newest first.
pub async fn of_room(
    db: &mut impl ReadAccess,
    room: RoomNum,
    now: i64,
) -> Result<Vec<InviteLinkRow>> {
    db.query(
        "SELECT num, token, room, creator, created_ts, expires_ts, max_uses, uses, label
         FROM invite_links WHERE room = $1 AND expires_ts > $2 ORDER BY num DESC",
    )
    .bind(room)
    .bind(now)
    .fetch_all()
    .await
}

/// Removes a link. Returns whether there was one.
pub async fn remove(tx: &mut WriteTx, room: RoomNum, token: &str) -> Result<bool> {
    let removed = tx
        .query("DELETE FROM invite_links WHERE room = $1 AND token = $2")
        .bind(room)
        .bind(token)
        .execute()
        .await?;
    Ok(removed == 1)
}

/// Removes the links that a user created.
pub async fn remove_of_creator(tx: &mut WriteTx, creator: UserNum) -> Result<()> {
    tx.query("DELETE FROM invite_links WHERE creator = $1")
        .bind(creator)
        .execute()
        .await?;
    Ok(())
}

/// Removes the links into a room.
pub async fn remove_of_room(tx: &mut WriteTx, room: RoomNum) -> Result<()> {
    tx.query("DELETE FROM invite_links WHERE room = $1")
        .bind(room)
        .execute()
        .await?;
    Ok(())
}

/// Removes the links that have expired by now.
pub async fn remove_expired(tx: &mut WriteTx, now: i64) -> Result<()> {
    tx.query("DELETE FROM invite_links WHERE expires_ts <= $1")
        .bind(now)
        .execute()
        .await?;
    Ok(())
}

/// Returns the time at which the next link expires.
pub async fn next_expiry(db: &mut impl ReadAccess) -> Result<Option<i64>> {
    db.query("SELECT expires_ts FROM invite_links ORDER BY expires_ts LIMIT 1")
        .fetch_scalar()
        .await
}

/// Records that a user uses a link. A repeated use by the same user is counted once, and the number
/// of users is limited.
pub async fn use_link(tx: &mut WriteTx, token: &str, user: UserNum, now: i64) -> Result<LinkUse> {
    let Some(link) = find(tx, token, now).await? else {
        return Ok(LinkUse::Refused);
    };
    let is_new = tx
        .query(
            "INSERT INTO invite_link_uses (link, user_num) VALUES ($1, $2)
             ON CONFLICT (link, user_num) DO NOTHING",
        )
        .bind(link.num)
        .bind(user)
        .execute()
        .await?;
    if is_new == 0 {
        return Ok(LinkUse::RepeatedUse);
    }
    let is_left = tx
        .query(
            "UPDATE invite_links SET uses = uses + 1
             WHERE num = $1 AND (max_uses IS NULL OR uses < max_uses)",
        )
        .bind(link.num)
        .execute()
        .await?;
    if is_left == 1 {
        return Ok(LinkUse::FirstUse);
    }
    remove_use(tx, link.num, user).await?;
    Ok(LinkUse::Refused)
}

/// Undoes a user's use of a link.
pub async fn undo_use(tx: &mut WriteTx, link: InviteLinkNum, user: UserNum) -> Result<()> {
    if remove_use(tx, link, user).await? {
        tx.query("UPDATE invite_links SET uses = uses - 1 WHERE num = $1")
            .bind(link)
            .execute()
            .await?;
    }
    Ok(())
}

async fn remove_use(tx: &mut WriteTx, link: InviteLinkNum, user: UserNum) -> Result<bool> {
    let removed = tx
        .query("DELETE FROM invite_link_uses WHERE link = $1 AND user_num = $2")
        .bind(link)
        .bind(user)
        .execute()
        .await?;
    Ok(removed == 1)
}

/// Returns whether a user has used a link.
pub async fn has_used(
    db: &mut impl ReadAccess,
    link: InviteLinkNum,
    user: UserNum,
) -> Result<bool> {
    let found: Option<i64> = db
        .query("SELECT link FROM invite_link_uses WHERE link = $1 AND user_num = $2")
        .bind(link)
        .bind(user)
        .fetch_scalar()
        .await?;
    Ok(found.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    fn link(token: &str, max_uses: Option<i64>) -> InviteLinkRow {
        InviteLinkRow {
            num: InviteLinkNum::new(0),
            token: token.to_owned(),
            room: RoomNum::new(1),
            creator: UserNum::new(2),
            created_ts: 0,
            expires_ts: 100,
            max_uses,
            uses: 0,
            label: None,
        }
    }

    #[tokio::test]
    async fn uses_are_counted_once_per_user_up_to_the_limit() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        insert(&mut tx, &link("t", Some(2))).await.unwrap();

        assert_eq!(
            use_link(&mut tx, "t", UserNum::new(5), 99).await.unwrap(),
            LinkUse::FirstUse
        );
        assert_eq!(
            use_link(&mut tx, "t", UserNum::new(5), 99).await.unwrap(),
            LinkUse::RepeatedUse
        );
        assert_eq!(
            use_link(&mut tx, "t", UserNum::new(6), 99).await.unwrap(),
            LinkUse::FirstUse
        );
        assert_eq!(
            use_link(&mut tx, "t", UserNum::new(7), 99).await.unwrap(),
            LinkUse::Refused
        );
        assert_eq!(
            use_link(&mut tx, "t", UserNum::new(5), 100).await.unwrap(),
            LinkUse::Refused
        );
        assert_eq!(
            use_link(&mut tx, "other", UserNum::new(5), 99)
                .await
                .unwrap(),
            LinkUse::Refused
        );
        let found = find(&mut tx, "t", 99).await.unwrap().unwrap();
        assert_eq!(found.uses, 2);
        assert!(!has_used(&mut tx, found.num, UserNum::new(7)).await.unwrap());
        undo_use(&mut tx, found.num, UserNum::new(6)).await.unwrap();
        undo_use(&mut tx, found.num, UserNum::new(6)).await.unwrap();
        assert_eq!(
            use_link(&mut tx, "t", UserNum::new(7), 99).await.unwrap(),
            LinkUse::FirstUse
        );
    }

    #[tokio::test]
    async fn links_are_removed_by_expiry_creator_or_room() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let all = async |tx: &mut WriteTx| of_room(tx, RoomNum::new(1), 0).await.unwrap().len();

        insert(&mut tx, &link("a", None)).await.unwrap();
        insert(&mut tx, &link("b", None)).await.unwrap();
        assert_eq!(next_expiry(&mut tx).await.unwrap(), Some(100));
        remove_expired(&mut tx, 99).await.unwrap();
        assert!(!remove(&mut tx, RoomNum::new(9), "a").await.unwrap());
        assert!(remove(&mut tx, RoomNum::new(1), "a").await.unwrap());
        assert_eq!(all(&mut tx).await, 1);
        remove_of_creator(&mut tx, UserNum::new(2)).await.unwrap();
        assert_eq!(all(&mut tx).await, 0);
        insert(&mut tx, &link("c", None)).await.unwrap();
        use_link(&mut tx, "c", UserNum::new(5), 0).await.unwrap();
        remove_of_room(&mut tx, RoomNum::new(1)).await.unwrap();
        insert(&mut tx, &link("d", None)).await.unwrap();
        remove_expired(&mut tx, 100).await.unwrap();
        assert_eq!(all(&mut tx).await, 0);
    }
}
