//! The checks on receipt of a PDU that need nothing except the event and the keys of the servers that signed it.
//!
//! See the [specification](https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu).

use std::sync::Arc;

use ruma::{
    OwnedServerName,
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, redact},
    events::TimelineEventType,
    room_version_rules::RoomVersionRules,
    signatures::{
        PublicKeyMap, Verified as Outcome, required_server_signatures_to_verify_event, verify_event,
    },
    state_res::check_state_independent_auth_rules,
};

use super::{Pdu, StateMap, event_builder::authorize, event_format, state_map::StateMapKey};
use crate::error::{Error, Result};

/// An event that is well formed and signed by the servers that must sign it. It may still be forbidden.
#[derive(Clone, Debug)]
pub struct VerifiedEvent {
    pdu: Pdu,
    json: String,
    is_redacted: bool,
}

/// The keys of a server that are needed to verify an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeededKeys {
    pub server: OwnedServerName,
    /// The ids of its keys with which it signed the event; one valid signature suffices.
    pub key_ids: Vec<String>,
}

impl VerifiedEvent {
    /// Checks the form, the signatures and the hash of an event. If the hash does not match, the event is redacted.
    ///
    /// `keys` holds those of [`needed_keys`] that were valid when the event was made.
    ///
    /// # Errors
    ///
    /// [`Error::BadJson`] or [`Error::TooLarge`] when it is not a valid event of this room version, and
    /// [`Error::InvalidSignature`]. In all cases the event must be dropped.
    pub fn verify(
        mut object: CanonicalJsonObject,
        rules: &RoomVersionRules,
        keys: &PublicKeyMap,
    ) -> Result<Self> {
        // This field is not signed.
        object.remove("unsigned");
        // 1. Is a valid event, otherwise it is dropped.
        event_format::check_any_event(&object, rules)?;
        if !matches!(object.get("content"), Some(CanonicalJsonValue::Object(_))) {
            return Err(Error::BadJson("`content` is not an object".to_owned()));
        }
        // 2. Passes signature checks, otherwise it is dropped.
        let outcome = verify_event(keys, &object, rules).map_err(|e| {
            Error::InvalidSignature(format!("the signatures of the event are not valid: {e}"))
        })?;
        // 3. Passes hash checks, otherwise it is redacted before being processed further.
        let is_redacted = outcome == Outcome::Signatures;
        if is_redacted {
            object = redact(object, &rules.redaction, None)
                .map_err(|e| Error::BadJson(format!("the event cannot be redacted: {e}")))?;
        }
        let (pdu, json) = Pdu::from_object(&object, rules)?;
        Ok(Self {
            pdu,
            json,
            is_redacted,
        })
    }

    /// Returns an event that was verified before it was stored.
    pub fn from_stored(pdu: Pdu, json: String) -> Self {
        Self {
            pdu,
            json,
            is_redacted: false,
        }
    }

    pub fn pdu(&self) -> &Pdu {
        &self.pdu
    }

    /// Returns its canonical JSON.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Returns whether its hash did not match, so that this is only its redacted form.
    pub fn is_redacted(&self) -> bool {
        self.is_redacted
    }

    /// Returns the event and its canonical JSON.
    pub fn into_parts(self) -> (Pdu, String) {
        (self.pdu, self.json)
    }
}

impl AsRef<Pdu> for VerifiedEvent {
    fn as_ref(&self) -> &Pdu {
        &self.pdu
    }
}

/// Returns the keys that are needed to verify an event.
///
/// # Errors
///
/// [`Error::BadJson`] when the event is too malformed to decide this.
pub fn needed_keys(
    object: &CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<Vec<NeededKeys>> {
    let servers = required_server_signatures_to_verify_event(object, &rules.signatures)
        .map_err(|e| Error::BadJson(format!("not an event: {e}")))?;
    let signatures = object
        .get("signatures")
        .and_then(CanonicalJsonValue::as_object);
    let key_ids = |server: &OwnedServerName| -> Vec<String> {
        signatures
            .and_then(|signatures| signatures.get(server.as_str())?.as_object())
            .map(|of_server| of_server.keys().cloned().collect())
            .unwrap_or_default()
    };
    let needed = |server: OwnedServerName| NeededKeys {
        key_ids: key_ids(&server),
        server,
    };
    Ok(servers.into_iter().map(needed).collect())
}

/// Checks an event by its auth events.
///
/// `auth_events` holds these, and the create event of the room.
///
/// # Errors
///
/// [`Error::Forbidden`] with the rule that refuses it.
pub fn authorize_by_auth_events(
    pdu: &Pdu,
    rules: &RoomVersionRules,
    auth_events: &[Arc<Pdu>],
) -> Result<()> {
    check_state_independent_auth_rules(&rules.authorization, pdu, |event_id| {
        let mut events = auth_events.iter();
        events
            .find(|event| event.event_id == event_id)
            .map(|event| &**event)
    })
    .map_err(Error::Forbidden)?;
    let mut state = StateMap::default();
    for event in auth_events {
        let is_named = pdu.auth_events.contains(&event.event_id);
        let is_create = event.is_state(&TimelineEventType::RoomCreate, "");
        if is_named || (is_create && rules.authorization.room_create_event_id_as_room_id) {
            state.insert(event.clone());
        }
    }
    authorize(pdu, rules, &state)
}

/// Returns the state keys by which an event is authorized.
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#auth-events-selection).
///
/// # Errors
///
/// [`Error::Forbidden`] for an event whose content is too malformed to decide this.
pub fn auth_types(pdu: &Pdu, rules: &RoomVersionRules) -> Result<Vec<StateMapKey>> {
    ruma::state_res::auth_types_for_event(
        &pdu.kind,
        &pdu.sender,
        pdu.state_key.as_deref(),
        &pdu.content,
        &rules.authorization,
    )
    .map_err(Error::Forbidden)
}

#[cfg(test)]
mod tests;
