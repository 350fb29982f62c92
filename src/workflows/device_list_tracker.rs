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

use super::WorkflowSources;
use crate::{
    devices::{Devices, RemoteDevice, RemoteDeviceList, SharingChange},
    ephemeral::EphemeralState,
    error::{Error, Result},
    federation::{Federation, RequestFailure, RequestLimits},
    numbers::{Position, RoomNum, UserNum},
    rooms::Rooms,
    storage::{JournalChange, JournalFollower},
    tasks::Tasks,
};

/// The number of lists that are requested at the same time, over all servers.
const MAX_CONCURRENT_REQUESTS: usize = 16;
/// The largest number of users who join a room together and whose lists are all requested. Those of more users are
/// requested when needed.
const MAX_SIMULTANEOUS_JOINS: usize = 100;
/// The number of membership changes that are processed together.
const CHANGES_PER_BATCH: usize = 500;
/// The number of wanted lists that are read together at the start.
const LISTS_PER_PAGE: i64 = 1_000;
/// The first pause after a server did not answer, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const MAX_PAUSE: Duration = Duration::from_hours(1);
/// The shortest pause, even if the server shows a sign of life.
const MIN_PAUSE: Duration = Duration::from_millis(500);

/// Tracks the device lists of remote users. Cheap to clone.
#[derive(Clone)]
pub(super) struct DeviceListTracker {
    inner: Arc<DeviceListTrackerInner>,
}

struct DeviceListTrackerInner {
    devices: Devices,
    rooms: Rooms,
    ephemeral: EphemeralState,
    federation: Federation,
    tasks: Tasks,
    /// The changes to process, in the order of the journal.
    changes: Mutex<VecDeque<SharedRoomChange>>,
    processing: tokio::sync::Mutex<()>,
    changes_pending: Notify,
    servers: Mutex<HashMap<OwnedServerName, Arc<WantedLists>>>,
    request_permits: Semaphore,
}

/// A change after which users may start or stop sharing a room.
#[derive(Clone, Copy, Debug)]
enum SharedRoomChange {
    /// A remote user joined a room.
    RemoteUserJoined(UserNum, RoomNum),
    /// A remote user left a room, or did not join it.
    RemoteUserLeft(UserNum, RoomNum),
    /// A local user left a room, or did not join it.
    LocalUserLeft(RoomNum),
    /// A room was deleted.
    RoomDeleted,
}

/// The lists to request from a server.
#[derive(Default)]
struct WantedLists {
    users: Mutex<BTreeSet<OwnedUserId>>,
    /// Notified when the server shows a sign of life.
    contacted: Notify,
}

impl WantedLists {
    fn users(&self) -> MutexGuard<'_, BTreeSet<OwnedUserId>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server's answer with the devices of a user. Some servers omit the keys of devices without encryption.
#[derive(Deserialize)]
struct DeviceListAnswer {
    user_id: OwnedUserId,
    stream_id: UInt,
    #[serde(default)]
    devices: Vec<DeviceListEntry>,
    master_key: Option<Raw<CrossSigningKey>>,
    self_signing_key: Option<Raw<CrossSigningKey>>,
}

#[derive(Deserialize)]
struct DeviceListEntry {
    device_id: OwnedDeviceId,
    keys: Option<Box<RawValue>>,
    device_display_name: Option<String>,
}

/// The outcome of requesting a list.
enum ListRequestOutcome {
    /// The list is stored, or no longer wanted.
    Done,
    /// The list changed during the request.
    Doubtful,
    /// The server did not answer.
    Unanswered,
}

impl DeviceListTracker {
    /// Creates the tracker, and starts its background task.
    pub(super) fn start(sources: &WorkflowSources) -> Self {
        let inner = Arc::new(DeviceListTrackerInner {
            devices: sources.devices.clone(),
            rooms: sources.rooms.clone(),
            ephemeral: sources.ephemeral.clone(),
            federation: sources.federation.clone(),
            tasks: sources.tasks.clone(),
            changes: Mutex::default(),
            processing: tokio::sync::Mutex::default(),
            changes_pending: Notify::new(),
            servers: Mutex::default(),
            request_permits: Semaphore::new(MAX_CONCURRENT_REQUESTS),
        });
        sources.devices.add_follower(inner.clone());
        let watching = Arc::downgrade(&inner);
        let client = sources.federation.client();
        client.watch_contacts(Box::new(move |server| {
            if let Some(inner) = watching.upgrade()
                && let Some(wanted) = inner.servers().get(server)
            {
                wanted.contacted.notify_waiters();
            }
        }));
        let lists = Self { inner };
        let (keeper, stopping) = (lists.clone(), sources.tasks.stopping().clone());
        drop(sources.tasks.spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = keeper.run_tracker() => {}
            }
        }));
        lists
    }

    /// Restores the wanted lists of the last run, and then processes changes to memberships.
    async fn run_tracker(&self) {
        if let Err(error) = self.restore_wanted_lists().await {
            tracing::warn!(%error, "the wanted device lists could not be restored");
        }
        loop {
            self.inner.changes_pending.notified().await;
            if let Err(error) = self.process_changes().await {
                tracing::warn!(%error, "changes to shared rooms could not be processed");
            }
        }
    }

    async fn restore_wanted_lists(&self) -> Result<()> {
        self.inner
            .devices
            .remote_lists
            .apply_sharing_changes(&[SharingChange::Unclear])
            .await?;
        let mut after = UserNum::new(0);
        loop {
            let page = self
                .inner
                .devices
                .remote_lists
                .lists_to_request(after, LISTS_PER_PAGE)
                .await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = last.user;
            self.request_lists(page.into_iter().map(|list| list.user_id));
        }
    }

    /// Processes all committed membership changes. This must happen before the lists are used.
    pub(super) async fn process_changes(&self) -> Result<()> {
        let _guard = self.inner.processing.lock().await;
        loop {
            let batch: Vec<SharedRoomChange> = {
                let changes = self.inner.changes();
                changes.iter().take(CHANGES_PER_BATCH).copied().collect()
            };
            if batch.is_empty() {
                return Ok(());
            }
            let sharing_changes = self.evaluate_changes(&batch).await?;
            self.inner
                .devices
                .remote_lists
                .apply_sharing_changes(&sharing_changes)
                .await?;
            drop(self.inner.changes().drain(..batch.len()));
            let started = sharing_changes.iter().filter_map(|each| match each {
                SharingChange::Started(users) => Some(users),
                _ => None,
            });
            let started: Vec<UserNum> = started.flatten().copied().collect();
            self.request_lists(self.inner.rooms.memory.user_ids(&started).await?);
        }
    }

    async fn evaluate_changes(&self, batch: &[SharedRoomChange]) -> Result<Vec<SharingChange>> {
        let mut joins_by_room: HashMap<RoomNum, usize> = HashMap::new();
        for change in batch {
            if let SharedRoomChange::RemoteUserJoined(_, room) = change {
                *joins_by_room.entry(*room).or_default() += 1;
            }
        }
        let mut sharing_changes = Vec::new();
        for change in batch {
            sharing_changes.extend(self.evaluate_change(change, &joins_by_room).await?);
        }
        Ok(sharing_changes)
    }

    async fn evaluate_change(
        &self,
        change: &SharedRoomChange,
        joins_by_room: &HashMap<RoomNum, usize>,
    ) -> Result<Option<SharingChange>> {
        let joins_of = |room| joins_by_room.get(&room).copied().unwrap_or_default();
        match *change {
            SharedRoomChange::RemoteUserJoined(user, room)
                if joins_of(room) > MAX_SIMULTANEOUS_JOINS =>
            {
                Ok(Some(SharingChange::Ended(vec![user])))
            }
            SharedRoomChange::RemoteUserJoined(user, room) => {
                let is_started =
                    self.is_encrypted(room).await? && self.is_newly_shared(user, room).await?;
                Ok(is_started.then(|| SharingChange::Started(vec![user])))
            }
            SharedRoomChange::RemoteUserLeft(user, room) => {
                let memory = &self.inner.rooms.memory;
                let is_shared = memory.shares_room_with_us(user, Some(room)).await?;
                Ok((!is_shared).then(|| SharingChange::Ended(vec![user])))
            }
            SharedRoomChange::LocalUserLeft(room) => {
                let is_left = !self.has_local_members(room).await?;
                Ok(is_left.then_some(SharingChange::RoomLeft(room)))
            }
            SharedRoomChange::RoomDeleted => Ok(Some(SharingChange::Unclear)),
        }
    }

    /// Returns whether local users are in a room.
    async fn has_local_members(&self, room: RoomNum) -> Result<bool> {
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
    async fn is_newly_shared(&self, user: UserNum, room: RoomNum) -> Result<bool> {
        let unknown = self
            .inner
            .devices
            .remote_lists
            .users_without_list(&[user])
            .await?;
        Ok(!unknown.is_empty()
            && !self
                .inner
                .rooms
                .memory
                .shares_room_with_us(user, Some(room))
                .await?)
    }

    /// Requests the lists of users in the background.
    pub(super) fn request_lists(&self, users: impl IntoIterator<Item = OwnedUserId>) {
        for user_id in users {
            let server = user_id.server_name().to_owned();
            let mut servers = self.inner.servers();
            if let Some(wanted) = servers.get(&server) {
                wanted.users().insert(user_id);
                continue;
            }
            let wanted = Arc::new(WantedLists::default());
            wanted.users().insert(user_id);
            servers.insert(server.clone(), wanted.clone());
            drop(servers);
            let (lists, stopping) = (self.clone(), self.inner.tasks.stopping().clone());
            drop(self.inner.tasks.spawn(async move {
                tokio::select! {
                    () = stopping.cancelled() => {}
                    () = lists.request_from_server(&server, &wanted) => {}
                }
            }));
        }
    }

    /// Returns the next list to request from a server. If none is left, another task serves the server from then on.
    fn next_wanted_list(&self, server: &ServerName, wanted: &WantedLists) -> Option<OwnedUserId> {
        // Locked, so that a new list is either given to this task or starts another one.
        let mut servers = self.inner.servers();
        let next = wanted.users().pop_first();
        if next.is_none() {
            servers.remove(server);
        }
        next
    }

    /// Requests the wanted lists from a server, until none is left.
    async fn request_from_server(&self, server: &ServerName, wanted: &WantedLists) {
        let mut failures = 0_u32;
        while let Some(user_id) = self.next_wanted_list(server, wanted) {
            match self.request_list(&user_id).await {
                Ok(ListRequestOutcome::Done) => failures = 0,
                Ok(ListRequestOutcome::Doubtful) => {
                    failures = 0;
                    wanted.users().insert(user_id);
                }
                Ok(ListRequestOutcome::Unanswered) | Err(_) => {
                    wanted.users().insert(user_id);
                    let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(16));
                    failures += 1;
                    tokio::time::sleep(MIN_PAUSE).await;
                    tokio::select! {
                        () = tokio::time::sleep(pause.min(MAX_PAUSE)) => {}
                        () = wanted.contacted.notified() => {}
                    }
                }
            }
        }
    }

    /// Stores that nobody of this server shares a room with a user any more.
    async fn end_sharing(&self, user: UserNum) -> Result<ListRequestOutcome> {
        let changes = [SharingChange::Ended(vec![user])];
        let lists = &self.inner.devices.remote_lists;
        lists.apply_sharing_changes(&changes).await?;
        Ok(ListRequestOutcome::Done)
    }

    /// Requests the list of a user.
    #[tracing::instrument(skip_all, fields(user_id = %user_id), err(level = "debug"))]
    async fn request_list(&self, user_id: &UserId) -> Result<ListRequestOutcome> {
        let inner = &self.inner;
        let permit = inner.request_permits.acquire().await;
        let _permit = permit.map_err(|source| Error::internal("ask for devices", source))?;
        self.process_changes().await?;
        // Before the check for a shared room: a leave after it makes the answer unreliable.
        let ticket = inner.devices.remote_lists.begin_list_request([user_id]);
        let Some(user) = inner.rooms.memory.user_number(user_id).await? else {
            return Ok(ListRequestOutcome::Done);
        };
        if !inner.rooms.memory.shares_room_with_us(user, None).await? {
            return self.end_sharing(user).await;
        }
        let known = inner.devices.remote_lists.stored_lists(&[user_id]).await?;
        if known.get(user_id).is_none_or(|known| known.is_fresh) {
            return Ok(ListRequestOutcome::Done);
        }
        let request = get_devices::v1::Request::new(user_id.to_owned());
        let client = inner.federation.client();
        let answer = client.send_expecting::<DeviceListAnswer, _>(
            user_id.server_name(),
            request,
            RequestLimits::LARGE_RESPONSE,
        );
        match answer.await {
            Ok(answer) => {
                if answer.user_id != user_id {
                    return Ok(ListRequestOutcome::Unanswered);
                }
                let lists = vec![(user_id.to_owned(), read_answer(answer))];
                let doubtful = inner
                    .devices
                    .remote_lists
                    .store_lists(&ticket, lists)
                    .await?;
                Ok(if doubtful.is_empty() {
                    ListRequestOutcome::Done
                } else {
                    ListRequestOutcome::Doubtful
                })
            }
            // The server refuses. The list is then requested only when a client queries the keys.
            Err(RequestFailure::Refused(refusal)) if refusal.status != 429 => {
                self.end_sharing(user).await
            }
            Err(_) => {
                if ticket.has_changed(user_id) {
                    inner
                        .devices
                        .remote_lists
                        .record_failed_requests(&[user_id])
                        .await?;
                }
                Ok(ListRequestOutcome::Unanswered)
            }
        }
    }
}

fn read_answer(answer: DeviceListAnswer) -> RemoteDeviceList {
    let user_id = answer.user_id;
    let devices = answer.devices.into_iter().filter_map(|device| {
        let keys = device.keys.as_deref().map(RawValue::get);
        RemoteDevice::read(
            &user_id,
            &device.device_id,
            keys,
            device.device_display_name,
        )
    });
    RemoteDeviceList {
        stream_id: Some(answer.stream_id.into()),
        devices: devices.collect(),
        master_key: answer.master_key,
        self_signing_key: answer.self_signing_key,
    }
}

impl DeviceListTrackerInner {
    fn changes(&self) -> MutexGuard<'_, VecDeque<SharedRoomChange>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<OwnedServerName, Arc<WantedLists>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record_change(&self, change: SharedRoomChange) {
        self.changes().push_back(change);
        self.changes_pending.notify_one();
    }
}

impl JournalFollower for DeviceListTrackerInner {
    fn committed(&self, changes: &[(Position, JournalChange)]) {
        for (_, change) in changes {
            match change {
                JournalChange::Membership {
                    user,
                    user_id,
                    local,
                    room,
                    membership,
                    ..
                } => match (local, membership) {
                    (_, Some(MembershipState::Invite | MembershipState::Knock) | None)
                    | (true, Some(MembershipState::Join)) => {}
                    (false, Some(MembershipState::Join)) => {
                        self.record_change(SharedRoomChange::RemoteUserJoined(*user, *room));
                    }
                    (false, _) => {
                        self.devices.remote_lists.record_list_change(user_id);
                        self.ephemeral.typing.set_typing(*room, user_id, None);
                        self.record_change(SharedRoomChange::RemoteUserLeft(*user, *room));
                    }
                    (true, _) => {
                        self.devices.remote_lists.record_unseen_changes();
                        self.record_change(SharedRoomChange::LocalUserLeft(*room));
                    }
                },
                JournalChange::RoomDeleted { .. } => {
                    self.devices.remote_lists.record_unseen_changes();
                    self.record_change(SharedRoomChange::RoomDeleted);
                }
                _ => {}
            }
        }
    }

    fn failed(&self) {
        // Nothing to undo: only committed changes were reported.
    }
}
