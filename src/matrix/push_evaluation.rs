//! Push rules: whether an event counts as a notification or highlight for a user.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#push-rules).

use std::collections::BTreeSet;

use ruma::{
    OwnedRoomId, UInt, UserId,
    events::room::power_levels::RoomPowerLevels,
    push::{
        Action, AnyPushRuleRef, PredefinedOverrideRuleId, PushCondition, PushConditionRoomCtx,
        Ruleset,
    },
    user_id,
};
use serde_json::value::RawValue;

use super::{
    default_push_rules::{counting_rules, default_rules},
    push_limits::{bounded_event, bounded_name},
};

/// The result of a user's push rules for an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PushOutcome {
    pub notify: bool,
    /// It counts as a highlight as well as a notification.
    pub highlight: bool,
}

impl PushOutcome {
    /// Returns the result of the rule that matched an event.
    pub fn of_rule(rule: Option<AnyPushRuleRef<'_>>) -> Self {
        let actions = rule.map_or(&[][..], AnyPushRuleRef::actions);
        let notify = actions.iter().any(Action::should_notify);
        Self {
            notify,
            highlight: notify && actions.iter().any(Action::is_highlight),
        }
    }
}

/// The facts about a room that push rules depend on.
#[derive(Clone, Debug)]
pub struct RoomFacts {
    pub room_id: OwnedRoomId,
    /// The number of joined members.
    pub member_count: u64,
    /// The power levels, which decide who may mention the whole room.
    pub power_levels: Option<RoomPowerLevels>,
}

/// The longest text that is searched for names, in bytes.
const MAX_BODY_BYTES: usize = 4_096;
/// The most words joined by punctuation that can form one name.
const MAX_NAME_WORDS: usize = 6;

/// Returns the parts of a text that could be the localpart of a user, in lower case.
pub fn possible_names(body: &str) -> BTreeSet<String> {
    let end = body.floor_char_boundary(MAX_BODY_BYTES);
    let body = body.get(..end).unwrap_or_default().to_lowercase();
    let is_of_word = |c: char| c.is_alphanumeric() || c == '_';
    let is_of_name = |c: char| is_of_word(c) || matches!(c, '.' | '=' | '-' | '/' | '+');
    let mut names = BTreeSet::new();
    for run in body.split(|c| !is_of_name(c)) {
        let starts = run.char_indices().scan(false, |was_in, (at, c)| {
            let starts = is_of_word(c) && !*was_in;
            *was_in = is_of_word(c);
            Some(starts.then_some(at))
        });
        let words: Vec<(usize, &str)> = starts
            .flatten()
            .zip(
                run.split(|c| !is_of_word(c))
                    .filter(|word| !word.is_empty()),
            )
            .collect();
        for (first, (start, _)) in words.iter().enumerate() {
            for (at, word) in words.iter().skip(first).take(MAX_NAME_WORDS) {
                names.extend(run.get(*start..at + word.len()).map(ToOwned::to_owned));
            }
        }
    }
    names
}

/// Returns the actions of the rule that matches an event in the client format for a user.
pub async fn push_actions<'a>(
    rules: &'a Ruleset,
    user_id: &UserId,
    name: &str,
    event: &RawValue,
    room: &RoomFacts,
) -> &'a [Action] {
    let matched = matched_rule(rules, user_id, name, event, room).await;
    matched.map_or(&[], AnyPushRuleRef::actions)
}

/// Returns the rule that matches an event in the client format for a user.
pub async fn matched_rule<'a>(
    rules: &'a Ruleset,
    user_id: &UserId,
    name: &str,
    event: &RawValue,
    room: &RoomFacts,
) -> Option<AnyPushRuleRef<'a>> {
    let mut context = PushConditionRoomCtx::new(
        room.room_id.clone(),
        UInt::new_saturating(room.member_count),
        user_id.to_owned(),
        bounded_name(name).to_owned(),
    );
    context.power_levels = room.power_levels.clone().map(Into::into);
    rules.get_match(&bounded_event(event), &context).await
}

/// Returns whether a user's rules depend on the power of an event's sender to notify others.
///
/// The default rule on mentions of the room is not counted: it depends on this only for events that mention the room.
pub fn depends_on_power_levels(rules: &Ruleset) -> bool {
    let asks = |condition: &PushCondition| {
        matches!(condition, PushCondition::SenderNotificationPermission(_))
    };
    let of_room_mention = PredefinedOverrideRuleId::IsRoomMention;
    let mut rules = rules.override_.iter().chain(&rules.underride);
    rules.any(|rule| {
        rule.enabled && rule.rule_id != of_room_mention.as_str() && rule.conditions.iter().any(asks)
    })
}

/// Returns the outcome of the default rules for a member whom an event does not mention.
pub async fn default_push_outcome(event: &RawValue, room: &RoomFacts) -> PushOutcome {
    // The default rules depend on the user only for mentions, names and invites.
    let anyone = user_id!("@:nobody.invalid");
    let mut rules = counting_rules(default_rules(anyone));
    rules.content.clear();
    PushOutcome::of_rule(matched_rule(&rules, anyone, "", event, room).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_within_punctuation() {
        let names = possible_names("Hello @user-1-Bob:hs1, and Zoë. x");

        for name in ["hello", "user-1-bob", "bob", "user-1", "zoë", "x", "hs1"] {
            assert!(names.contains(name), "{name} of {names:?}");
        }
        assert!(!names.contains("ser-1"));
    }

    #[test]
    fn a_text_of_many_names_has_few_possible_names() {
        let names = possible_names(&"a.".repeat(100_000));

        assert!(names.len() <= MAX_NAME_WORDS);
    }
}
