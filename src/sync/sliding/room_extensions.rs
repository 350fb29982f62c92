//! The extensions for each room: account data, receipts and typing notifications.
//!
//! See [MSC3959](https://github.com/matrix-org/matrix-spec-proposals/pull/3959),
//! [MSC3960](https://github.com/matrix-org/matrix-spec-proposals/pull/3960) and
//! [MSC3961](https://github.com/matrix-org/matrix-spec-proposals/pull/3961).

use std::{collections::HashSet, sync::Arc};

use ruma::{
    EventId, OwnedUserId,
    api::client::sync::sync_events::v5::{request::ExtensionRoomConfig, response::Extensions},
    events::room::member::MembershipState,
    serde::Raw,
};
use serde_json::{json, value::to_raw_value};

use super::{
    SlidingSections,
    connection_state::{SentRoom, SyncPosition},
    context::SlidingContext,
    extensions::is_enabled,
    response_plan::{PlannedRoom, SUBSCRIBED_BIT},
};
use crate::{
    ephemeral::{EphemeralState, EphemeralTick},
    error::Result,
    numbers::Position,
    storage::{Receipt, users::account_data::AccountData},
    sync::{
        SyncEnvironment,
        account_data::{AccountDataReader, account_data_event},
        ephemeral_events::receipt_content,
        snapshot::RoomSnapshot,
    },
};

/// The bits of the extensions that were sent for a room.
const ACCOUNT_DATA_BIT: u8 = 1;
const RECEIPTS_BIT: u8 = 2;
const TYPING_BIT: u8 = 4;

/// Reads the extensions for rooms. Cheap to clone.
#[derive(Clone)]
pub(super) struct RoomExtensionReader {
    ephemeral: EphemeralState,
    account_data: AccountDataReader,
}

/// A room for which extensions are written.
#[derive(Clone, Copy)]
pub(super) struct ExtensionRoom<'a> {
    pub(super) context: &'a SlidingContext<'a>,
    pub(super) planned: &'a PlannedRoom,
    pub(super) snapshot: &'a RoomSnapshot,
}

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

impl RoomExtensionReader {
    pub(super) fn new(environment: &SyncEnvironment, sections: &SlidingSections) -> Self {
        Self {
            ephemeral: environment.ephemeral.clone(),
            account_data: sections.account_data.clone(),
        }
    }

    /// Returns the account data that the response may contain.
    pub(super) async fn load_room_account_data(
        &self,
        context: &SlidingContext<'_>,
    ) -> Result<RoomAccountData> {
        let (mut needs_all, mut since) = (false, None);
        for planned in &context.plan.planned_rooms {
            match extension_scope(context, planned, ACCOUNT_DATA_BIT) {
                ExtensionScope::Nothing => {}
                ExtensionScope::All => needs_all = true,
                ExtensionScope::Since(known) => {
                    let earliest: &mut Position = since.get_or_insert(known.position);
                    *earliest = (*earliest).min(known.position);
                }
            }
        }
        let (user, now) = (context.session.user, context.plan.now.position);
        let mut data = RoomAccountData::default();
        if needs_all {
            data.all = self.account_data.changes(user, None, now).await?;
        }
        if let Some(since) = since {
            data.changed = self.account_data.changes(user, Some(since), now).await?;
        }
        Ok(data)
    }

    /// Adds the extensions for a room, and records which were sent.
    pub(super) fn add_room_extensions(
        &self,
        room: &ExtensionRoom<'_>,
        data: &RoomAccountData,
        sent: &mut SentRoom,
        extensions: &mut Extensions,
    ) {
        let ExtensionRoom {
            context,
            planned,
            snapshot,
        } = *room;
        sent.extensions = 0;
        let mut scope_of = |bit: u8| {
            let scope = extension_scope(context, planned, bit);
            if !matches!(scope, ExtensionScope::Nothing) {
                sent.extensions |= bit;
            }
            scope
        };
        let account_data_scope = scope_of(ACCOUNT_DATA_BIT);
        let receipt_scope = scope_of(RECEIPTS_BIT);
        let typing_scope = scope_of(TYPING_BIT);
        let room_data = data.for_room(planned, &account_data_scope);
        if !room_data.is_empty() {
            let events = room_data.into_iter().filter_map(account_data_event);
            let rooms = &mut extensions.account_data.rooms;
            rooms.insert(planned.room_id.clone(), events.collect());
        }
        if snapshot.user_room.membership != MembershipState::Join {
            return;
        }
        let receipts = recent_receipts(context, snapshot, sent.event_count, &receipt_scope);
        if let Some(content) = receipt_content(context.session, &receipts) {
            let event = json!({ "type": "m.receipt", "content": content });
            if let Ok(event) = to_raw_value(&event) {
                let rooms = &mut extensions.receipts.rooms;
                rooms.insert(planned.room_id.clone(), Raw::from_json(event));
            }
        }
        if let Some(users) = self.changed_typing(room, &typing_scope) {
            let event = json!({ "type": "m.typing", "content": { "user_ids": users } });
            if let Ok(event) = to_raw_value(&event) {
                let rooms = &mut extensions.typing.rooms;
                rooms.insert(planned.room_id.clone(), Raw::from_json(event));
            }
        }
    }

    /// Returns the users who are typing in a room, if that changed for the client.
    fn changed_typing(
        &self,
        room: &ExtensionRoom<'_>,
        scope: &ExtensionScope,
    ) -> Option<Vec<OwnedUserId>> {
        let after = match scope {
            ExtensionScope::Nothing => return None,
            ExtensionScope::All => None,
            ExtensionScope::Since(since) => Some(since.tick),
        };
        let now = room.context.plan.now.tick;
        let typing = &self.ephemeral.typing;
        let typing =
            typing.changed_users(room.planned.room, after.unwrap_or(EphemeralTick::ZERO), now);
        // If the client had nothing before, an empty list of typing users is no change.
        typing.filter(|users| after.is_some() || !users.is_empty())
    }
}

impl RoomAccountData {
    fn for_room(&self, planned: &PlannedRoom, scope: &ExtensionScope) -> Vec<&AccountData> {
        let (data, after) = match scope {
            ExtensionScope::Nothing => return Vec::new(),
            ExtensionScope::All => (&self.all, Position::ZERO),
            ExtensionScope::Since(since) => (&self.changed, since.position),
        };
        data.iter()
            .filter(|data| data.room() == Some(planned.room) && data.position > after)
            .collect()
    }
}

/// Returns the new receipts. A client that has none of a room receives those at the events that it has, and its own.
fn recent_receipts(
    context: &SlidingContext<'_>,
    snapshot: &RoomSnapshot,
    count: u32,
    scope: &ExtensionScope,
) -> Vec<Arc<Receipt>> {
    let Some(contents) = &snapshot.contents else {
        return Vec::new();
    };
    let now = context.plan.now.position;
    let view = contents.room.view();
    match scope {
        ExtensionScope::Nothing => Vec::new(),
        ExtensionScope::Since(since) => {
            let later = view
                .receipts
                .range(since.position.next()..=now.max(since.position.next()));
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
                receipt.user_id == context.session.user_id || shown.contains(&*receipt.event_id)
            };
            let all = view.receipts.range(..=now).map(|(_, receipt)| receipt);
            all.filter(is_wanted).cloned().collect()
        }
    }
}

/// Returns which part of an extension's data is sent for a room.
fn extension_scope(context: &SlidingContext<'_>, planned: &PlannedRoom, bit: u8) -> ExtensionScope {
    let requested = &context.request.extensions;
    let (enabled, lists, rooms) = match bit {
        ACCOUNT_DATA_BIT => {
            let requested = &requested.account_data;
            (requested.enabled, &requested.lists, &requested.rooms)
        }
        RECEIPTS_BIT => {
            let requested = &requested.receipts;
            (requested.enabled, &requested.lists, &requested.rooms)
        }
        _ => (
            requested.typing.enabled,
            &requested.typing.lists,
            &requested.typing.rooms,
        ),
    };
    let is_meant = is_enabled(enabled)
        && (is_selected_by_lists(context, planned, lists.as_deref())
            || is_selected_by_rooms(planned, rooms.as_deref()));
    let sent = planned.sent.as_ref();
    match (is_meant, planned.since) {
        (false, _) => ExtensionScope::Nothing,
        (true, Some(since)) if sent.is_some_and(|sent| sent.extensions & bit != 0) => {
            ExtensionScope::Since(since)
        }
        (true, _) => ExtensionScope::All,
    }
}

/// An extension without `lists` applies to all of them.
fn is_selected_by_lists(
    context: &SlidingContext<'_>,
    planned: &PlannedRoom,
    lists: Option<&[String]>,
) -> bool {
    let Some(lists) = lists else {
        return planned.lists & !SUBSCRIBED_BIT != 0;
    };
    let named = context.request.lists.keys().enumerate();
    let is_named = |name: &String| lists.iter().any(|list| list == name || list == "*");
    let mut named = named.filter(|(_, name)| is_named(name));
    named.any(|(bit, _)| planned.lists & (1 << bit) != 0)
}

/// An extension without `rooms` applies to all room subscriptions.
fn is_selected_by_rooms(planned: &PlannedRoom, rooms: Option<&[ExtensionRoomConfig]>) -> bool {
    let is_subscribed = planned.lists & SUBSCRIBED_BIT != 0;
    let Some(rooms) = rooms else {
        return is_subscribed;
    };
    rooms.iter().any(|room| match room {
        ExtensionRoomConfig::AllSubscribed => is_subscribed,
        ExtensionRoomConfig::Room(room_id) => *room_id == planned.room_id,
        _ => false,
    })
}
