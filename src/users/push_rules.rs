//! The push rules of users: the server's default rules and the changes that users make.
//!
//! They are account data of the type `m.push_rules`, so `/sync` sends them to every device. Rules that the user never
//! changed are not stored, so that a later version can improve them.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#push-rules).

use ruma::{
    UserId,
    api::client::push::set_pushrule,
    events::push_rules::PushRulesEventContent,
    push::{
        Action, AnyPushRule, AnyPushRuleRef, InsertPushRuleError, NewPushRule, RemovePushRuleError,
        RuleKind, Ruleset,
    },
};
use serde_json::{Map, Value, json};

use super::{
    Session, UserEnvironment,
    stored_account_data::{self, PUSH_RULES_TYPE},
};
use crate::{
    error::{Error, Result},
    matrix,
    numbers::UserNum,
    storage::{Db, ReadAccess, users::account_data},
};

/// The largest set of rules, in bytes. Every event is matched with all of them.
pub(super) const MAX_RULES_BYTES: usize = 256 * 1024;
/// The kinds of push rules.
const RULE_KINDS: [&str; 5] = ["override", "content", "room", "sender", "underride"];

/// The push rules of users.
#[derive(Clone)]
pub struct UserPushRules {
    db: Db,
}

impl UserPushRules {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
        }
    }

    /// Returns the push rules of a user.
    pub async fn all(&self, user: UserNum, user_id: &UserId) -> Result<Ruleset> {
        let mut db = self.db.read().await?;
        read_push_rules(&mut db, user, user_id).await
    }

    /// Returns one push rule.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none.
    pub async fn rule(
        &self,
        session: &Session,
        kind: RuleKind,
        rule_id: &str,
    ) -> Result<AnyPushRule> {
        let rules = self.all(session.user, &session.user_id).await?;
        let rule = rules.get(kind, rule_id).ok_or_else(unknown_rule)?;
        Ok(rule.to_owned())
    }

    /// Adds a push rule, or replaces one of the user's own.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when its id or its place is not allowed.
    pub async fn set(&self, session: &Session, request: set_pushrule::v3::Request) -> Result<()> {
        let set_pushrule::v3::Request {
            rule,
            before,
            after,
            ..
        } = request;
        self.change(session, |rules| {
            insert_rule(rules, rule, after.as_deref(), before.as_deref())
        })
        .await
    }

    /// Removes one of the user's own push rules.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none, [`Error::InvalidParam`] for a default rule of the server.
    pub async fn remove(&self, session: &Session, kind: RuleKind, rule_id: &str) -> Result<()> {
        self.change(session, |rules| {
            rules.remove(kind, rule_id).map_err(|error| match error {
                RemovePushRuleError::NotFound => unknown_rule(),
                error => Error::invalid_param(error.to_string()),
            })
        })
        .await
    }

    /// Enables or disables a push rule.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none.
    pub async fn enable(
        &self,
        session: &Session,
        kind: RuleKind,
        rule_id: &str,
        enabled: bool,
    ) -> Result<()> {
        self.change(session, |rules| {
            let set = rules.set_enabled(kind, rule_id, enabled);
            set.map_err(|_| unknown_rule())
        })
        .await
    }

    /// Sets the actions of a push rule.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none.
    pub async fn set_actions(
        &self,
        session: &Session,
        kind: RuleKind,
        rule_id: &str,
        actions: Vec<Action>,
    ) -> Result<()> {
        self.change(session, |rules| {
            let set = rules.set_actions(kind, rule_id, actions);
            set.map_err(|_| unknown_rule())
        })
        .await
    }

    async fn change(
        &self,
        session: &Session,
        change: impl FnOnce(&mut Ruleset) -> Result<()>,
    ) -> Result<()> {
        let mut tx = self.db.write().await?;
        let mut rules = read_push_rules(&mut tx, session.user, &session.user_id).await?;
        change(&mut rules)?;
        matrix::check_push_rules(&rules)?;
        let content = push_rules_content(&rules)?;
        if content.len() > MAX_RULES_BYTES {
            return Err(Error::TooLarge("the push rules are too large".to_owned()));
        }
        stored_account_data::store(&mut tx, session.user, None, PUSH_RULES_TYPE, &content).await?;
        tx.commit().await
    }
}

/// Inserts a rule at its place, or moves it there.
fn insert_rule(
    rules: &mut Ruleset,
    rule: NewPushRule,
    after: Option<&str>,
    before: Option<&str>,
) -> Result<()> {
    let (kind, rule_id) = (rule.kind(), rule.rule_id().to_owned());
    if [after, before].contains(&Some(&*rule_id)) {
        return Err(Error::not_found(
            "before and after must not name the rule itself",
        ));
    }
    let existing = rules.get(kind.clone(), &rule_id);
    let was_enabled = existing.map(AnyPushRuleRef::enabled);
    if was_enabled.is_some() && (after.is_some() || before.is_some()) {
        // ruma cannot move a rule after the last one.
        let removed = rules.remove(kind.clone(), &rule_id);
        removed.map_err(|error| Error::invalid_param(error.to_string()))?;
    }
    rules
        .insert(rule, after, before)
        .map_err(|error| match error {
            InsertPushRuleError::UnknownRuleId => Error::not_found(error.to_string()),
            error => Error::invalid_param(error.to_string()),
        })?;
    if let Some(enabled) = was_enabled {
        let set = rules.set_enabled(kind, &rule_id, enabled);
        set.map_err(|_| unknown_rule())?;
    }
    Ok(())
}

fn unknown_rule() -> Error {
    Error::not_found("there is no such push rule")
}

/// Reads the rules of a user, with the server's current default rules.
pub(super) async fn read_push_rules(
    db: &mut impl ReadAccess,
    user: UserNum,
    user_id: &UserId,
) -> Result<Ruleset> {
    let default = matrix::default_rules(user_id);
    let Some(content) = account_data::get(db, user, None, PUSH_RULES_TYPE).await? else {
        return Ok(default);
    };
    let mut rules = serde_json::from_str::<PushRulesEventContent>(&content)?.global;
    rules.update_with_server_default(default);
    Ok(rules)
}

/// Returns push rules as the content of account data.
pub(super) fn push_rules_content(rules: &Ruleset) -> Result<String> {
    let content = json!({ "global": write_push_rules(rules)? });
    Ok(content.to_string())
}

/// Writes push rules with a list for every kind, even for one without rules: clients read all of them.
///
/// # Errors
///
/// An internal error if they cannot be serialized. No action of a client can cause this.
pub fn write_push_rules(rules: &Ruleset) -> Result<Value> {
    let mut written: Map<String, Value> = match serde_json::to_value(rules)? {
        Value::Object(written) => written,
        _ => Map::new(),
    };
    for kind in RULE_KINDS {
        written.entry(kind).or_insert_with(|| json!([]));
    }
    Ok(Value::Object(written))
}

#[cfg(test)]
mod tests {
    use ruma::push::{NewPatternedPushRule, NewPushRule};

    use super::*;
    use crate::users::testing::TestUsers;

    fn rule(id: &str) -> set_pushrule::v3::Request {
        let rule = NewPatternedPushRule::new(id.into(), "cake".into(), vec![Action::Notify]);
        set_pushrule::v3::Request::new(NewPushRule::Content(rule))
    }

    #[tokio::test]
    async fn a_user_has_the_default_rules_until_they_change_them() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let users = &test.users;
        let default = matrix::default_rules(&alice.user_id);

        let rules = users
            .push_rules
            .all(alice.user, &alice.user_id)
            .await
            .unwrap();
        assert_eq!(rules.iter().count(), default.iter().count());

        users.push_rules.set(&alice, rule("cake")).await.unwrap();
        let rules = users
            .push_rules
            .all(alice.user, &alice.user_id)
            .await
            .unwrap();
        assert_eq!(rules.iter().count(), default.iter().count() + 1);
    }

    #[tokio::test]
    async fn an_existing_rule_can_be_moved_to_any_position() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let users = &test.users;
        for id in ["one", "two", "three"] {
            users.push_rules.set(&alice, rule(id)).await.unwrap();
        }
        let move_rule = async |id: &str, after: Option<&str>, before: Option<&str>| {
            let mut request = rule(id);
            request.after = after.map(ToOwned::to_owned);
            request.before = before.map(ToOwned::to_owned);
            users.push_rules.set(&alice, request).await
        };
        let order = async || {
            let rules = users
                .push_rules
                .all(alice.user, &alice.user_id)
                .await
                .unwrap();
            let own = rules.content.iter().filter(|rule| !rule.default);
            own.map(|rule| rule.rule_id.clone()).collect::<Vec<_>>()
        };
        assert_eq!(order().await, ["three", "two", "one"]);

        move_rule("three", Some("one"), None).await.unwrap();
        assert_eq!(order().await, ["two", "one", "three"]);
        move_rule("three", None, Some("two")).await.unwrap();
        assert_eq!(order().await, ["three", "two", "one"]);
        let next_to_itself = move_rule("two", Some("two"), None).await;
        assert!(matches!(next_to_itself, Err(Error::NotFound(_))));
        assert_eq!(order().await, ["three", "two", "one"]);
    }

    #[tokio::test]
    async fn rules_are_added_changed_and_removed() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let users = &test.users;
        let content = || RuleKind::Content;

        users.push_rules.set(&alice, rule("cake")).await.unwrap();
        users
            .push_rules
            .enable(&alice, content(), "cake", false)
            .await
            .unwrap();
        users
            .push_rules
            .set_actions(&alice, content(), "cake", vec![])
            .await
            .unwrap();
        let stored = users
            .push_rules
            .rule(&alice, content(), "cake")
            .await
            .unwrap();
        assert!(!stored.enabled() && stored.actions().is_empty());
        users
            .push_rules
            .remove(&alice, content(), "cake")
            .await
            .unwrap();

        let gone = users.push_rules.rule(&alice, content(), "cake").await;
        assert!(matches!(gone, Err(Error::NotFound(_))));
    }

    #[tokio::test]
    async fn the_servers_rules_cannot_be_replaced_or_removed() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let users = &test.users;

        let replaced = users.push_rules.set(&alice, rule(".m.rule.master")).await;
        assert!(matches!(replaced, Err(Error::InvalidParam(_))));
        let kind = RuleKind::Override;
        let removed = users
            .push_rules
            .remove(&alice, kind, ".m.rule.master")
            .await;
        assert!(matches!(removed, Err(Error::InvalidParam(_))));
        let unknown = users
            .push_rules
            .enable(&alice, RuleKind::Override, "x", true)
            .await;
        assert!(matches!(unknown, Err(Error::NotFound(_))));
    }
}
