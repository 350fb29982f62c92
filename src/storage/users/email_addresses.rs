//! The e-mail addresses of accounts.

use crate::{
    error::Result,
    numbers::UserNum,
    storage::{ReadAccess, WriteTx},
};

/// An e-mail address of an account.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct EmailAddressRow {
    /// The address in lower case.
    pub address: String,
    pub user_num: UserNum,
    /// The time at which the user showed that they receive messages there.
    pub validated_ts: i64,
    /// The time at which it was added to the account.
    pub added_ts: i64,
}

/// Adds an address to an account. Returns `false` if an account has it already.
pub async fn insert(tx: &mut WriteTx, row: &EmailAddressRow) -> Result<bool> {
    let inserted = tx
        .query(
            "INSERT INTO email_addresses (address, user_num, validated_ts, added_ts)
             VALUES ($1, $2, $3, $4)
             ON CONFLICT (address) DO NOTHING",
        )
        .bind(row.address.as_str())
        .bind(row.user_num)
        .bind(row.validated_ts)
        .bind(row.added_ts)
        .execute()
        .await?;
    Ok(inserted == 1)
}

/// Returns the user whose account has an address.
pub async fn owner(db: &mut impl ReadAccess, address: &str) -> Result<Option<UserNum>> {
    db.query("SELECT user_num FROM email_addresses WHERE address = $1")
        .bind(address)
        .fetch_scalar()
        .await
}

/// Returns the addresses of a user, in the order in which they were added.
pub async fn of_user(db: &mut impl ReadAccess, user: UserNum) -> Result<Vec<EmailAddressRow>> {
    db.query(
        "SELECT address, user_num, validated_ts, added_ts
         FROM email_addresses
         WHERE user_num = $1
         ORDER BY added_ts, address",
    )
    .bind(user)
    .fetch_all()
    .await
}

/// Removes an address of a user. Returns `false` if the user does not have it.
pub async fn remove(tx: &mut WriteTx, user: UserNum, address: &str) -> Result<bool> {
    let removed = tx
        .query("DELETE FROM email_addresses WHERE user_num = $1 AND address = $2")
        .bind(user)
        .bind(address)
        .execute()
        .await?;
    Ok(removed == 1)
}

/// Removes all addresses of a user.
pub async fn remove_all(tx: &mut WriteTx, user: UserNum) -> Result<()> {
    tx.query("DELETE FROM email_addresses WHERE user_num = $1")
        .bind(user)
        .execute()
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    fn row(user: i64, address: &str, added_ts: i64) -> EmailAddressRow {
        EmailAddressRow {
            address: address.to_owned(),
            user_num: UserNum::new(user),
            validated_ts: 1,
            added_ts,
        }
    }

    #[tokio::test]
    async fn an_address_belongs_to_one_account() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();

        assert!(insert(&mut tx, &row(1, "a@b", 5)).await.unwrap());
        assert!(!insert(&mut tx, &row(2, "a@b", 6)).await.unwrap());
        let owner_of = owner(&mut tx, "a@b").await.unwrap();
        assert_eq!(owner_of, Some(UserNum::new(1)));
        assert!(!remove(&mut tx, UserNum::new(2), "a@b").await.unwrap());
        assert!(remove(&mut tx, UserNum::new(1), "a@b").await.unwrap());
        assert_eq!(owner(&mut tx, "a@b").await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_addresses_of_a_user_are_listed_and_removed() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        for new in [row(1, "c@b", 5), row(1, "a@b", 6), row(2, "d@b", 1)] {
            insert(&mut tx, &new).await.unwrap();
        }

        let listed = of_user(&mut tx, UserNum::new(1)).await.unwrap();
        assert_eq!(listed, [row(1, "c@b", 5), row(1, "a@b", 6)]);
        remove_all(&mut tx, UserNum::new(1)).await.unwrap();
        assert!(of_user(&mut tx, UserNum::new(1)).await.unwrap().is_empty());
        assert_eq!(of_user(&mut tx, UserNum::new(2)).await.unwrap().len(), 1);
    }
}
