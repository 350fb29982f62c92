//! The state before an event, fetched from another server because the prev events are not available.
//!
//! See [`GET /state_ids`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1state_idsroomid).

use std::{collections::HashSet, sync::Arc, time::Duration};

use ruma::{
    OwnedEventId,
    api::federation::event::{
        get_room_state::v1 as get_room_state, get_room_state_ids::v1 as get_room_state_ids,
    },
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::single_events::{EventSource, MAX_SINGLE_EVENTS};
use crate::{
    error::{Error, Result},
    federation::RequestLimits,
    matrix::VerifiedEvent,
};

/// The limits for the ids of a state, and for the state itself, sufficient for a room with 100,000 members.
const STATE_IDS_LIMITS: RequestLimits = RequestLimits {
    time: Duration::from_mins(1),
    bytes: 32 * 1024 * 1024,
};
const STATE_LIMITS: RequestLimits = RequestLimits {
    time: Duration::from_secs(90),
    bytes: 128 * 1024 * 1024,
};
/// State events are fetched one by one if at most one in this number is missing.
const SINGLE_FETCH_RATIO: usize = 10;

/// The number of room states that are fetched at the same time, over all servers.
const MAX_STATE_FETCHES: usize = 3;

/// The limit for fetching room states, which may be large. Cheap to clone.
#[derive(Clone)]
pub(in crate::workflows) struct StateFetchLimit {
    permits: Arc<Semaphore>,
}

impl Default for StateFetchLimit {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MAX_STATE_FETCHES)),
        }
    }
}

impl StateFetchLimit {
    /// Waits for permission to fetch the state of a room.
    pub(in crate::workflows) async fn acquire(&self) -> Result<SemaphorePermit<'_>> {
        let permit = self.permits.acquire().await;
        permit.map_err(|source| Error::internal("wait to fetch the state of a room", source))
    }
}

/// Fetches the state before an event.
pub(super) struct StateFetcher<'a> {
    pub(super) source: EventSource<'a>,
    pub(super) fetch_limit: &'a StateFetchLimit,
}

impl StateFetcher<'_> {
    /// Returns the state before an event, after storing all of its events. `refused` contains the prev events that this
    /// server cannot accept.
    ///
    /// # Errors
    ///
    /// When the state cannot be fetched.
    pub(super) async fn fetch_state_before(
        &self,
        event: &VerifiedEvent,
        refused: &HashSet<OwnedEventId>,
    ) -> Result<Vec<OwnedEventId>> {
        let _permit = self.fetch_limit.acquire().await?;
        let pdu = event.pdu();
        // The server knows the state before a single prev event as reliably as the state before this event. With
        // several prev events, only the server can resolve their states.
        let only = match &*pdu.prev_events {
            [only] => Some(only.clone()),
            _ => None,
        };
        let at = only.clone().unwrap_or_else(|| pdu.event_id.clone());
        let request =
            get_room_state_ids::Request::new(at.clone(), self.source.room.room_id.clone());
        let client = self.source.federation.client();
        let answer = client
            .send(self.source.origin, request, STATE_IDS_LIMITS)
            .await?;
        // A refused event changes no state.
        let only = only.filter(|id| !refused.contains(id));
        let mut state = answer.pdu_ids;
        let mut seen: HashSet<OwnedEventId> = HashSet::new();
        state.retain(|id| seen.insert(id.clone()));
        let mut needed = state.clone();
        let of_chain = answer.auth_chain_ids.into_iter();
        needed.extend(of_chain.filter(|id| seen.insert(id.clone())));
        needed.extend(only.clone().filter(|id| seen.insert(id.clone())));
        self.fetch_missing_state(at, &needed).await?;
        if let Some(only) = only {
            self.add_prev_event(only, &mut state).await?;
        }
        Ok(state)
    }

    /// Fetches the missing events of a state and of its auth chain.
    async fn fetch_missing_state(&self, at: OwnedEventId, needed: &[OwnedEventId]) -> Result<()> {
        let missing = self.source.rooms.receiver.unknown_events(needed).await?;
        if missing.is_empty() {
            return Ok(());
        }
        if missing.len() <= MAX_SINGLE_EVENTS
            && missing.len().saturating_mul(SINGLE_FETCH_RATIO) <= needed.len()
        {
            let singles = self.source.fetch_singly(self.source.origin, missing).await;
            return self.source.store_outliers(singles.events).await;
        }
        let request = get_room_state::Request::new(at.clone(), self.source.room.room_id.clone());
        let client = self.source.federation.client();
        let answer = client
            .send(self.source.origin, request, STATE_LIMITS)
            .await?;
        let events = answer.auth_chain.into_iter().chain(answer.pdus);
        let events = self.source.verify_for_room(events).await;
        self.source.store_outliers(events).await?;
        // The response does not include the event whose state it is.
        if self
            .source
            .rooms
            .receiver
            .unknown_events(std::slice::from_ref(&at))
            .await?
            .is_empty()
        {
            return Ok(());
        }
        let singles = self.source.fetch_singly(self.source.origin, vec![at]).await;
        self.source.store_outliers(singles.events).await
    }

    /// Adds an event to the state before it, to get the state after it.
    async fn add_prev_event(
        &self,
        event_id: OwnedEventId,
        state: &mut Vec<OwnedEventId>,
    ) -> Result<()> {
        let unknown = self
            .source
            .rooms
            .receiver
            .unknown_events(std::slice::from_ref(&event_id));
        if !unknown.await?.is_empty() {
            return Err(Error::Unreachable(format!(
                "the event {event_id} cannot be fetched"
            )));
        }
        state.push(event_id);
        Ok(())
    }
}
