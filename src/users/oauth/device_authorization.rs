//! Devices without a browser, which wait until their user signs them in on another device.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#device-authorisation-flow).

use std::time::Duration;

use super::{
    BrowserUser, OAuthClients, OAuthError, OAuthErrorCode, OAuthResult, OAuthScope,
    RegisteredClient, client_metadata::DEVICE_GRANT, token_grants::POLL_INTERVAL,
};
use crate::{
    clock::Clock,
    error::{Error, Result},
    storage::{
        Db,
        users::oauth_device_codes::{self, DeviceCodeRow, DeviceDecision},
    },
    users::{UserEnvironment, secrets},
};

/// The lifetime of the codes.
const DEVICE_CODE_LIFETIME: Duration = Duration::from_mins(20);
/// The time for which a device is remembered after its codes have expired, so that its client learns that they have.
const EXPIRED_CODE_RETENTION: Duration = Duration::from_hours(1);
/// The largest number of devices that wait. More would make it easy to guess a code.
const MAX_WAITING_DEVICES: i64 = 10_000;
/// The time after which a device may try again when too many wait.
const RETRY_AFTER: Duration = Duration::from_mins(5);
/// The letters of the codes that users enter: consonants, so that they form no words, without those that are easily
/// confused.
const USER_CODE_LETTERS: &[u8] = b"BCDFGHJKLMNPQRSTVWXZ";
/// The number of letters on each side of the hyphen.
const USER_CODE_HALF: usize = 4;

/// The devices that wait for their users.
#[derive(Clone)]
pub struct DeviceAuthorizations {
    db: Db,
    clock: Clock,
    clients: OAuthClients,
}

/// The codes of a device that begins to wait.
#[derive(Clone, Debug)]
pub struct StartedDeviceAuthorization {
    /// The secret of the device.
    pub device_code: String,
    /// The code that the user enters.
    pub user_code: String,
    pub expires_in: Duration,
    /// The shortest time between two questions.
    pub interval: Duration,
}

/// A device that waits for the user's decision.
#[derive(Clone, Debug)]
pub struct WaitingDevice {
    pub client: RegisteredClient,
    pub scope: OAuthScope,
    pub user_code: String,
}

impl DeviceAuthorizations {
    /// Creates the service.
    pub(in crate::users) fn new(environment: &UserEnvironment, clients: &OAuthClients) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            clients: clients.clone(),
        }
    }

    /// Issues codes for a device.
    ///
    /// # Errors
    ///
    /// `invalid_client`, `unauthorized_client` or `invalid_scope`; [`Error::LimitExceeded`] when too many devices wait.
    pub async fn start(
        &self,
        client_id: &str,
        scope: &str,
    ) -> OAuthResult<StartedDeviceAuthorization> {
        let client = self.clients.client(client_id).await?;
        if !client.metadata.allows_grant(DEVICE_GRANT) {
            return Err(OAuthError::refused(
                OAuthErrorCode::UnauthorizedClient,
                "the client has not registered this grant type",
            ));
        }
        let scope = OAuthScope::parse(scope)?;
        let (device_code, user_code) = (secrets::random_token(), random_user_code());
        let now = self.clock.now_ms();
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let row = DeviceCodeRow {
            user_code: user_code.clone(),
            client_id: client.client_id,
            device_id: scope.device_id.to_string(),
            expires_ts: now.saturating_add(ms(DEVICE_CODE_LIFETIME)),
            polled_ts: 0,
            is_allowed: None,
            user_num: None,
            upstream_session: None,
        };
        let mut tx = self.db.write().await?;
        if oauth_device_codes::count_waiting(&mut tx, now).await? >= MAX_WAITING_DEVICES {
            return Err(OAuthError::Other(Error::LimitExceeded {
                retry_after: RETRY_AFTER,
            }));
        }
        let hash = secrets::hash_token(&device_code);
        let deleted_before_ts = now.saturating_sub(ms(EXPIRED_CODE_RETENTION));
        oauth_device_codes::insert(&mut tx, &hash, &row, deleted_before_ts).await?;
        tx.commit().await?;
        Ok(StartedDeviceAuthorization {
            device_code,
            user_code,
            expires_in: DEVICE_CODE_LIFETIME,
            interval: POLL_INTERVAL,
        })
    }

    /// Returns the waiting device whose code a user has entered, in any spelling.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when no device waits with this code.
    pub async fn find(&self, entered: &str) -> Result<WaitingDevice> {
        let user_code = normalized_user_code(entered);
        let now = self.clock.now_ms();
        let mut db = self.db.read().await?;
        let row = oauth_device_codes::find_undecided(&mut db, &user_code, now).await?;
        drop(db);
        let row = row.ok_or_else(wrong_code)?;
        let client = match self.clients.client(&row.client_id).await {
            Ok(client) => client,
            Err(OAuthError::Refused { .. }) => return Err(wrong_code()),
            Err(OAuthError::Other(error)) => return Err(error),
        };
        Ok(WaitingDevice {
            client,
            scope: OAuthScope {
                device_id: row.device_id.into(),
            },
            user_code: row.user_code,
        })
    }

    /// Lets a waiting device sign in as a user, or not.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the device no longer waits.
    #[tracing::instrument(skip_all, fields(user_id = %user.session.user_id), err(level = "debug"))]
    pub async fn decide(
        &self,
        device: &WaitingDevice,
        user: &BrowserUser,
        is_allowed: bool,
    ) -> Result<()> {
        let now = self.clock.now_ms();
        let mut tx = self.db.write().await?;
        let decision = DeviceDecision {
            user: user.session.user,
            upstream_session: user.upstream_session,
            is_allowed,
        };
        if !oauth_device_codes::decide(&mut tx, &device.user_code, decision, now).await? {
            return Err(wrong_code());
        }
        tx.commit().await
    }
}

fn wrong_code() -> Error {
    Error::forbidden("no device waits with this code; it may have expired")
}

fn random_user_code() -> String {
    let mut code = String::new();
    for at in 0..2 * USER_CODE_HALF {
        if at == USER_CODE_HALF {
            code.push('-');
        }
        let letter = USER_CODE_LETTERS.get(rand::random_range(0..USER_CODE_LETTERS.len()));
        code.extend(letter.copied().map(char::from));
    }
    code
}

/// Returns a code as it is stored: in capitals, with a hyphen in the middle.
fn normalized_user_code(entered: &str) -> String {
    let letters = entered.chars().filter(char::is_ascii_alphabetic);
    let mut code: String = letters.take(2 * USER_CODE_HALF).collect();
    code.make_ascii_uppercase();
    if code.len() > USER_CODE_HALF {
        code.insert(USER_CODE_HALF, '-');
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_codes_are_found_in_any_spelling() {
        let code = random_user_code();

        assert_eq!(code.len(), 9);
        assert_eq!(normalized_user_code(&code), code);
        let spoken = code.to_lowercase().replace('-', " ");
        assert_eq!(normalized_user_code(&format!(" {spoken} ")), code);
        assert_eq!(normalized_user_code("abc"), "ABC");
    }
}
