//! The device list updates that other servers were sent about this server's users.

use sqlx::AssertSqlSafe;

use crate::{
    error::Result,
    numbers::{Position, UserNum},
    storage::{ReadAccess, WriteTx, text_list, values_clause},
};

/// The number of rows that one statement stores.
const ROWS_PER_STATEMENT: usize = 100;
/// A value in place of a position while nothing was sent to the server yet.
pub const NOTHING_SENT: Position = Position::new(-1);

/// A user whose device list changes must be sent to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct QueuedDeviceListUpdate {
    pub user_num: UserNum,
    /// The position of the newest change.
    pub changed: Position,
    /// The position up to which the server was sent all changes, or [`NOTHING_SENT`].
    pub sent_up_to: Position,
    /// The last `stream_id` that the server was sent; 0 if there was none.
    pub stream_id: Position,
}

/// Queues device list updates of users for servers: all devices if nothing was sent yet, otherwise the changes since
/// then. Returns the servers for which something is queued.
pub async fn queue_updates(
    tx: &mut WriteTx,
    pairs: &[(&str, UserNum)],
    position: Position,
) -> Result<Vec<String>> {
    let mut servers = Vec::new();
    for chunk in pairs.chunks(ROWS_PER_STATEMENT) {
        let sql = format!(
            "INSERT INTO told_devices (server, user_num, changed, told, stream_id) {}
             ON CONFLICT (server, user_num) DO UPDATE SET changed = excluded.changed
             WHERE told_devices.told < (SELECT COALESCE(MAX(d.position), 0) FROM device_changes d
                                        WHERE d.user_num = excluded.user_num)
             RETURNING server",
            values_clause(chunk.len(), 5)
        );
        let mut query = tx.query(AssertSqlSafe(sql));
        for (server, user) in chunk {
            query = query
                .bind((*server).to_owned())
                .bind(*user)
                .bind(position)
                .bind(NOTHING_SENT)
                .bind(Position::ZERO);
        }
        servers.extend(query.fetch_scalars::<String>().await?);
    }
    servers.sort_unstable();
    servers.dedup();
    Ok(servers)
}

/// Returns the users whose updates are queued for a server, the oldest change first.
pub async fn queued_updates(
    db: &mut impl ReadAccess,
    server: &str,
    limit: i64,
) -> Result<Vec<QueuedDeviceListUpdate>> {
    db.query(
        "SELECT user_num, changed, told AS sent_up_to, stream_id FROM told_devices
         WHERE server = $1 AND changed > told
         ORDER BY changed LIMIT $2",
    )
    .bind(server)
    .bind(limit)
    .fetch_all()
    .await
}

/// The last update about a user that a server was sent.
#[derive(Clone, Copy, Debug)]
pub struct SentDeviceList {
    /// The position up to which the server was sent all changes.
    pub up_to: Position,
    /// The last `stream_id`; 0 if there was none.
    pub stream_id: Position,
}

/// Stores the position up to which a server was sent a user's updates, and the last `stream_id`.
pub async fn set_sent_position(
    tx: &mut WriteTx,
    server: &str,
    user: UserNum,
    sent: SentDeviceList,
) -> Result<()> {
    tx.query(
        "UPDATE told_devices SET told = $3, stream_id = $4
         WHERE server = $1 AND user_num = $2 AND told < $3",
    )
    .bind(server)
    .bind(user)
    .bind(sent.up_to)
    .bind(sent.stream_id)
    .execute()
    .await?;
    Ok(())
}

/// Deletes what is recorded about updates for these servers, for changes up to a position.
pub async fn delete_records<S: AsRef<str>>(
    tx: &mut WriteTx,
    servers: &[S],
    up_to: Position,
) -> Result<()> {
    tx.query(
        "DELETE FROM told_devices
         WHERE server IN (SELECT value FROM json_each($1)) AND changed <= $2",
    )
    .bind(text_list(servers))
    .bind(up_to)
    .execute()
    .await?;
    Ok(())
}

/// Returns the servers for which updates are queued.
pub async fn servers_with_updates(db: &mut impl ReadAccess) -> Result<Vec<String>> {
    db.query("SELECT DISTINCT server FROM told_devices WHERE changed > told")
        .fetch_scalars()
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{devices::device_list_changes, testing::TestDb};

    #[tokio::test]
    async fn a_server_is_sent_all_devices_once_then_changes() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();

        let first = queue_updates(
            &mut tx,
            &[("a", UserNum::new(1)), ("b", UserNum::new(1))],
            Position::new(5),
        )
        .await
        .unwrap();
        assert_eq!(first, ["a", "b"]);
        let row = queued_updates(&mut tx, "a", 9).await.unwrap()[0];
        assert_eq!(
            (row.changed, row.sent_up_to),
            (Position::new(5), NOTHING_SENT)
        );
        let sent = SentDeviceList {
            up_to: Position::new(5),
            stream_id: Position::ZERO,
        };
        set_sent_position(&mut tx, "a", UserNum::new(1), sent)
            .await
            .unwrap();
        assert!(queued_updates(&mut tx, "a", 9).await.unwrap().is_empty());
        assert!(
            queue_updates(&mut tx, &[("a", UserNum::new(1))], Position::new(6))
                .await
                .unwrap()
                .is_empty()
        );

        tx.reserve_positions(20);
        device_list_changes::record_device_changes(&mut tx, UserNum::new(1), &["A"])
            .await
            .unwrap();
        let changed = tx.next_position();
        let again = queue_updates(&mut tx, &[("a", UserNum::new(1))], changed)
            .await
            .unwrap();

        assert_eq!(again, ["a"]);
        assert_eq!(
            queued_updates(&mut tx, "a", 9).await.unwrap()[0].sent_up_to,
            Position::new(5)
        );
        assert_eq!(servers_with_updates(&mut tx).await.unwrap().len(), 2);

        delete_records(&mut tx, &["a", "b"], Position::new(5))
            .await
            .unwrap();
        assert_eq!(servers_with_updates(&mut tx).await.unwrap(), ["a"]);
        delete_records(&mut tx, &["a"], changed).await.unwrap();
        assert!(servers_with_updates(&mut tx).await.unwrap().is_empty());
    }
}
