//! Which member events a device has been given already, where members are loaded lazily.
//!
//! [Lazy-loading room members](https://spec.matrix.org/v1.19/client-server-api/#lazy-loading-room-members)

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use ruma::{EventId, OwnedEventId};

use crate::storage::DeviceNum;

/// Devices remembered.
const DEVICES: usize = 5_000;
/// Member events remembered of each device.
const EVENTS: usize = 5_000;

/// The member events that were given, by device.
#[derive(Default)]
pub(super) struct LazyMembers {
    given: Mutex<HashMap<DeviceNum, HashSet<OwnedEventId>>>,
}

impl LazyMembers {
    /// Notes that a device is given a member event; returns whether it had none of it before.
    pub(super) fn give(&self, device: DeviceNum, event_id: &EventId) -> bool {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if given.len() >= DEVICES && !given.contains_key(&device) {
            given.clear();
        }
        let events = given.entry(device).or_default();
        if events.len() >= EVENTS {
            events.clear();
        }
        events.insert(event_id.to_owned())
    }

    /// Forgets what a device was given: it begins anew.
    pub(super) fn forget(&self, device: DeviceNum) {
        self.given
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&device);
    }
}
