//! The changes of one room for a client, and the record of what the client has received of it.

use std::sync::Arc;

use ruma::{
    events::{AnySyncStateEvent, room::member::MembershipState},
    serde::Raw,
};

use super::{
    SlidingSections,
    changed_state::{ChangedStateReader, RoomChanges},
    connection_state::{SentDescription, SentRoom, SyncPosition},
    context::{ReadableRoom, SlidingContext, equivalent_sync_request},
    response::{ExpandedTimeline, SlidingRoom},
    response_plan::PlannedRoom,
    room_description::JoinedRoomDescription,
};
use crate::{
    error::Result,
    matrix::Pdu,
    rooms::{Room, Rooms, UserAccess, UserRoom},
    sync::{
        SyncEnvironment, SyncRequest,
        invitations::stripped_state,
        snapshot::RoomSnapshot,
        sync_viewer::{SyncViewer, write_timeline},
        timeline_reader::{LeftRange, TimelineReader},
        token_reader::TokenReader,
    },
};

/// Reads rooms for sliding sync. Cheap to clone.
#[derive(Clone)]
pub(super) struct SlidingRoomReader {
    rooms: Rooms,
    tokens: TokenReader,
    timelines: TimelineReader,
    states: ChangedStateReader,
}

/// The part of a response about a room, while it is written, and the record of what the client then has.
struct SlidingRoomDraft {
    update: SlidingRoom,
    sent: SentRoom,
}

/// The changes of a room.
pub(super) struct SlidingRoomUpdate {
    /// The changes to send, if there are any.
    pub(super) room: Option<SlidingRoom>,
    /// The record of the room after this response.
    pub(super) sent: SentRoom,
}

impl SlidingRoomReader {
    pub(super) fn new(environment: &SyncEnvironment, sections: &SlidingSections) -> Self {
        Self {
            rooms: environment.rooms.clone(),
            tokens: sections.tokens.clone(),
            timelines: sections.timelines.clone(),
            states: ChangedStateReader::new(environment),
        }
    }

    /// Returns the changes of a room, and the record of the room after this response.
    pub(super) async fn read_room(
        &self,
        context: &SlidingContext<'_>,
        planned: &PlannedRoom,
        snapshot: &RoomSnapshot,
    ) -> Result<SlidingRoomUpdate> {
        let user_room = &snapshot.user_room;
        let Some(contents) = &snapshot.contents else {
            return Ok(read_invited_room(context, planned, user_room));
        };
        let room = ReadableRoom {
            planned,
            user_room,
            contents,
        };
        if user_room.membership == MembershipState::Join {
            self.read_joined_room(context, room).await
        } else {
            self.read_left_room(context, room).await
        }
    }

    /// Reads a room for a member.
    async fn read_joined_room(
        &self,
        context: &SlidingContext<'_>,
        room: ReadableRoom<'_>,
    ) -> Result<SlidingRoomUpdate> {
        let ReadableRoom {
            planned,
            user_room,
            contents,
        } = room;
        let is_expanded = planned.expands_timeline();
        let since = planned.received_as_member();
        let limit = planned.parameters.timeline_limit;
        let request = self.equivalent_sync_request(since.filter(|_| !is_expanded), limit);
        let viewer = context.viewer(&request);
        let timeline = self
            .timelines
            .joined_timeline(&viewer, user_room, contents)
            .await?;
        let changes = RoomChanges {
            room: &contents.room,
            slice: &timeline.slice,
            is_initial: since.is_none() || (timeline.since.is_none() && !is_expanded),
            is_expanded,
            state: &contents.state,
            end: viewer.now,
        };
        let mut sent = context.new_sent_room(planned);
        let mut update = context.new_room(planned, &user_room.membership);
        update.initial = changes.is_initial;
        let state = self
            .states
            .changed_state(context, planned, &changes, &mut sent)
            .await?;
        add_timeline(&mut update, &viewer, &changes, context.since);
        record_timeline(&mut sent, planned, &update);
        update.required_state = format_state(&viewer, &state, &contents.room);
        let before = sent.description.clone();
        let before = (!changes.is_initial).then_some(&before);
        let description =
            JoinedRoomDescription::from_contents(&viewer, room, before, changes.slice);
        sent.description = description.sent_description.clone();
        let has_changes = changes.is_initial
            || is_expanded
            || update.limited
            || !update.timeline.is_empty()
            || !update.required_state.is_empty()
            || before != Some(&description.sent_description);
        description.write_changes(&mut update, before);
        Ok(SlidingRoomUpdate {
            room: has_changes.then_some(update),
            sent,
        })
    }

    /// Reads a room for a user who has left or was removed, up to that point.
    async fn read_left_room(
        &self,
        context: &SlidingContext<'_>,
        room: ReadableRoom<'_>,
    ) -> Result<SlidingRoomUpdate> {
        let ReadableRoom {
            planned,
            user_room,
            contents,
        } = room;
        let mut sent = context.new_sent_room(planned);
        let description = membership_description(planned, user_room);
        let before = std::mem::replace(&mut sent.description, description);
        if planned.sent.is_some() && before == sent.description {
            return Ok(SlidingRoomUpdate { room: None, sent });
        }
        let mut update = context.new_room(planned, &user_room.membership);
        update.bump_stamp = Some(user_room.position);
        update.is_dm = (planned.is_dm != before.is_dm).then_some(planned.is_dm);
        let mut draft = SlidingRoomDraft { update, sent };
        let session = context.session;
        let access = self
            .rooms
            .access
            .load_access(&contents.room, session.user, &session.user_id)
            .await?;
        if access.has_ever_joined() && !user_room.forgotten {
            self.add_left_room(context, room, access, &mut draft)
                .await?;
        } else {
            // The user rejected an invite or forgot the room: they may only learn that they left.
            let request = self.equivalent_sync_request(None, planned.parameters.timeline_limit);
            let own = contents.state.member(&session.user_id).cloned();
            let own: Vec<Arc<Pdu>> = own.into_iter().collect();
            draft.update.required_state =
                format_state(&context.viewer(&request), &own, &contents.room);
        }
        Ok(SlidingRoomUpdate {
            room: Some(draft.update),
            sent: draft.sent,
        })
    }

    /// Adds the timeline and the state of a room that the user was in.
    async fn add_left_room(
        &self,
        context: &SlidingContext<'_>,
        room: ReadableRoom<'_>,
        access: UserAccess,
        draft: &mut SlidingRoomDraft,
    ) -> Result<()> {
        let (planned, left_at) = (room.planned, room.user_room.position);
        let room = &room.contents.room;
        let request = self.equivalent_sync_request(None, planned.parameters.timeline_limit);
        let viewer = context.viewer(&request);
        let since = planned.received_as_member();
        let range = LeftRange {
            since: since.map(|since| since.position),
            left_at,
            limit: viewer.timeline_limit(),
        };
        let wanted = |pdu: &Pdu| viewer.wants_event(pdu);
        let mut slice = self
            .timelines
            .left_timeline(room, range, access, &wanted)
            .await?;
        self.timelines
            .add_bundles(&viewer, room, &mut slice)
            .await?;
        let state = self.rooms.state.state_at(room, left_at).await?;
        let changes = RoomChanges {
            room,
            slice: &slice,
            is_initial: since.is_none(),
            is_expanded: false,
            state: &state,
            end: left_at,
        };
        let state = self
            .states
            .changed_state(context, planned, &changes, &mut draft.sent)
            .await?;
        let update = &mut draft.update;
        update.initial = changes.is_initial;
        add_timeline(update, &viewer, &changes, context.since);
        record_timeline(&mut draft.sent, planned, update);
        update.required_state = format_state(&viewer, &state, room);
        Ok(())
    }

    /// Returns the `/sync` request that would return the same events.
    fn equivalent_sync_request(&self, since: Option<SyncPosition>, limit: u32) -> SyncRequest {
        let since = since.map(|since| self.tokens.token_at(since.position, since.tick));
        equivalent_sync_request(since, limit)
    }
}

/// Writes state events.
fn format_state(
    viewer: &SyncViewer<'_>,
    state: &[Arc<Pdu>],
    room: &Room,
) -> Vec<Raw<AnySyncStateEvent>> {
    let state = state.iter();
    state
        .map(|pdu| Raw::from_json(viewer.format_state_event(pdu, room)))
        .collect()
}

/// Returns the description of a room that the user is not joined to.
fn membership_description(planned: &PlannedRoom, user_room: &UserRoom) -> SentDescription {
    SentDescription {
        membership: Some(user_room.membership.clone()),
        member_since: user_room.position,
        is_dm: planned.is_dm,
        bump_stamp: user_room.position,
        ..SentDescription::default()
    }
}

fn add_timeline(
    room: &mut SlidingRoom,
    viewer: &SyncViewer<'_>,
    changes: &RoomChanges<'_>,
    since: Option<SyncPosition>,
) {
    let shown = write_timeline(viewer, changes.slice);
    room.timeline = shown.events;
    room.prev_batch = shown.prev_batch;
    room.limited = shown.limited;
    room.expanded = changes.is_expanded.then_some(ExpandedTimeline {
        expanded_timeline: true,
        unstable_expanded_timeline: true,
    });
    let is_live = |position| since.is_some_and(|since| position > since.position);
    let live = changes.slice.events.iter().rev();
    let live = live.take_while(|event| is_live(event.position)).count();
    room.num_live = (!changes.slice.events.is_empty()).then_some(live);
}

/// Records how many of the newest events the client has without a gap.
fn record_timeline(sent: &mut SentRoom, planned: &PlannedRoom, room: &SlidingRoom) {
    let limit = planned.parameters.timeline_limit;
    let added = u32::try_from(room.timeline.len()).unwrap_or(u32::MAX);
    let is_new_timeline = room.initial || room.expanded.is_some() || room.limited;
    if is_new_timeline {
        sent.event_count = added;
        sent.timeline_limit = limit;
        sent.lists = planned.lists;
    } else {
        sent.event_count = sent.event_count.saturating_add(added);
        sent.timeline_limit = sent.timeline_limit.max(limit);
    }
}

/// Reads a room for a user who is invited or knocks.
fn read_invited_room(
    context: &SlidingContext<'_>,
    planned: &PlannedRoom,
    user_room: &UserRoom,
) -> SlidingRoomUpdate {
    let mut sent = context.new_sent_room(planned);
    let description = membership_description(planned, user_room);
    let before = std::mem::replace(&mut sent.description, description);
    if planned.sent.is_some() && before == sent.description {
        return SlidingRoomUpdate { room: None, sent };
    }
    // If the user was in the room before, the timeline from that time does not continue.
    sent.event_count = 0;
    sent.timeline_limit = 0;
    let mut room = context.new_room(planned, &user_room.membership);
    room.initial |= before.membership != sent.description.membership;
    room.is_dm = (planned.is_dm || before.is_dm).then_some(planned.is_dm);
    room.invite_state = Some(stripped_state(user_room));
    room.stripped_state = Some(stripped_state(user_room));
    room.bump_stamp = Some(user_room.position);
    SlidingRoomUpdate {
        room: Some(room),
        sent,
    }
}
