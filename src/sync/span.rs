//! The part of a room's timeline that an answer shows.

use std::sync::Arc;

use ruma::events::TimelineEventType;

use super::moment::Inside;
use crate::{
    matrix::TimelineEvent,
    rooms::{Access, Bundles, Page},
    storage::Position,
};

/// A part of a room's timeline, and what the viewer was when its events were sent.
pub(super) struct Span {
    pub(super) events: Vec<Arc<TimelineEvent>>,
    pub(super) is_limited: bool,
    /// The place before the first event.
    pub(super) start: i64,
    pub(super) access: Option<Access>,
    /// What is told of the events that relate to these.
    pub(super) bundles: Bundles,
}

/// Returns the newest events of memory that the viewer wants, the newest first, as far as the viewer may see them
/// without a gap; `wants` answers `None` for what the viewer may not see.
pub(super) fn newest(
    inside: &Inside,
    since: Option<Position>,
    limit: usize,
    wants: impl Fn(&TimelineEvent) -> Option<bool>,
) -> Page {
    let lower = since.unwrap_or(i64::MIN);
    let mut events = Vec::new();
    for event in inside.ring.iter().rev() {
        if event.position <= lower || events.len() == limit {
            break;
        }
        if event.is_withheld {
            continue;
        }
        match wants(event) {
            Some(true) => events.push(event.clone()),
            Some(false) => {}
            None => {
                let end = Some(event.timeline);
                return Page { events, end };
            }
        }
    }
    Page { events, end: None }
}

impl Span {
    /// Makes a span of events that stand newest first, one more than `limit` if there are more. A page that ended
    /// before it had so many, because it looked at too much that was not wanted, is limited, too.
    pub(super) fn of_page(page: Page, limit: usize, end: i64, access: Option<Access>) -> Self {
        let mut events = page.events;
        let is_limited = events.len() > limit || page.end.is_some();
        let cut_at = page.end.filter(|_| events.len() <= limit);
        events.truncate(limit);
        events.reverse();
        let first = events.first().map_or(end, |first| first.timeline - 1);
        let start = cut_at.unwrap_or(first);
        Self {
            events,
            is_limited,
            start,
            access,
            bundles: Bundles::default(),
        }
    }
}

/// Returns whether a timeline begins with the room, and is a newcomer's whose first stay this is.
pub(super) fn is_whole(span: &Span) -> bool {
    let first = span.events.first().map(|event| &event.pdu);
    let begins = first.is_some_and(|pdu| pdu.is_state(&TimelineEventType::RoomCreate, ""));
    let stays = span.access.as_ref().map_or(1, Access::stays);
    begins && stays <= 1
}
