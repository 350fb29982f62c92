//! The events around an event.

use std::sync::Arc;

use ruma::{EventId, api::Direction};

use super::{
    Timeline,
    timeline::{PageRequest, TimelinePage},
};
use crate::{
    error::Result,
    matrix::{Pdu, TimelineEvent},
    rooms::{UserAccess, memory::room::Room},
};

/// The greatest numbers of events before and after an event.
#[derive(Clone, Copy, Debug)]
pub struct ContextLimits {
    pub before: usize,
    pub after: usize,
}

/// An event and the events around it.
#[derive(Debug)]
pub struct TimelineContext {
    /// The event itself.
    pub event: Arc<TimelineEvent>,
    /// Events before it, newest first.
    pub before: TimelinePage,
    /// Events after it, oldest first.
    pub after: TimelinePage,
}

impl Timeline {
    /// Returns an event and the events around it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the event does not exist or the user may not see it.
    pub async fn load_context(
        &self,
        room: &Room,
        access: &UserAccess,
        event_id: &EventId,
        limit: usize,
        wanted: &(dyn Fn(&Pdu) -> bool + Sync),
    ) -> Result<TimelineContext> {
        let event = self.load_event(room, access, event_id).await?;
        let limits = ContextLimits {
            before: limit / 2,
            after: limit - limit / 2,
        };
        self.load_events_around(room, access, event, limits, wanted)
            .await
    }

    /// Returns an event that the user may see, with at most this many events before and after it.
    pub async fn load_events_around(
        &self,
        room: &Room,
        access: &UserAccess,
        event: Arc<TimelineEvent>,
        limits: ContextLimits,
        wanted: &(dyn Fn(&Pdu) -> bool + Sync),
    ) -> Result<TimelineContext> {
        let page = |from, dir, limit| PageRequest {
            from,
            to: None,
            dir,
            limit,
        };
        let before = page(
            event.timeline.previous(),
            Direction::Backward,
            limits.before,
        );
        let after = page(event.timeline, Direction::Forward, limits.after);
        Ok(TimelineContext {
            before: self
                .load_page_or_start(room, access, before, wanted)
                .await?,
            after: self.load_page_or_start(room, access, after, wanted).await?,
            event,
        })
    }

    /// Returns a page. If its limit is 0, returns an empty page that names its start.
    async fn load_page_or_start(
        &self,
        room: &Room,
        access: &UserAccess,
        request: PageRequest,
        wanted: &(dyn Fn(&Pdu) -> bool + Sync),
    ) -> Result<TimelinePage> {
        if request.limit == 0 {
            return Ok(TimelinePage {
                events: Vec::new(),
                end: Some(request.from),
            });
        }
        self.load_page(room, access, request, wanted).await
    }
}
