//! Requests device lists from the servers of their users.
//!
//! Each server with such users has a task, which requests one list after another. A server that does not answer is
//! asked again after a growing pause, or as soon as it shows a sign of life.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{
    OwnedDeviceId, OwnedUserId, ServerName, UInt, UserId, api::federation::device::get_devices,
    encryption::CrossSigningKey, serde::Raw,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::DeviceListTracker;
use crate::{
    devices::{RemoteDevice, RemoteDeviceList, SharingChange},
    error::{Error, Result},
    federation::{RequestFailure, RequestLimits},
    numbers::UserNum,
};

/// The first pause after a server did not answer, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const MAX_PAUSE: Duration = Duration::from_hours(1);
/// The shortest pause, even if the server shows a sign of life.
const MIN_PAUSE: Duration = Duration::from_millis(500);

/// The lists to request from a server.
#[derive(Default)]
pub(super) struct WantedLists {
    users: Mutex<BTreeSet<OwnedUserId>>,
    /// Notified when the server shows a sign of life.
    pub(super) contacted: Notify,
}

impl WantedLists {
    fn users(&self) -> MutexGuard<'_, BTreeSet<OwnedUserId>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server's answer with the devices of a user. Some servers omit the keys of devices without encryption.
#[derive(Deserialize)]
struct DeviceListAnswer {
    user_id: OwnedUserId,
    stream_id: UInt,
    #[serde(default)]
    devices: Vec<DeviceListEntry>,
    master_key: Option<Raw<CrossSigningKey>>,
    self_signing_key: Option<Raw<CrossSigningKey>>,
}

#[derive(Deserialize)]
struct DeviceListEntry {
    device_id: OwnedDeviceId,
    keys: Option<Box<RawValue>>,
    device_display_name: Option<String>,
}

/// The outcome of requesting a list.
enum ListRequestOutcome {
    /// The list is stored, or no longer wanted.
    Done,
    /// The list changed during the request.
    Doubtful,
    /// The server did not answer.
    Unanswered,
}

impl DeviceListTracker {
    /// Requests the lists of users in the background.
    pub(in crate::workflows) fn request_lists(&self, users: impl IntoIterator<Item = OwnedUserId>) {
        for user_id in users {
            let server = user_id.server_name().to_owned();
            let mut servers = self.inner.servers();
            if let Some(wanted) = servers.get(&server) {
                wanted.users().insert(user_id);
                continue;
            }
            let wanted = Arc::new(WantedLists::default());
            wanted.users().insert(user_id);
            servers.insert(server.clone(), wanted.clone());
            drop(servers);
            let (lists, stopping) = (self.clone(), self.inner.tasks.stopping().clone());
            drop(self.inner.tasks.spawn(async move {
                tokio::select! {
                    () = stopping.cancelled() => {}
                    () = lists.request_from_server(&server, &wanted) => {}
                }
            }));
        }
    }

    /// Returns the next list to request from a server. If none is left, another task serves the server from then on.
    fn next_wanted_list(&self, server: &ServerName, wanted: &WantedLists) -> Option<OwnedUserId> {
        // Locked, so that a new list is either given to this task or starts another one.
        let mut servers = self.inner.servers();
        let next = wanted.users().pop_first();
        if next.is_none() {
            servers.remove(server);
        }
        next
    }

    /// Requests the wanted lists from a server, until none is left.
    async fn request_from_server(&self, server: &ServerName, wanted: &WantedLists) {
        let mut failures = 0_u32;
        while let Some(user_id) = self.next_wanted_list(server, wanted) {
            match self.request_list(&user_id).await {
                Ok(ListRequestOutcome::Done) => failures = 0,
                Ok(ListRequestOutcome::Doubtful) => {
                    failures = 0;
                    wanted.users().insert(user_id);
                }
                Ok(ListRequestOutcome::Unanswered) | Err(_) => {
                    wanted.users().insert(user_id);
                    let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(16));
                    failures += 1;
                    tokio::time::sleep(MIN_PAUSE).await;
                    tokio::select! {
                        () = tokio::time::sleep(pause.min(MAX_PAUSE)) => {}
                        () = wanted.contacted.notified() => {}
                    }
                }
            }
        }
    }

    /// Stores that nobody of this server shares a room with a user any more.
    async fn end_sharing(&self, user: UserNum) -> Result<ListRequestOutcome> {
        let changes = [SharingChange::Ended(vec![user])];
        let lists = &self.inner.devices.remote_lists;
        lists.apply_sharing_changes(&changes).await?;
        Ok(ListRequestOutcome::Done)
    }

    /// Requests the list of a user.
    #[tracing::instrument(skip_all, fields(user_id = %user_id), err(level = "debug"))]
    async fn request_list(&self, user_id: &UserId) -> Result<ListRequestOutcome> {
        let inner = &self.inner;
        let permit = inner.request_permits.acquire().await;
        let _permit = permit.map_err(|source| Error::internal("ask for devices", source))?;
        self.process_changes().await?;
        // Before the check for a shared room: a leave after it makes the answer unreliable.
        let ticket = inner.devices.remote_lists.begin_list_request([user_id]);
        let Some(user) = inner.rooms.memory.user_number(user_id).await? else {
            return Ok(ListRequestOutcome::Done);
        };
        if !inner.rooms.memory.shares_room_with_us(user, None).await? {
            return self.end_sharing(user).await;
        }
        let known = inner.devices.remote_lists.stored_lists(&[user_id]).await?;
        if known.get(user_id).is_none_or(|known| known.is_fresh) {
            return Ok(ListRequestOutcome::Done);
        }
        let request = get_devices::v1::Request::new(user_id.to_owned());
        let client = inner.federation.client();
        let answer = client.send_expecting::<DeviceListAnswer, _>(
            user_id.server_name(),
            request,
            RequestLimits::LARGE_RESPONSE,
        );
        match answer.await {
            Ok(answer) => {
                if answer.user_id != user_id {
                    return Ok(ListRequestOutcome::Unanswered);
                }
                let lists = vec![(user_id.to_owned(), read_answer(answer))];
                let doubtful = inner
                    .devices
                    .remote_lists
                    .store_lists(&ticket, lists)
                    .await?;
                Ok(if doubtful.is_empty() {
                    ListRequestOutcome::Done
                } else {
                    ListRequestOutcome::Doubtful
                })
            }
            // The server refuses. The list is then requested only when a client queries the keys.
            Err(RequestFailure::Refused(refusal)) if refusal.status != 429 => {
                self.end_sharing(user).await
            }
            Err(_) => {
                if ticket.has_changed(user_id) {
                    inner
                        .devices
                        .remote_lists
                        .record_failed_requests(&[user_id])
                        .await?;
                }
                Ok(ListRequestOutcome::Unanswered)
            }
        }
    }
}

fn read_answer(answer: DeviceListAnswer) -> RemoteDeviceList {
    let user_id = answer.user_id;
    let devices = answer.devices.into_iter().filter_map(|device| {
        let keys = device.keys.as_deref().map(RawValue::get);
        RemoteDevice::read(
            &user_id,
            &device.device_id,
            keys,
            device.device_display_name,
        )
    });
    RemoteDeviceList {
        stream_id: Some(answer.stream_id.into()),
        devices: devices.collect(),
        master_key: answer.master_key,
        self_signing_key: answer.self_signing_key,
    }
}
