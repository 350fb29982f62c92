//! The profiles of users.

use crate::{
    error::Result,
    numbers::UserNum,
    storage::{ReadAccess, WriteTx},
};

/// A field of a user's profile.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct ProfileFieldRow {
    pub field: String,
    /// The value as JSON.
    pub value: String,
}

/// Returns the fields of a user's profile.
pub async fn of_user(db: &mut impl ReadAccess, user: UserNum) -> Result<Vec<ProfileFieldRow>> {
    db.query(
        "SELECT field, value
         FROM profiles
         WHERE user_num = $1
         ORDER BY field",
    )
    .bind(user)
    .fetch_all()
    .await
}

/// Returns a field of a user's profile as JSON.
pub async fn field(db: &mut impl ReadAccess, user: UserNum, field: &str) -> Result<Option<String>> {
    db.query(
        "SELECT value
         FROM profiles
         WHERE user_num = $1 AND field = $2",
    )
    .bind(user)
    .bind(field)
    .fetch_scalar()
    .await
}

/// Stores a field of a user's profile.
pub async fn set(tx: &mut WriteTx, user: UserNum, field: &str, value: &str) -> Result<()> {
    tx.query(
        "INSERT INTO profiles (user_num, field, value)
         VALUES ($1, $2, $3)
         ON CONFLICT (user_num, field) DO UPDATE
         SET value = excluded.value",
    )
    .bind(user)
    .bind(field)
    .bind(value)
    .execute()
    .await?;
    Ok(())
}

/// Removes a field of a user's profile. Returns `false` if there was none.
pub async fn remove(tx: &mut WriteTx, user: UserNum, field: &str) -> Result<bool> {
    let removed = tx
        .query(
            "DELETE FROM profiles
             WHERE user_num = $1 AND field = $2",
        )
        .bind(user)
        .bind(field)
        .execute()
        .await?;
    Ok(removed == 1)
}

/// Removes a user's whole profile.
pub async fn remove_all(tx: &mut WriteTx, user: UserNum) -> Result<()> {
    tx.query("DELETE FROM profiles WHERE user_num = $1")
        .bind(user)
        .execute()
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    #[tokio::test]
    async fn a_field_is_set_replaced_and_removed() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();

        set(&mut tx, UserNum::new(1), "displayname", r#""A""#)
            .await
            .unwrap();
        set(&mut tx, UserNum::new(1), "displayname", r#""B""#)
            .await
            .unwrap();
        set(&mut tx, UserNum::new(1), "m.tz", r#""UTC""#)
            .await
            .unwrap();

        let name = field(&mut tx, UserNum::new(1), "displayname")
            .await
            .unwrap();
        assert_eq!(name.as_deref(), Some(r#""B""#));
        assert_eq!(of_user(&mut tx, UserNum::new(1)).await.unwrap().len(), 2);
        assert!(remove(&mut tx, UserNum::new(1), "m.tz").await.unwrap());
        assert!(!remove(&mut tx, UserNum::new(1), "m.tz").await.unwrap());
        remove_all(&mut tx, UserNum::new(1)).await.unwrap();
        assert!(of_user(&mut tx, UserNum::new(1)).await.unwrap().is_empty());
    }
}
