//! The metadata with which clients register.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#client-metadata).

use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    OAuthError, OAuthErrorCode, OAuthResult,
    redirect_uri::{
        ClientKind, MAX_URI_BYTES, is_allowed_redirect, is_on_host_of, is_page_address,
    },
};

/// The longest name of a client, in bytes.
const MAX_CLIENT_NAME_BYTES: usize = 255;
/// The largest number of redirect URIs of a client.
const MAX_REDIRECT_URIS: usize = 20;
/// The largest number of values in the other lists.
const MAX_LIST_VALUES: usize = 20;

/// The grant types that the server supports.
pub(super) const CODE_GRANT: &str = "authorization_code";
pub(super) const REFRESH_GRANT: &str = "refresh_token";
pub(super) const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// The response type of the authorization code grant.
pub(super) const CODE_RESPONSE: &str = "code";

/// The metadata of a client. Fields that the server does not use are left out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ClientMetadata {
    /// The name of the client, as shown to users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
    /// The address of a page about the client.
    pub client_uri: Url,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logo_uri: Option<Url>,
    /// The terms of service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tos_uri: Option<Url>,
    /// The privacy policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_uri: Option<Url>,
    /// The URIs to which users are sent back, as the client wrote them.
    #[serde(default)]
    pub redirect_uris: Vec<String>,
    #[serde(default = "code_response")]
    pub response_types: Vec<String>,
    #[serde(default = "code_grant")]
    pub grant_types: Vec<String>,
    /// Always `none`: clients have no secret.
    #[serde(default = "no_auth_method")]
    pub token_endpoint_auth_method: String,
    /// `web` or `native`.
    #[serde(default = "web_client")]
    pub application_type: String,
}

fn code_response() -> Vec<String> {
    vec![CODE_RESPONSE.to_owned()]
}

fn code_grant() -> Vec<String> {
    vec![CODE_GRANT.to_owned()]
}

fn no_auth_method() -> String {
    "none".to_owned()
}

fn web_client() -> String {
    "web".to_owned()
}

impl ClientMetadata {
    /// Checks the metadata, and leaves out values that are not supported. `allows_http` is for servers without TLS, on
    /// which clients are developed.
    ///
    /// # Errors
    ///
    /// `invalid_redirect_uri` or `invalid_client_metadata`.
    pub(super) fn checked(mut self, allows_http: bool) -> OAuthResult<Self> {
        self.check_limits()?;
        self.check_pages(allows_http)?;
        let kind = self.kind()?;
        let allowed = |uri: &String| is_allowed_redirect(uri, &self.client_uri, kind, allows_http);
        if let Some(uri) = self.redirect_uris.iter().find(|uri| !allowed(uri)) {
            return Err(OAuthError::refused(
                OAuthErrorCode::InvalidRedirectUri,
                format!("the redirect URI {uri} is not allowed for this client"),
            ));
        }
        if self.token_endpoint_auth_method != "none" {
            return Err(invalid("token_endpoint_auth_method must be none"));
        }
        self.response_types.retain(|kind| kind == CODE_RESPONSE);
        let supported = [CODE_GRANT, REFRESH_GRANT, DEVICE_GRANT];
        self.grant_types.retain(|kind| supported.contains(&&**kind));
        if self.allows_grant(CODE_GRANT)
            && (self.redirect_uris.is_empty() || self.response_types.is_empty())
        {
            return Err(invalid(
                "the grant type authorization_code needs redirect_uris and the response type code",
            ));
        }
        Ok(self)
    }

    fn check_limits(&self) -> OAuthResult<()> {
        let name = self.client_name.as_deref().unwrap_or_default();
        if name.len() > MAX_CLIENT_NAME_BYTES {
            return Err(invalid("client_name is too long"));
        }
        if name.chars().any(char::is_control) {
            return Err(invalid("client_name has control characters"));
        }
        if self.redirect_uris.len() > MAX_REDIRECT_URIS {
            return Err(invalid("there are too many redirect_uris"));
        }
        if self.response_types.len().max(self.grant_types.len()) > MAX_LIST_VALUES {
            return Err(invalid("there are too many response types or grant types"));
        }
        Ok(())
    }

    fn check_pages(&self, allows_http: bool) -> OAuthResult<()> {
        let client_uri = &self.client_uri;
        let is_short = |url: &Url| url.as_str().len() <= MAX_URI_BYTES;
        if !is_page_address(client_uri, allows_http) || !is_short(client_uri) {
            return Err(invalid("client_uri must be an https URL"));
        }
        let pages = [&self.logo_uri, &self.tos_uri, &self.policy_uri];
        let mut pages = pages.into_iter().flatten();
        let is_foreign =
            |url: &&Url| !is_on_host_of(url, client_uri, allows_http) || !is_short(url);
        match pages.find(is_foreign) {
            Some(url) => Err(invalid(format!("{url} must be on the host of client_uri"))),
            None => Ok(()),
        }
    }

    fn kind(&self) -> OAuthResult<ClientKind> {
        match &*self.application_type {
            "web" => Ok(ClientKind::Web),
            "native" => Ok(ClientKind::Native),
            _ => Err(invalid("application_type must be web or native")),
        }
    }

    /// Returns whether the client has registered a grant type.
    pub(super) fn allows_grant(&self, grant_type: &str) -> bool {
        self.grant_types.iter().any(|kind| kind == grant_type)
    }

    /// Returns the name that is shown to users: the name that the client claims, or else its host.
    pub fn display_name(&self) -> &str {
        let name = self.client_name.as_deref().map(str::trim);
        name.filter(|name| !name.is_empty())
            .unwrap_or_else(|| self.host())
    }

    /// Returns the host of the client, which its redirect URIs prove.
    pub fn host(&self) -> &str {
        self.client_uri.host_str().unwrap_or_default()
    }
}

fn invalid(description: impl Into<String>) -> OAuthError {
    OAuthError::refused(OAuthErrorCode::InvalidClientMetadata, description)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(metadata: Value) -> OAuthResult<ClientMetadata> {
        let parsed: ClientMetadata = serde_json::from_value(metadata).unwrap();
        parsed.checked(false)
    }

    fn code_of(checked: OAuthResult<ClientMetadata>) -> OAuthErrorCode {
        match checked {
            Err(OAuthError::Refused { code, .. }) => code,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn unsupported_grant_types_are_left_out() {
        let checked = check(json!({
            "client_uri": "https://example.com/", "redirect_uris": ["https://example.com/callback"],
            "grant_types": ["authorization_code", "refresh_token", "implicit"],
            "response_types": ["code", "token"], "client_name": "  ",
        }))
        .unwrap();

        assert_eq!(checked.grant_types, [CODE_GRANT, REFRESH_GRANT]);
        assert_eq!(checked.response_types, [CODE_RESPONSE]);
        assert_eq!(checked.display_name(), "example.com");
    }

    #[test]
    fn a_client_for_the_device_grant_needs_no_redirect_uri() {
        let checked = check(json!({
            "client_uri": "https://example.com/", "grant_types": [DEVICE_GRANT, REFRESH_GRANT],
            "response_types": [],
        }));

        assert!(checked.is_ok());
    }

    #[test]
    fn pages_on_other_hosts_and_clients_with_secrets_are_refused() {
        let redirect_uris = json!(["https://example.com/callback"]);
        for metadata in [
            json!({"client_uri": "http://example.com/", "redirect_uris": redirect_uris}),
            json!({"client_uri": "https://example.com/"}),
            json!({
                "client_uri": "https://example.com/", "redirect_uris": redirect_uris,
                "tos_uri": "https://example.org/",
            }),
            json!({
                "client_uri": "https://example.com/", "redirect_uris": redirect_uris,
                "token_endpoint_auth_method": "client_secret_basic",
            }),
            json!({
                "client_uri": "https://example.com/", "redirect_uris": redirect_uris,
                "application_type": "service",
            }),
            json!({
                "client_uri": "https://example.com/", "redirect_uris": redirect_uris,
                "client_name": "a".repeat(256),
            }),
        ] {
            let code = code_of(check(metadata));
            assert_eq!(code, OAuthErrorCode::InvalidClientMetadata);
        }
    }

    #[test]
    fn a_redirect_uri_on_another_host_is_refused() {
        let checked = check(json!({
            "client_uri": "https://example.com/", "redirect_uris": ["https://example.org/callback"],
        }));

        assert_eq!(code_of(checked), OAuthErrorCode::InvalidRedirectUri);
    }
}
