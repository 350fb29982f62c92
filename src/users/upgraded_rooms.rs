//! A user's settings for a room that was upgraded: tags, push rules, and whether it is a direct chat.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#room-upgrades).

use ruma::{
    OwnedRoomId, RoomId, UserId,
    push::{ConditionalPushRule, Ruleset, SimplePushRule, SimplePushRuleInit},
};
use serde_json::{Map, Value, json};

use super::{
    Users,
    account_data::{PUSH_RULES_TYPE, TAG_TYPE, store_account_data_for},
    push_rules::{self, MAX_RULES_BYTES},
};
use crate::{
    error::Result,
    storage::{RoomNum, UserNum, WriteTx, rooms::room_table, users::account_data},
};

/// The account data type that lists direct chats by user.
const DIRECT_CHATS_TYPE: &str = "m.direct";

impl Users {
    /// Copies a user's settings for a room to the room that replaces it.
    ///
    /// Settings that the user already has for the new room stay unchanged.
    pub async fn copy_room_settings(
        &self,
        user: UserNum,
        user_id: &UserId,
        old: &RoomId,
        new: &RoomId,
    ) -> Result<()> {
        let mut tx = self.inner.db.write().await?;
        let numbers = (
            room_table::find_number(&mut tx, old.as_str()).await?,
            room_table::find_number(&mut tx, new.as_str()).await?,
        );
        if let (Some(old), Some(new)) = numbers {
            copy_tags(&mut tx, user, old, new).await?;
        }
        copy_push_rules(&mut tx, user, user_id, (old, new)).await?;
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
        store_account_data_for(tx, user, Some(new), TAG_TYPE, &tags).await?;
    }
    Ok(())
}

async fn copy_push_rules(
    tx: &mut WriteTx,
    user: UserNum,
    user_id: &UserId,
    (old, new): (&RoomId, &RoomId),
) -> Result<()> {
    let mut rules = push_rules::read_push_rules(tx, user, user_id).await?;
    let has_room = copy_room_rule(&mut rules, old, new);
    let has_override = copy_override_rule(&mut rules, old, new);
    if !has_room && !has_override {
        return Ok(());
    }
    let content = push_rules::push_rules_content(&rules)?;
    if content.len() <= MAX_RULES_BYTES {
        store_account_data_for(tx, user, None, PUSH_RULES_TYPE, &content).await?;
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
        store_account_data_for(tx, user, None, DIRECT_CHATS_TYPE, &content).await?;
    }
    Ok(())
}
