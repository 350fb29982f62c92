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
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
    push::{Action, Ruleset},
    serde::Raw,
};

use super::{Inner, Sync, event_format::Showing, place_token};
use crate::{
    error::Result,
    matrix::{self, Pdu, RoomFacts, TimelineEvent, Unsigned},
    rooms::{Access, Bundles, EventSources, PageRequest, Room, UserRooms},
    storage::RoomNum,
    users::Session,
};

/// The number of notifications when the client sets no limit, and the largest limit.
const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 100;
/// The number of events that one request examines. The token in its response continues after them.
const LOOKED_AT: usize = 1_000;
/// The number of events of a room that are read at a time.
const PAGE: usize = 32;

/// The selection of notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    Everything,
    /// Only those with a highlight.
    Highlights,
}

/// The point in the timeline of a room up to which its events have been examined, from the newest back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    place: i64,
    room: RoomNum,
}

/// A room whose events are examined.
struct Opened {
    room: Arc<Room>,
    access: Access,
    facts: RoomFacts,
    /// The user's display name in the room.
    name: String,
    /// The next events, the newest first.
    events: VecDeque<Arc<TimelineEvent>>,
    /// The point from which to read more events.
    rest: Option<i64>,
}

/// The events of all rooms of a user, the newest first.
struct Feed<'a> {
    inner: &'a Inner,
    session: &'a Session,
    mine: Arc<UserRooms>,
    rules: Ruleset,
    heads: BinaryHeap<Head>,
    opened: HashMap<RoomNum, Opened>,
    looked_at: usize,
}

impl Sync {
    /// Returns the events of which a user was notified, the newest first, up to a point in the journal.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3notifications).
    pub async fn notifications(
        &self,
        session: &Session,
        from: Option<i64>,
        limit: Option<u64>,
        only: Only,
    ) -> Result<Response> {
        let limit = limit.map_or(DEFAULT_LIMIT, |limit| {
            usize::try_from(limit)
                .unwrap_or(MAX_LIMIT)
                .clamp(1, MAX_LIMIT)
        });
        let mut feed = Feed::open(&self.inner, session, from.unwrap_or(i64::MAX)).await?;
        let mut response = Response::new(Vec::new());
        while let Some(head) = feed.heads.pop() {
            if let Some(event) = feed.next(head).await?
                && let Some(found) = feed.notification(head.room, &event, only).await
            {
                response.notifications.push(found);
            }
            let is_over = response.notifications.len() >= limit || feed.looked_at >= LOOKED_AT;
            if is_over && let Some(next) = feed.heads.peek() {
                response.next_token = Some(place_token(next.place));
                break;
            }
        }
        Ok(response)
    }
}

impl<'a> Feed<'a> {
    async fn open(inner: &'a Inner, session: &'a Session, from: i64) -> Result<Self> {
        let mine = inner.rooms.memory.of_user(session.user).await?;
        let newest = inner.rooms.memory.last_positions(&mine.joined()).await?;
        let heads = newest.into_iter().map(|(room, last)| Head {
            place: last.min(from),
            room,
        });
        Ok(Self {
            inner,
            session,
            heads: heads.collect(),
            rules: inner
                .users
                .push_rules(session.user, &session.user_id)
                .await?,
            mine,
            opened: HashMap::new(),
            looked_at: 0,
        })
    }

    /// Returns the event at a cursor, if there is one, and adds the next cursor of its room.
    async fn next(&mut self, head: Head) -> Result<Option<Arc<TimelineEvent>>> {
        let mut opened = match self.opened.remove(&head.room) {
            Some(opened) => opened,
            None => self.enter(head).await?,
        };
        if opened.events.is_empty()
            && let Some(from) = opened.rest.take()
        {
            self.looked_at += PAGE;
            self.read(&mut opened, from).await?;
        }
        let event = opened
            .events
            .pop_front_if(|event| event.timeline == head.place);
        let next = opened.events.front().map(|event| event.timeline);
        if let Some(place) = next.or(opened.rest) {
            let room = head.room;
            self.heads.push(Head { place, room });
        }
        self.opened.insert(head.room, opened);
        Ok(event)
    }

    async fn enter(&self, head: Head) -> Result<Opened> {
        let (rooms, session) = (&self.inner.rooms, self.session);
        let room = rooms.memory.room_by_number(head.room).await?;
        let access = rooms
            .access
            .access(&room, session.user, &session.user_id)
            .await?;
        let (state, members) = {
            let view = room.view();
            (view.state.clone(), view.joined_members)
        };
        let name = state
            .get(&StateEventType::RoomMember, session.user_id.as_str())
            .and_then(|member| member.content_str("displayname"))
            .unwrap_or_else(|| session.user_id.localpart().to_owned());
        Ok(Opened {
            facts: RoomFacts {
                room_id: room.room_id.clone(),
                member_count: u64::try_from(members).unwrap_or(0),
                power_levels: Some(matrix::power_levels(&state, &room.rules)),
            },
            room,
            access,
            name,
            events: VecDeque::new(),
            rest: Some(head.place),
        })
    }

    /// Reads the next events of a room, except the user's own.
    async fn read(&self, opened: &mut Opened, from: i64) -> Result<()> {
        let request = PageRequest {
            from,
            to: None,
            dir: Direction::Backward,
            limit: PAGE,
        };
        let me = &self.session.user_id;
        let wanted = |pdu: &Pdu| pdu.sender != *me;
        let (room, access) = (&opened.room, &opened.access);
        let page = self
            .inner
            .rooms
            .timeline
            .page(room, access, request, &wanted)
            .await?;
        opened.events = page.events.into();
        opened.rest = page.end;
        Ok(())
    }

    /// Returns the notification for an event, if the push rules ask for one.
    async fn notification(
        &self,
        num: RoomNum,
        event: &TimelineEvent,
        only: Only,
    ) -> Option<Notification> {
        let opened = self.opened.get(&num)?;
        let (session, membership) = (self.session, opened.access.membership_at(event.timeline));
        let own_key = session.user_id.as_str();
        let concerns_me = event.pdu.is_state(&TimelineEventType::RoomMember, own_key);
        if membership != MembershipState::Join && !concerns_me {
            return None;
        }
        let room_id = &opened.room.room_id;
        let json = matrix::client_event(&event.head, room_id.as_str(), &Unsigned::default());
        let actions = matrix::actions(
            &self.rules,
            &session.user_id,
            &opened.name,
            &json,
            &opened.facts,
        )
        .await;
        let is_highlight = actions.iter().any(Action::is_highlight);
        if !actions.iter().any(Action::should_notify) || (only == Only::Highlights && !is_highlight)
        {
            return None;
        }
        let showing = Showing {
            session,
            access: Some(&opened.access),
            // A list of notifications does not need the later edits and reactions.
            bundles: &Bundles::default(),
            now_ms: self.inner.clock.now_ms(),
            room_id: None,
            sources: &EventSources::default(),
        };
        let shown = showing.whole(event);
        let read = self.mine.get(num)?.marker.timeline >= event.timeline;
        Some(Notification::new(
            actions.to_vec(),
            Raw::from_json(shown),
            read,
            room_id.clone(),
            event.pdu.origin_server_ts,
        ))
    }
}
