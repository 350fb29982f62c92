//! The private key with which the server signs its requests to push services.

use crate::{
    error::Result,
    storage::{ReadAccess, WriteTx},
};

/// The id of the only key.
const KEY_ID: i64 = 1;

/// Returns the private key, once there is one.
pub async fn find(db: &mut impl ReadAccess) -> Result<Option<Vec<u8>>> {
    db.query("SELECT private_key FROM web_push_keys WHERE id = $1")
        .bind(KEY_ID)
        .fetch_scalar()
        .await
}

/// Stores the private key.
pub async fn insert(tx: &mut WriteTx, private_key: &[u8]) -> Result<()> {
    tx.query("INSERT INTO web_push_keys (id, private_key) VALUES ($1, $2)")
        .bind(KEY_ID)
        .bind(private_key)
        .execute()
        .await?;
    Ok(())
}
