//! Tokens with which users can register: those of the configuration and of administrators, and room invite links.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#token-authenticated-registration).

use super::{UserEnvironment, secrets};
use crate::{
    clock::Clock,
    error::{Error, Result},
    numbers::UserNum,
    storage::{
        Db, WriteTx,
        rooms::invite_links::{self, LinkUse},
        users::{
            accounts,
            tokens::{self, RegistrationToken},
        },
    },
};

/// The tokens for registration.
#[derive(Clone)]
pub struct RegistrationTokens {
    db: Db,
    clock: Clock,
    /// Whether room invite links permit registration.
    takes_links: bool,
}

impl RegistrationTokens {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            takes_links: environment.registration.invite_links,
        }
    }

    /// Returns the one-time token with which the first administrator registers; `None` once there is an administrator.
    pub async fn first_admin_token(&self) -> Result<Option<String>> {
        let mut tx = self.db.write().await?;
        if accounts::has_admin(&mut tx).await? {
            return Ok(None);
        }
        if let Some(token) = tokens::unused_admin_registration(&mut tx).await? {
            return Ok(Some(token));
        }
        let token = secrets::random_token();
        let registration = RegistrationToken {
            token: token.clone(),
            uses_allowed: Some(1),
            completed: 0,
            expires_ts: None,
            makes_admin: true,
        };
        tokens::insert_registration(&mut tx, &registration).await?;
        tx.commit().await?;
        Ok(Some(token))
    }

    /// Returns whether a registration token is valid.
    pub async fn is_valid(&self, token: &str) -> Result<bool> {
        if token.contains('\0') {
            return Ok(false);
        }
        let now = self.clock.now_ms();
        let mut db = self.db.read().await?;
        let found = tokens::valid_registration(&mut db, token, now).await?;
        if found.is_some() || !self.takes_links {
            return Ok(found.is_some());
        }
        let link = invite_links::find(&mut db, token, now).await?;
        Ok(link.is_some_and(|link| link.has_uses_left()))
    }

    /// Uses a registration token, and returns whether it makes the account an administrator.
    ///
    /// The token of a room invite link does not. Each account counts as one use of the link.
    pub(super) async fn use_token(
        &self,
        tx: &mut WriteTx,
        token: &str,
        user: UserNum,
    ) -> Result<bool> {
        let now = self.clock.now_ms();
        if let Some(makes_admin) = tokens::use_registration(tx, token, now).await? {
            return Ok(makes_admin);
        }
        if self.takes_links
            && invite_links::use_link(tx, token, user, now).await? != LinkUse::Refused
        {
            return Ok(false);
        }
        Err(Error::forbidden(
            "the registration token has been used up in the meantime",
        ))
    }
}
