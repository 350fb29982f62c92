//! Reads the sticky events of this server's users for servers that may lack them.
//!
//! See [MSC4354](https://github.com/matrix-org/matrix-spec-proposals/pull/4354).

use std::collections::HashMap;

use ruma::ServerName;
use serde_json::value::RawValue;

use super::{FederationReader, outgoing::OutgoingEvent};
use crate::{
    error::Result,
    numbers::{Position, RoomNum},
    rooms::memory::sticky_index::ShownStickyEvent,
    storage::rooms::sticky_events,
};

/// Sticky events of this server's users.
#[derive(Debug, Default)]
pub struct OutgoingStickyPage {
    /// The events, the oldest first.
    pub events: Vec<OutgoingEvent>,
    /// The position up to which these are all; `None` if there are no more.
    pub up_to: Option<Position>,
}

impl FederationReader {
    /// Returns whether users of this server have sent sticky events to a room.
    pub fn has_own_sticky_events(&self, room: RoomNum) -> bool {
        !self.own_sticky_events(room).is_empty()
    }

    /// Returns sticky events of this server's users in a room after a position, at most `limit`, for a server in that
    /// room. There are none for another server.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::NotFound`] when the room was deleted.
    pub async fn outgoing_sticky_events(
        &self,
        room: RoomNum,
        after: Position,
        limit: usize,
        server: &ServerName,
    ) -> Result<OutgoingStickyPage> {
        let mut page = OutgoingStickyPage::default();
        let mut wanted = self.own_sticky_events(room);
        wanted.retain(|shown| shown.position > after);
        if wanted.is_empty() || !self.has_server(room, server).await? {
            return Ok(page);
        }
        if wanted.len() > limit {
            wanted.truncate(limit);
            page.up_to = wanted.last().map(|last| last.position);
        }
        let rows = {
            let mut conn = self.db.read().await?;
            let ids = wanted.iter().map(|shown| &shown.event.event_id);
            sticky_events::accepted_events(&mut conn, ids).await?
        };
        let rows = rows.into_iter().map(|row| (row.event_id, row.json));
        let mut events: HashMap<String, String> = rows.collect();
        for shown in wanted {
            let event_id = &shown.event.event_id;
            if let Some(json) = events.remove(event_id.as_str()) {
                page.events.push(OutgoingEvent {
                    position: shown.position,
                    room,
                    event_id: event_id.clone(),
                    json: RawValue::from_string(json)?,
                    servers: vec![server.to_owned()],
                });
            }
        }
        Ok(page)
    }

    fn own_sticky_events(&self, room: RoomNum) -> Vec<ShownStickyEvent> {
        let now_ms = self.clock.now_ms();
        let mut events = self.sticky_events.shown_in_room(room, now_ms);
        events.retain(|shown| self.memory.is_local(&shown.event.sender));
        events
    }
}
