//! Pages for the stages of interactive authentication that a client does not implement.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#fallback).

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::get,
};
use ruma::exports::serde_html_form;
use serde::Deserialize;

use crate::{
    api::{
        App, ClientAddress, RequestClass,
        endpoint::{PathParams, read_body, read_query},
        html_page::{HtmlPage, wrong_input},
    },
    error::{Error, RefusalCode, Result},
    users::StageInput,
};

const DONE_SCRIPT: &str = include_str!("auth_pages/done.js");
/// The maximum size of a form, in bytes.
const MAX_FORM_BYTES: usize = 16 * 1024;

/// A stage that has a page.
#[derive(Clone, Copy)]
enum AuthStage {
    Dummy,
    Password,
    RegistrationToken,
}

#[derive(Deserialize)]
struct AuthPageQuery {
    session: String,
}

/// The fields of the form.
#[derive(Deserialize)]
struct StageForm {
    #[serde(default)]
    password: String,
    #[serde(default)]
    token: String,
}

pub(super) fn routes() -> Router<App> {
    let mut router = Router::new();
    for version in ["v3", "r0"] {
        let path = format!("/_matrix/client/{version}/auth/{{stage}}/fallback/web");
        router = router.route(&path, get(show_stage).post(submit_stage));
    }
    router
}

/// `GET /_matrix/client/*/auth/{stage}/fallback/web`
async fn show_stage(PathParams(stage): PathParams<String>, uri: Uri) -> Result<Response> {
    let stage = AuthStage::from_name(&stage)?;
    session_from_query(&uri)?;
    Ok(form_page(StatusCode::OK, stage, ""))
}

/// `POST /_matrix/client/*/auth/{stage}/fallback/web`, sent by the form of the page.
async fn submit_stage(
    State(app): State<App>,
    peer: ClientAddress,
    PathParams(stage): PathParams<String>,
    uri: Uri,
    body: Body,
) -> Result<Response> {
    let stage = AuthStage::from_name(&stage)?;
    let session = session_from_query(&uri)?;
    let body = read_body(body, MAX_FORM_BYTES).await?;
    let form_sent: StageForm =
        serde_html_form::from_bytes(&body).map_err(|e| Error::BadJson(e.to_string()))?;
    match complete_stage(&app, &peer, &session, stage, form_sent).await {
        Ok(()) => Ok(auth_done_page()),
        Err(Error::Forbidden(why)) => Ok(form_page(StatusCode::FORBIDDEN, stage, &why)),
        Err(other) => Err(other),
    }
}

/// Completes a stage of a session with the submitted form.
async fn complete_stage(
    app: &App,
    peer: &ClientAddress,
    session: &str,
    stage: AuthStage,
    form: StageForm,
) -> Result<()> {
    let answer = match stage {
        AuthStage::Dummy => StageInput::Dummy,
        AuthStage::Password => {
            // The limit is that of a login: by user, from any address.
            match app.users.uia_pages.session_user(session) {
                Some(user_id) => app.limits.check(RequestClass::Login, &*user_id)?,
                None => app.limits.check(RequestClass::Login, peer)?,
            }
            StageInput::Password(form.password)
        }
        AuthStage::RegistrationToken => {
            let token = form.token.trim().to_owned();
            if !app
                .workflows
                .invite_links
                .registration_token_is_valid(&token)
                .await?
            {
                app.limits.check(RequestClass::WrongToken, peer)?;
                return Err(Error::forbidden("the registration token is not valid"));
            }
            StageInput::RegistrationToken(token)
        }
    };
    app.users.uia_pages.submit_stage(session, answer).await
}

impl AuthStage {
    fn from_name(name: &str) -> Result<Self> {
        match name {
            "m.login.dummy" => Ok(Self::Dummy),
            "m.login.password" => Ok(Self::Password),
            "m.login.registration_token" => Ok(Self::RegistrationToken),
            _ => Err(Error::refused(
                RefusalCode::Unrecognized,
                "unknown endpoint".to_owned(),
            )),
        }
    }

    /// Returns the title of the page and the fields of its form.
    fn form_content(self) -> (&'static str, &'static str) {
        match self {
            Self::Dummy => ("Confirm", ""),
            Self::Password => (
                "Confirm with your password",
                r#"<label>Password
          <input type="password" name="password" autocomplete="current-password" required autofocus></label>"#,
            ),
            Self::RegistrationToken => (
                "Register with a token",
                r#"<label>Registration token
          <input type="text" name="token" autocomplete="off" required autofocus></label>"#,
            ),
        }
    }
}

fn session_from_query(uri: &Uri) -> Result<String> {
    read_query(uri).map(|query: AuthPageQuery| query.session)
}

/// Returns the page of a stage. Its form is sent to the URL of the page, so it need not contain the session.
fn form_page(status: StatusCode, stage: AuthStage, wrong: &str) -> Response {
    let (title, fields) = stage.form_content();
    let wrong = wrong_input(wrong);
    let content = format!(
        r#"{wrong}<form method="post">{fields}
        <button>Continue</button></form>"#
    );
    HtmlPage::new(title, &content)
        .with_status(status)
        .into_response()
}

/// Returns the page that notifies the client that the stage is complete.
pub(in crate::api) fn auth_done_page() -> Response {
    let content =
        format!("<p>You can close this page and go back.</p><script>{DONE_SCRIPT}</script>");
    HtmlPage::new("Done", &content)
        .with_script(DONE_SCRIPT)
        .into_response()
}
