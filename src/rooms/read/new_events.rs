//! Reading the new events of all rooms, for services that handle each event once.

use std::sync::Arc;

use super::Timeline;
use crate::{
    error::{Error, Result},
    matrix::TimelineEvent,
    numbers::{Position, PositionRange},
    rooms::memory::room::Room,
    storage::rooms::events,
};

/// The most events on a page.
const EVENTS_PER_PAGE: i64 = 200;

/// An event that was added to the timeline of a room.
#[derive(Clone)]
pub struct NewEvent {
    pub room: Arc<Room>,
    pub event: Arc<TimelineEvent>,
}

/// New events, in the order in which they were added.
#[derive(Clone)]
pub struct NewEventPage {
    pub events: Vec<NewEvent>,
    /// The position up to which the page has every event.
    pub up_to: Position,
}

impl Timeline {
    /// Returns the first of the events that were added to any room in a range of positions, without those of fetched
    /// history and of deleted rooms.
    pub async fn load_new_events(&self, range: PositionRange) -> Result<NewEventPage> {
        let rows = {
            let mut conn = self.db.read().await?;
            events::added_between(&mut conn, range, EVENTS_PER_PAGE).await?
        };
        let is_last = i64::try_from(rows.len()).unwrap_or(0) < EVENTS_PER_PAGE;
        let last = rows.last().map(|row| row.position);
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            let room = match self.memory.room_by_number(row.room).await {
                Ok(room) => room,
                Err(Error::NotFound(_)) => continue,
                Err(error) => return Err(error),
            };
            let event = self.load_event_from_row(&room, row).await?;
            events.push(NewEvent { room, event });
        }
        Ok(NewEventPage {
            events,
            up_to: last.filter(|_| !is_last).unwrap_or(range.up_to),
        })
    }

    /// Returns the event at a place in the timeline of a room, without checking that a user may see it.
    pub async fn load_event_at(
        &self,
        room: &Room,
        place: Position,
    ) -> Result<Option<Arc<TimelineEvent>>> {
        Ok(self.load_events_at(room, &[place]).await?.remove(&place))
    }
}
