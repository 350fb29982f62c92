//! Signing in on the pages of this server, for older clients that know `m.login.sso`.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#client-login-via-sso).

use axum::{
    Router,
    extract::State,
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use ruma::api::client::session::{sso_login, sso_login_with_provider};
use serde::Deserialize;
use url::{Url, form_urlencoded};

use super::{
    SSO_PATH,
    authorize::Decision,
    browser::{
        PageForm, SignedIn, local_address, redirect, redirect_to_registration, redirect_to_sign_in,
    },
    error::{PageError, error_page},
    provider_pages::begin_address,
};
use crate::{
    api::{
        App, LimitedRequest, endpoint,
        endpoint::{PathParams, read_query},
        endpoint_at,
        html_page::{HtmlPage, escape_html},
    },
    error::Result,
    users::Users,
};

/// The longest address to which a user is sent back, in bytes.
const MAX_REDIRECT_BYTES: usize = 2_048;
/// Schemes that would run as a page of this server, or read local files.
const FORBIDDEN_SCHEMES: [&str; 6] = ["javascript", "data", "blob", "file", "vbscript", "about"];

/// The parameters of the request of a client, and of the page.
#[derive(Default, Deserialize)]
#[serde(default)]
struct SsoQuery {
    #[serde(rename = "redirectUrl")]
    redirect_url: String,
    /// `login` or `register`.
    action: String,
}

#[derive(Deserialize)]
struct DecisionForm {
    decision: Decision,
}

impl SsoQuery {
    /// Returns the address of the page that asks whether the app may sign in.
    fn question_address(&self) -> String {
        let mut parameters = form_urlencoded::Serializer::new(String::new());
        parameters.append_pair("redirectUrl", &self.redirect_url);
        parameters.append_pair("action", &self.action);
        format!("{SSO_PATH}?{}", parameters.finish())
    }
}

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<sso_login::v3::Request, _>(begin))
        .merge(endpoint::<sso_login_with_provider::v3::Request, _>(
            begin_with_provider,
        ))
        .merge(endpoint_at(Method::GET, SSO_PATH, show_question))
        .merge(endpoint_at(Method::POST, SSO_PATH, decide))
}

/// `GET /_matrix/client/*/login/sso/redirect`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3loginssoredirect).
async fn begin(_: LimitedRequest, uri: Uri) -> Result<Response, PageError> {
    let query: SsoQuery = read_query(&uri)?;
    Ok(redirect(&query.question_address()))
}

/// `GET /_matrix/client/*/login/sso/redirect/{idpId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3loginssoredirectidpid).
async fn begin_with_provider(
    State(users): State<Users>,
    _: LimitedRequest,
    PathParams(provider): PathParams<String>,
    uri: Uri,
) -> Result<Response, PageError> {
    let query: SsoQuery = read_query(&uri)?;
    users.oauth.providers.provider(&provider)?;
    if redirect_target(&query.redirect_url).is_none() {
        return Ok(wrong_target());
    }
    let next = query.question_address();
    Ok(redirect(&begin_address(&provider, "", &next)))
}

/// `GET /_parlour/oauth/sso`
async fn show_question(
    _: LimitedRequest,
    SignedIn(user): SignedIn,
    uri: Uri,
) -> Result<Response, PageError> {
    let query: SsoQuery = read_query(&uri)?;
    let Some(target) = redirect_target(&query.redirect_url) else {
        return Ok(wrong_target());
    };
    let Some(user) = user else {
        return Ok(match &*query.action {
            "register" => redirect_to_registration(&uri),
            _ => redirect_to_sign_in(&uri),
        });
    };
    let user_id = escape_html(user.session.user_id.as_str());
    let place = escape_html(&place_of(&target));
    let sign_out = escape_html(&super::browser::with_next(
        super::SIGN_OUT_PATH,
        &local_address(&uri),
        "",
    ));
    let content = format!(
        r#"<p>An app at <strong>{place}</strong> wants to sign in as <strong>{user_id}</strong>.</p>
      <p>It will read and write all your messages, and change your account. Go on only if you trust it and have just
        opened it yourself.</p>
      <form method="post">
        <button name="decision" value="allow">Let it sign in</button>
        <button name="decision" value="deny" class="other">Cancel</button>
      </form>
      <form method="post" action="{sign_out}"><button class="link">Use another account</button></form>"#
    );
    let source = match target.scheme() {
        "http" | "https" => target.origin().ascii_serialization(),
        scheme => format!("{scheme}:"),
    };
    Ok(HtmlPage::new("Let this app sign in?", &content)
        .with_form_target(&source)
        .into_response())
}

/// `POST /_parlour/oauth/sso`, sent by the form of the page.
async fn decide(
    State(users): State<Users>,
    SignedIn(user): SignedIn,
    uri: Uri,
    PageForm(form): PageForm<DecisionForm>,
) -> Result<Response, PageError> {
    let query: SsoQuery = read_query(&uri)?;
    let Some(mut target) = redirect_target(&query.redirect_url) else {
        return Ok(wrong_target());
    };
    let Some(user) = user else {
        return Ok(redirect_to_sign_in(&uri));
    };
    if form.decision == Decision::Deny {
        let content = "<p>The app was not signed in. You can close this page.</p>";
        return Ok(HtmlPage::new("Cancelled", content).into_response());
    }
    let token = users.login.issue_token_for_browser(&user).await?;
    target.query_pairs_mut().append_pair("loginToken", &token);
    Ok(redirect(target.as_str()))
}

/// Returns the address to which the user is sent back, if it is one to which a user may be sent.
fn redirect_target(url: &str) -> Option<Url> {
    let is_short = url.len() <= MAX_REDIRECT_BYTES;
    let url = Url::parse(url).ok().filter(|_| is_short)?;
    (!FORBIDDEN_SCHEMES.contains(&url.scheme())).then_some(url)
}

/// Returns the part of an address by which a user recognizes an app.
fn place_of(target: &Url) -> String {
    match (target.scheme(), target.host_str()) {
        ("http" | "https", Some(host)) => host.to_owned(),
        (scheme, _) => format!("{scheme}:"),
    }
}

fn wrong_target() -> Response {
    let reason = "The app did not say where to go next. Go back to it and try again.";
    error_page(reason, StatusCode::BAD_REQUEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_a_script() {
        for forbidden in ["", "/relative", "javascript:alert(1)", "data:text/html,x"] {
            assert!(redirect_target(forbidden).is_none(), "{forbidden}");
        }
        let target = redirect_target("element://connect").unwrap();
        assert_eq!(place_of(&target), "element:");
        let target = redirect_target("https://app.example.org/?x=1").unwrap();
        assert_eq!(place_of(&target), "app.example.org");
    }
}
