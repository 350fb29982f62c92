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
    Inner, SyncRequest, event_fields,
    event_format::Showing,
    place_token,
    snapshot::{Inside, RoomMoment},
    summary::{changes_summary, summary},
    timeline_slice::{Span, is_whole, newest},
};
use crate::{
    error::Result,
    matrix::{self, Pdu, Shield, StateMap, TimelineEvent, Unsigned, wants_event},
    rooms::{Access, Audience, EventSources, Page, PageRequest, Room, UserRoom},
    storage::Position,
    users::Session,
};

/// The number of timeline events when the client sets no limit.
const DEFAULT_LIMIT: usize = 10;
/// The largest number of timeline events.
const MAX_LIMIT: usize = 1_000;

/// The user and the request for which a room is read.
pub(super) struct Viewer<'a> {
    pub(super) session: &'a Session,
    pub(super) request: &'a SyncRequest,
    /// The position up to which the room is read.
    pub(super) now: Position,
    pub(super) now_ms: i64,
    /// The users and events that the user does not want to see.
    pub(super) shield: Option<Arc<Shield>>,
    /// Whether a response contains events of the user's own.
    pub(super) shows_own: &'a AtomicBool,
}

impl Viewer<'_> {
    /// Returns whether an event belongs in a timeline.
    pub(super) fn wants(&self, pdu: &Pdu) -> bool {
        wants_event(self.timeline_filter(), pdu)
            && !self.shield.as_ref().is_some_and(|shield| shield.hides(pdu))
    }

    /// Returns whether every event belongs in a timeline.
    fn wants_all(&self) -> bool {
        let ignores = |shield: &Arc<Shield>| shield.ignores_somebody();
        // The limit does not affect whether one event is included.
        let mut filter = self.timeline_filter().clone();
        filter.limit = None;
        filter.is_empty() && !self.shield.as_ref().is_some_and(ignores)
    }

    fn since(&self) -> Option<Position> {
        self.request.since.map(|since| since.position)
    }

    fn timeline_filter(&self) -> &RoomEventFilter {
        &self.request.filter.room.timeline
    }

    /// Returns the largest number of events of a timeline.
    pub(super) fn limit(&self) -> usize {
        let limit = self.timeline_filter().limit.map(u64::from);
        limit.map_or(DEFAULT_LIMIT, |limit| {
            usize::try_from(limit).unwrap_or(MAX_LIMIT).min(MAX_LIMIT)
        })
    }

    fn lazy(&self) -> Option<bool> {
        match &self.request.filter.room.state.lazy_load_options {
            LazyLoadOptions::Enabled {
                include_redundant_members,
            } => Some(*include_redundant_members),
            LazyLoadOptions::Disabled => None,
        }
    }

    /// Writes a timeline event as this viewer receives it.
    fn show(&self, event: &TimelineEvent, span: &Span) -> Box<RawValue> {
        if event.pdu.sender == self.session.user_id {
            self.shows_own.store(true, Ordering::Relaxed);
        }
        let showing = Showing {
            session: self.session,
            access: span.access.as_ref(),
            bundles: &span.bundles,
            now_ms: self.now_ms,
            room_id: None,
            sources: &span.sources,
        };
        event_fields::keep(
            showing.whole(event),
            self.request.filter.event_fields.as_deref(),
        )
    }

    /// Writes a state event.
    pub(super) fn show_state(&self, pdu: &Pdu, room: &Room) -> Box<RawValue> {
        self.show_state_in_format(pdu, room, &EventSources::default())
    }

    /// Writes a state event; in the federation format if it is in `sources`.
    fn show_state_in_format(
        &self,
        pdu: &Pdu,
        room: &Room,
        sources: &EventSources,
    ) -> Box<RawValue> {
        let age = (self.now_ms - i64::from(pdu.origin_server_ts.0)).max(0);
        let unsigned = Unsigned {
            age: Some(age),
            ..Unsigned::default()
        };
        let source = sources.get(&pdu.event_id);
        let json = source.and_then(|source| matrix::federation_event(source, pdu, &unsigned));
        let as_client = || matrix::sync_event(&matrix::head(pdu, &room.rules), &unsigned);
        let json = json.unwrap_or_else(as_client);
        event_fields::keep(json, self.request.filter.event_fields.as_deref())
    }
}

/// The part of a room that a member receives.
pub(super) struct JoinedNews {
    pub(super) room: JoinedRoom,
    /// Whether the user has joined the room since the client's token.
    pub(super) is_new: bool,
}

impl Inner {
    /// Returns the part of a room that a member receives.
    pub(super) async fn joined_room(
        &self,
        viewer: &Viewer<'_>,
        mine: &UserRoom,
        inside: &Inside,
    ) -> Result<JoinedNews> {
        let (room, user) = (&inside.room, viewer.session.user);
        let (span, since) = self.joined_span(viewer, mine, inside).await?;
        let mut joined = JoinedRoom::new();
        joined.timeline = timeline(viewer, &span);
        joined.state = self.state(viewer, inside, since, &span).await?;
        if since.is_none()
            || viewer.request.full_state
            || changes_summary(&inside.ring)
            || span.is_limited
        {
            joined.summary = summary(inside, &viewer.session.user_id);
        }
        self.add_unread(viewer, (mine, inside), &mut joined).await?;
        tracing::trace!(room_id = %room.room_id, user, count = span.events.len(), "room added to a sync response");
        Ok(JoinedNews {
            room: joined,
            is_new: viewer.since().is_some() && since.is_none(),
        })
    }

    /// Returns the new part of a room's timeline for a member, and the position from which the member knows the room.
    pub(super) async fn joined_span(
        &self,
        viewer: &Viewer<'_>,
        mine: &UserRoom,
        inside: &Inside,
    ) -> Result<(Span, Option<Position>)> {
        let access = self.access_if_needed(viewer, mine, inside).await?;
        let is_new = viewer.since().is_some_and(|since| {
            access
                .as_ref()
                .is_some_and(|access| access.membership_at(since) != MembershipState::Join)
        });
        let since = viewer.since().filter(|_| !is_new);
        let mut span = self.span(viewer, inside, since, access).await?;
        // A timeline that the client has from an earlier membership does not connect with this one.
        span.is_limited |= is_new && !is_whole(&span);
        self.add_bundles(viewer, &inside.room, &mut span).await?;
        Ok((span, since))
    }

    /// Returns the part of a room that a user who has left receives.
    pub(super) async fn left_room(
        &self,
        viewer: &Viewer<'_>,
        mine: &UserRoom,
        inside: &Inside,
    ) -> Result<LeftRoom> {
        let (room, session) = (&inside.room, viewer.session);
        let access = self
            .rooms
            .access
            .access(room, session.user, &session.user_id)
            .await?;
        let was_in = viewer
            .since()
            .is_some_and(|since| access.membership_at(since) == MembershipState::Join);
        let since = viewer.since().filter(|_| was_in);
        let mut left = LeftRoom::new();
        if !access.ever_joined() || mine.forgotten {
            // The user rejected an invite or forgot the room: they may only learn that they left.
            let own =
                |pdu: &Pdu| pdu.is_state(&TimelineEventType::RoomMember, session.user_id.as_str());
            let span = self
                .left_span(
                    room,
                    (viewer.since(), mine.position),
                    viewer.limit(),
                    access,
                    &own,
                )
                .await?;
            left.timeline = timeline(viewer, &span);
            left.timeline.limited = false;
            if left.timeline.events.is_empty() && !mine.forgotten {
                let leave = self
                    .rooms
                    .remote_memberships
                    .leave_from_outside(room, session.user)
                    .await?;
                left.timeline.events.extend(leave.map(Raw::from_json));
            }
            return Ok(left);
        }
        let wanted = |pdu: &Pdu| viewer.wants(pdu);
        let mut span = self
            .left_span(
                room,
                (since, mine.position),
                viewer.limit(),
                access,
                &wanted,
            )
            .await?;
        self.add_bundles(viewer, room, &mut span).await?;
        left.timeline = timeline(viewer, &span);
        let end = self.rooms.state.state_at(room, mine.position).await?;
        left.state = self
            .state_of(viewer, room, since, &span, (mine.position, &end))
            .await?;
        Ok(left)
    }

    /// Adds the aggregations of the events that relate to those of a timeline.
    pub(super) async fn add_bundles(
        &self,
        viewer: &Viewer<'_>,
        room: &Arc<Room>,
        span: &mut Span,
    ) -> Result<()> {
        let audience = Audience {
            access: span.access.as_ref(),
            user: viewer.session.user,
            user_id: &viewer.session.user_id,
        };
        span.bundles = self
            .rooms
            .relations
            .bundles(room, audience, &span.events)
            .await?;
        let ids = span.events.iter().map(|event| &*event.pdu.event_id);
        span.sources = self.sources(viewer, ids).await?;
        Ok(())
    }

    /// Returns events in the federation format, if the client asks for it.
    async fn sources<'a>(
        &self,
        viewer: &Viewer<'_>,
        ids: impl Iterator<Item = &'a EventId>,
    ) -> Result<EventSources> {
        if viewer.request.filter.event_format != EventFormat::Federation {
            return Ok(EventSources::default());
        }
        self.rooms.timeline.sources(&ids.collect::<Vec<_>>()).await
    }

    /// Returns the new part of a room's timeline for a user who has left, up to the point where they left.
    pub(super) async fn left_span(
        &self,
        room: &Room,
        (since, left_at): (Option<Position>, Position),
        limit: usize,
        access: Access,
        wanted: &(dyn Fn(&Pdu) -> bool + Sync),
    ) -> Result<Span> {
        let request = PageRequest {
            from: left_at,
            to: since,
            dir: Direction::Backward,
            limit: limit + 1,
        };
        let page = self
            .rooms
            .timeline
            .page_without_gap(room, &access, request, wanted)
            .await?;
        Ok(Span::of_page(page, limit, left_at, Some(access)))
    }

    /// Returns the viewer's access, or `None` if the viewer was a member the whole time and may see everything.
    async fn access_if_needed(
        &self,
        viewer: &Viewer<'_>,
        mine: &UserRoom,
        inside: &Inside,
    ) -> Result<Option<Access>> {
        let first = inside.ring.len().saturating_sub(viewer.limit());
        let first = inside
            .ring
            .get(first)
            .map_or(i64::MAX, |event| event.position);
        let was_there = match viewer.since() {
            Some(since) => mine.position <= since,
            None => mine.position <= first && viewer.wants_all(),
        };
        if was_there && (inside.is_complete || inside.ring.len() > viewer.limit()) {
            return Ok(None);
        }
        let session = viewer.session;
        self.rooms
            .access
            .access(&inside.room, session.user, &session.user_id)
            .await
            .map(Some)
    }

    /// Returns the events to send: the newest that the viewer wants and may see.
    async fn span(
        &self,
        viewer: &Viewer<'_>,
        inside: &Inside,
        since: Option<Position>,
        access: Option<Access>,
    ) -> Result<Span> {
        let limit = viewer.limit();
        let page = newest(inside, since, limit + 1, |event| {
            let is_visible = access.as_ref().is_none_or(|access| access.may_see(event));
            is_visible.then(|| viewer.wants(&event.pdu))
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
                    .access(&inside.room, session.user, &session.user_id)
                    .await?
            };
            let request = PageRequest {
                from: viewer.now,
                to: since,
                dir: Direction::Backward,
                limit: limit + 1,
            };
            let wanted = |pdu: &Pdu| viewer.wants(pdu);
            let page = self
                .rooms
                .timeline
                .page_without_gap(&inside.room, &access, request, &wanted)
                .await?;
            return Ok(Span::of_page(page, limit, viewer.now, Some(access)));
        }
        let seen = |event| match &access {
            Some(access) => access.seen(event, &inside.room.rules),
            None => event,
        };
        let page = Page {
            events: page.events.into_iter().map(seen).collect(),
            end: page.end,
        };
        Ok(Span::of_page(page, limit, viewer.now, access))
    }

    async fn state(
        &self,
        viewer: &Viewer<'_>,
        inside: &Inside,
        since: Option<Position>,
        span: &Span,
    ) -> Result<State> {
        self.state_of(
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
    async fn state_of(
        &self,
        viewer: &Viewer<'_>,
        room: &Room,
        since: Option<Position>,
        span: &Span,
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
            for pdu in self.beside_timeline(room, span, end_state, end).await? {
                events.retain(|older| !is_same_place(older, &pdu));
                events.push(pdu);
            }
        }
        if viewer.lazy().is_some() {
            self.load_lazily(viewer, &mut events, (span, &start), since);
        }
        let filter = &viewer.request.filter.room.state;
        events.retain(|pdu| wants_event(filter, pdu));
        let ids = events.iter().map(|pdu| &*pdu.event_id);
        let sources = self.sources(viewer, ids).await?;
        let shown = events
            .iter()
            .map(|pdu| Raw::from_json(viewer.show_state_in_format(pdu, room, &sources)))
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
    async fn beside_timeline(
        &self,
        room: &Room,
        span: &Span,
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
    fn load_lazily(
        &self,
        viewer: &Viewer<'_>,
        events: &mut Vec<Arc<Pdu>>,
        (span, state): (&Span, &StateMap),
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
            self.lazy
                .give(session.device, &pdu.event_id, known_at, viewer.now)
        };
        for pdu in events.iter() {
            if let Some(member) = pdu.member() {
                needed.remove(member);
                give(pdu);
            }
        }
        let with_redundant = viewer.lazy() == Some(true);
        for member in needed {
            if let Some(pdu) = state.member(&member)
                && (give(pdu) || with_redundant)
            {
                events.push(pdu.clone());
            }
        }
    }
}

fn is_same_place(one: &Pdu, other: &Pdu) -> bool {
    one.kind == other.kind && one.state_key == other.state_key
}

/// Writes a part of a room's timeline.
pub(super) fn timeline(viewer: &Viewer<'_>, span: &Span) -> Timeline {
    let mut timeline = Timeline::new();
    timeline.limited = span.is_limited;
    timeline.prev_batch = Some(place_token(span.start));
    timeline.events = span
        .events
        .iter()
        .map(|event| Raw::from_json(viewer.show(event, span)))
        .collect();
    timeline
}

/// Returns a room's id, for the maps of a response.
pub(super) async fn room_id(inner: &Inner, moment: &RoomMoment) -> Result<OwnedRoomId> {
    match (&moment.inside, &moment.mine.removed) {
        (Some(inside), _) => Ok(inside.room.room_id.clone()),
        (None, Some(removed)) => Ok(removed.room_id.clone()),
        (None, None) => inner.rooms.memory.room_id(moment.num).await,
    }
}
