//! Resolving the state of a room where its events fork. Only the events that a resolution needs are
//! read.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
};

use ruma::{OwnedEventId, room_version_rules::RoomVersionRules};

use super::EventLog;
use crate::{
    error::{Error, Result},
    matrix::{self, KnownEvents, Pdu, ResolutionResult, StateMap},
    rooms::memory::stored_events::parse_event_id,
    storage::rooms::{
        event_graph::{self, EventNode},
        events::EventStatus,
    },
};

/// The most events that one resolution reads. No honest room has auth chains of that size.
const MAX_RESOLUTION_EVENTS: usize = 100_000;
/// The number of steps down the auth chains that are read ahead at first. The number doubles each
/// time, because a resolution starts over whenever it lacks an event, and in an old room the path
/// to the first power levels event is long.
const READ_AHEAD_STEPS: usize = 6;
/// The number of event ids in one query.
const IDS_PER_QUERY: usize = 500;
/// The most events of auth chains that are kept in memory for later resolutions.
const MAX_REMEMBERED_EVENTS: usize = 50_000;

impl EventLog {
    /// Resolves states of a room.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] when more events are needed than one resolution may read.
    pub(crate) async fn resolve_states(
        &self,
        rules: &RoomVersionRules,
        sets: Vec<StateMap>,
    ) -> Result<StateMap> {
        let turn = self.resolution_permits.acquire().await;
        let _turn = turn.map_err(|source| Error::internal("wait to resolve a state", source))?;
        let mut known = KnownEvents::new();
        let mut absent: BTreeSet<OwnedEventId> = BTreeSet::new();
        let sets = Arc::new(sets);
        let mut ahead = READ_AHEAD_STEPS;
        while known.len() < MAX_RESOLUTION_EVENTS {
            let (rules, states) = (rules.clone(), sets.clone());
            // Resolving may take long, and other tasks must be able to run meanwhile.
            let work = move || {
                let resolution = matrix::resolve_state(&rules, &states, &known, &absent);
                (resolution, known, absent)
            };
            let done = tokio::task::spawn_blocking(work).await;
            let resolution;
            (resolution, known, absent) =
                done.map_err(|source| Error::internal("resolve a state", source))?;
            match resolution? {
                ResolutionResult::Resolved(state) => return Ok(state),
                ResolutionResult::NeedsEvents(needs) => {
                    self.read_auth_chains(needs, ahead, &mut known, &mut absent)
                        .await?;
                    ahead = ahead.saturating_mul(2);
                }
            }
        }
        Err(Error::Unavailable(
            "the state of the room needs too many events to be resolved".to_owned(),
        ))
    }

    /// Adds events, and the events that authorize them down to `ahead` steps, to the known events.
    async fn read_auth_chains(
        &self,
        needs: BTreeSet<OwnedEventId>,
        ahead: usize,
        known: &mut KnownEvents,
        absent: &mut BTreeSet<OwnedEventId>,
    ) -> Result<()> {
        let mut next: Vec<OwnedEventId> = needs.into_iter().collect();
        for _ in 0..ahead {
            let mut further: BTreeSet<OwnedEventId> = BTreeSet::new();
            for pdu in self.load_auth_chain_events(&next).await? {
                further.extend(pdu.auth_events.iter().cloned());
                known.insert(pdu.event_id.clone(), pdu);
            }
            absent.extend(next.into_iter().filter(|id| !known.contains_key(id)));
            let is_new = |id: &OwnedEventId| !known.contains_key(id) && !absent.contains(id);
            next = further.into_iter().filter(is_new).collect();
            if next.is_empty() || known.len() >= MAX_RESOLUTION_EVENTS {
                break;
            }
        }
        Ok(())
    }

    /// Returns events by their ids, from memory if possible.
    pub(crate) async fn load_auth_chain_events(
        &self,
        ids: &[OwnedEventId],
    ) -> Result<Vec<Arc<Pdu>>> {
        let mut events = Vec::with_capacity(ids.len());
        let mut unknown = Vec::new();
        {
            let auth_events = self.auth_events.lock();
            let auth_events = auth_events.unwrap_or_else(PoisonError::into_inner);
            for id in ids {
                match auth_events.get(id) {
                    Some(pdu) => events.push(pdu.clone()),
                    None => unknown.push(id),
                }
            }
        }
        for chunk in unknown.chunks(IDS_PER_QUERY) {
            let nodes = {
                let mut conn = self.db.read().await?;
                event_graph::find_nodes(&mut conn, chunk.iter().map(|id| id.as_str())).await?
            };
            for node in nodes {
                let pdu = pdu_from_node(&node)?;
                self.remember_auth_event(&pdu);
                events.push(pdu);
            }
        }
        Ok(events)
    }

    fn remember_auth_event(&self, pdu: &Arc<Pdu>) {
        if pdu.rejected || pdu.state_key.is_none() {
            return;
        }
        let auth_events = self.auth_events.lock();
        let mut auth_events = auth_events.unwrap_or_else(PoisonError::into_inner);
        if auth_events.len() >= MAX_REMEMBERED_EVENTS {
            auth_events.clear();
        }
        auth_events.insert(pdu.event_id.clone(), pdu.clone());
    }
}

/// Returns the event of a node.
pub(crate) fn pdu_from_node(node: &EventNode) -> Result<Arc<Pdu>> {
    let status = node.status();
    let mut pdu = Pdu::parse(parse_event_id(&node.event_id)?, &node.json)?;
    pdu.rejected = status == EventStatus::Rejected;
    Ok(Arc::new(pdu))
}
