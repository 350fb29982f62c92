//! Finds out which events of a room are already stored, for the code that fetches missing events.

use std::collections::HashSet;

use ruma::OwnedEventId;

use super::EventReceiver;
use crate::{error::Result, rooms::memory::room::Room, storage::rooms::event_graph};

/// The number of ids in one query.
const IDS_PER_QUERY: usize = 500;

impl EventReceiver {
    /// Returns those of the ids whose events are not stored.
    pub async fn unknown_events(&self, ids: &[OwnedEventId]) -> Result<Vec<OwnedEventId>> {
        let mut known: HashSet<String> = HashSet::with_capacity(ids.len());
        for chunk in ids.chunks(IDS_PER_QUERY) {
            let mut conn = self.db.read().await?;
            let rows =
                event_graph::positions(&mut conn, chunk.iter().map(|id| id.as_str())).await?;
            known.extend(rows.into_iter().map(|row| row.event_id));
        }
        let unknown = ids.iter().filter(|id| !known.contains(id.as_str()));
        Ok(unknown.cloned().collect())
    }

    /// Returns the ids of those of the events that are stored in a room with the state after them.
    pub async fn events_with_state(
        &self,
        room: &Room,
        ids: &[OwnedEventId],
    ) -> Result<HashSet<OwnedEventId>> {
        let mut placed: HashSet<String> = HashSet::new();
        for chunk in ids.chunks(IDS_PER_QUERY) {
            let mut conn = self.db.read().await?;
            let nodes =
                event_graph::find_nodes(&mut conn, chunk.iter().map(|id| id.as_str())).await?;
            let nodes = nodes
                .into_iter()
                .filter(|node| node.room == room.num && node.state_after.is_some());
            placed.extend(nodes.map(|node| node.event_id));
        }
        let is_placed = |id: &&OwnedEventId| placed.contains(id.as_str());
        Ok(ids.iter().filter(is_placed).cloned().collect())
    }
}
