//! The addresses that users had an identity server connect with their user id.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidbind).

use super::UserEnvironment;
use crate::{
    error::{Error, Result},
    numbers::UserNum,
    storage::{
        Db,
        users::identity_bindings::{self, IdentityBindingRow},
    },
};

/// The largest number of addresses of a user.
const MAX_BINDINGS_PER_USER: usize = 100;

/// The addresses that users had an identity server connect with their user id.
#[derive(Clone)]
pub struct UserIdentityBindings {
    db: Db,
}

impl UserIdentityBindings {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
        }
    }

    /// Returns the addresses of a user.
    pub async fn list(&self, user: UserNum) -> Result<Vec<IdentityBindingRow>> {
        let mut db = self.db.read().await?;
        identity_bindings::of_user(&mut db, user).await
    }

    /// Checks that a user may add an address.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when the user has too many.
    pub async fn check_count(&self, user: UserNum) -> Result<()> {
        if self.list(user).await?.len() >= MAX_BINDINGS_PER_USER {
            return Err(Error::invalid_param(
                "too many addresses are connected with your account: remove some of them",
            ));
        }
        Ok(())
    }

    /// Adds an address of a user.
    pub async fn add(&self, user: UserNum, row: &IdentityBindingRow) -> Result<()> {
        let mut tx = self.db.write().await?;
        identity_bindings::insert(&mut tx, user, row).await?;
        tx.commit().await
    }

    /// Removes an address of a user.
    pub async fn remove(&self, user: UserNum, row: &IdentityBindingRow) -> Result<()> {
        let mut tx = self.db.write().await?;
        identity_bindings::remove(&mut tx, user, row).await?;
        tx.commit().await
    }
}
