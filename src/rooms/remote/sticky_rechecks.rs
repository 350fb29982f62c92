//! Checks soft-failed sticky events again when the membership of their sender changes.
//!
//! Servers may disagree about soft failure, because it depends on the current state. For sticky events they agree again as
//! soon as they have the same state.
//!
//! See [MSC4354](https://github.com/matrix-org/matrix-spec-proposals/pull/4354).

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use ruma::{OwnedUserId, UserId, events::StateEventType};
use tokio::sync::Notify;

use super::{
    EventReceiver,
    receive::verdict::{ReceiveHints, SoftFailureCheck},
};
use crate::{
    error::Result,
    matrix::{Pdu, VerifiedEvent},
    numbers::{Position, RoomNum},
    rooms::memory::{sticky_index::StickyIndex, stored_events::parse_event_id},
    storage::{JournalChange, JournalFollower, StickyEvent, rooms::events},
};

/// The members whose soft-failed sticky events must be checked again.
struct StickyRecheckQueue {
    sticky_events: Arc<StickyIndex>,
    members: Mutex<BTreeSet<(RoomNum, OwnedUserId)>>,
    added: Notify,
}

/// Checks sticky events again.
struct StickyRechecker {
    receiver: EventReceiver,
}

impl JournalFollower for StickyRecheckQueue {
    fn committed(&self, changes: &[(Position, JournalChange)]) {
        if !self.sticky_events.has_hidden_events() {
            return;
        }
        for (_, change) in changes {
            let JournalChange::Event { room, event, .. } = change else {
                continue;
            };
            let keys = event.changed_state_keys();
            let members = keys
                .iter()
                .filter(|(kind, _)| *kind == StateEventType::RoomMember);
            let users = members.map(|(_, user_id)| user_id.as_str());
            for user_id in self.sticky_events.hidden_senders(*room, users) {
                let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
                members.insert((*room, user_id));
                self.added.notify_one();
            }
        }
    }

    fn failed(&self) {}
}

impl EventReceiver {
    /// Starts the task that checks soft-failed sticky events again.
    pub fn start_sticky_rechecks(&self) {
        let queue = Arc::new(StickyRecheckQueue {
            sticky_events: self.sticky_events.clone(),
            members: Mutex::default(),
            added: Notify::new(),
        });
        self.db.journal().add_follower(queue.clone());
        let stopping = self.tasks.stopping().clone();
        let rechecker = StickyRechecker {
            receiver: self.clone(),
        };
        drop(self.tasks.spawn(async move {
            let rechecks = rechecker.recheck_queued_members(&queue);
            stopping.run_until_cancelled(rechecks).await;
        }));
    }
}

impl StickyRechecker {
    async fn recheck_queued_members(&self, queue: &StickyRecheckQueue) {
        loop {
            queue.added.notified().await;
            let members =
                std::mem::take(&mut *queue.members.lock().unwrap_or_else(PoisonError::into_inner));
            for (room, user_id) in members {
                self.recheck_member(room, &user_id).await;
            }
        }
    }

    async fn recheck_member(&self, room: RoomNum, user_id: &UserId) {
        let now_ms = self.receiver.log.clock.now_ms();
        let sticky_events = &self.receiver.sticky_events;
        for event in sticky_events.hidden_of_sender(room, user_id, now_ms) {
            if let Err(error) = self.recheck_sticky_event(&event).await {
                tracing::debug!(event_id = %event.event_id, %error, "a sticky event is still refused");
            }
        }
    }

    async fn recheck_sticky_event(&self, event: &StickyEvent) -> Result<()> {
        let row = {
            let mut conn = self.receiver.db.read().await?;
            let rows = events::by_ids(&mut conn, [event.event_id.as_str()]).await?;
            rows.into_iter().next()
        };
        let Some(row) = row else {
            return Ok(());
        };
        let pdu = Pdu::parse(parse_event_id(&row.event_id)?, &row.json)?;
        let (room, origin) = (event.room, pdu.sender.server_name().to_owned());
        let verified = VerifiedEvent::from_stored(pdu, row.json);
        let hints = ReceiveHints {
            soft_failure: SoftFailureCheck::Again,
            ..ReceiveHints::default()
        };
        let outcome = self.receiver.tasks.run_to_completion(
            &self.receiver,
            async move |receiver: EventReceiver| {
                receiver
                    .receive_with_state(room, &origin, &verified, &hints)
                    .await
            },
        );
        let (outcome, _) = outcome.await?;
        tracing::debug!(event_id = %event.event_id, ?outcome, "a sticky event was checked again");
        Ok(())
    }
}
