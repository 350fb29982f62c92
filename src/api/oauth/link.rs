//! The page on which users enter the code of a device that waits to be signed in.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#device-authorisation-flow).

use axum::{
    Router,
    extract::State,
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    LINK_PATH,
    authorize::{Decision, SignInQuestion},
    browser::{PageForm, SignedIn, local_address, redirect_to_sign_in},
    error::{PageError, reason_for_user},
};
use crate::{
    api::{
        App, ClientAddress, RequestClass,
        endpoint::read_query,
        endpoint_at,
        html_page::{HtmlPage, escape_html, wrong_input},
    },
    error::{Error, Result},
    users::WaitingDevice,
};

#[derive(Default, Deserialize)]
#[serde(default)]
struct LinkQuery {
    user_code: String,
}

#[derive(Deserialize)]
struct LinkForm {
    user_code: String,
    decision: Decision,
}

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint_at(Method::GET, LINK_PATH, show_link))
        .merge(endpoint_at(Method::POST, LINK_PATH, decide))
}

/// `GET /link`: the form for the code and, with a code, the question whether the device may sign in.
async fn show_link(
    State(app): State<App>,
    SignedIn(user): SignedIn,
    peer: ClientAddress,
    uri: Uri,
) -> Result<Response, PageError> {
    let query: LinkQuery = read_query(&uri)?;
    let Some(user) = user else {
        return Ok(redirect_to_sign_in(&uri));
    };
    if query.user_code.is_empty() {
        return Ok(code_page("", "", StatusCode::OK));
    }
    let device = match find_device(&app, &peer, &query.user_code).await {
        Ok(device) => device,
        Err(Error::Forbidden(reason)) => {
            let reason = reason_for_user(&Error::Forbidden(reason));
            return Ok(code_page(&query.user_code, &reason, StatusCode::FORBIDDEN));
        }
        Err(error) => return Err(error.into()),
    };
    let code = escape_html(&device.user_code);
    let fields = format!(r#"<input type="hidden" name="user_code" value="{code}">"#);
    let question = SignInQuestion {
        app: &device.client.metadata,
        scope: &device.scope,
        user: &user,
        address: &local_address(&uri),
        fields: &fields,
    };
    let content = format!(
        "<p>Check that your other device shows the code <strong>{code}</strong>.</p>{}",
        question.content()
    );
    Ok(HtmlPage::new("Let this device sign in?", &content).into_response())
}

/// `POST /link`, sent by the form of the page.
async fn decide(
    State(app): State<App>,
    SignedIn(user): SignedIn,
    peer: ClientAddress,
    uri: Uri,
    PageForm(form): PageForm<LinkForm>,
) -> Result<Response, PageError> {
    let Some(user) = user else {
        return Ok(redirect_to_sign_in(&uri));
    };
    let device = find_device(&app, &peer, &form.user_code).await?;
    let is_allowed = form.decision == Decision::Allow;
    app.users
        .oauth
        .waiting_devices
        .decide(&device, &user, is_allowed)
        .await?;
    let (title, content) = match form.decision {
        Decision::Allow => ("Done", "<p>Your other device is being signed in.</p>"),
        Decision::Deny => ("Cancelled", "<p>The other device was not signed in.</p>"),
    };
    Ok(HtmlPage::new(title, content).into_response())
}

/// Returns the device that waits with a code. Guessing codes must be slow.
async fn find_device(app: &App, peer: &ClientAddress, code: &str) -> Result<WaitingDevice> {
    let found = app.users.oauth.waiting_devices.find(code).await;
    if matches!(found, Err(Error::Forbidden(_))) {
        app.limits.check(RequestClass::WrongToken, peer)?;
    }
    found
}

fn code_page(code: &str, wrong: &str, status: StatusCode) -> Response {
    let (code, wrong) = (escape_html(code), wrong_input(wrong));
    let content = format!(
        r#"<p>Enter the code that your other device shows.</p>
      {wrong}
      <form method="get">
        <label>Code
          <input type="text" name="user_code" value="{code}" autocomplete="off" autocapitalize="characters"
            spellcheck="false" maxlength="20" required autofocus></label>
        <button>Continue</button>
      </form>"#
    );
    HtmlPage::new("Sign in another device", &content)
        .with_status(status)
        .into_response()
}
