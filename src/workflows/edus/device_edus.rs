//! Received EDUs about to-device messages, device lists and cross-signing keys.

use ruma::{
    ServerName,
    api::federation::transactions::edu::{
        DeviceListUpdateContent, DirectDeviceContent, SigningKeyUpdateContent,
    },
};
use serde_json::value::RawValue;

use super::origin::{EduOrigins, parse};
use crate::{
    devices::{Devices, RemoteDevice, RemoteListUpdate},
    error::Result,
    federation::Federation,
    numbers::StreamId,
    workflows::{WorkflowSources, device_list_tracker::DeviceListTracker},
};

/// The number of previous list versions that one update may name. Servers give up long before they reach it.
const MAX_PREV_IDS: usize = 1_000;

/// Receives EDUs about devices and their keys. Cheap to clone.
#[derive(Clone)]
pub(super) struct DeviceEdus {
    devices: Devices,
    federation: Federation,
    device_list_tracker: DeviceListTracker,
    origins: EduOrigins,
}

impl DeviceEdus {
    pub(super) fn new(
        sources: &WorkflowSources,
        device_list_tracker: &DeviceListTracker,
        origins: &EduOrigins,
    ) -> Self {
        Self {
            devices: sources.devices.clone(),
            federation: sources.federation.clone(),
            device_list_tracker: device_list_tracker.clone(),
            origins: origins.clone(),
        }
    }

    /// Processes `m.direct_to_device`.
    pub(super) async fn receive_messages(
        &self,
        origin: &ServerName,
        edus: &[Box<RawValue>],
    ) -> Result<()> {
        let messages = edus
            .iter()
            .filter_map(|edu| parse::<DirectDeviceContent>(edu));
        let messages: Vec<DirectDeviceContent> = messages
            .filter(|message| message.sender.server_name() == origin)
            .collect();
        if messages.is_empty() {
            return Ok(());
        }
        let now = self.federation.now_ms();
        self.devices.to_device.receive(origin, &messages, now).await
    }

    /// Processes `m.device_list_update`.
    pub(super) async fn receive_device_lists(
        &self,
        origin: &ServerName,
        edus: &[Box<RawValue>],
    ) -> Result<()> {
        if edus.is_empty() {
            return Ok(());
        }
        self.device_list_tracker.process_changes().await?;
        let mut updates = Vec::new();
        for edu in edus {
            let Some(content) = parse::<DeviceListUpdateContent>(edu) else {
                continue;
            };
            if self
                .origins
                .user_sharing_a_room(origin, &content.user_id)
                .await?
                .is_some()
            {
                updates.extend(read_update(content));
            }
        }
        if updates.is_empty() {
            return Ok(());
        }
        let to_ask = self.devices.remote_lists.update_lists(&updates).await?;
        self.device_list_tracker.request_lists(to_ask);
        Ok(())
    }

    /// Processes `m.signing_key_update`.
    pub(super) async fn receive_signing_keys(
        &self,
        origin: &ServerName,
        edus: &[Box<RawValue>],
    ) -> Result<()> {
        for edu in edus {
            let Some(content) = parse::<SigningKeyUpdateContent>(edu) else {
                continue;
            };
            if self
                .origins
                .user_sharing_a_room(origin, &content.user_id)
                .await?
                .is_none()
            {
                continue;
            }
            let (master, of_self) = (&content.master_key, &content.self_signing_key);
            self.devices
                .remote_lists
                .update_signing_keys(&content.user_id, master.as_ref(), of_self.as_ref())
                .await?;
        }
        Ok(())
    }
}

/// Reads an update. If its keys are malformed, the device has no keys.
fn read_update(content: DeviceListUpdateContent) -> Option<RemoteListUpdate> {
    let (user_id, device_id) = (&content.user_id, &content.device_id);
    let keys = content.keys.as_ref().map(|keys| keys.json().get());
    let named = |keys| {
        let name = content.device_display_name.clone();
        RemoteDevice::read(user_id, device_id, keys, name)
    };
    let device = named(keys).or_else(|| named(None))?;
    let prev_ids = content.prev_id.iter().take(MAX_PREV_IDS);
    Some(RemoteListUpdate {
        stream_id: content.stream_id.into(),
        prev_ids: prev_ids.map(|id| StreamId::from(*id)).collect(),
        deleted: content.deleted == Some(true),
        device,
        user_id: content.user_id,
    })
}
