//! The tokens in digests, with which users remove an e-mail pusher.

use super::{pushers::PusherKey, tokens::TokenHash};
use crate::{
    error::Result,
    numbers::UserNum,
    storage::{ReadAccess, WriteTx},
};

/// The pusher that a token removes.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct UnsubscribeTokenRow {
    pub user_num: UserNum,
    pub app_id: String,
    pub pushkey: String,
}

/// Stores a token, and deletes those that have expired.
pub async fn insert(
    tx: &mut WriteTx,
    hash: &TokenHash,
    key: PusherKey<'_>,
    expires_ts: i64,
    now: i64,
) -> Result<()> {
    tx.query("DELETE FROM unsubscribe_tokens WHERE expires_ts <= $1")
        .bind(now)
        .execute()
        .await?;
    tx.query(
        "INSERT INTO unsubscribe_tokens (hash, user_num, app_id, pushkey, expires_ts)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&hash[..])
    .bind(key.user)
    .bind(key.app_id)
    .bind(key.pushkey)
    .bind(expires_ts)
    .execute()
    .await?;
    Ok(())
}

/// Returns the pusher that a token removes, unless the token has expired.
pub async fn find(
    db: &mut impl ReadAccess,
    hash: &TokenHash,
    now: i64,
) -> Result<Option<UnsubscribeTokenRow>> {
    db.query(
        "SELECT user_num, app_id, pushkey
         FROM unsubscribe_tokens
         WHERE hash = $1 AND expires_ts > $2",
    )
    .bind(&hash[..])
    .bind(now)
    .fetch_optional()
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    #[tokio::test]
    async fn a_token_names_its_pusher_until_it_expires() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let user = UserNum::new(1);
        let key = PusherKey {
            user,
            app_id: "m.email",
            pushkey: "a@b",
        };
        insert(&mut tx, &[1; 32], key, 10, 0).await.unwrap();

        let found = find(&mut tx, &[1; 32], 9).await.unwrap().unwrap();
        assert_eq!((found.user_num, &*found.pushkey), (user, "a@b"));
        assert_eq!(find(&mut tx, &[2; 32], 9).await.unwrap(), None);
        assert_eq!(find(&mut tx, &[1; 32], 10).await.unwrap(), None);
        insert(&mut tx, &[1; 32], key, 30, 20).await.unwrap();
    }
}
