//! Policy servers: a room may name a server that says which events it recommends.
//!
//! [Policy Servers](https://spec.matrix.org/v1.19/server-server-api/#policy-servers)

use ruma::{
    ServerName,
    api::federation::policy::sign_event::v1 as sign_event,
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    events::{
        StateEventType,
        room::policy::{POLICY_SERVER_ED25519_SIGNING_KEY_ID, RoomPolicyEventContent},
    },
    signatures::verify_policy_server_signature,
};
use serde_json::value::RawValue;

use crate::{
    federation::Allowance,
    matrix::Verified,
    rooms::{Help, Room},
    workflows::Workflows,
};

impl Workflows {
    /// Returns what the policy server of a room, if it has one, says of an event.
    pub(super) async fn policy_help(&self, room: &Room, event: &Verified) -> Help {
        let is_recommended = match policy_of(room) {
            Some(policy) => self.is_recommended(&policy, room, event).await,
            None => true,
        };
        let mut help = Help::default();
        help.is_not_recommended = !is_recommended;
        help
    }

    async fn is_recommended(
        &self,
        policy: &RoomPolicyEventContent,
        room: &Room,
        event: &Verified,
    ) -> bool {
        let Ok(mut object) = serde_json::from_str::<CanonicalJsonObject>(event.json()) else {
            return false;
        };
        let is_signed = |object: &CanonicalJsonObject| {
            verify_policy_server_signature(policy, object, &room.rules).is_ok()
        };
        if is_signed(&object) {
            return true;
        }
        // "If the Policy Server's signature is invalid or missing, the homeserver SHOULD ask for a new signature."
        let Some(signature) = self.ask_policy_server(&policy.via, event).await else {
            return false;
        };
        add_signature(&mut object, &policy.via, signature);
        is_signed(&object)
    }

    async fn ask_policy_server(&self, server: &ServerName, event: &Verified) -> Option<String> {
        let event = RawValue::from_string(event.json().to_owned()).ok()?;
        let request = sign_event::Request::new(event);
        let client = self.federation.client();
        match client.send(server, request, Allowance::QUICK).await {
            Ok(answer) => answer.ed25519_signature(server).map(ToOwned::to_owned),
            Err(failure) => {
                tracing::debug!(%failure, "the policy server does not sign an event");
                None
            }
        }
    }
}

/// Returns the policy server that a room uses, if it uses one: a user of that server has to be in the room.
fn policy_of(room: &Room) -> Option<RoomPolicyEventContent> {
    let view = room.view();
    let kind = StateEventType::from("m.room.policy");
    let policy: RoomPolicyEventContent = view.state.content(&kind)?;
    view.servers.contains_key(&policy.via).then_some(policy)
}

fn add_signature(object: &mut CanonicalJsonObject, server: &ServerName, signature: String) {
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
        of_server.insert(key_id, CanonicalJsonValue::String(signature));
    }
}
