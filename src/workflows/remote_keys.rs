//! Queries and claims of device keys, of this server's users and of others.

mod answer_limits;
mod received_keys;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use futures_util::{StreamExt, stream};
use ruma::{
    OneTimeKeyAlgorithm, OwnedDeviceId, OwnedServerName, OwnedUserId, UserId,
    api::{
        client::keys::{
            claim_keys::v3::{OneTimeKeys, Request as ClaimRequest, Response as Claimed},
            get_keys::v3::{Request as QueryRequest, Response as Found},
        },
        federation::keys::{claim_keys, get_keys},
    },
};
use serde_json::{Value, json};

use self::{
    answer_limits::{
        AnswerBudget, AnswerMemory, BYTES_PER_KEY, BYTES_PER_USER, max_answer_bytes, request_limits,
    },
    received_keys::{DevicesOfUser, ReceivedKeys, ReceivedOneTimeKeys},
};
use super::{WorkflowSources, device_list_tracker::DeviceListTracker};
use crate::{
    devices::{
        Devices, KeyViewer, ListRequestTicket, RemoteDevice, RemoteDeviceList, check_user_count,
        is_one_time_key,
    },
    error::{Error, Result},
    federation::{Federation, RequestFailure},
    rooms::Rooms,
};

/// The number of servers that are asked at the same time.
const MAX_CONCURRENT_SERVERS: usize = 32;
/// The number of users whose stored lists are read together: at most 2 MiB each.
const LISTS_PER_READ: usize = 32;
/// The queried devices by user. An empty list means all devices.
type QueriedDevices = BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>;
/// The claimed one-time keys: an algorithm for each device of each user.
type ClaimedAlgorithms = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>;

/// A query that is sent to another server.
struct ServerKeyQuery {
    server: OwnedServerName,
    wanted: QueriedDevices,
    ticket: ListRequestTicket,
}

/// The answer of a server to a query.
struct ServerAnswer {
    wanted: QueriedDevices,
    keys: ReceivedKeys,
    ticket: ListRequestTicket,
}

/// The state of a query for users of other servers.
#[derive(Default)]
struct KeyQuery {
    to_ask: BTreeMap<OwnedServerName, QueriedDevices>,
    /// The users who share a room with local users, with the requested devices.
    tracked: QueriedDevices,
    /// Outdated stored devices of these users.
    stale: BTreeMap<OwnedUserId, DevicesOfUser>,
    /// The users whose answer is complete except for their cross-signing keys.
    known: HashSet<OwnedUserId>,
}

impl KeyQuery {
    /// Takes the queries for the servers that must be asked. The tickets of the other servers are dropped.
    fn take_server_queries(
        &mut self,
        mut tickets: BTreeMap<OwnedServerName, ListRequestTicket>,
    ) -> Vec<ServerKeyQuery> {
        let to_ask = std::mem::take(&mut self.to_ask).into_iter();
        let queries = to_ask.filter_map(|(server, wanted)| {
            let ticket = tickets.remove(&server)?;
            Some(ServerKeyQuery {
                server,
                wanted,
                ticket,
            })
        });
        queries.collect()
    }
}

/// Queries and claims keys of users of any server. Cheap to clone.
#[derive(Clone)]
pub struct KeyQueries {
    devices: Devices,
    rooms: Rooms,
    federation: Federation,
    device_list_tracker: DeviceListTracker,
    /// The memory limit for other servers' answers about keys.
    answer_memory: Arc<AnswerMemory>,
}

impl KeyQueries {
    pub(super) fn new(sources: &WorkflowSources, device_list_tracker: &DeviceListTracker) -> Self {
        Self {
            devices: sources.devices.clone(),
            rooms: sources.rooms.clone(),
            federation: sources.federation.clone(),
            device_list_tracker: device_list_tracker.clone(),
            answer_memory: Arc::default(),
        }
    }

    /// Returns the keys of devices and users of any server. Servers that could not answer are listed as failures.
    ///
    /// For users of other servers who share a room with local users, fresh stored lists are used.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] when there are too many users; others when stored data cannot be read.
    pub async fn query_keys(&self, viewer: KeyViewer<'_>, request: &QueryRequest) -> Result<Found> {
        check_user_count(&request.device_keys)?;
        let (local, remote) = self.split_by_server(&request.device_keys);
        let mut found = self.devices.key_queries.query(Some(viewer), &local).await?;
        if remote.is_empty() {
            return Ok(found);
        }
        let tickets = self.begin_list_requests(&remote);
        let remote = remote.into_values().flatten().collect();
        let mut query = self.answer_from_stored_lists(remote, &mut found).await?;
        let to_ask = query.take_server_queries(tickets);
        let bytes_for = |wanted: &QueriedDevices| max_answer_bytes(wanted.len(), BYTES_PER_USER);
        let mut budget =
            AnswerBudget::for_answers(to_ask.iter().map(|query| bytes_for(&query.wanted)));
        let client = self.federation.client();
        let asking = stream::iter(to_ask).map(async |query: ServerKeyQuery| {
            let (server, wanted, ticket) = (query.server, query.wanted, query.ticket);
            let requested = get_keys::v1::Request::new(wanted.clone());
            let allowance = request_limits(request.timeout, bytes_for(&wanted));
            let asking = client.send_expecting::<ReceivedKeys, _>(&server, requested, allowance);
            let (answer, room) = self.answer_memory.run_request(allowance, asking).await;
            (server, wanted, answer, (ticket, room))
        });
        let mut asking = std::pin::pin!(asking.buffer_unordered(MAX_CONCURRENT_SERVERS));
        while let Some((server, wanted, answer, (ticket, _room))) = asking.next().await {
            let answer = answer.and_then(|answer| {
                let bytes = size_of(&answer);
                budget.accept(answer, bytes)
            });
            match answer {
                Ok(keys) => {
                    let answer = ServerAnswer {
                        wanted,
                        keys,
                        ticket,
                    };
                    self.process_answer(&mut query, answer, &mut found).await?;
                }
                Err(failure) => {
                    let failure = failure_json(failure);
                    found.failures.insert(server.to_string(), failure);
                    self.answer_with_stale_devices(&mut query, &wanted, &mut found)
                        .await?;
                }
            }
        }
        let user_ids = query.known.iter().map(|id| &**id);
        let queries = &self.devices.key_queries;
        queries
            .add_signing_keys(Some(viewer), user_ids, &mut found)
            .await?;
        Ok(found)
    }

    /// Begins to watch the lists of users for changes, by server.
    ///
    /// This comes first: changes of the lists from now on, and rooms that are no longer shared, make answers
    /// unreliable.
    fn begin_list_requests(
        &self,
        remote: &BTreeMap<OwnedServerName, QueriedDevices>,
    ) -> BTreeMap<OwnedServerName, ListRequestTicket> {
        let lists = &self.devices.remote_lists;
        remote
            .iter()
            .map(|(server, requested)| {
                let ticket = lists.begin_list_request(requested.keys().map(|id| &**id));
                (server.clone(), ticket)
            })
            .collect()
    }

    /// Answers from stored lists of users of other servers, and collects the users whose servers must be asked.
    async fn answer_from_stored_lists(
        &self,
        requested: QueriedDevices,
        found: &mut Found,
    ) -> Result<KeyQuery> {
        self.device_list_tracker.process_changes().await?;
        let mut query = KeyQuery::default();
        let mut budget = AnswerBudget::for_stored_lists();
        let mut requested = requested.into_iter();
        loop {
            let some: QueriedDevices = requested.by_ref().take(LISTS_PER_READ).collect();
            if some.is_empty() {
                return Ok(query);
            }
            self.answer_some_from_stored_lists(some, &mut budget, &mut query, found)
                .await?;
        }
    }

    async fn answer_some_from_stored_lists(
        &self,
        requested: QueriedDevices,
        budget: &mut AnswerBudget,
        query: &mut KeyQuery,
        found: &mut Found,
    ) -> Result<()> {
        let user_ids: Vec<&UserId> = requested.keys().map(|id| &**id).collect();
        let mut known = self.devices.remote_lists.stored_lists(&user_ids).await?;
        for (user_id, device_ids) in requested {
            let shares = match self.rooms.memory.user_number(&user_id).await? {
                Some(user) => self.rooms.memory.shares_room_with_us(user, None).await?,
                None => false,
            };
            let server = user_id.server_name().to_owned();
            let list = known.remove(&user_id).filter(|_| shares);
            let is_fresh = list.as_ref().is_some_and(|list| list.is_fresh);
            let devices = list.map(|list| {
                let bytes = size_of_all([&list.devices]);
                budget.accept(list.devices, bytes)
            });
            match devices {
                Some(Ok(devices)) if is_fresh => {
                    let devices = requested_devices(devices, &device_ids);
                    found.device_keys.insert(user_id.clone(), devices);
                    query.known.insert(user_id);
                    continue;
                }
                Some(Err(failure)) if is_fresh => {
                    let failure = failure_json(failure);
                    found.failures.insert(server.to_string(), failure);
                    continue;
                }
                Some(Ok(devices)) => {
                    query.stale.insert(user_id.clone(), devices);
                }
                Some(Err(_)) | None => {}
            }
            // For tracked users all devices are requested, so that the complete list can be stored.
            let of_server = query.to_ask.entry(server).or_default();
            if shares {
                of_server.insert(user_id.clone(), Vec::new());
                query.tracked.insert(user_id, device_ids);
            } else {
                of_server.insert(user_id, device_ids);
            }
        }
        Ok(())
    }

    /// Processes the answer of a server, and stores the lists of users who share a room.
    async fn process_answer(
        &self,
        query: &mut KeyQuery,
        answer: ServerAnswer,
        found: &mut Found,
    ) -> Result<()> {
        let ServerAnswer {
            wanted,
            mut keys,
            ticket,
        } = answer;
        let mut lists = Vec::new();
        for (user_id, devices) in requested_users(keys.device_keys, &wanted) {
            let Some(device_ids) = query.tracked.get(&user_id) else {
                found.device_keys.insert(user_id, devices);
                continue;
            };
            let list = RemoteDeviceList {
                stream_id: None,
                devices: read_devices(&user_id, &devices),
                master_key: keys.master_keys.remove(&user_id),
                self_signing_key: keys.self_signing_keys.remove(&user_id),
            };
            let devices = requested_devices(devices, device_ids);
            found.device_keys.insert(user_id.clone(), devices);
            lists.push((user_id, list));
        }
        keys.master_keys.retain(|id, _| wanted.contains_key(id));
        let of_self = &mut keys.self_signing_keys;
        of_self.retain(|id, _| wanted.contains_key(id));
        self.devices
            .cross_signing
            .store_remote(keys.master_keys, keys.self_signing_keys)
            .await?;
        if !lists.is_empty() {
            let doubtful = self
                .devices
                .remote_lists
                .store_lists(&ticket, lists)
                .await?;
            self.device_list_tracker.request_lists(doubtful);
        }
        query.known.extend(wanted.into_keys());
        Ok(())
    }

    /// Answers with outdated devices of users whose server does not answer, because they are better than none.
    async fn answer_with_stale_devices(
        &self,
        query: &mut KeyQuery,
        wanted: &QueriedDevices,
        found: &mut Found,
    ) -> Result<()> {
        let mut unanswered = Vec::new();
        for user_id in wanted.keys() {
            let Some(device_ids) = query.tracked.get(user_id) else {
                continue;
            };
            unanswered.push(&**user_id);
            let stale = query.stale.remove(user_id);
            if let Some(devices) = stale.filter(|devices| !devices.is_empty()) {
                let devices = requested_devices(devices, device_ids);
                found.device_keys.insert(user_id.clone(), devices);
                query.known.insert(user_id.clone());
            }
        }
        self.devices
            .remote_lists
            .record_failed_requests(&unanswered)
            .await
    }

    /// Claims one-time keys of devices of any server. Servers that could not answer are listed as failures.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] when there are too many users; others when stored data cannot be read or written.
    pub async fn claim_keys(&self, request: &ClaimRequest) -> Result<Claimed> {
        check_user_count(&request.one_time_keys)?;
        let (local, remote) = self.split_by_server(&request.one_time_keys);
        let mut claimed = Claimed::new(self.devices.keys.claim(&local).await?);
        let bytes_for = |wanted: &ClaimedAlgorithms| {
            let devices = wanted.values().map(BTreeMap::len).sum();
            max_answer_bytes(devices, BYTES_PER_KEY)
        };
        let mut budget = AnswerBudget::for_answers(remote.values().map(bytes_for));
        let client = self.federation.client();
        let asking = stream::iter(remote).map(async |(server, wanted)| {
            let requested = claim_keys::v1::Request::new(wanted.clone());
            let allowance = request_limits(request.timeout, bytes_for(&wanted));
            let asking =
                client.send_expecting::<ReceivedOneTimeKeys, _>(&server, requested, allowance);
            let (answer, room) = self.answer_memory.run_request(allowance, asking).await;
            (server, wanted, answer, room)
        });
        let mut asking = std::pin::pin!(asking.buffer_unordered(MAX_CONCURRENT_SERVERS));
        while let Some((server, wanted, answer, _room)) = asking.next().await {
            let answer = answer.and_then(|answer| {
                let keys = answer.one_time_keys.values().flat_map(BTreeMap::values);
                let keys = keys.flat_map(BTreeMap::values);
                let bytes = keys.map(|key| key.json().get().len()).sum();
                budget.accept(answer, bytes)
            });
            match answer {
                Ok(answer) => claimed
                    .one_time_keys
                    .extend(claimed_keys(answer.one_time_keys, &wanted)),
                Err(failure) => {
                    claimed
                        .failures
                        .insert(server.to_string(), failure_json(failure));
                }
            }
        }
        Ok(claimed)
    }

    /// Splits the requested users into those of this server, and those of others by server.
    fn split_by_server<T: Clone>(
        &self,
        requested: &BTreeMap<OwnedUserId, T>,
    ) -> (
        BTreeMap<OwnedUserId, T>,
        BTreeMap<OwnedServerName, BTreeMap<OwnedUserId, T>>,
    ) {
        let (mut local, mut remote) = (BTreeMap::new(), BTreeMap::<_, BTreeMap<_, _>>::new());
        for (user_id, requested) in requested {
            if self.rooms.memory.is_local(user_id) {
                local.insert(user_id.clone(), requested.clone());
            } else {
                let of_server = remote.entry(user_id.server_name().to_owned()).or_default();
                of_server.insert(user_id.clone(), requested.clone());
            }
        }
        (local, remote)
    }
}

/// Returns the valid one-time keys of claimed devices in a server's answer.
fn claimed_keys(
    mut given: BTreeMap<OwnedUserId, OneTimeKeys>,
    wanted: &ClaimedAlgorithms,
) -> BTreeMap<OwnedUserId, OneTimeKeys> {
    given.retain(|user_id, devices| {
        let Some(wanted) = wanted.get(user_id) else {
            return false;
        };
        devices.retain(|device_id, keys| {
            keys.retain(|_, key| is_one_time_key(key.json().get()));
            wanted.contains_key(device_id) && !keys.is_empty()
        });
        true
    });
    given
}

/// Returns the size of the used parts of an answer.
fn size_of(answer: &ReceivedKeys) -> usize {
    let signing = answer.master_keys.values();
    let signing = signing.chain(answer.self_signing_keys.values());
    let signing: usize = signing.map(|key| key.json().get().len()).sum();
    signing + size_of_all(answer.device_keys.values())
}

fn size_of_all<'a>(devices: impl IntoIterator<Item = &'a DevicesOfUser>) -> usize {
    let devices = devices.into_iter().flat_map(BTreeMap::values);
    devices.map(|keys| keys.json().get().len()).sum()
}

/// Returns the requested devices of a user.
fn requested_devices(mut devices: DevicesOfUser, requested: &[OwnedDeviceId]) -> DevicesOfUser {
    let requested: HashSet<&OwnedDeviceId> = requested.iter().collect();
    devices.retain(|device_id, _| requested.is_empty() || requested.contains(device_id));
    devices
}

fn read_devices(user_id: &UserId, devices: &DevicesOfUser) -> Vec<RemoteDevice> {
    let devices = devices.iter().filter_map(|(device_id, keys)| {
        RemoteDevice::read(user_id, device_id, Some(keys.json().get()), None)
    });
    devices.collect()
}

/// Returns the requested users and devices of an answer whose ids are consistent.
fn requested_users(
    answer: BTreeMap<OwnedUserId, DevicesOfUser>,
    wanted: &QueriedDevices,
) -> BTreeMap<OwnedUserId, DevicesOfUser> {
    let mut found = BTreeMap::new();
    for (user_id, mut devices) in answer {
        let Some(requested) = wanted.get(&user_id) else {
            continue;
        };
        let requested: HashSet<&OwnedDeviceId> = requested.iter().collect();
        devices.retain(|device_id, keys| {
            let is_requested = requested.is_empty() || requested.contains(device_id);
            is_requested
                && keys
                    .deserialize()
                    .is_ok_and(|keys| (&keys.user_id, &keys.device_id) == (&user_id, device_id))
        });
        found.insert(user_id, devices);
    }
    found
}

/// Returns a failure in the form in which clients receive it.
fn failure_json(failure: RequestFailure) -> Value {
    let errcode = match &failure {
        RequestFailure::Unreachable(_) | RequestFailure::Unwritable(_) => "M_UNKNOWN",
        RequestFailure::Refused(refusal) if refusal.errcode.is_empty() => "M_UNKNOWN",
        RequestFailure::Refused(refusal) => &*refusal.errcode,
    };
    let errcode = errcode.to_owned();
    json!({ "errcode": errcode, "error": Error::from(failure).to_string() })
}
