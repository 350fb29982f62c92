//! The LiveKit server: the tokens with which clients connect to it, and requests to it.
//!
//! See [its tokens](https://docs.livekit.io/home/get-started/authentication/) and
//! [its API](https://docs.livekit.io/reference/server/server-apis/).

use std::time::Duration;

use reqwest::{Client, StatusCode, header::CONTENT_TYPE};
use serde_json::{Value, json};

use super::pseudonyms::{LiveKitRoomName, ParticipantIdentity};
use crate::{
    clock::Clock,
    config::LiveKitSettings,
    error::{Error, Result},
    json_web_token,
    outbound::{self, CertificateTrust, NetworkReach},
};

/// The time for which a client can connect with its token. LiveKit renews the tokens of clients that are connected.
const CLIENT_TOKEN_LIFETIME: Duration = Duration::from_hours(1);
/// The time for which a token for a request of this server is valid.
const REQUEST_TOKEN_LIFETIME: Duration = Duration::from_mins(1);
/// The time limit of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest response that is read, in bytes. It may list the participants of a room.
const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;

/// Sends requests to the LiveKit server, and signs tokens for it.
pub(super) struct LiveKitServer {
    settings: LiveKitSettings,
    clock: Clock,
    http: Client,
}

impl LiveKitServer {
    /// Sets up the HTTP client. The operator names the LiveKit server, so it may have a private address.
    pub(super) fn new(
        settings: LiveKitSettings,
        clock: &Clock,
        trust: &CertificateTrust,
    ) -> Result<Self> {
        Ok(Self {
            settings,
            clock: clock.clone(),
            http: outbound::web_client_with_trust(NetworkReach::Everywhere, trust)?,
        })
    }

    /// Returns the URL to which clients connect.
    pub(super) fn client_url(&self) -> &str {
        self.settings.url.as_str()
    }

    /// Returns a token with which a participant can join a room that exists, and send and receive media there.
    ///
    /// It does not permit to create rooms: that permission is not limited to one room, and this server creates the room
    /// itself for the users who may begin a call.
    pub(super) fn join_token(
        &self,
        room: &LiveKitRoomName,
        participant: &ParticipantIdentity,
    ) -> String {
        let grants = json!({
            "room": room,
            "roomJoin": true,
            "roomCreate": false,
            "canPublish": true,
            "canSubscribe": true,
            "canUpdateOwnMetadata": true,
        });
        self.sign(Some(participant), &grants, CLIENT_TOKEN_LIFETIME)
    }

    /// Creates a room, unless it exists already.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] when the LiveKit server does not answer or refuses.
    pub(super) async fn create_room(&self, room: &LiveKitRoomName) -> Result<()> {
        let grants = json!({ "roomCreate": true });
        self.request("CreateRoom", &grants, &json!({ "name": room }))
            .await?;
        Ok(())
    }

    fn sign(
        &self,
        participant: Option<&ParticipantIdentity>,
        grants: &Value,
        lifetime: Duration,
    ) -> String {
        let now_s = self.clock.now_ms() / 1_000;
        let lifetime_s = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        let mut claims = json!({
            "iss": self.settings.key,
            "nbf": now_s,
            "exp": now_s.saturating_add(lifetime_s),
            "video": grants,
        });
        if let (Some(participant), Some(claims)) = (participant, claims.as_object_mut()) {
            claims.insert("sub".to_owned(), json!(participant));
        }
        json_web_token::sign_with_secret(&claims, self.settings.secret.expose().as_bytes())
    }

    /// Calls a method of the room service. Returns `None` if what it concerns does not exist.
    async fn request(&self, method: &str, grants: &Value, body: &Value) -> Result<Option<Value>> {
        let failed = |source: String| Error::internal("use the LiveKit server", source);
        let url = format!(
            "{}/twirp/livekit.RoomService/{method}",
            self.settings.url.http_url()
        );
        let sent = self
            .http
            .post(url)
            .bearer_auth(self.sign(None, grants, REQUEST_TOKEN_LIFETIME))
            .header(CONTENT_TYPE, "application/json")
            .timeout(REQUEST_TIMEOUT)
            .body(body.to_string())
            .send()
            .await;
        let response = sent.map_err(|error| failed(error.to_string()))?;
        let status = response.status();
        let answer = outbound::read_body(response, MAX_RESPONSE_BYTES).await;
        let answer: Value = serde_json::from_slice(&answer?).unwrap_or_default();
        if status.is_success() {
            return Ok(Some(answer));
        }
        let code = answer.get("code").and_then(Value::as_str);
        if status == StatusCode::NOT_FOUND && code == Some("not_found") {
            return Ok(None);
        }
        let code = code.unwrap_or("no error code");
        Err(failed(format!("{method}: status {status}, {code}")))
    }
}
