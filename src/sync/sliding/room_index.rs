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
        sync::room_list::{self as stored, RoomListRow},
        users::account_data::AccountData,
    },
    sync::SyncInner,
    users::Session,
};

/// The number of indexes that are kept in memory, and of rooms in all of them together (about 300 bytes each).
const MAX_ROOM_INDEXES: usize = 5_000;
const MAX_INDEXED_ROOMS: usize = 1_000_000;
/// The number of a room's tags by which lists can be filtered.
const MAX_TAGS_PER_ROOM: usize = 100;

/// The room indexes of the users who sync.
#[derive(Default)]
pub(crate) struct RoomIndexes {
    cache: Mutex<RoomIndexCache>,
}

#[derive(Default)]
struct RoomIndexCache {
    by_user: HashMap<UserNum, CachedRoomIndex>,
    /// The number of uses so far, which orders the indexes by their latest use.
    uses: u64,
}

struct CachedRoomIndex {
    index: Arc<tokio::sync::Mutex<RoomIndex>>,
    /// The number of rooms in it at its latest use.
    size: Arc<AtomicUsize>,
    used: u64,
}

/// The rooms of one user.
#[derive(Debug, Default)]
pub(super) struct RoomIndex {
    /// The position up to which it is up to date; `None` before it is loaded.
    up_to: Option<Position>,
    rooms: HashMap<RoomNum, IndexedRoom>,
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
pub(super) struct IndexedRoom {
    pub(super) room_id: OwnedRoomId,
    pub(super) membership: MembershipState,
    /// The position of the user's latest membership event in the room.
    pub(super) member_since: Position,
    pub(super) relation: RoomRelation,
    /// The position of the latest activity.
    activity: Position,
    pub(super) room_type: Option<String>,
    /// `None` until a filter needs it.
    pub(super) encrypted: Option<bool>,
}

/// The relation of the user to a room, which decides whether it belongs in lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RoomRelation {
    /// The user is in the room, is invited, or knocks.
    In,
    /// The user was in the room until someone else removed them, which they may not have seen.
    Expelled,
    /// The user left, or was never in the room. Only clients that already have the room learn of it.
    Gone,
}

#[derive(Deserialize)]
struct RoomTypeContent {
    #[serde(rename = "type")]
    room_type: Option<String>,
}

#[derive(Deserialize)]
struct StrippedEvent<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    content: &'a RawValue,
}

#[derive(Deserialize)]
struct TagContent {
    tags: Map<String, Value>,
}

impl RoomIndexes {
    fn lock(&self) -> MutexGuard<'_, RoomIndexCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_of_user(&self, user: UserNum) -> Arc<tokio::sync::Mutex<RoomIndex>> {
        let mut kept = self.lock();
        kept.uses += 1;
        let now = kept.uses;
        if let Some(slot) = kept.by_user.get_mut(&user) {
            slot.used = now;
            return slot.index.clone();
        }
        kept.evict_indexes();
        let size = Arc::new(AtomicUsize::new(0));
        let roster = RoomIndex {
            size: size.clone(),
            ..RoomIndex::default()
        };
        let roster = Arc::new(tokio::sync::Mutex::new(roster));
        let slot = CachedRoomIndex {
            index: roster.clone(),
            size,
            used: now,
        };
        kept.by_user.insert(user, slot);
        roster
    }
}

impl RoomIndexCache {
    /// Drops the least recently used indexes while there are too many.
    fn evict_indexes(&mut self) {
        let size = |slot: &CachedRoomIndex| slot.size.load(Ordering::Relaxed);
        let mut rooms: usize = self.by_user.values().map(size).sum();
        while self.by_user.len() >= MAX_ROOM_INDEXES || rooms > MAX_INDEXED_ROOMS {
            let oldest = self.by_user.iter().min_by_key(|(_, slot)| slot.used);
            let Some(oldest) = oldest.map(|(user, _)| *user) else {
                return;
            };
            rooms -= self.by_user.remove(&oldest).map_or(0, |slot| size(&slot));
        }
    }
}

impl RoomIndex {
    /// Returns the position up to which the index is up to date.
    pub(super) fn now(&self) -> Position {
        self.up_to.unwrap_or(0)
    }

    /// Returns the rooms, the most recently active first.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (RoomNum, &IndexedRoom)> {
        self.order
            .iter()
            .filter_map(|(_, room)| Some((*room, self.rooms.get(room)?)))
    }

    pub(super) fn get(&self, room: RoomNum) -> Option<&IndexedRoom> {
        self.rooms.get(&room)
    }

    pub(super) fn room_number(&self, room_id: &ruma::RoomId) -> Option<RoomNum> {
        self.by_id.get(room_id).copied()
    }

    pub(super) fn is_direct(&self, entry: &IndexedRoom) -> bool {
        self.direct.contains(&entry.room_id)
    }

    pub(super) fn tags(&self, room: RoomNum) -> &[String] {
        self.tags.get(&room).map(Vec::as_slice).unwrap_or_default()
    }

    fn insert_room(&mut self, room: RoomNum, entry: IndexedRoom) {
        self.remove_room(room);
        self.order.insert((Reverse(entry.activity), room));
        self.by_id.insert(entry.room_id.clone(), room);
        self.rooms.insert(room, entry);
    }

    fn remove_room(&mut self, room: RoomNum) {
        if let Some(before) = self.rooms.remove(&room) {
            self.order.remove(&(Reverse(before.activity), room));
            self.by_id.remove(&before.room_id);
        }
    }

    /// Applies account data of the user that concerns rooms.
    fn apply_account_data(&mut self, data: &AccountData) {
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
                let tags: Option<TagContent> = serde_json::from_str(&data.content).ok();
                let tags = tags.map(|tags| tags.tags).unwrap_or_default();
                let tags: Vec<String> = tags
                    .into_iter()
                    .map(|(tag, _)| tag)
                    .take(MAX_TAGS_PER_ROOM)
                    .collect();
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

impl SyncInner {
    /// Returns the room index of a user as it is now.
    pub(super) async fn room_index(&self, session: &Session) -> Result<OwnedMutexGuard<RoomIndex>> {
        let shared = self.sliding.room_indexes.index_of_user(session.user);
        let mut roster = shared.lock_owned().await;
        let now = {
            let _still = self.db.journal().hold_announcements();
            self.db.journal().published_position()
        };
        let mine = self.rooms.memory.rooms_of_user(session.user).await?;
        match roster
            .up_to
            .and_then(|up_to| self.recent_changes.rooms_changed_after(up_to))
        {
            None => self.load_room_index(session, &mut roster, &mine).await?,
            Some(changed) => {
                for room in changed {
                    self.refresh_room(session, &mut roster, room, mine.get(room))
                        .await?;
                }
            }
        }
        let after = roster.up_to.unwrap_or(0);
        if after == 0
            || self
                .recent_changes
                .account_data_changed(session.user, after)
        {
            let data = self
                .users
                .account_data
                .changed_between(session.user, after, now);
            for data in data.await? {
                roster.apply_account_data(&data);
            }
        }
        roster.up_to = Some(now);
        let size = roster.rooms.len() + roster.direct.len() + roster.tags.len();
        roster.size.store(size, Ordering::Relaxed);
        Ok(roster)
    }

    async fn load_room_index(
        &self,
        session: &Session,
        roster: &mut RoomIndex,
        mine: &UserRooms,
    ) -> Result<()> {
        let rows = {
            let mut db = self.db.read().await?;
            stored::rooms_of_user(&mut db, session.user).await?
        };
        let mut rows: HashMap<RoomNum, RoomListRow> =
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
            match row.and_then(|row| indexed_room_from_row(session, row, &room)) {
                Some(entry) => roster.insert_room(num, entry),
                None => self.refresh_room(session, roster, num, Some(room)).await?,
            }
        }
        Ok(())
    }

    /// Updates one room.
    async fn refresh_room(
        &self,
        session: &Session,
        roster: &mut RoomIndex,
        num: RoomNum,
        mine: Option<UserRoom>,
    ) -> Result<()> {
        let Some(mine) = mine else {
            roster.remove_room(num);
            return Ok(());
        };
        let before = roster.get(num);
        let is_known = before.is_some_and(|before| before.member_since == mine.position);
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
        let mut entry = IndexedRoom {
            room_id: room.room_id.clone(),
            member_since: mine.position,
            relation: RoomRelation::In,
            activity: mine.position,
            room_type: before.and_then(|before| before.room_type.clone()),
            encrypted: before.and_then(|before| before.encrypted),
            membership: mine.membership.clone(),
        };
        match mine.membership {
            MembershipState::Join => {
                entry.activity = newest.unwrap_or(mine.position).max(mine.position);
                let created: Option<RoomTypeContent> = state.content(&StateEventType::RoomCreate);
                entry.room_type = created.and_then(|created| created.room_type);
                let encryption = state.get(&StateEventType::RoomEncryption, "");
                entry.encrypted = Some(encryption.is_some());
            }
            MembershipState::Invite | MembershipState::Knock => entry.apply_stripped_state(&mine),
            _ => {
                let sender = state.member(&session.user_id).map(|pdu| pdu.sender.clone());
                let by_other = sender.is_some_and(|sender| sender != session.user_id);
                entry.relation = RoomRelation::Gone;
                if by_other && !mine.forgotten {
                    let (user, user_id) = (session.user, &session.user_id);
                    let access = self.rooms.access.load_access(&room, user, user_id).await?;
                    if access.has_ever_joined() {
                        entry.relation = RoomRelation::Expelled;
                    }
                }
            }
        }
        roster.insert_room(num, entry);
        Ok(())
    }

    /// Finds out which rooms are encrypted, for those where this is not known yet.
    pub(super) async fn load_encryption(&self, roster: &mut RoomIndex) -> Result<()> {
        let unknown = |entry: &&mut IndexedRoom| entry.encrypted.is_none();
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
            let kind = strings.find_number(&mut db, "m.room.encryption").await?;
            match (kind, strings.find_number(&mut db, "").await?) {
                (Some(kind), Some(state_key)) => {
                    let found = stored::rooms_with_state(&mut db, &rooms, kind, state_key).await?;
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

impl IndexedRoom {
    /// Sets the properties that the stripped state has for a user who is invited or knocks.
    fn apply_stripped_state(&mut self, mine: &UserRoom) {
        let json = mine.stripped_state.as_deref().unwrap_or("[]");
        let state: Vec<StrippedEvent<'_>> = serde_json::from_str(json).unwrap_or_default();
        let of = |kind: &str| state.iter().find(|event| event.kind == kind);
        let created = of("m.room.create")
            .and_then(|event| serde_json::from_str::<RoomTypeContent>(event.content.get()).ok());
        self.room_type = created.and_then(|created| created.room_type);
        self.encrypted = Some(of("m.room.encryption").is_some());
    }
}

/// Returns the entry of a stored room, or `None` if the stored row is not enough.
fn indexed_room_from_row(
    session: &Session,
    row: RoomListRow,
    mine: &UserRoom,
) -> Option<IndexedRoom> {
    let mut entry = IndexedRoom {
        room_id: OwnedRoomId::try_from(row.room_id).ok()?,
        membership: mine.membership.clone(),
        member_since: mine.position,
        relation: RoomRelation::In,
        activity: mine.position,
        room_type: row.room_type,
        encrypted: None,
    };
    match mine.membership {
        MembershipState::Join => entry.activity = row.last_position.max(mine.position),
        MembershipState::Invite | MembershipState::Knock => entry.apply_stripped_state(mine),
        // Whether a removed user was ever in the room is known only from the room's history.
        _ if row.sender != Some(session.user) && !mine.forgotten => return None,
        _ => entry.relation = RoomRelation::Gone,
    }
    Some(entry)
}
