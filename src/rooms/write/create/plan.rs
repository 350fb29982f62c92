//! Builds the first events of a new room.

use ruma::{
    OwnedRoomAliasId, OwnedUserId, RoomVersionId,
    api::client::room::{
        Visibility,
        create_room::v3::{Request, RoomPreset},
    },
    events::{
        StateEventType,
        room::{
            canonical_alias::RoomCanonicalAliasEventContent, name::RoomNameEventContent,
            topic::RoomTopicEventContent,
        },
    },
    room_version_rules::AuthorizationRules,
};
use serde::{Deserialize, Serialize};
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use crate::{
    error::{Error, Result},
    matrix,
    rooms::{
        EventToSend,
        write::member_change::{MemberChange, MemberProfile, MemberProfiles, MembershipAction},
    },
};

/// The most users that one request may invite.
const MAX_INVITES: usize = 100;
/// The most events that `initial_state` may contain.
const MAX_INITIAL_STATE_EVENTS: usize = 100;

/// A request to create a room.
#[derive(Debug)]
pub struct CreateRoom {
    /// The user who creates the room.
    pub creator: OwnedUserId,
    /// The request as the client sent it.
    pub request: Request,
    /// The profiles of the creator and of the invited users.
    pub profiles: MemberProfiles,
}

#[derive(Deserialize)]
struct InitialState {
    #[serde(rename = "type")]
    kind: StateEventType,
    #[serde(default)]
    state_key: String,
    content: Box<RawValue>,
}

/// Returns the version of the new room: the requested one, or the default.
pub(crate) fn requested_version(
    request: &Request,
    default: &RoomVersionId,
) -> Result<RoomVersionId> {
    let version = request.room_version.as_ref().unwrap_or(default);
    if matrix::room_version_rules(version).is_some() {
        Ok(version.clone())
    } else {
        Err(Error::UnsupportedRoomVersion(format!(
            "room version {version} is not supported"
        )))
    }
}

/// Returns the first events of the room, in the order that the specification requires.
pub(crate) fn first_events(
    create: &CreateRoom,
    version: &RoomVersionId,
    alias: Option<&OwnedRoomAliasId>,
) -> Result<Vec<EventToSend>> {
    let request = &create.request;
    check_enum_fields(request)?;
    if request.invite.len() > MAX_INVITES || request.initial_state.len() > MAX_INITIAL_STATE_EVENTS
    {
        return Err(Error::invalid_param(
            "too many invitations or state events in one request",
        ));
    }
    let rules = matrix::room_version_rules(version)
        .map_or(AuthorizationRules::V12, |rules| rules.authorization);
    let plan = CreationPlan { create, rules };
    // 1. The m.room.create event itself.
    let mut events = vec![plan.create_event(version)?];
    // 2. An m.room.member event for the creator to join the room.
    events.push(plan.join_event()?);
    // 3. A default m.room.power_levels event.
    events.push(plan.power_levels_event()?);
    // 4. An m.room.canonical_alias event if room_alias_name is given.
    if let Some(alias) = alias {
        let mut content = RoomCanonicalAliasEventContent::new();
        content.alias = Some(alias.clone());
        events.push(plan.state_event(&StateEventType::RoomCanonicalAlias, &content)?);
    }
    // 5. Events set by the preset.
    plan.add_preset_events(&mut events)?;
    // 6. Events listed in initial_state, in the order that they are listed.
    plan.add_initial_state(&mut events)?;
    // 7. Events implied by name and topic.
    plan.add_name_and_topic(&mut events)?;
    // 8. Invite events implied by invite.
    plan.add_invitations(&mut events)?;
    Ok(events)
}

/// Checks that the preset and the visibility have values that the specification lists.
fn check_enum_fields(request: &Request) -> Result<()> {
    let is_known = |preset: &RoomPreset| {
        matches!(
            preset,
            RoomPreset::PrivateChat | RoomPreset::PublicChat | RoomPreset::TrustedPrivateChat
        )
    };
    if !request.preset.as_ref().is_none_or(is_known) {
        return Err(Error::invalid_param(
            "preset must be private_chat, public_chat or trusted_private_chat",
        ));
    }
    check_visibility(&request.visibility)
}

/// Checks that a visibility is one of those that the specification lists.
///
/// # Errors
///
/// Returns [`Error::InvalidParam`] if it is not.
pub fn check_visibility(visibility: &Visibility) -> Result<()> {
    match visibility {
        Visibility::Public | Visibility::Private => Ok(()),
        _ => Err(Error::invalid_param("visibility must be public or private")),
    }
}

struct CreationPlan<'a> {
    create: &'a CreateRoom,
    rules: AuthorizationRules,
}

impl CreationPlan<'_> {
    fn preset(&self) -> RoomPreset {
        let by_visibility = || match self.create.request.visibility {
            Visibility::Public => RoomPreset::PublicChat,
            _ => RoomPreset::PrivateChat,
        };
        self.create
            .request
            .preset
            .clone()
            .unwrap_or_else(by_visibility)
    }

    fn state_event(&self, kind: &StateEventType, content: &impl Serialize) -> Result<EventToSend> {
        Ok(EventToSend::state(
            self.create.creator.clone(),
            kind,
            "",
            to_raw_value(content)?,
        ))
    }

    fn create_event(&self, version: &RoomVersionId) -> Result<EventToSend> {
        let mut content: Map<String, Value> = match &self.create.request.creation_content {
            Some(raw) => serde_json::from_str(raw.json().get())
                .map_err(|e| Error::BadJson(format!("creation_content: {e}")))?,
            None => Map::new(),
        };
        content.insert("room_version".to_owned(), json!(version));
        if self.rules.use_room_create_sender {
            content.remove("creator");
        } else {
            content.insert("creator".to_owned(), json!(self.create.creator));
        }
        if self.rules.additional_room_creators && self.preset() == RoomPreset::TrustedPrivateChat {
            self.add_invited_creators(&mut content)?;
        }
        self.state_event(&StateEventType::RoomCreate, &content)
    }

    /// Makes the invited users creators too: in a trusted private chat they are as powerful as the creator.
    fn add_invited_creators(&self, content: &mut Map<String, Value>) -> Result<()> {
        let creators = content
            .entry("additional_creators")
            .or_insert_with(|| json!([]));
        let creators = creators
            .as_array_mut()
            .ok_or_else(|| Error::BadJson("additional_creators must be a list".to_owned()))?;
        for user_id in &self.create.request.invite {
            let creator = json!(user_id);
            if !creators.contains(&creator) {
                creators.push(creator);
            }
        }
        if creators.is_empty() {
            content.remove("additional_creators");
        }
        Ok(())
    }

    fn join_event(&self) -> Result<EventToSend> {
        let creator = &self.create.creator;
        MemberChange::for_self(creator, MembershipAction::Join, self.profile(creator)).into_event()
    }

    fn invite_event(&self, target: &OwnedUserId) -> Result<EventToSend> {
        MemberChange {
            sender: self.create.creator.clone(),
            target: target.clone(),
            action: MembershipAction::Invite,
            profile: self.profile(target),
            reason: None,
            is_direct: self.create.request.is_direct,
            extra: Map::new(),
        }
        .into_event()
    }

    fn profile(&self, user_id: &OwnedUserId) -> MemberProfile {
        self.create
            .profiles
            .get(user_id)
            .cloned()
            .unwrap_or_default()
    }

    /// Returns the power levels. They contain the defaults too, because some clients do not know the defaults.
    fn power_levels_event(&self) -> Result<EventToSend> {
        let has_privileged_creators = self.rules.explicitly_privilege_room_creators;
        let tombstone = if has_privileged_creators { 150 } else { 100 };
        let mut users = Map::new();
        if !has_privileged_creators {
            users.insert(self.create.creator.to_string(), json!(100));
            if self.preset() == RoomPreset::TrustedPrivateChat {
                let invited = self.create.request.invite.iter();
                users.extend(invited.map(|user_id| (user_id.to_string(), json!(100))));
            }
        }
        // Nobody needs an invitation to join a public room, so only moderators may invite there.
        let is_public = self.preset() == RoomPreset::PublicChat;
        let mut content = json!({
            "ban": 50, "kick": 50, "redact": 50, "invite": if is_public { 50 } else { 0 },
            "state_default": 50, "events_default": 0, "users_default": 0,
            "notifications": { "room": 50 },
            "events": {
                "m.room.name": 50, "m.room.avatar": 50, "m.room.canonical_alias": 50,
                "m.room.power_levels": 100, "m.room.history_visibility": 100,
                "m.room.server_acl": 100, "m.room.encryption": 100, "m.room.tombstone": tombstone,
            },
            "users": users,
        });
        if let (Some(raw), Some(content)) = (
            &self.create.request.power_level_content_override,
            content.as_object_mut(),
        ) {
            let overrides: Map<String, Value> = serde_json::from_str(raw.json().get())
                .map_err(|e| Error::BadJson(format!("power_level_content_override: {e}")))?;
            content.extend(overrides);
        }
        matrix::check_power_levels(&to_raw_value(&content)?)?;
        self.state_event(&StateEventType::RoomPowerLevels, &content)
    }

    /// Adds the events of the preset.
    ///
    /// See [the presets in the specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom).
    fn add_preset_events(&self, events: &mut Vec<EventToSend>) -> Result<()> {
        let is_public = self.preset() == RoomPreset::PublicChat;
        let join_rule = if is_public { "public" } else { "invite" };
        let rules = json!({ "join_rule": join_rule });
        let history = json!({ "history_visibility": "shared" });
        events.push(self.state_event(&StateEventType::RoomJoinRules, &rules)?);
        events.push(self.state_event(&StateEventType::RoomHistoryVisibility, &history)?);
        // Without this event guests may not join, so a public room does not need it.
        if !is_public {
            let guests = json!({ "guest_access": "can_join" });
            events.push(self.state_event(&StateEventType::RoomGuestAccess, &guests)?);
        }
        Ok(())
    }

    /// Adds the events that the request lists in `initial_state`.
    fn add_initial_state(&self, events: &mut Vec<EventToSend>) -> Result<()> {
        for raw in &self.create.request.initial_state {
            let state: InitialState = serde_json::from_str(raw.json().get())
                .map_err(|e| Error::BadJson(format!("initial_state: {e}")))?;
            if state.kind == StateEventType::RoomPowerLevels {
                matrix::check_power_levels(&state.content)?;
            }
            events.push(EventToSend::state(
                self.create.creator.clone(),
                &state.kind,
                &state.state_key,
                state.content,
            ));
        }
        Ok(())
    }

    /// Adds the events for the name and the topic of the room.
    fn add_name_and_topic(&self, events: &mut Vec<EventToSend>) -> Result<()> {
        if let Some(name) = &self.create.request.name {
            let content = RoomNameEventContent::new(name.clone());
            events.push(self.state_event(&StateEventType::RoomName, &content)?);
        }
        if let Some(topic) = &self.create.request.topic {
            let content = RoomTopicEventContent::new(topic.clone());
            events.push(self.state_event(&StateEventType::RoomTopic, &content)?);
        }
        Ok(())
    }

    /// Adds the invitations of users of this server.
    ///
    /// Users of other servers are invited later: their servers have to sign the invitation, and the room must exist
    /// for that.
    fn add_invitations(&self, events: &mut Vec<EventToSend>) -> Result<()> {
        let own = self.create.creator.server_name();
        let invited = self.create.request.invite.iter();
        for target in invited.filter(|user_id| user_id.server_name() == own) {
            events.push(self.invite_event(target)?);
        }
        Ok(())
    }
}
