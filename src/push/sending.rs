//! Sending the queues of the pushers, and storing how far they were sent.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    PushSender,
    notification::{self, Notification},
    pusher_queue::{NextPush, PusherQueue, QueuedEvent},
};
use crate::{
    error::{Error, Result},
    matrix::TimelineEvent,
    numbers::Position,
    rooms::Room,
    storage::users::pushers,
};

/// The first pause after a failure, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_hours(1);
/// The age of an event after which nobody is notified of it any more, in milliseconds.
const MAX_EVENT_AGE_MS: i64 = 24 * 60 * 60 * 1000;
/// The time for which progress is collected before it is stored.
const STORING_INTERVAL: Duration = Duration::from_secs(1);

/// The result of a request to a gateway.
enum SendOutcome {
    Sent {
        unread_total: u64,
    },
    /// There was nothing to send.
    Unnecessary,
    /// The gateway does not know the pushkey any more.
    Rejected,
}

impl PushSender {
    /// Starts the task that sends a queue until it is empty.
    pub(super) fn start_sending(self: &Arc<Self>, queue: Arc<PusherQueue>) {
        drop(self.tasks.spawn(self.clone().send_queue(queue)));
    }

    async fn send_queue(self: Arc<Self>, queue: Arc<PusherQueue>) {
        let stopping = self.tasks.stopping().clone();
        let mut failures = 0;
        while let Some(next) = queue.next() {
            let sent = tokio::select! {
                sent = self.send_next(&queue, &next) => sent,
                () = stopping.cancelled() => return,
            };
            let Err(error) = sent else {
                failures = 0;
                continue;
            };
            tracing::debug!(%error, app_id = queue.app_id, "a push notification is sent again later");
            let pause = FIRST_PAUSE.saturating_mul(1 << u32::min(failures, 16));
            failures += 1;
            tokio::select! {
                () = sleep(pause.min(MAX_PAUSE)) => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    async fn send_next(&self, queue: &PusherQueue, push: &NextPush) -> Result<()> {
        let outcome = self.send(queue, push).await?;
        self.finish(queue, push, outcome).await
    }

    async fn finish(
        &self,
        queue: &PusherQueue,
        push: &NextPush,
        outcome: SendOutcome,
    ) -> Result<()> {
        match outcome {
            SendOutcome::Sent { unread_total } => queue.finish(push, Some(unread_total)),
            SendOutcome::Unnecessary => queue.finish(push, None),
            SendOutcome::Rejected => {
                let users = &self.users.pushers;
                users
                    .remove(queue.user, &queue.app_id, &queue.pushkey)
                    .await?;
                queue.close();
            }
        }
        self.progress_changed.notify_one();
        Ok(())
    }

    async fn send(&self, queue: &PusherQueue, push: &NextPush) -> Result<SendOutcome> {
        let unread_total = self.unread_total(queue.user).await?;
        let body = match push {
            NextPush::UnreadTotal if queue.last_unread_total() == Some(unread_total) => {
                return Ok(SendOutcome::Unnecessary);
            }
            NextPush::UnreadTotal => notification::write(queue, unread_total, None)?,
            NextPush::Event(queued) => match self.load_event(queue, queued).await? {
                Some((room, event)) => {
                    let about = Notification {
                        room: &room,
                        event: &event,
                        tweaks: &queued.tweaks,
                    };
                    notification::write(queue, unread_total, Some(&about))?
                }
                None => return Ok(SendOutcome::Unnecessary),
            },
        };
        let rejected = self.gateways.notify(&queue.gateway, body).await?;
        if rejected.contains(&queue.pushkey) {
            return Ok(SendOutcome::Rejected);
        }
        Ok(SendOutcome::Sent { unread_total })
    }

    /// Returns an event with its room, unless the user need not be notified of it any more.
    async fn load_event(
        &self,
        queue: &PusherQueue,
        queued: &QueuedEvent,
    ) -> Result<Option<(Arc<Room>, Arc<TimelineEvent>)>> {
        let room = match self.rooms.memory.room_by_number(queued.room).await {
            Ok(room) => room,
            // It was deleted meanwhile.
            Err(Error::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let rooms = self.rooms.memory.rooms_of_user(queue.user).await?;
        let user_room = rooms.get(queued.room);
        if user_room.is_none_or(|user_room| user_room.marker.timeline >= queued.place) {
            return Ok(None);
        }
        let event = self
            .rooms
            .timeline
            .load_event_at(&room, queued.place)
            .await?;
        let now = self.clock.now_ms();
        Ok(event
            .filter(|event| {
                let sent_at: i64 = event.pdu.origin_server_ts.0.into();
                event.redacted_by.is_none() && now.saturating_sub(sent_at) < MAX_EVENT_AGE_MS
            })
            .map(|event| (room, event)))
    }

    /// Stores how far the queues were sent, whenever that changes and when the server stops.
    pub(super) async fn store_progress_until_stopped(self: Arc<Self>) {
        let stopping = self.tasks.stopping().clone();
        let mut stored = self.distributed.load();
        while !stopping.is_cancelled() {
            tokio::select! {
                () = self.progress_changed.notified() => {}
                () = stopping.cancelled() => {}
            }
            tokio::select! {
                () = sleep(STORING_INTERVAL) => {}
                () = stopping.cancelled() => {}
            }
            // Read first: every event up to here is in the queues, or was sent.
            let distributed = self.distributed.load();
            match self
                .store_progress(distributed, stored != distributed)
                .await
            {
                Ok(()) => stored = distributed,
                Err(error) => {
                    tracing::warn!(%error, "the progress of push notifications could not be stored");
                    self.progress_changed.notify_one();
                }
            }
        }
    }

    async fn store_progress(&self, distributed: Position, is_later: bool) -> Result<()> {
        let recipients = self.recipients.all();
        let queues = recipients.iter().flat_map(|recipient| &recipient.queues);
        let changed: Vec<_> = queues
            .filter_map(|queue| Some((queue, queue.progress_to_store()?)))
            .collect();
        let digests = recipients.iter().flat_map(|recipient| &recipient.digests);
        let changed_digests: Vec<_> = digests
            .filter_map(|digest| Some((digest, digest.times_to_store()?)))
            .collect();
        if changed.is_empty() && changed_digests.is_empty() && !is_later {
            return Ok(());
        }
        let mut tx = self.db.write().await?;
        for (queue, progress) in &changed {
            let key = pushers::PusherKey {
                user: queue.user,
                app_id: &queue.app_id,
                pushkey: &queue.pushkey,
            };
            pushers::set_unsent_after(&mut tx, key, progress.unsent_after).await?;
        }
        for (digest, times) in &changed_digests {
            let key = pushers::PusherKey {
                user: digest.user,
                app_id: &digest.app_id,
                pushkey: &digest.pushkey,
            };
            pushers::set_digest_times(&mut tx, key, *times).await?;
        }
        pushers::set_progress(&mut tx, distributed).await?;
        tx.commit().await?;
        for (queue, progress) in changed {
            queue.set_stored_progress(progress);
        }
        for (digest, times) in changed_digests {
            digest.set_stored_times(times);
        }
        Ok(())
    }
}
