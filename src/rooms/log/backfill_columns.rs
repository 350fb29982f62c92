//! Filling the columns that an update of the server has added, once, from the events that were
//! stored before.

use ruma::OwnedEventId;

use super::relations::{self, RelatingEvent, find_thread_root};
use crate::{
    error::Result,
    matrix::{NotificationCounters, Pdu, ThreadPosition},
    storage::{
        Db, WriteTx,
        backfilled_tables::{self, BackfillProgress, StoredEvent},
    },
};

/// The number of events that are processed in one transaction.
const EVENTS_PER_BATCH: i64 = 500;
/// The name under which the progress is stored.
const RELATIONS_BACKFILL: &str = "relations";

/// Stores the timestamps, relations and threads of events that were stored before these columns
/// existed.
///
/// This runs before the server answers requests, and resumes where it stopped if the server is
/// killed meanwhile.
pub(crate) async fn fill_relations(db: &Db) -> Result<()> {
    let mut conn = db.read().await?;
    let progress = backfilled_tables::progress(&mut conn, RELATIONS_BACKFILL).await?;
    drop(conn);
    let Some(BackfillProgress {
        mut done,
        up_to: Some(up_to),
    }) = progress
    else {
        return Ok(());
    };
    if done < up_to {
        tracing::info!("filling the relations of stored events; the server starts afterwards");
    }
    while done < up_to {
        let mut tx = db.write().await?;
        let events = backfilled_tables::next_events(&mut tx, done, up_to, EVENTS_PER_BATCH).await?;
        done = events.last().map_or(up_to, |event| event.position);
        for event in &events {
            fill_event(&mut tx, event).await?;
        }
        backfilled_tables::set_progress(&mut tx, RELATIONS_BACKFILL, done).await?;
        tx.commit().await?;
    }
    Ok(())
}

async fn fill_event(tx: &mut WriteTx, event: &StoredEvent) -> Result<()> {
    let Ok(event_id) = OwnedEventId::try_from(event.event_id.as_str()) else {
        return Ok(());
    };
    let Ok(pdu) = Pdu::parse(event_id, &event.json) else {
        return Ok(());
    };
    let thread_root = find_thread_root(tx, event.room, &pdu).await?;
    let ts = pdu.origin_server_ts.0.into();
    let thread = thread_root.as_ref().map(|thread_root| thread_root.as_str());
    backfilled_tables::set_derived_columns(tx, event.position, ts, thread).await?;
    let Some(timeline) = event.timeline else {
        return Ok(());
    };
    let stored = RelatingEvent {
        room: event.room,
        position: event.position,
        timeline,
        kind: event.kind,
        sender: event.sender,
    };
    let thread = thread_root.map(|thread_root| ThreadPosition {
        root: thread_root,
        counters: NotificationCounters::default(),
        added: NotificationCounters::default(),
    });
    relations::store_relation(tx, stored, &pdu, thread.as_ref()).await
}
