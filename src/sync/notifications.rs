//! The events of which a user was notified, or would have been.
//!
//! They are not stored. The latest events of the user's rooms are matched with the current push rules.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#listing-notifications).

use std::{
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::Arc,
};

use ruma::{
    api::{
        Direction,
        client::push::get_notifications::v3::{Notification, Response},
    },
    events::{TimelineEventType, room::member::MembershipState},
    push::{Action, Ruleset},
    serde::Raw,
};

use super::{SyncEnvironment, event_format::EventFormatter, timeline_token};
use crate::{
    clock::Clock,
    error::Result,
    matrix::{self, Pdu, RoomFacts, TimelineEvent, UnsignedFields},
    numbers::{Position, RoomNum},
    rooms::{
        AggregationsByEvent, EventSources, PageRequest, Room, Rooms, TimelineSelection, UserAccess,
        UserRooms,
    },
    users::{Session, Users},
};

/// The number of notifications when the client sets no limit, and the largest limit.
const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 100;
/// The number of events that one request examines. The token in its response continues after them.
const MAX_EXAMINED_EVENTS: usize = 1_000;
/// The number of events of a room that are read at a time.
const EVENTS_PER_PAGE: usize = 32;

/// Reads the notifications of users. Cheap to clone.
#[derive(Clone)]
pub(super) struct NotificationReader {
    clock: Clock,
    users: Users,
    rooms: Rooms,
}

/// The selection of notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotificationSelection {
    Everything,
    /// Only those with a highlight.
    Highlights,
}

/// The point in the timeline of a room up to which its events have been examined, from the newest back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RoomCursor {
    place: Position,
    room: RoomNum,
}

/// A room whose events are examined.
struct ExaminedRoom {
    room: Arc<Room>,
    access: UserAccess,
    facts: RoomFacts,
    /// The user's display name in the room.
    display_name: String,
    /// The next events, the newest first.
    events: VecDeque<Arc<TimelineEvent>>,
    /// The point from which to read more events.
    next_from: Option<Position>,
}

/// The events of all rooms of a user, the newest first.
struct NotificationFeed<'a> {
    reader: &'a NotificationReader,
    session: &'a Session,
    user_rooms: Arc<UserRooms>,
    rules: Ruleset,
    cursors: BinaryHeap<RoomCursor>,
    examined_rooms: HashMap<RoomNum, ExaminedRoom>,
    examined_events: usize,
}

impl NotificationReader {
    pub(super) fn new(environment: &SyncEnvironment) -> Self {
        Self {
            clock: environment.clock.clone(),
            users: environment.users.clone(),
            rooms: environment.rooms.clone(),
        }
    }

    /// Returns the events of which a user was notified, the newest first, up to a point in the journal.
    pub(super) async fn notifications(
        &self,
        session: &Session,
        from: Option<Position>,
        limit: Option<u64>,
        only: NotificationSelection,
    ) -> Result<Response> {
        let limit = limit.map_or(DEFAULT_LIMIT, |limit| {
            usize::try_from(limit)
                .unwrap_or(MAX_LIMIT)
                .clamp(1, MAX_LIMIT)
        });
        let mut feed = NotificationFeed::open(self, session, from.unwrap_or(Position::MAX)).await?;
        let mut response = Response::new(Vec::new());
        while let Some(cursor) = feed.cursors.pop() {
            if let Some(event) = feed.next_event(cursor).await?
                && let Some(found) = feed.notification(cursor.room, &event, only).await
            {
                response.notifications.push(found);
            }
            let is_over = response.notifications.len() >= limit
                || feed.examined_events >= MAX_EXAMINED_EVENTS;
            if is_over && let Some(next) = feed.cursors.peek() {
                response.next_token = Some(timeline_token(next.place));
                break;
            }
        }
        Ok(response)
    }
}

impl<'a> NotificationFeed<'a> {
    async fn open(
        reader: &'a NotificationReader,
        session: &'a Session,
        from: Position,
    ) -> Result<Self> {
        let user_rooms = reader.rooms.memory.rooms_of_user(session.user).await?;
        let newest = reader
            .rooms
            .memory
            .last_positions(&user_rooms.joined_rooms())
            .await?;
        let cursors = newest.into_iter().map(|(room, last)| RoomCursor {
            place: last.min(from),
            room,
        });
        Ok(Self {
            reader,
            session,
            cursors: cursors.collect(),
            rules: reader
                .users
                .push_rules
                .all(session.user, &session.user_id)
                .await?,
            user_rooms,
            examined_rooms: HashMap::new(),
            examined_events: 0,
        })
    }

    /// Returns the event at a cursor, if there is one, and adds the next cursor of its room.
    async fn next_event(&mut self, cursor: RoomCursor) -> Result<Option<Arc<TimelineEvent>>> {
        let mut examined = match self.examined_rooms.remove(&cursor.room) {
            Some(examined) => examined,
            None => self.open_room(cursor).await?,
        };
        if examined.events.is_empty()
            && let Some(from) = examined.next_from.take()
        {
            self.examined_events += EVENTS_PER_PAGE;
            self.read_events(&mut examined, from).await?;
        }
        let event = examined
            .events
            .pop_front_if(|event| event.timeline == cursor.place);
        let next = examined.events.front().map(|event| event.timeline);
        if let Some(place) = next.or(examined.next_from) {
            let room = cursor.room;
            self.cursors.push(RoomCursor { place, room });
        }
        self.examined_rooms.insert(cursor.room, examined);
        Ok(event)
    }

    async fn open_room(&self, cursor: RoomCursor) -> Result<ExaminedRoom> {
        let (rooms, session) = (&self.reader.rooms, self.session);
        let room = rooms.memory.room_by_number(cursor.room).await?;
        let access = rooms
            .access
            .load_access(&room, session.user, &session.user_id)
            .await?;
        Ok(ExaminedRoom {
            facts: room.push_facts(),
            display_name: room.display_name(&session.user_id),
            room,
            access,
            events: VecDeque::new(),
            next_from: Some(cursor.place),
        })
    }

    /// Reads the next events of a room, except the user's own.
    async fn read_events(&self, examined: &mut ExaminedRoom, from: Position) -> Result<()> {
        let request = PageRequest {
            from,
            to: None,
            dir: Direction::Backward,
            limit: EVENTS_PER_PAGE,
        };
        let user_id = &self.session.user_id;
        let wanted = |pdu: &Pdu| pdu.sender != *user_id;
        let selection = TimelineSelection {
            room: &examined.room,
            access: &examined.access,
            wanted: &wanted,
        };
        let timeline = &self.reader.rooms.timeline;
        let page = timeline.load_page(selection, request).await?;
        examined.events = page.events.into();
        examined.next_from = page.end;
        Ok(())
    }

    /// Returns the notification for an event, if the push rules ask for one.
    async fn notification(
        &self,
        num: RoomNum,
        event: &TimelineEvent,
        only: NotificationSelection,
    ) -> Option<Notification> {
        let examined = self.examined_rooms.get(&num)?;
        let (session, membership) = (self.session, examined.access.membership_at(event.timeline));
        let own_key = session.user_id.as_str();
        let is_own_membership = event.pdu.is_state(&TimelineEventType::RoomMember, own_key);
        if membership != MembershipState::Join && !is_own_membership {
            return None;
        }
        let room_id = &examined.room.room_id;
        let json = matrix::client_event(&event.head, room_id.as_str(), &UnsignedFields::default());
        let actions = matrix::push_actions(
            &self.rules,
            &session.user_id,
            &examined.display_name,
            &json,
            &examined.facts,
        )
        .await;
        let is_highlight = actions.iter().any(Action::is_highlight);
        if !actions.iter().any(Action::should_notify)
            || (only == NotificationSelection::Highlights && !is_highlight)
        {
            return None;
        }
        let formatter = EventFormatter {
            session,
            access: Some(&examined.access),
            // A list of notifications does not need the later edits and reactions.
            bundles: &AggregationsByEvent::default(),
            now_ms: self.reader.clock.now_ms(),
            room_id: None,
            sources: &EventSources::default(),
        };
        let shown = formatter.format_event(event);
        let read = self.user_rooms.get(num)?.marker.timeline >= event.timeline;
        Some(Notification::new(
            actions.to_vec(),
            Raw::from_json(shown),
            read,
            room_id.clone(),
            event.pdu.origin_server_ts,
        ))
    }
}
