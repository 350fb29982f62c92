//! Requests to an identity provider, and the verification of its answers.
//!
//! See [OpenID Connect Core](https://openid.net/specs/openid-connect-core-1_0.html) and
//! [OpenID Connect Discovery](https://openid.net/specs/openid-connect-discovery-1_0.html).

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use openidconnect::{
    AccessToken, AdditionalClaims, AuthType, AuthorizationCode, ClaimsVerificationError, ClientId,
    ClientSecret, CsrfToken, DiscoveryError, EndpointMaybeSet, EndpointNotSet, EndpointSet,
    IssuerUrl, Nonce, OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl,
    RequestTokenError, Scope, SignatureVerificationError, SubjectIdentifier, TokenResponse,
    UserInfoClaims,
    core::{
        CoreAuthenticationFlow, CoreClient, CoreClientAuthMethod, CoreGenderClaim, CoreIdToken,
        CoreIdTokenVerifier, CoreJwsSigningAlgorithm, CoreProviderMetadata,
    },
    http::HeaderValue,
};
use reqwest::Client;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::{
    identity::{ProviderIdentity, has_profile},
    json_web_token::payload_of,
    provider_http::ProviderHttp,
};
use crate::{
    clock::Clock,
    config::{ProviderSection, SecretString},
    error::{Error, Result},
};

/// The time for which the documents of a provider are used, in milliseconds.
const DOCUMENTS_LIFETIME_MS: i64 = 60 * 60 * 1000;
/// The shortest time between two requests for the documents, in milliseconds. Otherwise anyone who sends a token with an
/// unknown key could cause requests.
const DOCUMENTS_INTERVAL_MS: i64 = 60 * 1000;
/// The time since a user was asked to sign in at the provider that counts as recent, in seconds.
const RECENT_SECONDS: i64 = 5 * 60;
/// The signature algorithms of tokens. Those with a shared secret are not among them.
pub(super) const SIGNING_ALGORITHMS: [CoreJwsSigningAlgorithm; 9] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EdDsa,
];

/// The client of a provider whose documents are known.
type ConfiguredClient = CoreClient<
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// The client of one identity provider.
pub(super) struct ProviderClient {
    pub(super) settings: ProviderSection,
    redirect_uri: RedirectUrl,
    http: ProviderHttp,
    clock: Clock,
    documents: Mutex<Option<ProviderDocuments>>,
}

/// The documents of a provider: its endpoints and its keys.
#[derive(Clone)]
struct ProviderDocuments {
    metadata: Arc<CoreProviderMetadata>,
    fetched_ms: i64,
}

/// The secrets of a request to sign a user in.
#[derive(Clone)]
pub(super) struct RequestSecrets {
    pub(super) nonce: String,
    pub(super) code_verifier: String,
    /// Whether the provider must ask the user, even if the user is signed in there.
    pub(super) must_ask: bool,
}

/// Claims that OpenID Connect does not define.
#[derive(Debug, Deserialize, Serialize)]
struct OtherClaims(Map<String, Value>);

impl AdditionalClaims for OtherClaims {}

impl ProviderClient {
    pub(super) fn new(
        settings: ProviderSection,
        redirect_uri: String,
        http: &Client,
        clock: &Clock,
    ) -> Result<Self> {
        let invalid = |error| Error::internal("set up an identity provider", error);
        Ok(Self {
            redirect_uri: RedirectUrl::new(redirect_uri).map_err(invalid)?,
            http: ProviderHttp {
                http: http.clone(),
                allows_plain: !settings.issuer.starts_with("https:"),
            },
            clock: clock.clone(),
            documents: Mutex::default(),
            settings,
        })
    }

    /// Returns the address at which the provider signs the user in.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] when the provider does not answer.
    pub(super) async fn authorization_address(
        &self,
        state: String,
        secrets: &RequestSecrets,
    ) -> Result<String> {
        let client = self.configured_client(&*self.metadata().await?)?;
        let verifier = PkceCodeVerifier::new(secrets.code_verifier.clone());
        let nonce = Nonce::new(secrets.nonce.clone());
        let flow = CoreAuthenticationFlow::AuthorizationCode;
        let mut request = client
            .authorize_url(flow, || CsrfToken::new(state), || nonce)
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier));
        for scope in &self.settings.scopes {
            // The library adds this one itself.
            if scope != "openid" {
                request = request.add_scope(Scope::new(scope.clone()));
            }
        }
        if secrets.must_ask {
            request = request.set_max_age(Duration::ZERO);
        }
        Ok(request.url().0.into())
    }

    /// Exchanges a code, and returns the person who has signed in.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] when the provider does not answer; [`Error::Forbidden`] when its answer is not valid.
    pub(super) async fn exchange_code(
        &self,
        code: String,
        secrets: &RequestSecrets,
    ) -> Result<ProviderIdentity> {
        let metadata = self.metadata().await?;
        let client = self.configured_client(&metadata)?;
        let request = client.exchange_code(AuthorizationCode::new(code));
        let request = request.map_err(|error| self.invalid(&error.to_string()))?;
        let request =
            request.set_pkce_verifier(PkceCodeVerifier::new(secrets.code_verifier.clone()));
        let answer = request.request_async(&self.http).await;
        let answer = answer.map_err(|error| match error {
            RequestTokenError::Request(error) => self.unreachable(&error.to_string()),
            other => self.invalid(&other.to_string()),
        })?;
        let token = answer.id_token();
        let token = token.ok_or_else(|| self.invalid("the answer has no ID token"))?;
        let mut claims = self.verify_id_token(token, metadata, secrets).await?;
        if !has_profile(&claims, &self.settings) {
            self.add_user_info(&client, answer.access_token(), &mut claims)
                .await?;
        }
        let identity = ProviderIdentity::from_claims(&claims, &self.settings);
        identity.ok_or_else(|| self.invalid("the ID token has no usable sub"))
    }

    /// Verifies an ID token, and returns all its claims.
    async fn verify_id_token(
        &self,
        token: &CoreIdToken,
        metadata: Arc<CoreProviderMetadata>,
        secrets: &RequestSecrets,
    ) -> Result<Map<String, Value>> {
        let nonce = Nonce::new(secrets.nonce.clone());
        let mut verified = self.verify_with(token, &metadata, &nonce);
        if let Err(ClaimsVerificationError::SignatureVerification(
            SignatureVerificationError::NoMatchingKey,
        )) = verified
            && let Some(renewed) = self.renewed_metadata(&metadata).await?
        {
            verified = self.verify_with(token, &renewed, &nonce);
        }
        verified.map_err(|error| self.invalid(&format!("the ID token: {error}")))?;
        let claims = payload_of(&token.to_string());
        let claims = claims.ok_or_else(|| self.invalid("the ID token cannot be read"))?;
        let asked_at = claims.get("auth_time").and_then(Value::as_i64);
        let now = self.clock.now_ms() / 1_000;
        if secrets.must_ask && asked_at.is_some_and(|at| now.saturating_sub(at) > RECENT_SECONDS) {
            let name = &self.settings.name;
            let reason = format!("{name} did not ask you to sign in again");
            return Err(Error::forbidden(reason));
        }
        Ok(claims)
    }

    fn verify_with(
        &self,
        token: &CoreIdToken,
        metadata: &CoreProviderMetadata,
        nonce: &Nonce,
    ) -> Result<(), ClaimsVerificationError> {
        let client_id = ClientId::new(self.settings.client_id.clone());
        let (issuer, keys) = (metadata.issuer().clone(), metadata.jwks().clone());
        let clock = self.clock.clone();
        let now = move || {
            let now = DateTime::<Utc>::from_timestamp_millis(clock.now_ms());
            now.unwrap_or(DateTime::<Utc>::MAX_UTC)
        };
        let verifier = CoreIdTokenVerifier::new_public_client(client_id, issuer, keys)
            .set_allowed_algs(SIGNING_ALGORITHMS)
            .set_time_fn(now);
        token.claims(&verifier, nonce).map(drop)
    }

    /// Adds the claims of the UserInfo endpoint, if the provider has one, to those of the ID token.
    async fn add_user_info(
        &self,
        client: &ConfiguredClient,
        token: &AccessToken,
        claims: &mut Map<String, Value>,
    ) -> Result<()> {
        // The library would panic.
        if HeaderValue::from_str(token.secret()).is_err() {
            return Err(self.invalid("the access token has characters that are not allowed"));
        }
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or("");
        let subject = SubjectIdentifier::new(subject.to_owned());
        let Ok(request) = client.user_info(token.clone(), Some(subject)) else {
            return Ok(());
        };
        let answer = request.request_async(&self.http).await;
        let answer: UserInfoClaims<OtherClaims, CoreGenderClaim> =
            answer.map_err(|error| self.invalid(&format!("the UserInfo: {error}")))?;
        if let Value::Object(more) = serde_json::to_value(answer)? {
            for (claim, value) in more {
                claims.entry(claim).or_insert(value);
            }
        }
        Ok(())
    }

    fn configured_client(&self, metadata: &CoreProviderMetadata) -> Result<ConfiguredClient> {
        let secret = self.settings.client_secret.as_ref();
        let secret =
            secret.map(|secret| ClientSecret::new(SecretString::expose(secret).to_owned()));
        let client_id = ClientId::new(self.settings.client_id.clone());
        let client = CoreClient::from_provider_metadata(metadata.clone(), client_id, secret);
        if metadata.token_endpoint().is_none() {
            return Err(self.invalid("it has no token endpoint"));
        }
        let methods = metadata.token_endpoint_auth_methods_supported();
        let needs_body = methods.is_some_and(|methods| {
            methods.contains(&CoreClientAuthMethod::ClientSecretPost)
                && !methods.contains(&CoreClientAuthMethod::ClientSecretBasic)
        });
        let auth = if needs_body {
            AuthType::RequestBody
        } else {
            AuthType::BasicAuth
        };
        let client = client.set_redirect_uri(self.redirect_uri.clone());
        Ok(client.set_auth_type(auth))
    }

    /// Returns the document of the provider, with its keys.
    pub(super) async fn metadata(&self) -> Result<Arc<CoreProviderMetadata>> {
        let mut documents = self.documents.lock().await;
        let now = self.clock.now_ms();
        if let Some(known) = &*documents
            && now.saturating_sub(known.fetched_ms) < DOCUMENTS_LIFETIME_MS
        {
            return Ok(known.metadata.clone());
        }
        let fetched = self.fetch_documents(now).await?;
        Ok(documents.insert(fetched).metadata.clone())
    }

    /// Returns the document of the provider if it is a newer one than `known`, which lacks a key.
    pub(super) async fn renewed_metadata(
        &self,
        known: &Arc<CoreProviderMetadata>,
    ) -> Result<Option<Arc<CoreProviderMetadata>>> {
        let mut documents = self.documents.lock().await;
        let now = self.clock.now_ms();
        if let Some(latest) = &*documents {
            if !Arc::ptr_eq(&latest.metadata, known) {
                return Ok(Some(latest.metadata.clone()));
            }
            if now.saturating_sub(latest.fetched_ms) < DOCUMENTS_INTERVAL_MS {
                return Ok(None);
            }
        }
        let fetched = self.fetch_documents(now).await?;
        Ok(Some(documents.insert(fetched).metadata.clone()))
    }

    async fn fetch_documents(&self, now: i64) -> Result<ProviderDocuments> {
        let issuer = IssuerUrl::new(self.settings.issuer.clone());
        let issuer = issuer.map_err(|error| self.invalid(&error.to_string()))?;
        let metadata = CoreProviderMetadata::discover_async(issuer, &self.http).await;
        let metadata = metadata.map_err(|error| match error {
            DiscoveryError::Request(error) => self.unreachable(&error.to_string()),
            other => self.unreachable(&other.to_string()),
        })?;
        Ok(ProviderDocuments {
            metadata: Arc::new(metadata),
            fetched_ms: now,
        })
    }

    fn unreachable(&self, reason: &str) -> Error {
        let ProviderSection { id, name, .. } = &self.settings;
        tracing::warn!(provider = %id, %reason, "an identity provider does not answer");
        Error::Unreachable(format!(
            "{name} cannot be reached at the moment: try again later"
        ))
    }

    pub(super) fn invalid(&self, reason: &str) -> Error {
        let ProviderSection { id, name, .. } = &self.settings;
        tracing::warn!(provider = %id, %reason, "the answer of an identity provider is not valid");
        Error::forbidden(format!("the answer of {name} is not valid: try again"))
    }
}
