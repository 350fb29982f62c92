//! The member events that each device has already received, for lazy loading.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#lazy-loading-room-members).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use ruma::{EventId, OwnedEventId};

use crate::numbers::{DeviceNum, Position};

/// The number of devices that are remembered.
const MAX_LAZY_DEVICES: usize = 5_000;
/// The number of member events that are remembered for each device.
const MAX_LAZY_EVENTS: usize = 5_000;

/// The member events that were sent, by device, each with the position of the response that contained it.
#[derive(Default)]
pub(super) struct LazyMembers {
    sent: Mutex<HashMap<DeviceNum, HashMap<OwnedEventId, Position>>>,
}

impl LazyMembers {
    /// Records that a response up to `now` contains a member event; returns whether the device may lack it.
    ///
    /// Only a device that syncs with the token of a response, or a later one, has received that response. A device that
    /// uses an older token never received it.
    pub(super) fn record_sent(
        &self,
        device: DeviceNum,
        event_id: &EventId,
        known_at: Position,
        now: Position,
    ) -> bool {
        let mut devices = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if devices.len() >= MAX_LAZY_DEVICES && !devices.contains_key(&device) {
            devices.clear();
        }
        let events = devices.entry(device).or_default();
        if events
            .get(event_id)
            .is_some_and(|sent_at| *sent_at <= known_at)
        {
            return false;
        }
        if events.len() >= MAX_LAZY_EVENTS {
            events.clear();
        }
        events.insert(event_id.to_owned(), now);
        true
    }

    /// Forgets what a device was sent, because it starts with an initial sync.
    pub(super) fn forget_device(&self, device: DeviceNum) {
        self.sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&device);
    }
}
