//! The increments that a new event adds to unread counts.
//!
//! Most members have the default push rules. For them the room keeps running counters, and an unread
//! count is the difference between the counters now and at the place up to which the member has read.
//! Push rules are evaluated one by one only for the users whom an event mentions, and for those with
//! their own rules.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use ruma::{
    OwnedUserId, ServerName, UserId,
    events::{Mentions, StateEventType, room::member::MembershipState},
    push::{AnyPushRuleRef, Ruleset},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    error::Result,
    matrix::{self, Pdu, PushOutcome, RoomFacts, UnsignedFields},
    numbers::UserNum,
    rooms::{
        memory::room::{Room, RoomTip},
        read::ignored_users::IgnoreSettingsByUser,
    },
    storage::{Db, JournalChange, users::account_data},
};

/// The maximum number of mentioned users of one event whose push rules are evaluated.
const MAX_CHECKED_MENTIONS: usize = 64;

/// The account data type that holds push rules.
const PUSH_RULES_TYPE: &str = "m.push_rules";

/// The push rules of those users who changed theirs.
#[derive(Default)]
pub(crate) struct CustomRules {
    by_user: RwLock<HashMap<UserNum, Arc<Ruleset>>>,
}

/// The increments that an event adds to the counts.
#[derive(Debug, Default)]
pub(crate) struct UnreadIncrement {
    pub(crate) notify: bool,
    pub(crate) mention: bool,
    /// The users for whom it counts differently.
    pub(crate) exceptions: Vec<PersonalIncrement>,
    /// The users whom it notifies, other than those whom all messages of the room or mentions of the room notify.
    pub(crate) notified_users: Vec<NotifiedUser>,
}

/// A user whom an event notifies in person.
#[derive(Debug)]
pub(crate) struct NotifiedUser {
    pub(crate) user_id: OwnedUserId,
    pub(crate) highlight: bool,
}

/// The numbers that an event adds to the counts of one user, in addition to those that it adds for all.
#[derive(Debug)]
pub(crate) struct PersonalIncrement {
    pub(crate) user_id: OwnedUserId,
    pub(crate) notify: i64,
    pub(crate) highlight: i64,
}

/// A member of a room who has their own push rules.
struct MemberRules {
    user_id: OwnedUserId,
    rules: Arc<Ruleset>,
}

#[derive(Deserialize)]
struct MentionsContent {
    #[serde(rename = "m.mentions")]
    mentions: Option<Mentions>,
}

#[derive(Deserialize)]
struct PushRulesContent {
    global: Ruleset,
}

impl CustomRules {
    /// Loads the rules of all users who changed theirs.
    pub(crate) async fn load(db: &Db) -> Result<Self> {
        let mut conn = db.read().await?;
        let rows = account_data::of_all_users(&mut conn, PUSH_RULES_TYPE).await?;
        let rules = Self::default();
        for row in rows {
            let usual = OwnedUserId::try_from(row.user_id)
                .ok()
                .map(|user_id| matrix::counting_rules(matrix::default_rules(&user_id)));
            rules.set_rules(row.user_num, &row.content, usual.as_ref());
        }
        Ok(rules)
    }

    /// Stores the rules of a user in memory, unless they are the default ones.
    fn set_rules(&self, user: UserNum, content: &str, usual: Option<&Ruleset>) {
        let rules = serde_json::from_str::<PushRulesContent>(content)
            .ok()
            .map(|content| matrix::counting_rules(content.global));
        let mut by_user = self.by_user.write().unwrap_or_else(PoisonError::into_inner);
        // Rules that were stored before there were limits are ignored if they exceed the limits.
        let rules = rules.filter(|rules| matrix::check_push_rules(rules).is_ok());
        match rules {
            Some(rules) if usual.is_none_or(|usual| rules_json(usual) != rules_json(&rules)) => {
                by_user.insert(user, Arc::new(rules));
            }
            _ => drop(by_user.remove(&user)),
        }
    }

    /// Applies a change of a user's rules.
    pub(crate) fn apply_change(&self, change: &JournalChange) {
        if let JournalChange::AccountData {
            user,
            room: None,
            kind,
            content,
        } = change
            && &**kind == PUSH_RULES_TYPE
        {
            self.set_rules(*user, content, None);
        }
    }

    /// Returns the members of a room who have their own rules, with these rules.
    fn rules_of_members(&self, room: &Room) -> Vec<MemberRules> {
        let by_user = self.by_user.read().unwrap_or_else(PoisonError::into_inner);
        let view = room.view();
        let members = &view.local_members;
        let member_rules = |user_id: &OwnedUserId, rules: &Arc<Ruleset>| MemberRules {
            user_id: user_id.clone(),
            rules: rules.clone(),
        };
        if by_user.len() < members.len() {
            let found = by_user
                .iter()
                .filter_map(|(user, rules)| Some(member_rules(members.get(user)?, rules)));
            found.collect()
        } else {
            let found = members
                .iter()
                .filter_map(|(user, user_id)| Some(member_rules(user_id, by_user.get(user)?)));
            found.collect()
        }
    }
}

fn rules_json(rules: &Ruleset) -> Option<serde_json::Value> {
    serde_json::to_value(rules).ok()
}

/// The settings of users that decide how events count for them.
#[derive(Clone, Copy)]
pub(crate) struct MemberSettings<'a> {
    pub(crate) push_rules: &'a CustomRules,
    pub(crate) ignored_users: &'a IgnoreSettingsByUser,
}

/// Returns the increments that an event adds to the unread counts of the members of a room.
pub(crate) async fn count_for_members(
    settings: MemberSettings<'_>,
    room: &Room,
    tip: &RoomTip,
    pdu: &Pdu,
    local: &ServerName,
) -> UnreadIncrement {
    let head = matrix::write_event_head(pdu, &room.rules);
    let event = matrix::client_event(&head, room.room_id.as_str(), &UnsignedFields::default());
    let mentions = parse_mentions(pdu);
    let ignoring = settings.ignored_users.members_ignoring(room, &pdu.sender);
    let is_ignoring = |user_id: &UserId| ignoring.iter().any(|member| member == user_id);
    let mut custom = settings.push_rules.rules_of_members(room);
    custom.retain(|member| !is_ignoring(&member.user_id));
    let needs_levels = mentions.room
        || pdu.state_key.is_some()
        || custom
            .iter()
            .any(|member| matrix::depends_on_power_levels(&member.rules));
    let facts = RoomFacts {
        room_id: room.room_id.clone(),
        member_count: u64::try_from(tip.joined_members).unwrap_or(0),
        power_levels: needs_levels.then(|| matrix::power_levels(&tip.state, &room.rules)),
    };
    let usual = matrix::default_push_outcome(&event, &facts).await;
    let mut increment = UnreadIncrement {
        notify: usual.notify,
        mention: usual.highlight,
        ..UnreadIncrement::default()
    };
    for user_id in &ignoring {
        increment.add_user(user_id, &pdu.sender, usual, None);
    }
    for MemberRules { user_id, rules } in &custom {
        let own = own_matched_rule(rules, user_id, tip, &event, &facts).await;
        increment.add_user(user_id, &pdu.sender, usual, own);
    }
    for user_id in mentioned_users(pdu, &mentions, tip, local)
        .iter()
        .take(MAX_CHECKED_MENTIONS)
    {
        let is_member = user_id.server_name() == local
            && !is_ignoring(user_id)
            && tip.state.membership(user_id) == MembershipState::Join;
        if is_member && !custom.iter().any(|member| member.user_id == *user_id) {
            let rules = matrix::counting_rules(matrix::default_rules(user_id));
            let own = own_matched_rule(&rules, user_id, tip, &event, &facts).await;
            increment.add_user(user_id, &pdu.sender, usual, own);
        }
    }
    increment
}

impl UnreadIncrement {
    /// Adds a user to whom a rule other than those of most members may apply.
    fn add_user(
        &mut self,
        user_id: &UserId,
        sender: &UserId,
        usual: PushOutcome,
        rule: Option<AnyPushRuleRef<'_>>,
    ) {
        // A sender's own events never count: sending moves the sender's read marker past them.
        if user_id == sender {
            return;
        }
        let own = PushOutcome::of_rule(rule);
        if usual != own {
            self.exceptions.push(PersonalIncrement {
                user_id: user_id.to_owned(),
                notify: i64::from(own.notify) - i64::from(usual.notify),
                highlight: i64::from(own.highlight) - i64::from(usual.highlight),
            });
        }
        if matrix::is_personal_notification(rule, usual) {
            self.notified_users.push(NotifiedUser {
                user_id: user_id.to_owned(),
                highlight: own.highlight,
            });
        }
    }
}

/// Returns the users whom an event mentions. If it has no `m.mentions`, these are the members whom its
/// text names.
fn mentioned_users(
    pdu: &Pdu,
    mentions: &Mentions,
    tip: &RoomTip,
    local: &ServerName,
) -> BTreeSet<OwnedUserId> {
    if pdu.state_key.is_some() || pdu.content.get().contains("m.mentions") {
        return mentions.user_ids.clone();
    }
    let body = pdu.content_str("body").unwrap_or_default();
    let names = matrix::possible_names(&body);
    let users = names
        .iter()
        .filter_map(|name| UserId::parse_with_server_name(name.as_str(), local).ok());
    users
        .filter(|user_id| tip.state.membership(user_id) == MembershipState::Join)
        .collect()
}

fn parse_mentions(pdu: &Pdu) -> Mentions {
    if !pdu.content.get().contains("m.mentions") {
        return Mentions::default();
    }
    pdu.content_as::<MentionsContent>()
        .and_then(|content| content.mentions)
        .unwrap_or_default()
}

async fn own_matched_rule<'a>(
    rules: &'a Ruleset,
    user_id: &UserId,
    tip: &RoomTip,
    event: &RawValue,
    facts: &RoomFacts,
) -> Option<AnyPushRuleRef<'a>> {
    let name = tip
        .state
        .get(&StateEventType::RoomMember, user_id.as_str())
        .and_then(|member| member.content_str("displayname"))
        .unwrap_or_else(|| user_id.localpart().to_owned());
    matrix::matched_rule(rules, user_id, &name, event, facts).await
}
