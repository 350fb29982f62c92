//! Tests the selection of rooms in sliding sync: lists, their ranges and filters, subscriptions, and rooms that
//! the user has not joined.

use serde_json::{Value, json};

use crate::{
    chat::{said, types},
    harness::{Server, User},
    sliding::{list, members, rooms},
};

/// Returns the rooms of a list with these filters, and their count.
async fn filtered(user: &User, filters: Value) -> (Vec<String>, u64) {
    let mut list = list([0, 99], 0, &json!([]));
    list["filters"] = filters;
    let answer = user.lists(&list).next().await;
    let count = answer["lists"]["all"]["count"].as_u64().expect("a count");
    let rooms = rooms(&answer).into_iter().map(str::to_owned).collect();
    (rooms, count)
}

async fn set_account_data(user: &User, path: &str, content: Value) {
    let path = format!("/_matrix/client/v3/user/{}/{path}", user.id);
    user.client.put(&path, content).await.expect_ok();
}

#[tokio::test]
async fn a_range_shows_the_rooms_in_which_something_happened_last() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let first = alice.creates_open_room().await;
    let second = alice.creates_open_room().await;
    let third = alice.creates_open_room().await;
    let mut connection = alice.lists(&list([0, 0], 1, &json!([])));

    let newest = connection.next().await;
    assert_eq!(rooms(&newest), [third.as_str()]);
    assert_eq!(newest["lists"]["all"]["count"], 3);
    assert_eq!(newest["rooms"][&third]["lists"], json!(["all"]));

    // Rooms that enter the range are sent, and rooms that leave it are not.
    alice.says(&first, "up").await;
    let moved = connection.next().await;
    assert_eq!(rooms(&moved), [first.as_str()]);
    assert_eq!(moved["rooms"][&first]["initial"], true);

    connection.body["lists"]["all"]["ranges"] = json!([[0, 0], [2, 2]]);
    let grown = connection.next().await;
    assert_eq!(rooms(&grown), [second.as_str()]);
}

#[tokio::test]
async fn a_room_that_comes_back_into_sight_goes_on_where_it_went_out() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let one = alice.creates_open_room().await;
    let other = alice.creates_open_room().await;
    alice.says(&one, "seen").await;
    let mut connection = alice.lists(&list([0, 0], 10, &json!([["m.room.topic", ""]])));
    connection.next().await;

    alice.says(&other, "in front").await;
    connection.next().await;
    let topic = json!({ "topic": "unseen" });
    alice.sets(&one, "m.room.topic", topic).await;
    alice.says(&other, "in front again").await;
    let out_of_sight = connection.next().await;
    alice.says(&one, "back").await;
    let back = connection.next().await;

    assert_eq!(rooms(&out_of_sight), [other.as_str()]);
    let room = &back["rooms"][&one];
    assert!(room["initial"].is_null() && room["limited"].is_null());
    assert_eq!(types(&room["timeline"]), ["m.room.topic", "m.room.message"]);
    assert_eq!(types(&room["required_state"]), ["m.room.topic"]);
}

#[tokio::test]
async fn a_list_without_a_range_shows_all() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    for _ in 0..3 {
        alice.creates_open_room().await;
    }

    let list = json!({ "timeline_limit": 1, "required_state": { "include": [] } });
    let all = alice.lists(&list).next().await;

    assert_eq!(rooms(&all).len(), 3);
}

#[tokio::test]
async fn lists_are_filtered_by_what_a_room_is() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let plain = alice.creates_open_room().await;
    let space = json!({ "creation_content": { "type": "m.space" } });
    let space = alice.creates(space).await;
    let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    let state = json!({ "type": "m.room.encryption", "content": encryption });
    let secret = alice.creates(json!({ "initial_state": [state] })).await;
    let only = |room: &String| (vec![room.clone()], 1);

    assert_eq!(filtered(&alice, json!({})).await.1, 3);
    let spaces = json!({ "room_types": ["m.space"] });
    assert_eq!(filtered(&alice, spaces).await, only(&space));
    let rooms = json!({ "room_types": [null], "is_encrypted": false });
    assert_eq!(filtered(&alice, rooms).await, only(&plain));
    let no_spaces = json!({ "not_room_types": ["m.space"], "is_encrypted": true });
    assert_eq!(filtered(&alice, no_spaces).await, only(&secret));
    let both = json!({ "room_types": ["m.space"], "not_room_types": ["m.space"] });
    assert_eq!(filtered(&alice, both).await.1, 0);

    // The result is the same after loading from disk.
    let server = server.restart().await;
    let alice = alice.at(&server);
    let encrypted = json!({ "is_encrypted": true });
    assert_eq!(filtered(&alice, encrypted).await, only(&secret));
    let spaces = json!({ "room_types": ["m.space"] });
    assert_eq!(filtered(&alice, spaces).await, only(&space));
}

#[tokio::test]
async fn lists_are_filtered_by_what_the_user_says_of_rooms() {
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
        filtered(&alice, json!({ "is_dm": true })).await,
        only(&direct)
    );
    assert_eq!(
        filtered(&alice, json!({ "is_dm": false })).await,
        only(&plain)
    );
    let favourites = json!({ "tags": ["m.favourite", "u.other"] });
    assert_eq!(filtered(&alice, favourites).await, only(&plain));
    let others = json!({ "not_tags": ["m.favourite"] });
    assert_eq!(filtered(&alice, others).await, only(&direct));
    let both = json!({ "tags": ["m.favourite"], "not_tags": ["m.favourite"] });
    assert_eq!(filtered(&alice, both).await.1, 0);
}

#[tokio::test]
async fn lists_are_filtered_by_the_spaces_that_rooms_are_in() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let child = alice.creates_open_room().await;
    let other = alice.creates_open_room().await;
    let space = json!({ "creation_content": { "type": "m.space" }, "preset": "public_chat" });
    let space = alice.creates(space).await;
    let link = format!("m.space.child/{child}");
    alice
        .sets(&space, &link, json!({ "via": ["localhost"] }))
        .await;
    for room in [&child, &other] {
        bob.joins(room).await;
    }

    let in_space = json!({ "spaces": [space, "!unknown:localhost"] });
    assert_eq!(
        filtered(&alice, in_space.clone()).await,
        (vec![child.clone()], 1)
    );
    // Bob is not a member of the space.
    assert_eq!(filtered(&bob, in_space.clone()).await.1, 0);
    alice.sets(&space, &link, json!({})).await;
    assert_eq!(filtered(&alice, in_space).await.1, 0);
}

#[tokio::test]
async fn an_invitation_is_told_with_what_one_may_know() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({ "name": "Party" })).await;
    let mut connection = bob.lists(&list([0, 9], 5, &json!([["*", "*"]])));
    connection.next().await;

    alice.invites(&room, &bob).await;
    let invited = connection.next().await;
    alice.says(&room, "secret").await;
    let nothing = connection.next().await;
    bob.joins(&room).await;
    let joined = connection.next().await;

    let told = &invited["rooms"][&room];
    assert_eq!(told["membership"], "invite");
    assert_eq!(told["initial"], true);
    assert!(types(&told["invite_state"]).contains(&"m.room.name"));
    assert_eq!(told["invite_state"], told["stripped_state"]);
    assert!(told["timeline"].is_null() && told["required_state"].is_null());
    assert!(told["name"].is_null());
    assert!(rooms(&nothing).is_empty());
    let told = &joined["rooms"][&room];
    assert_eq!(told["membership"], "join");
    assert_eq!(
        (&told["initial"], &told["name"]),
        (&json!(true), &json!("Party"))
    );
    assert!(told["invite_state"].is_null());
    assert_eq!(filtered(&bob, json!({ "is_invite": true })).await.1, 0);
}

#[tokio::test]
async fn invitations_are_a_list_of_their_own() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let mine = bob.creates_open_room().await;
    let room = alice.creates(json!({})).await;
    alice.invites(&room, &bob).await;

    for name in ["is_invite", "is_invited"] {
        let invited = filtered(&bob, json!({ name: true })).await;
        assert_eq!(invited, (vec![room.clone()], 1));
        let others = filtered(&bob, json!({ name: false })).await;
        assert_eq!(others, (vec![mine.clone()], 1));
    }
    let ignored = json!({ "ignored_users": { alice.id.clone(): {} } });
    set_account_data(&bob, "account_data/m.ignored_user_list", ignored).await;
    assert_eq!(filtered(&bob, json!({ "is_invite": true })).await.1, 0);
}

#[tokio::test]
async fn a_knock_is_told_like_an_invitation() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let rule = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let room = alice.creates(json!({ "initial_state": [rule] })).await;
    let mut connection = bob.lists_all();
    connection.next().await;

    let path = format!("/_matrix/client/v3/knock/{room}");
    bob.client.post(&path, json!({})).await.expect_ok();
    let knocked = connection.next().await;

    let told = &knocked["rooms"][&room];
    assert_eq!(told["membership"], "knock");
    assert!(types(&told["invite_state"]).contains(&"m.room.member"));
}

#[tokio::test]
async fn a_room_that_one_left_is_told_once_to_those_who_know_it() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let mut connection = bob.lists(&list([0, 9], 5, &json!([["m.room.member", "$ME"]])));
    connection.next().await;

    alice.says(&room, "stay").await;
    bob.leaves(&room).await;
    alice.says(&room, "unheard").await;
    let left = connection.next().await;
    alice.says(&room, "unheard").await;
    let after = connection.next().await;
    let anew = bob.lists_all().next().await;

    let told = &left["rooms"][&room];
    assert_eq!(told["membership"], "leave");
    assert_eq!(
        types(&told["timeline"]),
        ["m.room.message", "m.room.member"]
    );
    assert_eq!(members(&left, &room), [bob.id.as_str()]);
    assert_eq!(told["required_state"][0]["content"]["membership"], "leave");
    assert!(told["initial"].is_null());
    assert!(rooms(&after).is_empty() && rooms(&anew).is_empty());
}

#[tokio::test]
async fn who_was_banned_is_told_even_on_a_new_connection() {
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

    let mut connection = bob.lists(&list([0, 9], 2, &json!([["m.room.member", "*"]])));
    let told = connection.next().await;

    let room_told = &told["rooms"][&room];
    assert_eq!(room_told["membership"], "ban");
    assert_eq!(room_told["initial"], true);
    assert_eq!(
        types(&room_told["timeline"]),
        ["m.room.message", "m.room.member"]
    );
    // Carol was banned after Bob, and was never in the room.
    assert_eq!(members(&told, &room), [alice.id.as_str(), bob.id.as_str()]);
    assert!(rooms(&carol.lists_all().next().await).is_empty());
    // The result is the same after loading from disk.
    let server = server.restart().await;
    let (bob, carol) = (bob.at(&server), carol.at(&server));
    assert_eq!(rooms(&bob.lists_all().next().await), [room.as_str()]);
    assert!(rooms(&carol.lists_all().next().await).is_empty());
    bob.forgets(&room).await;
    assert!(rooms(&bob.lists_all().next().await).is_empty());
}

#[tokio::test]
async fn who_turned_an_invitation_down_learns_no_more_than_that() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({ "name": "Party" })).await;
    alice.invites(&room, &bob).await;
    let mut connection = bob.lists(&list([0, 9], 5, &json!([["*", "*"]])));
    connection.next().await;

    alice.says(&room, "secret").await;
    bob.leaves(&room).await;
    let left = connection.next().await;

    let told = &left["rooms"][&room];
    assert_eq!(told["membership"], "leave");
    assert_eq!(members(&left, &room), [bob.id.as_str()]);
    assert_eq!(told["required_state"].as_array().map(Vec::len), Some(1));
    assert!(told["timeline"].is_null() && told["invite_state"].is_null());
}

#[tokio::test]
async fn a_subscription_tells_of_a_room_wherever_it_stands() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let watched = alice.creates(json!({ "topic": "Topic" })).await;
    alice.creates_open_room().await;
    let foreign = bob.creates_open_room().await;
    let mut connection = alice.lists(&list([0, 0], 1, &json!([])));
    connection.next().await;

    let config = json!({ "timeline_limit": 10, "required_state": [["m.room.topic", ""]] });
    connection.body["room_subscriptions"] =
        json!({ &watched: config, &foreign: config, "!unknown:localhost": config });
    let subscribed = connection.next().await;
    let again = connection.next().await;
    connection.body["room_subscriptions"] = json!({});
    alice.says(&watched, "in front").await;
    let listed = connection.next().await;

    assert_eq!(rooms(&subscribed), [watched.as_str()]);
    let told = &subscribed["rooms"][&watched];
    assert_eq!(types(&told["required_state"]), ["m.room.topic"]);
    assert!(told["lists"].is_null());
    assert!(rooms(&again).is_empty());
    let told = &listed["rooms"][&watched];
    assert_eq!(said(&told["timeline"]), ["in front"]);
    assert!(told["initial"].is_null());
}

#[tokio::test]
async fn who_left_may_look_back_by_a_subscription_until_they_forget() {
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

    let told = bob.asks_for(body.clone()).next().await;
    bob.forgets(&room).await;
    let forgotten = bob.asks_for(body).next().await;

    assert_eq!(said(&told["rooms"][&room]["timeline"]), ["heard"]);
    assert!(rooms(&forgotten).is_empty());
}
