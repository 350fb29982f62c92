//! Interactive authentication by clients of the first versions of the specification.
//!
//! They name the user in a field `user` of `auth`, where it has an `identifier` today; some, such as mautrix, still do.

use axum::http;
use ruma::api::{IncomingRequest, Metadata, error::DeserializationError};
use serde_json::{Value, json};

/// A request whose `auth` may name the user with `user` instead of `identifier`.
pub(super) struct LegacyUser<R>(pub(super) R);

impl<R: Metadata> Metadata for LegacyUser<R> {
    const METHOD: http::Method = R::METHOD;
    const RATE_LIMITED: bool = R::RATE_LIMITED;
    type Authentication = R::Authentication;
    type PathBuilder = R::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = R::PATH_BUILDER;
}

impl<R: IncomingRequest> IncomingRequest for LegacyUser<R> {
    type EndpointError = R::EndpointError;
    type OutgoingResponse = R::OutgoingResponse;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let (parts, body) = request.into_parts();
        let rewritten = with_identifier(body);
        let body = rewritten.as_deref().unwrap_or(body);
        let request = http::Request::from_parts(parts, body);
        R::try_from_http_request_inner(request, path_args).map(Self)
    }
}

/// Returns a body whose `auth` has an `identifier`, if it had only a `user`.
fn with_identifier(body: &[u8]) -> Option<Vec<u8>> {
    let mut whole: Value = serde_json::from_slice(body).ok()?;
    let auth = whole.get_mut("auth")?.as_object_mut()?;
    if auth.contains_key("identifier") {
        return None;
    }
    let user = auth.get("user")?.as_str()?.to_owned();
    let identifier = json!({ "type": "m.id.user", "user": user });
    auth.insert("identifier".to_owned(), identifier);
    serde_json::to_vec(&whole).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_added_only_where_there_is_only_a_user() {
        let of = |auth: Value| {
            let body = json!({ "auth": auth }).to_string();
            let rewritten = with_identifier(body.as_bytes())?;
            let whole: Value = serde_json::from_slice(&rewritten).unwrap();
            Some(whole["auth"]["identifier"].clone())
        };

        let expected = json!({ "type": "m.id.user", "user": "@a:b" });
        assert_eq!(of(json!({ "user": "@a:b" })), Some(expected));
        assert_eq!(of(json!({ "user": "@a:b", "identifier": {} })), None);
        assert_eq!(of(json!({ "user": 5 })), None);
        assert_eq!(of(json!({ "session": "s" })), None);
        assert_eq!(with_identifier(b"no json"), None);
    }
}
