//! The rooms of a user, sorted by their latest activity, with the properties by which lists are filtered.
//!
//! An index is loaded once, and is then updated for the rooms that change. All connections of the user share it.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use ruma::{
    OwnedRoomId,
    events::{StateEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use tokio::sync::OwnedMutexGuard;

use crate::{
    error::{Error, Result},
    rooms::{UserRoom, UserRooms},
    storage::{
        Position, RoomNum, UserNum,
        sync::room_list::{self as stored, RosterRow},
        users::account_data::AccountData,
    },
    sync::Inner,
    users::Session,
};

/// The number of indexes that are kept in memory, and of rooms in all of them together (about 300 bytes each).
const ROSTERS: usize = 5_000;
const ROOMS: usize = 1_000_000;
/// The number of a room's tags by which lists can be filtered.
const TAGS: usize = 100;

/// The room indexes of the users who sync.
#[derive(Default)]
pub(crate) struct Rosters {
    by_user: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    slots: HashMap<UserNum, Slot>,
    /// The number of uses so far, which orders the indexes by their latest use.
    uses: u64,
}

struct Slot {
    roster: Arc<tokio::sync::Mutex<Roster>>,
    /// The number of rooms in it at its latest use.
    size: Arc<AtomicUsize>,
    used: u64,
}

/// The rooms of one user.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// The position up to which it is up to date; `None` before it is loaded.
    up_to: Option<Position>,
    rooms: HashMap<RoomNum, Entry>,
    by_id: HashMap<OwnedRoomId, RoomNum>,
    /// The rooms, the most recently active first.
    order: BTreeSet<(Reverse<Position>, RoomNum)>,
    /// The rooms that the user's account data lists as direct chats.
    direct: HashSet<OwnedRoomId>,
    /// The tags of each room.
    tags: HashMap<RoomNum, Vec<String>>,
    size: Arc<AtomicUsize>,
}

/// A room of the user.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) room_id: OwnedRoomId,
    pub(super) membership: MembershipState,
    /// The position of the user's latest membership event in the room.
    pub(super) since: Position,
    pub(super) standing: Standing,
    /// The position of the latest activity.
    activity: Position,
    pub(super) room_type: Option<String>,
    /// `None` until a filter needs it.
    pub(super) encrypted: Option<bool>,
}

/// The relation of the user to a room, which decides whether it belongs in lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The user is in the room, is invited, or knocks.
    In,
    /// The user was in the room until someone else removed them, which they may not have seen.
    Expelled,
    /// The user left, or was never in the room. Only clients that already have the room learn of it.
    Gone,
}

#[derive(Deserialize)]
struct Created {
    #[serde(rename = "type")]
    room_type: Option<String>,
}

#[derive(Deserialize)]
struct Stripped<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    content: &'a RawValue,
}

#[derive(Deserialize)]
struct Tags {
    tags: Map<String, Value>,
}

impl Rosters {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.by_user.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, user: UserNum) -> Arc<tokio::sync::Mutex<Roster>> {
        let mut kept = self.kept();
        kept.uses += 1;
        let now = kept.uses;
        if let Some(slot) = kept.slots.get_mut(&user) {
            slot.used = now;
            return slot.roster.clone();
        }
        kept.make_place();
        let size = Arc::new(AtomicUsize::new(0));
        let roster = Roster {
            size: size.clone(),
            ..Roster::default()
        };
        let roster = Arc::new(tokio::sync::Mutex::new(roster));
        let slot = Slot {
            roster: roster.clone(),
            size,
            used: now,
        };
        kept.slots.insert(user, slot);
        roster
    }
}

impl Kept {
    /// Drops the least recently used indexes while there are too many.
    fn make_place(&mut self) {
        let size = |slot: &Slot| slot.size.load(Ordering::Relaxed);
        let mut rooms: usize = self.slots.values().map(size).sum();
        while self.slots.len() >= ROSTERS || rooms > ROOMS {
            let oldest = self.slots.iter().min_by_key(|(_, slot)| slot.used);
            let Some(oldest) = oldest.map(|(user, _)| *user) else {
                return;
            };
            rooms -= self.slots.remove(&oldest).map_or(0, |slot| size(&slot));
        }
    }
}

impl Roster {
    /// Returns the position up to which the index is up to date.
    pub(super) fn now(&self) -> Position {
        self.up_to.unwrap_or(0)
    }

    /// Returns the rooms, the most recently active first.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (RoomNum, &Entry)> {
        self.order
            .iter()
            .filter_map(|(_, room)| Some((*room, self.rooms.get(room)?)))
    }

    pub(super) fn get(&self, room: RoomNum) -> Option<&Entry> {
        self.rooms.get(&room)
    }

    pub(super) fn number(&self, room_id: &ruma::RoomId) -> Option<RoomNum> {
        self.by_id.get(room_id).copied()
    }

    pub(super) fn is_direct(&self, entry: &Entry) -> bool {
        self.direct.contains(&entry.room_id)
    }

    pub(super) fn tags(&self, room: RoomNum) -> &[String] {
        self.tags.get(&room).map(Vec::as_slice).unwrap_or_default()
    }

    fn put(&mut self, room: RoomNum, entry: Entry) {
        self.remove(room);
        self.order.insert((Reverse(entry.activity), room));
        self.by_id.insert(entry.room_id.clone(), room);
        self.rooms.insert(room, entry);
    }

    fn remove(&mut self, room: RoomNum) {
        if let Some(before) = self.rooms.remove(&room) {
            self.order.remove(&(Reverse(before.activity), room));
            self.by_id.remove(&before.room_id);
        }
    }

    /// Applies account data of the user that concerns rooms.
    fn note(&mut self, data: &AccountData) {
        match (data.room(), data.kind.as_str()) {
            (None, "m.direct") => {
                let rooms: Option<HashMap<String, Vec<String>>> =
                    serde_json::from_str(&data.content).ok();
                let rooms = rooms.unwrap_or_default().into_values().flatten();
                self.direct = rooms
                    .filter_map(|room| OwnedRoomId::try_from(room).ok())
                    .collect();
            }
            (Some(room), "m.tag") => {
                let tags: Option<Tags> = serde_json::from_str(&data.content).ok();
                let tags = tags.map(|tags| tags.tags).unwrap_or_default();
                let tags: Vec<String> = tags.into_iter().map(|(tag, _)| tag).take(TAGS).collect();
                if tags.is_empty() {
                    self.tags.remove(&room);
                } else {
                    self.tags.insert(room, tags);
                }
            }
            _ => {}
        }
    }
}

impl Inner {
    /// Returns the room index of a user as it is now.
    pub(super) async fn roster(&self, session: &Session) -> Result<OwnedMutexGuard<Roster>> {
        let shared = self.sliding.rosters.of(session.user);
        let mut roster = shared.lock_owned().await;
        let now = {
            let _still = self.db.journal().still();
            self.db.journal().published()
        };
        let mine = self.rooms.memory.of_user(session.user).await?;
        match roster.up_to.and_then(|up_to| self.recent.rooms(up_to)) {
            None => self.load_roster(session, &mut roster, &mine).await?,
            Some(changed) => {
                for room in changed {
                    self.refresh(session, &mut roster, room, mine.get(room))
                        .await?;
                }
            }
        }
        let after = roster.up_to.unwrap_or(0);
        if after == 0 || self.recent.account_data_changed(session.user, after) {
            let data = self.users.account_data_changed(session.user, after, now);
            for data in data.await? {
                roster.note(&data);
            }
        }
        roster.up_to = Some(now);
        let size = roster.rooms.len() + roster.direct.len() + roster.tags.len();
        roster.size.store(size, Ordering::Relaxed);
        Ok(roster)
    }

    async fn load_roster(
        &self,
        session: &Session,
        roster: &mut Roster,
        mine: &UserRooms,
    ) -> Result<()> {
        let rows = {
            let mut db = self.db.read().await?;
            stored::of_user(&mut db, session.user).await?
        };
        let mut rows: HashMap<RoomNum, RosterRow> =
            rows.into_iter().map(|row| (row.room, row)).collect();
        let memberships: Vec<(RoomNum, UserRoom)> = mine
            .all()
            .iter()
            .map(|(num, room)| (*num, room.clone()))
            .collect();
        roster.rooms.clear();
        roster.by_id.clear();
        roster.order.clear();
        for (num, room) in memberships {
            let row = rows.remove(&num);
            match row.and_then(|row| entry_of(session, row, &room)) {
                Some(entry) => roster.put(num, entry),
                None => self.refresh(session, roster, num, Some(room)).await?,
            }
        }
        Ok(())
    }

    /// Updates one room.
    async fn refresh(
        &self,
        session: &Session,
        roster: &mut Roster,
        num: RoomNum,
        mine: Option<UserRoom>,
    ) -> Result<()> {
        let Some(mine) = mine else {
            roster.remove(num);
            return Ok(());
        };
        let before = roster.get(num);
        let is_known = before.is_some_and(|before| before.since == mine.position);
        if is_known && mine.membership != MembershipState::Join && !mine.forgotten {
            return Ok(());
        }
        let room = match self.rooms.memory.room_by_number(num).await {
            Err(Error::NotFound(_)) => return Ok(()),
            room => room?,
        };
        let (state, newest) = {
            let view = room.view();
            let newest = view.ring.back().map(|event| event.position);
            (view.state.clone(), newest)
        };
        let mut entry = Entry {
            room_id: room.room_id.clone(),
            since: mine.position,
            standing: Standing::In,
            activity: mine.position,
            room_type: before.and_then(|before| before.room_type.clone()),
            encrypted: before.and_then(|before| before.encrypted),
            membership: mine.membership.clone(),
        };
        match mine.membership {
            MembershipState::Join => {
                entry.activity = newest.unwrap_or(mine.position).max(mine.position);
                let created: Option<Created> = state.content(&StateEventType::RoomCreate);
                entry.room_type = created.and_then(|created| created.room_type);
                let encryption = state.get(&StateEventType::RoomEncryption, "");
                entry.encrypted = Some(encryption.is_some());
            }
            MembershipState::Invite | MembershipState::Knock => entry.take_stripped(&mine),
            _ => {
                let sender = state.member(&session.user_id).map(|pdu| pdu.sender.clone());
                let by_other = sender.is_some_and(|sender| sender != session.user_id);
                entry.standing = Standing::Gone;
                if by_other && !mine.forgotten {
                    let (user, user_id) = (session.user, &session.user_id);
                    let access = self.rooms.access.access(&room, user, user_id).await?;
                    if access.ever_joined() {
                        entry.standing = Standing::Expelled;
                    }
                }
            }
        }
        roster.put(num, entry);
        Ok(())
    }

    /// Finds out which rooms are encrypted, for those where this is not known yet.
    pub(super) async fn look_for_encryption(&self, roster: &mut Roster) -> Result<()> {
        let unknown = |entry: &&mut Entry| entry.encrypted.is_none();
        let rooms = roster.rooms.iter();
        let rooms: Vec<RoomNum> = rooms
            .filter(|(_, entry)| entry.encrypted.is_none())
            .map(|(room, _)| *room)
            .collect();
        if rooms.is_empty() {
            return Ok(());
        }
        let encrypted: HashSet<RoomNum> = {
            let mut db = self.db.read().await?;
            let strings = &self.db.strings;
            let kind = strings.find(&mut db, "m.room.encryption").await?;
            match (kind, strings.find(&mut db, "").await?) {
                (Some(kind), Some(state_key)) => {
                    let found = stored::with_state(&mut db, &rooms, kind, state_key).await?;
                    found.into_iter().collect()
                }
                _ => HashSet::new(),
            }
        };
        for room in rooms {
            if let Some(entry) = roster.rooms.get_mut(&room).filter(unknown) {
                entry.encrypted = Some(encrypted.contains(&room));
            }
        }
        Ok(())
    }
}

impl Entry {
    /// Sets the properties that the stripped state has for a user who is invited or knocks.
    fn take_stripped(&mut self, mine: &UserRoom) {
        let json = mine.stripped_state.as_deref().unwrap_or("[]");
        let state: Vec<Stripped<'_>> = serde_json::from_str(json).unwrap_or_default();
        let of = |kind: &str| state.iter().find(|event| event.kind == kind);
        let created = of("m.room.create")
            .and_then(|event| serde_json::from_str::<Created>(event.content.get()).ok());
        self.room_type = created.and_then(|created| created.room_type);
        self.encrypted = Some(of("m.room.encryption").is_some());
    }
}

/// Returns the entry of a stored room, or `None` if the stored row is not enough.
fn entry_of(session: &Session, row: RosterRow, mine: &UserRoom) -> Option<Entry> {
    let mut entry = Entry {
        room_id: OwnedRoomId::try_from(row.room_id).ok()?,
        membership: mine.membership.clone(),
        since: mine.position,
        standing: Standing::In,
        activity: mine.position,
        room_type: row.room_type,
        encrypted: None,
    };
    match mine.membership {
        MembershipState::Join => entry.activity = row.last_position.max(mine.position),
        MembershipState::Invite | MembershipState::Knock => entry.take_stripped(mine),
        // Whether a removed user was ever in the room is known only from the room's history.
        _ if row.sender != Some(session.user) && !mine.forgotten => return None,
        _ => entry.standing = Standing::Gone,
    }
    Some(entry)
}
