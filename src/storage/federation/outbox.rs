//! The data to be sent to other servers: the first unsent event of each room, and to-device messages.

use sqlx::AssertSqlSafe;

use crate::{
    error::Result,
    numbers::{Position, RoomNum},
    storage::{ReadAccess, WriteTx, number_list, text_list, values_clause},
};

/// The number of rows that one statement stores.
const ROWS_PER_STATEMENT: usize = 100;

/// A server to which this one sends.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct DestinationRow {
    pub server: String,
    /// The number of consecutive failures to send to it.
    pub failures: i64,
    /// The time of the first of these failures, in milliseconds since the Unix epoch.
    pub failing_since: i64,
    /// The time of the next attempt.
    pub retry_ts: i64,
}

/// A room with events that were not sent to a server.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct UnsentRoomRow {
    pub server: String,
    pub room: RoomNum,
    /// The place in the timeline of the first event that was not sent.
    pub since: Position,
}

/// Returns the journal position up to which the outbox is filled.
pub async fn cursor(db: &mut impl ReadAccess) -> Result<Position> {
    let position = db
        .query("SELECT position FROM sender")
        .fetch_scalar()
        .await?;
    Ok(position.unwrap_or_default())
}

/// Stores the journal position up to which the outbox is filled.
pub async fn set_cursor(tx: &mut WriteTx, position: Position) -> Result<()> {
    tx.query("UPDATE sender SET position = $1")
        .bind(position)
        .execute()
        .await?;
    Ok(())
}

/// Returns the servers to which this one sends.
pub async fn destinations(db: &mut impl ReadAccess) -> Result<Vec<DestinationRow>> {
    db.query("SELECT server, failures, failing_since, retry_ts FROM destinations")
        .fetch_all()
        .await
}

/// Returns the servers for which neither events nor to-device messages are queued.
pub async fn idle_destinations(db: &mut impl ReadAccess) -> Result<Vec<String>> {
    db.query(
        "SELECT server FROM destinations d
         WHERE NOT EXISTS (SELECT 1 FROM unsent_rooms u WHERE u.server = d.server)
           AND NOT EXISTS (SELECT 1 FROM unsent_messages m WHERE m.server = d.server)",
    )
    .fetch_scalars()
    .await
}

/// Deletes these destinations.
pub async fn remove_destinations<S: AsRef<str>>(tx: &mut WriteTx, servers: &[S]) -> Result<()> {
    tx.query("DELETE FROM destinations WHERE server IN (SELECT value FROM json_each($1))")
        .bind(text_list(servers))
        .execute()
        .await?;
    Ok(())
}

/// Stores the failures and retry times of servers.
pub async fn set_destinations(tx: &mut WriteTx, rows: &[DestinationRow]) -> Result<()> {
    for chunk in rows.chunks(ROWS_PER_STATEMENT) {
        let sql = format!(
            "INSERT INTO destinations (server, failures, failing_since, retry_ts) {}
             ON CONFLICT (server) DO UPDATE
             SET failures = excluded.failures, failing_since = excluded.failing_since, retry_ts = excluded.retry_ts",
            values_clause(chunk.len(), 4)
        );
        let mut query = tx.query(AssertSqlSafe(sql));
        for row in chunk {
            query = query
                .bind(row.server.clone())
                .bind(row.failures)
                .bind(row.failing_since)
                .bind(row.retry_ts);
        }
        query.execute().await?;
    }
    Ok(())
}

/// Returns the servers and rooms with unsent events.
pub async fn unsent_rooms(db: &mut impl ReadAccess) -> Result<Vec<UnsentRoomRow>> {
    db.query("SELECT server, room, since FROM unsent_rooms")
        .fetch_all()
        .await
}

/// Stores the places of the first unsent events of rooms.
pub async fn set_unsent_rooms(tx: &mut WriteTx, rows: &[UnsentRoomRow]) -> Result<()> {
    for chunk in rows.chunks(ROWS_PER_STATEMENT) {
        let sql = format!(
            "INSERT INTO unsent_rooms (server, room, since) {}
             ON CONFLICT (server, room) DO UPDATE SET since = excluded.since",
            values_clause(chunk.len(), 3)
        );
        let mut query = tx.query(AssertSqlSafe(sql));
        for row in chunk {
            query = query
                .bind(row.server.clone())
                .bind(row.room)
                .bind(row.since);
        }
        query.execute().await?;
    }
    Ok(())
}

/// Records that a server was sent all events of these rooms.
pub async fn remove_unsent_rooms(tx: &mut WriteTx, server: &str, rooms: &[RoomNum]) -> Result<()> {
    tx.query(
        "DELETE FROM unsent_rooms
         WHERE server = $1 AND room IN (SELECT CAST(value AS BIGINT) FROM json_each($2))",
    )
    .bind(server)
    .bind(number_list(rooms.iter().copied()))
    .execute()
    .await?;
    Ok(())
}

/// A to-device message to be stored for users of another server.
#[derive(Clone, Copy, Debug)]
pub struct NewServerMessage<'a> {
    pub position: Position,
    pub server: &'a str,
    /// The EDU as JSON.
    pub edu: &'a str,
    /// The time in milliseconds since the Unix epoch.
    pub created_ts: i64,
}

/// A to-device message that is stored for users of another server.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ServerMessageRow {
    pub position: Position,
    /// The EDU as JSON.
    pub edu: String,
}

/// Stores a to-device message for users of another server.
pub async fn insert_message(tx: &mut WriteTx, message: NewServerMessage<'_>) -> Result<()> {
    tx.query(
        "INSERT INTO unsent_messages (position, server, edu, created_ts) VALUES ($1, $2, $3, $4)",
    )
    .bind(message.position)
    .bind(message.server)
    .bind(message.edu)
    .bind(message.created_ts)
    .execute()
    .await?;
    Ok(())
}

/// Deletes all messages for a server except the newest ones.
pub async fn keep_newest_messages(tx: &mut WriteTx, server: &str, most: i64) -> Result<()> {
    tx.query(
        "DELETE FROM unsent_messages
         WHERE server = $1 AND position <= (
             SELECT position FROM unsent_messages
             WHERE server = $1 ORDER BY position DESC LIMIT 1 OFFSET $2)",
    )
    .bind(server)
    .bind(most)
    .execute()
    .await?;
    Ok(())
}

/// Deletes some of the messages that were created before a time. Returns their number.
pub async fn remove_old_messages(tx: &mut WriteTx, before_ts: i64, limit: i64) -> Result<u64> {
    tx.query(
        "DELETE FROM unsent_messages
         WHERE position IN (SELECT position FROM unsent_messages WHERE created_ts < $1 LIMIT $2)",
    )
    .bind(before_ts)
    .bind(limit)
    .execute()
    .await
}

/// Returns the oldest queued messages for a server that were created since a time.
pub async fn messages(
    db: &mut impl ReadAccess,
    server: &str,
    since_ts: i64,
    limit: i64,
) -> Result<Vec<ServerMessageRow>> {
    db.query(
        "SELECT position, edu FROM unsent_messages
         WHERE server = $1 AND created_ts >= $2 ORDER BY position LIMIT $3",
    )
    .bind(server)
    .bind(since_ts)
    .bind(limit)
    .fetch_all()
    .await
}

/// Deletes the messages for a server up to a position, which were delivered.
pub async fn remove_messages(tx: &mut WriteTx, server: &str, up_to: Position) -> Result<()> {
    tx.query("DELETE FROM unsent_messages WHERE server = $1 AND position <= $2")
        .bind(server)
        .bind(up_to)
        .execute()
        .await?;
    Ok(())
}

/// Returns the servers for which messages are queued.
pub async fn servers_with_messages(db: &mut impl ReadAccess) -> Result<Vec<String>> {
    db.query("SELECT DISTINCT server FROM unsent_messages")
        .fetch_scalars()
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    fn message(position: Position, server: &str, created_ts: i64) -> NewServerMessage<'_> {
        NewServerMessage {
            position,
            server,
            edu: "{}",
            created_ts,
        }
    }

    #[tokio::test]
    async fn unsent_events_are_stored_by_room() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let row = |room, since| UnsentRoomRow {
            server: "a".to_owned(),
            room,
            since,
        };

        set_unsent_rooms(
            &mut tx,
            &[
                row(RoomNum::new(1), Position::new(5)),
                row(RoomNum::new(2), Position::new(6)),
            ],
        )
        .await
        .unwrap();
        set_unsent_rooms(&mut tx, &[row(RoomNum::new(2), Position::new(9))])
            .await
            .unwrap();
        remove_unsent_rooms(&mut tx, "a", &[RoomNum::new(1)])
            .await
            .unwrap();
        remove_unsent_rooms(&mut tx, "b", &[RoomNum::new(2)])
            .await
            .unwrap();
        set_cursor(&mut tx, Position::new(77)).await.unwrap();

        assert_eq!(
            unsent_rooms(&mut tx).await.unwrap(),
            [row(RoomNum::new(2), Position::new(9))]
        );
        assert_eq!(cursor(&mut tx).await.unwrap(), Position::new(77));
    }

    #[tokio::test]
    async fn failures_of_a_server_are_stored() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let row = |failures| DestinationRow {
            server: "a".to_owned(),
            failures,
            failing_since: 3,
            retry_ts: 4,
        };

        set_destinations(&mut tx, &[row(1)]).await.unwrap();
        set_destinations(&mut tx, &[row(2)]).await.unwrap();

        assert_eq!(destinations(&mut tx).await.unwrap(), [row(2)]);
    }

    #[tokio::test]
    async fn messages_are_returned_by_server_in_order() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        for (position, server) in [(3, "a"), (4, "b"), (5, "a"), (6, "a")] {
            insert_message(
                &mut tx,
                message(Position::new(position), server, position * 10),
            )
            .await
            .unwrap();
        }

        let some = messages(&mut tx, "a", 0, 2).await.unwrap();
        remove_messages(&mut tx, "a", Position::new(5))
            .await
            .unwrap();

        let row = |position| ServerMessageRow {
            position,
            edu: "{}".to_owned(),
        };
        assert_eq!(some, [row(Position::new(3)), row(Position::new(5))]);
        assert_eq!(messages(&mut tx, "a", 0, 9).await.unwrap().len(), 1);
        let mut servers = servers_with_messages(&mut tx).await.unwrap();
        servers.sort();
        assert_eq!(servers, ["a", "b"]);
    }

    #[tokio::test]
    async fn old_or_excess_messages_are_deleted() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        for (position, server) in [(3, "a"), (4, "b"), (5, "a"), (6, "a"), (7, "a")] {
            insert_message(
                &mut tx,
                message(Position::new(position), server, position * 10),
            )
            .await
            .unwrap();
        }

        let recent = messages(&mut tx, "a", 60, 9).await.unwrap();
        assert_eq!(recent.len(), 2);
        for (limit, removed) in [(1, 1), (9, 1), (9, 0)] {
            let done = remove_old_messages(&mut tx, 50, limit).await.unwrap();
            assert_eq!(done, removed);
        }
        keep_newest_messages(&mut tx, "a", 3).await.unwrap();
        assert_eq!(messages(&mut tx, "a", 0, 9).await.unwrap().len(), 3);
        keep_newest_messages(&mut tx, "a", 2).await.unwrap();

        assert_eq!(messages(&mut tx, "a", 0, 9).await.unwrap(), recent);
        assert_eq!(servers_with_messages(&mut tx).await.unwrap(), ["a"]);
    }

    #[tokio::test]
    async fn servers_without_queued_data_are_deleted() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let row = |server: &str| DestinationRow {
            server: server.to_owned(),
            failures: 0,
            failing_since: 0,
            retry_ts: 0,
        };
        let rows = ["a", "b", "c", "d"].map(row);
        set_destinations(&mut tx, &rows).await.unwrap();
        let unsent = UnsentRoomRow {
            server: "b".to_owned(),
            room: RoomNum::new(1),
            since: Position::new(5),
        };
        set_unsent_rooms(&mut tx, &[unsent]).await.unwrap();
        insert_message(&mut tx, message(Position::new(7), "c", 1))
            .await
            .unwrap();

        let mut idle = idle_destinations(&mut tx).await.unwrap();
        idle.sort();
        assert_eq!(idle, ["a", "d"]);
        remove_destinations(&mut tx, &["a"]).await.unwrap();

        let left = destinations(&mut tx).await.unwrap();
        assert_eq!(left.len(), 3);
        assert!(!left.contains(&row("a")));
    }
}
