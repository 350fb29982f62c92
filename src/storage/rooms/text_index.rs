//! The text index: the texts of events in lower case, and the search in them.
//!
//! In SQLite it is a virtual table of FTS5, in PostgreSQL a table with an index. Both index trigrams, which serve
//! `LIKE` with any pattern that has three letters in a row. A shorter pattern reads every text.

use crate::{
    error::Result,
    numbers::{Position, RoomNum, StringNum, UserNum},
    storage::{ReadAccess, WriteTx, number_list},
};

/// The most patterns of one search.
pub const MAX_SEARCH_PATTERNS: usize = 4;

/// A text that was found.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct FoundText {
    /// The position of the event.
    pub position: Position,
    pub room: RoomNum,
    /// The event's place in the timeline.
    pub timeline: Position,
    /// The number of the history visibility before the event.
    pub visibility: i64,
    /// The number of the event type.
    pub kind: StringNum,
    /// The number of the sender.
    pub sender: UserNum,
    /// The text, in lower case.
    pub text: String,
}

/// Adds the text of an event.
pub async fn insert(tx: &mut WriteTx, position: Position, text: &str) -> Result<()> {
    tx.query("INSERT INTO text_index (rowid, text) VALUES ($1, $2)")
        .bind(position)
        .bind(text)
        .execute()
        .await?;
    Ok(())
}

/// Removes the text of an event.
pub async fn remove(tx: &mut WriteTx, position: Position) -> Result<()> {
    tx.query("DELETE FROM text_index WHERE rowid = $1")
        .bind(position)
        .execute()
        .await?;
    Ok(())
}

/// Returns the newest texts in some rooms that contain all of the parts, up to a position.
///
/// A `%`, `_` or `\` in a part matches any letter.
pub async fn find(
    db: &mut impl ReadAccess,
    rooms: impl IntoIterator<Item = RoomNum>,
    parts: &[&str],
    up_to: Position,
    limit: i64,
) -> Result<Vec<FoundText>> {
    let pattern = |n: usize| like_pattern(parts.get(n).copied().unwrap_or_default());
    db.query(
        "SELECT s.rowid AS position, e.room, e.timeline, e.visibility, e.kind, e.sender, s.text
         FROM text_index s CROSS JOIN events e
         WHERE e.position = s.rowid
           AND s.text LIKE $1 AND s.text LIKE $2 AND s.text LIKE $3 AND s.text LIKE $4
           AND s.rowid <= $5 AND e.timeline IS NOT NULL
           AND e.room IN (SELECT CAST(value AS BIGINT) FROM json_each($6))
         ORDER BY s.rowid DESC LIMIT $7",
    )
    .bind(pattern(0))
    .bind(pattern(1))
    .bind(pattern(2))
    .bind(pattern(3))
    .bind(up_to)
    .bind(number_list(rooms))
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns a pattern that needs no `ESCAPE`: with an `ESCAPE`, SQLite would not use the trigrams, and without one,
/// PostgreSQL reads `\` as the escape character.
fn like_pattern(part: &str) -> String {
    format!("%{}%", part.replace(['%', '_', '\\'], "_"))
}
