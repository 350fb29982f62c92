//! Device list changes, as reported by syncs and by `/keys/changes`.

use serde_json::{Value, json};

use crate::{
    chat::next,
    harness::{Server, User, password_of},
};

const CHANGES: &str = "/_matrix/client/v3/keys/changes";
const LOGOUT: &str = "/_matrix/client/v3/logout";

/// Returns the `changed` and the `left` list of a sync, with empty lists for missing ones.
fn lists(sync: &Value) -> (Value, Value) {
    let lists = &sync["device_lists"];
    let list = |name: &str| match &lists[name] {
        Value::Null => json!([]),
        list => list.clone(),
    };
    (list("changed"), list("left"))
}

fn nobody() -> (Value, Value) {
    (json!([]), json!([]))
}

fn changed(user: &User) -> (Value, Value) {
    (json!([user.id]), json!([]))
}

fn left(user: &User) -> (Value, Value) {
    (json!([]), json!([user.id]))
}

/// Registers two users who share a room, and one who is not in it.
async fn three(server: &Server) -> (User, User, User, String) {
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    (alice, bob, carol, room)
}

#[tokio::test]
async fn changed_keys_are_told_to_those_who_share_a_room() {
    let server = Server::start().await;
    let (alice, bob, carol, _) = three(&server).await;
    let phone = server.log_in("bob").await;
    let before = [alice.syncs().await, bob.syncs().await, carol.syncs().await];

    phone.has_keys(1).await;
    let after = alice.syncs_after(&before[0]).await;
    phone.has_keys(1).await;

    assert_eq!(lists(&after), changed(&bob));
    assert_eq!(lists(&bob.syncs_after(&before[1]).await), changed(&bob));
    assert_eq!(lists(&carol.syncs_after(&before[2]).await), nobody());
    assert_eq!(lists(&alice.syncs_after(&after).await), nobody());
    assert_eq!(
        lists(&alice.syncs().await),
        nobody(),
        "an initial sync has no device list changes"
    );
}

#[tokio::test]
async fn a_new_name_and_the_end_of_a_device_are_told_if_it_has_keys() {
    let server = Server::start().await;
    let (alice, bob, ..) = three(&server).await;
    let (phone, silent) = (server.log_in("bob").await, server.log_in("bob").await);
    phone.has_keys(1).await;
    let mut sync = alice.syncs().await;

    for (device, expected) in [(&phone, changed(&bob)), (&silent, nobody())] {
        let path = format!("/_matrix/client/v3/devices/{}", device.device_id);
        let name = json!({ "display_name": "Desk" });
        bob.client.put(&path, name).await.expect_ok();
        sync = alice.syncs_after(&sync).await;
        assert_eq!(lists(&sync), expected);
        device.client.post(LOGOUT, json!({})).await.expect_ok();
        sync = alice.syncs_after(&sync).await;
        assert_eq!(lists(&sync), expected);
    }
}

#[tokio::test]
async fn changed_keys_wake_those_who_wait() {
    let server = Server::start().await;
    let (alice, bob, ..) = three(&server).await;
    let before = alice.syncs().await;

    let (told, ()) = tokio::join!(alice.waits_after(&before), bob.has_keys(1));

    assert_eq!(lists(&told), changed(&bob));
}

#[tokio::test]
async fn changed_keys_are_told_across_a_restart() {
    let server = Server::start().await;
    let (alice, bob, ..) = three(&server).await;
    let before = alice.syncs().await;
    bob.has_keys(1).await;

    let server = server.restart().await;
    let alice = alice.at(&server);

    let told = alice.syncs_after(&before).await;
    assert_eq!(lists(&told), changed(&bob));
    assert_eq!(lists(&alice.syncs_after(&told).await), nobody());
    let before = alice.syncs().await;
    let bob = bob.at(&server);
    let (told, ()) = tokio::join!(alice.waits_after(&before), bob.has_keys(2));
    assert_eq!(lists(&told), changed(&bob));
}

#[tokio::test]
async fn who_comes_and_who_goes_is_told_on_both_sides() {
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
    assert_eq!((lists(&alices), lists(&bobs)), (changed(&bob), both));
    bob.leaves(&room).await;
    let (alices, bobs) = (
        alice.syncs_after(&alices).await,
        bob.syncs_after(&bobs).await,
    );
    assert_eq!((lists(&alices), lists(&bobs)), (left(&bob), left(&alice)));
    bob.has_keys(1).await;
    let alices = alice.syncs_after(&alices).await;
    assert_eq!(lists(&alices), nobody());
}

#[tokio::test]
async fn who_is_invited_is_told_once_they_come() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates(json!({})).await;
    let before = alice.syncs().await;

    alice.invites(&room, &bob).await;
    let invited = alice.syncs_after(&before).await;
    bob.joins(&room).await;
    let joined = alice.syncs_after(&invited).await;

    assert_eq!(lists(&invited), nobody());
    assert_eq!(lists(&joined), changed(&bob));
}

#[tokio::test]
async fn a_kick_and_a_ban_are_told_even_after_another_invitation() {
    let server = Server::start().await;
    let (alice, bob, carol, room) = three(&server).await;
    carol.joins(&room).await;
    let before = [alice.syncs().await, bob.syncs().await, carol.syncs().await];

    alice.kicks(&room, &bob).await;
    alice.invites(&room, &bob).await;
    alice.bans(&room, &carol).await;

    let everyone = |a: &User, b: &User| (json!([]), json!([a.id, b.id]));
    let told = alice.syncs_after(&before[0]).await;
    assert_eq!(lists(&told), everyone(&bob, &carol));
    let told = bob.syncs_after(&before[1]).await;
    assert_eq!(lists(&told), everyone(&alice, &carol));
    let told = carol.syncs_after(&before[2]).await;
    assert_eq!(lists(&told), everyone(&alice, &bob));
}

#[tokio::test]
async fn who_is_in_another_room_has_not_left() {
    let server = Server::start().await;
    let (alice, bob, _, room) = three(&server).await;
    let other = alice.creates_open_room().await;
    bob.joins(&other).await;
    let before = (alice.syncs().await, bob.syncs().await);

    bob.leaves(&room).await;

    assert_eq!(lists(&alice.syncs_after(&before.0).await), nobody());
    assert_eq!(lists(&bob.syncs_after(&before.1).await), nobody());
    bob.leaves(&other).await;
    assert_eq!(lists(&alice.syncs_after(&before.0).await), left(&bob));
}

#[tokio::test]
async fn who_came_and_went_is_told_after_a_long_absence() {
    let server = Server::start().await;
    let (alice, bob, carol, room) = three(&server).await;
    let before = alice.syncs().await;

    bob.leaves(&room).await;
    carol.joins(&room).await;
    for n in 0..110 {
        alice.says(&room, &n.to_string()).await;
    }
    let server = server.restart().await;
    let alice = alice.at(&server);

    let told = lists(&alice.syncs_after(&before).await);
    assert_eq!(told, (json!([carol.id]), json!([bob.id])));
}

#[tokio::test]
async fn a_filter_on_rooms_does_not_hide_whose_keys_changed() {
    let server = Server::start().await;
    let (alice, bob, _, room) = three(&server).await;
    let before = alice.syncs().await;

    bob.leaves(&room).await;

    let filter = crate::chat::filtered(&json!({ "room": { "rooms": [] } }));
    let query = format!("since={}&{filter}", next(&before));
    assert_eq!(lists(&alice.syncs_with(&query).await), left(&bob));
}

#[tokio::test]
async fn changes_between_two_tokens_can_be_asked_for() {
    let server = Server::start().await;
    let (alice, bob, carol, room) = three(&server).await;
    let first = alice.syncs().await;
    bob.has_keys(1).await;
    carol.joins(&room).await;
    let second = alice.syncs_after(&first).await;
    let ask = async |user: &User, from: &str, to: &str| {
        let path = format!("{CHANGES}?from={from}&to={to}");
        user.client.get(&path).await
    };

    let told = ask(&alice, next(&first), next(&second)).await.expect_ok();
    assert_eq!(told, json!({ "changed": [bob.id, carol.id], "left": [] }));
    let told = ask(&alice, next(&second), next(&second)).await.expect_ok();
    assert_eq!(told, json!({ "changed": [], "left": [] }));
    let back = ask(&alice, next(&second), next(&first)).await;
    back.expect_error(400, "M_INVALID_PARAM");
    let garbage = ask(&alice, "x", next(&first)).await;
    garbage.expect_error(400, "M_INVALID_PARAM");
    let missing = alice.client.get(&format!("{CHANGES}?from=x")).await;
    missing.expect_error(400, "M_MISSING_PARAM");
    let stranger = server.get(CHANGES).await;
    stranger.expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn the_end_of_an_account_is_told() {
    let server = Server::start().await;
    let (alice, bob, ..) = three(&server).await;
    bob.has_keys(1).await;
    let before = alice.syncs().await;

    let body = json!({ "auth": password_of("bob") });
    let path = "/_matrix/client/v3/account/deactivate";
    bob.client.post(path, body).await.expect_ok();

    let told = alice.syncs_after(&before).await;
    assert_eq!(lists(&told).1, json!([bob.id]));
}

#[tokio::test]
async fn one_who_leaves_and_comes_back_between_two_syncs_has_come() {
    let server = Server::start().await;
    let (alice, bob, _, room) = three(&server).await;
    let since = alice.syncs().await;
    let own = bob.syncs().await;

    bob.leaves(&room).await;
    bob.joins(&room).await;

    assert_eq!(lists(&alice.syncs_after(&since).await).0, json!([bob.id]));
    let of_bob = lists(&bob.syncs_after(&own).await).0;
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
    let (alice, bob) = (alice.at(&server), bob.at(&server));
    assert_eq!(lists(&alice.syncs_after(&since).await).0, json!([bob.id]));
}

#[tokio::test]
async fn a_new_name_is_no_reason_to_ask_for_keys() {
    let server = Server::start().await;
    let (alice, bob, _, room) = three(&server).await;
    let since = alice.syncs().await;

    let named = json!({ "membership": "join", "displayname": "Robert" });
    bob.sets(&room, &format!("m.room.member/{}", bob.id), named)
        .await;

    assert_eq!(lists(&alice.syncs_after(&since).await), nobody());
}
