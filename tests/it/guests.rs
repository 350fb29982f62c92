//! The permissions of guests, and the rooms that they may join.

use std::time::Duration;

use parlour::clock::Clock;
use serde_json::json;

use crate::{
    chat::room_path,
    harness::{Server, User},
};

const GUEST_ACCESS: &str = "m.room.guest_access";

async fn room_for_guests(owner: &User, access: &str) -> String {
    let access = json!({ "type": GUEST_ACCESS, "content": { "guest_access": access } });
    let room = json!({ "preset": "public_chat", "initial_state": [access] });
    owner.creates(room).await
}

#[tokio::test]
async fn guests_can_join_only_rooms_that_admit_them() {
    let server = Server::with_config(|config| config.registration.guests = true).await;
    let alice = server.register("alice").await;
    let guest = server.register_guest().await;
    let open = room_for_guests(&alice, "can_join").await;
    let closed = room_for_guests(&alice, "forbidden").await;

    guest.joins(&open).await;
    guest.says(&open, "hello").await;
    guest.syncs().await;

    let refused = guest.posts_in_room(&closed, "join", json!({})).await;
    refused.expect_error(403, "M_GUEST_ACCESS_FORBIDDEN");
    let member = format!("m.room.member/{}", guest.id);
    let joined = json!({ "membership": "join" });
    let refused = guest.tries_to_set_state(&closed, &member, joined).await;
    refused.expect_error(403, "M_GUEST_ACCESS_FORBIDDEN");
}

#[tokio::test]
async fn forbidding_guest_access_removes_guests_from_the_room() {
    let server = Server::with_config(|config| config.registration.guests = true).await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let guest = server.register_guest().await;
    let room = room_for_guests(&alice, "can_join").await;
    guest.joins(&room).await;
    bob.joins(&room).await;

    let closed = json!({ "guest_access": "forbidden" });
    alice.sets_state(&room, GUEST_ACCESS, closed).await;

    let members = alice
        .gets_in_room(&room, "joined_members")
        .await
        .expect_ok();
    let joined = members["joined"].as_object().expect("is an object");
    assert_eq!(joined.len(), 2, "{members}");
    assert!(!joined.contains_key(&guest.id));
}

#[tokio::test]
async fn guests_cannot_use_endpoints_for_full_accounts() {
    let server = Server::with_config(|config| config.registration.guests = true).await;
    let guest = server.register_guest().await;

    let created = guest.tries_to_create(json!({})).await;
    created.expect_error(403, "M_GUEST_ACCESS_FORBIDDEN");
    let search = json!({ "search_term": "a" });
    let found = guest
        .client
        .post("/_matrix/client/v3/user_directory/search", search);
    found.await.expect_error(403, "M_GUEST_ACCESS_FORBIDDEN");
    let profile = format!("/_matrix/client/v3/profile/{}", guest.id);
    let avatar = json!({ "avatar_url": "mxc://a/b" });
    let path = format!("{profile}/avatar_url");
    let set = guest.client.put(&path, avatar).await;
    set.expect_error(403, "M_GUEST_ACCESS_FORBIDDEN");
    let name = json!({ "displayname": "Guest" });
    let path = format!("{profile}/displayname");
    let set = guest.client.put(&path, name).await;
    set.expect_ok();
}

#[tokio::test]
async fn a_delayed_change_of_the_guest_access_removes_guests() {
    let clock = Clock::manual(1_700_000_000_000);
    let server = Server::with_clock(clock.clone(), |config| config.registration.guests = true);
    let server = server.await;
    let alice = server.register("alice").await;
    let guest = server.register_guest().await;
    let room = room_for_guests(&alice, "can_join").await;
    guest.joins(&room).await;
    let joined = guest.syncs().await;
    let closed = json!({ "guest_access": "forbidden" });
    let state = format!("state/{GUEST_ACCESS}/?org.matrix.msc4140.delay=1000");

    let delayed = alice.client.put(&room_path(&room, &state), closed).await;
    delayed.expect_ok();
    clock.advance(Duration::from_secs(2));

    guest.syncs_until_removed(&room, &joined).await;
    let member = alice.member(&room, &guest).await;
    assert_eq!(member["membership"], "leave");
}

#[tokio::test]
async fn a_redaction_of_the_guest_access_removes_guests() {
    let server = Server::with_config(|config| config.registration.guests = true).await;
    let alice = server.register("alice").await;
    let guest = server.register_guest().await;
    let room = room_for_guests(&alice, "can_join").await;
    let open = json!({ "guest_access": "can_join", "reason": "tea" });
    let open = alice.sets_state(&room, GUEST_ACCESS, open).await;
    guest.joins(&room).await;
    let joined = guest.syncs().await;

    alice.redacts(&room, &open).await;

    guest.syncs_until_removed(&room, &joined).await;
    let member = alice.member(&room, &guest).await;
    assert_eq!(member["membership"], "leave");
}
