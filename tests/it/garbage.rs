//! Requests that make no sense: whatever they say, the answer is an error of the specification, and no panic.

use reqwest::Method;
use serde_json::json;

use crate::{
    chat::encoded,
    harness::{Answer, Server},
};

/// What may stand in the place of an id, and in that of a number or a token.
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

/// Paths with `{}` where something is named, and the methods that they take.
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

/// Numbers that no client would ask for; those that can be read are cut to what the server gives at most.
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
    // 502: what looks like the name of another server may lead there.
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
