//! Room aliases of this server.

use crate::{
    error::Result,
    numbers::{RoomNum, UserNum},
    storage::{JournalChange, ReadAccess, WriteTx},
};

/// A stored alias.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
pub struct AliasRow {
    /// The room that it points to.
    pub room: RoomNum,
    pub creator: UserNum,
}

/// Stores an alias. Returns whether it was free.
pub async fn insert(
    tx: &mut WriteTx,
    alias: &str,
    room: RoomNum,
    creator: UserNum,
) -> Result<bool> {
    let stored = tx
        .query("INSERT INTO aliases (alias, room, creator) VALUES ($1, $2, $3) ON CONFLICT (alias) DO NOTHING")
        .bind(alias)
        .bind(room)
        .bind(creator)
        .execute()
        .await?;
    if stored == 1 {
        let position = tx.next_position();
        tx.publish(position, JournalChange::AliasesChanged { room });
    }
    Ok(stored == 1)
}

/// Returns the number of aliases that a user has created.
pub async fn count_of_creator(db: &mut impl ReadAccess, creator: UserNum) -> Result<i64> {
    let count = db
        .query("SELECT COUNT(*) FROM aliases WHERE creator = $1")
        .bind(creator)
        .fetch_scalar()
        .await?;
    Ok(count.unwrap_or_default())
}

/// Removes an alias of a room.
pub async fn delete(tx: &mut WriteTx, alias: &str, room: RoomNum) -> Result<()> {
    tx.query("DELETE FROM aliases WHERE alias = $1")
        .bind(alias)
        .execute()
        .await?;
    let position = tx.next_position();
    tx.publish(position, JournalChange::AliasesChanged { room });
    Ok(())
}

/// Returns an alias.
pub async fn get(db: &mut impl ReadAccess, alias: &str) -> Result<Option<AliasRow>> {
    db.query("SELECT room, creator FROM aliases WHERE alias = $1")
        .bind(alias)
        .fetch_optional()
        .await
}

/// Returns the aliases of a room.
pub async fn of_room(db: &mut impl ReadAccess, room: RoomNum) -> Result<Vec<String>> {
    db.query("SELECT alias FROM aliases WHERE room = $1 ORDER BY alias")
        .bind(room)
        .fetch_scalars()
        .await
}

/// Removes all aliases of a room.
pub async fn remove_of_room(tx: &mut WriteTx, room: RoomNum) -> Result<()> {
    tx.query("DELETE FROM aliases WHERE room = $1")
        .bind(room)
        .execute()
        .await?;
    Ok(())
}

/// Points all aliases of a room to another room.
pub async fn move_all(tx: &mut WriteTx, from: RoomNum, to: RoomNum) -> Result<()> {
    tx.query("UPDATE aliases SET room = $2 WHERE room = $1")
        .bind(from)
        .bind(to)
        .execute()
        .await?;
    Ok(())
}
