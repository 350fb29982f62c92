//! Collects the content of one transaction: events, from memory or from disk, and EDUs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use ruma::{
    OwnedTransactionId, OwnedUserId, api::federation::transactions::edu::Edu,
    canonical_json::CanonicalJsonObject, serde::Raw,
};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{
    FederationSenderInner,
    destination::{Destination, ReceiptKey, UnsentEvents},
    edus,
    recent_events::NextEvents,
};
use crate::{
    devices::OutgoingListUpdates,
    error::{Error, Result},
    matrix::check_depth,
    rooms::OutgoingEvent,
    storage::{Position, Receipt, RoomNum},
};

/// The largest number of events in a transaction, by the specification.
pub(super) const MAX_PDUS: usize = 50;
/// The number of events that a server receives one by one after it was away, from one room and from all rooms. Beyond
/// that it receives only the newest of each room, and can request the events in between.
const MAX_MISSED_PER_ROOM: usize = 50;
const MAX_MISSED_EVENTS: usize = 400;
/// The number of pages of a room's timeline that are searched for events that a server has missed.
const MAX_TIMELINE_PAGES: usize = 4;

/// The greatest depth of an event or EDU in a transaction. The signing code parses 127 levels, some of which are used
/// by the transaction itself. All events that are accepted today are less deep.
const MAX_SENT_DEPTH: usize = 120;

/// The content of one transaction.
#[derive(Default)]
pub(super) struct TransactionBatch {
    pub(super) pdus: Vec<Arc<OutgoingEvent>>,
    pub(super) edus: Vec<Raw<Edu>>,
    /// For each room, the position up to which the server has all events after this transaction.
    pub(super) complete_up_to: BTreeMap<RoomNum, Position>,
    /// The position up to which the server has all to-device messages after this transaction.
    pub(super) messages_up_to: Option<Position>,
    /// The device list updates in the transaction.
    pub(super) device_list_updates: Vec<OutgoingListUpdates>,
    pub(super) receipts: Vec<(ReceiptKey, Arc<Receipt>)>,
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

impl FederationSenderInner {
    /// Collects the next batch for a server.
    ///
    /// EDUs that exist only in memory are removed from the queue, and put back if the transaction fails.
    pub(super) async fn gather_batch(&self, destination: &Destination) -> Result<TransactionBatch> {
        let found = self.gather_pdus(destination).await?;
        let mut batch = TransactionBatch {
            pdus: found.events,
            complete_up_to: found.complete_up_to,
            announces_restart: destination.lock().announces_restart,
            ..TransactionBatch::default()
        };
        if let Err(error) = edus::gather_edus(self, destination, &mut batch).await {
            destination.lock().restore_batch(batch);
            return Err(error);
        }
        Ok(batch)
    }

    async fn gather_pdus(&self, destination: &Destination) -> Result<NextEvents> {
        let (unsent, catches_up) = {
            let state = destination.lock();
            (state.unsent.clone(), state.is_catching_up)
        };
        if unsent.is_empty() {
            return Ok(NextEvents::default());
        }
        if !catches_up {
            let log = self.recent_events.read();
            let log = log.unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(found) = log.find_unsent(&destination.server, &unsent, MAX_PDUS) {
                return Ok(found);
            }
        }
        let most = if catches_up {
            Some((MAX_MISSED_EVENTS / unsent.len()).clamp(1, MAX_MISSED_PER_ROOM))
        } else {
            None
        };
        let mut rooms: Vec<(RoomNum, UnsentEvents)> = unsent.into_iter().collect();
        rooms.sort_unstable_by_key(|(_, unsent)| unsent.first);
        let mut found = NextEvents::default();
        for (room, unsent) in rooms {
            let left = MAX_PDUS.saturating_sub(found.events.len());
            if left == 0 {
                break;
            }
            let of_room = self.gather_room_pdus(destination, (room, unsent), most, left);
            let (events, through) = match of_room.await {
                // The room was deleted.
                Err(Error::NotFound(_)) => (Vec::new(), unsent.last),
                of_room => of_room?,
            };
            found.events.extend(events.into_iter().map(Arc::new));
            found.complete_up_to.insert(room, through);
        }
        Ok(found)
    }

    /// Returns the next events of a room for a server, and the position up to which they are complete. If the server
    /// missed more than `most` events, these are only the newest. A server that has left the room gets all remaining
    /// events: they are about its own users, and no later event would replace them.
    async fn gather_room_pdus(
        &self,
        destination: &Destination,
        (room, unsent): (RoomNum, UnsentEvents),
        most: Option<usize>,
        left: usize,
    ) -> Result<(Vec<OutgoingEvent>, Position)> {
        let server = &destination.server;
        let most = match most {
            Some(most) if self.rooms.federation.has_server(room, server).await? => Some(most),
            _ => None,
        };
        let enough = most.map_or(left, |most| most.max(left));
        let (mut events, mut next, mut pages) = (Vec::new(), Some(unsent.first), 0);
        while let Some(from) = next
            && events.len() <= enough
            && pages < MAX_TIMELINE_PAGES
        {
            let page = self
                .rooms
                .federation
                .outgoing_room_events(room, from, server)
                .await?;
            events.extend(page.events);
            next = page.next.filter(|next| *next <= unsent.last);
            pages += 1;
        }
        // Events that were added since then have their own turn.
        events.retain(|event| event.position <= unsent.last);
        let is_too_much = |most| events.len() > most || (next.is_some() && events.len() <= enough);
        if most.is_some_and(is_too_much) {
            let missed = unsent.first..=unsent.last;
            let mut newest = self
                .rooms
                .federation
                .newest_outgoing_events(room, missed, server)
                .await?;
            if newest.len() > left && left < MAX_PDUS {
                // They are sent together, in the next transaction.
                return Ok((Vec::new(), unsent.first - 1));
            }
            newest.truncate(left);
            if !newest.is_empty() {
                return Ok((newest, unsent.last));
            }
        }
        let is_cut = events.len() > left;
        events.truncate(left);
        let through = match (is_cut, next) {
            (true, _) => events.last().map_or(unsent.last, |event| event.position),
            // The position up to which the timeline was searched.
            (false, Some(next)) => next - 1,
            (false, None) => unsent.last,
        };
        Ok((events, through))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(ids: &[&str], edus: &[&str]) -> TransactionBatch {
        let pdu = |id: &&str| {
            Arc::new(OutgoingEvent {
                position: 1,
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
        assert_ne!(id(&[], &["1"]), id(&[], &["1"]), "somebody types again");
    }
}
