//! Storing and changing the device lists of users on other servers.

use std::collections::{HashMap, HashSet};

use ruma::UserId;

use super::{
    cross_signing,
    remote_device::{RemoteDeviceList, RemoteListUpdate},
};
use crate::{
    error::Result,
    numbers::{StreamId, UserNum},
    storage::{
        WriteTx,
        devices::{
            device_list_changes,
            remote_device_lists::{self, DeviceListSize, RemoteDeviceListRow, RemoteDeviceRow},
        },
    },
};

/// The largest number of devices of a user, and the largest total size of their keys, that are stored. The rest is
/// ignored.
pub(super) const MAX_DEVICES_PER_USER: i64 = 1_000;
pub(super) const MAX_LIST_BYTES: i64 = 2 * 1024 * 1024;

/// Stores a list that was requested, and notifies clients of changes that they could not know.
pub(super) async fn store_list(
    tx: &mut WriteTx,
    user: UserNum,
    user_id: &UserId,
    list: RemoteDeviceList,
    is_doubtful: bool,
) -> Result<()> {
    let known = remote_device_lists::lists(tx, &[user]).await?.pop();
    let mut before = remote_device_lists::devices(tx, &[user]).await?;
    let mut size = DeviceListSize::default();
    let devices = list
        .devices
        .iter()
        .filter_map(|device| device.device_row(user));
    let mut after: Vec<RemoteDeviceRow> = devices
        .filter(|device| grow_list(&mut size, None, Some(device)))
        .collect();
    // Sorted here, because databases sort texts differently.
    before.sort_by(|one, other| one.device_id.cmp(&other.device_id));
    after.sort_by(|one, other| one.device_id.cmp(&other.device_id));
    after.dedup_by(|one, other| one.device_id == other.device_id);
    let (master, self_signing) = (list.master_key.as_ref(), list.self_signing_key.as_ref());
    let keys = cross_signing::read_reported_keys(user_id, master, self_signing);
    let keys_changed = cross_signing::store_reported_keys(tx, user, user_id, &keys).await?;
    let row = RemoteDeviceListRow {
        user_num: user,
        stream_id: list.stream_id,
        is_fresh: !is_doubtful,
        is_reported: false,
    };
    remote_device_lists::set_list(tx, &row).await?;
    let is_new = before != after;
    if is_new {
        remote_device_lists::replace_devices(tx, user, &after).await?;
    }
    if (is_new || keys_changed) && known.is_some_and(|known| !known.is_reported) {
        device_list_changes::record_change(tx, user, None).await?;
    }
    Ok(())
}

/// Adds the size of a device that replaces another one to that of its list, unless the limits are exceeded.
fn grow_list(
    size: &mut DeviceListSize,
    before: Option<&RemoteDeviceRow>,
    after: Option<&RemoteDeviceRow>,
) -> bool {
    let count = |device: Option<&RemoteDeviceRow>| i64::from(device.is_some());
    let bytes = |device: Option<&RemoteDeviceRow>| {
        let bytes = device.map_or(0, |device| device.keys.len());
        i64::try_from(bytes).unwrap_or(i64::MAX)
    };
    let grown = DeviceListSize {
        devices: size.devices + count(after) - count(before),
        bytes: size.bytes.saturating_add(bytes(after) - bytes(before)),
    };
    let fits =
        after.is_none() || (grown.devices <= MAX_DEVICES_PER_USER && grown.bytes <= MAX_LIST_BYTES);
    if fits {
        *size = grown;
    }
    fits
}

/// Applies changes to a list.
pub(super) struct ListUpdater {
    pub(super) user: UserNum,
    pub(super) list: Option<RemoteDeviceListRow>,
    /// The stored devices that the changes name.
    devices: HashMap<String, RemoteDeviceRow>,
    /// The size of the list, once it is needed.
    size: Option<DeviceListSize>,
    /// The versions that the list has had.
    stream_ids: HashSet<StreamId>,
    /// Whether the changes contain something that clients could not know.
    pub(super) has_news: bool,
}

impl ListUpdater {
    /// Reads the list, and the devices that the changes name.
    pub(super) async fn load(tx: &mut WriteTx, user: UserNum, device_ids: &[&str]) -> Result<Self> {
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

    /// Applies a change.
    pub(super) async fn apply(
        &mut self,
        tx: &mut WriteTx,
        update: &RemoteListUpdate,
    ) -> Result<()> {
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
            list.is_reported = false;
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
        let size = match &mut self.size {
            Some(size) => size,
            unknown @ None => {
                unknown.insert(remote_device_lists::stored_size(tx, self.user).await?)
            }
        };
        Ok(grow_list(size, self.devices.get(device_id), device))
    }
}
