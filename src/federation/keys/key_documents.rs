//! The key lists of servers, as they were published and stored.

use std::collections::BTreeSet;

use ruma::{ServerName, canonical_json::CanonicalJsonObject};

use crate::{
    error::Result,
    matrix::ServerKeys,
    numbers::StringNum,
    storage::{
        WriteTx,
        federation::server_keys::{self, KeyDocumentRow, ServerKeyRow},
    },
};

/// A key list as a server published it.
pub(crate) struct KeyDocument {
    pub(crate) object: CanonicalJsonObject,
    key_ids: BTreeSet<String>,
    valid_until_ts: i64,
}

impl KeyDocument {
    /// Reads a stored list.
    pub(crate) fn parse(row: &KeyDocumentRow) -> Result<Self> {
        let object: CanonicalJsonObject = serde_json::from_str(&row.document)?;
        let lists = ["verify_keys", "old_verify_keys"].into_iter();
        let lists = lists.filter_map(|list| object.get(list)?.as_object());
        let key_ids = lists.flat_map(|list| list.keys().cloned()).collect();
        Ok(Self {
            object,
            key_ids,
            valid_until_ts: row.valid_until_ts,
        })
    }

    /// Returns the lists that contain wanted keys, the newest first: for each key the newest list. If no keys are
    /// named, or none of them is known, the newest list is returned.
    pub(crate) fn choose_documents(stored: Vec<Self>, key_ids: &BTreeSet<String>) -> Vec<Self> {
        let mut wanted = key_ids.clone();
        let is_any_known = stored.iter().any(|list| !list.key_ids.is_disjoint(&wanted));
        if !is_any_known {
            return stored.into_iter().take(1).collect();
        }
        let mut chosen = Vec::new();
        for list in stored {
            let before = wanted.len();
            wanted.retain(|key_id| !list.key_ids.contains(key_id));
            if wanted.len() < before {
                chosen.push(list);
            }
        }
        chosen
    }

    /// Returns whether the lists contain all wanted keys, and are valid until a time.
    pub(crate) fn are_sufficient(
        chosen: &[Self],
        key_ids: &BTreeSet<String>,
        valid_until_ms: i64,
    ) -> bool {
        let has = |key_id: &String| chosen.iter().any(|list| list.key_ids.contains(key_id));
        let is_valid = |list: &Self| list.valid_until_ts >= valid_until_ms;
        !chosen.is_empty() && key_ids.iter().all(has) && chosen.iter().all(is_valid)
    }
}

/// Keeps the list that a new one is about to replace, if it contains a key that the new one does not.
async fn keep_former_document(
    tx: &mut WriteTx,
    server: StringNum,
    new: &KeyDocumentRow,
) -> Result<()> {
    let Some(former) = server_keys::latest_document(tx, server).await? else {
        return Ok(());
    };
    let (before, after) = (KeyDocument::parse(&former)?, KeyDocument::parse(new)?);
    if before.key_ids.is_subset(&after.key_ids) {
        return Ok(());
    }
    server_keys::keep_former_document(tx, server, &former).await
}

/// Stores the keys of a server, and the list that contains them.
pub(crate) async fn store_keys(
    tx: &mut WriteTx,
    server: &ServerName,
    keys: &ServerKeys,
    document: &str,
) -> Result<()> {
    let num = tx.intern(server.as_str()).await?;
    for (key_id, known) in &keys.keys {
        let row = ServerKeyRow {
            key_id: key_id.clone(),
            public_key: known.key.encode(),
            valid_until_ts: known.valid_until_ts,
        };
        server_keys::set_key(tx, num, &row).await?;
    }
    server_keys::delete_surplus_keys(tx, num).await?;
    let row = KeyDocumentRow {
        document: document.to_owned(),
        valid_until_ts: keys.valid_until_ts,
    };
    keep_former_document(tx, num, &row).await?;
    server_keys::set_document(tx, num, &row).await
}
