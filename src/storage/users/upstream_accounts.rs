//! The accounts at identity providers with which users sign in.

use crate::{
    error::Result,
    numbers::UserNum,
    storage::{ReadAccess, WriteTx},
};

/// An account at an identity provider that is linked to a user.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct UpstreamAccountRow {
    /// The id of the provider in the configuration.
    pub provider: String,
    /// The id of the account at the provider.
    pub subject: String,
    pub user_num: UserNum,
    /// The name of the account, for the user.
    pub label: String,
    /// The time in milliseconds since the Unix epoch.
    pub linked_ts: i64,
}

/// Links an account. Returns `false` if it is linked already, or the user has another one of the same provider.
pub async fn insert(tx: &mut WriteTx, row: &UpstreamAccountRow) -> Result<bool> {
    let inserted = tx
        .query(
            "INSERT INTO oauth_upstream_accounts (provider, subject, user_num, label, linked_ts)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT DO NOTHING",
        )
        .bind(&*row.provider)
        .bind(&*row.subject)
        .bind(row.user_num)
        .bind(&*row.label)
        .bind(row.linked_ts)
        .execute()
        .await?;
    Ok(inserted == 1)
}

/// Returns the user to whom an account is linked.
pub async fn find(
    db: &mut impl ReadAccess,
    provider: &str,
    subject: &str,
) -> Result<Option<UserNum>> {
    db.query("SELECT user_num FROM oauth_upstream_accounts WHERE provider = $1 AND subject = $2")
        .bind(provider)
        .bind(subject)
        .fetch_scalar()
        .await
}

/// Returns the accounts of a user, by provider.
pub async fn of_user(db: &mut impl ReadAccess, user: UserNum) -> Result<Vec<UpstreamAccountRow>> {
    db.query(
        "SELECT provider, subject, user_num, label, linked_ts
         FROM oauth_upstream_accounts
         WHERE user_num = $1
         ORDER BY provider",
    )
    .bind(user)
    .fetch_all()
    .await
}

/// Unlinks the account of a user at a provider. Returns `false` if there is none.
pub async fn remove(tx: &mut WriteTx, user: UserNum, provider: &str) -> Result<bool> {
    let removed = tx
        .query("DELETE FROM oauth_upstream_accounts WHERE user_num = $1 AND provider = $2")
        .bind(user)
        .bind(provider)
        .execute()
        .await?;
    Ok(removed == 1)
}

/// Unlinks all accounts of a user.
pub async fn remove_all(tx: &mut WriteTx, user: UserNum) -> Result<()> {
    tx.query("DELETE FROM oauth_upstream_accounts WHERE user_num = $1")
        .bind(user)
        .execute()
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    const ALICE: UserNum = UserNum::new(1);
    const BOB: UserNum = UserNum::new(2);

    fn row(provider: &str, subject: &str, user_num: UserNum) -> UpstreamAccountRow {
        UpstreamAccountRow {
            provider: provider.to_owned(),
            subject: subject.to_owned(),
            user_num,
            label: "alice@example.org".to_owned(),
            linked_ts: 1,
        }
    }

    #[tokio::test]
    async fn an_account_has_one_user_and_a_user_one_account_of_a_provider() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();

        assert!(insert(&mut tx, &row("one", "a", ALICE)).await.unwrap());
        assert!(!insert(&mut tx, &row("one", "a", BOB)).await.unwrap());
        assert!(!insert(&mut tx, &row("one", "b", ALICE)).await.unwrap());
        assert!(insert(&mut tx, &row("other", "a", BOB)).await.unwrap());

        assert_eq!(find(&mut tx, "one", "a").await.unwrap(), Some(ALICE));
        assert_eq!(find(&mut tx, "one", "b").await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_accounts_of_a_user_are_listed_and_unlinked() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        for new in [row("one", "a", ALICE), row("other", "a", ALICE)] {
            insert(&mut tx, &new).await.unwrap();
        }

        assert_eq!(of_user(&mut tx, ALICE).await.unwrap().len(), 2);
        assert!(remove(&mut tx, ALICE, "one").await.unwrap());
        assert!(!remove(&mut tx, ALICE, "one").await.unwrap());
        let left = of_user(&mut tx, ALICE).await.unwrap();
        assert_eq!(left, [row("other", "a", ALICE)]);
        remove_all(&mut tx, ALICE).await.unwrap();
        assert_eq!(of_user(&mut tx, ALICE).await.unwrap(), []);
    }
}
