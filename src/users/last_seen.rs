//! Writing when devices were last seen.

use std::net::IpAddr;

use tokio::sync::mpsc;

use crate::{
    error::Result,
    numbers::DeviceNum,
    storage::{Db, devices::device_table},
    tasks::Tasks,
};

/// The number of updates that may wait to be written. Beyond it, a device is updated at a later request.
const MAX_QUEUED_UPDATES: usize = 4096;
/// The number of updates in one write.
const UPDATES_PER_WRITE: usize = 64;

/// The time and address of a device's latest request.
pub(super) struct DeviceSeen {
    pub(super) device: DeviceNum,
    pub(super) ts: i64,
    pub(super) ip: IpAddr,
}

/// Writes when devices were last seen, outside of the requests.
pub(super) struct LastSeenWriter {
    queue: mpsc::Sender<DeviceSeen>,
}

impl LastSeenWriter {
    /// Starts the task that writes.
    pub(super) fn start(db: &Db, tasks: &Tasks) -> Self {
        let (queue, updates) = mpsc::channel(MAX_QUEUED_UPDATES);
        let stopping = tasks.stopping().clone();
        let db = db.clone();
        drop(tasks.spawn(async move {
            tokio::select! {
                () = write_seen(&db, updates) => {}
                () = stopping.cancelled() => {}
            }
        }));
        Self { queue }
    }

    /// Queues an update.
    pub(super) fn queue_update(&self, seen: DeviceSeen) {
        // If the queue is full, only a time is lost.
        let _ = self.queue.try_send(seen);
    }
}

async fn write_seen(db: &Db, mut updates: mpsc::Receiver<DeviceSeen>) {
    let mut batch = Vec::with_capacity(UPDATES_PER_WRITE);
    while updates.recv_many(&mut batch, UPDATES_PER_WRITE).await > 0 {
        write_batch(db, &mut batch).await;
        batch.clear();
    }
}

/// Writes when devices were seen. A failure is logged and does not fail a request.
pub(super) async fn write_batch(db: &Db, batch: &mut Vec<DeviceSeen>) {
    if let Err(error) = try_write_batch(db, batch).await {
        tracing::warn!(%error, "could not store when devices were last seen");
    }
}

async fn try_write_batch(db: &Db, batch: &mut Vec<DeviceSeen>) -> Result<()> {
    let mut tx = db.write().await?;
    for seen in batch.drain(..) {
        let ip = Some(seen.ip.to_string());
        device_table::set_last_seen(&mut tx, seen.device, seen.ts, ip).await?;
    }
    tx.commit().await
}
