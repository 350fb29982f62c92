//! The part of a room's timeline that one user receives.

use std::sync::Arc;

use ruma::{
    EventId,
    api::{Direction, client::filter::EventFormat},
    events::room::member::MembershipState,
};

use super::{
    SyncEnvironment,
    snapshot::RoomContents,
    sync_viewer::SyncViewer,
    timeline_slice::{TimelineSlice, is_whole_timeline, newest_events},
};
use crate::{
    error::Result,
    matrix::Pdu,
    numbers::Position,
    rooms::{
        AggregationViewer, EventSources, PageRequest, Room, Rooms, TimelinePage, TimelineSelection,
        UserAccess, UserRoom,
    },
};

/// Reads the timelines of rooms for a sync. Cheap to clone.
#[derive(Clone)]
pub(super) struct TimelineReader {
    rooms: Rooms,
}

/// The new part of a room's timeline for a member.
pub(super) struct JoinedTimeline {
    pub(super) slice: TimelineSlice,
    /// The position from which the member knows the room.
    pub(super) since: Option<Position>,
}

/// The part of a timeline that a user who has left receives.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeftRange {
    /// The position up to which the user has received the room.
    pub(super) since: Option<Position>,
    /// The position at which the user left.
    pub(super) left_at: Position,
    /// The largest number of events.
    pub(super) limit: usize,
}

impl TimelineReader {
    pub(super) fn new(environment: &SyncEnvironment) -> Self {
        Self {
            rooms: environment.rooms.clone(),
        }
    }

    /// Returns the new part of a room's timeline for a member, and the position from which the member knows the room.
    pub(super) async fn joined_timeline(
        &self,
        viewer: &SyncViewer<'_>,
        user_room: &UserRoom,
        contents: &RoomContents,
    ) -> Result<JoinedTimeline> {
        let access = self.access_if_needed(viewer, user_room, contents).await?;
        let is_new = viewer.since().is_some_and(|since| {
            access
                .as_ref()
                .is_some_and(|access| access.membership_at(since) != MembershipState::Join)
        });
        let since = viewer.since().filter(|_| !is_new);
        let mut slice = self.timeline_slice(viewer, contents, since, access).await?;
        // A timeline that the client has from an earlier membership does not connect with this one.
        slice.is_limited |= is_new && !is_whole_timeline(&slice);
        self.add_bundles(viewer, &contents.room, &mut slice).await?;
        Ok(JoinedTimeline { slice, since })
    }

    /// Adds the aggregations of the events that relate to those of a timeline.
    pub(super) async fn add_bundles(
        &self,
        viewer: &SyncViewer<'_>,
        room: &Arc<Room>,
        slice: &mut TimelineSlice,
    ) -> Result<()> {
        let aggregation_viewer = AggregationViewer {
            access: slice.access.as_ref(),
            user: viewer.session.user,
            user_id: &viewer.session.user_id,
        };
        slice.bundles = self
            .rooms
            .relations
            .load_aggregations(room, aggregation_viewer, &slice.events)
            .await?;
        let ids = slice.events.iter().map(|event| &*event.pdu.event_id);
        slice.sources = self.event_sources(viewer, ids).await?;
        Ok(())
    }

    /// Returns events in the federation format, if the client asks for it.
    pub(super) async fn event_sources<'a>(
        &self,
        viewer: &SyncViewer<'_>,
        ids: impl Iterator<Item = &'a EventId>,
    ) -> Result<EventSources> {
        if viewer.request.filter.event_format != EventFormat::Federation {
            return Ok(EventSources::default());
        }
        self.rooms
            .timeline
            .load_event_sources(&ids.collect::<Vec<_>>())
            .await
    }

    /// Returns the new part of a room's timeline for a user who has left, up to the point where they left.
    pub(super) async fn left_timeline(
        &self,
        room: &Room,
        range: LeftRange,
        access: UserAccess,
        wanted: &(dyn Fn(&Pdu) -> bool + Sync),
    ) -> Result<TimelineSlice> {
        let LeftRange {
            since,
            left_at,
            limit,
        } = range;
        let request = PageRequest {
            from: left_at,
            to: since,
            dir: Direction::Backward,
            limit: limit + 1,
        };
        let selection = TimelineSelection {
            room,
            access: &access,
            wanted,
        };
        let timeline = &self.rooms.timeline;
        let page = timeline.load_page_until_gap(selection, request).await?;
        Ok(TimelineSlice::from_page(page, limit, left_at, Some(access)))
    }

    /// Returns the viewer's access, or `None` if the viewer was a member the whole time and may see everything.
    async fn access_if_needed(
        &self,
        viewer: &SyncViewer<'_>,
        user_room: &UserRoom,
        contents: &RoomContents,
    ) -> Result<Option<UserAccess>> {
        let first = contents
            .latest_events
            .len()
            .saturating_sub(viewer.timeline_limit());
        let first = contents
            .latest_events
            .get(first)
            .map_or(Position::MAX, |event| event.position);
        let was_there = match viewer.since() {
            Some(since) => user_room.position <= since,
            None => user_room.position <= first && viewer.wants_all_events(),
        };
        if was_there
            && (contents.is_complete || contents.latest_events.len() > viewer.timeline_limit())
        {
            return Ok(None);
        }
        let session = viewer.session;
        self.rooms
            .access
            .load_access(&contents.room, session.user, &session.user_id)
            .await
            .map(Some)
    }

    /// Returns the events to send: the newest that the viewer wants and may see.
    async fn timeline_slice(
        &self,
        viewer: &SyncViewer<'_>,
        contents: &RoomContents,
        since: Option<Position>,
        access: Option<UserAccess>,
    ) -> Result<TimelineSlice> {
        let limit = viewer.timeline_limit();
        let page = newest_events(contents, since, limit + 1, |event| {
            let is_visible = access.as_ref().is_none_or(|access| access.may_see(event));
            is_visible.then(|| viewer.wants_event(&event.pdu))
        });
        // A new member receives more than the events after the token, so the events in memory may start too late.
        let holds_all = contents.is_complete && (since.is_some() || viewer.since().is_none());
        if page.events.len() <= limit && page.end.is_none() && !holds_all {
            let access = if let Some(access) = access {
                access
            } else {
                let session = viewer.session;
                self.rooms
                    .access
                    .load_access(&contents.room, session.user, &session.user_id)
                    .await?
            };
            let request = PageRequest {
                from: viewer.now,
                to: since,
                dir: Direction::Backward,
                limit: limit + 1,
            };
            let wanted = |pdu: &Pdu| viewer.wants_event(pdu);
            let selection = TimelineSelection {
                room: &contents.room,
                access: &access,
                wanted: &wanted,
            };
            let timeline = &self.rooms.timeline;
            let page = timeline.load_page_until_gap(selection, request).await?;
            return Ok(TimelineSlice::from_page(
                page,
                limit,
                viewer.now,
                Some(access),
            ));
        }
        let redact = |event| match &access {
            Some(access) => access.redact_if_erased(event, &contents.room.rules),
            None => event,
        };
        let page = TimelinePage {
            events: page.events.into_iter().map(redact).collect(),
            end: page.end,
        };
        Ok(TimelineSlice::from_page(page, limit, viewer.now, access))
    }
}
