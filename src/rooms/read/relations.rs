//! Reading the events that relate to an event.

use std::{collections::HashMap, sync::Arc};

use ruma::{EventId, OwnedEventId, api::Direction};

use super::{Relations, Timeline, timeline::is_past_end};
use crate::{
    error::Result,
    matrix::TimelineEvent,
    numbers::{Position, StringNum},
    rooms::{TimelinePage, UserAccess, memory::room::Room},
    storage::rooms::relations::{self, RelatedEvent, RelationQuery},
};

/// The greatest depth of recursion. The specification asks for at least three.
const MAX_RECURSION_DEPTH: i64 = 3;
/// The number of relations that are read in one query.
const RELATION_BATCH_ROWS: i64 = 100;
/// The most relations that one page reads. The page may be short if the user may not see most of
/// them.
const MAX_READ_RELATIONS: usize = 2_000;

/// A request for related events.
#[derive(Clone, Debug)]
pub struct RelatedEventsRequest {
    /// The parent event.
    pub parent: OwnedEventId,
    /// The required relation type, if any.
    pub rel_type: Option<String>,
    /// The required event type, if any.
    pub kind: Option<String>,
    /// Whether events that relate to a related event are included.
    pub recurse: bool,
    /// The place in the timeline from which to read.
    pub from: Option<Position>,
    /// The place in the timeline at which to stop.
    pub to: Option<Position>,
    pub dir: Direction,
    /// The greatest number of events.
    pub limit: usize,
}

/// A page of related events.
#[derive(Debug)]
pub struct RelatedEventsPage {
    pub page: TimelinePage,
    /// The greatest distance from the parent of an event on the page, in relations.
    pub depth: i64,
}

/// The numbers of the strings in a request. `None` matches all events.
struct RelationNumbers {
    rel_type: Option<StringNum>,
    kind: Option<StringNum>,
}

impl RelatedEventsPage {
    fn empty(request: &RelatedEventsRequest) -> Self {
        Self {
            page: TimelinePage {
                events: Vec::new(),
                end: None,
            },
            depth: i64::from(request.recurse),
        }
    }
}

/// Collects the events of a page.
struct RelatedEventsReader<'a> {
    room: &'a Room,
    access: &'a UserAccess,
    request: &'a RelatedEventsRequest,
    found: RelatedEventsPage,
    /// The place from which to continue.
    from: Position,
}

impl RelatedEventsReader<'_> {
    /// Adds the events at these places that the user may see. Returns whether the page is complete.
    fn add_events(
        &mut self,
        places: Vec<RelatedEvent>,
        events: &HashMap<Position, Arc<TimelineEvent>>,
    ) -> bool {
        for RelatedEvent {
            timeline: place,
            depth,
        } in places
        {
            if is_past_end(self.request.to, place, self.request.dir) {
                self.found.page.end = None;
                return true;
            }
            if self.found.page.events.len() == self.request.limit {
                self.found.page.end = Some(self.from);
                return true;
            }
            self.from = match self.request.dir {
                Direction::Backward => place.previous(),
                Direction::Forward => place,
            };
            if let Some(event) = events.get(&place)
                && self.access.may_see(event)
                && !self.access.hides_event(&event.pdu)
            {
                let rules = &self.room.rules;
                let event = self.access.redact_if_erased(event.clone(), rules);
                self.found.page.events.push(event);
                self.found.depth = self.found.depth.max(depth);
            }
        }
        false
    }
}

impl RelatedEventsRequest {
    /// Returns the place at which the page begins.
    fn start(&self) -> Position {
        self.from.unwrap_or(match self.dir {
            Direction::Backward => Position::MAX,
            Direction::Forward => Position::MIN,
        })
    }

    /// Returns the greatest distance of an event from the parent.
    fn max_depth(&self) -> i64 {
        if self.recurse { MAX_RECURSION_DEPTH } else { 1 }
    }
}

impl Relations {
    /// Returns events that relate to an event, limited to those that the user may see.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`](crate::error::Error::NotFound) when the event does not exist or the user may not see it.
    pub async fn load_related_events(
        &self,
        room: &Arc<Room>,
        access: &UserAccess,
        request: &RelatedEventsRequest,
    ) -> Result<RelatedEventsPage> {
        self.timeline
            .load_event(room, access, &request.parent)
            .await?;
        let mut reader = RelatedEventsReader {
            room,
            access,
            request,
            found: RelatedEventsPage::empty(request),
            from: request.start(),
        };
        let Some(RelationNumbers { rel_type, kind }) = self.find_string_numbers(request).await?
        else {
            return Ok(reader.found);
        };
        let mut query = RelationQuery {
            room: room.num,
            parent: request.parent.as_str(),
            rel_type,
            kind,
            depth: request.max_depth(),
            from: reader.from,
            limit: RELATION_BATCH_ROWS,
        };
        let mut looked_at = 0;
        while looked_at < MAX_READ_RELATIONS {
            let places = self.load_places(&query, request.dir).await?;
            let is_last = i64::try_from(places.len()).unwrap_or(0) < RELATION_BATCH_ROWS;
            let events = self.load_events(room, &places).await?;
            looked_at += places.len();
            let is_complete = reader.add_events(places, &events);
            if is_complete || is_last {
                return Ok(reader.found);
            }
            query.from = reader.from;
        }
        reader.found.page.end = Some(reader.from);
        Ok(reader.found)
    }

    async fn load_places(
        &self,
        query: &RelationQuery<'_>,
        dir: Direction,
    ) -> Result<Vec<RelatedEvent>> {
        let mut conn = self.db.read().await?;
        match dir {
            Direction::Backward => relations::related_before(&mut conn, query).await,
            Direction::Forward => relations::related_after(&mut conn, query).await,
        }
    }

    async fn load_events(
        &self,
        room: &Room,
        places: &[RelatedEvent],
    ) -> Result<HashMap<Position, Arc<TimelineEvent>>> {
        let places: Vec<Position> = places.iter().map(|related| related.timeline).collect();
        self.timeline.load_events_at(room, &places).await
    }

    /// Returns the numbers of the interned strings in a request; `None` if one of them is not
    /// stored, so that no event can match.
    async fn find_string_numbers(
        &self,
        request: &RelatedEventsRequest,
    ) -> Result<Option<RelationNumbers>> {
        let mut conn = self.db.read().await?;
        let strings = &self.db.strings;
        let mut numbers = [None, None];
        for (number, text) in numbers.iter_mut().zip([&request.rel_type, &request.kind]) {
            let Some(text) = text else { continue };
            // PostgreSQL cannot store such a string, so no event has it.
            if text.contains('\0') {
                return Ok(None);
            }
            *number = strings.find_number(&mut conn, text).await?;
            if number.is_none() {
                return Ok(None);
            }
        }
        let [rel_type, kind] = numbers;
        Ok(Some(RelationNumbers { rel_type, kind }))
    }
}

impl Timeline {
    /// Returns whether an event belongs to the thread that a receipt names: the event is in the
    /// thread, is its root, or relates to its root within a few steps.
    pub(crate) async fn is_in_thread(
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
        let mut conn = self.db.read().await?;
        let mut next = event
            .pdu
            .relates_to
            .as_ref()
            .map(|relates_to| relates_to.event_id.to_string());
        for _ in 0..MAX_RECURSION_DEPTH {
            let Some(parent) = next else { break };
            if parent == *thread_root.as_str() {
                return Ok(true);
            }
            let row = relations::parent_of(&mut conn, room.num, &parent).await?;
            next = row.and_then(|row| row.parent);
        }
        Ok(false)
    }
}
