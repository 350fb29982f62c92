//! Composing the next transaction for a service from what happened since the last one.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    TransactionSender,
    pending_changes::{UserDevice, WaitingChanges},
    transaction::{
        DeviceKeyCounts, MovedMessages, TransactionContent, is_receipt_visible, to_device_message,
    },
};
use crate::{
    ephemeral::EphemeralTick,
    error::Result,
    matrix::{self, UnsignedFields},
    numbers::{Position, PositionRange, RoomNum},
    rooms::{self, NewEvent},
};

/// The largest number of events in a transaction.
const MAX_EVENTS: usize = 100;
/// The size of the events in a transaction above which no further one is added, in bytes.
const MAX_EVENT_BYTES: usize = 1024 * 1024;
/// The largest number of devices in a transaction whose counts of one-time keys it has.
const MAX_KEY_COUNTS: usize = 1_000;
/// The largest number of messages to devices in a transaction.
const MAX_TO_DEVICE_MESSAGES: usize = 100;

/// A transaction that was composed, and the position up to which it has what happened.
pub(super) struct ComposedTransaction {
    pub(super) content: TransactionContent,
    pub(super) up_to: Position,
}

impl TransactionSender {
    /// Composes the next transaction. It may be empty, because nothing that happened concerns the service.
    pub(super) async fn compose(
        &self,
        range: PositionRange,
        waiting: &WaitingChanges,
    ) -> Result<ComposedTransaction> {
        for room in &waiting.changed_rooms {
            self.interest.forget_room(*room);
        }
        let mut content = TransactionContent::default();
        let up_to = self.add_events(&mut content, range).await?;
        let range = PositionRange { up_to, ..range };
        self.add_invitations(&mut content, range).await?;
        self.add_device_lists(&mut content, range).await?;
        self.add_typing(&mut content, waiting).await?;
        self.add_receipts(&mut content, waiting).await?;
        self.add_presence(&mut content, waiting).await?;
        self.add_to_device(&mut content, waiting).await?;
        self.add_key_counts(&mut content, waiting).await?;
        Ok(ComposedTransaction { content, up_to })
    }

    /// Adds events, and returns the position up to which there is no other.
    async fn add_events(
        &self,
        content: &mut TransactionContent,
        range: PositionRange,
    ) -> Result<Position> {
        if range.after >= range.up_to {
            return Ok(range.after);
        }
        let page = self.sources.rooms.timeline.load_new_events(range).await?;
        let mut bytes = 0;
        for new in &page.events {
            if !self.interest.has_event(new).await? {
                continue;
            }
            let event = self.client_event(new);
            bytes += event.get().len();
            content.events.push(event);
            if content.events.len() >= MAX_EVENTS || bytes >= MAX_EVENT_BYTES {
                return Ok(new.event.position);
            }
        }
        Ok(page.up_to)
    }

    fn client_event(&self, new: &NewEvent) -> Box<serde_json::value::RawValue> {
        let NewEvent { room, event } = new;
        let age = self.sources.clock.now_ms() - i64::from(event.pdu.origin_server_ts.0);
        let unsigned = UnsignedFields {
            age: Some(age.max(0)),
            replaces: event.replaced_state_event().map(|pdu| &**pdu),
            ..UnsignedFields::default()
        };
        matrix::client_event(&event.head, room.room_id.as_str(), &unsigned)
    }

    /// Adds invitations of the service's users to rooms that this server is not in.
    async fn add_invitations(
        &self,
        content: &mut TransactionContent,
        range: PositionRange,
    ) -> Result<()> {
        let timeline = &self.sources.rooms.timeline;
        for invitation in timeline.load_remote_invitations(range).await? {
            if self.service.controls(&invitation.user_id) {
                content.events.push(invitation.event);
            }
        }
        Ok(())
    }

    async fn add_device_lists(
        &self,
        content: &mut TransactionContent,
        range: PositionRange,
    ) -> Result<()> {
        if !self.service.registration.receives_device_changes {
            return Ok(());
        }
        let outgoing = &self.sources.devices.outgoing;
        let mut changed = Vec::new();
        for user in outgoing.lists_changed_after(range.after).await? {
            if self.interest.shares_room_with(user).await? {
                changed.push(user);
            }
        }
        content.changed_device_lists = self.sources.rooms.memory.user_ids(&changed).await?;
        Ok(())
    }

    async fn add_typing(
        &self,
        content: &mut TransactionContent,
        waiting: &WaitingChanges,
    ) -> Result<()> {
        let typing = &self.sources.ephemeral.typing;
        for num in &waiting.typing {
            let users = typing.changed_users(*num, EphemeralTick::ZERO, EphemeralTick::MAX);
            if let Some(room) = self.interest.interesting_room(*num).await? {
                content.ephemeral.push(json!({
                    "type": "m.typing", "room_id": room.room_id,
                    "content": { "user_ids": users.unwrap_or_default() },
                }));
            }
        }
        Ok(())
    }

    async fn add_receipts(
        &self,
        content: &mut TransactionContent,
        waiting: &WaitingChanges,
    ) -> Result<()> {
        let mut by_room: BTreeMap<RoomNum, Vec<_>> = BTreeMap::new();
        for ((room, ..), receipt) in &waiting.receipts {
            by_room.entry(*room).or_default().push(receipt);
        }
        for (num, receipts) in by_room {
            let Some(room) = self.interest.interesting_room(num).await? else {
                continue;
            };
            let visible = receipts.into_iter().filter(|receipt| {
                is_receipt_visible(receipt, |user_id| self.service.controls(user_id))
            });
            if let Some(receipts) = rooms::receipt_content(visible) {
                content.ephemeral.push(json!({
                    "type": "m.receipt", "room_id": room.room_id, "content": receipts,
                }));
            }
        }
        Ok(())
    }

    async fn add_presence(
        &self,
        content: &mut TransactionContent,
        waiting: &WaitingChanges,
    ) -> Result<()> {
        for user in &waiting.presence {
            let event = self.sources.ephemeral.presence.presence_event(*user);
            if let Some(event) = event
                && self.interest.shares_room_with(*user).await?
            {
                content.ephemeral.push(json!({
                    "type": "m.presence", "sender": event.sender, "content": event.content,
                }));
            }
        }
        Ok(())
    }

    async fn add_to_device(
        &self,
        content: &mut TransactionContent,
        waiting: &WaitingChanges,
    ) -> Result<()> {
        let (rooms, devices) = (&self.sources.rooms, &self.sources.devices);
        for device in &waiting.to_device {
            let limit = MAX_TO_DEVICE_MESSAGES.saturating_sub(content.to_device.len());
            if limit == 0 {
                self.changes.add_devices([*device]);
                continue;
            }
            if !self.interest.has_user(device.user).await? {
                continue;
            }
            let pending =
                devices
                    .to_device
                    .pending(device.device, Position::ZERO, Position::MAX, limit);
            let pending = pending.await?;
            let Some(last) = pending.last() else {
                continue;
            };
            if pending.len() == limit {
                self.changes.add_devices([*device]);
            }
            content.moved_messages.push(MovedMessages {
                device: *device,
                up_to: last.position,
            });
            let user_id = rooms.memory.user_ids(&[device.user]).await?.pop();
            let device_id = devices.management.device_id(device.device).await?;
            let (Some(user_id), Some(device_id)) = (user_id, device_id) else {
                continue;
            };
            for message in pending {
                let message = to_device_message(&message.message, &user_id, &device_id)?;
                content.to_device.push(message);
            }
        }
        Ok(())
    }

    /// Adds the numbers of keys of devices of which a key was claimed or uploaded, or that are sent messages.
    async fn add_key_counts(
        &self,
        content: &mut TransactionContent,
        waiting: &WaitingChanges,
    ) -> Result<()> {
        if !self.service.registration.receives_device_changes {
            return Ok(());
        }
        let messaged = content.moved_messages.iter().map(|moved| moved.device);
        let mut changed: Vec<UserDevice> = waiting.key_counts.iter().copied().collect();
        changed.extend(messaged);
        changed.sort_unstable();
        changed.dedup();
        if changed.len() > MAX_KEY_COUNTS {
            self.changes
                .add_key_counts(changed.split_off(MAX_KEY_COUNTS));
        }
        let devices = &self.sources.devices;
        for UserDevice { user, device } in changed {
            if !self.interest.has_user(user).await? {
                continue;
            }
            let user_id = self.sources.rooms.memory.user_ids(&[user]).await?.pop();
            let device_id = devices.management.device_id(device).await?;
            if let (Some(user_id), Some(device_id)) = (user_id, device_id) {
                content.key_counts.push(DeviceKeyCounts {
                    user_id,
                    device_id,
                    left: devices.key_counts.of_device(device).await?,
                });
            }
        }
        Ok(())
    }
}
