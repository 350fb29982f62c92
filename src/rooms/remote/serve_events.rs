//! Serves events of a room to other servers, if they may see them.
//!
//! [Retrieving events](https://spec.matrix.org/v1.19/server-server-api/#retrieving-events)

use std::{
    collections::{BinaryHeap, HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId, ServerName,
    api::Direction,
    events::{StateEventType, room::member::MembershipState},
};
use serde_json::value::RawValue;

use super::{FederationReader, erased_users::ErasedUserRedactor};
use crate::{
    error::{Error, Result},
    matrix::{self, EventVisibility, Pdu, StateMap},
    numbers::{Position, SnapshotId},
    rooms::{
        log::resolution::pdu_from_node,
        memory::{
            room::Room,
            stored_events::{parse_event_id, state_map},
        },
    },
    storage::rooms::{
        event_graph::{self, EventNode},
        events::{self, EventStatus, TimeOrderPoint},
    },
};

/// The largest numbers of events in one answer to `/backfill` and to `/get_missing_events`.
const MAX_BACKFILL_EVENTS: usize = 100;
const MAX_MISSING_EVENTS: usize = 50;
/// The largest number of events that one request names.
const MAX_NAMED_EVENTS: usize = 50;
/// The number of events considered for the one closest to a time.
const MAX_TIME_CANDIDATES: i64 = 100;
/// The number of states cached while one answer is made.
const MAX_CACHED_STATES: usize = 8;

/// Parameters of a walk back through the event graph.
struct EventWalk {
    start: Vec<OwnedEventId>,
    /// The walk stops here: these events, and those before them, are known.
    stop_at: HashSet<OwnedEventId>,
    min_depth: u64,
    limit: usize,
}

/// Events that a walk has reached, the deepest first.
#[derive(Default)]
struct DeepestEvents {
    order: BinaryHeap<(u64, OwnedEventId)>,
    events: HashMap<OwnedEventId, (EventNode, Arc<Pdu>)>,
}

impl DeepestEvents {
    /// Adds an event, unless its depth is less than `min_depth`.
    fn push(&mut self, node: EventNode, min_depth: u64) -> Result<()> {
        let pdu = pdu_from_node(&node)?;
        let depth = u64::from(pdu.depth);
        if depth >= min_depth {
            self.order.push((depth, pdu.event_id.clone()));
            self.events.insert(pdu.event_id.clone(), (node, pdu));
        }
        Ok(())
    }

    fn pop(&mut self) -> Option<(EventNode, Arc<Pdu>)> {
        let (_, event_id) = self.order.pop()?;
        self.events.remove(&event_id)
    }
}

/// A request for the events between those that a server has and later ones.
#[derive(Clone, Copy, Debug)]
pub struct MissingEventsQuery<'a> {
    /// Events that the server has.
    pub earliest: &'a [OwnedEventId],
    /// Events whose prev events the server wants.
    pub latest: &'a [OwnedEventId],
    pub min_depth: u64,
    pub limit: usize,
}

impl FederationReader {
    /// Returns an event to a server that is in its room, redacted if that server may not see it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such event; [`Error::Forbidden`] when the server is not in the room.
    pub async fn event_for_server(
        &self,
        origin: &ServerName,
        event_id: &EventId,
    ) -> Result<Box<RawValue>> {
        let node = {
            let mut conn = self.db.read().await?;
            event_graph::find_nodes(&mut conn, [event_id.as_str()])
                .await?
                .pop()
        };
        let node = node.filter(|node| node.status() != EventStatus::Rejected);
        let node = node.ok_or_else(|| Error::not_found("there is no such event"))?;
        let room_id = self.memory.room_id(node.room).await?;
        let room = self.shared_room(origin, &room_id).await?;
        let mut redactor = self.erased_user_redactor(origin);
        self.event_visible_to_server(&room, node, &mut redactor, &mut HashMap::new())
            .await
    }

    /// Returns an event as a server may see it.
    async fn event_visible_to_server(
        &self,
        room: &Room,
        node: EventNode,
        redactor: &mut ErasedUserRedactor<'_>,
        states: &mut HashMap<SnapshotId, StateMap>,
    ) -> Result<Box<RawValue>> {
        let event_id = parse_event_id(&node.event_id)?;
        if self.may_see(room, redactor.server(), &node, states).await? {
            return redactor
                .redact_if_erased(&event_id, RawValue::from_string(node.json)?)
                .await;
        }
        Ok(RawValue::from_string(matrix::redact_json(
            &node.json,
            &room.rules,
        )?)?)
    }

    /// Returns whether a server may see an event, which is so when one of its users may.
    async fn may_see(
        &self,
        room: &Room,
        origin: &ServerName,
        node: &EventNode,
        states: &mut HashMap<SnapshotId, StateMap>,
    ) -> Result<bool> {
        let (snapshot, visibility) = (node.state, EventVisibility::from_number(node.visibility));
        let pdu = pdu_from_node(node)?;
        let is_open = matches!(
            visibility,
            EventVisibility::WorldReadable | EventVisibility::Shared
        );
        let Some(snapshot) = snapshot else {
            // It is part of a state, and is served with the state anyway.
            return Ok(pdu.state_key.is_some() && pdu.room_id == room.room_id);
        };
        if is_open || pdu.sender.server_name() == origin {
            return Ok(true);
        }
        if !states.contains_key(&snapshot) {
            let mut conn = self.db.read().await?;
            let state = state_map(&mut conn, snapshot).await?;
            // The events of one answer are close together in the graph: most share a few states.
            if states.len() >= MAX_CACHED_STATES {
                states.clear();
            }
            states.insert(snapshot, state);
        }
        let Some(state) = states.get(&snapshot) else {
            return Ok(false);
        };
        let is = |wanted: &[MembershipState]| {
            state.of_type(&StateEventType::RoomMember).any(|pdu| {
                let is_theirs = pdu
                    .member()
                    .is_some_and(|user| user.server_name() == origin);
                is_theirs && pdu.membership().is_some_and(|is| wanted.contains(&is))
            })
        };
        // A server sees the member events of its own users, which it needs to join.
        let is_own = pdu
            .member()
            .is_some_and(|user| user.server_name() == origin);
        Ok(is_own
            || is(&[MembershipState::Join])
            || (visibility == EventVisibility::Invited && is(&[MembershipState::Invite])))
    }

    /// Returns events and those that precede them, for a server that is in the room: the newest
    /// first.
    pub async fn backfill_for_server(
        &self,
        room: &Room,
        origin: &ServerName,
        from: &[OwnedEventId],
        limit: usize,
    ) -> Result<Vec<Box<RawValue>>> {
        let limit = limit.min(MAX_BACKFILL_EVENTS);
        let walk = EventWalk {
            start: from.iter().take(MAX_NAMED_EVENTS).cloned().collect(),
            stop_at: HashSet::new(),
            min_depth: 0,
            limit,
        };
        self.walk_back(room, origin, walk).await
    }

    /// Returns the events before the latest ones of a query, back to those that the server has: the oldest first.
    pub async fn missing_events_for_server(
        &self,
        room: &Room,
        origin: &ServerName,
        query: MissingEventsQuery<'_>,
    ) -> Result<Vec<Box<RawValue>>> {
        let latest: Vec<OwnedEventId> = query
            .latest
            .iter()
            .take(MAX_NAMED_EVENTS)
            .cloned()
            .collect();
        let start: Vec<OwnedEventId> = {
            let mut conn = self.db.read().await?;
            let nodes =
                event_graph::find_nodes(&mut conn, latest.iter().map(|id| id.as_str())).await?;
            let of_room = nodes.into_iter().filter(|node| node.room == room.num);
            let mut start = Vec::new();
            for node in of_room {
                start.extend(pdu_from_node(&node)?.prev_events.iter().cloned());
            }
            start
        };
        let mut ends: HashSet<OwnedEventId> = query
            .earliest
            .iter()
            .take(MAX_NAMED_EVENTS)
            .cloned()
            .collect();
        ends.extend(latest);
        let walk = EventWalk {
            start,
            stop_at: ends,
            min_depth: query.min_depth,
            limit: query.limit.min(MAX_MISSING_EVENTS),
        };
        let mut events = self.walk_back(room, origin, walk).await?;
        events.reverse();
        Ok(events)
    }

    /// Walks back along `prev_events`, the deepest event first.
    async fn walk_back(
        &self,
        room: &Room,
        origin: &ServerName,
        walk: EventWalk,
    ) -> Result<Vec<Box<RawValue>>> {
        let mut seen: HashSet<OwnedEventId> = walk.stop_at;
        let mut queue = DeepestEvents::default();
        let mut found = Vec::new();
        let mut states = HashMap::new();
        let mut redactor = self.erased_user_redactor(origin);
        let mut next: Vec<OwnedEventId> = walk.start;
        while found.len() < walk.limit {
            next.retain(|id| seen.insert(id.clone()));
            let read = {
                let mut conn = self.db.read().await?;
                event_graph::find_nodes(&mut conn, next.drain(..).map(String::from)).await?
            };
            let is_served = |node: &EventNode| node.room == room.num && node.state.is_some();
            for node in read.into_iter().filter(is_served) {
                queue.push(node, walk.min_depth)?;
            }
            let Some((node, pdu)) = queue.pop() else {
                break;
            };
            next.clone_from(&pdu.prev_events);
            if node.status() != EventStatus::Rejected {
                let event = self
                    .event_visible_to_server(room, node, &mut redactor, &mut states)
                    .await?;
                found.push(event);
            }
        }
        Ok(found)
    }

    /// Returns the event closest to a time that a server may see, in the given direction, and its
    /// `origin_server_ts`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none.
    pub async fn event_at_time_for_server(
        &self,
        room: &Room,
        origin: &ServerName,
        ts: i64,
        dir: Direction,
    ) -> Result<(OwnedEventId, i64)> {
        let place = match dir {
            Direction::Forward => Position::MIN,
            Direction::Backward => Position::MAX,
        };
        let from = TimeOrderPoint { ts, place };
        let rows = {
            let mut conn = self.db.read().await?;
            match dir {
                Direction::Forward => {
                    events::made_after(&mut conn, room.num, from, MAX_TIME_CANDIDATES).await?
                }
                Direction::Backward => {
                    events::made_before(&mut conn, room.num, from, MAX_TIME_CANDIDATES).await?
                }
            }
        };
        let mut states = HashMap::new();
        for row in rows {
            let node = {
                let mut conn = self.db.read().await?;
                event_graph::find_nodes(&mut conn, [row.event_id])
                    .await?
                    .pop()
            };
            let Some(node) = node else { continue };
            let event_id = parse_event_id(&node.event_id)?;
            if self.may_see(room, origin, &node, &mut states).await? {
                return Ok((event_id, row.origin_server_ts));
            }
        }
        Err(Error::not_found("there is no such event"))
    }
}
