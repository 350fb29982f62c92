//! What an event is worth to a user's unread counts, by push rules.
//!
//! [Push rules](https://spec.matrix.org/v1.19/client-server-api/#push-rules)

use std::collections::BTreeSet;

use ruma::{
    OwnedRoomId, UInt, UserId,
    events::room::power_levels::RoomPowerLevels,
    push::{Action, PredefinedOverrideRuleId, PushCondition, PushConditionRoomCtx, Ruleset},
    user_id,
};
use serde_json::value::RawValue;

use super::{
    default_rules,
    push_limits::{bounded_event, bounded_name},
};

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

/// The longest text that is searched for names, in bytes.
const MAX_BODY: usize = 4_096;
/// Words joined by punctuation that may make up one name.
const WORDS: usize = 6;

/// Returns what stands in a text and could be the localpart of a user, in lower case.
pub fn possible_names(body: &str) -> BTreeSet<String> {
    let end = body.floor_char_boundary(MAX_BODY);
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
            for (at, word) in words.iter().skip(first).take(WORDS) {
                names.extend(run.get(*start..at + word.len()).map(ToOwned::to_owned));
            }
        }
    }
    names
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
        bounded_name(name).to_owned(),
    );
    context.power_levels = room.power_levels.clone().map(Into::into);
    rules.get_actions(&bounded_event(event), &context).await
}

/// Returns whether rules of a user ask whether the sender of an event may notify others of it.
///
/// That on mentions of the room, which all have, asks it only of events that mention the room.
pub fn asks_for_levels(rules: &Ruleset) -> bool {
    let asks = |condition: &PushCondition| {
        matches!(condition, PushCondition::SenderNotificationPermission(_))
    };
    let of_room_mention = PredefinedOverrideRuleId::IsRoomMention;
    let mut rules = rules.override_.iter().chain(&rules.underride);
    rules.any(|rule| {
        rule.enabled && rule.rule_id != of_room_mention.as_str() && rule.conditions.iter().any(asks)
    })
}

/// Returns what the default rules say of an event for a member whom it does not mention.
pub async fn default_notice(event: &RawValue, room: &RoomFacts) -> Notice {
    // The default rules look at the user only to see whether they are mentioned, named or invited.
    let anyone = user_id!("@:nobody.invalid");
    let mut rules = default_rules(anyone);
    rules.content.clear();
    notice(&rules, anyone, "", event, room).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_between_words_and_within_their_punctuation() {
        let names = possible_names("Hello @user-1-Bob:hs1, and Zoë. x");

        for name in ["hello", "user-1-bob", "bob", "user-1", "zoë", "x", "hs1"] {
            assert!(names.contains(name), "{name} of {names:?}");
        }
        assert!(!names.contains("ser-1"));
    }

    #[test]
    fn a_text_that_is_all_names_stays_within_bounds() {
        let names = possible_names(&"a.".repeat(100_000));

        assert!(names.len() <= WORDS);
    }
}
