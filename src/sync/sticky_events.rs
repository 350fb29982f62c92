//! The sticky events that a client has not received in a timeline.
//!
//! See [MSC4354](https://github.com/matrix-org/matrix-spec-proposals/pull/4354).

use std::{collections::HashSet, sync::Arc};

use ruma::{
    OwnedRoomId, RoomId,
    api::client::{filter::RoomFilter, sync::sync_events::v3::Response},
    events::AnySyncTimelineEvent,
    serde::Raw,
};

use super::{
    SyncEnvironment, sync_viewer::SyncViewer, timeline_reader::TimelineReader,
    timeline_slice::TimelineSlice,
};
use crate::{
    error::Result,
    matrix::{TimelineEvent, wants_room},
    numbers::{Position, PositionRange, RoomNum},
    rooms::{AggregationsByEvent, Rooms},
};

/// The largest number of sticky events in one response, besides those of rooms that the user has just joined.
const MAX_STICKY_EVENTS: usize = 1_000;

/// Reads sticky events for a response. Cheap to clone.
#[derive(Clone)]
pub(super) struct StickySections {
    rooms: Rooms,
    timelines: TimelineReader,
}

/// A selection of sticky events.
#[derive(Clone, Copy)]
pub(super) struct StickySelection<'a> {
    pub(super) range: PositionRange,
    pub(super) limit: usize,
    pub(super) rooms: StickyRooms<'a>,
}

/// The rooms whose sticky events a client wants.
#[derive(Clone, Copy)]
pub(super) enum StickyRooms<'a> {
    Filtered(&'a RoomFilter),
    Among(&'a HashSet<RoomNum>),
}

/// A sticky event as a client receives it.
pub(super) struct FormattedStickyEvent {
    pub(super) room_id: OwnedRoomId,
    pub(super) event: Raw<AnySyncTimelineEvent>,
}

/// The sticky events of a response.
pub(super) struct FormattedStickyEvents {
    pub(super) events: Vec<FormattedStickyEvent>,
    /// The position up to which the client then has all of them.
    pub(super) up_to: Position,
}

impl StickyRooms<'_> {
    fn may_contain(&self, room: RoomNum) -> bool {
        match self {
            Self::Filtered(_) => true,
            Self::Among(rooms) => rooms.contains(&room),
        }
    }

    /// Returns whether a room that may be among them is.
    fn contain_id(&self, room_id: &RoomId) -> bool {
        match self {
            Self::Filtered(filter) => wants_room(filter, room_id),
            Self::Among(_) => true,
        }
    }
}

impl StickySections {
    pub(super) fn new(environment: &SyncEnvironment, timelines: &TimelineReader) -> Self {
        Self {
            rooms: environment.rooms.clone(),
            timelines: timelines.clone(),
        }
    }

    /// Adds the sticky events to a response of `/sync`, whose timelines are complete. Returns the position up to which
    /// the client then has all of them.
    pub(super) async fn add_sticky_events(
        &self,
        viewer: &SyncViewer<'_>,
        response: &mut Response,
    ) -> Result<Position> {
        let since = viewer.request.since;
        let selection = StickySelection {
            range: PositionRange {
                after: since.map_or(Position::ZERO, |since| since.sticky),
                up_to: viewer.now,
            },
            limit: MAX_STICKY_EVENTS,
            rooms: StickyRooms::Filtered(&viewer.request.filter.room),
        };
        let found = self.read_sticky_events(viewer, selection).await?;
        for FormattedStickyEvent { room_id, event } in found.events {
            let joined = response.rooms.join.entry(room_id).or_default();
            joined.sticky.events.push(event);
        }
        Ok(found.up_to)
    }

    /// Returns the sticky events that are in none of the timelines which were written for a viewer.
    ///
    /// The timeline filter does not apply to them, and neither does history visibility. Those of ignored users are left
    /// out.
    pub(super) async fn read_sticky_events(
        &self,
        viewer: &SyncViewer<'_>,
        selection: StickySelection<'_>,
    ) -> Result<FormattedStickyEvents> {
        let user = viewer.session.user;
        let page = self
            .rooms
            .sticky_events
            .find_events(user, selection.range, selection.limit)
            .await?;
        let mut shown = page.events;
        shown.retain(|shown| {
            selection.rooms.may_contain(shown.event.room)
                && !viewer.has_sent_sticky(&shown.event.event_id)
        });
        let mut events = self.rooms.sticky_events.load_events(&shown).await?;
        let ignores = |event: &TimelineEvent| {
            let settings = viewer.ignore_settings.as_ref();
            settings.is_some_and(|settings| settings.hides_event(&event.pdu))
        };
        events.retain(|event| selection.rooms.contain_id(&event.pdu.room_id) && !ignores(event));
        let ids = events.iter().map(|event| &*event.pdu.event_id);
        let sources = self.timelines.event_sources(viewer, ids).await?;
        let slice = TimelineSlice {
            events: Vec::new(),
            is_limited: false,
            start: Position::ZERO,
            access: None,
            bundles: AggregationsByEvent::default(),
            sources,
        };
        let format = |event: &Arc<TimelineEvent>| FormattedStickyEvent {
            room_id: event.pdu.room_id.clone(),
            event: Raw::from_json(viewer.format_event(event, &slice)),
        };
        Ok(FormattedStickyEvents {
            events: events.iter().map(format).collect(),
            up_to: page.up_to,
        })
    }
}
