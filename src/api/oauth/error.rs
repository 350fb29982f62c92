//! Errors of the endpoints, as JSON, and of the pages, as HTML.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{
    api::html_page::{HtmlPage, wrong_input},
    error::Error,
    users::{OAuthError, OAuthErrorCode},
};

impl IntoResponse for OAuthError {
    fn into_response(self) -> Response {
        let (code, description) = match self {
            Self::Refused { code, description } => (code, description),
            Self::Other(error) => return error.into_response(),
        };
        let status = match code {
            OAuthErrorCode::InvalidClient => StatusCode::UNAUTHORIZED,
            _ => StatusCode::BAD_REQUEST,
        };
        let body = json!({ "error": code.as_str(), "error_description": description });
        (status, Json(body)).into_response()
    }
}

/// An error that is shown as a page.
pub(super) struct PageError(pub(super) Error);

impl From<Error> for PageError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let reason = reason_for_user(&self.0);
        // This also logs an internal error, and chooses the status.
        let status = self.0.into_response().status();
        error_page(&reason, status)
    }
}

/// Returns the page that says why something did not work.
pub(super) fn error_page(reason: &str, status: StatusCode) -> Response {
    let content = wrong_input(reason);
    HtmlPage::new("That did not work", &content)
        .with_status(status)
        .into_response()
}

/// Returns the reason of an error in words for users.
pub(super) fn reason_for_user(error: &Error) -> String {
    match error {
        Error::LimitExceeded { retry_after } => {
            let seconds = retry_after.as_millis().div_ceil(1_000);
            format!("There were too many attempts. Try again in {seconds} seconds.")
        }
        Error::Internal { .. } => "The server has a problem. Try again later.".to_owned(),
        other => capitalized(&other.to_string()),
    }
}

/// Returns a text as a sentence: errors begin with a lower-case letter and have no full stop.
fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), chars.as_str()),
        None => String::new(),
    }
}
