//! The user and the request for which a response is written, and the events as they receive them.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use ruma::{
    EventId, OwnedEventId,
    api::client::{
        filter::{LazyLoadOptions, RoomEventFilter},
        sync::sync_events::v3::Timeline,
    },
    serde::Raw,
};
use serde_json::value::RawValue;

use super::{
    SyncRequest, event_fields, event_format::EventFormatter, timeline_slice::TimelineSlice,
    timeline_token,
};
use crate::{
    matrix::{self, IgnoreSettings, Pdu, TimelineEvent, UnsignedFields, wants_event},
    numbers::Position,
    rooms::{EventSources, Room},
    users::Session,
};

/// The number of timeline events when the client sets no limit.
const DEFAULT_LIMIT: usize = 10;
/// The largest number of timeline events.
const MAX_LIMIT: usize = 1_000;

/// The user and the request for which a room is read.
pub(super) struct SyncViewer<'a> {
    pub(super) session: &'a Session,
    pub(super) request: &'a SyncRequest,
    /// The position up to which the room is read.
    pub(super) now: Position,
    pub(super) now_ms: i64,
    /// The users and events that the user does not want to see.
    pub(super) ignore_settings: Option<Arc<IgnoreSettings>>,
    pub(super) sent_events: &'a SentEvents,
}

/// A record of the events that a response contains.
#[derive(Default)]
pub(super) struct SentEvents {
    has_own_events: AtomicBool,
    sticky_events: Mutex<HashSet<OwnedEventId>>,
}

impl SentEvents {
    /// Returns whether the response contains events of the user's own.
    pub(super) fn has_own_events(&self) -> bool {
        self.has_own_events.load(Ordering::Relaxed)
    }

    fn record(&self, event: &TimelineEvent, is_own: bool) {
        if is_own {
            self.has_own_events.store(true, Ordering::Relaxed);
        }
        if event.pdu.sticky.is_some() {
            let sticky_events = self.sticky_events.lock();
            let mut sticky_events = sticky_events.unwrap_or_else(PoisonError::into_inner);
            sticky_events.insert(event.pdu.event_id.clone());
        }
    }
}

impl SyncViewer<'_> {
    /// Returns whether an event belongs in a timeline.
    pub(super) fn wants_event(&self, pdu: &Pdu) -> bool {
        wants_event(self.timeline_filter(), pdu)
            && !self
                .ignore_settings
                .as_ref()
                .is_some_and(|ignore_settings| ignore_settings.hides_event(pdu))
    }

    /// Returns whether every event belongs in a timeline.
    pub(super) fn wants_all_events(&self) -> bool {
        let ignores = |ignore_settings: &Arc<IgnoreSettings>| ignore_settings.ignores_anyone();
        // The limit does not affect whether one event is included.
        let mut filter = self.timeline_filter().clone();
        filter.limit = None;
        filter.is_empty() && !self.ignore_settings.as_ref().is_some_and(ignores)
    }

    /// Returns whether a sticky event was written already.
    pub(super) fn has_sent_sticky(&self, event_id: &EventId) -> bool {
        let sticky_events = self.sent_events.sticky_events.lock();
        let sticky_events = sticky_events.unwrap_or_else(PoisonError::into_inner);
        sticky_events.contains(event_id)
    }

    pub(super) fn since(&self) -> Option<Position> {
        self.request.since.map(|since| since.position)
    }

    fn timeline_filter(&self) -> &RoomEventFilter {
        &self.request.filter.room.timeline
    }

    /// Returns the largest number of events of a timeline.
    pub(super) fn timeline_limit(&self) -> usize {
        let limit = self.timeline_filter().limit.map(u64::from);
        limit.map_or(DEFAULT_LIMIT, |limit| {
            usize::try_from(limit).unwrap_or(MAX_LIMIT).min(MAX_LIMIT)
        })
    }

    /// Returns whether members that the client knows are sent again; `None` if members are not loaded lazily.
    pub(super) fn includes_redundant_members(&self) -> Option<bool> {
        match &self.request.filter.room.state.lazy_load_options {
            LazyLoadOptions::Enabled {
                include_redundant_members,
            } => Some(*include_redundant_members),
            LazyLoadOptions::Disabled => None,
        }
    }

    /// Writes a timeline event as this viewer receives it.
    pub(super) fn format_event(
        &self,
        event: &TimelineEvent,
        slice: &TimelineSlice,
    ) -> Box<RawValue> {
        let is_own = event.pdu.sender == self.session.user_id;
        self.sent_events.record(event, is_own);
        let formatter = EventFormatter {
            session: self.session,
            access: slice.access.as_ref(),
            bundles: &slice.bundles,
            now_ms: self.now_ms,
            room_id: None,
            sources: &slice.sources,
        };
        event_fields::keep_fields(
            formatter.format_event(event),
            self.request.filter.event_fields.as_deref(),
        )
    }

    /// Writes a state event.
    pub(super) fn format_state_event(&self, pdu: &Pdu, room: &Room) -> Box<RawValue> {
        self.format_state_event_from(pdu, room, &EventSources::default())
    }

    /// Writes a state event; in the federation format if it is in `sources`.
    pub(super) fn format_state_event_from(
        &self,
        pdu: &Pdu,
        room: &Room,
        sources: &EventSources,
    ) -> Box<RawValue> {
        let age = (self.now_ms - i64::from(pdu.origin_server_ts.0)).max(0);
        let unsigned = UnsignedFields {
            age: Some(age),
            ..UnsignedFields::default()
        };
        let source = sources.get(&pdu.event_id);
        let json = source.and_then(|source| matrix::federation_event(source, pdu, &unsigned));
        let as_client =
            || matrix::sync_event(&matrix::write_event_head(pdu, &room.rules), &unsigned);
        let json = json.unwrap_or_else(as_client);
        event_fields::keep_fields(json, self.request.filter.event_fields.as_deref())
    }
}

/// Writes a part of a room's timeline.
pub(super) fn write_timeline(viewer: &SyncViewer<'_>, slice: &TimelineSlice) -> Timeline {
    let mut timeline = Timeline::new();
    timeline.limited = slice.is_limited;
    timeline.prev_batch = Some(timeline_token(slice.start));
    timeline.events = slice
        .events
        .iter()
        .map(|event| Raw::from_json(viewer.format_event(event, slice)))
        .collect();
    timeline
}
