//! Parses other servers' answers about keys, as far as they can be passed on to clients.
//!
//! Only malformed entries are left out. A client could not parse an answer with such an entry, and would miss all other
//! keys.

use std::collections::BTreeMap;

use ruma::{
    OwnedDeviceId, OwnedOneTimeKeyId, OwnedUserId,
    encryption::{CrossSigningKey, DeviceKeys, OneTimeKey},
    serde::Raw,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::{RawValue, to_raw_value};

use crate::matrix::signed_object;

/// The keys of the devices of a user.
pub(super) type DevicesOfUser = BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>;

/// The keys of devices and users.
///
/// [`POST /user/keys/query`](https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1userkeysquery)
#[derive(Deserialize)]
#[serde(from = "RawKeys")]
#[expect(clippy::struct_field_names, reason = "the specification calls them so")]
pub(super) struct ReceivedKeys {
    pub(super) device_keys: BTreeMap<OwnedUserId, DevicesOfUser>,
    pub(super) master_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    pub(super) self_signing_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
}

/// One-time keys of devices, by their ids.
type OneTimeKeys = BTreeMap<OwnedDeviceId, BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>>;

/// The claimed one-time keys.
///
/// [`POST /user/keys/claim`](https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1userkeysclaim)
#[derive(Deserialize)]
#[serde(from = "RawOneTimeKeys")]
pub(super) struct ReceivedOneTimeKeys {
    pub(super) one_time_keys: BTreeMap<OwnedUserId, OneTimeKeys>,
}

/// A map whose values have not been parsed.
type RawMap = BTreeMap<String, Box<RawValue>>;

#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "the specification calls them so")]
struct RawKeys {
    device_keys: RawMap,
    #[serde(default)]
    master_keys: RawMap,
    #[serde(default)]
    self_signing_keys: RawMap,
}

#[derive(Deserialize)]
struct RawOneTimeKeys {
    one_time_keys: RawMap,
}

impl From<RawKeys> for ReceivedKeys {
    fn from(raw: RawKeys) -> Self {
        let devices = |devices: &RawValue| {
            Some(valid_entries(
                parse::<RawMap>(devices)?,
                parse_signed_object,
            ))
        };
        Self {
            device_keys: valid_entries(raw.device_keys, devices),
            master_keys: valid_entries(raw.master_keys, parse_signed_object),
            self_signing_keys: valid_entries(raw.self_signing_keys, parse_signed_object),
        }
    }
}

impl From<RawOneTimeKeys> for ReceivedOneTimeKeys {
    fn from(raw: RawOneTimeKeys) -> Self {
        let keys =
            |keys: &RawValue| Some(valid_entries(parse::<RawMap>(keys)?, parse_one_time_key));
        let devices = |devices: &RawValue| Some(valid_entries(parse::<RawMap>(devices)?, keys));
        Self {
            one_time_keys: valid_entries(raw.one_time_keys, devices),
        }
    }
}

/// Returns the entries of a map with valid keys and values.
fn valid_entries<K, V>(raw: RawMap, value: impl Fn(&RawValue) -> Option<V>) -> BTreeMap<K, V>
where
    K: Ord + TryFrom<String>,
{
    raw.into_iter()
        .filter_map(|(key, raw)| Some((K::try_from(key).ok()?, value(&raw)?)))
        .collect()
}

fn parse<T: DeserializeOwned>(raw: &RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

fn parse_signed_object<T>(raw: &RawValue) -> Option<Raw<T>> {
    let object = signed_object(raw.get()).ok()?;
    Some(Raw::from_json(to_raw_value(&object).ok()?))
}

/// Reads a one-time key, which is a string if it is unsigned.
fn parse_one_time_key(raw: &RawValue) -> Option<Raw<OneTimeKey>> {
    match parse::<String>(raw) {
        Some(key) => Some(Raw::from_json(to_raw_value(&key).ok()?)),
        None => parse_signed_object(raw),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns an object with a nesting depth.
    fn nested(depth: usize) -> String {
        format!("{}{}", r#"{"a":"#.repeat(depth - 1), "{}") + &"}".repeat(depth - 1)
    }

    /// Returns values that must not be sent to a client as a key.
    fn odd_keys() -> Vec<String> {
        let odd = [
            "5",
            "[]",
            "null",
            r#"{"a":1.5}"#,
            r#"{"a":1e999}"#,
            r#"{"a":"\ud800"}"#,
        ];
        let deep = [nested(101), nested(20_000)];
        odd.into_iter().map(str::to_owned).chain(deep).collect()
    }

    #[test]
    fn a_malformed_device_key_is_left_out_alone() {
        for odd in odd_keys() {
            let text = format!(
                r#"{{"device_keys":{{"@a:x":{{"GOOD":{{"b":2,"a":1}},"ODD":{odd}}},"@b:x":[],"odd":{{}}}},
                    "master_keys":{{"@a:x":{odd},"@b:x":{{}}}}}}"#
            );
            let keys: ReceivedKeys = serde_json::from_str(&text).unwrap();

            let device_keys = serde_json::to_string(&keys.device_keys).unwrap();
            assert_eq!(device_keys, r#"{"@a:x":{"GOOD":{"a":1,"b":2}}}"#);
            assert_eq!(json!(keys.master_keys), json!({ "@b:x": {} }));
            assert!(keys.self_signing_keys.is_empty());
        }
    }

    #[test]
    fn a_malformed_one_time_key_is_left_out_alone() {
        for odd in odd_keys() {
            let text = format!(
                r#"{{"one_time_keys":{{"@a:x":{{
                    "A":{{"curve25519:A":"text","signed_curve25519:B":{{"key":"k"}},
                          "signed_curve25519:C":{odd},"odd":{{}}}},
                    "B":5}}}}}}"#
            );
            let keys: ReceivedOneTimeKeys = serde_json::from_str(&text).unwrap();

            let expected = json!({ "@a:x": { "A": {
                "curve25519:A": "text", "signed_curve25519:B": { "key": "k" },
            } } });
            assert_eq!(json!(keys.one_time_keys), expected, "{odd}");
        }
    }

    #[test]
    fn keys_may_be_nested_a_hundred_levels_deep() {
        let text = format!(r#"{{"device_keys":{{"@a:x":{{"A":{}}}}}}}"#, nested(100));
        let keys: ReceivedKeys = serde_json::from_str(&text).unwrap();

        let devices = keys.device_keys.values().next().unwrap();
        assert_eq!(devices.len(), 1);
    }
}
