//! To-device messages, and the transactions that sent them.

use std::sync::Arc;

use sqlx::AssertSqlSafe;

use crate::{
    error::Result,
    numbers::{DeviceNum, Position, UserNum},
    storage::{ReadAccess, WriteTx, values_clause},
};

/// The number of rows that one statement inserts.
const ROWS_PER_STATEMENT: usize = 64;

/// A message to be stored for a device.
#[derive(Clone, Debug)]
pub struct NewToDeviceMessage {
    pub position: Position,
    pub device: DeviceNum,
    /// The message, as JSON.
    pub message: Arc<str>,
}

/// A message for a device.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ToDeviceRow {
    pub position: Position,
    /// The message, as JSON.
    pub message: String,
}

/// Stores messages, each at its position for its device.
pub async fn insert(tx: &mut WriteTx, messages: &[NewToDeviceMessage]) -> Result<()> {
    for chunk in messages.chunks(ROWS_PER_STATEMENT) {
        let sql = format!(
            "INSERT INTO to_device (position, device, message) {}",
            values_clause(chunk.len(), 3)
        );
        let mut query = tx.query(AssertSqlSafe(sql));
        for row in chunk {
            query = query
                .bind(row.position)
                .bind(row.device)
                .bind(&*row.message);
        }
        query.execute().await?;
    }
    Ok(())
}

/// Returns the messages for a device after one position and up to another, the oldest first.
pub async fn messages_between(
    db: &mut impl ReadAccess,
    device: DeviceNum,
    after: Position,
    up_to: Position,
    limit: i64,
) -> Result<Vec<ToDeviceRow>> {
    db.query(
        "SELECT position, message
         FROM to_device
         WHERE device = $1 AND position > $2 AND position <= $3
         ORDER BY position
         LIMIT $4",
    )
    .bind(device)
    .bind(after)
    .bind(up_to)
    .bind(limit)
    .fetch_all()
    .await
}

/// A device for which messages wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, sqlx::FromRow)]
pub struct DeviceWithMessages {
    pub user_num: UserNum,
    pub device: DeviceNum,
}

/// Returns the devices for which messages wait.
pub async fn devices_with_messages(db: &mut impl ReadAccess) -> Result<Vec<DeviceWithMessages>> {
    db.query(
        "SELECT d.user_num, d.num AS device
         FROM devices d
         WHERE EXISTS (SELECT 1 FROM to_device t WHERE t.device = d.num)",
    )
    .fetch_all()
    .await
}

/// Returns the position of the oldest message for a device.
pub async fn oldest_position(
    db: &mut impl ReadAccess,
    device: DeviceNum,
) -> Result<Option<Position>> {
    db.query(
        "SELECT position
         FROM to_device
         WHERE device = $1
         ORDER BY position
         LIMIT 1",
    )
    .bind(device)
    .fetch_scalar()
    .await
}

/// Deletes the messages for a device up to a position.
pub async fn delete(tx: &mut WriteTx, device: DeviceNum, up_to: Position) -> Result<u64> {
    tx.query(
        "DELETE FROM to_device
         WHERE device = $1 AND position <= $2",
    )
    .bind(device)
    .bind(up_to)
    .execute()
    .await
}

/// Records that a device has used a transaction id at an endpoint. Returns `false` if it had
/// before.
pub async fn insert_transaction(
    tx: &mut WriteTx,
    device: DeviceNum,
    endpoint: &str,
    txn_id: &str,
) -> Result<bool> {
    let position = tx.next_position();
    let inserted = tx
        .query(
            "INSERT INTO transactions (device, endpoint, txn_id, position)
             VALUES ($1, $2, $3, $4)
             ON CONFLICT (device, endpoint, txn_id) DO NOTHING",
        )
        .bind(device)
        .bind(endpoint)
        .bind(txn_id)
        .bind(position)
        .execute()
        .await?;
    Ok(inserted == 1)
}

/// Deletes the transactions of a device before a position.
pub async fn delete_transactions(
    tx: &mut WriteTx,
    device: DeviceNum,
    before: Position,
) -> Result<()> {
    tx.query(
        "DELETE FROM transactions
         WHERE device = $1 AND position < $2",
    )
    .bind(device)
    .bind(before)
    .execute()
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{devices::device_table, testing::TestDb};

    #[tokio::test]
    async fn messages_are_kept_in_order_until_they_are_deleted() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let device = device_table::upsert(&mut tx, UserNum::new(1), "A", None, 1)
            .await
            .unwrap();
        let messages: Vec<_> = (1..=100)
            .map(|number| NewToDeviceMessage {
                position: Position::new(number),
                device,
                message: number.to_string().into(),
            })
            .collect();

        insert(&mut tx, &messages).await.unwrap();

        assert_eq!(
            oldest_position(&mut tx, device).await.unwrap(),
            Some(Position::new(1))
        );
        let some = messages_between(&mut tx, device, Position::new(2), Position::new(50), 3)
            .await
            .unwrap();
        let positions: Vec<_> = some.iter().map(|row| row.position).collect();
        assert_eq!(positions, [3, 4, 5].map(Position::new));
        assert_eq!(
            delete(&mut tx, device, Position::new(99)).await.unwrap(),
            99
        );
        assert_eq!(
            oldest_position(&mut tx, device).await.unwrap(),
            Some(Position::new(100))
        );
    }

    #[tokio::test]
    async fn a_transaction_id_is_used_once_by_device_and_endpoint() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let a = device_table::upsert(&mut tx, UserNum::new(1), "A", None, 1)
            .await
            .unwrap();
        let b = device_table::upsert(&mut tx, UserNum::new(1), "B", None, 1)
            .await
            .unwrap();

        assert!(insert_transaction(&mut tx, a, "e", "1").await.unwrap());
        assert!(!insert_transaction(&mut tx, a, "e", "1").await.unwrap());
        assert!(insert_transaction(&mut tx, a, "f", "1").await.unwrap());
        assert!(insert_transaction(&mut tx, b, "e", "1").await.unwrap());

        let later = tx.next_position();
        delete_transactions(&mut tx, a, later).await.unwrap();
        assert!(insert_transaction(&mut tx, a, "e", "1").await.unwrap());
    }
}
