//! What others may know of the keys of users and their devices, and whose changed.
//!
//! See <https://spec.matrix.org/v1.19/client-server-api/#tracking-the-device-list-for-a-user>.

use std::collections::{BTreeMap, HashMap};

use ruma::{
    OwnedDeviceId, OwnedUserId, UserId,
    api::client::keys::get_keys::v3::{Request, Response},
    serde::Raw,
};
use serde_json::{Map, Value, json, value::to_raw_value};

use super::Devices;
use crate::{
    error::Result,
    storage::{
        Position, UserNum,
        cross_signing::{self, CrossSigningKeyRow, SignatureRow},
        device_keys::{self, DeviceKeysRow},
        device_lists,
    },
};

/// Who looks at keys.
#[derive(Clone, Copy, Debug)]
pub struct Viewer<'a> {
    /// The user's number.
    pub user: UserNum,
    /// The user.
    pub user_id: &'a UserId,
}

/// Signatures by the user and the key that they sign.
type Signatures<'a> = HashMap<(UserNum, &'a str), Vec<&'a SignatureRow>>;

impl Devices {
    /// Returns the keys of devices and users as a user may see them.
    ///
    /// Users of this server who have none are in the answer, those who do not exist are not.
    pub async fn query_keys(&self, viewer: Viewer<'_>, request: &Request) -> Result<Response> {
        let (wanted, failures) = self.local(&request.device_keys);
        let mut response = Response::new();
        response.failures = failures;
        let user_ids: Vec<&str> = wanted.keys().map(|user_id| user_id.as_str()).collect();
        let mut db = self.db.snapshot().await?;
        let users = self.db.strings.find_all(&mut db, &user_ids).await?;
        let texts = self.db.strings.texts(&mut db, &users).await?;
        let devices = device_keys::of_users(&mut db, &users).await?;
        let keys = cross_signing::of_users(&mut db, &users).await?;
        let rows = cross_signing::signatures(&mut db, &users, viewer.user).await?;
        drop(db);
        let mut signatures = Signatures::new();
        for row in &rows {
            let of_key = signatures.entry((row.user_num, &row.target)).or_default();
            of_key.push(row);
        }
        let user_ids: HashMap<UserNum, OwnedUserId> = texts
            .into_iter()
            .filter_map(|(user, text)| Some((user, UserId::parse(&*text).ok()?)))
            .collect();
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
            let asked = wanted.get(&**owner);
            if asked.is_some_and(|ids| ids.is_empty() || ids.contains(&device_id)) {
                let keys = shown_device(row, owner, viewer, &signatures)?;
                let of_user = response.device_keys.entry(owner.clone()).or_default();
                of_user.insert(device_id, keys);
            }
        }
        for row in &keys {
            if let Some(owner) = user_ids.get(&row.user_num) {
                add_cross_signing_key(&mut response, row, owner, viewer, &signatures)?;
            }
        }
        Ok(response)
    }

    /// Returns the users of whose changed keys a user is told, since a position.
    pub async fn lists_changed(&self, user: UserNum, after: Position) -> Result<Vec<UserNum>> {
        let mut db = self.db.read().await?;
        device_lists::changed(&mut db, user, after).await
    }
}

fn shown_device<T>(
    row: &DeviceKeysRow,
    owner: &UserId,
    viewer: Viewer<'_>,
    signatures: &Signatures<'_>,
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
    viewer: Viewer<'_>,
    signatures: &Signatures<'_>,
) -> Result<()> {
    let keys = match row.usage.as_str() {
        "master" => &mut response.master_keys,
        "self_signing" => &mut response.self_signing_keys,
        "user_signing" if viewer.user_id == owner => &mut response.user_signing_keys,
        _ => return Ok(()),
    };
    let mut key: Map<String, Value> = serde_json::from_str(&row.key)?;
    let of_key = signatures.get(&(row.user_num, row.public_key.as_str()));
    add_signatures(&mut key, of_key, owner, viewer);
    keys.insert(owner.to_owned(), Raw::from_json(to_raw_value(&key)?));
    Ok(())
}

/// Adds signatures to a key; they are of its owner or of the viewer.
fn add_signatures(
    key: &mut Map<String, Value>,
    signatures: Option<&Vec<&SignatureRow>>,
    owner: &UserId,
    viewer: Viewer<'_>,
) {
    let Some(signatures) = signatures else {
        return;
    };
    let all = key.entry("signatures").or_insert_with(|| json!({}));
    for row in signatures {
        let signer = if row.signer == viewer.user {
            viewer.user_id
        } else {
            owner
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
