//! The page on which users sign in, and signing out.

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    ACCOUNT_PATH, REGISTER_PATH, SIGN_IN_PATH, SIGN_OUT_PATH,
    browser::{
        PageForm, SignedIn, checked_next, cookie, redirect, redirect_with_cookie, removed_cookie,
        session_cookie, with_next,
    },
    error::{PageError, reason_for_user},
    provider_pages::provider_links,
};
use crate::{
    api::{
        App, ClientAddress, RequestClass,
        endpoint::read_query,
        endpoint_at,
        html_page::{HtmlPage, escape_html, wrong_input},
    },
    error::{Error, Result},
    users::NewBrowserSession,
};

/// The parameters of the pages for signing in and registering.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct NextQuery {
    /// The page that is opened afterwards.
    next: String,
    /// The user who is expected to sign in.
    login_hint: String,
}

#[derive(Deserialize)]
struct SignInForm {
    user: String,
    password: String,
}

/// The input of the form that is shown again.
struct ShownInput<'a> {
    user: &'a str,
    wrong: &'a str,
    status: StatusCode,
}

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint_at(Method::GET, SIGN_IN_PATH, show_sign_in))
        .merge(endpoint_at(Method::POST, SIGN_IN_PATH, sign_in))
        .merge(endpoint_at(Method::POST, SIGN_OUT_PATH, sign_out))
}

impl NextQuery {
    pub(super) fn read(uri: &Uri) -> Result<Self> {
        read_query(uri)
    }

    /// Returns the page that is opened afterwards: the user's account if the parameter names no other.
    pub(super) fn next(&self) -> &str {
        checked_next(&self.next).unwrap_or(ACCOUNT_PATH)
    }
}

/// `GET /_parlour/sign-in`
async fn show_sign_in(
    State(app): State<App>,
    SignedIn(user): SignedIn,
    uri: Uri,
) -> Result<Response, PageError> {
    let query = NextQuery::read(&uri)?;
    if user.is_some() {
        return Ok(redirect(query.next()));
    }
    let hint = query.login_hint.strip_prefix("mxid:");
    let input = ShownInput {
        user: hint.unwrap_or(&query.login_hint),
        wrong: "",
        status: StatusCode::OK,
    };
    Ok(sign_in_page(&app, &query, &input))
}

/// `POST /_parlour/sign-in`, sent by the form of the page.
async fn sign_in(
    State(app): State<App>,
    peer: ClientAddress,
    uri: Uri,
    PageForm(form): PageForm<SignInForm>,
) -> Result<Response, PageError> {
    let query = NextQuery::read(&uri)?;
    let session = check_password(&app, &peer, &form.user, form.password).await;
    match session {
        Ok(session) => {
            let cookie = session_cookie(&session, &app.config);
            Ok(redirect_with_cookie(query.next(), cookie))
        }
        Err(error @ (Error::Internal { .. } | Error::Unavailable(_) | Error::StorageFull)) => {
            Err(error.into())
        }
        Err(error) => {
            let reason = reason_for_user(&error);
            let input = ShownInput {
                user: &form.user,
                wrong: &reason,
                status: error.into_response().status(),
            };
            Ok(sign_in_page(&app, &query, &input))
        }
    }
}

/// Signs a user in. The limits are those of a login.
pub(super) async fn check_password(
    app: &App,
    peer: &ClientAddress,
    user: &str,
    password: String,
) -> Result<NewBrowserSession> {
    app.limits.check(RequestClass::Login, peer)?;
    let sessions = &app.users.oauth.browser_sessions;
    let user_id = sessions.named_user(user).await?;
    let attempt = user_id
        .as_deref()
        .map(|user_id| app.limits.charge(RequestClass::WrongPassword, user_id));
    let attempt = attempt.transpose()?;
    let started = sessions.sign_in(user_id.as_deref(), password).await;
    if let (Err(Error::Forbidden(_)), Some(attempt)) = (&started, attempt) {
        attempt.keep();
    }
    started
}

fn sign_in_page(app: &App, query: &NextQuery, input: &ShownInput<'_>) -> Response {
    let config = &app.config;
    let form = if config.oauth.password_login {
        password_form(query, input)
    } else {
        String::new()
    };
    let providers = provider_links(app.users.oauth.providers.list(), query.next());
    let wrong = wrong_input(input.wrong);
    let server = escape_html(config.server.name.as_str());
    let content = format!(
        r"<p>with your account on <strong>{server}</strong></p>
      {wrong}
      {form}
      {providers}"
    );
    HtmlPage::new("Sign in", &content)
        .with_status(input.status)
        .into_response()
}

fn password_form(query: &NextQuery, input: &ShownInput<'_>) -> String {
    let user = escape_html(input.user);
    let register = escape_html(&with_next(REGISTER_PATH, query.next(), ""));
    let (focus_user, focus_password) = match input.user {
        "" => ("autofocus", ""),
        _ => ("", "autofocus"),
    };
    format!(
        r#"<form method="post">
        <label>User name or e-mail address
          <input type="text" name="user" value="{user}" autocomplete="username" autocapitalize="none"
            spellcheck="false" required {focus_user}></label>
        <label>Password
          <input type="password" name="password" autocomplete="current-password" required {focus_password}></label>
        <button>Sign in</button>
      </form>
      <p>No account yet? <a href="{register}">Create one</a></p>"#
    )
}

/// `POST /_parlour/sign-out`, sent by the forms of the pages.
async fn sign_out(
    State(app): State<App>,
    headers: HeaderMap,
    uri: Uri,
    PageForm(()): PageForm<()>,
) -> Result<Response, PageError> {
    let query = NextQuery::read(&uri)?;
    if let Some(secret) = cookie(&headers, &app.config) {
        app.users.oauth.browser_sessions.end(&secret).await?;
    }
    Ok(redirect_with_cookie(
        &with_next(SIGN_IN_PATH, query.next(), ""),
        removed_cookie(&app.config),
    ))
}
