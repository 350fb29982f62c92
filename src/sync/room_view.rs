//! The part of one room that one user receives.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ruma::{
    EventId, OwnedRoomId, OwnedUserId,
    api::{
        Direction,
        client::{
            filter::{EventFormat, LazyLoadOptions, RoomEventFilter},
            sync::sync_events::v3::{JoinedRoom, LeftRoom, State, StateEvents, Timeline},
        },
    },
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
    serde::Raw,
};
use serde_json::value::RawValue;

use super::{
    SyncInner, SyncRequest, event_fields,
    event_format::EventFormatter,
    snapshot::{RoomContents, RoomSnapshot},
    summary::{changes_summary, summary},
    timeline_slice::{TimelineSlice, is_whole_timeline, newest_events},
    timeline_token,
};
use crate::{
    error::Result,
    matrix::{self, IgnoreSettings, Pdu, StateMap, TimelineEvent, UnsignedFields, wants_event},
    rooms::{
        AggregationViewer, EventSources, PageRequest, Room, TimelinePage, UserAccess, UserRoom,
    },
    storage::Position,
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
    /// Whether a response contains events of the user's own.
    pub(super) has_own_events: &'a AtomicBool,
}

impl SyncViewer<'_> {
    /// Returns whether an event belongs in a timeline.
    pub(super) fn wants_event(&self, pdu: &Pdu) -> bool {
        wants_event(self.timeline_filter(), pdu)
            && !self
                .ignore_settings
                .as_ref()
                .is_some_and(|shield| shield.hides_event(pdu))
    }

    /// Returns whether every event belongs in a timeline.
    fn wants_all_events(&self) -> bool {
        let ignores = |shield: &Arc<IgnoreSettings>| shield.ignores_anyone();
        // The limit does not affect whether one event is included.
        let mut filter = self.timeline_filter().clone();
        filter.limit = None;
        filter.is_empty() && !self.ignore_settings.as_ref().is_some_and(ignores)
    }

    fn since(&self) -> Option<Position> {
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

    fn redundant_members_option(&self) -> Option<bool> {
        match &self.request.filter.room.state.lazy_load_options {
            LazyLoadOptions::Enabled {
                include_redundant_members,
            } => Some(*include_redundant_members),
            LazyLoadOptions::Disabled => None,
        }
    }

    /// Writes a timeline event as this viewer receives it.
    fn format_event(&self, event: &TimelineEvent, span: &TimelineSlice) -> Box<RawValue> {
        if event.pdu.sender == self.session.user_id {
            self.has_own_events.store(true, Ordering::Relaxed);
        }
        let showing = EventFormatter {
            session: self.session,
            access: span.access.as_ref(),
            bundles: &span.bundles,
            now_ms: self.now_ms,
            room_id: None,
            sources: &span.sources,
        };
        event_fields::keep_fields(
            showing.format_event(event),
            self.request.filter.event_fields.as_deref(),
        )
    }

    /// Writes a state event.
    pub(super) fn format_state_event(&self, pdu: &Pdu, room: &Room) -> Box<RawValue> {
        self.format_state_event_from(pdu, room, &EventSources::default())
    }

    /// Writes a state event; in the federation format if it is in `event_sources`.
    fn format_state_event_from(
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

/// The part of a room that a member receives.
pub(super) struct JoinedRoomChanges {
    pub(super) room: JoinedRoom,
    /// Whether the user has joined the room since the client's token.
    pub(super) is_new: bool,
}

impl SyncInner {
    /// Returns the part of a room that a member receives.
    pub(super) async fn joined_room(
        &self,
        viewer: &SyncViewer<'_>,
        mine: &UserRoom,
        inside: &RoomContents,
    ) -> Result<JoinedRoomChanges> {
        let (room, user) = (&inside.room, viewer.session.user);
        let (span, since) = self.joined_timeline(viewer, mine, inside).await?;
        let mut joined = JoinedRoom::new();
        joined.timeline = write_timeline(viewer, &span);
        joined.state = self.joined_state(viewer, inside, since, &span).await?;
        if since.is_none()
            || viewer.request.full_state
            || changes_summary(&inside.latest_events)
            || span.is_limited
        {
            joined.summary = summary(inside, &viewer.session.user_id);
        }
        self.add_unread(viewer, (mine, inside), &mut joined).await?;
        tracing::trace!(room_id = %room.room_id, %user, count = span.events.len(), "room added to a sync response");
        Ok(JoinedRoomChanges {
            room: joined,
            is_new: viewer.since().is_some() && since.is_none(),
        })
    }

    /// Returns the new part of a room's timeline for a member, and the position from which the member knows the room.
    pub(super) async fn joined_timeline(
        &self,
        viewer: &SyncViewer<'_>,
        mine: &UserRoom,
        inside: &RoomContents,
    ) -> Result<(TimelineSlice, Option<Position>)> {
        let access = self.access_if_needed(viewer, mine, inside).await?;
        let is_new = viewer.since().is_some_and(|since| {
            access
                .as_ref()
                .is_some_and(|access| access.membership_at(since) != MembershipState::Join)
        });
        let since = viewer.since().filter(|_| !is_new);
        let mut span = self.timeline_slice(viewer, inside, since, access).await?;
        // A timeline that the client has from an earlier membership does not connect with this one.
        span.is_limited |= is_new && !is_whole_timeline(&span);
        self.add_bundles(viewer, &inside.room, &mut span).await?;
        Ok((span, since))
    }

    /// Returns the part of a room that a user who has left receives.
    pub(super) async fn left_room(
        &self,
        viewer: &SyncViewer<'_>,
        mine: &UserRoom,
        inside: &RoomContents,
    ) -> Result<LeftRoom> {
        let (room, session) = (&inside.room, viewer.session);
        let access = self
            .rooms
            .access
            .load_access(room, session.user, &session.user_id)
            .await?;
        let was_in = viewer
            .since()
            .is_some_and(|since| access.membership_at(since) == MembershipState::Join);
        let since = viewer.since().filter(|_| was_in);
        let mut left = LeftRoom::new();
        if !access.has_ever_joined() || mine.forgotten {
            // The user rejected an invite or forgot the room: they may only learn that they left.
            let own =
                |pdu: &Pdu| pdu.is_state(&TimelineEventType::RoomMember, session.user_id.as_str());
            let span = self
                .left_timeline(
                    room,
                    (viewer.since(), mine.position),
                    viewer.timeline_limit(),
                    access,
                    &own,
                )
                .await?;
            left.timeline = write_timeline(viewer, &span);
            left.timeline.limited = false;
            if left.timeline.events.is_empty() && !mine.forgotten {
                let leave = self
                    .rooms
                    .remote_memberships
                    .remote_leave_event(room, session.user)
                    .await?;
                left.timeline.events.extend(leave.map(Raw::from_json));
            }
            return Ok(left);
        }
        let wanted = |pdu: &Pdu| viewer.wants_event(pdu);
        let mut span = self
            .left_timeline(
                room,
                (since, mine.position),
                viewer.timeline_limit(),
                access,
                &wanted,
            )
            .await?;
        self.add_bundles(viewer, room, &mut span).await?;
        left.timeline = write_timeline(viewer, &span);
        let end = self.rooms.state.state_at(room, mine.position).await?;
        left.state = self
            .state_besides_timeline(viewer, room, since, &span, (mine.position, &end))
            .await?;
        Ok(left)
    }

    /// Adds the aggregations of the events that relate to those of a timeline.
    pub(super) async fn add_bundles(
        &self,
        viewer: &SyncViewer<'_>,
        room: &Arc<Room>,
        span: &mut TimelineSlice,
    ) -> Result<()> {
        let audience = AggregationViewer {
            access: span.access.as_ref(),
            user: viewer.session.user,
            user_id: &viewer.session.user_id,
        };
        span.bundles = self
            .rooms
            .relations
            .load_aggregations(room, audience, &span.events)
            .await?;
        let ids = span.events.iter().map(|event| &*event.pdu.event_id);
        span.sources = self.event_sources(viewer, ids).await?;
        Ok(())
    }

    /// Returns events in the federation format, if the client asks for it.
    async fn event_sources<'a>(
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
        (since, left_at): (Option<Position>, Position),
        limit: usize,
        access: UserAccess,
        wanted: &(dyn Fn(&Pdu) -> bool + Sync),
    ) -> Result<TimelineSlice> {
        let request = PageRequest {
            from: left_at,
            to: since,
            dir: Direction::Backward,
            limit: limit + 1,
        };
        let page = self
            .rooms
            .timeline
            .load_page_until_gap(room, &access, request, wanted)
            .await?;
        Ok(TimelineSlice::from_page(page, limit, left_at, Some(access)))
    }

    /// Returns the viewer's access, or `None` if the viewer was a member the whole time and may see everything.
    async fn access_if_needed(
        &self,
        viewer: &SyncViewer<'_>,
        mine: &UserRoom,
        inside: &RoomContents,
    ) -> Result<Option<UserAccess>> {
        let first = inside
            .latest_events
            .len()
            .saturating_sub(viewer.timeline_limit());
        let first = inside
            .latest_events
            .get(first)
            .map_or(i64::MAX, |event| event.position);
        let was_there = match viewer.since() {
            Some(since) => mine.position <= since,
            None => mine.position <= first && viewer.wants_all_events(),
        };
        if was_there && (inside.is_complete || inside.latest_events.len() > viewer.timeline_limit())
        {
            return Ok(None);
        }
        let session = viewer.session;
        self.rooms
            .access
            .load_access(&inside.room, session.user, &session.user_id)
            .await
            .map(Some)
    }

    /// Returns the events to send: the newest that the viewer wants and may see.
    async fn timeline_slice(
        &self,
        viewer: &SyncViewer<'_>,
        inside: &RoomContents,
        since: Option<Position>,
        access: Option<UserAccess>,
    ) -> Result<TimelineSlice> {
        let limit = viewer.timeline_limit();
        let page = newest_events(inside, since, limit + 1, |event| {
            let is_visible = access.as_ref().is_none_or(|access| access.may_see(event));
            is_visible.then(|| viewer.wants_event(&event.pdu))
        });
        // A new member receives more than the events after the token, so the events in memory may start too late.
        let holds_all = inside.is_complete && (since.is_some() || viewer.since().is_none());
        if page.events.len() <= limit && page.end.is_none() && !holds_all {
            let access = if let Some(access) = access {
                access
            } else {
                let session = viewer.session;
                self.rooms
                    .access
                    .load_access(&inside.room, session.user, &session.user_id)
                    .await?
            };
            let request = PageRequest {
                from: viewer.now,
                to: since,
                dir: Direction::Backward,
                limit: limit + 1,
            };
            let wanted = |pdu: &Pdu| viewer.wants_event(pdu);
            let page = self
                .rooms
                .timeline
                .load_page_until_gap(&inside.room, &access, request, &wanted)
                .await?;
            return Ok(TimelineSlice::from_page(
                page,
                limit,
                viewer.now,
                Some(access),
            ));
        }
        let seen = |event| match &access {
            Some(access) => access.redact_if_erased(event, &inside.room.rules),
            None => event,
        };
        let page = TimelinePage {
            events: page.events.into_iter().map(seen).collect(),
            end: page.end,
        };
        Ok(TimelineSlice::from_page(page, limit, viewer.now, access))
    }

    async fn joined_state(
        &self,
        viewer: &SyncViewer<'_>,
        inside: &RoomContents,
        since: Option<Position>,
        span: &TimelineSlice,
    ) -> Result<State> {
        self.state_besides_timeline(
            viewer,
            &inside.room,
            since,
            span,
            (viewer.now, &inside.state),
        )
        .await
    }

    /// Returns the state that the client needs besides the timeline.
    ///
    /// `end` is the position up to which the timeline extends, and the state there.
    async fn state_besides_timeline(
        &self,
        viewer: &SyncViewer<'_>,
        room: &Room,
        since: Option<Position>,
        span: &TimelineSlice,
        (end, end_state): (Position, &StateMap),
    ) -> Result<State> {
        let is_after = viewer.request.use_state_after;
        let start = match span.events.first() {
            Some(first) if !is_after => match &first.state_before {
                Some(state) if state.get(&StateEventType::RoomCreate, "").is_some() => {
                    state.clone()
                }
                _ => self.rooms.state.state_at(room, span.start).await?,
            },
            _ => end_state.clone(),
        };
        let since = since.filter(|_| !viewer.request.full_state);
        let mut events: Vec<Arc<Pdu>> = match since {
            None => start.iter().cloned().collect(),
            Some(since) => {
                let up_to = if is_after || span.events.is_empty() {
                    end
                } else {
                    span.start
                };
                self.rooms
                    .state
                    .state_changes(room, &start, since, up_to)
                    .await?
            }
        };
        if !is_after {
            for pdu in self
                .changes_missing_from_timeline(room, span, end_state, end)
                .await?
            {
                events.retain(|older| !has_same_state_key(older, &pdu));
                events.push(pdu);
            }
        }
        if viewer.redundant_members_option().is_some() {
            self.apply_lazy_loading(viewer, &mut events, (span, &start), since);
        }
        let filter = &viewer.request.filter.room.state;
        events.retain(|pdu| wants_event(filter, pdu));
        let ids = events.iter().map(|pdu| &*pdu.event_id);
        let sources = self.event_sources(viewer, ids).await?;
        let shown = events
            .iter()
            .map(|pdu| Raw::from_json(viewer.format_state_event_from(pdu, room, &sources)))
            .collect::<Vec<_>>();
        let shown = StateEvents::with_events(shown);
        Ok(if is_after {
            State::After(shown)
        } else {
            State::Before(shown)
        })
    }

    /// Returns the state that changed during the timeline by an event that the timeline does not contain. Such an event
    /// is excluded by the filter, may not be seen by the user, was sent in a gap, or came from a fork.
    async fn changes_missing_from_timeline(
        &self,
        room: &Room,
        span: &TimelineSlice,
        end_state: &StateMap,
        end: Position,
    ) -> Result<Vec<Arc<Pdu>>> {
        let mut changed = self
            .rooms
            .state
            .state_changes(room, end_state, span.start, end)
            .await?;
        changed.retain(|pdu| {
            !span
                .events
                .iter()
                .any(|event| event.pdu.event_id == pdu.event_id)
        });
        Ok(changed)
    }

    /// Adds the members whose events the client receives. If the client receives all the state, it removes all other
    /// members, except the user themselves.
    fn apply_lazy_loading(
        &self,
        viewer: &SyncViewer<'_>,
        events: &mut Vec<Arc<Pdu>>,
        (span, state): (&TimelineSlice, &StateMap),
        since: Option<Position>,
    ) {
        let session = viewer.session;
        let senders = span.events.iter().map(|event| event.pdu.sender.clone());
        let mut needed: HashSet<OwnedUserId> = senders.collect();
        if since.is_none() {
            events.retain(|pdu| match pdu.member() {
                Some(member) => member == session.user_id || needed.contains(member),
                None => true,
            });
        }
        let known_at = viewer.since().unwrap_or(0);
        let give = |pdu: &Pdu| {
            self.lazy_members
                .record_sent(session.device, &pdu.event_id, known_at, viewer.now)
        };
        for pdu in events.iter() {
            if let Some(member) = pdu.member() {
                needed.remove(member);
                give(pdu);
            }
        }
        let with_redundant = viewer.redundant_members_option() == Some(true);
        for member in needed {
            if let Some(pdu) = state.member(&member)
                && (give(pdu) || with_redundant)
            {
                events.push(pdu.clone());
            }
        }
    }
}

fn has_same_state_key(one: &Pdu, other: &Pdu) -> bool {
    one.kind == other.kind && one.state_key == other.state_key
}

/// Writes a part of a room's timeline.
pub(super) fn write_timeline(viewer: &SyncViewer<'_>, span: &TimelineSlice) -> Timeline {
    let mut timeline = Timeline::new();
    timeline.limited = span.is_limited;
    timeline.prev_batch = Some(timeline_token(span.start));
    timeline.events = span
        .events
        .iter()
        .map(|event| Raw::from_json(viewer.format_event(event, span)))
        .collect();
    timeline
}

/// Returns a room's id, for the maps of a response.
pub(super) async fn room_id(inner: &SyncInner, moment: &RoomSnapshot) -> Result<OwnedRoomId> {
    match (&moment.contents, &moment.mine.removed) {
        (Some(inside), _) => Ok(inside.room.room_id.clone()),
        (None, Some(removed)) => Ok(removed.room_id.clone()),
        (None, None) => inner.rooms.memory.room_id(moment.num).await,
    }
}
