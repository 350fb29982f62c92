//! Notifications for pushers that use Web Push.
//!
//! See [MSC4174](https://github.com/matrix-org/matrix-spec-proposals/pull/4174) and
//! [RFC 8291](https://www.rfc-editor.org/rfc/rfc8291).

use serde_json::json;

use super::{
    PushSender,
    endpoints::{PushPriority, WebPushAnswer, WebPushMessage, WebPushTarget},
    notification::{self, Notification},
    pusher_queue::PusherQueue,
};
use crate::{
    error::{Error, Result},
    storage::users::pushers::PusherActivation,
    users::WebPushSubscription,
};

/// The longest message before it is encrypted, in bytes. Push services must accept 4,096 bytes, of which encryption
/// needs 103.
const MAX_MESSAGE_BYTES: usize = 3_993;

impl PushSender {
    /// Sends the message with which the client activates a pusher.
    pub(super) async fn send_activation(
        &self,
        queue: &PusherQueue,
        target: &WebPushTarget,
        activation: &PusherActivation,
    ) -> Result<WebPushAnswer> {
        let message = json!({ "app_id": queue.app_id, "ack_token": activation.token });
        self.send_web_push(target, message.to_string(), PushPriority::High)
            .await
    }

    /// Sends a notification of an event.
    pub(super) async fn send_event_by_web_push(
        &self,
        queue: &PusherQueue,
        target: &WebPushTarget,
        unread_total: Option<u64>,
        about: &Notification,
    ) -> Result<WebPushAnswer> {
        let message = write_message(queue, unread_total, about)?;
        self.send_web_push(target, message, notification::priority(about))
            .await
    }

    async fn send_web_push(
        &self,
        target: &WebPushTarget,
        message: String,
        priority: PushPriority,
    ) -> Result<WebPushAnswer> {
        let WebPushSubscription {
            url,
            client_key,
            auth_secret,
        } = &target.subscription;
        let body = web_push_native::encrypt(message.into_bytes(), client_key, auth_secret)
            .map_err(|source| Error::internal("encrypt a push notification", source))?;
        let key = self.users.pushers.web_push_key().await?;
        let now = self.clock.now_ms();
        let message = WebPushMessage {
            body,
            authorization: key.authorization(url, &self.public_url.to_string(), now),
            priority,
        };
        self.endpoints.send_web_push(&target.service, message).await
    }
}

/// Returns a message about an event. If it would be too long, the content of the event is left out, and then all but
/// the ids.
fn write_message(
    queue: &PusherQueue,
    unread_total: Option<u64>,
    about: &Notification,
) -> Result<String> {
    let mut message = notification::flat_fields(queue, unread_total, about)?;
    let mut text = serde_json::to_string(&message)?;
    if text.len() > MAX_MESSAGE_BYTES {
        message.remove("content");
        text = serde_json::to_string(&message)?;
    }
    if text.len() > MAX_MESSAGE_BYTES {
        message.retain(|name, _| ["event_id", "room_id", "prio", "counts"].contains(&&**name));
        text = serde_json::to_string(&message)?;
    }
    Ok(text)
}
