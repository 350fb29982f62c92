//! Builds the first events of a room that replaces another.

use ruma::{
    OwnedUserId, RoomVersionId, ServerName, UserId,
    events::{StateEventType, room::member::MembershipState},
    room::JoinRuleKind,
    room_version_rules::AuthorizationRules,
    state_res::events::RoomCreateEvent,
};
use serde_json::{Map, Value, json, value::to_raw_value};

use crate::{
    error::{Error, RefusalCode, Result},
    matrix::{self, Pdu, StateMap},
    rooms::{
        EventToSend,
        memory::room::{Room, RoomTip},
        write::member_change::{MemberChange, MemberProfile, MembershipAction},
    },
};

/// The types of the state events that the new room copies from the old one.
const COPIED_STATE_TYPES: [StateEventType; 8] = [
    StateEventType::RoomName,
    StateEventType::RoomTopic,
    StateEventType::RoomAvatar,
    StateEventType::RoomEncryption,
    StateEventType::RoomHistoryVisibility,
    StateEventType::RoomGuestAccess,
    StateEventType::RoomServerAcl,
    StateEventType::RoomJoinRules,
];
/// The most bans, and the most children of a space, that the new room copies. Each of them is an event.
const MAX_COPIED_EVENTS: usize = 1_000;
/// Fields of the create event that apply to the old room only and are not copied.
const ROOM_SPECIFIC_FIELDS: [&str; 4] = [
    "creator",
    "room_version",
    "predecessor",
    "additional_creators",
];
/// The power level of the creator, in versions where creators have a level.
const CREATOR_LEVEL: i64 = 100;
/// The power level needed to upgrade a room, in versions where creators are above all levels.
const TOMBSTONE_LEVEL: i64 = 150;

/// A request to upgrade a room.
#[derive(Clone, Debug)]
pub struct RoomUpgrade {
    /// The user who replaces the room and creates the new one.
    pub user_id: OwnedUserId,
    /// The profile of this user.
    pub profile: MemberProfile,
    /// The version of the new room.
    pub version: RoomVersionId,
    /// Other creators of the new room, if its version supports additional creators.
    pub additional_creators: Vec<OwnedUserId>,
}

struct UpgradePlan<'a> {
    old: &'a Room,
    state: &'a StateMap,
    upgrade: &'a RoomUpgrade,
    rules: AuthorizationRules,
}

/// Returns the first events of the room that replaces `old`.
pub(crate) fn first_events(
    old: &Room,
    tip: &RoomTip,
    upgrade: &RoomUpgrade,
) -> Result<Vec<EventToSend>> {
    let rules = matrix::room_version_rules(&upgrade.version).ok_or_else(|| {
        Error::UnsupportedRoomVersion(format!("room version {} is not supported", upgrade.version))
    })?;
    let plan = UpgradePlan {
        old,
        state: &tip.state,
        upgrade,
        rules: rules.authorization,
    };
    let user_id = &upgrade.user_id;
    let levels = plan.power_levels()?;
    let raised = plan.raised_power_levels(&levels);
    let mut events = vec![
        plan.create_event(tip)?,
        MemberChange::for_self(user_id, MembershipAction::Join, upgrade.profile.clone())
            .into_event()?,
        plan.state_event(&StateEventType::RoomPowerLevels, "", &json!(raised))?,
    ];
    for kind in COPIED_STATE_TYPES {
        if let Some(pdu) = plan.state.get(&kind, "") {
            let content = plan.copied_content(&kind, pdu);
            events.push(plan.state_event(&kind, "", &json!(content))?);
        }
    }
    if let Some(aliases) = plan.own_aliases_content() {
        events.push(plan.state_event(&StateEventType::RoomCanonicalAlias, "", &aliases)?);
    }
    plan.add_space_children(&mut events)?;
    plan.add_bans(&mut events)?;
    if raised != levels {
        events.push(plan.state_event(&StateEventType::RoomPowerLevels, "", &json!(levels))?);
    }
    Ok(events)
}

impl UpgradePlan<'_> {
    fn state_event(
        &self,
        kind: &StateEventType,
        state_key: &str,
        content: &Value,
    ) -> Result<EventToSend> {
        let user_id = self.upgrade.user_id.clone();
        Ok(EventToSend::state(
            user_id,
            kind,
            state_key,
            to_raw_value(content)?,
        ))
    }

    fn create_event(&self, tip: &RoomTip) -> Result<EventToSend> {
        let kind = StateEventType::RoomCreate;
        let mut content: Map<String, Value> = self.state.content(&kind).unwrap_or_default();
        for field in ROOM_SPECIFIC_FIELDS {
            content.remove(field);
        }
        let mut predecessor = json!({ "room_id": self.old.room_id });
        let last = tip.forward_extremities.last();
        if let (Some(predecessor), Some(last)) = (predecessor.as_object_mut(), last)
            && !self.rules.room_create_event_id_as_room_id
        {
            predecessor.insert("event_id".to_owned(), json!(last));
        }
        content.insert("predecessor".to_owned(), predecessor);
        content.insert("room_version".to_owned(), json!(self.upgrade.version));
        if !self.rules.use_room_create_sender {
            content.insert("creator".to_owned(), json!(self.upgrade.user_id));
        }
        let creators = self.additional_creators();
        if !creators.is_empty() {
            content.insert("additional_creators".to_owned(), json!(creators));
        }
        self.state_event(&kind, "", &json!(content))
    }

    fn additional_creators(&self) -> Vec<&OwnedUserId> {
        if !self.rules.additional_room_creators {
            return Vec::new();
        }
        let mut creators: Vec<&OwnedUserId> = self.upgrade.additional_creators.iter().collect();
        creators.sort();
        creators.dedup();
        creators.retain(|creator| **creator != self.upgrade.user_id);
        creators
    }

    /// Returns the final power levels of the new room, converted from those of the old room.
    fn power_levels(&self) -> Result<Map<String, Value>> {
        let kind = StateEventType::RoomPowerLevels;
        let mut content: Map<String, Value> = self.state.content(&kind).unwrap_or_default();
        if self.rules.integer_power_levels {
            content.values_mut().for_each(convert_to_integers);
        }
        let mut users = object_or_empty(content.remove("users"));
        if self.rules.explicitly_privilege_room_creators {
            users.remove(self.upgrade.user_id.as_str());
            for creator in self.additional_creators() {
                users.remove(creator.as_str());
            }
            let mut events = object_or_empty(content.remove("events"));
            let level = events.get("m.room.tombstone").and_then(Value::as_i64);
            if level.is_none_or(|level| level < TOMBSTONE_LEVEL) {
                events.insert("m.room.tombstone".to_owned(), json!(TOMBSTONE_LEVEL));
            }
            content.insert("events".to_owned(), Value::Object(events));
        } else {
            for creator in self.privileged_creators()? {
                users.insert(creator.to_string(), json!(CREATOR_LEVEL));
            }
        }
        content.insert("users".to_owned(), Value::Object(users));
        Ok(content)
    }

    /// Returns the creators of the old room, if its version puts creators above all levels.
    fn privileged_creators(&self) -> Result<Vec<OwnedUserId>> {
        let rules = &self.old.rules.authorization;
        let create = self.state.get(&StateEventType::RoomCreate, "");
        let Some(create) = create.filter(|_| rules.explicitly_privilege_room_creators) else {
            return Ok(Vec::new());
        };
        let creators = RoomCreateEvent::new(&**create).creators(rules);
        let creators =
            creators.map_err(|reason| Error::refused(RefusalCode::InvalidRoomState, reason))?;
        Ok(creators.into_iter().collect())
    }

    /// Returns temporary power levels with which the user may send all other first events.
    fn raised_power_levels(&self, levels: &Map<String, Value>) -> Map<String, Value> {
        let mut raised = levels.clone();
        if self.rules.explicitly_privilege_room_creators {
            return raised;
        }
        let highest = levels.values().filter_map(highest_level).max();
        let needed = highest.unwrap_or(0).max(CREATOR_LEVEL);
        let mut users = object_or_empty(raised.remove("users"));
        users.insert(self.upgrade.user_id.to_string(), json!(needed));
        raised.insert("users".to_owned(), Value::Object(users));
        raised
    }

    /// Returns the content of a state event. A join rule that the new version does not support becomes `invite`.
    fn copied_content(&self, kind: &StateEventType, pdu: &Pdu) -> Value {
        let rule = pdu.content_str("join_rule").map(JoinRuleKind::from);
        let is_known = match rule {
            Some(JoinRuleKind::Knock) => self.rules.knocking,
            Some(JoinRuleKind::Restricted) => self.rules.restricted_join_rule,
            Some(JoinRuleKind::KnockRestricted) => self.rules.knock_restricted_join_rule,
            _ => true,
        };
        if *kind == StateEventType::RoomJoinRules && !is_known {
            return json!({ "join_rule": "invite" });
        }
        pdu.content_as().unwrap_or_default()
    }

    /// Returns the aliases of this server, which move to the new room.
    fn own_aliases_content(&self) -> Option<Value> {
        let server = self.upgrade.user_id.server_name();
        let own = split_aliases(self.state, server)?.own;
        (!own.is_empty()).then_some(Value::Object(own))
    }

    fn add_space_children(&self, events: &mut Vec<EventToSend>) -> Result<()> {
        let kind = StateEventType::SpaceChild;
        for pdu in self.state.of_type(&kind).take(MAX_COPIED_EVENTS) {
            let content: Map<String, Value> = pdu.content_as().unwrap_or_default();
            if let Some(child) = &pdu.state_key
                && content.contains_key("via")
            {
                events.push(self.state_event(&kind, child, &Value::Object(content))?);
            }
        }
        Ok(())
    }

    fn add_bans(&self, events: &mut Vec<EventToSend>) -> Result<()> {
        let members = self.state.of_type(&StateEventType::RoomMember);
        let banned = members.filter(|pdu| pdu.membership() == Some(MembershipState::Ban));
        for pdu in banned.take(MAX_COPIED_EVENTS) {
            let Some(target) = pdu.member().map(UserId::to_owned) else {
                continue;
            };
            let ban = MemberChange {
                sender: self.upgrade.user_id.clone(),
                target,
                action: MembershipAction::Ban,
                profile: MemberProfile::default(),
                reason: pdu.content_str("reason"),
                is_direct: false,
                extra: Map::new(),
            };
            events.push(ban.into_event()?);
        }
        Ok(())
    }
}

/// Returns the old room's aliases without those of this server, or `None` if this server has none of them.
pub(crate) fn aliases_of_others(tip: &RoomTip, server: &ServerName) -> Option<Map<String, Value>> {
    let aliases = split_aliases(&tip.state, server)?;
    (!aliases.own.is_empty()).then_some(aliases.others)
}

/// Contents of `m.room.canonical_alias`: the aliases of a server, and those of other servers.
struct AliasesByServer {
    own: Map<String, Value>,
    others: Map<String, Value>,
}

/// Splits a room's aliases into those of a server and the others.
fn split_aliases(state: &StateMap, server: &ServerName) -> Option<AliasesByServer> {
    let kind = StateEventType::RoomCanonicalAlias;
    let content: Map<String, Value> = state.content(&kind)?;
    let suffix = format!(":{server}");
    let is_own = |alias: &Value| alias.as_str().is_some_and(|alias| alias.ends_with(&suffix));
    let (mut own, mut others) = (Map::new(), Map::new());
    if let Some(alias) = content.get("alias").filter(|alias| alias.is_string()) {
        let side = if is_own(alias) { &mut own } else { &mut others };
        side.insert("alias".to_owned(), alias.clone());
    }
    let more = content.get("alt_aliases").and_then(Value::as_array);
    let (own_more, others_more): (Vec<Value>, Vec<Value>) =
        more.into_iter().flatten().cloned().partition(is_own);
    for (side, aliases) in [(&mut own, own_more), (&mut others, others_more)] {
        if !aliases.is_empty() {
            side.insert("alt_aliases".to_owned(), Value::Array(aliases));
        }
    }
    Some(AliasesByServer { own, others })
}

fn object_or_empty(value: Option<Value>) -> Map<String, Value> {
    match value {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

/// Replaces power levels that are strings by integers: old room versions allow strings.
fn convert_to_integers(value: &mut Value) {
    match value {
        Value::Object(levels) => levels.values_mut().for_each(convert_to_integers),
        Value::String(level) => *value = json!(level.trim().parse::<i64>().unwrap_or(0)),
        _ => {}
    }
}

fn highest_level(value: &Value) -> Option<i64> {
    match value {
        Value::Object(levels) => levels.values().filter_map(highest_level).max(),
        other => other.as_i64(),
    }
}
