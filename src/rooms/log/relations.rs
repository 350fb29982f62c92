//! Relationships of events: kept beside the event that says them, and read from either end.
//!
//! [Forming relationships between events](https://spec.matrix.org/v1.19/client-server-api/#forming-relationships-between-events)

use std::{collections::HashMap, sync::Arc};

use ruma::{EventId, OwnedEventId, api::Direction};

use crate::{
    error::{Error, Result},
    matrix::{Counters, InThread, Pdu, RelatesTo, TimelineEvent, rel_type},
    rooms::{Access, NewEvent, Page, Rooms, memory::room::Room, read::timeline::passes},
    storage::{
        Read, RoomNum, WriteTx,
        rooms::{
            events::EventRow,
            relations::{self, NewRelation, RelationQuery},
            threads,
        },
    },
};

/// How many steps a recursion goes: the specification asks for at least three.
const MAX_DEPTH: i64 = 3;
/// Relationships read at a time.
const CHUNK: i64 = 100;
/// Relationships that one page looks at before it ends short: the visibility may hide most of them.
const LOOKED_AT: usize = 2_000;

/// Which related events are asked for.
#[derive(Clone, Debug)]
pub struct RelatedRequest {
    /// To which event they relate.
    pub parent: OwnedEventId,
    /// Only these relationships.
    pub rel_type: Option<String>,
    /// Only events of this type.
    pub kind: Option<String>,
    /// Whether those are wanted, too, that relate to a related event.
    pub recurse: bool,
    /// The place from which to read.
    pub from: Option<i64>,
    /// The place at which to stop.
    pub to: Option<i64>,
    /// Which way.
    pub dir: Direction,
    /// How many events at most.
    pub limit: usize,
}

/// A page of related events.
#[derive(Debug)]
pub struct Related {
    /// The page.
    pub page: Page,
    /// How many steps away the farthest event of the page is.
    pub depth: i64,
}

/// Returns the thread that a new event is in, with what it adds to the counters.
///
/// What relates to an event of a thread is in the thread as well.
/// [Threaded read receipts](https://spec.matrix.org/v1.19/client-server-api/#threaded-read-receipts)
pub(crate) async fn thread_of(
    db: &mut impl Read,
    room: RoomNum,
    pdu: &Pdu,
    added: Counters,
) -> Result<Option<InThread>> {
    let Some(thread_root) = thread_root_of(db, room, pdu).await? else {
        return Ok(None);
    };
    let counters = threads::counters(db, room, thread_root.as_str()).await? + added;
    Ok(Some(InThread {
        root: thread_root,
        counters,
        added,
    }))
}

pub(crate) async fn thread_root_of(
    db: &mut impl Read,
    room: RoomNum,
    pdu: &Pdu,
) -> Result<Option<OwnedEventId>> {
    let Some(relates_to) = &pdu.relates_to else {
        return Ok(None);
    };
    if relates_to.rel_type == rel_type::THREAD {
        return Ok(Some(relates_to.event_id.clone()));
    }
    let parent = relations::parent_of(db, room, relates_to.event_id.as_str()).await?;
    let thread_root = parent.and_then(|(_, thread)| thread);
    Ok(thread_root.and_then(|thread_root| OwnedEventId::try_from(thread_root).ok()))
}

/// An event that is stored in this turn, in numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pub(crate) room: RoomNum,
    pub(crate) position: i64,
    pub(crate) timeline: i64,
    pub(crate) kind: i64,
    pub(crate) sender: i64,
}

/// Stores what an event relates to, and adds it to its thread.
pub(crate) async fn store(
    tx: &mut WriteTx,
    stored: Stored,
    pdu: &Pdu,
    thread: Option<&InThread>,
) -> Result<()> {
    let Some(relates_to) = &pdu.relates_to else {
        return Ok(());
    };
    let relation = NewRelation {
        child: stored.position,
        room: stored.room,
        parent: relates_to.event_id.as_str(),
        rel_type: tx.intern(&relates_to.rel_type).await?,
        kind: stored.kind,
        sender: stored.sender,
        timeline: stored.timeline,
        annotation: relates_to.annotation(),
        is_edit: pdu.is_edit(),
    };
    if !relations::insert(tx, &relation).await? {
        return Ok(());
    }
    if let Some(thread) = thread {
        let is_reply = relates_to.rel_type == rel_type::THREAD;
        threads::advance(
            tx,
            (stored.room, thread.root.as_str()),
            stored.timeline,
            is_reply,
            thread.counters,
        )
        .await?;
    }
    Ok(())
}

/// Ends the relationship of an event that is redacted.
pub(crate) async fn redact(tx: &mut WriteTx, row: &EventRow, target: &Pdu) -> Result<()> {
    if relations::remove(tx, row.position).await?
        && let Some(thread_root) = target.relates_by(rel_type::THREAD)
    {
        let thread = tx.intern(rel_type::THREAD).await?;
        threads::remove_reply(tx, row.room, thread_root.as_str(), thread).await?;
    }
    Ok(())
}

/// Checks, in the turn that stores an event, what the rules of relationships leave to the server of the sender.
pub(crate) async fn check(tx: &mut WriteTx, room: RoomNum, event: &NewEvent) -> Result<()> {
    let Some(relates_to) = RelatesTo::of_content(&event.content) else {
        return Ok(());
    };
    let parent = relates_to.event_id.as_str();
    if relates_to.rel_type == rel_type::THREAD
        && let Some((Some(_), _)) = relations::parent_of(tx, room, parent).await?
    {
        return Err(Error::Refused(
            "a thread cannot begin with an event that relates to another".to_owned(),
        ));
    }
    let Some(key) = relates_to.annotation() else {
        return Ok(());
    };
    let kind = tx.intern(&event.kind.to_string()).await?;
    let sender = tx.intern(event.sender.as_str()).await?;
    if relations::has_annotation(tx, room, parent, (kind, sender), key).await? {
        return Err(Error::DuplicateAnnotation);
    }
    Ok(())
}

impl Rooms {
    /// Returns events that relate to an event, as far as the user may see them.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the user may not see that event, or there is none.
    pub async fn related(
        &self,
        room: &Arc<Room>,
        access: &Access,
        request: &RelatedRequest,
    ) -> Result<Related> {
        self.event(room, access, &request.parent).await?;
        let mut found = Related {
            page: Page {
                events: Vec::new(),
                end: None,
            },
            depth: i64::from(request.recurse),
        };
        let Some((rel_type, kind)) = self.numbers_of(request).await? else {
            return Ok(found);
        };
        let mut query = RelationQuery {
            room: room.num,
            parent: request.parent.as_str(),
            rel_type,
            kind,
            depth: if request.recurse { MAX_DEPTH } else { 1 },
            from: request.from.unwrap_or(match request.dir {
                Direction::Backward => i64::MAX,
                Direction::Forward => i64::MIN,
            }),
            limit: CHUNK,
        };
        let mut looked_at = 0;
        while looked_at < LOOKED_AT {
            let places = self.places(&query, request.dir).await?;
            let is_last = i64::try_from(places.len()).unwrap_or(0) < CHUNK;
            let events = self.events_at(room, &places).await?;
            for (place, depth) in places {
                if passes(request.to, place, request.dir) {
                    found.page.end = None;
                    return Ok(found);
                }
                if found.page.events.len() == request.limit {
                    found.page.end = Some(query.from);
                    return Ok(found);
                }
                looked_at += 1;
                query.from = match request.dir {
                    Direction::Backward => place - 1,
                    Direction::Forward => place,
                };
                let shown = events
                    .get(&place)
                    .filter(|event| access.may_see(event) && !access.hides(&event.pdu));
                if let Some(event) = shown {
                    let event = access.seen(event.clone(), &room.rules);
                    found.page.events.push(event);
                    found.depth = found.depth.max(depth);
                }
            }
            if is_last {
                return Ok(found);
            }
        }
        found.page.end = Some(query.from);
        Ok(found)
    }

    async fn places(&self, query: &RelationQuery<'_>, dir: Direction) -> Result<Vec<(i64, i64)>> {
        let mut conn = self.inner.db.read().await?;
        match dir {
            Direction::Backward => relations::before(&mut conn, query).await,
            Direction::Forward => relations::after(&mut conn, query).await,
        }
    }

    async fn events_at(
        &self,
        room: &Room,
        places: &[(i64, i64)],
    ) -> Result<HashMap<i64, Arc<TimelineEvent>>> {
        let places: Vec<i64> = places.iter().map(|(place, _)| *place).collect();
        self.at_places(room, &places).await
    }

    /// Returns the numbers of what a request names; `None` if something of it was never heard of.
    async fn numbers_of(
        &self,
        request: &RelatedRequest,
    ) -> Result<Option<(Option<i64>, Option<i64>)>> {
        let mut conn = self.inner.db.read().await?;
        let strings = &self.inner.db.strings;
        let mut numbers = [None, None];
        for (number, text) in numbers.iter_mut().zip([&request.rel_type, &request.kind]) {
            if let Some(text) = text {
                // What PostgreSQL cannot hold is nowhere.
                *number = if text.contains('\0') {
                    None
                } else {
                    strings.find(&mut conn, text).await?
                };
                if number.is_none() {
                    return Ok(None);
                }
            }
        }
        let [rel_type, kind] = numbers;
        Ok(Some((rel_type, kind)))
    }

    /// Returns whether an event belongs to a thread as a receipt names it: it is in it, it is its root, or it relates
    /// to its root within a few steps.
    pub(crate) async fn is_of_thread(
        &self,
        room: &Room,
        event: &TimelineEvent,
        thread_root: &EventId,
    ) -> Result<bool> {
        let is_in =
            |thread: Option<&OwnedEventId>| thread.is_some_and(|thread| thread == thread_root);
        if event.pdu.event_id == thread_root
            || is_in(event.thread.as_ref().map(|thread| &thread.root))
        {
            return Ok(true);
        }
        let mut conn = self.inner.db.read().await?;
        let mut next = event
            .pdu
            .relates_to
            .as_ref()
            .map(|relates_to| relates_to.event_id.to_string());
        for _ in 0..MAX_DEPTH {
            let Some(parent) = next else { break };
            if parent == *thread_root.as_str() {
                return Ok(true);
            }
            let row = relations::parent_of(&mut conn, room.num, &parent).await?;
            next = row.and_then(|(parent, _)| parent);
        }
        Ok(false)
    }
}
