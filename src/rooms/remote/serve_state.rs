//! Serves the state of rooms and its auth chain to other servers.
//!
//! [Retrieving events](https://spec.matrix.org/v1.19/server-server-api/#retrieving-events)

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use ruma::{
    EventId, OwnedEventId, OwnedServerName, RoomId, ServerName, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, oneshot};

use super::FederationReader;
use crate::{
    error::{Error, Result},
    keyed_semaphore::KeyedSemaphore,
    matrix::{Pdu, StateMap},
    rooms::memory::{room::Room, stored_events::state_map},
    storage::rooms::{event_graph, events},
};

/// The largest number of events in an auth chain.
const MAX_AUTH_CHAIN_EVENTS: usize = 500_000;
/// The number of ids in one query.
const IDS_PER_QUERY: usize = 500;
/// Limits for answers with a whole state or auth chain: the number that one server reads at once,
/// the number that it may wait for in addition, and the number of auth chains that are looked up at
/// once for all servers.
const MAX_ANSWERS_PER_SERVER: usize = 3;
const MAX_WAITING_PER_SERVER: usize = 20;
const MAX_PARALLEL_CHAINS: usize = 4;
/// The time in which a server must read such an answer.
const ANSWER_READ_TIMEOUT: Duration = Duration::from_mins(3);
/// The time after which a server may try again if it waits for too many answers.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// The largest number of members shown instead of the name of a room without one.
const MAX_HEROES: usize = 5;

/// The state of a room, and its auth chain.
#[derive(Clone, Debug, Default)]
pub struct StateAnswer {
    /// The state events.
    pub state: Vec<OwnedEventId>,
    /// The events that allow these, and the events that allow those in turn.
    pub auth_chain: Vec<OwnedEventId>,
    /// Whether members were left out.
    pub members_omitted: bool,
    /// The servers that were in the room before the join, if members were left out.
    pub servers_in_room: Vec<OwnedServerName>,
}

/// The turn of a server to read a large answer. It ends when this value is dropped after the answer
/// was read. If the answer is never read, for example because a connection broke off, the next turn
/// starts after a while.
#[derive(Debug)]
pub struct StateAnswerTurn {
    _answer_read: oneshot::Sender<()>,
}

/// Limits on large answers to other servers.
pub(crate) struct StateAnswerLimits {
    turns: KeyedSemaphore<OwnedServerName>,
    chain_permits: Semaphore,
}

impl Default for StateAnswerLimits {
    fn default() -> Self {
        Self {
            turns: KeyedSemaphore::new(MAX_ANSWERS_PER_SERVER, MAX_WAITING_PER_SERVER),
            chain_permits: Semaphore::new(MAX_PARALLEL_CHAINS),
        }
    }
}

impl FederationReader {
    /// Waits for the turn of a server to read the state of a room, or an auth chain.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`] when the server waits for too many answers already.
    pub async fn wait_for_answer_turn(&self, server: &ServerName) -> Result<StateAnswerTurn> {
        let Some(place) = self.answer_limits.turns.enqueue(&server.to_owned()) else {
            return Err(Error::LimitExceeded {
                retry_after: RETRY_AFTER,
            });
        };
        let turn = place.acquire().await;
        let (answer_read, when_read) = oneshot::channel();
        let stopping = self.tasks.stopping().clone();
        drop(self.tasks.spawn(async move {
            tokio::select! {
                _ = when_read => {}
                () = tokio::time::sleep(ANSWER_READ_TIMEOUT) => {}
                () = stopping.cancelled() => {}
            }
            drop(turn);
        }));
        Ok(StateAnswerTurn {
            _answer_read: answer_read,
        })
    }

    /// Returns the state before a join, and the auth chain of the state and the join.
    ///
    /// With `omit_members`, includes only the members without which the room cannot be shown, and
    /// no event twice.
    pub async fn join_answer(
        &self,
        join: &Pdu,
        before: &StateMap,
        omit_members: bool,
    ) -> Result<StateAnswer> {
        let heroes = if omit_members {
            heroes(before, &join.sender)
        } else {
            Vec::new()
        };
        let is_included = |pdu: &&Arc<Pdu>| {
            let is_hero = || heroes.iter().any(|hero| hero.event_id == pdu.event_id);
            !omit_members || pdu.state_type() != StateEventType::RoomMember || is_hero()
        };
        let included: Vec<Arc<Pdu>> = before.iter().filter(is_included).cloned().collect();
        let mut chain = self
            .auth_chain(before, included.iter().map(|pdu| &**pdu).chain([join]))
            .await?;
        let mut answer = StateAnswer {
            state: included.iter().map(|pdu| pdu.event_id.clone()).collect(),
            members_omitted: omit_members,
            ..StateAnswer::default()
        };
        if omit_members {
            for id in &answer.state {
                chain.remove(id);
            }
            answer.servers_in_room = joined_servers(before);
        }
        answer.auth_chain = chain.into_iter().collect();
        Ok(answer)
    }

    /// Returns the state before an event, and its auth chain.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the event, or the state before it, is not known.
    pub async fn state_answer(&self, room: &Room, event_id: &EventId) -> Result<StateAnswer> {
        let state = self.state_before_event(room, event_id).await?;
        let chain = self
            .auth_chain(&state, state.iter().map(|pdu| &**pdu))
            .await?;
        Ok(StateAnswer {
            state: state.iter().map(|pdu| pdu.event_id.clone()).collect(),
            auth_chain: chain.into_iter().collect(),
            ..StateAnswer::default()
        })
    }

    /// Returns the state before an event.
    pub(crate) async fn state_before_event(
        &self,
        room: &Room,
        event_id: &EventId,
    ) -> Result<StateMap> {
        let mut tx = self.db.snapshot().await?;
        let node = event_graph::find_nodes(&mut tx, [event_id.as_str()])
            .await?
            .pop();
        let node = node.filter(|node| node.room == room.num);
        let snapshot = node.and_then(|node| node.state);
        let snapshot =
            snapshot.ok_or_else(|| Error::not_found("the state before the event is not known"))?;
        {
            // All requests for the current state share the copy in memory.
            let view = room.view();
            if view.snapshot == snapshot {
                return Ok(view.state.clone());
            }
        }
        state_map(&mut tx, snapshot).await
    }

    /// Returns the auth chain of an event.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such event.
    pub async fn auth_chain_of(
        &self,
        room: &Room,
        event_id: &EventId,
    ) -> Result<Vec<OwnedEventId>> {
        let event = self
            .log
            .load_auth_chain_events(&[event_id.to_owned()])
            .await?
            .pop();
        let event = event.filter(|pdu| pdu.room_id == room.room_id);
        let event = event.ok_or_else(|| Error::not_found("there is no such event"))?;
        let state = room.view().state.clone();
        let chain = self.auth_chain(&state, [&*event]).await?;
        Ok(chain.into_iter().collect())
    }

    /// Returns the auth chain of events; `state` holds events that are in memory already.
    async fn auth_chain<'a>(
        &self,
        state: &StateMap,
        events: impl IntoIterator<Item = &'a Pdu>,
    ) -> Result<HashSet<OwnedEventId>> {
        // The semaphore is never closed.
        let _turn = self.answer_limits.chain_permits.acquire().await;
        let here: HashMap<&OwnedEventId, &Arc<Pdu>> =
            state.iter().map(|pdu| (&pdu.event_id, pdu)).collect();
        let mut chain: HashSet<OwnedEventId> = HashSet::new();
        let mut next: Vec<OwnedEventId> = Vec::new();
        for pdu in events {
            next.extend(pdu.auth_events.iter().cloned());
        }
        // Since version 12, no event names the create event, although all depend on it.
        let create = state.get(&StateEventType::RoomCreate, "");
        next.extend(create.map(|create| create.event_id.clone()));
        while !next.is_empty() && chain.len() < MAX_AUTH_CHAIN_EVENTS {
            let unread = extend_auth_chain(&mut chain, std::mem::take(&mut next), &here);
            for pdu in self.log.load_auth_chain_events(&unread).await? {
                next.extend(pdu.auth_events.iter().cloned());
            }
        }
        Ok(chain)
    }

    /// Returns events as a server may receive them, in the same order; leaves out events that are
    /// not stored.
    pub async fn load_events_for_server(
        &self,
        server: &ServerName,
        ids: &[OwnedEventId],
    ) -> Result<Vec<Box<RawValue>>> {
        let mut jsons = Vec::with_capacity(ids.len());
        let mut redactor = self.erased_user_redactor(server);
        for chunk in ids.chunks(IDS_PER_QUERY) {
            let rows = {
                let mut conn = self.db.read().await?;
                events::by_ids(&mut conn, chunk.iter().map(|id| id.as_str())).await?
            };
            let mut rows: HashMap<String, String> = rows
                .into_iter()
                .map(|row| (row.event_id, row.json))
                .collect();
            let stored = chunk
                .iter()
                .filter_map(|id| Some((id, rows.remove(id.as_str())?)));
            for (id, json) in stored {
                let json = RawValue::from_string(json)?;
                jsons.push(redactor.redact_if_erased(id, json).await?);
            }
        }
        Ok(jsons)
    }

    /// Returns the servers in a room: those with a joined user.
    pub async fn servers_in_room(&self, room_id: &RoomId) -> Result<Vec<OwnedServerName>> {
        let room = self.memory.room(room_id).await?;
        let view = room.view();
        Ok(view.servers.keys().cloned().collect())
    }
}

/// Adds events to an auth chain, and those in memory to which they lead. Returns the new ones that are not in memory.
fn extend_auth_chain(
    chain: &mut HashSet<OwnedEventId>,
    mut next: Vec<OwnedEventId>,
    in_memory: &HashMap<&OwnedEventId, &Arc<Pdu>>,
) -> Vec<OwnedEventId> {
    let mut unread = Vec::new();
    while let Some(id) = next.pop() {
        if !chain.insert(id.clone()) {
            continue;
        }
        match in_memory.get(&id) {
            Some(pdu) => next.extend(pdu.auth_events.iter().cloned()),
            None => unread.push(id),
        }
    }
    unread
}

/// Returns the servers that have a joined user in a state.
fn joined_servers(state: &StateMap) -> Vec<OwnedServerName> {
    let members = state.of_type(&StateEventType::RoomMember);
    let joined = members.filter(|pdu| pdu.membership() == Some(MembershipState::Join));
    let servers = joined.filter_map(|pdu| Some(pdu.member()?.server_name().to_owned()));
    let servers: BTreeSet<OwnedServerName> = servers.collect();
    servers.into_iter().collect()
}

/// Returns the heroes: the members whose names are shown for a room without a name.
fn heroes(state: &StateMap, joiner: &UserId) -> Vec<Arc<Pdu>> {
    let has = |kind: &StateEventType| state.get(kind, "").is_some();
    if has(&StateEventType::RoomName) || has(&StateEventType::RoomCanonicalAlias) {
        return Vec::new();
    }
    let is_there = |pdu: &&Arc<Pdu>| {
        let membership = pdu.membership();
        matches!(
            membership,
            Some(MembershipState::Join | MembershipState::Invite)
        ) && pdu.member() != Some(joiner)
    };
    let mut heroes: Vec<Arc<Pdu>> = state
        .of_type(&StateEventType::RoomMember)
        .filter(is_there)
        .cloned()
        .collect();
    heroes.sort_by_key(|pdu| (pdu.origin_server_ts, pdu.event_id.clone()));
    heroes.truncate(MAX_HEROES);
    heroes
}
