//! The signing keys of another server, as it publishes them.
//!
//! See the [specification](https://spec.matrix.org/v1.19/server-server-api/#publishing-keys).

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use ruma::{
    OwnedServerName, ServerName, ServerSigningKeyId, UInt,
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    serde::Base64,
    signatures::{PublicKeyMap, verify_json},
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::SigningKey;
use crate::error::{Error, Result};

/// "Servers MUST use the lesser of this field and 7 days into the future when determining if a key is valid."
const MAX_KEY_VALIDITY: Duration = Duration::from_hours(7 * 24);
/// The most keys of a server that are stored: the current ones first, and then the most recent old ones.
const MAX_KEYS: usize = 64;
/// The longest id of a key, and the length of an ed25519 key, in bytes.
const MAX_KEY_ID_BYTES: usize = 255;
const PUBLIC_KEY_BYTES: usize = 32;

/// A key of another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    pub key: Base64,
    /// The time until which its signatures are accepted, in milliseconds since the Unix epoch.
    pub valid_until_ts: i64,
}

/// The keys of another server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerKeys {
    pub keys: BTreeMap<String, KnownKey>,
    /// The time at which the keys must be requested again, in milliseconds since the Unix epoch.
    pub valid_until_ts: i64,
}

/// The document that a server publishes. The keys are read one by one: malformed ones, and those that this server
/// cannot use, are skipped.
#[derive(Deserialize)]
struct PublishedKeys {
    server_name: OwnedServerName,
    verify_keys: BTreeMap<String, Value>,
    #[serde(default)]
    old_verify_keys: BTreeMap<String, Value>,
    valid_until_ts: UInt,
}

#[derive(Deserialize)]
struct VerifyKey {
    key: Base64,
}

#[derive(Deserialize)]
struct OldVerifyKey {
    key: Base64,
    expired_ts: UInt,
}

trait PublicKey: DeserializeOwned {
    fn key(&self) -> &Base64;
}

impl PublicKey for VerifyKey {
    fn key(&self) -> &Base64 {
        &self.key
    }
}

impl PublicKey for OldVerifyKey {
    fn key(&self) -> &Base64 {
        &self.key
    }
}

/// Returns the entries of a list of keys that are ed25519 keys.
fn ed25519_keys<T: PublicKey>(keys: &BTreeMap<String, Value>) -> impl Iterator<Item = (String, T)> {
    keys.iter().filter_map(|(id, entry)| {
        ServerSigningKeyId::parse(id).ok()?;
        let entry: T = serde_json::from_value(entry.clone()).ok()?;
        let is_key = entry.key().as_bytes().len() == PUBLIC_KEY_BYTES;
        (is_key && id.len() <= MAX_KEY_ID_BYTES).then(|| (id.clone(), entry))
    })
}

impl ServerKeys {
    /// Reads the keys that a server published, which must be signed with one of its current keys.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSignature`] when they are not; [`Error::BadJson`] when this is not a list of this server's keys.
    pub fn from_document(
        server: &ServerName,
        document: &CanonicalJsonObject,
        now_ms: i64,
    ) -> Result<Self> {
        let bad = |what: &str| Error::BadJson(format!("the keys of {server}: {what}"));
        let value = serde_json::to_value(document)?;
        let published: PublishedKeys =
            serde_json::from_value(value).map_err(|error| bad(&error.to_string()))?;
        if published.server_name != server {
            return Err(bad("the document is about another server"));
        }
        let mut present: Vec<(String, VerifyKey)> = ed25519_keys(&published.verify_keys).collect();
        let signed_with = signing_key_ids(server, document);
        // Of too many keys, those that the server used for the signature come first.
        present.sort_by_key(|(id, _)| !signed_with.contains(&&**id));
        let present: BTreeMap<String, Base64> = present
            .into_iter()
            .map(|(id, key)| (id, key.key))
            .take(MAX_KEYS)
            .collect();
        if !is_signed_by_server(server, document, &present) {
            return Err(Error::InvalidSignature(format!(
                "the keys of {server} are not signed by one of them"
            )));
        }
        let longest = i64::try_from(MAX_KEY_VALIDITY.as_millis()).unwrap_or(i64::MAX);
        let valid_until_ts = to_ms(published.valid_until_ts).min(now_ms.saturating_add(longest));
        let mut past: Vec<(String, OldVerifyKey)> =
            ed25519_keys(&published.old_verify_keys).collect();
        past.sort_by_key(|(_, key)| Reverse(key.expired_ts));
        let past = past
            .into_iter()
            .take(MAX_KEYS.saturating_sub(present.len()))
            .map(|(id, key)| {
                let known = KnownKey {
                    key: key.key,
                    // An old key cannot be valid in the future.
                    valid_until_ts: to_ms(key.expired_ts).min(now_ms),
                };
                (id, known)
            });
        let mut keys: BTreeMap<String, KnownKey> = past.collect();
        keys.extend(present.into_iter().map(|(id, key)| {
            let known = KnownKey {
                key,
                valid_until_ts,
            };
            (id, known)
        }));
        Ok(Self {
            keys,
            valid_until_ts,
        })
    }

    /// Returns the key with this id if its signatures are accepted at this time.
    pub fn valid_key(&self, key_id: &str, time_ms: i64) -> Option<&Base64> {
        let known = self.keys.get(key_id)?;
        (time_ms <= known.valid_until_ts).then_some(&known.key)
    }

    /// Adds the keys that were known before and are no longer published: old events may be signed with them.
    pub fn keep_old_keys(&mut self, before: &Self) {
        for (id, key) in &before.keys {
            if self.keys.len() < MAX_KEYS && !self.keys.contains_key(id) {
                self.keys.insert(id.clone(), key.clone());
            }
        }
    }

    /// Returns whether a notary signed the keys of another server.
    pub fn is_signed_by_notary(
        &self,
        notary: &ServerName,
        document: &CanonicalJsonObject,
        now_ms: i64,
    ) -> bool {
        let valid = self.keys.iter().filter(|(_, k)| now_ms <= k.valid_until_ts);
        let keys = valid.map(|(id, known)| (id.clone(), known.key.clone()));
        is_signed_by_server(notary, document, &keys.collect())
    }
}

/// Returns the ids of a server's keys in the signatures of an object.
fn signing_key_ids<'o>(server: &ServerName, object: &'o CanonicalJsonObject) -> Vec<&'o str> {
    let signatures = object.get("signatures").and_then(|all| all.as_object());
    let of_server = signatures.and_then(|all| all.get(server.as_str())?.as_object());
    let ids = of_server.into_iter().flat_map(|of_server| of_server.keys());
    ids.map(String::as_str).collect()
}

/// Returns whether a server signed an object with at least one of these keys, and all its signatures by these are
/// valid.
fn is_signed_by_server(
    server: &ServerName,
    object: &CanonicalJsonObject,
    keys: &BTreeMap<String, Base64>,
) -> bool {
    let signatures = object.get("signatures").and_then(|all| all.as_object());
    let of_server = signatures.and_then(|all| all.get(server.as_str())?.as_object());
    let mut by_these = of_server.cloned().unwrap_or_default();
    by_these.retain(|id, _| keys.contains_key(id));
    if by_these.is_empty() {
        return false;
    }
    // Signatures by other servers are not checked here.
    let mut object = object.clone();
    let signatures = [(
        server.to_string(),
        CanonicalJsonValue::Object(by_these.clone()),
    )];
    let signatures = CanonicalJsonValue::Object(signatures.into_iter().collect());
    object.insert("signatures".to_owned(), signatures);
    by_these.keys().all(|id| {
        let key = keys.get(id).cloned().unwrap_or_else(Base64::empty);
        let set = [(id.clone(), key)].into_iter().collect();
        let map: PublicKeyMap = [(server.to_string(), set)].into_iter().collect();
        verify_json(&map, &object).is_ok()
    })
}

impl SigningKey {
    /// Returns the signed document in which this server publishes its keys.
    ///
    /// # Errors
    ///
    /// When it cannot be signed.
    pub fn published_keys(&self, valid_until_ts: i64) -> Result<CanonicalJsonObject> {
        let key = [(
            self.key_id().to_string(),
            serde_json::json!({ "key": self.public_key() }),
        )];
        let verify_keys: serde_json::Map<_, _> = key.into_iter().collect();
        let document = serde_json::json!({
            "server_name": self.server_name(),
            "verify_keys": verify_keys,
            "old_verify_keys": {},
            "valid_until_ts": valid_until_ts,
        });
        let mut document: CanonicalJsonObject = serde_json::from_value(document)?;
        self.sign(&mut document)?;
        Ok(document)
    }
}

fn to_ms(time: UInt) -> i64 {
    i64::from(time)
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, signatures::Ed25519KeyPair};
    use serde_json::json;

    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn new_key(server: &str, version: &str) -> SigningKey {
        let document = Ed25519KeyPair::generate();
        SigningKey::from_der(server.try_into().unwrap(), &document, version).unwrap()
    }

    fn object(value: serde_json::Value) -> CanonicalJsonObject {
        serde_json::from_value(value).unwrap()
    }

    /// Signs the published keys of a server after a change to them.
    fn published_with(key: &SigningKey, change: impl FnOnce(&mut Value)) -> CanonicalJsonObject {
        let document = key.published_keys(NOW_MS + 1_000).unwrap();
        let mut document = serde_json::to_value(document).unwrap();
        document["signatures"] = json!({});
        change(&mut document);
        let mut document = object(document);
        key.sign(&mut document).unwrap();
        document
    }

    #[test]
    fn malformed_keys_are_skipped() {
        let key = new_key("a.example", "1");
        let document = published_with(&key, |document| {
            for list in ["verify_keys", "old_verify_keys"] {
                let list = &mut document[list];
                list["odd"] = json!({ "key": key.public_key(), "expired_ts": 1 });
                list["rsa:1"] = json!({ "key": key.public_key(), "expired_ts": 1 });
                list["ed25519:a-b"] = json!({ "key": "%", "expired_ts": 1 });
                list["ed25519:b"] = json!({ "expired_ts": 1 });
                list["ed25519:c"] = json!(5);
            }
        });

        let keys = ServerKeys::from_document(server_name!("a.example"), &document, NOW_MS).unwrap();

        assert_eq!(keys.valid_key("ed25519:1", NOW_MS), Some(&key.public_key()));
    }

    #[test]
    fn keys_that_signed_are_kept_among_too_many() {
        let key = new_key("a.example", "1");
        let document = published_with(&key, |document| {
            for n in 0..100 {
                let past = json!({ "key": key.public_key(), "expired_ts": n });
                document["old_verify_keys"][format!("ed25519:p{n}")] = past;
                let present = json!({ "key": key.public_key() });
                document["verify_keys"][format!("ed25519:0{n}")] = present;
            }
        });

        let keys = ServerKeys::from_document(server_name!("a.example"), &document, NOW_MS).unwrap();

        assert_eq!(keys.keys.len(), MAX_KEYS);
        assert!(keys.valid_key("ed25519:1", NOW_MS).is_some());
        assert!(keys.valid_key("ed25519:p99", 0).is_none());
    }

    #[test]
    fn published_keys_are_read_by_other_servers() {
        let key = new_key("a.example", "1");
        let document = key.published_keys(NOW_MS + 1_000).unwrap();

        let keys = ServerKeys::from_document(server_name!("a.example"), &document, NOW_MS).unwrap();

        assert_eq!(keys.valid_until_ts, NOW_MS + 1_000);
        assert_eq!(keys.valid_key("ed25519:1", NOW_MS), Some(&key.public_key()));
        assert_eq!(keys.valid_key("ed25519:1", NOW_MS + 1_001), None);
        assert_eq!(keys.valid_key("ed25519:2", NOW_MS), None);
    }

    #[test]
    fn no_key_is_valid_for_more_than_a_week() {
        let document = new_key("a.example", "1")
            .published_keys(NOW_MS * 2)
            .unwrap();

        let keys = ServerKeys::from_document(server_name!("a.example"), &document, NOW_MS).unwrap();

        assert_eq!(keys.valid_until_ts, NOW_MS + 7 * 24 * 3_600_000);
    }

    #[test]
    fn keys_that_did_not_sign_the_document_are_refused() {
        let (one, other) = (new_key("a.example", "1"), new_key("a.example", "2"));
        let read = |document: &CanonicalJsonObject| {
            ServerKeys::from_document(one.server_name(), document, NOW_MS)
        };
        let good = one.published_keys(NOW_MS).unwrap();

        let mut changed = good.clone();
        changed.insert("valid_until_ts".to_owned(), CanonicalJsonValue::Bool(true));
        assert!(matches!(read(&changed), Err(Error::BadJson(_))));
        let mut changed = good.clone();
        changed.insert("more".to_owned(), CanonicalJsonValue::Bool(true));
        assert!(matches!(read(&changed), Err(Error::InvalidSignature(_))));
        let mut unsigned = good.clone();
        unsigned.insert("signatures".to_owned(), object(json!({})).into());
        other.sign(&mut unsigned).unwrap();
        assert!(matches!(read(&unsigned), Err(Error::InvalidSignature(_))));
        let of_another = ServerKeys::from_document(server_name!("b.example"), &good, NOW_MS);
        assert!(matches!(of_another, Err(Error::BadJson(_))));
    }

    #[test]
    fn a_notary_signs_in_addition_to_the_server() {
        let (server, notary) = (new_key("a.example", "1"), new_key("n.example", "n"));
        let mut document = server.published_keys(NOW_MS).unwrap();
        let of_notary = notary.published_keys(NOW_MS).unwrap();
        let of_notary =
            ServerKeys::from_document(notary.server_name(), &of_notary, NOW_MS).unwrap();
        let is_signed = |document: &CanonicalJsonObject| {
            of_notary.is_signed_by_notary(notary.server_name(), document, NOW_MS)
        };

        assert!(!is_signed(&document));
        notary.sign(&mut document).unwrap();

        assert!(is_signed(&document));
        assert!(ServerKeys::from_document(server.server_name(), &document, NOW_MS).is_ok());
    }

    #[test]
    fn an_old_key_is_valid_until_it_expired() {
        let key = new_key("a.example", "1");
        let mut document = object(json!({
            "server_name": "a.example",
            "verify_keys": { "ed25519:1": { "key": key.public_key() } },
            "old_verify_keys": {
                "ed25519:0": { "key": key.public_key(), "expired_ts": NOW_MS - 5 },
                "ed25519:x": { "key": "AAAA", "expired_ts": NOW_MS - 5 },
            },
            "valid_until_ts": NOW_MS + 5,
        }));
        key.sign(&mut document).unwrap();

        let keys = ServerKeys::from_document(key.server_name(), &document, NOW_MS).unwrap();

        assert!(keys.valid_key("ed25519:0", NOW_MS - 5).is_some());
        assert!(keys.valid_key("ed25519:0", NOW_MS).is_none());
        assert!(!keys.keys.contains_key("ed25519:x"));
        let mut later = ServerKeys::default();
        later.keep_old_keys(&keys);
        assert_eq!(later.keys, keys.keys);
    }
}
