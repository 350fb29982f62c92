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
const IGNORED_USERS: &str = "m.ignored_user_list";
/// The account data type of the invite permissions.
const INVITES: &str = "m.invite_permission_config";
/// The same, with its unstable name in [MSC4155](https://github.com/matrix-org/matrix-spec-proposals/pull/4155).
const INVITES_UNSTABLE: &str = "org.matrix.msc4155.invite_permission_config";
/// The most users or patterns of a list that count.
const ENTRIES: usize = 10_000;

/// The users whom a user ignores, and the user's invite permissions.
#[derive(Clone, Debug, Default)]
pub struct Shield {
    ignored: HashSet<OwnedUserId>,
    invites: Option<Permissions>,
    invites_unstable: Option<Permissions>,
}

/// The treatment of an invite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invitation {
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
struct IgnoredUsers {
    ignored_users: Map<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Permissions {
    enabled: Option<bool>,
    default_action: Option<String>,
    allowed_users: Option<Vec<String>>,
    ignored_users: Option<Vec<String>>,
    blocked_users: Option<Vec<String>>,
    allowed_servers: Option<Vec<String>>,
    ignored_servers: Option<Vec<String>>,
    blocked_servers: Option<Vec<String>>,
}

impl Shield {
    /// The types of account data that these settings are made of.
    pub const KINDS: [&str; 3] = [IGNORED_USERS, INVITES, INVITES_UNSTABLE];

    /// Applies a piece of account data. Returns whether it is one of these settings.
    pub fn set(&mut self, kind: &str, content: &str) -> bool {
        match kind {
            IGNORED_USERS => {
                let ignored: Option<IgnoredUsers> = serde_json::from_str(content).ok();
                let ids = ignored.map(|ignored| ignored.ignored_users);
                let ids = ids.unwrap_or_default().into_iter().take(ENTRIES);
                self.ignored = ids
                    .filter_map(|(id, _)| OwnedUserId::try_from(id).ok())
                    .collect();
            }
            INVITES => self.invites = serde_json::from_str(content).ok(),
            INVITES_UNSTABLE => self.invites_unstable = serde_json::from_str(content).ok(),
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
        self.ignored.is_empty() && self.invites.is_none() && self.invites_unstable.is_none()
    }

    /// Returns whether the user ignores anyone.
    pub fn ignores_somebody(&self) -> bool {
        !self.ignored.is_empty()
    }

    /// Returns whether the user ignores another user.
    pub fn ignores_user(&self, user_id: &UserId) -> bool {
        self.ignored.contains(user_id)
    }

    /// Returns whether a timeline event is hidden from the user. State events are never hidden.
    pub fn hides(&self, pdu: &Pdu) -> bool {
        pdu.state_key.is_none() && self.ignores_user(&pdu.sender)
    }

    /// Returns the treatment of an invite by `inviter`.
    pub fn invitation(&self, inviter: &UserId) -> Invitation {
        if self.ignores_user(inviter) {
            return Invitation::Hidden;
        }
        let by = |permissions: &Option<Permissions>| {
            let permissions = permissions.as_ref();
            permissions.map_or(Invitation::Shown, |permissions| {
                permissions.invitation(inviter)
            })
        };
        match by(&self.invites) {
            Invitation::Shown => by(&self.invites_unstable),
            other => other,
        }
    }
}

impl Permissions {
    /// Tries the rules in their order; the first that matches decides.
    fn invitation(&self, inviter: &UserId) -> Invitation {
        if self.enabled == Some(false) {
            return Invitation::Shown;
        }
        let server = inviter.server_name().host();
        let rules = [
            (&self.allowed_users, inviter.as_str(), Invitation::Shown),
            (&self.ignored_users, inviter.as_str(), Invitation::Hidden),
            (&self.blocked_users, inviter.as_str(), Invitation::Filtered),
            (&self.allowed_servers, server, Invitation::Shown),
            (&self.ignored_servers, server, Invitation::Hidden),
            (&self.blocked_servers, server, Invitation::Filtered),
        ];
        for (patterns, text, invitation) in rules {
            let mut patterns = patterns.iter().flatten().take(ENTRIES);
            if patterns.any(|pattern| matches(pattern, text)) {
                return invitation;
            }
        }
        match self.default_action.as_deref() {
            Some("block") => Invitation::Blocked,
            _ => Invitation::Shown,
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;

    use super::*;

    fn shield(kind: &str, content: &Value) -> Shield {
        let mut shield = Shield::default();
        assert!(shield.set(kind, &content.to_string()));
        shield
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let shield = shield(
            INVITES_UNSTABLE,
            &json!({
                "allowed_users": ["@friend:bad.org"], "ignored_users": ["@*spam*:*"], "blocked_users": null,
                "allowed_servers": ["good.org"], "blocked_servers": ["*"],
            }),
        );

        assert_eq!(
            shield.invitation(user_id!("@friend:bad.org")),
            Invitation::Shown
        );
        assert_eq!(
            shield.invitation(user_id!("@x:bad.org")),
            Invitation::Filtered
        );
        assert_eq!(
            shield.invitation(user_id!("@my-spam-1:good.org")),
            Invitation::Hidden
        );
        assert_eq!(
            shield.invitation(user_id!("@x:good.org:8448")),
            Invitation::Shown
        );
    }

    #[test]
    fn an_ignored_user_cannot_invite_even_if_all_may() {
        let ignored = json!({ "ignored_users": { "@a:b": {}, "no id": {} } });
        let shield = shield(IGNORED_USERS, &ignored);

        assert_eq!(shield.invitation(user_id!("@a:b")), Invitation::Hidden);
        assert_eq!(shield.invitation(user_id!("@c:b")), Invitation::Shown);
    }

    #[test]
    fn blocking_all_is_an_action_of_its_own() {
        let blocking = shield(INVITES, &json!({ "default_action": "block" }));
        let not_blocking = shield(INVITES, &json!({}));
        let off = shield(
            INVITES_UNSTABLE,
            &json!({ "enabled": false, "blocked_servers": ["*"] }),
        );

        let inviter = user_id!("@a:b");
        assert_eq!(blocking.invitation(inviter), Invitation::Blocked);
        assert_eq!(not_blocking.invitation(inviter), Invitation::Shown);
        assert_eq!(off.invitation(inviter), Invitation::Shown);
    }
}
