//! Storing the relations between events, which can be read from both sides.
//!
//! See [Forming relationships between events](https://spec.matrix.org/v1.19/client-server-api/#forming-relationships-between-events).

use ruma::OwnedEventId;

use crate::{
    error::{Error, RefusalCode, Result},
    matrix::{NotificationCounters, Pdu, RelatesTo, ThreadPosition, rel_type},
    numbers::{Position, RoomNum, StringNum, UserNum},
    rooms::EventToSend,
    storage::{
        ReadAccess, WriteTx,
        rooms::{
            events::EventRow,
            relations::{self, Annotation, NewRelation},
            threads::{self, ThreadedEvent},
        },
    },
};

/// Returns the thread of a new event, with its counters including the event.
///
/// An event that relates to an event in a thread is in the thread as well. See
/// [Threaded read receipts](https://spec.matrix.org/v1.19/client-server-api/#threaded-read-receipts).
pub(crate) async fn find_thread(
    db: &mut impl ReadAccess,
    room: RoomNum,
    pdu: &Pdu,
    added: NotificationCounters,
) -> Result<Option<ThreadPosition>> {
    let Some(thread_root) = find_thread_root(db, room, pdu).await? else {
        return Ok(None);
    };
    let counters = threads::counters(db, room, thread_root.as_str()).await? + added;
    Ok(Some(ThreadPosition {
        root: thread_root,
        counters,
        added,
    }))
}

pub(crate) async fn find_thread_root(
    db: &mut impl ReadAccess,
    room: RoomNum,
    pdu: &Pdu,
) -> Result<Option<OwnedEventId>> {
    let Some(relates_to) = &pdu.relates_to else {
        return Ok(None);
    };
    if relates_to.rel_type == rel_type::M_THREAD {
        return Ok(Some(relates_to.event_id.clone()));
    }
    let parent = relations::parent_of(db, room, relates_to.event_id.as_str()).await?;
    let thread_root = parent.and_then(|parent| parent.thread);
    Ok(thread_root.and_then(|thread_root| OwnedEventId::try_from(thread_root).ok()))
}

/// An event that is being stored with its relation; its strings are numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RelatingEvent {
    pub(crate) room: RoomNum,
    pub(crate) position: Position,
    pub(crate) timeline: Position,
    pub(crate) kind: StringNum,
    pub(crate) sender: UserNum,
}

/// Stores the relation of an event, and adds the event to its thread.
pub(crate) async fn store_relation(
    tx: &mut WriteTx,
    stored: RelatingEvent,
    pdu: &Pdu,
    thread: Option<&ThreadPosition>,
) -> Result<()> {
    let Some(relates_to) = &pdu.relates_to else {
        return Ok(());
    };
    let relation = NewRelation {
        child: stored.position,
        room: stored.room,
        parent: relates_to.event_id.as_str(),
        rel_type: tx.intern(&relates_to.rel_type).await?,
        kind: stored.kind,
        sender: stored.sender,
        timeline: stored.timeline,
        annotation: relates_to.annotation_key(),
        is_edit: pdu.is_edit(),
    };
    if !relations::insert(tx, &relation).await? {
        return Ok(());
    }
    if let Some(thread) = thread {
        let is_reply = relates_to.rel_type == rel_type::M_THREAD;
        let event = ThreadedEvent {
            room: stored.room,
            thread_root: thread.root.as_str(),
            timeline: stored.timeline,
            is_reply,
            counters: thread.counters,
        };
        threads::add_event(tx, &event).await?;
    }
    Ok(())
}

/// Removes the relation of a redacted event.
pub(crate) async fn remove_relation(tx: &mut WriteTx, row: &EventRow, target: &Pdu) -> Result<()> {
    if relations::remove(tx, row.position).await?
        && let Some(thread_root) = target.relation_target(rel_type::M_THREAD)
    {
        let thread = tx.intern(rel_type::M_THREAD).await?;
        threads::remove_reply(tx, row.room, thread_root.as_str(), thread).await?;
    }
    Ok(())
}

/// Checks the rules for relations that the server of the sender must enforce, in the transaction that stores the event.
pub(crate) async fn check_relation(
    tx: &mut WriteTx,
    room: RoomNum,
    event: &EventToSend,
) -> Result<()> {
    let Some(relates_to) = RelatesTo::from_content(&event.content) else {
        return Ok(());
    };
    let parent = relates_to.event_id.as_str();
    if relates_to.rel_type == rel_type::M_THREAD
        && let Some(parent) = relations::parent_of(tx, room, parent).await?
        && parent.parent.is_some()
    {
        return Err(Error::refused(
            RefusalCode::Unspecified,
            "a thread cannot start from an event that relates to another event".to_owned(),
        ));
    }
    let Some(key) = relates_to.annotation_key() else {
        return Ok(());
    };
    let annotation = Annotation {
        kind: tx.intern(&event.kind.to_string()).await?,
        sender: tx.intern_user(event.sender.as_str()).await?,
        key,
    };
    if relations::has_annotation(tx, room, parent, annotation).await? {
        return Err(Error::DuplicateAnnotation);
    }
    Ok(())
}
