//! Invalid requests: every answer is an error of the specification, and the server never panics.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::{
    chat::percent_encoded,
    endpoints::{CLIENT_ENDPOINTS_TABLE, SERVER_ENDPOINTS_TABLE, filled_path},
    harness::{HttpAnswer, Server, User},
};

/// Values that replace an id, a number or a token.
const GARBAGE_VALUES: [&str; 14] = [
    "x",
    "!",
    "@",
    "#",
    "$",
    "!:",
    "#a:localhost",
    "!a:localhost",
    "@a:localhost",
    "$a",
    "%FF",
    "-1",
    "99999999999999999999",
    "\u{0}\u{1F4A5}",
];

/// Paths in which `{}` is replaced by a garbage value, with their methods.
const ID_PATHS: [(&str, &str); 40] = [
    ("POST", "join/{}"),
    ("POST", "rooms/{}/join"),
    ("POST", "rooms/{}/leave"),
    ("POST", "rooms/{}/invite"),
    ("POST", "rooms/{}/kick"),
    ("POST", "rooms/{}/ban"),
    ("POST", "rooms/{}/unban"),
    ("POST", "rooms/{}/forget"),
    ("POST", "rooms/{}/read_markers"),
    ("POST", "rooms/{room}/receipt/{}/{event}"),
    ("POST", "rooms/{room}/receipt/m.read/{}"),
    ("PUT", "rooms/{}/send/m.room.message/txn"),
    ("PUT", "rooms/{room}/state/m.room.member/{}"),
    ("PUT", "rooms/{room}/redact/{}/txn"),
    ("PUT", "rooms/{room}/typing/{}"),
    ("PUT", "presence/{}/status"),
    ("PUT", "directory/room/{}"),
    ("PUT", "directory/list/room/{}"),
    ("DELETE", "directory/room/{}"),
    ("GET", "directory/room/{}"),
    ("GET", "directory/list/room/{}"),
    ("GET", "presence/{}/status"),
    ("GET", "rooms/{}/state"),
    ("GET", "rooms/{}/members"),
    ("GET", "rooms/{}/joined_members"),
    ("GET", "rooms/{}/aliases"),
    ("GET", "rooms/{}/messages?dir=b"),
    ("GET", "rooms/{room}/event/{}"),
    ("GET", "rooms/{room}/context/{}"),
    ("GET", "rooms/{room}/state/m.room.member/{}"),
    ("GET", "rooms/{room}/messages?dir={}"),
    ("GET", "rooms/{room}/messages?dir=b&from={}"),
    ("GET", "rooms/{room}/messages?dir=f&from={from}&to={}"),
    ("GET", "rooms/{room}/messages?dir=b&filter={}"),
    ("GET", "rooms/{room}/members?at={}"),
    ("GET", "rooms/{room}/context/{event}?filter={}"),
    ("GET", "sync?since={}"),
    ("GET", "sync?filter={}"),
    ("GET", "publicRooms?since={}"),
    ("GET", "publicRooms?server={}"),
];

/// Paths that the specification does not have, or no longer has.
const UNSPECIFIED_PATHS: [(&str, &str); 9] = [
    ("GET", "/_matrix/client/v3/events/{eventId}"),
    ("GET", "/_matrix/client/v3/pushrules/global/{kind}/"),
    (
        "DELETE",
        "/_matrix/client/unstable/org.matrix.msc3391/user/{userId}/account_data/{type}",
    ),
    (
        "DELETE",
        "/_matrix/client/unstable/org.matrix.msc3391/user/{userId}/rooms/{roomId}/account_data/{type}",
    ),
    ("PUT", "/_synapse/admin/v1/send_server_notice/{txnId}"),
    ("GET", "/_matrix/key/v2/server/{keyId}"),
    ("GET", "/_matrix/key/v2/query/{serverName}/{keyId}"),
    ("POST", "/_parlour/client/v1/rooms/{roomId}/invite_links"),
    ("GET", "/assets/{name}"),
];

/// Paths with a number that no client would request; the server limits valid numbers to its maximum.
const NUMBER_PATHS: [&str; 5] = [
    "rooms/{room}/messages?dir=b&limit=",
    "rooms/{room}/messages?dir=f&limit=",
    "rooms/{room}/context/{event}?limit=",
    "publicRooms?limit=",
    "sync?timeout=0&since={from}&limit=",
];

fn parse_method(name: &str) -> Method {
    Method::from_bytes(name.as_bytes()).expect("a method")
}

/// Checks that an answer is a success or an error of the specification.
#[track_caller]
fn expect_valid_answer(answer: &HttpAnswer, asked: &str) {
    // 502: a garbage value that looks like a server name may make the server contact that server.
    assert!(
        answer.status < 500 || answer.status == 502,
        "{asked}: {} {}",
        answer.status,
        answer.text
    );
    if answer.status >= 400 {
        assert!(
            answer.body["errcode"].is_string(),
            "{asked}: {}",
            answer.text
        );
        assert!(answer.body["error"].is_string(), "{asked}: {}", answer.text);
    }
}

async fn sends_odd_bodies(user: &User, name: &str, path: &str) {
    for body in [
        "{}",
        "",
        "[]",
        "nonsense",
        r#"{"user_id":1,"membership":7,"typing":[]}"#,
    ] {
        let answer = user.client.send(parse_method(name), path, body).await;
        expect_valid_answer(&answer, &format!("{name} {path} {body}"));
    }
}

#[tokio::test]
async fn invalid_ids_and_tokens_get_specified_errors() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let event = alice.says(&room, "hello").await;
    let sync = alice.syncs().await;
    let from = crate::chat::next_batch(&sync);

    for (name, path) in ID_PATHS {
        for garbage in GARBAGE_VALUES {
            let path = path.replace("{}", &percent_encoded(garbage));
            let path = path.replace("{room}", &room).replace("{event}", &event);
            let path = format!("/_matrix/client/v3/{}", path.replace("{from}", from));

            sends_odd_bodies(&alice, name, &path).await;
        }
    }
    alice.says(&room, "still there").await;
}

#[tokio::test]
async fn a_path_that_is_not_utf_8_gets_a_specified_error() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let lines = CLIENT_ENDPOINTS_TABLE
        .lines()
        .chain(SERVER_ENDPOINTS_TABLE.lines());
    let specified = lines.filter_map(|line| line.split_once('\t'));

    for (name, path) in specified.chain(UNSPECIFIED_PATHS) {
        let path = path.split('\t').next().unwrap_or(path);
        let segments = path.split('/').enumerate();
        let places = segments.filter(|(_, segment)| segment.starts_with('{'));
        for (place, _) in places {
            let filled = filled_path(path);
            let mut segments: Vec<&str> = filled.split('/').collect();
            segments[place] = "%C3%28";
            let path = segments.join("/");
            let answer = alice.client.send(parse_method(name), &path, "{}").await;

            expect_valid_answer(&answer, &format!("{name} {path}"));
        }
    }
}

#[tokio::test]
async fn extreme_and_invalid_numbers_are_refused_or_limited() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let event = alice.says(&room, "hello").await;
    let sync = alice.syncs().await;
    let from = crate::chat::next_batch(&sync);

    for path in NUMBER_PATHS {
        for number in [
            "0",
            "1",
            "4294967295",
            "9007199254740991",
            "9007199254740992",
            "-1",
            "1.5",
            "x",
            "",
        ] {
            let path = path.replace("{room}", &room).replace("{event}", &event);
            let path = format!(
                "/_matrix/client/v3/{}{number}",
                path.replace("{from}", from)
            );
            let answer = alice.client.get(&path).await;

            expect_valid_answer(&answer, &path);
        }
    }
}

#[tokio::test]
async fn tokens_with_extreme_numbers_cause_no_server_error() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    alice.says(&room, "hello").await;
    let numbers = [i64::MIN, -1, 0, 1, i64::MAX];
    let tokens = numbers.map(|n| [format!("t{n}"), format!("s{n}_{n}_0_0")]);

    for token in tokens.into_iter().flatten() {
        for path in [
            "messages?dir=b&from=",
            "messages?dir=f&from=",
            "messages?dir=f&to=",
            "members?at=",
        ] {
            let answer = alice.gets_in_room(&room, &format!("{path}{token}")).await;
            expect_valid_answer(&answer, &format!("{path}{token}"));
        }
        let answer = alice.tries_to_sync(&format!("since={token}")).await;
        expect_valid_answer(&answer, &token);
    }
}

/// Bodies that are not objects, or empty objects.
const EMPTY_BODIES: [&str; 6] = ["", "{}", "[]", "null", "5", "\"text\""];
/// Field names from the requests of many endpoints.
const FIELD_NAMES: [&str; 60] = [
    "type",
    "identifier",
    "user",
    "user_id",
    "username",
    "password",
    "new_password",
    "auth",
    "session",
    "token",
    "device_id",
    "initial_device_display_name",
    "display_name",
    "refresh_token",
    "room_id",
    "event_id",
    "reason",
    "membership",
    "content",
    "body",
    "msgtype",
    "messages",
    "device_keys",
    "one_time_keys",
    "fallback_keys",
    "master_key",
    "self_signing_key",
    "user_signing_key",
    "keys",
    "signatures",
    "usage",
    "rooms",
    "algorithm",
    "auth_data",
    "version",
    "pattern",
    "actions",
    "conditions",
    "kind",
    "app_id",
    "pushkey",
    "data",
    "lang",
    "limit",
    "filter",
    "search_term",
    "search_categories",
    "room_events",
    "lists",
    "ranges",
    "room_subscriptions",
    "extensions",
    "preset",
    "visibility",
    "initial_state",
    "creation_content",
    "power_level_content_override",
    "m.relates_to",
    "timeout",
    "invite",
];
/// Values of fields, some valid and some invalid.
const FIELD_VALUES: [&str; 22] = [
    "null",
    "true",
    "0",
    "-1",
    "1.5",
    "9007199254740993",
    "1e300",
    "\"\"",
    "\"x\"",
    "\"m.login.password\"",
    "\"m.login.dummy\"",
    "\"m.id.user\"",
    "\"@alice:localhost\"",
    "\"!room:localhost\"",
    "\"$event\"",
    "\"*\"",
    "[]",
    "{}",
    "[null]",
    "[[0,9007199254740991]]",
    "[\"x\"]",
    "{\"x\":{}}",
];
/// Names of query parameters.
const QUERY_PARAMETERS: [&str; 16] = [
    "from",
    "to",
    "since",
    "limit",
    "dir",
    "filter",
    "timeout",
    "before",
    "after",
    "server_name",
    "via",
    "ts",
    "kind",
    "width",
    "method",
    "user_id",
];

fn random_value(random: &mut StdRng, depth: usize) -> Value {
    if depth > 0 && random.random_bool(0.3) {
        return random_object(random, depth - 1);
    }
    let value = FIELD_VALUES.choose(random).expect("the list is not empty");
    serde_json::from_str(value).expect("the value is JSON")
}

fn random_object(random: &mut StdRng, depth: usize) -> Value {
    let count = random.random_range(0..6);
    let fields = (0..count).map(|_| {
        let name = FIELD_NAMES.choose(random).expect("the list is not empty");
        ((*name).to_owned(), random_value(random, depth))
    });
    Value::Object(fields.collect::<Map<_, _>>())
}

fn random_query(random: &mut StdRng) -> String {
    let name = QUERY_PARAMETERS
        .choose(random)
        .expect("the list is not empty");
    let value = FIELD_VALUES.choose(random).expect("the list is not empty");
    format!("?{name}={}", percent_encoded(value.trim_matches('"')))
}

fn expect_no_server_error(answer: &HttpAnswer, asked: &str) {
    assert!(
        answer.status < 500 || answer.status == 502,
        "{asked}: {}",
        answer.text
    );
}

#[tokio::test]
async fn random_bodies_and_queries_break_no_endpoint() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let seed = rand::random::<u64>();
    let mut random = StdRng::seed_from_u64(seed);

    for line in CLIENT_ENDPOINTS_TABLE.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let (name, path, operation) = (columns[0], filled_path(columns[1]), columns[2]);
        // These operations invalidate the token.
        if operation.starts_with("logout") || operation == "deactivateAccount" {
            continue;
        }
        let bodies = EMPTY_BODIES
            .iter()
            .map(|body| (path.clone(), (*body).to_owned()));
        let mut requests: Vec<(String, String)> = bodies.collect();
        for _ in 0..12 {
            let path = format!("{path}{}", random_query(&mut random));
            requests.push((path, random_object(&mut random, 3).to_string()));
        }
        for (path, body) in requests {
            let asked = format!("seed {seed}: {name} {path} {body}");
            let with_token = alice.client.send(parse_method(name), &path, &body).await;
            expect_no_server_error(&with_token, &asked);
            let without = server.client().send(parse_method(name), &path, &body).await;
            expect_no_server_error(&without, &asked);
        }
    }
    alice.creates(json!({})).await;
}

#[tokio::test]
async fn a_login_without_a_body_is_refused() {
    let server = Server::start().await;

    for body in ["", "{}", "{\"type\":\"m.login.password\"}", "{\"type\":5}"] {
        let path = "/_matrix/client/v3/login";
        let refused = server.client().send(Method::POST, path, body).await;
        assert_eq!(refused.status, 400, "{body}: {}", refused.text);
    }
}
