//! Adding a validated e-mail address to an account.

use super::ValidatedAddress;
use crate::{
    error::{Error, RefusalCode, Result},
    numbers::UserNum,
    storage::{
        WriteTx,
        users::email_addresses::{self, EmailAddressRow},
    },
};

/// An address to be added to an account.
pub(in crate::users) struct NewEmail {
    pub(in crate::users) user: UserNum,
    pub(in crate::users) validated: ValidatedAddress,
    pub(in crate::users) added_ts: i64,
}

impl NewEmail {
    /// Stores the address, unless the account has it already.
    ///
    /// # Errors
    ///
    /// `RefusalCode::ThreepidInUse` when another account has it.
    pub(in crate::users) async fn store(self, tx: &mut WriteTx) -> Result<()> {
        let row = EmailAddressRow {
            address: self.validated.address,
            user_num: self.user,
            validated_ts: self.validated.validated_ts,
            added_ts: self.added_ts,
        };
        if email_addresses::insert(tx, &row).await?
            || email_addresses::owner(tx, &row.address).await? == Some(self.user)
        {
            return Ok(());
        }
        Err(Error::refused(
            RefusalCode::ThreepidInUse,
            "another account has this e-mail address",
        ))
    }
}
