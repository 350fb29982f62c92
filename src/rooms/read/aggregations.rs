//! Bundled aggregations: a summary of the events that relate to an event, sent to clients together
//! with it.
//!
//! See the specification on
//! [aggregations](https://spec.matrix.org/v1.19/client-server-api/#aggregations-of-child-events).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, UserId};

use super::Relations;
use crate::{
    error::Result,
    matrix::{TimelineEvent, rel_type},
    numbers::{Position, StringNum, UserNum},
    rooms::{
        UserAccess,
        memory::room::{Room, RoomView},
    },
    storage::{
        ReadAccess,
        rooms::{
            relations::{self, BundledChild},
            threads::{self, ThreadRow},
        },
    },
};

/// The most edits and the most references that are read for an event, newest first.
const MAX_BUNDLED_CHILDREN: i64 = 100;
/// The most replies of a thread that are checked one by one, when some may be hidden from the user.
const MAX_CHECKED_REPLIES: i64 = 1_000;

/// The user for whom aggregations are built.
#[derive(Clone, Copy, Debug)]
pub struct AggregationViewer<'a> {
    /// The user's access to the room; `None` means that everything is visible.
    pub access: Option<&'a UserAccess>,
    /// The user's number.
    pub user: UserNum,
    pub user_id: &'a UserId,
}

/// The aggregations of one event.
#[derive(Clone, Debug, Default)]
pub struct BundledAggregations {
    /// The current edit.
    pub edit: Option<Arc<TimelineEvent>>,
    /// The thread that starts with the event.
    pub thread: Option<ThreadSummary>,
    /// Events that refer to it, oldest first.
    pub references: Vec<OwnedEventId>,
}

/// The aggregation of a thread.
#[derive(Clone, Debug)]
pub struct ThreadSummary {
    /// The number of replies.
    pub count: i64,
    /// The newest reply.
    pub latest: Arc<TimelineEvent>,
    /// Whether the user has started the thread or replied in it.
    pub participated: bool,
}

/// The aggregations of the events of a page, and of the newest replies in their threads.
#[derive(Clone, Debug, Default)]
pub struct AggregationsByEvent {
    by_event: HashMap<OwnedEventId, BundledAggregations>,
}

impl AggregationsByEvent {
    /// Returns the aggregations of an event; `None` if it has none.
    pub fn get(&self, event_id: &EventId) -> Option<&BundledAggregations> {
        self.by_event.get(event_id)
    }

    fn entry(&mut self, event_id: &EventId) -> &mut BundledAggregations {
        self.by_event.entry(event_id.to_owned()).or_default()
    }
}

impl Relations {
    /// Returns the aggregations of the events of a page.
    ///
    /// Events that have no relations according to memory are not looked up in the database.
    pub async fn load_aggregations(
        &self,
        room: &Arc<Room>,
        viewer: AggregationViewer<'_>,
        events: impl IntoIterator<Item = &Arc<TimelineEvent>>,
    ) -> Result<AggregationsByEvent> {
        let mut parents: HashMap<&EventId, &Arc<TimelineEvent>> = HashMap::new();
        add_parents(&mut parents, room, events);
        let mut bundles = AggregationsByEvent::default();
        if parents.is_empty() {
            return Ok(bundles);
        }
        self.add_thread_summaries(room, viewer, &parents, &mut bundles)
            .await?;
        // The newest replies in threads have aggregations of their own.
        let latest: Vec<Arc<TimelineEvent>> = bundles
            .by_event
            .values()
            .filter_map(|bundle| Some(bundle.thread.as_ref()?.latest.clone()))
            .collect();
        add_parents(&mut parents, room, &latest);
        self.add_children(room, viewer, &parents, &mut bundles)
            .await?;
        Ok(bundles)
    }

    async fn add_thread_summaries(
        &self,
        room: &Arc<Room>,
        viewer: AggregationViewer<'_>,
        parents: &HashMap<&EventId, &Arc<TimelineEvent>>,
        bundles: &mut AggregationsByEvent,
    ) -> Result<()> {
        let (mut threads, replied) = {
            let mut conn = self.db.read().await?;
            let threads = threads::of_roots(&mut conn, room.num, parents.keys()).await?;
            let strings = &self.db.strings;
            let replied = match strings.find_number(&mut conn, rel_type::M_THREAD).await? {
                Some(thread) if !threads.is_empty() => {
                    let roots = threads.iter().map(|thread| &thread.root);
                    let user = viewer.user;
                    relations::parents_related_by(&mut conn, room.num, roots, thread, user).await?
                }
                _ => Vec::new(),
            };
            (threads, replied)
        };
        for thread in &mut threads {
            let thread_root = <&EventId>::try_from(thread.root.as_str()).ok();
            if let Some(thread_root) = thread_root.and_then(|thread_root| parents.get(thread_root))
            {
                self.limit_to_visible(room, viewer, thread_root, thread)
                    .await?;
            }
        }
        threads.retain(|thread| thread.replies > 0);
        let places: Vec<Position> = threads.iter().map(|thread| thread.latest).collect();
        let latest = self.timeline.load_events_at(room, &places).await?;
        for thread in &threads {
            let thread_root = <&EventId>::try_from(thread.root.as_str()).ok();
            let thread_root = thread_root.and_then(|thread_root| parents.get(thread_root));
            if let (Some(thread_root), Some(latest)) = (thread_root, latest.get(&thread.latest)) {
                bundles.entry(&thread_root.pdu.event_id).thread = Some(ThreadSummary {
                    count: thread.replies,
                    latest: viewer.redact_if_erased(latest, room),
                    participated: thread_root.pdu.sender == viewer.user_id
                        || replied.contains(&thread.root),
                });
            }
        }
        Ok(())
    }

    /// Excludes replies in a thread that the user may not see or whose sender the user ignores.
    async fn limit_to_visible(
        &self,
        room: &Room,
        viewer: AggregationViewer<'_>,
        thread_root: &TimelineEvent,
        thread: &mut ThreadRow,
    ) -> Result<()> {
        let is_there = |access: &UserAccess| access.is_joined_since(thread_root.timeline);
        let settings = self.access.find_ignore_settings(viewer.user);
        let wants_all = !settings.is_some_and(|settings| settings.ignores_anyone());
        if wants_all && viewer.access.is_none_or(is_there) {
            return Ok(());
        }
        let mut conn = self.db.read().await?;
        let strings = &self.db.strings;
        let rel_type = strings.find_number(&mut conn, rel_type::M_THREAD).await?;
        let rel_type = rel_type.unwrap_or(StringNum::NONE);
        let thread_id = thread.root.as_str();
        let replies = threads::replies(
            &mut conn,
            room.num,
            thread_id,
            rel_type,
            MAX_CHECKED_REPLIES,
        )
        .await?;
        let senders: Vec<UserNum> = replies.iter().map(|reply| reply.sender).collect();
        let ignored = self
            .find_ignored_senders(&mut conn, viewer.user, &senders)
            .await?;
        let mut visible = replies.into_iter().filter(|reply| {
            viewer.may_see_at(reply.visibility, reply.timeline) && !ignored.contains(&reply.sender)
        });
        thread.latest = visible
            .next()
            .map_or(Position::ZERO, |reply| reply.timeline);
        thread.replies = match thread.latest {
            Position::ZERO => 0,
            _ => 1 + i64::try_from(visible.count()).unwrap_or(0),
        };
        Ok(())
    }

    async fn add_children(
        &self,
        room: &Arc<Room>,
        viewer: AggregationViewer<'_>,
        parents: &HashMap<&EventId, &Arc<TimelineEvent>>,
        bundles: &mut AggregationsByEvent,
    ) -> Result<()> {
        let children = self.load_visible_children(room, viewer, parents).await?;
        let mut edits: HashMap<&EventId, Position> = HashMap::new();
        let mut references: Vec<(&EventId, &BundledChild)> = Vec::new();
        for child in &children {
            let parent = <&EventId>::try_from(child.parent.as_str()).ok();
            let Some((parent, event)) = parent.and_then(|id| parents.get_key_value(id)) else {
                continue;
            };
            if !child.is_edit {
                references.push((parent, child));
            } else if may_be_edited(event) {
                // The newest edit comes first.
                edits.entry(parent).or_insert(child.timeline);
            }
        }
        references.sort_by_key(|(_, child)| child.timeline);
        for (parent, child) in references {
            if let Ok(event_id) = OwnedEventId::try_from(child.event_id.as_str()) {
                bundles.entry(parent).references.push(event_id);
            }
        }
        let places: Vec<Position> = edits.values().copied().collect();
        let events = self.timeline.load_events_at(room, &places).await?;
        for (parent, place) in edits {
            if let Some(edit) = events.get(&place) {
                bundles.entry(parent).edit = Some(viewer.redact_if_erased(edit, room));
            }
        }
        Ok(())
    }

    /// Returns the edits of events and the references to them, limited to those that the user may
    /// see.
    async fn load_visible_children(
        &self,
        room: &Room,
        viewer: AggregationViewer<'_>,
        parents: &HashMap<&EventId, &Arc<TimelineEvent>>,
    ) -> Result<Vec<BundledChild>> {
        let mut conn = self.db.read().await?;
        let strings = &self.db.strings;
        let reference = strings
            .find_number(&mut conn, rel_type::M_REFERENCE)
            .await?;
        let mut children = relations::bundled_children(
            &mut conn,
            room.num,
            parents.keys(),
            reference.unwrap_or(StringNum::NONE),
            MAX_BUNDLED_CHILDREN,
        )
        .await?;
        let senders: Vec<UserNum> = children.iter().map(|child| child.sender).collect();
        let ignored = self
            .find_ignored_senders(&mut conn, viewer.user, &senders)
            .await?;
        // An edit has the same sender as its parent, so no edit is included for an event of an
        // ignored user.
        children.retain(|child| {
            viewer.may_see_at(child.visibility, child.timeline) && !ignored.contains(&child.sender)
        });
        Ok(children)
    }

    /// Returns the senders in a list whom the user ignores.
    async fn find_ignored_senders(
        &self,
        conn: &mut impl ReadAccess,
        user: UserNum,
        senders: &[UserNum],
    ) -> Result<HashSet<UserNum>> {
        let settings = self.access.find_ignore_settings(user);
        let Some(settings) = settings.filter(|settings| settings.ignores_anyone()) else {
            return Ok(HashSet::new());
        };
        let texts = self.db.strings.find_user_ids(conn, senders).await?;
        let ignored = texts.into_iter().filter(|(_, text)| {
            let sender = <&UserId>::try_from(&**text);
            sender.is_ok_and(|sender| settings.ignores_user(sender))
        });
        Ok(ignored.map(|(number, _)| number).collect())
    }
}

impl AggregationViewer<'_> {
    fn may_see_at(&self, visibility: i64, timeline: Position) -> bool {
        self.access
            .is_none_or(|access| access.may_see_at(visibility, timeline))
    }

    fn redact_if_erased(&self, event: &Arc<TimelineEvent>, room: &Room) -> Arc<TimelineEvent> {
        match self.access {
            Some(access) => access.redact_if_erased(event.clone(), &room.rules),
            None => event.clone(),
        }
    }
}

/// Adds the events to which others may relate, according to memory.
fn add_parents<'a, 'event: 'a>(
    parents: &mut HashMap<&'a EventId, &'a Arc<TimelineEvent>>,
    room: &Room,
    events: impl IntoIterator<Item = &'event Arc<TimelineEvent>>,
) {
    let view = room.view();
    let in_memory = parents_in_memory(&view);
    for event in events {
        if may_have_children(&view, &in_memory, event) {
            parents.entry(&event.pdu.event_id).or_insert(event);
        }
    }
}

/// Returns the events that the events in memory relate to.
fn parents_in_memory(view: &RoomView) -> HashSet<OwnedEventId> {
    let parents = view
        .ring
        .iter()
        .filter_map(|event| event.pdu.relates_to.as_ref());
    parents
        .map(|relates_to| relates_to.event_id.clone())
        .collect()
}

/// Returns whether other events may relate to an event. Events relate to older ones, so everything
/// that relates to an event in memory is in memory, too.
fn may_have_children(
    view: &RoomView,
    in_memory: &HashSet<OwnedEventId>,
    event: &TimelineEvent,
) -> bool {
    let is_old = event.timeline <= view.ring_after;
    event.pdu.state_key.is_none() && (is_old || in_memory.contains(&event.pdu.event_id))
}

/// Returns whether an event can be edited. Redacted events and edits cannot.
fn may_be_edited(event: &TimelineEvent) -> bool {
    event.redacted_by.is_none() && event.pdu.relation_target(rel_type::M_REPLACE).is_none()
}
