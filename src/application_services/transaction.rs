//! The content of transactions for application services.
//!
//! See the [specification](https://spec.matrix.org/v1.19/application-service-api/#pushing-events). Messages to devices,
//! device lists and the numbers of keys are those of MSC4203 and MSC3202. They have the names that the proposals give
//! them before and after acceptance, because services know one or the other.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedDeviceId, OwnedUserId};
use serde_json::{Map, Value, json, value::RawValue};

use super::pending_changes::UserDevice;
use crate::{devices::RemainingKeys, error::Result, numbers::Position, storage::Receipt};

/// The content of a transaction.
#[derive(Default)]
pub(super) struct TransactionContent {
    pub(super) events: Vec<Box<RawValue>>,
    pub(super) ephemeral: Vec<Value>,
    pub(super) to_device: Vec<Value>,
    /// The users whose device lists changed.
    pub(super) changed_device_lists: Vec<OwnedUserId>,
    pub(super) key_counts: Vec<DeviceKeyCounts>,
    /// The devices whose messages are in the transaction, and the positions of the last ones.
    pub(super) moved_messages: Vec<MovedMessages>,
}

/// The keys that are left of a device.
pub(super) struct DeviceKeyCounts {
    pub(super) user_id: OwnedUserId,
    pub(super) device_id: OwnedDeviceId,
    pub(super) left: RemainingKeys,
}

/// The messages of a device that are in a transaction.
pub(super) struct MovedMessages {
    pub(super) device: UserDevice,
    pub(super) up_to: Position,
}

impl TransactionContent {
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.ephemeral.is_empty()
            && self.to_device.is_empty()
            && self.changed_device_lists.is_empty()
            && self.key_counts.is_empty()
    }

    /// Returns the body of the request.
    pub(super) fn to_json(&self) -> Result<String> {
        let mut body = Map::new();
        body.insert("events".to_owned(), serde_json::to_value(&self.events)?);
        if !self.ephemeral.is_empty() {
            let names = ["ephemeral", "de.sorunome.msc2409.ephemeral"];
            insert_as(&mut body, names, &json!(self.ephemeral));
        }
        if !self.to_device.is_empty() {
            let names = ["to_device", "de.sorunome.msc2409.to_device"];
            insert_as(&mut body, names, &json!(self.to_device));
        }
        if !self.changed_device_lists.is_empty() {
            let lists = json!({ "changed": self.changed_device_lists, "left": [] });
            let names = ["device_lists", "org.matrix.msc3202.device_lists"];
            insert_as(&mut body, names, &lists);
        }
        if !self.key_counts.is_empty() {
            self.insert_key_counts(&mut body);
        }
        Ok(serde_json::to_string(&body)?)
    }

    fn insert_key_counts(&self, body: &mut Map<String, Value>) {
        let mut one_time: BTreeMap<&OwnedUserId, BTreeMap<&OwnedDeviceId, Value>> = BTreeMap::new();
        let mut fallback: BTreeMap<&OwnedUserId, BTreeMap<&OwnedDeviceId, Value>> = BTreeMap::new();
        for counts in &self.key_counts {
            let (user_id, device_id) = (&counts.user_id, &counts.device_id);
            let one_time = one_time.entry(user_id).or_default();
            one_time.insert(device_id, json!(counts.left.one_time_counts()));
            let fallback = fallback.entry(user_id).or_default();
            fallback.insert(device_id, json!(counts.left.unused_fallback_algorithms()));
        }
        let names = [
            "device_one_time_keys_count",
            "org.matrix.msc3202.device_one_time_keys_count",
        ];
        insert_as(body, names, &json!(one_time));
        // The first drafts of MSC3202 had a plural here.
        let draft = "org.matrix.msc3202.device_one_time_key_counts";
        body.insert(draft.to_owned(), json!(one_time));
        let names = [
            "device_unused_fallback_key_types",
            "org.matrix.msc3202.device_unused_fallback_key_types",
        ];
        insert_as(body, names, &json!(fallback));
    }
}

fn insert_as(body: &mut Map<String, Value>, names: [&str; 2], value: &Value) {
    for name in names {
        body.insert(name.to_owned(), value.clone());
    }
}

/// Returns a message for a device with the user and the device that receive it.
pub(super) fn to_device_message(
    message: &str,
    user_id: &OwnedUserId,
    device_id: &OwnedDeviceId,
) -> Result<Value> {
    let mut message: Map<String, Value> = serde_json::from_str(message)?;
    message.insert("to_user_id".to_owned(), json!(user_id));
    message.insert("to_device_id".to_owned(), json!(device_id));
    Ok(Value::Object(message))
}

/// Returns whether a service is sent a receipt: a private one only if it is of the service's own user.
pub(super) fn is_receipt_visible(
    receipt: &Arc<Receipt>,
    controls: impl Fn(&OwnedUserId) -> bool,
) -> bool {
    receipt.kind == "m.read" || controls(&receipt.user_id)
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};

    use super::*;

    #[test]
    fn only_events_are_always_there() {
        let body = TransactionContent::default().to_json().unwrap();

        assert_eq!(body, r#"{"events":[]}"#);
    }

    #[test]
    fn a_message_names_its_recipient() {
        let message = r#"{"type":"m.room.encrypted","sender":"@a:b","content":{}}"#;

        let user_id = user_id!("@ghost:b").to_owned();
        let message = to_device_message(message, &user_id, &device_id!("D").to_owned()).unwrap();

        let expected = json!({
            "type": "m.room.encrypted", "sender": "@a:b", "content": {},
            "to_user_id": "@ghost:b", "to_device_id": "D",
        });
        assert_eq!(message, expected);
    }

    #[test]
    fn ephemeral_events_have_both_names() {
        let content = TransactionContent {
            ephemeral: vec![json!({ "type": "m.typing" })],
            ..TransactionContent::default()
        };

        let body: Value = serde_json::from_str(&content.to_json().unwrap()).unwrap();

        assert_eq!(body["ephemeral"], body["de.sorunome.msc2409.ephemeral"]);
        assert_eq!(body["ephemeral"][0]["type"], "m.typing");
    }
}
