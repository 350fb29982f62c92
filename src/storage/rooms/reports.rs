//! Reports by users to the administrators of the server.

use crate::{
    error::Result,
    numbers::{RoomNum, UserNum},
    storage::{ReadAccess, WriteTx},
};

/// A report to be stored.
#[derive(Clone, Copy, Debug)]
pub struct NewReport<'a> {
    /// The time in milliseconds since the Unix epoch.
    pub ts: i64,
    pub reporter: UserNum,
    /// The reported room, or the room of the reported event.
    pub room: Option<RoomNum>,
    /// The reported event.
    pub event_id: Option<&'a str>,
    /// The reported user.
    pub user: Option<UserNum>,
    pub reason: &'a str,
}

/// Stores a report, and deletes the reporter's oldest reports beyond `keep`.
pub async fn insert(tx: &mut WriteTx, report: NewReport<'_>, keep: i64) -> Result<()> {
    tx.query(
        "INSERT INTO reports (ts, reporter, room, event_id, user_num, reason)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(report.ts)
    .bind(report.reporter)
    .bind(report.room)
    .bind(report.event_id)
    .bind(report.user)
    .bind(report.reason)
    .execute()
    .await?;
    tx.query(
        "DELETE FROM reports
         WHERE reporter = $1 AND num <= (
             SELECT num FROM reports WHERE reporter = $1 ORDER BY num DESC LIMIT 1 OFFSET $2)",
    )
    .bind(report.reporter)
    .bind(keep)
    .execute()
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    #[tokio::test]
    async fn only_the_latest_reports_of_a_user_are_kept() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();

        for (reporter, reason) in [(1, "a"), (2, "b"), (1, "c"), (1, "d")] {
            let report = NewReport {
                ts: 0,
                reporter: UserNum::new(reporter),
                room: None,
                event_id: None,
                user: Some(UserNum::new(3)),
                reason,
            };
            insert(&mut tx, report, 2).await.unwrap();
        }

        let kept: Vec<String> = tx
            .query("SELECT reason FROM reports ORDER BY num")
            .fetch_scalars()
            .await
            .unwrap();
        assert_eq!(kept, ["b", "c", "d"]);
    }
}
