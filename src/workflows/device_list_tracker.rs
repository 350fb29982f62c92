//! Tracks the device lists of remote users who share a room with local users, and requests the lists that are missing
//! or outdated.
//!
//! Each server with such users has a task, which requests one list after another. A server that does not answer is
//! asked again after a growing pause, or as soon as it shows a sign of life. The wanted lists are recorded in the
//! database, so that they survive a restart.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{
    OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UInt, UserId,
    api::federation::device::get_devices,
    encryption::CrossSigningKey,
    events::{StateEventType, room::member::MembershipState},
    serde::Raw,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Notify, Semaphore};

use crate::{
    devices::{Devices, Move, RemoteDevice, RemoteList},
    ephemeral::Ephemeral,
    error::{Error, Result},
    federation::{Allowance, Failure, Federation},
    rooms::Rooms,
    storage::{Change, Follower, Position, RoomNum, UserNum},
    tasks::Tasks,
};

/// The number of lists that are requested at the same time, over all servers.
const AT_ONCE: usize = 16;
/// The largest number of users who join a room together and whose lists are all requested. Those of more users are
/// requested when needed.
const TOGETHER: usize = 100;
/// The number of membership changes that are processed together.
const BATCH: usize = 500;
/// The number of wanted lists that are read together at the start.
const PAGE: i64 = 1_000;
/// The first pause after a server did not answer, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_hours(1);
/// The shortest pause, even if the server shows a sign of life.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);

/// Tracks the device lists of remote users. Cheap to clone.
#[derive(Clone)]
pub(super) struct RemoteLists {
    inner: Arc<Inner>,
}

struct Inner {
    devices: Devices,
    rooms: Rooms,
    ephemeral: Ephemeral,
    federation: Federation,
    tasks: Tasks,
    /// The membership changes to process, in the order of the journal.
    moved: Mutex<VecDeque<Moved>>,
    settling: tokio::sync::Mutex<()>,
    news: Notify,
    servers: Mutex<HashMap<OwnedServerName, Arc<Wanted>>>,
    asking: Semaphore,
}

/// A change to a membership.
#[derive(Clone, Copy, Debug)]
enum Moved {
    /// A remote user joined a room.
    In(UserNum, RoomNum),
    /// A remote user left a room, or did not join it.
    Out(UserNum, RoomNum),
    /// A local user left a room, or did not join it.
    OursOut(RoomNum),
    /// A room was deleted.
    Deleted,
}

/// The lists to request from a server.
#[derive(Default)]
struct Wanted {
    users: Mutex<BTreeSet<OwnedUserId>>,
    /// Notified when the server shows a sign of life.
    alive: Notify,
}

impl Wanted {
    fn users(&self) -> MutexGuard<'_, BTreeSet<OwnedUserId>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server's answer with the devices of a user. Some servers omit the keys of devices without encryption.
#[derive(Deserialize)]
struct Told {
    user_id: OwnedUserId,
    stream_id: UInt,
    #[serde(default)]
    devices: Vec<ToldDevice>,
    master_key: Option<Raw<CrossSigningKey>>,
    self_signing_key: Option<Raw<CrossSigningKey>>,
}

#[derive(Deserialize)]
struct ToldDevice {
    device_id: OwnedDeviceId,
    keys: Option<Box<RawValue>>,
    device_display_name: Option<String>,
}

/// The outcome of requesting a list.
enum Outcome {
    /// The list is stored, or no longer wanted.
    Done,
    /// The list changed during the request.
    Doubtful,
    /// The server did not answer.
    Unanswered,
}

impl RemoteLists {
    pub(super) fn start(
        (devices, rooms): (&Devices, &Rooms),
        ephemeral: &Ephemeral,
        federation: &Federation,
        tasks: &Tasks,
    ) -> Self {
        let inner = Arc::new(Inner {
            devices: devices.clone(),
            rooms: rooms.clone(),
            ephemeral: ephemeral.clone(),
            federation: federation.clone(),
            tasks: tasks.clone(),
            moved: Mutex::default(),
            settling: tokio::sync::Mutex::default(),
            news: Notify::new(),
            servers: Mutex::default(),
            asking: Semaphore::new(AT_ONCE),
        });
        devices.follow(inner.clone());
        let watching = Arc::downgrade(&inner);
        federation.client().watch(Box::new(move |server| {
            if let Some(inner) = watching.upgrade()
                && let Some(wanted) = inner.servers().get(server)
            {
                wanted.alive.notify_waiters();
            }
        }));
        let lists = Self { inner };
        let (keeper, stopping) = (lists.clone(), tasks.stopping().clone());
        drop(tasks.spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = keeper.keep() => {}
            }
        }));
        lists
    }

    /// Restores the wanted lists of the last run, and then processes changes to memberships.
    async fn keep(&self) {
        if let Err(error) = self.take_up().await {
            tracing::warn!(%error, "the wanted device lists could not be restored");
        }
        loop {
            self.inner.news.notified().await;
            if let Err(error) = self.settle().await {
                tracing::warn!(%error, "changes to shared rooms could not be processed");
            }
        }
    }

    async fn take_up(&self) -> Result<()> {
        self.inner.devices.note_moves(&[Move::Unclear]).await?;
        let mut after = 0;
        loop {
            let page = self.inner.devices.lists_to_ask(after, PAGE).await?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = *last;
            self.want(page.into_iter().map(|(_, user_id)| user_id));
        }
    }

    /// Processes all committed membership changes. This must happen before the lists are used.
    pub(super) async fn settle(&self) -> Result<()> {
        let _turn = self.inner.settling.lock().await;
        loop {
            let batch: Vec<Moved> = {
                let moved = self.inner.moved();
                moved.iter().take(BATCH).copied().collect()
            };
            if batch.is_empty() {
                return Ok(());
            }
            let moves = self.moves(&batch).await?;
            self.inner.devices.note_moves(&moves).await?;
            drop(self.inner.moved().drain(..batch.len()));
            let came = moves.iter().filter_map(|each| match each {
                Move::Came(users) => Some(users),
                _ => None,
            });
            let came: Vec<UserNum> = came.flatten().copied().collect();
            self.want(self.inner.rooms.memory.user_ids(&came).await?);
        }
    }

    async fn moves(&self, batch: &[Moved]) -> Result<Vec<Move>> {
        let mut crowds: HashMap<RoomNum, usize> = HashMap::new();
        for moved in batch {
            if let Moved::In(_, room) = moved {
                *crowds.entry(*room).or_default() += 1;
            }
        }
        let is_crowd = |room| crowds.get(&room).is_some_and(|users| *users > TOGETHER);
        let rooms = &self.inner.rooms;
        let mut moves = Vec::new();
        for moved in batch {
            match *moved {
                Moved::In(user, room) if is_crowd(room) => moves.push(Move::Went(vec![user])),
                Moved::In(user, room) => {
                    if self.is_encrypted(room).await? && self.is_new(user, room).await? {
                        moves.push(Move::Came(vec![user]));
                    }
                }
                Moved::Out(user, room) => {
                    if !rooms.memory.shares_with_us(user, Some(room)).await? {
                        moves.push(Move::Went(vec![user]));
                    }
                }
                Moved::OursOut(room) => {
                    if !self.is_ours(room).await? {
                        moves.push(Move::Abandoned(room));
                    }
                }
                Moved::Deleted => moves.push(Move::Unclear),
            }
        }
        Ok(moves)
    }

    /// Returns whether local users are in a room.
    async fn is_ours(&self, room: RoomNum) -> Result<bool> {
        match self.inner.rooms.memory.room_by_number(room).await {
            Err(Error::NotFound(_)) => Ok(false),
            room => Ok(!room?.view().local_members.is_empty()),
        }
    }

    /// Returns whether local users are in a room, and the room is encrypted. In other rooms the keys are only needed
    /// when a client queries them.
    async fn is_encrypted(&self, room: RoomNum) -> Result<bool> {
        match self.inner.rooms.memory.room_by_number(room).await {
            Err(Error::NotFound(_)) => Ok(false),
            room => {
                let room = room?;
                let view = room.view();
                let encryption = view.state.get(&StateEventType::RoomEncryption, "");
                Ok(!view.local_members.is_empty() && encryption.is_some())
            }
        }
    }

    /// Returns whether a user shares no other room, and has no stored list.
    async fn is_new(&self, user: UserNum, room: RoomNum) -> Result<bool> {
        let unknown = self.inner.devices.without_list(&[user]).await?;
        Ok(!unknown.is_empty()
            && !self
                .inner
                .rooms
                .memory
                .shares_with_us(user, Some(room))
                .await?)
    }

    /// Requests the lists of users in the background.
    pub(super) fn want(&self, users: impl IntoIterator<Item = OwnedUserId>) {
        for user_id in users {
            let server = user_id.server_name().to_owned();
            let mut servers = self.inner.servers();
            if let Some(wanted) = servers.get(&server) {
                wanted.users().insert(user_id);
                continue;
            }
            let wanted = Arc::new(Wanted::default());
            wanted.users().insert(user_id);
            servers.insert(server.clone(), wanted.clone());
            drop(servers);
            let (lists, stopping) = (self.clone(), self.inner.tasks.stopping().clone());
            drop(self.inner.tasks.spawn(async move {
                tokio::select! {
                    () = stopping.cancelled() => {}
                    () = lists.ask_server(&server, &wanted) => {}
                }
            }));
        }
    }

    /// Requests the wanted lists from a server, until none is left.
    async fn ask_server(&self, server: &ServerName, wanted: &Wanted) {
        let mut failures = 0_u32;
        loop {
            let user_id = {
                // Locked, so that a new list is either given to this task or starts another one.
                let mut servers = self.inner.servers();
                let Some(user_id) = wanted.users().pop_first() else {
                    servers.remove(server);
                    return;
                };
                user_id
            };
            match self.ask(&user_id).await {
                Ok(Outcome::Done) => failures = 0,
                Ok(Outcome::Doubtful) => {
                    failures = 0;
                    wanted.users().insert(user_id);
                }
                Ok(Outcome::Unanswered) | Err(_) => {
                    wanted.users().insert(user_id);
                    let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(16));
                    failures += 1;
                    tokio::time::sleep(SHORTEST_PAUSE).await;
                    tokio::select! {
                        () = tokio::time::sleep(pause.min(LONGEST_PAUSE)) => {}
                        () = wanted.alive.notified() => {}
                    }
                }
            }
        }
    }

    /// Requests the list of a user.
    #[tracing::instrument(skip_all, fields(user_id = %user_id), err(level = "debug"))]
    async fn ask(&self, user_id: &UserId) -> Result<Outcome> {
        let inner = &self.inner;
        let permit = inner.asking.acquire().await;
        let _permit = permit.map_err(|source| Error::internal("ask for devices", source))?;
        self.settle().await?;
        // Before the check for a shared room: a leave after it makes the answer unreliable.
        let ticket = inner.devices.begin_asking([user_id]);
        let Some(user) = inner.rooms.memory.user_number(user_id).await? else {
            return Ok(Outcome::Done);
        };
        if !inner.rooms.memory.shares_with_us(user, None).await? {
            inner.devices.note_moves(&[Move::Went(vec![user])]).await?;
            return Ok(Outcome::Done);
        }
        let known = inner.devices.known_lists(&[user_id]).await?;
        if known.get(user_id).is_none_or(|known| known.is_fresh) {
            return Ok(Outcome::Done);
        }
        let request = get_devices::v1::Request::new(user_id.to_owned());
        let client = inner.federation.client();
        let answer = client.send_for(user_id.server_name(), request, Allowance::USUAL);
        match answer.await {
            Ok(told) => {
                let told: Told = told;
                if told.user_id != user_id {
                    return Ok(Outcome::Unanswered);
                }
                let lists = vec![(user_id.to_owned(), read(told))];
                let doubtful = inner.devices.remember_lists(&ticket, lists).await?;
                Ok(if doubtful.is_empty() {
                    Outcome::Done
                } else {
                    Outcome::Doubtful
                })
            }
            // The server refuses. The list is then requested only when a client queries the keys.
            Err(Failure::Refused(refusal)) if refusal.status != 429 => {
                inner.devices.note_moves(&[Move::Went(vec![user])]).await?;
                Ok(Outcome::Done)
            }
            Err(_) => {
                if ticket.is_doubtful(user_id) {
                    inner.devices.note_unanswered(&[user_id]).await?;
                }
                Ok(Outcome::Unanswered)
            }
        }
    }
}

fn read(told: Told) -> RemoteList {
    let user_id = told.user_id;
    let devices = told.devices.into_iter().filter_map(|device| {
        let keys = device.keys.as_deref().map(RawValue::get);
        RemoteDevice::read(
            &user_id,
            &device.device_id,
            keys,
            device.device_display_name,
        )
    });
    RemoteList {
        stream_id: Some(told.stream_id.into()),
        devices: devices.collect(),
        master_key: told.master_key,
        self_signing_key: told.self_signing_key,
    }
}

impl Inner {
    fn moved(&self) -> MutexGuard<'_, VecDeque<Moved>> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<OwnedServerName, Arc<Wanted>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, moved: Moved) {
        self.moved().push_back(moved);
        self.news.notify_one();
    }
}

impl Follower for Inner {
    fn committed(&self, changes: &[(Position, Change)]) {
        for (_, change) in changes {
            match change {
                Change::Membership {
                    user,
                    user_id,
                    local,
                    room,
                    membership,
                    ..
                } => match (local, membership) {
                    (_, Some(MembershipState::Invite | MembershipState::Knock) | None)
                    | (true, Some(MembershipState::Join)) => {}
                    (false, Some(MembershipState::Join)) => self.note(Moved::In(*user, *room)),
                    (false, _) => {
                        self.devices.touch(user_id);
                        self.ephemeral.typing.set(*room, user_id, None);
                        self.note(Moved::Out(*user, *room));
                    }
                    (true, _) => {
                        self.devices.touch_all();
                        self.note(Moved::OursOut(*room));
                    }
                },
                Change::RoomDeleted { .. } => {
                    self.devices.touch_all();
                    self.note(Moved::Deleted);
                }
                _ => {}
            }
        }
    }

    fn failed(&self) {
        // Nothing to undo: only committed changes were reported.
    }
}
