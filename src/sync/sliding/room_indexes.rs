//! The room indexes of all users.
//!
//! An index is loaded once, and is then updated for the rooms that change. All connections of the user share it.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use ruma::events::room::member::MembershipState;
use tokio::sync::OwnedMutexGuard;

use super::room_index::{IndexedRoom, RoomIndex, RoomRelation, indexed_room_from_row};
use crate::{
    error::{Error, Result},
    matrix::StateMap,
    numbers::{Position, RoomNum, UserNum},
    rooms::{Room, Rooms, UserRoom, UserRooms},
    storage::{
        Db,
        sync::room_list::{self as stored, RoomListRow},
    },
    sync::{SyncEnvironment, recent_changes::RecentChanges},
    users::{Session, Users},
};

/// The number of indexes that are kept in memory, and of rooms in all of them together (about 300 bytes each).
const MAX_ROOM_INDEXES: usize = 5_000;
const MAX_INDEXED_ROOMS: usize = 1_000_000;

/// Finds the room indexes of the users who sync. Cheap to clone.
#[derive(Clone)]
pub(super) struct RoomIndexes {
    db: Db,
    users: Users,
    rooms: Rooms,
    recent_changes: Arc<RecentChanges>,
    cache: Arc<Mutex<RoomIndexCache>>,
}

/// The indexes in memory.
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

impl RoomIndexes {
    pub(super) fn new(environment: &SyncEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            users: environment.users.clone(),
            rooms: environment.rooms.clone(),
            recent_changes: environment.recent_changes.clone(),
            cache: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, RoomIndexCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_of_user(&self, user: UserNum) -> Arc<tokio::sync::Mutex<RoomIndex>> {
        let mut cache = self.lock();
        cache.uses += 1;
        let now = cache.uses;
        if let Some(cached) = cache.by_user.get_mut(&user) {
            cached.used = now;
            return cached.index.clone();
        }
        cache.evict_indexes();
        let size = Arc::new(AtomicUsize::new(0));
        let index = RoomIndex::with_size_counter(size.clone());
        let index = Arc::new(tokio::sync::Mutex::new(index));
        let cached = CachedRoomIndex {
            index: index.clone(),
            size,
            used: now,
        };
        cache.by_user.insert(user, cached);
        index
    }

    /// Returns the room index of a user as it is now.
    pub(super) async fn room_index(&self, session: &Session) -> Result<OwnedMutexGuard<RoomIndex>> {
        let mut index = self.index_of_user(session.user).lock_owned().await;
        let now = {
            let _held = self.db.journal().hold_announcements();
            self.db.journal().published_position()
        };
        let user_rooms = self.rooms.memory.rooms_of_user(session.user).await?;
        let changed = index.up_to.and_then(|up_to| {
            let recent_changes = &self.recent_changes;
            recent_changes.rooms_changed_after(up_to)
        });
        match changed {
            None => self.load_rooms(session, &mut index, &user_rooms).await?,
            Some(changed) => {
                for room in changed {
                    let user_room = user_rooms.get(room);
                    self.refresh_room(session, &mut index, room, user_room)
                        .await?;
                }
            }
        }
        let after = index.now();
        if after == Position::ZERO
            || self
                .recent_changes
                .account_data_changed(session.user, after)
        {
            let data = self
                .users
                .account_data
                .changed_between(session.user, after, now);
            for data in data.await? {
                index.apply_account_data(&data);
            }
        }
        index.finish_update(now);
        Ok(index)
    }

    async fn load_rooms(
        &self,
        session: &Session,
        index: &mut RoomIndex,
        user_rooms: &UserRooms,
    ) -> Result<()> {
        let rows = {
            let mut db = self.db.read().await?;
            stored::rooms_of_user(&mut db, session.user).await?
        };
        let mut rows: HashMap<RoomNum, RoomListRow> =
            rows.into_iter().map(|row| (row.room, row)).collect();
        let memberships: Vec<(RoomNum, UserRoom)> = user_rooms
            .all()
            .iter()
            .map(|(num, room)| (*num, room.clone()))
            .collect();
        index.clear_rooms();
        for (num, room) in memberships {
            let row = rows.remove(&num);
            match row.and_then(|row| indexed_room_from_row(session, row, &room)) {
                Some(entry) => index.insert_room(num, entry),
                None => self.refresh_room(session, index, num, Some(room)).await?,
            }
        }
        Ok(())
    }

    /// Updates one room.
    async fn refresh_room(
        &self,
        session: &Session,
        index: &mut RoomIndex,
        num: RoomNum,
        user_room: Option<UserRoom>,
    ) -> Result<()> {
        let Some(user_room) = user_room else {
            index.remove_room(num);
            return Ok(());
        };
        let before = index.get(num);
        let is_known = before.is_some_and(|before| before.member_since == user_room.position);
        if is_known && user_room.membership != MembershipState::Join && !user_room.forgotten {
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
            member_since: user_room.position,
            relation: RoomRelation::In,
            activity: user_room.position,
            room_type: before.and_then(|before| before.room_type.clone()),
            encrypted: before.and_then(|before| before.encrypted),
            membership: user_room.membership.clone(),
        };
        match user_room.membership {
            MembershipState::Join => {
                entry.activity = newest.unwrap_or(user_room.position).max(user_room.position);
                entry.apply_state(&state);
            }
            MembershipState::Invite | MembershipState::Knock => {
                entry.apply_stripped_state(&user_room);
            }
            _ => {
                entry.relation = self
                    .left_relation(session, &room, &state, &user_room)
                    .await?;
            }
        }
        index.insert_room(num, entry);
        Ok(())
    }

    /// Returns the relation of a user to a room that they are not in.
    async fn left_relation(
        &self,
        session: &Session,
        room: &Arc<Room>,
        state: &StateMap,
        user_room: &UserRoom,
    ) -> Result<RoomRelation> {
        let sender = state.member(&session.user_id).map(|pdu| pdu.sender.clone());
        let is_by_other = sender.is_some_and(|sender| sender != session.user_id);
        if !is_by_other || user_room.forgotten {
            return Ok(RoomRelation::Gone);
        }
        let access = self
            .rooms
            .access
            .load_access(room, session.user, &session.user_id)
            .await?;
        Ok(if access.has_ever_joined() {
            RoomRelation::Expelled
        } else {
            RoomRelation::Gone
        })
    }

    /// Finds out which rooms are encrypted, for those where this is not known yet.
    pub(super) async fn load_encryption(&self, index: &mut RoomIndex) -> Result<()> {
        let rooms = index.rooms_of_unknown_encryption();
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
            index.set_encrypted(room, encrypted.contains(&room));
        }
        Ok(())
    }
}

impl RoomIndexCache {
    /// Drops the least recently used indexes while there are too many.
    fn evict_indexes(&mut self) {
        let size = |cached: &CachedRoomIndex| cached.size.load(Ordering::Relaxed);
        let mut rooms: usize = self.by_user.values().map(size).sum();
        while self.by_user.len() >= MAX_ROOM_INDEXES || rooms > MAX_INDEXED_ROOMS {
            let oldest = self.by_user.iter().min_by_key(|(_, cached)| cached.used);
            let Some(oldest) = oldest.map(|(user, _)| *user) else {
                return;
            };
            rooms -= self
                .by_user
                .remove(&oldest)
                .map_or(0, |cached| size(&cached));
        }
    }
}
