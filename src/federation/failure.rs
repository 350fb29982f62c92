//! The reasons why a request to another server failed.

use std::time::Duration;

use ruma::{RoomVersionId, ServerName};
use serde_json::Value;

use crate::error::Error;

/// The longest error text of another server that is shown, in characters.
const MAX_ERROR_CHARS: usize = 500;

/// The error with which another server refused a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteRefusal {
    /// The HTTP status.
    pub status: u16,
    /// The error code; empty if there is none.
    pub errcode: String,
    /// The text for people.
    pub error: String,
    /// The whole body, if it is JSON.
    pub body: Value,
}

/// The reason why a request to another server failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestFailure {
    /// It could not be reached, or its answer was invalid.
    #[error("{0}")]
    Unreachable(String),
    /// It refused the request.
    #[error("the other server refused: {}", .0.error)]
    Refused(Box<RemoteRefusal>),
    /// The request cannot be written or signed, for any server.
    #[error("the request cannot be written: {0}")]
    Unwritable(String),
}

impl RemoteRefusal {
    fn room_version(&self) -> Option<RoomVersionId> {
        let version = self.body.get("room_version")?.as_str()?;
        RoomVersionId::try_from(version).ok()
    }
}

impl RequestFailure {
    /// Returns whether the server does not know the endpoint. A server that knows it refuses with a Matrix error.
    pub fn is_unknown_endpoint(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Unwritable(_) => false,
            Self::Refused(refusal) => match refusal.status {
                405 => true,
                404 => matches!(&*refusal.errcode, "" | "M_UNRECOGNIZED"),
                400 => matches!(&*refusal.errcode, "" | "M_UNRECOGNIZED"),
                _ => false,
            },
        }
    }
}

impl From<RequestFailure> for Error {
    fn from(failure: RequestFailure) -> Self {
        let refusal = match failure {
            RequestFailure::Unreachable(text) => return Self::Unreachable(text),
            RequestFailure::Refused(refusal) => *refusal,
            RequestFailure::Unwritable(text) => return Self::BadJson(text),
        };
        match (refusal.status, &*refusal.errcode) {
            (404, "M_NOT_FOUND") => Self::NotFound(refusal.error),
            (403, _) => Self::Forbidden(refusal.error),
            (400, "M_UNABLE_TO_AUTHORISE_JOIN") => Self::UnableToAuthoriseJoin(refusal.error),
            (400, "M_UNABLE_TO_GRANT_JOIN") => Self::UnableToGrantJoin(refusal.error),
            (400, "M_INCOMPATIBLE_ROOM_VERSION") => match refusal.room_version() {
                Some(version) => Self::IncompatibleRoomVersion(version),
                None => Self::UnsupportedRoomVersion(refusal.error),
            },
            (429, _) => Self::LimitExceeded {
                retry_after: Duration::from_secs(1),
            },
            (400, errcode) if let Some(errcode) = passed_on_errcode(errcode) => {
                Self::RefusedElsewhere {
                    errcode,
                    text: refusal.error,
                }
            }
            _ => Self::Unreachable(format!("the other server refused: {}", refusal.error)),
        }
    }
}

/// Returns the error code that a client gets here when another server refused a request as bad; `None` for codes that
/// concern only the two servers.
fn passed_on_errcode(errcode: &str) -> Option<&'static str> {
    const PASSED_ON_ERRCODES: [&str; 10] = [
        "M_BAD_ALIAS",
        "M_BAD_JSON",
        "M_BAD_STATE",
        "M_INVALID_PARAM",
        "M_INVALID_ROOM_STATE",
        "M_MISSING_PARAM",
        "M_NOT_JSON",
        "M_ROOM_IN_USE",
        "M_UNKNOWN",
        "M_UNSUPPORTED_ROOM_VERSION",
    ];
    PASSED_ON_ERRCODES
        .into_iter()
        .find(|known| *known == errcode)
}

pub(super) fn unreachable(server: &ServerName, why: &str) -> RequestFailure {
    RequestFailure::Unreachable(format!("{server}: {why}"))
}

pub(super) fn invalid_answer(server: &ServerName, error: &impl ToString) -> RequestFailure {
    let text = shorten(&error.to_string());
    RequestFailure::Unreachable(format!("{server} sent an invalid answer: {text}"))
}

/// Shortens the error text of another server.
pub(super) fn shorten(text: &str) -> String {
    text.chars().take(MAX_ERROR_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, errcode: &str) -> RequestFailure {
        RequestFailure::Refused(Box::new(RemoteRefusal {
            status,
            errcode: errcode.to_owned(),
            error: "no".to_owned(),
            body: Value::Null,
        }))
    }

    #[test]
    fn a_refusal_of_another_server_logs_no_user_out() {
        let as_error = |status, errcode| Error::from(refused(status, errcode));

        for (status, errcode) in [
            (401, "M_UNKNOWN_TOKEN"),
            (400, "M_MISSING_TOKEN"),
            (404, ""),
        ] {
            let error = as_error(status, errcode);
            assert!(matches!(error, Error::Unreachable(_)), "{errcode}");
        }
        assert!(matches!(as_error(404, "M_NOT_FOUND"), Error::NotFound(_)));
        assert!(matches!(as_error(403, "M_FORBIDDEN"), Error::Forbidden(_)));
        let error = as_error(400, "M_BAD_STATE");
        let is_passed_on = |error| matches!(error, Error::RefusedElsewhere { errcode, .. } if errcode == "M_BAD_STATE");
        assert!(is_passed_on(error));
    }

    #[test]
    fn an_unknown_endpoint_differs_from_an_unknown_resource() {
        assert!(refused(404, "M_UNRECOGNIZED").is_unknown_endpoint());
        assert!(refused(404, "").is_unknown_endpoint());
        assert!(refused(405, "M_UNRECOGNIZED").is_unknown_endpoint());
        assert!(refused(400, "").is_unknown_endpoint());
        assert!(refused(400, "M_UNRECOGNIZED").is_unknown_endpoint());
        assert!(!refused(400, "M_BAD_JSON").is_unknown_endpoint());
        assert!(!refused(404, "M_NOT_FOUND").is_unknown_endpoint());
        assert!(!RequestFailure::Unreachable(String::new()).is_unknown_endpoint());
    }
}
