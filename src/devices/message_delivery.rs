//! Delivering to-device messages to devices of this server's users.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ruma::{
    OwnedUserId, ServerName, UserId, api::client::to_device::send_event_to_device::v3::Messages,
    to_device::DeviceIdOrAllDevices,
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    error::{Error, Result},
    numbers::{DeviceNum, UserNum},
    storage::{
        Db, JournalChange, WriteTx,
        devices::device_table::NumberedDevice,
        devices::{
            device_table,
            to_device::{self, NewToDeviceMessage},
        },
    },
};

/// The largest number of target devices of one request: each needs a row.
pub(super) const MAX_TARGET_DEVICES: usize = 10_000;
/// The largest total size that one request may store, in bytes. A request that names each device is always smaller;
/// with "*" the same message is stored for each device of a user.
const MAX_DELIVERED_BYTES: usize = 4 * 1024 * 1024;
/// The largest message, in bytes.
pub(super) const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// A message for one device of a user, or for all.
pub(super) struct TargetMessage {
    target: DeviceIdOrAllDevices,
    message: Arc<str>,
}

/// The messages for each user.
pub(super) type MessagesByUser = BTreeMap<OwnedUserId, Vec<TargetMessage>>;

/// An event as devices receive it.
#[derive(Serialize)]
struct ToDeviceMessage<'a> {
    content: &'a RawValue,
    sender: &'a UserId,
    r#type: &'a str,
}

/// Checks that the content of each message is an object.
pub(super) fn check_contents(messages: &Messages) -> Result<()> {
    let mut contents = messages.values().flat_map(BTreeMap::values);
    if contents.all(|content| content.json().get().starts_with('{')) {
        Ok(())
    } else {
        Err(Error::BadJson(
            "the content of a message is not an object".to_owned(),
        ))
    }
}

/// Serializes each message once, for all its target devices.
pub(super) fn serialize_messages(
    own_server: &ServerName,
    sender: &UserId,
    kind: &str,
    messages: &Messages,
) -> Result<MessagesByUser> {
    let targets: usize = messages.values().map(BTreeMap::len).sum();
    if targets > MAX_TARGET_DEVICES {
        return Err(Error::invalid_param(format!(
            "the messages have more than {MAX_TARGET_DEVICES} target devices"
        )));
    }
    let mut by_user = MessagesByUser::new();
    for (user_id, devices) in messages {
        if user_id.server_name() != own_server {
            continue;
        }
        let mut serialized = Vec::with_capacity(devices.len());
        for (target, content) in devices {
            let message = serde_json::to_string(&ToDeviceMessage {
                content: content.json(),
                sender,
                r#type: kind,
            })?;
            if message.len() > MAX_MESSAGE_BYTES {
                return Err(Error::TooLarge("a message is too large".to_owned()));
            }
            serialized.push(TargetMessage {
                target: target.clone(),
                message: Arc::from(message),
            });
        }
        by_user.insert(user_id.clone(), serialized);
    }
    Ok(by_user)
}

/// A message for a device.
pub(super) struct DeviceDelivery {
    user: UserNum,
    device: DeviceNum,
    message: Arc<str>,
}

/// Finds the target devices of messages.
pub(super) async fn find_deliveries(
    tx: &mut WriteTx,
    db: &Db,
    messages: &MessagesByUser,
) -> Result<Vec<DeviceDelivery>> {
    let user_ids: Vec<&str> = messages.keys().map(|user_id| user_id.as_str()).collect();
    let users = db.strings.find_users(tx, &user_ids).await?;
    let user_ids = db.strings.find_user_ids(tx, &users).await?;
    let mut by_user: HashMap<UserNum, Vec<NumberedDevice>> = HashMap::new();
    for device in device_table::of_users(tx, &users).await? {
        by_user.entry(device.user_num).or_default().push(device);
    }
    let mut deliveries = Vec::new();
    for (user, devices) in by_user {
        let for_user = user_ids.get(&user).and_then(|user_id| {
            let user_id = <&UserId>::try_from(&**user_id).ok()?;
            messages.get(user_id)
        });
        for TargetMessage { target, message } in for_user.into_iter().flatten() {
            let targets = devices
                .iter()
                .filter(|device| is_target_device(target, &device.device_id));
            deliveries.extend(targets.map(|device| DeviceDelivery {
                user,
                device: device.num,
                message: message.clone(),
            }));
        }
    }
    Ok(deliveries)
}

/// Checks the number of target devices, and the total size to store for them.
pub(super) fn check_delivery_size(deliveries: &[DeviceDelivery]) -> Result<()> {
    if deliveries.len() > MAX_TARGET_DEVICES {
        return Err(Error::invalid_param(format!(
            "the messages have more than {MAX_TARGET_DEVICES} target devices"
        )));
    }
    let bytes = deliveries.iter().map(|delivery| delivery.message.len());
    if bytes.sum::<usize>() > MAX_DELIVERED_BYTES {
        return Err(Error::TooLarge(format!(
            "the messages to all devices exceed {MAX_DELIVERED_BYTES} bytes in total"
        )));
    }
    Ok(())
}

fn is_target_device(target: &DeviceIdOrAllDevices, device_id: &str) -> bool {
    match target {
        DeviceIdOrAllDevices::DeviceId(id) => id.as_str() == device_id,
        DeviceIdOrAllDevices::AllDevices => true,
    }
}

/// Stores messages for devices, and publishes them.
pub(super) async fn store_deliveries(
    tx: &mut WriteTx,
    deliveries: Vec<DeviceDelivery>,
) -> Result<()> {
    let mut rows = Vec::with_capacity(deliveries.len());
    for DeviceDelivery {
        user,
        device,
        message,
    } in deliveries
    {
        let position = tx.next_position();
        tx.publish(position, JournalChange::ToDevice { user, device });
        rows.push(NewToDeviceMessage {
            position,
            device,
            message,
        });
    }
    to_device::insert(tx, &rows).await
}
