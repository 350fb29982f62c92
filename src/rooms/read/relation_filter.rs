//! Filtering the timeline of a room by the relations between events.

use std::sync::Arc;

use super::Timeline;
use crate::{
    error::Result,
    matrix::{Pdu, RelationFilter, TimelineEvent},
    numbers::Position,
    rooms::{PageRequest, TimelinePage, TimelineSelection, UserAccess, memory::room::Room},
    storage::rooms::relations::{self, ChildFilter},
};

/// The most pages of a timeline that are searched for events with matching relations before a page
/// ends short.
const MAX_SEARCHED_PAGES: usize = 10;

impl Timeline {
    /// Like [`Timeline::load_page`], but only returns events whose own relations, and the relations of
    /// other events to them, match a filter.
    pub async fn page_by_relations(
        &self,
        selection: TimelineSelection<'_>,
        mut request: PageRequest,
        filter: &RelationFilter,
    ) -> Result<TimelinePage> {
        let TimelineSelection { room, access, .. } = selection;
        let wanted = |pdu: &Pdu| (selection.wanted)(pdu) && filter.wants_event(pdu);
        let selection = TimelineSelection {
            wanted: &wanted,
            ..selection
        };
        if !filter.depends_on_children() {
            return self.load_page(selection, request).await;
        }
        let mut found = TimelinePage {
            events: Vec::new(),
            end: Some(request.from),
        };
        let limit = request.limit;
        for _ in 0..MAX_SEARCHED_PAGES {
            let page = self.load_page(selection, request).await?;
            found.end = page.end;
            let parents = self
                .find_matching_parents(room, access, &page.events, filter)
                .await?;
            let is_parent = |event: &Arc<TimelineEvent>| {
                parents.iter().any(|id| id == event.pdu.event_id.as_str())
            };
            found
                .events
                .extend(page.events.into_iter().filter(is_parent));
            request.limit = limit.saturating_sub(found.events.len());
            match page.end {
                Some(end) if request.limit > 0 => request.from = end,
                _ => break,
            }
        }
        Ok(found)
    }

    /// Returns the events that have matching relations from other events. If the user has left the
    /// room, only relations from before that count.
    async fn find_matching_parents(
        &self,
        room: &Room,
        access: &UserAccess,
        events: &[Arc<TimelineEvent>],
        filter: &RelationFilter,
    ) -> Result<Vec<String>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let mut conn = self.db.read().await?;
        let strings = &self.db.strings;
        let mut rel_types = None;
        if let Some(names) = &filter.related_by_rel_types {
            // PostgreSQL cannot store U+0000, so no event has such a relation type.
            let names = names.iter().map(String::as_str);
            let names: Vec<&str> = names.filter(|name| !name.contains('\0')).collect();
            rel_types = Some(strings.find_numbers(&mut conn, &names).await?);
        }
        let mut senders = None;
        if let Some(users) = &filter.related_by_senders {
            let users: Vec<&str> = users.iter().map(|user| user.as_str()).collect();
            senders = Some(strings.find_users(&mut conn, &users).await?);
        }
        let ids = events.iter().map(|event| &event.pdu.event_id);
        let before = access.left_at().unwrap_or(Position::MAX);
        let children = ChildFilter { rel_types, senders };
        relations::parents_with_children(&mut conn, room.num, ids, children, before).await
    }
}
