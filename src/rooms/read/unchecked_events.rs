//! Loading several events of a timeline at once.

use std::{collections::HashMap, sync::Arc};

use super::Timeline;
use crate::{
    error::Result,
    matrix::TimelineEvent,
    numbers::Position,
    rooms::{TimelineSelection, memory::room::Room},
    storage::rooms::events,
};

impl Timeline {
    /// Returns the events at these places in the timeline of a room, without checking that a user may see them.
    pub(crate) async fn load_events_at(
        &self,
        room: &Room,
        places: &[Position],
    ) -> Result<HashMap<Position, Arc<TimelineEvent>>> {
        let rows = {
            let mut conn = self.db.read().await?;
            events::at_places(&mut conn, room.num, places).await?
        };
        let mut found = HashMap::with_capacity(rows.len());
        for row in rows {
            found.insert(row.timeline, self.load_event_from_row(room, row).await?);
        }
        Ok(found)
    }

    /// Returns those events at these places that are in a selection, the newest first.
    pub(crate) async fn load_selected_events_at(
        &self,
        selection: TimelineSelection<'_>,
        places: &[Position],
    ) -> Result<Vec<Arc<TimelineEvent>>> {
        let TimelineSelection {
            room,
            access,
            wanted,
        } = selection;
        let events = self.load_events_at(room, places).await?;
        let mut selected: Vec<Arc<TimelineEvent>> = events
            .into_values()
            .filter(|event| access.may_see(event) && !access.hides_event(&event.pdu))
            .filter(|event| wanted(&event.pdu))
            .map(|event| access.redact_if_erased(event, &room.rules))
            .collect();
        selected.sort_unstable_by_key(|event| std::cmp::Reverse(event.timeline));
        Ok(selected)
    }

    /// Returns the events with these ids in the timeline of a room, without checking that a user may see them.
    pub(crate) async fn load_events_by_id(
        &self,
        room: &Room,
        ids: impl IntoIterator<Item = &String>,
    ) -> Result<HashMap<String, Arc<TimelineEvent>>> {
        let rows = {
            let mut conn = self.db.read().await?;
            events::of_room_with_ids(&mut conn, room.num, ids).await?
        };
        let mut found = HashMap::with_capacity(rows.len());
        for row in rows {
            found.insert(
                row.event_id.clone(),
                self.load_event_from_row(room, row).await?,
            );
        }
        Ok(found)
    }
}
