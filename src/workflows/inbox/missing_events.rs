//! Fetches the missing prev events and auth events of an event, from the server that sent it.
//!
//! See [Backfilling and retrieving missing events](https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events).

use std::collections::{BTreeMap, HashMap, HashSet};

use ruma::{
    OwnedEventId, OwnedServerName, ServerName, UInt,
    api::federation::{
        authorization::get_event_authorization::v1 as get_event_auth,
        event::get_missing_events::v1 as get_missing_events,
    },
};

use super::{
    commit_batch::{CommitBatch, StoredEventOutcome},
    event_id_of, is_internal,
    policy::ask_policy_server,
    single_events::{EventSource, MAX_SINGLE_EVENTS, SingleEvents},
    state::StateFetcher,
};
use crate::{
    error::{Error, Result},
    federation::RequestLimits,
    matrix::{self, VerifiedEvent},
    rooms::{PendingOutcome, ReceiveHints, ReceiveOutcome},
};

/// The number of requests for earlier events. The number of events in each grows after the first.
const MAX_ROUNDS: usize = 30;
/// The number of events in the first request, and in each further one. Most servers return no more than this.
const FIRST_REQUEST_LIMIT: u32 = 10;
const FURTHER_REQUEST_LIMIT: u32 = 20;
/// The number of events that are in memory until their order is known (64 KiB each at most), and in one answer.
const MAX_FETCHED_EVENTS: usize = 500;
const MAX_EVENTS_PER_ANSWER: usize = 50;
/// The number of events at the edge of the fetched ones, whose prev events are requested.
const MAX_EDGE_EVENTS: usize = 20;
/// The number of gaps at which the state is requested from another server, for one event.
const MAX_STATE_GAPS: usize = 3;
/// The number of levels of auth events that are requested one by one.
const MAX_AUTH_LEVELS: usize = 20;

/// Whether the auth events of an event were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AuthEventsStatus {
    Found,
    /// No server has them.
    Lost,
    /// A server that might have them cannot be reached at present.
    Unreachable,
}

/// Fetches the events that an event of a room lacks.
pub(super) struct MissingEventsFetcher<'a> {
    pub(super) source: EventSource<'a>,
    pub(super) state: StateFetcher<'a>,
}

/// Events between the known ones and a received one.
struct FetchedEvents {
    found: HashMap<OwnedEventId, VerifiedEvent>,
    /// Events that the other server returned, but that are malformed or not properly signed.
    refused: HashSet<OwnedEventId>,
}

impl MissingEventsFetcher<'_> {
    /// Processes an event that was sent in a transaction. The sending server has its prev events, so they must be
    /// fetched themselves. Otherwise the event could become the only forward extremity, and the state that its server
    /// claims before it would become the state of the room.
    pub(super) async fn process_event(
        &self,
        event: VerifiedEvent,
        mut hints: ReceiveHints,
    ) -> Result<ReceiveOutcome> {
        let mut refused: Option<HashSet<OwnedEventId>> = None;
        let mut has_fetched_auth = false;
        loop {
            let received = self.receive(&event, hints.clone()).await?;
            let ReceiveOutcome::Missing { prev, auth } = &received else {
                return Ok(received);
            };
            match &refused {
                None if !prev.is_empty() => refused = Some(self.fetch_prev_events(&event).await?),
                // The server returned the prev events, but none of them can be accepted, now or later.
                Some(refused)
                    if hints.state_before.is_none()
                        && !prev.is_empty()
                        && prev.iter().all(|id| refused.contains(id)) =>
                {
                    hints.state_before =
                        Some(self.state.fetch_state_before(&event, refused).await?);
                }
                _ if !auth.is_empty() && !has_fetched_auth => {
                    has_fetched_auth = true;
                    hints.auth_events_are_lost =
                        self.fetch_auth_events(&event, auth).await? == AuthEventsStatus::Lost;
                }
                _ => return Ok(received),
            }
        }
    }

    async fn receive(&self, event: &VerifiedEvent, hints: ReceiveHints) -> Result<ReceiveOutcome> {
        let rooms = self.source.rooms;
        rooms
            .receiver
            .receive(self.source.origin, event.clone(), hints)
            .await
    }

    /// Fetches the events between the known ones and a received one, and processes them. Returns the ids of events that
    /// the other server returned and that are refused.
    async fn fetch_prev_events(&self, event: &VerifiedEvent) -> Result<HashSet<OwnedEventId>> {
        let FetchedEvents { found, mut refused } = self.fetch_events_before(event).await?;
        let mut gaps = 0;
        let mut batch = CommitBatch::new(self.source.rooms);
        for event in sort_by_prev_events(found) {
            let event_id = event.pdu().event_id.clone();
            match self
                .process_missing_event(event, &mut gaps, &refused, &mut batch)
                .await
            {
                Ok(outcome) => batch.push(event_id, outcome),
                Err(error) if is_internal(&error) => return Err(error),
                Err(error) => {
                    tracing::debug!(%event_id, %error, "a missing event was not accepted");
                    refused.extend(is_permanent(&error).then_some(event_id));
                }
            }
        }
        for StoredEventOutcome { event_id, outcome } in batch.wait_until_stored().await {
            let received = outcome?;
            tracing::debug!(%event_id, ?received, "a missing event was processed");
        }
        Ok(refused)
    }

    /// Processes an event that was missing.
    async fn process_missing_event(
        &self,
        event: VerifiedEvent,
        gaps: &mut usize,
        refused: &HashSet<OwnedEventId>,
        batch: &mut CommitBatch<'_>,
    ) -> Result<PendingOutcome> {
        let EventSource {
            rooms,
            federation,
            origin,
            room,
        } = self.source;
        let mut hints = ask_policy_server(federation, room, &event, batch).await;
        let mut has_fetched_auth = false;
        loop {
            batch.delay_commit();
            let receiving =
                rooms
                    .receiver
                    .receive_without_flush(origin, event.clone(), hints.clone());
            let outcome = receiving.await?;
            let ReceiveOutcome::Missing { prev, auth } = outcome.outcome() else {
                return Ok(outcome);
            };
            batch.allow_commit();
            if !prev.is_empty() && hints.state_before.is_none() && *gaps < MAX_STATE_GAPS {
                *gaps += 1;
                hints.state_before = Some(self.state.fetch_state_before(&event, refused).await?);
            } else if !auth.is_empty() && !has_fetched_auth {
                has_fetched_auth = true;
                hints.auth_events_are_lost =
                    self.fetch_auth_events(&event, auth).await? == AuthEventsStatus::Lost;
            } else {
                return Ok(outcome);
            }
        }
    }

    /// Returns the events before an event, back to known ones, or as far as the other server returns them.
    async fn fetch_events_before(&self, event: &VerifiedEvent) -> Result<FetchedEvents> {
        let earliest = self
            .source
            .rooms
            .memory
            .forward_extremities(self.source.room)
            .await?;
        let mut latest = vec![event.pdu().event_id.clone()];
        let mut found: HashMap<OwnedEventId, VerifiedEvent> = HashMap::new();
        let mut refused: HashSet<OwnedEventId> = HashSet::new();
        let mut limit = FIRST_REQUEST_LIMIT;
        for _ in 0..MAX_ROUNDS {
            let mut request = get_missing_events::Request::new(
                self.source.room.room_id.clone(),
                earliest.clone(),
                latest,
            );
            request.limit = UInt::from(limit);
            let client = self.source.federation.client();
            let answer = client
                .send(self.source.origin, request, RequestLimits::LARGE_RESPONSE)
                .await;
            let mut events = match answer {
                Ok(answer) => answer.events,
                Err(failure) => {
                    tracing::debug!(%failure, "missing events cannot be fetched");
                    break;
                }
            };
            events.truncate(MAX_EVENTS_PER_ANSWER);
            let is_full = events.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
            let before = found.len();
            let ids = events.iter();
            refused.extend(ids.filter_map(|event| event_id_of(event, &self.source.room.rules)));
            for event in self.source.verify_for_room(events).await {
                found.insert(event.pdu().event_id.clone(), event);
            }
            // A server that returns fewer events than requested has no more.
            if !is_full || found.len() == before || found.len() >= MAX_FETCHED_EVENTS {
                break;
            }
            latest = self.edge_events(&found).await?;
            if latest.is_empty() {
                break;
            }
            limit = FURTHER_REQUEST_LIMIT;
        }
        refused.retain(|id| !found.contains_key(id));
        Ok(FetchedEvents { found, refused })
    }

    /// Returns the fetched events with prev events that are neither fetched nor known.
    async fn edge_events(
        &self,
        found: &HashMap<OwnedEventId, VerifiedEvent>,
    ) -> Result<Vec<OwnedEventId>> {
        let mut outside: BTreeMap<&OwnedEventId, Vec<&OwnedEventId>> = BTreeMap::new();
        for (id, event) in found {
            let prev_events = event.pdu().prev_events.iter();
            for prev in prev_events.filter(|prev| !found.contains_key(*prev)) {
                outside.entry(prev).or_default().push(id);
            }
        }
        let ids: Vec<OwnedEventId> = outside.keys().map(|id| (*id).clone()).collect();
        let placed = self
            .source
            .rooms
            .receiver
            .events_with_state(self.source.room, &ids)
            .await?;
        outside.retain(|id, _| !placed.contains(*id));
        let edge: HashSet<&OwnedEventId> = outside.into_values().flatten().collect();
        Ok(edge.into_iter().take(MAX_EDGE_EVENTS).cloned().collect())
    }

    /// Fetches and stores the auth events of an event.
    async fn fetch_auth_events(
        &self,
        event: &VerifiedEvent,
        missing: &[OwnedEventId],
    ) -> Result<AuthEventsStatus> {
        let mut is_unreachable = false;
        for server in self.servers_with_auth_events(event) {
            let request = get_event_auth::Request::new(
                self.source.room.room_id.clone(),
                event.pdu().event_id.clone(),
            );
            let client = self.source.federation.client();
            match client
                .send(&server, request, RequestLimits::LARGE_RESPONSE)
                .await
            {
                Ok(answer) => {
                    let events = self.source.verify_for_room(answer.auth_chain).await;
                    self.source.store_outliers(events).await?;
                }
                Err(failure) => tracing::debug!(%failure, "an auth chain cannot be fetched"),
            }
            let missing = self.source.rooms.receiver.unknown_events(missing).await?;
            if missing.is_empty() {
                return Ok(AuthEventsStatus::Found);
            }
            let singles = self.fetch_singly_with_auth_events(&server, missing).await?;
            is_unreachable |= singles.is_unreachable;
            self.source.store_outliers(singles.events).await?;
        }
        let missing = self.source.rooms.receiver.unknown_events(missing).await?;
        Ok(match (missing.is_empty(), is_unreachable) {
            (true, _) => AuthEventsStatus::Found,
            (false, true) => AuthEventsStatus::Unreachable,
            (false, false) => AuthEventsStatus::Lost,
        })
    }

    /// Returns the servers that should have the auth events: the server that sent the event, and the one that created
    /// it.
    fn servers_with_auth_events(&self, event: &VerifiedEvent) -> Vec<OwnedServerName> {
        let maker = event.pdu().sender.server_name();
        let mut servers = vec![self.source.origin.to_owned()];
        if maker != self.source.origin && maker != self.source.rooms.memory.server_name() {
            servers.push(maker.to_owned());
        }
        servers
    }

    /// Fetches events one by one, and their auth events.
    async fn fetch_singly_with_auth_events(
        &self,
        server: &ServerName,
        mut ids: Vec<OwnedEventId>,
    ) -> Result<SingleEvents> {
        let mut all = SingleEvents::default();
        let mut requested: HashSet<OwnedEventId> = HashSet::new();
        for _ in 0..MAX_AUTH_LEVELS {
            ids.retain(|id| requested.insert(id.clone()));
            ids.truncate(MAX_SINGLE_EVENTS.saturating_sub(all.events.len()));
            if ids.is_empty() {
                break;
            }
            let singles = self.source.fetch_singly(server, ids).await;
            all.is_unreachable |= singles.is_unreachable;
            let mut further: HashSet<OwnedEventId> = HashSet::new();
            for event in &singles.events {
                further.extend(event.pdu().auth_events.iter().cloned());
            }
            all.events.extend(singles.events);
            let further: Vec<OwnedEventId> = further.into_iter().collect();
            ids = self.source.rooms.receiver.unknown_events(&further).await?;
        }
        Ok(all)
    }
}

/// Returns whether an event that was refused would always be refused.
fn is_permanent(error: &Error) -> bool {
    matches!(
        error,
        Error::BadJson(_) | Error::TooLarge(_) | Error::InvalidSignature(_) | Error::Forbidden(_)
    )
}

/// Sorts events so that each follows its prev events among them.
fn sort_by_prev_events(found: HashMap<OwnedEventId, VerifiedEvent>) -> Vec<VerifiedEvent> {
    let mut events: Vec<VerifiedEvent> = found.into_values().collect();
    // A server chooses the depth freely, so it decides only where the prev events do not.
    events.sort_unstable_by(|one, other| {
        let (one, other) = (one.pdu(), other.pdu());
        (one.depth, &one.event_id).cmp(&(other.depth, &other.event_id))
    });
    matrix::sort_topologically(events, |pdu| &pdu.prev_events)
}
