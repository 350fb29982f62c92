//! Tests the deletion of rooms: the events that members receive, and requests for a deleted room.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    chat::{encoded, filtered, find, in_room, next},
    harness::{Answer, Server, User},
};

pub(crate) struct Test {
    pub(crate) server: Server,
    pub(crate) alice: User,
    pub(crate) bob: User,
    pub(crate) carol: User,
    pub(crate) room: String,
}

impl Test {
    pub(crate) async fn new() -> Self {
        Self::with_room(json!({ "preset": "public_chat" })).await
    }

    /// Starts a server with a room that Alice created and Bob has joined.
    pub(crate) async fn with_room(request: Value) -> Self {
        let server = Server::start().await;
        let alice = server.register("alice").await;
        let (bob, carol) = (server.register("bob").await, server.register("carol").await);
        let room = alice.creates(request).await;
        alice
            .tries(&room, "invite", json!({ "user_id": bob.id }))
            .await
            .expect_ok();
        bob.joins(&room).await;
        Self {
            server,
            alice,
            bob,
            carol,
            room,
        }
    }

    async fn tries_to_delete(&self, user: &User, body: Value) -> Answer {
        deletes(user, &self.room, body).await
    }

    pub(crate) async fn deletes(&self) {
        let deleted = self.tries_to_delete(&self.alice, json!({})).await;
        assert_eq!(deleted.expect_ok(), json!({}));
    }

    /// Returns the member event in a sync that shows that the user has left the room.
    pub(crate) fn leave(&self, sync: &Value, user: &User) -> Value {
        let left = &sync["rooms"]["leave"][&self.room];
        let event = find(&left["timeline"]["events"], "m.room.member", &user.id);
        assert_eq!(event["content"]["membership"], "leave", "{sync}");
        assert_eq!(sync["rooms"]["join"][&self.room], Value::Null);
        event.clone()
    }

    /// Stops the server, changes its data and starts it again.
    pub(crate) async fn restarts(self, change: impl AsyncFnOnce(&Server)) -> Self {
        let server = self.server.restart_after(change).await;
        Self {
            alice: self.alice.at(&server),
            bob: self.bob.at(&server),
            carol: self.carol.at(&server),
            server,
            room: self.room,
        }
    }
}

pub(crate) async fn deletes(user: &User, room: &str, body: Value) -> Answer {
    let path = format!("/_parlour/client/v1/rooms/{}", encoded(room));
    let body = body.to_string();
    user.client.send(Method::DELETE, &path, &body).await
}

#[tokio::test]
async fn everybody_is_removed_by_the_creator_who_leaves_last() {
    let test = Test::new().await;
    let (alices, bobs) = (test.alice.syncs().await, test.bob.syncs().await);

    let reason = json!({ "reason": "we moved" });
    test.tries_to_delete(&test.alice, reason).await.expect_ok();

    let bobs = test.bob.syncs_after(&bobs).await;
    let left = test.leave(&bobs, &test.bob);
    assert_eq!(left["sender"], test.alice.id);
    assert_eq!(left["content"]["reason"], "we moved");
    let alices = test.alice.syncs_after(&alices).await;
    assert_eq!(test.leave(&alices, &test.alice)["sender"], test.alice.id);
    for (user, sync) in [(&test.alice, &alices), (&test.bob, &bobs)] {
        let after = user.syncs_after(sync).await;
        assert_eq!(after["rooms"]["leave"], Value::Null);
    }
}

#[tokio::test]
async fn who_waits_for_news_hears_of_it_at_once() {
    let test = Test::new().await;
    let before = test.bob.syncs().await;

    let waiting = async {
        let mut after = test.bob.waits_after(&before).await;
        while after["rooms"]["leave"][&test.room].is_null() {
            after = test.bob.waits_after(&after).await;
        }
        after
    };
    let (after, ()) = tokio::join!(waiting, test.deletes());

    test.leave(&after, &test.bob);
}

#[tokio::test]
async fn who_comes_back_with_an_old_token_learns_of_it_also_after_a_restart() {
    let test = Test::new().await;
    let before = test.bob.syncs().await;
    let alices = test.alice.syncs().await;
    test.alice.says(&test.room, "not seen").await;
    test.deletes().await;

    let after = test.bob.syncs_after(&before).await;
    let left = test.leave(&after, &test.bob);
    let test = test.restarts(async |_| {}).await;
    let again = test.bob.syncs_after(&before).await;

    assert_eq!(test.leave(&again, &test.bob)["event_id"], left["event_id"]);
    let full = format!("since={}&full_state=true", next(&before));
    test.leave(&test.bob.syncs_with(&full).await, &test.bob);
    test.leave(&test.alice.syncs_after(&alices).await, &test.alice);
    let path = format!("/_matrix/client/v3/events?from={}&timeout=0", next(&before));
    let events = test.bob.client.get(&path).await.expect_ok();
    assert_eq!(
        find(&events["chunk"], "m.room.member", &test.bob.id)["room_id"],
        test.room
    );
    let path = format!(
        "/_matrix/client/v3/keys/changes?from={}&to={}",
        encoded(next(&before)),
        encoded(next(&again))
    );
    test.bob.client.get(&path).await.expect_ok();
    let after = test.bob.syncs_after(&again).await;
    assert_eq!(after["rooms"]["leave"], Value::Null);
}

#[tokio::test]
async fn a_first_sync_shows_nothing_of_it() {
    let test = Test::new().await;
    test.deletes().await;

    let filter = filtered(&json!({ "room": { "include_leave": true } }));
    for query in ["", &filter, "full_state=true"] {
        let sync = test.bob.syncs_with(query).await;
        assert!(!sync["rooms"].to_string().contains(&test.room), "{query}");
    }
    let path = "/_matrix/client/v3/initialSync?archived=true";
    let initial = test.bob.client.get(path).await;
    assert_eq!(initial.expect_ok()["rooms"], json!([]));
    let joined = test.bob.client.get("/_matrix/client/v3/joined_rooms").await;
    assert_eq!(joined.expect_ok()["joined_rooms"], json!([]));
}

#[track_caller]
fn check_is_unknown(answer: &Answer, what: &str) {
    let is_refused = matches!(answer.status, 403 | 404);
    let is_served = answer.body["errcode"] != "M_UNRECOGNIZED";
    assert!(is_refused && is_served, "{what}: {}", answer.text);
}

#[tokio::test]
async fn nothing_of_it_can_be_read_any_more() {
    let test = Test::new().await;
    let said = test.bob.says(&test.room, "hello").await;
    let page = test.bob.messages(&test.room, "dir=b&limit=1").await;
    let from = encoded(page["end"].as_str().expect("a token"));
    let sync = test.bob.syncs().await;
    let (said, next) = (encoded(&said), encoded(next(&sync)));
    test.deletes().await;

    for what in [
        "v3 messages?dir=b",
        &format!("v3 messages?dir=b&from={from}"),
        &format!("v3 messages?dir=f&from={next}"),
        "v3 state",
        "v3 members",
        &format!("v3 members?at={next}"),
        "v3 joined_members",
        "v3 initialSync",
        "v3 aliases",
        &format!("v3 event/{said}"),
        &format!("v3 context/{said}"),
        &format!("v1 relations/{said}"),
        "v1 threads",
        "v1 hierarchy",
        "v1 timestamp_to_event?ts=0&dir=f",
    ] {
        let (version, rest) = what.split_once(' ').expect("a version and a path");
        let path = format!("/_matrix/client/{version}/rooms/{}/{rest}", test.room);
        check_is_unknown(&test.bob.client.get(&path).await, what);
    }
    let search = json!({ "search_categories": { "room_events": { "search_term": "hello" } } });
    let path = "/_matrix/client/v3/search";
    let found = test.bob.client.post(path, search).await.expect_ok();
    assert_eq!(found["search_categories"]["room_events"]["count"], 0);
    let notifications = test
        .bob
        .client
        .get("/_matrix/client/v3/notifications")
        .await;
    assert_eq!(notifications.expect_ok()["notifications"], json!([]));
}

#[tokio::test]
async fn nothing_can_be_done_in_it_any_more() {
    let test = Test::new().await;
    let said = test.bob.says(&test.room, "hello").await;
    test.deletes().await;
    let receipt = format!("receipt/m.read/{}", encoded(&said));

    for what in [
        "join",
        "leave",
        "forget",
        "invite",
        "kick",
        "ban",
        "upgrade",
        "read_markers",
        &receipt,
    ] {
        let body = json!({ "user_id": test.carol.id, "new_version": "11", "m.read": said });
        check_is_unknown(&test.alice.tries(&test.room, what, body).await, what);
    }
    let own = format!(
        "/_matrix/client/v3/user/{}/rooms/{}",
        test.bob.id, test.room
    );
    for path in [
        in_room(&test.room, "send/m.room.message/once"),
        in_room(&test.room, "state/m.room.topic"),
        in_room(&test.room, &format!("typing/{}", test.bob.id)),
        format!("{own}/account_data/org.example.own"),
        format!("{own}/tags/m.favourite"),
    ] {
        let body = json!({ "topic": "x", "typing": true, "timeout": 1_000 });
        check_is_unknown(&test.bob.client.put(&path, body).await, &path);
    }
    let again = test.tries_to_delete(&test.alice, json!({})).await;
    again.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn aliases_are_free_again_and_the_directory_does_not_list_it() {
    let request =
        json!({ "preset": "public_chat", "visibility": "public", "room_alias_name": "tea" });
    let test = Test::with_room(request).await;
    test.deletes().await;

    let path = "/_matrix/client/v3/directory/room/%23tea:localhost";
    test.server.get(path).await.expect_error(404, "M_NOT_FOUND");
    let listed = test.bob.client.get("/_matrix/client/v3/publicRooms").await;
    assert_eq!(listed.expect_ok()["chunk"], json!([]));
    let room = test.carol.creates(json!({})).await;
    let set = test.carol.client.put(path, json!({ "room_id": room }));
    set.await.expect_ok();
}

#[tokio::test]
async fn invitations_knocks_and_bans_end_with_it() {
    let rule = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let test = Test::with_room(json!({ "initial_state": [rule] })).await;
    let [knocking, banned, gone] = [
        test.server.register("knocking").await,
        test.server.register("banned").await,
        test.server.register("gone").await,
    ];
    let knock = format!("/_matrix/client/v3/knock/{}", encoded(&test.room));
    knocking.client.post(&knock, json!({})).await.expect_ok();
    for user in [&test.carol, &gone] {
        test.alice
            .tries(&test.room, "invite", json!({ "user_id": user.id }))
            .await
            .expect_ok();
    }
    gone.joins(&test.room).await;
    let before_leaving = gone.syncs().await;
    gone.tries(&test.room, "leave", json!({})).await.expect_ok();
    let after_leaving = gone.syncs().await;
    test.alice
        .tries(&test.room, "ban", json!({ "user_id": banned.id }))
        .await
        .expect_ok();
    let (invited, asked) = (test.carol.syncs().await, knocking.syncs().await);
    test.deletes().await;

    for (user, sync) in [(&test.carol, &invited), (&knocking, &asked)] {
        let after = user.syncs_after(sync).await;
        assert_eq!(test.leave(&after, user)["sender"], test.alice.id);
    }
    test.leave(&gone.syncs_after(&before_leaving).await, &gone);
    let after = gone.syncs_after(&after_leaving).await;
    assert_eq!(after["rooms"]["leave"], Value::Null);
    assert_eq!(banned.syncs().await["rooms"]["leave"], Value::Null);
    let sync = test.carol.syncs().await;
    assert_eq!(sync["rooms"]["invite"], Value::Null);
}

#[tokio::test]
async fn whom_the_creator_may_not_remove_leaves_of_their_own_accord() {
    let test = Test::with_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
    let mut levels = test.alice.state(&test.room, "m.room.power_levels").await;
    levels["users"][&test.bob.id] = json!(100);
    test.alice
        .sets(&test.room, "m.room.power_levels", levels)
        .await;
    let before = test.bob.syncs().await;

    test.deletes().await;

    let after = test.bob.syncs_after(&before).await;
    assert_eq!(test.leave(&after, &test.bob)["sender"], test.bob.id);
}

#[tokio::test]
async fn only_the_creator_and_administrators_may_delete_a_room() {
    let server = Server::with(|config| config.registration.guests = true).await;
    let admin = server.register_admin("root").await;
    let guest = server.register_guest().await;
    let [alice, bob, carol] = [
        server.register("alice").await,
        server.register("bob").await,
        server.register("carol").await,
    ];
    let room = alice
        .creates(json!({ "preset": "public_chat", "room_version": "11" }))
        .await;
    bob.joins(&room).await;
    let levels = json!({ "users": { &alice.id: 100, &bob.id: 100 } });
    alice.sets(&room, "m.room.power_levels", levels).await;

    deletes(&bob, &room, json!({}))
        .await
        .expect_error(403, "M_FORBIDDEN");
    deletes(&carol, &room, json!({}))
        .await
        .expect_error(403, "M_FORBIDDEN");
    deletes(&guest, &room, json!({}))
        .await
        .expect_error(403, "M_GUEST_ACCESS_FORBIDDEN");
    deletes(&alice, "!no:localhost", json!({}))
        .await
        .expect_error(403, "M_FORBIDDEN");
    deletes(&admin, "!no:localhost", json!({}))
        .await
        .expect_error(404, "M_NOT_FOUND");
    let long = json!({ "reason": "x".repeat(1_025) });
    deletes(&alice, &room, long)
        .await
        .expect_error(400, "M_INVALID_PARAM");
    let wrong = json!({ "reason": 1 });
    deletes(&alice, &room, wrong)
        .await
        .expect_error(400, "M_BAD_JSON");
    alice.tries(&room, "leave", json!({})).await.expect_ok();
    deletes(&alice, &room, json!({}))
        .await
        .expect_error(403, "M_FORBIDDEN");
    let suspend = format!("/_matrix/client/v1/admin/suspend/{}", carol.id);
    let suspended = admin.client.put(&suspend, json!({ "suspended": true }));
    suspended.await.expect_ok();
    deletes(&carol, &room, json!({}))
        .await
        .expect_error(403, "M_USER_SUSPENDED");
    assert_eq!(bob.asks(&room, "state").await.status, 200);

    let before = bob.syncs().await;
    deletes(&admin, &room, json!({})).await.expect_ok();

    let after = bob.syncs_after(&before).await;
    let events = &after["rooms"]["leave"][&room]["timeline"]["events"];
    assert_eq!(find(events, "m.room.member", &bob.id)["sender"], bob.id);
}
