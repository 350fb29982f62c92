//! Finding the event closest to a timestamp.

use ruma::{OwnedEventId, api::Direction};

use super::Timeline;
use crate::{
    error::{Error, Result},
    numbers::{Position, RoomNum},
    rooms::{
        UserAccess,
        memory::{room::Room, stored_events::parse_event_id},
    },
    storage::rooms::events::{self, DatedEventRow, TimeOrderPoint},
};

/// The number of events that are read in one query.
const EVENTS_PER_QUERY: i64 = 100;
/// The most events that are read. All of them may be hidden from the user.
const MAX_READ_EVENTS: usize = 2_000;

impl Timeline {
    /// Returns the event closest to a timestamp in the given direction, with its own timestamp.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none that the user may see.
    pub async fn find_event_at_time(
        &self,
        room: &Room,
        access: &UserAccess,
        ts: i64,
        dir: Direction,
    ) -> Result<(OwnedEventId, i64)> {
        let mut from = match dir {
            Direction::Forward => TimeOrderPoint {
                ts,
                place: Position::MIN,
            },
            Direction::Backward => TimeOrderPoint {
                ts,
                place: Position::MAX,
            },
        };
        let mut looked_at = 0;
        let none = || {
            Error::not_found(
                "there is no event on that side of the timestamp, or you may not see it",
            )
        };
        while looked_at < MAX_READ_EVENTS {
            let rows = self.load_rows_by_time(room.num, from, dir).await?;
            let Some(last) = rows.last() else {
                return Err(none());
            };
            from = TimeOrderPoint {
                ts: last.origin_server_ts,
                place: last.timeline,
            };
            looked_at += rows.len();
            let visible = rows
                .into_iter()
                .find(|row| access.may_see_at(row.visibility, row.timeline));
            if let Some(row) = visible {
                return Ok((parse_event_id(&row.event_id)?, row.origin_server_ts));
            }
        }
        Err(none())
    }

    async fn load_rows_by_time(
        &self,
        room: RoomNum,
        from: TimeOrderPoint,
        dir: Direction,
    ) -> Result<Vec<DatedEventRow>> {
        let mut conn = self.db.read().await?;
        match dir {
            Direction::Forward => events::made_after(&mut conn, room, from, EVENTS_PER_QUERY).await,
            Direction::Backward => {
                events::made_before(&mut conn, room, from, EVENTS_PER_QUERY).await
            }
        }
    }
}
