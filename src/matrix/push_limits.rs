//! Limits on the cost of push rules: every event of a room is checked against the rules of its members while it is
//! stored.

use ruma::{
    push::{AnyPushRuleRef, PushCondition, Ruleset},
    serde::Raw,
};
use serde_json::{Map, Value, value::RawValue};

use crate::error::{Error, Result};

/// The most rules that a user can add. Some users have one rule for each of very many rooms.
const MAX_RULES: usize = 2_000;
/// The longest pattern, in bytes.
const MAX_PATTERN_BYTES: usize = 255;
/// The most wildcards in one pattern.
const MAX_WILDCARDS: usize = 8;
/// The most patterns with wildcards in all rules of a user: each becomes a regular expression for each event.
const MAX_WILDCARD_PATTERNS: usize = 32;
/// The most conditions of one rule.
const MAX_CONDITIONS: usize = 16;
/// The longest text of an event that rules are checked against, in bytes. Longer texts are cut.
const MAX_TEXT_BYTES: usize = 2_048;
/// The size in bytes up to which an event is checked without being shortened.
const MAX_WHOLE_EVENT_BYTES: usize = 4_096;
/// The most values of a larger event that rules are checked against.
const MAX_VALUES: usize = 256;

/// Checks that a user's push rules are cheap to evaluate.
///
/// # Errors
///
/// [`Error::InvalidParam`] that names the limit that is exceeded.
pub fn check_push_rules(rules: &Ruleset) -> Result<()> {
    let (mut count, mut wildcard_patterns) = (0, 0);
    for rule in rules.iter().filter(|rule| !rule.is_server_default()) {
        count += 1;
        if rule_conditions(rule).len() > MAX_CONDITIONS {
            return Err(limit_error(format!(
                "a rule may have at most {MAX_CONDITIONS} conditions"
            )));
        }
        for pattern in rule_patterns(rule) {
            let wildcards = count_wildcards(pattern);
            if pattern.len() > MAX_PATTERN_BYTES || wildcards > MAX_WILDCARDS {
                return Err(limit_error(format!(
                    "a pattern may have at most {MAX_PATTERN_BYTES} bytes and {MAX_WILDCARDS} wildcards"
                )));
            }
            wildcard_patterns += usize::from(wildcards > 0);
        }
    }
    if count > MAX_RULES || wildcard_patterns > MAX_WILDCARD_PATTERNS {
        return Err(limit_error(format!(
            "a user may have at most {MAX_RULES} rules and {MAX_WILDCARD_PATTERNS} patterns with wildcards"
        )));
    }
    Ok(())
}

fn limit_error(text: String) -> Error {
    Error::invalid_param(text)
}

fn rule_conditions(rule: AnyPushRuleRef<'_>) -> &[PushCondition] {
    match rule {
        AnyPushRuleRef::Override(rule)
        | AnyPushRuleRef::PostContent(rule)
        | AnyPushRuleRef::Underride(rule) => &rule.conditions,
        _ => &[],
    }
}

fn rule_patterns(rule: AnyPushRuleRef<'_>) -> Vec<&str> {
    if let AnyPushRuleRef::Content(rule) = rule {
        return vec![&rule.pattern];
    }
    let patterns = rule_conditions(rule)
        .iter()
        .filter_map(|condition| match condition {
            PushCondition::EventMatch(condition) => Some(&*condition.pattern),
            _ => None,
        });
    patterns.collect()
}

fn count_wildcards(pattern: &str) -> usize {
    pattern.matches(['*', '?']).count()
}

/// Returns the display name for use in push rules, which treat it as a pattern. Returns an empty one if it is too long
/// or has too many wildcards.
pub(super) fn bounded_name(name: &str) -> &str {
    let is_bounded = name.len() <= MAX_PATTERN_BYTES && count_wildcards(name) <= MAX_WILDCARDS;
    if is_bounded { name } else { "" }
}

/// Returns the event for use in push rules. The texts of a large event are cut.
pub(super) fn bounded_event(event: &RawValue) -> Raw<()> {
    let bounded = || {
        if event.get().len() <= MAX_WHOLE_EVENT_BYTES {
            return None;
        }
        let mut whole: Value = serde_json::from_str(event.get()).ok()?;
        let mut left = MAX_VALUES;
        shorten_value(&mut whole, &mut left);
        serde_json::value::to_raw_value(&whole).ok()
    };
    Raw::from_json(bounded().unwrap_or_else(|| event.to_owned()))
}

/// Shortens the texts of a value, and drops values over the limit that `left` counts down.
fn shorten_value(value: &mut Value, left: &mut usize) {
    *left = left.saturating_sub(1);
    match value {
        Value::String(text) => text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES)),
        Value::Array(items) => {
            items.truncate(*left);
            for item in items {
                shorten_value(item, left);
            }
        }
        Value::Object(fields) => {
            let mut kept = Map::new();
            for (name, mut field) in std::mem::take(fields) {
                if *left == 0 {
                    break;
                }
                shorten_value(&mut field, left);
                kept.insert(name, field);
            }
            *fields = kept;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use ruma::{
        push::{
            Action, EventMatchConditionData, NewConditionalPushRule, NewPatternedPushRule,
            NewPushRule,
        },
        user_id,
    };
    use serde_json::json;

    use super::*;
    use crate::matrix::default_rules;

    fn rules_with_patterns(patterns: impl IntoIterator<Item = String>) -> Ruleset {
        let mut rules = default_rules(user_id!("@alice:localhost"));
        for (number, pattern) in patterns.into_iter().enumerate() {
            let rule = NewPatternedPushRule::new(number.to_string(), pattern, vec![Action::Notify]);
            rules
                .insert(NewPushRule::Content(rule), None, None)
                .unwrap();
        }
        rules
    }

    #[test]
    fn usual_rules_are_within_the_limits() {
        let words = (0..300).map(|number| format!("word {number}"));
        let wildcards = ["alic?", "*cake*", "meeting-*"].map(ToOwned::to_owned);

        assert!(check_push_rules(&rules_with_patterns(words.chain(wildcards))).is_ok());
        assert!(check_push_rules(&default_rules(user_id!("@alice:localhost"))).is_ok());
    }

    #[test]
    fn expensive_rules_are_refused() {
        let refused = |patterns: Vec<String>| {
            let checked = check_push_rules(&rules_with_patterns(patterns));
            assert!(matches!(checked, Err(Error::InvalidParam(_))));
        };

        refused(vec!["x".repeat(MAX_PATTERN_BYTES + 1)]);
        refused(vec!["?*".repeat(MAX_WILDCARDS)]);
        refused(
            (0..=MAX_WILDCARD_PATTERNS)
                .map(|n| format!("{n}*"))
                .collect(),
        );
        refused((0..=MAX_RULES).map(|n| n.to_string()).collect());
    }

    #[test]
    fn rules_with_many_conditions_are_refused() {
        let condition = EventMatchConditionData::new("content.body".into(), "cake".into());
        let conditions = vec![PushCondition::EventMatch(condition); MAX_CONDITIONS + 1];
        let mut rules = default_rules(user_id!("@alice:localhost"));
        let rule = NewConditionalPushRule::new("many".into(), conditions, Vec::new());
        rules
            .insert(NewPushRule::Override(rule), None, None)
            .unwrap();

        assert!(check_push_rules(&rules).is_err());
    }

    #[test]
    fn the_texts_of_a_large_event_are_shortened() {
        let fields: Map<String, Value> = (0..10_000).map(|n| (format!("x{n}"), json!(n))).collect();
        let large =
            json!({ "content": { "body": "ä".repeat(50_000), "x": fields }, "type": "m.x" });
        let large = serde_json::value::to_raw_value(&large).unwrap();

        let bounded = bounded_event(&large);

        assert!(bounded.json().get().len() < 16_384);
        let content: Value = bounded.get_field("content").unwrap().unwrap();
        assert!(content["body"].as_str().unwrap().starts_with("ää"));
    }

    #[test]
    fn a_small_event_is_not_shortened() {
        let small = RawValue::from_string(r#"{"b":1,"a":"x"}"#.to_owned()).unwrap();

        assert_eq!(bounded_event(&small).json().get(), small.get());
    }
}
