//! The cookie of a signed-in browser, and forms that only the server's own pages can send.

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Request},
    http::{
        HeaderMap, HeaderValue, StatusCode, Uri,
        header::{CACHE_CONTROL, COOKIE, HOST, LOCATION, ORIGIN, SET_COOKIE},
        request::Parts,
    },
    response::{IntoResponse, Response},
};
use ruma::exports::serde_html_form;
use serde::de::DeserializeOwned;
use url::{Url, form_urlencoded};

use super::{
    LINK_PATH, REGISTER_PATH, SIGN_IN_PATH, error::PageError,
    provider_confirmation::CONFIRMATION_PATHS,
};
use crate::{
    api::{App, endpoint::read_body},
    config::Config,
    error::Error,
    users::{BrowserUser, NewBrowserSession},
};

/// The maximum size of a form, in bytes.
const MAX_FORM_BYTES: usize = 16 * 1024;
/// The name of the cookie. Browsers accept the first one only from this host and with TLS.
const SECURE_COOKIE_NAME: &str = "__Host-parlour";
const PLAIN_COOKIE_NAME: &str = "parlour";
/// The name of the cookie of a browser that is on the way to an identity provider.
const SECURE_PROVIDER_COOKIE_NAME: &str = "__Host-parlour-provider";
const PLAIN_PROVIDER_COOKIE_NAME: &str = "parlour-provider";
/// The lifetime of that cookie, in seconds.
const PROVIDER_COOKIE_SECONDS: u64 = 60 * 60;
/// The length of the secrets in cookies.
const SECRET_BYTES: usize = 43;
/// The longest address of a page to which a sign-in leads, in bytes.
const MAX_NEXT_BYTES: usize = 8 * 1024;

/// The user who is signed in in the browser, if there is one.
pub(super) struct SignedIn(pub(super) Option<BrowserUser>);

impl FromRequestParts<App> for SignedIn {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, PageError> {
        let Some(secret) = cookie(&parts.headers, &app.config) else {
            return Ok(Self(None));
        };
        Ok(Self(app.users.oauth.browser_sessions.find(&secret).await?))
    }
}

/// A browser that comes back from an identity provider.
pub(super) struct ReturningBrowser {
    /// The user who is signed in, if there is one.
    pub(super) user: Option<BrowserUser>,
    /// The secret with which it was sent to the provider, or an empty one.
    pub(super) secret: String,
}

impl FromRequestParts<App> for ReturningBrowser {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, PageError> {
        let SignedIn(user) = SignedIn::from_request_parts(parts, app).await?;
        let secret = provider_secret(&parts.headers, &app.config).unwrap_or_default();
        Ok(Self { user, secret })
    }
}

/// The fields of a form that a page of this server has sent.
pub(super) struct PageForm<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequest<App> for PageForm<T> {
    type Rejection = PageError;

    async fn from_request(request: Request, app: &App) -> Result<Self, PageError> {
        let (parts, body) = request.into_parts();
        if !is_from_own_page(&parts.headers, &app.config) {
            let reason = "this form was sent by a page of another site";
            return Err(Error::forbidden(reason).into());
        }
        Ok(Self(read_form(body).await?))
    }
}

/// Reads a form.
pub(super) async fn read_form<T: DeserializeOwned>(body: Body) -> Result<T, Error> {
    let body = read_body(body, MAX_FORM_BYTES).await?;
    serde_html_form::from_bytes(&body).map_err(|e| Error::BadJson(e.to_string()))
}

/// Returns whether a request was sent by a page of this server, and not by another site that uses the visitor's cookie.
///
/// The cookie itself is not sent with forms of other sites (`SameSite`). This also holds for other servers on the same
/// site.
fn is_from_own_page(headers: &HeaderMap, config: &Config) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin";
    }
    let Some(origin) = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok()) else {
        // The oldest browsers say nothing, and programs have no cookies of other people.
        return true;
    };
    if origin == config.public_url().as_str() {
        return true;
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    authority.is_some() && authority == host
}

fn cookie_name(config: &Config) -> &'static str {
    if config.public_url().is_https() {
        SECURE_COOKIE_NAME
    } else {
        PLAIN_COOKIE_NAME
    }
}

fn provider_cookie_name(config: &Config) -> &'static str {
    if config.public_url().is_https() {
        SECURE_PROVIDER_COOKIE_NAME
    } else {
        PLAIN_PROVIDER_COOKIE_NAME
    }
}

/// Returns the secret in the cookie of a signed-in browser.
pub(super) fn cookie(headers: &HeaderMap, config: &Config) -> Option<String> {
    named_cookie(headers, cookie_name(config))
}

/// Returns the secret of a browser that is on the way to an identity provider.
pub(super) fn provider_secret(headers: &HeaderMap, config: &Config) -> Option<String> {
    let secret = named_cookie(headers, provider_cookie_name(config));
    let is_secret_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    secret.filter(|secret| secret.len() == SECRET_BYTES && secret.bytes().all(is_secret_byte))
}

fn named_cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let cookies = headers.get_all(COOKIE).iter();
    cookies
        .filter_map(|cookies| cookies.to_str().ok())
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find(|(found, _)| *found == name)
        .map(|(_, secret)| secret.to_owned())
}

/// Returns the header that sets the cookie of a new session.
pub(super) fn session_cookie(session: &NewBrowserSession, config: &Config) -> HeaderValue {
    let name = cookie_name(config);
    cookie_header(name, &session.secret, session.lifetime.as_secs(), config)
}

/// Returns the header that removes the cookie.
pub(super) fn removed_cookie(config: &Config) -> HeaderValue {
    cookie_header(cookie_name(config), "", 0, config)
}

/// Returns the header that sets the cookie of a browser that is on the way to an identity provider.
pub(super) fn provider_cookie(secret: &str, config: &Config) -> HeaderValue {
    let name = provider_cookie_name(config);
    cookie_header(name, secret, PROVIDER_COOKIE_SECONDS, config)
}

fn cookie_header(name: &str, secret: &str, max_age_seconds: u64, config: &Config) -> HeaderValue {
    let secure = if config.public_url().is_https() {
        "; Secure"
    } else {
        ""
    };
    let cookie = format!(
        "{name}={secret}; Path=/; Max-Age={max_age_seconds}; HttpOnly; SameSite=Lax{secure}"
    );
    HeaderValue::try_from(cookie).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Returns a response that opens another page.
pub(super) fn redirect(address: &str) -> Response {
    let Ok(address) = HeaderValue::try_from(address) else {
        let reason = "the address of the next page is not valid";
        return PageError(Error::invalid_param(reason)).into_response();
    };
    let no_store = HeaderValue::from_static("no-store");
    let headers = [(LOCATION, address), (CACHE_CONTROL, no_store)];
    (StatusCode::SEE_OTHER, headers).into_response()
}

/// Returns a response that opens another page and sets a cookie.
pub(super) fn redirect_with_cookie(address: &str, cookie: HeaderValue) -> Response {
    let mut response = redirect(address);
    response.headers_mut().append(SET_COOKIE, cookie);
    response
}

/// Returns a response that opens the page for signing in, which leads back to a page.
pub(super) fn redirect_to_sign_in(back_to: &Uri) -> Response {
    redirect(&with_next(SIGN_IN_PATH, &local_address(back_to), ""))
}

/// Returns a response that opens the page for registering, which leads back to a page.
pub(super) fn redirect_to_registration(back_to: &Uri) -> Response {
    redirect(&with_next(REGISTER_PATH, &local_address(back_to), ""))
}

/// Returns the path and query of a page.
pub(super) fn local_address(uri: &Uri) -> String {
    let address = uri.path_and_query();
    address.map_or_else(String::new, |address| address.as_str().to_owned())
}

/// Returns the address of a page that leads to the next one.
pub(super) fn with_next(path: &str, next: &str, login_hint: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if !next.is_empty() {
        query.append_pair("next", next);
    }
    if !login_hint.is_empty() {
        query.append_pair("login_hint", login_hint);
    }
    match query.finish() {
        query if query.is_empty() => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}

/// Returns the page that a parameter names, if it is one of this server's own, or else none.
///
/// A link to the page for signing in must not lead to another site.
pub(super) fn checked_next(next: &str) -> Option<&str> {
    let is_confirmation = || {
        let path = next.split('?').next().unwrap_or(next);
        CONFIRMATION_PATHS.contains(&path)
    };
    let is_own = next.starts_with("/_parlour/") || next.starts_with(LINK_PATH) || is_confirmation();
    let is_plain = next
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    // Parsed as a browser does, it must stay on the same host.
    let base = Url::parse("http://server.invalid").ok()?;
    let joined = base.join(next).ok()?;
    let stays = joined.host_str() == base.host_str();
    (is_own && is_plain && stays && next.len() <= MAX_NEXT_BYTES).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_in_leads_only_to_pages_of_the_server() {
        for own in [
            "/_parlour/account",
            "/link?user_code=ABCD",
            "/_parlour/oauth/authorize?a=b%20c",
            "/_matrix/client/v3/auth/m.login.sso/fallback/web?session=a",
        ] {
            assert_eq!(checked_next(own), Some(own));
        }
        for foreign in [
            "",
            "https://example.org/",
            "//example.org/_parlour/",
            "/\\example.org",
            "/_parlour/\r\nSet-Cookie: a=b",
            "javascript:alert(1)",
            "/_matrix/client/v3/logout",
        ] {
            assert_eq!(checked_next(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn forms_of_other_sites_are_refused() {
        let config = Config::default();
        let from = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            is_from_own_page(&headers, &config)
        };

        assert!(from(&[]));
        assert!(from(&[("sec-fetch-site", "same-origin")]));
        assert!(from(&[("origin", "http://127.0.0.1:8008")]));
        assert!(from(&[
            ("origin", "https://example.org"),
            ("host", "example.org")
        ]));
        assert!(!from(&[("sec-fetch-site", "same-site")]));
        assert!(!from(&[("sec-fetch-site", "cross-site")]));
        assert!(!from(&[
            ("origin", "https://evil.org"),
            ("host", "example.org")
        ]));
        assert!(!from(&[("origin", "null"), ("host", "example.org")]));
    }
}
