//! The account data of a user, as a response contains it.

use std::{collections::HashSet, sync::Arc};

use ruma::{
    RoomId,
    api::client::sync::sync_events::v3::Response,
    events::{AnyGlobalAccountDataEvent, AnyRoomAccountDataEvent},
    serde::Raw,
};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::{
    SyncEnvironment,
    recent_changes::RecentChanges,
    snapshot::{RoomSnapshot, SyncSnapshot},
    sync_viewer::SyncViewer,
};
use crate::{
    error::Result,
    matrix::{wants_global, wants_room_data},
    numbers::{Position, RoomNum, UserNum},
    storage::users::account_data::AccountData,
    users::{Session, Users, write_push_rules},
};

/// The type of the account data that holds the push rules.
const PUSH_RULES_TYPE: &str = "m.push_rules";

/// Reads the account data of users. Cheap to clone.
#[derive(Clone)]
pub(super) struct AccountDataReader {
    users: Users,
    recent_changes: Arc<RecentChanges>,
}

impl AccountDataReader {
    pub(super) fn new(environment: &SyncEnvironment) -> Self {
        Self {
            users: environment.users.clone(),
            recent_changes: environment.recent_changes.clone(),
        }
    }

    /// Returns the account data of a user that changed after a position and up to another; all of it without a
    /// position.
    pub(super) async fn changes(
        &self,
        user: UserNum,
        after: Option<Position>,
        up_to: Position,
    ) -> Result<Vec<AccountData>> {
        if after.is_some_and(|after| !self.recent_changes.account_data_changed(user, after)) {
            return Ok(Vec::new());
        }
        self.users
            .account_data
            .changed_between(user, after.unwrap_or(Position::ZERO), up_to)
            .await
    }

    /// Returns the account data for a response: what changed, and everything of the rooms that the user has joined since
    /// the token. Data that were set while the user was not in the room have not been sent.
    pub(super) async fn changes_with_new_rooms(
        &self,
        viewer: &SyncViewer<'_>,
        snapshot: &SyncSnapshot,
    ) -> Result<Vec<AccountData>> {
        let (user, since) = (viewer.session.user, viewer.since());
        let mut changed = self.changes(user, since, viewer.now).await?;
        let Some(since) = since else {
            return Ok(changed);
        };
        let new_rooms: HashSet<RoomNum> = snapshot
            .rooms
            .iter()
            .filter(|room| room.is_joined_after(since))
            .map(|room| room.num)
            .collect();
        if new_rooms.is_empty() {
            return Ok(changed);
        }
        let is_of_new_room =
            |data: &AccountData| data.room().is_some_and(|room| new_rooms.contains(&room));
        changed.retain(|data| !is_of_new_room(data));
        let all = self.changes(user, None, viewer.now).await?;
        changed.extend(all.into_iter().filter(is_of_new_room));
        Ok(changed)
    }

    /// Adds the global account data. An initial sync has the push rules even if the user has never changed them.
    pub(super) async fn add_global_events(
        &self,
        viewer: &SyncViewer<'_>,
        account_data: &[AccountData],
        response: &mut Response,
    ) -> Result<()> {
        let filter = &viewer.request.filter.account_data;
        let global = account_data.iter().filter(|data| data.room().is_none());
        let (rules, others): (Vec<_>, Vec<_>) =
            global.partition(|data| data.kind == PUSH_RULES_TYPE);
        let wanted = others
            .into_iter()
            .filter(|data| wants_global(filter, &data.kind, None));
        response.account_data.events = wanted.filter_map(account_data_event).collect();
        // The stored rules may lack those that the server has added since, so the current ones are sent.
        let has_rules = viewer.request.since.is_none() || !rules.is_empty();
        if has_rules && wants_global(filter, PUSH_RULES_TYPE, None) {
            let rules = self.push_rules_event(viewer.session).await?;
            response.account_data.events.push(rules);
        }
        Ok(())
    }

    /// Returns the global account data that changed after a position and up to another; without a position all of it,
    /// with the push rules even if the user has never changed them.
    pub(super) async fn global_events(
        &self,
        session: &Session,
        after: Option<Position>,
        up_to: Position,
    ) -> Result<Vec<Raw<AnyGlobalAccountDataEvent>>> {
        let changed = self.changes(session.user, after, up_to).await?;
        let global = changed.iter().filter(|data| data.room().is_none());
        let mut events: Vec<_> = global.clone().filter_map(account_data_event).collect();
        let mut global = global;
        let has_rules = global.any(|data| data.kind == PUSH_RULES_TYPE);
        if after.is_none() && !has_rules {
            events.push(self.push_rules_event(session).await?);
        }
        Ok(events)
    }

    /// Writes the push rules of a user as account data.
    async fn push_rules_event(&self, session: &Session) -> Result<Raw<AnyGlobalAccountDataEvent>> {
        let rules = self
            .users
            .push_rules
            .all(session.user, &session.user_id)
            .await?;
        let rules = write_push_rules(&rules)?;
        let event = json!({ "type": PUSH_RULES_TYPE, "content": { "global": rules } });
        Ok(Raw::from_json(to_raw_value(&event)?))
    }
}

/// Writes account data as an event. Content that is not JSON cannot have been stored, and is skipped.
pub(super) fn account_data_event<T>(data: &AccountData) -> Option<Raw<T>> {
    let (kind, content) = (Value::String(data.kind.clone()), &data.content);
    let event = format!(r#"{{"type":{kind},"content":{content}}}"#);
    RawValue::from_string(event).ok().map(Raw::from_json)
}

/// Returns the account data of one room that the viewer wants.
pub(super) fn room_account_data(
    viewer: &SyncViewer<'_>,
    snapshot: &RoomSnapshot,
    room_id: &RoomId,
    account_data: &[AccountData],
) -> Vec<Raw<AnyRoomAccountDataEvent>> {
    let filter = &viewer.request.filter.room.account_data;
    account_data
        .iter()
        .filter(|data| {
            data.room() == Some(snapshot.num) && wants_room_data(filter, room_id, &data.kind)
        })
        .filter_map(account_data_event)
        .collect()
}
