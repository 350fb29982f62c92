//! The cross-signing keys of users, and the signatures of keys.

use crate::{
    error::Result,
    numbers::UserNum,
    storage::{ReadAccess, WriteTx, number_list, text_list},
};

/// A cross-signing key.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct CrossSigningKeyRow {
    pub user_num: UserNum,
    /// `master`, `self_signing` or `user_signing`.
    pub usage: String,
    /// The public key, in unpadded base64.
    pub public_key: String,
    /// The whole key, as JSON.
    pub key: String,
}

/// A signature of a key.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct SignatureRow {
    /// The owner of the signed key.
    pub user_num: UserNum,
    /// The signed key: a device id, or the public key of a master key.
    pub target: String,
    /// The user who signed.
    pub signer: UserNum,
    /// The id of the signing key: `ed25519:…`.
    pub key_id: String,
    pub signature: String,
}

/// Stores a cross-signing key in place of the one with the same usage.
pub async fn set_key(tx: &mut WriteTx, row: &CrossSigningKeyRow) -> Result<()> {
    tx.query(
        "INSERT INTO cross_signing_keys (user_num, usage, public_key, key)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT (user_num, usage) DO UPDATE
         SET public_key = excluded.public_key, key = excluded.key",
    )
    .bind(row.user_num)
    .bind(&*row.usage)
    .bind(&*row.public_key)
    .bind(&*row.key)
    .execute()
    .await?;
    Ok(())
}

/// Returns the cross-signing keys of users.
pub async fn keys_of_users(
    db: &mut impl ReadAccess,
    users: &[UserNum],
) -> Result<Vec<CrossSigningKeyRow>> {
    db.query(
        "SELECT user_num, usage, public_key, key
         FROM cross_signing_keys
         WHERE user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($1))",
    )
    .bind(number_list(users.iter().copied()))
    .fetch_all()
    .await
}

/// Removes a cross-signing key, the signatures of it and those made with it.
pub async fn remove_key(
    tx: &mut WriteTx,
    user: UserNum,
    usage: &str,
    public_key: &str,
) -> Result<()> {
    tx.query("DELETE FROM cross_signing_keys WHERE user_num = $1 AND usage = $2")
        .bind(user)
        .bind(usage)
        .execute()
        .await?;
    remove_signatures_of(tx, user, &[public_key]).await?;
    tx.query("DELETE FROM key_signatures WHERE signer = $1 AND key_id = $2")
        .bind(user)
        .bind(format!("ed25519:{public_key}"))
        .execute()
        .await?;
    Ok(())
}

/// Removes the signatures of a user's keys, given by device id or public key.
pub async fn remove_signatures_of<S: AsRef<str>>(
    tx: &mut WriteTx,
    user: UserNum,
    targets: &[S],
) -> Result<()> {
    tx.query(
        "DELETE FROM key_signatures
         WHERE user_num = $1 AND target IN (SELECT value FROM json_each($2))",
    )
    .bind(user)
    .bind(text_list(targets))
    .execute()
    .await?;
    Ok(())
}

/// Removes all cross-signing keys of a user, the signatures of the user's keys, and those that the user made.
pub async fn remove_all(tx: &mut WriteTx, user: UserNum) -> Result<u64> {
    tx.query("DELETE FROM key_signatures WHERE user_num = $1 OR signer = $1")
        .bind(user)
        .execute()
        .await?;
    tx.query("DELETE FROM cross_signing_keys WHERE user_num = $1")
        .bind(user)
        .execute()
        .await
}

/// Stores a signature.
pub async fn set_signature(tx: &mut WriteTx, row: &SignatureRow) -> Result<()> {
    tx.query(
        "INSERT INTO key_signatures (user_num, target, signer, key_id, signature)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (user_num, target, signer, key_id) DO UPDATE
         SET signature = excluded.signature",
    )
    .bind(row.user_num)
    .bind(&*row.target)
    .bind(row.signer)
    .bind(&*row.key_id)
    .bind(&*row.signature)
    .execute()
    .await?;
    Ok(())
}

/// Returns the signatures of users' keys that their owner or `viewer` made.
pub async fn signatures(
    db: &mut impl ReadAccess,
    users: &[UserNum],
    viewer: UserNum,
) -> Result<Vec<SignatureRow>> {
    db.query(
        "SELECT user_num, target, signer, key_id, signature
         FROM key_signatures
         WHERE user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($1))
           AND (signer = user_num OR signer = $2)",
    )
    .bind(number_list(users.iter().copied()))
    .bind(viewer)
    .fetch_all()
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    fn key(usage: &str, public_key: &str) -> CrossSigningKeyRow {
        CrossSigningKeyRow {
            user_num: UserNum::new(1),
            usage: usage.to_owned(),
            public_key: public_key.to_owned(),
            key: "{}".to_owned(),
        }
    }

    fn signature(user_num: UserNum, target: &str, signer: UserNum, by: &str) -> SignatureRow {
        SignatureRow {
            user_num,
            target: target.to_owned(),
            signer,
            key_id: format!("ed25519:{by}"),
            signature: "s".to_owned(),
        }
    }

    #[tokio::test]
    async fn signatures_are_visible_to_their_signer_until_the_keys_go() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        set_key(&mut tx, &key("master", "M")).await.unwrap();
        set_key(&mut tx, &key("user_signing", "U")).await.unwrap();
        let [one, two, three] = [1, 2, 3].map(UserNum::new);
        for row in [
            signature(one, "M", one, "DEVICE"),
            signature(one, "M", two, "X"),
            signature(three, "Y", one, "U"),
        ] {
            set_signature(&mut tx, &row).await.unwrap();
            set_signature(&mut tx, &row).await.unwrap();
        }

        let seen = async |tx: &mut WriteTx, viewer| {
            signatures(tx, &[UserNum::new(1), UserNum::new(3)], viewer)
                .await
                .unwrap()
                .len()
        };
        assert_eq!(seen(&mut tx, UserNum::new(1)).await, 2);
        assert_eq!(seen(&mut tx, UserNum::new(2)).await, 2);
        assert_eq!(seen(&mut tx, UserNum::new(4)).await, 1);
        remove_key(&mut tx, UserNum::new(1), "user_signing", "U")
            .await
            .unwrap();
        assert_eq!(seen(&mut tx, UserNum::new(1)).await, 1);
        assert_eq!(
            keys_of_users(&mut tx, &[UserNum::new(1)])
                .await
                .unwrap()
                .len(),
            1
        );
        assert_eq!(remove_all(&mut tx, UserNum::new(1)).await.unwrap(), 1);
        assert_eq!(seen(&mut tx, UserNum::new(2)).await, 0);
    }
}
