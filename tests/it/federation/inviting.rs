//! Inviting users of other servers, and rejecting invitations.

use axum::{Json, Router, http::StatusCode, routing::put};
use ruma::RoomVersionId;
use serde_json::{Value, json};

use super::{Network, Peer, joining::joins_via, sending::TransactionReceiver};
use crate::{
    chat::{find_event, room_path, texts_at, timeline},
    equal_requests::{memberships, post_at_once},
    harness::{Server, User},
};

const INVITE_PATH: &str = "/_matrix/federation/v2/invite/{room}/{event}";

/// Two servers with a user each.
struct TwoServers {
    network: Network,
    home: Server,
    alice: User,
    away: Server,
    bob: User,
}

impl TwoServers {
    async fn new() -> Self {
        let network = Network::new();
        let (home, away) = (network.server().await, network.server().await);
        Self {
            alice: home.register("alice").await,
            bob: away.register("bob").await,
            network,
            home,
            away,
        }
    }

    async fn creates_room_inviting_bob(&self, request: Value) -> String {
        let mut request = request;
        request["invite"] = json!([self.bob.id]);
        self.alice.creates(request).await
    }

    async fn membership(&self, room: &str) -> Value {
        self.alice.member(room, &self.bob).await["membership"].clone()
    }
}

fn invite_state<'a>(sync: &'a Value, room: &str) -> &'a Value {
    &sync["rooms"]["invite"][room]["invite_state"]["events"]
}

#[tokio::test]
async fn an_invited_user_sees_the_room_name_and_joins() {
    let two = TwoServers::new().await;
    for version in ["6", "11", "12"] {
        let room = two
            .creates_room_inviting_bob(
                json!({ "name": "tea", "is_direct": true, "room_version": version }),
            )
            .await;

        let sync = two.bob.syncs().await;
        let told = invite_state(&sync, &room);
        let name = find_event(told, "m.room.name", "");
        assert_eq!(name["content"]["name"], "tea", "{version}");
        let own = find_event(told, "m.room.member", &two.bob.id);
        assert_eq!(own["content"]["is_direct"], true, "{version}");
        // The server of the inviting user is known, so no other server has to be named.
        joins_via(&two.bob, &room, &[]).await.expect_ok();

        assert_eq!(two.membership(&room).await, "join", "{version}");
    }
}

#[tokio::test]
async fn rejecting_an_invitation_updates_the_inviting_server() {
    let two = TwoServers::new().await;
    let room = two.creates_room_inviting_bob(json!({})).await;
    for _ in 0..2 {
        let since = two.bob.syncs().await;
        assert!(since["rooms"]["invite"].get(&room).is_some());

        let body = json!({ "reason": "no tea" });
        two.bob
            .posts_in_room(&room, "leave", body)
            .await
            .expect_ok();

        assert_eq!(two.membership(&room).await, "leave");
        assert_eq!(two.alice.member(&room, &two.bob).await["reason"], "no tea");
        let sync = two.bob.syncs_after(&since).await;
        assert!(sync["rooms"]["leave"].get(&room).is_some());
        let sync = two.bob.syncs().await;
        assert!(sync["rooms"]["invite"].get(&room).is_none());
        two.alice.invites(&room, &two.bob).await;
    }
}

#[tokio::test]
async fn an_invitation_can_be_rejected_while_its_server_is_down() {
    let two = TwoServers::new().await;
    let room = two.creates_room_inviting_bob(json!({})).await;
    two.home.running.stop().await;
    two.home.running.wait_until_stopped().await;

    two.bob.leaves(&room).await;

    let sync = two.bob.syncs().await;
    assert!(sync["rooms"]["invite"].get(&room).is_none());
}

#[tokio::test]
async fn inviting_a_remote_member_is_refused() {
    let two = TwoServers::new().await;
    let room = two.creates_room_inviting_bob(json!({})).await;
    joins_via(&two.bob, &room, &[]).await.expect_ok();

    let again = json!({ "user_id": two.bob.id });
    let refused = two.alice.posts_in_room(&room, "invite", again).await;

    refused.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_member_state_event_can_invite_a_remote_user() {
    let two = TwoServers::new().await;
    let room = two.alice.creates(json!({})).await;

    let kind = format!("m.room.member/{}", two.bob.id);
    two.alice
        .sets_state(&room, &kind, json!({ "membership": "invite" }))
        .await;

    let sync = two.bob.syncs().await;
    assert!(sync["rooms"]["invite"].get(&room).is_some());
}

#[tokio::test]
async fn a_failed_remote_invitation_leaves_no_member_event() {
    let two = TwoServers::new().await;
    let room = two.alice.creates(json!({})).await;
    let down = Peer::new(&super::unused_address().to_string());
    let refusal = json!({ "errcode": "M_FORBIDDEN", "error": "not here" });
    let refuses = put(async || (StatusCode::FORBIDDEN, Json(refusal)));
    let refusing = two
        .network
        .peer(Router::new().route(INVITE_PATH, refuses))
        .await;
    let signs_nothing = put(async |Json(sent): Json<Value>| {
        let mut event = sent["event"].clone();
        event["signatures"] = json!({});
        Json(json!({ "event": event }))
    });
    let careless = two
        .network
        .peer(Router::new().route(INVITE_PATH, signs_nothing))
        .await;

    for (peer, status, code) in [
        (&down, 502, "M_UNKNOWN"),
        (&refusing, 403, "M_FORBIDDEN"),
        (&careless, 502, "M_UNKNOWN"),
    ] {
        let user_id = format!("@eve:{}", peer.name);
        let invited = two
            .alice
            .posts_in_room(&room, "invite", json!({ "user_id": user_id }))
            .await;
        invited.expect_error(status, code);
        let member = two
            .alice
            .gets_in_room(&room, &format!("state/m.room.member/{user_id}"))
            .await;
        member.expect_error(404, "M_NOT_FOUND");
    }
    // The room is created even if the invitation fails.
    let user_id = format!("@eve:{}", down.name);
    two.alice.creates(json!({ "invite": [user_id] })).await;
}

#[tokio::test]
async fn a_knock_on_a_remote_room_can_be_withdrawn() {
    let two = TwoServers::new().await;
    let knock = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let request = json!({ "name": "tea", "initial_state": [knock] });
    let room = two.alice.creates(request).await;

    let path = format!("/_matrix/client/v3/knock/{room}?via={}", two.home.name());
    let body = json!({ "reason": "tea" });
    two.bob.client.post(&path, body).await.expect_ok();

    assert_eq!(two.membership(&room).await, "knock");
    let sync = two.bob.syncs().await;
    let told = &sync["rooms"]["knock"][&room]["knock_state"]["events"];
    assert_eq!(
        find_event(told, "m.room.name", "")["content"]["name"],
        "tea"
    );
    assert!(texts_at(told, "/type").contains(&"m.room.member"));
    two.bob.leaves(&room).await;
    assert_eq!(two.membership(&room).await, "leave");
}

#[tokio::test]
async fn a_refused_knock_returns_an_error() {
    let two = TwoServers::new().await;
    let room = two.alice.creates(json!({})).await;

    let path = format!("/_matrix/client/v3/knock/{room}?via={}", two.home.name());
    let refused = two.bob.client.post(&path, json!({})).await;

    refused.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn deactivating_an_account_rejects_its_invitations() {
    let two = TwoServers::new().await;
    let room = two.creates_room_inviting_bob(json!({})).await;

    let body = json!({ "auth": crate::harness::password_of("bob") });
    let path = "/_matrix/client/v3/account/deactivate";
    two.bob.client.post(path, body).await.expect_ok();

    assert_eq!(two.membership(&room).await, "leave");
    let gone = two.away.get("/_matrix/client/v3/sync").await;
    gone.expect_error(401, "M_MISSING_TOKEN");
}

/// Creates a room that members of another room may join.
async fn create_restricted_room(user: &User, allowed: &str) -> String {
    let rule = json!({
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": allowed }],
    });
    let rules = json!({ "type": "m.room.join_rules", "content": rule });
    user.creates(json!({ "room_version": "10", "initial_state": [rules] }))
        .await
}

#[tokio::test]
async fn a_restricted_room_lets_users_of_other_servers_in() {
    let two = TwoServers::new().await;
    let allowed = two.alice.creates_open_room().await;
    let room = create_restricted_room(&two.alice, &allowed).await;
    let via = [two.home.name()];

    let refused = joins_via(&two.bob, &room, &via).await;
    refused.expect_error(403, "M_FORBIDDEN");
    joins_via(&two.bob, &allowed, &via).await.expect_ok();
    joins_via(&two.bob, &room, &via).await.expect_ok();

    let member = two.bob.member(&room, &two.bob).await;
    assert_eq!(
        member["join_authorised_via_users_server"],
        two.alice.id.as_str()
    );
}

#[tokio::test]
async fn another_server_authorises_a_join_that_no_local_user_may() {
    let two = TwoServers::new().await;
    let allowed = two.alice.creates_open_room().await;
    let room = create_restricted_room(&two.alice, &allowed).await;
    let via = [two.home.name()];
    let levels = json!({ "users": { &two.alice.id: 100 }, "invite": 50 });
    two.alice
        .sets_state(&room, "m.room.power_levels", levels)
        .await;
    for room in [&allowed, &room] {
        joins_via(&two.bob, room, &via).await.expect_ok();
    }
    let eve = two.away.register("eve").await;
    let mut sync = two.alice.syncs().await;
    joins_via(&eve, &allowed, &[]).await.expect_ok();
    // The other server must know of the join.
    while find_event(timeline(&sync, &allowed), "m.room.member", &eve.id).is_null() {
        sync = two.alice.long_polls_after(&sync).await;
    }

    joins_via(&eve, &room, &[]).await.expect_ok();

    let member = two.bob.member(&room, &eve).await;
    assert_eq!(
        member["join_authorised_via_users_server"],
        two.alice.id.as_str()
    );
}

/// Starts a peer that supports only version 1 of the invite endpoint, and returns the transactions that it receives.
async fn peer_with_version_1_invites(network: &Network) -> (Peer, TransactionReceiver) {
    let ear = TransactionReceiver::default();
    let peer = network
        .peer_with(|peer| {
            let key = peer.key.clone();
            let takes = put(async move |Json(mut event): Json<Value>| {
                let unsigned = event.as_object_mut().expect("an object").remove("unsigned");
                let state = unsigned.expect("the state of the room")["invite_room_state"].clone();
                assert!(state.as_array().is_some_and(|state| !state.is_empty()));
                let rules =
                    parlour::matrix::room_version_rules(&RoomVersionId::V2).expect("it is known");
                let mut object = serde_json::from_value(event).expect("canonical JSON");
                key.sign_event(&mut object, &rules).expect("it is signed");
                Json(json!([200, { "event": object }]))
            });
            ear.router()
                .route("/_matrix/federation/v1/invite/{room}/{event}", takes)
        })
        .await;
    (peer, ear)
}

#[tokio::test]
async fn the_version_1_invite_endpoint_is_used_only_for_old_rooms() {
    let two = TwoServers::new().await;
    let (peer, _) = peer_with_version_1_invites(&two.network).await;
    let invitation = json!({ "user_id": format!("@eve:{}", peer.name) });

    let room = two
        .alice
        .creates(json!({ "room_version": "2", "name": "tea" }));
    let room = room.await;
    let invited = two
        .alice
        .posts_in_room(&room, "invite", invitation.clone())
        .await;
    invited.expect_ok();
    let room = two.alice.creates(json!({ "room_version": "11" })).await;
    let refused = two.alice.posts_in_room(&room, "invite", invitation).await;

    refused.expect_error(400, "M_UNSUPPORTED_ROOM_VERSION");
}

#[tokio::test]
async fn transactions_carry_no_invitation_to_a_server_outside_the_room() {
    let two = TwoServers::new().await;
    let (peer, ear) = peer_with_version_1_invites(&two.network).await;
    let target = json!({ "user_id": format!("@eve:{}", peer.name) });
    let room = two
        .alice
        .creates(json!({ "room_version": "2", "name": "tea" }));
    let room = room.await;

    let invited = two
        .alice
        .posts_in_room(&room, "invite", target.clone())
        .await;
    invited.expect_ok();
    two.alice
        .posts_in_room(&room, "kick", target)
        .await
        .expect_ok();

    let first = ear
        .waits_until(|heard| heard.pdus().first().map(|pdu| (*pdu).clone()))
        .await;
    assert_eq!(first["content"]["membership"], "leave", "{first}");
}

#[tokio::test]
async fn an_undeliverable_rejection_appears_in_sync_in_every_room_version() {
    for version in ["1", "2", "11"] {
        let two = TwoServers::new().await;
        let request = json!({ "room_version": version });
        let room = two.creates_room_inviting_bob(request).await;
        let since = two.bob.syncs().await;
        two.home.running.stop().await;
        two.home.running.wait_until_stopped().await;

        two.bob.leaves(&room).await;

        let sync = two.bob.syncs_after(&since).await;
        let left = &sync["rooms"]["leave"][&room]["timeline"]["events"];
        let own = find_event(left, "m.room.member", &two.bob.id);
        assert_eq!(own["content"]["membership"], "leave", "{version}: {sync}");
    }
}

#[tokio::test]
async fn simultaneous_equal_membership_requests_make_one_event() {
    let two = TwoServers::new().await;
    let knocking = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let request = json!({ "initial_state": [knocking] });
    let room = two.alice.creates(request).await;
    let knock = format!("/_matrix/client/v3/knock/{room}?via={}", two.home.name());
    let leave = room_path(&room, "leave");
    let about_bob = json!({ "user_id": two.bob.id });
    let steps = [
        (&two.bob, knock, json!({}), "knock"),
        (&two.bob, leave.clone(), json!({}), "leave"),
        (&two.alice, room_path(&room, "invite"), about_bob, "invite"),
        (&two.bob, leave, json!({}), "leave"),
    ];

    let mut expected = Vec::new();
    for (user, path, body, membership) in steps {
        expected.push(membership);
        let answers = post_at_once(user, &path, &body).await;
        assert!(answers.iter().any(|answer| answer.status == 200), "{path}");
        assert_eq!(
            memberships(&two.alice, &room, &two.bob).await,
            expected,
            "{path}: {answers:?}"
        );
    }
}
