//! The events around an event.

use std::sync::Arc;

use ruma::{EventId, api::Direction};

use super::{
    Timeline,
    timeline::{PageRequest, TimelinePage, TimelineSelection},
};
use crate::{error::Result, matrix::TimelineEvent};

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
    /// [`Error::NotFound`](crate::error::Error::NotFound) when the event does not exist or the user may not see it.
    pub async fn load_context(
        &self,
        selection: TimelineSelection<'_>,
        event_id: &EventId,
        limit: usize,
    ) -> Result<TimelineContext> {
        let TimelineSelection { room, access, .. } = selection;
        let event = self.load_event(room, access, event_id).await?;
        let limits = ContextLimits {
            before: limit / 2,
            after: limit - limit / 2,
        };
        self.load_events_around(selection, event, limits).await
    }

    /// Returns an event that the user may see, with at most this many events before and after it.
    pub async fn load_events_around(
        &self,
        selection: TimelineSelection<'_>,
        event: Arc<TimelineEvent>,
        limits: ContextLimits,
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
            before: self.load_page_or_start(selection, before).await?,
            after: self.load_page_or_start(selection, after).await?,
            event,
        })
    }

    /// Returns a page. If its limit is 0, returns an empty page that names its start.
    async fn load_page_or_start(
        &self,
        selection: TimelineSelection<'_>,
        request: PageRequest,
    ) -> Result<TimelinePage> {
        if request.limit == 0 {
            return Ok(TimelinePage {
                events: Vec::new(),
                end: Some(request.from),
            });
        }
        self.load_page(selection, request).await
    }
}
