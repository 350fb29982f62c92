//! The rooms and memberships that are kept in memory, and how they follow the journal.

pub(crate) mod deleted_rooms;
pub(crate) mod journal_cache;
pub(crate) mod load;
pub(crate) mod recent_events;
pub(crate) mod room;
pub(crate) mod sticky_index;
pub(crate) mod stored_events;
pub(crate) mod timetable;
pub(crate) mod user_room;
pub(crate) mod user_rooms;

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, atomic::Ordering},
};

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId,
    events::room::member::MembershipState,
};

use self::{
    deleted_rooms::DeletedRooms, journal_cache::JournalCache, room::Room, user_rooms::UserRooms,
};
use crate::{
    error::{Error, Result},
    matrix::SigningKey,
    numbers::{Position, RoomNum, UserNum},
    storage::{
        Db, JournalChange,
        rooms::{memberships, room_deletion, room_table},
        users::accounts::{self, ErasedUserRow},
    },
};

/// The maximum number of rooms kept in memory.
const MAX_ROOMS_IN_MEMORY: usize = 2_000;
/// The maximum number of rooms whose numbers are kept in memory.
const MAX_ROOM_NUMBERS_IN_MEMORY: usize = 50_000;
/// The maximum number of users whose memberships are kept in memory.
const MAX_USERS_IN_MEMORY: usize = 20_000;

/// The users who requested erasure, each with the position of the request in the journal.
pub(crate) type ErasedUsers = HashMap<OwnedUserId, Position>;

/// The rooms and memberships in memory. They are loaded from the database when they are needed, and
/// follow the journal.
#[derive(Clone)]
pub struct RoomMemory {
    inner: Arc<RoomMemoryInner>,
}

struct RoomMemoryInner {
    db: Db,
    key: Arc<SigningKey>,
    /// The numbers of rooms, which never change.
    numbers: RwLock<HashMap<OwnedRoomId, RoomNum>>,
    erased: RwLock<Arc<ErasedUsers>>,
    rooms: JournalCache<RoomNum, Room>,
    users: JournalCache<UserNum, UserRooms>,
    deleted: DeletedRooms,
}

impl RoomMemory {
    /// Reads the data that is in memory from the start.
    pub(super) async fn load(db: Db, key: Arc<SigningKey>) -> Result<Self> {
        let erased = load_erased_users(&db).await?;
        let deleted = DeletedRooms::load(&db).await?;
        Ok(Self {
            inner: Arc::new(RoomMemoryInner {
                db,
                key,
                numbers: RwLock::default(),
                erased: RwLock::new(Arc::new(erased)),
                rooms: JournalCache::new(MAX_ROOMS_IN_MEMORY),
                users: JournalCache::new(MAX_USERS_IN_MEMORY),
                deleted,
            }),
        })
    }

    /// Returns the users who requested erasure.
    pub(crate) fn erased_users(&self) -> Arc<ErasedUsers> {
        let erased = self.inner.erased.read();
        erased.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the rooms that are being deleted, or were deleted since the server started.
    pub(crate) fn deleted_rooms(&self) -> &DeletedRooms {
        &self.inner.deleted
    }

    /// Returns the name of this server.
    pub fn server_name(&self) -> &ServerName {
        self.inner.key.server_name()
    }

    /// Returns whether a user belongs to this server.
    pub fn is_local(&self, user_id: &UserId) -> bool {
        user_id.server_name() == self.server_name()
    }

    /// Returns a room, from memory if it is there.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when this server does not know the room.
    pub async fn room(&self, room_id: &RoomId) -> Result<Arc<Room>> {
        let num = self.room_number(room_id).await?;
        self.room_by_number(num).await
    }

    /// Returns a room for a member of it; users must not find out whether other rooms exist.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when this server does not know the room.
    pub async fn room_of_member(&self, room_id: &RoomId) -> Result<Arc<Room>> {
        self.room(room_id)
            .await
            .map_err(|error| not_in_room(error, room_id))
    }

    /// Returns whether a user has joined a room.
    pub async fn is_joined(&self, user: UserNum, room: &Room) -> Result<bool> {
        Ok(self.rooms_of_user(user).await?.membership(room.num) == MembershipState::Join)
    }

    /// Returns whether a user has left and forgotten a room.
    pub async fn has_forgotten(&self, user: UserNum, room: &Room) -> Result<bool> {
        let mine = self.rooms_of_user(user).await?.get(room.num);
        Ok(mine.is_some_and(|room| room.forgotten))
    }

    /// Returns whether two users have joined the same room.
    pub async fn share_a_room(&self, one: UserNum, other: UserNum) -> Result<bool> {
        let (one, other) = (
            self.rooms_of_user(one).await?,
            self.rooms_of_user(other).await?,
        );
        Ok(one
            .joined_rooms()
            .into_iter()
            .any(|room| other.membership(room) == MembershipState::Join))
    }

    /// Returns whether a user has joined a room that a user of this server has joined, too. The room `except` does not
    /// count.
    pub async fn shares_room_with_us(
        &self,
        user: UserNum,
        except: Option<RoomNum>,
    ) -> Result<bool> {
        let mut joined = self.rooms_of_user(user).await?.joined_rooms();
        joined.retain(|room| Some(*room) != except);
        let is_ours = |room: &Room| !room.view().local_members.is_empty();
        // Rooms in memory come first, because they cost no query.
        let mut others = Vec::new();
        for num in joined {
            match self.peek_room(num) {
                Some(room) if is_ours(&room) => return Ok(true),
                Some(_) => {}
                None => others.push(num),
            }
        }
        for num in others {
            match self.room_by_number(num).await {
                Ok(room) if is_ours(&room) => return Ok(true),
                // It was deleted meanwhile.
                Ok(_) | Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Returns the users among `others` who have joined a room that a user has joined, too, according to
    /// the database.
    pub async fn users_sharing_room(
        &self,
        user: UserNum,
        others: &[UserNum],
    ) -> Result<Vec<UserNum>> {
        let mut conn = self.inner.db.read().await?;
        memberships::users_sharing_rooms_with(&mut conn, user, others).await
    }

    /// Returns the journal positions of the newest events of rooms.
    pub async fn last_positions(&self, rooms: &[RoomNum]) -> Result<HashMap<RoomNum, Position>> {
        let mut conn = self.inner.db.read().await?;
        let positions = room_table::last_positions(&mut conn, rooms).await?;
        let positions = positions.into_iter();
        Ok(positions.map(|row| (row.num, row.last_position)).collect())
    }

    /// Returns the number of a room.
    pub async fn room_number(&self, room_id: &RoomId) -> Result<RoomNum> {
        let known = self
            .inner
            .numbers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(room_id)
            .copied();
        if let Some(num) = known {
            self.check_not_deleted(num)?;
            return Ok(num);
        }
        let mut conn = self.inner.db.read().await?;
        let num = room_table::find_number(&mut conn, room_id.as_str()).await?;
        let num =
            num.ok_or_else(|| Error::not_found(format!("the room {room_id} is not known here")))?;
        self.check_not_deleted(num)?;
        let mut numbers = self
            .inner
            .numbers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if numbers.len() >= MAX_ROOM_NUMBERS_IN_MEMORY {
            numbers.clear();
        }
        numbers.insert(room_id.to_owned(), num);
        Ok(num)
    }

    /// Returns a room by its number.
    pub async fn room_by_number(&self, num: RoomNum) -> Result<Arc<Room>> {
        self.inner
            .rooms
            .get(num, || {
                load::load_room(&self.inner.db, self.server_name(), num)
            })
            .await
    }

    /// Returns the id of a room.
    pub async fn room_id(&self, num: RoomNum) -> Result<OwnedRoomId> {
        Ok(self.room_by_number(num).await?.room_id.clone())
    }

    /// Returns the rooms of a user.
    pub async fn rooms_of_user(&self, user: UserNum) -> Result<Arc<UserRooms>> {
        self.inner
            .users
            .get(user, || UserRooms::load(&self.inner.db, user))
            .await
    }

    /// Returns a room if it is in memory.
    pub fn peek_room(&self, room: RoomNum) -> Option<Arc<Room>> {
        self.inner.rooms.peek(room)
    }

    /// Returns the rooms of a user if they are in memory.
    pub fn peek_user(&self, user: UserNum) -> Option<Arc<UserRooms>> {
        self.inner.users.peek(user)
    }

    /// Returns the rooms of a user that changed after a position, according to the database.
    pub async fn rooms_changed_since(
        &self,
        user: UserNum,
        after: Position,
    ) -> Result<Vec<RoomNum>> {
        let mut conn = self.inner.db.read().await?;
        let mut changed = memberships::rooms_changed_since(&mut conn, user, after).await?;
        changed.extend(room_deletion::rooms_removed_since(&mut conn, user, after).await?);
        Ok(changed)
    }

    /// Returns the number of a user, or `None` if this server does not know the user.
    pub async fn user_number(&self, user_id: &UserId) -> Result<Option<UserNum>> {
        let mut conn = self.inner.db.read().await?;
        self.inner
            .db
            .strings
            .find_user(&mut conn, user_id.as_str())
            .await
    }

    /// Returns the ids of users by their numbers, in no particular order.
    pub async fn user_ids(&self, users: &[UserNum]) -> Result<Vec<OwnedUserId>> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let mut conn = self.inner.db.read().await?;
        let texts = self
            .inner
            .db
            .strings
            .find_user_ids(&mut conn, users)
            .await?;
        let user_ids = texts
            .values()
            .filter_map(|text| UserId::parse(&**text).ok());
        Ok(user_ids.collect())
    }

    /// Returns a room that has joined users of this server.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for any other room.
    pub async fn resident_room(&self, room_id: &RoomId) -> Result<Arc<Room>> {
        let room = self.room(room_id).await?;
        if room.view().local_members.is_empty() {
            return Err(Error::not_found("this server is not in the room"));
        }
        Ok(room)
    }

    /// Returns the events of a room that no other event follows yet.
    pub async fn forward_extremities(&self, room: &Room) -> Result<Vec<OwnedEventId>> {
        let room = self.room_by_number(room.num).await?;
        let tip = room.tip.lock().await;
        Ok(tip.forward_extremities.clone())
    }

    /// Waits until all changes of a room are on disk, so that readers see everything that was passed to
    /// the journal.
    ///
    /// # Errors
    ///
    /// Fails when the changes cannot be written.
    pub async fn wait_until_stored(&self, room: &Room) -> Result<()> {
        let released = room.submitted_position.load();
        if released > self.inner.db.journal().published_position() {
            self.inner.db.write().await?.commit().await?;
        }
        Ok(())
    }

    /// Checks that a room is not being deleted.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], as for a room that never existed.
    pub(crate) fn check_not_deleted(&self, room: RoomNum) -> Result<()> {
        if self.inner.deleted.contains(room) {
            return Err(Error::not_found("this server does not know the room"));
        }
        Ok(())
    }

    /// Drops a deleted room from memory. Code that still holds the room cannot store anything in it.
    pub(crate) fn forget_room(&self, room: RoomNum) {
        if let Some(room) = self.inner.rooms.remove(room) {
            room.stale.store(true, Ordering::SeqCst);
        }
        self.inner
            .numbers
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .retain(|_, known| *known != room);
    }
}

/// Turns "not found" into "forbidden": users must not find out whether a room exists if they are not in
/// it.
pub(crate) fn not_in_room(error: Error, room_id: &RoomId) -> Error {
    match error {
        Error::NotFound(_) => Error::forbidden(format!("you are not in the room {room_id}")),
        other => other,
    }
}

async fn load_erased_users(db: &Db) -> Result<ErasedUsers> {
    let mut conn = db.read().await?;
    let erased = accounts::erased_users(&mut conn).await?;
    let typed = |row: ErasedUserRow| {
        Some((
            OwnedUserId::try_from(row.user_id).ok()?,
            row.erased_position,
        ))
    };
    Ok(erased.into_iter().filter_map(typed).collect())
}

impl RoomMemory {
    /// Applies a change that is on disk.
    pub(super) fn apply_change(&self, position: Position, change: &JournalChange) {
        let change_room = |room: RoomNum| {
            let rooms = &self.inner.rooms;
            rooms.apply_change(room, position, change);
        };
        let change_user = |user: UserNum| self.inner.users.apply_change(user, position, change);
        match change {
            JournalChange::Event {
                room,
                sender,
                event,
            } => {
                change_room(*room);
                change_user(*sender);
                for exception in event
                    .exceptions
                    .iter()
                    .filter(|exception| exception.user != *sender)
                {
                    change_user(exception.user);
                }
            }
            JournalChange::Redacted { room, .. }
            | JournalChange::Receipt { room, .. }
            | JournalChange::Backfilled { room } => {
                change_room(*room);
            }
            JournalChange::Imported { room } => {
                if let Some(room) = self.inner.rooms.remove(*room) {
                    room.stale.store(true, std::sync::atomic::Ordering::SeqCst);
                }
            }
            JournalChange::Membership { room, user, .. } => {
                change_room(*room);
                change_user(*user);
            }
            JournalChange::RoomDeleted { room } => self.forget_room(*room),
            JournalChange::ReadPosition { user, .. }
            | JournalChange::MembershipRemoved { user, .. } => {
                change_user(*user);
            }
            JournalChange::Erased { user_id } => self.record_erasure(user_id, position),
            JournalChange::AccountData { .. }
            | JournalChange::ToDevice { .. }
            | JournalChange::ToServer { .. }
            | JournalChange::DeviceList { .. }
            | JournalChange::KeyCounts { .. }
            | JournalChange::Profile { .. }
            | JournalChange::ThreadSubscription { .. }
            | JournalChange::PushersChanged { .. }
            | JournalChange::StickyEvent { .. }
            | JournalChange::AliasesChanged { .. }
            | JournalChange::TokensChanged { .. }
            | JournalChange::SessionsEnded { .. } => {}
        }
    }

    /// Records that a user's messages are hidden from people who join after a position.
    fn record_erasure(&self, user_id: &OwnedUserId, position: Position) {
        let erased = self.inner.erased.write();
        let mut erased = erased.unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut erased).insert(user_id.clone(), position);
    }

    /// Drops all rooms and users, which may be ahead of the disk after a batch was lost.
    pub(super) fn discard_all(&self) {
        for room in self.inner.rooms.clear() {
            room.stale.store(true, std::sync::atomic::Ordering::SeqCst);
        }
        self.inner.users.clear();
    }
}
