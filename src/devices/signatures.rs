//! Signatures that users add to keys: to their own devices, to their master key, and to the master keys of others.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keyssignaturesupload).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ruma::{
    OwnedUserId, UserId,
    api::client::keys::upload_signatures::v3::{Failure, Request, Response},
    canonical_json::CanonicalJsonObject,
    encryption::KeyUsage,
};
use serde_json::{json, value::RawValue};

use super::{
    DeviceEnvironment, KeyOwner,
    cross_signing::{SigningKeysByUsage, load_signing_keys},
};
use crate::{
    error::{Error, Result},
    matrix,
    numbers::UserNum,
    storage::{
        Db, WriteTx,
        devices::{
            cross_signing::{self, SignatureRow},
            device_keys, device_list_changes,
        },
    },
};

/// The largest number of signed keys in one request. A user without keys counts as one, because the user is looked up.
const MAX_SIGNED_KEYS: usize = 1_000;

/// The context in which signatures are checked: the signer's own keys.
struct SignatureContext<'a> {
    owner: &'a KeyOwner<'a>,
    own_keys: SigningKeysByUsage,
    /// The keys of the signer's devices.
    devices: HashMap<String, CanonicalJsonObject>,
}

/// A key with new signatures.
struct SignedKey<'a> {
    user: UserNum,
    user_id: &'a UserId,
    key_id: &'a str,
    /// The key including its new signatures.
    signed: CanonicalJsonObject,
}

/// The signatures that users add to keys.
#[derive(Clone)]
pub struct KeySignatures {
    db: Db,
}

impl KeySignatures {
    /// Creates the service.
    pub(super) fn new(environment: &DeviceEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
        }
    }

    /// Stores signatures by a user. The response lists the rejected ones by user and key.
    #[tracing::instrument(skip_all, fields(user_id = %owner.user_id), err(level = "debug"))]
    pub async fn upload(&self, owner: &KeyOwner<'_>, request: &Request) -> Result<Response> {
        let signed = request.signed_keys.values();
        let signed = signed.map(|keys| keys.iter().count().max(1));
        if signed.sum::<usize>() > MAX_SIGNED_KEYS {
            return Err(Error::invalid_param(format!(
                "a request may contain at most {MAX_SIGNED_KEYS} signed keys"
            )));
        }
        let mut response = Response::new();
        let mut tx = self.db.write().await?;
        let context = SignatureContext::load(&mut tx, owner).await?;
        for (user_id, keys) in &request.signed_keys {
            let user = self.db.strings.find_user(&mut tx, user_id.as_str()).await?;
            let signing_keys = match user {
                Some(user) => load_signing_keys(&mut tx, user).await?,
                None => SigningKeysByUsage::new(),
            };
            let mut rows = Vec::new();
            for (key_id, key) in keys {
                let checked = SignedKey::read(user, user_id, key_id, key)
                    .and_then(|target| context.check(&target, &signing_keys));
                match checked {
                    Ok(found) => rows.extend(found),
                    Err(error) => record_failure(&mut response.failures, user_id, key_id, error)?,
                }
            }
            context.store(&mut tx, &rows).await?;
        }
        tx.commit().await?;
        Ok(response)
    }
}

impl<'a> SignatureContext<'a> {
    async fn load(tx: &mut WriteTx, owner: &'a KeyOwner<'a>) -> Result<Self> {
        let own = load_signing_keys(tx, owner.user).await?;
        let mut devices = HashMap::new();
        for row in device_keys::of_users(tx, &[owner.user]).await? {
            devices.insert(row.device_id, serde_json::from_str(&row.keys)?);
        }
        Ok(Self {
            owner,
            own_keys: own,
            devices,
        })
    }

    /// Returns the new signatures of a key, all of which must be valid.
    fn check(
        &self,
        target: &SignedKey<'_>,
        signing_keys: &SigningKeysByUsage,
    ) -> Result<Vec<SignatureRow>> {
        let (user_id, key_id) = (target.user_id, target.key_id);
        let master = signing_keys
            .get(KeyUsage::Master.as_str())
            .filter(|row| row.public_key == key_id);
        if let Some(master) = master {
            target.must_match(&serde_json::from_str(&master.key)?)?;
            if user_id == self.owner.user_id {
                return self.device_signatures(target);
            }
            return self.own_key_signatures(target, &KeyUsage::UserSigning);
        }
        let device = self.devices.get(key_id);
        let device = device.filter(|_| user_id == self.owner.user_id);
        target.must_match(device.ok_or_else(unknown_key)?)?;
        self.own_key_signatures(target, &KeyUsage::SelfSigning)
    }

    /// Returns the signature that the signer made with a cross-signing key.
    fn own_key_signatures(
        &self,
        target: &SignedKey<'_>,
        usage: &KeyUsage,
    ) -> Result<Vec<SignatureRow>> {
        let own = self.own_keys.get(usage.as_str()).ok_or_else(|| {
            Error::InvalidSignature(format!("you have no {} key", usage.as_str()))
        })?;
        let by = format!("ed25519:{}", own.public_key);
        Ok(vec![self.verified_signature(
            target,
            by,
            &own.public_key,
        )?])
    }

    /// Returns the signatures that the signer's devices made.
    fn device_signatures(&self, target: &SignedKey<'_>) -> Result<Vec<SignatureRow>> {
        let mut rows = Vec::new();
        for (device_id, keys) in &self.devices {
            let by = format!("ed25519:{device_id}");
            if matrix::user_signature(&target.signed, self.owner.user_id, &by).is_none() {
                continue;
            }
            let public_key = keys
                .get("keys")
                .and_then(|keys| keys.as_object()?.get(&by)?.as_str())
                .unwrap_or_default();
            rows.push(self.verified_signature(target, by, public_key)?);
        }
        if rows.is_empty() {
            return Err(invalid_signature());
        }
        Ok(rows)
    }

    fn verified_signature(
        &self,
        target: &SignedKey<'_>,
        by: String,
        public_key: &str,
    ) -> Result<SignatureRow> {
        let signer = self.owner.user_id;
        if !matrix::is_signed_by_user(&target.signed, signer, &by, public_key) {
            return Err(invalid_signature());
        }
        let signature =
            matrix::user_signature(&target.signed, signer, &by).ok_or_else(invalid_signature)?;
        Ok(SignatureRow {
            user_num: target.user,
            target: target.key_id.to_owned(),
            signer: self.owner.user,
            signature: signature.to_owned(),
            key_id: by,
        })
    }

    /// Stores the signatures of one user's keys, and notifies the users who may see them.
    async fn store(&self, tx: &mut WriteTx, rows: &[SignatureRow]) -> Result<()> {
        for row in rows {
            cross_signing::set_signature(tx, row).await?;
        }
        let Some(row) = rows.first() else {
            return Ok(());
        };
        let signer = self.owner.user;
        if row.user_num != signer {
            device_list_changes::record_change(tx, row.user_num, Some(signer)).await?;
            return Ok(());
        }
        let changed = rows.iter().map(|row| match self.devices.get(&row.target) {
            Some(_) => &*row.target,
            None => device_list_changes::CROSS_SIGNING_DEVICE_ID,
        });
        let changed: BTreeSet<&str> = changed.collect();
        let changed: Vec<&str> = changed.into_iter().collect();
        device_list_changes::record_device_changes(tx, signer, &changed).await
    }
}

impl<'a> SignedKey<'a> {
    fn read(
        user: Option<UserNum>,
        user_id: &'a UserId,
        key_id: &'a str,
        key: &RawValue,
    ) -> Result<Self> {
        Ok(Self {
            user: user.ok_or_else(unknown_key)?,
            user_id,
            key_id,
            signed: serde_json::from_str(key.get())
                .map_err(|error| Error::BadJson(format!("the key cannot be read: {error}")))?,
        })
    }

    /// "The signed JSON object must match the key previously uploaded or retrieved for the given key ID, with the
    /// exception of the `signatures` property."
    fn must_match(&self, known: &CanonicalJsonObject) -> Result<()> {
        if matrix::is_equal_without_signatures(&self.signed, known) {
            return Ok(());
        }
        tracing::debug!(user_id = %self.user_id, "the signed key differs from the stored one");
        Err(Error::invalid_param(
            "the signed key differs from the uploaded key",
        ))
    }
}

fn unknown_key() -> Error {
    Error::not_found("there is no key with this id that you can sign")
}

fn invalid_signature() -> Error {
    Error::InvalidSignature("the signature is missing or wrong".to_owned())
}

/// Records why a signature was rejected.
///
/// # Errors
///
/// An error that was not caused by the signature.
fn record_failure(
    failures: &mut BTreeMap<OwnedUserId, BTreeMap<String, Failure>>,
    user_id: &UserId,
    key_id: &str,
    error: Error,
) -> Result<()> {
    let errcode = match &error {
        Error::NotFound(_) => "M_NOT_FOUND",
        Error::BadJson(_) => "M_BAD_JSON",
        Error::InvalidParam(_) => "M_INVALID_PARAM",
        Error::InvalidSignature(_) => "M_INVALID_SIGNATURE",
        _ => return Err(error),
    };
    let failure = json!({ "errcode": errcode, "error": error.to_string() });
    let of_user = failures.entry(user_id.to_owned()).or_default();
    of_user.insert(key_id.to_owned(), serde_json::from_value(failure)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn an_internal_error_is_not_reported_as_an_invalid_signature() {
        let mut failures = BTreeMap::new();
        let mut record =
            |error: Error| record_failure(&mut failures, user_id!("@a:b"), "KEY", error);

        assert!(record(invalid_signature()).is_ok());
        let broken = record(Error::internal("read a key", "it is broken"));

        assert!(matches!(broken, Err(Error::Internal { .. })));
        let failure = serde_json::to_value(&failures).unwrap();
        let errcode = &failure["@a:b"]["KEY"]["errcode"];
        assert_eq!(errcode, "M_INVALID_SIGNATURE");
    }
}
