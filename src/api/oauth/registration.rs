//! The pages on which users register an account.
//!
//! They go through the same stages as clients do with the Matrix API: a registration token, the confirmation of an
//! e-mail address. The stages are kept in a session of user-interactive authentication.

use axum::{
    Router,
    extract::State,
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use ruma::{
    ClientSecret, OwnedClientSecret, OwnedSessionId, OwnedUserId, UInt,
    api::client::{
        account::register::v3::Request,
        uiaa::{AuthData, Dummy, RegistrationToken, ThirdpartyIdCredentials},
    },
};
use serde::Deserialize;
use serde_json::Map;

use super::{
    REGISTER_PATH, SIGN_IN_PATH,
    browser::{PageForm, SignedIn, redirect, redirect_with_cookie, session_cookie, with_next},
    error::{PageError, reason_for_user},
    provider_pages::provider_links,
    sign_in::NextQuery,
};
use crate::{
    api::{
        App, ClientAddress, RequestClass,
        client::EmailTokenRequest,
        endpoint_at,
        html_page::{HtmlPage, escape_html, wrong_input},
    },
    config::RegistrationSection,
    error::{Error, Result},
    users::{RegisteredAccount, ValidationPurpose},
};

/// The fields of the first page, or of the page that waits for the confirmation of the e-mail address.
#[derive(Default, Deserialize)]
#[serde(default)]
struct RegistrationForm {
    user: String,
    password: String,
    token: String,
    email: String,
    /// The session of the registration, once the first page is complete.
    session: String,
    /// The session and the secret of the confirmation.
    sid: String,
    client_secret: String,
}

/// The result of a form.
enum Progress {
    Registered(OwnedUserId),
    /// The user has to confirm the e-mail address.
    Unconfirmed(Confirmation),
}

/// A registration that waits for the confirmation of an e-mail address.
struct Confirmation {
    /// The session of the registration.
    session: String,
    sid: OwnedSessionId,
    client_secret: OwnedClientSecret,
}

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint_at(Method::GET, REGISTER_PATH, show_registration))
        .merge(endpoint_at(Method::POST, REGISTER_PATH, register))
}

/// `GET /_parlour/register`
async fn show_registration(
    State(app): State<App>,
    SignedIn(user): SignedIn,
    uri: Uri,
) -> Result<Response, PageError> {
    let query = NextQuery::read(&uri)?;
    if user.is_some() {
        return Ok(redirect(query.next()));
    }
    let form = RegistrationForm::default();
    Ok(form_page(&app, &query, &form, None))
}

/// `POST /_parlour/register`, sent by the forms of the pages.
async fn register(
    State(app): State<App>,
    peer: ClientAddress,
    uri: Uri,
    PageForm(form): PageForm<RegistrationForm>,
) -> Result<Response, PageError> {
    let query = NextQuery::read(&uri)?;
    if !app.config.oauth.password_login {
        let reason = "this server accepts no passwords: sign in with an identity provider";
        return Err(Error::forbidden(reason).into());
    }
    let progress = if form.session.is_empty() {
        begin(&app, &peer, &form).await
    } else {
        finish(&app, &form).await
    };
    match progress {
        Ok(Progress::Registered(user_id)) => {
            let session = app.users.oauth.browser_sessions.start_for(user_id).await?;
            let cookie = session_cookie(&session, &app.config);
            Ok(redirect_with_cookie(query.next(), cookie))
        }
        Ok(Progress::Unconfirmed(waiting)) => {
            let is_again = !form.session.is_empty();
            Ok(confirmation_page(&waiting, is_again))
        }
        Err(error @ (Error::Internal { .. } | Error::Unavailable(_) | Error::StorageFull)) => {
            Err(error.into())
        }
        Err(error) => Ok(form_page(&app, &query, &form, Some(error))),
    }
}

/// Goes through the stages of the first page.
async fn begin(app: &App, peer: &ClientAddress, form: &RegistrationForm) -> Result<Progress> {
    let settings = &app.config.registration;
    let account = app.limits.charge(RequestClass::Register, peer)?;
    let mut request = Request::new();
    request.username = Some(form.user.trim().to_owned());
    request.password = Some(form.password.clone());
    request.inhibit_login = true;
    let session = match app.workflows.invite_links.register(request).await {
        Err(Error::Uia(info)) => info.session.unwrap_or_default(),
        other => return other.map(registered),
    };
    if !settings.open {
        let mut stage = RegistrationToken::new(token_in(&form.token).to_owned());
        stage.session = Some(session.clone());
        let outcome = submit(app, AuthData::RegistrationToken(stage)).await;
        if matches!(outcome, Err(Error::Forbidden(_))) {
            app.limits.check(RequestClass::WrongToken, peer)?;
        }
        if let Some(done) = outcome? {
            account.keep();
            return Ok(done);
        }
    }
    if settings.require_email {
        app.limits.check(RequestClass::EmailRequest, peer)?;
        account.keep();
        return send_email(app, session, &form.email)
            .await
            .map(Progress::Unconfirmed);
    }
    let mut stage = Dummy::new();
    stage.session = Some(session);
    let done = submit(app, AuthData::Dummy(stage)).await?;
    account.keep();
    done.ok_or_else(|| Error::forbidden("the registration needs another stage"))
}

/// Completes the registration of a user who has confirmed their e-mail address.
async fn finish(app: &App, form: &RegistrationForm) -> Result<Progress> {
    let invalid = |_| Error::invalid_param("the form is not complete");
    let sid = OwnedSessionId::try_from(&*form.sid).map_err(invalid)?;
    let client_secret = OwnedClientSecret::try_from(&*form.client_secret).map_err(invalid)?;
    let credentials = ThirdpartyIdCredentials::new(sid.clone(), client_secret.clone());
    let mut stage = Map::new();
    stage.insert(
        "threepid_creds".to_owned(),
        serde_json::to_value(credentials)?,
    );
    let session = Some(form.session.clone());
    let stage = AuthData::new("m.login.email.identity", session, stage)?;
    match submit(app, stage).await {
        Ok(Some(done)) => Ok(done),
        Ok(None) | Err(Error::Forbidden(_)) => Ok(Progress::Unconfirmed(Confirmation {
            session: form.session.clone(),
            sid,
            client_secret,
        })),
        Err(error) => Err(error),
    }
}

/// Submits a stage of the session. Returns `None` if another stage is needed.
///
/// # Errors
///
/// [`Error::Forbidden`] when the stage failed.
async fn submit(app: &App, stage: AuthData) -> Result<Option<Progress>> {
    let mut request = Request::new();
    request.auth = Some(stage);
    request.inhibit_login = true;
    match app.workflows.invite_links.register(request).await {
        Err(Error::Uia(info)) => match info.auth_error {
            Some(_) => Err(Error::forbidden("the registration token is not valid")),
            None => Ok(None),
        },
        other => other.map(|account| Some(registered(account))),
    }
}

fn registered(account: RegisteredAccount) -> Progress {
    Progress::Registered(account.user_id)
}

async fn send_email(app: &App, session: String, email: &str) -> Result<Confirmation> {
    let client_secret = ClientSecret::new();
    let token = EmailTokenRequest {
        purpose: ValidationPurpose::Register,
        client_secret: &client_secret,
        email: email.trim(),
        send_attempt: UInt::from(1_u32),
        next_link: None,
    };
    let sid = token.send(&app.users, &app.limits).await?;
    Ok(Confirmation {
        session,
        sid,
        client_secret,
    })
}

/// Returns the registration token that a user entered: the token itself, or a link that ends with it.
fn token_in(entered: &str) -> &str {
    let entered = entered.trim();
    entered.rsplit(['/', '=']).next().unwrap_or(entered)
}

fn form_page(
    app: &App,
    query: &NextQuery,
    form: &RegistrationForm,
    wrong: Option<Error>,
) -> Response {
    let reason = wrong.as_ref().map(reason_for_user).unwrap_or_default();
    let status = wrong.map_or(StatusCode::OK, |error| error.into_response().status());
    let wrong = wrong_input(&reason);
    let server = escape_html(app.config.server.name.as_str());
    let fields = if app.config.oauth.password_login {
        password_form(&app.config.registration, form)
    } else {
        String::new()
    };
    let providers = app.users.oauth.providers.list();
    let providers = providers.filter(|provider| provider.allow_registration);
    let providers = provider_links(providers, query.next());
    let sign_in = escape_html(&with_next(SIGN_IN_PATH, query.next(), ""));
    let content = format!(
        r#"<p>on <strong>{server}</strong></p>
      {wrong}
      {fields}
      {providers}
      <p>Already have an account? <a href="{sign_in}">Sign in</a></p>"#
    );
    HtmlPage::new("Create an account", &content)
        .with_status(status)
        .into_response()
}

fn password_form(settings: &RegistrationSection, form: &RegistrationForm) -> String {
    let user = escape_html(&form.user);
    let fields = proof_fields(settings, form);
    format!(
        r#"<form method="post">
        {fields}
        <label>User name
          <input type="text" name="user" value="{user}" autocomplete="username" autocapitalize="none"
            spellcheck="false" required></label>
        <label>Password
          <input type="password" name="password" autocomplete="new-password" required></label>
        <button>Create the account</button>
      </form>"#
    )
}

/// Returns the fields with which a user shows that they may register.
fn proof_fields(settings: &RegistrationSection, form: &RegistrationForm) -> String {
    let label = if settings.invite_links {
        "Registration token or invite link"
    } else {
        "Registration token"
    };
    let (token, email) = (escape_html(&form.token), escape_html(&form.email));
    let token = format!(
        r#"<label>{label}
          <input type="text" name="token" value="{token}" autocomplete="off" spellcheck="false" required></label>"#
    );
    let email = format!(
        r#"<label>E-mail address
          <input type="email" name="email" value="{email}" autocomplete="email" required></label>"#
    );
    let fields = [(!settings.open, token), (settings.require_email, email)];
    let needed = fields.into_iter().filter(|(is_needed, _)| *is_needed);
    needed.map(|(_, field)| field).collect()
}

fn confirmation_page(waiting: &Confirmation, is_again: bool) -> Response {
    let reason = if is_again {
        "The e-mail address is not confirmed yet."
    } else {
        ""
    };
    let wrong = wrong_input(reason);
    let session = escape_html(&waiting.session);
    let sid = escape_html(waiting.sid.as_str());
    let client_secret = escape_html(waiting.client_secret.as_str());
    let content = format!(
        r#"<p>We have sent you an e-mail. Open the link in it and confirm the address. Then come back here.</p>
      {wrong}
      <form method="post">
        <input type="hidden" name="session" value="{session}">
        <input type="hidden" name="sid" value="{sid}">
        <input type="hidden" name="client_secret" value="{client_secret}">
        <button>I have confirmed it</button>
      </form>"#
    );
    HtmlPage::new("Confirm your e-mail address", &content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_can_be_entered_as_a_link() {
        for entered in [
            "abc-1",
            " abc-1 ",
            "https://example.org/#/invite/abc-1",
            "https://example.org/#/register?token=abc-1",
        ] {
            assert_eq!(token_in(entered), "abc-1", "{entered}");
        }
    }
}
