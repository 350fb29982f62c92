//! The addresses that users had an identity server connect with their user id.

use crate::{
    error::Result,
    numbers::UserNum,
    storage::{ReadAccess, WriteTx},
};

/// An address that an identity server connects with a user.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct IdentityBindingRow {
    /// The kind of the address, such as `email`.
    pub medium: String,
    pub address: String,
    /// The name of the identity server.
    pub id_server: String,
}

/// Returns the addresses of a user.
pub async fn of_user(db: &mut impl ReadAccess, user: UserNum) -> Result<Vec<IdentityBindingRow>> {
    db.query(
        "SELECT medium, address, id_server FROM identity_bindings
         WHERE user_num = $1
         ORDER BY medium, address, id_server",
    )
    .bind(user)
    .fetch_all()
    .await
}

/// Stores an address of a user.
pub async fn insert(tx: &mut WriteTx, user: UserNum, row: &IdentityBindingRow) -> Result<()> {
    tx.query(
        "INSERT INTO identity_bindings (user_num, medium, address, id_server)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT DO NOTHING",
    )
    .bind(user)
    .bind(row.medium.as_str())
    .bind(row.address.as_str())
    .bind(row.id_server.as_str())
    .execute()
    .await?;
    Ok(())
}

/// Removes an address of a user.
pub async fn remove(tx: &mut WriteTx, user: UserNum, row: &IdentityBindingRow) -> Result<()> {
    tx.query(
        "DELETE FROM identity_bindings
         WHERE user_num = $1 AND medium = $2 AND address = $3 AND id_server = $4",
    )
    .bind(user)
    .bind(row.medium.as_str())
    .bind(row.address.as_str())
    .bind(row.id_server.as_str())
    .execute()
    .await?;
    Ok(())
}
