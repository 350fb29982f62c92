//! Spaces: rooms that list other rooms as their children.
//!
//! See [`GET /hierarchy`](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidhierarchy).

use std::{cmp::Ordering, str::FromStr, sync::Arc};

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId,
    events::{StateEventType, room::member::MembershipState},
    room::AllowRule,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    RoomPreviews, join_rules::restricted_rule, server_acl::check_server_allowed,
    summary::RoomPreview,
};
use crate::{
    error::{Error, Result},
    matrix::StateMap,
    rooms::memory::room::Room,
};

/// The number of rooms on a page if the client sends no limit, and the maximum.
const DEFAULT_PAGE_ROOMS: usize = 50;
const MAX_PAGE_ROOMS: usize = 100;
/// The most `allow` conditions of a restricted room that are checked.
const MAX_ALLOW_CONDITIONS: usize = 64;
/// The greatest depth of a hierarchy.
const MAX_DEPTH: u64 = 32;
/// The most children of a space that are sent to another server.
const MAX_CHILD_ROOMS: usize = 5_000;
/// The longest valid `order` of a child, in characters.
const MAX_ORDER_CHARS: usize = 50;

/// A request for the hierarchy of a space.
#[derive(Clone, Debug, Default)]
pub struct HierarchyRequest {
    /// The token of a page.
    pub from: Option<String>,
    /// The greatest number of rooms.
    pub limit: Option<u64>,
    /// The greatest depth.
    pub max_depth: Option<u64>,
    /// Whether to include only the children that the space suggests.
    pub suggested_only: bool,
}

/// A page of the hierarchy of a space.
#[derive(Debug, Default)]
pub struct HierarchyPage {
    /// The rooms, each before its children.
    pub rooms: Vec<SpaceRoom>,
    /// The token of the next page.
    pub next_batch: Option<String>,
}

/// A room of a space.
#[derive(Clone, Debug, Serialize)]
pub struct SpaceRoom {
    #[serde(flatten)]
    summary: RoomPreview,
    children_state: Vec<Value>,
}

impl HierarchyRequest {
    /// Returns the greatest number of rooms on the page.
    pub fn page_size(&self) -> usize {
        let limit = self.limit.and_then(|limit| usize::try_from(limit).ok());
        limit.unwrap_or(DEFAULT_PAGE_ROOMS).clamp(1, MAX_PAGE_ROOMS)
    }
}

/// A room and its children, as sent to another server.
///
/// See [`GET /hierarchy`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid).
#[derive(Debug, Serialize)]
pub struct ServerHierarchy {
    room: SpaceRoom,
    children: Vec<SpaceRoom>,
    inaccessible_children: Vec<OwnedRoomId>,
}

impl SpaceRoom {
    /// Returns a room as another server describes it.
    pub fn from_remote_summary(summary: RoomPreview, mut children_state: Vec<Value>) -> Self {
        if !summary.is_space() {
            children_state.clear();
        }
        let mut children: Vec<SpaceChild> = children_state
            .into_iter()
            .filter_map(SpaceChild::parse)
            .collect();
        children.sort_by(compare_children);
        Self {
            summary,
            children_state: children.into_iter().map(|child| child.event).collect(),
        }
    }

    /// Returns the summary of the room.
    pub fn summary(&self) -> &RoomPreview {
        &self.summary
    }

    /// Returns the room; with `suggested_only`, without the children that it does not suggest.
    #[must_use]
    pub fn filter_suggested(&self, suggested_only: bool) -> Self {
        let mut room = self.clone();
        room.children_state
            .retain(|event| !suggested_only || is_suggested(event));
        room
    }

    /// Returns the children in order.
    pub fn children(&self) -> Vec<SpaceChild> {
        let children = self.children_state.iter().cloned();
        children.filter_map(SpaceChild::parse).collect()
    }

    fn from_room(room: &Room, suggested_only: bool) -> Self {
        let summary = RoomPreview::from_room(room);
        let children = if summary.is_space() {
            children(room, suggested_only)
        } else {
            Vec::new()
        };
        Self {
            summary,
            children_state: children.into_iter().map(|child| child.event).collect(),
        }
    }
}

/// The token of a page: its start, and the parameters of the request, which must not change between
/// pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HierarchyToken {
    /// The number of rooms before the page.
    pub skip: usize,
    /// The greatest depth.
    pub max_depth: u64,
    /// Whether to include only the children that the space suggests.
    pub suggested_only: bool,
}

#[derive(Deserialize)]
struct ChildEvent {
    state_key: OwnedRoomId,
    content: ChildContent,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
}

#[derive(Deserialize)]
struct ChildContent {
    via: Vec<Value>,
    #[serde(default)]
    order: Value,
}

/// A child of a space.
#[derive(Debug)]
pub struct SpaceChild {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The servers that may know the room.
    pub via: Vec<OwnedServerName>,
    order: Option<String>,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    event: Value,
}

impl RoomPreviews {
    /// Returns a room known to this server as part of a hierarchy, if the user may see its summary.
    pub async fn find_space_room(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        suggested_only: bool,
    ) -> Result<Option<SpaceRoom>> {
        let room = self.find_previewable_room(user_id, room_id).await?;
        Ok(room.map(|room| SpaceRoom::from_room(&room, suggested_only)))
    }

    /// Returns a room and its children, limited to those that another server may see.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the server may not see the room.
    pub async fn load_server_hierarchy(
        &self,
        origin: &ServerName,
        space: &RoomId,
        suggested_only: bool,
    ) -> Result<ServerHierarchy> {
        let room = self.memory.resident_room(space).await?;
        if !self.may_server_preview(&room, origin).await? {
            return Err(Error::not_found(
                "this room does not exist, or you may not see it",
            ));
        }
        let mut answer = ServerHierarchy {
            room: SpaceRoom::from_room(&room, suggested_only),
            children: Vec::new(),
            inaccessible_children: Vec::new(),
        };
        for child in children(&room, suggested_only)
            .into_iter()
            .take(MAX_CHILD_ROOMS)
        {
            let Ok(known) = self.memory.resident_room(&child.room_id).await else {
                continue;
            };
            if self.may_server_preview(&known, origin).await? {
                answer
                    .children
                    .push(SpaceRoom::from_room(&known, suggested_only));
            } else {
                answer.inaccessible_children.push(child.room_id);
            }
        }
        Ok(answer)
    }

    /// Returns whether another server may see the summary of a room: because anyone may, because
    /// one of its users is in the room or invited, or because one of its users is in a room whose
    /// members may join.
    async fn may_server_preview(&self, room: &Room, origin: &ServerName) -> Result<bool> {
        if check_server_allowed(&room.view().state, origin).is_err() {
            return Ok(false);
        }
        if self.may_preview(room, None).await? {
            return Ok(true);
        }
        let state = room.view().state.clone();
        let is_member = |state: &StateMap| {
            state.of_type(&StateEventType::RoomMember).any(|pdu| {
                let is_theirs = pdu
                    .member()
                    .is_some_and(|user| user.server_name() == origin);
                let membership = pdu.membership();
                is_theirs
                    && matches!(
                        membership,
                        Some(MembershipState::Join | MembershipState::Invite)
                    )
            })
        };
        if is_member(&state) {
            return Ok(true);
        }
        let allowed = restricted_rule(room, &state).map(|restricted| restricted.allow);
        for rule in allowed.into_iter().flatten().take(MAX_ALLOW_CONDITIONS) {
            if let AllowRule::RoomMembership(condition) = rule
                && let Ok(other) = self.memory.resident_room(&condition.room_id).await
                && other.view().servers.contains_key(origin)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns a room known to this server, if the user may see its summary.
    async fn find_previewable_room(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
    ) -> Result<Option<Arc<Room>>> {
        let room = match self.memory.room(room_id).await {
            Ok(room) => room,
            Err(Error::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let may_know = self.may_preview(&room, Some(user_id)).await?;
        Ok(may_know.then_some(room))
    }
}

/// Returns the children of a space in order.
///
/// See [Ordering of children](https://spec.matrix.org/v1.19/client-server-api/#ordering-of-children-within-a-space).
fn children(space: &Room, suggested_only: bool) -> Vec<SpaceChild> {
    let state = space.view().state.clone();
    let events = state.of_type(&StateEventType::SpaceChild).map(|pdu| {
        json!({
            "type": pdu.kind, "state_key": pdu.state_key, "content": pdu.content,
            "sender": pdu.sender, "origin_server_ts": pdu.origin_server_ts,
        })
    });
    let wanted = events.filter(|event| !suggested_only || is_suggested(event));
    let mut children: Vec<SpaceChild> = wanted.filter_map(SpaceChild::parse).collect();
    children.sort_by(compare_children);
    children
}

fn is_suggested(event: &Value) -> bool {
    event.pointer("/content/suggested") == Some(&Value::Bool(true))
}

impl SpaceChild {
    /// Reads an `m.space.child` event; `None` if it is invalid or was revoked.
    fn parse(event: Value) -> Option<Self> {
        let read = ChildEvent::deserialize(&event).ok()?;
        let via = read.content.via.iter().filter_map(Value::as_str);
        Some(Self {
            room_id: read.state_key,
            via: via
                .filter_map(|server| OwnedServerName::try_from(server).ok())
                .collect(),
            order: parse_order(&read.content.order),
            origin_server_ts: read.origin_server_ts,
            event,
        })
    }
}

/// Returns a valid `order`: no more than 50 characters, all of them visible ASCII or spaces.
fn parse_order(value: &Value) -> Option<String> {
    let order = value.as_str()?;
    let is_valid =
        order.len() <= MAX_ORDER_CHARS && order.bytes().all(|b| (0x20..=0x7e).contains(&b));
    is_valid.then(|| order.to_owned())
}

fn compare_children(one: &SpaceChild, other: &SpaceChild) -> Ordering {
    let by_order = match (&one.order, &other.order) {
        (Some(one), Some(other)) => one.cmp(other),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    };
    by_order
        .then_with(|| one.origin_server_ts.cmp(&other.origin_server_ts))
        .then_with(|| one.room_id.cmp(&other.room_id))
}

impl HierarchyToken {
    /// Returns the token of the page that is requested.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] for a token that does not belong to the request.
    pub fn from_request(request: &HierarchyRequest) -> Result<Self> {
        let requested = Self {
            skip: 0,
            max_depth: request.max_depth.unwrap_or(MAX_DEPTH).min(MAX_DEPTH),
            suggested_only: request.suggested_only,
        };
        let Some(from) = &request.from else {
            return Ok(requested);
        };
        let token: Self = from.parse()?;
        if (Self { skip: 0, ..token }) != requested {
            return Err(Error::invalid_param(
                "suggested_only and max_depth must be the same as on the previous page",
            ));
        }
        Ok(token)
    }

    /// Returns the token of the page that starts after `skip` rooms.
    pub fn token_after(self, skip: usize) -> String {
        Self { skip, ..self }.into_token()
    }

    fn into_token(self) -> String {
        let suggested = u8::from(self.suggested_only);
        format!("h{}_{}_{suggested}", self.skip, self.max_depth)
    }
}

impl FromStr for HierarchyToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let mut parts = text.strip_prefix('h')?.split('_');
            let token = Self {
                skip: parts.next()?.parse().ok()?,
                max_depth: parts.next()?.parse().ok()?,
                suggested_only: parts.next()?.parse::<u8>().ok()? == 1,
            };
            parts.next().is_none().then_some(token)
        };
        parse().ok_or_else(|| Error::invalid_param("from must be a next_batch token"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(room_id: &str, order: Option<&str>, ts: u32) -> SpaceChild {
        SpaceChild {
            room_id: OwnedRoomId::try_from(room_id).unwrap(),
            via: Vec::new(),
            order: order.map(ToOwned::to_owned),
            origin_server_ts: MilliSecondsSinceUnixEpoch(ts.into()),
            event: Value::Null,
        }
    }

    #[test]
    fn children_sort_by_order_then_time_then_id() {
        let mut children = [
            child("!d:x", None, 2),
            child("!c:x", None, 1),
            child("!b:x", None, 1),
            child("!z:x", Some("b"), 9),
            child("!a:x", Some("a"), 9),
        ];

        children.sort_by(compare_children);

        let ids: Vec<&str> = children
            .iter()
            .map(|child| child.room_id.as_str())
            .collect();
        assert_eq!(ids, ["!a:x", "!z:x", "!b:x", "!c:x", "!d:x"]);
    }

    #[test]
    fn long_or_non_ascii_orders_are_ignored() {
        assert_eq!(parse_order(&json!("a b~")).as_deref(), Some("a b~"));
        assert_eq!(parse_order(&json!("x".repeat(51))), None);
        assert_eq!(parse_order(&json!("ä")), None);
        assert_eq!(parse_order(&json!(1)), None);
    }

    #[test]
    fn a_token_is_refused_with_other_request_parameters() {
        let request = |from: &str, depth| HierarchyRequest {
            from: Some(from.to_owned()),
            max_depth: depth,
            ..HierarchyRequest::default()
        };
        let text = HierarchyToken::from_request(&HierarchyRequest::default())
            .unwrap()
            .into_token();

        assert!(HierarchyToken::from_request(&request(&text, None)).is_ok());
        assert!(HierarchyToken::from_request(&request(&text, Some(1))).is_err());
        assert!(HierarchyToken::from_request(&request("x", None)).is_err());
    }
}
