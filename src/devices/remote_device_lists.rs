//! The device lists of users on other servers who share a room with local users.
//!
//! A list is *fresh* from the time its server sends it until a sign that it has changed. As long as a room is shared,
//! the server reports every change. A change that arrives while a list is being requested makes the answer unreliable,
//! because it is not known which of them is older; the list is then requested again. Lists of users who share no room
//! are not kept.
//!
//! Clients are notified of a change when it happens: when an update contains something new, or when an answer differs
//! from the list that clients could know. A user who starts to share a room is reported by `sync` instead
//! (`is_reported`).
//!
//! See [Device management](https://spec.matrix.org/v1.19/server-server-api/#device-management).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    OwnedDeviceId, OwnedUserId, UserId,
    encryption::{CrossSigningKey, DeviceKeys},
    serde::Raw,
};
use serde_json::{Map, Value, json, value::to_raw_value};

use super::{
    DeviceEnvironment, cross_signing,
    list_requests::{ListRequestTicket, ListRequests},
    remote_device::{RemoteDeviceList, RemoteListUpdate},
    remote_list_updater::{ListUpdater, store_list},
};
use crate::{
    error::Result,
    numbers::{RoomNum, UserNum},
    storage::{
        Db,
        devices::{
            device_list_changes,
            remote_device_lists::{self, RemoteDeviceRow},
        },
    },
};

/// A device list as it is stored here.
#[derive(Debug)]
pub struct StoredDeviceList {
    /// Whether the list is the same as on the user's server.
    pub is_fresh: bool,
    /// The keys of the devices that support encryption, as clients see them.
    pub devices: BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>,
}

/// A change in the set of users who share rooms with local users.
#[derive(Clone, Debug)]
pub enum SharingChange {
    /// The users started to share a room: their lists are needed.
    Started(Vec<UserNum>),
    /// The users no longer share a room, or are too many to request all lists.
    Ended(Vec<UserNum>),
    /// The last local user left a room: its other members may no longer share a room.
    RoomLeft(RoomNum),
    /// The change is not known exactly.
    Unclear,
}

/// A user whose list must be requested.
#[derive(Debug)]
pub struct ListToRequest {
    pub user: UserNum,
    pub user_id: OwnedUserId,
}

/// The device lists of users on other servers.
#[derive(Clone)]
pub struct RemoteDeviceLists {
    db: Db,
    list_requests: Arc<ListRequests>,
}

impl RemoteDeviceLists {
    /// Creates the service.
    pub(super) fn new(environment: &DeviceEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            list_requests: Arc::default(),
        }
    }

    /// Starts to request lists. Any change of these users' lists from now on makes the answers unreliable.
    pub fn begin_list_request<'a>(
        &self,
        users: impl IntoIterator<Item = &'a UserId>,
    ) -> ListRequestTicket {
        let mut requested = self.list_requests.lock();
        let users = users.into_iter().map(|user_id| {
            let state = requested.entry(user_id.to_owned()).or_default();
            state.requests += 1;
            (user_id.to_owned(), state.changes)
        });
        let users = users.collect();
        ListRequestTicket {
            list_requests: self.list_requests.clone(),
            users,
        }
    }

    /// Records a change of a user's list. Answers to running requests may be older or newer than it.
    pub fn record_list_change(&self, user_id: &UserId) {
        if let Some(state) = self.list_requests.lock().get_mut(user_id) {
            state.changes += 1;
        }
    }

    /// Records that rooms may no longer be shared. Changes of the lists being requested may then go unreported.
    pub fn record_unseen_changes(&self) {
        for state in self.list_requests.lock().values_mut() {
            state.changes += 1;
        }
    }

    /// Returns the stored device lists of users of other servers.
    pub async fn stored_lists(
        &self,
        user_ids: &[&UserId],
    ) -> Result<HashMap<OwnedUserId, StoredDeviceList>> {
        if user_ids.is_empty() {
            return Ok(HashMap::new());
        }
        let texts: Vec<&str> = user_ids.iter().map(|user_id| user_id.as_str()).collect();
        let mut db = self.db.snapshot().await?;
        let users = self.db.strings.find_users(&mut db, &texts).await?;
        let lists = remote_device_lists::lists(&mut db, &users).await?;
        let stored: Vec<UserNum> = lists.iter().map(|list| list.user_num).collect();
        let devices = remote_device_lists::devices(&mut db, &stored).await?;
        let texts = self.db.strings.find_user_ids(&mut db, &stored).await?;
        drop(db);
        let mut by_user: HashMap<UserNum, BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>> =
            HashMap::new();
        for device in devices {
            let keys = visible_keys(&device)?;
            let of_user = by_user.entry(device.user_num).or_default();
            of_user.insert(device.device_id.into(), keys);
        }
        let lists = lists.into_iter().filter_map(|list| {
            let user_id = UserId::parse(&**texts.get(&list.user_num)?).ok()?;
            let stored = StoredDeviceList {
                is_fresh: list.is_fresh,
                devices: by_user.remove(&list.user_num).unwrap_or_default(),
            };
            Some((user_id, stored))
        });
        Ok(lists.collect())
    }

    /// Stores the requested lists, and notifies clients of changes that they could not know.
    ///
    /// Returns the users whose lists must be requested again, because of changes in the meantime.
    pub async fn store_lists(
        &self,
        ticket: &ListRequestTicket,
        lists: Vec<(OwnedUserId, RemoteDeviceList)>,
    ) -> Result<Vec<OwnedUserId>> {
        let mut doubtful = Vec::new();
        let mut tx = self.db.write().await?;
        for (user_id, list) in lists {
            let user = tx.intern_user(user_id.as_str()).await?;
            let is_doubtful = ticket.has_changed(&user_id);
            store_list(&mut tx, user, &user_id, list, is_doubtful).await?;
            if is_doubtful {
                doubtful.push(user_id);
            }
        }
        tx.commit().await?;
        Ok(doubtful)
    }

    /// Applies changes of lists, in their order, and notifies clients of new information.
    ///
    /// Returns the users whose lists must be requested, because an earlier change is missing.
    pub async fn update_lists(&self, updates: &[RemoteListUpdate]) -> Result<Vec<OwnedUserId>> {
        let mut states: HashMap<&UserId, ListUpdater> = HashMap::new();
        let mut device_ids_by_user: HashMap<&UserId, Vec<&str>> = HashMap::new();
        for update in updates {
            let of_user = device_ids_by_user.entry(&update.user_id).or_default();
            of_user.push(update.device.device_id.as_str());
        }
        let mut tx = self.db.write().await?;
        for update in updates {
            let user_id = &*update.user_id;
            self.record_list_change(user_id);
            if let Some(device_ids) = device_ids_by_user.remove(user_id) {
                let user = tx.intern_user(user_id.as_str()).await?;
                let state = ListUpdater::load(&mut tx, user, &device_ids).await?;
                states.insert(user_id, state);
            }
            if let Some(state) = states.get_mut(user_id) {
                state.apply(&mut tx, update).await?;
            }
        }
        let mut to_request = Vec::new();
        for (user_id, state) in states {
            if state.has_news {
                device_list_changes::record_change(&mut tx, state.user, None).await?;
            }
            let Some(mut list) = state.list else {
                continue;
            };
            if !list.is_fresh {
                // If a request is running, clients may already know the list that its answer will be compared with.
                list.is_reported &= self.list_requests.is_requested(user_id);
                to_request.push(user_id.to_owned());
            }
            remote_device_lists::set_list(&mut tx, &list).await?;
        }
        tx.commit().await?;
        Ok(to_request)
    }

    /// Stores the cross-signing keys of a user of another server, and notifies clients if they are new.
    pub async fn update_signing_keys(
        &self,
        user_id: &UserId,
        master_key: Option<&Raw<CrossSigningKey>>,
        self_signing_key: Option<&Raw<CrossSigningKey>>,
    ) -> Result<()> {
        let new = cross_signing::read_reported_keys(user_id, master_key, self_signing_key);
        if new.is_empty() {
            return Ok(());
        }
        self.record_list_change(user_id);
        let mut tx = self.db.write().await?;
        let user = tx.intern_user(user_id.as_str()).await?;
        if cross_signing::store_reported_keys(&mut tx, user, user_id, &new).await? {
            device_list_changes::record_change(&mut tx, user, None).await?;
        }
        tx.commit().await
    }

    /// Records that requests for lists failed. Clients must be notified once the lists are available.
    pub async fn record_failed_requests(&self, user_ids: &[&UserId]) -> Result<()> {
        let texts: Vec<&str> = user_ids.iter().map(|user_id| user_id.as_str()).collect();
        let mut db = self.db.read().await?;
        let users = self.db.strings.find_users(&mut db, &texts).await?;
        let lists = remote_device_lists::lists(&mut db, &users).await?;
        drop(db);
        let reported = lists.iter().filter(|list| list.is_reported);
        let reported: Vec<UserNum> = reported.map(|list| list.user_num).collect();
        if reported.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.write().await?;
        remote_device_lists::mark_queried(&mut tx, &reported).await?;
        tx.commit().await
    }

    /// Applies changes in the set of users who share rooms with local users, in their order.
    pub async fn apply_sharing_changes(&self, changes: &[SharingChange]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.write().await?;
        for change in changes {
            match change {
                SharingChange::Started(users) => {
                    remote_device_lists::track_users(&mut tx, users).await?;
                }
                SharingChange::Ended(users) => {
                    remote_device_lists::untrack_users(&mut tx, users).await?;
                }
                SharingChange::RoomLeft(room) => {
                    remote_device_lists::untrack_members(&mut tx, *room).await?;
                }
                SharingChange::Unclear => {
                    remote_device_lists::untrack_users_without_shared_rooms(&mut tx).await?;
                }
            }
        }
        tx.commit().await
    }

    /// Returns the users without a stored list, not even one marked as needed.
    pub async fn users_without_list(&self, users: &[UserNum]) -> Result<Vec<UserNum>> {
        let mut db = self.db.read().await?;
        let lists = remote_device_lists::lists(&mut db, users).await?;
        let with_list: HashSet<UserNum> = lists.iter().map(|list| list.user_num).collect();
        let users = users.iter().copied();
        Ok(users.filter(|user| !with_list.contains(user)).collect())
    }

    /// Returns some of the users whose lists must be requested, after a user number.
    pub async fn lists_to_request(&self, after: UserNum, limit: i64) -> Result<Vec<ListToRequest>> {
        let mut db = self.db.read().await?;
        let rows = remote_device_lists::users_to_query(&mut db, after, limit).await?;
        let users = rows.into_iter();
        Ok(users
            .filter_map(|row| {
                Some(ListToRequest {
                    user: row.user_num,
                    user_id: UserId::parse(row.user_id).ok()?,
                })
            })
            .collect())
    }
}

/// Returns the keys of a device as clients see them.
fn visible_keys(device: &RemoteDeviceRow) -> Result<Raw<DeviceKeys>> {
    let mut keys: Map<String, Value> = serde_json::from_str(&device.keys)?;
    if let Some(name) = &device.display_name {
        let unsigned = json!({ "device_display_name": name });
        keys.insert("unsigned".to_owned(), unsigned);
    }
    Ok(Raw::from_json(to_raw_value(&keys)?))
}

#[cfg(test)]
mod tests;
