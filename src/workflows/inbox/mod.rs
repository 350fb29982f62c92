//! Transactions of other servers: their events are added to their rooms, missing events are fetched, and each event
//! gets its own result.
//!
//! `pending_events` limits the work in progress. `event_reception` adds an event to its room. `missing_events` fetches
//! prev events and auth events, and `state` the state where a gap remains. `policy` asks policy servers.
//! `commit_batch` writes events of a room to disk together.
//! `unanswered_transactions` stores the events for which the answer does not wait.
//!
//! [Transactions](https://spec.matrix.org/v1.19/server-server-api/#transactions)

mod commit_batch;
mod event_reception;
mod missing_events;
mod pending_events;
mod policy;
mod single_events;
mod state;
mod unanswered_transactions;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::join_all, stream};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedTransactionId, ServerName,
    api::federation::transactions::edu::Edu,
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    room_version_rules::RoomVersionRules,
    serde::Raw,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use self::{
    commit_batch::{CommitBatch, StoredEventOutcome},
    pending_events::{PendingEvents, PendingEventsGuard},
};
pub(super) use self::{event_reception::EventReception, state::StateFetchLimit};
use super::{WorkflowSources, edus::EduReceiver};
use crate::{
    clock::Clock,
    error::{Error, Result},
    federation::{Federation, LookupCache},
    matrix::{Pdu, read_event},
    numbers::{Position, RoomNum},
    rooms::{ReceiveOutcome, Room, Rooms},
    tasks::Tasks,
};

/// The largest number of PDUs and EDUs of one transaction.
const MAX_PDUS: usize = 50;
const MAX_EDUS: usize = 100;
/// The longest event with its unsigned data, in bytes.
const MAX_PDU_BYTES: usize = 128 * 1024;
/// The time that an answer waits for the events, and then for the EDUs. Slower work continues after the answer.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(20);
const EDUS_TIMEOUT: Duration = Duration::from_secs(5);
/// The number of events whose signatures are verified at the same time.
const MAX_CONCURRENT_VERIFICATIONS: usize = 8;
/// The number of remembered answers (about 2 KB each), and their lifetime. A server that missed an answer retries soon.
const MAX_REMEMBERED_ANSWERS: usize = 4_096;
const ANSWER_LIFETIME: Duration = Duration::from_hours(1);

/// A transaction that another server sends.
#[derive(Debug)]
pub struct ReceivedTransaction {
    pub origin: OwnedServerName,
    /// The transaction id.
    pub id: OwnedTransactionId,
    pub pdus: Vec<Box<RawValue>>,
    pub edus: Vec<Raw<Edu>>,
}

/// The results of a transaction's events: success, or the reason why an event was refused.
pub type PduResults = BTreeMap<OwnedEventId, Result<(), String>>;

/// An event of a transaction.
struct ArrivingEvent {
    event_id: OwnedEventId,
    json: Arc<RawValue>,
}

/// The events of one room.
struct ArrivingRoomEvents {
    room: Arc<Room>,
    events: Vec<ArrivingEvent>,
}

/// The progress of a transaction while its events are processed.
#[derive(Default)]
struct TransactionProgress {
    outcomes: PduResults,
    /// The events that are not finished, with the numbers of their rooms.
    unfinished: BTreeMap<OwnedEventId, (RoomNum, Arc<RawValue>)>,
    /// The positions of those that were stored for later.
    stored: BTreeMap<OwnedEventId, Position>,
    /// Whether an internal error occurred.
    has_internal_error: bool,
}

type SharedProgress = Arc<Mutex<TransactionProgress>>;

#[derive(Deserialize)]
struct RoomIdField {
    room_id: OwnedRoomId,
}

#[derive(Deserialize)]
struct ContentField {
    content: Box<RawValue>,
}

/// The answers to transactions, by their server and id.
type TransactionAnswers =
    LookupCache<(OwnedServerName, OwnedTransactionId), Option<Arc<PduResults>>>;

/// Receives the transactions of other servers. Cheap to clone.
#[derive(Clone)]
pub struct TransactionInbox {
    rooms: Rooms,
    federation: Federation,
    tasks: Tasks,
    clock: Clock,
    events: EventReception,
    edus: EduReceiver,
    answers: Arc<TransactionAnswers>,
    pending_events: PendingEvents,
}

impl TransactionInbox {
    pub(super) fn new(
        sources: &WorkflowSources,
        events: &EventReception,
        edus: &EduReceiver,
    ) -> Self {
        Self {
            rooms: sources.rooms.clone(),
            federation: sources.federation.clone(),
            tasks: sources.tasks.clone(),
            clock: sources.clock.clone(),
            events: events.clone(),
            edus: edus.clone(),
            answers: Arc::new(LookupCache::new(&sources.clock, MAX_REMEMBERED_ANSWERS)),
            pending_events: PendingEvents::default(),
        }
    }

    /// Processes a transaction, and returns the results of its events.
    ///
    /// A repeated transaction gets the remembered answer. Processing continues even if the other server disconnects.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when the transaction exceeds the limits; [`Error::LimitExceeded`] and
    /// [`Error::Unavailable`] when the server has to send it again.
    #[tracing::instrument(skip_all, fields(server = %transaction.origin, txn_id = %transaction.id), err(level = "debug"))]
    pub async fn receive_transaction(
        &self,
        transaction: ReceivedTransaction,
    ) -> Result<Arc<PduResults>> {
        if transaction.pdus.len() > MAX_PDUS || transaction.edus.len() > MAX_EDUS {
            return Err(Error::invalid_param(format!(
                "a transaction may have at most {MAX_PDUS} PDUs and {MAX_EDUS} EDUs"
            )));
        }
        let guard = self
            .pending_events
            .admit(&transaction.origin, transaction.pdus.len())?;
        let service = self.clone();
        let processing = self.tasks.spawn(async move {
            let key = (transaction.origin.clone(), transaction.id.clone());
            let answers = &service.answers;
            let take = async {
                let outcomes = service.process_transaction(transaction, guard).await;
                match outcomes {
                    Ok(outcomes) => (Some(Arc::new(outcomes)), ANSWER_LIFETIME),
                    Err(error) => {
                        tracing::warn!(%error, "a transaction could not be processed");
                        (None, Duration::ZERO)
                    }
                }
            };
            answers.get(&key, take).await
        });
        let outcomes = processing
            .await
            .map_err(|source| Error::internal("process a transaction", source))?;
        outcomes.ok_or_else(|| {
            Error::Unavailable(
                "the transaction could not be stored: send it again later".to_owned(),
            )
        })
    }

    async fn process_transaction(
        &self,
        transaction: ReceivedTransaction,
        guard: PendingEventsGuard,
    ) -> Result<PduResults> {
        let ReceivedTransaction {
            origin, pdus, edus, ..
        } = transaction;
        let progress = SharedProgress::default();
        let guard = Arc::new(guard);
        let mut rooms = Vec::new();
        for of_room in self.group_by_room(pdus, &progress).await? {
            let (service, origin) = (self.clone(), origin.clone());
            let (progress, guard) = (progress.clone(), guard.clone());
            rooms.push(self.tasks.spawn(async move {
                let stopping = service.tasks.stopping().clone();
                let processing = service.process_room_events(&origin, of_room, &progress);
                let is_cut_off = stopping.run_until_cancelled(processing).await.is_none();
                lock_progress(&progress).has_internal_error |= is_cut_off;
                drop(guard);
            }));
        }
        if self
            .with_time_limit(EVENTS_TIMEOUT, join_all(rooms))
            .await
            .is_none()
        {
            self.store_unfinished_events(&origin, &progress).await?;
        }
        if !edus.is_empty() {
            // EDUs come after the events, because receipts refer to events.
            let service = self.clone();
            let edus = self
                .tasks
                .spawn(async move { service.edus.receive_edus(&origin, edus).await });
            let outcome = self.with_time_limit(EDUS_TIMEOUT, edus).await;
            // To-device messages are not repeated by any other means, so the transaction must be sent again.
            lock_progress(&progress).has_internal_error |= !matches!(outcome, Some(Ok(Ok(()))));
        }
        let progress = lock_progress(&progress);
        if progress.has_internal_error {
            return Err(Error::Unavailable(
                "the transaction was only partly stored: send it again later".to_owned(),
            ));
        }
        Ok(progress.outcomes.clone())
    }

    /// Waits for a future, up to a time limit.
    async fn with_time_limit<T>(
        &self,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let clock = &self.clock;
        let limit = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        let until = clock.now_ms().saturating_add(limit);
        tokio::select! {
            output = future => Some(output),
            () = clock.sleep_until(until) => None,
        }
    }

    /// Groups events by room. Events of unknown rooms get their result here.
    async fn group_by_room(
        &self,
        pdus: Vec<Box<RawValue>>,
        progress: &SharedProgress,
    ) -> Result<Vec<ArrivingRoomEvents>> {
        let mut rooms: Vec<ArrivingRoomEvents> = Vec::new();
        let mut unknown: HashMap<OwnedRoomId, String> = HashMap::new();
        for json in pdus {
            if json.get().len() > MAX_PDU_BYTES {
                tracing::debug!("an event that exceeds the size limit is dropped");
                continue;
            }
            let Ok(RoomIdField { room_id }) = serde_json::from_str(json.get()) else {
                tracing::debug!("an event without a room is dropped");
                continue;
            };
            let index = rooms.iter().position(|of| of.room.room_id == room_id);
            let index = match index {
                Some(index) => Some(index),
                None if unknown.contains_key(&room_id) => None,
                None => match self.rooms.memory.room(&room_id).await {
                    Ok(room) => {
                        let events = Vec::new();
                        rooms.push(ArrivingRoomEvents { room, events });
                        Some(rooms.len() - 1)
                    }
                    Err(Error::NotFound(reason)) => {
                        unknown.insert(room_id.clone(), reason);
                        None
                    }
                    Err(error) => return Err(error),
                },
            };
            let of_room = index.and_then(|index| rooms.get_mut(index));
            // The version of an unknown room is not known; most rooms have the latest rules for ids.
            let rules = of_room
                .as_ref()
                .map_or(&RoomVersionRules::V11, |of| &of.room.rules);
            let Some(event_id) = event_id_of(&json, rules) else {
                tracing::debug!(%room_id, "an event that is not valid JSON for its room version is dropped");
                continue;
            };
            let outcome = match unknown.get(&room_id) {
                Some(reason) => Err(reason.clone()),
                None => Ok(()),
            };
            let mut progress = lock_progress(progress);
            progress.outcomes.insert(event_id.clone(), outcome);
            if let Some(of_room) = of_room {
                let json: Arc<RawValue> = json.into();
                let waiting = (of_room.room.num, json.clone());
                progress.unfinished.insert(event_id.clone(), waiting);
                of_room.events.push(ArrivingEvent { event_id, json });
            }
        }
        Ok(rooms)
    }

    /// Processes the events of one room, one after another, and records their results.
    async fn process_room_events(
        &self,
        origin: &ServerName,
        of_room: ArrivingRoomEvents,
        progress: &SharedProgress,
    ) {
        let ArrivingRoomEvents { room, events } = of_room;
        let room = &room;
        let checking = stream::iter(events)
            .map(async |event: ArrivingEvent| {
                let checked = self.federation.verify_event(&event.json, &room.rules).await;
                (event.event_id, checked)
            })
            .buffered(MAX_CONCURRENT_VERIFICATIONS);
        let mut checking = std::pin::pin!(checking);
        let mut batch = CommitBatch::new(&self.rooms);
        loop {
            let next = if let Some(next) = checking.next().now_or_never() {
                next
            } else {
                batch.allow_commit();
                checking.next().await
            };
            let Some((event_id, checked)) = next else {
                break;
            };
            let outcome = match checked {
                Ok(event) => {
                    self.events
                        .process_event(origin, room, event, &mut batch)
                        .await
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(outcome) => batch.push(event_id, outcome),
                Err(error) => self.record_result(&event_id, Err(error), progress).await,
            }
        }
        for StoredEventOutcome { event_id, outcome } in batch.wait_until_stored().await {
            self.record_result(&event_id, outcome, progress).await;
        }
    }

    /// Records the result of an event.
    async fn record_result(
        &self,
        event_id: &OwnedEventId,
        received: Result<ReceiveOutcome>,
        progress: &SharedProgress,
    ) {
        let problem = match received {
            Ok(received) => reported_problem(&received),
            Err(error) if is_internal(&error) => {
                // It is sent again, or was stored and is processed when the server starts again.
                lock_progress(progress).has_internal_error = true;
                return;
            }
            Err(error) => Some(error.to_string()),
        };
        self.finish_event(event_id, progress).await;
        let Some(problem) = problem else { return };
        tracing::debug!(%event_id, problem, "an event was not accepted");
        lock_progress(progress)
            .outcomes
            .insert(event_id.clone(), Err(problem));
    }
}

/// Returns the error to report for an event that was not accepted.
fn reported_problem(received: &ReceiveOutcome) -> Option<String> {
    match received {
        // "If an event in an incoming transaction is rejected, this should not cause the transaction request to be
        // responded to with an error response." The result of the event itself may report it.
        ReceiveOutcome::Rejected(reason) => Some(reason.clone()),
        // Missing events may become available later, and the sending server is not at fault. A soft failure is not
        // reported to anyone.
        ReceiveOutcome::Missing { .. }
        | ReceiveOutcome::SoftFailed(_)
        | ReceiveOutcome::Accepted
        | ReceiveOutcome::Duplicate => None,
    }
}

/// Returns whether an error is internal to this server.
fn is_internal(error: &Error) -> bool {
    matches!(
        error,
        Error::Internal { .. } | Error::StorageFull | Error::Unavailable(_)
    )
}

/// Returns the id of an event. Fields that are nested too deeply to be parsed are left out. A redaction removes most of
/// such fields, so the id is still correct for messages and nearly all state events.
fn event_id_of(json: &RawValue, rules: &RoomVersionRules) -> Option<OwnedEventId> {
    let read = |object| Pdu::id_of(object, rules).ok();
    if let Ok(object) = read_event(json) {
        return read(&object);
    }
    let mut object = readable_fields(json)?;
    let content: Box<RawValue> = serde_json::from_str::<ContentField>(json.get())
        .ok()?
        .content;
    object.insert("content".to_owned(), readable_fields(&content)?.into());
    read(&object)
}

/// Returns the fields of an object that have a canonical form.
fn readable_fields(json: &RawValue) -> Option<CanonicalJsonObject> {
    let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(json.get()).ok()?;
    let readable = fields.into_iter().filter_map(|(name, value)| {
        let value: CanonicalJsonValue = serde_json::from_str(value.get()).ok()?;
        Some((name, value))
    });
    Some(readable.collect())
}

fn lock_progress(progress: &SharedProgress) -> std::sync::MutexGuard<'_, TransactionProgress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}
