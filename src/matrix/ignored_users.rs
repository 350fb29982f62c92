//! The events and invites that a user does not want to see: those of ignored users, and invites that the user's invite
//! permissions exclude.
//!
//! See the specification on [ignoring users](https://spec.matrix.org/v1.19/client-server-api/#ignoring-users) and
//! [invite permission](https://spec.matrix.org/v1.19/client-server-api/#invite-permission).

use std::collections::HashSet;

use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Pdu, glob::matches};

/// The account data type of the list of ignored users.
const IGNORED_USERS_TYPE: &str = "m.ignored_user_list";
/// The account data type of the invite permissions.
const INVITE_PERMISSION_TYPE: &str = "m.invite_permission_config";
/// The unstable name of that type in [MSC4155](https://github.com/matrix-org/matrix-spec-proposals/pull/4155).
const UNSTABLE_INVITE_PERMISSION_TYPE: &str = "org.matrix.msc4155.invite_permission_config";
/// The most users or patterns of a list that count.
const MAX_LIST_ENTRIES: usize = 10_000;

/// The users whom a user ignores, and the user's invite permissions.
#[derive(Clone, Debug, Default)]
pub struct IgnoreSettings {
    ignored: HashSet<OwnedUserId>,
    invite_permissions: Option<InvitePermissions>,
    unstable_invite_permissions: Option<InvitePermissions>,
}

/// The treatment of an invite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InviteTreatment {
    /// The invite is shown to the user.
    Shown,
    /// The invite is not shown, and the inviter is not informed.
    Hidden,
    /// The invite is refused.
    Blocked,
    /// The invite is refused by a list of patterns, which the specification does not have yet.
    Filtered,
}

#[derive(Deserialize)]
struct IgnoredUserList {
    ignored_users: Map<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct InvitePermissions {
    enabled: Option<bool>,
    default_action: Option<String>,
    allowed_users: Option<Vec<String>>,
    ignored_users: Option<Vec<String>>,
    blocked_users: Option<Vec<String>>,
    allowed_servers: Option<Vec<String>>,
    ignored_servers: Option<Vec<String>>,
    blocked_servers: Option<Vec<String>>,
}

impl IgnoreSettings {
    /// The types of account data that these settings are made of.
    pub const ACCOUNT_DATA_TYPES: [&str; 3] = [
        IGNORED_USERS_TYPE,
        INVITE_PERMISSION_TYPE,
        UNSTABLE_INVITE_PERMISSION_TYPE,
    ];

    /// Applies a piece of account data. Returns whether it is one of these settings.
    pub fn apply_account_data(&mut self, kind: &str, content: &str) -> bool {
        match kind {
            IGNORED_USERS_TYPE => {
                let ignored: Option<IgnoredUserList> = serde_json::from_str(content).ok();
                let ids = ignored.map(|ignored| ignored.ignored_users);
                let ids = ids.unwrap_or_default().into_iter().take(MAX_LIST_ENTRIES);
                self.ignored = ids
                    .filter_map(|(id, _)| OwnedUserId::try_from(id).ok())
                    .collect();
            }
            INVITE_PERMISSION_TYPE => self.invite_permissions = serde_json::from_str(content).ok(),
            UNSTABLE_INVITE_PERMISSION_TYPE => {
                self.unstable_invite_permissions = serde_json::from_str(content).ok();
            }
            _ => return false,
        }
        true
    }

    /// Removes a user from the ignored users.
    pub fn stop_ignoring(&mut self, user_id: &UserId) {
        self.ignored.remove(user_id);
    }

    /// Returns whether nothing is hidden.
    pub fn is_empty(&self) -> bool {
        self.ignored.is_empty()
            && self.invite_permissions.is_none()
            && self.unstable_invite_permissions.is_none()
    }

    /// Returns whether the user ignores anyone.
    pub fn ignores_anyone(&self) -> bool {
        !self.ignored.is_empty()
    }

    /// Returns whether the user ignores another user.
    pub fn ignores_user(&self, user_id: &UserId) -> bool {
        self.ignored.contains(user_id)
    }

    /// Returns whether a timeline event is hidden from the user. State events are never hidden.
    pub fn hides_event(&self, pdu: &Pdu) -> bool {
        pdu.state_key.is_none() && self.ignores_user(&pdu.sender)
    }

    /// Returns the treatment of an invite by `inviter`.
    pub fn invite_treatment(&self, inviter: &UserId) -> InviteTreatment {
        if self.ignores_user(inviter) {
            return InviteTreatment::Hidden;
        }
        let by = |permissions: &Option<InvitePermissions>| {
            let permissions = permissions.as_ref();
            permissions.map_or(InviteTreatment::Shown, |permissions| {
                permissions.invite_treatment(inviter)
            })
        };
        match by(&self.invite_permissions) {
            InviteTreatment::Shown => by(&self.unstable_invite_permissions),
            other => other,
        }
    }
}

impl InvitePermissions {
    /// Tries the rules in their order; the first that matches decides.
    fn invite_treatment(&self, inviter: &UserId) -> InviteTreatment {
        if self.enabled == Some(false) {
            return InviteTreatment::Shown;
        }
        let server = inviter.server_name().host();
        let rules = [
            (
                &self.allowed_users,
                inviter.as_str(),
                InviteTreatment::Shown,
            ),
            (
                &self.ignored_users,
                inviter.as_str(),
                InviteTreatment::Hidden,
            ),
            (
                &self.blocked_users,
                inviter.as_str(),
                InviteTreatment::Filtered,
            ),
            (&self.allowed_servers, server, InviteTreatment::Shown),
            (&self.ignored_servers, server, InviteTreatment::Hidden),
            (&self.blocked_servers, server, InviteTreatment::Filtered),
        ];
        for (patterns, text, treatment) in rules {
            let mut patterns = patterns.iter().flatten().take(MAX_LIST_ENTRIES);
            if patterns.any(|pattern| matches(pattern, text)) {
                return treatment;
            }
        }
        match self.default_action.as_deref() {
            Some("block") => InviteTreatment::Blocked,
            _ => InviteTreatment::Shown,
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;

    use super::*;

    fn settings_with(kind: &str, content: &Value) -> IgnoreSettings {
        let mut settings = IgnoreSettings::default();
        assert!(settings.apply_account_data(kind, &content.to_string()));
        settings
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let settings = settings_with(
            UNSTABLE_INVITE_PERMISSION_TYPE,
            &json!({
                "allowed_users": ["@friend:bad.org"], "ignored_users": ["@*spam*:*"], "blocked_users": null,
                "allowed_servers": ["good.org"], "blocked_servers": ["*"],
            }),
        );

        assert_eq!(
            settings.invite_treatment(user_id!("@friend:bad.org")),
            InviteTreatment::Shown
        );
        assert_eq!(
            settings.invite_treatment(user_id!("@x:bad.org")),
            InviteTreatment::Filtered
        );
        assert_eq!(
            settings.invite_treatment(user_id!("@my-spam-1:good.org")),
            InviteTreatment::Hidden
        );
        assert_eq!(
            settings.invite_treatment(user_id!("@x:good.org:8448")),
            InviteTreatment::Shown
        );
    }

    #[test]
    fn invites_of_ignored_users_are_hidden() {
        let ignored = json!({ "ignored_users": { "@a:b": {}, "no id": {} } });
        let settings = settings_with(IGNORED_USERS_TYPE, &ignored);

        assert_eq!(
            settings.invite_treatment(user_id!("@a:b")),
            InviteTreatment::Hidden
        );
        assert_eq!(
            settings.invite_treatment(user_id!("@c:b")),
            InviteTreatment::Shown
        );
    }

    #[test]
    fn invites_are_blocked_by_the_default_action() {
        let blocking = settings_with(
            INVITE_PERMISSION_TYPE,
            &json!({ "default_action": "block" }),
        );
        let not_blocking = settings_with(INVITE_PERMISSION_TYPE, &json!({}));
        let off = settings_with(
            UNSTABLE_INVITE_PERMISSION_TYPE,
            &json!({ "enabled": false, "blocked_servers": ["*"] }),
        );

        let inviter = user_id!("@a:b");
        assert_eq!(blocking.invite_treatment(inviter), InviteTreatment::Blocked);
        assert_eq!(
            not_blocking.invite_treatment(inviter),
            InviteTreatment::Shown
        );
        assert_eq!(off.invite_treatment(inviter), InviteTreatment::Shown);
    }
}
