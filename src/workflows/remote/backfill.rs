//! History from before this server joined a room: fetched from other servers when a user reads that far back.
//!
//! See [Backfilling](https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedServerName, ServerName, UInt,
    api::{
        Direction,
        federation::{
            backfill::get_backfill,
            event::{get_event, get_event_by_timestamp, get_room_state, get_room_state_ids},
        },
    },
    events::StateEventType,
    uint,
};
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::single_event::{
    FetchedEventKey, MAX_CACHED_EVENTS, MAX_CONCURRENT_FETCHES, MAX_WAITING_FETCHES,
};
use crate::{
    error::{Error, Result},
    federation::{Federation, LookupCache, RequestLimits},
    keyed_semaphore::KeyedSemaphore,
    matrix::VerifiedEvent,
    numbers::{Position, UserNum},
    rooms::{ReceiveOutcome, Room, Rooms, TimelineGap, UnplacedEvent, UserAccess},
    workflows::{WorkflowSources, inbox::StateFetchLimit},
};

/// The time that a reader waits for other servers. After that the reader gets the available events.
pub(super) const HISTORY_TIMEOUT: Duration = Duration::from_secs(20);
/// The number of backfill rounds during one wait.
const MAX_ROUNDS: usize = 4;
/// The number of events in one request.
const EVENTS_PER_REQUEST: u32 = 100;
/// The number of servers that are asked for the same events.
const MAX_HISTORY_SERVERS: usize = 5;
/// The number of missing events that one request names.
const MAX_NAMED_EVENTS: usize = 20;
/// The number of events for which the state before them is fetched. Usually there is one, the oldest.
const MAX_STATES: usize = 10;
/// The number of events that are fetched one by one. If more are missing, the whole state is fetched.
const MAX_SINGLE_EVENTS: usize = 50;
const MAX_CONCURRENT_EVENTS: usize = 10;
/// The limits for fetching the state of a room.
const STATE_LIMITS: RequestLimits = RequestLimits {
    time: Duration::from_mins(1),
    bytes: 64 * 1024 * 1024,
};

/// Fetches the history of rooms from other servers. Cheap to clone.
#[derive(Clone)]
pub struct HistoryFetcher {
    pub(super) rooms: Rooms,
    pub(super) federation: Federation,
    state_fetches: StateFetchLimit,
    /// Limits the single events that each user fetches.
    pub(super) event_fetches: KeyedSemaphore<UserNum>,
    /// The single events that were fetched.
    pub(super) fetched_events: Arc<LookupCache<FetchedEventKey, Option<Arc<UnplacedEvent>>>>,
}

/// An event close to a time, as another server returned it.
struct RemoteEventAtTime {
    event_id: OwnedEventId,
    ts: i64,
}

impl HistoryFetcher {
    pub(in crate::workflows) fn new(
        sources: &WorkflowSources,
        state_fetches: &StateFetchLimit,
    ) -> Self {
        Self {
            rooms: sources.rooms.clone(),
            federation: sources.federation.clone(),
            state_fetches: state_fetches.clone(),
            event_fetches: KeyedSemaphore::new(MAX_CONCURRENT_FETCHES, MAX_WAITING_FETCHES),
            fetched_events: Arc::new(LookupCache::new(&sources.clock, MAX_CACHED_EVENTS)),
        }
    }

    /// Fetches missing history in a range of a room's timeline, from after one position up to another. Returns `true`
    /// if there are new events, so that the range should be read again.
    ///
    /// # Errors
    ///
    /// When the events cannot be stored. A server that does not answer is not an error.
    pub async fn fill_history(
        &self,
        room: &Arc<Room>,
        after: Position,
        up_to: Position,
    ) -> Result<bool> {
        let filling = self.fill_newest_gap(room, after, up_to);
        timeout(HISTORY_TIMEOUT, filling).await.unwrap_or(Ok(false))
    }

    /// Returns whether events are missing up to a position of a room's timeline.
    ///
    /// # Errors
    ///
    /// When that cannot be read.
    pub async fn lacks_history(&self, room: &Room, up_to: Position) -> Result<bool> {
        let gaps = self
            .rooms
            .receiver
            .find_gaps(room, Position::MIN, up_to)
            .await?;
        Ok(!gaps.is_empty())
    }

    /// Returns the event closest to a time. Other servers are asked if this one may lack it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no event that the user may see.
    pub async fn event_at_time(
        &self,
        room: &Arc<Room>,
        access: &UserAccess,
        ts: MilliSecondsSinceUnixEpoch,
        dir: Direction,
    ) -> Result<(OwnedEventId, i64)> {
        let here = self
            .rooms
            .timeline
            .find_event_at_time(room, access, ts.0.into(), dir)
            .await;
        let is_whole = self
            .rooms
            .receiver
            .find_gaps(room, Position::MIN, Position::MAX)
            .await?
            .is_empty();
        if is_whole || matches!(&here, Err(error) if !matches!(error, Error::NotFound(_))) {
            return here;
        }
        let asking = self.fetch_event_at_time(room, ts, dir);
        let Some(remote) = timeout(HISTORY_TIMEOUT, asking).await.ok().flatten() else {
            return here;
        };
        let distance = |at: i64| at.abs_diff(ts.0.into());
        if let Ok((_, at)) = &here
            && distance(*at) <= distance(remote.ts)
        {
            return here;
        }
        // The client is likely to read on from this event.
        let filling = self.fill_until_known(room, &remote.event_id);
        if let Ok(filled) = timeout(HISTORY_TIMEOUT, filling).await {
            filled?;
        }
        match self
            .rooms
            .timeline
            .find_event_at_time(room, access, ts.0.into(), dir)
            .await
        {
            Ok((id, at)) if distance(at) <= distance(remote.ts) => Ok((id, at)),
            Ok(_) | Err(Error::NotFound(_)) => Ok((remote.event_id, remote.ts)),
            Err(error) => Err(error),
        }
    }

    /// Fills the newest gaps of a room, until this server has an event.
    async fn fill_until_known(&self, room: &Arc<Room>, event_id: &OwnedEventId) -> Result<()> {
        for _ in 0..MAX_ROUNDS {
            let is_known = self
                .rooms
                .receiver
                .unknown_events(std::slice::from_ref(event_id))
                .await?
                .is_empty();
            if is_known
                || !self
                    .fill_newest_gap(room, Position::MIN, Position::MAX)
                    .await?
            {
                break;
            }
        }
        Ok(())
    }

    async fn fetch_event_at_time(
        &self,
        room: &Room,
        ts: MilliSecondsSinceUnixEpoch,
        dir: Direction,
    ) -> Option<RemoteEventAtTime> {
        let is_on_side = |at: MilliSecondsSinceUnixEpoch| match dir {
            Direction::Forward => at >= ts,
            Direction::Backward => at <= ts,
        };
        for server in self.history_servers(room) {
            let request = get_event_by_timestamp::v1::Request::new(room.room_id.clone(), ts, dir);
            let client = self.federation.client();
            match client
                .send(&server, request, RequestLimits::QUICK_RESPONSE)
                .await
            {
                Ok(found) if is_on_side(found.origin_server_ts) => {
                    return Some(RemoteEventAtTime {
                        event_id: found.event_id,
                        ts: found.origin_server_ts.0.into(),
                    });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%server, %error, "a server returned no event for a time");
                }
            }
        }
        None
    }

    async fn fill_newest_gap(
        &self,
        room: &Arc<Room>,
        after: Position,
        up_to: Position,
    ) -> Result<bool> {
        let gaps = self.rooms.receiver.find_gaps(room, after, up_to).await?;
        let Some(gap) = gaps.into_iter().next() else {
            return Ok(false);
        };
        for server in self.history_servers(room) {
            match self.backfill_from(room, &server, &gap).await {
                Ok(0) => {}
                Ok(_) => return Ok(true),
                Err(error @ (Error::Internal { .. } | Error::StorageFull)) => return Err(error),
                Err(error) => tracing::debug!(%server, %error, "a server returned no history"),
            }
        }
        Ok(false)
    }

    /// Returns servers that may have the history of a room: first those with most members, then former ones.
    pub(super) fn history_servers(&self, room: &Room) -> Vec<OwnedServerName> {
        let view = room.view();
        let mut present: Vec<_> = view.servers.iter().collect();
        present.sort_by_key(|(_, stay)| std::cmp::Reverse(stay.members));
        let present = present.into_iter().map(|(server, _)| server.clone());
        let members = view.state.of_type(&StateEventType::RoomMember);
        let past = members.filter_map(|pdu| Some(pdu.member()?.server_name().to_owned()));
        let mut seen = HashSet::from([self.rooms.memory.server_name().to_owned()]);
        let is_new = |server: &OwnedServerName| seen.insert(server.clone());
        present
            .chain(past)
            .filter(is_new)
            .take(MAX_HISTORY_SERVERS)
            .collect()
    }

    /// Fetches missing events from a server; returns the number of new events.
    async fn backfill_from(
        &self,
        room: &Room,
        server: &ServerName,
        gap: &TimelineGap,
    ) -> Result<usize> {
        let missing = gap.missing.iter().take(MAX_NAMED_EVENTS).cloned().collect();
        let mut request = get_backfill::v1::Request::new(room.room_id.clone(), missing, uint!(1));
        request.limit = UInt::from(EVENTS_PER_REQUEST);
        let client = self.federation.client();
        let answer = client
            .send(server, request, RequestLimits::LARGE_RESPONSE)
            .await?;
        let mut pdus = answer.pdus;
        pdus.truncate(2 * usize::try_from(EVENTS_PER_REQUEST).unwrap_or(0));
        let events = self.verify_history(room, server, pdus).await?;
        if events.is_empty() {
            return Ok(0);
        }
        let none = HashMap::new();
        let first = self
            .rooms
            .receiver
            .backfill(room, server, events.clone(), &none)
            .await?;
        if first.missing.is_empty() {
            return Ok(first.stored);
        }
        let states = self
            .fetch_states_before(room, server, &events, &first.missing)
            .await?;
        let second = self
            .rooms
            .receiver
            .backfill(room, server, events, &states)
            .await?;
        Ok(first.stored + second.stored)
    }

    pub(super) async fn verify_history(
        &self,
        room: &Room,
        server: &ServerName,
        events: Vec<Box<RawValue>>,
    ) -> Result<Vec<VerifiedEvent>> {
        let mut ring = self.federation.key_ring(server.to_owned());
        let rules = Arc::new(room.rules.clone());
        let verified = ring
            .verify_events(events, &rules)
            .await?
            .into_iter()
            .flatten();
        let of_room = verified.filter(|event| event.pdu().room_id == room.room_id);
        Ok(of_room.collect())
    }

    /// Fetches the states before the events whose prev events are neither stored nor among `events`, and all other
    /// events that these need.
    async fn fetch_states_before(
        &self,
        room: &Room,
        server: &ServerName,
        events: &[VerifiedEvent],
        missing: &[(OwnedEventId, ReceiveOutcome)],
    ) -> Result<HashMap<OwnedEventId, Vec<OwnedEventId>>> {
        let received: HashSet<&OwnedEventId> = events.iter().map(|e| &e.pdu().event_id).collect();
        let mut states = HashMap::new();
        let mut lacking: Vec<OwnedEventId> = Vec::new();
        for (event_id, why) in missing {
            let ReceiveOutcome::Missing { prev, auth } = why else {
                continue;
            };
            lacking.extend(auth.iter().cloned());
            let lacks_state = prev.iter().any(|id| !received.contains(id));
            if lacks_state && states.len() < MAX_STATES {
                let state = self.fetch_state_before(room, server, event_id).await?;
                states.insert(event_id.clone(), state);
            }
        }
        let lacking = self.rooms.receiver.unknown_events(&lacking).await?;
        let found = self.fetch_events_singly(room, server, lacking).await?;
        // State events within the history may be auth events of others.
        let of_state = events
            .iter()
            .filter(|event| event.pdu().state_key.is_some());
        let found = found.into_iter().chain(of_state.cloned()).collect();
        self.rooms.receiver.store_outliers(room, found).await?;
        Ok(states)
    }

    /// Returns the state before an event. Its events are stored as far as the server returns them.
    pub(super) async fn fetch_state_before(
        &self,
        room: &Room,
        server: &ServerName,
        event_id: &OwnedEventId,
    ) -> Result<Vec<OwnedEventId>> {
        let _permit = self.state_fetches.acquire().await?;
        let client = self.federation.client();
        let (id, room_id) = (event_id.clone(), room.room_id.clone());
        let request = get_room_state_ids::v1::Request::new(id.clone(), room_id.clone());
        let ids = client.send(server, request, STATE_LIMITS).await?;
        let all: Vec<OwnedEventId> = ids
            .pdu_ids
            .iter()
            .chain(&ids.auth_chain_ids)
            .cloned()
            .collect();
        let absent = self.rooms.receiver.unknown_events(&all).await?;
        let events = if absent.len() > MAX_SINGLE_EVENTS {
            let request = get_room_state::v1::Request::new(id, room_id);
            let state = client.send(server, request, STATE_LIMITS).await?;
            let all = state.auth_chain.into_iter().chain(state.pdus);
            self.verify_history(room, server, all.collect()).await?
        } else {
            self.fetch_events_singly(room, server, absent).await?
        };
        self.rooms.receiver.store_outliers(room, events).await?;
        // Events that no server has cannot be part of the state.
        let absent: HashSet<OwnedEventId> = self
            .rooms
            .receiver
            .unknown_events(&ids.pdu_ids)
            .await?
            .into_iter()
            .collect();
        let mut state = ids.pdu_ids;
        state.retain(|id| !absent.contains(id));
        Ok(state)
    }

    /// Fetches events one by one.
    async fn fetch_events_singly(
        &self,
        room: &Room,
        server: &ServerName,
        mut ids: Vec<OwnedEventId>,
    ) -> Result<Vec<VerifiedEvent>> {
        ids.truncate(MAX_SINGLE_EVENTS);
        let client = self.federation.client();
        let asking = stream::iter(ids).map(async |id: OwnedEventId| {
            let request = get_event::v1::Request::new(id);
            client
                .send(server, request, RequestLimits::QUICK_RESPONSE)
                .await
        });
        let mut asking = std::pin::pin!(asking.buffer_unordered(MAX_CONCURRENT_EVENTS));
        let mut found = Vec::new();
        while let Some(answer) = asking.next().await {
            found.extend(answer.ok().map(|answer| answer.pdu));
        }
        self.verify_history(room, server, found).await
    }
}
