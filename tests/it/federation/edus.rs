//! EDUs of other servers: typing, receipts, presence, and to-device messages.

use serde_json::{Value, json};

use super::{Peer, peer_user::PeerEvent, transactions::SharedRoom};
use crate::{
    chat::{ephemeral_content, new_transaction, percent_encoded},
    harness::{Server, User},
};

impl Peer {
    /// Sends EDUs in one transaction.
    pub(super) async fn sends_edus(&self, server: &Server, edus: &[Value]) {
        self.sends_events_with_edus(server, &[], edus).await;
    }

    /// Sends events and EDUs in one transaction.
    pub(super) async fn sends_events_with_edus(
        &self,
        server: &Server,
        events: &[&PeerEvent],
        edus: &[Value],
    ) {
        let pdus: Vec<&Value> = events.iter().map(|made| &made.json).collect();
        let path = format!("/_matrix/federation/v1/send/{}", new_transaction());
        let body = json!({
            "origin": self.name, "origin_server_ts": 1, "pdus": pdus, "edus": edus,
        });
        self.puts(server, &path, &body).await.expect_ok();
    }
}

pub(super) fn edu(kind: &str, content: &Value) -> Value {
    json!({ "edu_type": kind, "content": content })
}

fn typing_edu(room: &str, user: &str, is_typing: bool) -> Value {
    let content = json!({ "room_id": room, "user_id": user, "typing": is_typing });
    edu("m.typing", &content)
}

fn receipt_edu(room: &str, user: &str, event_id: &str, thread: Option<&str>) -> Value {
    let mut data = json!({ "ts": 1_700_000_000_000_u64 });
    if let Some(thread) = thread {
        data["thread_id"] = json!(thread);
    }
    let read = json!({ user: { "data": data, "event_ids": [event_id] } });
    edu("m.receipt", &json!({ room: { "m.read": read } }))
}

fn presence_edu(push: &Value) -> Value {
    edu("m.presence", &json!({ "push": push }))
}

fn to_device_edu(sender: &str, id: &str, messages: &Value) -> Value {
    let content = json!({
        "sender": sender, "type": "m.hello", "message_id": id, "messages": messages,
    });
    edu("m.direct_to_device", &content)
}

/// Returns the typing users in a sync.
fn typing_users(sync: &Value, room: &str) -> Value {
    ephemeral_content(sync, room, "m.typing")["user_ids"].clone()
}

/// Returns the receipts in a sync.
fn receipts(sync: &Value, room: &str) -> Value {
    ephemeral_content(sync, room, "m.receipt").clone()
}

/// Returns the presence of a user in a sync.
fn presence_of(sync: &Value, user: &str) -> Value {
    let events = sync["presence"]["events"].as_array();
    let events = events.map(Vec::as_slice).unwrap_or_default();
    let event = events.iter().find(|event| event["sender"] == user);
    event.map_or(Value::Null, |event| event["content"].clone())
}

/// Returns the numbers in the contents of the to-device messages in a sync.
fn to_device_numbers(sync: &Value) -> Vec<u64> {
    let events = sync["to_device"]["events"].as_array();
    let events = events.map(Vec::as_slice).unwrap_or_default();
    let numbers = events.iter().map(|event| event["content"]["n"].as_u64());
    numbers.map(|number| number.expect("a number")).collect()
}

#[tokio::test]
async fn typing_on_another_server_is_shown_to_local_users() {
    let shared = SharedRoom::new().await;
    let (peer, server, room) = (&shared.peer, &shared.server, &*shared.room);
    let since = shared.alice.syncs().await;

    let edus = [typing_edu(room, &shared.bob.id, true)];
    let (told, ()) = tokio::join!(
        shared.alice.long_polls_after(&since),
        peer.sends_edus(server, &edus)
    );
    assert_eq!(typing_users(&told, room), json!([shared.bob.id]));
    peer.sends_edus(server, &[typing_edu(room, &shared.bob.id, false)])
        .await;

    let told = shared.alice.syncs_after(&told).await;
    assert_eq!(typing_users(&told, room), json!([]));
}

#[tokio::test]
async fn leaving_a_room_ends_typing() {
    let mut shared = SharedRoom::new().await;
    let (peer, server) = (&shared.peer, &shared.server);
    let typing = typing_edu(&shared.room, &shared.bob.id, true);
    peer.sends_edus(server, &[typing]).await;
    let since = shared.alice.syncs().await;

    let (key, leave) = (shared.bob.id.clone(), json!({ "membership": "leave" }));
    let left = shared
        .bob
        .makes_event(peer, "m.room.member", (Some(&key), &leave));
    peer.sends(server, &[&left]).await;

    let told = shared.alice.syncs_after(&since).await;
    assert_eq!(typing_users(&told, &shared.room), json!([]));
}

#[tokio::test]
async fn edus_for_users_of_other_servers_or_foreign_rooms_are_ignored() {
    let shared = SharedRoom::new().await;
    let (peer, server, room) = (&shared.peer, &shared.server, &*shared.room);
    let other = shared.alice.creates_open_room().await;
    let said = shared.alice.says(room, "tea").await;
    let since = shared.alice.syncs().await;

    let (alice, bob, stranger) = (&*shared.alice.id, &*shared.bob.id, peer.user("stranger"));
    let device = json!({ alice: { &*shared.alice.device_id: { "n": 1 } } });
    peer.sends_edus(
        server,
        &[
            typing_edu(room, alice, true),
            typing_edu(room, &stranger, true),
            typing_edu(&other, bob, true),
            typing_edu("!unknown:nowhere", bob, true),
            receipt_edu(room, alice, &said, None),
            receipt_edu(room, &stranger, &said, None),
            receipt_edu(&other, bob, &said, None),
            presence_edu(&json!([{ "user_id": alice, "presence": "unavailable" }])),
            to_device_edu(alice, "1", &device),
        ],
    )
    .await;

    let told = shared.alice.syncs_after(&since).await;
    assert_eq!(typing_users(&told, room), Value::Null);
    assert_eq!(typing_users(&told, &other), Value::Null);
    assert_eq!(receipts(&told, room), Value::Null);
    assert_eq!(presence_of(&told, alice), Value::Null);
    assert!(to_device_numbers(&told).is_empty());
}

#[tokio::test]
async fn edus_of_a_server_denied_by_the_room_acl_are_ignored() {
    let shared = SharedRoom::new().await;
    let (peer, server, room) = (&shared.peer, &shared.server, &*shared.room);
    let said = shared.alice.says(room, "tea").await;
    let acl = json!({ "allow": ["*"], "deny": [peer.name], "allow_ip_literals": true });
    shared
        .alice
        .sets_state(room, "m.room.server_acl", acl)
        .await;
    let since = shared.alice.syncs().await;

    let edus = [
        typing_edu(room, &shared.bob.id, true),
        receipt_edu(room, &shared.bob.id, &said, None),
    ];
    peer.sends_edus(server, &edus).await;

    let told = shared.alice.syncs_after(&since).await;
    assert_eq!(typing_users(&told, room), Value::Null);
    assert_eq!(receipts(&told, room), Value::Null);
}

#[tokio::test]
async fn malformed_edus_are_skipped_and_valid_ones_are_processed() {
    let shared = SharedRoom::new().await;
    let (peer, server, room) = (&shared.peer, &shared.server, &*shared.room);
    let since = shared.alice.syncs().await;
    let bob = &*shared.bob.id;

    let mut edus = vec![
        json!("nothing"),
        json!({ "edu_type": 3, "content": {} }),
        json!({ "edu_type": "m.typing" }),
        edu("org.example.unknown", &json!({ "a": 1 })),
    ];
    for kind in [
        "m.typing",
        "m.receipt",
        "m.presence",
        "m.direct_to_device",
        "m.device_list_update",
        "m.signing_key_update",
    ] {
        edus.extend(
            [json!([]), json!({}), json!({ "user_id": 1, "push": [1] })].map(|it| edu(kind, &it)),
        );
    }
    let half = json!([{ "user_id": "x" }, { "user_id": bob, "presence": "online" }]);
    edus.extend([presence_edu(&half), typing_edu(room, bob, true)]);
    peer.sends_edus(server, &edus).await;

    let told = shared.alice.syncs_after(&since).await;
    assert_eq!(typing_users(&told, room), json!([bob]));
    assert_eq!(presence_of(&told, bob)["presence"], "online");
}

#[tokio::test]
async fn receipts_of_another_server_keep_their_time_and_thread() {
    let shared = SharedRoom::new().await;
    let (peer, server, room) = (&shared.peer, &shared.server, &*shared.room);
    let said = shared.alice.says(room, "tea").await;
    let relation = json!({ "rel_type": "m.thread", "event_id": said });
    let reply = json!({ "msgtype": "m.text", "body": "milk", "m.relates_to": relation });
    let reply = shared
        .alice
        .tries_to_send(room, "m.room.message", reply)
        .await
        .expect_ok();
    let reply = reply["event_id"].as_str().expect("an id");
    let since = shared.alice.syncs().await;
    let bob = &*shared.bob.id;

    let edus = [
        receipt_edu(room, bob, &said, None),
        receipt_edu(room, bob, reply, Some(&said)),
        receipt_edu(room, bob, &said, Some("nonsense")),
    ];
    peer.sends_edus(server, &edus).await;

    let told = shared.alice.syncs_after(&since).await;
    let ts = 1_700_000_000_000_u64;
    let expected = json!({
        &*said: { "m.read": { bob: { "ts": ts } } },
        reply: { "m.read": { bob: { "ts": ts, "thread_id": said } } },
    });
    assert_eq!(receipts(&told, room), expected);
}

#[tokio::test]
async fn a_receipt_that_precedes_its_event_is_shown_with_the_event() {
    let mut shared = SharedRoom::new().await;
    let (peer, server) = (&shared.peer, &shared.server);
    let tea = shared.bob.says(peer, "tea");
    let (room, bob) = (&*shared.room, shared.bob.id.clone());
    peer.sends_edus(server, &[receipt_edu(room, &bob, &tea.id, None)])
        .await;
    let since = shared.alice.syncs().await;
    assert_eq!(receipts(&since, room), Value::Null);

    peer.sends(server, &[&tea]).await;

    let mut told = shared.alice.syncs_after(&since).await;
    while receipts(&told, room).is_null() {
        told = shared.alice.long_polls_after(&told).await;
    }
    assert!(receipts(&told, room)[&tea.id]["m.read"][&bob].is_object());
}

#[tokio::test]
async fn remote_presence_is_shown_only_to_users_who_share_a_room() {
    let shared = SharedRoom::new().await;
    let (peer, server) = (&shared.peer, &shared.server);
    let carol = server.register("carol").await;
    let bob = &*shared.bob.id;
    let since = (shared.alice.syncs().await, carol.syncs().await);

    let push = json!([
        {
            "user_id": bob, "presence": "online", "status_msg": "tea",
            "last_active_ago": 5_000, "currently_active": true,
        },
        { "user_id": peer.user("stranger"), "presence": "online" },
    ]);
    let edus = [presence_edu(&push)];
    let (told, ()) = tokio::join!(
        shared.alice.long_polls_after(&since.0),
        peer.sends_edus(server, &edus)
    );

    let content = presence_of(&told, bob);
    assert_eq!(content["presence"], "online");
    assert_eq!(content["status_msg"], "tea");
    assert_eq!(content["currently_active"], true);
    assert!(content["last_active_ago"].as_u64() >= Some(5_000));
    assert_eq!(
        presence_of(&carol.syncs_after(&since.1).await, bob),
        Value::Null
    );
    let status = |user: &User| {
        let path = format!(
            "/_matrix/client/v3/presence/{}/status",
            percent_encoded(bob)
        );
        let client = user.client.clone();
        async move { client.get(&path).await }
    };
    assert_eq!(status(&shared.alice).await.expect_ok()["status_msg"], "tea");
    status(&carol).await.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn to_device_messages_arrive_once_and_in_order() {
    let shared = SharedRoom::new().await;
    let (peer, server, alice) = (&shared.peer, &shared.server, &shared.alice);
    let phone = server.log_in("alice").await;
    let since = (alice.syncs().await, phone.syncs().await);
    let bob = &*shared.bob.id;
    let to = |device: &str, n: u64| json!({ &*alice.id: { device: { "n": n } } });

    let first = to_device_edu(bob, "m1", &to("*", 1));
    let second = to_device_edu(bob, "m2", &to(&alice.device_id, 2));
    peer.sends_edus(server, &[first.clone(), second.clone()])
        .await;
    peer.sends_edus(server, &[second, first]).await;
    peer.sends_edus(server, &[to_device_edu(bob, "m3", &to("*", 3))])
        .await;

    let told = alice.syncs_after(&since.0).await;
    assert_eq!(to_device_numbers(&told), [1, 2, 3]);
    let event = &told["to_device"]["events"][0];
    assert_eq!(
        (&event["sender"], &event["type"]),
        (&json!(bob), &json!("m.hello"))
    );
    let told = phone.syncs_after(&since.1).await;
    assert_eq!(to_device_numbers(&told), [1, 3]);
    assert!(to_device_numbers(&phone.syncs_after(&told).await).is_empty());
}

#[tokio::test]
async fn sliding_sync_returns_edus_of_other_servers() {
    let shared = SharedRoom::new().await;
    let (peer, server, room) = (&shared.peer, &shared.server, &*shared.room);
    let said = shared.alice.says(room, "tea").await;
    let path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    let asks = |pos: Option<String>| {
        let body = json!({
            "conn_id": "a",
            "lists": { "all": { "ranges": [[0, 9]], "timeline_limit": 1, "required_state": [] } },
            "extensions": {
                "typing": { "enabled": true }, "receipts": { "enabled": true },
                "e2ee": { "enabled": true }, "to_device": { "enabled": true },
            },
        });
        let query = pos.map_or_else(String::new, |pos| format!("?pos={pos}"));
        let (client, path) = (shared.alice.client.clone(), format!("{path}{query}"));
        async move { client.post(&path, body).await.expect_ok() }
    };
    let first = asks(None).await;
    let bob = &*shared.bob.id;

    let to = json!({ &*shared.alice.id: { "*": { "n": 1 } } });
    let list = json!({
        "user_id": bob, "device_id": "PHONE", "stream_id": 1, "prev_id": [],
    });
    let edus = [
        typing_edu(room, bob, true),
        receipt_edu(room, bob, &said, None),
        to_device_edu(bob, "m1", &to),
        edu("m.device_list_update", &list),
    ];
    peer.sends_edus(server, &edus).await;

    let pos = first["pos"].as_str().map(ToOwned::to_owned);
    let told = asks(pos).await["extensions"].clone();
    let in_room = |what: &str| told[what]["rooms"][room]["content"].clone();
    assert_eq!(in_room("typing")["user_ids"], json!([bob]));
    assert!(in_room("receipts")[&said]["m.read"][bob].is_object());
    assert_eq!(told["to_device"]["events"][0]["content"]["n"], 1);
}
