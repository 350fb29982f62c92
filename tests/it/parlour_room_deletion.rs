//! Tests the deletion of rooms: the events that members receive, and requests for a deleted room.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    chat::{filter_query, find_event, next_batch, percent_encoded, room_path},
    harness::{HttpAnswer, Server, User},
};

pub(crate) struct RoomDeletionTest {
    pub(crate) server: Server,
    pub(crate) alice: User,
    pub(crate) bob: User,
    pub(crate) carol: User,
    pub(crate) room: String,
}

impl RoomDeletionTest {
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
            .posts_in_room(&room, "invite", json!({ "user_id": bob.id }))
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

    async fn try_delete(&self, user: &User, body: Value) -> HttpAnswer {
        send_deletion(user, &self.room, body).await
    }

    pub(crate) async fn delete_room(&self) {
        let deleted = self.try_delete(&self.alice, json!({})).await;
        assert_eq!(deleted.expect_ok(), json!({}));
    }

    /// Returns the member event in a sync that shows that the user has left the room.
    pub(crate) fn leave_event(&self, sync: &Value, user: &User) -> Value {
        let left = &sync["rooms"]["leave"][&self.room];
        let event = find_event(&left["timeline"]["events"], "m.room.member", &user.id);
        assert_eq!(event["content"]["membership"], "leave", "{sync}");
        assert_eq!(sync["rooms"]["join"][&self.room], Value::Null);
        event.clone()
    }

    /// Stops the server, changes its data and starts it again.
    pub(crate) async fn restart_server_after(self, change: impl AsyncFnOnce(&Server)) -> Self {
        let server = self.server.restart_after(change).await;
        Self {
            alice: self.alice.on_server(&server),
            bob: self.bob.on_server(&server),
            carol: self.carol.on_server(&server),
            server,
            room: self.room,
        }
    }
}

pub(crate) async fn send_deletion(user: &User, room: &str, body: Value) -> HttpAnswer {
    let path = format!("/_parlour/client/v1/rooms/{}", percent_encoded(room));
    let body = body.to_string();
    user.client.send(Method::DELETE, &path, &body).await
}

#[tokio::test]
async fn the_creator_removes_all_members_and_leaves_last() {
    let test = RoomDeletionTest::new().await;
    let (alices, bobs) = (test.alice.syncs().await, test.bob.syncs().await);

    let reason = json!({ "reason": "we moved" });
    test.try_delete(&test.alice, reason).await.expect_ok();

    let bobs = test.bob.syncs_after(&bobs).await;
    let left = test.leave_event(&bobs, &test.bob);
    assert_eq!(left["sender"], test.alice.id);
    assert_eq!(left["content"]["reason"], "we moved");
    let alices = test.alice.syncs_after(&alices).await;
    assert_eq!(
        test.leave_event(&alices, &test.alice)["sender"],
        test.alice.id
    );
    for (user, sync) in [(&test.alice, &alices), (&test.bob, &bobs)] {
        let after = user.syncs_after(sync).await;
        assert_eq!(after["rooms"]["leave"], Value::Null);
    }
}

#[tokio::test]
async fn a_waiting_sync_returns_the_deletion_at_once() {
    let test = RoomDeletionTest::new().await;
    let before = test.bob.syncs().await;

    let waiting = async {
        let mut after = test.bob.long_polls_after(&before).await;
        while after["rooms"]["leave"][&test.room].is_null() {
            after = test.bob.long_polls_after(&after).await;
        }
        after
    };
    let (after, ()) = tokio::join!(waiting, test.delete_room());

    test.leave_event(&after, &test.bob);
}

#[tokio::test]
async fn an_old_sync_token_shows_the_deletion_after_a_restart() {
    let test = RoomDeletionTest::new().await;
    let before = test.bob.syncs().await;
    let alices = test.alice.syncs().await;
    test.alice.says(&test.room, "not seen").await;
    test.delete_room().await;

    let after = test.bob.syncs_after(&before).await;
    let left = test.leave_event(&after, &test.bob);
    let test = test.restart_server_after(async |_| {}).await;
    let again = test.bob.syncs_after(&before).await;

    assert_eq!(
        test.leave_event(&again, &test.bob)["event_id"],
        left["event_id"]
    );
    let full = format!("since={}&full_state=true", next_batch(&before));
    test.leave_event(&test.bob.syncs_with(&full).await, &test.bob);
    test.leave_event(&test.alice.syncs_after(&alices).await, &test.alice);
    let path = format!(
        "/_matrix/client/v3/events?from={}&timeout=0",
        next_batch(&before)
    );
    let events = test.bob.client.get(&path).await.expect_ok();
    assert_eq!(
        find_event(&events["chunk"], "m.room.member", &test.bob.id)["room_id"],
        test.room
    );
    let path = format!(
        "/_matrix/client/v3/keys/changes?from={}&to={}",
        percent_encoded(next_batch(&before)),
        percent_encoded(next_batch(&again))
    );
    test.bob.client.get(&path).await.expect_ok();
    let after = test.bob.syncs_after(&again).await;
    assert_eq!(after["rooms"]["leave"], Value::Null);
}

#[tokio::test]
async fn an_initial_sync_omits_a_deleted_room() {
    let test = RoomDeletionTest::new().await;
    test.delete_room().await;

    let filter = filter_query(&json!({ "room": { "include_leave": true } }));
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
fn check_room_is_unknown(answer: &HttpAnswer, what: &str) {
    let is_refused = matches!(answer.status, 403 | 404);
    let is_served = answer.body["errcode"] != "M_UNRECOGNIZED";
    assert!(is_refused && is_served, "{what}: {}", answer.text);
}

#[tokio::test]
async fn a_deleted_room_cannot_be_read() {
    let test = RoomDeletionTest::new().await;
    let said = test.bob.says(&test.room, "hello").await;
    let page = test.bob.messages(&test.room, "dir=b&limit=1").await;
    let from = percent_encoded(page["end"].as_str().expect("a token"));
    let sync = test.bob.syncs().await;
    let (said, next) = (percent_encoded(&said), percent_encoded(next_batch(&sync)));
    test.delete_room().await;

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
        check_room_is_unknown(&test.bob.client.get(&path).await, what);
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
async fn a_deleted_room_cannot_be_changed() {
    let test = RoomDeletionTest::new().await;
    let said = test.bob.says(&test.room, "hello").await;
    test.delete_room().await;
    let receipt = format!("receipt/m.read/{}", percent_encoded(&said));

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
        check_room_is_unknown(
            &test.alice.posts_in_room(&test.room, what, body).await,
            what,
        );
    }
    let own = format!(
        "/_matrix/client/v3/user/{}/rooms/{}",
        test.bob.id, test.room
    );
    for path in [
        room_path(&test.room, "send/m.room.message/once"),
        room_path(&test.room, "state/m.room.topic"),
        room_path(&test.room, &format!("typing/{}", test.bob.id)),
        format!("{own}/account_data/org.example.own"),
        format!("{own}/tags/m.favourite"),
    ] {
        let body = json!({ "topic": "x", "typing": true, "timeout": 1_000 });
        check_room_is_unknown(&test.bob.client.put(&path, body).await, &path);
    }
    let again = test.try_delete(&test.alice, json!({})).await;
    again.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn deletion_frees_aliases_and_removes_the_directory_entry() {
    let request =
        json!({ "preset": "public_chat", "visibility": "public", "room_alias_name": "tea" });
    let test = RoomDeletionTest::with_room(request).await;
    test.delete_room().await;

    let path = "/_matrix/client/v3/directory/room/%23tea:localhost";
    test.server.get(path).await.expect_error(404, "M_NOT_FOUND");
    let listed = test.bob.client.get("/_matrix/client/v3/publicRooms").await;
    assert_eq!(listed.expect_ok()["chunk"], json!([]));
    let room = test.carol.creates(json!({})).await;
    let set = test.carol.client.put(path, json!({ "room_id": room }));
    set.await.expect_ok();
}

#[tokio::test]
async fn deletion_ends_invitations_knocks_and_bans() {
    let rule = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let test = RoomDeletionTest::with_room(json!({ "initial_state": [rule] })).await;
    let [knocking, banned, gone] = [
        test.server.register("knocking").await,
        test.server.register("banned").await,
        test.server.register("gone").await,
    ];
    let knock = format!("/_matrix/client/v3/knock/{}", percent_encoded(&test.room));
    knocking.client.post(&knock, json!({})).await.expect_ok();
    for user in [&test.carol, &gone] {
        test.alice
            .posts_in_room(&test.room, "invite", json!({ "user_id": user.id }))
            .await
            .expect_ok();
    }
    gone.joins(&test.room).await;
    let before_leaving = gone.syncs().await;
    gone.posts_in_room(&test.room, "leave", json!({}))
        .await
        .expect_ok();
    let after_leaving = gone.syncs().await;
    test.alice
        .posts_in_room(&test.room, "ban", json!({ "user_id": banned.id }))
        .await
        .expect_ok();
    let (invited, asked) = (test.carol.syncs().await, knocking.syncs().await);
    test.delete_room().await;

    for (user, sync) in [(&test.carol, &invited), (&knocking, &asked)] {
        let after = user.syncs_after(sync).await;
        assert_eq!(test.leave_event(&after, user)["sender"], test.alice.id);
    }
    test.leave_event(&gone.syncs_after(&before_leaving).await, &gone);
    let after = gone.syncs_after(&after_leaving).await;
    assert_eq!(after["rooms"]["leave"], Value::Null);
    assert_eq!(banned.syncs().await["rooms"]["leave"], Value::Null);
    let sync = test.carol.syncs().await;
    assert_eq!(sync["rooms"]["invite"], Value::Null);
}

#[tokio::test]
async fn a_member_whom_the_creator_cannot_remove_leaves() {
    let test =
        RoomDeletionTest::with_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
    let mut levels = test.alice.state(&test.room, "m.room.power_levels").await;
    levels["users"][&test.bob.id] = json!(100);
    test.alice
        .sets_state(&test.room, "m.room.power_levels", levels)
        .await;
    let before = test.bob.syncs().await;

    test.delete_room().await;

    let after = test.bob.syncs_after(&before).await;
    assert_eq!(test.leave_event(&after, &test.bob)["sender"], test.bob.id);
}

#[tokio::test]
async fn only_the_creator_and_administrators_may_delete_a_room() {
    let server = Server::with_config(|config| config.registration.guests = true).await;
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
    alice.sets_state(&room, "m.room.power_levels", levels).await;

    send_deletion(&bob, &room, json!({}))
        .await
        .expect_error(403, "M_FORBIDDEN");
    send_deletion(&carol, &room, json!({}))
        .await
        .expect_error(403, "M_FORBIDDEN");
    send_deletion(&guest, &room, json!({}))
        .await
        .expect_error(403, "M_GUEST_ACCESS_FORBIDDEN");
    send_deletion(&alice, "!no:localhost", json!({}))
        .await
        .expect_error(403, "M_FORBIDDEN");
    send_deletion(&admin, "!no:localhost", json!({}))
        .await
        .expect_error(404, "M_NOT_FOUND");
    let long = json!({ "reason": "x".repeat(1_025) });
    send_deletion(&alice, &room, long)
        .await
        .expect_error(400, "M_INVALID_PARAM");
    let wrong = json!({ "reason": 1 });
    send_deletion(&alice, &room, wrong)
        .await
        .expect_error(400, "M_BAD_JSON");
    alice
        .posts_in_room(&room, "leave", json!({}))
        .await
        .expect_ok();
    send_deletion(&alice, &room, json!({}))
        .await
        .expect_error(403, "M_FORBIDDEN");
    let suspend = format!("/_matrix/client/v1/admin/suspend/{}", carol.id);
    let suspended = admin.client.put(&suspend, json!({ "suspended": true }));
    suspended.await.expect_ok();
    send_deletion(&carol, &room, json!({}))
        .await
        .expect_error(403, "M_USER_SUSPENDED");
    assert_eq!(bob.gets_in_room(&room, "state").await.status, 200);

    let before = bob.syncs().await;
    send_deletion(&admin, &room, json!({})).await.expect_ok();

    let after = bob.syncs_after(&before).await;
    let events = &after["rooms"]["leave"][&room]["timeline"]["events"];
    assert_eq!(
        find_event(events, "m.room.member", &bob.id)["sender"],
        bob.id
    );
}
