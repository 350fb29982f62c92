//! Tests the rooms in sliding sync: their timeline, their state and their summary fields.

use serde_json::{Value, json};

use crate::{
    chat::{event_ids, event_types, message_bodies, texts_at},
    harness::{Server, User},
    sliding::{list_config, member_ids, room_ids, state_keys},
};

/// Returns required state with the members of the timeline and the user's own member event.
fn lazy_required_state() -> Value {
    json!([
        ["m.room.member", "$LAZY"],
        ["m.room.member", "$ME"],
        ["m.room.name", ""]
    ])
}

async fn send_messages(user: &User, room: &str, count: usize) {
    for n in 0..count {
        user.says(room, &n.to_string()).await;
    }
}

#[tokio::test]
async fn a_timeline_with_missing_events_is_limited() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    send_messages(&alice, &room, 3).await;
    let mut connection = alice.opens_list(&list_config([0, 9], 2, &json!([])));

    let first = connection.poll().await;
    send_messages(&alice, &room, 2).await;
    let all = connection.poll().await;
    send_messages(&alice, &room, 4).await;
    let some = connection.poll().await;

    let told = &first["rooms"][&room];
    assert_eq!(message_bodies(&told["timeline"]), ["1", "2"]);
    assert_eq!(
        (&told["limited"], &told["num_live"]),
        (&json!(true), &json!(0))
    );
    let before = told["prev_batch"].as_str().expect("a token");
    let page = alice
        .messages(&room, &format!("dir=b&limit=1&from={before}"))
        .await;
    assert_eq!(message_bodies(&page["chunk"]), ["0"]);
    let told = &all["rooms"][&room];
    assert_eq!(message_bodies(&told["timeline"]), ["0", "1"]);
    assert!(told["limited"].is_null());
    assert_eq!(told["num_live"], 2);
    let told = &some["rooms"][&room];
    assert_eq!(message_bodies(&told["timeline"]), ["2", "3"]);
    assert_eq!(
        (&told["limited"], &told["num_live"]),
        (&json!(true), &json!(2))
    );
}

#[tokio::test]
async fn a_larger_timeline_limit_sends_the_missing_events() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    send_messages(&alice, &room, 5).await;
    let mut connection = alice.opens_list(&list_config([0, 9], 1, &json!([])));
    connection.poll().await;
    alice.says(&room, "5").await;
    connection.poll().await;

    // The client has two events: the last of the first answer and the one after it.
    connection.body["lists"]["all"]["timeline_limit"] = json!(2);
    let nothing = connection.poll().await;
    connection.body["lists"]["all"]["timeline_limit"] = json!(4);
    let more = connection.poll().await;
    connection.body["lists"]["all"]["timeline_limit"] = json!(1);
    connection.poll().await;
    connection.body["lists"]["all"]["timeline_limit"] = json!(4);
    let again = connection.poll().await;

    assert!(room_ids(&nothing).is_empty());
    let told = &more["rooms"][&room];
    assert_eq!(message_bodies(&told["timeline"]), ["2", "3", "4", "5"]);
    assert_eq!(told["expanded_timeline"], true);
    assert_eq!(told["unstable_expanded_timeline"], true);
    assert!(told["initial"].is_null());
    assert_eq!(told["num_live"], 0);
    assert!(room_ids(&again).is_empty());
}

#[tokio::test]
async fn a_subscription_expands_a_listed_room() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({ "topic": "Topic" })).await;
    send_messages(&alice, &room, 5).await;
    let mut connection = alice.opens_list(&list_config([0, 9], 1, &json!([["m.room.create", ""]])));
    connection.poll().await;

    let config = json!({ "timeline_limit": 3, "required_state": [["m.room.topic", ""]] });
    connection.body["room_subscriptions"] = json!({ &room: config });
    let opened = connection.poll().await;

    let told = &opened["rooms"][&room];
    assert_eq!(message_bodies(&told["timeline"]), ["2", "3", "4"]);
    assert_eq!(event_types(&told["required_state"]), ["m.room.topic"]);
    assert_eq!(told["lists"], json!(["all"]));
    assert!(room_ids(&connection.poll().await).is_empty());
}

#[tokio::test]
async fn a_complete_timeline_is_not_limited() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;

    let all = alice
        .opens_list(&list_config([0, 9], 100, &json!([])))
        .poll()
        .await;

    let told = &all["rooms"][&room];
    assert!(told["limited"].is_null());
    assert_eq!(event_types(&told["timeline"])[0], "m.room.create");
}

#[tokio::test]
async fn required_state_is_sent_first_and_on_changes() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({ "name": "One", "topic": "T" })).await;
    for key in ["a", "b"] {
        let kind = format!("org.matrix.msc3401.call.member/{key}");
        alice.sets_state(&room, &kind, json!({ "n": 1 })).await;
    }
    let required = json!([
        ["m.room.name", ""],
        ["org.matrix.msc3401.call.member", "*"],
        ["m.room.tombstone", ""],
    ]);
    let mut connection = alice.opens_list(&list_config([0, 9], 1, &required));
    let first = connection.poll().await;
    alice
        .sets_state(&room, "m.room.name", json!({ "name": "Two" }))
        .await;
    alice
        .sets_state(&room, "m.room.topic", json!({ "topic": "U" }))
        .await;
    let second = connection.poll().await;
    connection.body["lists"]["all"]["required_state"] =
        json!([["m.room.name", ""], ["m.room.topic", ""]]);
    let other = connection.poll().await;

    let pairs = |keys: Vec<(String, String)>| -> Vec<String> {
        keys.into_iter().map(|(kind, key)| kind + &key).collect()
    };
    assert_eq!(
        pairs(state_keys(&first, &room)),
        [
            "m.room.name",
            "org.matrix.msc3401.call.membera",
            "org.matrix.msc3401.call.memberb"
        ]
    );
    // The timeline is too short for the new name, but the state contains it.
    assert_eq!(
        event_types(&second["rooms"][&room]["timeline"]),
        ["m.room.topic"]
    );
    let state = &second["rooms"][&room]["required_state"];
    assert_eq!(texts_at(state, "/content/name"), ["Two"]);
    assert_eq!(event_types(state), ["m.room.name"]);
    let state = &other["rooms"][&room]["required_state"];
    assert_eq!(texts_at(state, "/content/topic"), ["U"]);
    assert_eq!(event_types(state), ["m.room.topic"]);
}

#[tokio::test]
async fn required_state_is_accepted_in_the_form_of_the_proposal() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    alice.says(&room, "hi").await;

    let me = json!({ "type": "m.room.member", "state_key": bob.id });
    let required = json!({
        "include": [{}, me], "exclude": [{ "type": "m.room.create" }], "lazy_members": true,
    });
    let list = json!({ "range": [0, 9], "timeline_limit": 1, "required_state": required });
    let told = bob.opens_list(&list).poll().await;

    let state = state_keys(&told, &room);
    assert!(state.iter().any(|(kind, _)| kind == "m.room.join_rules"));
    assert!(!state.iter().any(|(kind, _)| kind == "m.room.create"));
    assert_eq!(
        member_ids(&told, &room),
        [alice.id.as_str(), bob.id.as_str()]
    );
}

#[tokio::test]
async fn lazy_members_are_sent_with_their_timeline_events() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    carol.joins(&room).await;
    alice.says(&room, "hi").await;
    let mut connection = bob.opens_list(&list_config([0, 9], 2, &lazy_required_state()));

    // The timeline has Carol's join and Alice's message.
    let first = connection.poll().await;
    assert_eq!(
        member_ids(&first, &room),
        [alice.id.as_str(), bob.id.as_str(), carol.id.as_str()]
    );
    alice.says(&room, "again").await;
    assert!(member_ids(&connection.poll().await, &room).is_empty());
    // Without missing events, every change of a member is sent.
    alice.bans(&room, &carol).await;
    let banned = connection.poll().await;
    assert_eq!(member_ids(&banned, &room), [carol.id.as_str()]);
    // With missing events, the client starts again with the members in the timeline.
    send_messages(&alice, &room, 3).await;
    let limited = connection.poll().await;
    assert_eq!(limited["rooms"][&room]["limited"], true);
    assert_eq!(member_ids(&limited, &room), [alice.id.as_str()]);
}

#[tokio::test]
async fn room_names_and_heroes_are_sent_on_changes() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    let name = format!("/_matrix/client/v3/profile/{}/displayname", bob.id);
    let named = bob.client.put(&name, json!({ "displayname": "Bob" })).await;
    named.expect_ok();
    bob.joins(&room).await;
    let mut connection = alice.opens_all_rooms_list();

    let unnamed = connection.poll().await;
    let told = &unnamed["rooms"][&room];
    let hero = json!({ "user_id": bob.id, "displayname": "Bob" });
    assert_eq!(told["heroes"], json!([hero]));
    assert!(told["name"].is_null());
    assert_eq!(
        (&told["joined_count"], &told["invited_count"]),
        (&json!(2), &json!(0))
    );

    alice
        .sets_state(&room, "m.room.name", json!({ "name": "Name" }))
        .await;
    let url = json!({ "url": "mxc://localhost/a" });
    alice.sets_state(&room, "m.room.avatar", url).await;
    let named = connection.poll().await;
    let told = &named["rooms"][&room];
    assert_eq!(told["name"], "Name");
    assert_eq!(told["avatar"], "mxc://localhost/a");
    assert!(told["heroes"].is_null() && told["joined_count"].is_null());

    alice.sets_state(&room, "m.room.name", json!({})).await;
    alice.sets_state(&room, "m.room.avatar", json!({})).await;
    let unnamed = connection.poll().await;
    let told = unnamed["rooms"][&room].as_object().expect("a room");
    assert_eq!(told.get("name"), Some(&Value::Null));
    assert_eq!(told.get("avatar"), Some(&Value::Null));
    assert_eq!(told.get("heroes"), Some(&json!([hero])));

    bob.leaves(&room).await;
    let told = connection.poll().await;
    assert_eq!(told["rooms"][&room]["joined_count"], 1);
}

#[tokio::test]
async fn unread_counts_are_sent_on_changes() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let mut connection = bob.opens_all_rooms_list();
    connection.poll().await;
    let counts = |answer: &Value| {
        let told = &answer["rooms"][&room];
        let count = |name: &str| told[name].as_u64();
        (count("notification_count"), count("highlight_count"))
    };

    alice.says(&room, "one").await;
    let mention = json!({
        "msgtype": "m.text", "body": "you", "m.mentions": { "user_ids": [bob.id] },
    });
    let sent = alice.tries_to_send(&room, "m.room.message", mention).await;
    let sent = sent.expect_ok();
    let unread = connection.poll().await;
    bob.sends_read_receipt(&room, sent["event_id"].as_str().expect("an ID"))
        .await;
    let read = connection.poll().await;

    assert_eq!(counts(&unread), (Some(2), Some(1)));
    assert_eq!(counts(&read), (Some(0), Some(0)));
    assert!(read["rooms"][&room]["timeline"].is_null());
    assert!(room_ids(&connection.poll().await).is_empty());
}

#[tokio::test]
async fn a_direct_chat_is_marked() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let path = format!("/_matrix/client/v3/user/{}/account_data/m.direct", alice.id);
    let mut connection = alice.opens_all_rooms_list();
    let before = connection.poll().await;

    let direct = json!({ "@bob:localhost": [room] });
    alice.client.put(&path, direct).await.expect_ok();
    let direct = connection.poll().await;
    alice.client.put(&path, json!({})).await.expect_ok();
    let ordinary = connection.poll().await;

    assert!(before["rooms"][&room]["is_dm"].is_null());
    assert_eq!(direct["rooms"][&room]["is_dm"], true);
    assert_eq!(ordinary["rooms"][&room]["is_dm"], false);
}

#[tokio::test]
async fn a_message_increases_the_bump_stamp() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    let mut connection = alice.opens_all_rooms_list();
    let stamp = |answer: &Value| answer["rooms"][&room]["bump_stamp"].as_u64();

    let created = stamp(&connection.poll().await);
    bob.joins(&room).await;
    let joined = stamp(&connection.poll().await);
    bob.says(&room, "hi").await;
    let said = stamp(&connection.poll().await);

    assert!(created.is_some());
    assert_eq!(joined, created);
    assert!(said > joined);
}

#[tokio::test]
async fn only_the_sending_device_sees_the_transaction_id() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let laptop = server.log_in("alice").await;
    alice.says(&room, "hi").await;

    let here = alice.opens_all_rooms_list().poll().await;
    let there = laptop.opens_all_rooms_list().poll().await;

    let txn_id = |answer: &Value| {
        let event = &answer["rooms"][&room]["timeline"][0];
        event["unsigned"]["transaction_id"].is_string()
    };
    assert!(txn_id(&here) && !txn_id(&there));
}

#[tokio::test]
async fn events_have_bundled_aggregations() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let original = alice.says(&room, "one").await;
    let edit = json!({
        "msgtype": "m.text", "body": "* two", "m.new_content": { "msgtype": "m.text", "body": "two" },
        "m.relates_to": { "rel_type": "m.replace", "event_id": original },
    });
    alice
        .tries_to_send(&room, "m.room.message", edit)
        .await
        .expect_ok();

    let told = alice
        .opens_list(&list_config([0, 9], 2, &json!([])))
        .poll()
        .await;

    let event = &told["rooms"][&room]["timeline"][0];
    let replaced = &event["unsigned"]["m.relations"]["m.replace"];
    assert_eq!(replaced["content"]["m.new_content"]["body"], "two");
}

#[tokio::test]
async fn history_before_the_join_is_hidden() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_room_with_history("joined").await;
    alice.says(&room, "hidden").await;
    bob.joins(&room).await;
    alice.says(&room, "visible").await;

    let told = bob
        .opens_list(&list_config([0, 9], 50, &json!([])))
        .poll()
        .await;

    let told = &told["rooms"][&room];
    assert_eq!(message_bodies(&told["timeline"]), ["visible"]);
    // The first events are visible to every later member.
    assert_eq!(event_types(&told["timeline"])[0], "m.room.create");
}

#[tokio::test]
async fn messages_of_ignored_users_are_hidden() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let ignored = json!({ "ignored_users": { bob.id.clone(): {} } });
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/m.ignored_user_list",
        alice.id
    );
    alice.client.put(&path, ignored).await.expect_ok();
    let mut connection = alice.opens_list(&list_config([0, 9], 5, &json!([])));
    let first = connection.poll().await;

    bob.says(&room, "unheard").await;
    let second = connection.poll().await;
    alice.says(&room, "heard").await;
    let third = connection.poll().await;

    assert!(first["rooms"][&room]["bump_stamp"].is_u64());
    assert!(room_ids(&second).is_empty());
    assert_eq!(
        message_bodies(&third["rooms"][&room]["timeline"]),
        ["heard"]
    );
}

#[tokio::test]
async fn a_rejoined_room_is_sent_as_initial() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let mut connection = bob.opens_list(&list_config([0, 9], 3, &json!([["m.room.create", ""]])));
    connection.poll().await;
    bob.leaves(&room).await;
    connection.poll().await;
    send_messages(&alice, &room, 3).await;
    bob.joins(&room).await;

    let back = connection.poll().await;

    let told = &back["rooms"][&room];
    assert_eq!(told["membership"], "join");
    assert_eq!(
        (&told["initial"], &told["limited"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(event_types(&told["required_state"]), ["m.room.create"]);
    assert_eq!(event_ids(&told["timeline"]).len(), 3);
}
