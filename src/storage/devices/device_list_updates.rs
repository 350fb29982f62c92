//! The device list updates that other servers were sent about this server's users.

use sqlx::AssertSqlSafe;

use crate::{
    error::Result,
    storage::{Position, Read, UserNum, WriteTx, list, values},
};

/// The number of rows that one statement stores.
const CHUNK: usize = 100;
/// A value in place of a position: nothing was sent to the server yet.
pub const NOTHING: Position = -1;

/// A user whose device list changes must be sent to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ToTell {
    pub user_num: UserNum,
    /// The position of the newest change.
    pub changed: Position,
    /// The position up to which the server was sent all changes, or [`NOTHING`].
    pub told: Position,
    /// The last `stream_id` that the server was sent; 0 if there was none.
    pub stream_id: i64,
}

/// Queues device list updates of users for servers: all devices if nothing was sent yet, otherwise the changes since
/// then. Returns the servers for which something is queued.
pub async fn owe(
    tx: &mut WriteTx,
    pairs: &[(&str, UserNum)],
    position: Position,
) -> Result<Vec<String>> {
    let mut servers = Vec::new();
    for chunk in pairs.chunks(CHUNK) {
        let sql = format!(
            "INSERT INTO told_devices (server, user_num, changed, told, stream_id) {}
             ON CONFLICT (server, user_num) DO UPDATE SET changed = excluded.changed
             WHERE told_devices.told < (SELECT COALESCE(MAX(d.position), 0) FROM device_changes d
                                        WHERE d.user_num = excluded.user_num)
             RETURNING server",
            values(chunk.len(), 5)
        );
        let mut query = tx.query(AssertSqlSafe(sql));
        for (server, user) in chunk {
            query = query
                .bind((*server).to_owned())
                .bind(*user)
                .bind(position)
                .bind(NOTHING)
                .bind(0_i64);
        }
        servers.extend(query.fetch_scalars::<String>().await?);
    }
    servers.sort_unstable();
    servers.dedup();
    Ok(servers)
}

/// Returns the users whose updates are queued for a server, the oldest change first.
pub async fn to_tell(db: &mut impl Read, server: &str, limit: i64) -> Result<Vec<ToTell>> {
    db.query(
        "SELECT user_num, changed, told, stream_id FROM told_devices
         WHERE server = $1 AND changed > told
         ORDER BY changed LIMIT $2",
    )
    .bind(server)
    .bind(limit)
    .fetch_all()
    .await
}

/// Stores the change up to which a server was sent a user's updates.
pub async fn set_told(
    tx: &mut WriteTx,
    server: &str,
    user: UserNum,
    (told, stream_id): (Position, i64),
) -> Result<()> {
    tx.query(
        "UPDATE told_devices SET told = $3, stream_id = $4
         WHERE server = $1 AND user_num = $2 AND told < $3",
    )
    .bind(server)
    .bind(user)
    .bind(told)
    .bind(stream_id)
    .execute()
    .await?;
    Ok(())
}

/// Deletes the records of servers about changes up to a position.
pub async fn forget<S: AsRef<str>>(tx: &mut WriteTx, servers: &[S], up_to: Position) -> Result<()> {
    tx.query(
        "DELETE FROM told_devices
         WHERE server IN (SELECT value FROM json_each($1)) AND changed <= $2",
    )
    .bind(list(servers))
    .bind(up_to)
    .execute()
    .await?;
    Ok(())
}

/// Returns the servers for which updates are queued.
pub async fn servers(db: &mut impl Read) -> Result<Vec<String>> {
    db.query("SELECT DISTINCT server FROM told_devices WHERE changed > told")
        .fetch_scalars()
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{devices::device_list_changes, testing::TestDb};

    #[tokio::test]
    async fn a_server_is_told_of_everything_once_and_then_of_changes() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();

        let first = owe(&mut tx, &[("a", 1), ("b", 1)], 5).await.unwrap();
        assert_eq!(first, ["a", "b"]);
        let row = to_tell(&mut tx, "a", 9).await.unwrap()[0];
        assert_eq!((row.changed, row.told), (5, NOTHING));
        set_told(&mut tx, "a", 1, (5, 0)).await.unwrap();
        assert!(to_tell(&mut tx, "a", 9).await.unwrap().is_empty());
        assert!(owe(&mut tx, &[("a", 1)], 6).await.unwrap().is_empty());

        tx.leave_room(20);
        device_list_changes::note_devices(&mut tx, 1, &["A"])
            .await
            .unwrap();
        let changed = tx.position();
        let again = owe(&mut tx, &[("a", 1)], changed).await.unwrap();

        assert_eq!(again, ["a"]);
        assert_eq!(to_tell(&mut tx, "a", 9).await.unwrap()[0].told, 5);
        assert_eq!(servers(&mut tx).await.unwrap().len(), 2);

        forget(&mut tx, &["a", "b"], 5).await.unwrap();
        assert_eq!(servers(&mut tx).await.unwrap(), ["a"]);
        forget(&mut tx, &["a"], changed).await.unwrap();
        assert!(servers(&mut tx).await.unwrap().is_empty());
    }
}
