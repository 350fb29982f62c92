//! The filters that clients have stored.

use crate::{
    error::Result,
    numbers::{FilterId, UserNum},
    storage::{ReadAccess, WriteTx},
};

/// Returns the definition of a user's filter.
pub async fn get(db: &mut impl ReadAccess, user: UserNum, id: FilterId) -> Result<Option<String>> {
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
) -> Result<Option<FilterId>> {
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

/// Returns the highest id of a user's filters.
pub async fn last_id(db: &mut impl ReadAccess, user: UserNum) -> Result<Option<FilterId>> {
    let last = db
        .query(
            "SELECT MAX(id)
             FROM filters
             WHERE user_num = $1",
        )
        .bind(user)
        .fetch_scalar::<Option<FilterId>>()
        .await?;
    Ok(last.flatten())
}

/// Stores a filter under an id.
pub async fn insert(tx: &mut WriteTx, user: UserNum, id: FilterId, definition: &str) -> Result<()> {
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

        assert_eq!(last_id(&mut tx, UserNum::new(1)).await.unwrap(), None);
        insert(&mut tx, UserNum::new(1), FilterId::new(1), "{}")
            .await
            .unwrap();

        let first = Some(FilterId::new(1));
        assert_eq!(last_id(&mut tx, UserNum::new(1)).await.unwrap(), first);
        assert_eq!(find(&mut tx, UserNum::new(1), "{}").await.unwrap(), first);
        assert_eq!(find(&mut tx, UserNum::new(2), "{}").await.unwrap(), None);
        assert_eq!(
            get(&mut tx, UserNum::new(1), FilterId::new(1))
                .await
                .unwrap()
                .as_deref(),
            Some("{}")
        );
        assert_eq!(
            get(&mut tx, UserNum::new(2), FilterId::new(1))
                .await
                .unwrap(),
            None
        );
    }
}
