//! Summaries of rooms, for users who may preview them.
//!
//! See [`GET /room_summary`](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1room_summaryroomidoralias).

use ruma::{
    OwnedRoomId, RoomVersionId, UserId,
    events::{StateEventType, room::member::MembershipState},
    room::{AllowRule, JoinRule},
};
use serde::{Deserialize, Serialize};

use super::{RoomPreviews, join_rules::restricted_rule, listing::build_listing};
use crate::{
    error::{Error, Result},
    matrix::{EventVisibility, StateMap},
    numbers::{RoomNum, UserNum},
    rooms::memory::room::Room,
};

/// The most `allow` conditions of a room that are checked.
const MAX_ALLOW_CONDITIONS: usize = 64;
/// The number of mutual rooms on a page.
const MUTUAL_ROOMS_PER_PAGE: usize = 100;

/// The summary of a room.
///
/// This is not ruma's type, because that one leaves out the join rule of public rooms, which
/// clients and tests expect.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoomPreview {
    pub room_id: OwnedRoomId,
    /// `m.room.canonical_alias`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical_alias: Option<String>,
    /// `m.room.name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `m.room.topic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// `m.room.avatar`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    /// `type` of `m.room.create`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_type: Option<String>,
    /// The number of joined members.
    pub num_joined_members: i64,
    /// `m.room.join_rules`.
    #[serde(default = "public")]
    pub join_rule: String,
    /// The rooms whose members may join.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_room_ids: Option<Vec<OwnedRoomId>>,
    /// Whether anyone may read the history.
    #[serde(default)]
    pub world_readable: bool,
    /// Whether guests may join.
    #[serde(default)]
    pub guest_can_join: bool,
    /// The encryption algorithm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    /// The room version. Other servers may leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_version: Option<RoomVersionId>,
}

fn public() -> String {
    "public".to_owned()
}

/// A page of the rooms that two users have in common.
#[derive(Clone, Debug, Default)]
pub struct MutualRooms {
    /// The number of mutual rooms on all pages.
    pub count: usize,
    /// The rooms on this page.
    pub page: Vec<OwnedRoomId>,
    /// The room after which the next page starts; `None` on the last page.
    pub next: Option<RoomNum>,
}

impl RoomPreview {
    /// Returns the summary of a room with its current state.
    pub fn from_room(room: &Room) -> Self {
        let view = room.view();
        let state = &view.state;
        let listing = build_listing(state, view.joined_members);
        let allowed = restricted_rule(room, state).map(|restricted| {
            let rules = restricted.allow.into_iter();
            let named = rules.filter_map(|rule| match rule {
                AllowRule::RoomMembership(condition) => Some(condition.room_id),
                _ => None,
            });
            named.collect()
        });
        Self {
            room_id: room.room_id.clone(),
            canonical_alias: listing.canonical_alias,
            name: listing.name,
            topic: listing.topic,
            avatar_url: listing.avatar_url,
            room_type: listing.room_type,
            num_joined_members: listing.joined_members,
            join_rule: listing.join_rule,
            allowed_room_ids: allowed,
            world_readable: listing.world_readable,
            guest_can_join: listing.guest_can_join,
            encryption: state
                .get(&StateEventType::RoomEncryption, "")
                .and_then(|pdu| pdu.content_str("algorithm")),
            room_version: Some(room.version.clone()),
        }
    }

    /// Returns whether the room is a space.
    pub fn is_space(&self) -> bool {
        self.room_type.as_deref() == Some("m.space")
    }
}

impl RoomPreviews {
    /// Returns whether a user, or anyone if no user is given, may see the summary of a room: the
    /// history is world readable, or the user is in the room, invited, or may join or knock.
    pub async fn may_preview(&self, room: &Room, user_id: Option<&UserId>) -> Result<bool> {
        let state: StateMap = room.view().state.clone();
        let membership = user_id.map(|user_id| state.membership(user_id));
        if EventVisibility::of_state(&state) == EventVisibility::WorldReadable {
            return Ok(true);
        }
        match membership {
            Some(MembershipState::Join | MembershipState::Invite) => return Ok(true),
            Some(MembershipState::Ban) => return Ok(false),
            _ => {}
        }
        let rules = &room.rules.authorization;
        let is_open = match state.content::<JoinRule>(&StateEventType::RoomJoinRules) {
            Some(JoinRule::Public) => true,
            Some(JoinRule::Knock) => rules.knocking,
            Some(JoinRule::KnockRestricted(_)) => rules.knock_restricted_join_rule,
            _ => false,
        };
        match user_id {
            Some(user_id) if !is_open => {
                self.join_rules
                    .meets_allow_condition(room, &state, user_id)
                    .await
            }
            _ => Ok(is_open),
        }
    }

    /// Returns whether a user may see the summary of a room that another server describes. Users
    /// who cannot join the room may not see it.
    pub async fn may_preview_remote(
        &self,
        user_id: Option<&UserId>,
        summary: &RoomPreview,
    ) -> Result<bool> {
        let join_rule = &*summary.join_rule;
        if summary.world_readable || matches!(join_rule, "public" | "knock" | "knock_restricted") {
            return Ok(true);
        }
        let Some(user_id) = user_id else {
            return Ok(false);
        };
        if self
            .access
            .find_inviter(&summary.room_id, user_id)
            .await?
            .is_some()
        {
            return Ok(true);
        }
        let allowed = summary.allowed_room_ids.iter().flatten();
        for room_id in allowed
            .take(MAX_ALLOW_CONDITIONS)
            .filter(|_| join_rule == "restricted")
        {
            match self.memory.room(room_id).await {
                Ok(room) if room.view().state.membership(user_id) == MembershipState::Join => {
                    return Ok(true);
                }
                Ok(_) | Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Returns the rooms that a user has in common with another user, starting after a given room.
    pub async fn find_mutual_rooms(
        &self,
        user: UserNum,
        other: &UserId,
        after: Option<RoomNum>,
    ) -> Result<MutualRooms> {
        let Some(other) = self.memory.user_number(other).await? else {
            return Ok(MutualRooms::default());
        };
        let other = self.memory.rooms_of_user(other).await?;
        let mut shared = self.memory.rooms_of_user(user).await?.joined_rooms();
        shared.retain(|room| other.membership(*room) == MembershipState::Join);
        shared.sort_unstable();
        let count = shared.len();
        let rest = shared
            .into_iter()
            .filter(|room| after.is_none_or(|after| *room > after));
        let mut rest: Vec<RoomNum> = rest.take(MUTUAL_ROOMS_PER_PAGE + 1).collect();
        let has_more = rest.len() > MUTUAL_ROOMS_PER_PAGE;
        rest.truncate(MUTUAL_ROOMS_PER_PAGE);
        let next = rest.last().copied().filter(|_| has_more);
        let mut page = Vec::with_capacity(rest.len());
        for room in rest {
            page.push(self.memory.room_id(room).await?);
        }
        Ok(MutualRooms { count, page, next })
    }
}
