//! Responses that contain their lists and maps even when these are empty.
//!
//! ruma omits many empty lists and maps. Some clients read every list of the specification's schema without a check,
//! and fail when one is missing.

use std::collections::BTreeMap;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::{BufMut, Bytes, BytesMut};
use ruma::api::{OutgoingResponse, OutgoingResponseExt};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::Error;

/// The lists and maps that the schema of a response has and ruma omits when they are empty.
pub trait EmptyFields: OutgoingResponse {
    /// The names of the lists.
    const LIST_FIELDS: &'static [&'static str] = &[];
    /// The names of the maps.
    const MAP_FIELDS: &'static [&'static str] = &[];
}

/// A Matrix response with all its lists and maps.
pub struct CompleteResponse<T>(pub T);

/// The names of the fields of a response; the values are ignored.
#[derive(Deserialize)]
#[serde(transparent)]
struct ResponseFields<'a>(#[serde(borrow)] BTreeMap<&'a str, &'a RawValue>);

impl<T: EmptyFields> IntoResponse for CompleteResponse<T> {
    fn into_response(self) -> Response {
        let response = match self.0.try_into_http_response::<BytesMut>() {
            Ok(response) => response.map(BytesMut::freeze),
            Err(e) => return Error::internal("write the response", e).into_response(),
        };
        let (parts, body) = response.into_parts();
        match add_empty_fields(&body, T::LIST_FIELDS, T::MAP_FIELDS) {
            Ok(body) => Response::from_parts(parts, Body::from(body)),
            Err(e) => Error::internal("complete the response", e).into_response(),
        }
    }
}

/// Adds the missing fields at the beginning of an object.
fn add_empty_fields(object: &Bytes, lists: &[&str], maps: &[&str]) -> serde_json::Result<Bytes> {
    let ResponseFields(present) = serde_json::from_slice(object)?;
    let lists = lists.iter().map(|name| (name, "[]"));
    let maps = maps.iter().map(|name| (name, "{}"));
    let missing: Vec<String> = lists
        .chain(maps)
        .filter(|(name, _)| !present.contains_key(**name))
        .map(|(name, empty)| format!("\"{name}\":{empty}"))
        .collect();
    let Some(rest) = object.strip_prefix(b"{").filter(|_| !missing.is_empty()) else {
        return Ok(object.clone());
    };
    let mut whole = BytesMut::with_capacity(object.len() + 128);
    whole.put_u8(b'{');
    whole.put_slice(missing.join(",").as_bytes());
    if !present.is_empty() {
        whole.put_u8(b',');
    }
    whole.put_slice(rest);
    Ok(whole.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(object: &'static str) -> String {
        let object = Bytes::from_static(object.as_bytes());
        let whole = add_empty_fields(&object, &["a", "b"], &["c"]).unwrap();
        String::from_utf8(whole.to_vec()).unwrap()
    }

    #[test]
    fn only_missing_fields_are_added() {
        assert_eq!(complete("{}"), r#"{"a":[],"b":[],"c":{}}"#);
        assert_eq!(
            complete(r#"{"b":[1],"x":2}"#),
            r#"{"a":[],"c":{},"b":[1],"x":2}"#
        );
        let whole = r#"{"a":[],"b":[],"c":{"d":"\"}"}}"#;
        assert_eq!(complete(whole), whole);
    }
}
