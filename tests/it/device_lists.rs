//! Device list changes, as reported by syncs and by `/keys/changes`.

use serde_json::{Value, json};

use crate::{
    chat::next_batch,
    harness::{Server, User, password_of},
};

const CHANGES_PATH: &str = "/_matrix/client/v3/keys/changes";
const LOGOUT_PATH: &str = "/_matrix/client/v3/logout";

/// Returns the `only_changed` and the `only_left` list of a sync, with empty lists for missing ones.
fn device_lists(sync: &Value) -> (Value, Value) {
    let lists = &sync["device_lists"];
    let list = |name: &str| match &lists[name] {
        Value::Null => json!([]),
        list => list.clone(),
    };
    (list("changed"), list("left"))
}

fn no_changes() -> (Value, Value) {
    (json!([]), json!([]))
}

fn only_changed(user: &User) -> (Value, Value) {
    (json!([user.id]), json!([]))
}

fn only_left(user: &User) -> (Value, Value) {
    (json!([]), json!([user.id]))
}

/// Registers two users who share a room, and one who is not in it.
async fn register_three_users(server: &Server) -> (User, User, User, String) {
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    (alice, bob, carol, room)
}

#[tokio::test]
async fn changed_keys_reach_users_who_share_a_room() {
    let server = Server::start().await;
    let (alice, bob, carol, _) = register_three_users(&server).await;
    let phone = server.log_in("bob").await;
    let before = [alice.syncs().await, bob.syncs().await, carol.syncs().await];

    phone.uploads_device_keys(1).await;
    let after = alice.syncs_after(&before[0]).await;
    phone.uploads_device_keys(1).await;

    assert_eq!(device_lists(&after), only_changed(&bob));
    assert_eq!(
        device_lists(&bob.syncs_after(&before[1]).await),
        only_changed(&bob)
    );
    assert_eq!(
        device_lists(&carol.syncs_after(&before[2]).await),
        no_changes()
    );
    assert_eq!(device_lists(&alice.syncs_after(&after).await), no_changes());
    assert_eq!(
        device_lists(&alice.syncs().await),
        no_changes(),
        "an initial sync has no device list changes"
    );
}

#[tokio::test]
async fn renaming_or_removing_a_device_with_keys_is_reported() {
    let server = Server::start().await;
    let (alice, bob, ..) = register_three_users(&server).await;
    let (phone, silent) = (server.log_in("bob").await, server.log_in("bob").await);
    phone.uploads_device_keys(1).await;
    let mut sync = alice.syncs().await;

    for (device, expected) in [(&phone, only_changed(&bob)), (&silent, no_changes())] {
        let path = format!("/_matrix/client/v3/devices/{}", device.device_id);
        let name = json!({ "display_name": "Desk" });
        bob.client.put(&path, name).await.expect_ok();
        sync = alice.syncs_after(&sync).await;
        assert_eq!(device_lists(&sync), expected);
        device.client.post(LOGOUT_PATH, json!({})).await.expect_ok();
        sync = alice.syncs_after(&sync).await;
        assert_eq!(device_lists(&sync), expected);
    }
}

#[tokio::test]
async fn changed_keys_wake_a_waiting_sync() {
    let server = Server::start().await;
    let (alice, bob, ..) = register_three_users(&server).await;
    let before = alice.syncs().await;

    let (told, ()) = tokio::join!(alice.long_polls_after(&before), bob.uploads_device_keys(1));

    assert_eq!(device_lists(&told), only_changed(&bob));
}

#[tokio::test]
async fn changed_keys_are_reported_across_a_restart() {
    let server = Server::start().await;
    let (alice, bob, ..) = register_three_users(&server).await;
    let before = alice.syncs().await;
    bob.uploads_device_keys(1).await;

    let server = server.restart().await;
    let alice = alice.on_server(&server);

    let told = alice.syncs_after(&before).await;
    assert_eq!(device_lists(&told), only_changed(&bob));
    assert_eq!(device_lists(&alice.syncs_after(&told).await), no_changes());
    let before = alice.syncs().await;
    let bob = bob.on_server(&server);
    let (told, ()) = tokio::join!(alice.long_polls_after(&before), bob.uploads_device_keys(2));
    assert_eq!(device_lists(&told), only_changed(&bob));
}

#[tokio::test]
async fn joins_and_leaves_are_reported_to_both_users() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    let (alices, bobs) = (alice.syncs().await, bob.syncs().await);

    bob.joins(&room).await;
    let (alices, bobs) = (
        alice.syncs_after(&alices).await,
        bob.syncs_after(&bobs).await,
    );
    let both = (json!([alice.id, bob.id]), json!([]));
    assert_eq!(
        (device_lists(&alices), device_lists(&bobs)),
        (only_changed(&bob), both)
    );
    bob.leaves(&room).await;
    let (alices, bobs) = (
        alice.syncs_after(&alices).await,
        bob.syncs_after(&bobs).await,
    );
    assert_eq!(
        (device_lists(&alices), device_lists(&bobs)),
        (only_left(&bob), only_left(&alice))
    );
    bob.uploads_device_keys(1).await;
    let alices = alice.syncs_after(&alices).await;
    assert_eq!(device_lists(&alices), no_changes());
}

#[tokio::test]
async fn an_invited_user_is_reported_only_after_joining() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates(json!({})).await;
    let before = alice.syncs().await;

    alice.invites(&room, &bob).await;
    let invited = alice.syncs_after(&before).await;
    bob.joins(&room).await;
    let joined = alice.syncs_after(&invited).await;

    assert_eq!(device_lists(&invited), no_changes());
    assert_eq!(device_lists(&joined), only_changed(&bob));
}

#[tokio::test]
async fn kicks_and_bans_are_reported_despite_a_later_invitation() {
    let server = Server::start().await;
    let (alice, bob, carol, room) = register_three_users(&server).await;
    carol.joins(&room).await;
    let before = [alice.syncs().await, bob.syncs().await, carol.syncs().await];

    alice.kicks(&room, &bob).await;
    alice.invites(&room, &bob).await;
    alice.bans(&room, &carol).await;

    let everyone = |a: &User, b: &User| (json!([]), json!([a.id, b.id]));
    let told = alice.syncs_after(&before[0]).await;
    assert_eq!(device_lists(&told), everyone(&bob, &carol));
    let told = bob.syncs_after(&before[1]).await;
    assert_eq!(device_lists(&told), everyone(&alice, &carol));
    let told = carol.syncs_after(&before[2]).await;
    assert_eq!(device_lists(&told), everyone(&alice, &bob));
}

#[tokio::test]
async fn a_user_in_another_shared_room_has_not_left() {
    let server = Server::start().await;
    let (alice, bob, _, room) = register_three_users(&server).await;
    let other = alice.creates_open_room().await;
    bob.joins(&other).await;
    let before = (alice.syncs().await, bob.syncs().await);

    bob.leaves(&room).await;

    assert_eq!(
        device_lists(&alice.syncs_after(&before.0).await),
        no_changes()
    );
    assert_eq!(
        device_lists(&bob.syncs_after(&before.1).await),
        no_changes()
    );
    bob.leaves(&other).await;
    assert_eq!(
        device_lists(&alice.syncs_after(&before.0).await),
        only_left(&bob)
    );
}

#[tokio::test]
async fn joins_and_leaves_are_reported_after_a_long_absence() {
    let server = Server::start().await;
    let (alice, bob, carol, room) = register_three_users(&server).await;
    let before = alice.syncs().await;

    bob.leaves(&room).await;
    carol.joins(&room).await;
    for n in 0..110 {
        alice.says(&room, &n.to_string()).await;
    }
    let server = server.restart().await;
    let alice = alice.on_server(&server);

    let told = device_lists(&alice.syncs_after(&before).await);
    assert_eq!(told, (json!([carol.id]), json!([bob.id])));
}

#[tokio::test]
async fn a_room_filter_does_not_hide_device_list_changes() {
    let server = Server::start().await;
    let (alice, bob, _, room) = register_three_users(&server).await;
    let before = alice.syncs().await;

    bob.leaves(&room).await;

    let filter = crate::chat::filter_query(&json!({ "room": { "rooms": [] } }));
    let query = format!("since={}&{filter}", next_batch(&before));
    assert_eq!(
        device_lists(&alice.syncs_with(&query).await),
        only_left(&bob)
    );
}

#[tokio::test]
async fn keys_changes_lists_changes_between_two_tokens() {
    let server = Server::start().await;
    let (alice, bob, carol, room) = register_three_users(&server).await;
    let first = alice.syncs().await;
    bob.uploads_device_keys(1).await;
    carol.joins(&room).await;
    let second = alice.syncs_after(&first).await;
    let ask = async |user: &User, from: &str, to: &str| {
        let path = format!("{CHANGES_PATH}?from={from}&to={to}");
        user.client.get(&path).await
    };

    let told = ask(&alice, next_batch(&first), next_batch(&second))
        .await
        .expect_ok();
    assert_eq!(told, json!({ "changed": [bob.id, carol.id], "left": [] }));
    let told = ask(&alice, next_batch(&second), next_batch(&second))
        .await
        .expect_ok();
    assert_eq!(told, json!({ "changed": [], "left": [] }));
    let back = ask(&alice, next_batch(&second), next_batch(&first)).await;
    back.expect_error(400, "M_INVALID_PARAM");
    let garbage = ask(&alice, "x", next_batch(&first)).await;
    garbage.expect_error(400, "M_INVALID_PARAM");
    let missing = alice.client.get(&format!("{CHANGES_PATH}?from=x")).await;
    missing.expect_error(400, "M_MISSING_PARAM");
    let stranger = server.get(CHANGES_PATH).await;
    stranger.expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn a_deactivated_user_is_reported_as_left() {
    let server = Server::start().await;
    let (alice, bob, ..) = register_three_users(&server).await;
    bob.uploads_device_keys(1).await;
    let before = alice.syncs().await;

    let body = json!({ "auth": password_of("bob") });
    let path = "/_matrix/client/v3/account/deactivate";
    bob.client.post(path, body).await.expect_ok();

    let told = alice.syncs_after(&before).await;
    assert_eq!(device_lists(&told).1, json!([bob.id]));
}

#[tokio::test]
async fn a_user_who_rejoins_between_syncs_is_reported_as_changed() {
    let server = Server::start().await;
    let (alice, bob, _, room) = register_three_users(&server).await;
    let since = alice.syncs().await;
    let own = bob.syncs().await;

    bob.leaves(&room).await;
    bob.joins(&room).await;

    assert_eq!(
        device_lists(&alice.syncs_after(&since).await).0,
        json!([bob.id])
    );
    let of_bob = device_lists(&bob.syncs_after(&own).await).0;
    assert!(
        of_bob
            .as_array()
            .is_some_and(|changed| changed.contains(&json!(alice.id)))
    );
    // After a restart the server has to find this in the database.
    for n in 0..120 {
        bob.says(&room, &n.to_string()).await;
    }
    let server = server.restart().await;
    let (alice, bob) = (alice.on_server(&server), bob.on_server(&server));
    assert_eq!(
        device_lists(&alice.syncs_after(&since).await).0,
        json!([bob.id])
    );
}

#[tokio::test]
async fn a_changed_display_name_is_no_device_list_change() {
    let server = Server::start().await;
    let (alice, bob, _, room) = register_three_users(&server).await;
    let since = alice.syncs().await;

    let named = json!({ "membership": "join", "displayname": "Robert" });
    bob.sets_state(&room, &format!("m.room.member/{}", bob.id), named)
        .await;

    assert_eq!(device_lists(&alice.syncs_after(&since).await), no_changes());
}
