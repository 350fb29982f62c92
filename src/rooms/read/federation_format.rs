//! Events in the federation format, for clients that ask for it.

use std::collections::HashMap;

use ruma::{EventId, OwnedEventId};

use super::Timeline;
use crate::{error::Result, storage::rooms::events};

/// The number of events that are read in one query.
const EVENTS_PER_QUERY: usize = 100;

/// The stored JSON of events, by event id.
#[derive(Debug, Default)]
pub struct EventSources {
    by_id: HashMap<OwnedEventId, String>,
}

impl EventSources {
    /// Returns the JSON of an event.
    pub fn get(&self, event_id: &EventId) -> Option<&str> {
        self.by_id.get(event_id).map(String::as_str)
    }
}

impl Timeline {
    /// Returns the JSON of events. The caller must have checked that the user may see them.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn load_event_sources(&self, ids: &[&EventId]) -> Result<EventSources> {
        let mut by_id = HashMap::new();
        for chunk in ids.chunks(EVENTS_PER_QUERY) {
            let mut conn = self.db.read().await?;
            let rows = events::by_ids(&mut conn, chunk.iter().map(|id| id.as_str())).await?;
            by_id.extend(rows.into_iter().filter_map(|row| {
                let event_id = OwnedEventId::try_from(row.event_id).ok()?;
                Some((event_id, row.json))
            }));
        }
        Ok(EventSources { by_id })
    }
}
