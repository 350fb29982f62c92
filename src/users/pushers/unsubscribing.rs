//! Links in e-mail with which users remove a pusher without a login.

use super::UserPushers;
use crate::{
    error::{Error, Result},
    numbers::UserNum,
    storage::users::{
        pushers::PusherKey,
        unsubscribe_tokens::{self, UnsubscribeTokenRow},
    },
    users::secrets,
};

/// The lifetime of the token with which a user unsubscribes from digests, in milliseconds.
const UNSUBSCRIBE_LIFETIME_MS: i64 = 90 * 24 * 60 * 60 * 1000;

impl UserPushers {
    /// Issues a token with which an e-mail pusher can be removed without a login.
    pub async fn issue_unsubscribe_token(
        &self,
        user: UserNum,
        app_id: &str,
        pushkey: &str,
    ) -> Result<String> {
        let token = secrets::random_token();
        let hash = secrets::hash_token(&token);
        let key = PusherKey {
            user,
            app_id,
            pushkey,
        };
        let now = self.clock.now_ms();
        let expires_ts = now.saturating_add(UNSUBSCRIBE_LIFETIME_MS);
        let mut tx = self.db.write().await?;
        unsubscribe_tokens::insert(&mut tx, &hash, key, expires_ts, now).await?;
        tx.commit().await?;
        Ok(token)
    }

    /// Returns the e-mail address whose pusher a token removes.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the token is unknown or has expired.
    pub async fn subscribed_address(&self, token: &str) -> Result<String> {
        let pusher = self.find_subscription(token).await?;
        Ok(pusher.pushkey)
    }

    /// Removes the e-mail pusher to which a token belongs, if it is still there.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the token is unknown or has expired.
    pub async fn unsubscribe(&self, token: &str) -> Result<()> {
        let pusher = self.find_subscription(token).await?;
        self.remove(pusher.user_num, &pusher.app_id, &pusher.pushkey)
            .await
    }

    async fn find_subscription(&self, token: &str) -> Result<UnsubscribeTokenRow> {
        let (hash, now) = (secrets::hash_token(token), self.clock.now_ms());
        let mut db = self.db.read().await?;
        let found = unsubscribe_tokens::find(&mut db, &hash, now).await?;
        found.ok_or_else(|| Error::forbidden("this link has expired"))
    }
}
