//! Spaces: rooms that lead to other rooms.
//!
//! [`GET /hierarchy`](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidhierarchy)

use std::{cmp::Ordering, collections::HashSet, str::FromStr, sync::Arc};

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedRoomId, RoomId, ServerName, UserId,
    events::{StateEventType, room::member::MembershipState},
    room::AllowRule,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Rooms, restricted::restriction, summary::Summary, warm::Room};
use crate::{
    error::{Error, Result},
    matrix::StateMap,
};

/// Rooms on a page where the client names no number, and at most.
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 100;
/// Conditions of a room that are looked at.
const MAX_CONDITIONS: usize = 64;
/// How deep one may look into a space.
const MAX_DEPTH: u64 = 32;
/// Rooms of a space that are looked at, on all pages together.
const MAX_ROOMS: usize = 5_000;
/// The longest `order` of a child that counts, in characters.
const ORDER_CHARS: usize = 50;

/// A part of a space that is asked for.
#[derive(Clone, Debug, Default)]
pub struct HierarchyRequest {
    /// A page's token.
    pub from: Option<String>,
    /// How many rooms at most.
    pub limit: Option<u64>,
    /// How deep.
    pub max_depth: Option<u64>,
    /// Whether only children count that the space suggests.
    pub suggested_only: bool,
}

/// A part of a space.
#[derive(Debug, Default)]
pub struct HierarchyPage {
    /// The rooms, each before its children.
    pub rooms: Vec<SpaceRoom>,
    /// The token of the next page.
    pub next_batch: Option<String>,
}

/// A room of a space.
#[derive(Debug, Serialize)]
pub struct SpaceRoom {
    #[serde(flatten)]
    summary: Summary,
    children_state: Vec<Value>,
}

/// A room, and the rooms that it leads to, as another server is told.
///
/// [`GET /hierarchy`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid)
#[derive(Debug, Serialize)]
pub struct ServerHierarchy {
    room: SpaceRoom,
    children: Vec<SpaceRoom>,
    inaccessible_children: Vec<OwnedRoomId>,
}

impl SpaceRoom {
    fn of(room: &Room, suggested_only: bool) -> Self {
        let summary = Summary::of(room);
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

/// Where a page begins, and what was asked for then, which must not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token {
    skip: usize,
    max_depth: u64,
    suggested_only: bool,
}

struct Child {
    room_id: OwnedRoomId,
    order: Option<String>,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    event: Value,
}

impl Rooms {
    /// Returns a part of a space, as far as a user may know its rooms.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the user may not know the space; [`Error::InvalidParam`] for a token that does not
    /// belong to the request.
    pub async fn hierarchy(
        &self,
        user_id: &UserId,
        space: &RoomId,
        request: &HierarchyRequest,
    ) -> Result<HierarchyPage> {
        let start = Token::of(request)?;
        let limit = request.limit.and_then(|limit| usize::try_from(limit).ok());
        let limit = limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
        let mut page = HierarchyPage::default();
        let mut waiting = vec![(space.to_owned(), 0)];
        let mut seen = HashSet::new();
        let mut found = 0;
        while let Some((room_id, depth)) = waiting.pop() {
            if seen.len() >= MAX_ROOMS || !seen.insert(room_id.clone()) {
                continue;
            }
            let Some(room) = self.previewed(user_id, &room_id).await? else {
                if depth == 0 {
                    return Err(Error::forbidden("you may not see this space"));
                }
                continue;
            };
            if page.rooms.len() == limit {
                let next = Token {
                    skip: found,
                    ..start
                };
                page.next_batch = Some(next.into_text());
                break;
            }
            let summary = Summary::of(&room);
            let children = if summary.is_space() {
                children(&room, start.suggested_only)
            } else {
                Vec::new()
            };
            if depth < start.max_depth {
                let ids = children.iter().rev().map(|child| child.room_id.clone());
                waiting.extend(ids.map(|room_id| (room_id, depth + 1)));
            }
            found += 1;
            if found > start.skip {
                page.rooms.push(SpaceRoom {
                    summary,
                    children_state: children.into_iter().map(|child| child.event).collect(),
                });
            }
        }
        Ok(page)
    }

    /// Returns a room and the rooms that it leads to, as far as another server may know them.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the server may not know the room.
    pub async fn hierarchy_for(
        &self,
        origin: &ServerName,
        space: &RoomId,
        suggested_only: bool,
    ) -> Result<ServerHierarchy> {
        let room = self.resident(space).await?;
        if !self.may_know(&room, origin).await? {
            return Err(Error::not_found("there is no such room that you may see"));
        }
        let mut answer = ServerHierarchy {
            room: SpaceRoom::of(&room, suggested_only),
            children: Vec::new(),
            inaccessible_children: Vec::new(),
        };
        for child in children(&room, suggested_only).into_iter().take(MAX_ROOMS) {
            let Ok(known) = self.resident(&child.room_id).await else {
                continue;
            };
            if self.may_know(&known, origin).await? {
                answer.children.push(SpaceRoom::of(&known, suggested_only));
            } else {
                answer.inaccessible_children.push(child.room_id);
            }
        }
        Ok(answer)
    }

    /// Returns whether another server may know what a room is like: anybody may, or some user of it.
    async fn may_know(&self, room: &Room, origin: &ServerName) -> Result<bool> {
        if super::receive::check_acl(&room.view().state, origin).is_err() {
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
        let allowed = restriction(room, &state).map(|restricted| restricted.allow);
        for rule in allowed.into_iter().flatten().take(MAX_CONDITIONS) {
            if let AllowRule::RoomMembership(condition) = rule
                && let Ok(other) = self.resident(&condition.room_id).await
                && other.view().servers.contains_key(origin)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns a room that is known here, if a user may know what it is like.
    async fn previewed(&self, user_id: &UserId, room_id: &RoomId) -> Result<Option<Arc<Room>>> {
        let room = match self.room(room_id).await {
            Ok(room) => room,
            Err(Error::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let may_know = self.may_preview(&room, Some(user_id)).await?;
        Ok(may_know.then_some(room))
    }
}

/// Returns the children of a space in their order.
///
/// [Ordering of children](https://spec.matrix.org/v1.19/client-server-api/#ordering-of-children-within-a-space)
fn children(space: &Room, suggested_only: bool) -> Vec<Child> {
    let state = space.view().state.clone();
    let mut children: Vec<Child> = state
        .of_type(&StateEventType::SpaceChild)
        .filter_map(|pdu| {
            let content: Map<String, Value> = pdu.content_as()?;
            let is_suggested = content.get("suggested") == Some(&Value::Bool(true));
            let is_link = content.get("via").is_some_and(Value::is_array);
            if !is_link || (suggested_only && !is_suggested) {
                return None;
            }
            Some(Child {
                room_id: OwnedRoomId::try_from(pdu.state_key.as_deref()?).ok()?,
                order: content.get("order").and_then(order),
                origin_server_ts: pdu.origin_server_ts,
                event: json!({
                    "type": pdu.kind, "state_key": pdu.state_key, "content": content,
                    "sender": pdu.sender, "origin_server_ts": pdu.origin_server_ts,
                }),
            })
        })
        .collect();
    children.sort_by(in_order);
    children
}

/// An `order` counts if it has no more than 50 characters, all of them visible ASCII or spaces.
fn order(value: &Value) -> Option<String> {
    let order = value.as_str()?;
    let is_valid = order.len() <= ORDER_CHARS && order.bytes().all(|b| (0x20..=0x7e).contains(&b));
    is_valid.then(|| order.to_owned())
}

fn in_order(one: &Child, other: &Child) -> Ordering {
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

impl Token {
    /// Returns where a request begins.
    fn of(request: &HierarchyRequest) -> Result<Self> {
        let asked = Self {
            skip: 0,
            max_depth: request.max_depth.unwrap_or(MAX_DEPTH).min(MAX_DEPTH),
            suggested_only: request.suggested_only,
        };
        let Some(from) = &request.from else {
            return Ok(asked);
        };
        let token: Self = from.parse()?;
        if (Self { skip: 0, ..token }) != asked {
            return Err(Error::invalid_param(
                "suggested_only and max_depth cannot change from page to page",
            ));
        }
        Ok(token)
    }

    fn into_text(self) -> String {
        let suggested = u8::from(self.suggested_only);
        format!("h{}_{}_{suggested}", self.skip, self.max_depth)
    }
}

impl FromStr for Token {
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
        parse().ok_or_else(|| Error::invalid_param("from is no token of this server"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(room_id: &str, order: Option<&str>, ts: u32) -> Child {
        Child {
            room_id: OwnedRoomId::try_from(room_id).unwrap(),
            order: order.map(ToOwned::to_owned),
            origin_server_ts: MilliSecondsSinceUnixEpoch(ts.into()),
            event: Value::Null,
        }
    }

    #[test]
    fn children_stand_by_order_then_time_then_id() {
        let mut children = [
            child("!d:x", None, 2),
            child("!c:x", None, 1),
            child("!b:x", None, 1),
            child("!z:x", Some("b"), 9),
            child("!a:x", Some("a"), 9),
        ];

        children.sort_by(in_order);

        let ids: Vec<&str> = children
            .iter()
            .map(|child| child.room_id.as_str())
            .collect();
        assert_eq!(ids, ["!a:x", "!z:x", "!b:x", "!c:x", "!d:x"]);
    }

    #[test]
    fn an_order_that_is_long_or_not_ascii_does_not_count() {
        assert_eq!(order(&json!("a b~")).as_deref(), Some("a b~"));
        assert_eq!(order(&json!("x".repeat(51))), None);
        assert_eq!(order(&json!("ä")), None);
        assert_eq!(order(&json!(1)), None);
    }

    #[test]
    fn a_token_belongs_to_what_was_asked_for() {
        let request = |from: &str, depth| HierarchyRequest {
            from: Some(from.to_owned()),
            max_depth: depth,
            ..HierarchyRequest::default()
        };
        let text = Token::of(&HierarchyRequest::default()).unwrap().into_text();

        assert!(Token::of(&request(&text, None)).is_ok());
        assert!(Token::of(&request(&text, Some(1))).is_err());
        assert!(Token::of(&request("x", None)).is_err());
    }
}
