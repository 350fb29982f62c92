//! The filters that clients have stored.

use crate::{
    error::Result,
    storage::{ReadAccess, UserNum, WriteTx},
};

/// Returns the definition of a user's filter.
pub async fn get(db: &mut impl ReadAccess, user: UserNum, id: i64) -> Result<Option<String>> {
    db.query(
        "SELECT definition
         FROM filters
         WHERE user_num = $1 AND id = $2",
    )
    .bind(user)
    .bind(id)
    .fetch_scalar()
    .await
}

/// Returns the id of a user's filter with this definition.
pub async fn find(
    db: &mut impl ReadAccess,
    user: UserNum,
    definition: &str,
) -> Result<Option<i64>> {
    db.query(
        "SELECT id
         FROM filters
         WHERE user_num = $1 AND definition = $2",
    )
    .bind(user)
    .bind(definition)
    .fetch_scalar()
    .await
}

/// Returns the highest id of a user's filters, or 0 if there are none.
pub async fn last_id(db: &mut impl ReadAccess, user: UserNum) -> Result<i64> {
    let last = db
        .query(
            "SELECT COALESCE(MAX(id), 0)
             FROM filters
             WHERE user_num = $1",
        )
        .bind(user)
        .fetch_scalar()
        .await?;
    Ok(last.unwrap_or_default())
}

/// Stores a filter under an id.
pub async fn insert(tx: &mut WriteTx, user: UserNum, id: i64, definition: &str) -> Result<()> {
    tx.query(
        "INSERT INTO filters (user_num, id, definition)
         VALUES ($1, $2, $3)",
    )
    .bind(user)
    .bind(id)
    .bind(definition)
    .execute()
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    #[tokio::test]
    async fn filters_belong_to_their_user() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();

        assert_eq!(last_id(&mut tx, UserNum::new(1)).await.unwrap(), 0);
        insert(&mut tx, UserNum::new(1), 1, "{}").await.unwrap();

        assert_eq!(last_id(&mut tx, UserNum::new(1)).await.unwrap(), 1);
        assert_eq!(find(&mut tx, UserNum::new(1), "{}").await.unwrap(), Some(1));
        assert_eq!(find(&mut tx, UserNum::new(2), "{}").await.unwrap(), None);
        assert_eq!(
            get(&mut tx, UserNum::new(1), 1).await.unwrap().as_deref(),
            Some("{}")
        );
        assert_eq!(get(&mut tx, UserNum::new(2), 1).await.unwrap(), None);
    }
}
