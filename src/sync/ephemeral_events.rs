//! Typing notifications and receipts, as a response contains them.

use std::sync::Arc;

use ruma::{RoomId, events::AnySyncEphemeralRoomEvent, serde::Raw};
use serde_json::{Value, json, value::to_raw_value};

use super::{snapshot::RoomContents, sync_viewer::SyncViewer};
use crate::{matrix::wants_room_data, rooms, storage::Receipt, users::Session};

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
    let visible = receipts
        .iter()
        .filter(|receipt| receipt.kind == "m.read" || receipt.user_id == session.user_id);
    rooms::receipt_content(visible)
}
