//! Spaces with rooms on other servers, and the summaries of such rooms.
//!
//! See [Spaces](https://spec.matrix.org/v1.19/server-server-api/#spaces).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, UserId, api::federation::space::get_hierarchy,
    room::RoomSummary,
};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::candidates::ServerFinder;
use crate::{
    error::{Error, Result},
    federation::{Federation, LookupCache, RequestFailure, RequestLimits},
    rooms::{HierarchyPage, HierarchyRequest, HierarchyToken, RoomPreview, Rooms, SpaceRoom},
    workflows::WorkflowSources,
};

/// The time for which answers of other servers are cached, and the pause after no server could be reached.
const ANSWER_LIFETIME: Duration = Duration::from_mins(5);
const FAILURE_LIFETIME: Duration = Duration::from_mins(1);
/// The number of cached spaces, and of rooms in each.
const MAX_CACHED_SPACES: usize = 500;
const MAX_CHILDREN: usize = 1_000;
/// The time limit of all requests to other servers for one page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// The number of servers that are asked about one room.
const MAX_SERVERS_PER_ROOM: usize = 3;
/// The number of rooms of a space that are examined, over all pages.
const MAX_ROOMS: usize = 5_000;

/// A room as another server described it.
#[derive(Debug)]
struct RemoteRoomDescription {
    room: SpaceRoom,
    children: HashMap<OwnedRoomId, RoomPreview>,
    inaccessible: HashSet<OwnedRoomId>,
}

/// A room of a space that the user may see.
struct ExaminedRoom {
    room: SpaceRoom,
    /// Another server's description of its children.
    description: Option<Arc<RemoteRoomDescription>>,
}

impl ExaminedRoom {
    /// Returns a room whose children no other server describes.
    fn without_description(room: SpaceRoom) -> Self {
        Self {
            room,
            description: None,
        }
    }
}

/// A room that is still to be examined.
struct PendingSpaceRoom {
    room_id: OwnedRoomId,
    depth: u64,
    via: Vec<OwnedServerName>,
    /// The summary by the server of the space.
    summary: Option<RoomPreview>,
}

/// Reads spaces with rooms of any server. Cheap to clone.
#[derive(Clone)]
pub struct SpaceReader {
    rooms: Rooms,
    federation: Federation,
    servers: ServerFinder,
    /// Descriptions of rooms by other servers.
    descriptions: Arc<LookupCache<OwnedRoomId, Option<Arc<RemoteRoomDescription>>>>,
}

impl SpaceReader {
    pub(in crate::workflows) fn new(sources: &WorkflowSources, servers: &ServerFinder) -> Self {
        Self {
            rooms: sources.rooms.clone(),
            federation: sources.federation.clone(),
            servers: servers.clone(),
            descriptions: Arc::new(sources.federation.cache(MAX_CACHED_SPACES)),
        }
    }

    /// Returns a page of a space, with the rooms that a user may see.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the user may not see the space; [`Error::InvalidParam`] for a token that does not
    /// belong to the request.
    pub async fn hierarchy(
        &self,
        user_id: &UserId,
        space: &RoomId,
        request: &HierarchyRequest,
    ) -> Result<HierarchyPage> {
        let start = HierarchyToken::from_request(request)?;
        let limit = request.page_size();
        let until = Instant::now() + PAGE_TIMEOUT;
        let mut page = HierarchyPage::default();
        let mut waiting = vec![PendingSpaceRoom {
            room_id: space.to_owned(),
            depth: 0,
            via: space
                .server_name()
                .map(ToOwned::to_owned)
                .into_iter()
                .collect(),
            summary: None,
        }];
        let mut seen = HashSet::new();
        let mut found = 0;
        while let Some(next) = waiting.pop() {
            if seen.len() >= MAX_ROOMS || !seen.insert(next.room_id.clone()) {
                continue;
            }
            let depth = next.depth;
            let examined = self.examine_room(user_id, next, start, until).await?;
            if examined.is_none() && depth == 0 {
                return Err(Error::forbidden("you are not allowed to see this space"));
            }
            let Some(ExaminedRoom { room, description }) = examined else {
                continue;
            };
            if page.rooms.len() == limit {
                page.next_batch = Some(start.token_after(found));
                break;
            }
            if depth < start.max_depth {
                waiting.extend(children_of(&room, description.as_deref(), depth + 1));
            }
            found += 1;
            if found > start.skip {
                page.rooms.push(room);
            }
        }
        Ok(page)
    }

    /// Returns a room of a space, if the user may see it, and another server's description of its children.
    async fn examine_room(
        &self,
        user_id: &UserId,
        next: PendingSpaceRoom,
        start: HierarchyToken,
        until: Instant,
    ) -> Result<Option<ExaminedRoom>> {
        let room_id = &next.room_id;
        let (rooms, suggested_only) = (&self.rooms, start.suggested_only);
        if rooms.memory.resident_room(room_id).await.is_ok() {
            let room = rooms
                .previews
                .find_space_room(user_id, room_id, suggested_only)
                .await?;
            return Ok(room.map(ExaminedRoom::without_description));
        }
        if let Some(summary) = next.summary.filter(|summary| !summary.is_space()) {
            let may_know = rooms
                .previews
                .may_preview_remote(Some(user_id), &summary)
                .await?;
            let room = SpaceRoom::from_remote_summary(summary, Vec::new());
            return Ok(may_know.then(|| ExaminedRoom::without_description(room)));
        }
        let asking = self.fetch_description(room_id, &next.via);
        let Some(description) = timeout_at(until, asking).await.ok().flatten() else {
            // Outdated local information from an earlier membership is better than none.
            let room = rooms
                .previews
                .find_space_room(user_id, room_id, suggested_only)
                .await?;
            return Ok(room.map(ExaminedRoom::without_description));
        };
        let may_know = rooms
            .previews
            .may_preview_remote(Some(user_id), description.room.summary())
            .await?;
        let room = description.room.filter_suggested(suggested_only);
        Ok(may_know.then_some(ExaminedRoom {
            room,
            description: Some(description),
        }))
    }

    /// Returns the summary of a room without local members, if the user may see it.
    ///
    /// # Errors
    ///
    /// When local data cannot be read.
    pub async fn remote_summary(
        &self,
        user_id: Option<&UserId>,
        room_id: &RoomId,
        via: &[OwnedServerName],
    ) -> Result<Option<RoomPreview>> {
        let own = room_id.server_name().map(ToOwned::to_owned);
        let via: Vec<OwnedServerName> = via.iter().cloned().chain(own).collect();
        let until = Instant::now() + PAGE_TIMEOUT;
        let asking = self.fetch_description(room_id, &via);
        let Some(description) = timeout_at(until, asking).await.ok().flatten() else {
            return Ok(None);
        };
        let summary = description.room.summary();
        let may_know = self
            .rooms
            .previews
            .may_preview_remote(user_id, summary)
            .await?;
        Ok(may_know.then(|| summary.clone()))
    }

    /// Returns whether a room without local members permits guests, if a server says so.
    pub(in crate::workflows) async fn remote_room_admits_guests(
        &self,
        room_id: &RoomId,
        via: &[OwnedServerName],
    ) -> Option<bool> {
        let until = Instant::now() + PAGE_TIMEOUT;
        let asking = self.fetch_description(room_id, via);
        let description = timeout_at(until, asking).await.ok().flatten()?;
        Some(description.room.summary().guest_can_join)
    }

    /// Asks servers to describe a room. Returns the first answer, and the time for which it may be cached.
    async fn ask_for_description(
        &self,
        room_id: &RoomId,
        servers: &[OwnedServerName],
    ) -> (Option<Arc<RemoteRoomDescription>>, Duration) {
        // A refusal is not cached: after users have joined more rooms, the server may answer.
        let mut is_refused = false;
        for server in servers {
            let request = get_hierarchy::v1::Request::new(room_id.to_owned());
            let client = self.federation.client();
            match client
                .send(server, request, RequestLimits::LARGE_RESPONSE)
                .await
            {
                Ok(answer) if answer.room.summary.room_id == room_id => {
                    return (read_description(answer).map(Arc::new), ANSWER_LIFETIME);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%server, %error, "a server did not describe a room");
                    is_refused |= matches!(error, RequestFailure::Refused(_));
                }
            }
        }
        let lifetime = if is_refused {
            Duration::ZERO
        } else {
            FAILURE_LIFETIME
        };
        (None, lifetime)
    }

    /// Asks servers to describe a room; the answer is cached.
    async fn fetch_description(
        &self,
        room_id: &RoomId,
        via: &[OwnedServerName],
    ) -> Option<Arc<RemoteRoomDescription>> {
        let mut candidates = self.servers.candidates();
        candidates.add(via.iter().cloned());
        candidates.servers.truncate(MAX_SERVERS_PER_ROOM);
        if candidates.servers.is_empty() {
            return None;
        }
        let asking = self.ask_for_description(room_id, &candidates.servers);
        self.descriptions.get(&room_id.to_owned(), asking).await
    }
}

fn children_of(
    room: &SpaceRoom,
    description: Option<&RemoteRoomDescription>,
    depth: u64,
) -> Vec<PendingSpaceRoom> {
    let children = room.children().into_iter().rev();
    let is_accessible = |room_id: &OwnedRoomId| {
        description.is_none_or(|description| !description.inaccessible.contains(room_id))
    };
    children
        .filter(|child| is_accessible(&child.room_id))
        .map(|child| PendingSpaceRoom {
            summary: description
                .and_then(|description| description.children.get(&child.room_id).cloned()),
            room_id: child.room_id,
            depth,
            via: child.via,
        })
        .collect()
}

fn read_description(answer: get_hierarchy::v1::Response) -> Option<RemoteRoomDescription> {
    let children = answer
        .children
        .iter()
        .take(MAX_CHILDREN)
        .filter_map(to_summary);
    let children_state = answer.room.children_state.into_iter().take(MAX_CHILDREN);
    let children_state =
        children_state.filter_map(|event| event.deserialize_as_unchecked::<Value>().ok());
    Some(RemoteRoomDescription {
        children: children
            .map(|child| (child.room_id.clone(), child))
            .collect(),
        inaccessible: answer
            .inaccessible_children
            .into_iter()
            .take(MAX_CHILDREN)
            .collect(),
        room: SpaceRoom::from_remote_summary(
            to_summary(&answer.room.summary)?,
            children_state.collect(),
        ),
    })
}

fn to_summary(summary: &RoomSummary) -> Option<RoomPreview> {
    serde_json::from_value(serde_json::to_value(summary).ok()?).ok()
}
