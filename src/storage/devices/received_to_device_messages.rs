//! The ids of to-device messages from other servers, to recognise duplicates.

use crate::{
    error::Result,
    numbers::StringNum,
    storage::{ReadAccess as _, WriteTx},
};

/// Records a message of a server. Returns `false` if it was received before.
pub async fn insert(
    tx: &mut WriteTx,
    server: StringNum,
    message_id: &str,
    received_ts: i64,
) -> Result<bool> {
    let inserted = tx
        .query(
            "INSERT INTO received_messages (server, message_id, received_ts)
             VALUES ($1, $2, $3)
             ON CONFLICT (server, message_id) DO NOTHING",
        )
        .bind(server)
        .bind(message_id)
        .bind(received_ts)
        .execute()
        .await?;
    Ok(inserted == 1)
}

/// Deletes the messages that were received before a time.
pub async fn delete_before(tx: &mut WriteTx, before_ts: i64) -> Result<u64> {
    tx.query("DELETE FROM received_messages WHERE received_ts < $1")
        .bind(before_ts)
        .execute()
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    #[tokio::test]
    async fn a_message_is_new_once_until_its_record_is_deleted() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();

        assert!(insert(&mut tx, StringNum::new(1), "a", 10).await.unwrap());
        assert!(!insert(&mut tx, StringNum::new(1), "a", 20).await.unwrap());
        assert!(insert(&mut tx, StringNum::new(2), "a", 20).await.unwrap());
        assert_eq!(delete_before(&mut tx, 20).await.unwrap(), 1);
        assert!(insert(&mut tx, StringNum::new(1), "a", 30).await.unwrap());
        assert!(!insert(&mut tx, StringNum::new(2), "a", 30).await.unwrap());
    }
}
