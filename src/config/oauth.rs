//! `[oauth]`: the OAuth 2.0 API, and the identity providers with which users sign in.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use url::{Host, Url};

use super::values::{SecretString, empty_is_none};

/// The longest id of a provider, in bytes.
const MAX_PROVIDER_ID_BYTES: usize = 64;

/// `[oauth]`: signing in on the pages of this server, with the OAuth 2.0 API.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OAuthSection {
    /// Whether clients may let users sign in on the pages of this server.
    pub enabled: bool,
    /// Whether users may log in with a password.
    pub password_login: bool,
    /// The identity providers with which users can sign in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<ProviderSection>,
}

impl Default for OAuthSection {
    fn default() -> Self {
        Self {
            enabled: true,
            password_login: true,
            providers: Vec::new(),
        }
    }
}

/// `[[oauth.providers]]`: an OpenID Connect provider with which users can sign in.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderSection {
    /// The id, which is part of addresses and of the database.
    #[serde(deserialize_with = "provider_id")]
    pub id: String,
    /// The name that users read.
    pub name: String,
    /// The URL that identifies the provider, exactly as the provider writes it.
    #[serde(deserialize_with = "issuer")]
    pub issuer: String,
    /// The id of this server at the provider.
    pub client_id: String,
    /// The secret of this server at the provider, if it has one.
    #[serde(with = "empty_is_none")]
    pub client_secret: Option<SecretString>,
    pub scopes: Vec<String>,
    /// The claim that is proposed as the user name of a new account.
    pub user_name_claim: String,
    /// The claim that becomes the display name of a new account.
    pub display_name_claim: String,
    /// The claim with the e-mail address, which counts only if the provider has verified it.
    pub email_claim: String,
    /// Whether people who have no account on this server get one.
    pub allow_registration: bool,
    /// Whether a person is signed in to the account that has the same e-mail address.
    pub allow_linking_by_email: bool,
}

impl Default for ProviderSection {
    fn default() -> Self {
        Self {
            id: String::new(),
            name: String::new(),
            issuer: String::new(),
            client_id: String::new(),
            client_secret: None,
            scopes: ["openid", "profile", "email"].map(str::to_owned).into(),
            user_name_claim: "preferred_username".to_owned(),
            display_name_claim: "name".to_owned(),
            email_claim: "email".to_owned(),
            allow_registration: true,
            allow_linking_by_email: false,
        }
    }
}

/// A key that does not fit the others.
pub(super) struct WrongOAuthKey {
    pub(super) key: String,
    pub(super) reason: String,
}

impl OAuthSection {
    /// Returns a key that does not fit the others.
    pub(super) fn wrong_key(&self) -> Option<WrongOAuthKey> {
        let wrong = |key: String, reason: &str| {
            let reason = reason.to_owned();
            Some(WrongOAuthKey { key, reason })
        };
        if !self.password_login && self.providers.is_empty() {
            let reason = "nobody could log in without a password and without [[oauth.providers]]";
            return wrong("oauth.password_login".to_owned(), reason);
        }
        if !self.enabled && !self.providers.is_empty() {
            let reason = "oauth.enabled is false, but [[oauth.providers]] need the web pages";
            return wrong("oauth.providers[0].id".to_owned(), reason);
        }
        let mut ids = BTreeSet::new();
        for (index, provider) in self.providers.iter().enumerate() {
            let key = |name: &str| format!("oauth.providers[{index}].{name}");
            let needed = [
                ("id", &provider.id),
                ("name", &provider.name),
                ("issuer", &provider.issuer),
                ("client_id", &provider.client_id),
            ];
            if let Some((name, _)) = needed.iter().find(|(_, value)| value.trim().is_empty()) {
                return wrong(key(name), "is not set");
            }
            if !ids.insert(&*provider.id) {
                return wrong(key("id"), "another provider has the same id");
            }
            if !provider.scopes.iter().any(|scope| scope == "openid") {
                return wrong(key("scopes"), "expected a list that has `openid`");
            }
        }
        None
    }
}

/// Reads the id of a provider.
fn provider_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let id = String::deserialize(deserializer)?;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if !(1..=MAX_PROVIDER_ID_BYTES).contains(&id.len()) || !id.bytes().all(is_allowed) {
        return Err(D::Error::custom(
            "expected 1 to 64 characters of a-z, A-Z, 0-9, - and _",
        ));
    }
    Ok(id)
}

/// Reads the URL of a provider. Only a provider on the same machine may be without TLS.
fn issuer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let issuer = String::deserialize(deserializer)?;
    let wrong = || D::Error::custom("expected a URL like `https://accounts.example.org`");
    let url = Url::parse(&issuer).map_err(|_| wrong())?;
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => return Err(wrong()),
    };
    let is_plain = url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    match url.scheme() {
        "https" if is_plain => Ok(issuer),
        "http" if is_plain && is_loopback => Ok(issuer),
        "http" if is_plain => Err(D::Error::custom(
            "expected `https://`; only a provider on the same machine can be without TLS",
        )),
        _ => Err(wrong()),
    }
}
