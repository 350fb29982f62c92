//! A user's settings for a room that was upgraded: tags, push rules, and whether it is a direct chat.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#room-upgrades).

use ruma::{
    OwnedRoomId, RoomId, UserId,
    push::{ConditionalPushRule, Ruleset, SimplePushRule, SimplePushRuleInit},
};
use serde_json::{Map, Value, json};

use super::{
    UserEnvironment,
    push_rules::{self, MAX_RULES_BYTES},
    stored_account_data::{self, PUSH_RULES_TYPE, TAG_TYPE},
};
use crate::{
    error::Result,
    numbers::{RoomNum, UserNum},
    storage::{Db, WriteTx, rooms::room_table, users::account_data},
};

/// The account data type that lists direct chats by user.
const DIRECT_CHATS_TYPE: &str = "m.direct";

/// The settings of users for rooms that were upgraded.
#[derive(Clone)]
pub struct UpgradedRoomSettings {
    db: Db,
}

impl UpgradedRoomSettings {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
        }
    }

    /// Copies a user's settings for a room to the room that replaces it.
    ///
    /// Settings that the user already has for the new room stay unchanged.
    pub async fn copy_settings(
        &self,
        user: UserNum,
        user_id: &UserId,
        old: &RoomId,
        new: &RoomId,
    ) -> Result<()> {
        let mut tx = self.db.write().await?;
        let old_num = room_table::find_number(&mut tx, old.as_str()).await?;
        let new_num = room_table::find_number(&mut tx, new.as_str()).await?;
        if let (Some(old), Some(new)) = (old_num, new_num) {
            copy_tags(&mut tx, user, old, new).await?;
        }
        copy_push_rules(&mut tx, user, user_id, old, new).await?;
        copy_direct_chat(&mut tx, user, old, new).await?;
        tx.commit().await
    }
}

async fn copy_tags(tx: &mut WriteTx, user: UserNum, old: RoomNum, new: RoomNum) -> Result<()> {
    let is_tagged = account_data::get(tx, user, Some(new), TAG_TYPE)
        .await?
        .is_some();
    if let Some(tags) = account_data::get(tx, user, Some(old), TAG_TYPE).await?
        && !is_tagged
    {
        stored_account_data::store(tx, user, Some(new), TAG_TYPE, &tags).await?;
    }
    Ok(())
}

async fn copy_push_rules(
    tx: &mut WriteTx,
    user: UserNum,
    user_id: &UserId,
    old: &RoomId,
    new: &RoomId,
) -> Result<()> {
    let mut rules = push_rules::read_push_rules(tx, user, user_id).await?;
    let has_room = copy_room_rule(&mut rules, old, new);
    let has_override = copy_override_rule(&mut rules, old, new);
    if !has_room && !has_override {
        return Ok(());
    }
    let content = push_rules::push_rules_content(&rules)?;
    if content.len() <= MAX_RULES_BYTES {
        stored_account_data::store(tx, user, None, PUSH_RULES_TYPE, &content).await?;
    }
    Ok(())
}

fn copy_room_rule(rules: &mut Ruleset, old: &RoomId, new: &RoomId) -> bool {
    let Some(rule) = rules.room.get(old.as_str()).cloned() else {
        return false;
    };
    let rule: SimplePushRule<OwnedRoomId> = SimplePushRuleInit {
        actions: rule.actions,
        default: rule.default,
        enabled: rule.enabled,
        rule_id: new.to_owned(),
    }
    .into();
    rules.room.get(new.as_str()).is_none() && rules.room.insert(rule)
}

/// Copies an override rule that has the room's id as its own id and in a condition. Clients use these to mute a room.
fn copy_override_rule(rules: &mut Ruleset, old: &RoomId, new: &RoomId) -> bool {
    let copy = || -> Option<ConditionalPushRule> {
        let rule = serde_json::to_string(rules.override_.get(old.as_str())?).ok()?;
        let (old, new) = (json!(old).to_string(), json!(new).to_string());
        serde_json::from_str(&rule.replace(&old, &new)).ok()
    };
    match copy() {
        Some(rule) if rules.override_.get(new.as_str()).is_none() => {
            rules.override_.shift_insert(0, rule)
        }
        _ => false,
    }
}

async fn copy_direct_chat(
    tx: &mut WriteTx,
    user: UserNum,
    old: &RoomId,
    new: &RoomId,
) -> Result<()> {
    let Some(content) = account_data::get(tx, user, None, DIRECT_CHATS_TYPE).await? else {
        return Ok(());
    };
    let mut direct: Map<String, Value> = serde_json::from_str(&content).unwrap_or_default();
    let mut is_changed = false;
    for chats in direct.values_mut().filter_map(Value::as_array_mut) {
        if chats.iter().any(|chat| chat == old.as_str())
            && !chats.iter().any(|chat| chat == new.as_str())
        {
            chats.push(json!(new));
            is_changed = true;
        }
    }
    if is_changed {
        let content = serde_json::to_string(&direct)?;
        stored_account_data::store(tx, user, None, DIRECT_CHATS_TYPE, &content).await?;
    }
    Ok(())
}
