//! Tokens for clients: in exchange for an authorization code, for a device code or for a refresh token.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#grant-types).

use std::time::Duration;

use ruma::serde::{Base64, base64::UrlSafe};
use sha2::{Digest, Sha256};

use super::{OAuthClients, OAuthError, OAuthErrorCode, OAuthResult, OAuthScope, RegisteredClient};
use crate::{
    clock::Clock,
    error::{Error, Result},
    numbers::UserNum,
    storage::{
        Db, WriteTx,
        devices::device_table,
        users::{
            oauth_clients, oauth_codes,
            oauth_device_codes::{self, DeviceCodeRow},
            tokens::{self, TokenHash},
        },
    },
    users::{
        IssuedTokens, NewDevice, RefreshTokens, StartedSession, UserEnvironment, VerifiedUser,
        account_restrictions::must_be_usable, secrets,
    },
};

/// The shortest time between two questions of a waiting device.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// The time by which a question may be early, because of the network.
const POLL_TOLERANCE: Duration = Duration::from_secs(1);

/// Issues tokens to clients, and revokes them.
#[derive(Clone)]
pub struct OAuthTokens {
    db: Db,
    clock: Clock,
    clients: OAuthClients,
    refresh_tokens: RefreshTokens,
}

/// Tokens for a client, and their scope.
#[derive(Clone, Debug)]
pub struct OAuthGrant {
    pub tokens: IssuedTokens,
    pub scope: OAuthScope,
}

/// The parameters with which a client exchanges an authorization code.
#[derive(Clone, Copy, Debug)]
pub struct CodeExchange<'a> {
    pub client_id: &'a str,
    pub code: &'a str,
    pub redirect_uri: &'a str,
    /// The client's secret, of which the authorization request had the hash.
    pub code_verifier: &'a str,
}

/// A user whom a client signs in, and the id of the device.
struct SignIn<'a> {
    client: &'a RegisteredClient,
    user: VerifiedUser,
    device_id: String,
}

impl OAuthTokens {
    /// Creates the service.
    pub(in crate::users) fn new(
        environment: &UserEnvironment,
        clients: &OAuthClients,
        refresh_tokens: &RefreshTokens,
    ) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            clients: clients.clone(),
            refresh_tokens: refresh_tokens.clone(),
        }
    }

    /// Exchanges an authorization code for tokens. If it was used before, the device that it signed in is signed out.
    ///
    /// # Errors
    ///
    /// `invalid_grant` when the code or one of the other values is wrong; `invalid_client`.
    pub async fn exchange_code(&self, exchange: CodeExchange<'_>) -> OAuthResult<OAuthGrant> {
        let client = self.clients.client(exchange.client_id).await?;
        let hash = secrets::hash_token(exchange.code);
        let now = self.clock.now_ms();
        let mut tx = self.db.write().await?;
        let wrong = || invalid_grant("the code is wrong or has expired");
        let row = oauth_codes::find(&mut tx, &hash).await?.ok_or_else(wrong)?;
        if row.client_id != exchange.client_id || row.redirect_uri != exchange.redirect_uri {
            return Err(invalid_grant("the code belongs to another request"));
        }
        if !is_verifier_of(exchange.code_verifier, &row.code_challenge) {
            return Err(invalid_grant("code_verifier does not match code_challenge"));
        }
        if row.is_used {
            let device = device_table::find(&mut tx, row.user_num, &row.device_id).await?;
            let devices = device.into_iter().map(|device| device.num).collect();
            device_table::delete(&mut tx, row.user_num, devices).await?;
            tx.commit().await?;
            return Err(invalid_grant("the code was used before"));
        }
        if row.expires_ts <= now {
            return Err(wrong());
        }
        oauth_codes::mark_used(&mut tx, &hash).await?;
        let user_id = self.db.strings.user_id(&mut tx, row.user_num).await?;
        let sign_in = SignIn {
            client: &client,
            user: VerifiedUser {
                user_num: row.user_num,
                user_id,
                upstream_session: row.upstream_session,
            },
            device_id: row.device_id,
        };
        start_session(tx, sign_in, now).await
    }

    /// Returns the tokens of a device that waited for its user.
    ///
    /// # Errors
    ///
    /// `authorization_pending` until the user has decided; `slow_down`, `access_denied`, `expired_token`,
    /// `invalid_grant` or `invalid_client`.
    pub async fn exchange_device_code(
        &self,
        client_id: &str,
        device_code: &str,
    ) -> OAuthResult<OAuthGrant> {
        let client = self.clients.client(client_id).await?;
        let hash = secrets::hash_token(device_code);
        let now = self.clock.now_ms();
        let mut db = self.db.read().await?;
        let row = oauth_device_codes::find(&mut db, &hash).await?;
        drop(db);
        if row.is_some_and(|row| row.is_allowed.is_none() && is_too_early(&row, now)) {
            // Nothing is written, so that asking often costs little.
            return Err(OAuthError::refused(
                OAuthErrorCode::SlowDown,
                "ask less often",
            ));
        }
        let mut tx = self.db.write().await?;
        let row = oauth_device_codes::find(&mut tx, &hash).await?;
        let row = row.filter(|row| row.client_id == client_id);
        let row = row.ok_or_else(|| invalid_grant("the device code is wrong"))?;
        let Some(user_num) = self.decided_user(&mut tx, &hash, &row, now).await? else {
            tx.commit().await?;
            let (code, reason) = undecided_refusal(&row, now);
            return Err(OAuthError::refused(code, reason));
        };
        let user_id = self.db.strings.user_id(&mut tx, user_num).await?;
        let sign_in = SignIn {
            client: &client,
            user: VerifiedUser {
                user_num,
                user_id,
                upstream_session: row.upstream_session,
            },
            device_id: row.device_id,
        };
        start_session(tx, sign_in, now).await
    }

    /// Returns the user who let a waiting device sign in, and removes the device from those that wait.
    async fn decided_user(
        &self,
        tx: &mut WriteTx,
        hash: &TokenHash,
        row: &DeviceCodeRow,
        now: i64,
    ) -> Result<Option<UserNum>> {
        if row.expires_ts <= now || row.is_allowed.is_none() {
            oauth_device_codes::set_polled(tx, hash, now).await?;
            return Ok(None);
        }
        oauth_device_codes::remove(tx, hash).await?;
        Ok(row.user_num.filter(|_| row.is_allowed == Some(true)))
    }

    /// Exchanges a refresh token for new tokens.
    ///
    /// # Errors
    ///
    /// `invalid_grant` when the token is wrong or belongs to another client.
    pub async fn refresh(&self, client_id: &str, refresh_token: &str) -> OAuthResult<OAuthGrant> {
        let hash = secrets::hash_token(refresh_token);
        let wrong = || invalid_grant("the refresh token is wrong or was replaced");
        let mut db = self.db.read().await?;
        let token = tokens::find_refresh(&mut db, &hash).await?;
        let token = token.ok_or_else(wrong)?;
        let client = oauth_clients::client_of_device(&mut db, token.device).await?;
        let device = device_table::get(&mut db, token.device).await?;
        drop(db);
        let (Some(client), Some(device)) = (client, device) else {
            return Err(wrong());
        };
        if client != client_id {
            return Err(invalid_grant("the refresh token belongs to another client"));
        }
        let issued = self.refresh_tokens.refresh(refresh_token).await;
        let tokens = issued.map_err(|error| match error {
            Error::UnknownToken { .. } | Error::UserLocked => wrong(),
            other => OAuthError::Other(other),
        })?;
        let scope = OAuthScope {
            device_id: device.device_id.into(),
        };
        Ok(OAuthGrant { tokens, scope })
    }

    /// Signs out the device of an access token or refresh token. An unknown token is ignored.
    pub async fn revoke(&self, token: &str) -> Result<()> {
        let hash = secrets::hash_token(token);
        let mut tx = self.db.write().await?;
        let device = match tokens::find_access(&mut tx, &hash).await? {
            Some(access) => Some(access.device),
            None => tokens::find_refresh(&mut tx, &hash)
                .await?
                .map(|refresh| refresh.device),
        };
        let Some(num) = device else {
            return Ok(());
        };
        if let Some(device) = device_table::get(&mut tx, num).await? {
            device_table::delete(&mut tx, device.user_num, vec![num]).await?;
            tx.commit().await?;
        }
        Ok(())
    }
}

/// Starts the session of a device.
async fn start_session(mut tx: WriteTx, sign_in: SignIn<'_>, now: i64) -> OAuthResult<OAuthGrant> {
    let SignIn {
        client,
        user,
        device_id,
    } = sign_in;
    let user_num = user.user_num;
    match must_be_usable(&mut tx, user_num).await {
        Err(Error::UserDeactivated | Error::UserLocked) => {
            return Err(invalid_grant("the account is locked or deactivated"));
        }
        other => other?,
    }
    let device = NewDevice {
        device_id: Some(device_id.into()),
        display_name: Some(client.metadata.display_name().to_owned()),
        refresh_token: true,
    };
    let started = StartedSession::start(&mut tx, user, device, now).await?;
    let device_id = started.device_id;
    if let Some(device) = device_table::find(&mut tx, user_num, device_id.as_str()).await? {
        oauth_clients::set_device_client(&mut tx, device.num, &client.client_id).await?;
    }
    tx.commit().await?;
    tracing::info!(user_id = %started.user_id, %device_id, "signed in with OAuth 2.0");
    Ok(OAuthGrant {
        tokens: started.tokens,
        scope: OAuthScope { device_id },
    })
}

/// Returns the reason why a waiting device gets no tokens.
fn undecided_refusal(row: &DeviceCodeRow, now: i64) -> (OAuthErrorCode, &'static str) {
    if row.expires_ts <= now {
        (OAuthErrorCode::ExpiredToken, "the device code has expired")
    } else if row.is_allowed.is_some() {
        (
            OAuthErrorCode::AccessDenied,
            "the user does not want to sign in",
        )
    } else {
        (
            OAuthErrorCode::AuthorizationPending,
            "the user has not decided yet",
        )
    }
}

/// Returns whether a waiting device has asked a moment before.
fn is_too_early(row: &DeviceCodeRow, now: i64) -> bool {
    let shortest = POLL_INTERVAL.saturating_sub(POLL_TOLERANCE);
    let shortest_ms = i64::try_from(shortest.as_millis()).unwrap_or(i64::MAX);
    now.saturating_sub(row.polled_ts) < shortest_ms
}

/// Returns whether a secret has this SHA-256.
///
/// See [RFC 7636](https://www.rfc-editor.org/rfc/rfc7636#section-4.6).
fn is_verifier_of(verifier: &str, challenge: &str) -> bool {
    let hash: Base64<UrlSafe, _> = Base64::new(Sha256::digest(verifier.as_bytes()).to_vec());
    hash.encode() == challenge
}

fn invalid_grant(description: &str) -> OAuthError {
    OAuthError::refused(OAuthErrorCode::InvalidGrant, description)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_7636_is_verified() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

        assert!(is_verifier_of(verifier, challenge));
        assert!(!is_verifier_of("other", challenge));
    }
}
