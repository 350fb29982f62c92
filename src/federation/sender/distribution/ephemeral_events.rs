//! Distributes receipts, typing notifications and presence.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{OwnedServerName, OwnedUserId, presence::PresenceState};
use tokio::time::Instant;

use super::HeldChanges;
use crate::{
    ephemeral::EphemeralTick,
    error::{Error, Result},
    federation::sender::FederationSenderInner,
    numbers::{RoomNum, UserNum},
    storage::Receipt,
};

/// The interval for repeating that users are still online, in rounds of typing. Other servers forget it after half an
/// hour.
const PRESENCE_REPEAT_ROUNDS: u32 = 30;

/// A change in whether a user is typing.
struct TypingChange {
    user_id: OwnedUserId,
    is_typing: bool,
}

impl FederationSenderInner {
    pub(super) async fn distribute_receipts(
        self: &Arc<Self>,
        receipts: BTreeMap<(RoomNum, OwnedUserId, String), Arc<Receipt>>,
    ) -> Result<()> {
        let mut by_room = BTreeMap::<RoomNum, Vec<Arc<Receipt>>>::new();
        for ((room, ..), receipt) in receipts {
            by_room.entry(room).or_default().push(receipt);
        }
        for (room, receipts) in by_room {
            let Some(servers) = self.servers_of(room).await? else {
                continue;
            };
            let room_id = self.rooms.memory.room_id(room).await?;
            self.update_queues(&servers, |state| {
                state.queue_receipts(&room_id, &receipts);
            });
        }
        Ok(())
    }

    /// Queues the users who started or stopped typing in a room.
    pub(super) async fn distribute_typing(
        self: &Arc<Self>,
        held: &mut HeldChanges,
        room: RoomNum,
    ) -> Result<()> {
        let typists =
            self.ephemeral
                .typing
                .changed_users(room, EphemeralTick::ZERO, EphemeralTick::MAX);
        let typists = typists.unwrap_or_default().into_iter();
        let now: BTreeSet<OwnedUserId> = typists
            .filter(|user_id| self.rooms.memory.is_local(user_id))
            .collect();
        let before = held.typing.remove(&room).unwrap_or_default();
        let changed: Vec<TypingChange> = now
            .symmetric_difference(&before)
            .map(|user_id| TypingChange {
                user_id: user_id.clone(),
                is_typing: now.contains(user_id),
            })
            .collect();
        if !now.is_empty() {
            held.typing.insert(room, now);
        }
        if changed.is_empty() {
            return Ok(());
        }
        self.queue_typing_users(room, &changed).await
    }

    async fn queue_typing_users(
        self: &Arc<Self>,
        room: RoomNum,
        changes: &[TypingChange],
    ) -> Result<()> {
        let Some(servers) = self.servers_of(room).await? else {
            return Ok(());
        };
        let room_id = self.rooms.memory.room_id(room).await?;
        self.update_queues(&servers, |state| {
            for change in changes {
                state.queue_typing(&room_id, &change.user_id, change.is_typing);
            }
        });
        Ok(())
    }

    pub(super) async fn distribute_presence(self: &Arc<Self>, user: UserNum) -> Result<()> {
        let event = self.ephemeral.presence.presence_event(user);
        let event = event.filter(|event| self.rooms.memory.is_local(&event.sender));
        if let Some(event) = event {
            let servers = self
                .rooms
                .federation
                .servers_sharing_rooms_with(user)
                .await?;
            self.update_queues(&servers, |state| state.queue_presence(&event.sender));
        }
        Ok(())
    }

    /// Repeats which users are still typing and, at a longer interval, which are still online.
    pub(super) async fn repeat_typing_or_presence(
        self: &Arc<Self>,
        held: &mut HeldChanges,
        rounds: u32,
    ) {
        for (room, typists) in &held.typing {
            let typists: Vec<TypingChange> = typists
                .iter()
                .map(|user_id| TypingChange {
                    user_id: user_id.clone(),
                    is_typing: true,
                })
                .collect();
            if let Err(error) = self.queue_typing_users(*room, &typists).await {
                tracing::debug!(%error, "the typing users of a room could not be sent again");
            }
        }
        if rounds.is_multiple_of(PRESENCE_REPEAT_ROUNDS) {
            let presence = &self.ephemeral.presence;
            let is_there = |user: &UserNum| {
                let event = presence.presence_event(*user);
                event.is_some_and(|event| event.content.presence != PresenceState::Offline)
            };
            held.presence
                .extend(presence.known_users().into_iter().filter(is_there));
            held.presence_due.get_or_insert(Instant::now());
        }
    }

    /// Returns the other servers in a room; `None` when it was deleted, or has no other servers.
    async fn servers_of(&self, room: RoomNum) -> Result<Option<Vec<OwnedServerName>>> {
        match self.rooms.federation.other_servers(room).await {
            Err(Error::NotFound(_)) => Ok(None),
            servers => Ok(Some(servers?).filter(|servers| !servers.is_empty())),
        }
    }
}
