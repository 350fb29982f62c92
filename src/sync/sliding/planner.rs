//! Makes the plan of a response, and takes the snapshots of the rooms to read.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    RoomId,
    events::{StateEventType, room::member::MembershipState},
};
use serde::{Deserialize, de::IgnoredAny};

use super::{
    SlidingSections,
    connection_state::{ConnectionState, SyncPosition},
    request::{ListFilters, SlidingSyncRequest},
    response_plan::{PlanInputs, ResponsePlan},
    room_index::RoomIndex,
    room_indexes::RoomIndexes,
};
use crate::{
    ephemeral::EphemeralState,
    error::{Error, Result},
    numbers::RoomNum,
    rooms::{Rooms, UserRooms},
    storage::Db,
    sync::{
        SyncEnvironment,
        changed_rooms::ChangedRoomReader,
        recent_changes::RecentChanges,
        snapshot::{MAX_SNAPSHOT_ATTEMPTS, RoomSnapshot, SnapshotReader, has_room_access},
        token_reader::TokenReader,
    },
    users::Session,
};

/// Makes the plans of responses. Cheap to clone.
#[derive(Clone)]
pub(super) struct ResponsePlanner {
    db: Db,
    rooms: Rooms,
    ephemeral: EphemeralState,
    recent_changes: Arc<RecentChanges>,
    room_indexes: RoomIndexes,
    tokens: TokenReader,
    changed_rooms: ChangedRoomReader,
    snapshots: SnapshotReader,
}

/// A plan, and the snapshots of the rooms to read in the order of the plan.
pub(super) struct PlannedResponse {
    pub(super) plan: ResponsePlan,
    pub(super) snapshots: Vec<RoomSnapshot>,
}

/// The content of `m.space.child`.
#[derive(Deserialize)]
struct SpaceChildContent {
    #[serde(rename = "via")]
    _via: Vec<IgnoredAny>,
}

impl ResponsePlanner {
    pub(super) fn new(environment: &SyncEnvironment, sections: &SlidingSections) -> Self {
        Self {
            db: environment.db.clone(),
            rooms: environment.rooms.clone(),
            ephemeral: environment.ephemeral.clone(),
            recent_changes: environment.recent_changes.clone(),
            room_indexes: RoomIndexes::new(environment),
            tokens: sections.tokens.clone(),
            changed_rooms: sections.changed_rooms.clone(),
            snapshots: sections.snapshots.clone(),
        }
    }

    /// Returns the plan of a response and the snapshots of the rooms to read, all at one position.
    pub(super) async fn plan_response(
        &self,
        session: &Session,
        request: &SlidingSyncRequest,
        state: &ConnectionState,
    ) -> Result<PlannedResponse> {
        let ignore_settings = self.rooms.access.find_ignore_settings(session.user);
        for _ in 0..MAX_SNAPSHOT_ATTEMPTS {
            let tick = self.ephemeral.newest_tick();
            let mut index = self.room_indexes.room_index(session).await?;
            let wanted = |list: &ListFilters| list.is_encrypted.is_some();
            if list_filters(request).any(|(_, list)| wanted(list)) {
                self.room_indexes.load_encryption(&mut index).await?;
            }
            let spaces = self.children_of_spaces(&index, request).await?;
            let changed = match state.since {
                Some(since) => self.rooms_changed_since(session, since).await?,
                None => HashSet::new(),
            };
            let user_rooms = self.rooms.memory.rooms_of_user(session.user).await?;
            let inputs = PlanInputs {
                session,
                request,
                state,
                index: &index,
                user_rooms: &user_rooms,
                ignore_settings: ignore_settings.as_deref(),
                changed: &changed,
                spaces: &spaces,
            };
            let now = SyncPosition {
                position: index.now(),
                tick,
            };
            let plan = inputs.make_plan(now);
            drop(index);
            // Loads the rooms that are not in memory, and keeps them there until the snapshots are taken.
            let mut loaded_rooms = Vec::new();
            for planned in &plan.planned_rooms {
                if user_rooms
                    .get(planned.room)
                    .is_some_and(|user_room| has_room_access(&user_room))
                {
                    loaded_rooms.push(self.rooms.memory.room_by_number(planned.room).await?);
                }
            }
            if let Some(snapshots) = self.take_room_snapshots(session, &user_rooms, &plan) {
                return Ok(PlannedResponse { plan, snapshots });
            }
        }
        Err(Error::Unavailable(
            "the rooms changed too often, try again".to_owned(),
        ))
    }

    async fn rooms_changed_since(
        &self,
        session: &Session,
        since: SyncPosition,
    ) -> Result<HashSet<RoomNum>> {
        let since = self.tokens.token_at(since.position, since.tick);
        let older = self
            .changed_rooms
            .changed_long_ago(session, Some(&since))
            .await?;
        Ok(self.changed_rooms.changed_rooms(&since, &older))
    }

    /// Returns the children of the spaces by which lists are filtered, by list. Spaces in which the user is not joined
    /// are ignored.
    async fn children_of_spaces<'a>(
        &self,
        index: &RoomIndex,
        request: &'a SlidingSyncRequest,
    ) -> Result<HashMap<&'a str, HashSet<String>>> {
        let mut found = HashMap::new();
        for (name, filters) in list_filters(request) {
            let mut children = HashSet::new();
            for space in filters.spaces.iter().flatten() {
                let number = <&RoomId>::try_from(space.as_str()).ok();
                let Some(room) = number.and_then(|room_id| index.room_number(room_id)) else {
                    continue;
                };
                let entry = index.get(room);
                if entry.is_none_or(|entry| entry.membership != MembershipState::Join) {
                    continue;
                }
                let space = self.rooms.memory.room_by_number(room).await?;
                let state = space.view().state.clone();
                let links = state.of_type(&StateEventType::SpaceChild);
                // A space child without `via` was removed from the space.
                let links = links.filter(|pdu| pdu.content_as::<SpaceChildContent>().is_some());
                children.extend(links.filter_map(|pdu| pdu.state_key.clone()));
            }
            found.insert(name, children);
        }
        Ok(found)
    }

    /// Takes snapshots of the rooms to read. Returns `None` if something has changed for the user since the plan was
    /// made, or is not in memory.
    fn take_room_snapshots(
        &self,
        session: &Session,
        user_rooms: &Arc<UserRooms>,
        plan: &ResponsePlan,
    ) -> Option<Vec<RoomSnapshot>> {
        let _held = self.db.journal().hold_announcements();
        let current = self.rooms.memory.peek_user(session.user)?;
        let changed = self.recent_changes.rooms_changed_after(plan.now.position)?;
        let has_changed = {
            let all = user_rooms.all();
            changed.iter().any(|room| all.contains_key(room))
        };
        if has_changed
            || !Arc::ptr_eq(&current, user_rooms)
            || self
                .recent_changes
                .account_data_changed(session.user, plan.now.position)
        {
            return None;
        }
        let mut snapshots = Vec::with_capacity(plan.planned_rooms.len());
        for planned in &plan.planned_rooms {
            let since = planned
                .received_as_member()
                .filter(|_| !planned.expands_timeline());
            let since = since.map(|since| self.tokens.token_at(since.position, since.tick));
            let user_room = user_rooms.get(planned.room)?;
            let contents = if has_room_access(&user_room) {
                Some(self.snapshots.take_room_contents(
                    planned.room,
                    since.as_ref(),
                    plan.now.tick,
                )?)
            } else {
                None
            };
            snapshots.push(RoomSnapshot {
                num: planned.room,
                user_room,
                contents,
            });
        }
        Some(snapshots)
    }
}

fn list_filters(request: &SlidingSyncRequest) -> impl Iterator<Item = (&str, &ListFilters)> {
    let lists = request.lists.iter();
    lists.filter_map(|(name, list)| Some((name.as_str(), list.filters.as_ref()?)))
}
