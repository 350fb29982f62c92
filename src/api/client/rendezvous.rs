//! Signing in another device with a QR code: sessions through which the two devices exchange encrypted messages.
//!
//! Two versions of the endpoints are in use. The first ([MSC4108] of 2024) has the message as the body and the token as
//! an `ETag`; the second ([MSC4388]) has both in a JSON object. A session of one can be used with the other.
//!
//! [MSC4108]: https://github.com/matrix-org/matrix-spec-proposals/pull/4108
//! [MSC4388]: https://github.com/matrix-org/matrix-spec-proposals/pull/4388

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            ACCESS_CONTROL_EXPOSE_HEADERS, CACHE_CONTROL, CONTENT_TYPE, ETAG, EXPIRES, IF_MATCH,
            IF_NONE_MATCH, LAST_MODIFIED,
        },
    },
    response::{IntoResponse, Response},
};
use ruma::http_headers::system_time_to_http_date;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    api::{
        App, LimitedRequest,
        endpoint::{PathParams, object_text, read_body},
        endpoint_at,
    },
    config::Config,
    ephemeral::{EphemeralState, RendezvousSession, RendezvousUpdate},
    error::{Error, RefusalCode, Result},
    matrix::MAX_JSON_DEPTH,
};

const TEXT_PATH: &str = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous";
const JSON_PATH: &str = "/_matrix/client/unstable/io.element.msc4388/rendezvous";
/// The maximum size of a request, in bytes: a message, all of whose characters may be escaped.
const MAX_BODY_BYTES: usize = 32 * 1024;

#[derive(Deserialize)]
struct NewSession {
    data: String,
}

#[derive(Deserialize)]
struct NewMessage {
    sequence_token: String,
    data: String,
}

pub(super) fn routes() -> Router<App> {
    let text_session = format!("{TEXT_PATH}/{{id}}");
    let json_session = format!("{JSON_PATH}/{{id}}");
    Router::new()
        .merge(endpoint_at(Method::POST, TEXT_PATH, create_text_session))
        .merge(endpoint_at(Method::GET, &text_session, get_text_message))
        .merge(endpoint_at(Method::PUT, &text_session, send_text_message))
        .merge(endpoint_at(
            Method::DELETE,
            &text_session,
            close_text_session,
        ))
        .merge(endpoint_at(Method::GET, JSON_PATH, discover))
        .merge(endpoint_at(Method::POST, JSON_PATH, create_json_session))
        .merge(endpoint_at(Method::GET, &json_session, get_json_message))
        .merge(endpoint_at(Method::PUT, &json_session, send_json_message))
        .merge(endpoint_at(
            Method::DELETE,
            &json_session,
            close_json_session,
        ))
}

/// `POST /_matrix/client/unstable/org.matrix.msc4108/rendezvous`
async fn create_text_session(
    State(ephemeral): State<EphemeralState>,
    State(config): State<Arc<Config>>,
    _: LimitedRequest,
    body: Body,
) -> Result<Response> {
    must_be_enabled(&config)?;
    let session = ephemeral.rendezvous.create(read_text(body).await?)?;
    let url = format!("{}{TEXT_PATH}/{}", config.public_url(), session.id);
    let body = Json(json!({ "url": url }));
    Ok((StatusCode::CREATED, session_headers(&session), body).into_response())
}

/// `GET /_matrix/client/unstable/org.matrix.msc4108/rendezvous/{id}`
async fn get_text_message(
    State(ephemeral): State<EphemeralState>,
    _: LimitedRequest,
    PathParams(id): PathParams<String>,
    headers: HeaderMap,
) -> Result<Response> {
    must_be_fetched_by_script(&headers)?;
    let session = ephemeral.rendezvous.get(&id)?;
    let answer_headers = session_headers(&session);
    if token_in(&headers, &IF_NONE_MATCH) == Some(&*session.token) {
        return Ok((StatusCode::NOT_MODIFIED, answer_headers).into_response());
    }
    let content_type = [(CONTENT_TYPE, "text/plain")];
    Ok((answer_headers, content_type, session.message).into_response())
}

/// `PUT /_matrix/client/unstable/org.matrix.msc4108/rendezvous/{id}`
async fn send_text_message(
    State(ephemeral): State<EphemeralState>,
    _: LimitedRequest,
    PathParams(id): PathParams<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    let token = token_in(&headers, &IF_MATCH);
    let token = token.ok_or_else(|| missing("the header If-Match is missing"))?;
    let message = read_text(body).await?;
    match ephemeral.rendezvous.send(&id, token, message)? {
        RendezvousUpdate::Sent(session) => {
            Ok((StatusCode::ACCEPTED, session_headers(&session)).into_response())
        }
        RendezvousUpdate::Conflict(session) => {
            let body = conflict_body("M_CONCURRENT_WRITE");
            let headers = session_headers(&session);
            Ok((StatusCode::PRECONDITION_FAILED, headers, body).into_response())
        }
    }
}

/// `DELETE /_matrix/client/unstable/org.matrix.msc4108/rendezvous/{id}`
async fn close_text_session(
    State(ephemeral): State<EphemeralState>,
    _: LimitedRequest,
    PathParams(id): PathParams<String>,
) -> Result<StatusCode> {
    ephemeral.rendezvous.close(&id)?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /_matrix/client/unstable/io.element.msc4388/rendezvous`
async fn discover(State(config): State<Arc<Config>>) -> Result<Json<Value>> {
    must_be_enabled(&config)?;
    Ok(Json(json!({ "create_available": true })))
}

/// `POST /_matrix/client/unstable/io.element.msc4388/rendezvous`
async fn create_json_session(
    State(ephemeral): State<EphemeralState>,
    State(config): State<Arc<Config>>,
    _: LimitedRequest,
    body: Body,
) -> Result<Json<Value>> {
    must_be_enabled(&config)?;
    let new: NewSession = read_json(body).await?;
    let session = ephemeral.rendezvous.create(new.data)?;
    Ok(Json(json!({
        "id": session.id,
        "sequence_token": session.token,
        "expires_ts": session.expires_ms,
        "expires_in_ms": milliseconds(session.expires_in),
    })))
}

/// `GET /_matrix/client/unstable/io.element.msc4388/rendezvous/{id}`
async fn get_json_message(
    State(ephemeral): State<EphemeralState>,
    _: LimitedRequest,
    PathParams(id): PathParams<String>,
    headers: HeaderMap,
) -> Result<Json<Value>> {
    must_be_fetched_by_script(&headers)?;
    let session = ephemeral.rendezvous.get(&id)?;
    Ok(Json(json!({
        "data": session.message,
        "sequence_token": session.token,
        "expires_ts": session.expires_ms,
        "expires_in_ms": milliseconds(session.expires_in),
    })))
}

/// `PUT /_matrix/client/unstable/io.element.msc4388/rendezvous/{id}`
async fn send_json_message(
    State(ephemeral): State<EphemeralState>,
    _: LimitedRequest,
    PathParams(id): PathParams<String>,
    body: Body,
) -> Result<Response> {
    let new: NewMessage = read_json(body).await?;
    let rendezvous = &ephemeral.rendezvous;
    match rendezvous.send(&id, &new.sequence_token, new.data)? {
        RendezvousUpdate::Sent(session) => {
            Ok(Json(json!({ "sequence_token": session.token })).into_response())
        }
        RendezvousUpdate::Conflict(_) => {
            let body = conflict_body("IO_ELEMENT_MSC4388_CONCURRENT_WRITE");
            Ok((StatusCode::CONFLICT, body).into_response())
        }
    }
}

/// `DELETE /_matrix/client/unstable/io.element.msc4388/rendezvous/{id}`
async fn close_json_session(
    State(ephemeral): State<EphemeralState>,
    _: LimitedRequest,
    PathParams(id): PathParams<String>,
) -> Result<Json<Value>> {
    ephemeral.rendezvous.close(&id)?;
    Ok(Json(json!({})))
}

/// Checks that users sign in on the pages of this server, which is how the new device gets its tokens.
fn must_be_enabled(config: &Config) -> Result<()> {
    if config.oauth.enabled {
        return Ok(());
    }
    Err(Error::refused(
        RefusalCode::Unrecognized,
        "users cannot sign in with a QR code on this server",
    ))
}

/// Refuses to show a message as a page: "The server SHOULD inspect the `Sec-Fetch-*` headers to identify top-level
/// navigation requests". Anyone can put a message here.
fn must_be_fetched_by_script(headers: &HeaderMap) -> Result<()> {
    let mode = headers.get("sec-fetch-mode");
    if mode.is_some_and(|mode| mode == "navigate") {
        return Err(Error::forbidden("this is not a page"));
    }
    Ok(())
}

async fn read_text(body: Body) -> Result<String> {
    let body = read_body(body, MAX_BODY_BYTES).await?;
    String::from_utf8(body.into()).map_err(|e| Error::invalid_param(e.to_string()))
}

async fn read_json<T: serde::de::DeserializeOwned>(body: Body) -> Result<T> {
    let body = read_body(body, MAX_BODY_BYTES).await?;
    let body = object_text(&body, MAX_JSON_DEPTH)?;
    serde_json::from_str(&body).map_err(|e| Error::BadJson(e.to_string()))
}

/// Returns the token in a header, with or without the quotes of an `ETag`.
fn token_in<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.trim_matches('"'))
}

fn session_headers(session: &RendezvousSession) -> HeaderMap {
    let date = |ms: i64| {
        let since_epoch = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        system_time_to_http_date(&(SystemTime::UNIX_EPOCH + since_epoch)).ok()
    };
    let token = HeaderValue::try_from(format!("\"{}\"", session.token)).ok();
    let headers = [
        (ETAG, token),
        (EXPIRES, date(session.expires_ms)),
        (LAST_MODIFIED, date(session.modified_ms)),
        (CACHE_CONTROL, Some(HeaderValue::from_static("no-store"))),
        (
            ACCESS_CONTROL_EXPOSE_HEADERS,
            Some(HeaderValue::from_static("ETag")),
        ),
    ];
    let headers = headers.into_iter();
    headers
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

/// Returns a duration for the newer of two fields with the expiry: the proposal first had a time.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn conflict_body(errcode: &str) -> Json<Value> {
    let reason = "the other device has sent another message";
    Json(json!({ "errcode": errcode, "error": reason }))
}

fn missing(reason: &str) -> Error {
    Error::refused(RefusalCode::MissingParam, reason)
}
