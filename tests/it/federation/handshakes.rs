//! Users of other servers join rooms of this one, leave them, and knock.

use serde_json::{Value, json};

use super::{
    Network, Peer,
    guest::{Made, submission},
};
use crate::{
    chat::{encoded, find, ids, types},
    harness::{Server, User},
};

/// A server with a room, and a peer.
struct Door {
    server: Server,
    alice: User,
    room: String,
    peer: Peer,
}

impl Door {
    async fn of(request: Value) -> Self {
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

    async fn open(version: &str) -> Self {
        Self::of(json!({ "preset": "public_chat", "room_version": version })).await
    }

    /// Requests a template for Bob, and signs it.
    async fn prepares(&self, what: &str) -> Made {
        let bob = self.peer.user("bob");
        let prepared = self
            .peer
            .prepares(&self.server, what, (&self.room, &bob))
            .await;
        self.peer.completes(&prepared.expect_ok())
    }

    async fn does(&self, what: &str, endpoint: &str) -> Value {
        let made = self.prepares(what).await;
        let there = (&*self.room, &made);
        let answer = self.peer.submits(&self.server, endpoint, there).await;
        answer.expect_ok()
    }

    async fn membership(&self) -> Value {
        let bob = self.peer.user("bob");
        let path = format!("m.room.member/{bob}");
        self.alice.state(&self.room, &path).await["membership"].clone()
    }
}

#[tokio::test]
async fn a_user_of_another_server_joins_a_room_of_each_version_and_leaves_it() {
    for version in ["3", "6", "10", "11", "12"] {
        let door = Door::open(version).await;

        let joined = door.does("join", "v2/send_join").await;
        assert_eq!(door.membership().await, "join", "version {version}");
        assert_eq!(joined["origin"], door.server.name());
        assert_eq!(joined["members_omitted"], false);
        assert_eq!(joined["event"]["content"]["membership"], "join");
        assert!(types(&joined["state"]).contains(&"m.room.create"));
        let own = find(&joined["state"], "m.room.member", &door.alice.id);
        assert_eq!(own["content"]["membership"], "join");
        assert!(types(&joined["auth_chain"]).contains(&"m.room.power_levels"));

        door.does("leave", "v2/send_leave").await;
        assert_eq!(door.membership().await, "leave", "version {version}");
    }
}

#[tokio::test]
async fn the_first_forms_of_joining_and_leaving_are_known() {
    let door = Door::open("10").await;

    let joined = door.does("join", "v1/send_join").await;
    assert_eq!(joined[0], 200);
    assert!(types(&joined[1]["state"]).contains(&"m.room.create"));
    assert_eq!(door.membership().await, "join");
    let left = door.does("leave", "v1/send_leave").await;
    assert_eq!(left, json!([200, {}]));
    assert_eq!(door.membership().await, "leave");
}

#[tokio::test]
async fn members_are_left_out_for_a_server_that_does_not_ask_for_them() {
    let door = Door::of(json!({ "preset": "public_chat", "name": "Tea" })).await;
    let made = door.prepares("join").await;
    let path = submission("v2/send_join", &door.room, &made.id);
    let path = format!("{path}?omit_members=true");

    let joined = door.peer.puts(&door.server, &path, &made.json).await;

    let joined = joined.expect_ok();
    assert_eq!(joined["members_omitted"], true);
    assert_eq!(joined["servers_in_room"], json!([door.server.name()]));
    assert!(!types(&joined["state"]).contains(&"m.room.member"));
    assert!(types(&joined["auth_chain"]).contains(&"m.room.member"));
}

#[tokio::test]
async fn what_is_no_join_is_not_taken_for_one() {
    let door = Door::open("11").await;
    let join = door.prepares("join").await;
    let rules =
        parlour::matrix::room_version_rules(&ruma::RoomVersionId::V11).expect("it is known");
    let submits = async |made: &Made| {
        let there = (&*door.room, made);
        door.peer.submits(&door.server, "v2/send_join", there).await
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
    let member = door.alice.tries_to_set(&door.room, &bob, json!({})).await;
    assert_eq!(member.status, 400);
    submits(&join).await.expect_ok();
}

#[tokio::test]
async fn nobody_comes_in_in_the_name_of_another() {
    let door = Door::open("11").await;
    let mallory = "@mallory:example.org";
    let carol = door.peer.user("carol");
    let target = json!({ "user_id": carol });
    let banned = door.alice.tries(&door.room, "ban", target).await;
    banned.expect_ok();

    let foreign = (&*door.room, mallory);
    let foreign = door.peer.prepares(&door.server, "join", foreign).await;
    foreign.expect_error(403, "M_FORBIDDEN");
    let own = (&*door.room, &*carol);
    let refused = door.peer.prepares(&door.server, "join", own).await;
    refused.expect_error(403, "M_FORBIDDEN");
    let mut join = door.prepares("join").await.json;
    join["sender"] = json!(carol);
    join["state_key"] = json!(carol);
    let rules =
        parlour::matrix::room_version_rules(&ruma::RoomVersionId::V11).expect("it is known");
    let join = door.peer.signs(&join, &rules);
    let there = (&*door.room, &join);
    let answer = door.peer.submits(&door.server, "v2/send_join", there).await;
    answer.expect_error(403, "M_FORBIDDEN");
    let path = format!("m.room.member/{carol}");
    let member = door.alice.state(&door.room, &path).await;
    assert_eq!(member["membership"], "ban");
}

#[tokio::test]
async fn a_room_that_is_closed_unknown_or_of_another_version_is_not_joined() {
    let door = Door::of(json!({ "preset": "private_chat", "room_version": "11" })).await;
    let bob = door.peer.user("bob");
    let of_room = |room: &str, rest: &str| {
        let (room, bob) = (encoded(room), encoded(&bob));
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
async fn a_server_that_is_shut_out_is_let_in_nowhere() {
    let door = Door::open("11").await;
    let join = door.prepares("join").await;
    let acl = json!({ "allow": ["*"], "deny": [door.peer.name] });
    door.alice.sets(&door.room, "m.room.server_acl", acl).await;

    let bob = door.peer.user("bob");
    let there = (&*door.room, &*bob);
    let refused = door.peer.prepares(&door.server, "join", there).await;
    refused.expect_error(403, "M_FORBIDDEN");
    let there = (&*door.room, &join);
    let refused = door.peer.submits(&door.server, "v2/send_join", there).await;
    refused.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn whoever_is_in_another_room_is_let_into_a_restricted_one() {
    let door = Door::open("11").await;
    let rule = json!({
        "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": door.room }],
    });
    let rule = json!({ "type": "m.room.join_rules", "content": rule });
    let request = json!({ "room_version": "11", "initial_state": [rule] });
    let inner = door.alice.creates(request).await;
    let bob = door.peer.user("bob");
    let there = (&*inner, &*bob);
    let refused = door.peer.prepares(&door.server, "join", there).await;
    refused.expect_error(403, "M_FORBIDDEN");
    door.does("join", "v2/send_join").await;

    let prepared = door.peer.prepares(&door.server, "join", there).await;
    let prepared = prepared.expect_ok();
    let via = &prepared["event"]["content"]["join_authorised_via_users_server"];
    assert_eq!(*via, door.alice.id);
    let join = door.peer.completes(&prepared);
    let there = (&*inner, &join);
    let joined = door.peer.submits(&door.server, "v2/send_join", there).await;

    let signatures = joined.expect_ok()["event"]["signatures"].clone();
    assert!(signatures[door.server.name()].is_object());
    assert!(signatures[&door.peer.name].is_object());
}

#[tokio::test]
async fn whoever_knocks_learns_what_the_room_is() {
    let rule = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let request = json!({ "room_version": "11", "name": "Tea", "initial_state": [rule] });
    let door = Door::of(request).await;

    let knocked = door.does("knock", "v1/send_knock").await;

    assert_eq!(door.membership().await, "knock");
    let told = &knocked["knock_room_state"];
    assert_eq!(find(told, "m.room.name", "")["content"]["name"], "Tea");
    // Since version 1.16 of the specification, these are events as servers exchange them.
    assert!(find(told, "m.room.create", "")["signatures"].is_object());
    assert!(ids(told).is_empty());
    assert!(!types(told).contains(&"m.room.member"));
    door.does("leave", "v2/send_leave").await;
    assert_eq!(door.membership().await, "leave");
}
