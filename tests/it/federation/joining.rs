//! Joining rooms in which the server has no members yet.

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::StatusCode,
    response::Response,
    routing::{get, post, put},
};
use parlour::matrix::SigningKey;
use ruma::{UserId, signatures::Ed25519KeyPair};
use serde_json::{Value, json};

use super::{Network, Peer, peer_room::SharedPeerRoom};
use crate::{
    chat::{find_event, message_bodies, percent_encoded, state, timeline},
    harness::{HttpAnswer, Server, User},
};

const MAKE_JOIN_PATH: &str = "/_matrix/federation/v1/make_join/{room}/{user}";
const SEND_JOIN_PATH: &str = "/_matrix/federation/v2/send_join/{room}/{event}";

/// A server with a user, and a room on a peer.
pub(super) struct JoinPeerRoomScene {
    pub(super) network: Network,
    pub(super) server: Server,
    pub(super) bob: User,
    pub(super) peer: Peer,
    pub(super) room: SharedPeerRoom,
}

impl JoinPeerRoomScene {
    pub(super) async fn new(version: &str) -> Self {
        Self::with_router(version, SharedPeerRoom::router).await
    }

    /// Starts the servers, with the endpoints of the peer that a function chooses.
    async fn with_router(version: &str, router: impl FnOnce(&SharedPeerRoom) -> Router) -> Self {
        let network = Network::new();
        let mut room = None;
        let peer = network
            .peer_with(|peer| router(room.insert(SharedPeerRoom::new(peer, version))))
            .await;
        let server = network.server().await;
        Self {
            bob: server.register("bob").await,
            room: room.expect("the peer was made"),
            network,
            server,
            peer,
        }
    }

    pub(super) async fn joins_via(&self, via: &[&str]) -> HttpAnswer {
        joins_via(&self.bob, &self.room.id(), via).await
    }
}

pub(super) async fn joins_via(user: &User, room: &str, via: &[&str]) -> HttpAnswer {
    let via: Vec<String> = via.iter().map(|server| format!("via={server}")).collect();
    let path = format!(
        "/_matrix/client/v3/join/{}?{}",
        percent_encoded(room),
        via.join("&")
    );
    user.client.post(&path, json!({})).await
}

#[tokio::test]
async fn a_room_of_another_server_is_joined_in_every_version() {
    for version in ["1", "2", "3", "6", "10", "11", "12"] {
        let story = JoinPeerRoomScene::new(version).await;
        story
            .room
            .lock()
            .sets_state("m.room.name", "", json!({ "name": "old" }));
        story
            .room
            .lock()
            .sets_state("m.room.name", "", json!({ "name": "tea" }));
        story.room.lock().says("before");
        let room = story.room.id();

        let joined = story.joins_via(&[&story.peer.name]).await.expect_ok();

        assert_eq!(joined["room_id"], room.as_str());
        let sync = story.bob.syncs().await;
        let name = find_event(state(&sync, &room), "m.room.name", "");
        assert_eq!(name["content"]["name"], "tea", "{version}");
        let own = find_event(timeline(&sync, &room), "m.room.member", &story.bob.id);
        assert_eq!(own["content"]["membership"], "join", "{version}");
        story.bob.says(&room, "hello").await;
        assert_eq!(
            story.room.lock().membership(&story.bob.id).as_deref(),
            Some("join")
        );
    }
}

#[tokio::test]
async fn a_room_of_an_old_server_is_joined() {
    let story = JoinPeerRoomScene::with_router("6", SharedPeerRoom::router_of_old_server).await;

    story.joins_via(&[&story.peer.name]).await.expect_ok();

    story.bob.says(&story.room.id(), "hello").await;
    let membership = story.room.lock().membership(&story.bob.id);
    assert_eq!(membership.as_deref(), Some("join"));
}

#[tokio::test]
async fn a_knock_on_an_old_servers_room_is_retracted() {
    let story = JoinPeerRoomScene::with_router("7", SharedPeerRoom::router_of_old_server).await;
    let knocking = json!({ "join_rule": "knock" });
    story
        .room
        .lock()
        .sets_state("m.room.join_rules", "", knocking);
    let room = story.room.id();
    let path = format!("/_matrix/client/v3/knock/{room}?via={}", story.peer.name);
    story.bob.client.post(&path, json!({})).await.expect_ok();

    story.bob.leaves(&room).await;

    let membership = story.room.lock().membership(&story.bob.id);
    assert_eq!(membership.as_deref(), Some("leave"));
}

#[tokio::test]
async fn a_remote_join_carries_the_profile_and_custom_fields() {
    let story = JoinPeerRoomScene::new("11").await;
    let name = format!("/_matrix/client/v3/profile/{}/displayname", story.bob.id);
    let set = story
        .bob
        .client
        .put(&name, json!({ "displayname": "Bob" }))
        .await;
    set.expect_ok();
    let room = story.room.id();

    let path = format!(
        "/_matrix/client/v3/join/{}?via={}",
        percent_encoded(&room),
        story.peer.name
    );
    let body = json!({ "reason": "tea", "org.example.flag": true });
    story.bob.client.post(&path, body).await.expect_ok();

    let member = story.bob.member(&room, &story.bob).await;
    let wanted = json!({
        "membership": "join", "displayname": "Bob", "reason": "tea", "org.example.flag": true,
    });
    assert_eq!(member, wanted);
}

#[tokio::test]
async fn a_join_without_via_uses_the_server_in_the_room_id() {
    let story = JoinPeerRoomScene::new("10").await;

    story.joins_via(&[]).await.expect_ok();

    assert_eq!(story.room.lock().join_count, 1);
}

#[tokio::test]
async fn a_room_is_joined_by_an_alias_of_another_server() {
    let network = Network::new();
    let mut room = None;
    let peer = network
        .peer_with(|peer| {
            let shared = SharedPeerRoom::new(peer, "12");
            let (id, name) = (shared.id(), peer.name.clone());
            let found = json!({ "room_id": id, "servers": [name] });
            let look_up = async |Query(_): Query<Value>| Json(found);
            let router = shared.router();
            room = Some(shared);
            router.route("/_matrix/federation/v1/query/directory", get(look_up))
        })
        .await;
    let server = network.server().await;
    let bob = server.register("bob").await;

    let joined = joins_via(&bob, &format!("#tea:{}", peer.name), &[]).await;

    let room = room.expect("the peer was made").id();
    assert_eq!(joined.expect_ok()["room_id"], room.as_str());
}

#[tokio::test]
async fn servers_are_tried_in_turn_until_a_join_succeeds() {
    let story = JoinPeerRoomScene::new("12").await;
    let unknown = json!({ "errcode": "M_NOT_FOUND", "error": "no such room" });
    let answer = async || (StatusCode::NOT_FOUND, Json(unknown));
    let other = story
        .network
        .peer(Router::new().route(MAKE_JOIN_PATH, get(answer)))
        .await;
    let down = Peer::new(&super::unused_address().to_string());

    let joined = story
        .joins_via(&[&down.name, &other.name, &story.peer.name])
        .await;

    joined.expect_ok();
    assert_eq!(story.room.lock().join_count, 1);
}

#[tokio::test]
async fn a_refused_join_is_not_tried_at_another_server() {
    let story = JoinPeerRoomScene::new("12").await;
    let refusal = json!({ "errcode": "M_FORBIDDEN", "error": "you are banned" });
    let answer = async || (StatusCode::FORBIDDEN, Json(refusal));
    let other = story
        .network
        .peer(Router::new().route(MAKE_JOIN_PATH, get(answer)))
        .await;

    let refused = story.joins_via(&[&other.name, &story.peer.name]).await;

    let error = refused.expect_error(403, "M_FORBIDDEN");
    assert_eq!(error["error"], "you are banned");
    assert_eq!(story.room.lock().join_count, 0);
}

#[tokio::test]
async fn bad_request_codes_of_another_server_are_passed_on() {
    let network = Network::new();
    let server = network.server().await;
    let bob = server.register("bob").await;
    let refusals = [
        ("M_BAD_STATE", 400, "M_BAD_STATE"),
        ("M_INVALID_PARAM", 400, "M_INVALID_PARAM"),
        ("M_UNKNOWN_TOKEN", 502, "M_UNKNOWN"),
    ];

    for (theirs, status, ours) in refusals {
        let refusal = json!({ "errcode": theirs, "error": "odd" });
        let answer = get(async || (StatusCode::BAD_REQUEST, Json(refusal)));
        let peer = network
            .peer(Router::new().route(MAKE_JOIN_PATH, answer))
            .await;
        let refused = joins_via(&bob, "!room:elsewhere", &[&peer.name]).await;
        refused.expect_error(status, ours);
    }
}

#[tokio::test]
async fn a_join_authorised_on_outdated_membership_is_refused_and_undone() {
    let story = JoinPeerRoomScene::new("11").await;
    let alice = story.server.register("alice").await;
    let allowed = alice.creates_open_room().await;
    let rules = json!({
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": allowed }],
    });
    story.room.lock().sets_state("m.room.join_rules", "", rules);
    story.bob.joins(&allowed).await;
    story.bob.leaves(&allowed).await;

    let refused = story.joins_via(&[&story.peer.name]).await;

    refused.expect_error(403, "M_FORBIDDEN");
    let membership = story.room.lock().membership(&story.bob.id);
    assert_eq!(membership.as_deref(), Some("leave"));
    let sync = story.bob.syncs().await;
    assert!(sync["rooms"]["join"].get(story.room.id()).is_none());
    story.bob.joins(&allowed).await;
    story.joins_via(&[&story.peer.name]).await.expect_ok();
}

#[tokio::test]
async fn a_guest_joins_a_room_of_another_server_that_admits_guests() {
    let mut story = JoinPeerRoomScene::new("11").await;
    story.server = story
        .server
        .restart_with(|config| config.registration.guests = true)
        .await;
    let guest = story.server.register_guest().await;
    let (peer, room) = (&story.peer.name, story.room.id());

    let refused = joins_via(&guest, &room, &[peer]).await;
    refused.expect_error(403, "M_GUEST_ACCESS_FORBIDDEN");
    let membership = story.room.lock().membership(&guest.id);
    assert_eq!(membership.as_deref(), Some("leave"));
    let access = json!({ "guest_access": "can_join" });
    story
        .room
        .lock()
        .sets_state("m.room.guest_access", "", access);
    joins_via(&guest, &room, &[peer]).await.expect_ok();

    guest.says(&room, "hello").await;
}

#[tokio::test]
async fn joining_an_unknown_room_version_returns_an_error() {
    let network = Network::new();
    let server = network.server().await;
    let bob = server.register("bob").await;
    let unknown = json!({ "room_version": "org.example.99", "event": {} });
    let refusal = json!({
        "errcode": "M_INCOMPATIBLE_ROOM_VERSION", "error": "no", "room_version": "org.example.99",
    });
    let takes = get(async || Json(unknown));
    let turns_down = get(async || (StatusCode::BAD_REQUEST, Json(refusal)));

    for answer in [takes, turns_down] {
        let peer = network
            .peer(Router::new().route(MAKE_JOIN_PATH, answer))
            .await;
        let refused = joins_via(&bob, "!room:elsewhere", &[&peer.name]).await;
        let error = refused.expect_error(400, "M_INCOMPATIBLE_ROOM_VERSION");
        assert_eq!(error["room_version"], "org.example.99");
    }
}

#[tokio::test]
async fn joining_a_nonexistent_room_returns_not_found() {
    let network = Network::new();
    let server = network.server().await;
    let bob = server.register("bob").await;

    let own = joins_via(&bob, &format!("!nowhere:{}", server.name()), &[]).await;
    let nowhere = joins_via(&bob, "!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", &[]).await;
    let down = Peer::new(&super::unused_address().to_string());
    let unreachable = joins_via(&bob, "!nowhere:elsewhere", &[&down.name]).await;

    own.expect_error(404, "M_NOT_FOUND");
    nowhere.expect_error(404, "M_NOT_FOUND");
    unreachable.expect_error(502, "M_UNKNOWN");
}

/// Starts a peer that answers joins with something other than the room. Another peer may let users into the room.
async fn peer_with_join_answer(
    story: &JoinPeerRoomScene,
    answer: impl Fn(Value) -> Body + Clone + Send + Sync + 'static,
) -> Peer {
    let send = move |State(()): State<()>, Json(event): Json<Value>| {
        let body = answer(event);
        async { Response::new(body) }
    };
    let template = story.room.lock().join_template(&story.bob.id);
    let router = Router::new()
        .route(MAKE_JOIN_PATH, get(async || Json(template)))
        .route(SEND_JOIN_PATH, put(send));
    story.network.peer(router).await
}

#[tokio::test]
async fn a_nonsensical_join_answer_leaves_nothing_behind() {
    let story = JoinPeerRoomScene::new("12").await;
    let answers: [fn(Value) -> Body; 5] = [
        |_| Body::from("nonsense"),
        |_| Body::from("[]"),
        |_| Body::from(r#"{"state":[],"auth_chain":[]}"#),
        |_| Body::from(r#"{"state":[{"a":1},"#),
        |event| Body::from(json!({ "state": [event], "auth_chain": [], "event": {} }).to_string()),
    ];
    for answer in answers {
        let evil = peer_with_join_answer(&story, answer).await;

        let refused = story.joins_via(&[&evil.name]).await;

        assert!(matches!(refused.status, 403 | 502), "{refused:?}");
        let sync = story.bob.syncs().await;
        assert!(sync["rooms"]["join"].get(story.room.id()).is_none());
    }
    // The room can still be joined through an honest server.
    story.joins_via(&[&story.peer.name]).await.expect_ok();
}

#[tokio::test]
async fn an_endless_join_answer_is_abandoned() {
    let story = JoinPeerRoomScene::new("12").await;
    let evil = peer_with_join_answer(&story, |_| {
        let start = Bytes::from_static(b"{\"state\":[\"");
        let more = Bytes::from("x".repeat(64 * 1024));
        let endless = std::iter::once(start).chain(std::iter::repeat(more));
        Body::from_stream(futures_util::stream::iter(
            endless.map(Ok::<_, std::io::Error>),
        ))
    })
    .await;

    let refused = story.joins_via(&[&evil.name]).await;

    refused.expect_error(502, "M_UNKNOWN");
}

#[tokio::test]
async fn state_events_with_invalid_signatures_are_left_out() {
    let story = JoinPeerRoomScene::new("11").await;
    {
        let mut room = story.room.lock();
        room.sets_state("m.room.name", "", json!({ "name": "forged" }));
        room.sets_state("m.room.topic", "", json!({ "topic": "true" }));
        let forged = room.events.iter_mut().rev().nth(1).expect("the name");
        forged.1["signatures"] = json!({});
    }

    story.joins_via(&[&story.peer.name]).await.expect_ok();

    let room = story.room.id();
    let topic = story.bob.state(&room, "m.room.topic").await;
    assert_eq!(topic["topic"], "true");
    let name = story.bob.gets_in_room(&room, "state/m.room.name").await;
    name.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn the_resident_server_cannot_supply_keys_of_other_servers() {
    let network = Network::new();
    let server = network.server().await;
    let honest = network.peer(Router::new()).await;
    let (bob, alice) = (server.register("bob").await, server.register("alice").await);
    let victims = [alice.id.clone(), format!("@dora:{}", honest.name)];
    let (mut room, mut told) = (None, Vec::new());
    let evil = network.peer_with(|peer| {
        let shared = SharedPeerRoom::new(peer, "11");
        for victim in &victims {
            let victim = UserId::parse(victim).expect("an id");
            let name = victim.server_name().to_owned();
            let document = Ed25519KeyPair::generate();
            let key = SigningKey::from_der(name, &document, "fake").expect("a key");
            told.push(key.published_keys(4_000_000_000_000).expect("it is signed"));
            let content = json!({ "membership": "join" });
            let kind = ("m.room.member", Some(victim.as_str()));
            shared
                .lock()
                .makes_event_with_key(&victim, kind, &content, &key);
        }
        let answer = json!({ "server_keys": told });
        room.insert(shared)
            .router()
            .route("/_matrix/key/v2/query", post(async || Json(answer)))
    });
    let evil = evil.await;
    let room = room.expect("the peer was made").id();

    joins_via(&bob, &room, &[&evil.name]).await.expect_ok();

    let members = bob.gets_in_room(&room, "joined_members").await.expect_ok();
    let mut members: Vec<&String> = members["joined"]
        .as_object()
        .expect("members")
        .keys()
        .collect();
    members.sort();
    let carol = format!("@carol:{}", evil.name);
    let mut expected = [&bob.id, &carol];
    expected.sort();
    assert_eq!(members, expected);
    let sync = alice.syncs().await;
    assert!(sync["rooms"]["join"].get(&room).is_none());
}

#[tokio::test]
async fn simultaneous_joins_send_one_join_to_the_resident_server() {
    let story = JoinPeerRoomScene::new("12").await;
    let eve = story.server.register("eve").await;
    let (room, via) = (story.room.id(), [&*story.peer.name]);

    let (one, again, other) = tokio::join!(
        story.joins_via(&via),
        story.joins_via(&via),
        joins_via(&eve, &room, &via),
    );

    for joined in [one, again, other] {
        joined.expect_ok();
    }
    assert_eq!(story.room.lock().join_count, 1);
    let members = story
        .bob
        .gets_in_room(&room, "joined_members")
        .await
        .expect_ok();
    assert!(members["joined"].get(&eve.id).is_some());
}

#[tokio::test]
async fn a_guest_cannot_join_a_remote_room_closed_to_guests() {
    let story = JoinPeerRoomScene::new("12").await;
    let server = story
        .network
        .server_with_config(|config| config.registration.guests = true)
        .await;
    let guest = server.register_guest().await;

    let refused = joins_via(&guest, &story.room.id(), &[&story.peer.name]).await;

    refused.expect_error(403, "M_GUEST_ACCESS_FORBIDDEN");
}

#[tokio::test]
async fn rejoining_a_remote_room_shows_its_current_state() {
    let story = JoinPeerRoomScene::new("11").await;
    story.joins_via(&[&story.peer.name]).await.expect_ok();
    let room = story.room.id();
    let before = story.bob.syncs().await;
    story.bob.leaves(&room).await;
    story
        .room
        .lock()
        .sets_state("m.room.name", "", json!({ "name": "new" }));
    story.room.lock().says("meanwhile");

    story.joins_via(&[]).await.expect_ok();

    let sync = story.bob.syncs_after(&before).await;
    let name = story.bob.state(&room, "m.room.name").await;
    assert_eq!(name["name"], "new");
    assert!(message_bodies(timeline(&sync, &room)).is_empty());
    assert_eq!(sync["rooms"]["join"][&room]["timeline"]["limited"], true);
}
