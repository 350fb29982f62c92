//! Tests connections of sliding sync: positions, lost answers, long polls and refused requests.

use serde_json::{Value, json};

use crate::{
    chat::said,
    harness::{Server, User},
    sliding::{PATH, list, rooms},
};

async fn presence(of: &User, by: &User) -> String {
    let path = format!("/_matrix/client/v3/presence/{}/status", of.id);
    let answer = by.client.get(&path).await.expect_ok();
    answer["presence"]
        .as_str()
        .expect("a presence state")
        .to_owned()
}

#[tokio::test]
async fn only_what_is_new_is_told() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let quiet = alice.creates_open_room().await;
    let busy = alice.creates_open_room().await;
    let mut connection = alice.lists_all();

    let first = connection.next().await;
    alice.says(&busy, "news").await;
    let second = connection.next().await;
    let third = connection.next().await;

    let mut expected = [quiet.as_str(), busy.as_str()];
    expected.sort_unstable();
    assert_eq!(rooms(&first), expected);
    assert_eq!(rooms(&second), [busy.as_str()]);
    let room = &second["rooms"][&busy];
    assert_eq!(said(&room["timeline"]), ["news"]);
    assert!(room["initial"].is_null() && room["limited"].is_null());
    assert!(rooms(&third).is_empty());
    assert_eq!(third["lists"]["all"]["count"], 2);
}

#[tokio::test]
async fn an_answer_that_was_lost_is_given_again() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let mut connection = alice.lists(&list([0, 9], 5, &json!([["m.room.name", ""]])));
    connection.next().await;
    alice.says(&room, "one").await;
    alice
        .sets(&room, "m.room.name", json!({ "name": "Named" }))
        .await;

    let lost = connection.peeks().await;
    alice.says(&room, "two").await;
    let again = connection.next().await;
    let after = connection.next().await;

    assert_eq!(said(&lost["rooms"][&room]["timeline"]), ["one"]);
    let told = &again["rooms"][&room];
    assert_eq!(said(&told["timeline"]), ["one", "two"]);
    assert_eq!(told["name"], "Named");
    assert_eq!(told["required_state"][0]["content"]["name"], "Named");
    assert!(rooms(&after).is_empty());
}

#[tokio::test]
async fn a_position_may_stand_in_the_body() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let mut body = json!({ "conn_id": "main", "timeout": 0, "set_presence": "offline" });
    body["lists"] = json!({ "all": {
        "range": [0, 9], "timeline_limit": 1, "required_state": { "include": [{}] },
    } });

    let first = alice.slides("", body.clone()).await.expect_ok();
    body["pos"] = first["pos"].clone();
    let second = alice.slides("", body).await.expect_ok();

    assert_eq!(rooms(&first), [room.as_str()]);
    assert!(rooms(&second).is_empty());
    assert_eq!(presence(&alice, &alice).await, "offline");
}

#[tokio::test]
async fn an_unknown_position_makes_the_client_begin_anew() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let mut connection = alice.lists_all();
    connection.next().await;
    let first = connection.pos.clone().expect("a position");
    connection.next().await;
    connection.next().await;
    let now = connection.pos.clone().expect("a position");

    for (user, pos, conn_id) in [
        (&alice, first.as_str(), ""),
        (&alice, "p1_1", ""),
        (&alice, "nonsense", ""),
        (&alice, &now, "other"),
        (&bob, &now, ""),
    ] {
        let body = json!({ "conn_id": conn_id });
        let refused = user.slides(&format!("pos={pos}"), body).await;
        refused.expect_error(400, "M_UNKNOWN_POS");
    }
    let laptop = server.log_in("alice").await;
    let refused = laptop.slides(&format!("pos={now}"), json!({})).await;
    refused.expect_error(400, "M_UNKNOWN_POS");
    connection.next().await;
}

#[tokio::test]
async fn a_restart_of_the_server_ends_connections() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let mut connection = alice.lists_all();
    connection.next().await;
    let pos = connection.pos.clone().expect("a position");

    let server = server.restart().await;
    let alice = alice.at(&server);

    let refused = alice.slides(&format!("pos={pos}"), json!({})).await;
    refused.expect_error(400, "M_UNKNOWN_POS");
    assert_eq!(rooms(&alice.lists_all().next().await), [room.as_str()]);
}

#[tokio::test]
async fn connections_do_not_disturb_each_other() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let mut one = alice.lists_all();
    let mut other = alice.lists_all();
    one.body["conn_id"] = json!("one");
    other.body["conn_id"] = json!("other");

    one.next().await;
    other.next().await;
    alice.says(&room, "news").await;

    for connection in [&mut one, &mut other] {
        let answer = connection.next().await;
        assert_eq!(said(&answer["rooms"][&room]["timeline"]), ["news"]);
    }
}

#[tokio::test]
async fn a_poll_waits_for_news() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let mut connection = alice.lists_all();
    connection.next().await;

    let (told, _) = tokio::join!(connection.waits(), async {
        tokio::task::yield_now().await;
        bob.says(&room, "news").await
    });

    assert_eq!(said(&told["rooms"][&room]["timeline"]), ["news"]);
}

#[tokio::test]
async fn a_poll_ends_at_its_time_out_with_nothing() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    alice.creates_open_room().await;
    let mut connection = alice.lists_all();
    connection.next().await;

    let told = connection.tries("timeout=50").await.expect_ok();

    assert!(rooms(&told).is_empty());
    assert_ne!(told["pos"].as_str(), connection.pos.as_deref());
}

#[tokio::test]
async fn a_new_request_ends_the_one_before_it() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    alice.creates_open_room().await;
    let mut connection = alice.lists_all();
    connection.next().await;
    let pos = connection.pos.clone();

    let newer = async {
        loop {
            connection.peeks().await;
        }
    };
    let older = tokio::select! {
        older = connection.tries("timeout=30000") => older.expect_ok(),
        () = newer => unreachable!("the loop never ends"),
    };

    assert_eq!(older["pos"].as_str(), pos.as_deref());
    connection.next().await;
    connection.next().await;
}

#[tokio::test]
async fn a_position_is_a_place_for_messages() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    alice.says(&room, "before").await;
    let mut connection = alice.lists_all();
    connection.next().await;
    alice.says(&room, "after").await;

    let pos = connection.pos.as_deref().expect("a position");
    let page = alice
        .messages(&room, &format!("dir=b&limit=1&from={pos}"))
        .await;

    assert_eq!(said(&page["chunk"]), ["before"]);
}

#[tokio::test]
async fn what_is_too_much_or_wrong_is_refused() {
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
        alice.slides("", allowed).await.expect_ok();
    }
    let names = json!({ "lists": { "with space": one } });
    for refused in [lists(101), subscriptions(101), names] {
        let answer = alice.slides("", refused).await;
        answer.expect_error(400, "M_INVALID_PARAM");
    }
    let asleep = alice.slides("set_presence=asleep", json!({})).await;
    asleep.expect_error(400, "M_INVALID_PARAM");
    let token = json!({ "extensions": { "to_device": { "enabled": true, "since": "x" } } });
    let token = alice.slides("", token).await;
    token.expect_error(400, "M_INVALID_PARAM");
    for bad in [
        json!({ "lists": [] }),
        json!({ "lists": { "a": { "ranges": [[0, 1]] } } }),
        json!({ "lists": { "a": { "timeline_limit": 1, "required_state": "all" } } }),
        json!({ "room_subscriptions": { "no room": one } }),
    ] {
        let answer = alice.slides("", bad).await;
        answer.expect_error(400, "M_BAD_JSON");
    }
}

#[tokio::test]
async fn a_stranger_and_a_locked_user_are_refused_and_guests_may_slide() {
    let server = Server::with(|config| config.registration.guests = true).await;
    let admin = server.register_admin("admin").await;
    let alice = server.register("alice").await;
    let guest = server.register_guest().await;

    let stranger = server.post(PATH, json!({})).await;
    stranger.expect_error(401, "M_MISSING_TOKEN");
    guest.slides("", json!({})).await.expect_ok();
    let lock = format!("/_matrix/client/v1/admin/lock/{}", alice.id);
    let locked = admin.client.put(&lock, json!({ "locked": true })).await;
    locked.expect_ok();
    let refused = alice.slides("", json!({})).await;
    refused.expect_error(401, "M_USER_LOCKED");
}

#[tokio::test]
async fn who_slides_is_online_unless_they_say_otherwise() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;

    alice.slides("", json!({})).await.expect_ok();
    let away = bob.slides("set_presence=unavailable", json!({})).await;
    away.expect_ok();

    assert_eq!(presence(&alice, &alice).await, "online");
    assert_eq!(presence(&bob, &bob).await, "unavailable");
}

#[tokio::test]
async fn an_answer_without_news_has_all_its_fields() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let mut connection = alice.extends("to_device", &json!({ "enabled": true }));

    let first = connection.next().await;
    let second = connection.next().await;

    for answer in [first, second] {
        assert_eq!(answer["lists"], json!({}), "{answer}");
        assert_eq!(answer["rooms"], json!({}), "{answer}");
        let extensions = answer["extensions"].as_object().expect("an object");
        assert_eq!(extensions.len(), 1, "{answer}");
        assert_eq!(extensions["to_device"]["events"], json!([]), "{answer}");
    }
}
