//! Which member events a device has been given already, where members are loaded lazily.
//!
//! [Lazy-loading room members](https://spec.matrix.org/v1.19/client-server-api/#lazy-loading-room-members)

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use ruma::{EventId, OwnedEventId};

use crate::storage::{DeviceNum, Position};

/// Devices remembered.
const DEVICES: usize = 5_000;
/// Member events remembered of each device.
const EVENTS: usize = 5_000;

/// The member events that were given, by device, and up to where the answer told that gave them.
#[derive(Default)]
pub(super) struct LazyMembers {
    given: Mutex<HashMap<DeviceNum, HashMap<OwnedEventId, Position>>>,
}

impl LazyMembers {
    /// Notes that a device is given a member event in an answer up to `now`; returns whether it may lack it.
    ///
    /// Only a device that comes back with the token of an answer, or a later one, has what the answer gave: one
    /// that asks with an older token never got it.
    pub(super) fn give(
        &self,
        device: DeviceNum,
        event_id: &EventId,
        known_at: Position,
        now: Position,
    ) -> bool {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if given.len() >= DEVICES && !given.contains_key(&device) {
            given.clear();
        }
        let events = given.entry(device).or_default();
        if events
            .get(event_id)
            .is_some_and(|given_at| *given_at <= known_at)
        {
            return false;
        }
        if events.len() >= EVENTS {
            events.clear();
        }
        events.insert(event_id.to_owned(), now);
        true
    }

    /// Forgets what a device was given: it begins anew.
    pub(super) fn forget(&self, device: DeviceNum) {
        self.given
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&device);
    }
}
