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
    connection_state::State, connections::Connections, response::ListResult, response_plan::Plan,
    room::Eye, room_index::Rosters,
};
pub use self::{request::Request, response::Response};
use super::{Inner, LONGEST_WAIT, Sync};
use crate::{
    ephemeral::PresenceUpdate,
    error::{Error, Result},
    storage::Journal,
    users::Session,
};

/// The state of sliding sync, which is kept in memory only.
#[derive(Default)]
pub(super) struct Sliding {
    connections: Arc<Connections>,
    rosters: Rosters,
}

/// A response and the state of the connection after it.
struct Answer {
    response: Response,
    state: State,
    /// Whether the response has any changes for the client.
    is_news: bool,
    /// Whether it contains events that the user has sent.
    shows_own: bool,
}

impl Sliding {
    /// Starts to follow the journal.
    pub(super) fn following(journal: &Journal) -> Self {
        let sliding = Self::default();
        journal.follow(sliding.connections.clone());
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
    pub async fn sliding_sync(&self, session: &Session, request: Request) -> Result<Response> {
        request.check()?;
        let inner = &self.inner;
        let update = PresenceUpdate::syncs(request.presence())?;
        let presence = &inner.ephemeral.presence;
        presence.update(session.user, &session.user_id, update);
        let _waiting = presence.waits(session.user);
        let conn_id = request.conn_id.as_deref().unwrap_or_default();
        let connections = &inner.sliding.connections;
        let mut turn = connections.begin(session.device, conn_id, request.pos.as_deref())?;
        inner.acknowledge(session, &request).await?;
        let timeout = Duration::from_millis(request.timeout.unwrap_or(0));
        let deadline = Instant::now() + timeout.min(LONGEST_WAIT);
        let answer = loop {
            let mut news = inner.waiters.register(session.user);
            let answer = inner.slide(session, &request, &turn.state).await?;
            let is_first = turn.state.since.is_none();
            if is_first || answer.is_news || Instant::now() >= deadline {
                break answer;
            }
            tokio::select! {
                () = news.come() => {}
                () = tokio::time::sleep_until(deadline) => break answer,
                () = inner.tasks.stopping().cancelled() => break answer,
                () = turn.superseded.cancelled() => break answer,
            }
        };
        self.hold_echo(session, answer.shows_own).await;
        let mut response = answer.response;
        turn.state = answer.state;
        match (connections.finish(turn), request.pos) {
            (Some(pos), _) => response.pos = pos,
            // The client has sent another request and does not wait for this one: the response is empty and keeps the
            // position.
            (None, Some(pos)) => {
                response = Response {
                    pos,
                    ..Response::default()
                }
            }
            (None, None) => return Err(Error::UnknownPos),
        }
        Ok(response)
    }
}

impl Inner {
    /// Returns the changes for a client that has received what `before` says.
    async fn slide(&self, session: &Session, request: &Request, before: &State) -> Result<Answer> {
        let (plan, moments) = self.plan(session, request, before).await?;
        let eye = Eye {
            session,
            request,
            plan: &plan,
            since: before.since,
            now_ms: self.clock.now_ms(),
            shield: self.rooms.access.shield(session.user),
            shows_own: AtomicBool::new(false),
        };
        let mut response = Response::default();
        let mut state = before.clone();
        let data = self.room_data(&eye).await?;
        let extensions = &mut response.extensions.others;
        for (look, moment) in plan.looks.iter().zip(&moments) {
            let (room, mut told) = self.look(&eye, look, moment).await?;
            self.add_beside(&eye, (look, moment), &data, &mut told, extensions);
            state.put(look.room, told);
            if let Some(room) = room {
                response.rooms.insert(look.room_id.clone(), room);
            }
        }
        let has_beside = !extensions.account_data.is_empty()
            || !extensions.receipts.is_empty()
            || !extensions.typing.is_empty();
        let extensions = &mut response.extensions;
        let has_more = self.add_extensions(&eye, &before.asked, extensions).await?;
        let counts = plan.counts.iter();
        response.lists = counts
            .map(|(name, count)| (name.clone(), ListResult { count: *count }))
            .collect();
        let has_counted = *before.counts != plan.counts;
        let shows_own = eye.shows_own.load(Ordering::Relaxed);
        state.move_on(plan);
        Ok(Answer {
            is_news: has_beside || has_more || has_counted || !response.rooms.is_empty(),
            response,
            state,
            shows_own,
        })
    }
}

impl State {
    /// Updates the position up to which the client has received everything, and marks the rooms that left its view.
    fn move_on(&mut self, plan: Plan) {
        let gone: Vec<_> = self
            .rooms
            .iter()
            .filter(|(room, told)| told.out_of_sight.is_none() && !plan.in_sight.contains_key(room))
            .map(|(room, told)| (*room, told.clone()))
            .collect();
        for (room, mut told) in gone {
            told.out_of_sight = self.since;
            self.put(room, told);
        }
        self.note_required(plan.looks.iter().map(|look| &look.rule.required));
        self.since = Some(plan.now);
        self.asked = plan.asked;
        self.generation = plan.generation;
        self.counts = Arc::new(plan.counts);
    }
}
