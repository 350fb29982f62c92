//! Answers include lists and maps even when they are empty, since clients read them without a check.

use reqwest::Method;
use serde_json::json;

use crate::{
    chat::{filter_query, percent_encoded},
    harness::Server,
};

/// A request, and the fields of its answer, as JSON pointers, that must be present and empty.
struct EmptyFieldsCase {
    /// The path, with `{user}`, `{room}` and `{event}` in place of the ids.
    path: &'static str,
    /// The body of a POST request; GET requests have none.
    body: Option<&'static str>,
    lists: &'static [&'static str],
    maps: &'static [&'static str],
}

const fn get_case(path: &'static str, lists: &'static [&'static str]) -> EmptyFieldsCase {
    EmptyFieldsCase {
        path,
        body: None,
        lists,
        maps: &[],
    }
}

const EMPTY_FIELD_CASES: &[EmptyFieldsCase] = &[
    get_case(
        "v3/rooms/{room}/context/{event}?limit=0",
        &["/events_before", "/events_after"],
    ),
    get_case(
        "v3/rooms/{room}/context/{event}?limit=1",
        &["/events_after"],
    ),
    get_case(
        "v3/rooms/{room}/messages?dir=b&filter=%7B%22types%22:%5B%5D%7D",
        &["/chunk", "/state"],
    ),
    get_case("v3/rooms/{room}/initialSync", &["/account_data"]),
    get_case("v3/account/3pid", &["/threepids"]),
    get_case("v3/pushers", &["/pushers"]),
    get_case("v3/notifications", &["/notifications"]),
    get_case("v3/publicRooms", &["/chunk"]),
    get_case("v1/rooms/{room}/relations/{event}", &["/chunk"]),
    get_case("v1/rooms/{room}/threads", &["/chunk"]),
    get_case("v3/pushrules/", &["/global/room", "/global/sender"]),
    get_case("v3/pushrules/global/", &["/room", "/sender"]),
    get_case("v3/pushrules/global/sender/", &[""]),
    EmptyFieldsCase {
        path: "v3/user/{user}/rooms/{room}/tags",
        body: None,
        lists: &[],
        maps: &["/tags"],
    },
    EmptyFieldsCase {
        path: "v3/keys/query",
        body: Some(r#"{ "device_keys": {} }"#),
        lists: &[],
        maps: &[
            "/failures",
            "/device_keys",
            "/master_keys",
            "/self_signing_keys",
            "/user_signing_keys",
        ],
    },
    EmptyFieldsCase {
        path: "v3/keys/claim",
        body: Some(r#"{ "one_time_keys": {} }"#),
        lists: &[],
        maps: &["/failures", "/one_time_keys"],
    },
    EmptyFieldsCase {
        path: "v3/keys/signatures/upload",
        body: Some("{}"),
        lists: &[],
        maps: &["/failures"],
    },
    EmptyFieldsCase {
        path: "v3/search",
        body: Some(r#"{ "search_categories": { "room_events": { "search_term": "nothing" } } }"#),
        lists: &["/search_categories/room_events/results"],
        maps: &[],
    },
    EmptyFieldsCase {
        path: "v3/user_directory/search",
        body: Some(r#"{ "search_term": "nobody" }"#),
        lists: &["/results"],
        maps: &[],
    },
];

#[tokio::test]
async fn answers_include_empty_lists_and_maps() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let last = alice.says(&room, "hello").await;

    for case in EMPTY_FIELD_CASES {
        let path = case.path.replace("{user}", &alice.id);
        let path = path.replace("{room}", &room);
        let path = path.replace("{event}", &percent_encoded(&last));
        let path = format!("/_matrix/client/{path}");
        let answer = match case.body {
            None => alice.client.get(&path).await,
            Some(body) => alice.client.send(Method::POST, &path, body).await,
        };
        let answer = answer.expect_ok();
        for list in case.lists {
            assert_eq!(
                answer.pointer(list),
                Some(&json!([])),
                "{path} {list}: {answer}"
            );
        }
        for map in case.maps {
            assert_eq!(
                answer.pointer(map),
                Some(&json!({})),
                "{path} {map}: {answer}"
            );
        }
    }
}

#[tokio::test]
async fn a_context_at_the_room_start_has_a_state_list() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let chunk = alice.messages(&room, "dir=f&limit=1").await;
    let first = chunk["chunk"][0]["event_id"]
        .as_str()
        .expect("an id")
        .to_owned();

    let path = format!("context/{}?limit=4", percent_encoded(&first));
    let context = alice.gets_in_room(&room, &path).await.expect_ok();

    assert_eq!(context["events_before"], json!([]));
    assert!(context["state"].is_array());
}

#[tokio::test]
async fn a_joined_room_in_a_sync_includes_empty_sections() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({})).await;
    alice.invites(&room, &bob).await;
    let first = alice.syncs().await;

    let limit = filter_query(&json!({ "room": { "timeline": { "limit": 100 } } }));
    let full = alice.syncs_with(&limit).await;
    alice.says(&room, "hello").await;
    let next = alice.syncs_after(&first).await;

    for sync in [&full, &next] {
        let joined = &sync["rooms"]["join"][&room];
        for part in ["state", "account_data", "ephemeral"] {
            assert_eq!(joined[part]["events"], json!([]), "{part}: {joined}");
        }
    }
    let invited = bob.syncs().await;
    assert!(invited["rooms"]["invite"][&room]["invite_state"]["events"].is_array());
}
