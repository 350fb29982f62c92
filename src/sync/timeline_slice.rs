//! The part of a room's timeline that a response contains.

use std::sync::Arc;

use ruma::events::TimelineEventType;

use super::snapshot::RoomContents;
use crate::{
    matrix::TimelineEvent,
    numbers::Position,
    rooms::{AggregationsByEvent, EventSources, HiddenEvents, TimelinePage, UserAccess},
};

/// A part of a room's timeline, and the viewer's access to its events.
pub(super) struct TimelineSlice {
    pub(super) events: Vec<Arc<TimelineEvent>>,
    pub(super) is_limited: bool,
    /// The point before the first event.
    pub(super) start: Position,
    pub(super) access: Option<UserAccess>,
    /// The aggregations of the events that relate to these.
    pub(super) bundles: AggregationsByEvent,
    /// The events in the federation format, if the client asks for it.
    pub(super) sources: EventSources,
}

/// Returns the newest events in memory that the viewer wants, the newest first. `wants` returns `None` for an event
/// that the viewer may not see. The events stop before one that one of them has replaced.
pub(super) fn newest_events(
    contents: &RoomContents,
    since: Option<Position>,
    limit: usize,
    wants: impl Fn(&TimelineEvent) -> Option<bool>,
) -> TimelinePage {
    let lower = since.unwrap_or(Position::MIN);
    let mut events = Vec::new();
    let mut hidden = HiddenEvents::default();
    let mut end = None;
    for event in contents.latest_events.iter().rev() {
        if event.position <= lower || events.len() == limit {
            break;
        }
        if event.is_withheld {
            continue;
        }
        match wants(event) {
            Some(true) if hidden.has_replaced(&event.pdu) => {
                end = Some(event.timeline);
                break;
            }
            Some(true) => events.push(event.clone()),
            Some(false) => {}
            None => hidden.add(&event.pdu),
        }
    }
    TimelinePage { events, end }
}

impl TimelineSlice {
    /// Makes a slice from a page of events, the newest first, that has one more than `limit` if there are more. A page
    /// that stopped early because it examined too many unwanted events makes a limited slice, too.
    pub(super) fn from_page(
        page: TimelinePage,
        limit: usize,
        end: Position,
        access: Option<UserAccess>,
    ) -> Self {
        let mut events = page.events;
        let is_limited = events.len() > limit || page.end.is_some();
        let cut_at = page.end.filter(|_| events.len() <= limit);
        events.truncate(limit);
        events.reverse();
        let first = events
            .first()
            .map_or(end, |first| first.timeline.previous());
        let start = cut_at.unwrap_or(first);
        Self {
            events,
            is_limited,
            start,
            access,
            bundles: AggregationsByEvent::default(),
            sources: EventSources::default(),
        }
    }
}

/// Returns whether a timeline starts with the creation of the room and the viewer joined for the first time.
pub(super) fn is_whole_timeline(slice: &TimelineSlice) -> bool {
    let first = slice.events.first().map(|event| &event.pdu);
    let begins = first.is_some_and(|pdu| pdu.is_state(&TimelineEventType::RoomCreate, ""));
    let stays = slice
        .access
        .as_ref()
        .map_or(1, UserAccess::count_join_periods);
    begins && stays <= 1
}
