//! The page that asks users whether an app may sign in to their account.

use axum::{
    Router,
    extract::State,
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    AUTHORIZE_PATH, SIGN_IN_PATH, SIGN_OUT_PATH,
    browser::{PageForm, SignedIn, local_address, redirect, redirect_to_registration, with_next},
    error::{PageError, error_page},
};
use crate::{
    api::{
        App, LimitedRequest, endpoint_at,
        html_page::{HtmlPage, escape_html, wrong_input},
    },
    users::{
        AuthorizationRefusal, AuthorizationRequest, BrowserUser, ClientMetadata, OAuthScope, Users,
    },
};

/// The decision of the user.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Decision {
    Allow,
    Deny,
}

#[derive(Deserialize)]
struct DecisionForm {
    decision: Decision,
}

/// A question whether an app may sign in, for its page.
pub(super) struct SignInQuestion<'a> {
    pub(super) app: &'a ClientMetadata,
    pub(super) scope: &'a OAuthScope,
    pub(super) user: &'a BrowserUser,
    /// The path and query of the page.
    pub(super) address: &'a str,
    /// Further fields of the form.
    pub(super) fields: &'a str,
}

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint_at(Method::GET, AUTHORIZE_PATH, show_question))
        .merge(endpoint_at(Method::POST, AUTHORIZE_PATH, decide))
}

/// `GET /_parlour/oauth/authorize`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#authorisation-code-flow).
async fn show_question(
    State(users): State<Users>,
    _: LimitedRequest,
    SignedIn(user): SignedIn,
    uri: Uri,
) -> Result<Response, PageError> {
    let request = match check(&users, &uri).await {
        Ok(request) => request,
        Err(response) => return response,
    };
    let Some(user) = user else {
        if request.wants_registration {
            return Ok(redirect_to_registration(&uri));
        }
        let hint = request.login_hint.as_deref().unwrap_or_default();
        let sign_in = with_next(SIGN_IN_PATH, &local_address(&uri), hint);
        return Ok(redirect(&sign_in));
    };
    let question = SignInQuestion {
        app: &request.client.metadata,
        scope: &request.scope,
        user: &user,
        address: &local_address(&uri),
        fields: "",
    };
    let content = question.content();
    Ok(HtmlPage::new("Let this app sign in?", &content)
        .with_form_target(&request.redirect_source())
        .into_response())
}

/// `POST /_parlour/oauth/authorize`, sent by the form of the page.
async fn decide(
    State(users): State<Users>,
    SignedIn(user): SignedIn,
    uri: Uri,
    PageForm(form): PageForm<DecisionForm>,
) -> Result<Response, PageError> {
    let request = match check(&users, &uri).await {
        Ok(request) => request,
        Err(response) => return response,
    };
    let Some(user) = user else {
        return Ok(redirect(&with_next(SIGN_IN_PATH, &local_address(&uri), "")));
    };
    let address = match form.decision {
        Decision::Allow => {
            let authorization = &users.oauth.authorization;
            authorization.allow(&request, &user).await?
        }
        Decision::Deny => request.denied_address(),
    };
    Ok(redirect(&address))
}

/// Checks the request in the query of a page, or returns the response to an invalid one.
async fn check(
    users: &Users,
    uri: &Uri,
) -> Result<AuthorizationRequest, Result<Response, PageError>> {
    let query = uri.query().unwrap_or_default();
    match users.oauth.authorization.check(query).await {
        Ok(request) => Ok(request),
        Err(AuthorizationRefusal::Returned { reason, address }) => {
            Err(Ok(invalid_request_page(&reason, &address)))
        }
        Err(AuthorizationRefusal::Shown(reason)) => {
            let reason = format!("{reason}. Go back to the app and try again.");
            Err(Ok(error_page(&reason, StatusCode::BAD_REQUEST)))
        }
        Err(AuthorizationRefusal::Other(error)) => Err(Err(error.into())),
    }
}

/// Returns the page about an invalid request, from which the user can go back to the app.
fn invalid_request_page(reason: &str, address: &str) -> Response {
    let (wrong, address) = (wrong_input(reason), escape_html(address));
    let content = format!(
        r#"<p>The app has made a mistake:</p>{wrong}
      <p><a href="{address}" rel="noopener noreferrer">Go back to the app</a></p>"#
    );
    HtmlPage::new("That did not work", &content)
        .with_status(StatusCode::BAD_REQUEST)
        .into_response()
}

impl SignInQuestion<'_> {
    /// Returns the content of the page.
    pub(super) fn content(&self) -> String {
        let name = escape_html(self.app.display_name());
        let host = escape_html(self.app.host());
        let user_id = escape_html(self.user.session.user_id.as_str());
        let device_id = escape_html(self.scope.device_id.as_str());
        let documents = document_links(self.app);
        let sign_out = escape_html(&with_next(SIGN_OUT_PATH, self.address, ""));
        let fields = self.fields;
        format!(
            r#"<p><strong>{name}</strong> ({host}) wants to sign in as <strong>{user_id}</strong>.</p>
      <p>It will read and write all your messages, and change your account. Go on only if you trust it and have just
        opened it yourself.</p>
      {documents}
      <form method="post">{fields}
        <button name="decision" value="allow">Let it sign in</button>
        <button name="decision" value="deny" class="other">Cancel</button>
      </form>
      <form method="post" action="{sign_out}"><button class="link">Use another account</button></form>
      <p class="small">The new device has the id {device_id}.</p>"#
        )
    }
}

/// Returns links to the documents of an app: "If this field is set, the server SHOULD show or link to this URL."
fn document_links(app: &ClientMetadata) -> String {
    let documents = [
        ("Terms of service", &app.tos_uri),
        ("Privacy policy", &app.policy_uri),
    ];
    let links: Vec<String> = documents
        .into_iter()
        .filter_map(|(title, url)| Some((title, url.as_ref()?)))
        .map(|(title, url)| {
            let url = escape_html(url.as_str());
            format!(r#"<a href="{url}" rel="noopener noreferrer">{title}</a>"#)
        })
        .collect();
    match &*links {
        [] => String::new(),
        _ => format!("<p>{} of the app</p>", links.join(", ")),
    }
}
