//! Tests the rooms in sliding sync: their timeline, their state and their summary fields.

use serde_json::{Value, json};

use crate::{
    chat::{each, ids, said, types},
    harness::{Server, User},
    sliding::{list, members, rooms, state_keys},
};

/// Returns required state with the members of the timeline and the user's own member event.
fn lazily() -> Value {
    json!([
        ["m.room.member", "$LAZY"],
        ["m.room.member", "$ME"],
        ["m.room.name", ""]
    ])
}

async fn says_many(user: &User, room: &str, count: usize) {
    for n in 0..count {
        user.says(room, &n.to_string()).await;
    }
}

#[tokio::test]
async fn a_timeline_is_limited_where_events_lack() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    says_many(&alice, &room, 3).await;
    let mut connection = alice.lists(&list([0, 9], 2, &json!([])));

    let first = connection.next().await;
    says_many(&alice, &room, 2).await;
    let all = connection.next().await;
    says_many(&alice, &room, 4).await;
    let some = connection.next().await;

    let told = &first["rooms"][&room];
    assert_eq!(said(&told["timeline"]), ["1", "2"]);
    assert_eq!(
        (&told["limited"], &told["num_live"]),
        (&json!(true), &json!(0))
    );
    let before = told["prev_batch"].as_str().expect("a token");
    let page = alice
        .messages(&room, &format!("dir=b&limit=1&from={before}"))
        .await;
    assert_eq!(said(&page["chunk"]), ["0"]);
    let told = &all["rooms"][&room];
    assert_eq!(said(&told["timeline"]), ["0", "1"]);
    assert!(told["limited"].is_null());
    assert_eq!(told["num_live"], 2);
    let told = &some["rooms"][&room];
    assert_eq!(said(&told["timeline"]), ["2", "3"]);
    assert_eq!(
        (&told["limited"], &told["num_live"]),
        (&json!(true), &json!(2))
    );
}

#[tokio::test]
async fn who_asks_for_more_events_gets_those_that_they_lack() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    says_many(&alice, &room, 5).await;
    let mut connection = alice.lists(&list([0, 9], 1, &json!([])));
    connection.next().await;
    alice.says(&room, "5").await;
    connection.next().await;

    // The client has two events: the last of the first answer and the one after it.
    connection.body["lists"]["all"]["timeline_limit"] = json!(2);
    let nothing = connection.next().await;
    connection.body["lists"]["all"]["timeline_limit"] = json!(4);
    let more = connection.next().await;
    connection.body["lists"]["all"]["timeline_limit"] = json!(1);
    connection.next().await;
    connection.body["lists"]["all"]["timeline_limit"] = json!(4);
    let again = connection.next().await;

    assert!(rooms(&nothing).is_empty());
    let told = &more["rooms"][&room];
    assert_eq!(said(&told["timeline"]), ["2", "3", "4", "5"]);
    assert_eq!(told["expanded_timeline"], true);
    assert_eq!(told["unstable_expanded_timeline"], true);
    assert!(told["initial"].is_null());
    assert_eq!(told["num_live"], 0);
    assert!(rooms(&again).is_empty());
}

#[tokio::test]
async fn a_subscription_asks_for_more_of_a_room_that_is_listed() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({ "topic": "Topic" })).await;
    says_many(&alice, &room, 5).await;
    let mut connection = alice.lists(&list([0, 9], 1, &json!([["m.room.create", ""]])));
    connection.next().await;

    let config = json!({ "timeline_limit": 3, "required_state": [["m.room.topic", ""]] });
    connection.body["room_subscriptions"] = json!({ &room: config });
    let opened = connection.next().await;

    let told = &opened["rooms"][&room];
    assert_eq!(said(&told["timeline"]), ["2", "3", "4"]);
    assert_eq!(types(&told["required_state"]), ["m.room.topic"]);
    assert_eq!(told["lists"], json!(["all"]));
    assert!(rooms(&connection.next().await).is_empty());
}

#[tokio::test]
async fn all_of_a_short_room_is_not_limited() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;

    let all = alice.lists(&list([0, 9], 100, &json!([]))).next().await;

    let told = &all["rooms"][&room];
    assert!(told["limited"].is_null());
    assert_eq!(types(&told["timeline"])[0], "m.room.create");
}

#[tokio::test]
async fn state_is_told_as_it_was_asked_for_and_then_as_it_changes() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({ "name": "One", "topic": "T" })).await;
    for key in ["a", "b"] {
        let kind = format!("org.matrix.msc3401.call.member/{key}");
        alice.sets(&room, &kind, json!({ "n": 1 })).await;
    }
    let required = json!([
        ["m.room.name", ""],
        ["org.matrix.msc3401.call.member", "*"],
        ["m.room.tombstone", ""],
    ]);
    let mut connection = alice.lists(&list([0, 9], 1, &required));
    let first = connection.next().await;
    alice
        .sets(&room, "m.room.name", json!({ "name": "Two" }))
        .await;
    alice
        .sets(&room, "m.room.topic", json!({ "topic": "U" }))
        .await;
    let second = connection.next().await;
    connection.body["lists"]["all"]["required_state"] =
        json!([["m.room.name", ""], ["m.room.topic", ""]]);
    let other = connection.next().await;

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
    assert_eq!(types(&second["rooms"][&room]["timeline"]), ["m.room.topic"]);
    let state = &second["rooms"][&room]["required_state"];
    assert_eq!(each(state, "/content/name"), ["Two"]);
    assert_eq!(types(state), ["m.room.name"]);
    let state = &other["rooms"][&room]["required_state"];
    assert_eq!(each(state, "/content/topic"), ["U"]);
    assert_eq!(types(state), ["m.room.topic"]);
}

#[tokio::test]
async fn state_may_be_asked_for_in_the_form_of_the_proposal() {
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
    let told = bob.lists(&list).next().await;

    let state = state_keys(&told, &room);
    assert!(state.iter().any(|(kind, _)| kind == "m.room.join_rules"));
    assert!(!state.iter().any(|(kind, _)| kind == "m.room.create"));
    assert_eq!(members(&told, &room), [alice.id.as_str(), bob.id.as_str()]);
}

#[tokio::test]
async fn members_are_told_when_the_timeline_needs_them() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    carol.joins(&room).await;
    alice.says(&room, "hi").await;
    let mut connection = bob.lists(&list([0, 9], 2, &lazily()));

    // The timeline has Carol's join and Alice's message.
    let first = connection.next().await;
    assert_eq!(
        members(&first, &room),
        [alice.id.as_str(), bob.id.as_str(), carol.id.as_str()]
    );
    alice.says(&room, "again").await;
    assert!(members(&connection.next().await, &room).is_empty());
    // Without missing events, every change of a member is sent.
    alice.bans(&room, &carol).await;
    let banned = connection.next().await;
    assert_eq!(members(&banned, &room), [carol.id.as_str()]);
    // With missing events, the client starts again with the members in the timeline.
    says_many(&alice, &room, 3).await;
    let limited = connection.next().await;
    assert_eq!(limited["rooms"][&room]["limited"], true);
    assert_eq!(members(&limited, &room), [alice.id.as_str()]);
}

#[tokio::test]
async fn what_a_room_is_called_is_told_when_it_changes() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    let name = format!("/_matrix/client/v3/profile/{}/displayname", bob.id);
    let named = bob.client.put(&name, json!({ "displayname": "Bob" })).await;
    named.expect_ok();
    bob.joins(&room).await;
    let mut connection = alice.lists_all();

    let unnamed = connection.next().await;
    let told = &unnamed["rooms"][&room];
    let hero = json!({ "user_id": bob.id, "displayname": "Bob" });
    assert_eq!(told["heroes"], json!([hero]));
    assert!(told["name"].is_null());
    assert_eq!(
        (&told["joined_count"], &told["invited_count"]),
        (&json!(2), &json!(0))
    );

    alice
        .sets(&room, "m.room.name", json!({ "name": "Name" }))
        .await;
    let url = json!({ "url": "mxc://localhost/a" });
    alice.sets(&room, "m.room.avatar", url).await;
    let named = connection.next().await;
    let told = &named["rooms"][&room];
    assert_eq!(told["name"], "Name");
    assert_eq!(told["avatar"], "mxc://localhost/a");
    assert!(told["heroes"].is_null() && told["joined_count"].is_null());

    alice.sets(&room, "m.room.name", json!({})).await;
    alice.sets(&room, "m.room.avatar", json!({})).await;
    let unnamed = connection.next().await;
    let told = unnamed["rooms"][&room].as_object().expect("a room");
    assert_eq!(told.get("name"), Some(&Value::Null));
    assert_eq!(told.get("avatar"), Some(&Value::Null));
    assert_eq!(told.get("heroes"), Some(&json!([hero])));

    bob.leaves(&room).await;
    let told = connection.next().await;
    assert_eq!(told["rooms"][&room]["joined_count"], 1);
}

#[tokio::test]
async fn unread_messages_are_counted_and_reading_them_is_told() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let mut connection = bob.lists_all();
    connection.next().await;
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
    let unread = connection.next().await;
    bob.has_read(&room, sent["event_id"].as_str().expect("an ID"))
        .await;
    let read = connection.next().await;

    assert_eq!(counts(&unread), (Some(2), Some(1)));
    assert_eq!(counts(&read), (Some(0), Some(0)));
    assert!(read["rooms"][&room]["timeline"].is_null());
    assert!(rooms(&connection.next().await).is_empty());
}

#[tokio::test]
async fn a_direct_chat_is_told_to_be_one() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let path = format!("/_matrix/client/v3/user/{}/account_data/m.direct", alice.id);
    let mut connection = alice.lists_all();
    let before = connection.next().await;

    let direct = json!({ "@bob:localhost": [room] });
    alice.client.put(&path, direct).await.expect_ok();
    let direct = connection.next().await;
    alice.client.put(&path, json!({})).await.expect_ok();
    let ordinary = connection.next().await;

    assert!(before["rooms"][&room]["is_dm"].is_null());
    assert_eq!(direct["rooms"][&room]["is_dm"], true);
    assert_eq!(ordinary["rooms"][&room]["is_dm"], false);
}

#[tokio::test]
async fn a_room_moves_up_when_somebody_says_something() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    let mut connection = alice.lists_all();
    let stamp = |answer: &Value| answer["rooms"][&room]["bump_stamp"].as_u64();

    let created = stamp(&connection.next().await);
    bob.joins(&room).await;
    let joined = stamp(&connection.next().await);
    bob.says(&room, "hi").await;
    let said = stamp(&connection.next().await);

    assert!(created.is_some());
    assert_eq!(joined, created);
    assert!(said > joined);
}

#[tokio::test]
async fn the_sender_finds_their_transaction_and_others_do_not() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let laptop = server.log_in("alice").await;
    alice.says(&room, "hi").await;

    let here = alice.lists_all().next().await;
    let there = laptop.lists_all().next().await;

    let txn_id = |answer: &Value| {
        let event = &answer["rooms"][&room]["timeline"][0];
        event["unsigned"]["transaction_id"].is_string()
    };
    assert!(txn_id(&here) && !txn_id(&there));
}

#[tokio::test]
async fn aggregations_come_with_their_events() {
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

    let told = alice.lists(&list([0, 9], 2, &json!([]))).next().await;

    let event = &told["rooms"][&room]["timeline"][0];
    let replaced = &event["unsigned"]["m.relations"]["m.replace"];
    assert_eq!(replaced["content"]["m.new_content"]["body"], "two");
}

#[tokio::test]
async fn history_from_before_one_came_stays_hidden() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_room_with_history("joined").await;
    alice.says(&room, "hidden").await;
    bob.joins(&room).await;
    alice.says(&room, "visible").await;

    let told = bob.lists(&list([0, 9], 50, &json!([]))).next().await;

    let told = &told["rooms"][&room];
    assert_eq!(said(&told["timeline"]), ["visible"]);
    // The first events are visible to every later member.
    assert_eq!(types(&told["timeline"])[0], "m.room.create");
}

#[tokio::test]
async fn ignored_users_are_not_heard_and_move_nothing_up() {
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
    let mut connection = alice.lists(&list([0, 9], 5, &json!([])));
    let first = connection.next().await;

    bob.says(&room, "unheard").await;
    let second = connection.next().await;
    alice.says(&room, "heard").await;
    let third = connection.next().await;

    assert!(first["rooms"][&room]["bump_stamp"].is_u64());
    assert!(rooms(&second).is_empty());
    assert_eq!(said(&third["rooms"][&room]["timeline"]), ["heard"]);
}

#[tokio::test]
async fn who_comes_back_begins_with_the_room_anew() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let mut connection = bob.lists(&list([0, 9], 3, &json!([["m.room.create", ""]])));
    connection.next().await;
    bob.leaves(&room).await;
    connection.next().await;
    says_many(&alice, &room, 3).await;
    bob.joins(&room).await;

    let back = connection.next().await;

    let told = &back["rooms"][&room];
    assert_eq!(told["membership"], "join");
    assert_eq!(
        (&told["initial"], &told["limited"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(types(&told["required_state"]), ["m.room.create"]);
    assert_eq!(ids(&told["timeline"]).len(), 3);
}
