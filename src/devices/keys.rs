//! The device keys, one-time keys and fallback keys of devices: uploading and claiming them.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#key-management-api).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ruma::{
    DeviceId, OneTimeKeyAlgorithm, OwnedDeviceId, OwnedOneTimeKeyId, OwnedServerName, OwnedUserId,
    UInt, UserId,
    api::client::keys::{claim_keys::v3::OneTimeKeys, upload_keys::v3::Request as UploadRequest},
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    encryption::{DeviceKeys, OneTimeKey},
    serde::Raw,
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    DeviceEnvironment, RemainingKeyCounts, check_text, key_counts, key_queries::local_users,
};
use crate::{
    error::{Error, Result},
    matrix,
    numbers::{DeviceNum, UserNum},
    storage::{
        Db, JournalChange, KeyCounts, WriteTx,
        devices::{
            cross_signing, device_keys, device_list_changes, device_table,
            one_time_keys::{self, ClaimedKey, KeyRow, NewOneTimeKey, StoredOneTimeKey},
        },
    },
};

/// The largest key, in bytes. Post-quantum keys have some thousand.
const MAX_KEY_BYTES: usize = 16 * 1024;
/// The largest number of one-time keys of a device, over all algorithms. Clients keep about a hundred.
const MAX_ONE_TIME_KEYS: i64 = 2_000;
/// The number of claimed keys that are remembered per device, so that a repeated upload does not restore one.
const MAX_CLAIMED_KEYS: i64 = 1_000;
/// The largest number of fallback keys in one upload: more than there are algorithms.
const MAX_FALLBACK_KEYS: usize = 16;

/// A user who uploads cross-signing keys or signatures.
#[derive(Clone, Copy, Debug)]
pub struct KeyOwner<'a> {
    pub user: UserNum,
    pub user_id: &'a UserId,
}

/// A device that uploads its keys, and its user.
#[derive(Clone, Copy, Debug)]
pub struct DeviceOwner<'a> {
    pub user: UserNum,
    pub user_id: &'a UserId,
    pub device: DeviceNum,
    pub device_id: &'a DeviceId,
}

/// A one-time or fallback key that was uploaded.
struct UploadedKey {
    algorithm: String,
    key_id: String,
    key: String,
}

impl UploadedKey {
    fn key_row(&self) -> KeyRow<'_> {
        KeyRow {
            algorithm: &self.algorithm,
            key_id: &self.key_id,
            key: &self.key,
        }
    }
}

/// The encryption keys of devices.
#[derive(Clone)]
pub struct EncryptionKeys {
    db: Db,
    server_name: OwnedServerName,
    key_counts: RemainingKeyCounts,
}

impl EncryptionKeys {
    /// Creates the service.
    pub(super) fn new(environment: &DeviceEnvironment, key_counts: &RemainingKeyCounts) -> Self {
        Self {
            db: environment.db.clone(),
            server_name: environment.server_name.clone(),
            key_counts: key_counts.clone(),
        }
    }

    /// Stores the keys of a device, and returns the resulting number of its one-time keys.
    ///
    /// # Errors
    ///
    /// [`Error::BadJson`] or [`Error::InvalidParam`] for keys that are malformed, too many, of another device, or have
    /// the id of a different key; [`Error::TooLarge`] for keys that are too large.
    #[tracing::instrument(skip_all, fields(user_id = %owner.user_id, device_id = %owner.device_id), err(level = "debug"))]
    pub async fn upload(
        &self,
        owner: &DeviceOwner<'_>,
        request: &UploadRequest,
    ) -> Result<BTreeMap<OneTimeKeyAlgorithm, UInt>> {
        let device_keys = match &request.device_keys {
            Some(keys) => Some(read_device_keys(owner, keys)?),
            None => None,
        };
        let one_time = read_keys(&request.one_time_keys)?;
        let fallback = read_keys(&request.fallback_keys)?;
        check_fallback_keys(&fallback)?;
        if device_keys.is_none() && one_time.is_empty() && fallback.is_empty() {
            return Ok(self
                .key_counts
                .of_device(owner.device)
                .await?
                .one_time_counts());
        }
        let mut tx = self.db.write().await?;
        if device_table::get(&mut tx, owner.device).await?.is_none() {
            return Err(Error::UnknownToken { soft_logout: false });
        }
        if let Some(keys) = device_keys {
            store_device_keys(&mut tx, owner, &keys).await?;
        }
        store_one_time_keys(&mut tx, owner.device, &one_time).await?;
        store_fallback_keys(&mut tx, owner.device, &fallback).await?;
        let counts = publish_counts(&mut tx, &[(owner.user, owner.device)], false).await?;
        let counts = counts.get(&owner.device).cloned().unwrap_or_default();
        let remaining: i64 = counts.one_time.iter().map(|(_, count)| *count).sum();
        if remaining > MAX_ONE_TIME_KEYS {
            return Err(Error::invalid_param(format!(
                "the device has more than {MAX_ONE_TIME_KEYS} one-time keys"
            )));
        }
        tx.commit().await?;
        Ok(key_counts::one_time_counts(&counts))
    }

    /// Claims a one-time key of each requested device, or its fallback key if none is left.
    ///
    /// Each one-time key is given out only once: it is removed in the same transaction. Keys of users of other servers
    /// are left out.
    #[tracing::instrument(skip_all, err(level = "debug"))]
    pub async fn claim(
        &self,
        requested: &BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>,
    ) -> Result<BTreeMap<OwnedUserId, OneTimeKeys>> {
        let local_requests = local_users(&self.server_name, requested);
        let mut claimed_by_user = BTreeMap::new();
        if local_requests.is_empty() {
            return Ok(claimed_by_user);
        }
        let mut tx = self.db.write().await?;
        let found = self.find_claimed_devices(&mut tx, &local_requests).await?;
        let mut changed = Vec::new();
        for (algorithm, requested) in found {
            let nums: Vec<DeviceNum> = requested.keys().copied().collect();
            let mut claimed = one_time_keys::claim(&mut tx, &nums, &algorithm).await?;
            let without_key: Vec<DeviceNum> = nums
                .into_iter()
                .filter(|num| !claimed.iter().any(|key| key.device == *num))
                .collect();
            claimed.extend(one_time_keys::claim_fallback(&mut tx, &without_key, &algorithm).await?);
            for ClaimedKey {
                device,
                key_id,
                key,
            } in claimed
            {
                let Some(owner) = requested.get(&device) else {
                    continue;
                };
                changed.push((owner.user, device));
                let of_user = claimed_by_user.entry(owner.user_id.clone()).or_default();
                add_key(of_user, owner, &format!("{algorithm}:{key_id}"), key)?;
            }
        }
        if changed.is_empty() {
            return Ok(claimed_by_user);
        }
        publish_counts(&mut tx, &changed, true).await?;
        tx.commit().await?;
        Ok(claimed_by_user)
    }

    /// Returns the devices whose keys are claimed, by algorithm.
    async fn find_claimed_devices(
        &self,
        tx: &mut WriteTx,
        wanted: &BTreeMap<&UserId, &BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>,
    ) -> Result<BTreeMap<String, HashMap<DeviceNum, ClaimedDevice>>> {
        let user_ids: Vec<&str> = wanted.keys().map(|user_id| user_id.as_str()).collect();
        let users = self.db.strings.find_users(tx, &user_ids).await?;
        let texts = self.db.strings.find_user_ids(tx, &users).await?;
        let mut found: BTreeMap<String, HashMap<DeviceNum, ClaimedDevice>> = BTreeMap::new();
        for device in device_table::of_users(tx, &users).await? {
            let user_id = texts
                .get(&device.user_num)
                .and_then(|id| <&UserId>::try_from(&**id).ok());
            let Some((user_id, requested)) = user_id.and_then(|id| Some((id, wanted.get(id)?)))
            else {
                continue;
            };
            let device_id = OwnedDeviceId::from(device.device_id);
            if let Some(algorithm) = requested.get(&device_id) {
                check_text("the algorithm", algorithm.as_str())?;
                let claimed = ClaimedDevice {
                    user: device.user_num,
                    user_id: user_id.to_owned(),
                    device_id,
                };
                let of_algorithm = found.entry(algorithm.to_string()).or_default();
                of_algorithm.insert(device.num, claimed);
            }
        }
        Ok(found)
    }
}

/// A device whose key is claimed.
struct ClaimedDevice {
    user: UserNum,
    user_id: OwnedUserId,
    device_id: OwnedDeviceId,
}

fn add_key(
    of_user: &mut OneTimeKeys,
    claimed: &ClaimedDevice,
    key_id: &str,
    key: String,
) -> Result<()> {
    let key_id = OwnedOneTimeKeyId::try_from(key_id)
        .map_err(|source| Error::internal("read the id of a stored key", source))?;
    let key = Raw::from_json_string(key)?;
    of_user
        .entry(claimed.device_id.clone())
        .or_default()
        .insert(key_id, key);
    Ok(())
}

/// Reads the identity keys of a device, in canonical form, without the `unsigned` part that servers add.
fn read_device_keys(owner: &DeviceOwner<'_>, raw: &Raw<DeviceKeys>) -> Result<CanonicalJsonObject> {
    let bad = |error: serde_json::Error| Error::BadJson(format!("device_keys: {error}"));
    check_key_size(raw.json().get())?;
    let keys = raw.deserialize().map_err(bad)?;
    if keys.user_id != owner.user_id || keys.device_id != owner.device_id {
        return Err(Error::invalid_param(
            "device_keys: user_id or device_id differs from the uploading device's",
        ));
    }
    let mut object: CanonicalJsonObject = serde_json::from_str(raw.json().get()).map_err(bad)?;
    object.remove("unsigned");
    Ok(object)
}

fn read_keys(keys: &BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>) -> Result<Vec<UploadedKey>> {
    keys.iter()
        .map(|(id, raw)| {
            let bad = |error: serde_json::Error| Error::BadJson(format!("{id}: {error}"));
            check_text("the id of a key", id.as_str())?;
            check_key_size(raw.json().get())?;
            let key: CanonicalJsonValue = serde_json::from_str(raw.json().get()).map_err(bad)?;
            if !is_one_time_key(raw.json().get()) {
                return Err(Error::BadJson(format!(
                    "{id}: a key must be a string, or an object with the string `key` and its `signatures`"
                )));
            }
            let (algorithm, key_id) = id.as_str().split_once(':').unwrap_or_default();
            Ok(UploadedKey {
                algorithm: algorithm.to_owned(),
                key_id: key_id.to_owned(),
                key: serde_json::to_string(&key)?,
            })
        })
        .collect()
}

/// Returns whether JSON has the form of a one-time or fallback key: a text, or an object with it and its signatures.
///
/// Missing signatures are not detected here: the client that claims the key has to verify them anyway.
pub fn is_one_time_key(json: &str) -> bool {
    let object = match serde_json::from_str(json) {
        Ok(Value::String(_)) => return true,
        Ok(Value::Object(object)) => object,
        _ => return false,
    };
    let signatures = object.get("signatures");
    let signatures = signatures.map(BTreeMap::<String, BTreeMap<String, String>>::deserialize);
    object.get("key").is_some_and(Value::is_string)
        && object.get("fallback").is_none_or(Value::is_boolean)
        && signatures.is_none_or(|signatures| signatures.is_ok())
}

fn check_key_size(json: &str) -> Result<()> {
    if json.len() > MAX_KEY_BYTES {
        return Err(Error::TooLarge(format!(
            "a key is larger than {MAX_KEY_BYTES} bytes"
        )));
    }
    // PostgreSQL does not accept U+0000 in texts.
    if json.contains("\\u0000") {
        return Err(Error::invalid_param("a key contains U+0000"));
    }
    Ok(())
}

/// "There can only be at most one key per algorithm uploaded."
fn check_fallback_keys(keys: &[UploadedKey]) -> Result<()> {
    let mut algorithms: Vec<&str> = keys.iter().map(|key| key.algorithm.as_str()).collect();
    algorithms.dedup();
    if algorithms.len() != keys.len() || keys.len() > MAX_FALLBACK_KEYS {
        return Err(Error::invalid_param(
            "there can be only one fallback key per algorithm",
        ));
    }
    Ok(())
}

async fn store_device_keys(
    tx: &mut WriteTx,
    owner: &DeviceOwner<'_>,
    keys: &CanonicalJsonObject,
) -> Result<()> {
    let json = serde_json::to_string(keys)?;
    let before = device_keys::get(tx, owner.device).await?;
    if before.as_deref() == Some(&*json) {
        return Ok(());
    }
    if let Some(before) = before {
        let before: CanonicalJsonObject = serde_json::from_str(&before)?;
        if !matrix::is_equal_without_signatures(&before, keys) {
            cross_signing::remove_signatures_of(tx, owner.user, &[owner.device_id]).await?;
        }
    }
    device_keys::set(tx, owner.user, owner.device, &json).await?;
    device_list_changes::record_device_changes(tx, owner.user, &[owner.device_id]).await?;
    Ok(())
}

async fn store_one_time_keys(
    tx: &mut WriteTx,
    device: DeviceNum,
    keys: &[UploadedKey],
) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let key_ids: Vec<&str> = keys.iter().map(|key| key.key_id.as_str()).collect();
    let known = one_time_keys::keys_with_ids(tx, device, &key_ids).await?;
    let find_known = |key: &UploadedKey| {
        let is_same = |known: &&StoredOneTimeKey| {
            (&known.algorithm, &known.key_id) == (&key.algorithm, &key.key_id)
        };
        known.iter().find(is_same)
    };
    let mut new = Vec::new();
    for key in keys {
        match find_known(key) {
            // Uploaded twice. If it has been claimed since, it must not be restored.
            Some(known) if known.key == key.key => {}
            Some(known) if !known.claimed => {
                // Clients look for these words.
                return Err(Error::invalid_param(format!(
                    "One time key {}:{} already exists with a different value",
                    key.algorithm, key.key_id
                )));
            }
            _ => new.push(NewOneTimeKey {
                position: tx.next_position(),
                row: key.key_row(),
            }),
        }
    }
    one_time_keys::insert(tx, device, &new).await?;
    one_time_keys::delete_claimed(tx, device, MAX_CLAIMED_KEYS).await
}

async fn store_fallback_keys(
    tx: &mut WriteTx,
    device: DeviceNum,
    keys: &[UploadedKey],
) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let known = one_time_keys::fallback_keys(tx, device).await?;
    for key in keys {
        let is_known = known.iter().any(|known| {
            (&known.algorithm, &known.key_id, &known.key) == (&key.algorithm, &key.key_id, &key.key)
        });
        if !is_known {
            one_time_keys::set_fallback(tx, device, &key.key_row()).await?;
        }
    }
    Ok(())
}

/// Publishes the keys that these devices have left, and returns them.
async fn publish_counts(
    tx: &mut WriteTx,
    devices: &[(UserNum, DeviceNum)],
    claimed: bool,
) -> Result<HashMap<DeviceNum, Arc<KeyCounts>>> {
    let nums: Vec<DeviceNum> = devices.iter().map(|(_, device)| *device).collect();
    let counts = one_time_keys::counts(tx, &nums).await?;
    let counts: HashMap<DeviceNum, Arc<KeyCounts>> = counts
        .into_iter()
        .map(|(device, counts)| (device, Arc::new(counts)))
        .collect();
    for (user, device) in devices {
        let position = tx.next_position();
        let change = JournalChange::KeyCounts {
            user: *user,
            device: *device,
            counts: counts.get(device).cloned().unwrap_or_default(),
            claimed,
        };
        tx.publish(position, change);
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_one_time_key_is_a_string_or_a_key_object() {
        for good in [
            r#""k""#,
            r#"{"key":"k"}"#,
            r#"{"key":"k","fallback":true,"signatures":{"@a:b":{"ed25519:A":"s"}},"x":{"y":1.5}}"#,
        ] {
            assert!(is_one_time_key(good), "{good}");
        }
        for bad in [
            "5",
            "null",
            "[]",
            "{}",
            r#"{"key":5}"#,
            r#"{"key":"k","fallback":1}"#,
            r#"{"key":"k","signatures":[]}"#,
            r#"{"key":"k","signatures":{"@a:b":"s"}}"#,
            r#"{"key":"k","signatures":{"@a:b":{"ed25519:A":1}}}"#,
        ] {
            assert!(!is_one_time_key(bad), "{bad}");
        }
    }
}
