//! What a new event adds to unread counts.
//!
//! Most members have the default push rules: for them the room keeps running counters, and a count is the
//! difference to the place they have read to. Only those whom an event mentions, and those with rules of their
//! own, are looked at one by one.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use ruma::{
    OwnedUserId, ServerName, UserId,
    events::{Mentions, StateEventType, room::member::MembershipState},
    push::Ruleset,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::warm::{Room, Tip};
use crate::{
    error::Result,
    matrix::{self, Notice, Pdu, RoomFacts, Unsigned},
    storage::{Change, Db, Read, UserNum},
};

/// How many mentioned users of one event are looked at.
const MENTIONS: usize = 64;

/// The account data type that holds push rules.
const PUSH_RULES: &str = "m.push_rules";

/// The push rules of those users who changed theirs.
#[derive(Default)]
pub(super) struct CustomRules {
    by_user: RwLock<HashMap<UserNum, Arc<Custom>>>,
}

struct Custom {
    user_id: OwnedUserId,
    rules: Ruleset,
}

/// What an event adds to the counts.
#[derive(Debug, Default)]
pub(super) struct Counting {
    pub(super) notify: bool,
    pub(super) mention: bool,
    /// For whom it counts otherwise: what to add to notifications and highlights.
    pub(super) exceptions: Vec<(OwnedUserId, i64, i64)>,
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
    /// Loads the rules of all who changed theirs.
    pub(super) async fn load(db: &Db) -> Result<Self> {
        let mut conn = db.read().await?;
        let rows: Vec<(UserNum, String, String)> = conn
            .query(
                "SELECT a.user_num, s.text, a.content FROM account_data a JOIN strings s ON s.num = a.user_num
                 WHERE a.room = 0 AND a.kind = $1",
            )
            .bind(PUSH_RULES)
            .fetch_all()
            .await?;
        let rules = Self::default();
        for (user, user_id, content) in rows {
            if let Ok(user_id) = OwnedUserId::try_from(user_id) {
                rules.set(user, user_id, &content);
            }
        }
        Ok(rules)
    }

    fn set(&self, user: UserNum, user_id: OwnedUserId, content: &str) {
        let rules = serde_json::from_str::<PushRulesContent>(content)
            .ok()
            .map(|content| content.global);
        let mut by_user = self.by_user.write().unwrap_or_else(PoisonError::into_inner);
        match rules {
            Some(rules) if !is_default(&rules, &user_id) => {
                by_user.insert(user, Arc::new(Custom { user_id, rules }));
            }
            _ => drop(by_user.remove(&user)),
        }
    }

    /// Follows a change of someone's rules.
    pub(super) fn committed(&self, change: &Change) {
        if let Change::AccountData {
            user,
            user_id,
            room: None,
            kind,
            content,
        } = change
            && &**kind == PUSH_RULES
        {
            self.set(*user, user_id.clone(), content);
        }
    }

    fn of_members(&self, room: &Room) -> Vec<Arc<Custom>> {
        let by_user = self.by_user.read().unwrap_or_else(PoisonError::into_inner);
        let view = room.view();
        if by_user.len() < view.local_members.len() {
            let members = by_user
                .iter()
                .filter(|(user, _)| view.local_members.contains_key(user));
            members.map(|(_, custom)| custom.clone()).collect()
        } else {
            view.local_members
                .keys()
                .filter_map(|user| by_user.get(user).cloned())
                .collect()
        }
    }
}

fn is_default(rules: &Ruleset, user_id: &UserId) -> bool {
    let json = |rules: &Ruleset| serde_json::to_value(rules).ok();
    json(rules) == json(&Ruleset::server_default(user_id))
}

/// Returns what an event adds to the counts of the members of a room.
pub(super) async fn count(
    rules: &CustomRules,
    room: &Room,
    tip: &Tip,
    pdu: &Pdu,
    local: &ServerName,
) -> Counting {
    let head = matrix::head(pdu, &room.rules);
    let event = matrix::client_event(&head, room.room_id.as_str(), &Unsigned::default());
    let mentions = mentions(pdu);
    let facts = RoomFacts {
        room_id: room.room_id.clone(),
        member_count: u64::try_from(tip.joined_members).unwrap_or(0),
        power_levels: (mentions.room || pdu.state_key.is_some())
            .then(|| matrix::power_levels(&tip.state, &room.rules)),
    };
    let usual = matrix::default_notice(&event, &facts).await;
    let mut exceptions = Vec::new();
    let custom = rules.of_members(room);
    for member in &custom {
        let own = own_notice(&member.rules, &member.user_id, tip, &event, &facts).await;
        add_exception(&mut exceptions, &member.user_id, &pdu.sender, usual, own);
    }
    for user_id in mentions.user_ids.iter().take(MENTIONS) {
        let is_member = user_id.server_name() == local
            && tip.state.membership(user_id) == MembershipState::Join;
        if is_member && !custom.iter().any(|custom| custom.user_id == *user_id) {
            let rules = Ruleset::server_default(user_id);
            let own = own_notice(&rules, user_id, tip, &event, &facts).await;
            add_exception(&mut exceptions, user_id, &pdu.sender, usual, own);
        }
    }
    Counting {
        notify: usual.notify,
        mention: usual.highlight,
        exceptions,
    }
}

fn mentions(pdu: &Pdu) -> Mentions {
    if !pdu.content.get().contains("m.mentions") {
        return Mentions::default();
    }
    pdu.content_as::<MentionsContent>()
        .and_then(|content| content.mentions)
        .unwrap_or_default()
}

async fn own_notice(
    rules: &Ruleset,
    user_id: &UserId,
    tip: &Tip,
    event: &RawValue,
    facts: &RoomFacts,
) -> Notice {
    let name = tip
        .state
        .get(&StateEventType::RoomMember, user_id.as_str())
        .and_then(|member| member.content_str("displayname"))
        .unwrap_or_else(|| user_id.localpart().to_owned());
    matrix::notice(rules, user_id, &name, event, facts).await
}

fn add_exception(
    exceptions: &mut Vec<(OwnedUserId, i64, i64)>,
    user_id: &UserId,
    sender: &UserId,
    usual: Notice,
    own: Notice,
) {
    // One's own events never count: sending moves one's read marker past them.
    if usual != own && user_id != sender {
        exceptions.push((
            user_id.to_owned(),
            i64::from(own.notify) - i64::from(usual.notify),
            i64::from(own.highlight) - i64::from(usual.highlight),
        ));
    }
}
