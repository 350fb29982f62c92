use std::sync::Arc;

use axum::{body::to_bytes, routing::get};
use prometheus::Registry;
use ruma::api::{
    client::{
        account::{check_registration_token_validity, whoami},
        alias::get_alias,
        media::get_media_config,
        push::get_pushrules_all,
        room::create_room,
        session::refresh_token,
        state::get_state_event_for_key,
    },
    path_builder::PathBuilder,
};
use serde_json::Value;
use tower::ServiceExt;

use super::*;
use crate::{
    api::{RequestMetrics, layers},
    cli::serve,
    clock::Clock,
    config::Config,
    storage::testing::TestDb,
    tasks::Tasks,
};

fn paths<R: Metadata>() -> Vec<String> {
    paths_with_aliases(R::PATH_BUILDER.all_paths())
        .into_iter()
        .collect()
}

#[test]
fn every_v3_path_has_its_r0_alias() {
    let paths = paths::<create_room::v3::Request>();

    assert_eq!(
        paths,
        [
            "/_matrix/client/r0/createRoom",
            "/_matrix/client/v3/createRoom"
        ]
    );
}

#[test]
#[expect(deprecated, reason = "its path is still served")]
fn media_has_the_paths_of_the_oldest_clients() {
    let paths = paths::<get_media_config::v3::Request>();

    let of = |version| format!("/_matrix/media/{version}/config");
    assert_eq!(paths, ["r0", "v1", "v3"].map(of));
}

#[test]
fn an_empty_state_key_needs_no_slash_in_the_path() {
    let paths = paths::<get_state_event_for_key::v3::Request>();

    let state = "/_matrix/client/v3/rooms/{room_id}/state/{event_type}";
    for end in ["", "/", "/{state_key}"] {
        let path = format!("{state}{end}");
        assert!(paths.contains(&path), "{path} is missing");
    }
}

#[test]
fn push_rules_are_served_without_the_trailing_slash() {
    let paths = paths::<get_pushrules_all::v3::Request>();

    assert!(paths.contains(&"/_matrix/client/v3/pushrules/".to_owned()));
    assert!(paths.contains(&"/_matrix/client/v3/pushrules".to_owned()));
}

async fn read_at_most(limit: usize, body: &'static [u8]) -> Result<Bytes> {
    read_body(Body::from(body), limit).await
}

#[tokio::test]
async fn a_body_larger_than_the_limit_is_refused() {
    let fits = read_at_most(4, b"1234").await;
    let larger = read_at_most(4, b"12345").await;

    assert_eq!(fits.expect("fits"), "1234");
    assert!(matches!(larger, Err(Error::TooLarge(_))));
}

#[test]
fn a_body_that_is_json_but_no_object_is_bad_json() {
    let refused = |body| object_text(body, 1).expect_err("is no object");

    assert!(matches!(refused(b"[1]"), Error::BadJson(_)));
    assert!(matches!(refused(b" null"), Error::BadJson(_)));
    assert!(matches!(
        refused(b"nonsense"),
        Error::Refused {
            code: RefusalCode::NotJson,
            ..
        }
    ));
    assert!(matches!(
        refused(b"[1"),
        Error::Refused {
            code: RefusalCode::NotJson,
            ..
        }
    ));
    assert_eq!(object_text(b" \n{}", 1).expect("is an object"), "{}");
}

fn parse(query: &str, body: &[u8]) -> Result<create_room::v3::Request> {
    let request = http::Request::post(format!("/_matrix/client/v3/createRoom{query}"))
        .body(body)
        .expect("is a request");
    parse_request(request, &[])
}

#[test]
fn a_wrong_type_is_bad_json_and_broken_json_is_not_json() {
    let wrong_type = parse("", br#"{"invite":5}"#).expect_err("is wrong");
    let broken = parse("", br#"{"invite":"#).expect_err("is broken");
    let both = parse("", br#"{"invite":5,"#).expect_err("is broken");

    assert!(matches!(wrong_type, Error::BadJson(_)));
    assert!(matches!(
        broken,
        Error::Refused {
            code: RefusalCode::NotJson,
            ..
        }
    ));
    assert!(matches!(
        both,
        Error::Refused {
            code: RefusalCode::NotJson,
            ..
        }
    ));
}

/// Sends a request to a server that has only these endpoints.
async fn respond(mut request: http::Request<Body>) -> (u16, Value) {
    let test = TestDb::new().await;
    let mut config = Config::default();
    config.server.data_dir = test.dir.path().to_owned();
    let metrics = RequestMetrics::new(&Registry::new()).expect("is new");
    let (clock, tasks, db) = (Clock::system(), Tasks::default(), test.db.clone());
    let app = serve::build_app(Arc::new(config), clock, tasks, db, metrics)
        .await
        .expect("is built");
    let routes = Router::new()
        .merge(endpoint::<whoami::v3::Request, _>(whoami))
        .merge(endpoint::<refresh_token::v3::Request, _>(refresh))
        .merge(endpoint::<get_alias::v3::Request, _>(
            async |_: MatrixRequest<get_alias::v3::Request>| unknown_path().await,
        ))
        .merge(
            endpoint::<check_registration_token_validity::v1::Request, _>(
                async |_: MatrixRequest<check_registration_token_validity::v1::Request>| {
                    unknown_path().await
                },
            ),
        )
        .route("/panics", get(panics));
    let service = layers::wrap_routes(routes, &app).with_state(app);
    let host = http::HeaderValue::from_static("localhost");
    request.headers_mut().insert(http::header::HOST, host);
    let response = service.oneshot(request).await.expect("always answers");
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), 4096)
        .await
        .expect("is short");
    (status, serde_json::from_slice(&body).expect("is JSON"))
}

async fn whoami(
    MatrixRequest { from, .. }: MatrixRequest<whoami::v3::Request>,
) -> MatrixResponse<whoami::v3::Response> {
    MatrixResponse(whoami::v3::Response::new(from.user_id.clone(), false))
}

async fn refresh(
    MatrixRequest { request, .. }: MatrixRequest<refresh_token::v3::Request>,
) -> MatrixResponse<refresh_token::v3::Response> {
    MatrixResponse(refresh_token::v3::Response::new(request.refresh_token))
}

async fn panics() -> Error {
    panic!("a bug")
}

async fn refusal_of(body: impl Into<Body>) -> (u16, String) {
    let request = http::Request::post("/_matrix/client/v3/refresh").body(body.into());
    let (status, body) = respond(request.expect("is a request")).await;
    (
        status,
        body["errcode"].as_str().unwrap_or_default().to_owned(),
    )
}

#[tokio::test]
async fn a_well_formed_request_reaches_its_handler_by_every_path() {
    for version in ["v3", "r0"] {
        let request = http::Request::post(format!("/_matrix/client/{version}/refresh"))
            .body(Body::from(r#"{"refresh_token":"one"}"#));

        let (status, body) = respond(request.expect("is a request")).await;

        assert_eq!((status, &body["access_token"]), (200, &Value::from("one")));
    }
}

#[tokio::test]
async fn a_wrong_body_is_refused_with_its_error_code() {
    let refused = |errcode: &str| (400, errcode.to_owned());

    assert_eq!(refusal_of("nonsense").await, refused("M_NOT_JSON"));
    assert_eq!(
        refusal_of(b"\xff\xfe".to_vec()).await,
        refused("M_NOT_JSON")
    );
    assert_eq!(
        refusal_of(r#"{"refresh_token":"#).await,
        refused("M_NOT_JSON")
    );
    assert_eq!(refusal_of("[]").await, refused("M_BAD_JSON"));
    assert_eq!(refusal_of(r#"["one"]"#).await, refused("M_BAD_JSON"));
    assert_eq!(
        refusal_of(r#"{"refresh_token":1}"#).await,
        refused("M_BAD_JSON")
    );
    assert_eq!(refusal_of("").await, refused("M_BAD_JSON"));
    let large = refusal_of(" ".repeat(1024 * 1024 + 1)).await;
    assert_eq!(large, (413, "M_TOO_LARGE".to_owned()));
}

async fn get_with(path: &str, authorization: Option<&str>) -> (u16, Value) {
    let mut request = http::Request::get(path);
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    respond(request.body(Body::empty()).expect("is a request")).await
}

#[tokio::test]
async fn an_endpoint_for_users_requires_a_token() {
    let path = "/_matrix/client/v3/account/whoami";

    for authorization in [None, Some("Basic abc"), Some("Bear")] {
        let (status, body) = get_with(path, authorization).await;
        assert_eq!(
            (status, &body["errcode"]),
            (401, &Value::from("M_MISSING_TOKEN"))
        );
    }
}

#[tokio::test]
async fn an_unknown_token_is_refused_in_header_and_query() {
    let path = "/_matrix/client/v3/account/whoami";

    let header = get_with(path, Some("Bearer unknown")).await;
    let query = get_with(&format!("{path}?access_token=unknown"), None).await;

    assert_eq!(
        (header.0, &header.1["errcode"]),
        (401, &Value::from("M_UNKNOWN_TOKEN"))
    );
    assert_eq!(header, query);
}

#[tokio::test]
async fn a_wrong_path_is_an_invalid_parameter() {
    let no_text = get_with("/_matrix/client/v3/directory/room/%FF", None).await;
    let no_alias = get_with("/_matrix/client/v3/directory/room/lobby", None).await;

    assert_eq!(
        (no_text.0, &no_text.1["errcode"]),
        (400, &Value::from("M_INVALID_PARAM"))
    );
    assert_eq!(
        (no_alias.0, &no_alias.1["errcode"]),
        (400, &Value::from("M_INVALID_PARAM"))
    );
}

#[tokio::test]
async fn a_missing_query_parameter_is_named() {
    let path = "/_matrix/client/v1/register/m.login.registration_token/validity";

    let (status, body) = get_with(path, None).await;

    assert_eq!(
        (status, &body["errcode"]),
        (400, &Value::from("M_MISSING_PARAM"))
    );
    assert_eq!(body["error"], "missing parameter `token`");
}

#[tokio::test]
async fn a_panic_is_an_internal_error() {
    let (status, body) = get_with("/panics", None).await;

    assert_eq!(status, 500);
    assert_eq!(body["errcode"], "M_UNKNOWN");
    assert_eq!(body["error"], "internal server error");
}
