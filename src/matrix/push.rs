//! What an event is worth to a user's unread counts, by push rules.
//!
//! [Push rules](https://spec.matrix.org/v1.19/client-server-api/#push-rules)

use ruma::{
    OwnedRoomId, UInt, UserId,
    events::room::power_levels::RoomPowerLevels,
    push::{Action, PushConditionRoomCtx, Ruleset},
    serde::Raw,
    user_id,
};
use serde_json::value::RawValue;

use super::default_rules;

/// What the rules say of an event for one user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// It counts as a notification.
    pub notify: bool,
    /// It counts as a highlight, too.
    pub highlight: bool,
}

/// What the rules need to know of the room.
#[derive(Clone, Debug)]
pub struct RoomFacts {
    /// The room.
    pub room_id: OwnedRoomId,
    /// How many joined it.
    pub member_count: u64,
    /// Who may mention the whole room.
    pub power_levels: Option<RoomPowerLevels>,
}

/// Returns what `rules` say of an event, which has the form that clients see, for a user.
pub async fn notice(
    rules: &Ruleset,
    user_id: &UserId,
    name: &str,
    event: &RawValue,
    room: &RoomFacts,
) -> Notice {
    let actions = actions(rules, user_id, name, event, room).await;
    let notify = actions.iter().any(Action::should_notify);
    Notice {
        notify,
        highlight: notify && actions.iter().any(Action::is_highlight),
    }
}

/// Returns what `rules` say that is to be done about an event, which has the form that clients see, for a user.
pub async fn actions<'a>(
    rules: &'a Ruleset,
    user_id: &UserId,
    name: &str,
    event: &RawValue,
    room: &RoomFacts,
) -> &'a [Action] {
    let mut context = PushConditionRoomCtx::new(
        room.room_id.clone(),
        UInt::new_saturating(room.member_count),
        user_id.to_owned(),
        name.to_owned(),
    );
    context.power_levels = room.power_levels.clone().map(Into::into);
    let event: Raw<()> = Raw::from_json(event.to_owned());
    rules.get_actions(&event, &context).await
}

/// Returns what the default rules say of an event for a member whom it does not mention.
pub async fn default_notice(event: &RawValue, room: &RoomFacts) -> Notice {
    // The default rules look at the user only to see whether they are mentioned or invited.
    let anyone = user_id!("@:nobody.invalid");
    notice(&default_rules(anyone), anyone, "", event, room).await
}
