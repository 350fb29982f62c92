//! Tests connections of sliding sync: positions, lost answers, long polls and refused requests.

use serde_json::{Value, json};

use crate::{
    chat::message_bodies,
    harness::{Server, User},
    sliding::{SLIDING_SYNC_PATH, list_config, room_ids},
};

async fn presence_state(of: &User, by: &User) -> String {
    let path = format!("/_matrix/client/v3/presence/{}/status", of.id);
    let answer = by.client.get(&path).await.expect_ok();
    answer["presence"]
        .as_str()
        .expect("a presence state")
        .to_owned()
}

#[tokio::test]
async fn later_answers_contain_only_changes() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let quiet = alice.creates_open_room().await;
    let busy = alice.creates_open_room().await;
    let mut connection = alice.opens_all_rooms_list();

    let first = connection.poll().await;
    alice.says(&busy, "news").await;
    let second = connection.poll().await;
    let third = connection.poll().await;

    let mut expected = [quiet.as_str(), busy.as_str()];
    expected.sort_unstable();
    assert_eq!(room_ids(&first), expected);
    assert_eq!(room_ids(&second), [busy.as_str()]);
    let room = &second["rooms"][&busy];
    assert_eq!(message_bodies(&room["timeline"]), ["news"]);
    assert!(room["initial"].is_null() && room["limited"].is_null());
    assert!(room_ids(&third).is_empty());
    assert_eq!(third["lists"]["all"]["count"], 2);
}

#[tokio::test]
async fn a_lost_answer_is_repeated_with_later_changes() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let mut connection = alice.opens_list(&list_config([0, 9], 5, &json!([["m.room.name", ""]])));
    connection.poll().await;
    alice.says(&room, "one").await;
    alice
        .sets_state(&room, "m.room.name", json!({ "name": "Named" }))
        .await;

    let lost = connection.poll_without_advancing().await;
    alice.says(&room, "two").await;
    let again = connection.poll().await;
    let after = connection.poll().await;

    assert_eq!(message_bodies(&lost["rooms"][&room]["timeline"]), ["one"]);
    let told = &again["rooms"][&room];
    assert_eq!(message_bodies(&told["timeline"]), ["one", "two"]);
    assert_eq!(told["name"], "Named");
    assert_eq!(told["required_state"][0]["content"]["name"], "Named");
    assert!(room_ids(&after).is_empty());
}

#[tokio::test]
async fn a_position_is_accepted_in_the_body() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let mut body = json!({ "conn_id": "main", "timeout": 0, "set_presence": "offline" });
    body["lists"] = json!({ "all": {
        "range": [0, 9], "timeline_limit": 1, "required_state": { "include": [{}] },
    } });

    let first = alice.sends_sliding_sync("", body.clone()).await.expect_ok();
    body["pos"] = first["pos"].clone();
    let second = alice.sends_sliding_sync("", body).await.expect_ok();

    assert_eq!(room_ids(&first), [room.as_str()]);
    assert!(room_ids(&second).is_empty());
    assert_eq!(presence_state(&alice, &alice).await, "offline");
}

#[tokio::test]
async fn an_unknown_position_is_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let mut connection = alice.opens_all_rooms_list();
    connection.poll().await;
    let first = connection.pos.clone().expect("a position");
    connection.poll().await;
    connection.poll().await;
    let now = connection.pos.clone().expect("a position");

    for (user, pos, conn_id) in [
        (&alice, first.as_str(), ""),
        (&alice, "p1_1", ""),
        (&alice, "nonsense", ""),
        (&alice, &now, "other"),
        (&bob, &now, ""),
    ] {
        let body = json!({ "conn_id": conn_id });
        let refused = user.sends_sliding_sync(&format!("pos={pos}"), body).await;
        refused.expect_error(400, "M_UNKNOWN_POS");
    }
    let laptop = server.log_in("alice").await;
    let refused = laptop
        .sends_sliding_sync(&format!("pos={now}"), json!({}))
        .await;
    refused.expect_error(400, "M_UNKNOWN_POS");
    connection.poll().await;
}

#[tokio::test]
async fn a_server_restart_ends_connections() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let mut connection = alice.opens_all_rooms_list();
    connection.poll().await;
    let pos = connection.pos.clone().expect("a position");

    let server = server.restart().await;
    let alice = alice.on_server(&server);

    let refused = alice
        .sends_sliding_sync(&format!("pos={pos}"), json!({}))
        .await;
    refused.expect_error(400, "M_UNKNOWN_POS");
    assert_eq!(
        room_ids(&alice.opens_all_rooms_list().poll().await),
        [room.as_str()]
    );
}

#[tokio::test]
async fn connections_are_independent() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let mut one = alice.opens_all_rooms_list();
    let mut other = alice.opens_all_rooms_list();
    one.body["conn_id"] = json!("one");
    other.body["conn_id"] = json!("other");

    one.poll().await;
    other.poll().await;
    alice.says(&room, "news").await;

    for connection in [&mut one, &mut other] {
        let answer = connection.poll().await;
        assert_eq!(
            message_bodies(&answer["rooms"][&room]["timeline"]),
            ["news"]
        );
    }
}

#[tokio::test]
async fn a_long_poll_waits_for_news() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let mut connection = alice.opens_all_rooms_list();
    connection.poll().await;

    let (told, _) = tokio::join!(connection.poll_until_news(), async {
        tokio::task::yield_now().await;
        bob.says(&room, "news").await
    });

    assert_eq!(message_bodies(&told["rooms"][&room]["timeline"]), ["news"]);
}

#[tokio::test]
async fn a_long_poll_ends_empty_at_its_timeout() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    alice.creates_open_room().await;
    let mut connection = alice.opens_all_rooms_list();
    connection.poll().await;

    let told = connection.try_poll("timeout=50").await.expect_ok();

    assert!(room_ids(&told).is_empty());
    assert_ne!(told["pos"].as_str(), connection.pos.as_deref());
}

#[tokio::test]
async fn a_new_request_ends_the_previous_one() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    alice.creates_open_room().await;
    let mut connection = alice.opens_all_rooms_list();
    connection.poll().await;
    let pos = connection.pos.clone();

    let newer = async {
        loop {
            connection.poll_without_advancing().await;
        }
    };
    let older = tokio::select! {
        older = connection.try_poll("timeout=30000") => older.expect_ok(),
        () = newer => unreachable!("the loop never ends"),
    };

    assert_eq!(older["pos"].as_str(), pos.as_deref());
    connection.poll().await;
    connection.poll().await;
}

#[tokio::test]
async fn a_position_works_as_a_pagination_token() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    alice.says(&room, "before").await;
    let mut connection = alice.opens_all_rooms_list();
    connection.poll().await;
    alice.says(&room, "after").await;

    let pos = connection.pos.as_deref().expect("a position");
    let page = alice
        .messages(&room, &format!("dir=b&limit=1&from={pos}"))
        .await;

    assert_eq!(message_bodies(&page["chunk"]), ["before"]);
}

#[tokio::test]
async fn invalid_and_oversized_requests_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let one = json!({ "timeline_limit": 1, "required_state": [] });
    let lists = |count: usize| -> Value {
        let lists = (0..count).map(|n| (n.to_string(), one.clone()));
        json!({ "lists": lists.collect::<serde_json::Map<_, _>>() })
    };
    let subscriptions = |count: usize| -> Value {
        let rooms = (0..count).map(|n| (format!("!r{n}:localhost"), one.clone()));
        json!({ "room_subscriptions": rooms.collect::<serde_json::Map<_, _>>() })
    };

    for allowed in [lists(100), subscriptions(100)] {
        alice.sends_sliding_sync("", allowed).await.expect_ok();
    }
    let names = json!({ "lists": { "with space": one } });
    for refused in [lists(101), subscriptions(101), names] {
        let answer = alice.sends_sliding_sync("", refused).await;
        answer.expect_error(400, "M_INVALID_PARAM");
    }
    let asleep = alice
        .sends_sliding_sync("set_presence=asleep", json!({}))
        .await;
    asleep.expect_error(400, "M_INVALID_PARAM");
    let token = json!({ "extensions": { "to_device": { "enabled": true, "since": "x" } } });
    let token = alice.sends_sliding_sync("", token).await;
    token.expect_error(400, "M_INVALID_PARAM");
    for bad in [
        json!({ "lists": [] }),
        json!({ "lists": { "a": { "ranges": [[0, 1]] } } }),
        json!({ "lists": { "a": { "timeline_limit": 1, "required_state": "all" } } }),
        json!({ "room_subscriptions": { "no room": one } }),
    ] {
        let answer = alice.sends_sliding_sync("", bad).await;
        answer.expect_error(400, "M_BAD_JSON");
    }
}

#[tokio::test]
async fn guests_may_use_sliding_sync_but_not_locked_users() {
    let server = Server::with_config(|config| config.registration.guests = true).await;
    let admin = server.register_admin("admin").await;
    let alice = server.register("alice").await;
    let guest = server.register_guest().await;

    let stranger = server.post(SLIDING_SYNC_PATH, json!({})).await;
    stranger.expect_error(401, "M_MISSING_TOKEN");
    guest.sends_sliding_sync("", json!({})).await.expect_ok();
    let lock = format!("/_matrix/client/v1/admin/lock/{}", alice.id);
    let locked = admin.client.put(&lock, json!({ "locked": true })).await;
    locked.expect_ok();
    let refused = alice.sends_sliding_sync("", json!({})).await;
    refused.expect_error(401, "M_USER_LOCKED");
}

#[tokio::test]
async fn sliding_sync_sets_presence() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;

    alice.sends_sliding_sync("", json!({})).await.expect_ok();
    let away = bob
        .sends_sliding_sync("set_presence=unavailable", json!({}))
        .await;
    away.expect_ok();

    assert_eq!(presence_state(&alice, &alice).await, "online");
    assert_eq!(presence_state(&bob, &bob).await, "unavailable");
}

#[tokio::test]
async fn an_empty_answer_has_all_its_fields() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let mut connection = alice.opens_with_extension("to_device", &json!({ "enabled": true }));

    let first = connection.poll().await;
    let second = connection.poll().await;

    for answer in [first, second] {
        assert_eq!(answer["lists"], json!({}), "{answer}");
        assert_eq!(answer["rooms"], json!({}), "{answer}");
        let extensions = answer["extensions"].as_object().expect("an object");
        assert_eq!(extensions.len(), 1, "{answer}");
        assert_eq!(extensions["to_device"]["events"], json!([]), "{answer}");
    }
}

#[tokio::test]
async fn the_path_of_the_specification_is_served_too() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;

    let body = json!({ "lists": { "all": list_config([0, 9], 5, &json!([])) } });
    let answer = alice.client.post("/_matrix/client/v4/sync", body).await;

    assert_eq!(room_ids(&answer.expect_ok()), [room.as_str()]);
}
