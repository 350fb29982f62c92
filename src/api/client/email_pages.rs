//! The pages that links in e-mails open. On one, a user confirms that the e-mail address is theirs; on the other, they
//! unsubscribe.
//!
//! Opening a page changes nothing: mail programs and virus scanners open links, too. The pages have no script.

use axum::{
    Router,
    extract::State,
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use url::Url;

use crate::{
    api::{
        App, LimitedRequest,
        endpoint::read_query,
        endpoint_at,
        html_page::{HtmlPage, escape_html, wrong_input},
    },
    error::{Error, Result},
    users::{PendingValidation, Users, ValidationPurpose},
};

const CONFIRM_PATH: &str = "/_parlour/email/confirm";
const UNSUBSCRIBE_PATH: &str = "/_parlour/email/unsubscribe";

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint_at(Method::GET, CONFIRM_PATH, show_confirmation))
        .merge(endpoint_at(Method::POST, CONFIRM_PATH, confirm))
        .merge(endpoint_at(
            Method::GET,
            UNSUBSCRIBE_PATH,
            show_unsubscription,
        ))
        .merge(endpoint_at(Method::POST, UNSUBSCRIBE_PATH, unsubscribe))
}

/// The parameters of the link.
#[derive(Deserialize)]
struct ConfirmationQuery {
    sid: String,
    token: String,
}

/// The parameter of the link with which a user unsubscribes.
#[derive(Deserialize)]
struct UnsubscriptionQuery {
    token: String,
}

/// `GET /_parlour/email/confirm`
async fn show_confirmation(
    State(users): State<Users>,
    _: LimitedRequest,
    uri: Uri,
) -> Result<Response> {
    let ConfirmationQuery { sid, token } = read_query(&uri)?;
    match users.email_validations.find(&sid, &token).await {
        Ok(pending) => Ok(confirmation_page(&pending)),
        Err(error) => refusal_page(error),
    }
}

/// `POST /_parlour/email/confirm`, sent by the form of the page.
async fn confirm(State(users): State<Users>, _: LimitedRequest, uri: Uri) -> Result<Response> {
    let ConfirmationQuery { sid, token } = read_query(&uri)?;
    match users.email_validations.confirm(&sid, &token).await {
        Ok(confirmed) => Ok(confirmed_page(&confirmed)),
        Err(error) => refusal_page(error),
    }
}

/// `GET /_parlour/email/unsubscribe`
async fn show_unsubscription(
    State(users): State<Users>,
    _: LimitedRequest,
    uri: Uri,
) -> Result<Response> {
    let UnsubscriptionQuery { token } = read_query(&uri)?;
    match users.pushers.subscribed_address(&token).await {
        Ok(address) => {
            let address = escape_html(&address);
            let content = format!(
                "<p>Send no more notices of unread messages to <strong>{address}</strong>?</p>\
                 <form method=\"post\"><button>Unsubscribe</button></form>"
            );
            Ok(HtmlPage::new("Unsubscribe", &content).into_response())
        }
        Err(error) => refusal_page(error),
    }
}

/// `POST /_parlour/email/unsubscribe`, sent by the form of the page, or by a mail program as in
/// [RFC 8058](https://www.rfc-editor.org/rfc/rfc8058).
async fn unsubscribe(State(users): State<Users>, _: LimitedRequest, uri: Uri) -> Result<Response> {
    let UnsubscriptionQuery { token } = read_query(&uri)?;
    match users.pushers.unsubscribe(&token).await {
        Ok(()) => {
            let content = "<p>You get no more notices of unread messages at this address.</p>";
            Ok(HtmlPage::new("Unsubscribed", content).into_response())
        }
        Err(error) => refusal_page(error),
    }
}

/// Returns the page with the question. Its form is sent to the URL of the page, so it need not contain the token.
fn confirmation_page(pending: &PendingValidation) -> Response {
    let address = escape_html(&pending.address);
    let (title, text, button) = match pending.purpose {
        ValidationPurpose::Password => (
            "Set another password",
            "Someone wants to set another password for the account with the e-mail address",
            "It was me: continue",
        ),
        ValidationPurpose::Add => (
            "Confirm your e-mail address",
            "Someone wants to add to their account the e-mail address",
            "It was me: confirm",
        ),
        ValidationPurpose::Register => (
            "Confirm your e-mail address",
            "Someone wants to register an account with the e-mail address",
            "It was me: confirm",
        ),
    };
    let content = format!(
        "<p>{text} <strong>{address}</strong>.</p>\
         <p>If it was not you, close this page.</p>\
         <form method=\"post\"><button>{button}</button></form>"
    );
    HtmlPage::new(title, &content).into_response()
}

/// Returns the page after the confirmation.
///
/// The page that the client wants to be opened is behind a link that shows its host. The client may be a stranger's, and
/// this server must not lead anyone to a stranger's page unasked.
fn confirmed_page(confirmed: &PendingValidation) -> Response {
    let next = match &confirmed.next_link {
        Some(url) => next_link(url),
        None => String::new(),
    };
    let content = format!(
        "<p>The e-mail address is confirmed. You can close this page and go back to your app.</p>{next}"
    );
    HtmlPage::new("Confirmed", &content).into_response()
}

fn next_link(url: &Url) -> String {
    let host = escape_html(url.host_str().unwrap_or_default());
    let url = escape_html(url.as_str());
    format!("<p><a href=\"{url}\" rel=\"noopener noreferrer\">Continue to {host}</a></p>")
}

fn refusal_page(error: Error) -> Result<Response> {
    let Error::Forbidden(reason) = error else {
        return Err(error);
    };
    let content = wrong_input(&reason);
    let page = HtmlPage::new("This link is not valid", &content);
    Ok(page.with_status(StatusCode::FORBIDDEN).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_next_link_cannot_leave_its_attribute() {
        let url = Url::parse("https://example.org/?a=\"><script>&b='").expect("is a URL");

        let link = next_link(&url);

        assert!(!link.contains("<script"), "{link}");
        assert!(link.contains(">Continue to example.org</a>"), "{link}");
    }
}
