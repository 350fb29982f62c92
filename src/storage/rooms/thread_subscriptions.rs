//! The subscriptions of users to threads.

use crate::{
    error::Result,
    numbers::{Position, PositionRange, RoomNum, UserNum},
    storage::{ReadAccess, WriteTx},
};

/// A subscription to a thread, or its removal.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct ThreadSubscriptionRow {
    pub room: RoomNum,
    /// The event with which the thread began.
    pub root: String,
    /// Whether the user is subscribed; otherwise the user has unsubscribed.
    pub subscribed: bool,
    /// Whether the subscription was automatic.
    pub automatic: bool,
    /// The position of the change.
    pub position: Position,
}

/// A subscription to be stored.
#[derive(Debug)]
pub struct NewThreadSubscription<'a> {
    pub user: UserNum,
    pub room: RoomNum,
    /// The event with which the thread began.
    pub root: &'a str,
    /// Whether the user is subscribed; otherwise the user has unsubscribed.
    pub subscribed: bool,
    /// Whether the subscription was automatic.
    pub automatic: bool,
    /// The position of the change.
    pub position: Position,
}

/// Stores a subscription in place of the one before.
pub async fn set(tx: &mut WriteTx, new: &NewThreadSubscription<'_>) -> Result<()> {
    tx.query(
        "INSERT INTO thread_subscriptions (user_num, room, root, subscribed, automatic, position)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (user_num, room, root) DO UPDATE
         SET subscribed = excluded.subscribed, automatic = excluded.automatic, position = excluded.position",
    )
    .bind(new.user)
    .bind(new.room)
    .bind(new.root)
    .bind(new.subscribed)
    .bind(new.automatic)
    .bind(new.position)
    .execute()
    .await?;
    Ok(())
}

/// Returns a user's subscription to a thread.
pub async fn get(
    db: &mut impl ReadAccess,
    user: UserNum,
    room: RoomNum,
    thread_root: &str,
) -> Result<Option<ThreadSubscriptionRow>> {
    db.query(
        "SELECT room, root, subscribed, automatic, position FROM thread_subscriptions
         WHERE user_num = $1 AND room = $2 AND root = $3",
    )
    .bind(user)
    .bind(room)
    .bind(thread_root)
    .fetch_optional()
    .await
}

/// Returns the user's subscriptions that changed in a range of positions, the latest first.
pub async fn changes(
    db: &mut impl ReadAccess,
    user: UserNum,
    range: PositionRange,
    limit: i64,
) -> Result<Vec<ThreadSubscriptionRow>> {
    db.query(
        "SELECT room, root, subscribed, automatic, position FROM thread_subscriptions
         WHERE user_num = $1 AND position <= $2 AND position > $3
         ORDER BY position DESC LIMIT $4",
    )
    .bind(user)
    .bind(range.up_to)
    .bind(range.after)
    .bind(limit)
    .fetch_all()
    .await
}
