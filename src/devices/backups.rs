//! Backups of room keys: encrypted by the clients, stored by version, room and session.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#server-side-key-backups).

use std::collections::{BTreeMap, HashMap};

use ruma::{OwnedRoomId, UInt, api::client::backup::KeyBackupData, serde::Raw};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use super::{DeviceEnvironment, check_text};
use crate::{
    error::{Error, Result},
    numbers::{BackupVersionNum, UserNum},
    storage::{
        Db, ReadAccess, WriteTx,
        devices::key_backups::{self, BackupKeyRow, BackupKeySelection, BackupRow},
    },
};

/// The longest algorithm, room id and session id, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// The largest `auth_data`, in bytes.
const MAX_AUTH_DATA_BYTES: usize = 64 * 1024;
/// The largest key, in bytes.
const MAX_KEY_BYTES: usize = 64 * 1024;
/// The largest number of keys in a backup: enough for many years of a busy user.
const MAX_BACKUP_KEYS: i64 = 500_000;
/// The largest number of versions of a user's backup.
const MAX_BACKUP_VERSIONS: i64 = 50;
/// The number of newer versions after which a deleted version is forgotten.
const DELETED_VERSIONS_KEPT: i64 = 1_000;
/// The number of keys in one look-up. Its statement tries every room with every session.
const KEYS_PER_LOOKUP: usize = 64;

/// A version of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupVersion {
    pub version: String,
    /// The encryption of the keys: `algorithm` and `auth_data`, as JSON.
    pub definition: String,
    pub state: BackupState,
}

/// The number of keys in a backup, and the version of this set of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupState {
    /// A text that differs after each change of the keys.
    pub etag: String,
    pub count: UInt,
}

/// Backed-up keys by room and session.
pub type BackedUpKeys = BTreeMap<OwnedRoomId, BTreeMap<String, Raw<KeyBackupData>>>;

/// A key in the JSON format of clients.
#[derive(Debug, Deserialize, Serialize)]
struct BackupKey {
    first_message_index: UInt,
    forwarded_count: UInt,
    is_verified: bool,
    session_data: Box<RawValue>,
}

/// The encryption of a backup.
#[derive(Deserialize)]
struct BackupDefinition {
    algorithm: String,
    auth_data: Map<String, Value>,
    #[serde(default)]
    version: Option<String>,
}

#[derive(Serialize)]
struct ShownDefinition<'a> {
    algorithm: &'a str,
    auth_data: &'a RawValue,
}

/// The backups of room keys.
#[derive(Clone)]
pub struct KeyBackups {
    db: Db,
}

impl KeyBackups {
    /// Creates the service.
    pub(super) fn new(environment: &DeviceEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
        }
    }

    /// Creates a new version of a user's backup and returns its version string; `definition` is the body of the
    /// request.
    ///
    /// # Errors
    ///
    /// [`Error::BadJson`] for an invalid definition, [`Error::InvalidParam`] when the user has too many versions.
    pub async fn create(&self, user: UserNum, definition: &str) -> Result<String> {
        let (definition, auth_data) = read_definition(definition)?;
        let mut tx = self.db.write().await?;
        if key_backups::count(&mut tx, user).await? >= MAX_BACKUP_VERSIONS {
            return Err(Error::invalid_param(
                "there are too many backup versions: delete some of them",
            ));
        }
        let newest = key_backups::newest_version(&mut tx, user).await?;
        let version = newest.map_or(BackupVersionNum::FIRST, BackupVersionNum::next);
        key_backups::insert(&mut tx, user, version, &definition.algorithm, &auth_data).await?;
        tx.commit().await?;
        Ok(version.to_string())
    }

    /// Returns a version of a user's backup, or the latest one.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none.
    pub async fn get(&self, user: UserNum, version: Option<&str>) -> Result<BackupVersion> {
        let mut db = self.db.read().await?;
        let row = match version {
            Some(version) => load_existing_version(&mut db, user, version).await?,
            None => key_backups::latest(&mut db, user)
                .await?
                .ok_or_else(unknown_version)?,
        };
        let definition = ShownDefinition {
            algorithm: &row.algorithm,
            auth_data: serde_json::from_str(&row.auth_data)?,
        };
        Ok(BackupVersion {
            version: row.version.to_string(),
            definition: serde_json::to_string(&definition)?,
            state: backup_state(row.etag, row.key_count),
        })
    }

    /// Changes the `auth_data` of a version.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when the body names another algorithm or version.
    pub async fn update(&self, user: UserNum, version: &str, body: &str) -> Result<()> {
        let (definition, auth_data) = read_definition(body)?;
        if definition.version.is_some_and(|named| named != version) {
            return Err(Error::invalid_param(
                "version differs from the one in the path",
            ));
        }
        let mut tx = self.db.write().await?;
        let row = load_existing_version(&mut tx, user, version).await?;
        if row.algorithm != definition.algorithm {
            return Err(Error::invalid_param("algorithm differs from the backup's"));
        }
        key_backups::set_auth_data(&mut tx, user, row.version, &auth_data).await?;
        tx.commit().await
    }

    /// Deletes a version with its keys. Succeeds if it was already deleted.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there never was such a version.
    pub async fn delete(&self, user: UserNum, version: &str) -> Result<()> {
        let number = parse_version(version)?;
        let mut tx = self.db.write().await?;
        let row = key_backups::get(&mut tx, user, number).await?;
        if row.ok_or_else(unknown_version)?.deleted {
            return Ok(());
        }
        key_backups::delete(&mut tx, user, number, DELETED_VERSIONS_KEPT).await?;
        tx.commit().await
    }

    /// Stores keys in the current version. If a session already has a key, the better one is kept.
    ///
    /// # Errors
    ///
    /// [`Error::WrongRoomKeysVersion`] when the version is not the current one, [`Error::BadJson`],
    /// [`Error::TooLarge`] or [`Error::InvalidParam`] for keys that are malformed, too large or too many.
    pub async fn store_keys(
        &self,
        user: UserNum,
        version: &str,
        keys: &BackedUpKeys,
    ) -> Result<BackupState> {
        let offered = read_keys(keys)?;
        let mut tx = self.db.write().await?;
        let row = load_current_version(&mut tx, user, version).await?;
        let better = find_better_keys(&mut tx, user, row.version, offered).await?;
        if better.keys.is_empty() {
            return Ok(backup_state(row.etag, row.key_count));
        }
        let (etag, count) = (row.etag + 1, row.key_count + better.added);
        if count > MAX_BACKUP_KEYS {
            return Err(Error::invalid_param(format!(
                "the backup would hold more than {MAX_BACKUP_KEYS} keys"
            )));
        }
        key_backups::set_keys(&mut tx, user, row.version, &better.keys).await?;
        let counts = key_backups::BackupCounts {
            etag,
            key_count: count,
        };
        key_backups::set_counts(&mut tx, user, row.version, counts).await?;
        tx.commit().await?;
        Ok(backup_state(etag, count))
    }

    /// Returns keys of a version by room and session.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such version.
    pub async fn load_keys(
        &self,
        user: UserNum,
        version: &str,
        part: BackupPart<'_>,
    ) -> Result<BackedUpKeys> {
        let mut db = self.db.snapshot().await?;
        let row = load_existing_version(&mut db, user, version).await?;
        let keys = key_backups::keys(&mut db, user, row.version, part.checked_part()?).await?;
        drop(db);
        let mut by_room = BackedUpKeys::new();
        for key in keys {
            let room_id = OwnedRoomId::try_from(key.room_id.as_str())
                .map_err(|source| Error::internal("read a stored room id", source))?;
            let of_room = by_room.entry(room_id).or_default();
            of_room.insert(key.session_id.clone(), client_key(key)?);
        }
        Ok(by_room)
    }

    /// Deletes keys of a version.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such version.
    pub async fn delete_keys(
        &self,
        user: UserNum,
        version: &str,
        part: BackupPart<'_>,
    ) -> Result<BackupState> {
        let mut tx = self.db.write().await?;
        let row = load_existing_version(&mut tx, user, version).await?;
        let deleted =
            key_backups::delete_keys(&mut tx, user, row.version, part.checked_part()?).await?;
        if deleted == 0 {
            return Ok(backup_state(row.etag, row.key_count));
        }
        let count = row.key_count - i64::try_from(deleted).unwrap_or(row.key_count);
        let etag = row.etag + 1;
        let counts = key_backups::BackupCounts {
            etag,
            key_count: count,
        };
        key_backups::set_counts(&mut tx, user, row.version, counts).await?;
        tx.commit().await?;
        Ok(backup_state(etag, count))
    }
}

/// A selection of the keys of a backup.
#[derive(Clone, Copy, Debug)]
pub struct BackupPart<'a>(BackupKeySelection<'a>);

impl<'a> BackupPart<'a> {
    /// All keys.
    pub fn all() -> Self {
        Self(BackupKeySelection::All)
    }

    /// The keys of a room.
    pub fn room(room_id: &'a ruma::RoomId) -> Self {
        Self(BackupKeySelection::Room(room_id.as_str()))
    }

    /// The key of a session of a room.
    pub fn session(room_id: &'a ruma::RoomId, session_id: &'a str) -> Self {
        Self(BackupKeySelection::Session(room_id.as_str(), session_id))
    }

    fn checked_part(self) -> Result<BackupKeySelection<'a>> {
        if let BackupKeySelection::Session(_, session_id) = self.0 {
            check_text("sessionId", session_id)?;
        }
        Ok(self.0)
    }
}

fn unknown_version() -> Error {
    Error::not_found("the backup version does not exist")
}

fn parse_version(version: &str) -> Result<BackupVersionNum> {
    version.parse().map_err(|_| unknown_version())
}

fn backup_state(etag: i64, count: i64) -> BackupState {
    BackupState {
        etag: etag.to_string(),
        count: UInt::new_saturating(u64::try_from(count).unwrap_or_default()),
    }
}

/// Returns a version that is not deleted.
async fn load_existing_version(
    db: &mut impl ReadAccess,
    user: UserNum,
    version: &str,
) -> Result<BackupRow> {
    let row = key_backups::get(db, user, parse_version(version)?).await?;
    row.filter(|row| !row.deleted).ok_or_else(unknown_version)
}

/// Returns a version, which must be the current one.
async fn load_current_version(tx: &mut WriteTx, user: UserNum, version: &str) -> Result<BackupRow> {
    let row = load_existing_version(tx, user, version).await?;
    let latest = key_backups::latest(tx, user).await?;
    let latest = latest.map_or(row.version, |latest| latest.version);
    if row.version != latest {
        return Err(Error::WrongRoomKeysVersion {
            current: latest.to_string(),
        });
    }
    Ok(row)
}

fn read_definition(json: &str) -> Result<(BackupDefinition, String)> {
    if json.len() > MAX_AUTH_DATA_BYTES {
        return Err(Error::TooLarge("auth_data is too large".to_owned()));
    }
    let read: BackupDefinition =
        serde_json::from_str(json).map_err(|error| Error::BadJson(error.to_string()))?;
    check_text("algorithm", &read.algorithm)?;
    check_nul(json)?;
    let auth_data = serde_json::to_string(&read.auth_data)?;
    Ok((read, auth_data))
}

/// Refuses U+0000, which PostgreSQL does not accept in texts.
fn check_nul(json: &str) -> Result<()> {
    if json.contains("\\u0000") {
        return Err(Error::invalid_param("the data contains U+0000"));
    }
    Ok(())
}

fn read_keys(keys: &BackedUpKeys) -> Result<Vec<BackupKeyRow>> {
    let mut rows = Vec::new();
    for (room_id, sessions) in keys {
        for (session_id, raw) in sessions {
            rows.push(read_key(room_id.as_str(), session_id, raw.json())?);
        }
    }
    Ok(rows)
}

fn read_key(room_id: &str, session_id: &str, json: &RawValue) -> Result<BackupKeyRow> {
    if session_id.is_empty() || session_id.len().max(room_id.len()) > MAX_NAME_BYTES {
        return Err(Error::invalid_param(format!(
            "a session id or room id is empty or longer than {MAX_NAME_BYTES} bytes"
        )));
    }
    check_text("a session id", session_id)?;
    if json.get().len() > MAX_KEY_BYTES {
        return Err(Error::TooLarge(format!(
            "a key is larger than {MAX_KEY_BYTES} bytes"
        )));
    }
    check_nul(json.get())?;
    let key: BackupKey = serde_json::from_str(json.get())
        .map_err(|error| Error::BadJson(format!("the key of {session_id}: {error}")))?;
    if !key.session_data.get().starts_with('{') {
        return Err(Error::BadJson("session_data is not an object".to_owned()));
    }
    Ok(BackupKeyRow {
        room_id: room_id.to_owned(),
        session_id: session_id.to_owned(),
        first_message_index: i64::from(key.first_message_index),
        forwarded_count: i64::from(key.forwarded_count),
        is_verified: key.is_verified,
        session_data: key.session_data.get().to_owned(),
    })
}

fn client_key(row: BackupKeyRow) -> Result<Raw<KeyBackupData>> {
    let unsigned = |number: i64| UInt::new_saturating(u64::try_from(number).unwrap_or_default());
    let key = BackupKey {
        first_message_index: unsigned(row.first_message_index),
        forwarded_count: unsigned(row.forwarded_count),
        is_verified: row.is_verified,
        session_data: RawValue::from_string(row.session_data)?,
    };
    Ok(Raw::from_json_string(serde_json::to_string(&key)?)?)
}

/// The offered keys that are better than the stored ones.
struct BetterKeys {
    keys: Vec<BackupKeyRow>,
    /// The number of them that are for new sessions.
    added: i64,
}

/// Finds the offered keys that are better than the stored ones.
async fn find_better_keys(
    tx: &mut WriteTx,
    user: UserNum,
    version: BackupVersionNum,
    offered: Vec<BackupKeyRow>,
) -> Result<BetterKeys> {
    let mut known = Vec::new();
    for chunk in offered.chunks(KEYS_PER_LOOKUP) {
        let mut room_ids: Vec<&str> = chunk.iter().map(|key| key.room_id.as_str()).collect();
        room_ids.dedup();
        let session_ids: Vec<&str> = chunk.iter().map(|key| key.session_id.as_str()).collect();
        known.extend(
            key_backups::keys_of_sessions(tx, user, version, &room_ids, &session_ids).await?,
        );
    }
    let known: HashMap<(&str, &str), &BackupKeyRow> = known
        .iter()
        .map(|key| ((key.room_id.as_str(), key.session_id.as_str()), key))
        .collect();
    let (mut better, mut added) = (Vec::new(), 0);
    for key in offered {
        match known.get(&(key.room_id.as_str(), key.session_id.as_str())) {
            Some(known) if !is_better(&key, known) => {}
            Some(_) => better.push(key),
            None => {
                added += 1;
                better.push(key);
            }
        }
    }
    Ok(BetterKeys {
        keys: better,
        added,
    })
}

/// "if the keys have different values for `is_verified`, then it will keep the key that has `is_verified` set to
/// `true`; if they have the same values for `is_verified`, then it will keep the key with a lower
/// `first_message_index`; and finally, if `is_verified` and `first_message_index` are equal, then it will keep the key
/// with a lower `forwarded_count`."
fn is_better(offered: &BackupKeyRow, known: &BackupKeyRow) -> bool {
    let rank = |key: &BackupKeyRow| {
        (
            !key.is_verified,
            key.first_message_index,
            key.forwarded_count,
        )
    };
    rank(offered) < rank(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(is_verified: bool, first_message_index: i64, forwarded_count: i64) -> BackupKeyRow {
        BackupKeyRow {
            room_id: String::new(),
            session_id: String::new(),
            first_message_index,
            forwarded_count,
            is_verified,
            session_data: String::new(),
        }
    }

    #[test]
    fn verified_then_earlier_then_less_forwarded_keys_are_kept() {
        assert!(is_better(&key(true, 9, 9), &key(false, 1, 1)));
        assert!(!is_better(&key(false, 1, 1), &key(true, 9, 9)));
        assert!(is_better(&key(true, 1, 9), &key(true, 2, 1)));
        assert!(is_better(&key(false, 1, 1), &key(false, 1, 2)));
        assert!(!is_better(&key(false, 1, 1), &key(false, 1, 1)));
    }
}
