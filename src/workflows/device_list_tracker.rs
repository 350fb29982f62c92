//! Tracks the device lists of remote users who share a room with local users, and requests the lists that are missing
//! or outdated.
//!
//! The wanted lists are recorded in the database, so that they survive a restart. `device_list_requests` sends the
//! requests.

mod device_list_requests;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::{
    OwnedServerName,
    events::{StateEventType, room::member::MembershipState},
};
use tokio::sync::{Notify, Semaphore};

use self::device_list_requests::WantedLists;
use super::WorkflowSources;
use crate::{
    devices::{Devices, SharingChange},
    ephemeral::EphemeralState,
    error::{Error, Result},
    federation::Federation,
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
