//! Push notifications survive `kill -9`: each message that was accepted is pushed, in order, and the count is right.

use std::{collections::HashSet, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    harness::Client,
    program::RestartableServer,
    push_gateway::{SET_PUSHER_PATH, TestGateway, pusher},
    web_push::{ACTIVATION_PATH, TestPushService},
};

const KILL_ROUNDS: usize = 12;
/// The maximum number of messages before the server is killed. A queue holds a hundred.
const MAX_MESSAGES_PER_ROUND: usize = 60;
/// Seed for the random moments at which the server is killed.
const RANDOM_SEED: u64 = 1_961;
/// Time limit for the whole test; anything that takes longer is considered stuck.
const TEST_TIMEOUT: Duration = Duration::from_mins(5);
const ENVIRONMENT: &[(&str, &str)] = &[("PARLOUR__PUSH__ALLOW_PRIVATE_ADDRESSES", "true")];

/// A room of two users, of whom one sends messages and the other has a pusher.
struct PushedRoom {
    sender_token: String,
    receiver_token: String,
    room: String,
}

impl PushedRoom {
    /// Registers two users in a room, of whom one sets a pusher.
    async fn create(server: &Client, pusher: Value) -> Self {
        let sender_token = register(server, "alice").await;
        let receiver_token = register(server, "bob").await;
        let (alice, bob) = (
            server.with_token(&sender_token),
            server.with_token(&receiver_token),
        );
        let body = json!({ "preset": "public_chat" });
        let created = alice.post("/_matrix/client/v3/createRoom", body).await;
        let room = text(&created.expect_ok()["room_id"]);
        let join = format!("/_matrix/client/v3/rooms/{room}/join");
        bob.post(&join, json!({})).await.expect_ok();
        let set = bob.post(SET_PUSHER_PATH, pusher).await;
        assert!([200, 201].contains(&set.status), "{}", set.body);
        Self {
            sender_token,
            receiver_token,
            room,
        }
    }

    /// Sends messages one after the other, and returns their event ids.
    async fn send(&self, server: &Client, round: usize, count: usize) -> Vec<String> {
        let alice = server.with_token(&self.sender_token);
        let mut event_ids = Vec::new();
        for number in 0..count {
            let path = format!(
                "/_matrix/client/v3/rooms/{}/send/m.room.message/{round}-{number}",
                self.room
            );
            let body = json!({ "msgtype": "m.text", "body": format!("{round}-{number}") });
            let sent = alice.put(&path, body).await.expect_ok();
            event_ids.push(text(&sent["event_id"]));
        }
        event_ids
    }
}

/// The notifications that the gateway received.
#[derive(Default)]
struct ArrivedNotifications {
    /// The ids of the events, in the order in which they arrived first.
    in_order: Vec<String>,
    all: HashSet<String>,
    /// The count of unread events in the newest notification.
    newest_count: Value,
}

impl ArrivedNotifications {
    /// Receives notifications until they are about this many events.
    async fn receive_until(&mut self, receiver: &mut impl AsyncFnMut() -> Value, count: usize) {
        while self.all.len() < count {
            let notification = receiver().await;
            let event_id = text(&notification["event_id"]);
            if self.all.insert(event_id.clone()) {
                self.in_order.push(event_id);
            }
            self.newest_count = notification["counts"]["unread"].clone();
        }
    }
}

/// Kills the server in rounds while messages are pushed, and checks that each arrives, in order, with the right count at
/// the end.
async fn kill_while_pushing(
    site: &mut RestartableServer,
    room: &PushedRoom,
    mut receiver: impl AsyncFnMut() -> Value,
) {
    let mut moments = StdRng::seed_from_u64(RANDOM_SEED);
    let mut sent = Vec::new();
    let mut arrived = ArrivedNotifications::default();
    for round in 0..KILL_ROUNDS {
        let count = moments.random_range(1..=MAX_MESSAGES_PER_ROUND);
        sent.extend(room.send(&site.client(), round, count).await);
        site.kill();
        site.start();
        arrived.receive_until(&mut receiver, sent.len()).await;
    }
    site.kill();
    assert_eq!(arrived.in_order, sent);
    assert_eq!(arrived.newest_count, json!(sent.len()));
}

async fn register(server: &Client, name: &str) -> String {
    let body = json!({
        "username": name, "password": "password", "auth": { "type": "m.login.dummy" },
    });
    let registered = server.post("/_matrix/client/v3/register", body).await;
    text(&registered.expect_ok()["access_token"])
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

#[tokio::test]
async fn every_accepted_message_is_pushed_although_the_server_is_killed() {
    let all = async {
        let mut gateway = TestGateway::start().await;
        let mut site = RestartableServer::new(ENVIRONMENT).await;
        let server = site.start();
        let room = PushedRoom::create(&server, pusher(&gateway, "phone")).await;
        let receiver = async || gateway.next_message().await;
        kill_while_pushing(&mut site, &room, receiver).await;
    };

    let in_time = tokio::time::timeout(TEST_TIMEOUT, all).await;

    in_time.expect("the test ends in time");
}

#[tokio::test]
async fn every_accepted_message_reaches_a_browser_although_the_server_is_killed() {
    let all = async {
        let mut service = TestPushService::start().await;
        let mut site = RestartableServer::new(ENVIRONMENT).await;
        let server = site.start();
        let room = PushedRoom::create(&server, service.pusher()).await;
        let activation = service.next().await;
        let bob = server.with_token(&room.receiver_token);
        bob.post(ACTIVATION_PATH, activation).await.expect_ok();
        let receiver = async || service.next().await;
        kill_while_pushing(&mut site, &room, receiver).await;
    };

    let in_time = tokio::time::timeout(TEST_TIMEOUT, all).await;

    in_time.expect("the test ends in time");
}
