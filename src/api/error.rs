//! Converts errors to a status, an `errcode` and a text. No other module does this.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#standard-error-response).

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use crate::error::{Error, RefusalCode};

/// The code of a conflict between an automatic subscription to a thread and a later unsubscription.
const CONFLICTING_UNSUBSCRIPTION_CODE: &str = "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION";
/// The time after which to retry when the server is temporarily unavailable.
const UNAVAILABLE_RETRY_AFTER: Duration = Duration::from_secs(5);
/// The time after which to retry when the disk is full. An operator has to free space first.
const STORAGE_FULL_RETRY_AFTER: Duration = Duration::from_mins(1);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        if let Self::Uia(info) = &self {
            return (StatusCode::UNAUTHORIZED, Json(info)).into_response();
        }
        let (status, _) = status_with_code(&self);
        let mut response = (status, Json(error_body(&self))).into_response();
        if let Some(retry_after) = retry_after(&self) {
            let seconds = retry_after.as_millis().div_ceil(1000);
            if let Ok(seconds) = HeaderValue::try_from(seconds.to_string()) {
                response.headers_mut().insert(RETRY_AFTER, seconds);
            }
        }
        if matches!(self, Self::StorageFull) {
            response.extensions_mut().insert(ResourceLimit);
        }
        response
    }
}

/// Marks a response that must name an administrator to contact, which only the configuration knows.
#[derive(Clone)]
pub(super) struct ResourceLimit;

/// Returns the body of a response that is marked with [`ResourceLimit`].
pub(super) fn resource_limit_body(admin_contact: &str) -> Value {
    let mut body = error_body(&Error::StorageFull);
    if let Value::Object(body) = &mut body {
        body.insert("admin_contact".to_owned(), json!(admin_contact));
    }
    body
}

/// Returns the time after which the caller may retry, if it is known.
fn retry_after(error: &Error) -> Option<Duration> {
    match error {
        Error::LimitExceeded { retry_after } => Some(*retry_after),
        Error::Unavailable(_) => Some(UNAVAILABLE_RETRY_AFTER),
        Error::StorageFull => Some(STORAGE_FULL_RETRY_AFTER),
        _ => None,
    }
}

/// Returns the standard error body, and logs internal errors.
pub(super) fn error_body(error: &Error) -> Value {
    if let Error::Internal { doing, source } = error {
        tracing::error!(error = %source, "could not {doing}");
    }
    let (_, errcode) = status_with_code(error);
    let text = match error {
        // The details are for the operator, not for the caller.
        Error::Internal { .. } => "internal server error".to_owned(),
        other => other.to_string(),
    };
    let mut body = json!({ "errcode": errcode, "error": text });
    if let Value::Object(body) = &mut body {
        body.extend(details(error));
    }
    body
}

fn status_with_code(error: &Error) -> (StatusCode, &'static str) {
    match error {
        Error::Forbidden(_) | Error::MaxDelayExceeded(_) => (StatusCode::FORBIDDEN, "M_FORBIDDEN"),
        Error::NotFound(_) => (StatusCode::NOT_FOUND, "M_NOT_FOUND"),
        Error::MissingToken => (StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN"),
        Error::UnknownToken { .. } => (StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN"),
        Error::Uia(_) => (StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED"),
        Error::BadJson(_) => (StatusCode::BAD_REQUEST, "M_BAD_JSON"),
        Error::InvalidParam(_) => (StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
        Error::UnknownPos => (StatusCode::BAD_REQUEST, "M_UNKNOWN_POS"),
        Error::InvalidSignature(_) => (StatusCode::BAD_REQUEST, "M_INVALID_SIGNATURE"),
        Error::WrongRoomKeysVersion { .. } => (StatusCode::FORBIDDEN, "M_WRONG_ROOM_KEYS_VERSION"),
        Error::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN"),
        Error::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE"),
        Error::LimitExceeded { .. } => (StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED"),
        Error::Exclusive(_) => bad_request("M_EXCLUSIVE"),
        Error::UserInUse => (StatusCode::BAD_REQUEST, "M_USER_IN_USE"),
        Error::GuestAccessForbidden => (StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN"),
        Error::UserSuspended => (StatusCode::FORBIDDEN, "M_USER_SUSPENDED"),
        Error::UserLocked => (StatusCode::UNAUTHORIZED, "M_USER_LOCKED"),
        Error::CannotLeaveServerNoticeRoom => forbidden("M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"),
        Error::UserDeactivated => (StatusCode::FORBIDDEN, "M_USER_DEACTIVATED"),
        Error::UnsupportedRoomVersion(_) => (StatusCode::BAD_REQUEST, "M_UNSUPPORTED_ROOM_VERSION"),
        Error::IncompatibleRoomVersion(_) => bad_request("M_INCOMPATIBLE_ROOM_VERSION"),
        Error::UnableToAuthoriseJoin(_) => bad_request("M_UNABLE_TO_AUTHORISE_JOIN"),
        Error::UnableToGrantJoin(_) => bad_request("M_UNABLE_TO_GRANT_JOIN"),
        Error::Refused { code, .. } => refusal_status_with_code(*code),
        Error::DuplicateAnnotation => (StatusCode::BAD_REQUEST, "M_DUPLICATE_ANNOTATION"),
        Error::ConflictingUnsubscription => conflict(CONFLICTING_UNSUBSCRIPTION_CODE),
        Error::Finalised(_) => (StatusCode::CONFLICT, "M_UNKNOWN"),
        Error::InviteBlocked => (StatusCode::FORBIDDEN, "M_INVITE_BLOCKED"),
        Error::InviteFiltered => (StatusCode::FORBIDDEN, "ORG.MATRIX.MSC4155.M_INVITE_BLOCKED"),
        Error::Unreachable(_) => (StatusCode::BAD_GATEWAY, "M_UNKNOWN"),
        Error::StorageFull => (StatusCode::SERVICE_UNAVAILABLE, "M_RESOURCE_LIMIT_EXCEEDED"),
        Error::RefusedElsewhere { errcode, .. } => bad_request(errcode),
        Error::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN"),
        Error::Internal { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN"),
    }
}

fn forbidden(code: &'static str) -> (StatusCode, &'static str) {
    (StatusCode::FORBIDDEN, code)
}

fn conflict(code: &'static str) -> (StatusCode, &'static str) {
    (StatusCode::CONFLICT, code)
}

/// Returns the status and the `errcode` of a refusal.
fn refusal_status_with_code(code: RefusalCode) -> (StatusCode, &'static str) {
    match code {
        RefusalCode::Unauthorized => (StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED"),
        RefusalCode::NotJson => bad_request("M_NOT_JSON"),
        // The specification has no error code for these.
        RefusalCode::Unspecified | RefusalCode::NotLeft | RefusalCode::CannotThumbnail => {
            bad_request("M_UNKNOWN")
        }
        RefusalCode::AliasInUse => (StatusCode::CONFLICT, "M_UNKNOWN"),
        RefusalCode::NotInThread => bad_request("IO.ELEMENT.MSC4306.M_NOT_IN_THREAD"),
        RefusalCode::MissingParam => bad_request("M_MISSING_PARAM"),
        RefusalCode::Unrecognized => (StatusCode::NOT_FOUND, "M_UNRECOGNIZED"),
        RefusalCode::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED"),
        // "This `type` of account data is controlled by the server": the status is 405, but the
        // code is `M_BAD_JSON`.
        RefusalCode::ReadOnly => (StatusCode::METHOD_NOT_ALLOWED, "M_BAD_JSON"),
        RefusalCode::ProfileTooLarge => bad_request("M_PROFILE_TOO_LARGE"),
        RefusalCode::KeyTooLarge => bad_request("M_KEY_TOO_LARGE"),
        RefusalCode::InvalidUsername => bad_request("M_INVALID_USERNAME"),
        RefusalCode::WeakPassword => bad_request("M_WEAK_PASSWORD"),
        RefusalCode::ThreepidInUse => bad_request("M_THREEPID_IN_USE"),
        RefusalCode::ThreepidNotFound => bad_request("M_THREEPID_NOT_FOUND"),
        RefusalCode::ThreepidAuthFailed => forbidden("M_THREEPID_AUTH_FAILED"),
        RefusalCode::UnknownActivationToken => bad_request("M_UNKNOWN_ACTIVATION_TOKEN"),
        RefusalCode::ExpiredActivationToken => (StatusCode::GONE, "M_EXPIRED_ACTIVATION_TOKEN"),
        RefusalCode::UrlNotSet => bad_request("M_URL_NOT_SET"),
        RefusalCode::UnknownDevice => bad_request("M_UNKNOWN_DEVICE"),
        RefusalCode::ThreepidDenied => (StatusCode::FORBIDDEN, "M_THREEPID_DENIED"),
        RefusalCode::RoomInUse => bad_request("M_ROOM_IN_USE"),
        RefusalCode::InvalidRoomState => bad_request("M_INVALID_ROOM_STATE"),
        RefusalCode::BadAlias => bad_request("M_BAD_ALIAS"),
        RefusalCode::NotYetUploaded => (StatusCode::GATEWAY_TIMEOUT, "M_NOT_YET_UPLOADED"),
        RefusalCode::CannotOverwriteMedia => (StatusCode::CONFLICT, "M_CANNOT_OVERWRITE_MEDIA"),
    }
}

fn bad_request(code: &'static str) -> (StatusCode, &'static str) {
    (StatusCode::BAD_REQUEST, code)
}

/// Returns the fields of an error besides its code and text.
fn details(error: &Error) -> Map<String, Value> {
    let fields = match error {
        Error::UnknownToken { soft_logout } => vec![("soft_logout", json!(soft_logout))],
        // The client may keep its data, because the account may be unlocked later.
        Error::UserLocked => vec![("soft_logout", json!(true))],
        Error::WrongRoomKeysVersion { current } => vec![("current_version", json!(current))],
        Error::IncompatibleRoomVersion(version) => vec![("room_version", json!(version))],
        Error::LimitExceeded { retry_after } => {
            vec![("retry_after_ms", milliseconds(*retry_after))]
        }
        // Clients that implement earlier drafts of MSC4140 read these fields.
        Error::MaxDelayExceeded(longest) => vec![
            ("org.matrix.msc4140.errcode", json!("M_MAX_DELAY_EXCEEDED")),
            ("org.matrix.msc4140.max_delay", milliseconds(*longest)),
        ],
        _ => Vec::new(),
    };
    let fields = fields.into_iter();
    fields
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn milliseconds(duration: Duration) -> Value {
    json!(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use ruma::api::client::uiaa::{AuthFlow, AuthType, UiaaInfo};

    use super::*;

    async fn respond(error: Error) -> (u16, Value) {
        let response = error.into_response();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 4096).await;
        let body = serde_json::from_slice(&body.expect("is short")).expect("is JSON");
        (status, body)
    }

    #[tokio::test]
    async fn an_internal_error_reveals_nothing() {
        let error = Error::internal("read the table", "password=swordfish");

        let (status, body) = respond(error).await;

        assert_eq!(status, 500);
        assert_eq!(
            body,
            json!({ "errcode": "M_UNKNOWN", "error": "internal server error" })
        );
    }

    #[tokio::test]
    async fn a_limit_says_when_to_retry() {
        let error = Error::LimitExceeded {
            retry_after: Duration::from_millis(1500),
        };

        let response = error.into_response();

        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        let (_, body) = respond(Error::LimitExceeded {
            retry_after: Duration::from_millis(1500),
        })
        .await;
        assert_eq!(body["retry_after_ms"], 1500);
    }

    #[tokio::test]
    async fn temporary_errors_say_when_to_retry() {
        for error in [Error::StorageFull, Error::Unavailable("busy".to_owned())] {
            let response = error.into_response();

            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(response.headers().contains_key(RETRY_AFTER));
        }
        let (_, body) = respond(Error::StorageFull).await;
        assert_eq!(body["errcode"], "M_RESOURCE_LIMIT_EXCEEDED");
    }

    #[tokio::test]
    async fn an_unknown_token_says_whether_the_device_is_kept() {
        let (status, body) = respond(Error::UnknownToken { soft_logout: true }).await;

        assert_eq!(status, 401);
        assert_eq!(body["errcode"], "M_UNKNOWN_TOKEN");
        assert_eq!(body["soft_logout"], true);
    }

    #[tokio::test]
    async fn interactive_authentication_answers_with_its_flows() {
        let flow = AuthFlow::new(vec![AuthType::Dummy]);
        let info = UiaaInfo::new(vec![flow]);

        let (status, body) = respond(Error::Uia(Box::new(info))).await;

        assert_eq!(status, 401);
        assert_eq!(body["flows"], json!([{ "stages": ["m.login.dummy"] }]));
    }
}
