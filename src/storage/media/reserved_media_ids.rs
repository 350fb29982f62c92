//! Media ids that were reserved before the upload.

use crate::{
    error::Result,
    numbers::UserNum,
    storage::{ReadAccess, WriteTx},
};

/// A reserved media id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct MediaReservation {
    /// The user who may upload to it.
    pub uploader: UserNum,
    pub expires_ts: i64,
}

/// Reserves a media id, and deletes the uploader's expired ones.
pub async fn insert(
    tx: &mut WriteTx,
    media_id: &str,
    reservation: MediaReservation,
    now: i64,
) -> Result<()> {
    tx.query("DELETE FROM promised_media WHERE uploader = $1 AND expires_ts <= $2")
        .bind(reservation.uploader)
        .bind(now)
        .execute()
        .await?;
    tx.query("INSERT INTO promised_media (media_id, uploader, expires_ts) VALUES ($1, $2, $3)")
        .bind(media_id)
        .bind(reservation.uploader)
        .bind(reservation.expires_ts)
        .execute()
        .await?;
    Ok(())
}

/// Returns the number of a user's reserved ids.
pub async fn count(db: &mut impl ReadAccess, uploader: UserNum, now: i64) -> Result<i64> {
    let count = db
        .query("SELECT COUNT(*) FROM promised_media WHERE uploader = $1 AND expires_ts > $2")
        .bind(uploader)
        .bind(now)
        .fetch_scalar()
        .await?;
    Ok(count.unwrap_or(0))
}

/// Returns the reservation of an id, unless it has expired.
pub async fn find(
    db: &mut impl ReadAccess,
    media_id: &str,
    now: i64,
) -> Result<Option<MediaReservation>> {
    db.query(
        "SELECT uploader, expires_ts
         FROM promised_media
         WHERE media_id = $1 AND expires_ts > $2",
    )
    .bind(media_id)
    .bind(now)
    .fetch_optional()
    .await
}

/// Deletes a reservation after the upload. Returns `false` if there is none.
pub async fn remove(tx: &mut WriteTx, media_id: &str) -> Result<bool> {
    let removed = tx
        .query("DELETE FROM promised_media WHERE media_id = $1")
        .bind(media_id)
        .execute()
        .await?;
    Ok(removed == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    #[tokio::test]
    async fn a_reservation_is_valid_until_expiry_or_upload() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let reservation = MediaReservation {
            uploader: UserNum::new(7),
            expires_ts: 10,
        };
        insert(&mut tx, "one", reservation, 0).await.unwrap();

        assert_eq!(find(&mut tx, "one", 9).await.unwrap(), Some(reservation));
        assert_eq!(find(&mut tx, "one", 10).await.unwrap(), None);
        assert_eq!(count(&mut tx, UserNum::new(7), 0).await.unwrap(), 1);
        assert!(remove(&mut tx, "one").await.unwrap());
        assert!(!remove(&mut tx, "one").await.unwrap());
        insert(&mut tx, "two", reservation, 0).await.unwrap();
        insert(&mut tx, "three", reservation, 10).await.unwrap();
        assert_eq!(find(&mut tx, "two", 0).await.unwrap(), None);
    }
}
