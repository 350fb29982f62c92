//! The device lists of users on other servers who share a room with local users.
//!
//! A list is *fresh* from the time its server sends it until a sign that it has changed. As long as a room is shared,
//! the server reports every change. A change that arrives while a list is being requested makes the answer unreliable,
//! because it is not known which of them is older; the list is then requested again. Lists of users who share no room
//! are not kept.
//!
//! Clients are notified of a change when it happens: when an update contains something new, or when an answer differs
//! from the list that clients could know. A user who starts to share a room is reported by `sync` instead (`is_told`).
//!
//! See [Device management](https://spec.matrix.org/v1.19/server-server-api/#device-management).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId, UserId,
    canonical_json::CanonicalJsonValue,
    encryption::{CrossSigningKey, DeviceKeys},
    serde::Raw,
};
use serde_json::{Map, Value, json, value::to_raw_value};

use super::{Devices, MAX_NAME_BYTES, check_text, cross_signing};
use crate::{
    error::Result,
    matrix::signed_object,
    storage::{
        RoomNum, UserNum, WriteTx,
        devices::{
            device_list_changes,
            remote_device_lists::{self, RemoteDeviceListRow, RemoteDeviceRow},
        },
    },
};

/// The largest keys of a device, in bytes.
const MAX_KEY_BYTES: usize = 64 * 1024;
/// The largest number of devices of a user, and the largest total size of their keys, that are stored. The rest is
/// ignored.
const MAX_DEVICES_PER_USER: i64 = 1_000;
const MAX_LIST_BYTES: i64 = 2 * 1024 * 1024;

/// A device as its server reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteDevice {
    device_id: OwnedDeviceId,
    /// The device keys, as canonical JSON.
    keys: Option<String>,
    display_name: Option<String>,
}

/// The devices and keys of a user as their server reported them.
#[derive(Debug, Default)]
pub struct RemoteDeviceList {
    /// The server's version of the list, if it gave one.
    pub stream_id: Option<i64>,
    pub devices: Vec<RemoteDevice>,
    pub master_key: Option<Raw<CrossSigningKey>>,
    pub self_signing_key: Option<Raw<CrossSigningKey>>,
}

/// A change of a device list, as its server reported it.
#[derive(Debug)]
pub struct RemoteListUpdate {
    /// The user whose list changed.
    pub user_id: OwnedUserId,
    /// The version of the list after the change.
    pub stream_id: i64,
    /// The versions of the list before the change.
    pub prev_ids: Vec<i64>,
    /// The device that is new, changed or deleted.
    pub device: RemoteDevice,
    pub deleted: bool,
}

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

impl RemoteDevice {
    /// Reads a device; `None` if it is of another user, too large, or malformed.
    pub fn read(
        user_id: &UserId,
        device_id: &DeviceId,
        keys: Option<&str>,
        display_name: Option<String>,
    ) -> Option<Self> {
        check_text("device_id", device_id.as_str()).ok()?;
        let mut display_name = display_name;
        let keys = match keys {
            None => None,
            Some(keys) if keys.len() > MAX_KEY_BYTES || keys.contains("\\u0000") => return None,
            Some(keys) => {
                let typed: DeviceKeys = serde_json::from_str(keys).ok()?;
                if (&*typed.user_id, &*typed.device_id) != (user_id, device_id) {
                    return None;
                }
                let mut object = signed_object(keys).ok()?;
                let named = object.remove("unsigned").and_then(display_name_in);
                display_name = display_name.or(named);
                Some(serde_json::to_string(&object).ok()?)
            }
        };
        let is_fit = |name: &String| name.len() <= MAX_NAME_BYTES && !name.contains('\0');
        Some(Self {
            device_id: device_id.to_owned(),
            keys,
            display_name: display_name.filter(is_fit),
        })
    }

    /// Returns the device as it is stored; `None` if it does not support encryption, and so does not concern clients.
    fn device_row(&self, user_num: UserNum) -> Option<RemoteDeviceRow> {
        Some(RemoteDeviceRow {
            user_num,
            device_id: self.device_id.to_string(),
            keys: self.keys.clone()?,
            display_name: self.display_name.clone(),
        })
    }
}

fn display_name_in(unsigned: CanonicalJsonValue) -> Option<String> {
    let CanonicalJsonValue::Object(mut unsigned) = unsigned else {
        return None;
    };
    match unsigned.remove("device_display_name")? {
        CanonicalJsonValue::String(name) => Some(name),
        _ => None,
    }
}

impl Devices {
    /// Starts to request lists. Any change of these users' lists from now on makes the answers unreliable.
    pub fn begin_list_request<'a>(
        &self,
        users: impl IntoIterator<Item = &'a UserId>,
    ) -> ListRequestTicket {
        let mut asked = self.list_requests.lock();
        let users = users.into_iter().map(|user_id| {
            let asked = asked.entry(user_id.to_owned()).or_default();
            asked.requests += 1;
            (user_id.to_owned(), asked.changes)
        });
        let users = users.collect();
        ListRequestTicket {
            list_requests: self.list_requests.clone(),
            users,
        }
    }

    /// Records a change of a user's list. Answers to running requests may be older or newer than it.
    pub fn record_list_change(&self, user_id: &UserId) {
        if let Some(asked) = self.list_requests.lock().get_mut(user_id) {
            asked.changes += 1;
        }
    }

    /// Records that rooms may no longer be shared. Changes of the lists being requested may then go unreported.
    pub fn record_unseen_changes(&self) {
        for asked in self.list_requests.lock().values_mut() {
            asked.changes += 1;
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
        let known: Vec<UserNum> = lists.iter().map(|list| list.user_num).collect();
        let devices = remote_device_lists::devices(&mut db, &known).await?;
        let texts = self.db.strings.find_user_ids(&mut db, &known).await?;
        drop(db);
        let mut by_user: HashMap<UserNum, BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>> =
            HashMap::new();
        for device in devices {
            let keys = visible_keys(&device)?;
            let of_user = by_user.entry(device.user_num).or_default();
            of_user.insert(device.device_id.into(), keys);
        }
        let known = lists.into_iter().filter_map(|list| {
            let user_id = UserId::parse(&**texts.get(&list.user_num)?).ok()?;
            let known = StoredDeviceList {
                is_fresh: list.is_fresh,
                devices: by_user.remove(&list.user_num).unwrap_or_default(),
            };
            Some((user_id, known))
        });
        Ok(known.collect())
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
            store_list(&mut tx, (user, &user_id), list, is_doubtful).await?;
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
        let mut named: HashMap<&UserId, Vec<&str>> = HashMap::new();
        for update in updates {
            let of_user = named.entry(&update.user_id).or_default();
            of_user.push(update.device.device_id.as_str());
        }
        let mut tx = self.db.write().await?;
        for update in updates {
            let user_id = &*update.user_id;
            self.record_list_change(user_id);
            if let Some(device_ids) = named.remove(user_id) {
                let user = tx.intern_user(user_id.as_str()).await?;
                let state = ListUpdater::load(&mut tx, user, &device_ids).await?;
                states.insert(user_id, state);
            }
            if let Some(state) = states.get_mut(user_id) {
                state.apply(&mut tx, update).await?;
            }
        }
        let mut to_ask = Vec::new();
        for (user_id, state) in states {
            if state.has_news {
                device_list_changes::record_change(&mut tx, state.user, None).await?;
            }
            let Some(mut list) = state.list else {
                continue;
            };
            if !list.is_fresh {
                // If a request is running, clients may already know the list that its answer will be compared with.
                list.is_told &= self.list_requests.is_requested(user_id);
                to_ask.push(user_id.to_owned());
            }
            remote_device_lists::set_list(&mut tx, &list).await?;
        }
        tx.commit().await?;
        Ok(to_ask)
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
        if cross_signing::store_reported_keys(&mut tx, (user, user_id), &new).await? {
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
        let told = lists.iter().filter(|list| list.is_told);
        let told: Vec<UserNum> = told.map(|list| list.user_num).collect();
        if told.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.write().await?;
        remote_device_lists::mark_queried(&mut tx, &told).await?;
        tx.commit().await
    }

    /// Applies changes in the set of users who share rooms with local users, in their order.
    pub async fn apply_sharing_changes(&self, moves: &[SharingChange]) -> Result<()> {
        if moves.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.write().await?;
        for each in moves {
            match each {
                SharingChange::Started(users) => {
                    remote_device_lists::track_users(&mut tx, users).await?
                }
                SharingChange::Ended(users) => {
                    remote_device_lists::untrack_users(&mut tx, users).await?
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
        let known = remote_device_lists::lists(&mut db, users).await?;
        let known: HashSet<UserNum> = known.iter().map(|list| list.user_num).collect();
        let users = users.iter().copied();
        Ok(users.filter(|user| !known.contains(user)).collect())
    }

    /// Returns some of the users whose lists must be requested, after a user number.
    pub async fn lists_to_request(
        &self,
        after: UserNum,
        limit: i64,
    ) -> Result<Vec<(UserNum, OwnedUserId)>> {
        let mut db = self.db.read().await?;
        let rows = remote_device_lists::users_to_query(&mut db, after, limit).await?;
        let users = rows.into_iter();
        Ok(users
            .filter_map(|user| Some((user.user_num, UserId::parse(user.user_id).ok()?)))
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

async fn store_list(
    tx: &mut WriteTx,
    (user, user_id): (UserNum, &UserId),
    list: RemoteDeviceList,
    is_doubtful: bool,
) -> Result<()> {
    let known = remote_device_lists::lists(tx, &[user]).await?.pop();
    let mut before = remote_device_lists::devices(tx, &[user]).await?;
    let mut extent = ListSize::default();
    let devices = list
        .devices
        .iter()
        .filter_map(|device| device.device_row(user));
    let mut after: Vec<RemoteDeviceRow> = devices
        .filter(|device| extent.grow(None, Some(device)))
        .collect();
    // Sorted here, because databases sort texts differently.
    before.sort_by(|one, other| one.device_id.cmp(&other.device_id));
    after.sort_by(|one, other| one.device_id.cmp(&other.device_id));
    after.dedup_by(|one, other| one.device_id == other.device_id);
    let (master, of_self) = (list.master_key.as_ref(), list.self_signing_key.as_ref());
    let keys = cross_signing::read_reported_keys(user_id, master, of_self);
    let signs_anew = cross_signing::store_reported_keys(tx, (user, user_id), &keys).await?;
    let row = RemoteDeviceListRow {
        user_num: user,
        stream_id: list.stream_id,
        is_fresh: !is_doubtful,
        is_told: false,
    };
    remote_device_lists::set_list(tx, &row).await?;
    let is_new = before != after;
    if is_new {
        remote_device_lists::replace_devices(tx, user, &after).await?;
    }
    if (is_new || signs_anew) && known.is_some_and(|known| !known.is_told) {
        device_list_changes::record_change(tx, user, None).await?;
    }
    Ok(())
}

/// The size of a list.
#[derive(Clone, Copy, Default)]
struct ListSize {
    devices: i64,
    bytes: i64,
}

impl ListSize {
    /// Adds the size of a device that replaces another one, unless the limits are exceeded.
    fn grow(&mut self, before: Option<&RemoteDeviceRow>, after: Option<&RemoteDeviceRow>) -> bool {
        let count = |device: Option<&RemoteDeviceRow>| i64::from(device.is_some());
        let bytes = |device: Option<&RemoteDeviceRow>| {
            let bytes = device.map_or(0, |device| device.keys.len());
            i64::try_from(bytes).unwrap_or(i64::MAX)
        };
        let grown = Self {
            devices: self.devices + count(after) - count(before),
            bytes: self.bytes.saturating_add(bytes(after) - bytes(before)),
        };
        let fits = after.is_none()
            || (grown.devices <= MAX_DEVICES_PER_USER && grown.bytes <= MAX_LIST_BYTES);
        if fits {
            *self = grown;
        }
        fits
    }
}

/// Applies changes to a list.
struct ListUpdater {
    user: UserNum,
    list: Option<RemoteDeviceListRow>,
    /// The stored devices that the changes name.
    devices: HashMap<String, RemoteDeviceRow>,
    /// The size of the list, once it is needed.
    size: Option<ListSize>,
    /// The versions that the list has had.
    stream_ids: HashSet<i64>,
    /// Whether the changes contain something that clients could not know.
    has_news: bool,
}

impl ListUpdater {
    async fn load(tx: &mut WriteTx, user: UserNum, device_ids: &[&str]) -> Result<Self> {
        let list = remote_device_lists::lists(tx, &[user]).await?.pop();
        let devices = remote_device_lists::devices_with_ids(tx, user, device_ids).await?;
        let devices = devices.into_iter();
        let stream_id = list.as_ref().and_then(|list| list.stream_id);
        Ok(Self {
            user,
            list,
            devices: devices
                .map(|device| (device.device_id.clone(), device))
                .collect(),
            size: None,
            stream_ids: stream_id.into_iter().collect(),
            has_news: false,
        })
    }

    async fn apply(&mut self, tx: &mut WriteTx, update: &RemoteListUpdate) -> Result<()> {
        let Some(list) = &mut self.list else {
            // The list has not been requested since the room is shared: there is nothing to compare the change with.
            self.has_news = true;
            return Ok(());
        };
        if !list.is_fresh {
            return Ok(());
        }
        let device = update
            .device
            .device_row(self.user)
            .filter(|_| !update.deleted);
        let device_id = update.device.device_id.as_str();
        let is_known = self.devices.get(device_id) == device.as_ref();
        if is_known && list.stream_id == Some(update.stream_id) {
            return Ok(());
        }
        // "If the receiving server does not recognise any of the prev_ids, it means an EDU has been lost". The same is
        // true if only some are recognised, because all of them were sent.
        let mut before = update.prev_ids.iter();
        if update.prev_ids.is_empty() || !before.all(|id| self.stream_ids.contains(id)) {
            list.is_fresh = false;
            list.is_told = false;
            return Ok(());
        }
        self.stream_ids.insert(update.stream_id);
        list.stream_id = Some(update.stream_id);
        if is_known || !self.fits_limits(tx, device_id, device.as_ref()).await? {
            return Ok(());
        }
        self.has_news = true;
        if let Some(device) = device {
            remote_device_lists::set_device(tx, &device).await?;
            self.devices.insert(device.device_id.clone(), device);
        } else {
            remote_device_lists::remove_device(tx, self.user, device_id).await?;
            self.devices.remove(device_id);
        }
        Ok(())
    }

    /// Returns whether a device may replace its stored state within the limits.
    async fn fits_limits(
        &mut self,
        tx: &mut WriteTx,
        device_id: &str,
        device: Option<&RemoteDeviceRow>,
    ) -> Result<bool> {
        let extent = match &mut self.size {
            Some(extent) => extent,
            unknown @ None => {
                let (devices, bytes) = remote_device_lists::stored_size(tx, self.user).await?;
                unknown.insert(ListSize { devices, bytes })
            }
        };
        Ok(extent.grow(self.devices.get(device_id), device))
    }
}

/// The lists that are being requested.
#[derive(Default)]
pub(super) struct ListRequests {
    users: Mutex<HashMap<OwnedUserId, ListRequestState>>,
}

#[derive(Default)]
struct ListRequestState {
    requests: usize,
    /// The number of changes of the list in the meantime.
    changes: u64,
}

impl ListRequests {
    fn lock(&self) -> MutexGuard<'_, HashMap<OwnedUserId, ListRequestState>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_requested(&self, user_id: &UserId) -> bool {
        self.lock().contains_key(user_id)
    }
}

/// A running request for lists, until it is dropped.
pub struct ListRequestTicket {
    list_requests: Arc<ListRequests>,
    users: HashMap<OwnedUserId, u64>,
}

impl ListRequestTicket {
    /// Returns whether a user's list has changed since it was requested.
    pub fn has_changed(&self, user_id: &UserId) -> bool {
        let asked = self.list_requests.lock();
        let touched = asked.get(user_id).map(|asked| asked.changes);
        touched != self.users.get(user_id).copied()
    }
}

impl Drop for ListRequestTicket {
    fn drop(&mut self) {
        let mut asked = self.list_requests.lock();
        for user_id in self.users.keys() {
            if let Some(one) = asked.get_mut(user_id) {
                one.requests = one.requests.saturating_sub(1);
                if one.requests == 0 {
                    asked.remove(user_id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
