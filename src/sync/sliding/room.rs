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
    connection_state::{Digest, Since, Told},
    request::Request,
    response::{Expanded, Room},
    response_plan::{Look, Plan},
    room_description::Facts,
};
use crate::{
    error::Result,
    matrix::{Pdu, Shield, StateMap},
    rooms,
    sync::{
        Inner, SyncRequest,
        response::stripped,
        room_view::{Viewer, timeline},
        snapshot::{Inside, RoomMoment},
        timeline_slice::Span,
    },
    users::Session,
};

/// The user, the request and the plan of a response.
pub(super) struct Eye<'a> {
    pub(super) session: &'a Session,
    pub(super) request: &'a Request,
    pub(super) plan: &'a Plan,
    /// The position up to which the client has received everything.
    pub(super) since: Option<Since>,
    pub(super) now_ms: i64,
    pub(super) shield: Option<Arc<Shield>>,
    /// Whether the response contains events that the client's user has sent.
    pub(super) shows_own: AtomicBool,
}

/// The new part of a room's timeline, and the state after it.
struct News<'a> {
    span: &'a Span,
    /// Whether the client receives the room for the first time.
    is_initial: bool,
    /// Whether the client asked for more events than before.
    is_expanded: bool,
    /// The state at the end.
    state: &'a StateMap,
    /// The position up to which the timeline and the state extend.
    end: i64,
}

impl Eye<'_> {
    fn viewer<'a>(&'a self, request: &'a SyncRequest) -> Viewer<'a> {
        Viewer {
            session: self.session,
            request,
            now: self.plan.now.position,
            now_ms: self.now_ms,
            shield: self.shield.clone(),
            shows_own: &self.shows_own,
        }
    }

    /// Returns a room with the fields that every room has.
    fn room(&self, look: &Look, membership: &MembershipState) -> Room {
        let lists = self.request.lists.keys().enumerate();
        let lists = lists.filter(|(bit, _)| look.lists & (1 << bit) != 0);
        Room {
            initial: look.told.is_none(),
            membership: Some(membership.to_string()),
            lists: lists.map(|(_, name)| name.clone()).collect(),
            ..Room::default()
        }
    }

    /// Returns the record of the room after this response, apart from the timeline and the description.
    fn told(&self, look: &Look) -> Told {
        let mut told = look.told.clone().unwrap_or_default();
        told.lists = told.lists(self.plan.generation) | look.lists;
        told.generation = self.plan.generation;
        told.out_of_sight = None;
        told.required = look.rule.required.clone();
        told
    }
}

impl Inner {
    /// Returns the changes of a room, if there are any, and the record of the room after this response.
    pub(super) async fn look(
        &self,
        eye: &Eye<'_>,
        look: &Look,
        moment: &RoomMoment,
    ) -> Result<(Option<Room>, Told)> {
        match (&moment.mine.membership, &moment.inside) {
            (MembershipState::Join, Some(inside)) => {
                self.look_inside(eye, look, (moment, inside)).await
            }
            (_, Some(inside)) => self.look_back(eye, look, (moment, inside)).await,
            (_, None) => Ok(look_from_outside(eye, look, moment)),
        }
    }

    /// Reads a room for a member.
    async fn look_inside(
        &self,
        eye: &Eye<'_>,
        look: &Look,
        (moment, inside): (&RoomMoment, &Inside),
    ) -> Result<(Option<Room>, Told)> {
        let is_expanded = look.expands();
        let since = look.inside_since();
        let limit = look.rule.limit;
        let request = self.request_for(since.filter(|_| !is_expanded), limit);
        let viewer = eye.viewer(&request);
        let (span, known_since) = self.joined_span(&viewer, &moment.mine, inside).await?;
        let is_initial = since.is_none() || (known_since.is_none() && !is_expanded);
        let news = News {
            span: &span,
            is_initial,
            is_expanded,
            state: &inside.state,
            end: viewer.now,
        };
        let mut told = eye.told(look);
        let mut room = eye.room(look, &moment.mine.membership);
        room.initial = is_initial;
        let state = self.news_of_state(eye, look, (&inside.room, &news), &mut told);
        let state = state.await?;
        add_timeline(&mut room, &viewer, &news, eye.since);
        note_timeline(&mut told, look, &room);
        room.required_state = state
            .iter()
            .map(|pdu| Raw::from_json(viewer.show_state(pdu, &inside.room)))
            .collect();
        let before = told.digest.clone();
        let before = (!is_initial).then_some(&before);
        let facts = Facts::of(&viewer, (moment, inside), look.is_dm, before, &span);
        told.digest = facts.digest.clone();
        let is_news = is_initial
            || is_expanded
            || room.limited
            || !room.timeline.is_empty()
            || !room.required_state.is_empty()
            || before != Some(&facts.digest);
        facts.tell(&mut room, before);
        Ok((is_news.then_some(room), told))
    }

    /// Reads a room for a user who has left or was removed, up to that point.
    async fn look_back(
        &self,
        eye: &Eye<'_>,
        look: &Look,
        (moment, inside): (&RoomMoment, &Inside),
    ) -> Result<(Option<Room>, Told)> {
        let mine = &moment.mine;
        let mut told = eye.told(look);
        let digest = Digest {
            membership: Some(mine.membership.clone()),
            member_since: mine.position,
            is_dm: look.is_dm,
            bump_stamp: mine.position,
            ..Digest::default()
        };
        let before = std::mem::replace(&mut told.digest, digest);
        if look.told.is_some() && before == told.digest {
            return Ok((None, told));
        }
        let mut room = eye.room(look, &mine.membership);
        room.bump_stamp = Some(mine.position);
        room.is_dm = (look.is_dm != before.is_dm).then_some(look.is_dm);
        let session = eye.session;
        let user_id = &session.user_id;
        let access = &self.rooms.access;
        let access = access.access(&inside.room, session.user, user_id).await?;
        let request = self.request_for(None, look.rule.limit);
        let viewer = eye.viewer(&request);
        if !access.ever_joined() || mine.forgotten {
            // The user rejected an invite or forgot the room: they may only learn that they left.
            let own = inside.state.member(user_id);
            let own = own.map(|pdu| Raw::from_json(viewer.show_state(pdu, &inside.room)));
            room.required_state = own.into_iter().collect();
            return Ok((Some(room), told));
        }
        let since = look.inside_since();
        let span = (since.map(|since| since.position), mine.position);
        let wanted = |pdu: &Pdu| viewer.wants(pdu);
        let mut span = self
            .left_span(&inside.room, span, viewer.limit(), access, &wanted)
            .await?;
        self.add_bundles(&viewer, &inside.room, &mut span).await?;
        let state = &self.rooms.state;
        let state = state.state_at(&inside.room, mine.position).await?;
        let news = News {
            span: &span,
            is_initial: since.is_none(),
            is_expanded: false,
            state: &state,
            end: mine.position,
        };
        room.initial = news.is_initial;
        let state = self.news_of_state(eye, look, (&inside.room, &news), &mut told);
        let state = state.await?;
        add_timeline(&mut room, &viewer, &news, eye.since);
        note_timeline(&mut told, look, &room);
        room.required_state = state
            .iter()
            .map(|pdu| Raw::from_json(viewer.show_state(pdu, &inside.room)))
            .collect();
        Ok((Some(room), told))
    }

    /// Returns the `/sync` request that would return the same events.
    fn request_for(&self, since: Option<Since>, limit: u32) -> SyncRequest {
        let mut filter = FilterDefinition::default();
        filter.room.timeline.limit = Some(limit.into());
        SyncRequest {
            since: since.map(|since| self.token_of(since)),
            filter: Arc::new(filter),
            full_state: false,
            timeout: std::time::Duration::ZERO,
            set_presence: PresenceState::Offline,
            use_state_after: true,
        }
    }

    /// Returns the new state of the kinds that the client wants, and records which members the client then has.
    async fn news_of_state(
        &self,
        eye: &Eye<'_>,
        look: &Look,
        (room, news): (&rooms::Room, &News<'_>),
        told: &mut Told,
    ) -> Result<Vec<Arc<Pdu>>> {
        let me = &eye.session.user_id;
        let required = &look.rule.required;
        let is_lazy = required.is_lazy();
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
        let before = look.told.as_ref().map(|told| &told.required);
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
fn add_members(news: &News<'_>, told: &mut Told, state: &mut Vec<Arc<Pdu>>) {
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

fn add_timeline(room: &mut Room, viewer: &Viewer<'_>, news: &News<'_>, since: Option<Since>) {
    let shown = timeline(viewer, news.span);
    room.timeline = shown.events;
    room.prev_batch = shown.prev_batch;
    room.limited = shown.limited;
    room.expanded = news.is_expanded.then_some(Expanded {
        expanded_timeline: true,
        unstable_expanded_timeline: true,
    });
    let is_live = |position| since.is_some_and(|since| position > since.position);
    let live = news.span.events.iter().rev();
    let live = live.take_while(|event| is_live(event.position)).count();
    room.num_live = (!news.span.events.is_empty()).then_some(live);
}

/// Records how many of the newest events the client has without a gap.
fn note_timeline(told: &mut Told, look: &Look, room: &Room) {
    let limit = look.rule.limit;
    let added = u32::try_from(room.timeline.len()).unwrap_or(u32::MAX);
    let is_anew = room.initial || room.expanded.is_some() || room.limited;
    if is_anew {
        told.count = added;
        told.limit = limit;
        told.lists = look.lists;
    } else {
        told.count = told.count.saturating_add(added);
        told.limit = told.limit.max(limit);
    }
}

/// Reads a room for a user who is invited or knocks.
fn look_from_outside(eye: &Eye<'_>, look: &Look, moment: &RoomMoment) -> (Option<Room>, Told) {
    let mine = &moment.mine;
    let mut told = eye.told(look);
    let digest = Digest {
        membership: Some(mine.membership.clone()),
        member_since: mine.position,
        is_dm: look.is_dm,
        bump_stamp: mine.position,
        ..Digest::default()
    };
    let before = std::mem::replace(&mut told.digest, digest);
    if look.told.is_some() && before == told.digest {
        return (None, told);
    }
    // If the user was in the room before, the timeline from that time does not continue.
    told.count = 0;
    told.limit = 0;
    let mut room = eye.room(look, &mine.membership);
    room.initial |= before.membership != told.digest.membership;
    room.is_dm = (look.is_dm || before.is_dm).then_some(look.is_dm);
    room.invite_state = Some(stripped(mine));
    room.stripped_state = Some(stripped(mine));
    room.bump_stamp = Some(mine.position);
    (Some(room), told)
}

/// Returns whether an event of this type moves the room up in a list of rooms.
pub(super) fn bumps(kind: &TimelineEventType) -> bool {
    const KINDS: [&str; 9] = [
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
    KINDS.contains(&kind.to_string().as_str())
}
