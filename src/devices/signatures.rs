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
    Devices, Owner,
    cross_signing::{Stored, stored},
};
use crate::{
    error::{Error, Result},
    matrix,
    storage::{
        UserNum, WriteTx,
        devices::{
            cross_signing::{self, SignatureRow},
            device_keys, device_list_changes,
        },
    },
};

/// The largest number of signed keys in one request. A user without keys counts as one, because the user is looked up.
const SIGNED: usize = 1_000;

/// The context in which signatures are checked: the signer's own keys.
struct Desk<'a> {
    owner: &'a Owner<'a>,
    own: Stored,
    /// The keys of the signer's devices.
    devices: HashMap<String, CanonicalJsonObject>,
}

/// A key with new signatures.
struct Target<'a> {
    user: UserNum,
    user_id: &'a UserId,
    key_id: &'a str,
    /// The key including its new signatures.
    signed: CanonicalJsonObject,
}

impl Devices {
    /// Stores signatures by a user. The response lists the rejected ones by user and key.
    #[tracing::instrument(skip_all, fields(user_id = %owner.user_id), err(level = "debug"))]
    pub async fn upload_signatures(
        &self,
        owner: &Owner<'_>,
        request: &Request,
    ) -> Result<Response> {
        let signed = request.signed_keys.values();
        let signed = signed.map(|keys| keys.iter().count().max(1));
        if signed.sum::<usize>() > SIGNED {
            return Err(Error::invalid_param(format!(
                "a request may contain at most {SIGNED} signed keys"
            )));
        }
        let mut response = Response::new();
        let mut tx = self.db.write().await?;
        let desk = Desk::open(&mut tx, owner).await?;
        for (user_id, keys) in &request.signed_keys {
            let user = self.db.strings.find(&mut tx, user_id.as_str()).await?;
            let theirs = match user {
                Some(user) => stored(&mut tx, user).await?,
                None => Stored::new(),
            };
            let mut rows = Vec::new();
            for (key_id, key) in keys {
                match desk.check(user, user_id, (key_id, key), &theirs) {
                    Ok(found) => rows.extend(found),
                    Err(error) => note(&mut response.failures, user_id, key_id, error)?,
                }
            }
            desk.store(&mut tx, &rows).await?;
        }
        tx.commit().await?;
        Ok(response)
    }
}

impl<'a> Desk<'a> {
    async fn open(tx: &mut WriteTx, owner: &'a Owner<'a>) -> Result<Self> {
        let own = stored(tx, owner.user).await?;
        let mut devices = HashMap::new();
        for row in device_keys::of_users(tx, &[owner.user]).await? {
            devices.insert(row.device_id, serde_json::from_str(&row.keys)?);
        }
        Ok(Self {
            owner,
            own,
            devices,
        })
    }

    /// Returns the new signatures of a key, all of which must be valid.
    fn check(
        &self,
        user: Option<UserNum>,
        user_id: &UserId,
        (key_id, key): (&str, &RawValue),
        theirs: &Stored,
    ) -> Result<Vec<SignatureRow>> {
        let user = user.ok_or_else(unknown)?;
        let signed: CanonicalJsonObject = serde_json::from_str(key.get())
            .map_err(|error| Error::BadJson(format!("the key cannot be read: {error}")))?;
        let target = Target {
            user,
            user_id,
            key_id,
            signed,
        };
        let master = theirs
            .get(KeyUsage::Master.as_str())
            .filter(|row| row.public_key == key_id);
        if let Some(master) = master {
            target.must_say(&serde_json::from_str(&master.key)?)?;
            if user_id == self.owner.user_id {
                return self.by_devices(&target);
            }
            return self.by_own_key(&target, &KeyUsage::UserSigning);
        }
        let device = self.devices.get(key_id);
        let device = device.filter(|_| user_id == self.owner.user_id);
        target.must_say(device.ok_or_else(unknown)?)?;
        self.by_own_key(&target, &KeyUsage::SelfSigning)
    }

    /// Returns the signature that the signer made with a cross-signing key.
    fn by_own_key(&self, target: &Target<'_>, usage: &KeyUsage) -> Result<Vec<SignatureRow>> {
        let own = self.own.get(usage.as_str()).ok_or_else(|| {
            Error::InvalidSignature(format!("you have no {} key", usage.as_str()))
        })?;
        let by = format!("ed25519:{}", own.public_key);
        Ok(vec![self.signature(target, by, &own.public_key)?])
    }

    /// Returns the signatures that the signer's devices made.
    fn by_devices(&self, target: &Target<'_>) -> Result<Vec<SignatureRow>> {
        let mut rows = Vec::new();
        for (device_id, keys) in &self.devices {
            let by = format!("ed25519:{device_id}");
            if matrix::signature(&target.signed, self.owner.user_id, &by).is_none() {
                continue;
            }
            let public_key = keys
                .get("keys")
                .and_then(|keys| keys.as_object()?.get(&by)?.as_str())
                .unwrap_or_default();
            rows.push(self.signature(target, by, public_key)?);
        }
        if rows.is_empty() {
            return Err(invalid());
        }
        Ok(rows)
    }

    fn signature(&self, target: &Target<'_>, by: String, public_key: &str) -> Result<SignatureRow> {
        let signer = self.owner.user_id;
        if !matrix::is_signed_by(&target.signed, signer, &by, public_key) {
            return Err(invalid());
        }
        let signature = matrix::signature(&target.signed, signer, &by).ok_or_else(invalid)?;
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
            device_list_changes::note_change(tx, row.user_num, Some(signer)).await?;
            return Ok(());
        }
        let changed = rows.iter().map(|row| match self.devices.get(&row.target) {
            Some(_) => &*row.target,
            None => device_list_changes::OWN_KEYS,
        });
        let changed: BTreeSet<&str> = changed.collect();
        let changed: Vec<&str> = changed.into_iter().collect();
        device_list_changes::note_devices(tx, signer, &changed).await
    }
}

impl Target<'_> {
    /// "The signed JSON object must match the key previously uploaded or retrieved for the given key ID, with the
    /// exception of the `signatures` property."
    fn must_say(&self, known: &CanonicalJsonObject) -> Result<()> {
        if matrix::says_the_same(&self.signed, known) {
            return Ok(());
        }
        tracing::debug!(user_id = %self.user_id, "the signed key differs from the stored one");
        Err(Error::invalid_param(
            "the signed key differs from the uploaded key",
        ))
    }
}

fn unknown() -> Error {
    Error::not_found("there is no key with this id that you can sign")
}

fn invalid() -> Error {
    Error::InvalidSignature("the signature is missing or wrong".to_owned())
}

/// Records why a signature was rejected.
///
/// # Errors
///
/// An error that was not caused by the signature.
fn note(
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
    fn what_breaks_here_is_not_told_of_the_signature() {
        let mut failures = BTreeMap::new();
        let mut noted = |error: Error| note(&mut failures, user_id!("@a:b"), "KEY", error);

        assert!(noted(invalid()).is_ok());
        let broken = noted(Error::internal("read a key", "it is broken"));

        assert!(matches!(broken, Err(Error::Internal { .. })));
        let failure = serde_json::to_value(&failures).unwrap();
        let errcode = &failure["@a:b"]["KEY"]["errcode"];
        assert_eq!(errcode, "M_INVALID_SIGNATURE");
    }
}
