//! The parts of a response for the device: to-device messages, and its own remaining keys.

use ruma::{api::client::sync::sync_events::v3::Response, events::AnyToDeviceEvent, serde::Raw};
use serde_json::value::RawValue;

use super::{
    SyncEnvironment, device_lists::DeviceListReader, snapshot::SyncSnapshot,
    sync_viewer::SyncViewer,
};
use crate::{
    devices::Devices,
    error::Result,
    numbers::{DeviceNum, Position},
};

/// The largest number of to-device messages in one response.
pub(super) const MAX_TO_DEVICE_MESSAGES: usize = 100;

/// Reads the data of a device. Cheap to clone.
#[derive(Clone)]
pub(super) struct DeviceSections {
    devices: Devices,
    lists: DeviceListReader,
}

/// The request for the to-device messages of a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToDeviceRequest {
    pub(super) device: DeviceNum,
    /// The position up to which the device has received its messages.
    pub(super) after: Position,
    /// The position up to which messages are read.
    pub(super) up_to: Position,
    pub(super) limit: usize,
}

/// To-device messages, and the position up to which they were read.
pub(super) struct ToDevicePage {
    pub(super) events: Vec<Raw<AnyToDeviceEvent>>,
    pub(super) up_to: Position,
}

impl DeviceSections {
    pub(super) fn new(environment: &SyncEnvironment, lists: &DeviceListReader) -> Self {
        Self {
            devices: environment.devices.clone(),
            lists: lists.clone(),
        }
    }

    /// Returns to-device messages; if there are more than the limit, up to the last of them.
    pub(super) async fn to_device(&self, request: ToDeviceRequest) -> Result<ToDevicePage> {
        let ToDeviceRequest {
            device,
            after,
            up_to,
            limit,
        } = request;
        let pending = self
            .devices
            .to_device
            .pending(device, after, up_to, limit)
            .await?;
        let up_to = match pending.last() {
            Some(last) if pending.len() == limit => last.position,
            _ => up_to,
        };
        let mut events = Vec::with_capacity(pending.len());
        for message in pending {
            events.push(Raw::from_json(RawValue::from_string(message.message)?));
        }
        Ok(ToDevicePage { events, up_to })
    }

    /// Adds the to-device messages; returns the position up to which they were sent.
    pub(super) async fn add_to_device(
        &self,
        viewer: &SyncViewer<'_>,
        response: &mut Response,
    ) -> Result<Position> {
        let request = ToDeviceRequest {
            device: viewer.session.device,
            after: viewer
                .request
                .since
                .map_or(Position::ZERO, |since| since.to_device),
            up_to: viewer.now,
            limit: MAX_TO_DEVICE_MESSAGES,
        };
        let page = self.to_device(request).await?;
        response.to_device.events.extend(page.events);
        Ok(page.up_to)
    }

    /// Adds the parts for end-to-end encryption; returns whether the device has lost a key that it should replace.
    pub(super) async fn add_encryption(
        &self,
        viewer: &SyncViewer<'_>,
        snapshot: &SyncSnapshot,
        response: &mut Response,
    ) -> Result<bool> {
        let left = self
            .devices
            .key_counts
            .of_device(viewer.session.device)
            .await?;
        response.device_one_time_keys_count = left.one_time_counts();
        response.device_unused_fallback_key_types = Some(left.unused_fallback_algorithms());
        let Some(since) = viewer.request.since else {
            return Ok(false);
        };
        let lists = self
            .lists
            .device_lists(viewer.session, snapshot, since.position);
        response.device_lists = lists.await?;
        Ok(left.claimed_at > since.position)
    }
}
