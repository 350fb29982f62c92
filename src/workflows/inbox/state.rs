//! The state before an event, fetched from another server because the prev events are not available.
//!
//! See [`GET /state_ids`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1state_idsroomid).

use std::{collections::HashSet, time::Duration};

use ruma::{
    OwnedEventId,
    api::federation::event::{
        get_room_state::v1 as get_room_state, get_room_state_ids::v1 as get_room_state_ids,
    },
};

use super::missing_events::{MAX_SINGLE, Search};
use crate::{
    error::{Error, Result},
    federation::Allowance,
    matrix::Verified,
};

/// The limits for the ids of a state, and for the state itself, sufficient for a room with 100,000 members.
const IDS: Allowance = Allowance {
    time: Duration::from_mins(1),
    bytes: 32 * 1024 * 1024,
};
const STATE: Allowance = Allowance {
    time: Duration::from_secs(90),
    bytes: 128 * 1024 * 1024,
};
/// State events are fetched one by one if at most one in this number is missing.
const FEW: usize = 10;

impl Search<'_> {
    /// Returns the state before an event, after storing all of its events. `refused` contains the prev events that this
    /// server cannot accept.
    ///
    /// # Errors
    ///
    /// When the state cannot be fetched.
    pub(super) async fn state_before(
        &self,
        event: &Verified,
        refused: &HashSet<OwnedEventId>,
    ) -> Result<Vec<OwnedEventId>> {
        let _turn = self.workflows.inbox.turn_for_state().await?;
        let pdu = event.pdu();
        // The server knows the state before a single prev event as reliably as the state before this event. With
        // several prev events, only the server can resolve their states.
        let only = match &*pdu.prev_events {
            [only] => Some(only.clone()),
            _ => None,
        };
        let at = only.clone().unwrap_or_else(|| pdu.event_id.clone());
        let request = get_room_state_ids::Request::new(at.clone(), self.room.room_id.clone());
        let client = self.workflows.federation.client();
        let told = client.send(self.origin, request, IDS).await?;
        // A refused event changes no state.
        let only = only.filter(|id| !refused.contains(id));
        let mut state = told.pdu_ids;
        let mut seen: HashSet<OwnedEventId> = HashSet::new();
        state.retain(|id| seen.insert(id.clone()));
        let mut needed = state.clone();
        let of_chain = told.auth_chain_ids.into_iter();
        needed.extend(of_chain.filter(|id| seen.insert(id.clone())));
        needed.extend(only.clone().filter(|id| seen.insert(id.clone())));
        self.fetch_state(at, &needed).await?;
        if let Some(only) = only {
            self.add(only, &mut state).await?;
        }
        Ok(state)
    }

    /// Fetches the missing events of a state and of its auth chain.
    async fn fetch_state(&self, at: OwnedEventId, needed: &[OwnedEventId]) -> Result<()> {
        let missing = self.workflows.rooms.receiver.unknown(needed).await?;
        if missing.is_empty() {
            return Ok(());
        }
        if missing.len() <= MAX_SINGLE && missing.len().saturating_mul(FEW) <= needed.len() {
            let singles = self.singles(self.origin, missing).await;
            return self.keep(singles.events).await;
        }
        let request = get_room_state::Request::new(at.clone(), self.room.room_id.clone());
        let client = self.workflows.federation.client();
        let told = client.send(self.origin, request, STATE).await?;
        let events = told.auth_chain.into_iter().chain(told.pdus);
        let events = self.verified(events).await;
        self.keep(events).await?;
        // The response does not include the event whose state it is.
        if self
            .workflows
            .rooms
            .receiver
            .unknown(std::slice::from_ref(&at))
            .await?
            .is_empty()
        {
            return Ok(());
        }
        let singles = self.singles(self.origin, vec![at]).await;
        self.keep(singles.events).await
    }

    /// Adds an event to the state before it, to get the state after it.
    async fn add(&self, event_id: OwnedEventId, state: &mut Vec<OwnedEventId>) -> Result<()> {
        let unknown = self
            .workflows
            .rooms
            .receiver
            .unknown(std::slice::from_ref(&event_id));
        if !unknown.await?.is_empty() {
            return Err(Error::Unreachable(format!(
                "the event {event_id} cannot be fetched"
            )));
        }
        state.push(event_id);
        Ok(())
    }
}
