//! Notifications that concern all members of a room alike, and those that concern one user.
//!
//! The running counters of a room say which events notify by the default push rules. So nothing needs to be stored about
//! a user to find the events that notify the user because the user is notified of all messages of a room, or of mentions
//! of the room. All others are personal: mentions of the user, keywords, and whatever rules of the user's own add.

use ruma::{
    Int, UserId,
    push::{Action, AnyPushRuleRef, PredefinedOverrideRuleId, PredefinedUnderrideRuleId, Ruleset},
};
use serde_json::value::RawValue;

use super::{NotificationCounters, PushOutcome, RoomFacts, push_actions};

/// The default rules that notify all members of a room of the same events.
const RULES_FOR_ALL_MEMBERS: [PredefinedOverrideRuleId; 2] = [
    PredefinedOverrideRuleId::IsRoomMention,
    PredefinedOverrideRuleId::Tombstone,
];
/// Those of them that a user can override for a room.
const RULES_FOR_MESSAGES: [PredefinedUnderrideRuleId; 4] = [
    PredefinedUnderrideRuleId::EncryptedRoomOneToOne,
    PredefinedUnderrideRuleId::RoomOneToOne,
    PredefinedUnderrideRuleId::Message,
    PredefinedUnderrideRuleId::Encrypted,
];

/// An ordinary message. It has no content, so that no rule about the content of messages matches it.
const MESSAGE_EXAMPLE: &str =
    r#"{"content":{},"sender":"@:nobody.invalid","type":"m.room.message"}"#;
const ENCRYPTED_EXAMPLE: &str =
    r#"{"content":{},"sender":"@:nobody.invalid","type":"m.room.encrypted"}"#;
const ROOM_MENTION_EXAMPLE: &str = r#"{"content":{"m.mentions":{"room":true}},"sender":"@:nobody.invalid","type":"m.room.message"}"#;
const TOMBSTONE_EXAMPLE: &str =
    r#"{"content":{},"sender":"@:nobody.invalid","state_key":"","type":"m.room.tombstone"}"#;

/// A running counter of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomCounter {
    /// The events that notify by the default rules.
    Notified,
    /// The events that mention the whole room.
    Mentioned,
}

impl RoomCounter {
    /// Returns the value of this counter.
    pub fn of(self, counters: NotificationCounters) -> i64 {
        match self {
            Self::Notified => counters.notified,
            Self::Mentioned => counters.mentioned,
        }
    }
}

/// Returns whether an event notifies a user, and would not be found by the counters of its room.
///
/// `usual` is the result of the default rules, and `rule` the rule of the user that matched.
pub fn is_personal_notification(rule: Option<AnyPushRuleRef<'_>>, usual: PushOutcome) -> bool {
    let own = PushOutcome::of_rule(rule);
    let is_counted = usual.notify && (usual.highlight || !own.highlight);
    own.notify && !(is_counted && rule.is_some_and(concerns_all_members))
}

fn concerns_all_members(rule: AnyPushRuleRef<'_>) -> bool {
    match rule {
        AnyPushRuleRef::Room(_) => true,
        AnyPushRuleRef::Override(rule) => RULES_FOR_ALL_MEMBERS
            .iter()
            .any(|id| id.as_str() == rule.rule_id),
        AnyPushRuleRef::Underride(rule) => RULES_FOR_MESSAGES
            .iter()
            .any(|id| id.as_str() == rule.rule_id),
        _ => false,
    }
}

/// A user's push rules, to be applied to the events of a room that concern all members.
#[derive(Clone, Copy)]
pub struct RoomPushRules<'a> {
    pub rules: &'a Ruleset,
    pub user_id: &'a UserId,
    pub facts: &'a RoomFacts,
}

impl RoomPushRules<'_> {
    /// Returns whether ordinary messages notify the user. Encrypted ones are considered if the room is encrypted.
    pub async fn notify_of_messages(self, is_encrypted: bool) -> bool {
        notifies(self, MESSAGE_EXAMPLE).await
            || (is_encrypted && notifies(self, ENCRYPTED_EXAMPLE).await)
    }

    /// Returns whether mentions of the room, or its upgrade, notify the user.
    pub async fn notify_of_room_mentions(self) -> bool {
        let mut facts = self.facts.clone();
        if let Some(levels) = &mut facts.power_levels {
            // Those who mention the whole room are allowed to.
            levels.users_default = Int::MAX;
        }
        let rules = RoomPushRules {
            facts: &facts,
            ..self
        };
        notifies(rules, ROOM_MENTION_EXAMPLE).await || notifies(rules, TOMBSTONE_EXAMPLE).await
    }
}

async fn notifies(rules: RoomPushRules<'_>, example: &str) -> bool {
    let Ok(event) = serde_json::from_str::<&RawValue>(example) else {
        return false;
    };
    let actions = push_actions(rules.rules, rules.user_id, "", event, rules.facts).await;
    actions.iter().any(Action::should_notify)
}

#[cfg(test)]
mod tests {
    use ruma::{
        OwnedRoomId, RoomVersionId,
        push::{
            HighlightTweakValue, NewPatternedPushRule, NewPushRule, NewSimplePushRule, RuleKind,
            Tweak,
        },
        room_id, user_id,
    };

    use super::*;
    use crate::matrix::{
        StateMap, default_push_outcome, default_rules, matched_rule, power_levels,
    };

    fn alice() -> &'static UserId {
        user_id!("@alice:here")
    }

    /// Returns the facts about a room in which Bob may mention all members.
    fn facts() -> RoomFacts {
        let rules = RoomVersionId::V11.rules().unwrap();
        let mut levels = power_levels(&StateMap::default(), &rules);
        levels
            .users
            .insert(user_id!("@bob:here").to_owned(), 100.into());
        RoomFacts {
            room_id: room_id!("!room:here").to_owned(),
            member_count: 3,
            power_levels: Some(levels),
        }
    }

    /// Returns rules by which only mentions notify.
    fn rules_for_mentions() -> Ruleset {
        let mut rules = default_rules(alice());
        rules
            .set_enabled(RuleKind::Underride, ".m.rule.message", false)
            .unwrap();
        rules
    }

    fn rules_with_room_rule(actions: Vec<Action>) -> Ruleset {
        let mut rules = default_rules(alice());
        let room: OwnedRoomId = facts().room_id;
        let rule = NewPushRule::Room(NewSimplePushRule::new(room, actions));
        rules.insert(rule, None, None).unwrap();
        rules
    }

    async fn is_personal(rules: &Ruleset, event: &str) -> bool {
        let event = serde_json::from_str::<&RawValue>(event).unwrap();
        let usual = default_push_outcome(event, &facts()).await;
        let rule = matched_rule(rules, alice(), "Alice", event, &facts()).await;
        is_personal_notification(rule, usual)
    }

    const WORD: &str =
        r#"{"content":{"body":"cake"},"sender":"@bob:here","type":"m.room.message"}"#;
    const MENTION: &str = r#"{"content":{"body":"","m.mentions":{"user_ids":["@alice:here"]}},"sender":"@bob:here","type":"m.room.message"}"#;
    const ROOM_MENTION: &str = r#"{"content":{"body":"","m.mentions":{"room":true}},"sender":"@bob:here","type":"m.room.message"}"#;
    const CALL: &str = r#"{"content":{},"sender":"@bob:here","type":"m.call.invite"}"#;

    #[tokio::test]
    async fn messages_notify_by_the_rules_for_the_room() {
        let messages_notify = async |rules: &Ruleset| {
            let user_id = alice();
            let facts = &facts();
            let rules = RoomPushRules {
                rules,
                user_id,
                facts,
            };
            (
                rules.notify_of_messages(false).await,
                rules.notify_of_messages(true).await,
                rules.notify_of_room_mentions().await,
            )
        };

        let usual = default_rules(alice());
        assert_eq!(messages_notify(&usual).await, (true, true, true));
        let mentions = rules_for_mentions();
        assert_eq!(messages_notify(&mentions).await, (false, true, true));
        let quiet_room = rules_with_room_rule(Vec::new());
        assert_eq!(messages_notify(&quiet_room).await, (false, true, true));
        let mut nothing = default_rules(alice());
        nothing
            .set_enabled(RuleKind::Override, ".m.rule.master", true)
            .unwrap();
        assert_eq!(messages_notify(&nothing).await, (false, false, false));
    }

    #[tokio::test]
    async fn a_message_that_notifies_all_members_is_not_personal() {
        assert!(!is_personal(&default_rules(alice()), WORD).await);
        assert!(!is_personal(&rules_for_mentions(), WORD).await);
        assert!(!is_personal(&rules_with_room_rule(vec![Action::Notify]), WORD).await);
        assert!(!is_personal(&default_rules(alice()), ROOM_MENTION).await);
    }

    #[tokio::test]
    async fn mentions_and_keywords_are_personal() {
        assert!(is_personal(&default_rules(alice()), MENTION).await);
        let mut rules = rules_for_mentions();
        let keyword =
            NewPatternedPushRule::new("cake".to_owned(), "cake".to_owned(), vec![Action::Notify]);
        rules
            .insert(NewPushRule::Content(keyword), None, None)
            .unwrap();
        assert!(is_personal(&rules, WORD).await);
    }

    #[tokio::test]
    async fn highlighted_messages_of_a_room_are_personal() {
        let highlight = Action::SetTweak(Tweak::Highlight(HighlightTweakValue::Yes));
        let rules = rules_with_room_rule(vec![Action::Notify, highlight]);

        assert!(is_personal(&rules, WORD).await);
    }

    #[tokio::test]
    async fn a_call_is_personal_because_messages_may_not_notify() {
        assert!(is_personal(&rules_for_mentions(), CALL).await);
    }
}
