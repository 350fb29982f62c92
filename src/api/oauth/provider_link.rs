//! The page on which a signed-in user links an account at an identity provider.

use axum::{
    Router,
    extract::State,
    http::{Method, Uri},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    ACCOUNT_PATH, PROVIDER_LINK_PATH,
    browser::{PageForm, ReturningBrowser, local_address, redirect, redirect_to_sign_in},
    error::{PageError, reason_for_user},
    provider_pages::{ConfirmationField, check_confirmation},
    provider_registration::PendingQuery,
};
use crate::{
    api::{
        App,
        endpoint::read_query,
        endpoint_at,
        html_page::{HtmlPage, escape_html, wrong_input},
    },
    error::{Error, Result},
    users::{BrowserUser, PendingIdentity},
};

#[derive(Default, Deserialize)]
#[serde(default)]
struct LinkForm {
    password: String,
}

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint_at(Method::GET, PROVIDER_LINK_PATH, show_question))
        .merge(endpoint_at(Method::POST, PROVIDER_LINK_PATH, link))
}

/// `GET /_parlour/oauth/provider-link`
async fn show_question(
    State(app): State<App>,
    browser: ReturningBrowser,
    uri: Uri,
) -> Result<Response, PageError> {
    let query: PendingQuery = read_query(&uri)?;
    let ReturningBrowser { user, secret } = browser;
    let providers = &app.users.oauth.providers;
    let pending = providers.pending_identity(&query.sign_in, &secret)?;
    let Some(user) = user else {
        return Ok(redirect_to_sign_in(&uri));
    };
    Ok(question(&app, &user, &pending, &uri, "").await?)
}

/// `POST /_parlour/oauth/provider-link`, sent by the form of the page.
async fn link(
    State(app): State<App>,
    browser: ReturningBrowser,
    uri: Uri,
    PageForm(form): PageForm<LinkForm>,
) -> Result<Response, PageError> {
    let query: PendingQuery = read_query(&uri)?;
    let ReturningBrowser { user, secret } = browser;
    let providers = &app.users.oauth.providers;
    let pending = providers.pending_identity(&query.sign_in, &secret)?;
    let Some(user) = user else {
        return Ok(redirect_to_sign_in(&uri));
    };
    let linked = match check_confirmation(&app, &user, form.password).await {
        Ok(()) => providers.link(&pending.identity, &user.session).await,
        refused => refused,
    };
    match linked {
        Ok(()) => {
            providers.forget_identity(&query.sign_in, &secret);
            Ok(redirect(&pending.next))
        }
        Err(error @ (Error::Internal { .. } | Error::Unavailable(_) | Error::StorageFull)) => {
            Err(error.into())
        }
        Err(error) => {
            let reason = reason_for_user(&error);
            let mut page = question(&app, &user, &pending, &uri, &reason).await?;
            *page.status_mut() = error.into_response().status();
            Ok(page)
        }
    }
}

async fn question(
    app: &App,
    user: &BrowserUser,
    pending: &PendingIdentity,
    uri: &Uri,
    wrong: &str,
) -> Result<Response> {
    let identity = &pending.identity;
    let provider = app.users.oauth.providers.provider(&identity.provider)?;
    let field = ConfirmationField::of_user(app, user, &local_address(uri)).await?;
    let fields = field.with_button("<button>Link it</button>");
    let (label, name) = (escape_html(&identity.label), escape_html(&provider.name));
    let user_id = escape_html(user.session.user_id.as_str());
    let wrong = wrong_input(wrong);
    let content = format!(
        r#"<p>Whoever can sign in as <strong>{label}</strong> with {name} can then sign in as <strong>{user_id}</strong>
        here.</p>
      {wrong}
      <form method="post">{fields}</form>
      <p><a href="{ACCOUNT_PATH}">Cancel</a></p>"#
    );
    Ok(HtmlPage::new("Link this account?", &content).into_response())
}
