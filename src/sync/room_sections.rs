//! The part of one room that one user receives.

use ruma::{
    api::client::sync::sync_events::v3::{JoinedRoom, LeftRoom},
    events::{TimelineEventType, room::member::MembershipState},
    serde::Raw,
};

use super::{
    SyncEnvironment,
    snapshot::RoomContents,
    state_sections::{StateSections, TimelineState},
    summary::{changes_summary, summary},
    sync_viewer::{SyncViewer, write_timeline},
    timeline_reader::{JoinedTimeline, LeftRange, TimelineReader},
    unread::UnreadReader,
};
use crate::{
    error::Result,
    matrix::Pdu,
    rooms::{Rooms, UserAccess, UserRoom},
};

/// Reads rooms for a sync. Cheap to clone.
#[derive(Clone)]
pub(super) struct RoomSections {
    rooms: Rooms,
    timelines: TimelineReader,
    states: StateSections,
    unread: UnreadReader,
}

/// The part of a room that a member receives.
pub(super) struct JoinedRoomChanges {
    pub(super) room: JoinedRoom,
    /// Whether the user has joined the room since the client's token.
    pub(super) is_new: bool,
}

impl RoomSections {
    pub(super) fn new(
        environment: &SyncEnvironment,
        timelines: &TimelineReader,
        states: StateSections,
    ) -> Self {
        Self {
            rooms: environment.rooms.clone(),
            timelines: timelines.clone(),
            states,
            unread: UnreadReader::new(environment),
        }
    }

    /// Returns the part of a room that a member receives.
    pub(super) async fn joined_room(
        &self,
        viewer: &SyncViewer<'_>,
        user_room: &UserRoom,
        contents: &RoomContents,
    ) -> Result<JoinedRoomChanges> {
        let (room, user) = (&contents.room, viewer.session.user);
        let JoinedTimeline { slice, since } = self
            .timelines
            .joined_timeline(viewer, user_room, contents)
            .await?;
        let mut joined = JoinedRoom::new();
        joined.timeline = write_timeline(viewer, &slice);
        let timeline = TimelineState {
            room,
            slice: &slice,
            since,
            end: viewer.now,
            end_state: &contents.state,
        };
        joined.state = self.states.state_besides_timeline(viewer, timeline).await?;
        if since.is_none()
            || viewer.request.full_state
            || changes_summary(&contents.latest_events)
            || slice.is_limited
        {
            joined.summary = summary(contents, &viewer.session.user_id);
        }
        self.unread
            .add_unread(viewer, user_room, contents, &mut joined)
            .await?;
        tracing::trace!(room_id = %room.room_id, %user, count = slice.events.len(), "room added to a sync response");
        Ok(JoinedRoomChanges {
            room: joined,
            is_new: viewer.since().is_some() && since.is_none(),
        })
    }

    /// Returns the part of a room that a user who has left receives.
    pub(super) async fn left_room(
        &self,
        viewer: &SyncViewer<'_>,
        user_room: &UserRoom,
        contents: &RoomContents,
    ) -> Result<LeftRoom> {
        let (room, session) = (&contents.room, viewer.session);
        let access = self
            .rooms
            .access
            .load_access(room, session.user, &session.user_id)
            .await?;
        if !access.has_ever_joined() || user_room.forgotten {
            return self
                .only_leave_event(viewer, user_room, contents, access)
                .await;
        }
        let was_in = viewer
            .since()
            .is_some_and(|since| access.membership_at(since) == MembershipState::Join);
        let range = LeftRange {
            since: viewer.since().filter(|_| was_in),
            left_at: user_room.position,
            limit: viewer.timeline_limit(),
        };
        let wanted = |pdu: &Pdu| viewer.wants_event(pdu);
        let mut slice = self
            .timelines
            .left_timeline(room, range, access, &wanted)
            .await?;
        self.timelines.add_bundles(viewer, room, &mut slice).await?;
        let mut left = LeftRoom::new();
        left.timeline = write_timeline(viewer, &slice);
        let end_state = self.rooms.state.state_at(room, user_room.position).await?;
        let timeline = TimelineState {
            room,
            slice: &slice,
            since: range.since,
            end: user_room.position,
            end_state: &end_state,
        };
        left.state = self.states.state_besides_timeline(viewer, timeline).await?;
        Ok(left)
    }

    /// Returns a room for a user who rejected an invite or forgot the room: they may only learn that they left.
    async fn only_leave_event(
        &self,
        viewer: &SyncViewer<'_>,
        user_room: &UserRoom,
        contents: &RoomContents,
        access: UserAccess,
    ) -> Result<LeftRoom> {
        let (room, session) = (&contents.room, viewer.session);
        let own =
            |pdu: &Pdu| pdu.is_state(&TimelineEventType::RoomMember, session.user_id.as_str());
        let range = LeftRange {
            since: viewer.since(),
            left_at: user_room.position,
            limit: viewer.timeline_limit(),
        };
        let slice = self
            .timelines
            .left_timeline(room, range, access, &own)
            .await?;
        let mut left = LeftRoom::new();
        left.timeline = write_timeline(viewer, &slice);
        left.timeline.limited = false;
        if left.timeline.events.is_empty() && !user_room.forgotten {
            let leave = self
                .rooms
                .remote_memberships
                .remote_leave_event(room, session.user)
                .await?;
            left.timeline.events.extend(leave.map(Raw::from_json));
        }
        Ok(left)
    }
}
