//! Serves events of a room to other servers, if they may see them.
//!
//! [Retrieving events](https://spec.matrix.org/v1.19/server-server-api/#retrieving-events)

use std::collections::{BinaryHeap, HashMap, HashSet};

use ruma::{
    EventId, OwnedEventId, ServerName,
    api::Direction,
    events::{StateEventType, room::member::MembershipState},
};
use serde_json::value::RawValue;

use super::{FederationReader, erased_users::Eraser};
use crate::{
    error::{Error, Result},
    matrix::{self, StateMap, Visibility},
    rooms::{
        log::resolution::pdu_of,
        memory::{load::state_map, room::Room},
    },
    storage::rooms::{
        event_graph::{self, Node},
        events::{self, Status},
    },
};

/// The largest numbers of events in one answer.
const MAX_BACKFILL: usize = 100;
const MAX_MISSING: usize = 50;
/// The largest number of events that one request names.
const MAX_NAMED: usize = 50;
/// The number of events considered for the one closest to a time.
const LOOKED_AT: i64 = 100;
/// The number of states cached while one answer is made.
const MAX_STATES: usize = 8;

/// Parameters of a walk back through the event graph.
struct Walk {
    start: Vec<OwnedEventId>,
    /// The walk stops here: these events, and those before them, are known.
    ends: HashSet<OwnedEventId>,
    min_depth: u64,
    limit: usize,
}

impl FederationReader {
    /// Returns an event to a server that is in its room, redacted if that server may not see it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such event; [`Error::Forbidden`] when the server is not in the room.
    pub async fn event_for(
        &self,
        origin: &ServerName,
        event_id: &EventId,
    ) -> Result<Box<RawValue>> {
        let node = {
            let mut conn = self.db.read().await?;
            event_graph::nodes(&mut conn, [event_id.as_str()])
                .await?
                .pop()
        };
        let node = node.filter(|node| node.status() != Status::Rejected);
        let node = node.ok_or_else(|| Error::not_found("there is no such event"))?;
        let room_id = self.memory.room_id(node.room).await?;
        let room = self.shared_room(origin, &room_id).await?;
        let mut eraser = self.eraser(origin);
        self.seen_by(&room, node, &mut eraser, &mut HashMap::new())
            .await
    }

    /// Returns an event as a server may see it.
    async fn seen_by(
        &self,
        room: &Room,
        node: Node,
        eraser: &mut Eraser<'_>,
        states: &mut HashMap<i64, StateMap>,
    ) -> Result<Box<RawValue>> {
        let json = node.json.clone();
        let event_id = OwnedEventId::try_from(node.event_id.as_str());
        let event_id = event_id.map_err(|source| Error::internal("read an event id", source))?;
        if self.may_see(room, eraser.server(), node, states).await? {
            return eraser.apply(&event_id, RawValue::from_string(json)?).await;
        }
        Ok(RawValue::from_string(matrix::redact_json(
            &json,
            &room.rules,
        )?)?)
    }

    /// Returns whether a server may see an event, which is so when one of its users may.
    async fn may_see(
        &self,
        room: &Room,
        origin: &ServerName,
        node: Node,
        states: &mut HashMap<i64, StateMap>,
    ) -> Result<bool> {
        let (snapshot, visibility) = (node.state, Visibility::from_number(node.visibility));
        let pdu = pdu_of(node)?;
        let is_open = matches!(visibility, Visibility::WorldReadable | Visibility::Shared);
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
            if states.len() >= MAX_STATES {
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
            || (visibility == Visibility::Invited && is(&[MembershipState::Invite])))
    }

    /// Returns events and those that precede them, for a server that is in the room: the newest
    /// first.
    pub async fn backfill_for(
        &self,
        room: &Room,
        origin: &ServerName,
        from: &[OwnedEventId],
        limit: usize,
    ) -> Result<Vec<Box<RawValue>>> {
        let limit = limit.min(MAX_BACKFILL);
        let walk = Walk {
            start: from.iter().take(MAX_NAMED).cloned().collect(),
            ends: HashSet::new(),
            min_depth: 0,
            limit,
        };
        self.walk(room, origin, walk).await
    }

    /// Returns events that precede some, up to others that a server has: the oldest first.
    pub async fn missing_events_for(
        &self,
        room: &Room,
        origin: &ServerName,
        (earliest, latest): (&[OwnedEventId], &[OwnedEventId]),
        (min_depth, limit): (u64, usize),
    ) -> Result<Vec<Box<RawValue>>> {
        let latest: Vec<OwnedEventId> = latest.iter().take(MAX_NAMED).cloned().collect();
        let start: Vec<OwnedEventId> = {
            let mut conn = self.db.read().await?;
            let nodes = event_graph::nodes(&mut conn, latest.iter().map(|id| id.as_str())).await?;
            let of_room = nodes.into_iter().filter(|node| node.room == room.num);
            let mut start = Vec::new();
            for node in of_room {
                start.extend(pdu_of(node)?.prev_events.iter().cloned());
            }
            start
        };
        let mut ends: HashSet<OwnedEventId> = earliest.iter().take(MAX_NAMED).cloned().collect();
        ends.extend(latest);
        let walk = Walk {
            start,
            ends,
            min_depth,
            limit: limit.min(MAX_MISSING),
        };
        let mut events = self.walk(room, origin, walk).await?;
        events.reverse();
        Ok(events)
    }

    /// Walks back along `prev_events`, the deepest event first.
    async fn walk(
        &self,
        room: &Room,
        origin: &ServerName,
        walk: Walk,
    ) -> Result<Vec<Box<RawValue>>> {
        let mut seen: HashSet<OwnedEventId> = walk.ends;
        let mut heap: BinaryHeap<(u64, OwnedEventId)> = BinaryHeap::new();
        let mut nodes: HashMap<OwnedEventId, (Node, Vec<OwnedEventId>)> = HashMap::new();
        let mut found = Vec::new();
        let mut states = HashMap::new();
        let mut eraser = self.eraser(origin);
        let mut next: Vec<OwnedEventId> = walk.start;
        while found.len() < walk.limit {
            next.retain(|id| seen.insert(id.clone()));
            let read = {
                let mut conn = self.db.read().await?;
                event_graph::nodes(&mut conn, next.drain(..).map(String::from)).await?
            };
            for node in read {
                let is_told = node.room == room.num && node.state.is_some();
                let pdu = pdu_of(node.clone())?;
                let depth = u64::from(pdu.depth);
                if is_told && depth >= walk.min_depth {
                    heap.push((depth, pdu.event_id.clone()));
                    let prev_events = pdu.prev_events.clone();
                    nodes.insert(pdu.event_id.clone(), (node, prev_events));
                }
            }
            let Some((_, id)) = heap.pop() else { break };
            let Some((node, prev_events)) = nodes.remove(&id) else {
                continue;
            };
            next = prev_events;
            if node.status() != Status::Rejected {
                let event = self.seen_by(room, node, &mut eraser, &mut states).await?;
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
    pub async fn event_at_time_for(
        &self,
        room: &Room,
        origin: &ServerName,
        ts: i64,
        dir: Direction,
    ) -> Result<(OwnedEventId, i64)> {
        let rows = {
            let mut conn = self.db.read().await?;
            match dir {
                Direction::Forward => {
                    events::made_after(&mut conn, room.num, (ts, i64::MIN), LOOKED_AT).await?
                }
                Direction::Backward => {
                    events::made_before(&mut conn, room.num, (ts, i64::MAX), LOOKED_AT).await?
                }
            }
        };
        let mut states = HashMap::new();
        for (_, _, ts, event_id) in rows {
            let node = {
                let mut conn = self.db.read().await?;
                event_graph::nodes(&mut conn, [event_id]).await?.pop()
            };
            let Some(node) = node else { continue };
            let event_id = OwnedEventId::try_from(node.event_id.as_str());
            let event_id =
                event_id.map_err(|source| Error::internal("read an event id", source))?;
            if self.may_see(room, origin, node, &mut states).await? {
                return Ok((event_id, ts));
            }
        }
        Err(Error::not_found("there is no such event"))
    }
}
