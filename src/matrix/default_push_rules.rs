//! The default push rules of every user.

use ruma::{
    UserId,
    push::{
        Action, ConditionalPushRule, EventMatchConditionData, HighlightTweakValue,
        PatternedPushRule, PatternedPushRuleInit, PushCondition, Ruleset, SoundTweakValue, Tweak,
    },
};

/// The rule for a user whose name is in the text of a message.
const USER_NAME_RULE_ID: &str = ".m.rule.contains_user_name";

/// Returns the default push rules of a user. These are the predefined rules of the specification and those for polls of
/// [MSC3930](https://github.com/matrix-org/matrix-spec-proposals/pull/3930). The rule that the specification had before
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
    rules
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
        ours.retain(|rule| rule != USER_NAME_RULE_ID);
        assert_eq!(ours, ids(&usual));
    }
}
