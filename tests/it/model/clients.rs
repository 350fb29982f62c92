//! The clients of the three ways to sync.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    timeline_filter,
    view::{RoomView, TIMELINE_LIMIT, View, difference, fields, items},
};
use crate::{
    chat::next_batch,
    harness::{Server, User},
    sliding::SLIDING_SYNC_PATH,
    websocket::StreamChannel,
};

/// The number of the last room of a list that has all rooms.
const LAST_ROOM: u64 = 99;
/// The largest number of answers or updates that a client needs to catch up.
const MAX_ANSWERS: usize = 30;
/// The time for which a client waits for an update of the channel. It is much longer than an update takes.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(20);

/// A client of `/sync`.
#[derive(Default)]
pub(super) struct SyncClient {
    pub(super) view: View,
    token: Option<String>,
}

impl SyncClient {
    /// Gets the changes.
    pub(super) async fn catch_up(&mut self, device: &User) {
        let sync = self.request(device).await;
        self.view.apply_sync(&sync);
        self.token = Some(next_batch(&sync).to_owned());
    }

    /// Asks for the changes, and loses the answer.
    pub(super) async fn lose_answer(&self, device: &User) {
        self.request(device).await;
    }

    async fn request(&self, device: &User) -> Value {
        let since = self.token.as_ref();
        let since = since.map_or_else(String::new, |token| format!("since={token}&"));
        device
            .syncs_with(&format!("{since}{}", timeline_filter()))
            .await
    }
}

/// A client of sliding sync, with one list.
pub(super) struct SlidingClient {
    pub(super) view: View,
    pos: Option<String>,
    /// The token up to which it has the messages to the device.
    to_device: Option<String>,
}

impl SlidingClient {
    pub(super) fn new() -> Self {
        Self {
            view: View::default(),
            pos: None,
            to_device: None,
        }
    }

    /// Gets changes until the data are as expected, or there are no more.
    pub(super) async fn catch_up_with(&mut self, device: &User, expected: &View) -> &View {
        for _ in 0..MAX_ANSWERS {
            self.poll_range(device, LAST_ROOM).await;
            if difference(expected, &self.view).is_none() {
                break;
            }
        }
        &self.view
    }

    /// Asks for the changes, and loses the answer.
    pub(super) async fn lose_answer(&self, device: &User) {
        self.request(device, LAST_ROOM).await;
    }

    /// Continues without the position, as after an error of the connection.
    pub(super) fn forget_connection(&mut self) {
        self.pos = None;
    }

    /// Gets the changes of the first rooms of the list.
    pub(super) async fn poll_range(&mut self, device: &User, last: u64) {
        let Some(answer) = self.request(device, last).await else {
            self.forget_connection();
            return;
        };
        self.pos = answer["pos"].as_str().map(ToOwned::to_owned);
        for (room_id, room) in fields(&answer["rooms"]) {
            self.apply_room(room_id, room);
        }
        self.apply_extensions(&answer["extensions"]);
    }

    /// Returns the answer, or nothing if the server does not know the position any more.
    async fn request(&self, device: &User, last: u64) -> Option<Value> {
        let pos = self.pos.as_ref();
        let pos = pos.map_or_else(String::new, |pos| format!("&pos={pos}"));
        let path = format!("{SLIDING_SYNC_PATH}?timeout=0{pos}");
        let mut to_device = json!({ "enabled": true });
        if let Some(since) = &self.to_device {
            to_device["since"] = since.as_str().into();
        }
        let body = json!({
            "lists": { "all": {
                "ranges": [[0, last]], "timeline_limit": TIMELINE_LIMIT, "required_state": [["*", "*"]],
            } },
            "extensions": {
                "account_data": { "enabled": true }, "receipts": { "enabled": true },
                "typing": { "enabled": true }, "to_device": to_device,
            },
        });
        let answer = device.client.post(&path, body).await;
        if answer.body["errcode"] == "M_UNKNOWN_POS" {
            return None;
        }
        Some(answer.expect_ok())
    }

    fn apply_room(&mut self, room_id: &str, room: &Value) {
        let membership = room["membership"].as_str().unwrap_or("join");
        if !["join", "invite"].contains(&membership) {
            self.view.rooms.remove(room_id);
            return;
        }
        let known = self.view.rooms.entry(room_id.to_owned()).or_default();
        known.set_membership(membership);
        if room["initial"] == true {
            *known = RoomView {
                membership: membership.to_owned(),
                // The extensions send only what has changed.
                receipts: std::mem::take(&mut known.receipts),
                typing: std::mem::take(&mut known.typing),
                ..RoomView::default()
            };
        }
        if room["limited"] == true || room["expanded_timeline"] == true {
            known.timeline.clear();
        }
        known.add_timeline(items(&room["timeline"]));
        known.add_state(items(&room["required_state"]));
        if let Some(count) = room["notification_count"].as_u64() {
            known.notifications = count;
        }
        if let Some(count) = room["highlight_count"].as_u64() {
            known.highlights = count;
        }
    }

    fn apply_extensions(&mut self, extensions: &Value) {
        let view = &mut self.view;
        view.add_account_data(items(&extensions["account_data"]["global"]));
        for (room_id, events) in fields(&extensions["account_data"]["rooms"]) {
            view.add_room_account_data(room_id, items(events));
        }
        for (room_id, event) in fields(&extensions["receipts"]["rooms"]) {
            if let Some(room) = view.rooms.get_mut(room_id) {
                room.add_receipts(&event["content"]);
            }
        }
        for (room_id, event) in fields(&extensions["typing"]["rooms"]) {
            if let Some(room) = view.rooms.get_mut(room_id) {
                room.set_typing(&event["content"]);
            }
        }
        let to_device = &extensions["to_device"];
        view.to_device
            .extend(items(&to_device["events"]).iter().cloned());
        if let Some(next) = to_device["next_batch"].as_str() {
            self.to_device = Some(next.to_owned());
        }
    }
}

/// A client of the WebSocket channel.
pub(super) struct ChannelClient {
    pub(super) view: View,
    token: Option<String>,
    channel: StreamChannel,
}

impl ChannelClient {
    pub(super) async fn connect(server: &Server, device: &User) -> Self {
        let query = format!("?{}", timeline_filter());
        Self {
            view: View::default(),
            token: None,
            channel: StreamChannel::connect(server, device, &query).await,
        }
    }

    /// Connects again, at the last update that was received.
    pub(super) async fn reconnect(&mut self, server: &Server, device: &User) {
        let since = self.token.as_ref();
        let since = since.map_or_else(String::new, |token| format!("since={token}&"));
        let query = format!("?{since}{}", timeline_filter());
        self.channel = StreamChannel::connect(server, device, &query).await;
    }

    /// Receives updates until the data are as expected.
    pub(super) async fn catch_up_with(&mut self, expected: &View) -> &View {
        for _ in 0..MAX_ANSWERS {
            if difference(expected, &self.view).is_none() {
                break;
            }
            let Ok(update) = tokio::time::timeout(UPDATE_TIMEOUT, self.channel.next_update()).await
            else {
                break;
            };
            self.view.apply_sync(&update);
            self.token = Some(next_batch(&update).to_owned());
        }
        &self.view
    }
}
