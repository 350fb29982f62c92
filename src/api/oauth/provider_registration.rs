//! The page for people who have signed in with an identity provider, and whom this server does not know yet: they create
//! an account, or link the one that they have.

use axum::{
    Router,
    extract::State,
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use ruma::profile::ProfileFieldValue;
use serde::Deserialize;

use super::{
    PROVIDER_REGISTRATION_PATH,
    browser::{PageForm, ReturningBrowser, redirect_with_cookie, session_cookie},
    error::{PageError, reason_for_user},
    sign_in::check_password,
};
use crate::{
    api::{
        App, ClientAddress, RequestClass,
        endpoint::read_query,
        endpoint_at,
        html_page::{HtmlPage, escape_html, wrong_input},
    },
    error::{Error, Result},
    users::{NewBrowserSession, PendingIdentity},
};

/// The parameters of the pages about people whom a provider knows.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PendingQuery {
    /// The id of the entry.
    pub(super) sign_in: String,
}

/// The fields of both forms.
#[derive(Default, Deserialize)]
#[serde(default)]
struct RegistrationForm {
    /// `create` or `link`.
    change: String,
    user: String,
    password: String,
}

pub(super) fn routes() -> Router<App> {
    let path = PROVIDER_REGISTRATION_PATH;
    Router::new()
        .merge(endpoint_at(Method::GET, path, show_registration))
        .merge(endpoint_at(Method::POST, path, register))
}

/// `GET /_parlour/oauth/provider-registration`
async fn show_registration(
    State(app): State<App>,
    ReturningBrowser { secret, .. }: ReturningBrowser,
    uri: Uri,
) -> Result<Response, PageError> {
    let query: PendingQuery = read_query(&uri)?;
    let providers = &app.users.oauth.providers;
    let pending = providers.pending_identity(&query.sign_in, &secret)?;
    let form = RegistrationForm {
        user: pending.identity.user_name.clone(),
        ..RegistrationForm::default()
    };
    Ok(form_page(&app, &pending, &form, None)?)
}

/// `POST /_parlour/oauth/provider-registration`, sent by the forms of the page.
async fn register(
    State(app): State<App>,
    peer: ClientAddress,
    ReturningBrowser { secret, .. }: ReturningBrowser,
    uri: Uri,
    PageForm(form): PageForm<RegistrationForm>,
) -> Result<Response, PageError> {
    let query: PendingQuery = read_query(&uri)?;
    let providers = &app.users.oauth.providers;
    let pending = providers.pending_identity(&query.sign_in, &secret)?;
    let done = match &*form.change {
        "link" => link(&app, &peer, &pending, &form).await,
        _ => create(&app, &peer, &pending, &form).await,
    };
    match done {
        Ok(session) => {
            providers.forget_identity(&query.sign_in, &secret);
            let cookie = session_cookie(&session, &app.config);
            Ok(redirect_with_cookie(&pending.next, cookie))
        }
        Err(error @ (Error::Internal { .. } | Error::Unavailable(_) | Error::StorageFull)) => {
            Err(error.into())
        }
        Err(error) => Ok(form_page(&app, &pending, &form, Some(error))?),
    }
}

/// Creates an account with the display name that the provider knows.
async fn create(
    app: &App,
    peer: &ClientAddress,
    pending: &PendingIdentity,
    form: &RegistrationForm,
) -> Result<NewBrowserSession> {
    let account = app.limits.charge(RequestClass::Register, peer)?;
    let providers = &app.users.oauth.providers;
    let registered = providers
        .register(&pending.identity, form.user.trim())
        .await?;
    account.keep();
    let session = registered.session;
    let user = app
        .users
        .oauth
        .browser_sessions
        .find(&session.secret)
        .await?;
    if let (Some(user), Some(name)) = (user, registered.display_name) {
        let name = ProfileFieldValue::DisplayName(name);
        let profiles = &app.users.profiles;
        let set = profiles
            .set_field(&user.session, &user.session.user_id, &name)
            .await;
        if let Err(error) = set {
            // The account exists. Its user can choose another name.
            tracing::debug!(%error, "the display name of an identity provider is not allowed");
        }
    }
    Ok(session)
}

/// Links the account at the provider to the account whose password the user knows.
async fn link(
    app: &App,
    peer: &ClientAddress,
    pending: &PendingIdentity,
    form: &RegistrationForm,
) -> Result<NewBrowserSession> {
    let session = check_password(app, peer, &form.user, form.password.clone()).await?;
    let sessions = &app.users.oauth.browser_sessions;
    let user = sessions.find(&session.secret).await?;
    let user = user.ok_or(Error::UserDeactivated)?;
    let providers = &app.users.oauth.providers;
    if let Err(error) = providers.link(&pending.identity, &user.session).await {
        sessions.end(&session.secret).await?;
        return Err(error);
    }
    Ok(session)
}

fn form_page(
    app: &App,
    pending: &PendingIdentity,
    form: &RegistrationForm,
    wrong: Option<Error>,
) -> Result<Response> {
    let identity = &pending.identity;
    let provider = app.users.oauth.providers.provider(&identity.provider)?;
    let reason = wrong.as_ref().map(reason_for_user).unwrap_or_default();
    let status = wrong.map_or(StatusCode::OK, |error| error.into_response().status());
    let wrong = wrong_input(&reason);
    let (label, name) = (escape_html(&identity.label), escape_html(&provider.name));
    let server = escape_html(app.config.server.name.as_str());
    let create = if provider.allow_registration {
        creation_form(form)
    } else {
        "<p>Nobody can create an account with it.</p>".to_owned()
    };
    let link = if app.config.oauth.password_login {
        link_form(form)
    } else {
        String::new()
    };
    let content = format!(
        r"<p>You have signed in as <strong>{label}</strong> with {name}. It does not belong to an account on
        <strong>{server}</strong> yet.</p>
      {wrong}
      {create}
      {link}"
    );
    Ok(HtmlPage::new("Welcome", &content)
        .with_status(status)
        .into_response())
}

fn creation_form(form: &RegistrationForm) -> String {
    let user = match &*form.change {
        "link" => String::new(),
        _ => escape_html(&form.user),
    };
    format!(
        r#"<h2>Create an account</h2>
      <form method="post">
        <label>User name
          <input type="text" name="user" value="{user}" autocomplete="username" autocapitalize="none"
            spellcheck="false" required></label>
        <button name="change" value="create">Create the account</button>
      </form>"#
    )
}

fn link_form(form: &RegistrationForm) -> String {
    let user = match &*form.change {
        "link" => escape_html(&form.user),
        _ => String::new(),
    };
    format!(
        r#"<h2>Or use the account that you have</h2>
      <form method="post">
        <label>User name or e-mail address
          <input type="text" name="user" value="{user}" autocomplete="username" autocapitalize="none"
            spellcheck="false" required></label>
        <label>Password
          <input type="password" name="password" autocomplete="current-password" required></label>
        <button name="change" value="link" class="other">Sign in and link it</button>
      </form>"#
    )
}
