//! Sliding sync: a client says which rooms it displays, and receives the changes of those.
//!
//! `request` is the request of a client and `required_state` the state that it asks for. `room_index` sorts a user's
//! rooms, and `room_indexes` keeps those of all users. `response_plan` finds the rooms to read, and `planner` takes
//! their snapshots. `room`, `changed_state` and `room_description` write the changes of one, and `extensions` and
//! `room_extensions` write the extensions. `connection_state` is what a client has received, and `connections`
//! keeps it.
//!
//! See [MSC4186](https://github.com/matrix-org/matrix-spec-proposals/pull/4186).

mod changed_state;
mod connection_state;
mod connections;
mod context;
mod extensions;
mod planner;
mod request;
mod required_state;
mod response;
mod response_plan;
mod room;
mod room_description;
mod room_extensions;
mod room_index;
mod room_indexes;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use self::{
    connection_state::ConnectionState,
    connections::SlidingConnections,
    context::SlidingContext,
    extensions::ExtensionReader,
    planner::{PlannedResponse, ResponsePlanner},
    response::ListResult,
    response_plan::ResponsePlan,
    room::SlidingRoomReader,
    room_extensions::{ExtensionRoom, RoomExtensionReader},
};
pub use self::{request::SlidingSyncRequest, response::SlidingSyncResponse};
use super::{
    MAX_SYNC_TIMEOUT, PendingSends, SyncEnvironment, SyncWaiters,
    account_data::AccountDataReader,
    changed_rooms::ChangedRoomReader,
    device_lists::DeviceListReader,
    device_sections::DeviceSections,
    snapshot::{RoomSnapshot, SnapshotReader},
    sticky_events::StickySections,
    sync_viewer::SentEvents,
    timeline_reader::TimelineReader,
    token_reader::TokenReader,
};
use crate::{
    clock::Clock,
    ephemeral::{EphemeralState, PresenceUpdate},
    error::{Error, Result},
    rooms::Rooms,
    tasks::Tasks,
    users::Session,
};

/// Sliding sync. Its state is kept in memory only. Cheap to clone.
#[derive(Clone)]
pub(super) struct SlidingSync {
    clock: Clock,
    rooms: Rooms,
    ephemeral: EphemeralState,
    waiters: Arc<SyncWaiters>,
    sends: PendingSends,
    tasks: Tasks,
    connections: Arc<SlidingConnections>,
    planner: ResponsePlanner,
    room_reader: SlidingRoomReader,
    extensions: ExtensionReader,
    room_extensions: RoomExtensionReader,
}

/// The services that sliding sync shares with `/sync`.
pub(super) struct SlidingSections {
    pub(super) tokens: TokenReader,
    pub(super) changed_rooms: ChangedRoomReader,
    pub(super) snapshots: SnapshotReader,
    pub(super) account_data: AccountDataReader,
    pub(super) devices: DeviceSections,
    pub(super) device_lists: DeviceListReader,
    pub(super) timelines: TimelineReader,
    pub(super) sticky: StickySections,
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
    pub(super) fn start(environment: &SyncEnvironment, sections: &SlidingSections) -> Self {
        let connections = Arc::new(SlidingConnections::default());
        environment.db.journal().add_follower(connections.clone());
        Self {
            clock: environment.clock.clone(),
            rooms: environment.rooms.clone(),
            ephemeral: environment.ephemeral.clone(),
            waiters: environment.waiters.clone(),
            sends: environment.sends.clone(),
            tasks: environment.tasks.clone(),
            connections,
            planner: ResponsePlanner::new(environment, sections),
            room_reader: SlidingRoomReader::new(environment, sections),
            extensions: ExtensionReader::new(environment, sections),
            room_extensions: RoomExtensionReader::new(environment, sections),
        }
    }

    /// Returns the changes of the rooms that a client displays, and waits for a change if there is none.
    pub(super) async fn sync(
        &self,
        session: &Session,
        request: SlidingSyncRequest,
    ) -> Result<SlidingSyncResponse> {
        request.check()?;
        let update = PresenceUpdate::set_by_sync(request.presence())?;
        let presence = &self.ephemeral.presence;
        presence.update(session.user, &session.user_id, update);
        let _waiting = presence.keep_online(session.user);
        let conn_id = request.conn_id.as_deref().unwrap_or_default();
        let connections = &self.connections;
        let mut running =
            connections.begin_request(session.device, conn_id, request.pos.as_deref())?;
        self.extensions
            .acknowledge_to_device(session, &request)
            .await?;
        let timeout = Duration::from_millis(request.timeout.unwrap_or(0));
        let deadline = Instant::now() + timeout.min(MAX_SYNC_TIMEOUT);
        let answer = loop {
            let mut waiter = self.waiters.register(session.user);
            let answer = self.respond(session, &request, &running.state).await?;
            let is_first = running.state.since.is_none();
            if is_first || answer.has_changes || Instant::now() >= deadline {
                break answer;
            }
            tokio::select! {
                () = waiter.wait_for_change() => {}
                () = tokio::time::sleep_until(deadline) => break answer,
                () = self.tasks.stopping().cancelled() => break answer,
                () = running.superseded.cancelled() => break answer,
            }
        };
        if answer.has_own_events {
            self.sends.wait_for_responses(session.device).await;
        }
        let mut response = answer.response;
        running.state = answer.state;
        match (connections.finish_request(running), request.pos) {
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

    /// Returns the changes for a client that has received what `before` says.
    async fn respond(
        &self,
        session: &Session,
        request: &SlidingSyncRequest,
        before: &ConnectionState,
    ) -> Result<SlidingAnswer> {
        let PlannedResponse { plan, snapshots } =
            self.planner.plan_response(session, request, before).await?;
        let context = SlidingContext {
            session,
            request,
            plan: &plan,
            since: before.since,
            now_ms: self.clock.now_ms(),
            ignore_settings: self.rooms.access.find_ignore_settings(session.user),
            sent_events: SentEvents::default(),
        };
        let mut response = SlidingSyncResponse::default();
        let mut state = before.clone();
        self.read_rooms(&context, &snapshots, &mut response, &mut state)
            .await?;
        let extensions = &response.extensions.others;
        let has_room_extensions = !extensions.account_data.is_empty()
            || !extensions.receipts.is_empty()
            || !extensions.typing.is_empty();
        let has_extensions = self
            .extensions
            .add_extensions(
                &context,
                &before.request_parameters,
                &mut response.extensions,
            )
            .await?;
        let counts = plan.counts.iter();
        response.lists = counts
            .map(|(name, count)| (name.clone(), ListResult { count: *count }))
            .collect();
        let has_other_counts = *before.counts != plan.counts;
        let has_own_events = context.sent_events.has_own_events();
        state.advance_past(plan);
        Ok(SlidingAnswer {
            has_changes: has_room_extensions
                || has_extensions
                || has_other_counts
                || !response.rooms.is_empty(),
            response,
            state,
            has_own_events,
        })
    }
    /// Adds the planned rooms with their extensions, and records what the client then has.
    async fn read_rooms(
        &self,
        context: &SlidingContext<'_>,
        snapshots: &[RoomSnapshot],
        response: &mut SlidingSyncResponse,
        state: &mut ConnectionState,
    ) -> Result<()> {
        let data = self.room_extensions.load_room_account_data(context).await?;
        let extensions = &mut response.extensions.others;
        for (planned, snapshot) in context.plan.planned_rooms.iter().zip(snapshots) {
            let update = self.room_reader.read_room(context, planned, snapshot);
            let mut update = update.await?;
            let room = ExtensionRoom {
                context,
                planned,
                snapshot,
            };
            self.room_extensions
                .add_room_extensions(&room, &data, &mut update.sent, extensions);
            state.record_room(planned.room, update.sent);
            if let Some(room) = update.room {
                response.rooms.insert(planned.room_id.clone(), room);
            }
        }
        Ok(())
    }
}

impl ConnectionState {
    /// Updates the position up to which the client has received everything, and marks the rooms that left its view.
    fn advance_past(&mut self, plan: ResponsePlan) {
        let gone: Vec<_> = self
            .rooms
            .iter()
            .filter(|(room, sent)| {
                sent.out_of_view_since.is_none() && !plan.rooms_in_view.contains_key(room)
            })
            .map(|(room, sent)| (*room, sent.clone()))
            .collect();
        for (room, mut sent) in gone {
            sent.out_of_view_since = self.since;
            self.record_room(room, sent);
        }
        self.record_required_states(
            plan.planned_rooms
                .iter()
                .map(|planned| &planned.parameters.required_state),
        );
        self.since = Some(plan.now);
        self.request_parameters = plan.request_parameters;
        self.generation = plan.generation;
        self.counts = Arc::new(plan.counts);
    }
}
