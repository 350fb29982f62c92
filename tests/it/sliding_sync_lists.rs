//! Tests the selection of rooms in sliding sync: lists, their ranges and filters, subscriptions, and rooms that
//! the user has not joined.

use serde_json::{Value, json};

use crate::{
    chat::{event_types, message_bodies},
    harness::{Server, User},
    sliding::{list_config, member_ids, room_ids},
};

/// Returns the rooms of a list with these filters, and their count.
async fn rooms_with_filters(user: &User, filters: Value) -> (Vec<String>, u64) {
    let mut list = list_config([0, 99], 0, &json!([]));
    list["filters"] = filters;
    let answer = user.opens_list(&list).poll().await;
    let count = answer["lists"]["all"]["count"].as_u64().expect("a count");
    let rooms = room_ids(&answer).into_iter().map(str::to_owned).collect();
    (rooms, count)
}

async fn set_account_data(user: &User, path: &str, content: Value) {
    let path = format!("/_matrix/client/v3/user/{}/{path}", user.id);
    user.client.put(&path, content).await.expect_ok();
}

#[tokio::test]
async fn a_range_contains_the_most_recently_active_rooms() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let first = alice.creates_open_room().await;
    let second = alice.creates_open_room().await;
    let third = alice.creates_open_room().await;
    let mut connection = alice.opens_list(&list_config([0, 0], 1, &json!([])));

    let newest = connection.poll().await;
    assert_eq!(room_ids(&newest), [third.as_str()]);
    assert_eq!(newest["lists"]["all"]["count"], 3);
    assert_eq!(newest["rooms"][&third]["lists"], json!(["all"]));

    // Rooms that enter the range are sent, and rooms that leave it are not.
    alice.says(&first, "up").await;
    let moved = connection.poll().await;
    assert_eq!(room_ids(&moved), [first.as_str()]);
    assert_eq!(moved["rooms"][&first]["initial"], true);

    connection.body["lists"]["all"]["ranges"] = json!([[0, 0], [2, 2]]);
    let grown = connection.poll().await;
    assert_eq!(room_ids(&grown), [second.as_str()]);
}

#[tokio::test]
async fn a_room_back_in_range_continues_its_timeline() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let one = alice.creates_open_room().await;
    let other = alice.creates_open_room().await;
    alice.says(&one, "seen").await;
    let mut connection = alice.opens_list(&list_config([0, 0], 10, &json!([["m.room.topic", ""]])));
    connection.poll().await;

    alice.says(&other, "in front").await;
    connection.poll().await;
    let topic = json!({ "topic": "unseen" });
    alice.sets_state(&one, "m.room.topic", topic).await;
    alice.says(&other, "in front again").await;
    let out_of_sight = connection.poll().await;
    alice.says(&one, "back").await;
    let back = connection.poll().await;

    assert_eq!(room_ids(&out_of_sight), [other.as_str()]);
    let room = &back["rooms"][&one];
    assert!(room["initial"].is_null() && room["limited"].is_null());
    assert_eq!(
        event_types(&room["timeline"]),
        ["m.room.topic", "m.room.message"]
    );
    assert_eq!(event_types(&room["required_state"]), ["m.room.topic"]);
}

#[tokio::test]
async fn a_list_without_a_range_contains_all_rooms() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    for _ in 0..3 {
        alice.creates_open_room().await;
    }

    let list = json!({ "timeline_limit": 1, "required_state": { "include": [] } });
    let all = alice.opens_list(&list).poll().await;

    assert_eq!(room_ids(&all).len(), 3);
}

#[tokio::test]
async fn lists_are_filtered_by_room_type_and_encryption() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let plain = alice.creates_open_room().await;
    let space = json!({ "creation_content": { "type": "m.space" } });
    let space = alice.creates(space).await;
    let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    let state = json!({ "type": "m.room.encryption", "content": encryption });
    let secret = alice.creates(json!({ "initial_state": [state] })).await;
    let only = |room: &String| (vec![room.clone()], 1);

    assert_eq!(rooms_with_filters(&alice, json!({})).await.1, 3);
    let spaces = json!({ "room_types": ["m.space"] });
    assert_eq!(rooms_with_filters(&alice, spaces).await, only(&space));
    let rooms = json!({ "room_types": [null], "is_encrypted": false });
    assert_eq!(rooms_with_filters(&alice, rooms).await, only(&plain));
    let no_spaces = json!({ "not_room_types": ["m.space"], "is_encrypted": true });
    assert_eq!(rooms_with_filters(&alice, no_spaces).await, only(&secret));
    let both = json!({ "room_types": ["m.space"], "not_room_types": ["m.space"] });
    assert_eq!(rooms_with_filters(&alice, both).await.1, 0);

    // The result is the same after loading from disk.
    let server = server.restart().await;
    let alice = alice.on_server(&server);
    let encrypted = json!({ "is_encrypted": true });
    assert_eq!(rooms_with_filters(&alice, encrypted).await, only(&secret));
    let spaces = json!({ "room_types": ["m.space"] });
    assert_eq!(rooms_with_filters(&alice, spaces).await, only(&space));
}

#[tokio::test]
async fn lists_are_filtered_by_direct_chats_and_tags() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let plain = alice.creates_open_room().await;
    let direct = alice.creates_open_room().await;
    let only = |room: &String| (vec![room.clone()], 1);
    let tag = format!("rooms/{plain}/tags/m.favourite");

    set_account_data(
        &alice,
        "account_data/m.direct",
        json!({ "@bob:localhost": [direct] }),
    )
    .await;
    set_account_data(&alice, &tag, json!({})).await;

    assert_eq!(
        rooms_with_filters(&alice, json!({ "is_dm": true })).await,
        only(&direct)
    );
    assert_eq!(
        rooms_with_filters(&alice, json!({ "is_dm": false })).await,
        only(&plain)
    );
    let favourites = json!({ "tags": ["m.favourite", "u.other"] });
    assert_eq!(rooms_with_filters(&alice, favourites).await, only(&plain));
    let others = json!({ "not_tags": ["m.favourite"] });
    assert_eq!(rooms_with_filters(&alice, others).await, only(&direct));
    let both = json!({ "tags": ["m.favourite"], "not_tags": ["m.favourite"] });
    assert_eq!(rooms_with_filters(&alice, both).await.1, 0);
}

#[tokio::test]
async fn lists_are_filtered_by_space() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let child = alice.creates_open_room().await;
    let other = alice.creates_open_room().await;
    let space = json!({ "creation_content": { "type": "m.space" }, "preset": "public_chat" });
    let space = alice.creates(space).await;
    let link = format!("m.space.child/{child}");
    alice
        .sets_state(&space, &link, json!({ "via": ["localhost"] }))
        .await;
    for room in [&child, &other] {
        bob.joins(room).await;
    }

    let in_space = json!({ "spaces": [space, "!unknown:localhost"] });
    assert_eq!(
        rooms_with_filters(&alice, in_space.clone()).await,
        (vec![child.clone()], 1)
    );
    // Bob is not a member of the space.
    assert_eq!(rooms_with_filters(&bob, in_space.clone()).await.1, 0);
    alice.sets_state(&space, &link, json!({})).await;
    assert_eq!(rooms_with_filters(&alice, in_space).await.1, 0);
}

#[tokio::test]
async fn an_invitation_contains_only_stripped_state() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({ "name": "Party" })).await;
    let mut connection = bob.opens_list(&list_config([0, 9], 5, &json!([["*", "*"]])));
    connection.poll().await;

    alice.invites(&room, &bob).await;
    let invited = connection.poll().await;
    alice.says(&room, "secret").await;
    let nothing = connection.poll().await;
    bob.joins(&room).await;
    let joined = connection.poll().await;

    let told = &invited["rooms"][&room];
    assert_eq!(told["membership"], "invite");
    assert_eq!(told["initial"], true);
    assert!(event_types(&told["invite_state"]).contains(&"m.room.name"));
    assert_eq!(told["invite_state"], told["stripped_state"]);
    assert!(told["timeline"].is_null() && told["required_state"].is_null());
    assert!(told["name"].is_null());
    assert!(room_ids(&nothing).is_empty());
    let told = &joined["rooms"][&room];
    assert_eq!(told["membership"], "join");
    assert_eq!(
        (&told["initial"], &told["name"]),
        (&json!(true), &json!("Party"))
    );
    assert!(told["invite_state"].is_null());
    assert_eq!(
        rooms_with_filters(&bob, json!({ "is_invite": true }))
            .await
            .1,
        0
    );
}

#[tokio::test]
async fn invitations_are_selected_by_a_filter() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let mine = bob.creates_open_room().await;
    let room = alice.creates(json!({})).await;
    alice.invites(&room, &bob).await;

    for name in ["is_invite", "is_invited"] {
        let invited = rooms_with_filters(&bob, json!({ name: true })).await;
        assert_eq!(invited, (vec![room.clone()], 1));
        let others = rooms_with_filters(&bob, json!({ name: false })).await;
        assert_eq!(others, (vec![mine.clone()], 1));
    }
    let ignored = json!({ "ignored_users": { alice.id.clone(): {} } });
    set_account_data(&bob, "account_data/m.ignored_user_list", ignored).await;
    assert_eq!(
        rooms_with_filters(&bob, json!({ "is_invite": true }))
            .await
            .1,
        0
    );
}

#[tokio::test]
async fn a_knock_has_stripped_state_like_an_invitation() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let rule = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let room = alice.creates(json!({ "initial_state": [rule] })).await;
    let mut connection = bob.opens_all_rooms_list();
    connection.poll().await;

    let path = format!("/_matrix/client/v3/knock/{room}");
    bob.client.post(&path, json!({})).await.expect_ok();
    let knocked = connection.poll().await;

    let told = &knocked["rooms"][&room];
    assert_eq!(told["membership"], "knock");
    assert!(event_types(&told["invite_state"]).contains(&"m.room.member"));
}

#[tokio::test]
async fn a_left_room_is_sent_once_to_existing_connections() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let mut connection =
        bob.opens_list(&list_config([0, 9], 5, &json!([["m.room.member", "$ME"]])));
    connection.poll().await;

    alice.says(&room, "stay").await;
    bob.leaves(&room).await;
    alice.says(&room, "unheard").await;
    let left = connection.poll().await;
    alice.says(&room, "unheard").await;
    let after = connection.poll().await;
    let anew = bob.opens_all_rooms_list().poll().await;

    let told = &left["rooms"][&room];
    assert_eq!(told["membership"], "leave");
    assert_eq!(
        event_types(&told["timeline"]),
        ["m.room.message", "m.room.member"]
    );
    assert_eq!(member_ids(&left, &room), [bob.id.as_str()]);
    assert_eq!(told["required_state"][0]["content"]["membership"], "leave");
    assert!(told["initial"].is_null());
    assert!(room_ids(&after).is_empty() && room_ids(&anew).is_empty());
}

#[tokio::test]
async fn a_ban_is_sent_even_on_a_new_connection() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    alice.says(&room, "heard").await;
    alice.bans(&room, &bob).await;
    alice.bans(&room, &carol).await;
    alice.says(&room, "unheard").await;

    let mut connection = bob.opens_list(&list_config([0, 9], 2, &json!([["m.room.member", "*"]])));
    let told = connection.poll().await;

    let room_told = &told["rooms"][&room];
    assert_eq!(room_told["membership"], "ban");
    assert_eq!(room_told["initial"], true);
    assert_eq!(
        event_types(&room_told["timeline"]),
        ["m.room.message", "m.room.member"]
    );
    // Carol was banned after Bob, and was never in the room.
    assert_eq!(
        member_ids(&told, &room),
        [alice.id.as_str(), bob.id.as_str()]
    );
    assert!(room_ids(&carol.opens_all_rooms_list().poll().await).is_empty());
    // The result is the same after loading from disk.
    let server = server.restart().await;
    let (bob, carol) = (bob.on_server(&server), carol.on_server(&server));
    assert_eq!(
        room_ids(&bob.opens_all_rooms_list().poll().await),
        [room.as_str()]
    );
    assert!(room_ids(&carol.opens_all_rooms_list().poll().await).is_empty());
    bob.forgets(&room).await;
    assert!(room_ids(&bob.opens_all_rooms_list().poll().await).is_empty());
}

#[tokio::test]
async fn a_declined_invitation_reveals_only_the_leave() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({ "name": "Party" })).await;
    alice.invites(&room, &bob).await;
    let mut connection = bob.opens_list(&list_config([0, 9], 5, &json!([["*", "*"]])));
    connection.poll().await;

    alice.says(&room, "secret").await;
    bob.leaves(&room).await;
    let left = connection.poll().await;

    let told = &left["rooms"][&room];
    assert_eq!(told["membership"], "leave");
    assert_eq!(member_ids(&left, &room), [bob.id.as_str()]);
    assert_eq!(told["required_state"].as_array().map(Vec::len), Some(1));
    assert!(told["timeline"].is_null() && told["invite_state"].is_null());
}

#[tokio::test]
async fn a_subscription_sends_a_room_outside_every_range() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let watched = alice.creates(json!({ "topic": "Topic" })).await;
    alice.creates_open_room().await;
    let foreign = bob.creates_open_room().await;
    let mut connection = alice.opens_list(&list_config([0, 0], 1, &json!([])));
    connection.poll().await;

    let config = json!({ "timeline_limit": 10, "required_state": [["m.room.topic", ""]] });
    connection.body["room_subscriptions"] =
        json!({ &watched: config, &foreign: config, "!unknown:localhost": config });
    let subscribed = connection.poll().await;
    let again = connection.poll().await;
    connection.body["room_subscriptions"] = json!({});
    alice.says(&watched, "in front").await;
    let listed = connection.poll().await;

    assert_eq!(room_ids(&subscribed), [watched.as_str()]);
    let told = &subscribed["rooms"][&watched];
    assert_eq!(event_types(&told["required_state"]), ["m.room.topic"]);
    assert!(told["lists"].is_null());
    assert!(room_ids(&again).is_empty());
    let told = &listed["rooms"][&watched];
    assert_eq!(message_bodies(&told["timeline"]), ["in front"]);
    assert!(told["initial"].is_null());
}

#[tokio::test]
async fn a_subscription_shows_a_left_room_until_forgotten() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    alice.says(&room, "heard").await;
    bob.leaves(&room).await;
    alice.says(&room, "unheard").await;
    let config = json!({ "timeline_limit": 2, "required_state": [] });
    let body = json!({ "room_subscriptions": { &room: config } });

    let told = bob.opens_connection(body.clone()).poll().await;
    bob.forgets(&room).await;
    let forgotten = bob.opens_connection(body).poll().await;

    assert_eq!(message_bodies(&told["rooms"][&room]["timeline"]), ["heard"]);
    assert!(room_ids(&forgotten).is_empty());
}
