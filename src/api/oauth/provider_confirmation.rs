//! The page on which a user without a password authenticates a request of an app, with a recent sign-in with an identity
//! provider.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#client-behaviour-21).

use axum::{
    Router,
    extract::State,
    http::{Method, Uri},
    response::{IntoResponse, Response},
};
use ruma::OwnedUserId;
use serde::Deserialize;

use super::{
    browser::{PageForm, SignedIn, local_address},
    error::PageError,
    provider_pages::{confirmation_links, provider_links},
};
use crate::{
    api::{
        App,
        client::auth_done_page,
        endpoint::read_query,
        endpoint_at,
        html_page::{HtmlPage, escape_html},
    },
    error::{Error, Result},
    users::{BrowserUser, StageInput},
};

/// The paths of the page, without the query.
pub(super) const CONFIRMATION_PATHS: [&str; 2] = [
    "/_matrix/client/v3/auth/m.login.sso/fallback/web",
    "/_matrix/client/r0/auth/m.login.sso/fallback/web",
];

#[derive(Deserialize)]
struct ConfirmationQuery {
    /// The session of the authentication.
    session: String,
}

pub(super) fn routes() -> Router<App> {
    let mut router = Router::new();
    for path in CONFIRMATION_PATHS {
        router = router
            .merge(endpoint_at(Method::GET, path, show_question))
            .merge(endpoint_at(Method::POST, path, confirm));
    }
    router
}

/// `GET /_matrix/client/*/auth/m.login.sso/fallback/web`
async fn show_question(
    State(app): State<App>,
    SignedIn(user): SignedIn,
    uri: Uri,
) -> Result<Response, PageError> {
    let query: ConfirmationQuery = read_query(&uri)?;
    let expected = expected_user(&app, &query.session)?;
    let user_id = escape_html(expected.as_str());
    let ready = user
        .as_ref()
        .is_some_and(|user| is_ready(&app, user, &expected));
    let content = if ready {
        format!(
            r#"<p>An app that is signed in as <strong>{user_id}</strong> wants to do something for which you have to confirm
        that it is you. Go on only if you have just started this in your app.</p>
      <form method="post"><button>Confirm</button></form>"#
        )
    } else {
        let links = sign_in_links(&app, user.as_ref(), &expected, &uri).await?;
        format!("<p>Sign in again as <strong>{user_id}</strong>.</p>{links}")
    };
    Ok(HtmlPage::new("Is it you?", &content).into_response())
}

/// `POST /_matrix/client/*/auth/m.login.sso/fallback/web`, sent by the form of the page.
async fn confirm(
    State(app): State<App>,
    SignedIn(user): SignedIn,
    uri: Uri,
    PageForm(()): PageForm<()>,
) -> Result<Response, PageError> {
    let query: ConfirmationQuery = read_query(&uri)?;
    let expected = expected_user(&app, &query.session)?;
    let user = user.filter(|user| is_ready(&app, user, &expected));
    let user = user.ok_or_else(|| Error::forbidden("sign in again before you do this"))?;
    let input = StageInput::ProviderSignIn(user.session.user_id.clone());
    app.users
        .uia_pages
        .submit_stage(&query.session, input)
        .await?;
    Ok(auth_done_page())
}

fn expected_user(app: &App, session: &str) -> Result<OwnedUserId> {
    let user_id = app.users.uia_pages.session_user(session);
    user_id.ok_or_else(|| Error::forbidden("the session is unknown or has expired"))
}

/// Returns whether the user of the browser is the expected one, and has signed in with a provider a short time ago.
fn is_ready(app: &App, user: &BrowserUser, expected: &OwnedUserId) -> bool {
    let now = app.clock.now_ms();
    user.session.user_id == *expected && user.signed_in_with_provider_recently(now)
}

async fn sign_in_links(
    app: &App,
    user: Option<&BrowserUser>,
    expected: &OwnedUserId,
    uri: &Uri,
) -> Result<String> {
    let providers = &app.users.oauth.providers;
    let next = local_address(uri);
    match user.filter(|user| user.session.user_id == *expected) {
        Some(user) => confirmation_links(providers, user, &next).await,
        None => Ok(provider_links(providers.list(), &next)),
    }
}
