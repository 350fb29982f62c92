//! Sending the queues of the pushers, and storing how far they were sent.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    PushSender,
    endpoints::{PushEndpoint, WebPushAnswer, WebPushTarget},
    notification::{self, Notification},
    pusher_queue::{EventSource, NextPush, PushTarget, PusherQueue, QueuedEvent},
};
use crate::{
    error::{Error, Result},
    numbers::{Position, PositionRange},
    storage::users::pushers,
};

/// The first pause after a failure, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_hours(1);
/// The age of an event after which nobody is notified of it any more, in milliseconds.
const MAX_EVENT_AGE_MS: i64 = 24 * 60 * 60 * 1000;
/// The time for which progress is collected before it is stored.
const STORING_INTERVAL: Duration = Duration::from_secs(1);

/// The result of a request to a gateway or a push service.
enum SendOutcome {
    Sent {
        /// The number of unread events that was sent.
        unread_total: Option<u64>,
    },
    /// There was nothing to send.
    Unnecessary,
    /// The pusher does not work any more.
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
            SendOutcome::Sent { unread_total } => queue.finish(push, unread_total),
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
        match &queue.target {
            PushTarget::Gateway(gateway) => self.send_to_gateway(queue, gateway, push).await,
            PushTarget::WebPush(target) => self.send_to_browser(queue, target, push).await,
        }
    }

    async fn send_to_gateway(
        &self,
        queue: &PusherQueue,
        gateway: &PushEndpoint,
        push: &NextPush,
    ) -> Result<SendOutcome> {
        let unread_total = self.unread_total_for(queue).await?;
        let body = match push {
            NextPush::Activation(_) => return Ok(SendOutcome::Unnecessary),
            NextPush::UnreadTotal if queue.last_unread_total() == unread_total => {
                return Ok(SendOutcome::Unnecessary);
            }
            NextPush::UnreadTotal => notification::write(queue, unread_total, None)?,
            NextPush::Event(queued) => match self.load_event(queue, queued).await? {
                Some(about) => notification::write(queue, unread_total, Some(&about))?,
                None => return Ok(SendOutcome::Unnecessary),
            },
        };
        let rejected = self.endpoints.notify(gateway, body).await?;
        if rejected.contains(&queue.pushkey) {
            return Ok(SendOutcome::Rejected);
        }
        Ok(SendOutcome::Sent { unread_total })
    }

    async fn send_to_browser(
        &self,
        queue: &PusherQueue,
        target: &WebPushTarget,
        push: &NextPush,
    ) -> Result<SendOutcome> {
        let mut unread_total = None;
        let answer = match push {
            NextPush::Activation(activation) if activation.expires_ts <= self.clock.now_ms() => {
                return Ok(SendOutcome::Unnecessary);
            }
            NextPush::Activation(activation) => {
                self.send_activation(queue, target, activation).await?
            }
            NextPush::Event(queued) => {
                let Some(about) = self.load_event(queue, queued).await? else {
                    return Ok(SendOutcome::Unnecessary);
                };
                unread_total = self.unread_total_for(queue).await?;
                self.send_event_by_web_push(queue, target, unread_total, &about)
                    .await?
            }
            NextPush::UnreadTotal => return Ok(SendOutcome::Unnecessary),
        };
        Ok(match answer {
            WebPushAnswer::Accepted => SendOutcome::Sent { unread_total },
            WebPushAnswer::MessageRefused => SendOutcome::Unnecessary,
            WebPushAnswer::SubscriptionEnded => SendOutcome::Rejected,
        })
    }

    /// Returns the number of unread events of the user of a pusher, unless the client counts itself.
    async fn unread_total_for(&self, queue: &PusherQueue) -> Result<Option<u64>> {
        if queue.leaves_counting_to_client() {
            return Ok(None);
        }
        self.unread_total(queue.user).await.map(Some)
    }

    /// Returns the notification of an event, unless the user need not be notified of it any more.
    async fn load_event(
        &self,
        queue: &PusherQueue,
        queued: &QueuedEvent,
    ) -> Result<Option<Notification>> {
        let found = match queued.source {
            EventSource::Timeline(place) => self.load_timeline_event(queue, queued, place).await?,
            EventSource::RemoteInvitation => self.load_remote_invitation(queue, queued).await?,
        };
        let now = self.clock.now_ms();
        Ok(found.filter(|found| now.saturating_sub(found.sent_ts) < MAX_EVENT_AGE_MS))
    }

    async fn load_timeline_event(
        &self,
        queue: &PusherQueue,
        queued: &QueuedEvent,
        place: Position,
    ) -> Result<Option<Notification>> {
        let room = match self.rooms.memory.room_by_number(queued.room).await {
            Ok(room) => room,
            // It was deleted meanwhile.
            Err(Error::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let rooms = self.rooms.memory.rooms_of_user(queue.user).await?;
        let user_room = rooms.get(queued.room);
        if user_room.is_none_or(|user_room| user_room.marker.timeline >= place) {
            return Ok(None);
        }
        let event = self.rooms.timeline.load_event_at(&room, place).await?;
        let event = event.filter(|event| event.redacted_by.is_none());
        Ok(event.map(|event| {
            Notification::of_event(&queue.user_id, &room, &event, queued.tweaks.clone())
        }))
    }

    /// Returns the notification of an invitation, if it is still open.
    async fn load_remote_invitation(
        &self,
        queue: &PusherQueue,
        queued: &QueuedEvent,
    ) -> Result<Option<Notification>> {
        let range = PositionRange {
            after: queued.position.previous(),
            up_to: queued.position,
        };
        let invitations = self.rooms.timeline.load_remote_invitations(range).await?;
        let mut invitations = invitations.iter();
        let own = invitations.find(|invitation| invitation.user == queue.user);
        let notification =
            |invitation| Notification::of_remote_invitation(invitation, queued.tweaks.clone());
        own.map(notification).transpose()
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
