//! Messages of an identity provider that a user has signed out there.
//!
//! See [OpenID Connect Back-Channel Logout](https://openid.net/specs/openid-connect-backchannel-1_0.html).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    client::ProviderClient,
    identity::{MAX_SUBJECT_BYTES, short_text},
    json_web_token::{TokenRefusal, verify_signature},
};
use crate::error::{Error, Result};

/// The event that a logout token must have.
const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// The longest token, in bytes.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// The greatest age of a token, and the time by which the clock of a provider may be ahead, in seconds.
const MAX_AGE_SECONDS: i64 = 5 * 60;
/// The time for which the ids of tokens are remembered, in milliseconds. Older tokens are refused.
const USED_ID_LIFETIME_MS: i64 = 2 * MAX_AGE_SECONDS * 1_000;
/// The largest number of ids of tokens that are remembered.
const MAX_USED_IDS: usize = 100_000;

/// The sign-ins that a logout token ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EndedSignIns {
    /// The id of the account at the provider. Without a session, all its sign-ins end.
    pub(super) subject: Option<String>,
    /// The id of the session at the provider.
    pub(super) provider_session: Option<String>,
}

/// The ids of logout tokens that were used, and the times until which they are remembered.
#[derive(Default)]
pub(super) struct UsedTokenIds {
    kept_until: Mutex<HashMap<String, i64>>,
}

#[derive(Deserialize)]
struct LogoutClaims {
    iss: String,
    aud: Audience,
    #[serde(rename = "iat")]
    issued_at: i64,
    #[serde(rename = "exp")]
    expires_at: Option<i64>,
    jti: String,
    events: Map<String, Value>,
    sub: Option<Value>,
    sid: Option<Value>,
    nonce: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn contains(&self, client_id: &str) -> bool {
        match self {
            Self::One(one) => one == client_id,
            Self::Many(many) => many.iter().any(|one| one == client_id),
        }
    }
}

impl UsedTokenIds {
    /// Remembers the id of a token. Returns whether it was not used before.
    fn add(&self, id: String, now: i64) -> bool {
        let mut ids = self
            .kept_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if ids.len() >= MAX_USED_IDS {
            ids.retain(|_, expires_ms| *expires_ms > now);
        }
        if ids.len() >= MAX_USED_IDS {
            return false;
        }
        let expires_ms = now.saturating_add(USED_ID_LIFETIME_MS);
        ids.insert(id, expires_ms).is_none_or(|until| until <= now)
    }
}

impl ProviderClient {
    /// Verifies a logout token, and returns what it ends.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when it is not valid; [`Error::Unreachable`] when the keys cannot be fetched.
    pub(super) async fn verify_logout_token(
        &self,
        token: &str,
        used: &UsedTokenIds,
        now: i64,
    ) -> Result<EndedSignIns> {
        let invalid = |reason: &str| Error::forbidden(format!("the logout token: {reason}"));
        if token.len() > MAX_TOKEN_BYTES {
            return Err(invalid("it is too long"));
        }
        let metadata = self.metadata().await?;
        let mut verified = verify_signature(token, metadata.jwks());
        if verified == Err(TokenRefusal::UnknownKey)
            && let Some(renewed) = self.renewed_metadata(&metadata).await?
        {
            verified = verify_signature(token, renewed.jwks());
        }
        let claims = verified.map_err(|refusal| invalid(&format!("{refusal:?}")))?;
        let claims: LogoutClaims = serde_json::from_value(claims.into())
            .map_err(|error| invalid(&format!("its claims: {error}")))?;
        self.check_claims(&claims, now).map_err(invalid)?;
        let text = |value| short_text(value, MAX_SUBJECT_BYTES);
        let ended = EndedSignIns {
            subject: text(claims.sub.as_ref()),
            provider_session: text(claims.sid.as_ref()),
        };
        if ended.subject.is_none() && ended.provider_session.is_none() {
            return Err(invalid("it has neither sub nor sid"));
        }
        let id = format!("{} {}", self.settings.id, claims.jti);
        if !used.add(id, now) {
            return Err(invalid("it was used before"));
        }
        Ok(ended)
    }

    /// Checks the claims that do not say what ends.
    fn check_claims(&self, claims: &LogoutClaims, now_ms: i64) -> Result<(), &'static str> {
        let now = now_ms / 1_000;
        let age = now.saturating_sub(claims.issued_at);
        let is_expired = claims.expires_at.is_some_and(|exp| exp <= now);
        let event = claims.events.get(LOGOUT_EVENT);
        let rules = [
            (claims.iss == self.settings.issuer, "iss is wrong"),
            (
                claims.aud.contains(&self.settings.client_id),
                "aud is wrong",
            ),
            (
                (-MAX_AGE_SECONDS..=MAX_AGE_SECONDS).contains(&age),
                "iat is not recent",
            ),
            (!is_expired, "it has expired"),
            (
                event.is_some_and(Value::is_object),
                "events has no back-channel logout",
            ),
            // "The following Claim MUST NOT be used within the Logout Token: nonce"
            (claims.nonce.is_none(), "it has a nonce"),
            (
                (1..=MAX_SUBJECT_BYTES).contains(&claims.jti.len()),
                "jti is empty or too long",
            ),
        ];
        let broken = rules.iter().find(|(is_kept, _)| !is_kept);
        broken.map_or(Ok(()), |(_, reason)| Err(*reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_token_can_be_used_once() {
        let used = UsedTokenIds::default();

        assert!(used.add("one".to_owned(), 0));
        assert!(!used.add("one".to_owned(), 1));
        assert!(used.add("other".to_owned(), 1));
    }
}
