//! Explains which parameter of a request is wrong, and what is allowed. The errors of serde and ruma say neither.

use axum::{
    extract::{self, FromRequestParts, Query, RawPathParams},
    http::{Method, Request, Uri, request::Parts, uri::PathAndQuery},
};
use ruma::{
    EventId, RoomAliasId, RoomId, RoomOrAliasId, ServerName, UserId,
    api::error::{DeserializationError, FromHttpRequestError},
};
use serde::de::DeserializeOwned;

use crate::error::{Error, RefusalCode, Result};

/// The maximum number of query parameters that are checked one by one.
const MAX_CANDIDATES: usize = 32;
/// The beginning of the errors about missing parameters.
const MISSING_FIELD_PREFIX: &str = "missing field";
/// The text before axum's errors about a path.
const AXUM_PATH_PREFIX: &str = "Invalid URL: ";
/// The text before axum's errors about a query.
const AXUM_QUERY_PREFIX: &str = "Failed to deserialize query string: ";

/// Parses a request as an endpoint, and returns the error if there is one.
pub(super) type FindParseError<'a> = dyn Fn(Request<&[u8]>) -> Option<FromHttpRequestError> + 'a;

/// The method and the address of a request.
pub(super) struct RequestHead {
    method: Method,
    uri: Uri,
}

impl RequestHead {
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
        }
    }
}

/// Explains the error in the path or query of a request that ruma could not parse.
///
/// `params` are the names and values of its path parameters.
pub(super) fn explain_error(
    error: &DeserializationError,
    head: &RequestHead,
    params: &[(&str, &str)],
    find_error: &FindParseError<'_>,
) -> Error {
    let text = error.to_string();
    if text.starts_with(MISSING_FIELD_PREFIX) {
        return Error::refused(
            RefusalCode::MissingParam,
            text.replace(MISSING_FIELD_PREFIX, "missing parameter"),
        );
    }
    // ruma parses the path first, and its errors do not say whether the path or the query is wrong.
    if let Some(wrong) = find_wrong_path_parameter(params) {
        let WrongParameter { name, reason } = wrong;
        return Error::InvalidParam(format!("invalid parameter `{name}`: expected {reason}"));
    }
    match find_wrong_query_parameter(head, find_error) {
        Some(wrong) => invalid_parameter(&wrong.name, &wrong.reason),
        None => Error::InvalidParam(text),
    }
}

/// The path parameters, in order, of a request that ruma does not have.
pub(in crate::api) struct PathParams<T>(pub(in crate::api) T);

impl<T, S> FromRequestParts<S> for PathParams<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = Error;

    #[expect(clippy::disallowed_types, reason = "its refusal is replaced here")]
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let read = extract::Path::from_request_parts(parts, state).await;
        read.map(|path| Self(path.0)).map_err(|error| {
            let text = error.body_text();
            let text = text.strip_prefix(AXUM_PATH_PREFIX).unwrap_or(&text);
            Error::InvalidParam(text.to_owned())
        })
    }
}

/// Reads the names and values of the path parameters of a request.
///
/// # Errors
///
/// [`Error::InvalidParam`] when one of them is not UTF-8.
pub(in crate::api) async fn raw_path_params(parts: &mut Parts) -> Result<RawPathParams> {
    let read = RawPathParams::from_request_parts(parts, &()).await;
    read.map_err(|error| Error::InvalidParam(error.to_string()))
}

/// Reads the query of a request that ruma does not have.
///
/// # Errors
///
/// [`Error::InvalidParam`] with the name of the parameter, or `RefusalCode::MissingParam`.
pub(in crate::api) fn read_query<T: DeserializeOwned>(uri: &Uri) -> Result<T> {
    let read = Query::try_from_uri(uri);
    let error = match read {
        Ok(Query(read)) => return Ok(read),
        Err(error) => error.to_string(),
    };
    let text = error.strip_prefix(AXUM_QUERY_PREFIX).unwrap_or(&error);
    if text.starts_with(MISSING_FIELD_PREFIX) {
        return Err(Error::refused(
            RefusalCode::MissingParam,
            text.replace(MISSING_FIELD_PREFIX, "missing parameter"),
        ));
    }
    Err(match text.split_once(": ") {
        Some((name, text)) => invalid_parameter(name, text),
        None => Error::InvalidParam(text.to_owned()),
    })
}

fn invalid_parameter(name: &str, text: &str) -> Error {
    let expected = if name == "filter" {
        "expected a filter as a JSON object"
    } else {
        expected_value(text)
    };
    Error::InvalidParam(format!("invalid parameter `{name}`: {expected}"))
}

/// Returns the allowed values for an error in which serde or ruma only reject the given one.
fn expected_value(text: &str) -> &str {
    let is_about = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if is_about(&["digit", "integer", "number too", "out of range"]) {
        "expected a whole number from 0 to 9007199254740991"
    } else if is_about(&["`true` or `false`", "\"true\", \"on\""]) {
        "expected `true` or `false`"
    } else {
        text
    }
}

/// A parameter that cannot be parsed, and what is wrong or expected.
struct WrongParameter<T> {
    name: String,
    reason: T,
}

/// Finds the query parameter that cannot be parsed, by parsing each of them alone.
fn find_wrong_query_parameter(
    head: &RequestHead,
    find_error: &FindParseError<'_>,
) -> Option<WrongParameter<String>> {
    let (path, query) = (head.uri.path(), head.uri.query()?);
    query.split('&').take(MAX_CANDIDATES).find_map(|pair| {
        let path_and_query: PathAndQuery = format!("{path}?{pair}").parse().ok()?;
        let request = Request::builder()
            .method(&head.method)
            .uri(Uri::from(path_and_query))
            .body(b"{}".as_slice())
            .ok()?;
        let error = find_error(request)?;
        let FromHttpRequestError::Deserialization(DeserializationError::Query(error)) = error
        else {
            return None;
        };
        let text = error.to_string();
        let name = pair.split('=').next().unwrap_or(pair);
        (!text.starts_with(MISSING_FIELD_PREFIX)).then(|| WrongParameter {
            name: name.to_owned(),
            reason: text,
        })
    })
}

/// Finds the path parameter that cannot be parsed, and says what is expected.
fn find_wrong_path_parameter(params: &[(&str, &str)]) -> Option<WrongParameter<&'static str>> {
    params.iter().find_map(|(name, value)| {
        let (is_valid, expected) = match *name {
            "room_id" => (
                RoomId::parse(*value).is_ok(),
                "a room id, like `!room:example.org`",
            ),
            "user_id" => (
                UserId::parse(*value).is_ok(),
                "a user id, like `@user:example.org`",
            ),
            "event_id" => (EventId::parse(*value).is_ok(), "an event id, like `$event`"),
            "room_alias" => (
                RoomAliasId::parse(*value).is_ok(),
                "a room alias, like `#room:example.org`",
            ),
            "room_id_or_alias" => (
                RoomOrAliasId::parse(*value).is_ok(),
                "a room id or alias, like `!room:example.org` or `#room:example.org`",
            ),
            "server_name" => (
                ServerName::parse(*value).is_ok(),
                "a server name, like `example.org`",
            ),
            _ => return None,
        };
        (!is_valid).then(|| WrongParameter {
            name: (*name).to_owned(),
            reason: expected,
        })
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct TestQuery {
        limit: Option<u64>,
        token: String,
    }

    fn refusal(uri: &str) -> String {
        let read = read_query::<TestQuery>(&uri.parse().unwrap());
        read.unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_query_parameter_is_named() {
        let read = read_query::<TestQuery>(&"/?token=a&limit=3".parse().unwrap()).unwrap();
        assert_eq!((read.limit, &*read.token), (Some(3), "a"));

        assert_eq!(
            refusal("/?token=a&limit=-1"),
            "invalid parameter `limit`: expected a whole number from 0 to 9007199254740991"
        );
        assert_eq!(refusal("/?limit=1"), "missing parameter `token`");
    }
}
