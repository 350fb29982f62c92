//! Giving new events to the queues of the pushers.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ruma::{events::room::member::MembershipState, push::Action};
use serde_json::value::RawValue;
use tokio::time::sleep;

use super::{
    PushSender,
    pusher_queue::{EventSource, PushTweaks, QueuedEvent},
    recipients::PushRecipient,
};
use crate::{
    error::Result,
    matrix::{self, RoomFacts, UnsignedFields},
    numbers::{Position, PositionRange, UserNum},
    rooms::NewEvent,
};

/// The time after which the distribution is tried again, after it failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// An event to which the push rules of a user are applied.
#[derive(Clone, Copy)]
struct EvaluatedEvent<'a> {
    /// The user's display name in the room.
    name: &'a str,
    /// The event in the client format.
    json: &'a RawValue,
    facts: &'a RoomFacts,
}

impl PushSender {
    /// Gives new events to the queues until the server stops.
    pub(super) async fn distribute_until_stopped(self: Arc<Self>) {
        let stopping = self.tasks.stopping().clone();
        while !stopping.is_cancelled() {
            if let Err(error) = self.distribute_changes().await {
                tracing::warn!(%error, "push notifications are delayed");
                tokio::select! {
                    () = sleep(RETRY_INTERVAL) => continue,
                    () = stopping.cancelled() => return,
                }
            }
            if self.has_undistributed_events() {
                continue;
            }
            tokio::select! {
                () = self.changes.arrived.notified() => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    /// Returns whether there are events to distribute. While nobody has a pusher, events wake nobody.
    fn has_undistributed_events(&self) -> bool {
        self.changes.newest_event.load() > self.distributed.load() && !self.recipients.is_empty()
    }

    async fn distribute_changes(self: &Arc<Self>) -> Result<()> {
        // Read first: the pushers that were set before an event are then known when the event is distributed.
        let newest = self.changes.newest_event.load();
        let mut users = self.changes.take_users();
        if self.recipients.is_empty()
            && let Some(position) = users.first_pusher_change
        {
            // No pusher is to be sent the events before it was set.
            self.distributed.fetch_max(position);
        }
        if let Err(error) = self.reload_pushers(&users.pushers).await {
            let pushers = std::mem::take(&mut users.pushers);
            self.changes
                .restore_pushers(pushers, users.first_pusher_change);
            return Err(error);
        }
        let has_recipients = !self.recipients.is_empty();
        self.changes
            .has_recipients
            .store(has_recipients, Ordering::SeqCst);
        for user in users.rules {
            self.recipients.forget_rules(user);
        }
        self.distribute_events(newest).await?;
        for user in users.read_positions {
            self.request_unread_total(user);
        }
        Ok(())
    }

    async fn reload_pushers(self: &Arc<Self>, users: &[UserNum]) -> Result<()> {
        for user in users {
            let distributed = self.distributed.load();
            self.recipients
                .reload(&self.db, &self.endpoints, *user, distributed)
                .await?;
            if let Some(recipient) = self.recipients.get(*user) {
                self.start_activations(&recipient);
            }
            self.progress_changed.notify_one();
        }
        Ok(())
    }

    /// Sends the tokens with which the clients of a user activate new pushers.
    pub(super) fn start_activations(self: &Arc<Self>, recipient: &PushRecipient) {
        for queue in &recipient.queues {
            if queue.must_send_activation() {
                self.start_sending(queue.clone());
            }
        }
    }

    /// Sends the number of unread events of a user to the user's devices.
    fn request_unread_total(self: &Arc<Self>, user: UserNum) {
        let Some(recipient) = self.recipients.get(user) else {
            return;
        };
        for queue in &recipient.queues {
            if queue.request_unread_total() {
                self.start_sending(queue.clone());
            }
        }
    }

    async fn distribute_events(self: &Arc<Self>, up_to: Position) -> Result<()> {
        while self.distributed.load() < up_to {
            let range = PositionRange {
                after: self.distributed.load(),
                up_to,
            };
            if self.recipients.is_empty() {
                self.distributed.store(up_to);
                break;
            }
            let page = self.rooms.timeline.load_new_events(range).await?;
            for new in &page.events {
                self.distribute_event(new).await?;
            }
            let up_to = page.up_to;
            self.distribute_invitations(PositionRange { up_to, ..range })
                .await?;
            self.distributed.store(page.up_to);
            self.progress_changed.notify_one();
        }
        Ok(())
    }

    async fn distribute_event(self: &Arc<Self>, new: &NewEvent) -> Result<()> {
        let NewEvent { room, event } = new;
        let mut recipients = self.recipients.among(&room.view().local_members);
        let invited = event
            .pdu
            .member()
            .filter(|_| event.pdu.membership() == Some(MembershipState::Invite));
        recipients.extend(invited.and_then(|user_id| self.recipients.find(user_id)));
        recipients.retain(|recipient| recipient.user_id != event.pdu.sender);
        if recipients.is_empty() {
            return Ok(());
        }
        let json = matrix::client_event(
            &event.head,
            room.room_id.as_str(),
            &UnsignedFields::default(),
        );
        let facts = room.push_facts();
        for recipient in recipients {
            let settings = self.rooms.access.find_ignore_settings(recipient.user);
            if settings.is_some_and(|settings| settings.hides_event(&event.pdu)) {
                continue;
            }
            let name = room.display_name(&recipient.user_id);
            let about = EvaluatedEvent {
                name: &name,
                json: &json,
                facts: &facts,
            };
            let Some(tweaks) = self.tweaks_for(&recipient, about).await? else {
                continue;
            };
            self.add_to_digests(&recipient, event.position);
            let queued = QueuedEvent {
                position: event.position,
                room: room.num,
                source: EventSource::Timeline(event.timeline),
                tweaks,
            };
            self.add_to_queues(&recipient, &queued);
        }
        Ok(())
    }

    /// Gives invitations to rooms that this server is not in to the queues.
    async fn distribute_invitations(self: &Arc<Self>, range: PositionRange) -> Result<()> {
        let timeline = &self.rooms.timeline;
        for invitation in timeline.load_remote_invitations(range).await? {
            let Some(recipient) = self.recipients.get(invitation.user) else {
                continue;
            };
            let room = self.rooms.memory.room_by_number(invitation.room).await?;
            let facts = RoomFacts {
                room_id: room.room_id.clone(),
                member_count: 0,
                power_levels: None,
            };
            let about = EvaluatedEvent {
                name: recipient.user_id.localpart(),
                json: &invitation.event,
                facts: &facts,
            };
            let Some(tweaks) = self.tweaks_for(&recipient, about).await? else {
                continue;
            };
            let queued = QueuedEvent {
                position: invitation.position,
                room: invitation.room,
                source: EventSource::RemoteInvitation,
                tweaks,
            };
            self.add_to_queues(&recipient, &queued);
        }
        Ok(())
    }

    fn add_to_queues(self: &Arc<Self>, recipient: &PushRecipient, queued: &QueuedEvent) {
        for queue in &recipient.queues {
            if queue.push(queued.clone()) {
                self.start_sending(queue.clone());
            }
        }
    }

    fn add_to_digests(self: &Arc<Self>, recipient: &PushRecipient, position: Position) {
        for digest in &recipient.digests {
            if digest.add_unread(position, self.clock.now_ms()) {
                self.start_waiting(digest.clone());
            }
        }
    }

    /// Returns how a user is notified of an event, or `None` if the user's settings do not ask for it.
    async fn tweaks_for(
        &self,
        recipient: &PushRecipient,
        about: EvaluatedEvent<'_>,
    ) -> Result<Option<PushTweaks>> {
        let rules = recipient.rules(&self.users).await?;
        let EvaluatedEvent { name, json, facts } = about;
        let user_id = &recipient.user_id;
        let actions = matrix::push_actions(&rules, user_id, name, json, facts).await;
        if !actions.iter().any(Action::should_notify) {
            return Ok(None);
        }
        Ok(Some(PushTweaks {
            highlight: actions.iter().any(Action::is_highlight),
            sound: actions
                .iter()
                .find_map(Action::sound)
                .map(|sound| Arc::from(sound.as_str())),
        }))
    }
}
