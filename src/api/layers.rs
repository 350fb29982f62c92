//! The layers around every request: its span, its counters, CORS and the handling of panics.

use std::{any::Any, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, Version,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, CONTENT_LENGTH,
            CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use tokio::time::Instant;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;

use super::{
    app::App,
    endpoint::{panic_response, unknown_method, unknown_path},
    error::{ResourceLimit, resource_limit_body},
    metrics::RequestMetrics,
};
use crate::{
    config::Config,
    error::{Error, RefusalCode},
};

/// The header with the id by which a request is found in the log.
const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// The longest request id that is accepted from a client or proxy.
const MAX_REQUEST_ID_BYTES: usize = 64;

/// Adds the layers to all routes, and answers requests that match no route.
pub(super) fn wrap_routes(routes: Router<App>, app: &App) -> Router<App> {
    routes
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(CatchPanicLayer::custom(|_: Box<dyn Any + Send>| {
            panic_response()
        }))
        .layer(from_fn_with_state(app.config.clone(), add_admin_contact))
        .layer(from_fn(require_host))
        .layer(from_fn(protect_json))
        .layer(from_fn(add_cors_headers))
        .layer(from_fn_with_state(app.metrics.clone(), observe_request))
}

/// Lets web pages of any origin use the API, and answers their pre-flight requests.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#web-browser-clients).
async fn add_cors_headers(request: Request, next: Next) -> Response {
    // Two devices that sign in with a QR code need further headers.
    let is_rendezvous = request.uri().path().contains("/rendezvous");
    let mut response = if request.method() == Method::OPTIONS {
        // The endpoint itself must not run. One hour saves a browser most of these requests.
        [(ACCESS_CONTROL_MAX_AGE, "3600")].into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    let mut allow = |name, value| headers.insert(name, HeaderValue::from_static(value));
    allow(ACCESS_CONTROL_ALLOW_ORIGIN, "*");
    allow(
        ACCESS_CONTROL_ALLOW_METHODS,
        "GET, HEAD, POST, PUT, DELETE, OPTIONS",
    );
    let request_headers = if is_rendezvous {
        "X-Requested-With, Content-Type, Authorization, If-Match, If-None-Match"
    } else {
        "X-Requested-With, Content-Type, Authorization"
    };
    allow(ACCESS_CONTROL_ALLOW_HEADERS, request_headers);
    response
}

/// Adds the administrator's contact to a response that reports a resource limit.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#common-error-codes).
async fn add_admin_contact(
    State(config): State<Arc<Config>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    if response.extensions().get::<ResourceLimit>().is_some() {
        let body = resource_limit_body(&config.admin_contact()).to_string();
        response.headers_mut().remove(CONTENT_LENGTH);
        *response.body_mut() = Body::from(body);
    }
    response
}

/// Refuses requests that do not name the host for which they are meant.
///
/// See [RFC 9112](https://www.rfc-editor.org/rfc/rfc9112#section-3.2).
async fn require_host(request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(HOST).iter().count();
    if request.version() == Version::HTTP_11 && hosts != 1 {
        let text = "the request must have one `Host` header";
        return Error::refused(RefusalCode::Unspecified, text.to_owned()).into_response();
    }
    next.run(request).await
}

/// Keeps JSON responses out of caches, and keeps browsers from guessing another content type.
async fn protect_json(request: Request, next: Next) -> Response {
    // Other servers and clients may cache the address of this server for a while.
    let is_well_known = request.uri().path().starts_with("/.well-known/");
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let is_json = headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if is_json {
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if !is_well_known {
            let no_store = HeaderValue::from_static("no-store");
            headers.entry(CACHE_CONTROL).or_insert(no_store);
        }
    }
    response
}

/// Gives the request an id and a span, and counts it.
///
/// Only the template of the path is recorded, because paths contain ids and queries contain tokens.
async fn observe_request(
    State(metrics): State<RequestMetrics>,
    request: Request,
    next: Next,
) -> Response {
    let request_id = request_id(request.headers());
    let path = request.extensions().get::<MatchedPath>().cloned();
    let endpoint = path.as_ref().map_or("unknown", MatchedPath::as_str);
    let method = method_name(request.method());
    let span = tracing::info_span!("request", request_id, method, endpoint);
    let started = Instant::now();

    let mut response = next.run(request).instrument(span.clone()).await;

    let duration = started.elapsed();
    let status = response.status().as_u16();
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    span.in_scope(|| tracing::debug!(status, duration_ms, "answered"));
    metrics.count_request(method, endpoint, status, duration);
    if let Ok(request_id) = HeaderValue::try_from(request_id) {
        response.headers_mut().insert(REQUEST_ID_HEADER, request_id);
    }
    response
}

/// Returns the id from the client or proxy if it is fit for a log, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    let is_sane = |id: &&str| {
        let mut bytes = id.bytes();
        (1..=MAX_REQUEST_ID_BYTES).contains(&id.len())
            && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let given = headers
        .get(REQUEST_ID_HEADER)
        .and_then(|id| id.to_str().ok());
    match given.filter(is_sane) {
        Some(id) => id.to_owned(),
        None => format!("{:016x}", rand::random::<u64>()),
    }
}

/// Returns the method as one of a closed set, as labels require.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_for(given: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID_HEADER, given.parse().expect("is a header"));
        request_id(&headers)
    }

    #[test]
    fn an_unusable_request_id_is_replaced() {
        assert_eq!(id_for("proxy-17.a_b"), "proxy-17.a_b");
        assert_eq!(id_for("no spaces").len(), 16);
        assert_eq!(id_for(&"x".repeat(65)).len(), 16);
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
