//! Endpoints that are older than `/sync`: the same responses in another form, and reading one room.
//!
//! See `GET /initialSync` and `GET /events` in the
//! [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3initialsync).

use std::{sync::Arc, time::Duration};

use ruma::{
    RoomId, UInt,
    api::{
        Direction,
        client::{filter::FilterDefinition, sync::sync_events::v3::Response},
    },
    presence::PresenceState,
};
use serde_json::{Map, Value, json, value::RawValue};
use tokio::time::Instant;

use super::{
    MAX_SYNC_TIMEOUT, ProfileUpdates, StateAfterName, SyncAnswer, SyncEnvironment, SyncRequest,
    SyncToken, client_event, remote_echo::PendingSends, response::ResponseBuilder,
    sync_waiters::SyncWaiters, timeline_token, token_reader::TokenReader, write_response,
};
use crate::{
    clock::Clock,
    error::{Error, Result},
    numbers::Position,
    rooms::{
        AggregationViewer, PageRequest, Room, Rooms, TimelinePage, TimelineSelection, UserAccess,
    },
    tasks::Tasks,
    users::Session,
};

/// The number of messages of each room when the client sets no limit, and the largest limit.
const DEFAULT_LIMIT: u32 = 20;
const MAX_LIMIT: u32 = 1_000;
/// The largest number of events of each room in one response.
const MAX_EVENTS_PER_ROOM: u32 = 100;

/// Answers the older endpoints. Cheap to clone.
#[derive(Clone)]
pub(super) struct LegacySync {
    clock: Clock,
    rooms: Rooms,
    waiters: Arc<SyncWaiters>,
    sends: PendingSends,
    tasks: Tasks,
    tokens: TokenReader,
    responses: ResponseBuilder,
}

impl LegacySync {
    pub(super) fn new(
        environment: &SyncEnvironment,
        tokens: &TokenReader,
        responses: &ResponseBuilder,
    ) -> Self {
        Self {
            clock: environment.clock.clone(),
            rooms: environment.rooms.clone(),
            waiters: environment.waiters.clone(),
            sends: environment.sends.clone(),
            tasks: environment.tasks.clone(),
            tokens: tokens.clone(),
            responses: responses.clone(),
        }
    }

    /// Returns the rooms of a user with their latest messages, the presence and the account data.
    pub(super) async fn initial_sync(
        &self,
        session: &Session,
        limit: Option<u32>,
        with_left: bool,
    ) -> Result<Value> {
        let limit = limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
        let mut filter = legacy_filter(limit);
        filter.room.include_leave = with_left;
        let request = legacy_request(None, filter);
        let SyncAnswer {
            response, token, ..
        } = self.responses.respond(session, &request).await?;
        let end = with_to_device_position(token, Position::ZERO).to_string();
        let answer = response_value(&response)?;
        let mut rooms = Vec::new();
        for (section, rooms_of) in room_sections(&answer) {
            for (room_id, room) in rooms_of {
                let shown = legacy_room(session, section, room_id, room, &end);
                rooms.push(self.with_visibility(room_id, shown).await?);
            }
        }
        Ok(json!({
            "end": end, "rooms": rooms, "presence": event_list(value_at(&answer, "/presence/events")),
            "account_data": event_list(value_at(&answer, "/account_data/events")),
        }))
    }

    async fn visibility(&self, room_id: &str) -> Result<&'static str> {
        let Ok(room_id) = <&RoomId>::try_from(room_id) else {
            return Ok("private");
        };
        let room = match self.rooms.memory.room(room_id).await {
            // The room was deleted in the meantime.
            Err(Error::NotFound(_)) => return Ok("private"),
            room => room?,
        };
        let is_public = self.rooms.directory.is_published(&room).await?;
        Ok(if is_public { "public" } else { "private" })
    }

    /// Returns the events since a token, and waits for one if there is none.
    pub(super) async fn events(
        &self,
        session: &Session,
        from: Option<SyncToken>,
        timeout: Duration,
    ) -> Result<Value> {
        let since = from.unwrap_or_else(|| self.tokens.current_token());
        let request = legacy_request(Some(since), legacy_filter(MAX_EVENTS_PER_ROOM));
        let deadline = Instant::now() + timeout.min(MAX_SYNC_TIMEOUT);
        loop {
            let mut waiter = self.waiters.register(session.user);
            let SyncAnswer {
                response,
                token,
                has_own_events,
                ..
            } = self.responses.respond(session, &request).await?;
            if has_own_events {
                self.sends.wait_for_responses(session.device).await;
            }
            let chunk = flatten_events(&response_value(&response)?);
            let is_over = Instant::now() >= deadline || self.tasks.stopping().is_cancelled();
            if !chunk.is_empty() || is_over {
                let end = with_to_device_position(token, since.to_device);
                return Ok(json!({
                    "start": since.to_string(), "end": end.to_string(), "chunk": chunk,
                }));
            }
            tokio::select! {
                () = waiter.wait_for_change() => {}
                () = tokio::time::sleep_until(deadline) => {}
                () = self.tasks.stopping().cancelled() => {}
            }
        }
    }

    async fn with_visibility(&self, room_id: &str, mut room: Value) -> Result<Value> {
        let visibility = self.visibility(room_id).await?;
        if let Some(room) = room.as_object_mut() {
            room.insert("visibility".to_owned(), visibility.into());
        }
        Ok(room)
    }

    /// Returns the events of a room that a user may read after a point of its timeline, and waits for one if there is
    /// none.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::Forbidden`] for a room that the user may not read.
    pub(super) async fn peek_room(
        &self,
        session: &Session,
        room_id: &RoomId,
        from: Option<Position>,
        timeout: Duration,
    ) -> Result<Value> {
        let rooms = &self.rooms;
        let deadline = Instant::now() + timeout.min(MAX_SYNC_TIMEOUT);
        let mut from = from;
        loop {
            let (room, access) = rooms
                .access
                .load_readable_room(room_id, session.user, &session.user_id)
                .await?;
            let change = self.waiters.watch_room(room.num);
            let start = *from.get_or_insert_with(|| room.view().newest_place());
            let page = PageRequest {
                from: start,
                to: None,
                dir: Direction::Forward,
                limit: usize::try_from(MAX_EVENTS_PER_ROOM).unwrap_or(1),
            };
            let selection = TimelineSelection::all(&room, &access);
            let page = rooms.timeline.load_page(selection, page).await?;
            if page.events.is_empty()
                && let Some(end) = page.end
            {
                // Skip past the events that the user may not see.
                from = Some(end);
            }
            let is_over = Instant::now() >= deadline || self.tasks.stopping().is_cancelled();
            if !page.events.is_empty() || is_over {
                let end = page.events.last().map_or(start, |event| event.timeline);
                let chunk = self.peeked_events(session, &room, &access, &page).await?;
                return Ok(json!({
                    "start": timeline_token(start), "end": timeline_token(end), "chunk": chunk,
                }));
            }
            tokio::select! {
                () = change => {}
                () = tokio::time::sleep_until(deadline) => {}
                () = self.tasks.stopping().cancelled() => {}
            }
        }
    }

    /// Writes a page of events of a room.
    async fn peeked_events(
        &self,
        session: &Session,
        room: &Arc<Room>,
        access: &UserAccess,
        page: &TimelinePage,
    ) -> Result<Vec<Box<RawValue>>> {
        let viewer = AggregationViewer {
            access: Some(access),
            user: session.user,
            user_id: &session.user_id,
        };
        let bundles = self
            .rooms
            .relations
            .load_aggregations(room, viewer, &page.events)
            .await?;
        let now = self.clock.now_ms();
        let events = page.events.iter();
        let written = events.map(|event| client_event(event, session, access, &bundles, now));
        Ok(written.collect())
    }
}

fn legacy_filter(limit: u32) -> FilterDefinition {
    let mut filter = FilterDefinition::default();
    filter.room.timeline.limit = Some(UInt::from(limit));
    filter
}

fn legacy_request(since: Option<SyncToken>, filter: FilterDefinition) -> SyncRequest {
    SyncRequest {
        since,
        filter: Arc::new(filter.into()),
        full_state: false,
        timeout: Duration::ZERO,
        set_presence: PresenceState::Online,
        use_state_after: true,
    }
}

/// Sets the to-device position of a token. These endpoints send no to-device messages, so the token must not
/// acknowledge any.
fn with_to_device_position(token: SyncToken, to_device: Position) -> SyncToken {
    SyncToken { to_device, ..token }
}

fn response_value(response: &Response) -> Result<Value> {
    Ok(serde_json::from_str(&write_response(
        response,
        &ProfileUpdates::default(),
        StateAfterName::Stable,
    )?)?)
}

/// Returns the rooms of a response by the user's membership.
fn room_sections(answer: &Value) -> impl Iterator<Item = (&'static str, &Map<String, Value>)> {
    let sections = ["join", "leave", "invite", "knock"].into_iter();
    sections.filter_map(|section| {
        let rooms = answer.pointer(&format!("/rooms/{section}"))?;
        Some((section, rooms.as_object()?))
    })
}

fn legacy_room(session: &Session, section: &str, room_id: &str, room: &Value, end: &str) -> Value {
    let user_id = session.user_id.as_str();
    if let "invite" | "knock" = section {
        let state = event_list(value_at(room, &format!("/{section}_state/events")));
        let own = own_member(&state, user_id).cloned();
        return json!({
            "room_id": room_id, "membership": section, "invite": own, "state": state,
        });
    }
    let state = with_room_id(value_at(room, "/state_after/events"), room_id);
    let membership = own_member(&state, user_id)
        .and_then(|member| value_at(member, "/content/membership").as_str())
        .unwrap_or(section);
    json!({
        "room_id": room_id,
        "membership": membership,
        "messages": {
            "chunk": with_room_id(value_at(room, "/timeline/events"), room_id),
            "start": value_at(room, "/timeline/prev_batch"),
            "end": end,
        },
        "account_data": event_list(value_at(room, "/account_data/events")),
        "state": state,
    })
}

fn own_member<'a>(state: &'a [Value], user_id: &str) -> Option<&'a Value> {
    state.iter().find(|event| {
        value_at(event, "/type") == "m.room.member" && value_at(event, "/state_key") == user_id
    })
}

/// Returns all events of a response in one list.
fn flatten_events(answer: &Value) -> Vec<Value> {
    let mut chunk = Vec::new();
    for (section, rooms) in room_sections(answer) {
        for (room_id, room) in rooms {
            let lists = match section {
                "invite" | "knock" => [
                    value_at(room, &format!("/{section}_state/events")),
                    &Value::Null,
                ],
                _ => [
                    value_at(room, "/timeline/events"),
                    value_at(room, "/ephemeral/events"),
                ],
            };
            chunk.extend(
                lists
                    .into_iter()
                    .flat_map(|events| with_room_id(events, room_id)),
            );
        }
    }
    chunk.extend(event_list(value_at(answer, "/presence/events")));
    chunk
}

fn value_at<'a>(value: &'a Value, path: &str) -> &'a Value {
    value.pointer(path).unwrap_or(&Value::Null)
}

fn event_list(events: &Value) -> Vec<Value> {
    events.as_array().cloned().unwrap_or_default()
}

fn with_room_id(events: &Value, room_id: &str) -> Vec<Value> {
    let mut events = event_list(events);
    for event in events.iter_mut().filter_map(Value::as_object_mut) {
        event.insert("room_id".to_owned(), room_id.into());
    }
    events
}
