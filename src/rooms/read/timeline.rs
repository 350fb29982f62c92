//! Reading the timeline of a room, limited to the events that a user may see.

use std::{collections::HashSet, sync::Arc};

use ruma::{EventId, api::Direction, events::TimelineEventType};

use super::Timeline;
use crate::{
    error::{Error, Result},
    matrix::{Pdu, StateMap, TimelineEvent},
    numbers::{Position, PositionRange},
    rooms::{
        UserAccess,
        memory::{
            room::Room,
            stored_events::{event_from_row, parse_event_id, pdu_by_id},
        },
    },
    storage::{
        ReadAccess,
        rooms::{
            events::{self, EventRow},
            state_snapshots, timeline_gaps,
        },
    },
};

/// The most events that one page reads before it ends short, since a filter or the history
/// visibility may hide most of them.
const MAX_READ_EVENTS: usize = 2_000;
/// The number of hidden events in a row after which the timeline of a sync ends. Usually everything
/// before the user joined is hidden.
const MAX_HIDDEN_IN_A_ROW: usize = 100;
/// The number of rows that are read in one query.
const ROWS_PER_QUERY: i64 = 100;

/// A request for a page of a timeline.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest {
    /// The place from which to read: between the event at this place and the next one.
    pub from: Position,
    /// The place at which to stop.
    pub to: Option<Position>,
    /// The direction in which to read.
    pub dir: Direction,
    /// The greatest number of events.
    pub limit: usize,
}

/// The events of a timeline that a reader wants and may see.
#[derive(Clone, Copy)]
pub struct TimelineSelection<'a> {
    pub room: &'a Room,
    /// The access of the reader.
    pub access: &'a UserAccess,
    /// Returns whether the reader wants an event.
    pub wanted: &'a (dyn Fn(&Pdu) -> bool + Sync),
}

impl<'a> TimelineSelection<'a> {
    /// Selects all events that the reader may see.
    pub fn all(room: &'a Room, access: &'a UserAccess) -> Self {
        Self {
            room,
            access,
            wanted: &|_| true,
        }
    }
}

/// A page of a timeline.
#[derive(Debug)]
pub struct TimelinePage {
    /// The events, in the requested order.
    pub events: Vec<Arc<TimelineEvent>>,
    /// The start of the next page; `None` on the last page.
    pub end: Option<Position>,
}

/// The events hidden from a user while a timeline is read backwards.
///
/// They are skipped. But if one of them changed a piece of state, an older event for the same piece
/// cannot be shown: the client receives the state after all these events, and would take the older
/// event for the newer one.
#[derive(Debug, Default)]
pub struct HiddenEvents {
    state: HashSet<(TimelineEventType, String)>,
}

impl HiddenEvents {
    pub fn add(&mut self, pdu: &Pdu) {
        if let Some(state_key) = &pdu.state_key {
            self.state.insert((pdu.kind.clone(), state_key.clone()));
        }
    }

    /// Returns whether one of the hidden events replaced this older event.
    pub fn has_replaced(&self, pdu: &Pdu) -> bool {
        let state_key = pdu.state_key.as_ref();
        state_key.is_some_and(|key| self.state.contains(&(pdu.kind.clone(), key.clone())))
    }
}

/// The treatment of gaps, where this server lacks events of the timeline.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GapHandling {
    SkipGaps,
    EndAtGap,
}

/// A page that is being read.
struct PageReader<'a> {
    selection: TimelineSelection<'a>,
    request: PageRequest,
    gaps: GapHandling,
    /// The place of the newest gap at which the page must end.
    gap: Option<Position>,
    found: Vec<Arc<TimelineEvent>>,
    /// The place from which to continue.
    from: Position,
    hidden: HiddenEvents,
    hidden_in_a_row: usize,
}

/// Whether more events belong to a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PageProgress {
    Incomplete,
    /// More events follow on the next page.
    Complete,
    /// No more events follow.
    Last,
}

impl PageReader<'_> {
    /// Adds an event, if it is in the selection. `before` is the place at which the page ends if the
    /// event cannot be shown.
    fn add_event(&mut self, event: Arc<TimelineEvent>, before: Position) -> PageProgress {
        let TimelineSelection {
            room,
            access,
            wanted,
        } = self.selection;
        let is_visible = access.may_see(&event);
        if is_visible {
            self.hidden_in_a_row = 0;
        } else {
            self.hidden.add(&event.pdu);
            self.hidden_in_a_row += 1;
        }
        let ends_at_gap = self.gaps == GapHandling::EndAtGap;
        let is_shown = is_visible && !access.hides_event(&event.pdu) && wanted(&event.pdu);
        if is_shown && ends_at_gap && self.hidden.has_replaced(&event.pdu) {
            self.from = before;
            return PageProgress::Complete;
        }
        if is_shown {
            let event = access.redact_if_erased(event, &room.rules);
            self.found.push(event);
        }
        let is_hidden_here = ends_at_gap && self.hidden_in_a_row >= MAX_HIDDEN_IN_A_ROW;
        if is_hidden_here || self.found.len() >= self.request.limit {
            return PageProgress::Complete;
        }
        PageProgress::Incomplete
    }

    /// Returns the page, with the place from which to continue.
    fn into_page_with_end(self) -> TimelinePage {
        TimelinePage {
            events: self.found,
            end: Some(self.from),
        }
    }

    fn into_last_page(self) -> TimelinePage {
        TimelinePage {
            events: self.found,
            end: None,
        }
    }
}

impl Timeline {
    /// Returns a page of the selected events of a room's timeline.
    pub async fn load_page(
        &self,
        selection: TimelineSelection<'_>,
        request: PageRequest,
    ) -> Result<TimelinePage> {
        self.read_page(selection, GapHandling::SkipGaps, request)
            .await
    }

    /// Like [`Timeline::load_page`], read backwards, but the page ends where events are missing, and before
    /// an event that was replaced by one that the user may not see.
    pub async fn load_page_until_gap(
        &self,
        selection: TimelineSelection<'_>,
        request: PageRequest,
    ) -> Result<TimelinePage> {
        self.read_page(selection, GapHandling::EndAtGap, request)
            .await
    }

    async fn read_page(
        &self,
        selection: TimelineSelection<'_>,
        gaps: GapHandling,
        request: PageRequest,
    ) -> Result<TimelinePage> {
        let room = selection.room;
        let gap = match gaps {
            GapHandling::EndAtGap => self.find_newest_gap(room, request).await?,
            GapHandling::SkipGaps => None,
        };
        let mut page = PageReader {
            selection,
            request,
            gaps,
            gap,
            found: Vec::new(),
            from: request.from,
            hidden: HiddenEvents::default(),
            hidden_in_a_row: 0,
        };
        let mut looked_at = 0;
        while looked_at < MAX_READ_EVENTS {
            let rows = self.load_rows(room, page.from, request.dir).await?;
            let is_last = i64::try_from(rows.len()).unwrap_or(0) < ROWS_PER_QUERY;
            looked_at += rows.len();
            match self.add_rows(&mut page, rows).await? {
                PageProgress::Incomplete => {}
                PageProgress::Complete => return Ok(page.into_page_with_end()),
                PageProgress::Last => return Ok(page.into_last_page()),
            }
            if is_last && gap.is_none() {
                return Ok(page.into_last_page());
            }
            if is_last {
                break;
            }
        }
        Ok(page.into_page_with_end())
    }

    async fn add_rows(
        &self,
        page: &mut PageReader<'_>,
        rows: Vec<EventRow>,
    ) -> Result<PageProgress> {
        let (room, request) = (page.selection.room, page.request);
        for row in rows {
            // The gap is checked first: even if the reader knows this event, some events in
            // between are missing.
            if page.gap.is_some_and(|gap| row.timeline < gap) {
                return Ok(PageProgress::Complete);
            }
            if is_past_end(request.to, row.timeline, request.dir) {
                return Ok(PageProgress::Last);
            }
            let before = std::mem::replace(&mut page.from, place_after(&row, request.dir));
            if row.withheld {
                continue;
            }
            let event = self.load_event_from_row(room, row).await?;
            if page.add_event(event, before) == PageProgress::Complete {
                return Ok(PageProgress::Complete);
            }
        }
        Ok(PageProgress::Incomplete)
    }

    /// Returns the place of the newest gap within a page. Some events before that place are
    /// missing.
    async fn find_newest_gap(&self, room: &Room, request: PageRequest) -> Result<Option<Position>> {
        let mut conn = self.db.read().await?;
        let range = PositionRange {
            after: request.to.unwrap_or(Position::MIN),
            up_to: request.from,
        };
        let gaps = timeline_gaps::gaps_between(&mut conn, room.num, range, 1).await?;
        Ok(gaps.first().map(|gap| gap.timeline))
    }

    async fn load_rows(
        &self,
        room: &Room,
        from: Position,
        dir: Direction,
    ) -> Result<Vec<EventRow>> {
        let mut conn = self.db.read().await?;
        match dir {
            Direction::Backward => {
                events::before_place(&mut conn, room.num, from.next(), ROWS_PER_QUERY).await
            }
            Direction::Forward => {
                events::after_place(&mut conn, room.num, from, ROWS_PER_QUERY).await
            }
        }
    }

    /// Returns the event of a stored row, with the state event that it replaced and the redaction
    /// that applies to it.
    pub(crate) async fn load_event_from_row(
        &self,
        room: &Room,
        row: EventRow,
    ) -> Result<Arc<TimelineEvent>> {
        let in_memory = {
            let view = room.view();
            (row.timeline > view.ring_after)
                .then(|| {
                    view.ring
                        .iter()
                        .find(|event| event.timeline == row.timeline)
                        .cloned()
                })
                .flatten()
        };
        if let Some(event) = in_memory {
            return Ok(event);
        }
        let event_id = parse_event_id(&row.event_id)?;
        let pdu = Arc::new(Pdu::parse(event_id, &row.json)?);
        let mut conn = self.db.read().await?;
        let redaction = row.redacted_by.clone();
        let mut event = event_from_row(row, pdu, &room.rules);
        if let Some(redaction) = redaction {
            event.redacted_by = pdu_by_id(&mut conn, &redaction).await?.map(Arc::new);
        }
        if let Some(state_key) = event.pdu.state_key.clone() {
            event.state_before = Some(
                self.load_replaced_state(&mut conn, &event, &state_key)
                    .await?,
            );
        }
        Ok(Arc::new(event))
    }

    /// Returns the part of the state before an event that contains the state event it replaced.
    async fn load_replaced_state(
        &self,
        conn: &mut impl ReadAccess,
        event: &TimelineEvent,
        state_key: &str,
    ) -> Result<StateMap> {
        let mut before = StateMap::default();
        let strings = &self.db.strings;
        let kind = strings
            .find_number(conn, &event.pdu.kind.to_string())
            .await?;
        let key = strings.find_number(conn, state_key).await?;
        if let (Some(kind), Some(key)) = (kind, key)
            && let Some(row) = state_snapshots::state_event(conn, event.snapshot, kind, key).await?
            && let Some((event_id, json)) = row.event_id.zip(row.json)
        {
            before.insert(Arc::new(Pdu::parse(parse_event_id(&event_id)?, &json)?));
        }
        Ok(before)
    }

    /// Returns an event of a room, if the user may see it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the event does not exist, the user may not see it, or the user
    /// ignores its sender.
    pub async fn load_event(
        &self,
        room: &Room,
        access: &UserAccess,
        event_id: &EventId,
    ) -> Result<Arc<TimelineEvent>> {
        let event = self.load_visible_event(room, access, event_id).await?;
        if access.hides_event(&event.pdu) {
            return Err(no_such_event());
        }
        Ok(event)
    }

    /// Like [`Timeline::load_event`], but also returns events of ignored users.
    pub(crate) async fn load_visible_event(
        &self,
        room: &Room,
        access: &UserAccess,
        event_id: &EventId,
    ) -> Result<Arc<TimelineEvent>> {
        match self.find_event(room, event_id).await? {
            Some(event) if access.may_see(&event) => {
                Ok(access.redact_if_erased(event, &room.rules))
            }
            _ => Err(no_such_event()),
        }
    }

    /// Returns the room of an event.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the event does not exist.
    pub async fn find_room_of_event(&self, event_id: &EventId) -> Result<Arc<Room>> {
        let row = {
            let mut conn = self.db.read().await?;
            events::get(&mut conn, event_id.as_str()).await?
        };
        let row = row.ok_or_else(no_such_event)?;
        self.memory.room_by_number(row.room).await
    }

    /// Returns an event of a room's timeline, without checking that a user may see it.
    pub(crate) async fn find_event(
        &self,
        room: &Room,
        event_id: &EventId,
    ) -> Result<Option<Arc<TimelineEvent>>> {
        // A redaction that was withheld at first has two entries. The newest one is visible.
        let in_memory = room
            .view()
            .ring
            .iter()
            .rev()
            .find(|event| event.pdu.event_id == event_id)
            .cloned();
        if in_memory.is_some() {
            return Ok(in_memory);
        }
        let row = {
            let mut conn = self.db.read().await?;
            events::get(&mut conn, event_id.as_str()).await?
        };
        match row {
            Some(row) if row.room == room.num => {
                self.load_event_from_row(room, row).await.map(Some)
            }
            _ => Ok(None),
        }
    }
}

fn no_such_event() -> Error {
    Error::not_found("there is no such event, or you may not see it")
}

/// Returns the place from which to continue after an event.
fn place_after(row: &EventRow, dir: Direction) -> Position {
    match dir {
        Direction::Backward => row.timeline.previous(),
        Direction::Forward => row.timeline,
    }
}

pub(crate) fn is_past_end(to: Option<Position>, timeline: Position, dir: Direction) -> bool {
    match (to, dir) {
        (None, _) => false,
        (Some(to), Direction::Backward) => timeline <= to,
        (Some(to), Direction::Forward) => timeline > to,
    }
}
