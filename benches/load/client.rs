//! Clients that send messages and wait for the messages of others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL},
    },
};

/// A message of a typical length.
const MESSAGE_TEXT: &str =
    "A message of the length that people send, with a word or two more in it.";

/// A room with its members.
pub(crate) struct MeasuredRoom {
    pub(crate) id: Arc<str>,
    pub(crate) members: Vec<Client>,
}

impl MeasuredRoom {
    pub(crate) async fn create(members: Vec<Client>) -> Self {
        let body = json!({ "preset": "public_chat" });
        let created = members[0].post("createRoom", body).await;
        let id: Arc<str> = text(&created["room_id"]).into();
        for member in &members[1..] {
            member.post(&format!("join/{id}"), json!({})).await;
        }
        Self { id, members }
    }
}

/// A logged-in user.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    address: String,
    token: String,
    transactions: Arc<AtomicU64>,
}

impl Client {
    #[expect(
        clippy::disallowed_methods,
        reason = "a client of the server under test needs no timeouts"
    )]
    pub(crate) async fn register(address: &str, name: &str) -> Self {
        let mut client = Self {
            http: reqwest::Client::new(),
            address: address.to_owned(),
            token: String::new(),
            transactions: Arc::default(),
        };
        let body = json!({
            "username": name, "password": "password", "auth": { "type": "m.login.dummy" },
        });
        let registered = client.post("register", body).await;
        text(&registered["access_token"]).clone_into(&mut client.token);
        client
    }

    /// Sends a message and waits until it is on disk.
    pub(crate) async fn send_message(&self, room_id: &str) {
        self.send_text(room_id, MESSAGE_TEXT).await;
    }

    /// Adds the maximum number of push rules with wildcards, and a thousand without.
    pub(crate) async fn add_costly_push_rules(&self) {
        let wildcards = (0..32).map(|n| format!("{n}*a?b*c?d*e*"));
        let words = (0..1_000).map(|n| format!("word {n}"));
        for (n, pattern) in wildcards.chain(words).enumerate() {
            let url = self.url(&format!("pushrules/global/content/{n}"));
            let body = json!({ "pattern": pattern, "actions": ["notify"] });
            self.send_request(self.http.put(url).json(&body)).await;
        }
    }

    /// Sends a message with a text and waits until it is on disk.
    pub(crate) async fn send_text(&self, room_id: &str, text: &str) {
        let n = self.transactions.fetch_add(1, Ordering::Relaxed);
        let url = self.url(&format!("rooms/{room_id}/send/m.room.message/{n}"));
        let body = json!({ "msgtype": "m.text", "body": text });
        self.send_request(self.http.put(url).json(&body)).await;
    }

    async fn sync(&self, since: Option<&str>) -> Value {
        let since = since.map_or_else(String::new, |since| format!("&since={since}"));
        let url = self.url(&format!("sync?timeout=30000{since}"));
        self.send_request(self.http.get(url)).await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.send_request(self.http.post(self.url(path)).json(&body))
            .await
    }

    fn url(&self, path: &str) -> String {
        format!("{}/_matrix/client/v3/{path}", self.address)
    }

    async fn send_request(&self, request: RequestBuilder) -> Value {
        let request = if self.token.is_empty() {
            request
        } else {
            request.bearer_auth(&self.token)
        };
        let answer = request.send().await.expect("the server answers");
        let status = answer.status();
        let body: Value = answer.json().await.expect("the answer is JSON");
        assert!(status.is_success(), "{status}: {body}");
        body
    }
}

type BenchSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A client that has received everything up to now.
pub(crate) enum SyncedClient {
    Sync { client: Client, since: String },
    Socket(Box<BenchSocket>),
}

/// A client that waits for the next event.
pub(crate) enum WaitingClient {
    Sync {
        client: Client,
        answer: JoinSet<Value>,
    },
    Socket(Box<BenchSocket>),
}

impl SyncedClient {
    pub(crate) async fn by_sync(client: &Client) -> Self {
        let answer = client.sync(None).await;
        Self::Sync {
            client: client.clone(),
            since: text(&answer["next_batch"]).to_owned(),
        }
    }

    pub(crate) async fn by_socket(client: &Client) -> Self {
        let answer = client.sync(None).await;
        let address = client.address.replace("http://", "ws://");
        let since = text(&answer["next_batch"]);
        let url = format!("{address}/_matrix/client/unstable/stream?since={since}");
        let mut request = url.into_client_request().expect("is an address");
        let headers = request.headers_mut();
        let bearer = format!("Bearer {}", client.token);
        headers.insert(AUTHORIZATION, bearer.parse().expect("is a header"));
        let protocol = "m.json".parse().expect("is a header");
        headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        let connected = connect_async(request).await;
        let (socket, _) = connected.expect("the server accepts the WebSocket");
        Self::Socket(Box::new(socket))
    }

    /// Starts to wait, and returns when the server has the request.
    pub(crate) async fn start_waiting(self) -> WaitingClient {
        match self {
            Self::Sync { client, since } => {
                let (mut answer, waiting) = (JoinSet::new(), client.clone());
                answer.spawn(async move { waiting.sync(Some(&since)).await });
                // The start of the wait cannot be observed; this time is long enough on the loopback address.
                tokio::time::sleep(Duration::from_millis(5)).await;
                WaitingClient::Sync { client, answer }
            }
            Self::Socket(socket) => WaitingClient::Socket(socket),
        }
    }
}

impl WaitingClient {
    /// Waits until a message of the room arrives.
    pub(crate) async fn wait_for_message(self, room_id: &str) -> SyncedClient {
        match self {
            Self::Sync { client, mut answer } => {
                let answer = answer.join_next().await.expect("the request is waiting");
                let mut answer = answer.expect("the sync ends");
                while !has_message(&answer, room_id) {
                    answer = client.sync(Some(text(&answer["next_batch"]))).await;
                }
                let since = text(&answer["next_batch"]).to_owned();
                SyncedClient::Sync { client, since }
            }
            Self::Socket(mut socket) => {
                while !next_frame_has_message(&mut socket, room_id).await {}
                SyncedClient::Socket(socket)
            }
        }
    }
}

async fn next_frame_has_message(socket: &mut BenchSocket, room_id: &str) -> bool {
    let frame = socket.next().await.expect("the WebSocket is open");
    let Message::Text(update) = frame.expect("the WebSocket is open") else {
        return false;
    };
    has_message(&serde_json::from_str(&update).expect("is JSON"), room_id)
}

fn has_message(update: &Value, room_id: &str) -> bool {
    let events = update["rooms"]["join"][room_id]["timeline"]["events"].as_array();
    events.is_some_and(|events| events.iter().any(|event| event["type"] == "m.room.message"))
}

fn text(value: &Value) -> &str {
    value.as_str().expect("is a text")
}
