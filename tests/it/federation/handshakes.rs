//! Users of other servers join rooms of this one, leave them, and knock.

use serde_json::{Value, json};

use super::{
    Network, Peer,
    peer_user::{PeerEvent, member_event_path},
};
use crate::{
    chat::{event_ids, event_types, find_event, percent_encoded},
    harness::{Server, User},
};

/// A server with a room, and a peer.
struct JoinScene {
    server: Server,
    alice: User,
    room: String,
    peer: Peer,
}

impl JoinScene {
    async fn with_room(request: Value) -> Self {
        let network = Network::new();
        let server = network.server().await;
        let alice = server.register("alice").await;
        let room = alice.creates(request).await;
        let peer = network.peer(axum::Router::new()).await;
        Self {
            server,
            alice,
            room,
            peer,
        }
    }

    async fn with_public_room(version: &str) -> Self {
        Self::with_room(json!({ "preset": "public_chat", "room_version": version })).await
    }

    /// Requests a template for Bob, and signs it.
    async fn prepares_member_event(&self, what: &str) -> PeerEvent {
        let bob = self.peer.user("bob");
        let prepared = self
            .peer
            .requests_template(&self.server, what, (&self.room, &bob))
            .await;
        self.peer.signs_template(&prepared.expect_ok())
    }

    async fn sends_member_event(&self, what: &str, endpoint: &str) -> Value {
        let made = self.prepares_member_event(what).await;
        let there = (&*self.room, &made);
        let answer = self
            .peer
            .sends_member_event(&self.server, endpoint, there)
            .await;
        answer.expect_ok()
    }

    async fn membership(&self) -> Value {
        let bob = self.peer.user("bob");
        let path = format!("m.room.member/{bob}");
        self.alice.state(&self.room, &path).await["membership"].clone()
    }
}

#[tokio::test]
async fn a_remote_user_joins_and_leaves_rooms_of_each_version() {
    for version in ["3", "6", "10", "11", "12"] {
        let door = JoinScene::with_public_room(version).await;

        let joined = door.sends_member_event("join", "v2/send_join").await;
        assert_eq!(door.membership().await, "join", "version {version}");
        assert_eq!(joined["origin"], door.server.name());
        assert_eq!(joined["members_omitted"], false);
        assert_eq!(joined["event"]["content"]["membership"], "join");
        assert!(event_types(&joined["state"]).contains(&"m.room.create"));
        let own = find_event(&joined["state"], "m.room.member", &door.alice.id);
        assert_eq!(own["content"]["membership"], "join");
        assert!(event_types(&joined["auth_chain"]).contains(&"m.room.power_levels"));

        door.sends_member_event("leave", "v2/send_leave").await;
        assert_eq!(door.membership().await, "leave", "version {version}");
    }
}

#[tokio::test]
async fn version_1_endpoints_for_joining_and_leaving_work() {
    let door = JoinScene::with_public_room("10").await;

    let joined = door.sends_member_event("join", "v1/send_join").await;
    assert_eq!(joined[0], 200);
    assert!(event_types(&joined[1]["state"]).contains(&"m.room.create"));
    assert_eq!(door.membership().await, "join");
    let left = door.sends_member_event("leave", "v1/send_leave").await;
    assert_eq!(left, json!([200, {}]));
    assert_eq!(door.membership().await, "leave");
}

#[tokio::test]
async fn omit_members_leaves_members_out_of_the_join_answer() {
    let door = JoinScene::with_room(json!({ "preset": "public_chat", "name": "Tea" })).await;
    let made = door.prepares_member_event("join").await;
    let path = member_event_path("v2/send_join", &door.room, &made.id);
    let path = format!("{path}?omit_members=true");

    let joined = door.peer.puts(&door.server, &path, &made.json).await;

    let joined = joined.expect_ok();
    assert_eq!(joined["members_omitted"], true);
    assert_eq!(joined["servers_in_room"], json!([door.server.name()]));
    assert!(!event_types(&joined["state"]).contains(&"m.room.member"));
    assert!(event_types(&joined["auth_chain"]).contains(&"m.room.member"));
}

#[tokio::test]
async fn an_event_that_is_not_a_valid_join_is_refused() {
    let door = JoinScene::with_public_room("11").await;
    let join = door.prepares_member_event("join").await;
    let rules =
        parlour::matrix::room_version_rules(&ruma::RoomVersionId::V11).expect("it is known");
    let submits = async |made: &PeerEvent| {
        let there = (&*door.room, made);
        door.peer
            .sends_member_event(&door.server, "v2/send_join", there)
            .await
    };

    let changes = [
        ("type", json!("m.room.message")),
        ("state_key", json!(door.peer.user("dora"))),
        ("state_key", Value::Null),
        ("content", json!({ "membership": "leave" })),
        ("content", json!({ "membership": "invite" })),
        ("sender", json!(door.alice.id)),
        ("sender", json!("nobody")),
        ("room_id", json!("!other:example.org")),
    ];
    for (field, value) in changes {
        let mut event = join.json.clone();
        event[field] = value;
        let made = door.peer.signs(&event, &rules);
        let answer = submits(&made).await;
        assert_eq!(answer.status, 400, "{field}: {}", answer.text);
    }
    let mut unsigned = join.clone();
    unsigned.json["signatures"] = json!({});
    submits(&unsigned)
        .await
        .expect_error(400, "M_INVALID_PARAM");
    let mut forged = join.clone();
    forged.json["content"]["displayname"] = json!("Mallory");
    submits(&forged).await.expect_error(400, "M_INVALID_PARAM");
    let mut misnamed = join.clone();
    misnamed.id = "$somethingelse".to_owned();
    submits(&misnamed)
        .await
        .expect_error(400, "M_INVALID_PARAM");
    let bob = format!("m.room.member/{}", door.peer.user("bob"));
    let member = door
        .alice
        .tries_to_set_state(&door.room, &bob, json!({}))
        .await;
    assert_eq!(member.status, 400);
    submits(&join).await.expect_ok();
}

#[tokio::test]
async fn joins_for_foreign_or_banned_users_are_refused() {
    let door = JoinScene::with_public_room("11").await;
    let mallory = "@mallory:example.org";
    let carol = door.peer.user("carol");
    let target = json!({ "user_id": carol });
    let banned = door.alice.posts_in_room(&door.room, "ban", target).await;
    banned.expect_ok();

    let foreign = (&*door.room, mallory);
    let foreign = door
        .peer
        .requests_template(&door.server, "join", foreign)
        .await;
    foreign.expect_error(403, "M_FORBIDDEN");
    let own = (&*door.room, &*carol);
    let refused = door.peer.requests_template(&door.server, "join", own).await;
    refused.expect_error(403, "M_FORBIDDEN");
    let mut join = door.prepares_member_event("join").await.json;
    join["sender"] = json!(carol);
    join["state_key"] = json!(carol);
    let rules =
        parlour::matrix::room_version_rules(&ruma::RoomVersionId::V11).expect("it is known");
    let join = door.peer.signs(&join, &rules);
    let there = (&*door.room, &join);
    let answer = door
        .peer
        .sends_member_event(&door.server, "v2/send_join", there)
        .await;
    answer.expect_error(403, "M_FORBIDDEN");
    let path = format!("m.room.member/{carol}");
    let member = door.alice.state(&door.room, &path).await;
    assert_eq!(member["membership"], "ban");
}

#[tokio::test]
async fn private_unknown_or_incompatible_rooms_cannot_be_joined() {
    let door =
        JoinScene::with_room(json!({ "preset": "private_chat", "room_version": "11" })).await;
    let bob = door.peer.user("bob");
    let of_room = |room: &str, rest: &str| {
        let (room, bob) = (percent_encoded(room), percent_encoded(&bob));
        format!("/_matrix/federation/v1/make_join/{room}/{bob}?{rest}")
    };

    let path = of_room(&door.room, "ver=11");
    let closed = door.peer.gets(&door.server, &path).await;
    closed.expect_error(403, "M_FORBIDDEN");
    let path = of_room(&door.room, "ver=9&ver=10");
    let old = door.peer.gets(&door.server, &path).await;
    let old = old.expect_error(400, "M_INCOMPATIBLE_ROOM_VERSION");
    assert_eq!(old["room_version"], "11");
    let path = of_room("!unknown:example.org", "ver=11");
    let unknown = door.peer.gets(&door.server, &path).await;
    unknown.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_server_denied_by_the_room_acl_cannot_join() {
    let door = JoinScene::with_public_room("11").await;
    let join = door.prepares_member_event("join").await;
    let acl = json!({ "allow": ["*"], "deny": [door.peer.name] });
    door.alice
        .sets_state(&door.room, "m.room.server_acl", acl)
        .await;

    let bob = door.peer.user("bob");
    let there = (&*door.room, &*bob);
    let refused = door
        .peer
        .requests_template(&door.server, "join", there)
        .await;
    refused.expect_error(403, "M_FORBIDDEN");
    let there = (&*door.room, &join);
    let refused = door
        .peer
        .sends_member_event(&door.server, "v2/send_join", there)
        .await;
    refused.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_member_of_an_allowed_room_joins_a_restricted_room() {
    let door = JoinScene::with_public_room("11").await;
    let rule = json!({
        "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": door.room }],
    });
    let rule = json!({ "type": "m.room.join_rules", "content": rule });
    let request = json!({ "room_version": "11", "initial_state": [rule] });
    let inner = door.alice.creates(request).await;
    let bob = door.peer.user("bob");
    let there = (&*inner, &*bob);
    let refused = door
        .peer
        .requests_template(&door.server, "join", there)
        .await;
    refused.expect_error(403, "M_FORBIDDEN");
    door.sends_member_event("join", "v2/send_join").await;

    let prepared = door
        .peer
        .requests_template(&door.server, "join", there)
        .await;
    let prepared = prepared.expect_ok();
    let via = &prepared["event"]["content"]["join_authorised_via_users_server"];
    assert_eq!(*via, door.alice.id);
    let join = door.peer.signs_template(&prepared);
    let there = (&*inner, &join);
    let joined = door
        .peer
        .sends_member_event(&door.server, "v2/send_join", there)
        .await;

    let signatures = joined.expect_ok()["event"]["signatures"].clone();
    assert!(signatures[door.server.name()].is_object());
    assert!(signatures[&door.peer.name].is_object());
}

#[tokio::test]
async fn a_knock_is_answered_with_room_state() {
    let rule = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let request = json!({ "room_version": "11", "name": "Tea", "initial_state": [rule] });
    let door = JoinScene::with_room(request).await;

    let knocked = door.sends_member_event("knock", "v1/send_knock").await;

    assert_eq!(door.membership().await, "knock");
    let told = &knocked["knock_room_state"];
    assert_eq!(
        find_event(told, "m.room.name", "")["content"]["name"],
        "Tea"
    );
    // Since version 1.16 of the specification, these are events as servers exchange them.
    assert!(find_event(told, "m.room.create", "")["signatures"].is_object());
    assert!(event_ids(told).is_empty());
    assert!(!event_types(told).contains(&"m.room.member"));
    door.sends_member_event("leave", "v2/send_leave").await;
    assert_eq!(door.membership().await, "leave");
}
