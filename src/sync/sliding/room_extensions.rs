//! The extensions for each room: account data, receipts and typing notifications.
//!
//! See [MSC3959](https://github.com/matrix-org/matrix-spec-proposals/pull/3959),
//! [MSC3960](https://github.com/matrix-org/matrix-spec-proposals/pull/3960) and
//! [MSC3961](https://github.com/matrix-org/matrix-spec-proposals/pull/3961).

use std::{collections::HashSet, sync::Arc};

use ruma::{
    EventId,
    api::client::sync::sync_events::v5::{request::ExtensionRoomConfig, response::Extensions},
    events::room::member::MembershipState,
    serde::Raw,
};
use serde_json::{json, value::to_raw_value};

use super::{
    connection_state::{SentRoom, SyncPosition},
    extensions::is_enabled,
    response_plan::{PlannedRoom, SUBSCRIBED_BIT},
    room::SlidingContext,
};
use crate::{
    error::Result,
    storage::{Position, Receipt, users::account_data::AccountData},
    sync::{
        SyncInner,
        response::{account_data_event, receipt_content},
        snapshot::RoomSnapshot,
    },
};

/// The bits of the extensions that were sent for a room.
const ACCOUNT_DATA_BIT: u8 = 1;
const RECEIPTS_BIT: u8 = 2;
const TYPING_BIT: u8 = 4;

/// The room account data of a user.
#[derive(Default)]
pub(super) struct RoomAccountData {
    /// All account data, for the rooms of which the client has none.
    all: Vec<AccountData>,
    /// The changed account data, for the other rooms.
    changed: Vec<AccountData>,
}

/// The part of an extension's data that is sent for a room.
enum ExtensionScope {
    Nothing,
    /// All data, because the extension was not sent for the room before.
    All,
    /// The changes since a position.
    Since(SyncPosition),
}

impl SyncInner {
    /// Returns the account data that the response may contain.
    pub(super) async fn load_room_account_data(
        &self,
        eye: &SlidingContext<'_>,
    ) -> Result<RoomAccountData> {
        let (mut needs_all, mut since) = (false, None);
        for look in &eye.plan.planned_rooms {
            match extension_scope(eye, look, ACCOUNT_DATA_BIT) {
                ExtensionScope::Nothing => {}
                ExtensionScope::All => needs_all = true,
                ExtensionScope::Since(known) => {
                    let earliest: &mut Position = since.get_or_insert(known.position);
                    *earliest = (*earliest).min(known.position);
                }
            }
        }
        let (user, now) = (eye.session.user, eye.plan.now.position);
        let mut data = RoomAccountData::default();
        if needs_all {
            data.all = self.users.account_data_changed(user, 0, now).await?;
        }
        if let Some(since) =
            since.filter(|since| self.recent_changes.account_data_changed(user, *since))
        {
            data.changed = self.users.account_data_changed(user, since, now).await?;
        }
        Ok(data)
    }

    /// Adds the extensions for a room, and records which were sent.
    pub(super) fn add_room_extensions(
        &self,
        eye: &SlidingContext<'_>,
        (look, moment): (&PlannedRoom, &RoomSnapshot),
        data: &RoomAccountData,
        told: &mut SentRoom,
        extensions: &mut Extensions,
    ) {
        told.extensions = 0;
        let mut tells = |bit: u8| {
            let telling = extension_scope(eye, look, bit);
            if !matches!(telling, ExtensionScope::Nothing) {
                told.extensions |= bit;
            }
            telling
        };
        let (account_data, of_receipts, of_typing) = (
            tells(ACCOUNT_DATA_BIT),
            tells(RECEIPTS_BIT),
            tells(TYPING_BIT),
        );
        let of_room = data.for_room(look, &account_data);
        if !of_room.is_empty() {
            let events = of_room.iter();
            let events = events.filter_map(|data| {
                Some(Raw::from_json(account_data_event(
                    &data.kind,
                    &data.content,
                )?))
            });
            let rooms = &mut extensions.account_data.rooms;
            rooms.insert(look.room_id.clone(), events.collect());
        }
        if moment.mine.membership != MembershipState::Join {
            return;
        }
        let receipts = receipt_content(
            eye.session,
            &recent_receipts(eye, moment, told.event_count, &of_receipts),
        );
        if let Some(content) = receipts {
            let event = json!({ "type": "m.receipt", "content": content });
            if let Ok(event) = to_raw_value(&event) {
                let rooms = &mut extensions.receipts.rooms;
                rooms.insert(look.room_id.clone(), Raw::from_json(event));
            }
        }
        let after = match of_typing {
            ExtensionScope::Nothing => return,
            ExtensionScope::All => None,
            ExtensionScope::Since(since) => Some(since.tick),
        };
        let now = eye.plan.now.tick;
        let typing = &self.ephemeral.typing;
        let typing = typing.changed_users(look.room, after.unwrap_or_default(), now);
        // If the client had nothing before, an empty list of typing users is no change.
        let typing = typing.filter(|users| after.is_some() || !users.is_empty());
        if let Some(users) = typing {
            let event = json!({ "type": "m.typing", "content": { "user_ids": users } });
            if let Ok(event) = to_raw_value(&event) {
                let rooms = &mut extensions.typing.rooms;
                rooms.insert(look.room_id.clone(), Raw::from_json(event));
            }
        }
    }
}

impl RoomAccountData {
    fn for_room(&self, look: &PlannedRoom, telling: &ExtensionScope) -> Vec<&AccountData> {
        let (data, after) = match telling {
            ExtensionScope::Nothing => return Vec::new(),
            ExtensionScope::All => (&self.all, 0),
            ExtensionScope::Since(since) => (&self.changed, since.position),
        };
        data.iter()
            .filter(|data| data.room() == Some(look.room) && data.position > after)
            .collect()
    }
}

/// Returns the new receipts. A client that has none of a room receives those at the events that it has, and its own.
fn recent_receipts(
    eye: &SlidingContext<'_>,
    moment: &RoomSnapshot,
    count: u32,
    telling: &ExtensionScope,
) -> Vec<Arc<Receipt>> {
    let Some(inside) = &moment.contents else {
        return Vec::new();
    };
    let now = eye.plan.now.position;
    let view = inside.room.view();
    match telling {
        ExtensionScope::Nothing => Vec::new(),
        ExtensionScope::Since(since) => {
            let later = view
                .receipts
                .range(since.position + 1..=now.max(since.position + 1));
            later.map(|(_, receipt)| receipt.clone()).collect()
        }
        ExtensionScope::All => {
            let events = view.ring.iter().rev();
            let events = events.filter(|event| event.position <= now);
            let shown: HashSet<&EventId> = events
                .take(usize::try_from(count).unwrap_or(usize::MAX))
                .map(|event| &*event.pdu.event_id)
                .collect();
            let is_wanted = |receipt: &&Arc<Receipt>| {
                receipt.user_id == eye.session.user_id || shown.contains(&*receipt.event_id)
            };
            let all = view.receipts.range(..=now).map(|(_, receipt)| receipt);
            all.filter(is_wanted).cloned().collect()
        }
    }
}

/// Returns which part of an extension's data is sent for a room.
fn extension_scope(eye: &SlidingContext<'_>, look: &PlannedRoom, bit: u8) -> ExtensionScope {
    let asked = &eye.request.extensions;
    let (enabled, lists, rooms) = match bit {
        ACCOUNT_DATA_BIT => {
            let asked = &asked.account_data;
            (asked.enabled, &asked.lists, &asked.rooms)
        }
        RECEIPTS_BIT => {
            let asked = &asked.receipts;
            (asked.enabled, &asked.lists, &asked.rooms)
        }
        _ => (
            asked.typing.enabled,
            &asked.typing.lists,
            &asked.typing.rooms,
        ),
    };
    let is_meant = is_enabled(enabled)
        && (is_selected_by_lists(eye, look, lists.as_deref())
            || is_selected_by_rooms(look, rooms.as_deref()));
    let told = look.sent.as_ref();
    match (is_meant, look.since) {
        (false, _) => ExtensionScope::Nothing,
        (true, Some(since)) if told.is_some_and(|told| told.extensions & bit != 0) => {
            ExtensionScope::Since(since)
        }
        (true, _) => ExtensionScope::All,
    }
}

/// An extension without `lists` applies to all of them.
fn is_selected_by_lists(
    eye: &SlidingContext<'_>,
    look: &PlannedRoom,
    lists: Option<&[String]>,
) -> bool {
    let Some(lists) = lists else {
        return look.lists & !SUBSCRIBED_BIT != 0;
    };
    let named = eye.request.lists.keys().enumerate();
    let is_named = |name: &String| lists.iter().any(|list| list == name || list == "*");
    let mut named = named.filter(|(_, name)| is_named(name));
    named.any(|(bit, _)| look.lists & (1 << bit) != 0)
}

/// An extension without `rooms` applies to all room subscriptions.
fn is_selected_by_rooms(look: &PlannedRoom, rooms: Option<&[ExtensionRoomConfig]>) -> bool {
    let is_subscribed = look.lists & SUBSCRIBED_BIT != 0;
    let Some(rooms) = rooms else {
        return is_subscribed;
    };
    rooms.iter().any(|room| match room {
        ExtensionRoomConfig::AllSubscribed => is_subscribed,
        ExtensionRoomConfig::Room(room_id) => *room_id == look.room_id,
        _ => false,
    })
}
