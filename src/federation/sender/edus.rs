//! Collects EDUs: to-device messages, device list updates, presence, receipts and typing.
//!
//! [EDUs](https://spec.matrix.org/v1.19/server-server-api/#edus)

use std::{collections::BTreeMap, sync::Arc};

use ruma::{
    OwnedRoomId, OwnedUserId, UInt,
    api::federation::transactions::edu::{
        Edu, PresenceContent, PresenceUpdate, ReceiptContent, ReceiptData, ReceiptMap,
        TypingContent,
    },
    events::receipt::{Receipt as ReceiptInfo, ReceiptThread},
    serde::Raw,
};

use super::{
    FederationSenderInner,
    destination::{Destination, DestinationState},
    transaction_batch::{QueuedReceipt, ReceiptKey, TransactionBatch},
};
use crate::{clock::timestamp, error::Result, numbers::Position, storage::Receipt};

/// The largest number of EDUs in a transaction, by the specification.
const MAX_EDUS: usize = 100;
/// The largest number of to-device messages in a transaction, and roughly their largest total size.
const MAX_TO_DEVICE_MESSAGES: i64 = 40;
const MAX_TO_DEVICE_BYTES: usize = 1024 * 1024;
/// The largest number of device list EDUs in a transaction.
const MAX_DEVICE_LISTS: usize = 40;
/// The largest number of users whose presence is in one transaction.
const MAX_PRESENCE_USERS: usize = 100;
/// The largest number of receipt EDUs in a transaction.
const MAX_RECEIPT_EDUS: usize = 5;

/// Adds the waiting EDUs to a batch.
pub(super) async fn gather_edus(
    inner: &FederationSenderInner,
    destination: &Destination,
    batch: &mut TransactionBatch,
) -> Result<()> {
    gather_messages(inner, destination, batch).await?;
    gather_device_lists(inner, destination, batch).await?;
    gather_presence(inner, destination, batch).await?;
    let (receipts, typing) = {
        let mut state = destination.lock();
        let receipts = take_receipts(&mut state.receipts);
        let left = MAX_EDUS.saturating_sub(batch.edus.len() + MAX_RECEIPT_EDUS);
        let mut typing = std::mem::take(&mut state.typing);
        while typing.len() > left {
            let last = typing.pop_last();
            state.typing.extend(last);
        }
        (receipts, typing)
    };
    batch.receipts = receipts;
    for content in write_receipts(&batch.receipts) {
        batch.edus.push(Raw::new(&Edu::Receipt(content))?);
    }
    for ((room_id, user_id), is) in typing {
        let content = TypingContent::new(room_id, user_id, is);
        batch.edus.push(Raw::new(&Edu::Typing(content))?);
    }
    Ok(())
}

async fn gather_messages(
    inner: &FederationSenderInner,
    destination: &Destination,
    batch: &mut TransactionBatch,
) -> Result<()> {
    // Messages that arrive after this line set the flag again.
    if !std::mem::take(&mut destination.lock().has_messages) {
        return Ok(());
    }
    batch.messages_up_to = Some(Position::ZERO);
    let server = &destination.server;
    let now = inner.clock.now_ms();
    let messages = inner
        .devices
        .outgoing
        .messages(server, now, MAX_TO_DEVICE_MESSAGES + 1);
    let messages = messages.await?;
    let (mut up_to, mut bytes) = (None, 0);
    let mut is_more = false;
    for (count, message) in (0..).zip(messages) {
        bytes += message.edu.json().get().len();
        if count == MAX_TO_DEVICE_MESSAGES || (count > 0 && bytes > MAX_TO_DEVICE_BYTES) {
            is_more = true;
            break;
        }
        batch.edus.push(message.edu);
        up_to = Some(message.position);
    }
    batch.messages_up_to = up_to;
    destination.lock().has_messages |= is_more;
    Ok(())
}

async fn gather_device_lists(
    inner: &FederationSenderInner,
    destination: &Destination,
    batch: &mut TransactionBatch,
) -> Result<()> {
    if !std::mem::take(&mut destination.lock().has_device_lists) {
        return Ok(());
    }
    let updates = inner
        .devices
        .outgoing
        .list_updates(&destination.server, MAX_DEVICE_LISTS)
        .await;
    let updates = match updates {
        Ok(updates) => updates,
        Err(error) => {
            destination.lock().has_device_lists = true;
            return Err(error);
        }
    };
    for update in &updates {
        batch.edus.extend(update.edus.iter().cloned());
    }
    // Whether there are more is only known when these have been recorded as sent.
    destination.lock().has_device_lists |= !updates.is_empty();
    batch.device_list_updates = updates;
    Ok(())
}

async fn gather_presence(
    inner: &FederationSenderInner,
    destination: &Destination,
    batch: &mut TransactionBatch,
) -> Result<()> {
    let taken = take_presence(&mut destination.lock(), batch);
    let mut push = Vec::new();
    for user_id in &taken {
        let user = inner.rooms.memory.user_number(user_id).await?;
        let event = user.and_then(|user| inner.ephemeral.presence.presence_event(user));
        let Some(event) = event else {
            continue;
        };
        let content = event.content;
        let last_active = content.last_active_ago.unwrap_or(UInt::MIN);
        let mut update = PresenceUpdate::new(event.sender, content.presence, last_active);
        update.status_msg = content.status_msg;
        update.currently_active = content.currently_active.unwrap_or_default();
        push.push(update);
    }
    if !push.is_empty() {
        let content = PresenceContent::new(push);
        batch.edus.push(Raw::new(&Edu::Presence(content))?);
    }
    Ok(())
}

/// Takes users whose presence goes into one transaction. They are put into the batch before anything can fail, so that
/// they are put back after a failure.
fn take_presence(state: &mut DestinationState, batch: &mut TransactionBatch) -> Vec<OwnedUserId> {
    let all = std::iter::from_fn(|| state.presence.pop_first());
    let taken: Vec<OwnedUserId> = all.take(MAX_PRESENCE_USERS).collect();
    batch.presence = taken.iter().cloned().collect();
    taken
}

/// Takes receipts that fit into the EDUs of one transaction. Each EDU can have one receipt per user and room.
fn take_receipts(waiting: &mut BTreeMap<ReceiptKey, Arc<Receipt>>) -> Vec<QueuedReceipt> {
    let mut of_user = BTreeMap::<(OwnedRoomId, OwnedUserId), usize>::new();
    let mut taken = Vec::new();
    let mut left = BTreeMap::new();
    for (key, receipt) in std::mem::take(waiting) {
        let user_in_room = (key.room_id.clone(), key.user_id.clone());
        let count = of_user.entry(user_in_room).or_default();
        *count += 1;
        if *count <= MAX_RECEIPT_EDUS {
            taken.push(QueuedReceipt { key, receipt });
        } else {
            left.insert(key, receipt);
        }
    }
    *waiting = left;
    taken
}

/// Writes receipts into EDUs, each with at most one receipt per user and room.
fn write_receipts(receipts: &[QueuedReceipt]) -> Vec<ReceiptContent> {
    let mut contents: Vec<ReceiptContent> = Vec::new();
    for QueuedReceipt { key, receipt } in receipts {
        let ReceiptKey {
            room_id,
            user_id,
            thread,
        } = key;
        let mut info = ReceiptInfo::new(timestamp(receipt.ts));
        let thread = Some(&**thread).filter(|thread| !thread.is_empty());
        info.thread = ReceiptThread::try_from(thread).unwrap_or_default();
        let data = ReceiptData::new(info, vec![receipt.event_id.clone()]);
        let is_free = |content: &&mut ReceiptContent| {
            let of_room = content.receipts.get(room_id);
            of_room.is_none_or(|of_room| !of_room.read.contains_key(user_id))
        };
        if contents.iter_mut().find(is_free).is_none() {
            contents.push(ReceiptContent::new(BTreeMap::new()));
        }
        if let Some(content) = contents.iter_mut().find(is_free) {
            let of_room = content.receipts.entry(room_id.clone());
            let of_room = of_room.or_insert_with(|| ReceiptMap::new(BTreeMap::new()));
            of_room.read.insert(user_id.clone(), data);
        }
    }
    contents
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn receipt(thread: &str, event_id: &str) -> (ReceiptKey, Arc<Receipt>) {
        let user_id = ruma::owned_user_id!("@u:a");
        let receipt = Receipt {
            user_id: user_id.clone(),
            kind: "m.read".to_owned(),
            thread: thread.to_owned(),
            event_id: event_id.try_into().expect("an id"),
            ts: 5,
            position: Position::new(1),
        };
        let key = ReceiptKey {
            room_id: ruma::owned_room_id!("!r:a"),
            user_id,
            thread: thread.to_owned(),
        };
        (key, receipt.into())
    }

    #[test]
    fn receipts_of_one_user_for_several_threads_go_into_several_edus() {
        let mut waiting: BTreeMap<_, _> = [receipt("", "$a"), receipt("main", "$b")].into();

        let taken = take_receipts(&mut waiting);
        let contents = write_receipts(&taken);

        assert!(waiting.is_empty());
        let written = serde_json::to_value(&contents[1]).expect("JSON");
        let of_user = json!({ "data": { "ts": 5, "thread_id": "main" }, "event_ids": ["$b"] });
        assert_eq!(
            written,
            json!({ "!r:a": { "m.read": { "@u:a": of_user } } })
        );
        assert_eq!(contents.len(), 2);
    }

    #[test]
    fn presence_of_a_failed_batch_is_queued_again() {
        let mut state = DestinationState::default();
        for n in 0..=MAX_PRESENCE_USERS {
            let user_id = format!("@u{n}:a").try_into().expect("an id");
            state.queue_presence(&user_id);
        }
        let mut batch = TransactionBatch::default();

        let taken = take_presence(&mut state, &mut batch);
        assert_eq!((taken.len(), state.presence.len()), (MAX_PRESENCE_USERS, 1));
        state.restore_batch(batch);

        assert_eq!(state.presence.len(), MAX_PRESENCE_USERS + 1);
    }

    #[test]
    fn taken_receipts_fit_into_one_transaction() {
        let all = (0..MAX_RECEIPT_EDUS + 3).map(|n| receipt(&format!("$thread{n}"), "$a"));
        let mut waiting: BTreeMap<_, _> = all.collect();

        let taken = take_receipts(&mut waiting);

        assert_eq!((taken.len(), waiting.len()), (MAX_RECEIPT_EDUS, 3));
        assert_eq!(write_receipts(&taken).len(), MAX_RECEIPT_EDUS);
    }
}
