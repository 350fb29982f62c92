//! Requests whose body may omit fields that ruma requires and the specification does not.

use axum::http;
use ruma::api::{
    IncomingRequest, Metadata,
    client::{directory::set_room_visibility, push::set_pushrule},
    error::DeserializationError,
};
use serde_json::{Map, Value, json};

/// A request in which missing optional fields have their default values.
pub(super) struct WithDefaults<R>(pub(super) R);

/// The optional fields of a request.
pub(super) trait OptionalFields {
    /// Returns the names and default values of the fields.
    fn defaults() -> Map<String, Value>;
}

/// "`visibility`: The new visibility setting for the room. Defaults to `public`."
impl OptionalFields for set_room_visibility::v3::Request {
    fn defaults() -> Map<String, Value> {
        Map::from_iter([("visibility".to_owned(), json!("public"))])
    }
}

/// "A rule with no conditions always matches." Kinds of rules without conditions ignore the field.
impl OptionalFields for set_pushrule::v3::Request {
    fn defaults() -> Map<String, Value> {
        Map::from_iter([("conditions".to_owned(), json!([]))])
    }
}

impl<R: Metadata> Metadata for WithDefaults<R> {
    const METHOD: http::Method = R::METHOD;
    const RATE_LIMITED: bool = R::RATE_LIMITED;
    type Authentication = R::Authentication;
    type PathBuilder = R::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = R::PATH_BUILDER;
}

impl<R: IncomingRequest + OptionalFields> IncomingRequest for WithDefaults<R> {
    type EndpointError = R::EndpointError;
    type OutgoingResponse = R::OutgoingResponse;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let (parts, body) = request.into_parts();
        let completed = with_default_fields::<R>(body);
        let body = completed.as_deref().unwrap_or(body);
        let request = http::Request::from_parts(parts, body);
        R::try_from_http_request_inner(request, path_args).map(Self)
    }
}

/// Returns a body with default values for its missing fields, if it is an object.
fn with_default_fields<R: OptionalFields>(body: &[u8]) -> Option<Vec<u8>> {
    let mut fields: Map<String, Value> = serde_json::from_slice(body).ok()?;
    for (name, value) in R::defaults() {
        fields.entry(name).or_insert(value);
    }
    serde_json::to_vec(&fields).ok()
}
