//! Devices and device lists as other servers report them.

use ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId, UserId,
    canonical_json::CanonicalJsonValue,
    encryption::{CrossSigningKey, DeviceKeys},
    serde::Raw,
};

use super::{MAX_NAME_BYTES, check_text};
use crate::{
    matrix::signed_object,
    numbers::{StreamId, UserNum},
    storage::devices::remote_device_lists::RemoteDeviceRow,
};

/// The largest keys of a device, in bytes.
const MAX_KEY_BYTES: usize = 64 * 1024;

/// A device as its server reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteDevice {
    pub(super) device_id: OwnedDeviceId,
    /// The device keys, as canonical JSON.
    keys: Option<String>,
    display_name: Option<String>,
}

/// The devices and keys of a user as their server reported them.
#[derive(Debug, Default)]
pub struct RemoteDeviceList {
    /// The server's version of the list, if it gave one.
    pub stream_id: Option<StreamId>,
    pub devices: Vec<RemoteDevice>,
    pub master_key: Option<Raw<CrossSigningKey>>,
    pub self_signing_key: Option<Raw<CrossSigningKey>>,
}

/// A change of a device list, as its server reported it.
#[derive(Debug)]
pub struct RemoteListUpdate {
    /// The user whose list changed.
    pub user_id: OwnedUserId,
    /// The version of the list after the change.
    pub stream_id: StreamId,
    /// The versions of the list before the change.
    pub prev_ids: Vec<StreamId>,
    /// The device that is new, changed or deleted.
    pub device: RemoteDevice,
    pub deleted: bool,
}

impl RemoteDevice {
    /// Reads a device; `None` if it is of another user, too large, or malformed.
    pub fn read(
        user_id: &UserId,
        device_id: &DeviceId,
        keys: Option<&str>,
        display_name: Option<String>,
    ) -> Option<Self> {
        check_text("device_id", device_id.as_str()).ok()?;
        let mut display_name = display_name;
        let keys = match keys {
            None => None,
            Some(keys) if keys.len() > MAX_KEY_BYTES || keys.contains("\\u0000") => return None,
            Some(keys) => {
                let typed: DeviceKeys = serde_json::from_str(keys).ok()?;
                if (&*typed.user_id, &*typed.device_id) != (user_id, device_id) {
                    return None;
                }
                let mut object = signed_object(keys).ok()?;
                let named = object.remove("unsigned").and_then(display_name_in);
                display_name = display_name.or(named);
                Some(serde_json::to_string(&object).ok()?)
            }
        };
        let is_fit = |name: &String| name.len() <= MAX_NAME_BYTES && !name.contains('\0');
        Some(Self {
            device_id: device_id.to_owned(),
            keys,
            display_name: display_name.filter(is_fit),
        })
    }

    /// Returns the device as it is stored; `None` if it does not support encryption, and so does not concern clients.
    pub(super) fn device_row(&self, user_num: UserNum) -> Option<RemoteDeviceRow> {
        Some(RemoteDeviceRow {
            user_num,
            device_id: self.device_id.to_string(),
            keys: self.keys.clone()?,
            display_name: self.display_name.clone(),
        })
    }
}

fn display_name_in(unsigned: CanonicalJsonValue) -> Option<String> {
    let CanonicalJsonValue::Object(mut unsigned) = unsigned else {
        return None;
    };
    match unsigned.remove("device_display_name")? {
        CanonicalJsonValue::String(name) => Some(name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_user_id, user_id};
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn invalid_devices_are_ignored() {
        let bob = user_id!("@bob:there");
        let read = |device_id: &str, keys: &Value| {
            RemoteDevice::read(bob, device_id.into(), Some(&keys.to_string()), None)
        };
        let good = json!({
            "user_id": bob, "device_id": "A", "algorithms": [], "keys": {}, "signatures": {},
            "unsigned": { "device_display_name": "Phone" },
        });
        let with = |field: &str, value: Value| {
            let mut keys = good.clone();
            keys[field] = value;
            keys
        };

        let device = read("A", &good).unwrap();
        assert_eq!(device.display_name.as_deref(), Some("Phone"));
        assert!(!device.keys.unwrap().contains("unsigned"));
        assert_eq!(read("B", &good), None);
        let others = owned_user_id!("@eve:there");
        assert_eq!(read("A", &with("user_id", json!(others))), None);
        assert_eq!(read("A", &with("more", json!("\0"))), None);
        assert_eq!(
            read("A", &with("more", json!("x".repeat(MAX_KEY_BYTES)))),
            None
        );
        assert_eq!(read("A", &json!("keys")), None);
        assert_eq!(read(&"A".repeat(300), &good), None);
    }
}
