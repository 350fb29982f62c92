//! The registrations of application services that administrators added while the server ran.

use crate::{
    error::Result,
    storage::{ReadAccess, WriteTx},
};

/// Returns the texts of all registrations.
pub async fn all(db: &mut impl ReadAccess) -> Result<Vec<String>> {
    db.query("SELECT registration FROM service_registrations ORDER BY id")
        .fetch_scalars()
        .await
}

/// Stores a registration in place of the one with the same id.
pub async fn set(tx: &mut WriteTx, service_id: &str, registration: &str) -> Result<()> {
    tx.query(
        "INSERT INTO service_registrations (id, registration) VALUES ($1, $2)
         ON CONFLICT (id) DO UPDATE SET registration = excluded.registration",
    )
    .bind(service_id)
    .bind(registration)
    .execute()
    .await?;
    Ok(())
}

/// Removes a registration. Returns whether there was one.
pub async fn remove(tx: &mut WriteTx, service_id: &str) -> Result<bool> {
    let removed: Option<String> = tx
        .query("DELETE FROM service_registrations WHERE id = $1 RETURNING id")
        .bind(service_id)
        .fetch_scalar()
        .await?;
    Ok(removed.is_some())
}
