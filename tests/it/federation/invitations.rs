//! Invitations of users of this server by users of others.

use axum::Router;
use parlour::{config::Config, matrix};
use ruma::RoomVersionId;
use serde_json::{Value, json};

use super::{
    Network, Peer, peer_room,
    peer_user::{PeerEvent, member_event_path},
};
use crate::{
    chat::{find_event, percent_encoded},
    harness::{HttpAnswer, Server, User},
    push_gateway::{SET_PUSHER_PATH, TestGateway, allow_test_gateways, pusher},
};

/// A server with a user, and a room on a peer.
struct InvitationScene {
    server: Server,
    alice: User,
    peer: Peer,
    room: peer_room::SharedPeerRoom,
}

impl InvitationScene {
    async fn new(version: &str) -> Self {
        Self::with_config(version, |_| {}).await
    }

    async fn with_config(version: &str, change: impl FnOnce(&mut Config)) -> Self {
        let network = Network::new();
        let server = network.server_with_config(change).await;
        let alice = server.register("alice").await;
        let peer = network.peer(Router::new()).await;
        let room = peer_room::SharedPeerRoom::new(&peer, version);
        Self {
            server,
            alice,
            peer,
            room,
        }
    }

    /// Returns the event that created the room.
    fn create_event(&self) -> Value {
        self.room.lock().events[0].1.clone()
    }

    fn makes_invitation(&self) -> PeerEvent {
        let mut room = self.room.lock();
        let content = json!({ "membership": "invite" });
        let id = room.sets_state("m.room.member", &self.alice.id, content);
        let (_, json) = room.events.last().expect("it was made").clone();
        PeerEvent { id, json }
    }

    /// Signs another event for a room of a version.
    fn signs(&self, event: &Value, version: &str) -> PeerEvent {
        let version = RoomVersionId::try_from(version).expect("a version");
        let rules = matrix::room_version_rules(&version).expect("it is known");
        self.peer.signs(event, &rules)
    }

    async fn sends_invitation(
        &self,
        invitation: &PeerEvent,
        version: &str,
        state: &Value,
    ) -> HttpAnswer {
        let path = member_event_path("v2/invite", &self.room.id(), &invitation.id);
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
        let house = InvitationScene::new(version).await;
        let invitation = house.makes_invitation();
        let state = json!([house.create_event()]);

        let taken = house.sends_invitation(&invitation, version, &state).await;

        let taken = taken.expect_ok()["event"].clone();
        assert_eq!(taken["content"], invitation.json["content"]);
        assert!(taken["signatures"][house.server.name()].is_object());
        assert!(taken["signatures"][&*house.peer.name].is_object());
        let sync = house.alice.syncs().await;
        let told = &sync["rooms"]["invite"][house.room.id()]["invite_state"]["events"];
        let own = find_event(told, "m.room.member", &house.alice.id);
        assert_eq!(own["sender"], house.room.lock().creator.as_str());
        let create = find_event(told, "m.room.create", "");
        assert_eq!(create["content"]["room_version"], version);
        assert_eq!(create.get("signatures"), None);
    }
}

#[tokio::test]
async fn an_invitation_of_another_server_is_pushed() {
    let mut gateway = TestGateway::start().await;
    let house = InvitationScene::with_config("10", allow_test_gateways).await;
    let set = house
        .alice
        .client
        .post(SET_PUSHER_PATH, pusher(&gateway, "phone"));
    set.await.expect_ok();
    let invitation = house.makes_invitation();
    let creator = house.room.lock().creator.clone();
    let state = json!([
        { "type": "m.room.name", "state_key": "", "sender": creator, "content": { "name": "Tea" } },
        { "type": "m.room.member", "state_key": creator, "sender": creator,
          "content": { "membership": "join", "displayname": "Carol" } },
    ]);

    let taken = house.sends_invitation(&invitation, "10", &state).await;
    taken.expect_ok();

    let notification = gateway.next_message().await;
    assert_eq!(notification["event_id"], invitation.id);
    assert_eq!(notification["room_id"], house.room.id());
    assert_eq!(notification["type"], "m.room.member");
    assert_eq!(notification["user_is_target"], true);
    assert_eq!(notification["room_name"], "Tea");
    assert_eq!(notification["sender_display_name"], "Carol");
    assert_eq!(notification["content"]["membership"], "invite");
}

#[tokio::test]
async fn the_version_1_invite_endpoint_works() {
    let house = InvitationScene::new("2").await;
    let mut invitation = house.makes_invitation();
    let state = json!([{ "type": "m.room.name", "state_key": "", "sender": house.alice.id,
                         "content": { "name": "Tea" } }]);
    invitation.json["unsigned"] = json!({ "invite_room_state": state });
    let path = member_event_path("v1/invite", &house.room.id(), &invitation.id);

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
        let house = InvitationScene::new("10").await;
        let invitation = house.makes_invitation();

        let taken = house.sends_invitation(&invitation, "10", &state).await;

        taken.expect_ok();
        assert!(house.is_invited().await, "{state}");
    }
}

#[tokio::test]
async fn an_event_that_is_not_a_valid_invitation_is_refused() {
    let house = InvitationScene::new("12").await;
    let state = json!([house.create_event()]);
    let invitation = house.makes_invitation();
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
        let refused = house.sends_invitation(&made, "12", &state).await;
        refused.expect_error(400, "M_INVALID_PARAM");
    }
    let mut unsigned = invitation.clone();
    unsigned.json["signatures"] = json!({});
    let refused = house.sends_invitation(&unsigned, "12", &state).await;
    refused.expect_error(400, "M_INVALID_PARAM");
    let unknown = house
        .sends_invitation(&invitation, "org.example", &state)
        .await;
    unknown.expect_error(400, "M_INCOMPATIBLE_ROOM_VERSION");
    assert!(!house.is_invited().await);
}

#[tokio::test]
async fn a_version_12_invitation_needs_the_matching_create_event() {
    let house = InvitationScene::new("12").await;
    let invitation = house.makes_invitation();
    let mut topic = house.create_event();
    topic["type"] = json!("m.room.topic");
    topic["room_id"] = json!(house.room.id());
    let topic = house.signs(&topic, "12");

    let without = house
        .sends_invitation(&invitation, "12", &json!([topic.json]))
        .await;
    without.expect_error(400, "M_INVALID_PARAM");
    let mut other = house.create_event();
    other["origin_server_ts"] = json!(7);
    let other = house.signs(&other, "12");
    let state = json!([other.json, topic.json]);
    let of_another = house.sends_invitation(&invitation, "12", &state).await;
    of_another.expect_error(400, "M_INVALID_PARAM");
    assert!(!house.is_invited().await);
}

#[tokio::test]
async fn a_user_who_blocks_invitations_is_not_invited() {
    let house = InvitationScene::new("11").await;
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/m.invite_permission_config",
        house.alice.id
    );
    let config = json!({ "default_action": "block" });
    house.alice.client.put(&path, config).await.expect_ok();

    let state = json!([house.create_event()]);
    let refused = house
        .sends_invitation(&house.makes_invitation(), "11", &state)
        .await;

    refused.expect_error(403, "M_INVITE_BLOCKED");
    assert!(!house.is_invited().await);
}

#[tokio::test]
async fn a_third_party_invite_that_does_not_exist_is_refused() {
    let house = InvitationScene::new("11").await;
    let room = house
        .alice
        .creates(json!({ "preset": "private_chat" }))
        .await;
    let bob = house.peer.user("bob");
    let signed = json!({ "mxid": bob, "token": "t", "signatures": {} });
    let exchanges = async |sender: &str, invited: &str| {
        let path = "/_matrix/federation/v1/exchange_third_party_invite";
        let path = format!("{path}/{}", percent_encoded(&room));
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
        "medium": "email", "address": "b@example.org", "mxid": bob, "invites": [],
    });
    let path = "/_matrix/federation/v1/3pid/onbind";
    let answer = house.server.put(path, bound).await;
    answer.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn repeated_invitations_from_one_server_are_rate_limited() {
    let house = InvitationScene::with_config("10", |config| config.limits.enabled = true).await;
    let state = json!([house.create_event()]);
    let mut taken = 0;

    let refused = loop {
        let answer = house
            .sends_invitation(&house.makes_invitation(), "10", &state)
            .await;
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
