//! Events of other servers that were answered for, and wait for what they lack: they outlive the server's run.

use std::sync::Arc;

use ruma::{OwnedServerName, ServerName};
use serde_json::value::RawValue;

use super::EventReceiver;
use crate::{
    error::{Error, Result},
    storage::{
        Position, RoomNum,
        rooms::queued_events::{self, ArrivedRow},
    },
};

/// Events read at once.
const PAGE: i64 = 50;

/// An event that waits.
#[derive(Debug)]
pub struct Arrived {
    /// Its place among those that wait.
    pub position: Position,
    /// The room.
    pub room: RoomNum,
    /// The server that sent it.
    pub origin: OwnedServerName,
    /// The event as it came.
    pub json: Box<RawValue>,
}

impl EventReceiver {
    /// Keeps events that wait; returns their places.
    pub async fn keep_arrived(
        &self,
        origin: &ServerName,
        events: &[(RoomNum, Arc<RawValue>)],
    ) -> Result<Vec<Position>> {
        let mut tx = self.db.write().await?;
        let mut positions = Vec::new();
        for (room, json) in events {
            let row = ArrivedRow {
                position: tx.position(),
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

    /// Forgets events that wait no more.
    pub async fn forget_arrived(&self, positions: &[Position]) -> Result<()> {
        if positions.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.write().await?;
        queued_events::remove(&mut tx, positions).await?;
        tx.commit().await
    }

    /// Returns some of the events that wait after a place, the oldest first.
    pub async fn arrived(&self, after: Position) -> Result<Vec<Arrived>> {
        let rows = {
            let mut conn = self.db.read().await?;
            queued_events::after(&mut conn, after, PAGE).await?
        };
        let arrived = |row: ArrivedRow| {
            let origin = OwnedServerName::try_from(row.origin)
                .map_err(|source| Error::internal("read the name of a server", source))?;
            Ok(Arrived {
                position: row.position,
                room: row.room,
                origin,
                json: RawValue::from_string(row.json)?,
            })
        };
        rows.into_iter().map(arrived).collect()
    }
}
