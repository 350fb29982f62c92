//! Adds the events of other servers to their rooms, after fetching the events that they lack.

use std::{pin::Pin, sync::Arc, time::Duration};

use ruma::ServerName;
use tokio::time::timeout;

use super::{
    commit_batch::CommitBatch,
    missing_events::MissingEventsFetcher,
    pending_events::{FetchQueues, PostponedEvent},
    policy::ask_policy_server,
    single_events::EventSource,
    state::{StateFetchLimit, StateFetcher},
};
use crate::{
    error::{Error, Result},
    federation::Federation,
    matrix::VerifiedEvent,
    rooms::{PendingOutcome, ReceiveHints, ReceiveOutcome, Room, Rooms},
    tasks::Tasks,
    workflows::WorkflowSources,
};

/// The time limit for all requests on behalf of one event.
const FETCH_TIMEOUT: Duration = Duration::from_mins(2);

/// Adds the events of other servers to their rooms. Cheap to clone.
#[derive(Clone)]
pub(in crate::workflows) struct EventReception {
    rooms: Rooms,
    federation: Federation,
    tasks: Tasks,
    fetch_queues: Arc<FetchQueues>,
    state_fetches: StateFetchLimit,
}

impl EventReception {
    pub(in crate::workflows) fn new(
        sources: &WorkflowSources,
        state_fetches: &StateFetchLimit,
    ) -> Self {
        Self {
            rooms: sources.rooms.clone(),
            federation: sources.federation.clone(),
            tasks: sources.tasks.clone(),
            fetch_queues: Arc::default(),
            state_fetches: state_fetches.clone(),
        }
    }

    /// Adds an event to its room, and fetches the events it lacks. Returns the result when it is on disk.
    pub(in crate::workflows) async fn receive_event(
        &self,
        origin: &ServerName,
        room: &Arc<Room>,
        event: VerifiedEvent,
    ) -> Result<ReceiveOutcome> {
        let mut batch = CommitBatch::new(&self.rooms);
        let outcome = self.process_event(origin, room, event, &mut batch).await?;
        batch.allow_commit();
        outcome.wait_until_durable().await
    }

    /// Adds an event to its room, and fetches the events it lacks.
    pub(super) async fn process_event(
        &self,
        origin: &ServerName,
        room: &Arc<Room>,
        event: VerifiedEvent,
        batch: &mut CommitBatch<'_>,
    ) -> Result<PendingOutcome> {
        let hints = ask_policy_server(&self.federation, room, &event, batch).await;
        batch.delay_commit();
        let outcome = self
            .rooms
            .receiver
            .receive_without_flush(origin, event.clone(), hints.clone())
            .await?;
        if !matches!(outcome.outcome(), ReceiveOutcome::Missing { .. }) {
            return Ok(outcome);
        }
        batch.allow_commit();
        let received = self.process_after_fetch(origin, room, event, hints).await?;
        Ok(received.into())
    }

    /// Processes an event that lacks others, after fetching these.
    async fn process_after_fetch(
        &self,
        origin: &ServerName,
        room: &Arc<Room>,
        event: VerifiedEvent,
        hints: ReceiveHints,
    ) -> Result<ReceiveOutcome> {
        let Some(place) = self.fetch_queues.enqueue(room.num, origin, &event) else {
            return Err(Error::LimitExceeded {
                retry_after: FETCH_TIMEOUT,
            });
        };
        let permit = place.acquire().await;
        let source = EventSource {
            rooms: &self.rooms,
            federation: &self.federation,
            origin,
            room,
        };
        let search = MissingEventsFetcher {
            source,
            state: StateFetcher {
                source,
                fetch_limit: &self.state_fetches,
            },
        };
        let processing = Box::pin(search.process_event(event, hints));
        let outcome = timeout(FETCH_TIMEOUT, processing).await;
        drop(permit);
        self.process_postponed(room);
        outcome.map_err(|_| {
            Error::Unreachable("the event's prev_events could not be fetched in time".to_owned())
        })?
    }

    /// Processes an event of a room for which the queue had no place, in the background.
    fn process_postponed(&self, room: &Arc<Room>) {
        let Some(PostponedEvent { origin, event }) = self.fetch_queues.take_postponed(room.num)
        else {
            return;
        };
        let (service, room) = (self.clone(), room.clone());
        // Boxed as a trait object, because the task ends by starting the next one.
        let processing: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            let stopping = service.tasks.stopping().clone();
            let processing = service.receive_event(&origin, &room, event);
            let outcome = stopping.run_until_cancelled(processing).await;
            tracing::debug!(
                ?outcome,
                "an event that had waited for a place in the queue is finished"
            );
        });
        drop(self.tasks.spawn(processing));
    }
}
