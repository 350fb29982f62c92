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
    connection_state::{Asked, Since, State, Told},
    request::{Filters, Request, RoomConfig},
    required_state::Combined,
    room_index::{Entry, Roster, Standing},
};
use crate::{
    error::{Error, Result},
    matrix::Shield,
    rooms::UserRooms,
    storage::RoomNum,
    sync::{
        Inner, Token,
        response::is_welcome,
        snapshot::{ATTEMPTS, RoomMoment, is_inside},
    },
    users::Session,
};

/// The bit of a room to which the client has subscribed. The other bits are the lists that the room is in.
pub(super) const SUBSCRIBED: u128 = 1 << 127;

/// The plan of a response.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) now: Since,
    /// The number of rooms in each list.
    pub(super) counts: BTreeMap<String, u64>,
    /// The rooms in view, and the lists that they are in, as bits.
    pub(super) in_sight: HashMap<RoomNum, u128>,
    /// The rooms to read.
    pub(super) looks: Vec<Look>,
    pub(super) asked: Arc<Asked>,
    pub(super) generation: u32,
}

/// A room to read.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) room: RoomNum,
    pub(super) room_id: OwnedRoomId,
    /// The lists that it is in, as bits.
    pub(super) lists: u128,
    /// The record of what the client has received of the room.
    pub(super) told: Option<Told>,
    /// The position up to which the client has received the room's changes.
    pub(super) since: Option<Since>,
    pub(super) is_dm: bool,
    pub(super) rule: Rule,
}

/// The room parameters that apply to a room, combined from all lists and subscriptions that contain it.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) limit: u32,
    pub(super) required: Arc<Combined>,
}

/// The content of `m.space.child`.
#[derive(Deserialize)]
struct Link {
    #[serde(rename = "via")]
    _via: Vec<IgnoredAny>,
}

/// The room parameters of a request.
struct Rules<'a> {
    request: &'a Request,
    /// The combinations of required state in this request and the earlier ones.
    required: Vec<Arc<Combined>>,
    /// The parameters for rooms without a subscription, by the lists that they are in.
    known: HashMap<u128, Rule>,
}

/// The data from which a plan is made.
struct Scene<'a> {
    session: &'a Session,
    request: &'a Request,
    state: &'a State,
    roster: &'a Roster,
    mine: &'a UserRooms,
    shield: Option<&'a Shield>,
    /// The rooms that changed since the last response.
    changed: &'a HashSet<RoomNum>,
    /// The children of the spaces by which lists are filtered, by list.
    spaces: &'a HashMap<&'a str, HashSet<String>>,
}

impl Look {
    /// Returns the position up to which the client has received the room as a member.
    pub(super) fn inside_since(&self) -> Option<Since> {
        let was_in = |told: &Told| told.digest.membership == Some(MembershipState::Join);
        self.since
            .filter(|_| self.told.as_ref().is_some_and(was_in))
    }

    /// Returns whether the client asks for older events that it does not have.
    pub(super) fn expands(&self) -> bool {
        let lacks = |told: &Told| told.lacks_history(self.rule.limit);
        self.inside_since().is_some() && self.told.as_ref().is_some_and(lacks)
    }
}

impl<'a> Rules<'a> {
    fn of(&mut self, lists: u128, room_id: &RoomId) -> Rule {
        let subscription = self.request.room_subscriptions.get(room_id);
        let subscription = subscription.filter(|_| lists & SUBSCRIBED != 0);
        if let (None, Some(rule)) = (subscription, self.known.get(&lists)) {
            return rule.clone();
        }
        let of_lists = self.request.lists.values().enumerate();
        let of_lists = of_lists.filter(|(index, _)| lists & (1 << index) != 0);
        let of_lists = of_lists.map(|(_, list)| &list.config);
        let configs: Vec<&'a RoomConfig> = of_lists.chain(subscription).collect();
        let limits = configs.iter().map(|config| config.timeline_limit());
        let limit = limits.max().unwrap_or(0);
        let required = Combined::of(configs.iter().map(|config| &config.required_state));
        let known = self.required.iter().find(|known| ***known == required);
        let required = known.cloned().unwrap_or_else(|| {
            let required = Arc::new(required);
            self.required.push(required.clone());
            required
        });
        let rule = Rule { limit, required };
        if subscription.is_none() {
            self.known.insert(lists, rule.clone());
        }
        rule
    }
}

impl Scene<'_> {
    fn plan(&self, now: Since) -> Plan {
        let asked = Arc::new(Asked::of(self.request));
        let generation = if asked.has_lists_of(&self.state.asked) {
            self.state.generation
        } else {
            self.state.generation.wrapping_add(1)
        };
        let mut plan = Plan {
            now,
            asked,
            generation,
            ..Plan::default()
        };
        self.add_lists(&mut plan);
        self.add_subscriptions(&mut plan);
        let mut rules = Rules {
            request: self.request,
            required: self.state.required.to_vec(),
            known: HashMap::new(),
        };
        let asks_otherwise = plan.asked.extensions != self.state.asked.extensions;
        let mut looks = Vec::new();
        for (room, lists) in &plan.in_sight {
            let Some(entry) = self.roster.get(*room) else {
                continue;
            };
            let told = self.state.rooms.get(room);
            let is_dm = self.roster.is_direct(entry);
            let may_be_news = told.is_none_or(|told| {
                let other_lists = lists & !told.lists(generation) & !SUBSCRIBED != 0;
                let changed = self.has_changed(*room, entry, told) || told.digest.is_dm != is_dm;
                asks_otherwise || other_lists || changed || told.out_of_sight.is_some()
            });
            if !may_be_news && lists & SUBSCRIBED == 0 {
                continue;
            }
            let rule = rules.of(*lists, &entry.room_id);
            let wants_other =
                |told: &Told| told.lacks_history(rule.limit) || told.required != rule.required;
            if may_be_news || told.is_some_and(wants_other) {
                looks.push(Look {
                    room: *room,
                    room_id: entry.room_id.clone(),
                    lists: *lists,
                    since: told.and_then(|told| told.out_of_sight.or(self.state.since)),
                    told: told.cloned(),
                    is_dm,
                    rule,
                });
            }
        }
        plan.looks = looks;
        plan
    }

    /// Returns whether a room that the client knows has changed. Account data can also change for rooms that the user
    /// is not in.
    fn has_changed(&self, room: RoomNum, entry: &Entry, told: &Told) -> bool {
        entry.since != told.digest.member_since || self.changed.contains(&room)
    }

    fn add_lists(&self, plan: &mut Plan) {
        if self.request.lists.is_empty() {
            return;
        }
        let listed: Vec<(RoomNum, &Entry)> = self
            .roster
            .in_order()
            .filter(|(room, entry)| self.is_listed(*room, entry))
            .collect();
        for (bit, (name, list)) in self.request.lists.iter().enumerate() {
            let mut count = 0;
            for (room, entry) in &listed {
                let filters = list.filters.as_ref();
                if filters.is_some_and(|filters| !self.passes(name, filters, *room, entry)) {
                    continue;
                }
                if list.shows(count) {
                    *plan.in_sight.entry(*room).or_default() |= 1 << bit;
                }
                count += 1;
            }
            plan.counts.insert(name.clone(), count);
        }
    }

    fn is_listed(&self, room: RoomNum, entry: &Entry) -> bool {
        match entry.standing {
            Standing::Expelled => true,
            Standing::Gone => self.state.rooms.contains_key(&room),
            Standing::In => entry.membership != MembershipState::Invite || self.is_welcome(room),
        }
    }

    fn is_welcome(&self, room: RoomNum) -> bool {
        if self.shield.is_none() {
            return true;
        }
        let mine = self.mine.get(room);
        mine.is_some_and(|mine| is_welcome(self.shield, self.session, &mine))
    }

    /// Adds the room subscriptions, except to rooms that are not the user's or that the user has forgotten.
    fn add_subscriptions(&self, plan: &mut Plan) {
        for room_id in self.request.room_subscriptions.keys() {
            let Some(room) = self.roster.number(room_id) else {
                continue;
            };
            let is_theirs = self.roster.get(room).is_some_and(|entry| {
                self.is_listed(room, entry)
                    || (entry.standing == Standing::Gone
                        && self.mine.get(room).is_some_and(|mine| !mine.forgotten))
            });
            if is_theirs {
                *plan.in_sight.entry(room).or_default() |= SUBSCRIBED;
            }
        }
    }

    fn passes(&self, list: &str, filters: &Filters, room: RoomNum, entry: &Entry) -> bool {
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

impl Inner {
    /// Returns the plan of a response and the snapshots of the rooms to read, all at one position.
    pub(super) async fn plan(
        &self,
        session: &Session,
        request: &Request,
        state: &State,
    ) -> Result<(Plan, Vec<RoomMoment>)> {
        let shield = self.rooms.access.shield(session.user);
        for _ in 0..ATTEMPTS {
            let tick = self.ephemeral.now();
            let mut roster = self.roster(session).await?;
            let wanted = |list: &Filters| list.is_encrypted.is_some();
            if filters(request).any(|(_, list)| wanted(list)) {
                self.look_for_encryption(&mut roster).await?;
            }
            let spaces = self.spaces(&roster, request).await?;
            let changed = match state.since {
                Some(since) => self.changed_since(session, since).await?,
                None => HashSet::new(),
            };
            let mine = self.rooms.memory.of_user(session.user).await?;
            let scene = Scene {
                session,
                request,
                state,
                roster: &roster,
                mine: &mine,
                shield: shield.as_deref(),
                changed: &changed,
                spaces: &spaces,
            };
            let now = Since {
                position: roster.now(),
                tick,
            };
            let plan = scene.plan(now);
            drop(roster);
            // Loads the rooms that are not in memory, and keeps them there until the snapshots are taken.
            let mut held = Vec::new();
            for look in &plan.looks {
                if mine.get(look.room).is_some_and(|mine| is_inside(&mine)) {
                    held.push(self.rooms.memory.room_by_number(look.room).await?);
                }
            }
            if let Some(moments) = self.take_looks(session, &mine, &plan) {
                return Ok((plan, moments));
            }
        }
        Err(Error::Unavailable(
            "the rooms changed too often, try again".to_owned(),
        ))
    }

    async fn changed_since(&self, session: &Session, since: Since) -> Result<HashSet<RoomNum>> {
        let since = self.token_of(since);
        let older = self.changed_long_ago(session, Some(&since)).await?;
        Ok(self.changed(&since, &older))
    }

    /// Returns a position as a token.
    pub(super) fn token_of(&self, since: Since) -> Token {
        Token {
            position: since.position,
            to_device: 0,
            tick: since.tick,
            boot: self.ephemeral.boot(),
        }
    }

    /// Returns the children of the spaces by which lists are filtered, by list. Spaces in which the user is not joined
    /// are ignored.
    async fn spaces<'a>(
        &self,
        roster: &Roster,
        request: &'a Request,
    ) -> Result<HashMap<&'a str, HashSet<String>>> {
        let mut found = HashMap::new();
        for (name, filters) in filters(request) {
            let mut children = HashSet::new();
            for space in filters.spaces.iter().flatten() {
                let number = <&RoomId>::try_from(space.as_str()).ok();
                let Some(room) = number.and_then(|room_id| roster.number(room_id)) else {
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
                let links = links.filter(|pdu| pdu.content_as::<Link>().is_some());
                children.extend(links.filter_map(|pdu| pdu.state_key.clone()));
            }
            found.insert(name, children);
        }
        Ok(found)
    }

    /// Takes snapshots of the rooms to read. Returns `None` if something has changed for the user since the plan was
    /// made, or is not in memory.
    fn take_looks(
        &self,
        session: &Session,
        mine: &Arc<UserRooms>,
        plan: &Plan,
    ) -> Option<Vec<RoomMoment>> {
        let _still = self.db.journal().still();
        let current = self.rooms.memory.peek_user(session.user)?;
        let later = self.recent.rooms(plan.now.position)?;
        let has_changed = {
            let all = mine.all();
            later.iter().any(|room| all.contains_key(room))
        };
        if has_changed
            || !Arc::ptr_eq(&current, mine)
            || self
                .recent
                .account_data_changed(session.user, plan.now.position)
        {
            return None;
        }
        let mut moments = Vec::with_capacity(plan.looks.len());
        for look in &plan.looks {
            let since = look.inside_since().filter(|_| !look.expands());
            let since = since.map(|since| self.token_of(since));
            let mine = mine.get(look.room)?;
            let inside = if is_inside(&mine) {
                Some(self.inside(look.room, since.as_ref(), plan.now.tick)?)
            } else {
                None
            };
            moments.push(RoomMoment {
                num: look.room,
                mine,
                inside,
            });
        }
        Some(moments)
    }
}

fn filters(request: &Request) -> impl Iterator<Item = (&str, &Filters)> {
    let lists = request.lists.iter();
    lists.filter_map(|(name, list)| Some((name.as_str(), list.filters.as_ref()?)))
}
