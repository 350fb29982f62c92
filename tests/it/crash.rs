//! Requests that were answered with success survive `kill -9`, and every user sees them exactly once.
//!
//! Several users send to rooms and devices as fast as they can, and sync, until the server is killed while they do so;
//! then it is started again on the same data. This is repeated in rounds, and each round checks the results of all
//! earlier rounds, too.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{harness::Client, program::RestartableServer};

const KILL_ROUNDS: usize = 30;
const USER_NAMES: [&str; 4] = ["alice", "bob", "carol", "dave"];
const ROOM_COUNT: usize = 3;
/// Each sender sends one item after the other.
const SENDERS_PER_USER: usize = 2;
/// The maximum number of answers before the server is killed.
const MAX_ANSWERS_BEFORE_KILL: usize = 80;
/// One of this many items goes to a user's devices; the others go to rooms.
const TO_DEVICE_INTERVAL: usize = 4;
/// Seed for the random moments at which the server is killed.
const RANDOM_SEED: u64 = 1_957;
/// Time limit for the whole test; anything that takes longer is considered stuck.
const TEST_TIMEOUT: Duration = Duration::from_mins(10);
/// `{"room":{"timeline":{"limit":1000}}}`: more than is sent in a round, so that no timeline is limited.
const SYNC_FILTER: &str = "%7B%22room%22:%7B%22timeline%22:%7B%22limit%22:1000%7D%7D%7D";

/// The id and the text of an event.
type SentMessage = (String, String);

#[tokio::test]
async fn acknowledged_events_survive_a_kill_and_sync_once() {
    let all = async {
        let mut site = RestartableServer::new(&[]).await;
        let server = site.start();
        let mut people = CrashTestUsers::register(&server).await;
        let mut moments = StdRng::seed_from_u64(RANDOM_SEED);
        for _ in 0..KILL_ROUNDS {
            let answers = moments.random_range(1..=MAX_ANSWERS_BEFORE_KILL);
            people = site.kill_while_sending(people, answers).await;
            let server = site.start();
            people.retry_unanswered(&server).await;
            people.catch_up(&server).await;
            people.check_history(&server).await;
        }
        assert!(
            people.acknowledged_items().count() > KILL_ROUNDS * 8,
            "only a few items were sent"
        );
        site.kill();
    };

    let in_time = tokio::time::timeout(TEST_TIMEOUT, all).await;

    in_time.expect("the test ends in time");
}

impl RestartableServer {
    /// Lets all users send and sync, and kills the server after this many answers to sent items.
    async fn kill_while_sending(
        &mut self,
        people: CrashTestUsers,
        answers: usize,
    ) -> CrashTestUsers {
        let server = self.client();
        let (answered, mut counted) = mpsc::unbounded_channel();
        let (mut inboxes, mut outboxes) = (JoinSet::new(), JoinSet::new());
        for inbox in people.inboxes {
            inboxes.spawn(inbox.listen(server.clone()));
        }
        for outbox in people.outboxes {
            outboxes.spawn(outbox.send_until_killed(server.clone(), answered.clone()));
        }
        for _ in 0..answers {
            counted.recv().await.expect("some user sends");
        }
        self.kill();
        CrashTestUsers {
            rooms: people.rooms,
            inboxes: inboxes.join_all().await,
            outboxes: outboxes.join_all().await,
        }
    }
}

/// All users, and the rooms that all of them have joined.
struct CrashTestUsers {
    rooms: Vec<String>,
    inboxes: Vec<ClientInbox>,
    outboxes: Vec<ClientOutbox>,
}

impl CrashTestUsers {
    async fn register(server: &Client) -> Self {
        let mut users = Vec::new();
        for name in USER_NAMES {
            let body = json!({
                "username": name, "password": "password", "auth": { "type": "m.login.dummy" },
            });
            let registered = server.post("/_matrix/client/v3/register", body).await;
            users.push(registered.expect_ok());
        }
        let tokens: Vec<&str> = users
            .iter()
            .map(|user| text(&user["access_token"]))
            .collect();
        let ids: Vec<String> = users
            .iter()
            .map(|user| text(&user["user_id"]).to_owned())
            .collect();
        let mut rooms = Vec::new();
        for owner in tokens.iter().take(ROOM_COUNT) {
            let body = json!({ "preset": "public_chat" });
            let owner = server.with_token(owner);
            let created = owner.post("/_matrix/client/v3/createRoom", body).await;
            let room = text(&created.expect_ok()["room_id"]).to_owned();
            for token in &tokens {
                let join = format!("/_matrix/client/v3/rooms/{room}/join");
                server
                    .with_token(token)
                    .post(&join, json!({}))
                    .await
                    .expect_ok();
            }
            rooms.push(room);
        }
        let mut inboxes = Vec::new();
        let mut outboxes = Vec::new();
        for (me, token) in tokens.iter().enumerate() {
            let mut inbox = ClientInbox::create(&ids[me], token);
            inbox.sync(server, 0).await.expect("the first sync");
            inboxes.push(inbox);
            for n in 0..SENDERS_PER_USER {
                let name = format!("{}-{n}", USER_NAMES[me]);
                outboxes.push(ClientOutbox::create(&name, token, &rooms, &ids));
            }
        }
        Self {
            rooms,
            inboxes,
            outboxes,
        }
    }

    /// Sends everything that was not answered again, with the same transaction ids.
    async fn retry_unanswered(&mut self, server: &Client) {
        for outbox in &mut self.outboxes {
            if let Some(letter) = outbox.unanswered.take() {
                let is_answered = outbox.send(server, letter).await;
                assert!(is_answered, "{} has no answer to its retry", outbox.name);
            }
        }
    }

    /// Makes one sync for each user, which has to be enough to catch up.
    async fn catch_up(&mut self, server: &Client) {
        for inbox in &mut self.inboxes {
            inbox.sync(server, 0).await.expect("the server answers");
        }
    }

    /// Compares the items that all users sent with the history of the rooms and with the items that each user received.
    async fn check_history(&self, server: &Client) {
        let reader = server.with_token(&self.inboxes[0].token);
        for room in &self.rooms {
            let history = room_history(&reader, room).await;
            assert_unique(history.iter().map(|(event_id, _)| event_id));
            assert_unique(history.iter().map(|(_, text)| text));
            let in_history: BTreeMap<&str, &str> = history
                .iter()
                .map(|(id, text)| (text.as_str(), id.as_str()))
                .collect();
            let sent = self
                .acknowledged_items()
                .filter(|letter| letter.to == ItemTarget::Room(room.clone()));
            for letter in sent {
                let found = in_history.get(letter.name.as_str()).copied();
                assert_eq!(found, letter.event_id.as_deref(), "{}", letter.name);
            }
            for inbox in &self.inboxes {
                let heard = inbox.room_messages.get(room);
                let heard = heard.map_or(&[][..], Vec::as_slice);
                assert_eq!(
                    heard, history,
                    "messages that {} received from {room}",
                    inbox.user_id
                );
            }
        }
        for inbox in &self.inboxes {
            assert_unique(inbox.to_device_names.iter());
            let to_me = ItemTarget::User(inbox.user_id.clone());
            let sent = self
                .acknowledged_items()
                .filter(|letter| letter.to == to_me);
            let sent: BTreeSet<&str> = sent.map(|letter| letter.name.as_str()).collect();
            let got: BTreeSet<&str> = inbox.to_device_names.iter().map(String::as_str).collect();
            assert_eq!(got, sent, "items sent to {}", inbox.user_id);
        }
    }

    /// Returns every item that the server acknowledged.
    fn acknowledged_items(&self) -> impl Iterator<Item = &SentItem> {
        self.outboxes.iter().flat_map(|outbox| &outbox.acknowledged)
    }
}

/// The target of an item.
#[derive(Clone, PartialEq, Eq)]
enum ItemTarget {
    Room(String),
    User(String),
}

/// An item that is sent once; its name is both its transaction id and its text.
struct SentItem {
    name: String,
    to: ItemTarget,
    /// The event id from the server, if the item went to a room.
    event_id: Option<String>,
}

/// One of a user's senders, with the items that it has sent.
struct ClientOutbox {
    name: String,
    token: String,
    rooms: Vec<String>,
    user_ids: Vec<String>,
    created_count: usize,
    acknowledged: Vec<SentItem>,
    unanswered: Option<SentItem>,
}

impl ClientOutbox {
    fn create(name: &str, token: &str, rooms: &[String], people: &[String]) -> Self {
        Self {
            name: name.to_owned(),
            token: token.to_owned(),
            rooms: rooms.to_owned(),
            user_ids: people.to_owned(),
            created_count: 0,
            acknowledged: Vec::new(),
            unanswered: None,
        }
    }

    /// Sends one item after the other until the server is gone.
    async fn send_until_killed(
        mut self,
        server: Client,
        answered: mpsc::UnboundedSender<()>,
    ) -> Self {
        loop {
            let letter = self.next_item();
            if !self.send(&server, letter).await {
                return self;
            }
            // Nobody counts answers any more once the server is about to be killed.
            let _ = answered.send(());
        }
    }

    fn next_item(&mut self) -> SentItem {
        let n = self.created_count;
        self.created_count += 1;
        let to = if n.is_multiple_of(TO_DEVICE_INTERVAL) {
            let turn = n / TO_DEVICE_INTERVAL;
            ItemTarget::User(self.user_ids[turn % self.user_ids.len()].clone())
        } else {
            ItemTarget::Room(self.rooms[n % self.rooms.len()].clone())
        };
        SentItem {
            name: format!("{}-{n}", self.name),
            to,
            event_id: None,
        }
    }

    /// Sends an item and returns whether the server acknowledged it.
    async fn send(&mut self, server: &Client, mut letter: SentItem) -> bool {
        let name = &letter.name;
        let (path, body) = match &letter.to {
            ItemTarget::Room(room) => (
                format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{name}"),
                json!({ "msgtype": "m.text", "body": name }),
            ),
            ItemTarget::User(user_id) => (
                format!("/_matrix/client/v3/sendToDevice/org.example.letter/{name}"),
                json!({ "messages": { user_id: { "*": { "name": name } } } }),
            ),
        };
        let server = server.with_token(&self.token);
        let Ok(answer) = server
            .try_send(Method::PUT, &path, body.to_string(), &[])
            .await
        else {
            self.unanswered = Some(letter);
            return false;
        };
        letter.event_id = answer.expect_ok()["event_id"].as_str().map(str::to_owned);
        self.acknowledged.push(letter);
        true
    }
}

/// The items that a user's client has received.
struct ClientInbox {
    user_id: String,
    token: String,
    since: Option<String>,
    /// The messages by room, in order.
    room_messages: BTreeMap<String, Vec<SentMessage>>,
    /// The names of the items that were sent to its device.
    to_device_names: Vec<String>,
}

impl ClientInbox {
    fn create(user_id: &str, token: &str) -> Self {
        Self {
            user_id: user_id.to_owned(),
            token: token.to_owned(),
            since: None,
            room_messages: BTreeMap::new(),
            to_device_names: Vec::new(),
        }
    }

    /// Syncs until the server is gone.
    async fn listen(mut self, server: Client) -> Self {
        while self.sync(&server, 30_000).await.is_ok() {}
        self
    }

    /// Syncs once.
    async fn sync(&mut self, server: &Client, timeout: u64) -> reqwest::Result<()> {
        let mut path = format!("/_matrix/client/v3/sync?timeout={timeout}&filter={SYNC_FILTER}");
        if let Some(since) = &self.since {
            path.push_str("&since=");
            path.push_str(since);
        }
        let server = server.with_token(&self.token);
        let answer = server
            .try_send(Method::GET, &path, "", &[])
            .await?
            .expect_ok();
        let joined = answer["rooms"]["join"].as_object();
        for (room, tells) in joined.into_iter().flatten() {
            let timeline = &tells["timeline"];
            let is_whole = timeline["limited"] != json!(true) || self.since.is_none();
            assert!(is_whole, "{} missed events of {room}", self.user_id);
            let heard = self.room_messages.entry(room.clone()).or_default();
            heard.extend(messages(&timeline["events"]));
        }
        for letter in answer["to_device"]["events"]
            .as_array()
            .into_iter()
            .flatten()
        {
            self.to_device_names
                .push(text(&letter["content"]["name"]).to_owned());
        }
        self.since = Some(text(&answer["next_batch"]).to_owned());
        Ok(())
    }
}

/// Returns every message of a room, oldest first.
async fn room_history(reader: &Client, room: &str) -> Vec<SentMessage> {
    let mut said = Vec::new();
    let mut from = String::new();
    loop {
        let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=500{from}");
        let page = reader.get(&path).await.expect_ok();
        said.extend(messages(&page["chunk"]));
        let Some(end) = page["end"].as_str() else {
            break;
        };
        from = format!("&from={end}");
    }
    said.reverse();
    said
}

fn messages(events: &Value) -> impl Iterator<Item = SentMessage> {
    let events = events.as_array().into_iter().flatten();
    let messages = events.filter(|event| event["type"] == "m.room.message");
    messages.map(|event| {
        let said = (&event["event_id"], &event["content"]["body"]);
        (text(said.0).to_owned(), text(said.1).to_owned())
    })
}

fn text(value: &Value) -> &str {
    value.as_str().expect("is a text")
}

#[track_caller]
fn assert_unique<'a>(names: impl Iterator<Item = &'a String>) {
    let mut seen = BTreeSet::new();
    for name in names {
        assert!(seen.insert(name), "{name} appears twice");
    }
}
