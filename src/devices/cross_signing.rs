//! Cross-signing keys, with which users sign their devices and each other.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#cross-signing).

use std::collections::{BTreeMap, HashMap};

use ruma::{
    OwnedServerName, OwnedUserId, UserId,
    api::client::keys::upload_signing_keys::v3::Request,
    canonical_json::CanonicalJsonObject,
    encryption::{CrossSigningKey, KeyUsage},
    serde::{Base64, Raw, base64::Standard},
};

use super::{DeviceEnvironment, KeyOwner};
use crate::{
    error::{Error, RefusalCode, Result},
    matrix::{self, signed_object},
    numbers::UserNum,
    storage::{
        Db, ReadAccess, WriteTx,
        devices::{
            cross_signing::{self, CrossSigningKeyRow},
            device_list_changes, device_table,
        },
    },
};

/// The largest key, in bytes.
const MAX_KEY_BYTES: usize = 16 * 1024;
/// The length of an ed25519 key, in bytes.
const PUBLIC_KEY_BYTES: usize = 32;

/// Whether the user has just completed interactive authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UiaProof {
    /// The user completed a stage, such as the password.
    Given,
    /// The request has only an access token.
    Missing,
}

/// A cross-signing key that a user uploaded, or another server reported.
pub(super) struct NewKey {
    usage: KeyUsage,
    public_key: String,
    object: CanonicalJsonObject,
}

/// The cross-signing keys of users.
#[derive(Clone)]
pub struct CrossSigningKeys {
    db: Db,
    server_name: OwnedServerName,
}

impl CrossSigningKeys {
    /// Creates the service.
    pub(super) fn new(environment: &DeviceEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            server_name: environment.server_name.clone(),
        }
    }

    /// Returns whether an upload of cross-signing keys needs more than an access token.
    ///
    /// The first upload does not, nor does one without new keys.
    pub async fn need_proof(&self, owner: &KeyOwner<'_>, request: &Request) -> Result<bool> {
        let new = read_request_keys(owner.user_id, request)?;
        let mut db = self.db.read().await?;
        let stored = load_signing_keys(&mut db, owner.user).await?;
        is_proof_needed(&stored, &new)
    }

    /// Stores the cross-signing keys of a user.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSignature`] for keys that the master key did not sign, `RefusalCode::MissingParam` without
    /// a master key, [`Error::Forbidden`] for a key named like a device, or when interactive authentication is
    /// missing.
    #[tracing::instrument(skip_all, fields(user_id = %owner.user_id), err(level = "debug"))]
    pub async fn upload(
        &self,
        owner: &KeyOwner<'_>,
        request: &Request,
        proof: UiaProof,
    ) -> Result<()> {
        let new = read_request_keys(owner.user_id, request)?;
        let mut tx = self.db.write().await?;
        let stored = load_signing_keys(&mut tx, owner.user).await?;
        let changed = changed_keys(&stored, &new)?;
        if changed.is_empty() {
            return Ok(());
        }
        if proof == UiaProof::Missing && is_proof_needed(&stored, &new)? {
            return Err(Error::forbidden(
                "the keys were changed by another request at the same time",
            ));
        }
        check_signatures(owner.user_id, &stored, &new)?;
        check_device_ids(&mut tx, owner.user, &changed).await?;
        store_signing_keys(&mut tx, owner.user, &stored, &changed).await?;
        device_list_changes::record_device_changes(
            &mut tx,
            owner.user,
            &[device_list_changes::CROSS_SIGNING_DEVICE_ID],
        )
        .await?;
        tx.commit().await
    }

    /// Stores the cross-signing keys of users of other servers, as their servers reported them, so that local users can
    /// sign them. Keys that are malformed, or not signed by the master key, are ignored.
    pub async fn store_remote(
        &self,
        masters: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
        self_signing: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    ) -> Result<()> {
        for (user_id, master) in masters {
            if user_id.server_name() == self.server_name {
                continue;
            }
            let new = read_reported_keys(&user_id, Some(&master), self_signing.get(&user_id));
            if !new.is_empty() {
                self.store_keys_of_remote_user(&user_id, &new).await?;
            }
        }
        Ok(())
    }

    async fn store_keys_of_remote_user(&self, user_id: &UserId, new: &[NewKey]) -> Result<()> {
        {
            let mut db = self.db.read().await?;
            if let Some(user) = self.db.strings.find_user(&mut db, user_id.as_str()).await?
                && changed_keys(&load_signing_keys(&mut db, user).await?, new)?.is_empty()
            {
                return Ok(());
            }
        }
        let mut tx = self.db.write().await?;
        let user = tx.intern_user(user_id.as_str()).await?;
        store_reported_keys(&mut tx, user, user_id, new).await?;
        tx.commit().await
    }
}

/// Reads the cross-signing keys of a user of another server, as that server reported them. Malformed keys are ignored.
pub(super) fn read_reported_keys(
    user_id: &UserId,
    master: Option<&Raw<CrossSigningKey>>,
    self_signing: Option<&Raw<CrossSigningKey>>,
) -> Vec<NewKey> {
    let reported = [
        (KeyUsage::Master, master),
        (KeyUsage::SelfSigning, self_signing),
    ];
    reported
        .into_iter()
        .filter_map(|(usage, raw)| read_signing_key(user_id, usage, raw?).ok())
        .collect()
}

/// Stores the keys of a user of another server that the master key signed. Returns whether any of them changed.
pub(super) async fn store_reported_keys(
    tx: &mut WriteTx,
    user: UserNum,
    user_id: &UserId,
    new: &[NewKey],
) -> Result<bool> {
    let stored = load_signing_keys(tx, user).await?;
    let good = if check_signatures(user_id, &stored, new).is_ok() {
        new
    } else {
        // The master key comes first, and needs no signature.
        let masters = new.iter().filter(|key| key.usage == KeyUsage::Master);
        new.get(..masters.count()).unwrap_or_default()
    };
    let changed = changed_keys(&stored, good)?;
    store_signing_keys(tx, user, &stored, &changed).await?;
    Ok(!changed.is_empty())
}

/// The stored keys of a user by usage.
pub(super) type SigningKeysByUsage = HashMap<String, CrossSigningKeyRow>;

pub(super) async fn load_signing_keys(
    db: &mut impl ReadAccess,
    user: UserNum,
) -> Result<SigningKeysByUsage> {
    let rows = cross_signing::keys_of_users(db, &[user]).await?.into_iter();
    Ok(rows.map(|row| (row.usage.clone(), row)).collect())
}

fn read_request_keys(user_id: &UserId, request: &Request) -> Result<Vec<NewKey>> {
    let uploaded = [
        (KeyUsage::Master, &request.master_key),
        (KeyUsage::SelfSigning, &request.self_signing_key),
        (KeyUsage::UserSigning, &request.user_signing_key),
    ];
    uploaded
        .into_iter()
        .filter_map(|(usage, raw)| Some(read_signing_key(user_id, usage, raw.as_ref()?)))
        .collect()
}

fn read_signing_key(
    user_id: &UserId,
    usage: KeyUsage,
    raw: &Raw<CrossSigningKey>,
) -> Result<NewKey> {
    let json = raw.json().get();
    if json.len() > MAX_KEY_BYTES {
        return Err(Error::TooLarge(format!(
            "a key is larger than {MAX_KEY_BYTES} bytes"
        )));
    }
    let bad = |error: serde_json::Error| Error::BadJson(format!("{}_key: {error}", usage.as_str()));
    let wrong = |what: &str| Error::invalid_param(format!("{}_key: {what}", usage.as_str()));
    let key = raw.deserialize().map_err(bad)?;
    if key.user_id != user_id {
        return Err(wrong("user_id differs from the user's"));
    }
    if !key.usage.contains(&usage) {
        return Err(wrong("usage differs from the expected one"));
    }
    let mut keys = key.keys.iter();
    let (Some((key_id, public_key)), None) = (keys.next(), keys.next()) else {
        return Err(wrong("there must be exactly one key"));
    };
    let is_ed25519 = key_id.as_str().strip_prefix("ed25519:") == Some(&**public_key);
    let bytes = Base64::<Standard>::parse(public_key).ok();
    let is_whole = bytes.is_some_and(|bytes| bytes.as_bytes().len() == PUBLIC_KEY_BYTES);
    if !is_ed25519 || !is_whole || json.contains("\\u0000") {
        return Err(wrong(
            "the key must be an ed25519 key whose id is the key itself",
        ));
    }
    let mut object = signed_object(json)?;
    object.remove("unsigned");
    Ok(NewKey {
        public_key: public_key.clone(),
        usage,
        object,
    })
}

/// Returns the keys that differ from the stored ones; if the master key differs, all of them.
fn changed_keys<'a>(stored: &SigningKeysByUsage, new: &'a [NewKey]) -> Result<Vec<&'a NewKey>> {
    let mut changed = Vec::new();
    for key in new {
        let is_known = match stored.get(key.usage.as_str()) {
            Some(row) => {
                let known: CanonicalJsonObject = serde_json::from_str(&row.key)?;
                matrix::is_equal_without_signatures(&known, &key.object)
            }
            None => false,
        };
        if !is_known {
            changed.push(key);
        }
    }
    if changed.iter().any(|key| key.usage == KeyUsage::Master) {
        // The former master key's signatures are removed with it. Unchanged keys carry such a signature, so they must
        // be stored again with the new master key's signature.
        return Ok(new.iter().collect());
    }
    Ok(changed)
}

/// "User-Interactive Authentication MUST be performed, except […] there is no existing master signing key uploaded to
/// the homeserver, OR […] the request contains no new keys."
fn is_proof_needed(stored: &SigningKeysByUsage, new: &[NewKey]) -> Result<bool> {
    let has_master = stored.contains_key(KeyUsage::Master.as_str());
    Ok(has_master && !changed_keys(stored, new)?.is_empty())
}

/// "Must be signed by the accompanying master signing key, or by the user's most recently uploaded master signing
/// key if no master signing key is included in the request."
fn check_signatures(user_id: &UserId, stored: &SigningKeysByUsage, new: &[NewKey]) -> Result<()> {
    let accompanying = new.iter().find(|key| key.usage == KeyUsage::Master);
    let recent = stored.get(KeyUsage::Master.as_str());
    let master = accompanying
        .map(|key| &*key.public_key)
        .or_else(|| recent.map(|row| &*row.public_key))
        .ok_or_else(|| {
            Error::refused(
                RefusalCode::MissingParam,
                "master_key is missing".to_owned(),
            )
        })?;
    let key_id = format!("ed25519:{master}");
    for key in new.iter().filter(|key| key.usage != KeyUsage::Master) {
        if !matrix::is_signed_by_user(&key.object, user_id, &key_id, master) {
            return Err(Error::InvalidSignature(format!(
                "{}_key is not signed by the master key",
                key.usage.as_str()
            )));
        }
    }
    Ok(())
}

/// "The public key of one of the keys is the same as one of the user's device IDs": such a key is refused, because
/// signatures do not distinguish the two.
async fn check_device_ids(tx: &mut WriteTx, user: UserNum, changed: &[&NewKey]) -> Result<()> {
    let names: Vec<&str> = changed.iter().map(|key| &*key.public_key).collect();
    if device_table::find_all(tx, user, &names).await?.is_empty() {
        return Ok(());
    }
    Err(Error::forbidden("a key has the same id as a device"))
}

/// Stores keys. A new master key removes the keys that the former one signed.
async fn store_signing_keys(
    tx: &mut WriteTx,
    user: UserNum,
    stored: &SigningKeysByUsage,
    changed: &[&NewKey],
) -> Result<()> {
    let is_new = |usage: &str| changed.iter().any(|key| key.usage.as_str() == usage);
    let removes_all = is_new(KeyUsage::Master.as_str());
    for row in stored.values() {
        if removes_all || is_new(&row.usage) {
            cross_signing::remove_key(tx, user, &row.usage, &row.public_key).await?;
        }
    }
    for key in changed {
        let row = CrossSigningKeyRow {
            user_num: user,
            usage: key.usage.as_str().to_owned(),
            public_key: key.public_key.clone(),
            key: serde_json::to_string(&key.object)?,
        };
        cross_signing::set_key(tx, &row).await?;
    }
    Ok(())
}
