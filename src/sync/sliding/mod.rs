//! Sliding sync: a client says which rooms it displays, and receives the changes of those.
//!
//! `request` is the request of a client and `required_state` the state that it asks for. `room_index` sorts a user's
//! rooms. `response_plan` finds the rooms to read, `room` and `room_description` write the changes of one, and
//! `extensions` and `room_extensions` write the extensions. `connection_state` is what a client has received, and
//! `connections` keeps it.
//!
//! See [MSC4186](https://github.com/matrix-org/matrix-spec-proposals/pull/4186).

mod connection_state;
mod connections;
mod extensions;
mod request;
mod required_state;
mod response;
mod response_plan;
mod room;
mod room_description;
mod room_extensions;
mod room_index;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use self::{
    connection_state::ConnectionState, connections::SlidingConnections, response::ListResult,
    response_plan::ResponsePlan, room::SlidingContext, room_index::RoomIndexes,
};
pub use self::{request::SlidingSyncRequest, response::SlidingSyncResponse};
use super::{MAX_SYNC_TIMEOUT, Sync, SyncInner};
use crate::{
    ephemeral::PresenceUpdate,
    error::{Error, Result},
    storage::Journal,
    users::Session,
};

/// The state of sliding sync, which is kept in memory only.
#[derive(Default)]
pub(super) struct SlidingSync {
    connections: Arc<SlidingConnections>,
    room_indexes: RoomIndexes,
}

/// A response and the state of the connection after it.
struct SlidingAnswer {
    response: SlidingSyncResponse,
    state: ConnectionState,
    /// Whether the response has any changes for the client.
    has_changes: bool,
    /// Whether it contains events that the user has sent.
    has_own_events: bool,
}

impl SlidingSync {
    /// Starts to follow the journal.
    pub(super) fn start(journal: &Journal) -> Self {
        let sliding = Self::default();
        journal.add_follower(sliding.connections.clone());
        sliding
    }
}

impl Sync {
    /// Returns the changes of the rooms that a client displays, and waits for a change if there is none.
    ///
    /// See [MSC4186](https://github.com/matrix-org/matrix-spec-proposals/pull/4186).
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPos`] when the connection is unknown, or was forgotten; [`Error::InvalidParam`] when the client
    /// asks for too much.
    pub async fn sliding_sync(
        &self,
        session: &Session,
        request: SlidingSyncRequest,
    ) -> Result<SlidingSyncResponse> {
        request.check()?;
        let inner = &self.inner;
        let update = PresenceUpdate::set_by_sync(request.presence())?;
        let presence = &inner.ephemeral.presence;
        presence.update(session.user, &session.user_id, update);
        let _waiting = presence.keep_online(session.user);
        let conn_id = request.conn_id.as_deref().unwrap_or_default();
        let connections = &inner.sliding.connections;
        let mut turn =
            connections.begin_request(session.device, conn_id, request.pos.as_deref())?;
        inner.acknowledge_to_device(session, &request).await?;
        let timeout = Duration::from_millis(request.timeout.unwrap_or(0));
        let deadline = Instant::now() + timeout.min(MAX_SYNC_TIMEOUT);
        let answer = loop {
            let mut news = inner.waiters.register(session.user);
            let answer = inner
                .compute_sliding_response(session, &request, &turn.state)
                .await?;
            let is_first = turn.state.since.is_none();
            if is_first || answer.has_changes || Instant::now() >= deadline {
                break answer;
            }
            tokio::select! {
                () = news.wait_for_change() => {}
                () = tokio::time::sleep_until(deadline) => break answer,
                () = inner.tasks.stopping().cancelled() => break answer,
                () = turn.superseded.cancelled() => break answer,
            }
        };
        self.wait_for_send_responses(session, answer.has_own_events)
            .await;
        let mut response = answer.response;
        turn.state = answer.state;
        match (connections.finish_request(turn), request.pos) {
            (Some(pos), _) => response.pos = pos,
            // The client has sent another request and does not wait for this one: the response is empty and keeps the
            // position.
            (None, Some(pos)) => {
                response = SlidingSyncResponse {
                    pos,
                    ..SlidingSyncResponse::default()
                }
            }
            (None, None) => return Err(Error::UnknownPos),
        }
        Ok(response)
    }
}

impl SyncInner {
    /// Returns the changes for a client that has received what `before` says.
    async fn compute_sliding_response(
        &self,
        session: &Session,
        request: &SlidingSyncRequest,
        before: &ConnectionState,
    ) -> Result<SlidingAnswer> {
        let (plan, moments) = self.plan_response(session, request, before).await?;
        let eye = SlidingContext {
            session,
            request,
            plan: &plan,
            since: before.since,
            now_ms: self.clock.now_ms(),
            ignore_settings: self.rooms.access.find_ignore_settings(session.user),
            has_own_events: AtomicBool::new(false),
        };
        let mut response = SlidingSyncResponse::default();
        let mut state = before.clone();
        let data = self.load_room_account_data(&eye).await?;
        let extensions = &mut response.extensions.others;
        for (look, moment) in plan.planned_rooms.iter().zip(&moments) {
            let (room, mut told) = self.read_room(&eye, look, moment).await?;
            self.add_room_extensions(&eye, (look, moment), &data, &mut told, extensions);
            state.record_room(look.room, told);
            if let Some(room) = room {
                response.rooms.insert(look.room_id.clone(), room);
            }
        }
        let has_beside = !extensions.account_data.is_empty()
            || !extensions.receipts.is_empty()
            || !extensions.typing.is_empty();
        let extensions = &mut response.extensions;
        let has_more = self
            .add_extensions(&eye, &before.request_parameters, extensions)
            .await?;
        let counts = plan.counts.iter();
        response.lists = counts
            .map(|(name, count)| (name.clone(), ListResult { count: *count }))
            .collect();
        let has_counted = *before.counts != plan.counts;
        let shows_own = eye.has_own_events.load(Ordering::Relaxed);
        state.advance_past(plan);
        Ok(SlidingAnswer {
            has_changes: has_beside || has_more || has_counted || !response.rooms.is_empty(),
            response,
            state,
            has_own_events: shows_own,
        })
    }
}

impl ConnectionState {
    /// Updates the position up to which the client has received everything, and marks the rooms that left its view.
    fn advance_past(&mut self, plan: ResponsePlan) {
        let gone: Vec<_> = self
            .rooms
            .iter()
            .filter(|(room, told)| {
                told.out_of_view_since.is_none() && !plan.rooms_in_view.contains_key(room)
            })
            .map(|(room, told)| (*room, told.clone()))
            .collect();
        for (room, mut told) in gone {
            told.out_of_view_since = self.since;
            self.record_room(room, told);
        }
        self.record_required_states(
            plan.planned_rooms
                .iter()
                .map(|look| &look.parameters.required_state),
        );
        self.since = Some(plan.now);
        self.request_parameters = plan.request_parameters;
        self.generation = plan.generation;
        self.counts = Arc::new(plan.counts);
    }
}
