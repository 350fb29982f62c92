//! The places in timelines at which a user may have been notified.
//!
//! Personal notifications are stored for each user. The events that notify all members of a room are those at which a
//! running counter of the room grew. Where it did not grow for long, the last event at which it did is found by a
//! bisection.

use super::UnreadCounts;
use crate::{
    error::Result,
    matrix::RoomCounter,
    numbers::{Position, PositionRange, RoomNum, UserNum},
    storage::{
        ReadAccess,
        rooms::{
            personal_notifications::{self, PersonalNotificationRow},
            running_counters,
        },
    },
};

/// The number of events, and of personal notifications, that are read at a time.
const EVENTS_PER_PAGE: usize = 32;
const PERSONAL_NOTIFICATIONS_PER_PAGE: i64 = 32;
/// The distance in the timeline over which the bisection goes back first, and the factor by which it grows.
const FIRST_STEP: i64 = 64;
const STEP_GROWTH: i64 = 4;

/// The place of an event in the timeline of its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventPlace {
    pub timeline: Position,
    pub room: RoomNum,
}

/// The places at which a counter grew, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrowthPage {
    pub places: Vec<Position>,
    /// The place from which to continue; `None` on the last page.
    pub next_from: Option<Position>,
    /// The number of events that were read.
    pub read_events: usize,
}

/// A counter whose growth is looked for in a part of a room's timeline.
struct CounterSearch<'a, D> {
    db: &'a mut D,
    room: RoomNum,
    counter: RoomCounter,
    read_events: usize,
}

/// The value of a counter at an event.
#[derive(Clone, Copy)]
struct CounterValue {
    place: Position,
    count: i64,
}

impl From<PersonalNotificationRow> for EventPlace {
    fn from(row: PersonalNotificationRow) -> Self {
        Self {
            timeline: row.timeline,
            room: row.room,
        }
    }
}

impl UnreadCounts {
    /// Returns events that notified a user in person, up to a place of the timelines, the newest first.
    pub async fn personal_notifications(
        &self,
        user: UserNum,
        up_to: Position,
    ) -> Result<Vec<EventPlace>> {
        let mut conn = self.db.read().await?;
        let limit = PERSONAL_NOTIFICATIONS_PER_PAGE;
        let rows = personal_notifications::up_to_place(&mut conn, user, up_to, limit).await?;
        Ok(rows.into_iter().map(EventPlace::from).collect())
    }

    /// Like [`UnreadCounts::personal_notifications`], but only those with a highlight.
    pub async fn personal_highlights(
        &self,
        user: UserNum,
        up_to: Position,
    ) -> Result<Vec<EventPlace>> {
        let mut conn = self.db.read().await?;
        let limit = PERSONAL_NOTIFICATIONS_PER_PAGE;
        let rows =
            personal_notifications::highlights_up_to_place(&mut conn, user, up_to, limit).await?;
        Ok(rows.into_iter().map(EventPlace::from).collect())
    }

    /// Returns the position after which personal notifications are stored.
    pub async fn first_personal_notifications_after(&self) -> Result<Position> {
        let mut conn = self.db.read().await?;
        personal_notifications::start_position(&mut conn).await
    }

    /// Returns the newest event of each room up to a place of the timelines.
    pub async fn newest_places(
        &self,
        rooms: &[RoomNum],
        up_to: Position,
    ) -> Result<Vec<EventPlace>> {
        let mut conn = self.db.read().await?;
        let rows = running_counters::newest_places(&mut conn, rooms, up_to).await?;
        let places = rows.into_iter().filter_map(|row| {
            Some(EventPlace {
                timeline: row.timeline?,
                room: row.room,
            })
        });
        Ok(places.collect())
    }

    /// Returns the newest places in a part of a room's timeline at which a counter grew. The oldest place of that part
    /// may be among them although the counter did not grow there.
    pub async fn places_of_growth(
        &self,
        room: RoomNum,
        counter: RoomCounter,
        range: PositionRange,
    ) -> Result<GrowthPage> {
        let mut conn = self.db.read().await?;
        let mut search = CounterSearch {
            db: &mut conn,
            room,
            counter,
            read_events: 0,
        };
        let mut page = search.find_page(range).await?;
        page.read_events = search.read_events;
        Ok(page)
    }
}

impl<D: ReadAccess> CounterSearch<'_, D> {
    async fn find_page(&mut self, range: PositionRange) -> Result<GrowthPage> {
        let mut values = self.read_values(range, EVENTS_PER_PAGE + 1).await?;
        let mut page = GrowthPage::default();
        let Some(last) = values.last().copied() else {
            return Ok(page);
        };
        if values.len() > EVENTS_PER_PAGE {
            page.next_from = Some(last.place);
        } else {
            // The value before the last event is unknown.
            values.push(CounterValue {
                place: range.after,
                count: 0,
            });
        }
        for (newer, older) in values.iter().zip(values.iter().skip(1)) {
            if newer.count > older.count {
                page.places.push(newer.place);
            }
        }
        if page.places.is_empty() && page.next_from.is_some() {
            return self.find_growth_to(last, range.after).await;
        }
        Ok(page)
    }

    /// Finds the event at which the counter reached the value that it has at a later event.
    async fn find_growth_to(&mut self, later: CounterValue, after: Position) -> Result<GrowthPage> {
        let up_to = later.place;
        let oldest = self.oldest_value(PositionRange { after, up_to }).await?;
        let Some(oldest) = oldest.filter(|_| later.count > 0) else {
            return Ok(GrowthPage::default());
        };
        if oldest.count >= later.count {
            return Ok(GrowthPage {
                places: vec![oldest.place],
                ..GrowthPage::default()
            });
        }
        let mut low = oldest.place;
        let mut high = up_to;
        let mut step = FIRST_STEP;
        while low.next() < high {
            let middle = Position::new(low.as_i64().midpoint(high.as_i64()));
            let probe = high.plus(-step).max(middle);
            step = step.saturating_mul(STEP_GROWTH);
            let range = PositionRange {
                after: low,
                up_to: probe,
            };
            match self.read_values(range, 1).await?.first() {
                Some(found) if found.count >= later.count => high = found.place,
                // Up to here, the counter is smaller. Now the distance is known, and is halved each time.
                _ => {
                    low = probe;
                    step = i64::MAX;
                }
            }
        }
        Ok(GrowthPage {
            places: vec![high],
            next_from: Some(high.previous()),
            ..GrowthPage::default()
        })
    }

    async fn read_values(
        &mut self,
        range: PositionRange,
        limit: usize,
    ) -> Result<Vec<CounterValue>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = running_counters::in_range(self.db, self.room, range, limit).await?;
        self.read_events += rows.len().max(1);
        let values = rows.iter().map(|row| CounterValue {
            place: row.timeline,
            count: self.counter.of(row.counters()),
        });
        Ok(values.collect())
    }

    async fn oldest_value(&mut self, range: PositionRange) -> Result<Option<CounterValue>> {
        let row = running_counters::oldest_in_range(self.db, self.room, range).await?;
        self.read_events += 1;
        Ok(row.map(|row| CounterValue {
            place: row.timeline,
            count: self.counter.of(row.counters()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{
        matrix::NotificationCounters,
        numbers::{SnapshotId, StringNum},
        storage::{
            WriteTx,
            rooms::events::{self, EventStatus, NewEventRow},
            testing::TestDb,
        },
    };

    const ROOM: RoomNum = RoomNum::new(7);

    /// Stores an event after which the room's counters have these values; `None` for fetched history.
    async fn store_event(tx: &mut WriteTx, place: i64, counters: Option<NotificationCounters>) {
        let event_id = format!("${place}");
        let values = counters.unwrap_or_default();
        let row = NewEventRow {
            position: Position::new(place),
            room: ROOM,
            event_id: &event_id,
            timeline: Some(Position::new(place)),
            kind: StringNum::new(1),
            state_key: None,
            sender: UserNum::new(1),
            state: Some(SnapshotId::new(1)),
            state_after: None,
            backfilled: counters.is_none(),
            goes_out: false,
            withheld: false,
            visibility: 0,
            status: EventStatus::Accepted,
            notified: values.notified,
            mentioned: values.mentioned,
            threaded_counters: NotificationCounters::default(),
            thread: None,
            origin_server_ts: 0,
            transaction: None,
            json: "{}",
        };
        assert!(events::insert(tx, &row).await.unwrap());
    }

    async fn places_of_growth(
        tx: &mut WriteTx,
        counter: RoomCounter,
        range: PositionRange,
    ) -> GrowthPage {
        let mut search = CounterSearch {
            db: tx,
            room: ROOM,
            counter,
            read_events: 0,
        };
        let mut page = search.find_page(range).await.unwrap();
        page.read_events = search.read_events;
        page
    }

    async fn all_places(
        tx: &mut WriteTx,
        counter: RoomCounter,
        mut range: PositionRange,
    ) -> Vec<i64> {
        let mut found = Vec::new();
        loop {
            let page = places_of_growth(tx, counter, range).await;
            found.extend(page.places.iter().map(|place| place.as_i64()));
            match page.next_from {
                Some(next) => range.up_to = next,
                None => return found,
            }
        }
    }

    #[tokio::test]
    async fn an_event_before_very_many_that_do_not_count_is_found_at_once() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let mut counters = NotificationCounters::default();
        for place in 1..=5_000 {
            counters.notified += i64::from(place == 17);
            store_event(&mut tx, place * 3, Some(counters)).await;
        }
        let range = PositionRange {
            after: Position::ZERO,
            up_to: Position::MAX,
        };

        let found = places_of_growth(&mut tx, RoomCounter::Notified, range).await;
        let mentions = places_of_growth(&mut tx, RoomCounter::Mentioned, range).await;

        assert_eq!(found.places, [Position::new(17 * 3)]);
        assert!(found.read_events < 80, "{}", found.read_events);
        assert_eq!(mentions.places, []);
        assert_eq!(mentions.next_from, None);
    }

    /// The places of a timeline at which its counters grew.
    #[derive(Default)]
    struct RandomTimeline {
        end: i64,
        counters: NotificationCounters,
        notified: Vec<i64>,
        mentioned: Vec<i64>,
    }

    impl RandomTimeline {
        /// Stores events, of which this share notifies.
        async fn store(tx: &mut WriteTx, random: &mut StdRng, share: f64) -> Self {
            let mut timeline = Self::default();
            for _ in 0..400 {
                timeline.end += random.random_range(1..100);
                let is_history = random.random_bool(0.2);
                let counters = (!is_history).then(|| timeline.grow(random, share));
                store_event(tx, timeline.end, counters).await;
            }
            timeline
        }

        fn grow(&mut self, random: &mut StdRng, share: f64) -> NotificationCounters {
            let notifies = random.random_bool(share);
            let mentions = notifies && random.random_bool(0.1);
            self.counters.notified += i64::from(notifies);
            self.counters.mentioned += i64::from(mentions);
            self.notified.extend(notifies.then_some(self.end));
            self.mentioned.extend(mentions.then_some(self.end));
            self.counters
        }
    }

    /// Checks that these places were found. The oldest place may be one at which the counter did not grow.
    fn check_found(mut found: Vec<i64>, grown: &[i64], range: PositionRange) {
        let range = range.after.as_i64() + 1..=range.up_to.as_i64();
        let mut expected: Vec<i64> = grown.to_vec();
        expected.retain(|place| range.contains(place));
        expected.reverse();
        if found.len() > expected.len() {
            found.pop();
        }
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn every_growth_is_found_in_any_timeline() {
        for seed in 0..32 {
            let mut random = StdRng::seed_from_u64(seed);
            let test = TestDb::new().await;
            let mut tx = test.db.write().await.unwrap();
            let share = random.random_range(0.0_f64..1.0).powi(4);
            let timeline = RandomTimeline::store(&mut tx, &mut random, share).await;
            let range = PositionRange {
                after: Position::new(random.random_range(0..timeline.end)),
                up_to: Position::new(timeline.end - 100),
            };

            let notified = all_places(&mut tx, RoomCounter::Notified, range).await;
            let mentioned = all_places(&mut tx, RoomCounter::Mentioned, range).await;

            check_found(notified, &timeline.notified, range);
            check_found(mentioned, &timeline.mentioned, range);
        }
    }
}
