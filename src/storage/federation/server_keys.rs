//! The signing keys of other servers.

use crate::{
    error::Result,
    numbers::StringNum,
    storage::{ReadAccess, WriteTx},
};

/// A key of another server.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ServerKeyRow {
    /// The key id, with its algorithm.
    pub key_id: String,
    /// The public key, in unpadded base64.
    pub public_key: String,
    /// The time until which its signatures are accepted.
    pub valid_until_ts: i64,
}

/// A list of keys that a server published.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct KeyDocumentRow {
    /// The signed JSON.
    pub document: String,
    pub valid_until_ts: i64,
}

/// The most keys of a server that are stored: as many as one document has.
const MAX_KEYS: i64 = 64;
/// The most former documents of a server that are stored.
const MAX_FORMER_DOCUMENTS: i64 = 8;

/// Returns the stored keys of a server.
pub async fn of_server(db: &mut impl ReadAccess, server: StringNum) -> Result<Vec<ServerKeyRow>> {
    db.query("SELECT key_id, public_key, valid_until_ts FROM server_keys WHERE server = $1")
        .bind(server)
        .fetch_all()
        .await
}

/// Stores a key of a server in place of the one with the same id.
pub async fn set_key(tx: &mut WriteTx, server: StringNum, row: &ServerKeyRow) -> Result<()> {
    tx.query(
        "INSERT INTO server_keys (server, key_id, public_key, valid_until_ts)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT (server, key_id) DO UPDATE
         SET public_key = excluded.public_key, valid_until_ts = excluded.valid_until_ts",
    )
    .bind(server)
    .bind(&*row.key_id)
    .bind(&*row.public_key)
    .bind(row.valid_until_ts)
    .execute()
    .await?;
    Ok(())
}

/// Deletes surplus keys of a server, the ones that expired first.
pub async fn delete_surplus_keys(tx: &mut WriteTx, server: StringNum) -> Result<()> {
    tx.query(
        "DELETE FROM server_keys
         WHERE server = $1 AND key_id NOT IN (
             SELECT key_id FROM server_keys
             WHERE server = $1 ORDER BY valid_until_ts DESC, key_id LIMIT $2)",
    )
    .bind(server)
    .bind(MAX_KEYS)
    .execute()
    .await?;
    Ok(())
}

/// Returns the document that a server published last.
pub async fn latest_document(
    db: &mut impl ReadAccess,
    server: StringNum,
) -> Result<Option<KeyDocumentRow>> {
    db.query("SELECT document, valid_until_ts FROM server_key_documents WHERE server = $1")
        .bind(server)
        .fetch_optional()
        .await
}

/// Stores the document that a server published.
pub async fn set_document(tx: &mut WriteTx, server: StringNum, row: &KeyDocumentRow) -> Result<()> {
    tx.query(
        "INSERT INTO server_key_documents (server, document, valid_until_ts)
         VALUES ($1, $2, $3)
         ON CONFLICT (server) DO UPDATE
         SET document = excluded.document, valid_until_ts = excluded.valid_until_ts",
    )
    .bind(server)
    .bind(&*row.document)
    .bind(row.valid_until_ts)
    .execute()
    .await?;
    Ok(())
}

/// Keeps a document that a later one has replaced. Of too many, those with the latest expiry are kept.
pub async fn keep_former_document(
    tx: &mut WriteTx,
    server: StringNum,
    row: &KeyDocumentRow,
) -> Result<()> {
    tx.query(
        "INSERT INTO former_key_documents (server, valid_until_ts, document)
         VALUES ($1, $2, $3)
         ON CONFLICT (server, valid_until_ts) DO UPDATE SET document = excluded.document",
    )
    .bind(server)
    .bind(row.valid_until_ts)
    .bind(&*row.document)
    .execute()
    .await?;
    tx.query(
        "DELETE FROM former_key_documents
         WHERE server = $1 AND valid_until_ts NOT IN (
             SELECT valid_until_ts FROM former_key_documents
             WHERE server = $1 ORDER BY valid_until_ts DESC LIMIT $2)",
    )
    .bind(server)
    .bind(MAX_FORMER_DOCUMENTS)
    .execute()
    .await?;
    Ok(())
}

/// Returns the former documents of a server, those with the latest expiry first.
pub async fn former_documents(
    db: &mut impl ReadAccess,
    server: StringNum,
) -> Result<Vec<KeyDocumentRow>> {
    db.query(
        "SELECT document, valid_until_ts FROM former_key_documents
         WHERE server = $1 ORDER BY valid_until_ts DESC",
    )
    .bind(server)
    .fetch_all()
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    #[tokio::test]
    async fn stored_keys_are_replaced_by_newer_ones() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let server = tx.intern("a.example").await.unwrap();
        let another_server = tx.intern("b.example").await.unwrap();
        let key = |valid_until_ts| ServerKeyRow {
            key_id: "ed25519:1".to_owned(),
            public_key: "AAAA".to_owned(),
            valid_until_ts,
        };
        let document_until = |valid_until_ts| KeyDocumentRow {
            document: "{}".to_owned(),
            valid_until_ts,
        };

        for until in [5, 4] {
            set_key(&mut tx, server, &key(until)).await.unwrap();
            let document = document_until(until);
            set_document(&mut tx, server, &document).await.unwrap();
        }

        assert_eq!(of_server(&mut tx, server).await.unwrap(), [key(4)]);
        let stored = latest_document(&mut tx, server).await.unwrap();
        assert_eq!(stored, Some(document_until(4)));
        assert!(of_server(&mut tx, another_server).await.unwrap().is_empty());
        assert_eq!(
            latest_document(&mut tx, another_server).await.unwrap(),
            None
        );
    }

    #[tokio::test]
    async fn keys_with_the_latest_expiry_are_kept_among_too_many() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        for valid_until_ts in 0..MAX_KEYS + 3 {
            let key = ServerKeyRow {
                key_id: format!("ed25519:{valid_until_ts}"),
                public_key: "AAAA".to_owned(),
                valid_until_ts,
            };
            set_key(&mut tx, StringNum::new(1), &key).await.unwrap();
            set_key(&mut tx, StringNum::new(2), &key).await.unwrap();
        }

        delete_surplus_keys(&mut tx, StringNum::new(1))
            .await
            .unwrap();

        let left = of_server(&mut tx, StringNum::new(1)).await.unwrap();
        assert_eq!(i64::try_from(left.len()).unwrap(), MAX_KEYS);
        assert!(left.iter().all(|key| key.valid_until_ts >= 3));
        let others = of_server(&mut tx, StringNum::new(2)).await.unwrap().len();
        assert_eq!(i64::try_from(others).unwrap(), MAX_KEYS + 3);
    }
}
