//! Keys that others can claim: one-time keys, each of which is given out once, and fallback keys for when none is left.

use std::collections::BTreeMap;

use sqlx::AssertSqlSafe;

use crate::{
    error::Result,
    numbers::{DeviceNum, Position},
    storage::{KeyCounts, ReadAccess, WriteTx, number_list, text_list, values_clause},
};

/// The number of rows that one statement inserts.
const ROWS_PER_STATEMENT: usize = 64;

/// A one-time or fallback key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow<'a> {
    pub algorithm: &'a str,
    /// The key id, without the algorithm.
    pub key_id: &'a str,
    /// The key, as JSON.
    pub key: &'a str,
}

/// A stored one-time key.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct StoredOneTimeKey {
    pub algorithm: String,
    /// The key id, without the algorithm.
    pub key_id: String,
    /// The key, as JSON.
    pub key: String,
    /// Whether it was given out.
    pub claimed: bool,
}

/// Returns the one-time keys of a device that have one of these ids, with any algorithm.
pub async fn keys_with_ids(
    db: &mut impl ReadAccess,
    device: DeviceNum,
    key_ids: &[&str],
) -> Result<Vec<StoredOneTimeKey>> {
    db.query(
        "SELECT algorithm, key_id, key, claimed
         FROM one_time_keys
         WHERE device = $1 AND key_id IN (SELECT value FROM json_each($2))",
    )
    .bind(device)
    .bind(text_list(key_ids))
    .fetch_all()
    .await
}

/// A one-time key to be stored.
#[derive(Clone, Debug)]
pub struct NewOneTimeKey<'a> {
    /// The position that decides the order in which keys are claimed.
    pub position: Position,
    pub row: KeyRow<'a>,
}

/// Stores one-time keys, each at its position. A claimed key may be replaced by a new one with the same id.
pub async fn insert(tx: &mut WriteTx, device: DeviceNum, keys: &[NewOneTimeKey<'_>]) -> Result<()> {
    for chunk in keys.chunks(ROWS_PER_STATEMENT) {
        let sql = format!(
            "INSERT INTO one_time_keys (position, device, algorithm, key_id, key, claimed) {}
             ON CONFLICT (device, algorithm, key_id) DO UPDATE
             SET position = excluded.position, key = excluded.key, claimed = excluded.claimed",
            values_clause(chunk.len(), 6)
        );
        let mut query = tx.query(AssertSqlSafe(sql));
        for NewOneTimeKey { position, row } in chunk {
            query = query
                .bind(*position)
                .bind(device)
                .bind(row.algorithm)
                .bind(row.key_id)
                .bind(row.key)
                .bind(false);
        }
        query.execute().await?;
    }
    Ok(())
}

/// A key that was given out.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ClaimedKey {
    pub device: DeviceNum,
    /// The key id, without the algorithm.
    pub key_id: String,
    /// The key, as JSON.
    pub key: String,
}

/// Claims the oldest one-time key of each of these devices.
pub async fn claim(
    tx: &mut WriteTx,
    devices: &[DeviceNum],
    algorithm: &str,
) -> Result<Vec<ClaimedKey>> {
    tx.query(
        "UPDATE one_time_keys
         SET claimed = TRUE
         WHERE position IN (
             SELECT MIN(position) FROM one_time_keys
             WHERE device IN (SELECT CAST(value AS BIGINT) FROM json_each($1))
               AND NOT claimed AND algorithm = $2
             GROUP BY device)
         RETURNING device, key_id, key",
    )
    .bind(number_list(devices.iter().copied()))
    .bind(algorithm)
    .fetch_all()
    .await
}

/// Deletes the claimed keys of a device, except the latest.
pub async fn delete_claimed(tx: &mut WriteTx, device: DeviceNum, kept: i64) -> Result<()> {
    tx.query(
        "DELETE FROM one_time_keys
         WHERE device = $1 AND claimed AND position <= (
             SELECT position FROM one_time_keys
             WHERE device = $1 AND claimed
             ORDER BY position DESC
             LIMIT 1 OFFSET $2)",
    )
    .bind(device)
    .bind(kept)
    .execute()
    .await?;
    Ok(())
}

/// A stored fallback key.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct StoredFallbackKey {
    pub algorithm: String,
    /// The key id, without the algorithm.
    pub key_id: String,
    /// The key, as JSON.
    pub key: String,
}

/// Returns the fallback keys of a device.
pub async fn fallback_keys(
    db: &mut impl ReadAccess,
    device: DeviceNum,
) -> Result<Vec<StoredFallbackKey>> {
    db.query("SELECT algorithm, key_id, key FROM fallback_keys WHERE device = $1")
        .bind(device)
        .fetch_all()
        .await
}

/// Stores an unused fallback key in place of the one with the same algorithm.
pub async fn set_fallback(tx: &mut WriteTx, device: DeviceNum, row: &KeyRow<'_>) -> Result<()> {
    tx.query(
        "INSERT INTO fallback_keys (device, algorithm, key_id, key, used)
         VALUES ($1, $2, $3, $4, FALSE)
         ON CONFLICT (device, algorithm) DO UPDATE
         SET key_id = excluded.key_id, key = excluded.key, used = FALSE",
    )
    .bind(device)
    .bind(row.algorithm)
    .bind(row.key_id)
    .bind(row.key)
    .execute()
    .await?;
    Ok(())
}

/// Returns the fallback keys of these devices for an algorithm, and marks them as used.
pub async fn claim_fallback(
    tx: &mut WriteTx,
    devices: &[DeviceNum],
    algorithm: &str,
) -> Result<Vec<ClaimedKey>> {
    tx.query(
        "UPDATE fallback_keys
         SET used = TRUE
         WHERE device IN (SELECT CAST(value AS BIGINT) FROM json_each($1)) AND algorithm = $2
         RETURNING device, key_id, key",
    )
    .bind(number_list(devices.iter().copied()))
    .bind(algorithm)
    .fetch_all()
    .await
}

/// Returns the number of remaining keys of each of these devices.
pub async fn counts(
    db: &mut impl ReadAccess,
    devices: &[DeviceNum],
) -> Result<BTreeMap<DeviceNum, KeyCounts>> {
    let devices_list = number_list(devices.iter().copied());
    let mut counts: BTreeMap<DeviceNum, KeyCounts> = devices
        .iter()
        .map(|device| (*device, KeyCounts::default()))
        .collect();
    let one_time: Vec<(DeviceNum, String, i64)> = db
        .query(
            "SELECT device, algorithm, COUNT(*)
             FROM one_time_keys
             WHERE device IN (SELECT CAST(value AS BIGINT) FROM json_each($1)) AND NOT claimed
             GROUP BY device, algorithm
             ORDER BY device, algorithm",
        )
        .bind(devices_list.clone())
        .fetch_all()
        .await?;
    let unused_fallback: Vec<(DeviceNum, String)> = db
        .query(
            "SELECT device, algorithm
             FROM fallback_keys
             WHERE device IN (SELECT CAST(value AS BIGINT) FROM json_each($1)) AND NOT used
             ORDER BY device, algorithm",
        )
        .bind(devices_list)
        .fetch_all()
        .await?;
    for (device, algorithm, count) in one_time {
        let of_device = counts.entry(device).or_default();
        of_device.one_time.push((algorithm, count));
    }
    for (device, algorithm) in unused_fallback {
        let of_device = counts.entry(device).or_default();
        of_device.unused_fallback.push(algorithm);
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        numbers::UserNum,
        storage::{devices::device_table, testing::TestDb},
    };

    fn key<'a>(key_id: &'a str, key: &'a str) -> KeyRow<'a> {
        KeyRow {
            algorithm: "a",
            key_id,
            key,
        }
    }

    fn new_key<'a>(position: i64, key_id: &'a str, json: &'a str) -> NewOneTimeKey<'a> {
        NewOneTimeKey {
            position: Position::new(position),
            row: key(key_id, json),
        }
    }

    fn claimed_key(device: DeviceNum, key_id: &str, json: &str) -> ClaimedKey {
        ClaimedKey {
            device,
            key_id: key_id.to_owned(),
            key: json.to_owned(),
        }
    }

    async fn remaining_counts(tx: &mut WriteTx, device: DeviceNum) -> KeyCounts {
        let mut counts = counts(tx, &[device]).await.unwrap();
        counts.remove(&device).unwrap()
    }

    #[tokio::test]
    async fn keys_are_claimed_once_in_the_order_of_upload() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let device = device_table::upsert(&mut tx, UserNum::new(1), "A", None, 1)
            .await
            .unwrap();
        let keys = [new_key(8, "z", "1"), new_key(9, "b", "2")];
        insert(&mut tx, device, &keys).await.unwrap();

        assert_eq!(
            remaining_counts(&mut tx, device).await.one_time,
            [("a".to_owned(), 2)]
        );
        let mut claimed = Vec::new();
        while let Some(key) = claim(&mut tx, &[device], "a").await.unwrap().pop() {
            claimed.push(key.key_id);
        }

        assert_eq!(claimed, ["z", "b"]);
        assert!(remaining_counts(&mut tx, device).await.one_time.is_empty());
        let known_keys = keys_with_ids(&mut tx, device, &["b", "c"]).await.unwrap();
        assert_eq!(known_keys.len(), 1);
        assert!(known_keys[0].claimed);
        delete_claimed(&mut tx, device, 1).await.unwrap();
        assert!(
            keys_with_ids(&mut tx, device, &["z"])
                .await
                .unwrap()
                .is_empty()
        );
        assert_eq!(
            keys_with_ids(&mut tx, device, &["b"]).await.unwrap().len(),
            1
        );
        insert(&mut tx, device, &[new_key(10, "b", "3")])
            .await
            .unwrap();
        let again = claim(&mut tx, &[device], "a").await.unwrap();
        assert_eq!(again, [claimed_key(device, "b", "3")]);
    }

    #[tokio::test]
    async fn a_fallback_key_is_claimed_repeatedly() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let device = device_table::upsert(&mut tx, UserNum::new(1), "A", None, 1)
            .await
            .unwrap();

        set_fallback(&mut tx, device, &key("f", "1")).await.unwrap();
        assert_eq!(
            remaining_counts(&mut tx, device).await.unused_fallback,
            ["a"]
        );
        for _ in 0..2 {
            let used = claim_fallback(&mut tx, &[device, DeviceNum::new(99)], "a")
                .await
                .unwrap();
            assert_eq!(used, [claimed_key(device, "f", "1")]);
        }
        assert!(
            remaining_counts(&mut tx, device)
                .await
                .unused_fallback
                .is_empty()
        );
        set_fallback(&mut tx, device, &key("g", "2")).await.unwrap();
        assert_eq!(fallback_keys(&mut tx, device).await.unwrap()[0].key_id, "g");
        assert_eq!(
            remaining_counts(&mut tx, device).await.unused_fallback,
            ["a"]
        );
    }
}
