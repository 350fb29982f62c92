//! Giving new events to the queues of the pushers.

use std::{sync::Arc, time::Duration};

use ruma::{
    events::{StateEventType, room::member::MembershipState},
    push::Action,
};
use serde_json::value::RawValue;
use tokio::time::sleep;

use super::{
    PushSender,
    pusher_queue::{PushTweaks, QueuedEvent},
    recipients::PushRecipient,
};
use crate::{
    error::Result,
    matrix::{self, RoomFacts, UnsignedFields},
    numbers::{Position, PositionRange, UserNum},
    rooms::{NewEvent, Room},
};

/// The time after which the distribution is tried again, after it failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

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
            tokio::select! {
                () = self.changes.arrived.notified() => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    async fn distribute_changes(self: &Arc<Self>) -> Result<()> {
        // Read first: the pushers that were set before an event are then known when the event is distributed.
        let newest = self.changes.newest_event.load();
        let mut users = self.changes.take_users();
        if let Err(error) = self.reload_pushers(&users.pushers).await {
            self.changes
                .restore_pushers(std::mem::take(&mut users.pushers));
            return Err(error);
        }
        for user in users.rules {
            self.recipients.forget_rules(user);
        }
        self.distribute_events(newest).await?;
        for user in users.read_positions {
            self.request_unread_total(user);
        }
        Ok(())
    }

    async fn reload_pushers(&self, users: &[UserNum]) -> Result<()> {
        for user in users {
            let distributed = self.distributed.load();
            self.recipients
                .reload(&self.db, &self.gateways, *user, distributed)
                .await?;
            self.progress_changed.notify_one();
        }
        Ok(())
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
        let facts = room_facts(room);
        for recipient in recipients {
            let Some(tweaks) = self.tweaks_for(&recipient, new, &json, &facts).await? else {
                continue;
            };
            self.add_to_digests(&recipient, event.position);
            let queued = QueuedEvent {
                position: event.position,
                room: room.num,
                place: event.timeline,
                tweaks,
            };
            let idle = recipient
                .queues
                .iter()
                .filter(|queue| queue.push(queued.clone()));
            idle.for_each(|queue| self.start_sending(queue.clone()));
        }
        Ok(())
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
        new: &NewEvent,
        json: &RawValue,
        facts: &RoomFacts,
    ) -> Result<Option<PushTweaks>> {
        let NewEvent { room, event } = new;
        let settings = self.rooms.access.find_ignore_settings(recipient.user);
        if settings.is_some_and(|settings| settings.hides_event(&event.pdu)) {
            return Ok(None);
        }
        let rules = recipient.rules(&self.users).await?;
        let name = display_name(room, recipient);
        let user_id = &recipient.user_id;
        let actions = matrix::push_actions(&rules, user_id, &name, json, facts).await;
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

fn room_facts(room: &Room) -> RoomFacts {
    let (state, members) = {
        let view = room.view();
        (view.state.clone(), view.joined_members)
    };
    RoomFacts {
        room_id: room.room_id.clone(),
        member_count: u64::try_from(members).unwrap_or(0),
        power_levels: Some(matrix::power_levels(&state, &room.rules)),
    }
}

fn display_name(room: &Room, recipient: &PushRecipient) -> String {
    let user_id = &recipient.user_id;
    let view = room.view();
    view.state
        .get(&StateEventType::RoomMember, user_id.as_str())
        .and_then(|member| member.content_str("displayname"))
        .unwrap_or_else(|| user_id.localpart().to_owned())
}
