//! The changes of one room for a client, and the record of what the client has received of it.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::AtomicBool},
};

use ruma::{
    OwnedUserId,
    api::client::filter::FilterDefinition,
    events::{TimelineEventType, room::member::MembershipState},
    presence::PresenceState,
    serde::Raw,
};

use super::{
    connection_state::{SentDescription, SentRoom, SyncPosition},
    request::SlidingSyncRequest,
    response::{ExpandedTimeline, SlidingRoom},
    response_plan::{PlannedRoom, ResponsePlan},
    room_description::JoinedRoomDescription,
};
use crate::{
    error::Result,
    matrix::{IgnoreSettings, Pdu, StateMap},
    rooms,
    sync::{
        SyncInner, SyncRequest,
        response::stripped_state,
        room_view::{SyncViewer, write_timeline},
        snapshot::{RoomContents, RoomSnapshot},
        timeline_slice::TimelineSlice,
    },
    users::Session,
};

/// The user, the request and the plan of a response.
pub(super) struct SlidingContext<'a> {
    pub(super) session: &'a Session,
    pub(super) request: &'a SlidingSyncRequest,
    pub(super) plan: &'a ResponsePlan,
    /// The position up to which the client has received everything.
    pub(super) since: Option<SyncPosition>,
    pub(super) now_ms: i64,
    pub(super) ignore_settings: Option<Arc<IgnoreSettings>>,
    /// Whether the response contains events that the client's user has sent.
    pub(super) has_own_events: AtomicBool,
}

/// The new part of a room's timeline, and the state after it.
struct RoomChanges<'a> {
    span: &'a TimelineSlice,
    /// Whether the client receives the room for the first time.
    is_initial: bool,
    /// Whether the client asked for more events than before.
    is_expanded: bool,
    /// The state at the end.
    state: &'a StateMap,
    /// The position up to which the timeline and the state extend.
    end: i64,
}

impl SlidingContext<'_> {
    fn viewer<'a>(&'a self, request: &'a SyncRequest) -> SyncViewer<'a> {
        SyncViewer {
            session: self.session,
            request,
            now: self.plan.now.position,
            now_ms: self.now_ms,
            ignore_settings: self.ignore_settings.clone(),
            has_own_events: &self.has_own_events,
        }
    }

    /// Returns a room with the fields that every room has.
    fn new_room(&self, look: &PlannedRoom, membership: &MembershipState) -> SlidingRoom {
        let lists = self.request.lists.keys().enumerate();
        let lists = lists.filter(|(bit, _)| look.lists & (1 << bit) != 0);
        SlidingRoom {
            initial: look.sent.is_none(),
            membership: Some(membership.to_string()),
            lists: lists.map(|(_, name)| name.clone()).collect(),
            ..SlidingRoom::default()
        }
    }

    /// Returns the record of the room after this response, apart from the timeline and the description.
    fn new_sent_room(&self, look: &PlannedRoom) -> SentRoom {
        let mut told = look.sent.clone().unwrap_or_default();
        told.lists = told.lists(self.plan.generation) | look.lists;
        told.generation = self.plan.generation;
        told.out_of_view_since = None;
        told.required_state = look.parameters.required_state.clone();
        told
    }
}

impl SyncInner {
    /// Returns the changes of a room, if there are any, and the record of the room after this response.
    pub(super) async fn read_room(
        &self,
        eye: &SlidingContext<'_>,
        look: &PlannedRoom,
        moment: &RoomSnapshot,
    ) -> Result<(Option<SlidingRoom>, SentRoom)> {
        match (&moment.mine.membership, &moment.contents) {
            (MembershipState::Join, Some(inside)) => {
                self.read_joined_room(eye, look, (moment, inside)).await
            }
            (_, Some(inside)) => self.read_left_room(eye, look, (moment, inside)).await,
            (_, None) => Ok(read_invited_room(eye, look, moment)),
        }
    }

    /// Reads a room for a member.
    async fn read_joined_room(
        &self,
        eye: &SlidingContext<'_>,
        look: &PlannedRoom,
        (moment, inside): (&RoomSnapshot, &RoomContents),
    ) -> Result<(Option<SlidingRoom>, SentRoom)> {
        let is_expanded = look.expands_timeline();
        let since = look.received_as_member();
        let limit = look.parameters.timeline_limit;
        let request = self.equivalent_sync_request(since.filter(|_| !is_expanded), limit);
        let viewer = eye.viewer(&request);
        let (span, known_since) = self.joined_timeline(&viewer, &moment.mine, inside).await?;
        let is_initial = since.is_none() || (known_since.is_none() && !is_expanded);
        let news = RoomChanges {
            span: &span,
            is_initial,
            is_expanded,
            state: &inside.state,
            end: viewer.now,
        };
        let mut told = eye.new_sent_room(look);
        let mut room = eye.new_room(look, &moment.mine.membership);
        room.initial = is_initial;
        let state = self.changed_state(eye, look, (&inside.room, &news), &mut told);
        let state = state.await?;
        add_timeline(&mut room, &viewer, &news, eye.since);
        record_timeline(&mut told, look, &room);
        room.required_state = state
            .iter()
            .map(|pdu| Raw::from_json(viewer.format_state_event(pdu, &inside.room)))
            .collect();
        let before = told.description.clone();
        let before = (!is_initial).then_some(&before);
        let facts = JoinedRoomDescription::from_contents(
            &viewer,
            (moment, inside),
            look.is_dm,
            before,
            &span,
        );
        told.description = facts.sent_description.clone();
        let is_news = is_initial
            || is_expanded
            || room.limited
            || !room.timeline.is_empty()
            || !room.required_state.is_empty()
            || before != Some(&facts.sent_description);
        facts.write_changes(&mut room, before);
        Ok((is_news.then_some(room), told))
    }

    /// Reads a room for a user who has left or was removed, up to that point.
    async fn read_left_room(
        &self,
        eye: &SlidingContext<'_>,
        look: &PlannedRoom,
        (moment, inside): (&RoomSnapshot, &RoomContents),
    ) -> Result<(Option<SlidingRoom>, SentRoom)> {
        let mine = &moment.mine;
        let mut told = eye.new_sent_room(look);
        let digest = SentDescription {
            membership: Some(mine.membership.clone()),
            member_since: mine.position,
            is_dm: look.is_dm,
            bump_stamp: mine.position,
            ..SentDescription::default()
        };
        let before = std::mem::replace(&mut told.description, digest);
        if look.sent.is_some() && before == told.description {
            return Ok((None, told));
        }
        let mut room = eye.new_room(look, &mine.membership);
        room.bump_stamp = Some(mine.position);
        room.is_dm = (look.is_dm != before.is_dm).then_some(look.is_dm);
        let session = eye.session;
        let user_id = &session.user_id;
        let access = &self.rooms.access;
        let access = access
            .load_access(&inside.room, session.user, user_id)
            .await?;
        let request = self.equivalent_sync_request(None, look.parameters.timeline_limit);
        let viewer = eye.viewer(&request);
        if !access.has_ever_joined() || mine.forgotten {
            // The user rejected an invite or forgot the room: they may only learn that they left.
            let own = inside.state.member(user_id);
            let own = own.map(|pdu| Raw::from_json(viewer.format_state_event(pdu, &inside.room)));
            room.required_state = own.into_iter().collect();
            return Ok((Some(room), told));
        }
        let since = look.received_as_member();
        let span = (since.map(|since| since.position), mine.position);
        let wanted = |pdu: &Pdu| viewer.wants_event(pdu);
        let mut span = self
            .left_timeline(&inside.room, span, viewer.timeline_limit(), access, &wanted)
            .await?;
        self.add_bundles(&viewer, &inside.room, &mut span).await?;
        let state = &self.rooms.state;
        let state = state.state_at(&inside.room, mine.position).await?;
        let news = RoomChanges {
            span: &span,
            is_initial: since.is_none(),
            is_expanded: false,
            state: &state,
            end: mine.position,
        };
        room.initial = news.is_initial;
        let state = self.changed_state(eye, look, (&inside.room, &news), &mut told);
        let state = state.await?;
        add_timeline(&mut room, &viewer, &news, eye.since);
        record_timeline(&mut told, look, &room);
        room.required_state = state
            .iter()
            .map(|pdu| Raw::from_json(viewer.format_state_event(pdu, &inside.room)))
            .collect();
        Ok((Some(room), told))
    }

    /// Returns the `/sync` request that would return the same events.
    fn equivalent_sync_request(&self, since: Option<SyncPosition>, limit: u32) -> SyncRequest {
        let mut filter = FilterDefinition::default();
        filter.room.timeline.limit = Some(limit.into());
        SyncRequest {
            since: since.map(|since| self.token_at(since)),
            filter: Arc::new(filter),
            full_state: false,
            timeout: std::time::Duration::ZERO,
            set_presence: PresenceState::Offline,
            use_state_after: true,
        }
    }

    /// Returns the new state of the kinds that the client wants, and records which members the client then has.
    async fn changed_state(
        &self,
        eye: &SlidingContext<'_>,
        look: &PlannedRoom,
        (room, news): (&rooms::Room, &RoomChanges<'_>),
        told: &mut SentRoom,
    ) -> Result<Vec<Arc<Pdu>>> {
        let me = &eye.session.user_id;
        let required = &look.parameters.required_state;
        let is_lazy = required.is_lazy_loading();
        let since = look.since.filter(|_| !news.is_initial);
        let mut state = match since {
            None => required.select(news.state, me),
            Some(since) => {
                let changed =
                    self.rooms
                        .state
                        .state_changes(room, news.state, since.position, news.end);
                let mut changed = changed.await?;
                // A client that missed events gets the members it needs from the state instead.
                let with_members = is_lazy && !news.span.is_limited;
                changed.retain(|pdu| {
                    required.wants(pdu, me) || (with_members && pdu.member().is_some())
                });
                changed
            }
        };
        let before = look.sent.as_ref().map(|told| &told.required_state);
        if let Some(before) = before.filter(|before| since.is_some() && *before != required) {
            let added = required.select(news.state, me).into_iter();
            let known: HashSet<_> = state.iter().map(|pdu| pdu.event_id.clone()).collect();
            let is_new = |pdu: &Arc<Pdu>| !before.wants(pdu, me) && !known.contains(&pdu.event_id);
            state.extend(added.filter(is_new));
        }
        if is_lazy {
            if news.is_initial || news.span.is_limited {
                told.members = Arc::default();
            }
            add_members(news, told, &mut state);
        }
        Ok(state)
    }
}

/// Adds the members that the timeline mentions and the client does not have.
fn add_members(news: &RoomChanges<'_>, told: &mut SentRoom, state: &mut Vec<Arc<Pdu>>) {
    let mut needed: HashSet<OwnedUserId> = HashSet::new();
    for event in &news.span.events {
        needed.insert(event.pdu.sender.clone());
        needed.extend(event.pdu.member().map(ToOwned::to_owned));
    }
    let given: HashSet<OwnedUserId> = state
        .iter()
        .filter_map(|pdu| pdu.member().map(ToOwned::to_owned))
        .collect();
    let lacking = needed
        .into_iter()
        .filter(|member| !given.contains(member) && !told.has_member(member));
    let lacking: Vec<Arc<Pdu>> = lacking
        .filter_map(|member| news.state.member(&member).cloned())
        .collect();
    state.extend(lacking);
    let members = state
        .iter()
        .filter_map(|pdu| pdu.member().map(ToOwned::to_owned));
    let members: Vec<OwnedUserId> = members.collect();
    told.add_members(members.into_iter());
}

fn add_timeline(
    room: &mut SlidingRoom,
    viewer: &SyncViewer<'_>,
    news: &RoomChanges<'_>,
    since: Option<SyncPosition>,
) {
    let shown = write_timeline(viewer, news.span);
    room.timeline = shown.events;
    room.prev_batch = shown.prev_batch;
    room.limited = shown.limited;
    room.expanded = news.is_expanded.then_some(ExpandedTimeline {
        expanded_timeline: true,
        unstable_expanded_timeline: true,
    });
    let is_live = |position| since.is_some_and(|since| position > since.position);
    let live = news.span.events.iter().rev();
    let live = live.take_while(|event| is_live(event.position)).count();
    room.num_live = (!news.span.events.is_empty()).then_some(live);
}

/// Records how many of the newest events the client has without a gap.
fn record_timeline(told: &mut SentRoom, look: &PlannedRoom, room: &SlidingRoom) {
    let limit = look.parameters.timeline_limit;
    let added = u32::try_from(room.timeline.len()).unwrap_or(u32::MAX);
    let is_anew = room.initial || room.expanded.is_some() || room.limited;
    if is_anew {
        told.event_count = added;
        told.timeline_limit = limit;
        told.lists = look.lists;
    } else {
        told.event_count = told.event_count.saturating_add(added);
        told.timeline_limit = told.timeline_limit.max(limit);
    }
}

/// Reads a room for a user who is invited or knocks.
fn read_invited_room(
    eye: &SlidingContext<'_>,
    look: &PlannedRoom,
    moment: &RoomSnapshot,
) -> (Option<SlidingRoom>, SentRoom) {
    let mine = &moment.mine;
    let mut told = eye.new_sent_room(look);
    let digest = SentDescription {
        membership: Some(mine.membership.clone()),
        member_since: mine.position,
        is_dm: look.is_dm,
        bump_stamp: mine.position,
        ..SentDescription::default()
    };
    let before = std::mem::replace(&mut told.description, digest);
    if look.sent.is_some() && before == told.description {
        return (None, told);
    }
    // If the user was in the room before, the timeline from that time does not continue.
    told.event_count = 0;
    told.timeline_limit = 0;
    let mut room = eye.new_room(look, &mine.membership);
    room.initial |= before.membership != told.description.membership;
    room.is_dm = (look.is_dm || before.is_dm).then_some(look.is_dm);
    room.invite_state = Some(stripped_state(mine));
    room.stripped_state = Some(stripped_state(mine));
    room.bump_stamp = Some(mine.position);
    (Some(room), told)
}

/// Returns whether an event of this type moves the room up in a list of rooms.
pub(super) fn bumps_room(kind: &TimelineEventType) -> bool {
    const BUMP_EVENT_TYPES: [&str; 9] = [
        "m.room.create",
        "m.room.message",
        "m.room.encrypted",
        "m.sticker",
        "m.call.invite",
        "m.poll.start",
        "org.matrix.msc3381.poll.start",
        "m.beacon_info",
        "org.matrix.msc3672.beacon_info",
    ];
    BUMP_EVENT_TYPES.contains(&kind.to_string().as_str())
}
