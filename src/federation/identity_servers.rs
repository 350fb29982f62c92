//! Requests to identity servers, which know the Matrix users behind e-mail addresses and telephone numbers.
//!
//! Clients name the identity server, and give the access token for it. Identity servers are contacted under the same
//! conditions as other homeservers.
//!
//! See the [specification](https://spec.matrix.org/v1.19/identity-service-api/).

use std::{sync::Arc, time::Duration};

use reqwest::{Client, Method, StatusCode, header::CONTENT_TYPE};
use ruma::{
    OwnedServerName, OwnedUserId, ServerName, UserId,
    api::{auth_scheme::AuthScheme, federation::authentication::ServerSignatures},
    exports::http::Request,
    serde::{Base64, base64::UrlSafe},
    thirdparty::Medium,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use url::Url;

use crate::{
    error::{Error, Result},
    matrix::SigningKey,
    outbound::{self, CertificateTrust, NetworkReach},
};

/// The time limit of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// The largest response that is read, in bytes.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;
const PATH_PREFIX: &str = "/_matrix/identity/v2";
/// The algorithm with which addresses are hashed before they are looked up.
const LOOKUP_ALGORITHM: &str = "sha256";

/// Sends requests to identity servers. Cheap to clone.
#[derive(Clone)]
pub struct IdentityServers {
    http: Client,
    key: Arc<SigningKey>,
    reach: NetworkReach,
    is_enabled: bool,
}

/// An identity server, and the access token of the user for it.
#[derive(Clone, Debug)]
pub struct IdentityAccess {
    pub server: OwnedServerName,
    pub access_token: String,
}

/// An e-mail address or a telephone number.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ThirdPartyAddress {
    pub medium: Medium,
    pub address: String,
}

/// An invitation that an identity server keeps until someone shows that the address is theirs.
#[derive(Clone, Debug, Deserialize)]
pub struct StoredInvitation {
    /// The state key of the event `m.room.third_party_invite`.
    pub token: String,
    /// The address in a form that does not reveal it.
    pub display_name: String,
    pub public_keys: Vec<InvitationKey>,
}

/// A key with which an identity server signs that an address belongs to a user.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct InvitationKey {
    pub public_key: String,
    pub key_validity_url: String,
}

/// The credentials of a validation that an identity server has done.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ValidationCredentials<'a> {
    pub client_secret: &'a str,
    pub sid: &'a str,
}

/// The answer to the request to forget the user behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnbindAnswer {
    Forgotten,
    /// The identity server cannot forget users.
    NotSupported,
}

#[derive(Deserialize)]
struct HashDetails {
    algorithms: Vec<String>,
    lookup_pepper: String,
}

#[derive(Deserialize)]
struct LookupResponse {
    mappings: Map<String, Value>,
}

impl IdentityAccess {
    /// Reads the name of an identity server, which some clients write as a URL.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when it is not the name of a server.
    pub fn parse(id_server: &str, access_token: &str) -> Result<Self> {
        Ok(Self {
            server: parse_name(id_server)?,
            access_token: access_token.to_owned(),
        })
    }
}

/// Reads the name of an identity server, which some clients write as a URL.
///
/// # Errors
///
/// [`Error::InvalidParam`] when it is not the name of a server.
pub fn parse_name(id_server: &str) -> Result<OwnedServerName> {
    let name = id_server.strip_prefix("https://").unwrap_or(id_server);
    ServerName::parse(name.trim_end_matches('/'))
        .map_err(|_| Error::invalid_param("id_server is not the name of a server"))
}

impl IdentityServers {
    pub(super) fn new(
        key: Arc<SigningKey>,
        reach: NetworkReach,
        trust: &CertificateTrust,
        is_enabled: bool,
    ) -> Result<Self> {
        Ok(Self {
            http: outbound::web_client_with_trust(reach, trust)?,
            key,
            reach,
            is_enabled,
        })
    }

    /// Asks an identity server to publish that an address belongs to a user. The identity server must have validated the
    /// address. Returns the address.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the identity server refuses it, [`Error::Unreachable`] when it does not answer.
    pub async fn bind(
        &self,
        access: &IdentityAccess,
        credentials: ValidationCredentials<'_>,
        user_id: &UserId,
    ) -> Result<ThirdPartyAddress> {
        let ValidationCredentials { client_secret, sid } = credentials;
        let body = json!({ "client_secret": client_secret, "sid": sid, "mxid": user_id });
        self.request(access, Method::POST, "/3pid/bind", Some(&body))
            .await
    }

    /// Asks an identity server to forget that an address belongs to a user. The request is signed by this server.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the identity server refuses it, [`Error::Unreachable`] when it does not answer.
    pub async fn unbind(
        &self,
        server: &ServerName,
        address: &ThirdPartyAddress,
        user_id: &UserId,
    ) -> Result<UnbindAnswer> {
        let url = self.url(server, "/3pid/unbind")?;
        let body = json!({ "mxid": user_id, "threepid": address });
        let mut request = Request::post(url.as_str())
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_string().into_bytes())
            .map_err(|source| Error::internal("write a request to an identity server", source))?;
        ServerSignatures::add_authentication(&mut request, self.key.signing_input(server))
            .map_err(|source| Error::internal("sign a request to an identity server", source))?;
        let mut request = reqwest::Request::try_from(request)
            .map_err(|source| Error::internal("write a request to an identity server", source))?;
        *request.timeout_mut() = Some(REQUEST_TIMEOUT);
        let response = self.http.execute(request).await;
        let status = response
            .map_err(|error| unreachable(server, &error))?
            .status();
        match status {
            status if status.is_success() => Ok(UnbindAnswer::Forgotten),
            StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => Ok(UnbindAnswer::NotSupported),
            status => Err(refused(server, &format!("status {status}"))),
        }
    }

    /// Returns the user to whom an address belongs, if the identity server knows one. It is sent a hash of the address.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the identity server refuses it, [`Error::Unreachable`] when it does not answer.
    pub async fn look_up(
        &self,
        access: &IdentityAccess,
        address: &ThirdPartyAddress,
    ) -> Result<Option<OwnedUserId>> {
        let details: HashDetails = self
            .request(access, Method::GET, "/hash_details", None)
            .await?;
        if !details
            .algorithms
            .iter()
            .any(|name| name == LOOKUP_ALGORITHM)
        {
            let reason = "it does not offer the hash algorithm sha256";
            return Err(refused(&access.server, reason));
        }
        let hashed = hash_address(address, &details.lookup_pepper);
        let body = json!({
            "addresses": [hashed],
            "algorithm": LOOKUP_ALGORITHM,
            "pepper": details.lookup_pepper,
        });
        let found: LookupResponse = self
            .request(access, Method::POST, "/lookup", Some(&body))
            .await?;
        let user_id = found.mappings.get(&hashed).and_then(Value::as_str);
        Ok(user_id.and_then(|user_id| OwnedUserId::try_from(user_id).ok()))
    }

    /// Makes an identity server send an invitation to an address, and keep it until someone shows that the address is
    /// theirs.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the identity server refuses it, [`Error::Unreachable`] when it does not answer.
    pub async fn store_invitation(
        &self,
        access: &IdentityAccess,
        invitation: &Value,
    ) -> Result<StoredInvitation> {
        self.request(access, Method::POST, "/store-invite", Some(invitation))
            .await
    }

    async fn request<T: for<'de> Deserialize<'de>>(
        &self,
        access: &IdentityAccess,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T> {
        let server = &access.server;
        let mut request = self
            .http
            .request(method, self.url(server, path)?)
            .bearer_auth(&access.access_token)
            .timeout(REQUEST_TIMEOUT);
        if let Some(body) = body {
            request = request
                .header(CONTENT_TYPE, "application/json")
                .body(body.to_string());
        }
        let sent = request.send().await;
        let mut response = sent.map_err(|error| unreachable(server, &error))?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| unreachable(server, &error))?
        {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_RESPONSE_BYTES {
                return Err(refused(server, "its response is too large"));
            }
        }
        if !status.is_success() {
            let error: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let code = error.get("errcode").and_then(Value::as_str);
            let code = code.unwrap_or("no error code");
            return Err(refused(server, &format!("status {status}, {code}")));
        }
        serde_json::from_slice(&bytes).map_err(|_| refused(server, "its response is malformed"))
    }

    /// Checks that this server contacts identity servers at all.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when it does not.
    pub fn check_enabled(&self) -> Result<()> {
        if self.is_enabled {
            return Ok(());
        }
        Err(Error::forbidden(
            "this server does not contact others, because its federation is disabled",
        ))
    }

    fn url(&self, server: &ServerName, path: &str) -> Result<Url> {
        self.check_enabled()?;
        let url = Url::parse(&format!("https://{server}{PATH_PREFIX}{path}"))
            .map_err(|_| Error::invalid_param("id_server is not the name of a server"))?;
        outbound::check_url(&url, self.reach)?;
        Ok(url)
    }
}

/// Returns the hash by which an identity server finds an address.
fn hash_address(address: &ThirdPartyAddress, pepper: &str) -> String {
    let ThirdPartyAddress { address, medium } = address;
    let text = format!("{} {medium} {pepper}", address.to_lowercase());
    Base64::<UrlSafe, _>::new(Sha256::digest(text.as_bytes())).encode()
}

fn unreachable(server: &ServerName, error: &reqwest::Error) -> Error {
    Error::Unreachable(format!(
        "the identity server {server} does not answer: {error}"
    ))
}

fn refused(server: &ServerName, reason: &str) -> Error {
    Error::forbidden(format!(
        "the identity server {server} refused the request: {reason}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the [specification](https://spec.matrix.org/v1.19/identity-service-api/#post_matrixidentityv2lookup).
    #[test]
    fn addresses_are_hashed_as_in_the_specification() {
        let hashed = |address: &str, medium| {
            let address = ThirdPartyAddress {
                medium,
                address: address.to_owned(),
            };
            hash_address(&address, "matrixrocks")
        };

        assert_eq!(
            hashed("Alice@example.com", Medium::Email),
            "4kenr7N9drpCJ4AfalmlGQVsOn3o2RHjkADUpXJWZUc"
        );
        assert_eq!(
            hashed("18005552067", Medium::Msisdn),
            "nlo35_T5fzSGZzJApqu8lgIudJvmOQtDaHtr-I4rU7I"
        );
    }

    #[test]
    fn a_name_may_be_written_as_a_url() {
        assert_eq!(
            parse_name("https://id.example.org/").unwrap(),
            "id.example.org"
        );
        assert_eq!(
            parse_name("id.example.org:8090").unwrap(),
            "id.example.org:8090"
        );
        assert!(parse_name("http://id.example.org").is_err());
        assert!(parse_name("id.example.org/path").is_err());
    }
}
