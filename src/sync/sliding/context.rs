//! The user and the request of a response, and the rooms that it reads.

use std::{sync::Arc, time::Duration};

use ruma::{
    api::client::filter::FilterDefinition, events::room::member::MembershipState,
    presence::PresenceState,
};

use super::{
    connection_state::{SentRoom, SyncPosition},
    request::SlidingSyncRequest,
    response::SlidingRoom,
    response_plan::{PlannedRoom, ResponsePlan},
};
use crate::{
    matrix::IgnoreSettings,
    rooms::UserRoom,
    sync::{
        SyncRequest, SyncToken,
        snapshot::RoomContents,
        sync_viewer::{SentEvents, SyncViewer},
    },
    users::Session,
};

/// The user, the request and the plan of a response.
pub(super) struct SlidingContext<'a> {
    pub(super) session: &'a Session,
    pub(super) request: &'a SlidingSyncRequest,
    pub(super) plan: &'a ResponsePlan,
    /// The position up to which the client has received everything.
    pub(super) since: Option<SyncPosition>,
    pub(super) now_ms: i64,
    pub(super) ignore_settings: Option<Arc<IgnoreSettings>>,
    pub(super) sent_events: SentEvents,
}

/// A room to read, with its contents.
#[derive(Clone, Copy)]
pub(super) struct ReadableRoom<'a> {
    pub(super) planned: &'a PlannedRoom,
    pub(super) user_room: &'a UserRoom,
    pub(super) contents: &'a RoomContents,
}

impl SlidingContext<'_> {
    pub(super) fn viewer<'a>(&'a self, request: &'a SyncRequest) -> SyncViewer<'a> {
        SyncViewer {
            session: self.session,
            request,
            now: self.plan.now.position,
            now_ms: self.now_ms,
            ignore_settings: self.ignore_settings.clone(),
            sent_events: &self.sent_events,
        }
    }

    /// Returns a room with the fields that every room has.
    pub(super) fn new_room(
        &self,
        planned: &PlannedRoom,
        membership: &MembershipState,
    ) -> SlidingRoom {
        let lists = self.request.lists.keys().enumerate();
        let lists = lists.filter(|(bit, _)| planned.lists & (1 << bit) != 0);
        SlidingRoom {
            initial: planned.sent.is_none(),
            membership: Some(membership.to_string()),
            lists: lists.map(|(_, name)| name.clone()).collect(),
            ..SlidingRoom::default()
        }
    }

    /// Returns the record of the room after this response, apart from the timeline and the description.
    pub(super) fn new_sent_room(&self, planned: &PlannedRoom) -> SentRoom {
        let mut sent = planned.sent.clone().unwrap_or_default();
        sent.lists = sent.lists(self.plan.generation) | planned.lists;
        sent.generation = self.plan.generation;
        sent.out_of_view_since = None;
        sent.required_state = planned.parameters.required_state.clone();
        sent
    }
}

/// Returns the request of `/sync` whose response has the same timelines.
pub(super) fn equivalent_sync_request(since: Option<SyncToken>, limit: u32) -> SyncRequest {
    let mut filter = FilterDefinition::default();
    filter.room.timeline.limit = Some(limit.into());
    SyncRequest {
        since,
        filter: Arc::new(filter.into()),
        full_state: false,
        timeout: Duration::ZERO,
        set_presence: PresenceState::Offline,
        use_state_after: true,
    }
}
