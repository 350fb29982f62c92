//! Invalid requests: every answer is an error of the specification, and the server never panics.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::{
    chat::encoded,
    endpoints::{SERVERS_TABLE, TABLE, filled},
    harness::{Answer, Server},
};

/// Values that replace an id, a number or a token.
const GARBAGE: [&str; 14] = [
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
const PATHS: [(&str, &str); 40] = [
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
const OTHER_PATHS: [(&str, &str); 9] = [
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
const NUMBERS: [&str; 5] = [
    "rooms/{room}/messages?dir=b&limit=",
    "rooms/{room}/messages?dir=f&limit=",
    "rooms/{room}/context/{event}?limit=",
    "publicRooms?limit=",
    "sync?timeout=0&since={from}&limit=",
];

fn method(name: &str) -> Method {
    Method::from_bytes(name.as_bytes()).expect("a method")
}

/// Checks that an answer is a success or an error of the specification.
#[track_caller]
fn expect_sense(answer: &Answer, asked: &str) {
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

#[tokio::test]
async fn ids_and_tokens_that_make_no_sense_are_refused_with_sense() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let event = alice.says(&room, "hello").await;
    let sync = alice.syncs().await;
    let from = crate::chat::next(&sync);

    for (name, path) in PATHS {
        for garbage in GARBAGE {
            let path = path.replace("{}", &encoded(garbage));
            let path = path.replace("{room}", &room).replace("{event}", &event);
            let path = format!("/_matrix/client/v3/{}", path.replace("{from}", from));

            for body in [
                "{}",
                "",
                "[]",
                "nonsense",
                r#"{"user_id":1,"membership":7,"typing":[]}"#,
            ] {
                let answer = alice.client.send(method(name), &path, body).await;
                expect_sense(&answer, &format!("{name} {path} {body}"));
            }
        }
    }
    alice.says(&room, "still there").await;
}

#[tokio::test]
async fn a_path_that_is_no_utf_8_is_refused_with_sense() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let lines = TABLE.lines().chain(SERVERS_TABLE.lines());
    let specified = lines.filter_map(|line| line.split_once('\t'));

    for (name, path) in specified.chain(OTHER_PATHS) {
        let path = path.split('\t').next().unwrap_or(path);
        let segments = path.split('/').enumerate();
        let places = segments.filter(|(_, segment)| segment.starts_with('{'));
        for (place, _) in places {
            let filled = filled(path);
            let mut segments: Vec<&str> = filled.split('/').collect();
            segments[place] = "%C3%28";
            let path = segments.join("/");
            let answer = alice.client.send(method(name), &path, "{}").await;

            expect_sense(&answer, &format!("{name} {path}"));
        }
    }
}

#[tokio::test]
async fn numbers_that_make_no_sense_are_refused_or_cut() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let event = alice.says(&room, "hello").await;
    let sync = alice.syncs().await;
    let from = crate::chat::next(&sync);

    for path in NUMBERS {
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

            expect_sense(&answer, &path);
        }
    }
}

#[tokio::test]
async fn tokens_at_the_ends_of_the_numbers_do_no_harm() {
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
            let answer = alice.asks(&room, &format!("{path}{token}")).await;
            expect_sense(&answer, &format!("{path}{token}"));
        }
        let answer = alice.tries_to_sync(&format!("since={token}")).await;
        expect_sense(&answer, &token);
    }
}

/// Bodies that are not objects, or empty objects.
const EMPTY_BODIES: [&str; 6] = ["", "{}", "[]", "null", "5", "\"text\""];
/// Field names from the requests of many endpoints.
const FIELDS: [&str; 60] = [
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
const VALUES: [&str; 22] = [
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
const PARAMETERS: [&str; 16] = [
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
    let value = VALUES.choose(random).expect("the list is not empty");
    serde_json::from_str(value).expect("the value is JSON")
}

fn random_object(random: &mut StdRng, depth: usize) -> Value {
    let count = random.random_range(0..6);
    let fields = (0..count).map(|_| {
        let name = FIELDS.choose(random).expect("the list is not empty");
        ((*name).to_owned(), random_value(random, depth))
    });
    Value::Object(fields.collect::<Map<_, _>>())
}

fn random_query(random: &mut StdRng) -> String {
    let name = PARAMETERS.choose(random).expect("the list is not empty");
    let value = VALUES.choose(random).expect("the list is not empty");
    format!("?{name}={}", encoded(value.trim_matches('"')))
}

#[tokio::test]
async fn no_body_and_no_query_breaks_any_endpoint() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let seed = rand::random::<u64>();
    let mut random = StdRng::seed_from_u64(seed);

    for line in TABLE.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let (name, path, operation) = (columns[0], filled(columns[1]), columns[2]);
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
            for client in [&alice.client, &server.client()] {
                let answer = client.send(method(name), &path, &body).await;
                assert!(
                    answer.status < 500 || answer.status == 502,
                    "{asked}: {}",
                    answer.text
                );
            }
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
