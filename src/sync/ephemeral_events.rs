//! Typing notifications and receipts, as a response contains them.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{
    RoomId,
    events::{AnySyncEphemeralRoomEvent, receipt::ReceiptThread},
    serde::Raw,
};
use serde_json::{Value, json, value::to_raw_value};

use super::{snapshot::RoomContents, sync_viewer::SyncViewer};
use crate::{matrix::wants_room_data, storage::Receipt, users::Session};

/// Returns the typing notification and the receipts of a room that the viewer wants.
pub(super) fn ephemeral_events(
    viewer: &SyncViewer<'_>,
    contents: &RoomContents,
    room_id: &RoomId,
) -> Vec<Raw<AnySyncEphemeralRoomEvent>> {
    let filter = &viewer.request.filter.room.ephemeral;
    let mut events = Vec::new();
    if let Some(typing) = &contents.typing
        && wants_room_data(filter, room_id, "m.typing")
        // In an initial sync, only a list that is not empty is worth sending.
        && (viewer.request.since.is_some() || !typing.is_empty())
    {
        events.push(json!({ "type": "m.typing", "content": { "user_ids": typing } }));
    }
    if wants_room_data(filter, room_id, "m.receipt")
        && let Some(content) = receipt_content(viewer.session, &contents.receipts)
    {
        events.push(json!({ "type": "m.receipt", "content": content }));
    }
    events
        .iter()
        .filter_map(|event| to_raw_value(event).ok())
        .map(Raw::from_json)
        .collect()
}

/// Returns the content of `m.receipt`. Private receipts are sent only to their owner.
pub(super) fn receipt_content(session: &Session, receipts: &[Arc<Receipt>]) -> Option<Value> {
    let is_visible =
        |receipt: &&Arc<Receipt>| receipt.kind == "m.read" || receipt.user_id == session.user_id;
    let mut content: BTreeMap<String, BTreeMap<String, BTreeMap<String, Value>>> = BTreeMap::new();
    for receipt in receipts.iter().filter(is_visible) {
        let mut data = json!({ "ts": receipt.ts });
        if let (Some(fields), Some(thread)) = (data.as_object_mut(), thread_id(&receipt.thread)) {
            fields.insert("thread_id".to_owned(), thread.into());
        }
        let by_kind = content.entry(receipt.event_id.to_string()).or_default();
        let by_user = by_kind.entry(receipt.kind.clone()).or_default();
        // An event has only one receipt of a user; an unthreaded one has precedence: MSC4102.
        let known = by_user.get(receipt.user_id.as_str());
        if known.is_none_or(|known| known.get("thread_id").is_some()) {
            by_user.insert(receipt.user_id.to_string(), data);
        }
    }
    (!content.is_empty()).then(|| json!(content))
}

fn thread_id(thread: &str) -> Option<String> {
    let thread = match thread {
        "" => ReceiptThread::Unthreaded,
        other => ReceiptThread::try_from(Some(other)).ok()?,
    };
    thread.as_str().map(ToOwned::to_owned)
}
