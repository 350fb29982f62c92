//! The threads of a room, and the subscriptions of users to them.
//!
//! See the specification on
//! [threading](https://spec.matrix.org/v1.19/client-server-api/#threading).

use std::{collections::HashMap, sync::Arc};

use ruma::{EventId, OwnedEventId, OwnedRoomId, UserId};

use super::Relations;
use crate::{
    error::{Error, RefusalCode, Result},
    matrix::{NotificationCounters, TimelineEvent, rel_type},
    numbers::{Position, PositionRange, StringNum, UserNum},
    rooms::{
        AggregationViewer, AggregationsByEvent, TimelinePage, UserAccess,
        memory::{room::Room, stored_events::parse_event_id},
    },
    storage::{
        JournalChange,
        rooms::{
            relations,
            thread_subscriptions::{self, NewThreadSubscription},
            threads,
        },
    },
};

/// The number of threads that are read in one query.
const THREADS_PER_QUERY: i64 = 50;
/// The most threads that one page reads before it ends short.
const MAX_READ_THREADS: usize = 1_000;
/// The most threads of a room whose unread counts are sent: those with the newest events.
const MAX_COUNTED_THREADS: i64 = 1_000;

/// The threads that a list includes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadFilter {
    /// All threads.
    All,
    /// Threads that the user has started or replied in.
    Participated,
}

/// A request for a page of a room's threads.
#[derive(Clone, Copy, Debug)]
pub struct ThreadListRequest {
    /// The threads to include.
    pub include: ThreadFilter,
    /// Includes only threads whose newest reply is before this place in the timeline.
    pub from: Option<Position>,
    /// The greatest number of threads.
    pub limit: usize,
}

/// A request to subscribe to a thread.
#[derive(Clone, Copy, Debug)]
pub struct SubscriptionRequest<'a> {
    /// The root event of the thread.
    pub thread_root: &'a EventId,
    /// The event in the thread that causes an automatic subscription.
    pub cause: Option<&'a EventId>,
}

/// Collects the threads of a page.
struct ThreadListReader<'a> {
    room: &'a Room,
    access: &'a UserAccess,
    user_id: &'a UserId,
    request: ThreadListRequest,
    page: TimelinePage,
    /// The place from which to continue.
    from: Position,
}

impl ThreadListReader<'_> {
    /// Adds the threads that the request includes. Returns whether the page is complete.
    fn add_threads(
        &mut self,
        threads: ThreadRows,
        roots: &HashMap<String, Arc<TimelineEvent>>,
    ) -> bool {
        for row in threads.rows {
            if self.page.events.len() == self.request.limit {
                self.page.end = Some(self.from);
                return true;
            }
            self.from = row.latest;
            let root = roots.get(&row.root);
            let Some(root) = root.filter(|event| self.access.may_see(event)) else {
                continue;
            };
            let is_own = root.pdu.sender == self.user_id || threads.replied.contains(&row.root);
            if is_own || self.request.include == ThreadFilter::All {
                // A thread started by an ignored user is listed, but its root event is redacted.
                let rules = &self.room.rules;
                let event = self.access.redact_if_hidden(root.clone(), rules);
                self.page.events.push(event);
            }
        }
        false
    }
}

/// Stored threads, and the roots of those in which a user has replied.
struct ThreadRows {
    rows: Vec<threads::ThreadRow>,
    replied: Vec<String>,
}

/// A thread with new events, and its counters.
#[derive(Clone, Debug)]
pub struct ThreadCount {
    /// The root event of the thread.
    pub root: OwnedEventId,
    /// Its counters now.
    pub now: NotificationCounters,
    /// Its counters at the requested place in the timeline.
    pub base: NotificationCounters,
}

/// A change of a subscription to a thread.
#[derive(Clone, Debug)]
pub struct SubscriptionChange {
    pub room_id: OwnedRoomId,
    /// The root event of the thread.
    pub root: OwnedEventId,
    /// Whether the subscription was created automatically; `None` after unsubscribing.
    pub automatic: Option<bool>,
    /// The position of the change.
    pub position: Position,
}

impl Relations {
    /// Returns the root events of a room's threads, the one with the newest reply first, and their
    /// aggregations. Threads in which the user may see no reply are left out.
    pub async fn list_threads(
        &self,
        room: &Arc<Room>,
        access: &UserAccess,
        viewer: AggregationViewer<'_>,
        wanted: ThreadListRequest,
    ) -> Result<(TimelinePage, AggregationsByEvent)> {
        let mut page = self.load_thread_roots(room, access, viewer, wanted).await?;
        let bundles = self.load_aggregations(room, viewer, &page.events).await?;
        page.events.retain(|event| {
            let bundle = bundles.get(&event.pdu.event_id);
            bundle.is_some_and(|bundle| bundle.thread.is_some())
        });
        Ok((page, bundles))
    }

    async fn load_thread_roots(
        &self,
        room: &Arc<Room>,
        access: &UserAccess,
        viewer: AggregationViewer<'_>,
        request: ThreadListRequest,
    ) -> Result<TimelinePage> {
        let mut reader = ThreadListReader {
            room,
            access,
            user_id: viewer.user_id,
            request,
            page: TimelinePage {
                events: Vec::new(),
                end: None,
            },
            from: request.from.unwrap_or(Position::MAX),
        };
        let mut looked_at = 0;
        while looked_at < MAX_READ_THREADS {
            let threads = self
                .load_thread_rows(room, viewer.user, reader.from)
                .await?;
            looked_at += threads.rows.len();
            let is_last = i64::try_from(threads.rows.len()).unwrap_or(0) < THREADS_PER_QUERY;
            let roots = self
                .timeline
                .load_events_by_id(room, threads.rows.iter().map(|row| &row.root))
                .await?;
            let is_complete = reader.add_threads(threads, &roots);
            if is_complete || is_last {
                return Ok(reader.page);
            }
        }
        reader.page.end = Some(reader.from);
        Ok(reader.page)
    }

    async fn load_thread_rows(
        &self,
        room: &Room,
        user: UserNum,
        from: Position,
    ) -> Result<ThreadRows> {
        let mut conn = self.db.read().await?;
        let rows = threads::before_place(&mut conn, room.num, from, THREADS_PER_QUERY).await?;
        let strings = &self.db.strings;
        let rel_type = strings.find_number(&mut conn, rel_type::M_THREAD).await?;
        let roots = rows.iter().map(|row| &row.root);
        let rel_type = rel_type.unwrap_or(StringNum::NONE);
        let replied =
            relations::parents_related_by(&mut conn, room.num, roots, rel_type, user).await?;
        Ok(ThreadRows { rows, replied })
    }

    /// Returns the threads with events after a place in the timeline, with their counters now and
    /// at that place.
    pub async fn load_active_threads(
        &self,
        room: &Room,
        place: Position,
    ) -> Result<Vec<ThreadCount>> {
        let mut conn = self.db.read().await?;
        let rows = threads::active_after(&mut conn, room.num, place, MAX_COUNTED_THREADS).await?;
        let count = |row: threads::ThreadCounts| {
            Some(ThreadCount {
                root: OwnedEventId::try_from(row.root).ok()?,
                now: NotificationCounters {
                    notified: row.notified,
                    mentioned: row.mentioned,
                },
                base: NotificationCounters {
                    notified: row.base_notified,
                    mentioned: row.base_mentioned,
                },
            })
        };
        Ok(rows.into_iter().filter_map(count).collect())
    }

    /// Subscribes a user to a thread.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for a thread that the user cannot see; `RefusalCode::NotInThread` if
    /// the cause is not in the thread; [`Error::ConflictingUnsubscription`] if the user
    /// unsubscribed after that event.
    pub async fn subscribe(
        &self,
        room: &Arc<Room>,
        access: &UserAccess,
        user: UserNum,
        request: SubscriptionRequest<'_>,
    ) -> Result<()> {
        let thread_root = request.thread_root;
        self.timeline.load_event(room, access, thread_root).await?;
        let cause = match request.cause {
            None => None,
            Some(cause) => Some(
                self.find_reply_place(room, access, thread_root, cause)
                    .await?,
            ),
        };
        let mut tx = self.db.write().await?;
        let existing =
            thread_subscriptions::get(&mut tx, user, room.num, thread_root.as_str()).await?;
        match (&existing, cause) {
            (Some(existing), Some(cause)) if !existing.subscribed && existing.position > cause => {
                return Err(Error::ConflictingUnsubscription);
            }
            // An automatic subscription does not replace an existing one.
            (Some(existing), Some(_)) if existing.subscribed => return Ok(()),
            (Some(existing), None) if existing.subscribed && !existing.automatic => return Ok(()),
            _ => {}
        }
        let position = tx.next_position();
        let new = NewThreadSubscription {
            user,
            room: room.num,
            root: thread_root.as_str(),
            subscribed: true,
            automatic: cause.is_some(),
            position,
        };
        thread_subscriptions::set(&mut tx, &new).await?;
        tx.publish(position, JournalChange::ThreadSubscription { user });
        tx.commit().await
    }

    /// Returns the place in the timeline of an event that must be a reply in a thread.
    async fn find_reply_place(
        &self,
        room: &Arc<Room>,
        access: &UserAccess,
        thread_root: &EventId,
        cause: &EventId,
    ) -> Result<Position> {
        let not_in_thread = || {
            Error::refused(
                RefusalCode::NotInThread,
                format!("{cause} is not in the thread of {thread_root}"),
            )
        };
        let event = self.timeline.load_event(room, access, cause).await;
        let event = event.map_err(|_| not_in_thread())?;
        let is_reply = event
            .pdu
            .relation_target(rel_type::M_THREAD)
            .is_some_and(|to| to == thread_root);
        is_reply.then_some(event.timeline).ok_or_else(not_in_thread)
    }

    /// Ends a user's subscription to a thread, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for a thread that the user cannot see.
    pub async fn unsubscribe(
        &self,
        room: &Arc<Room>,
        access: &UserAccess,
        user: UserNum,
        thread_root: &EventId,
    ) -> Result<()> {
        self.timeline.load_event(room, access, thread_root).await?;
        let mut tx = self.db.write().await?;
        let existing =
            thread_subscriptions::get(&mut tx, user, room.num, thread_root.as_str()).await?;
        if !existing.is_some_and(|existing| existing.subscribed) {
            return Ok(());
        }
        let position = tx.next_position();
        let ended = NewThreadSubscription {
            user,
            room: room.num,
            root: thread_root.as_str(),
            subscribed: false,
            automatic: false,
            position,
        };
        thread_subscriptions::set(&mut tx, &ended).await?;
        tx.publish(position, JournalChange::ThreadSubscription { user });
        tx.commit().await
    }

    /// Returns whether a user's subscription to a thread was created automatically.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] without a subscription, or for a thread that the user cannot see.
    pub async fn is_subscription_automatic(
        &self,
        room: &Arc<Room>,
        access: &UserAccess,
        user: UserNum,
        thread_root: &EventId,
    ) -> Result<bool> {
        self.timeline.load_event(room, access, thread_root).await?;
        let mut conn = self.db.read().await?;
        let existing =
            thread_subscriptions::get(&mut conn, user, room.num, thread_root.as_str()).await?;
        existing
            .filter(|existing| existing.subscribed)
            .map(|existing| existing.automatic)
            .ok_or_else(|| Error::not_found("you are not subscribed to this thread"))
    }

    /// Returns the latest changes of a user's subscriptions in a range of positions, newest first.
    pub async fn load_subscription_changes(
        &self,
        user: UserNum,
        range: PositionRange,
        limit: usize,
    ) -> Result<Vec<SubscriptionChange>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = {
            let mut conn = self.db.read().await?;
            thread_subscriptions::changes(&mut conn, user, range, limit).await?
        };
        let mut changes = Vec::with_capacity(rows.len());
        for row in rows {
            changes.push(SubscriptionChange {
                room_id: self.memory.room_id(row.room).await?,
                root: parse_event_id(&row.root)?,
                automatic: row.subscribed.then_some(row.automatic),
                position: row.position,
            });
        }
        Ok(changes)
    }
}
