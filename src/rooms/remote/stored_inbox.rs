//! Stores events of other servers that this server has acknowledged but cannot process yet, because
//! other events are missing. They survive a restart.

use std::sync::Arc;

use ruma::{OwnedServerName, ServerName};
use serde_json::value::RawValue;

use super::EventReceiver;
use crate::{
    error::{Error, Result},
    numbers::{Position, RoomNum},
    storage::rooms::queued_events::{self, QueuedEventRow},
};

/// The largest number of events in one page.
const EVENTS_PER_PAGE: i64 = 50;

/// An event that waits to be processed.
#[derive(Debug)]
pub struct QueuedEvent {
    /// Its position among the waiting events.
    pub position: Position,
    pub room: RoomNum,
    pub origin: OwnedServerName,
    /// The event as it was received.
    pub json: Box<RawValue>,
}

impl EventReceiver {
    /// Stores waiting events and returns their positions.
    pub async fn store_queued_events(
        &self,
        origin: &ServerName,
        events: &[(RoomNum, Arc<RawValue>)],
    ) -> Result<Vec<Position>> {
        let mut tx = self.db.write().await?;
        let mut positions = Vec::new();
        for (room, json) in events {
            let row = QueuedEventRow {
                position: tx.next_position(),
                room: *room,
                origin: origin.to_string(),
                json: json.get().to_owned(),
            };
            queued_events::insert(&mut tx, &row).await?;
            positions.push(row.position);
        }
        tx.commit().await?;
        Ok(positions)
    }

    /// Removes events that no longer wait.
    pub async fn remove_queued_events(&self, positions: &[Position]) -> Result<()> {
        if positions.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.write().await?;
        queued_events::remove(&mut tx, positions).await?;
        tx.commit().await
    }

    /// Returns a page of the events that wait after a position, the oldest first.
    pub async fn load_queued_events(&self, after: Position) -> Result<Vec<QueuedEvent>> {
        let rows = {
            let mut conn = self.db.read().await?;
            queued_events::after_position(&mut conn, after, EVENTS_PER_PAGE).await?
        };
        let arrived = |row: QueuedEventRow| {
            let origin = OwnedServerName::try_from(row.origin)
                .map_err(|source| Error::internal("read the name of a server", source))?;
            Ok(QueuedEvent {
                position: row.position,
                room: row.room,
                origin,
                json: RawValue::from_string(row.json)?,
            })
        };
        rows.into_iter().map(arrived).collect()
    }
}
