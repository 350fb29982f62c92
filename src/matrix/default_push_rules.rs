//! The default push rules of every user.

use ruma::{
    UserId,
    push::{
        Action, ConditionalPushRule, ConditionalPushRuleInit, EventMatchConditionData,
        HighlightTweakValue, PatternedPushRule, PatternedPushRuleInit, PushCondition, Ruleset,
        SoundTweakValue, Tweak,
    },
};

/// The rule that notifies of every encrypted event, because only the client can evaluate the other rules for it.
const ENCRYPTED_EVENT_RULE_ID: &str = ".org.matrix.msc4028.encrypted_event";
/// The number of rules that come before it: the one that switches all others off.
const RULES_BEFORE_ENCRYPTED_EVENT: usize = 1;
/// The rule for a user whose name is in the text of a message.
const USER_NAME_RULE_ID: &str = ".m.rule.contains_user_name";

/// Returns the default push rules of a user. These are the predefined rules of the specification, those for polls of
/// [MSC3930](https://github.com/matrix-org/matrix-spec-proposals/pull/3930), and the one for encrypted events of
/// [MSC4028](https://github.com/matrix-org/matrix-spec-proposals/pull/4028). The rule that the specification had before
/// `m.mentions` is there, too, because bridges and bots still mention users in the text only.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#predefined-rules).
pub fn default_rules(user_id: &UserId) -> Ruleset {
    let mut rules = Ruleset::server_default(user_id);
    for set in [&mut rules.override_, &mut rules.underride] {
        let of_polls: Vec<ConditionalPushRule> = set
            .iter()
            .filter(|rule| rule.rule_id.contains(".msc3930."))
            .cloned()
            .collect();
        for mut rule in of_polls {
            rule.conditions = rule.conditions.into_iter().map(as_event_match).collect();
            set.replace(rule);
        }
    }
    // Thread subscriptions (MSC4306) have no effect on notifications here yet.
    rules.postcontent.clear();
    rules.content.insert(user_name_rule(user_id));
    let place = RULES_BEFORE_ENCRYPTED_EVENT.min(rules.override_.len());
    rules.override_.shift_insert(place, encrypted_event_rule());
    rules
}

/// Returns the rules by which events count as unread. Without the rule for encrypted events, these count as the rules for
/// their rooms say: that rule wakes clients, which then decide.
pub fn counting_rules(mut rules: Ruleset) -> Ruleset {
    rules
        .override_
        .retain(|rule| rule.rule_id != ENCRYPTED_EVENT_RULE_ID);
    rules
}

fn encrypted_event_rule() -> ConditionalPushRule {
    let is_encrypted =
        EventMatchConditionData::new("type".to_owned(), "m.room.encrypted".to_owned());
    ConditionalPushRuleInit {
        actions: vec![Action::Notify],
        default: true,
        enabled: true,
        rule_id: ENCRYPTED_EVENT_RULE_ID.to_owned(),
        conditions: vec![PushCondition::EventMatch(is_encrypted)],
    }
    .into()
}

fn user_name_rule(user_id: &UserId) -> PatternedPushRule {
    PatternedPushRuleInit {
        actions: vec![
            Action::Notify,
            Action::SetTweak(Tweak::Sound(SoundTweakValue::Default)),
            Action::SetTweak(Tweak::Highlight(HighlightTweakValue::Yes)),
        ],
        default: true,
        enabled: true,
        rule_id: USER_NAME_RULE_ID.to_owned(),
        pattern: user_id.localpart().to_owned(),
    }
    .into()
}

/// Writes a condition on the event type as an `event_match`, as the proposal does. This means the same, because the
/// types have no wildcards.
fn as_event_match(condition: PushCondition) -> PushCondition {
    match condition {
        PushCondition::EventPropertyIs(condition) => {
            let pattern = condition.value.as_str().unwrap_or_default().to_owned();
            PushCondition::EventMatch(EventMatchConditionData::new(condition.key, pattern))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use ruma::{push::RuleKind, user_id};
    use serde_json::json;

    use super::*;

    #[test]
    fn polls_are_matched_by_their_type() {
        let rules = default_rules(user_id!("@alice:localhost"));

        let rule = rules.get(RuleKind::Underride, ".org.matrix.msc3930.rule.poll_end");
        let rule = rule.unwrap().to_owned();
        let conditions = match rule {
            ruma::push::AnyPushRule::Underride(rule) => rule.conditions,
            _ => Vec::new(),
        };
        let expected = json!([{
            "kind": "event_match", "key": "type", "pattern": "org.matrix.msc3381.poll.end",
        }]);
        assert_eq!(serde_json::to_value(conditions).unwrap(), expected);
    }

    #[test]
    fn other_rules_equal_those_of_the_specification() {
        let alice = user_id!("@alice:localhost");
        let (ours, mut usual) = (default_rules(alice), Ruleset::server_default(alice));
        usual.postcontent.clear();

        let ids = |rules: &Ruleset| -> Vec<String> {
            rules.iter().map(|rule| rule.rule_id().to_owned()).collect()
        };
        let mut ours = ids(&ours);
        assert_eq!(ours[1], ENCRYPTED_EVENT_RULE_ID);
        let added = [USER_NAME_RULE_ID, ENCRYPTED_EVENT_RULE_ID];
        ours.retain(|rule| !added.contains(&rule.as_str()));
        assert_eq!(ours, ids(&usual));
    }
}
