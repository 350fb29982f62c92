//! Sticky events, which clients receive regardless of their place in the timeline.
//!
//! "History visibility checks MUST NOT be applied to sticky events. Any joined user is authorised to see sticky events for
//! the duration they remain sticky."
//!
//! See [MSC4354](https://github.com/matrix-org/matrix-spec-proposals/pull/4354).

use std::{collections::HashMap, sync::Arc};

use ruma::events::room::member::MembershipState;

use super::StickyEventReader;
use crate::{
    error::{Error, Result},
    matrix::{Pdu, TimelineEvent},
    numbers::{Position, PositionRange, UserNum},
    rooms::{
        UserRooms,
        memory::{
            sticky_index::ShownStickyEvent,
            stored_events::{event_from_row, parse_event_id},
        },
    },
    storage::rooms::sticky_events,
};

/// The time between two removals.
const REMOVAL_INTERVAL_MS: i64 = 60_000;

/// Sticky events that a client has not received.
#[derive(Debug, Default)]
pub struct StickyEventPage {
    /// The events, the oldest first.
    pub events: Vec<ShownStickyEvent>,
    /// The position up to which these are all.
    pub up_to: Position,
}

impl StickyEventReader {
    /// Returns the sticky events in the rooms that a user has joined, which clients are sent from a position in a range
    /// on, at most `limit`; and all sticky events of rooms that the user joined in that range.
    pub async fn find_events(
        &self,
        user: UserNum,
        range: PositionRange,
        limit: usize,
    ) -> Result<StickyEventPage> {
        let now_ms = self.clock.now_ms();
        if self.index.is_empty() {
            return Ok(StickyEventPage {
                events: Vec::new(),
                up_to: range.up_to,
            });
        }
        let user_rooms = self.memory.rooms_of_user(user).await?;
        let mut events = self.index.shown_between(range, now_ms);
        events.retain(|shown| {
            let membership = user_rooms.membership(shown.event.room);
            membership == MembershipState::Join
        });
        let up_to = match events.get(limit) {
            Some(_) => {
                events.truncate(limit);
                events.last().map_or(range.up_to, |last| last.position)
            }
            None => range.up_to,
        };
        events.extend(self.older_events_of_new_rooms(&user_rooms, range.after, now_ms));
        events.sort_by_key(|shown| shown.position);
        Ok(StickyEventPage { events, up_to })
    }

    /// Returns the events up to a position in rooms that the user joined after it.
    fn older_events_of_new_rooms(
        &self,
        user_rooms: &UserRooms,
        after: Position,
        now_ms: i64,
    ) -> Vec<ShownStickyEvent> {
        let is_new = |room: &&_| {
            let user_room = user_rooms.get(**room);
            user_room.is_some_and(|user_room| user_room.position > after)
        };
        let joined = user_rooms.joined_rooms();
        let new_rooms = joined.iter().filter(is_new);
        new_rooms
            .flat_map(|room| self.index.shown_in_room(*room, now_ms))
            .filter(|shown| shown.position <= after)
            .collect()
    }

    /// Loads sticky events. Those that were redacted meanwhile are left out.
    pub async fn load_events(
        &self,
        events: &[ShownStickyEvent],
    ) -> Result<Vec<Arc<TimelineEvent>>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let rows = {
            let mut conn = self.db.read().await?;
            let ids = events.iter().map(|shown| &shown.event.event_id);
            sticky_events::accepted_events(&mut conn, ids).await?
        };
        let mut loaded = HashMap::with_capacity(rows.len());
        for row in rows {
            let room = match self.memory.room_by_number(row.room).await {
                // The room was deleted.
                Err(Error::NotFound(_)) => continue,
                room => room?,
            };
            let pdu = Pdu::parse(parse_event_id(&row.event_id)?, &row.json)?;
            if pdu.sticky.is_some() {
                let event = event_from_row(row, Arc::new(pdu), &room.rules);
                loaded.insert(event.pdu.event_id.clone(), Arc::new(event));
            }
        }
        let in_order = events.iter();
        Ok(in_order
            .filter_map(|shown| loaded.remove(&shown.event.event_id))
            .collect())
    }

    /// Starts the task that removes events which are no longer sticky.
    pub fn start_removal_task(&self) {
        let service = self.clone();
        self.timetable.run_when_due(
            "remove sticky events",
            &self.clock,
            &self.tasks,
            move || service.clone().remove_expired(),
        );
    }

    /// Removes events that are no longer sticky. Returns the time when to do so again.
    async fn remove_expired(self) -> Result<Option<i64>> {
        let now_ms = self.clock.now_ms();
        let next = {
            let mut conn = self.db.read().await?;
            sticky_events::next_expiry(&mut conn).await?
        };
        let Some(next) = next.filter(|next| *next <= now_ms) else {
            return Ok(next);
        };
        tracing::trace!(next, "removing sticky events that have expired");
        let mut tx = self.db.write().await?;
        sticky_events::remove_expired(&mut tx, now_ms).await?;
        tx.commit().await?;
        self.index.remove_expired(now_ms);
        // Many events expire one after another. They are no longer sent, so they can be removed together.
        Ok(Some(now_ms + REMOVAL_INTERVAL_MS))
    }
}
