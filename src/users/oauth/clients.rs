//! The clients that registered with this server.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#client-registration).

use std::{collections::HashMap, time::Duration};

use ruma::serde::{Base64, base64::UrlSafe};
use sha2::{Digest, Sha256};

use super::{ClientMetadata, OAuthError, OAuthErrorCode, OAuthResult};
use crate::{
    clock::Clock,
    error::Result,
    numbers::UserNum,
    storage::{Db, users::oauth_clients},
    users::UserEnvironment,
};

/// The time for which a client without signed-in devices is stored.
const UNUSED_CLIENT_LIFETIME: Duration = Duration::from_hours(24 * 30);

/// A client that has registered.
#[derive(Clone, Debug)]
pub struct RegisteredClient {
    pub client_id: String,
    pub metadata: ClientMetadata,
}

/// The registered clients.
#[derive(Clone)]
pub struct OAuthClients {
    db: Db,
    clock: Clock,
    /// Whether clients may be on hosts without TLS, because this server has none.
    allows_http: bool,
}

impl OAuthClients {
    /// Creates the service.
    pub(in crate::users) fn new(environment: &UserEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            allows_http: !environment.config.public_url().is_https(),
        }
    }

    /// Registers a client. The same metadata gets the same client id.
    ///
    /// # Errors
    ///
    /// `invalid_redirect_uri` or `invalid_client_metadata`.
    pub async fn register(&self, metadata: ClientMetadata) -> OAuthResult<RegisteredClient> {
        let metadata = metadata.checked(self.allows_http)?;
        let json = serde_json::to_string(&metadata).map_err(crate::error::Error::from)?;
        let client_id: Base64<UrlSafe, _> = Base64::new(Sha256::digest(json.as_bytes()).to_vec());
        let client_id = client_id.encode();
        let now = self.clock.now_ms();
        let lifetime = i64::try_from(UNUSED_CLIENT_LIFETIME.as_millis()).unwrap_or(i64::MAX);
        let mut tx = self.db.write().await?;
        oauth_clients::delete_unused(&mut tx, now.saturating_sub(lifetime)).await?;
        oauth_clients::upsert(&mut tx, &client_id, &json, now).await?;
        tx.commit().await?;
        Ok(RegisteredClient {
            client_id,
            metadata,
        })
    }

    /// Returns the names of the apps of those devices of a user that signed in with the OAuth 2.0 API, by device id.
    pub async fn apps_of_devices(&self, user: UserNum) -> Result<HashMap<String, String>> {
        let mut db = self.db.read().await?;
        let mut apps = HashMap::new();
        for row in oauth_clients::clients_of_user(&mut db, user).await? {
            let metadata = parse_metadata(&row.metadata)?;
            apps.insert(row.device_id, metadata.display_name().to_owned());
        }
        Ok(apps)
    }

    /// Returns a client.
    ///
    /// # Errors
    ///
    /// `invalid_client` when it has not registered, or was deleted because no device is signed in with it.
    pub async fn client(&self, client_id: &str) -> OAuthResult<RegisteredClient> {
        let mut db = self.db.read().await?;
        let json = oauth_clients::metadata(&mut db, client_id).await?;
        let metadata = json.as_deref().map(parse_metadata).transpose()?;
        let metadata = metadata.ok_or_else(|| {
            OAuthError::refused(
                OAuthErrorCode::InvalidClient,
                "the client is not registered",
            )
        })?;
        Ok(RegisteredClient {
            client_id: client_id.to_owned(),
            metadata,
        })
    }
}

/// Parses stored metadata.
fn parse_metadata(json: &str) -> Result<ClientMetadata> {
    Ok(serde_json::from_str(json)?)
}
