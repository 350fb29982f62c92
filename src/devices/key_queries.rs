//! Key queries: the keys of users and their devices as others may see them, and the users whose keys changed.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#tracking-the-device-list-for-a-user).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ruma::{
    OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UInt, UserId,
    api::{client::keys::get_keys::v3::Response, federation::device::get_devices},
    serde::Raw,
};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::to_raw_value};

use super::DeviceEnvironment;
use crate::{
    error::{Error, Result},
    numbers::{Position, UserNum},
    storage::{
        Db,
        devices::{
            cross_signing::{self, CrossSigningKeyRow, SignatureRow},
            device_keys::{self, DeviceKeysRow},
            device_list_changes,
        },
    },
};

/// The largest number of users in one request.
const MAX_USERS: usize = 10_000;

/// The user who queries keys.
#[derive(Clone, Copy, Debug)]
pub struct KeyViewer<'a> {
    pub user: UserNum,
    pub user_id: &'a UserId,
}

/// Signatures by user and signed key.
type SignaturesByKey<'a> = HashMap<(UserNum, &'a str), Vec<&'a SignatureRow>>;

/// The user number of a viewer on another server; no user has it.
const REMOTE_VIEWER_NUM: UserNum = UserNum::new(0);

/// The part of a device's keys that servers add.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ServerAddedFields {
    unsigned: UnsignedPart,
}

/// Checks the number of users in a request.
///
/// # Errors
///
/// [`Error::TooLarge`] when there are too many.
pub fn check_user_count<T>(users: &BTreeMap<OwnedUserId, T>) -> Result<()> {
    if users.len() > MAX_USERS {
        return Err(Error::TooLarge(format!(
            "one request may query at most {MAX_USERS} users"
        )));
    }
    Ok(())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct UnsignedPart {
    device_display_name: Option<String>,
}

/// Queries for keys.
#[derive(Clone)]
pub struct KeyQueries {
    db: Db,
    server_name: OwnedServerName,
}

impl KeyQueries {
    /// Creates the service.
    pub(super) fn new(environment: &DeviceEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            server_name: environment.server_name.clone(),
        }
    }

    /// Returns the keys of devices and users as a user may see them.
    ///
    /// The response includes local users without keys, but not users who do not exist, nor users of other servers.
    /// Without a viewer it contains the keys that other servers may see.
    pub async fn query(
        &self,
        viewer: Option<KeyViewer<'_>>,
        requested: &BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
    ) -> Result<Response> {
        let local_requests = local_users(&self.server_name, requested);
        let mut response = Response::new();
        let user_ids: Vec<&str> = local_requests
            .keys()
            .map(|user_id| user_id.as_str())
            .collect();
        let mut db = self.db.snapshot().await?;
        let users = self.db.strings.find_users(&mut db, &user_ids).await?;
        let texts = self.db.strings.find_user_ids(&mut db, &users).await?;
        let devices = device_keys::of_users(&mut db, &users).await?;
        let rows = cross_signing::signatures(&mut db, &users, viewer_num(viewer)).await?;
        drop(db);
        let signatures = signatures_by_key(&rows);
        let user_ids = user_ids_of(texts);
        for user_id in user_ids.values() {
            response
                .device_keys
                .insert(user_id.clone(), BTreeMap::new());
        }
        for row in &devices {
            let Some(owner) = user_ids.get(&row.user_num) else {
                continue;
            };
            let device_id = OwnedDeviceId::from(row.device_id.as_str());
            let requested_ids = local_requests.get(&**owner);
            if requested_ids.is_some_and(|ids| ids.is_empty() || ids.contains(&device_id)) {
                let keys = visible_device_keys(row, owner, viewer, &signatures)?;
                let of_user = response.device_keys.entry(owner.clone()).or_default();
                of_user.insert(device_id, keys);
            }
        }
        self.add_signing_keys(viewer, local_requests.keys().copied(), &mut response)
            .await?;
        Ok(response)
    }

    /// Adds the known cross-signing keys of users to a response, with the viewer's signatures.
    pub async fn add_signing_keys(
        &self,
        viewer: Option<KeyViewer<'_>>,
        users: impl IntoIterator<Item = &UserId>,
        response: &mut Response,
    ) -> Result<()> {
        let user_ids: Vec<&str> = users.into_iter().map(UserId::as_str).collect();
        if user_ids.is_empty() {
            return Ok(());
        }
        let mut db = self.db.snapshot().await?;
        let users = self.db.strings.find_users(&mut db, &user_ids).await?;
        let texts = self.db.strings.find_user_ids(&mut db, &users).await?;
        let keys = cross_signing::keys_of_users(&mut db, &users).await?;
        let rows = cross_signing::signatures(&mut db, &users, viewer_num(viewer)).await?;
        drop(db);
        let signatures = signatures_by_key(&rows);
        let user_ids = user_ids_of(texts);
        for row in &keys {
            if let Some(owner) = user_ids.get(&row.user_num) {
                add_cross_signing_key(response, row, owner, viewer, &signatures)?;
            }
        }
        Ok(())
    }

    /// Returns the devices of a local user with their keys, as other servers receive them.
    pub async fn federation_devices(&self, user_id: &UserId) -> Result<get_devices::v1::Response> {
        let requested = BTreeMap::from([(user_id.to_owned(), Vec::new())]);
        // Read before the keys: a later change is then reported again, and none is missed.
        let stream_id = self.list_stream_id(user_id).await?;
        let mut found = self.query(None, &requested).await?;
        let stream_id = UInt::try_from(stream_id.as_i64()).unwrap_or_default();
        let mut response = get_devices::v1::Response::new(user_id.to_owned(), stream_id);
        response.master_key = found.master_keys.remove(user_id);
        response.self_signing_key = found.self_signing_keys.remove(user_id);
        for (device_id, keys) in found.device_keys.remove(user_id).unwrap_or_default() {
            let fields: ServerAddedFields = serde_json::from_str(keys.json().get())?;
            let mut device = get_devices::v1::UserDevice::new(device_id, keys);
            device.device_display_name = fields.unsigned.device_display_name;
            response.devices.push(device);
        }
        Ok(response)
    }

    /// Returns the version of a user's device list: the position of its last change.
    async fn list_stream_id(&self, user_id: &UserId) -> Result<Position> {
        let mut db = self.db.read().await?;
        let Some(user) = self.db.strings.find_user(&mut db, user_id.as_str()).await? else {
            return Ok(Position::ZERO);
        };
        Ok(device_list_changes::last_device_change(&mut db, user)
            .await?
            .unwrap_or(Position::ZERO))
    }

    /// Returns the users whose keys concern a user, and last changed after one position and up to another.
    pub async fn lists_changed(
        &self,
        user: UserNum,
        after: Position,
        until: Position,
    ) -> Result<Vec<UserNum>> {
        let mut db = self.db.read().await?;
        device_list_changes::users_changed_between(&mut db, user, after, until).await
    }
}

/// Returns the entries for users of this server.
pub(super) fn local_users<'a, T>(
    server_name: &ServerName,
    by_user: &'a BTreeMap<OwnedUserId, T>,
) -> BTreeMap<&'a UserId, &'a T> {
    let local = by_user
        .iter()
        .filter(|(user_id, _)| user_id.server_name() == server_name);
    local.map(|(user_id, entry)| (&**user_id, entry)).collect()
}

fn viewer_num(viewer: Option<KeyViewer<'_>>) -> UserNum {
    viewer.map_or(REMOTE_VIEWER_NUM, |viewer| viewer.user)
}

fn signatures_by_key(rows: &[SignatureRow]) -> SignaturesByKey<'_> {
    let mut signatures = SignaturesByKey::new();
    for row in rows {
        let of_key = signatures.entry((row.user_num, &*row.target)).or_default();
        of_key.push(row);
    }
    signatures
}

fn user_ids_of(texts: HashMap<UserNum, Arc<str>>) -> HashMap<UserNum, OwnedUserId> {
    let user_ids = texts.into_iter();
    user_ids
        .filter_map(|(user, text)| Some((user, UserId::parse(&*text).ok()?)))
        .collect()
}

fn visible_device_keys<T>(
    row: &DeviceKeysRow,
    owner: &UserId,
    viewer: Option<KeyViewer<'_>>,
    signatures: &SignaturesByKey<'_>,
) -> Result<Raw<T>> {
    let mut keys: Map<String, Value> = serde_json::from_str(&row.keys)?;
    let of_key = signatures.get(&(row.user_num, row.device_id.as_str()));
    add_signatures(&mut keys, of_key, owner, viewer);
    if let Some(name) = &row.display_name {
        let unsigned = json!({ "device_display_name": name });
        keys.insert("unsigned".to_owned(), unsigned);
    }
    Ok(Raw::from_json(to_raw_value(&keys)?))
}

fn add_cross_signing_key(
    response: &mut Response,
    row: &CrossSigningKeyRow,
    owner: &UserId,
    viewer: Option<KeyViewer<'_>>,
    signatures: &SignaturesByKey<'_>,
) -> Result<()> {
    let keys = match row.usage.as_str() {
        "master" => &mut response.master_keys,
        "self_signing" => &mut response.self_signing_keys,
        "user_signing" if viewer.is_some_and(|viewer| viewer.user_id == owner) => {
            &mut response.user_signing_keys
        }
        _ => return Ok(()),
    };
    let mut key: Map<String, Value> = serde_json::from_str(&row.key)?;
    let of_key = signatures.get(&(row.user_num, row.public_key.as_str()));
    add_signatures(&mut key, of_key, owner, viewer);
    keys.insert(owner.to_owned(), Raw::from_json(to_raw_value(&key)?));
    Ok(())
}

/// Adds signatures of the owner or the viewer to a key.
fn add_signatures(
    key: &mut Map<String, Value>,
    signatures: Option<&Vec<&SignatureRow>>,
    owner: &UserId,
    viewer: Option<KeyViewer<'_>>,
) {
    let Some(signatures) = signatures else {
        return;
    };
    let all = key.entry("signatures").or_insert_with(|| json!({}));
    for row in signatures {
        let signer = match viewer {
            Some(viewer) if row.signer == viewer.user => viewer.user_id,
            _ => owner,
        };
        let Some(all) = all.as_object_mut() else {
            return;
        };
        let of_signer = all.entry(signer.as_str()).or_insert_with(|| json!({}));
        if let Some(of_signer) = of_signer.as_object_mut() {
            of_signer.insert(row.key_id.clone(), row.signature.clone().into());
        }
    }
}
