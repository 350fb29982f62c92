//! Invitations of users of this server by users of others.

use axum::Router;
use parlour::{config::Config, matrix};
use ruma::RoomVersionId;
use serde_json::{Value, json};

use super::{
    Network, Peer, abroad,
    guest::{Made, submission},
};
use crate::{
    chat::{encoded, find},
    harness::{Answer, Server, User},
};

/// A server with a user, and a room on a peer.
struct House {
    server: Server,
    alice: User,
    peer: Peer,
    room: abroad::Shared,
}

impl House {
    async fn new(version: &str) -> Self {
        Self::with(version, |_| {}).await
    }

    async fn with(version: &str, change: impl FnOnce(&mut Config)) -> Self {
        let network = Network::new();
        let server = network.server_with(change).await;
        let alice = server.register("alice").await;
        let peer = network.peer(Router::new()).await;
        let room = abroad::Shared::new(&peer, version);
        Self {
            server,
            alice,
            peer,
            room,
        }
    }

    /// Returns the event that created the room.
    fn create(&self) -> Value {
        self.room.lock().events[0].1.clone()
    }

    fn invitation(&self) -> Made {
        let mut room = self.room.lock();
        let content = json!({ "membership": "invite" });
        let id = room.sets("m.room.member", &self.alice.id, content);
        let (_, json) = room.events.last().expect("it was made").clone();
        Made { id, json }
    }

    /// Signs another event for a room of a version.
    fn signs(&self, event: &Value, version: &str) -> Made {
        let version = RoomVersionId::try_from(version).expect("a version");
        let rules = matrix::room_version_rules(&version).expect("it is known");
        self.peer.signs(event, &rules)
    }

    async fn invites(&self, invitation: &Made, version: &str, state: &Value) -> Answer {
        let path = submission("v2/invite", &self.room.id(), &invitation.id);
        let body = json!({
            "room_version": version, "event": invitation.json, "invite_room_state": state,
        });
        self.peer.puts(&self.server, &path, &body).await
    }

    async fn is_invited(&self) -> bool {
        self.alice.syncs().await["rooms"]["invite"][self.room.id()].is_object()
    }
}

#[tokio::test]
async fn a_user_is_invited_into_a_room_of_another_server() {
    for version in ["10", "12"] {
        let house = House::new(version).await;
        let invitation = house.invitation();
        let state = json!([house.create()]);

        let taken = house.invites(&invitation, version, &state).await;

        let taken = taken.expect_ok()["event"].clone();
        assert_eq!(taken["content"], invitation.json["content"]);
        assert!(taken["signatures"][house.server.name()].is_object());
        assert!(taken["signatures"][&*house.peer.name].is_object());
        let sync = house.alice.syncs().await;
        let told = &sync["rooms"]["invite"][house.room.id()]["invite_state"]["events"];
        let own = find(told, "m.room.member", &house.alice.id);
        assert_eq!(own["sender"], house.room.lock().creator.as_str());
        let create = find(told, "m.room.create", "");
        assert_eq!(create["content"]["room_version"], version);
        assert_eq!(create.get("signatures"), None);
    }
}

#[tokio::test]
async fn the_first_form_of_an_invitation_is_known() {
    let house = House::new("2").await;
    let mut invitation = house.invitation();
    let state = json!([{ "type": "m.room.name", "state_key": "", "sender": house.alice.id,
                         "content": { "name": "Tea" } }]);
    invitation.json["unsigned"] = json!({ "invite_room_state": state });
    let path = submission("v1/invite", &house.room.id(), &invitation.id);

    let taken = house
        .peer
        .puts(&house.server, &path, &invitation.json)
        .await;

    let taken = taken.expect_ok();
    assert_eq!(taken[0], 200);
    assert!(taken[1]["event"]["signatures"][house.server.name()].is_object());
    assert!(house.is_invited().await);
}

#[tokio::test]
async fn an_invitation_needs_no_state_of_the_room() {
    for state in [Value::Null, json!([]), json!([5])] {
        let house = House::new("10").await;
        let invitation = house.invitation();

        let taken = house.invites(&invitation, "10", &state).await;

        taken.expect_ok();
        assert!(house.is_invited().await, "{state}");
    }
}

#[tokio::test]
async fn what_is_no_invitation_is_not_signed() {
    let house = House::new("12").await;
    let state = json!([house.create()]);
    let invitation = house.invitation();
    let changes = [
        ("type", json!("m.room.message")),
        ("sender", json!(house.alice.id)),
        ("state_key", json!(house.peer.user("dora"))),
        ("content", json!({ "membership": "join" })),
        ("room_id", json!(format!("!{}", "a".repeat(43)))),
    ];

    for (field, value) in changes {
        let mut event = invitation.json.clone();
        event[field] = value;
        let made = house.signs(&event, "12");
        let refused = house.invites(&made, "12", &state).await;
        refused.expect_error(400, "M_INVALID_PARAM");
    }
    let mut unsigned = invitation.clone();
    unsigned.json["signatures"] = json!({});
    let refused = house.invites(&unsigned, "12", &state).await;
    refused.expect_error(400, "M_INVALID_PARAM");
    let unknown = house.invites(&invitation, "org.example", &state).await;
    unknown.expect_error(400, "M_INCOMPATIBLE_ROOM_VERSION");
    assert!(!house.is_invited().await);
}

#[tokio::test]
async fn a_room_of_version_12_is_shown_only_as_what_it_is() {
    let house = House::new("12").await;
    let invitation = house.invitation();
    let mut topic = house.create();
    topic["type"] = json!("m.room.topic");
    topic["room_id"] = json!(house.room.id());
    let topic = house.signs(&topic, "12");

    let without = house.invites(&invitation, "12", &json!([topic.json])).await;
    without.expect_error(400, "M_INVALID_PARAM");
    let mut other = house.create();
    other["origin_server_ts"] = json!(7);
    let other = house.signs(&other, "12");
    let state = json!([other.json, topic.json]);
    let of_another = house.invites(&invitation, "12", &state).await;
    of_another.expect_error(400, "M_INVALID_PARAM");
    assert!(!house.is_invited().await);
}

#[tokio::test]
async fn whoever_takes_no_invitations_is_not_invited() {
    let house = House::new("11").await;
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/m.invite_permission_config",
        house.alice.id
    );
    let config = json!({ "default_action": "block" });
    house.alice.client.put(&path, config).await.expect_ok();

    let state = json!([house.create()]);
    let refused = house.invites(&house.invitation(), "11", &state).await;

    refused.expect_error(403, "M_INVITE_BLOCKED");
    assert!(!house.is_invited().await);
}

#[tokio::test]
async fn nobody_exchanges_an_invitation_that_nobody_made() {
    let house = House::new("11").await;
    let room = house
        .alice
        .creates(json!({ "preset": "private_chat" }))
        .await;
    let bob = house.peer.user("bob");
    let signed = json!({ "mxid": bob, "token": "t", "signatures": {} });
    let exchanges = async |sender: &str, invited: &str| {
        let path = "/_matrix/federation/v1/exchange_third_party_invite";
        let path = format!("{path}/{}", encoded(&room));
        let invite = json!({ "display_name": "b...", "signed": signed });
        let content = json!({ "membership": "invite", "third_party_invite": invite });
        let body = json!({
            "type": "m.room.member", "room_id": room, "sender": sender, "state_key": invited,
            "content": content,
        });
        house.peer.puts(&house.server, &path, &body).await
    };

    exchanges(&house.alice.id, &bob)
        .await
        .expect_error(403, "M_FORBIDDEN");
    exchanges(&house.alice.id, "@bob:example.org")
        .await
        .expect_error(403, "M_FORBIDDEN");
    exchanges(&bob, &bob)
        .await
        .expect_error(400, "M_INVALID_PARAM");
    let bound = json!({
        "medium": "email", "address": "b@example.org", "mxid": house.alice.id, "invites": [],
    });
    let path = "/_matrix/federation/v1/3pid/onbind";
    let answer = house.server.put(path, bound).await;
    answer.expect_error(403, "M_THREEPID_DENIED");
}

#[tokio::test]
async fn a_server_that_sends_a_user_invitation_after_invitation_is_told_to_wait() {
    let house = House::with("10", |config| config.limits.enabled = true).await;
    let state = json!([house.create()]);
    let mut taken = 0;

    let refused = loop {
        let answer = house.invites(&house.invitation(), "10", &state).await;
        if answer.status != 200 {
            break answer;
        }
        taken += 1;
        assert!(taken < 100, "too many invitations were accepted");
    };

    refused.expect_error(429, "M_LIMIT_EXCEEDED");
    assert!(taken >= 30, "{taken}");
    assert!(house.is_invited().await);
}
