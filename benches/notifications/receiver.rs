//! A push gateway and application service in this process: it counts the messages that it is sent.

use std::{io::Write, net::Ipv4Addr};

use axum::{Json, Router, extract::State, routing::any};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::{net::TcpListener, sync::mpsc};

/// The token with which the application service makes requests.
pub(crate) const SERVICE_TOKEN: &str = "as-token";
/// The path of push gateways; an application service takes any path.
const GATEWAY_PATH: &str = "/_matrix/push/v1/notify";

pub(crate) struct Receiver {
    /// The URL as that of a push gateway.
    pub(crate) url: String,
    address: String,
    received: mpsc::UnboundedReceiver<usize>,
}

/// Counts the messages in a request: those of a transaction, or the one of a notification.
async fn receive(
    State(sender): State<mpsc::UnboundedSender<usize>>,
    Json(body): Json<Value>,
) -> Json<Value> {
    let is_message = |event: &&Value| event.get("type") == Some(&json!("m.room.message"));
    let count = match body.get("events").and_then(Value::as_array) {
        Some(events) => events.iter().filter(is_message).count(),
        None => body.pointer("/notification/event_id").iter().count(),
    };
    let _ = sender.send(count);
    Json(json!({ "rejected": [] }))
}

impl Receiver {
    #[expect(
        clippy::disallowed_methods,
        reason = "the task ends with the measurement"
    )]
    pub(crate) async fn start() -> Self {
        let (sender, received) = mpsc::unbounded_channel();
        let router = Router::new().fallback(any(receive)).with_state(sender);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            url: format!("http://{address}{GATEWAY_PATH}"),
            address: format!("http://{address}"),
            received,
        }
    }

    /// Waits until this many messages have arrived.
    pub(crate) async fn receive(&mut self, count: usize) {
        let mut arrived = 0;
        while arrived < count {
            arrived += self.received.recv().await.expect("the receiver runs");
        }
    }

    /// Returns the file that registers this process as an application service.
    pub(crate) fn registration(&self) -> NamedTempFile {
        let mut file = NamedTempFile::new().expect("a temporary file");
        let text = format!(
            "id: bench\nurl: {}\nas_token: {SERVICE_TOKEN}\nhs_token: hs-token\nsender_localpart: bench\n",
            self.address
        );
        file.write_all(text.as_bytes()).expect("it is written");
        file
    }
}
