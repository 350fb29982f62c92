//! Redacting the events that relate to a redacted event, such as the edits of a message or the replies in a thread.
//!
//! A request is stored, and carried out by a task in the background, also after a restart. For some days, it also applies
//! to events that arrive later from other servers.
//!
//! See [MSC3912](https://github.com/matrix-org/matrix-spec-proposals/pull/3912).

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::{OwnedEventId, OwnedServerName, RoomId, events::TimelineEventType};
use serde_json::{json, value::to_raw_value};
use tokio::sync::Notify;

use super::{RelatedRedactions, send_occasion::SendOccasion};
use crate::{
    error::{Error, Result},
    matrix::{self, Pdu, rel_type},
    numbers::{Position, RoomNum, StringNum, UserNum},
    rooms::log::new_event::EventToSend,
    storage::{
        JournalChange, JournalFollower,
        rooms::related_redactions::{
            self, RedactionTargetRow, RelatedEventRow, RelatedEventsQuery, RelatedRedactionRow,
        },
    },
};

/// The number of events that one request redacts. The same request redacts the next ones.
const MAX_RELATED_EVENTS: usize = 2_000;
/// The number of events that are redacted before another request gets its turn.
const EVENTS_PER_TURN: usize = 50;
/// The number of relationship types of a request, and their length.
const MAX_REL_TYPES: usize = 50;
const MAX_REL_TYPE_BYTES: usize = 255;
/// The relationship type that stands for all.
const ANY_REL_TYPE: &str = "*";
/// The time for which events that arrive later are redacted: servers that were unreachable send them within days.
const REQUEST_LIFETIME_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// The number of requests in memory. Of older ones, events that arrive later are not redacted.
const MAX_KNOWN_REQUESTS: usize = 10_000;

/// A request to redact the events that relate to another.
#[derive(Clone, Debug)]
pub struct RelatedRedactionRequest {
    target: OwnedEventId,
    rel_types: Vec<String>,
    reason: Option<String>,
}

/// The requests in memory, and the work that they cause.
pub(crate) struct RedactionQueue {
    server_name: OwnedServerName,
    state: Mutex<QueueState>,
    work_added: Notify,
}

#[derive(Default)]
struct QueueState {
    /// The users with requests, by room and by the event that others relate to.
    requests: HashMap<RoomNum, HashMap<String, HashSet<UserNum>>>,
    request_count: usize,
    work: VecDeque<RedactionWork>,
    /// The requests that are in `work` and have not begun.
    waiting: HashSet<RedactionTargetRow>,
}

/// A request that is being carried out.
struct RedactionWork {
    target: RedactionTargetRow,
    /// The place in the timeline up to which events were redacted.
    done: Position,
    redacted_events: usize,
}

impl RelatedRedactionRequest {
    /// Returns a request; `None` without relationship types.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when there are too many relationship types, or they are too long.
    pub fn new(
        target: OwnedEventId,
        rel_types: Vec<String>,
        reason: Option<String>,
    ) -> Result<Option<Self>> {
        let is_too_long = |rel_type: &String| rel_type.len() > MAX_REL_TYPE_BYTES;
        if rel_types.len() > MAX_REL_TYPES || rel_types.iter().any(is_too_long) {
            return Err(Error::invalid_param(format!(
                "at most {MAX_REL_TYPES} relationship types of {MAX_REL_TYPE_BYTES} bytes are allowed"
            )));
        }
        let request = Self {
            target,
            rel_types,
            reason,
        };
        Ok((!request.rel_types.is_empty()).then_some(request))
    }
}

impl RedactionQueue {
    pub(super) fn new(server_name: OwnedServerName) -> Self {
        Self {
            server_name,
            state: Mutex::default(),
            work_added: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request.
    fn add(&self, target: RedactionTargetRow) {
        let mut state = self.lock();
        state.add_request(&target);
        state.add_work(target);
        drop(state);
        self.work_added.notify_one();
    }

    /// Begins again with the requests that concern a new event of another server.
    fn handle_event(&self, room: RoomNum, pdu: &Pdu) {
        if pdu.sender.server_name() == self.server_name {
            return;
        }
        if let Some(relates_to) = &pdu.relates_to {
            self.repeat_for_event(room, relates_to.event_id.as_str());
        }
    }

    /// Begins again with the requests for events that relate to an event.
    fn repeat_for_event(&self, room: RoomNum, target: &str) {
        let mut state = self.lock();
        let known = state.requests.get(&room);
        let Some(senders) = known.and_then(|by_target| by_target.get(target)).cloned() else {
            return;
        };
        for sender in senders {
            state.add_work(RedactionTargetRow {
                room,
                target: target.to_owned(),
                sender,
            });
        }
        drop(state);
        self.work_added.notify_one();
    }

    /// Begins again with all requests of a room.
    fn repeat_for_room(&self, room: RoomNum) {
        let targets: Vec<String> = {
            let state = self.lock();
            let known = state.requests.get(&room);
            known
                .into_iter()
                .flatten()
                .map(|(id, _)| id.clone())
                .collect()
        };
        for target in targets {
            self.repeat_for_event(room, &target);
        }
    }

    fn take_work(&self) -> Option<RedactionWork> {
        let mut state = self.lock();
        let work = state.work.pop_front()?;
        state.waiting.remove(&work.target);
        Some(work)
    }
}

impl QueueState {
    fn add_request(&mut self, request: &RedactionTargetRow) {
        if self.request_count >= MAX_KNOWN_REQUESTS {
            return;
        }
        let by_target = self.requests.entry(request.room).or_default();
        let senders = by_target.entry(request.target.clone()).or_default();
        self.request_count += usize::from(senders.insert(request.sender));
    }

    fn remove_request(&mut self, request: &RedactionTargetRow) {
        let Some(by_target) = self.requests.get_mut(&request.room) else {
            return;
        };
        let Some(senders) = by_target.get_mut(&request.target) else {
            return;
        };
        self.request_count -= usize::from(senders.remove(&request.sender));
        if senders.is_empty() {
            by_target.remove(&request.target);
        }
        if by_target.is_empty() {
            self.requests.remove(&request.room);
        }
    }

    fn add_work(&mut self, target: RedactionTargetRow) {
        if self.waiting.insert(target.clone()) {
            self.work.push_back(RedactionWork {
                target,
                done: Position::MIN,
                redacted_events: 0,
            });
        }
    }
}

impl JournalFollower for RedactionQueue {
    fn committed(&self, changes: &[(Position, JournalChange)]) {
        for (_, change) in changes {
            match change {
                JournalChange::Event { room, event, .. } => self.handle_event(*room, &event.pdu),
                JournalChange::Backfilled { room } => self.repeat_for_room(*room),
                _ => {}
            }
        }
    }

    fn failed(&self) {}
}

impl RelatedRedactions {
    /// Redacts the events that relate to an event, on behalf of a user who has redacted that event. The request is on
    /// disk when this returns; the events are redacted afterwards.
    ///
    /// Events that the user may not redact are left as they are.
    pub async fn redact_related_events(
        &self,
        room_id: &RoomId,
        sender: UserNum,
        request: RelatedRedactionRequest,
    ) -> Result<()> {
        let target = RedactionTargetRow {
            room: self.memory.room_number(room_id).await?,
            target: request.target.to_string(),
            sender,
        };
        let now = self.clock.now_ms();
        let row = RelatedRedactionRow {
            rel_types: serde_json::to_string(&request.rel_types)?,
            reason: request.reason,
            requested_ts: now,
        };
        let mut tx = self.db.write().await?;
        related_redactions::remove_before(&mut tx, now - REQUEST_LIFETIME_MS).await?;
        related_redactions::set(&mut tx, &target, &row).await?;
        tx.commit().await?;
        self.queue.add(target);
        Ok(())
    }

    /// Starts the task that carries out the requests until the server stops.
    pub(crate) fn start(&self) {
        drop(self.tasks.spawn(self.clone().work_until_stopped()));
    }

    async fn work_until_stopped(self) {
        let stopping = self.tasks.stopping().clone();
        if let Err(error) = self.load_requests().await {
            tracing::warn!(%error, "the requests to redact related events could not be read");
        }
        while !stopping.is_cancelled() {
            let Some(work) = self.queue.take_work() else {
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = self.queue.work_added.notified() => continue,
                }
            };
            match self.redact_next_events(work).await {
                Ok(Some(rest)) => self.queue.lock().work.push_back(rest),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "related events could not be redacted"),
            }
        }
    }

    async fn load_requests(&self) -> Result<()> {
        let limit = i64::try_from(MAX_KNOWN_REQUESTS).unwrap_or(i64::MAX);
        let earliest = self.clock.now_ms() - REQUEST_LIFETIME_MS;
        let mut tx = self.db.write().await?;
        related_redactions::remove_before(&mut tx, earliest).await?;
        let targets = related_redactions::newest(&mut tx, limit).await?;
        tx.commit().await?;
        for target in targets {
            self.queue.add(target);
        }
        Ok(())
    }

    /// Redacts the next events of a request; returns the rest of the work.
    async fn redact_next_events(&self, mut work: RedactionWork) -> Result<Option<RedactionWork>> {
        let mut conn = self.db.read().await?;
        let request = related_redactions::find(&mut conn, &work.target).await?;
        drop(conn);
        let earliest = self.clock.now_ms() - REQUEST_LIFETIME_MS;
        let request = request.filter(|request| request.requested_ts >= earliest);
        let Some(request) = request else {
            self.queue.lock().remove_request(&work.target);
            return Ok(None);
        };
        let events = self.find_events(&work, &request).await?;
        for event in &events {
            work.done = event.timeline;
            work.redacted_events += 1;
            self.redact_event(&work.target, &event.event_id, request.reason.as_deref())
                .await?;
        }
        let is_over = events.len() < EVENTS_PER_TURN || work.redacted_events >= MAX_RELATED_EVENTS;
        Ok((!is_over).then_some(work))
    }

    async fn find_events(
        &self,
        work: &RedactionWork,
        request: &RelatedRedactionRow,
    ) -> Result<Vec<RelatedEventRow>> {
        let room = match self.memory.room_by_number(work.target.room).await {
            Ok(room) => room,
            // The room was deleted.
            Err(Error::NotFound(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let state = room.view().state.clone();
        let mut conn = self.db.read().await?;
        let strings = &self.db.strings;
        let sender = strings.user_id(&mut conn, work.target.sender).await?;
        let rel_types: Vec<String> = serde_json::from_str(&request.rel_types)?;
        let mut numbers = Vec::with_capacity(rel_types.len());
        for rel_type in &rel_types {
            numbers.extend(strings.find_number(&mut conn, rel_type).await?);
        }
        let is_any = rel_types.iter().any(|rel_type| rel_type == ANY_REL_TYPE);
        let replacement = strings.find_number(&mut conn, rel_type::M_REPLACE).await?;
        let levels = matrix::power_levels(&state, &room.rules);
        let query = RelatedEventsQuery {
            target: &work.target,
            rel_types: (!is_any).then_some(numbers),
            includes_others: levels.user_can_redact_event_of_other(&sender),
            replacement: replacement.unwrap_or(StringNum::NONE),
            after: work.done,
            limit: i64::try_from(EVENTS_PER_TURN).unwrap_or(i64::MAX),
        };
        related_redactions::related_events(&mut conn, &query).await
    }

    async fn redact_event(
        &self,
        target: &RedactionTargetRow,
        event_id: &str,
        reason: Option<&str>,
    ) -> Result<()> {
        let mut conn = self.db.read().await?;
        let sender = self.db.strings.user_id(&mut conn, target.sender).await?;
        drop(conn);
        let mut content = json!({ "redacts": event_id });
        if let (Some(content), Some(reason)) = (content.as_object_mut(), reason) {
            content.insert("reason".to_owned(), reason.into());
        }
        let kind = TimelineEventType::RoomRedaction;
        let event = EventToSend::message(sender, kind, to_raw_value(&content)?, None);
        let (room, occasion) = (target.room, SendOccasion::Background);
        match self.sender.send_to_completion(room, event, occasion).await {
            Err(error @ (Error::Internal { .. } | Error::StorageFull)) => Err(error),
            Err(error) => {
                tracing::debug!(%error, %event_id, "a related event is not redacted");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }
}
