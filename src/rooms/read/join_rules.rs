//! Restricted rooms: rooms that members of other rooms may join.
//!
//! See the specification on
//! [restricted rooms](https://spec.matrix.org/v1.19/client-server-api/#restricted-rooms).

use std::collections::HashSet;

use ruma::{
    OwnedServerName, OwnedUserId, UserId,
    events::{
        StateEventType,
        room::{member::MembershipState, power_levels::UserPowerLevel},
    },
    room::{AllowRule, JoinRule, Restricted},
};
use serde_json::{Map, Value, value::to_raw_value};

use super::JoinRules;
use crate::{
    error::{Error, Result},
    matrix::{self, StateMap},
    rooms::{EventToSend, memory::room::Room},
};

/// The most `allow` conditions of a room that are checked.
const MAX_ALLOW_CONDITIONS: usize = 64;
/// The field of a member event that names the user whose right to invite authorizes a join.
const AUTHORISED_VIA_FIELD: &str = "join_authorised_via_users_server";

impl JoinRules {
    /// Adds the authorizing user to the member event of a user who joins a restricted room, if one
    /// is needed.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the user meets a condition, but no member of this server may
    /// authorize the join.
    pub(crate) async fn authorise_join(
        &self,
        room: &Room,
        state: &StateMap,
        event: &mut EventToSend,
    ) -> Result<()> {
        let is_own = event.state_key.as_deref() == Some(event.sender.as_str());
        if !is_own || event.membership() != Some(MembershipState::Join) {
            return Ok(());
        }
        let mut content: Map<String, Value> =
            serde_json::from_str(event.content.get()).map_err(|e| Error::BadJson(e.to_string()))?;
        // Only the server sets this field, so a value from the client is removed.
        let was_set_by_client = content.remove(AUTHORISED_VIA_FIELD).is_some();
        let before = state.membership(&event.sender);
        let ignores_conditions = matches!(before, MembershipState::Join | MembershipState::Invite);
        let joins_by_condition = !ignores_conditions
            && self
                .meets_allow_condition(room, state, &event.sender)
                .await?;
        if joins_by_condition {
            let authoriser = find_authorising_user(room, state).ok_or_else(|| {
                Error::forbidden("no member of this room on this server may invite users")
            })?;
            content.insert(
                AUTHORISED_VIA_FIELD.to_owned(),
                Value::String(authoriser.into()),
            );
        }
        if was_set_by_client || joins_by_condition {
            event.content = to_raw_value(&content)?;
        }
        Ok(())
    }

    /// Returns the servers that can authorize a join of a restricted room by a user of this server,
    /// ordered by the power level of their most powerful member.
    ///
    /// The list is empty unless the user meets a condition and no member of this server may
    /// authorize the join.
    pub async fn find_authorising_servers(
        &self,
        room: &Room,
        user_id: &UserId,
    ) -> Result<Vec<OwnedServerName>> {
        let state = room.view().state.clone();
        let ignores_conditions = matches!(
            state.membership(user_id),
            MembershipState::Join | MembershipState::Invite | MembershipState::Ban
        );
        if ignores_conditions
            || !self.meets_allow_condition(room, &state, user_id).await?
            || find_authorising_user(room, &state).is_some()
        {
            return Ok(Vec::new());
        }
        let levels = matrix::power_levels(&state, &room.rules);
        let mut powerful: Vec<(UserPowerLevel, OwnedUserId)> = state
            .of_type(&StateEventType::RoomMember)
            .filter(|pdu| pdu.membership() == Some(MembershipState::Join))
            .filter_map(|pdu| pdu.member())
            .filter(|member| levels.user_can_invite(member))
            .map(|member| (levels.for_user(member), member.to_owned()))
            .collect();
        powerful.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
        let servers = powerful
            .into_iter()
            .map(|(_, user_id)| user_id.server_name().to_owned());
        let mut seen = HashSet::new();
        Ok(servers
            .filter(|server| seen.insert(server.clone()))
            .collect())
    }

    /// Returns whether a user may join a restricted room because they are in one of the allowed
    /// rooms.
    pub(crate) async fn meets_allow_condition(
        &self,
        room: &Room,
        state: &StateMap,
        user_id: &UserId,
    ) -> Result<bool> {
        match restricted_rule(room, state) {
            Some(restricted) => self.is_in_allowed_room(&restricted, user_id).await,
            None => Ok(false),
        }
    }

    /// Returns whether a user is in one of the rooms whose members may join a restricted room,
    /// according to the state known to this server, which is most reliable for its own users.
    pub async fn is_in_allowed_room(
        &self,
        restricted: &Restricted,
        user_id: &UserId,
    ) -> Result<bool> {
        for rule in restricted.allow.iter().take(MAX_ALLOW_CONDITIONS) {
            let AllowRule::RoomMembership(condition) = rule else {
                continue;
            };
            // The state of a room that all users of this server have left is outdated, so it is not
            // used.
            match self.memory.resident_room(&condition.room_id).await {
                Ok(other) if other.view().state.membership(user_id) == MembershipState::Join => {
                    return Ok(true);
                }
                Ok(_) | Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

/// Returns the most powerful member of this server who may invite.
pub(crate) fn find_authorising_user(room: &Room, state: &StateMap) -> Option<OwnedUserId> {
    let levels = matrix::power_levels(state, &room.rules);
    let view = room.view();
    let may_invite = view.local_members.values().filter(|user_id| {
        state.membership(user_id) == MembershipState::Join && levels.user_can_invite(user_id)
    });
    let power = |user_id: &&OwnedUserId| -> (UserPowerLevel, std::cmp::Reverse<OwnedUserId>) {
        (
            levels.for_user(user_id),
            std::cmp::Reverse((*user_id).clone()),
        )
    };
    may_invite.max_by_key(power).cloned()
}

/// Returns the `allow` conditions for joining a room; `None` if the room is not restricted.
pub(crate) fn restricted_rule(room: &Room, state: &StateMap) -> Option<Restricted> {
    let rules = &room.rules.authorization;
    match state.content::<JoinRule>(&StateEventType::RoomJoinRules)? {
        JoinRule::Restricted(restricted) if rules.restricted_join_rule => Some(restricted),
        JoinRule::KnockRestricted(restricted) if rules.knock_restricted_join_rule => {
            Some(restricted)
        }
        _ => None,
    }
}
