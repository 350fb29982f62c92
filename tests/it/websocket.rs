//! Tests the WebSocket push channel of `docs/websocket.md` from the client's side.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL},
    },
};

use crate::harness::{Server, User};

const STREAM_PATH: &str = "/_matrix/client/unstable/stream";

/// A client's connection to the push channel.
pub(crate) struct StreamChannel {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Updates that arrived before the awaited answer.
    updates: Vec<Value>,
}

impl StreamChannel {
    /// Connects like a native client, with the token in a header.
    pub(crate) async fn connect(server: &Server, user: &User, query: &str) -> Self {
        let mut channel = Self::connect_with(server, query, Some(&user.token))
            .await
            .expect("the channel connects");
        channel.updates.clear();
        channel
    }

    async fn connect_with(
        server: &Server,
        query: &str,
        token: Option<&str>,
    ) -> Result<Self, Error> {
        let address = server.running.addresses()[0];
        let url = format!("ws://{address}{STREAM_PATH}{query}");
        let mut request = url.into_client_request().expect("an address");
        let headers = request.headers_mut();
        headers.insert(
            SEC_WEBSOCKET_PROTOCOL,
            "m.json".parse().expect("a header value"),
        );
        if let Some(token) = token {
            headers.insert(
                AUTHORIZATION,
                format!("Bearer {token}").parse().expect("a header value"),
            );
        }
        let (socket, response) = connect_async(request).await?;
        assert_eq!(response.headers()[SEC_WEBSOCKET_PROTOCOL], "m.json");
        Ok(Self {
            socket,
            updates: Vec::new(),
        })
    }

    async fn send_text(&mut self, text: &str) {
        self.socket
            .send(Message::text(text))
            .await
            .expect("the frame is sent");
    }

    /// Sends a request and returns its answer.
    async fn send_request(&mut self, id: &str, method: &str, params: Value) -> Value {
        let request = json!({ "id": id, "method": method, "params": params });
        self.send_text(&request.to_string()).await;
        self.next_answer().await
    }

    async fn next_answer(&mut self) -> Value {
        loop {
            let frame = self.next_frame().await.expect("the channel is open");
            if frame.get("id").is_some() {
                return frame;
            }
            self.updates.push(frame);
        }
    }

    /// Returns the next update.
    pub(crate) async fn next_update(&mut self) -> Value {
        if !self.updates.is_empty() {
            return self.updates.remove(0);
        }
        let frame = self.next_frame().await.expect("the channel is open");
        assert!(frame.get("id").is_none(), "unexpected answer: {frame}");
        frame
    }

    /// Returns the first update that matches `wanted`.
    async fn next_update_with(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let update = self.next_update().await;
            if wanted(&update) {
                return update;
            }
        }
    }

    /// Returns the next frame, or the code with which the server closed the channel.
    async fn next_frame(&mut self) -> Result<Value, u16> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    return Ok(serde_json::from_str(&text).expect("JSON"));
                }
                Some(Ok(Message::Close(frame))) => {
                    return Err(frame.map_or(0, |frame| frame.code.into()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(0),
            }
        }
    }

    /// Returns the code with which the server closes the channel.
    async fn close_code(&mut self) -> u16 {
        loop {
            if let Err(code) = self.next_frame().await {
                return code;
            }
        }
    }
}

async fn create_shared_room(alice: &User, bob: &User) -> String {
    let body = json!({ "preset": "public_chat" });
    let created = alice
        .client
        .post("/_matrix/client/v3/createRoom", body)
        .await
        .expect_ok();
    let room_id = created["room_id"].as_str().expect("a room ID").to_owned();
    let join = format!("/_matrix/client/v3/rooms/{room_id}/join");
    bob.client.post(&join, json!({})).await.expect_ok();
    room_id
}

async fn send_message(user: &User, room_id: &str, txn_id: &str, body: &str) -> String {
    let path = format!("/_matrix/client/v3/rooms/{room_id}/send/m.room.message/{txn_id}");
    let content = json!({ "msgtype": "m.text", "body": body });
    let sent = user.client.put(&path, content).await.expect_ok();
    sent["event_id"].as_str().expect("an event ID").to_owned()
}

async fn send_to_device(from: &User, to: &User, txn_id: &str) {
    let path = format!("/_matrix/client/v3/sendToDevice/org.example/{txn_id}");
    let body = json!({ "messages": { &to.id: { &to.device_id: { "txn": txn_id } } } });
    from.client.put(&path, body).await.expect_ok();
}

fn timeline_bodies(update: &Value, room_id: &str) -> Vec<String> {
    let events = update["rooms"]["join"][room_id]["timeline"]["events"].as_array();
    let bodies = events
        .into_iter()
        .flatten()
        .filter_map(|event| event["content"]["body"].as_str());
    bodies.map(ToOwned::to_owned).collect()
}

fn device_messages(update: &Value) -> Vec<String> {
    let events = update["to_device"]["events"].as_array();
    let txns = events
        .into_iter()
        .flatten()
        .filter_map(|event| event["content"]["txn"].as_str());
    txns.map(ToOwned::to_owned).collect()
}

fn next_batch(update: &Value) -> String {
    update["next_batch"].as_str().expect("a token").to_owned()
}

#[tokio::test]
async fn the_first_update_is_an_initial_sync() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room_id = create_shared_room(&alice, &bob).await;
    let mut channel = StreamChannel::connect(&server, &bob, "").await;

    let first = channel.next_update().await;
    send_message(&alice, &room_id, "1", "hello").await;
    let second = channel
        .next_update_with(|update| !timeline_bodies(update, &room_id).is_empty())
        .await;

    assert!(first["rooms"]["join"][&room_id].is_object());
    assert!(first.get("id").is_none());
    assert_eq!(timeline_bodies(&second, &room_id), ["hello"]);
    for update in [&first, &second] {
        let keys = json!({ "signed_curve25519": 0 });
        assert_eq!(update["device_one_time_keys_count"], keys);
        assert_eq!(update["device_unused_fallback_key_types"], json!([]));
    }
    assert_ne!(next_batch(&first), next_batch(&second));
}

#[tokio::test]
async fn a_browser_authenticates_with_its_first_frame() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let mut channel = StreamChannel::connect_with(&server, "", None)
        .await
        .expect("the channel connects");

    let answer = channel
        .send_request("1", "authenticate", json!({ "access_token": alice.token }))
        .await;
    let update = channel.next_update().await;

    assert_eq!(answer, json!({ "id": "1", "result": {} }));
    assert!(update["next_batch"].is_string());
}

#[tokio::test]
async fn a_wrong_token_is_refused_by_header_and_by_frame() {
    let server = Server::start().await;
    let mut channel = StreamChannel::connect_with(&server, "", None)
        .await
        .expect("the channel connects");

    let by_header = StreamChannel::connect_with(&server, "", Some("wrong")).await;
    let by_frame = channel
        .send_request("1", "authenticate", json!({ "access_token": "wrong" }))
        .await;

    let Err(Error::Http(response)) = by_header else {
        panic!("the header was accepted")
    };
    assert_eq!(response.status(), 401);
    assert_eq!(by_frame["error"]["errcode"], "M_UNKNOWN_TOKEN");
    assert_eq!(channel.close_code().await, 4401);
}

#[tokio::test]
async fn the_first_frame_must_be_authenticate() {
    let server = Server::start().await;
    let mut channel = StreamChannel::connect_with(&server, "", None)
        .await
        .expect("the channel connects");

    let answer = channel.send_request("1", "ping", json!({})).await;

    assert_eq!(answer["error"]["errcode"], "M_MISSING_TOKEN");
    assert_eq!(channel.close_code().await, 4401);
}

#[tokio::test]
async fn an_invalid_since_is_refused_before_the_upgrade() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    let refused = StreamChannel::connect_with(&server, "?since=nonsense", Some(&alice.token)).await;

    let Err(Error::Http(response)) = refused else {
        panic!("the token was accepted")
    };
    assert_eq!(response.status(), 400);
}

#[tokio::test]
async fn a_plain_http_request_is_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    let answer = alice.client.get(STREAM_PATH).await;

    answer.expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn a_reconnecting_client_receives_only_missed_events() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room_id = create_shared_room(&alice, &bob).await;
    let mut channel = StreamChannel::connect(&server, &bob, "").await;
    channel.next_update().await;
    send_message(&alice, &room_id, "1", "seen").await;
    let seen = channel
        .next_update_with(|update| !timeline_bodies(update, &room_id).is_empty())
        .await;
    drop(channel);

    send_message(&alice, &room_id, "2", "missed").await;
    let query = format!("?since={}", next_batch(&seen));
    let mut channel = StreamChannel::connect(&server, &bob, &query).await;
    let update = channel
        .next_update_with(|update| !timeline_bodies(update, &room_id).is_empty())
        .await;

    assert_eq!(timeline_bodies(&update, &room_id), ["missed"]);
}

#[tokio::test]
async fn a_sync_token_is_valid_in_the_channel() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room_id = create_shared_room(&alice, &bob).await;
    let synced = bob.client.get("/_matrix/client/v3/sync").await.expect_ok();

    send_message(&alice, &room_id, "1", "after").await;
    let query = format!("?since={}", next_batch(&synced));
    let mut channel = StreamChannel::connect(&server, &bob, &query).await;
    let update = channel
        .next_update_with(|update| !timeline_bodies(update, &room_id).is_empty())
        .await;

    assert_eq!(timeline_bodies(&update, &room_id), ["after"]);
}

#[tokio::test]
async fn a_transaction_id_is_shared_with_http() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room_id = create_shared_room(&alice, &bob).await;
    let mut channel = StreamChannel::connect(&server, &alice, "").await;
    let params = json!({
        "room_id": room_id, "event_type": "m.room.message",
        "content": { "msgtype": "m.text", "body": "hello" },
    });

    let first = channel.send_request("t1", "send", params.clone()).await;
    let again = channel.send_request("t1", "send", params).await;
    let by_http = send_message(&alice, &room_id, "t1", "hello").await;

    assert_eq!(first, again);
    assert_eq!(first["result"]["event_id"], by_http.as_str());
}

#[tokio::test]
async fn the_sender_sees_its_transaction_id_in_the_update() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room_id = create_shared_room(&alice, &bob).await;
    let mut channel = StreamChannel::connect(&server, &alice, "").await;
    channel.next_update().await;

    let content = json!({ "msgtype": "m.text", "body": "hello" });
    let params = json!({ "room_id": room_id, "event_type": "m.room.message", "content": content });
    channel.send_request("t1", "send", params).await;
    let update = channel
        .next_update_with(|update| !timeline_bodies(update, &room_id).is_empty())
        .await;

    let events = &update["rooms"]["join"][&room_id]["timeline"]["events"];
    assert_eq!(events[0]["unsigned"]["transaction_id"], "t1");
}

#[tokio::test]
async fn the_channel_sends_state_typing_receipts_and_presence() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room_id = create_shared_room(&alice, &bob).await;
    let said = send_message(&alice, &room_id, "1", "hello").await;
    let mut channel = StreamChannel::connect(&server, &bob, "").await;
    let mut watching = StreamChannel::connect(&server, &alice, "").await;
    watching.next_update().await;

    let name =
        json!({ "room_id": room_id, "event_type": "m.room.name", "content": { "name": "tea" } });
    let refused = channel.send_request("1", "state", name.clone()).await;
    let typing = channel
        .send_request("2", "typing", json!({ "room_id": room_id, "typing": true }))
        .await;
    let receipt = channel
        .send_request(
            "3",
            "receipt",
            json!({ "room_id": room_id, "event_id": said }),
        )
        .await;
    let presence = channel
        .send_request(
            "4",
            "presence",
            json!({ "presence": "online", "status_msg": "tea" }),
        )
        .await;
    let named = watching.send_request("5", "state", name).await;

    assert_eq!(refused["error"]["errcode"], "M_FORBIDDEN");
    for done in [typing, receipt, presence] {
        assert_eq!(done["result"], json!({}));
    }
    assert!(named["result"]["event_id"].is_string());
    let ephemeral =
        |update: &Value| update["rooms"]["join"][&room_id]["ephemeral"]["events"].clone();
    let typing = watching
        .next_update_with(|update| ephemeral(update).to_string().contains("m.typing"))
        .await;
    assert_eq!(
        ephemeral(&typing)[0]["content"]["user_ids"],
        json!([bob.id])
    );
}

#[tokio::test]
async fn invalid_frames_are_answered_without_closing() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let mut channel = StreamChannel::connect(&server, &alice, "").await;

    channel.send_text("nonsense").await;
    let not_json = channel.next_answer().await;
    channel.send_text("[]").await;
    let no_object = channel.next_answer().await;
    let unknown = channel.send_request("1", "dance", json!({})).await;
    let no_params = channel.send_request("2", "send", json!({})).await;
    channel.send_text(r#"{"method":"send","params":{}}"#).await;
    let no_id = channel.next_answer().await;
    let ping = channel.send_request("3", "ping", json!({})).await;

    assert_eq!(not_json["error"]["errcode"], "M_NOT_JSON");
    assert_eq!(not_json["id"], Value::Null);
    assert_eq!(no_object["error"]["errcode"], "M_BAD_JSON");
    assert_eq!(unknown["error"]["errcode"], "M_UNRECOGNIZED");
    assert_eq!(no_params["error"]["errcode"], "M_BAD_JSON");
    assert_eq!(no_id["error"]["errcode"], "M_MISSING_PARAM");
    assert_eq!(ping, json!({ "id": "3", "result": {} }));
}

#[tokio::test]
async fn a_to_device_message_is_repeated_until_acknowledged() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut channel = StreamChannel::connect(&server, &bob, "").await;
    let before = next_batch(&channel.next_update().await);
    send_to_device(&alice, &bob, "1").await;
    let pushed = channel
        .next_update_with(|update| !device_messages(update).is_empty())
        .await;
    drop(channel);

    let query = format!("?since={before}");
    let mut channel = StreamChannel::connect(&server, &bob, &query).await;
    let again = channel
        .next_update_with(|update| !device_messages(update).is_empty())
        .await;
    let ack = channel
        .send_request("1", "ack", json!({ "since": next_batch(&again) }))
        .await;
    send_to_device(&alice, &bob, "2").await;
    drop(channel);
    let mut channel = StreamChannel::connect(&server, &bob, &query).await;
    let after = channel
        .next_update_with(|update| !device_messages(update).is_empty())
        .await;

    assert_eq!(device_messages(&pushed), ["1"]);
    assert_eq!(device_messages(&again), ["1"]);
    assert_eq!(ack["result"], json!({}));
    assert_eq!(device_messages(&after), ["2"]);
}

#[tokio::test]
async fn a_revoked_token_closes_the_channel_at_once() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let mut channel = StreamChannel::connect(&server, &alice, "").await;
    channel.next_update().await;

    alice
        .client
        .post("/_matrix/client/v3/logout", json!({}))
        .await
        .expect_ok();

    assert_eq!(channel.close_code().await, 4401);
}

#[tokio::test]
async fn a_stopping_server_closes_its_channels() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let mut channel = StreamChannel::connect(&server, &alice, "").await;
    channel.next_update().await;

    let (code, all_ended) = tokio::join!(channel.close_code(), server.running.stop());

    assert_eq!(code, 1001);
    assert!(all_ended);
}

#[tokio::test]
async fn a_slow_reader_receives_one_combined_update() {
    const MESSAGE_COUNT: usize = 300;
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room_id = create_shared_room(&alice, &bob).await;
    let mut channel = StreamChannel::connect(&server, &bob, "").await;
    channel.next_update().await;

    // The client does not read meanwhile, and the messages exceed the buffers of the socket.
    let large = "x".repeat(50_000);
    for n in 0..MESSAGE_COUNT {
        send_message(&alice, &room_id, &format!("t{n}"), &large).await;
    }
    send_message(&alice, &room_id, "last", "the last").await;
    let (mut told, mut updates) = (0, 0);
    let last = loop {
        let update = channel.next_update().await;
        let bodies = timeline_bodies(&update, &room_id);
        told += bodies.len();
        updates += 1;
        if bodies.last().is_some_and(|body| body == "the last") {
            break update;
        }
    };

    assert!(
        updates < MESSAGE_COUNT,
        "{updates} updates were queued for a slow reader"
    );
    assert!(told <= MESSAGE_COUNT, "nothing was left out");
    assert_eq!(last["rooms"]["join"][&room_id]["timeline"]["limited"], true);
}

#[tokio::test]
async fn the_answer_is_sent_before_the_echo() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room_id = create_shared_room(&alice, &bob).await;
    let mut channel = StreamChannel::connect(&server, &alice, "").await;
    channel.next_update().await;
    let mut overtaken = Vec::new();

    for n in 0..30 {
        let text = format!("message {n}");
        let content = json!({ "msgtype": "m.text", "body": text });
        let params =
            json!({ "room_id": room_id, "event_type": "m.room.message", "content": content });
        let answer = channel.send_request(&text, "send", params).await;
        assert!(answer["result"]["event_id"].is_string(), "{answer}");
        let updates = channel.updates.iter();
        let told = updates.flat_map(|update| timeline_bodies(update, &room_id));
        overtaken.extend(told.filter(|body| *body == text));
        channel
            .next_update_with(|update| timeline_bodies(update, &room_id).contains(&text))
            .await;
    }

    assert!(overtaken.is_empty(), "{overtaken:?}");
}

#[tokio::test]
async fn a_sticky_event_can_be_sent_and_received_through_the_channel() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room_id = create_shared_room(&alice, &bob).await;
    let mut channel = StreamChannel::connect(&server, &alice, "").await;
    let sent = channel
        .send_request(
            "sticky",
            "send",
            json!({
                "room_id": room_id, "event_type": "org.example", "content": {},
                "sticky_duration_ms": 60_000,
            }),
        )
        .await;
    for n in 0..20 {
        send_message(&alice, &room_id, &n.to_string(), "hello").await;
    }

    let mut receiving = StreamChannel::connect(&server, &bob, "").await;
    let update = receiving.next_update().await;

    let room = &update["rooms"]["join"][&room_id];
    let sticky = &room["msc4354_sticky"]["events"];
    assert_eq!(sticky.as_array().map(Vec::len), Some(1), "{room}");
    assert_eq!(sticky[0]["event_id"], sent["result"]["event_id"]);
    let wrong = channel
        .send_request(
            "wrong",
            "state",
            json!({
                "room_id": room_id, "event_type": "org.example", "content": {},
                "sticky_duration_ms": 3_600_001,
            }),
        )
        .await;
    assert_eq!(wrong["error"]["errcode"], "M_BAD_JSON");
}
