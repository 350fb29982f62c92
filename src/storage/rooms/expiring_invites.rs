//! Invites that expire.

use crate::{
    error::Result,
    numbers::{RoomNum, UserNum},
    storage::{ReadAccess, WriteTx},
};

/// An invite that expires.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ExpiringInvite {
    pub room: RoomNum,
    /// The invited user.
    pub user_num: UserNum,
    /// The id of the member event.
    pub event_id: String,
    pub expires_ts: i64,
}

/// Stores when a user's invite expires.
pub async fn set(tx: &mut WriteTx, invitation: &ExpiringInvite) -> Result<()> {
    tx.query(
        "INSERT INTO expiring_invitations (room, user_num, event_id, expires_ts)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT (room, user_num) DO UPDATE
         SET event_id = excluded.event_id, expires_ts = excluded.expires_ts",
    )
    .bind(invitation.room)
    .bind(invitation.user_num)
    .bind(&invitation.event_id)
    .bind(invitation.expires_ts)
    .execute()
    .await?;
    Ok(())
}

/// Deletes the expiry of a user's invite.
pub async fn remove(tx: &mut WriteTx, room: RoomNum, user: UserNum) -> Result<()> {
    tx.query("DELETE FROM expiring_invitations WHERE room = $1 AND user_num = $2")
        .bind(room)
        .bind(user)
        .execute()
        .await?;
    Ok(())
}

/// Deletes the expiry of an invite, unless another invite has replaced it.
pub async fn remove_unless_replaced(tx: &mut WriteTx, invitation: &ExpiringInvite) -> Result<()> {
    tx.query(
        "DELETE FROM expiring_invitations WHERE room = $1 AND user_num = $2 AND event_id = $3",
    )
    .bind(invitation.room)
    .bind(invitation.user_num)
    .bind(&invitation.event_id)
    .execute()
    .await?;
    Ok(())
}

/// Returns a user's expiring invite to a room.
pub async fn get(
    db: &mut impl ReadAccess,
    room: RoomNum,
    user: UserNum,
) -> Result<Option<ExpiringInvite>> {
    db.query(
        "SELECT room, user_num, event_id, expires_ts FROM expiring_invitations
         WHERE room = $1 AND user_num = $2",
    )
    .bind(room)
    .bind(user)
    .fetch_optional()
    .await
}

/// Returns invites that have expired, the oldest first.
pub async fn expired_invites(
    db: &mut impl ReadAccess,
    now: i64,
    limit: i64,
) -> Result<Vec<ExpiringInvite>> {
    db.query(
        "SELECT room, user_num, event_id, expires_ts FROM expiring_invitations
         WHERE expires_ts <= $1 ORDER BY expires_ts LIMIT $2",
    )
    .bind(now)
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns the time at which the next invite expires.
pub async fn next_expiry(db: &mut impl ReadAccess) -> Result<Option<i64>> {
    db.query("SELECT expires_ts FROM expiring_invitations ORDER BY expires_ts LIMIT 1")
        .fetch_scalar()
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    fn invitation(event_id: &str, expires_ts: i64) -> ExpiringInvite {
        ExpiringInvite {
            room: RoomNum::new(1),
            user_num: UserNum::new(2),
            event_id: event_id.to_owned(),
            expires_ts,
        }
    }

    #[tokio::test]
    async fn an_invite_is_replaced_by_the_next_one() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let (first, second) = (invitation("$1", 10), invitation("$2", 20));

        set(&mut tx, &first).await.unwrap();
        set(&mut tx, &second).await.unwrap();
        remove_unless_replaced(&mut tx, &first).await.unwrap();

        assert!(expired_invites(&mut tx, 19, 9).await.unwrap().is_empty());
        assert_eq!(
            expired_invites(&mut tx, 20, 9).await.unwrap(),
            std::slice::from_ref(&second)
        );
        assert_eq!(next_expiry(&mut tx).await.unwrap(), Some(20));
        assert_eq!(
            get(&mut tx, RoomNum::new(1), UserNum::new(2))
                .await
                .unwrap(),
            Some(second)
        );
        remove(&mut tx, RoomNum::new(1), UserNum::new(2))
            .await
            .unwrap();
        assert_eq!(next_expiry(&mut tx).await.unwrap(), None);
    }
}
