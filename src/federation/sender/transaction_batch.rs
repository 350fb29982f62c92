//! The content of one transaction.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use ruma::{
    OwnedRoomId, OwnedTransactionId, OwnedUserId, api::federation::transactions::edu::Edu,
    canonical_json::CanonicalJsonObject, serde::Raw,
};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{
    devices::OutgoingListUpdates,
    matrix::check_depth,
    numbers::{Position, RoomNum},
    rooms::OutgoingEvent,
    storage::Receipt,
};

/// The greatest depth of an event or EDU in a transaction. The signing code parses 127 levels, some of which are used
/// by the transaction itself. All events that are accepted today are less deep.
const MAX_SENT_DEPTH: usize = 120;

/// The receipt of a user in one thread of a room.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ReceiptKey {
    pub(super) room_id: OwnedRoomId,
    pub(super) user_id: OwnedUserId,
    pub(super) thread: String,
}

/// A receipt that is sent to a server.
#[derive(Clone, Debug)]
pub(super) struct QueuedReceipt {
    pub(super) key: ReceiptKey,
    pub(super) receipt: Arc<Receipt>,
}

/// The unsent events of a room: positions of its timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnsentEvents {
    pub(super) first: Position,
    pub(super) last: Position,
}

/// The sticky events of a room in a transaction: all after a position, up to another.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentStickyEvents {
    pub(super) room: RoomNum,
    pub(super) after: Position,
    /// `None` if there are no more.
    pub(super) up_to: Option<Position>,
}

/// The content of one transaction.
#[derive(Default)]
pub(super) struct TransactionBatch {
    pub(super) pdus: Vec<Arc<OutgoingEvent>>,
    pub(super) edus: Vec<Raw<Edu>>,
    /// For each room, the position up to which the server has all events after this transaction.
    pub(super) complete_up_to: BTreeMap<RoomNum, Position>,
    /// The sticky events that are sent although they are not new.
    pub(super) sticky_events: Option<SentStickyEvents>,
    /// The position up to which the server has all to-device messages after this transaction.
    pub(super) messages_up_to: Option<Position>,
    /// The device list updates in the transaction.
    pub(super) device_list_updates: Vec<OutgoingListUpdates>,
    pub(super) receipts: Vec<QueuedReceipt>,
    pub(super) presence: BTreeSet<OwnedUserId>,
    /// Whether the transaction is sent even if it is empty.
    pub(super) announces_restart: bool,
}

impl TransactionBatch {
    /// Returns whether there is nothing to send. The progress may still have to be recorded.
    pub(super) fn is_empty(&self) -> bool {
        self.pdus.is_empty() && self.edus.is_empty() && !self.announces_restart
    }

    /// Removes events and EDUs that cannot be written into a signed request. They count as sent. Returns the id of each
    /// removed event and the type of each removed EDU.
    pub(super) fn remove_unwritable(&mut self) -> Vec<String> {
        let mut removed = Vec::new();
        self.pdus.retain(|pdu| {
            let keep = is_writable(&pdu.json);
            if !keep {
                removed.push(pdu.event_id.to_string());
            }
            keep
        });
        self.edus.retain(|edu| {
            let keep = is_writable(edu.json());
            if !keep {
                let kind = edu.get_field::<String>("edu_type").ok().flatten();
                removed.push(kind.unwrap_or_default());
            }
            keep
        });
        removed
    }

    /// Returns the transaction id.
    ///
    /// A batch with events or to-device messages gets the same id on every attempt, even after a restart. It is never
    /// sent again after it was accepted, so no two transactions share an id. Other batches get a random id.
    pub(super) fn transaction_id(&self) -> OwnedTransactionId {
        let mut hash = Sha256::new();
        for pdu in &self.pdus {
            hash.update(pdu.event_id.as_bytes());
            hash.update([0]);
        }
        for edu in &self.edus {
            hash.update(edu.json().get());
            hash.update([0]);
        }
        if self.pdus.is_empty() && self.messages_up_to.is_none() {
            hash.update(rand::random::<u128>().to_be_bytes());
        }
        let digest = hash.finalize();
        let id: String = digest.iter().take(16).fold(String::new(), |mut id, byte| {
            // Writing to a string cannot fail.
            let _ = write!(id, "{byte:02x}");
            id
        });
        id.into()
    }
}

/// Returns whether JSON can be part of a signed request.
fn is_writable(json: &RawValue) -> bool {
    check_depth(json.get(), MAX_SENT_DEPTH).is_ok()
        && serde_json::from_str::<CanonicalJsonObject>(json.get()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(ids: &[&str], edus: &[&str]) -> TransactionBatch {
        let pdu = |id: &&str| {
            Arc::new(OutgoingEvent {
                position: Position::new(1),
                room: RoomNum::new(1),
                event_id: (*id).try_into().expect("an id"),
                json: RawValue::from_string("{}".to_owned()).expect("JSON"),
                servers: Vec::new(),
            })
        };
        let edu = |edu: &&str| Raw::from_json_string((*edu).to_owned()).expect("JSON");
        TransactionBatch {
            pdus: ids.iter().map(pdu).collect(),
            edus: edus.iter().map(edu).collect(),
            ..TransactionBatch::default()
        }
    }

    #[test]
    fn items_that_cannot_be_signed_are_removed() {
        let deep = format!(
            r#"{{"edu_type":"org.deep","content":{}{}}}"#,
            "[".repeat(200),
            "]".repeat(200)
        );
        let fraction = r#"{"edu_type":"org.fraction","content":{"x":0.5}}"#;
        let fine = r#"{"edu_type":"org.fine","content":{}}"#;
        let mut batch = batch(&["$a"], &[fine, &deep, fraction, fine]);

        let removed = batch.remove_unwritable();

        assert_eq!(removed, ["org.deep", "org.fraction"]);
        assert_eq!((batch.pdus.len(), batch.edus.len()), (1, 2));
    }

    #[test]
    fn equal_batches_of_events_have_equal_transaction_ids() {
        let id = |ids: &[&str], edus: &[&str]| batch(ids, edus).transaction_id();

        assert_eq!(id(&["$a", "$b"], &["1"]), id(&["$a", "$b"], &["1"]));
        assert_ne!(id(&["$a", "$b"], &["1"]), id(&["$a"], &["1"]));
        assert_ne!(id(&["$a"], &["1"]), id(&["$a"], &["2"]));
        assert_ne!(id(&[], &["1"]), id(&[], &["1"]), "someone types again");
    }
}
