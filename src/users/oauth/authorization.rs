//! Authorization requests, with which clients ask a user to sign them in, and the codes that they get.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#authorisation-code-flow).

use std::time::Duration;

use serde::Deserialize;
use url::{Url, form_urlencoded};

use super::{
    BrowserUser, OAuthClients, OAuthError, OAuthErrorCode, OAuthScope, RegisteredClient,
    client_metadata::{CODE_GRANT, CODE_RESPONSE},
    redirect_uri::{MAX_URI_BYTES, is_registered},
};
use crate::{
    clock::Clock,
    error::{Error, Result},
    storage::{
        Db,
        users::oauth_codes::{self, AuthorizationCodeRow},
    },
    users::{UserEnvironment, account_restrictions::must_be_usable, secrets},
};

/// The lifetime of an authorization code.
const CODE_LIFETIME: Duration = Duration::from_mins(1);
/// The time for which a code is stored after it has expired, so that its use again is noticed.
const EXPIRED_CODE_RETENTION: Duration = Duration::from_hours(1);
/// The longest `state` of a client, in bytes.
const MAX_STATE_BYTES: usize = 2_048;
/// The longest `login_hint`, in bytes.
const MAX_LOGIN_HINT_BYTES: usize = 512;
/// The length of the SHA-256 of a client's secret in base64, without padding.
const CODE_CHALLENGE_BYTES: usize = 43;

/// Checks authorization requests, and issues codes.
#[derive(Clone)]
pub struct OAuthAuthorization {
    db: Db,
    clock: Clock,
    clients: OAuthClients,
}

/// A valid authorization request.
#[derive(Clone, Debug)]
pub struct AuthorizationRequest {
    pub client: RegisteredClient,
    pub scope: OAuthScope,
    /// Whether the user wants to register an account.
    pub wants_registration: bool,
    /// The user who is expected to sign in.
    pub login_hint: Option<String>,
    code_challenge: String,
    callback: Callback,
}

/// The address to which the user is sent back, and the way in which the result is added to it.
#[derive(Clone, Debug)]
struct Callback {
    redirect_uri: String,
    mode: ResponseMode,
    state: Option<String>,
}

/// The part of the redirect URI that gets the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResponseMode {
    Query,
    Fragment,
}

/// An invalid authorization request.
#[derive(Debug)]
pub enum AuthorizationRefusal {
    /// The reason is shown to the user, because it is not known where the user comes from.
    Shown(String),
    /// The address of the client, with the reason. The user may go there, but is not sent there unasked: anyone can
    /// register a client, and this server must not lead to any site.
    ///
    /// See [RFC 9700](https://www.rfc-editor.org/rfc/rfc9700#section-4.11.2).
    Returned {
        reason: String,
        address: String,
    },
    Other(Error),
}

/// The parameters of an authorization request.
#[derive(Debug, Default, Deserialize)]
struct AuthorizationQuery {
    client_id: Option<String>,
    redirect_uri: Option<String>,
    response_type: Option<String>,
    response_mode: Option<String>,
    scope: Option<String>,
    state: Option<String>,
    code_challenge: Option<String>,
    code_challenge_method: Option<String>,
    prompt: Option<String>,
    login_hint: Option<String>,
}

impl OAuthAuthorization {
    /// Creates the service.
    pub(in crate::users) fn new(environment: &UserEnvironment, clients: &OAuthClients) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            clients: clients.clone(),
        }
    }

    /// Checks the query of an authorization request.
    ///
    /// # Errors
    ///
    /// When it is invalid: the refusal says whether the user can go back to the client.
    pub async fn check(&self, query: &str) -> Result<AuthorizationRequest, AuthorizationRefusal> {
        let shown = |reason: &str| AuthorizationRefusal::Shown(reason.to_owned());
        let query: AuthorizationQuery = ruma::exports::serde_html_form::from_str(query)
            .map_err(|_| shown("the app sent an invalid request"))?;
        let client_id = query.client_id.as_deref();
        let client_id = client_id.ok_or_else(|| shown("the app did not say who it is"))?;
        let client = self.clients.client(client_id).await?;
        let redirect_uri = query.redirect_uri.clone().unwrap_or_default();
        let is_known = redirect_uri.len() <= MAX_URI_BYTES
            && is_registered(&redirect_uri, &client.metadata.redirect_uris);
        if !is_known || !client.metadata.allows_grant(CODE_GRANT) {
            return Err(shown(
                "the app wants to send you to an address that it has not registered",
            ));
        }
        let mut callback = Callback {
            redirect_uri,
            mode: ResponseMode::Query,
            state: None,
        };
        callback
            .read(&query)
            .map_err(|error| callback.refusal(error))?;
        let (scope, code_challenge) =
            read_parameters(&query).map_err(|error| callback.refusal(error))?;
        let login_hint = query.login_hint;
        Ok(AuthorizationRequest {
            client,
            scope,
            wants_registration: query.prompt.as_deref() == Some("create"),
            login_hint: login_hint.filter(|hint| hint.len() <= MAX_LOGIN_HINT_BYTES),
            code_challenge,
            callback,
        })
    }

    /// Lets a client sign in as a user. Returns the address to which the user is sent, which has the code.
    ///
    /// # Errors
    ///
    /// [`Error::UserDeactivated`] or [`Error::UserLocked`].
    #[tracing::instrument(skip_all, fields(user_id = %user.session.user_id), err(level = "debug"))]
    pub async fn allow(
        &self,
        request: &AuthorizationRequest,
        user: &BrowserUser,
    ) -> Result<String> {
        let code = secrets::random_token();
        let now = self.clock.now_ms();
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let row = AuthorizationCodeRow {
            client_id: request.client.client_id.clone(),
            redirect_uri: request.callback.redirect_uri.clone(),
            code_challenge: request.code_challenge.clone(),
            user_num: user.session.user,
            upstream_session: user.upstream_session,
            device_id: request.scope.device_id.to_string(),
            expires_ts: now.saturating_add(ms(CODE_LIFETIME)),
            is_used: false,
        };
        let deleted_before_ts = now.saturating_sub(ms(EXPIRED_CODE_RETENTION));
        let mut tx = self.db.write().await?;
        must_be_usable(&mut tx, user.session.user).await?;
        oauth_codes::insert(
            &mut tx,
            &secrets::hash_token(&code),
            &row,
            deleted_before_ts,
        )
        .await?;
        tx.commit().await?;
        Ok(request.callback.address(&[("code", &*code)]))
    }
}

impl AuthorizationRequest {
    /// Returns the address to which a user is sent who does not let the client sign in.
    pub fn denied_address(&self) -> String {
        self.callback.error_address(
            OAuthErrorCode::AccessDenied,
            "the user does not want to sign in",
        )
    }

    /// Returns the origin or the scheme of the redirect URI, as a source of a content security policy.
    pub fn redirect_source(&self) -> String {
        let Ok(url) = Url::parse(&self.callback.redirect_uri) else {
            return String::new();
        };
        match url.scheme() {
            "http" | "https" => url.origin().ascii_serialization(),
            scheme => format!("{scheme}:"),
        }
    }
}

impl Callback {
    /// Reads the parameters that decide how the result is sent.
    fn read(&mut self, query: &AuthorizationQuery) -> Result<(), OAuthError> {
        let invalid = |reason: &str| OAuthError::refused(OAuthErrorCode::InvalidRequest, reason);
        if query
            .state
            .as_ref()
            .is_some_and(|state| state.len() > MAX_STATE_BYTES)
        {
            return Err(invalid("state is too long"));
        }
        self.state.clone_from(&query.state);
        self.mode = match query.response_mode.as_deref() {
            None | Some("query") => ResponseMode::Query,
            Some("fragment") => ResponseMode::Fragment,
            Some(_) => return Err(invalid("response_mode must be query or fragment")),
        };
        Ok(())
    }

    /// Returns the address to which the user is sent, with the result.
    fn address(&self, result: &[(&str, &str)]) -> String {
        let Ok(mut url) = Url::parse(&self.redirect_uri) else {
            return self.redirect_uri.clone();
        };
        let state = self.state.as_deref().map(|state| ("state", state));
        let parameters = state.into_iter().chain(result.iter().copied());
        match self.mode {
            ResponseMode::Query => {
                url.query_pairs_mut().extend_pairs(parameters);
            }
            ResponseMode::Fragment => {
                let mut fragment = form_urlencoded::Serializer::new(String::new());
                fragment.extend_pairs(parameters);
                url.set_fragment(Some(&fragment.finish()));
            }
        }
        url.into()
    }

    fn error_address(&self, code: OAuthErrorCode, description: &str) -> String {
        self.address(&[("error", code.as_str()), ("error_description", description)])
    }

    fn refusal(&self, error: OAuthError) -> AuthorizationRefusal {
        match error {
            OAuthError::Refused { code, description } => AuthorizationRefusal::Returned {
                address: self.error_address(code, &description),
                reason: description,
            },
            OAuthError::Other(error) => AuthorizationRefusal::Other(error),
        }
    }
}

/// Returns the scope and the hash of the client's secret.
fn read_parameters(query: &AuthorizationQuery) -> Result<(OAuthScope, String), OAuthError> {
    if query.response_type.as_deref() != Some(CODE_RESPONSE) {
        return Err(OAuthError::refused(
            OAuthErrorCode::UnsupportedResponseType,
            "response_type must be code",
        ));
    }
    let invalid = |reason: &str| OAuthError::refused(OAuthErrorCode::InvalidRequest, reason);
    if query.code_challenge_method.as_deref() != Some("S256") {
        return Err(invalid("code_challenge_method must be S256"));
    }
    let challenge = query.code_challenge.as_deref().unwrap_or_default();
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if challenge.len() != CODE_CHALLENGE_BYTES || !challenge.bytes().all(is_base64) {
        return Err(invalid("code_challenge must be a SHA-256 in base64"));
    }
    let scope = OAuthScope::parse(query.scope.as_deref().unwrap_or_default())?;
    Ok((scope, challenge.to_owned()))
}

impl From<OAuthError> for AuthorizationRefusal {
    fn from(error: OAuthError) -> Self {
        match error {
            OAuthError::Refused { description, .. } => Self::Shown(description),
            OAuthError::Other(error) => Self::Other(error),
        }
    }
}
