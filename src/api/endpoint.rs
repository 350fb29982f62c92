//! Typed endpoints: ruma gives the request, the response, the paths and the authentication.
//!
//! Endpoints whose body is a file do not use [`MatrixRequest`], which holds the whole body in memory. `parameters`
//! explains the errors in paths and queries.

mod parameters;

use std::{collections::BTreeSet, io};

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::{FromRequest, Request},
    handler::Handler,
    http::{self, Method, StatusCode, request::Parts},
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, on},
};
use bytes::BytesMut;
use futures_util::StreamExt;
use ruma::api::{
    IncomingRequest, IncomingRequestExt, Metadata, OutgoingResponse, OutgoingResponseExt,
    error::{DeserializationError, FromHttpRequestError, HeaderDeserializationError},
    path_builder::PathBuilder,
};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use self::parameters::{FindParseError, RequestHead};
pub(super) use self::parameters::{PathParams, raw_path_params, read_query};
use super::{
    app::App,
    auth::RequestAuthenticator,
    endpoint_policies::{AdmissionCheck, EndpointPolicy},
};
use crate::{
    error::{Error, RefusalCode, Result},
    matrix::canonical_text,
};

/// A Matrix request and its authenticated sender.
pub struct MatrixRequest<R: Metadata<Authentication: RequestAuthenticator>> {
    /// The authenticated sender.
    pub from: <R::Authentication as RequestAuthenticator>::Identity,
    pub request: R,
}

/// A request with its whole body, which may contain more than the specification names.
pub struct RequestWithBody<R: Metadata<Authentication: RequestAuthenticator>> {
    /// The authenticated sender.
    pub from: <R::Authentication as RequestAuthenticator>::Identity,
    pub request: R,
    /// The whole body.
    pub body: Map<String, Value>,
}

/// A request whose body may be missing. A missing body is read as an empty object.
pub struct RequestWithOptionalBody<R: Metadata<Authentication: RequestAuthenticator>> {
    /// The authenticated sender.
    pub from: <R::Authentication as RequestAuthenticator>::Identity,
    pub request: R,
    /// Whether the request has a body.
    pub has_body: bool,
}

/// A Matrix response.
pub struct MatrixResponse<T>(pub T);

/// Routes every path of the endpoint `R` to `handler`.
pub fn endpoint<R, T>(handler: impl Handler<T, App>) -> Router<App>
where
    R: Metadata,
    T: 'static,
{
    let policy = EndpointPolicy::of_endpoint(&R::METHOD, R::PATH_BUILDER.all_paths());
    let handler = method_router(R::METHOD, handler, policy);
    let mut router = Router::new();
    for path in paths_with_aliases(R::PATH_BUILDER.all_paths()) {
        router = router.route(&path, handler.clone());
    }
    router
}

/// Routes one path to `handler`, for endpoints that ruma does not have.
pub fn endpoint_at<T>(method: Method, path: &str, handler: impl Handler<T, App>) -> Router<App>
where
    T: 'static,
{
    let policy = EndpointPolicy::of_endpoint(&method, [path]);
    Router::new().route(path, method_router(method, handler, policy))
}

/// Returns the route of a method. Its requests carry the policy of the endpoint.
#[expect(
    clippy::expect_used,
    reason = "axum knows every method that the endpoints have"
)]
fn method_router<T: 'static>(
    method: Method,
    handler: impl Handler<T, App>,
    policy: Option<EndpointPolicy>,
) -> MethodRouter<App> {
    let method = MethodFilter::try_from(method).expect("the method is a usual one");
    let router = on(method, handler);
    match policy {
        Some(policy) => router.route_layer(Extension(policy)),
        None => router,
    }
}

/// Returns the paths and the variants of them that clients also use.
fn paths_with_aliases(paths: impl Iterator<Item = &'static str>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in paths {
        found.insert(path.to_owned());
        // Some clients know only r0, and for media even v1.
        for (present, past) in [
            ("/_matrix/client/v3/", "/_matrix/client/r0/"),
            ("/_matrix/media/v3/", "/_matrix/media/r0/"),
            ("/_matrix/media/v3/", "/_matrix/media/v1/"),
        ] {
            if let Some(rest) = path.strip_prefix(present) {
                found.insert(format!("{past}{rest}"));
            }
        }
    }
    // If the state key is empty, the path may end with a slash or without one. Some clients omit the slash at the end
    // of the path of the push rules.
    for path in found.clone() {
        if let Some(start) = path.strip_suffix("/{state_key}") {
            found.insert(format!("{start}/"));
            found.insert(start.to_owned());
        }
        if let Some(start) = path.strip_suffix('/') {
            found.insert(start.to_owned());
        }
    }
    found
}

impl<R> FromRequest<App> for MatrixRequest<R>
where
    R: IncomingRequest + Metadata<Authentication: RequestAuthenticator> + Send,
{
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        // Some clients join, leave and so on without a body. It then counts as an empty object. A `PUT` replaces
        // something, so it always needs a body.
        let may_lack_body = request.method() != Method::PUT;
        let parsed = read_request(request, app, may_lack_body).await?;
        Ok(parsed.incoming)
    }
}

impl<R> FromRequest<App> for RequestWithOptionalBody<R>
where
    R: IncomingRequest + Metadata<Authentication: RequestAuthenticator> + Send,
{
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let parsed = read_request(request, app, true).await?;
        let MatrixRequest { from, request } = parsed.incoming;
        Ok(Self {
            from,
            request,
            has_body: parsed.body.is_some(),
        })
    }
}

impl<R> FromRequest<App> for RequestWithBody<R>
where
    R: IncomingRequest + Metadata<Authentication: RequestAuthenticator> + Send,
{
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let may_lack_body = request.method() != Method::PUT;
        let parsed = read_request(request, app, may_lack_body).await?;
        let MatrixRequest { from, request } = parsed.incoming;
        let body = serde_json::from_str(parsed.body.as_deref().unwrap_or("{}"))
            .map_err(|e| Error::BadJson(e.to_string()))?;
        Ok(Self {
            from,
            request,
            body,
        })
    }
}

/// A parsed request and its body.
pub struct ParsedRequest<R: Metadata<Authentication: RequestAuthenticator>> {
    pub incoming: MatrixRequest<R>,
    /// The canonical form of the body, if there is one.
    pub body: Option<String>,
}

/// A received request and its authenticated sender.
pub struct ReceivedRequest<I> {
    parts: Parts,
    /// The names and values of the path parameters.
    params: Vec<(String, String)>,
    admission: AdmissionCheck,
    /// The authenticated sender.
    pub from: I,
    /// The canonical form of the body, if there is one.
    pub body: Option<String>,
}

impl<I> ReceivedRequest<I> {
    /// Parses the request with ruma, and counts it against its rate limit.
    ///
    /// # Errors
    ///
    /// When the request is invalid, or its sender has made too many requests; the error says why.
    pub fn parse<R>(self, app: &App) -> Result<ParsedRequest<R>>
    where
        R: IncomingRequest + Metadata<Authentication: RequestAuthenticator<Identity = I>>,
    {
        let params = self.params.iter();
        let params: Vec<(&str, &str)> = params.map(|(name, value)| (&**name, &**value)).collect();
        let text = self.body.as_deref().unwrap_or("{}");
        let request = http::Request::from_parts(self.parts, text.as_bytes());
        let request = parse_request(request, &params)?;
        self.admission
            .admit(app, R::Authentication::session(&self.from))?;
        Ok(ParsedRequest {
            incoming: MatrixRequest {
                from: self.from,
                request,
            },
            body: self.body,
        })
    }
}

/// Receives, authenticates and parses a request, and counts it against its rate limit.
async fn read_request<R>(
    request: Request,
    app: &App,
    may_lack_body: bool,
) -> Result<ParsedRequest<R>>
where
    R: IncomingRequest + Metadata<Authentication: RequestAuthenticator> + Send,
{
    let received = receive_request::<R::Authentication>(request, app, may_lack_body).await?;
    received.parse(app)
}

/// Receives a request and authenticates its sender.
///
/// It is generic over the kind of authentication and not over the endpoint, so that it is compiled a few times and not
/// for each endpoint.
pub async fn receive_request<A: RequestAuthenticator>(
    request: Request,
    app: &App,
    may_lack_body: bool,
) -> Result<ReceivedRequest<A::Identity>> {
    let (mut parts, body) = request.into_parts();
    let params = raw_path_params(&mut parts).await?;
    A::check_head(app, &parts)?;
    let whole = read_body(body, A::max_body_bytes(app, &parts)).await?;
    let from = A::authenticate(app, &parts, &whole).await?;
    let session = A::session(&from);
    let admission = AdmissionCheck::of_request(app, &parts, session).await;
    let body = match parts.method {
        Method::GET | Method::HEAD => None,
        _ if whole.is_empty() && may_lack_body => None,
        _ => Some(object_text(&whole, A::MAX_BODY_DEPTH)?),
    };
    let params = params.iter();
    let params = params.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Ok(ReceivedRequest {
        params: params.collect(),
        admission,
        parts,
        from,
        body,
    })
}

/// Reads a body of at most `limit` bytes. It fails when the client sends nothing for too long.
pub(super) async fn read_body(body: Body, limit: usize) -> Result<Bytes> {
    let mut chunks = body.into_data_stream();
    let mut read = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| incomplete_body_error(&error))?;
        if read.len().saturating_add(chunk.len()) > limit {
            return Err(Error::TooLarge(format!(
                "the body is larger than {limit} bytes"
            )));
        }
        read.extend_from_slice(&chunk);
    }
    Ok(read.freeze())
}

/// Returns the error for a body that ended before it was complete.
fn incomplete_body_error(error: &axum::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let io_error = error.downcast_ref::<io::Error>();
        if io_error.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return Error::BodyTimeout;
        }
        cause = error.source();
    }
    Error::refused(
        RefusalCode::NotJson,
        "the body ended before it was complete".to_owned(),
    )
}

/// Returns the canonical form of a body, which must be an object, because serde would also read a list as a struct.
pub(super) fn object_text(body: &[u8], max_depth: usize) -> Result<String> {
    let text = canonical_text(body, max_depth)?;
    if text.starts_with('{') {
        Ok(text)
    } else {
        Err(Error::BadJson("expected a JSON object".to_owned()))
    }
}

/// Parses a request with ruma. `params` are the names and values of its path parameters.
///
/// # Errors
///
/// When the request is invalid; the error says why.
pub(super) fn parse_request<R: IncomingRequest>(
    request: http::Request<&[u8]>,
    params: &[(&str, &str)],
) -> Result<R> {
    let head = RequestHead::of(&request);
    let body = *request.body();
    let values: Vec<&str> = params.iter().map(|(_, value)| *value).collect();
    R::try_from_http_request(request, &values).map_err(|error| {
        let find_error =
            |request: http::Request<&[u8]>| R::try_from_http_request(request, &values).err();
        explain_parse_error(error, body, &head, params, &find_error)
    })
}

/// Returns the error for a request that ruma could not parse. `find_error` parses another request as the same endpoint.
fn explain_parse_error(
    error: FromHttpRequestError,
    body: &[u8],
    head: &RequestHead,
    params: &[(&str, &str)],
    find_error: &FindParseError<'_>,
) -> Error {
    let error = match error {
        FromHttpRequestError::Deserialization(error) => error,
        other => return Error::refused(RefusalCode::MethodNotAllowed, other.to_string()),
    };
    match error {
        DeserializationError::Json(error) => {
            // A value of a wrong type may come before the place where the body is no longer JSON.
            match serde_json::from_slice::<IgnoredAny>(body) {
                Err(broken) => Error::refused(RefusalCode::NotJson, broken.to_string()),
                Ok(_) => Error::BadJson(error.to_string()),
            }
        }
        DeserializationError::Header(HeaderDeserializationError::MissingHeader(name)) => {
            Error::refused(
                RefusalCode::MissingParam,
                format!("missing header `{name}`"),
            )
        }
        other => parameters::explain_error(&other, head, params, find_error),
    }
}

impl<T: OutgoingResponse> IntoResponse for MatrixResponse<T> {
    fn into_response(self) -> Response {
        match self.0.try_into_http_response::<BytesMut>() {
            Ok(response) => response.map(|body| Body::from(body.freeze())),
            Err(e) => Error::internal("write the response", e).into_response(),
        }
    }
}

/// The response for a path that does not exist.
pub(super) async fn unknown_path() -> Error {
    Error::refused(RefusalCode::Unrecognized, "unknown endpoint".to_owned())
}

/// The response for a path that exists but does not have this method.
pub(super) async fn unknown_method() -> Error {
    Error::refused(
        RefusalCode::MethodNotAllowed,
        "unknown method for this endpoint".to_owned(),
    )
}

/// The response to a request whose handler panicked. The panic itself has been logged where it happened.
pub(super) fn panic_response() -> Response {
    let error = Error::internal("answer the request", "its handler panicked");
    let response = error.into_response();
    debug_assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    response
}

#[cfg(test)]
mod tests;
