//! The events that may have notified a user, of all rooms, the newest first.
//!
//! These are the events that notified the user in person, which are stored, and those that notify all members, in the
//! rooms where the user's rules allow this. Of the time before personal notifications were stored, all events of the rooms
//! are examined.

use std::{
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::Arc,
};

use ruma::{
    api::Direction,
    events::{StateEventType, room::member::MembershipState},
};

use super::{NotificationRecipient, NotificationSelection};
use crate::{
    error::Result,
    matrix::{Pdu, RoomCounter, RoomFacts, RoomPushRules, TimelineEvent},
    numbers::{Position, PositionRange, RoomNum},
    rooms::{EventPlace, PageRequest, Room, Rooms, TimelineSelection, UserAccess},
};

/// The number of events of a room that are read at a time, where all are examined.
const EVENTS_PER_PAGE: usize = 32;

/// A room whose events are examined.
pub(super) struct ExaminedRoom {
    pub(super) room: Arc<Room>,
    pub(super) access: UserAccess,
    pub(super) facts: RoomFacts,
    /// The user's display name in the room.
    pub(super) display_name: String,
}

/// An event that may have notified the user.
pub(super) struct FoundEvent {
    pub(super) room: Arc<ExaminedRoom>,
    pub(super) event: Arc<TimelineEvent>,
}

/// The events of all rooms of a user that may have notified the user.
pub(super) struct NotificationFeed<'a> {
    rooms: &'a Rooms,
    recipient: &'a NotificationRecipient<'a>,
    /// The place of the timelines after which personal notifications are stored.
    stored_after: Position,
    cursors: BinaryHeap<FeedCursor>,
    /// The next personal notifications, the newest first.
    personal: VecDeque<EventPlace>,
    room_events: HashMap<RoomNum, RoomEvents>,
    examined_rooms: HashMap<RoomNum, Arc<ExaminedRoom>>,
    examined_events: usize,
}

/// The next point at which a source may have an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FeedCursor {
    place: EventPlace,
    source: EventSource,
}

/// A source of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum EventSource {
    /// The stored personal notifications.
    Personal,
    /// The events of a room that notify all members.
    Room,
}

/// The events of a room that may notify all members, from the newest back.
struct RoomEvents {
    /// The counter that grows with them; `None` if they do not notify the user.
    counter: Option<RoomCounter>,
    /// The next events, the newest first.
    events: VecDeque<Arc<TimelineEvent>>,
    /// The point from which to read more events.
    next_from: Option<Position>,
}

impl<'a> NotificationFeed<'a> {
    /// Opens the feed from a place of the timelines back.
    pub(super) async fn open(
        rooms: &'a Rooms,
        recipient: &'a NotificationRecipient<'a>,
        from: Position,
    ) -> Result<Self> {
        let joined = recipient.user_rooms.joined_rooms();
        let newest = rooms.unread.newest_places(&joined, from).await?;
        let cursors = newest.into_iter().map(|place| FeedCursor {
            place,
            source: EventSource::Room,
        });
        let mut feed = Self {
            rooms,
            recipient,
            stored_after: rooms.unread.first_personal_notifications_after().await?,
            cursors: cursors.collect(),
            personal: VecDeque::new(),
            room_events: HashMap::new(),
            examined_rooms: HashMap::new(),
            examined_events: 0,
        };
        feed.read_personal_notifications(from).await?;
        Ok(feed)
    }

    /// Returns the place at which the feed continues.
    pub(super) fn next_place(&self) -> Option<Position> {
        self.cursors.peek().map(|cursor| cursor.place.timeline)
    }

    /// Returns the number of events that were examined.
    pub(super) fn examined_events(&self) -> usize {
        self.examined_events
    }

    /// Moves to the next place, and returns the event there if it may have notified the user.
    pub(super) async fn next_event(&mut self) -> Result<Option<FoundEvent>> {
        let Some(place) = self.cursors.peek().map(|cursor| cursor.place) else {
            return Ok(None);
        };
        let mut found = None;
        // An event can be both a personal notification and one of its room.
        while let Some(cursor) = self.pop_cursor(place) {
            let event = match cursor.source {
                EventSource::Personal => self.next_personal_notification(place).await?,
                EventSource::Room => self.next_room_event(place).await?,
            };
            found = found.or(event);
        }
        let Some(event) = found else {
            return Ok(None);
        };
        let room = self.examined_room(place.room).await?;
        Ok(Some(FoundEvent { room, event }))
    }

    fn pop_cursor(&mut self, place: EventPlace) -> Option<FeedCursor> {
        let is_next = self.cursors.peek().is_some_and(|next| next.place == place);
        is_next.then(|| self.cursors.pop()).flatten()
    }

    async fn read_personal_notifications(&mut self, from: Position) -> Result<()> {
        let (unread, user) = (&self.rooms.unread, self.recipient.session.user);
        let rows = match self.recipient.only {
            NotificationSelection::Everything => unread.personal_notifications(user, from).await?,
            NotificationSelection::Highlights => unread.personal_highlights(user, from).await?,
        };
        self.personal = rows.into();
        self.add_personal_cursor();
        Ok(())
    }

    fn add_personal_cursor(&mut self) {
        if let Some(place) = self.personal.front() {
            self.cursors.push(FeedCursor {
                place: *place,
                source: EventSource::Personal,
            });
        }
    }

    async fn next_personal_notification(
        &mut self,
        place: EventPlace,
    ) -> Result<Option<Arc<TimelineEvent>>> {
        self.examined_events += 1;
        self.personal.pop_front();
        if self.personal.is_empty() {
            self.read_personal_notifications(place.timeline.previous())
                .await?;
        } else {
            self.add_personal_cursor();
        }
        if self.recipient.user_rooms.membership(place.room) != MembershipState::Join {
            return Ok(None);
        }
        let events = self.load_events(place.room, &[place.timeline]).await?;
        Ok(events.into_iter().next())
    }

    /// Returns the event of a room at a place, if it may notify all members, and adds the next cursor of the room.
    async fn next_room_event(&mut self, place: EventPlace) -> Result<Option<Arc<TimelineEvent>>> {
        let mut room_events = match self.room_events.remove(&place.room) {
            Some(room_events) => room_events,
            None => self.begin_room(place).await?,
        };
        if room_events.events.is_empty() && room_events.next_from == Some(place.timeline) {
            self.read_room_events(&mut room_events, place).await?;
        }
        let event = room_events
            .events
            .pop_front_if(|event| event.timeline == place.timeline);
        let next = room_events.events.front().map(|event| event.timeline);
        if let Some(timeline) = next.or(room_events.next_from) {
            let room = place.room;
            self.cursors.push(FeedCursor {
                place: EventPlace { timeline, room },
                source: EventSource::Room,
            });
        }
        self.room_events.insert(place.room, room_events);
        Ok(event)
    }

    async fn begin_room(&mut self, place: EventPlace) -> Result<RoomEvents> {
        self.examined_events += 1;
        let room = self.rooms.memory.room_by_number(place.room).await?;
        let counter = self.counter_for(&room).await;
        let is_stored = place.timeline > self.stored_after;
        Ok(RoomEvents {
            counter,
            events: VecDeque::new(),
            next_from: if counter.is_none() && is_stored {
                self.place_before_stored()
            } else {
                Some(place.timeline)
            },
        })
    }

    /// Returns the counter that grows with the events of a room of which all members, and so the user, are notified.
    async fn counter_for(&self, room: &Room) -> Option<RoomCounter> {
        let facts = room.push_facts();
        let rules = RoomPushRules {
            rules: self.recipient.rules,
            user_id: &self.recipient.session.user_id,
            facts: &facts,
        };
        let (is_encrypted, mentioned) = {
            let view = room.view();
            let encryption = view.state.get(&StateEventType::RoomEncryption, "");
            (encryption.is_some(), view.mentioned)
        };
        if self.recipient.only == NotificationSelection::Everything
            && rules.notify_of_messages(is_encrypted).await
        {
            return Some(RoomCounter::Notified);
        }
        (mentioned > 0 && rules.notify_of_room_mentions().await).then_some(RoomCounter::Mentioned)
    }

    /// Returns the place from which on all events are examined; `None` if there are no such events.
    fn place_before_stored(&self) -> Option<Position> {
        (self.stored_after > Position::ZERO).then_some(self.stored_after)
    }

    /// Reads the next events of a room.
    async fn read_room_events(
        &mut self,
        room_events: &mut RoomEvents,
        place: EventPlace,
    ) -> Result<()> {
        if place.timeline <= self.stored_after {
            return self.read_all_events(room_events, place).await;
        }
        room_events.next_from = self.place_before_stored();
        let examined = self.examined_room(place.room).await?;
        let (Some(counter), Some(joined_at)) =
            (room_events.counter, examined.access.first_joined_at())
        else {
            return Ok(());
        };
        let range = PositionRange {
            after: self.stored_after.max(joined_at.previous()),
            up_to: place.timeline,
        };
        let unread = &self.rooms.unread;
        let page = unread.places_of_growth(place.room, counter, range).await?;
        self.examined_events += page.read_events;
        room_events.events = self.load_events(place.room, &page.places).await?.into();
        room_events.next_from = page.next_from.or(room_events.next_from);
        Ok(())
    }

    /// Reads the next events of a room, whether or not they notify.
    async fn read_all_events(
        &mut self,
        room_events: &mut RoomEvents,
        place: EventPlace,
    ) -> Result<()> {
        self.examined_events += EVENTS_PER_PAGE;
        let examined = self.examined_room(place.room).await?;
        let request = PageRequest {
            from: place.timeline,
            to: None,
            dir: Direction::Backward,
            limit: EVENTS_PER_PAGE,
        };
        let wanted = |pdu: &Pdu| pdu.sender != self.recipient.session.user_id;
        let selection = TimelineSelection {
            room: &examined.room,
            access: &examined.access,
            wanted: &wanted,
        };
        let page = self.rooms.timeline.load_page(selection, request).await?;
        room_events.events = page.events.into();
        room_events.next_from = page.end;
        Ok(())
    }

    /// Returns the events at these places that the user may see, except the user's own, the newest first.
    async fn load_events(
        &mut self,
        room: RoomNum,
        places: &[Position],
    ) -> Result<Vec<Arc<TimelineEvent>>> {
        let examined = self.examined_room(room).await?;
        let wanted = |pdu: &Pdu| pdu.sender != self.recipient.session.user_id;
        let selection = TimelineSelection {
            room: &examined.room,
            access: &examined.access,
            wanted: &wanted,
        };
        let timeline = &self.rooms.timeline;
        timeline.load_selected_events_at(selection, places).await
    }

    async fn examined_room(&mut self, num: RoomNum) -> Result<Arc<ExaminedRoom>> {
        if let Some(examined) = self.examined_rooms.get(&num) {
            return Ok(examined.clone());
        }
        let session = self.recipient.session;
        let room = self.rooms.memory.room_by_number(num).await?;
        let access = &self.rooms.access;
        let examined = Arc::new(ExaminedRoom {
            access: access
                .load_access(&room, session.user, &session.user_id)
                .await?,
            facts: room.push_facts(),
            display_name: room.display_name(&session.user_id),
            room,
        });
        self.examined_rooms.insert(num, examined.clone());
        Ok(examined)
    }
}
