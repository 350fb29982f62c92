//! The progress of the transactions of each application service.

use crate::{
    error::Result,
    numbers::{Position, ServiceTransactionNum},
    storage::{ReadAccess, WriteTx},
};

/// The progress of the transactions of an application service.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ServiceProgressRow {
    /// The journal position up to which changes were put into transactions.
    pub sent_up_to: Position,
    /// The number of the last transaction.
    pub last_transaction: ServiceTransactionNum,
    /// The body of the last transaction, until the service acknowledges it.
    pub unacknowledged: Option<String>,
}

/// Returns the progress of an application service, if it was registered before.
pub async fn progress(
    db: &mut impl ReadAccess,
    service_id: &str,
) -> Result<Option<ServiceProgressRow>> {
    db.query(
        "SELECT sent_up_to, last_transaction, unacknowledged
         FROM application_services
         WHERE id = $1",
    )
    .bind(service_id)
    .fetch_optional()
    .await
}

/// Stores the progress of an application service.
pub async fn set_progress(
    tx: &mut WriteTx,
    service_id: &str,
    progress: &ServiceProgressRow,
) -> Result<()> {
    tx.query(
        "INSERT INTO application_services (id, sent_up_to, last_transaction, unacknowledged)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT (id) DO UPDATE
         SET sent_up_to = excluded.sent_up_to, last_transaction = excluded.last_transaction,
             unacknowledged = excluded.unacknowledged",
    )
    .bind(service_id)
    .bind(progress.sent_up_to)
    .bind(progress.last_transaction)
    .bind(progress.unacknowledged.as_deref())
    .execute()
    .await?;
    Ok(())
}

/// Removes the progress of an application service.
pub async fn remove(tx: &mut WriteTx, service_id: &str) -> Result<()> {
    tx.query("DELETE FROM application_services WHERE id = $1")
        .bind(service_id)
        .execute()
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    #[tokio::test]
    async fn progress_is_replaced() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let mut stored = ServiceProgressRow {
            sent_up_to: Position::new(1),
            last_transaction: ServiceTransactionNum::new(7),
            unacknowledged: Some("{}".to_owned()),
        };

        assert_eq!(progress(&mut tx, "irc").await.unwrap(), None);
        set_progress(&mut tx, "irc", &stored).await.unwrap();
        assert_eq!(
            progress(&mut tx, "irc").await.unwrap(),
            Some(stored.clone())
        );
        stored.unacknowledged = None;
        set_progress(&mut tx, "irc", &stored).await.unwrap();

        assert_eq!(progress(&mut tx, "irc").await.unwrap(), Some(stored));
        assert_eq!(progress(&mut tx, "xmpp").await.unwrap(), None);
    }
}
