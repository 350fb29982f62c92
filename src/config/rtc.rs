//! The section of the configuration about calls through a LiveKit server.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use url::Url;

use super::values::{SecretString, empty_is_none};

/// `[rtc]`: the LiveKit server for calls with MatrixRTC.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RtcSection {
    /// The URL at which clients reach the LiveKit server. If unset, this server has no part in such calls.
    #[serde(with = "empty_is_none")]
    pub livekit_url: Option<LiveKitUrl>,
    /// The name of the key that this server and the LiveKit server share.
    #[serde(with = "empty_is_none")]
    pub key: Option<String>,
    /// The secret of that key.
    #[serde(with = "empty_is_none")]
    pub secret: Option<SecretString>,
}

/// A LiveKit server, and the key that is shared with it.
#[derive(Clone, Debug)]
pub struct LiveKitSettings {
    pub url: LiveKitUrl,
    /// The name of the key.
    pub key: String,
    pub secret: SecretString,
}

/// A key of `[rtc]` that must be set because another one is.
pub(super) struct MissingRtcKey {
    pub(super) missing: &'static str,
    pub(super) set: &'static str,
}

impl RtcSection {
    /// Returns the LiveKit server, if one is configured.
    pub fn livekit(&self) -> Option<LiveKitSettings> {
        Some(LiveKitSettings {
            url: self.livekit_url.clone()?,
            key: self.key.clone()?,
            secret: self.secret.clone()?,
        })
    }

    /// Returns a key that must be set, and is not.
    pub(super) fn missing_key(&self) -> Option<MissingRtcKey> {
        let keys = [
            ("rtc.livekit_url", self.livekit_url.is_some()),
            ("rtc.key", self.key.is_some()),
            ("rtc.secret", self.secret.is_some()),
        ];
        let (missing, _) = keys.into_iter().find(|(_, is_set)| !is_set)?;
        let (set, _) = keys.into_iter().find(|(_, is_set)| *is_set)?;
        Some(MissingRtcKey { missing, set })
    }
}

/// The URL of a LiveKit server, which may have a path. The scheme is `wss`, or `ws` without TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct LiveKitUrl(String);

impl LiveKitUrl {
    /// Parses a URL. `http` and `https` are accepted for `ws` and `wss`. Returns `None` if it is something else.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let is_bare = url.has_host()
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        let scheme = match url.scheme() {
            "wss" | "https" => "wss",
            "ws" | "http" => "ws",
            _ => return None,
        };
        let (_, rest) = url.as_str().split_once(':')?;
        is_bare.then(|| Self(format!("{scheme}:{}", rest.trim_end_matches('/'))))
    }

    /// Returns the URL for the WebSockets of clients, without a slash at the end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the URL for HTTP requests, without a slash at the end.
    pub fn http_url(&self) -> String {
        self.0.replacen("ws", "http", 1)
    }
}

impl<'de> Deserialize<'de> for LiveKitUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?)
            .ok_or_else(|| D::Error::custom("expected an address like `wss://livekit.example.org`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_livekit_url_has_forms_for_websockets_and_for_http() {
        let forms = |text: &str| {
            let url = LiveKitUrl::parse(text)?;
            Some((url.as_str().to_owned(), url.http_url()))
        };
        let both = |ws: &str, http: &str| Some((ws.to_owned(), http.to_owned()));

        let with_path = both(
            "wss://rtc.example.org/livekit/sfu",
            "https://rtc.example.org/livekit/sfu",
        );
        assert_eq!(forms("wss://rtc.example.org/livekit/sfu/"), with_path);
        assert_eq!(forms("https://rtc.example.org/livekit/sfu"), with_path);
        let local = both("ws://127.0.0.1:7880", "http://127.0.0.1:7880");
        assert_eq!(forms("ws://127.0.0.1:7880"), local);
        assert_eq!(forms("http://127.0.0.1:7880/"), local);
    }

    #[test]
    fn other_urls_are_no_livekit_url() {
        for text in [
            "",
            "rtc.example.org",
            "turn:rtc.example.org",
            "ftp://rtc.example.org",
            "wss://me:swordfish@rtc.example.org",
            "wss://rtc.example.org/?a=b",
            "wss://rtc.example.org/#a",
        ] {
            assert_eq!(LiveKitUrl::parse(text), None, "{text}");
        }
    }
}
