//! Rooms: a log of events each, and the state that follows from it.
//!
//! `append` is the only code that stores an event. Everyone else follows the journal. `warm` keeps rooms in
//! memory; `send`, `create`, `upgrade`, `membership` and `restricted` build events, which `policy` has looked at;
//! `delayed` sends them later, and `invitations` withdraws what has expired, each when it is `due`; `timeline` and
//! `state` read what `access` lets a user see; `directory` has aliases and the public list, `hierarchy` and `summary`
//! show rooms to those outside; `receipts` and `counts` know what was read, and `shields` what users do not want to
//! see.
//!
//! `handshake`, `receive`, `history`, `outliers` and `import` take what other servers send, and `resolution` decides
//! between states; `sending`, `serving` and `telling` tell other servers.

mod log;
mod memory;
mod read;
mod remote;
#[cfg(test)]
mod tests;
mod unread;
mod write;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
};

use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId,
    events::room::member::MembershipState,
};
use tokio::sync::Semaphore;

use self::{
    log::backfill_columns,
    memory::load,
    read::access,
    write::{delayed_events, expiring_invitations, invite_links, send},
};
pub use self::{
    log::relations::{Related, RelatedRequest},
    memory::{
        room::{Room, Stay, View},
        user_rooms::{UserRoom, UserRooms},
    },
    read::{
        access::Access,
        aggregations::{Audience, Bundle, Bundles, ThreadSummary},
        directory::{DirectoryPage, DirectorySearch},
        federation_format::EventSources,
        hierarchy::{HierarchyPage, HierarchyRequest, HierarchyStart, ServerHierarchy, SpaceRoom},
        search::{Hit, SearchKey, SearchPage, SearchQuery},
        summary::{MutualRooms, Summary},
        threads::{SubscriptionChange, ThreadCount, Threads},
        timeline::{Context, HiddenEvents, Page, PageRequest},
    },
    remote::{
        backfill::{Backfilled, Gap},
        invite_remote_user::DraftInvitation,
        join_import::{Import, Imported},
        make_and_send_join::{Applicant, Handshake, Offer},
        outgoing::{Arrival, Outgoing, OutgoingPage, RoomPage},
        outliers::Outlier,
        receive::{Help, Received, Taken},
        remote_membership::FromOutside,
        serve_state::{StateAnswer, TurnToBeTold},
        stored_inbox::Arrived,
    },
    unread::receipts::NewReceipt,
    write::{
        create::{CreateRoom, check_visibility},
        delayed_events::{Delay, DelayAction, Delayed, MAX_DELAY, MAX_SCHEDULED},
        invite_links::{InviteLink, NewLink},
        membership::{Action, MemberChange, MemberProfile},
        policy_server::Recommends,
        reports::Reporter,
        send::{NewEvent, Transaction},
        upgrade::Upgrade,
    },
};
use self::{
    memory::{journal_cache::Followed, timetable::Timetable},
    read::ignored_users::Shields,
    remote::serve_state::Serving,
    unread::push_counts::CustomRules,
    write::deletion::Deletions,
};
use crate::{
    clock::Clock,
    error::{Error, Result},
    matrix::{KnownEvents, SigningKey, Visibility},
    storage::{
        Change, Db, Follower, Position, RoomNum, UserNum,
        rooms::{memberships, room_deletion, room_table},
    },
    tasks::Tasks,
    turns::Turns,
};

/// Rooms kept in memory.
const WARM_ROOMS: usize = 2_000;
/// Rooms whose numbers are kept in memory.
const KNOWN_NUMBERS: usize = 50_000;
/// Users whose memberships are kept in memory.
const WARM_USERS: usize = 20_000;
/// Searches that read the database at once.
const SEARCHES: usize = 2;
/// Searches of one user that wait for another of theirs.
const MAX_WAITING_SEARCHES: usize = 4;
/// Resolutions of states at once.
const RESOLUTIONS: usize = 2;

/// The rooms of this server. Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    inner: Arc<Inner>,
}

/// The users who wished to be erased, and at which position.
type Erased = HashMap<OwnedUserId, Position>;

pub(crate) struct Inner {
    db: Db,
    clock: Clock,
    key: Arc<SigningKey>,
    tasks: Tasks,
    default_version: RoomVersionId,
    /// The numbers of rooms, which never change.
    numbers: RwLock<HashMap<OwnedRoomId, RoomNum>>,
    /// The users who wished to be erased, and at which position.
    erased: RwLock<Arc<Erased>>,
    rooms: Followed<Room>,
    users: Followed<UserRooms>,
    rules: CustomRules,
    shields: Shields,
    /// Of delayed events.
    schedule: Timetable,
    /// Of invitations.
    expiring: Timetable,
    /// Of links into rooms.
    links: Timetable,
    deletions: Deletions,
    /// A search may look at every text: others shall find a connection meanwhile.
    searching: Semaphore,
    searches_of_users: Turns<UserNum>,
    /// The same holds for resolving states.
    resolving: Semaphore,
    serving: Serving,
    /// Who asks policy servers.
    policies: OnceLock<Arc<dyn Recommends>>,
    /// Events of auth chains that resolutions have looked at.
    auth_events: Mutex<KnownEvents>,
}

impl Rooms {
    /// Opens the rooms of a database and begins to follow its journal.
    pub async fn open(
        db: Db,
        clock: Clock,
        key: Arc<SigningKey>,
        tasks: Tasks,
        default_version: RoomVersionId,
    ) -> Result<Self> {
        backfill_columns::fill_relations(&db).await?;
        let rules = CustomRules::load(&db).await?;
        let shields = Shields::load(&db).await?;
        let schedule = delayed_events::timetable(&db).await?;
        let expiring = expiring_invitations::timetable(&db).await?;
        let links = invite_links::timetable(&db).await?;
        let deletions = Deletions::load(&db).await?;
        let inner = Arc::new(Inner {
            db: db.clone(),
            clock,
            key,
            tasks,
            default_version,
            numbers: RwLock::default(),
            erased: RwLock::new(Arc::new(access::erased(&db).await?)),
            rooms: Followed::new(WARM_ROOMS),
            users: Followed::new(WARM_USERS),
            rules,
            shields,
            schedule,
            expiring,
            links,
            deletions,
            searching: Semaphore::new(SEARCHES),
            searches_of_users: Turns::new(1, MAX_WAITING_SEARCHES),
            resolving: Semaphore::new(RESOLUTIONS),
            serving: Serving::default(),
            policies: OnceLock::new(),
            auth_events: Mutex::default(),
        });
        db.journal().follow(inner.clone());
        let rooms = Self { inner };
        drop(rooms.inner.tasks.spawn(rooms.clone().keep_indexing()));
        Ok(rooms)
    }

    /// Returns the name of this server.
    pub fn server_name(&self) -> &ServerName {
        self.inner.key.server_name()
    }

    /// Returns whether a user is of this server.
    pub fn is_local(&self, user_id: &UserId) -> bool {
        user_id.server_name() == self.server_name()
    }

    /// Returns a room, from memory if it is there.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when this server does not know the room.
    pub async fn room(&self, room_id: &RoomId) -> Result<Arc<Room>> {
        let num = self.number(room_id).await?;
        self.room_by_number(num).await
    }

    /// Returns a room for a member of it; whether an unknown room exists is nobody's business.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when this server does not know the room.
    pub async fn room_of_member(&self, room_id: &RoomId) -> Result<Arc<Room>> {
        self.room(room_id)
            .await
            .map_err(|error| send::not_in_room(error, room_id))
    }

    /// Returns a room and what a user may see of it.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for one who was never in it, unless everyone may read it; and for one who forgot it.
    pub async fn enter(
        &self,
        room_id: &RoomId,
        user: UserNum,
        user_id: &UserId,
    ) -> Result<(Arc<Room>, Access)> {
        let room = self.room_of_member(room_id).await?;
        let access = self.access(&room, user, user_id).await?;
        let is_forgotten = self.has_forgotten(user, &room).await?;
        let is_open = Visibility::of_state(&room.view().state) == Visibility::WorldReadable;
        if is_open || (access.ever_joined() && !is_forgotten) {
            return Ok((room, access));
        }
        Err(Error::forbidden("you are not in this room"))
    }

    /// Returns whether a user has joined a room.
    pub async fn is_joined(&self, user: UserNum, room: &Room) -> Result<bool> {
        Ok(self.of_user(user).await?.membership(room.num) == MembershipState::Join)
    }

    /// Returns whether a user has left a room and asked to forget it.
    pub async fn has_forgotten(&self, user: UserNum, room: &Room) -> Result<bool> {
        let mine = self.of_user(user).await?.get(room.num);
        Ok(mine.is_some_and(|room| room.forgotten))
    }

    /// Returns whether two users have joined the same room.
    pub async fn share_a_room(&self, one: UserNum, other: UserNum) -> Result<bool> {
        let (one, other) = (self.of_user(one).await?, self.of_user(other).await?);
        Ok(one
            .joined()
            .into_iter()
            .any(|room| other.membership(room) == MembershipState::Join))
    }

    /// Returns whether a user has joined a room that a user of this server has joined, leaving one room out.
    pub async fn shares_with_us(&self, user: UserNum, but: Option<RoomNum>) -> Result<bool> {
        let mut joined = self.of_user(user).await?.joined();
        joined.retain(|room| Some(*room) != but);
        let is_ours = |room: &Room| !room.view().local_members.is_empty();
        // What is in memory first: that costs nothing.
        let mut others = Vec::new();
        for num in joined {
            match self.peek(num) {
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

    /// Returns those of some users who have joined a room that a user has joined, too, as the database has it.
    pub async fn sharing_a_room(&self, user: UserNum, others: &[UserNum]) -> Result<Vec<UserNum>> {
        let mut conn = self.inner.db.read().await?;
        memberships::sharing(&mut conn, user, others).await
    }

    /// Returns the places of the newest events of rooms.
    pub async fn last_positions(&self, rooms: &[RoomNum]) -> Result<Vec<(RoomNum, Position)>> {
        let mut conn = self.inner.db.read().await?;
        room_table::last_positions(&mut conn, rooms).await
    }

    /// Returns the number of a room.
    pub async fn number(&self, room_id: &RoomId) -> Result<RoomNum> {
        let known = self
            .inner
            .numbers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(room_id)
            .copied();
        if let Some(num) = known {
            self.inner.check_stays(num)?;
            return Ok(num);
        }
        let mut conn = self.inner.db.read().await?;
        let num = room_table::number(&mut conn, room_id.as_str()).await?;
        let num =
            num.ok_or_else(|| Error::not_found(format!("the room {room_id} is not known here")))?;
        self.inner.check_stays(num)?;
        let mut numbers = self
            .inner
            .numbers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if numbers.len() >= KNOWN_NUMBERS {
            numbers.clear();
        }
        numbers.insert(room_id.to_owned(), num);
        Ok(num)
    }

    /// Returns a room by its number.
    pub async fn room_by_number(&self, num: RoomNum) -> Result<Arc<Room>> {
        self.inner
            .rooms
            .get(num, || load::room(&self.inner.db, self.server_name(), num))
            .await
    }

    /// Returns the id of a room.
    pub async fn room_id(&self, num: RoomNum) -> Result<OwnedRoomId> {
        Ok(self.room_by_number(num).await?.room_id.clone())
    }

    /// Returns the rooms of a user.
    pub async fn of_user(&self, user: UserNum) -> Result<Arc<UserRooms>> {
        self.inner
            .users
            .get(user, || UserRooms::load(&self.inner.db, user))
            .await
    }

    /// Returns a room if it is in memory.
    pub fn peek(&self, room: RoomNum) -> Option<Arc<Room>> {
        self.inner.rooms.peek(room)
    }

    /// Returns the rooms of a user if they are in memory.
    pub fn peek_user(&self, user: UserNum) -> Option<Arc<UserRooms>> {
        self.inner.users.peek(user)
    }

    /// Returns the rooms of a user in which something happened after a position, as the database has it.
    pub async fn changed_since(&self, user: UserNum, after: Position) -> Result<Vec<RoomNum>> {
        let mut conn = self.inner.db.read().await?;
        let mut changed = memberships::changed_since(&mut conn, user, after).await?;
        changed.extend(room_deletion::removed_since(&mut conn, user, after).await?);
        Ok(changed)
    }

    /// Returns the number of a user, or `None` if nobody here ever heard of them.
    pub async fn user_number(&self, user_id: &UserId) -> Result<Option<UserNum>> {
        let mut conn = self.inner.db.read().await?;
        self.inner
            .db
            .strings
            .find(&mut conn, user_id.as_str())
            .await
    }

    /// Returns the ids of users by their numbers, in no particular order.
    pub async fn user_ids(&self, users: &[UserNum]) -> Result<Vec<OwnedUserId>> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let mut conn = self.inner.db.read().await?;
        let texts = self.inner.db.strings.texts(&mut conn, users).await?;
        let user_ids = texts
            .values()
            .filter_map(|text| UserId::parse(&**text).ok());
        Ok(user_ids.collect())
    }

    /// Returns the users of this server who share a room with a user, and the user.
    pub async fn neighbours(&self, user: UserNum) -> Result<Vec<(UserNum, OwnedUserId)>> {
        let mut neighbours = HashMap::new();
        for room in self.of_user(user).await?.joined() {
            let room = match self.room_by_number(room).await {
                // It was deleted meanwhile.
                Err(Error::NotFound(_)) => continue,
                room => room?,
            };
            neighbours.extend(
                room.view()
                    .local_members
                    .iter()
                    .map(|(num, id)| (*num, id.clone())),
            );
        }
        Ok(neighbours.into_iter().collect())
    }
}

impl Follower for Inner {
    fn committed(&self, changes: &[(Position, Change)]) {
        for (position, change) in changes {
            self.rules.committed(change);
            self.shields.committed(change);
            match change {
                Change::Event {
                    room,
                    sender,
                    event,
                } => {
                    if expiring_invitations::expiry(&event.pdu).is_some() {
                        self.expiring.changed();
                    }
                    self.rooms.committed(*room, *position, change);
                    self.users.committed(*sender, *position, change);
                    for exception in event
                        .exceptions
                        .iter()
                        .filter(|exception| exception.user != *sender)
                    {
                        self.users.committed(exception.user, *position, change);
                    }
                }
                Change::Redacted { room, .. }
                | Change::Receipt { room, .. }
                | Change::Backfilled { room } => {
                    self.rooms.committed(*room, *position, change);
                }
                Change::Imported { room } => {
                    if let Some(room) = self.rooms.remove(*room) {
                        room.stale.store(true, std::sync::atomic::Ordering::SeqCst);
                    }
                }
                Change::Membership { room, user, .. } => {
                    self.rooms.committed(*room, *position, change);
                    self.users.committed(*user, *position, change);
                }
                Change::RoomDeleted { room } => self.forget_room(*room),
                Change::Read { user, .. } | Change::Removed { user, .. } => {
                    self.users.committed(*user, *position, change);
                }
                Change::Erased { user_id } => {
                    let mut erased = self.erased.write().unwrap_or_else(PoisonError::into_inner);
                    Arc::make_mut(&mut erased).insert(user_id.clone(), *position);
                }
                Change::AccountData { .. }
                | Change::ToDevice { .. }
                | Change::ToServer { .. }
                | Change::DeviceList { .. }
                | Change::KeyCounts { .. }
                | Change::ThreadSubscription { .. }
                | Change::TokensChanged { .. }
                | Change::SessionsEnded { .. } => {}
            }
        }
    }

    fn failed(&self) {
        for room in self.rooms.clear() {
            room.stale.store(true, std::sync::atomic::Ordering::SeqCst);
        }
        self.users.clear();
    }
}
