//! Fetches the missing prev events and auth events of an event, from the server that sent it.
//!
//! See [Backfilling and retrieving missing events](https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use ruma::{
    OwnedEventId, OwnedServerName, ServerName, UInt,
    api::federation::{
        authorization::get_event_authorization::v1 as get_event_auth,
        event::{get_event::v1 as get_event, get_missing_events::v1 as get_missing_events},
    },
};
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::{commit_batch::Line, id_of, is_our_fault};
use crate::{
    error::{Error, Result},
    federation::{Allowance, Failure},
    matrix::Verified,
    rooms::{Help, Received, Room, Taken},
    workflows::Workflows,
};

/// The time limit for all requests on behalf of one event.
const PATIENCE: Duration = Duration::from_mins(2);
/// The number of requests for earlier events. The number of events in each grows after the first.
const ROUNDS: usize = 30;
/// The number of events in the first request, and in each further one. Most servers return no more than this.
const FIRST: u32 = 10;
const FURTHER: u32 = 20;
/// The number of events that are in memory until their order is known (64 KiB each at most), and in one answer.
const MAX_FOUND: usize = 500;
const MAX_ANSWER: usize = 50;
/// The number of events at the edge of the fetched ones, whose prev events are requested.
const MAX_EDGE: usize = 20;
/// The number of gaps at which the state is requested from another server, for one event.
const MAX_GAPS: usize = 3;
/// The limits for events requested one by one: at the same time, in total, and in levels of their auth events.
const EVENTS_AT_ONCE: usize = 8;
pub(super) const MAX_SINGLE: usize = 500;
const MAX_LEVELS: usize = 20;

/// Whether the auth events of an event were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Foundation {
    Found,
    /// No server has them.
    Lost,
    /// A server that might have them cannot be reached at present.
    Unreachable,
}

/// The context for fetching events of a room.
pub(super) struct Search<'a> {
    pub(super) workflows: &'a Workflows,
    pub(super) origin: &'a ServerName,
    pub(super) room: &'a Arc<Room>,
}

/// Events between the known ones and a received one.
struct FoundEvents {
    found: HashMap<OwnedEventId, Verified>,
    /// Events that the other server returned, but that are malformed or not properly signed.
    refused: HashSet<OwnedEventId>,
}

/// Events that were requested one by one.
#[derive(Default)]
pub(super) struct Singles {
    pub(super) events: Vec<Verified>,
    /// Whether some could not be requested.
    pub(super) is_unreachable: bool,
}

impl Workflows {
    /// Processes an event that lacks others, after fetching these.
    pub(super) async fn fetch_and_take(
        &self,
        origin: &ServerName,
        room: &Arc<Room>,
        event: Verified,
        help: Help,
    ) -> Result<Received> {
        let Some(place) = self.inbox.queues.place(room.num, origin, &event) else {
            return Err(Error::LimitExceeded {
                retry_after: PATIENCE,
            });
        };
        let turn = place.turn().await;
        let search = Search {
            workflows: self,
            origin,
            room,
        };
        let taking = Box::pin(search.take(event, help));
        let taken = timeout(PATIENCE, taking).await;
        drop(turn);
        self.take_left(room);
        taken.map_err(|_| {
            Error::Unreachable("the event's prev_events could not be fetched in time".to_owned())
        })?
    }

    /// Processes an event of a room for which the queue had no place, in the background.
    fn take_left(&self, room: &Arc<Room>) {
        let Some((origin, event)) = self.inbox.queues.take_left(room.num) else {
            return;
        };
        let (workflows, room) = (self.clone(), room.clone());
        // Boxed as a trait object, because the task ends by starting the next one.
        let taking: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            let stopping = workflows.tasks.stopping().clone();
            let taking = workflows.receive_event(&origin, &room, event);
            let taken = stopping.run_until_cancelled(taking).await;
            tracing::debug!(
                ?taken,
                "an event that had waited for a place in the queue is finished"
            );
        });
        drop(self.tasks.spawn(taking));
    }
}

impl Search<'_> {
    /// Processes an event that was sent in a transaction. The sending server has its prev events, so they must be
    /// fetched themselves. Otherwise the event could become the only forward extremity, and the state that its server
    /// claims before it would become the state of the room.
    async fn take(&self, event: Verified, mut help: Help) -> Result<Received> {
        let mut refused: Option<HashSet<OwnedEventId>> = None;
        let mut has_founded = false;
        loop {
            let received = self.receive(&event, help.clone()).await?;
            let Received::Missing { prev, auth } = &received else {
                return Ok(received);
            };
            match &refused {
                None if !prev.is_empty() => refused = Some(self.fill(&event).await?),
                // The server returned the prev events, but none of them can be accepted, now or later.
                Some(refused)
                    if help.state_before.is_none()
                        && !prev.is_empty()
                        && prev.iter().all(|id| refused.contains(id)) =>
                {
                    help.state_before = Some(self.state_before(&event, refused).await?);
                }
                _ if !auth.is_empty() && !has_founded => {
                    has_founded = true;
                    help.auth_events_are_lost = self.found(&event, auth).await? == Foundation::Lost;
                }
                _ => return Ok(received),
            }
        }
    }

    async fn receive(&self, event: &Verified, help: Help) -> Result<Received> {
        let rooms = &self.workflows.rooms;
        rooms
            .receiver
            .receive(self.origin, event.clone(), help)
            .await
    }

    /// Fetches the events between the known ones and a received one, and processes them. Returns the ids of events that
    /// the other server returned and that are refused.
    async fn fill(&self, event: &Verified) -> Result<HashSet<OwnedEventId>> {
        let FoundEvents { found, mut refused } = self.events_before(event).await?;
        let mut gaps = 0;
        let mut line = Line::new(&self.workflows.rooms);
        for event in in_order(found) {
            let event_id = event.pdu().event_id.clone();
            match self
                .take_found(event, (&mut gaps, &refused), &mut line)
                .await
            {
                Ok(taken) => line.push(event_id, taken),
                Err(error) if is_our_fault(&error) => return Err(error),
                Err(error) => {
                    tracing::debug!(%event_id, %error, "a missing event was not accepted");
                    if is_for_good(&error) {
                        refused.insert(event_id);
                    }
                }
            }
        }
        for (event_id, received) in line.ends().await {
            let received = received?;
            tracing::debug!(%event_id, ?received, "a missing event was processed");
        }
        Ok(refused)
    }

    /// Processes an event that was missing.
    async fn take_found(
        &self,
        event: Verified,
        (gaps, refused): (&mut usize, &HashSet<OwnedEventId>),
        line: &mut Line<'_>,
    ) -> Result<Taken> {
        let workflows = self.workflows;
        let mut help = workflows.policy_help(self.room, &event, line).await;
        let mut has_founded = false;
        loop {
            line.hurries();
            let taking = workflows
                .rooms
                .receiver
                .take(self.origin, event.clone(), help.clone());
            let taken = taking.await?;
            let Received::Missing { prev, auth } = taken.received() else {
                return Ok(taken);
            };
            line.pauses();
            if !prev.is_empty() && help.state_before.is_none() && *gaps < MAX_GAPS {
                *gaps += 1;
                help.state_before = Some(self.state_before(&event, refused).await?);
            } else if !auth.is_empty() && !has_founded {
                has_founded = true;
                help.auth_events_are_lost = self.found(&event, auth).await? == Foundation::Lost;
            } else {
                return Ok(taken);
            }
        }
    }

    /// Returns the events before an event, back to known ones, or as far as the other server returns them.
    async fn events_before(&self, event: &Verified) -> Result<FoundEvents> {
        let earliest = self
            .workflows
            .rooms
            .memory
            .forward_extremities(self.room)
            .await?;
        let mut latest = vec![event.pdu().event_id.clone()];
        let mut found: HashMap<OwnedEventId, Verified> = HashMap::new();
        let mut refused: HashSet<OwnedEventId> = HashSet::new();
        let mut limit = FIRST;
        for _ in 0..ROUNDS {
            let mut request = get_missing_events::Request::new(
                self.room.room_id.clone(),
                earliest.clone(),
                latest,
            );
            request.limit = UInt::from(limit);
            let client = self.workflows.federation.client();
            let answer = client.send(self.origin, request, Allowance::USUAL).await;
            let mut events = match answer {
                Ok(answer) => answer.events,
                Err(failure) => {
                    tracing::debug!(%failure, "missing events cannot be fetched");
                    break;
                }
            };
            events.truncate(MAX_ANSWER);
            let is_full = events.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
            let before = found.len();
            let ids = events.iter();
            refused.extend(ids.filter_map(|event| id_of(event, &self.room.rules)));
            for event in self.verified(events).await {
                found.insert(event.pdu().event_id.clone(), event);
            }
            // A server that returns fewer events than requested has no more.
            if !is_full || found.len() == before || found.len() >= MAX_FOUND {
                break;
            }
            latest = self.edge(&found).await?;
            if latest.is_empty() {
                break;
            }
            limit = FURTHER;
        }
        refused.retain(|id| !found.contains_key(id));
        Ok(FoundEvents { found, refused })
    }

    /// Returns the fetched events with prev events that are neither fetched nor known.
    async fn edge(&self, found: &HashMap<OwnedEventId, Verified>) -> Result<Vec<OwnedEventId>> {
        let mut outside: BTreeMap<&OwnedEventId, Vec<&OwnedEventId>> = BTreeMap::new();
        for (id, event) in found {
            let prev_events = event.pdu().prev_events.iter();
            for prev in prev_events.filter(|prev| !found.contains_key(*prev)) {
                outside.entry(prev).or_default().push(id);
            }
        }
        let ids: Vec<OwnedEventId> = outside.keys().map(|id| (*id).clone()).collect();
        let placed = self
            .workflows
            .rooms
            .receiver
            .placed(self.room, &ids)
            .await?;
        outside.retain(|id, _| !placed.contains(*id));
        let edge: HashSet<&OwnedEventId> = outside.into_values().flatten().collect();
        Ok(edge.into_iter().take(MAX_EDGE).cloned().collect())
    }

    /// Fetches and stores the auth events of an event.
    async fn found(&self, event: &Verified, missing: &[OwnedEventId]) -> Result<Foundation> {
        let mut is_unreachable = false;
        for server in self.who_has(event) {
            let request = get_event_auth::Request::new(
                self.room.room_id.clone(),
                event.pdu().event_id.clone(),
            );
            let client = self.workflows.federation.client();
            match client.send(&server, request, Allowance::USUAL).await {
                Ok(answer) => {
                    let events = self.verified(answer.auth_chain).await;
                    self.keep(events).await?;
                }
                Err(failure) => tracing::debug!(%failure, "an auth chain cannot be fetched"),
            }
            let missing = self.workflows.rooms.receiver.unknown(missing).await?;
            if missing.is_empty() {
                return Ok(Foundation::Found);
            }
            let singles = self.singles_with_foundation(&server, missing).await?;
            is_unreachable |= singles.is_unreachable;
            self.keep(singles.events).await?;
        }
        let missing = self.workflows.rooms.receiver.unknown(missing).await?;
        Ok(match (missing.is_empty(), is_unreachable) {
            (true, _) => Foundation::Found,
            (false, true) => Foundation::Unreachable,
            (false, false) => Foundation::Lost,
        })
    }

    /// Returns the servers that should have the auth events: the server that sent the event, and the one that created
    /// it.
    fn who_has(&self, event: &Verified) -> Vec<OwnedServerName> {
        let maker = event.pdu().sender.server_name();
        let mut servers = vec![self.origin.to_owned()];
        if maker != self.origin && maker != self.workflows.rooms.memory.server_name() {
            servers.push(maker.to_owned());
        }
        servers
    }

    /// Fetches events one by one, and their auth events.
    async fn singles_with_foundation(
        &self,
        server: &ServerName,
        mut ids: Vec<OwnedEventId>,
    ) -> Result<Singles> {
        let mut all = Singles::default();
        let mut asked: HashSet<OwnedEventId> = HashSet::new();
        for _ in 0..MAX_LEVELS {
            ids.retain(|id| asked.insert(id.clone()));
            ids.truncate(MAX_SINGLE.saturating_sub(all.events.len()));
            if ids.is_empty() {
                break;
            }
            let singles = self.singles(server, ids).await;
            all.is_unreachable |= singles.is_unreachable;
            let mut further: HashSet<OwnedEventId> = HashSet::new();
            for event in &singles.events {
                further.extend(event.pdu().auth_events.iter().cloned());
            }
            all.events.extend(singles.events);
            let further: Vec<OwnedEventId> = further.into_iter().collect();
            ids = self.workflows.rooms.receiver.unknown(&further).await?;
        }
        Ok(all)
    }

    /// Fetches events one by one.
    pub(super) async fn singles(&self, server: &ServerName, ids: Vec<OwnedEventId>) -> Singles {
        let client = self.workflows.federation.client();
        let asking = stream::iter(ids).map(async |id| {
            let request = get_event::Request::new(id.clone());
            (id, client.send(server, request, Allowance::QUICK).await)
        });
        let mut asking = std::pin::pin!(asking.buffer_unordered(EVENTS_AT_ONCE));
        let mut singles = Singles::default();
        while let Some((id, answer)) = asking.next().await {
            let event = match answer {
                Ok(answer) => answer.pdu,
                Err(failure) => {
                    singles.is_unreachable |= matches!(failure, Failure::Unreachable(_));
                    continue;
                }
            };
            let verified = self.verified([event]).await;
            let is_it = |event: &Verified| event.pdu().event_id == id;
            singles.events.extend(verified.into_iter().filter(is_it));
        }
        singles
    }

    /// Returns the events that are properly signed and belong to the room.
    pub(super) async fn verified(
        &self,
        events: impl IntoIterator<Item = Box<RawValue>>,
    ) -> Vec<Verified> {
        let federation = &self.workflows.federation;
        let mut verified = federation.verify_all(events, &self.room.rules).await;
        verified.retain(|event| event.pdu().room_id == self.room.room_id);
        verified
    }

    /// Stores events as outliers, if the auth rules permit them as far as that can be checked.
    pub(super) async fn keep(&self, events: Vec<Verified>) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let outcomes = self
            .workflows
            .rooms
            .receiver
            .store_outliers(self.room, events);
        let outcomes = outcomes.await?;
        tracing::debug!(?outcomes, "auth events were stored");
        Ok(())
    }
}

/// Returns whether an event that was refused would always be refused.
fn is_for_good(error: &Error) -> bool {
    matches!(
        error,
        Error::BadJson(_) | Error::TooLarge(_) | Error::InvalidSignature(_) | Error::Forbidden(_)
    )
}

/// Sorts events so that each follows its prev events among them.
fn in_order(mut waiting: HashMap<OwnedEventId, Verified>) -> Vec<Verified> {
    let mut ids: Vec<(UInt, OwnedEventId)> = waiting
        .values()
        .map(|event| (event.pdu().depth, event.pdu().event_id.clone()))
        .collect();
    // A server chooses the depth freely, so it decides only where the prev events do not.
    ids.sort_unstable();
    let mut ordered = Vec::with_capacity(waiting.len());
    let mut begun: HashSet<OwnedEventId> = HashSet::new();
    for (_, id) in ids {
        let mut stack = vec![id];
        while let Some(id) = stack.last().cloned() {
            let Some(event) = waiting.get(&id) else {
                stack.pop();
                continue;
            };
            if begun.insert(id.clone()) {
                let prev_events = event.pdu().prev_events.iter();
                stack.extend(prev_events.filter(|id| waiting.contains_key(*id)).cloned());
                continue;
            }
            stack.pop();
            ordered.extend(waiting.remove(&id));
        }
    }
    ordered
}
