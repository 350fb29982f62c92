//! The rooms that a response reads: those that come into view, and those in view that changed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use ruma::{OwnedRoomId, RoomId, events::room::member::MembershipState};

use super::{
    connection_state::{ConnectionState, RequestParameters, SentRoom, SyncPosition},
    extensions::is_enabled,
    request::{ListFilters, RoomConfig, SlidingSyncRequest},
    required_state::CombinedRequiredState,
    room_index::{IndexedRoom, RoomIndex, RoomRelation},
};
use crate::{
    matrix::IgnoreSettings, numbers::RoomNum, rooms::UserRooms, sync::invitations::accepts_invite,
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
    /// The rooms in lists with any index, and those with a subscription; empty unless an extension applies to them.
    pub(super) listed_rooms: HashSet<RoomNum>,
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

/// The room parameters of a request.
struct RoomParameterCache<'a> {
    request: &'a SlidingSyncRequest,
    /// The combinations of required state in this request and the earlier ones.
    required_states: Vec<Arc<CombinedRequiredState>>,
    /// The parameters for rooms without a subscription, by the lists that they are in.
    by_lists: HashMap<u128, RoomParameters>,
}

/// The data from which a plan is made.
pub(super) struct PlanInputs<'a> {
    pub(super) session: &'a Session,
    pub(super) request: &'a SlidingSyncRequest,
    pub(super) state: &'a ConnectionState,
    pub(super) index: &'a RoomIndex,
    pub(super) user_rooms: &'a UserRooms,
    pub(super) ignore_settings: Option<&'a IgnoreSettings>,
    /// The rooms that changed since the last response.
    pub(super) changed: &'a HashSet<RoomNum>,
    /// The children of the spaces by which lists are filtered, by list.
    pub(super) spaces: &'a HashMap<&'a str, HashSet<String>>,
}

impl PlannedRoom {
    /// Returns the position up to which the client has received the room as a member.
    pub(super) fn received_as_member(&self) -> Option<SyncPosition> {
        let was_in = |sent: &SentRoom| sent.description.membership == Some(MembershipState::Join);
        self.since
            .filter(|_| self.sent.as_ref().is_some_and(was_in))
    }

    /// Returns whether the client asks for older events that it does not have.
    pub(super) fn expands_timeline(&self) -> bool {
        let lacks = |sent: &SentRoom| sent.lacks_history(self.parameters.timeline_limit);
        self.received_as_member().is_some() && self.sent.as_ref().is_some_and(lacks)
    }
}

impl<'a> RoomParameterCache<'a> {
    fn parameters_for_room(&mut self, lists: u128, room_id: &RoomId) -> RoomParameters {
        let subscription = self.request.room_subscriptions.get(room_id);
        let subscription = subscription.filter(|_| lists & SUBSCRIBED_BIT != 0);
        if let (None, Some(parameters)) = (subscription, self.by_lists.get(&lists)) {
            return parameters.clone();
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
        let parameters = RoomParameters {
            timeline_limit: limit,
            required_state: required,
        };
        if subscription.is_none() {
            self.by_lists.insert(lists, parameters.clone());
        }
        parameters
    }
}

impl PlanInputs<'_> {
    pub(super) fn make_plan(&self, now: SyncPosition) -> ResponsePlan {
        let requested = Arc::new(RequestParameters::from_request(self.request));
        let generation = if requested.has_same_lists(&self.state.request_parameters) {
            self.state.generation
        } else {
            self.state.generation.wrapping_add(1)
        };
        let mut plan = ResponsePlan {
            now,
            request_parameters: requested,
            generation,
            ..ResponsePlan::default()
        };
        self.add_lists(&mut plan);
        self.add_subscriptions(&mut plan);
        let mut cache = RoomParameterCache {
            request: self.request,
            required_states: self.state.required_states.to_vec(),
            by_lists: HashMap::new(),
        };
        let mut planned_rooms = Vec::new();
        for (room, lists) in &plan.rooms_in_view {
            planned_rooms.extend(self.planned_room(&plan, *room, *lists, &mut cache));
        }
        plan.planned_rooms = planned_rooms;
        plan
    }

    /// Returns the plan for a room in view, if it may have changes or the client asks for more of it than before.
    fn planned_room(
        &self,
        plan: &ResponsePlan,
        room: RoomNum,
        lists: u128,
        cache: &mut RoomParameterCache<'_>,
    ) -> Option<PlannedRoom> {
        let entry = self.index.get(room)?;
        let sent = self.state.rooms.get(&room);
        let is_dm = self.index.is_direct(entry);
        let extensions_differ =
            plan.request_parameters.extensions != self.state.request_parameters.extensions;
        let may_have_changed = sent.is_none_or(|sent| {
            let other_lists = lists & !sent.lists(plan.generation) & !SUBSCRIBED_BIT != 0;
            let changed = self.has_changed(room, entry, sent) || sent.description.is_dm != is_dm;
            extensions_differ || other_lists || changed || sent.out_of_view_since.is_some()
        });
        if !may_have_changed && lists & SUBSCRIBED_BIT == 0 {
            return None;
        }
        let parameters = cache.parameters_for_room(lists, &entry.room_id);
        let wants_other = |sent: &SentRoom| {
            sent.lacks_history(parameters.timeline_limit)
                || sent.required_state != parameters.required_state
        };
        if !may_have_changed && !sent.is_some_and(wants_other) {
            return None;
        }
        Some(PlannedRoom {
            room,
            room_id: entry.room_id.clone(),
            lists,
            since: sent.and_then(|sent| sent.out_of_view_since.or(self.state.since)),
            sent: sent.cloned(),
            is_dm,
            parameters,
        })
    }

    /// Returns whether a room that the client knows has changed. Account data can also change for rooms that the user
    /// is not in.
    fn has_changed(&self, room: RoomNum, entry: &IndexedRoom, sent: &SentRoom) -> bool {
        entry.member_since != sent.description.member_since || self.changed.contains(&room)
    }

    fn add_lists(&self, plan: &mut ResponsePlan) {
        if self.request.lists.is_empty() {
            return;
        }
        let listed: Vec<(RoomNum, &IndexedRoom)> = self
            .index
            .in_order()
            .filter(|(room, entry)| self.is_listed(*room, entry))
            .collect();
        for (bit, (name, list)) in self.request.lists.iter().enumerate() {
            let filters = list.filters.as_ref();
            let passes = |(room, entry): &&(RoomNum, &IndexedRoom)| {
                filters.is_none_or(|filters| self.passes_filters(name, filters, *room, entry))
            };
            let in_list: Vec<RoomNum> = listed
                .iter()
                .filter(passes)
                .map(|(room, _)| *room)
                .collect();
            if self.has_sticky_events() {
                plan.listed_rooms.extend(&in_list);
            }
            let in_order = in_list.iter().zip(0..);
            for (room, _) in in_order.filter(|(_, index)| list.contains_index(*index)) {
                *plan.rooms_in_view.entry(*room).or_default() |= 1 << bit;
            }
            let count = u64::try_from(in_list.len()).unwrap_or(u64::MAX);
            plan.counts.insert(name.clone(), count);
        }
    }

    /// Returns whether the client wants sticky events, which do not depend on the ranges of lists.
    fn has_sticky_events(&self) -> bool {
        is_enabled(self.request.extensions.sticky_events.enabled)
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
        let user_room = self.user_rooms.get(room);
        user_room
            .is_some_and(|user_room| accepts_invite(self.ignore_settings, self.session, &user_room))
    }

    /// Adds the room subscriptions, except to rooms that are not the user's or that the user has forgotten.
    fn add_subscriptions(&self, plan: &mut ResponsePlan) {
        for room_id in self.request.room_subscriptions.keys() {
            let Some(room) = self.index.room_number(room_id) else {
                continue;
            };
            let is_theirs = self.index.get(room).is_some_and(|entry| {
                self.is_listed(room, entry)
                    || (entry.relation == RoomRelation::Gone
                        && self
                            .user_rooms
                            .get(room)
                            .is_some_and(|user_room| !user_room.forgotten))
            });
            if is_theirs {
                plan.listed_rooms.insert(room);
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
        let tags = self.index.tags(room);
        let is_tagged = |wanted: &Vec<String>| wanted.iter().any(|tag| tags.contains(tag));
        let is_child = || {
            let children = self.spaces.get(list);
            children.is_some_and(|children| children.contains(entry.room_id.as_str()))
        };
        is(filters.is_dm, self.index.is_direct(entry))
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
