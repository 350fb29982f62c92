//! Removes to-device messages that waited too long, and servers that no longer share a room with this one.

use std::{sync::Arc, time::Duration};

use ruma::OwnedServerName;

use super::{FederationSenderInner, destination_health::milliseconds};
use crate::{
    error::Result,
    storage::{devices::device_list_updates, federation::outbox},
};

/// The interval between clean-ups.
const CLEANUP_INTERVAL: Duration = Duration::from_hours(24);
/// The number of servers that are removed in one transaction.
const SERVERS_PER_TRANSACTION: usize = 100;

impl FederationSenderInner {
    /// Cleans up at the start and every day. Servers that only need a restart announcement are sent it after this.
    pub(super) async fn clean_up_regularly(self: Arc<Self>) {
        let stopping = self.tasks.stopping().clone();
        loop {
            let next = self
                .clock
                .now_ms()
                .saturating_add(milliseconds(CLEANUP_INTERVAL));
            let done = tokio::select! {
                () = stopping.cancelled() => return,
                done = self.clean_up_once() => done,
            };
            if let Err(error) = done {
                tracing::warn!(%error, "the queues for unreachable servers could not be cleaned up");
            }
            for destination in self.all_destinations() {
                self.start_delivery(&destination);
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.clock.sleep_until(next) => {}
            }
        }
    }

    async fn clean_up_once(&self) -> Result<()> {
        self.devices
            .outgoing
            .remove_expired_messages(self.clock.now_ms())
            .await?;
        // A server that has been sent something after this position has come back, and is kept.
        let up_to = self.db.journal().published_position();
        let idle = {
            let mut db = self.db.read().await?;
            outbox::idle_destinations(&mut db).await?
        };
        if idle.is_empty() {
            return Ok(());
        }
        let there = self
            .rooms
            .federation
            .servers_sharing_rooms_with_us()
            .await?;
        let idle = idle.into_iter().filter_map(|it| it.try_into().ok());
        let gone: Vec<OwnedServerName> = idle.filter(|server| !there.contains(server)).collect();
        for some in gone.chunks(SERVERS_PER_TRANSACTION) {
            let forgotten = self.remove_unused_destinations(some);
            let mut tx = self.db.write().await?;
            outbox::remove_destinations(&mut tx, &forgotten).await?;
            device_list_updates::delete_records(&mut tx, &forgotten, up_to).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Removes the servers that have nothing waiting and no task sending to them, and returns them.
    fn remove_unused_destinations(&self, servers: &[OwnedServerName]) -> Vec<OwnedServerName> {
        let mut all = self.destinations();
        let mut forgotten = Vec::new();
        for server in servers {
            let is_used = all.get(server).is_some_and(|destination| {
                Arc::strong_count(destination) > 1 || destination.lock().has_durable_items()
            });
            if !is_used {
                all.remove(server);
                forgotten.push(server.clone());
            }
        }
        forgotten
    }
}
