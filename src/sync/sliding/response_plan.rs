//! The rooms that a response reads: those that come into view, and those in view that changed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    OwnedRoomId, RoomId,
    events::{StateEventType, room::member::MembershipState},
};
use serde::{Deserialize, de::IgnoredAny};

use super::{
    connection_state::{ConnectionState, RequestParameters, SentRoom, SyncPosition},
    request::{ListFilters, RoomConfig, SlidingSyncRequest},
    required_state::CombinedRequiredState,
    room_index::{IndexedRoom, RoomIndex, RoomRelation},
};
use crate::{
    error::{Error, Result},
    matrix::IgnoreSettings,
    rooms::UserRooms,
    storage::RoomNum,
    sync::{
        SyncInner, SyncToken,
        response::accepts_invite,
        snapshot::{MAX_SNAPSHOT_ATTEMPTS, RoomSnapshot, has_room_access},
    },
    users::Session,
};

/// The bit of a room to which the client has subscribed. The other bits are the lists that the room is in.
pub(super) const SUBSCRIBED_BIT: u128 = 1 << 127;

/// The plan of a response.
#[derive(Debug, Default)]
pub(super) struct ResponsePlan {
    pub(super) now: SyncPosition,
    /// The number of rooms in each list.
    pub(super) counts: BTreeMap<String, u64>,
    /// The rooms in view, and the lists that they are in, as bits.
    pub(super) rooms_in_view: HashMap<RoomNum, u128>,
    /// The rooms to read.
    pub(super) planned_rooms: Vec<PlannedRoom>,
    pub(super) request_parameters: Arc<RequestParameters>,
    pub(super) generation: u32,
}

/// A room to read.
#[derive(Clone, Debug)]
pub(super) struct PlannedRoom {
    pub(super) room: RoomNum,
    pub(super) room_id: OwnedRoomId,
    /// The lists that it is in, as bits.
    pub(super) lists: u128,
    /// The record of what the client has received of the room.
    pub(super) sent: Option<SentRoom>,
    /// The position up to which the client has received the room's changes.
    pub(super) since: Option<SyncPosition>,
    pub(super) is_dm: bool,
    pub(super) parameters: RoomParameters,
}

/// The room parameters that apply to a room, combined from all lists and subscriptions that contain it.
#[derive(Clone, Debug)]
pub(super) struct RoomParameters {
    pub(super) timeline_limit: u32,
    pub(super) required_state: Arc<CombinedRequiredState>,
}

/// The content of `m.space.child`.
#[derive(Deserialize)]
struct SpaceChildContent {
    #[serde(rename = "via")]
    _via: Vec<IgnoredAny>,
}

/// The room parameters of a request.
struct RoomParameterCache<'a> {
    request: &'a SlidingSyncRequest,
    /// The combinations of required state in this request and the earlier ones.
    required_states: Vec<Arc<CombinedRequiredState>>,
    /// The parameters for rooms without a subscription, by the lists that they are in.
    by_lists: HashMap<u128, RoomParameters>,
}

/// The data from which a plan is made.
struct PlanInputs<'a> {
    session: &'a Session,
    request: &'a SlidingSyncRequest,
    state: &'a ConnectionState,
    roster: &'a RoomIndex,
    mine: &'a UserRooms,
    ignore_settings: Option<&'a IgnoreSettings>,
    /// The rooms that changed since the last response.
    changed: &'a HashSet<RoomNum>,
    /// The children of the spaces by which lists are filtered, by list.
    spaces: &'a HashMap<&'a str, HashSet<String>>,
}

impl PlannedRoom {
    /// Returns the position up to which the client has received the room as a member.
    pub(super) fn received_as_member(&self) -> Option<SyncPosition> {
        let was_in = |told: &SentRoom| told.description.membership == Some(MembershipState::Join);
        self.since
            .filter(|_| self.sent.as_ref().is_some_and(was_in))
    }

    /// Returns whether the client asks for older events that it does not have.
    pub(super) fn expands_timeline(&self) -> bool {
        let lacks = |told: &SentRoom| told.lacks_history(self.parameters.timeline_limit);
        self.received_as_member().is_some() && self.sent.as_ref().is_some_and(lacks)
    }
}

impl<'a> RoomParameterCache<'a> {
    fn parameters_for_room(&mut self, lists: u128, room_id: &RoomId) -> RoomParameters {
        let subscription = self.request.room_subscriptions.get(room_id);
        let subscription = subscription.filter(|_| lists & SUBSCRIBED_BIT != 0);
        if let (None, Some(rule)) = (subscription, self.by_lists.get(&lists)) {
            return rule.clone();
        }
        let of_lists = self.request.lists.values().enumerate();
        let of_lists = of_lists.filter(|(index, _)| lists & (1 << index) != 0);
        let of_lists = of_lists.map(|(_, list)| &list.config);
        let configs: Vec<&'a RoomConfig> = of_lists.chain(subscription).collect();
        let limits = configs.iter().map(|config| config.timeline_limit());
        let limit = limits.max().unwrap_or(0);
        let required =
            CombinedRequiredState::combine(configs.iter().map(|config| &config.required_state));
        let known = self
            .required_states
            .iter()
            .find(|known| ***known == required);
        let required = known.cloned().unwrap_or_else(|| {
            let required = Arc::new(required);
            self.required_states.push(required.clone());
            required
        });
        let rule = RoomParameters {
            timeline_limit: limit,
            required_state: required,
        };
        if subscription.is_none() {
            self.by_lists.insert(lists, rule.clone());
        }
        rule
    }
}

impl PlanInputs<'_> {
    fn make_plan(&self, now: SyncPosition) -> ResponsePlan {
        let asked = Arc::new(RequestParameters::from_request(self.request));
        let generation = if asked.has_same_lists(&self.state.request_parameters) {
            self.state.generation
        } else {
            self.state.generation.wrapping_add(1)
        };
        let mut plan = ResponsePlan {
            now,
            request_parameters: asked,
            generation,
            ..ResponsePlan::default()
        };
        self.add_lists(&mut plan);
        self.add_subscriptions(&mut plan);
        let mut rules = RoomParameterCache {
            request: self.request,
            required_states: self.state.required_states.to_vec(),
            by_lists: HashMap::new(),
        };
        let asks_otherwise =
            plan.request_parameters.extensions != self.state.request_parameters.extensions;
        let mut looks = Vec::new();
        for (room, lists) in &plan.rooms_in_view {
            let Some(entry) = self.roster.get(*room) else {
                continue;
            };
            let told = self.state.rooms.get(room);
            let is_dm = self.roster.is_direct(entry);
            let may_be_news = told.is_none_or(|told| {
                let other_lists = lists & !told.lists(generation) & !SUBSCRIBED_BIT != 0;
                let changed =
                    self.has_changed(*room, entry, told) || told.description.is_dm != is_dm;
                asks_otherwise || other_lists || changed || told.out_of_view_since.is_some()
            });
            if !may_be_news && lists & SUBSCRIBED_BIT == 0 {
                continue;
            }
            let rule = rules.parameters_for_room(*lists, &entry.room_id);
            let wants_other = |told: &SentRoom| {
                told.lacks_history(rule.timeline_limit)
                    || told.required_state != rule.required_state
            };
            if may_be_news || told.is_some_and(wants_other) {
                looks.push(PlannedRoom {
                    room: *room,
                    room_id: entry.room_id.clone(),
                    lists: *lists,
                    since: told.and_then(|told| told.out_of_view_since.or(self.state.since)),
                    sent: told.cloned(),
                    is_dm,
                    parameters: rule,
                });
            }
        }
        plan.planned_rooms = looks;
        plan
    }

    /// Returns whether a room that the client knows has changed. Account data can also change for rooms that the user
    /// is not in.
    fn has_changed(&self, room: RoomNum, entry: &IndexedRoom, told: &SentRoom) -> bool {
        entry.member_since != told.description.member_since || self.changed.contains(&room)
    }

    fn add_lists(&self, plan: &mut ResponsePlan) {
        if self.request.lists.is_empty() {
            return;
        }
        let listed: Vec<(RoomNum, &IndexedRoom)> = self
            .roster
            .in_order()
            .filter(|(room, entry)| self.is_listed(*room, entry))
            .collect();
        for (bit, (name, list)) in self.request.lists.iter().enumerate() {
            let mut count = 0;
            for (room, entry) in &listed {
                let filters = list.filters.as_ref();
                if filters.is_some_and(|filters| !self.passes_filters(name, filters, *room, entry))
                {
                    continue;
                }
                if list.contains_index(count) {
                    *plan.rooms_in_view.entry(*room).or_default() |= 1 << bit;
                }
                count += 1;
            }
            plan.counts.insert(name.clone(), count);
        }
    }

    fn is_listed(&self, room: RoomNum, entry: &IndexedRoom) -> bool {
        match entry.relation {
            RoomRelation::Expelled => true,
            RoomRelation::Gone => self.state.rooms.contains_key(&room),
            RoomRelation::In => {
                entry.membership != MembershipState::Invite || self.accepts_invite(room)
            }
        }
    }

    fn accepts_invite(&self, room: RoomNum) -> bool {
        if self.ignore_settings.is_none() {
            return true;
        }
        let mine = self.mine.get(room);
        mine.is_some_and(|mine| accepts_invite(self.ignore_settings, self.session, &mine))
    }

    /// Adds the room subscriptions, except to rooms that are not the user's or that the user has forgotten.
    fn add_subscriptions(&self, plan: &mut ResponsePlan) {
        for room_id in self.request.room_subscriptions.keys() {
            let Some(room) = self.roster.room_number(room_id) else {
                continue;
            };
            let is_theirs = self.roster.get(room).is_some_and(|entry| {
                self.is_listed(room, entry)
                    || (entry.relation == RoomRelation::Gone
                        && self.mine.get(room).is_some_and(|mine| !mine.forgotten))
            });
            if is_theirs {
                *plan.rooms_in_view.entry(room).or_default() |= SUBSCRIBED_BIT;
            }
        }
    }

    fn passes_filters(
        &self,
        list: &str,
        filters: &ListFilters,
        room: RoomNum,
        entry: &IndexedRoom,
    ) -> bool {
        let is = |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
        let is_of_type = |types: &Vec<Option<String>>| types.contains(&entry.room_type);
        let tags = self.roster.tags(room);
        let is_tagged = |wanted: &Vec<String>| wanted.iter().any(|tag| tags.contains(tag));
        let is_child = || {
            let children = self.spaces.get(list);
            children.is_some_and(|children| children.contains(entry.room_id.as_str()))
        };
        is(filters.is_dm, self.roster.is_direct(entry))
            && is(filters.is_encrypted, entry.encrypted == Some(true))
            && is(
                filters.is_invited,
                entry.membership == MembershipState::Invite,
            )
            && filters.room_types.as_ref().is_none_or(is_of_type)
            && !filters.not_room_types.as_ref().is_some_and(is_of_type)
            && filters.tags.as_ref().is_none_or(is_tagged)
            && !filters.not_tags.as_ref().is_some_and(is_tagged)
            && (filters.spaces.is_none() || is_child())
    }
}

impl SyncInner {
    /// Returns the plan of a response and the snapshots of the rooms to read, all at one position.
    pub(super) async fn plan_response(
        &self,
        session: &Session,
        request: &SlidingSyncRequest,
        state: &ConnectionState,
    ) -> Result<(ResponsePlan, Vec<RoomSnapshot>)> {
        let shield = self.rooms.access.find_ignore_settings(session.user);
        for _ in 0..MAX_SNAPSHOT_ATTEMPTS {
            let tick = self.ephemeral.newest_tick();
            let mut roster = self.room_index(session).await?;
            let wanted = |list: &ListFilters| list.is_encrypted.is_some();
            if list_filters(request).any(|(_, list)| wanted(list)) {
                self.load_encryption(&mut roster).await?;
            }
            let spaces = self.children_of_spaces(&roster, request).await?;
            let changed = match state.since {
                Some(since) => self.rooms_changed_since(session, since).await?,
                None => HashSet::new(),
            };
            let mine = self.rooms.memory.rooms_of_user(session.user).await?;
            let scene = PlanInputs {
                session,
                request,
                state,
                roster: &roster,
                mine: &mine,
                ignore_settings: shield.as_deref(),
                changed: &changed,
                spaces: &spaces,
            };
            let now = SyncPosition {
                position: roster.now(),
                tick,
            };
            let plan = scene.make_plan(now);
            drop(roster);
            // Loads the rooms that are not in memory, and keeps them there until the snapshots are taken.
            let mut held = Vec::new();
            for look in &plan.planned_rooms {
                if mine
                    .get(look.room)
                    .is_some_and(|mine| has_room_access(&mine))
                {
                    held.push(self.rooms.memory.room_by_number(look.room).await?);
                }
            }
            if let Some(moments) = self.take_room_snapshots(session, &mine, &plan) {
                return Ok((plan, moments));
            }
        }
        Err(Error::Unavailable(
            "the rooms changed too often, try again".to_owned(),
        ))
    }

    async fn rooms_changed_since(
        &self,
        session: &Session,
        since: SyncPosition,
    ) -> Result<HashSet<RoomNum>> {
        let since = self.token_at(since);
        let older = self.changed_long_ago(session, Some(&since)).await?;
        Ok(self.changed_rooms(&since, &older))
    }

    /// Returns a position as a token.
    pub(super) fn token_at(&self, since: SyncPosition) -> SyncToken {
        SyncToken {
            position: since.position,
            to_device: 0,
            tick: since.tick,
            boot: self.ephemeral.run_id(),
        }
    }

    /// Returns the children of the spaces by which lists are filtered, by list. Spaces in which the user is not joined
    /// are ignored.
    async fn children_of_spaces<'a>(
        &self,
        roster: &RoomIndex,
        request: &'a SlidingSyncRequest,
    ) -> Result<HashMap<&'a str, HashSet<String>>> {
        let mut found = HashMap::new();
        for (name, filters) in list_filters(request) {
            let mut children = HashSet::new();
            for space in filters.spaces.iter().flatten() {
                let number = <&RoomId>::try_from(space.as_str()).ok();
                let Some(room) = number.and_then(|room_id| roster.room_number(room_id)) else {
                    continue;
                };
                let entry = roster.get(room);
                if entry.is_none_or(|entry| entry.membership != MembershipState::Join) {
                    continue;
                }
                let space = self.rooms.memory.room_by_number(room).await?;
                let state = space.view().state.clone();
                let links = state.of_type(&StateEventType::SpaceChild);
                // A space child without `via` was removed from the space.
                let links = links.filter(|pdu| pdu.content_as::<SpaceChildContent>().is_some());
                children.extend(links.filter_map(|pdu| pdu.state_key.clone()));
            }
            found.insert(name, children);
        }
        Ok(found)
    }

    /// Takes snapshots of the rooms to read. Returns `None` if something has changed for the user since the plan was
    /// made, or is not in memory.
    fn take_room_snapshots(
        &self,
        session: &Session,
        mine: &Arc<UserRooms>,
        plan: &ResponsePlan,
    ) -> Option<Vec<RoomSnapshot>> {
        let _still = self.db.journal().hold_announcements();
        let current = self.rooms.memory.peek_user(session.user)?;
        let later = self.recent_changes.rooms_changed_after(plan.now.position)?;
        let has_changed = {
            let all = mine.all();
            later.iter().any(|room| all.contains_key(room))
        };
        if has_changed
            || !Arc::ptr_eq(&current, mine)
            || self
                .recent_changes
                .account_data_changed(session.user, plan.now.position)
        {
            return None;
        }
        let mut moments = Vec::with_capacity(plan.planned_rooms.len());
        for look in &plan.planned_rooms {
            let since = look
                .received_as_member()
                .filter(|_| !look.expands_timeline());
            let since = since.map(|since| self.token_at(since));
            let mine = mine.get(look.room)?;
            let inside = if has_room_access(&mine) {
                Some(self.take_room_contents(look.room, since.as_ref(), plan.now.tick)?)
            } else {
                None
            };
            moments.push(RoomSnapshot {
                num: look.room,
                mine,
                contents: inside,
            });
        }
        Some(moments)
    }
}

fn list_filters(request: &SlidingSyncRequest) -> impl Iterator<Item = (&str, &ListFilters)> {
    let lists = request.lists.iter();
    lists.filter_map(|(name, list)| Some((name.as_str(), list.filters.as_ref()?)))
}
