//! Short-lived tokens for one purpose: to log another device in, or to prove the user's identity to another service.

use std::time::Duration;

use ruma::OwnedUserId;

use super::{UserEnvironment, VerifiedUser, secrets};
use crate::{
    clock::Clock,
    error::{Error, Result},
    numbers::UserNum,
    storage::{
        Db,
        users::short_lived_tokens::{self, NewShortLivedToken, TokenOwner, TokenPurpose},
    },
};

/// The largest number of valid tokens of a user.
const MAX_TOKENS_PER_USER: i64 = 100;
/// The time after which a user with too many tokens may try again.
const RETRY_AFTER: Duration = Duration::from_mins(2);

/// Issues and checks short-lived tokens.
#[derive(Clone)]
pub(super) struct ShortLivedTokens {
    db: Db,
    clock: Clock,
}

impl ShortLivedTokens {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
        }
    }

    /// Issues a token of a user.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`] when the user has too many.
    pub(super) async fn issue(
        &self,
        user: UserNum,
        purpose: TokenPurpose,
        lifetime: Duration,
    ) -> Result<String> {
        let owner = TokenOwner {
            user_num: user,
            upstream_session: None,
        };
        self.issue_for_owner(owner, purpose, lifetime).await
    }

    /// Issues a token of a user who may have signed in with an identity provider.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`] when the user has too many.
    pub(super) async fn issue_for_owner(
        &self,
        owner: TokenOwner,
        purpose: TokenPurpose,
        lifetime: Duration,
    ) -> Result<String> {
        let user = owner.user_num;
        let token = secrets::random_token();
        let now = self.clock.now_ms();
        let lifetime = i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX);
        let mut tx = self.db.write().await?;
        if short_lived_tokens::count(&mut tx, user, now).await? >= MAX_TOKENS_PER_USER {
            return Err(Error::LimitExceeded {
                retry_after: RETRY_AFTER,
            });
        }
        let hash = secrets::hash_token(&token);
        let new = NewShortLivedToken {
            hash: &hash,
            purpose,
            user,
            upstream_session: owner.upstream_session,
            expires_ts: now.saturating_add(lifetime),
        };
        short_lived_tokens::insert(&mut tx, new, now).await?;
        tx.commit().await?;
        Ok(token)
    }

    /// Returns the user of a valid token.
    pub(super) async fn user_of(
        &self,
        token: &str,
        purpose: TokenPurpose,
    ) -> Result<Option<OwnedUserId>> {
        let (hash, now) = (secrets::hash_token(token), self.clock.now_ms());
        let mut db = self.db.read().await?;
        match short_lived_tokens::find(&mut db, &hash, purpose, now).await? {
            Some(user) => self.db.strings.user_id(&mut db, user).await.map(Some),
            None => Ok(None),
        }
    }

    /// Consumes a valid token, and returns its user.
    pub(super) async fn redeem(
        &self,
        token: &str,
        purpose: TokenPurpose,
    ) -> Result<Option<VerifiedUser>> {
        let (hash, now) = (secrets::hash_token(token), self.clock.now_ms());
        let mut tx = self.db.write().await?;
        let owner = short_lived_tokens::consume(&mut tx, &hash, purpose, now).await?;
        let Some(owner) = owner else {
            return Ok(None);
        };
        let user_num = owner.user_num;
        let user_id = self.db.strings.user_id(&mut tx, user_num).await?;
        tx.commit().await?;
        Ok(Some(VerifiedUser {
            user_num,
            user_id,
            upstream_session: owner.upstream_session,
        }))
    }
}
