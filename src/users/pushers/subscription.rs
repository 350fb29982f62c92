//! Pushers of the kind `webpush`: what a browser or a phone gives to a server that may send it messages.
//!
//! See [MSC4174](https://github.com/matrix-org/matrix-spec-proposals/pull/4174),
//! [RFC 8030](https://www.rfc-editor.org/rfc/rfc8030) and [RFC 8291](https://www.rfc-editor.org/rfc/rfc8291).

use p256::PublicKey;
use ruma::serde::{Base64, base64::UrlSafe};
use serde::Deserialize;
use url::Url;
use web_push_native::Auth;

use crate::error::{Error, Result};

/// The names of the kind: in the proposal, and before it is accepted.
const WEB_PUSH_KINDS: [&str; 2] = ["webpush", "org.matrix.msc4174.webpush"];

/// The permission to send messages to one client through a push service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebPushSubscription {
    /// The address at which the push service accepts the messages.
    pub url: Url,
    /// The key with which messages are encrypted.
    pub client_key: PublicKey,
    /// The secret that the client shares with this server only.
    pub auth_secret: Auth,
}

#[derive(Deserialize)]
struct WebPushPusher {
    kind: String,
    pushkey: String,
    data: WebPushPusherData,
}

#[derive(Deserialize)]
struct WebPushPusherData {
    url: String,
    auth: String,
}

impl WebPushSubscription {
    /// Reads the subscription of a pusher in JSON.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when the pusher is of another kind, or its address, key or secret is malformed.
    pub fn parse(pusher: &str) -> Result<Self> {
        let unsupported = "this server does not support pushers of this kind";
        let pusher: WebPushPusher =
            serde_json::from_str(pusher).map_err(|_| Error::invalid_param(unsupported))?;
        if !WEB_PUSH_KINDS.contains(&pusher.kind.as_str()) {
            return Err(Error::invalid_param(unsupported));
        }
        let url = Url::parse(&pusher.data.url)
            .map_err(|_| Error::invalid_param("url is not a valid address"))?;
        let client_key = decode(&pusher.pushkey)
            .and_then(|bytes| PublicKey::from_sec1_bytes(&bytes).ok())
            .ok_or_else(|| {
                Error::invalid_param("pushkey must be a P-256 public key in URL-safe Base64")
            })?;
        let auth_secret = decode(&pusher.data.auth)
            .and_then(Auth::from_exact_iter)
            .ok_or_else(|| Error::invalid_param("auth must be 16 bytes in URL-safe Base64"))?;
        Ok(Self {
            url,
            client_key,
            auth_secret,
        })
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let decoded = Base64::<UrlSafe>::parse(text).ok()?;
    Some(decoded.into_inner())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The example of RFC 8291, appendix A.
    fn pusher() -> Value {
        json!({
            "kind": "webpush",
            "pushkey": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
            "data": { "url": "https://push.example.org/1", "auth": "BTBZMqHH6r4Tts7J_aSIgg" },
        })
    }

    #[test]
    fn a_complete_subscription_is_read() {
        let read = WebPushSubscription::parse(&pusher().to_string()).unwrap();

        assert_eq!(read.url.as_str(), "https://push.example.org/1");
        assert_eq!(read.auth_secret[0], 5);
    }

    #[test]
    fn malformed_subscriptions_are_refused() {
        for (path, value) in [
            ("/kind", "carrier-pigeon"),
            ("/pushkey", "BCVx"),
            ("/pushkey", "not base64!"),
            ("/data/url", "nowhere"),
            ("/data/auth", "BTBZ"),
        ] {
            let mut pusher = pusher();
            *pusher.pointer_mut(path).unwrap() = json!(value);

            let refused = WebPushSubscription::parse(&pusher.to_string());
            assert!(matches!(refused, Err(Error::InvalidParam(_))), "{path}");
        }
    }
}
