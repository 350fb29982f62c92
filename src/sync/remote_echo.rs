//! The remote echo: a device does not receive its own event before the response to the request that sent it.
//!
//! Some clients fail when they receive their own event before they know its id. So a sync that would show a device
//! events of its user waits until the responses to the device's own requests have been handed to their connections.
//! Other devices do not wait, and no wait is long.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use crate::numbers::DeviceNum;

/// The time that an echo waits after the response was handed to its connection. The two use different connections.
const ECHO_PAUSE: Duration = Duration::from_millis(10);
/// The longest time that an echo waits. A response may be slow, or never be read.
const MAX_ECHO_WAIT: Duration = Duration::from_secs(1);

/// The requests of devices that send something and have no response yet. Cheap to clone.
#[derive(Clone, Default)]
pub struct PendingSends {
    by_device: Arc<Mutex<HashMap<DeviceNum, DeviceSends>>>,
}

/// The requests of one device.
#[derive(Default)]
struct DeviceSends {
    count: usize,
    /// The number of requests that took so long that nothing waits for them any longer.
    given_up: usize,
    /// The time of the latest response.
    last_response: Option<Instant>,
    completion: Arc<Notify>,
}

/// A request that sends something: it is in flight until this is dropped.
pub struct SendInFlight {
    sends: PendingSends,
    device: DeviceNum,
}

impl PendingSends {
    fn lock(&self) -> MutexGuard<'_, HashMap<DeviceNum, DeviceSends>> {
        self.by_device
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a device sends something. Must be called before any of it can be seen.
    pub fn begin_send(&self, device: DeviceNum) -> SendInFlight {
        let mut by_device = self.lock();
        by_device.retain(|_, in_flight| !in_flight.is_over());
        by_device.entry(device).or_default().count += 1;
        SendInFlight {
            sends: self.clone(),
            device,
        }
    }

    /// Waits for a limited time until the requests of a device that are in flight have their responses.
    pub(super) async fn wait_for_responses(&self, device: DeviceNum) {
        if timeout(MAX_ECHO_WAIT, self.wait_until_answered(device))
            .await
            .is_err()
        {
            // For example a join through other servers: it delays one sync, and no others.
            if let Some(in_flight) = self.lock().get_mut(&device) {
                in_flight.given_up = in_flight.count;
            }
        }
    }

    async fn wait_until_answered(&self, device: DeviceNum) {
        while let Some(settled) = self.pending_completion(device) {
            let mut settled = pin!(settled.notified());
            settled.as_mut().enable();
            // The last response may have come before this started to wait.
            if self.pending_completion(device).is_some() {
                settled.await;
            }
        }
        let answered = self.lock().get(&device).and_then(|it| it.last_response);
        if let Some(answered) = answered {
            sleep_until(answered + ECHO_PAUSE).await;
        }
    }

    /// Returns the notifier of the moment when all requests of a device have responses; `None` if they have.
    fn pending_completion(&self, device: DeviceNum) -> Option<Arc<Notify>> {
        let by_device = self.lock();
        let in_flight = by_device.get(&device)?;
        (in_flight.count > in_flight.given_up).then(|| in_flight.completion.clone())
    }
}

impl DeviceSends {
    fn is_over(&self) -> bool {
        self.count == 0
            && self
                .last_response
                .is_none_or(|answered| answered.elapsed() > ECHO_PAUSE)
    }
}

impl Drop for SendInFlight {
    fn drop(&mut self) {
        let mut by_device = self.sends.lock();
        if let Some(in_flight) = by_device.get_mut(&self.device) {
            in_flight.count -= 1;
            in_flight.last_response = Some(Instant::now());
            if in_flight.count <= in_flight.given_up {
                in_flight.given_up = in_flight.count;
                in_flight.completion.notify_waiters();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_echo_waits_only_for_responses_to_its_device() {
        let sends = PendingSends::default();
        let (one, two, _other) = (
            sends.begin_send(DeviceNum::new(1)),
            sends.begin_send(DeviceNum::new(1)),
            sends.begin_send(DeviceNum::new(2)),
        );
        let mut echo = Box::pin(sends.wait_for_responses(DeviceNum::new(1)));

        assert!(poll!(echo.as_mut()).is_pending());
        drop(one);
        assert!(poll!(echo.as_mut()).is_pending());
        drop(two);
        let answered = Instant::now();
        echo.await;
        assert!(answered.elapsed() >= ECHO_PAUSE);
        sends.wait_for_responses(DeviceNum::new(3)).await;
        assert_eq!(answered.elapsed(), ECHO_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_echo_does_not_wait_for_ever() {
        let sends = PendingSends::default();
        let _never_answered = sends.begin_send(DeviceNum::new(1));
        let start = Instant::now();

        sends.wait_for_responses(DeviceNum::new(1)).await;
        assert_eq!(start.elapsed(), MAX_ECHO_WAIT);

        sends.wait_for_responses(DeviceNum::new(1)).await;
        assert_eq!(start.elapsed(), MAX_ECHO_WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn devices_with_old_responses_are_forgotten() {
        let sends = PendingSends::default();
        drop(sends.begin_send(DeviceNum::new(1)));
        tokio::time::advance(ECHO_PAUSE * 2).await;

        let _another = sends.begin_send(DeviceNum::new(2));

        assert_eq!(sends.lock().len(), 1);
    }
}
