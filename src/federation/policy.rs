//! Policy servers: a room can name a server that decides which events it recommends.
//!
//! [Policy Servers](https://spec.matrix.org/v1.19/server-server-api/#policy-servers)

use futures_util::future::BoxFuture;
use ruma::{
    ServerName,
    api::federation::policy::sign_event::v1 as sign_event,
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    events::room::policy::{POLICY_SERVER_ED25519_SIGNING_KEY_ID, RoomPolicyEventContent},
    room_version_rules::RoomVersionRules,
    signatures::verify_policy_server_signature,
};
use serde_json::value::RawValue;

use super::{Federation, RequestLimits};
use crate::{
    error::{Error, Result},
    rooms::{PolicyServerClient, Room},
};

impl PolicyServerClient for Federation {
    fn request_signature<'a>(
        &'a self,
        policy: &'a RoomPolicyEventContent,
        rules: &'a RoomVersionRules,
        event: &'a str,
    ) -> BoxFuture<'a, Result<String>> {
        Box::pin(self.request_policy_signature(policy, rules, event))
    }
}

impl Federation {
    /// Returns an event with the signature of its room's policy server, or unchanged if the room has none.
    ///
    /// # Errors
    ///
    /// As [`PolicyServerClient::request_signature`].
    pub async fn with_policy_signature(&self, room: &Room, event: String) -> Result<String> {
        match room.policy_server() {
            Some(policy) => self.request_signature(&policy, &room.rules, &event).await,
            None => Ok(event),
        }
    }

    async fn request_policy_signature(
        &self,
        policy: &RoomPolicyEventContent,
        rules: &RoomVersionRules,
        event: &str,
    ) -> Result<String> {
        let mut object: CanonicalJsonObject =
            serde_json::from_str(event).map_err(|e| Error::BadJson(e.to_string()))?;
        let is_signed = |object: &CanonicalJsonObject| {
            verify_policy_server_signature(policy, object, rules).is_ok()
        };
        // This server is not a policy server, and recommends all events of its own users.
        if self.is_own(&policy.via) || is_signed(&object) {
            return Ok(event.to_owned());
        }
        // "If the Policy Server's signature is invalid or missing, the homeserver SHOULD ask for a new signature."
        let request = sign_event::Request::new(RawValue::from_string(event.to_owned())?);
        let asking = self
            .client
            .send(&policy.via, request, RequestLimits::QUICK_RESPONSE);
        let answer = asking.await?;
        if let Some(signature) = answer.ed25519_signature(&policy.via) {
            add_signature(&mut object, &policy.via, signature);
        }
        if !is_signed(&object) {
            return Err(Error::forbidden(
                "the policy server of the room refused the event",
            ));
        }
        Ok(serde_json::to_string(&object)?)
    }
}

fn add_signature(object: &mut CanonicalJsonObject, server: &ServerName, signature: &str) {
    let empty = || CanonicalJsonValue::Object(CanonicalJsonObject::new());
    let signatures = object.entry("signatures".into()).or_insert_with(empty);
    let CanonicalJsonValue::Object(signatures) = signatures else {
        return;
    };
    let of_server = signatures
        .entry(server.as_str().into())
        .or_insert_with(empty);
    if let CanonicalJsonValue::Object(of_server) = of_server {
        let key_id = POLICY_SERVER_ED25519_SIGNING_KEY_ID.into();
        of_server.insert(key_id, CanonicalJsonValue::String(signature.to_owned()));
    }
}
