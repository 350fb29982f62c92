//! The device lists: the users whose keys changed, and the users with whom a room is now or no longer shared.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#e2e-extensions-to-sync).

use std::{collections::HashSet, sync::Arc};

use ruma::{
    OwnedUserId, UserId,
    api::client::sync::sync_events::DeviceLists,
    events::{StateEventType, room::member::MembershipState},
    presence::PresenceState,
};

use super::{
    SyncEnvironment, SyncRequest, SyncToken,
    deleted_rooms::RemovedRoomReader,
    recent_changes::{DeviceListChange, RecentChanges},
    snapshot::{RoomContents, RoomSnapshot, SnapshotReader, SyncSnapshot},
    token_reader::TokenReader,
};
use crate::{
    devices::Devices,
    error::{Error, Result},
    matrix::{StateMap, TimelineEvent},
    numbers::{Position, UserNum},
    rooms::{Room, Rooms},
    storage::Db,
    users::Session,
};

/// The number of changed lists that are checked one by one. For more, one query reads them from the database.
const MAX_LISTS_CHECKED_SINGLY: usize = 64;

/// Reads the changes of the device lists that concern a user. Cheap to clone.
#[derive(Clone)]
pub(super) struct DeviceListReader {
    db: Db,
    devices: Devices,
    rooms: Rooms,
    recent_changes: Arc<RecentChanges>,
    tokens: TokenReader,
    snapshots: SnapshotReader,
    removed_rooms: RemovedRoomReader,
}

/// The users who joined or left a room between two positions, as far as that concerns the requesting user.
#[derive(Debug, Default)]
struct MembershipTurnover {
    joined: Vec<OwnedUserId>,
    left: Vec<OwnedUserId>,
}

/// The users whose member events in a room are newer than a position.
#[derive(Debug, Default)]
struct TouchedMembers {
    users: Vec<OwnedUserId>,
    /// The users among them who were out of the room at some point since.
    left_between: HashSet<OwnedUserId>,
}

impl TouchedMembers {
    fn from_events(ring: &[Arc<TimelineEvent>]) -> Self {
        let mut touched = Self::default();
        for event in ring {
            let joins = event.pdu.membership() == Some(MembershipState::Join);
            let members = event
                .changed_state_keys()
                .into_iter()
                .filter(|(kind, _)| *kind == StateEventType::RoomMember)
                .filter_map(|(_, key)| UserId::parse(key).ok());
            for user_id in members {
                let is_own_join = joins && event.pdu.member() == Some(&*user_id);
                touched.add_user(user_id, is_own_join);
            }
        }
        touched
    }

    fn add_user(&mut self, user_id: OwnedUserId, is_own_join: bool) {
        // If the membership changed with another event, the user may have been out of the room in between.
        if !is_own_join {
            self.left_between.insert(user_id.clone());
        }
        self.users.push(user_id);
    }
}

impl DeviceListReader {
    pub(super) fn new(
        environment: &SyncEnvironment,
        tokens: &TokenReader,
        snapshots: &SnapshotReader,
        removed_rooms: &RemovedRoomReader,
    ) -> Self {
        Self {
            db: environment.db.clone(),
            devices: environment.devices.clone(),
            rooms: environment.rooms.clone(),
            recent_changes: environment.recent_changes.clone(),
            tokens: tokens.clone(),
            snapshots: snapshots.clone(),
            removed_rooms: removed_rooms.clone(),
        }
    }

    /// Returns the changes between two tokens.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when `to` is before `from`.
    pub(super) async fn key_changes(
        &self,
        session: &Session,
        from: SyncToken,
        to: SyncToken,
    ) -> Result<DeviceLists> {
        if to.position < from.position {
            return Err(Error::invalid_param("to must not be before from"));
        }
        self.changes_since(session, self.tokens.clamp(from)).await
    }

    /// Returns the changes since a token, in a snapshot of its own.
    pub(super) async fn changes_since(
        &self,
        session: &Session,
        since: SyncToken,
    ) -> Result<DeviceLists> {
        let request = SyncRequest {
            since: Some(since),
            filter: Arc::default(),
            full_state: false,
            timeout: std::time::Duration::ZERO,
            set_presence: PresenceState::Offline,
            use_state_after: false,
        };
        let snapshot = self.snapshots.take_snapshot(session, &request).await?;
        self.device_lists(session, &snapshot, since.position).await
    }

    /// Returns the users whose keys changed since a position, and those with whom the user no longer shares a room.
    pub(super) async fn device_lists(
        &self,
        session: &Session,
        snapshot: &SyncSnapshot,
        since: Position,
    ) -> Result<DeviceLists> {
        let changed = self
            .changed_device_lists(session.user, since, snapshot.now)
            .await?;
        let mut lists = DeviceLists::new();
        lists.changed = self.user_ids(changed).await?;
        let mut turnover = MembershipTurnover::default();
        for room in &snapshot.rooms {
            let of_room = match self
                .membership_turnover(session, snapshot, room, since)
                .await
            {
                // The members of a deleted room are no longer known.
                Err(_)
                    if self
                        .removed_rooms
                        .is_removed(session.user, room.num)
                        .await? =>
                {
                    continue;
                }
                of_room => of_room?,
            };
            turnover.joined.extend(of_room.joined);
            turnover.left.extend(of_room.left);
        }
        // The user themselves is listed when they join: their other devices may need to know.
        lists.changed.extend(turnover.joined);
        lists.changed.sort_unstable();
        lists.changed.dedup();
        let left: HashSet<OwnedUserId> = turnover.left.into_iter().collect();
        lists.left = self.users_sharing_no_room(session, left).await?;
        lists.left.sort_unstable();
        Ok(lists)
    }

    /// Returns the users whose keys changed and who concern a user; from memory unless the position is too old.
    ///
    /// Changes after `now` wait for the next sync. If this one sent them, they would be sent twice.
    async fn changed_device_lists(
        &self,
        user: UserNum,
        since: Position,
        now: Position,
    ) -> Result<Vec<UserNum>> {
        let recent = self.recent_changes.device_list_changes(since, now);
        let Some(recent) = recent.filter(|recent| recent.len() <= MAX_LISTS_CHECKED_SINGLY) else {
            return self
                .devices
                .key_queries
                .lists_changed(user, since, now)
                .await;
        };
        let mut changed = Vec::new();
        for DeviceListChange { owner, watcher } in recent {
            let concerns_user = match watcher {
                Some(watcher) => watcher == user,
                None => owner == user || self.rooms.memory.share_a_room(user, owner).await?,
            };
            if concerns_user {
                changed.push(owner);
            }
        }
        Ok(changed)
    }

    async fn user_ids(&self, users: Vec<UserNum>) -> Result<Vec<OwnedUserId>> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let mut db = self.db.read().await?;
        let texts = self.db.strings.find_user_ids(&mut db, &users).await?;
        let user_ids = texts
            .values()
            .filter_map(|text| UserId::parse(&**text).ok());
        Ok(user_ids.collect())
    }

    /// Returns the users who joined or left a room, and compares the user's own membership now with that at a position.
    async fn membership_turnover(
        &self,
        session: &Session,
        snapshot: &SyncSnapshot,
        room: &RoomSnapshot,
        since: Position,
    ) -> Result<MembershipTurnover> {
        let is_in = room.user_room.membership == MembershipState::Join;
        let has_moved = room.user_room.position > since;
        if (!is_in && !has_moved) || room.user_room.removed.is_some() {
            return Ok(MembershipTurnover::default());
        }
        let Some(contents) = &room.contents else {
            // A user who is only invited may have been in the room before.
            let known = match self.rooms.memory.room_by_number(room.num).await {
                Err(Error::NotFound(_)) => return Ok(MembershipTurnover::default()),
                known => known?,
            };
            let before = self.rooms.state.state_at(&known, since).await?;
            return Ok(MembershipTurnover::between_states(session, &before, None));
        };
        if !is_in {
            let before = self.rooms.state.state_at(&contents.room, since).await?;
            return Ok(MembershipTurnover::between_states(session, &before, None));
        }
        let touched = self.touched_members(snapshot, contents, since).await?;
        if touched.users.is_empty() && !has_moved {
            return Ok(MembershipTurnover::default());
        }
        let before = self.rooms.state.state_at(&contents.room, since).await?;
        let was_in = before.membership(&session.user_id) == MembershipState::Join;
        if has_moved && (!was_in || touched.left_between.contains(&session.user_id)) {
            return Ok(MembershipTurnover::between_states(
                session,
                &before,
                Some(&contents.state),
            ));
        }
        Ok(MembershipTurnover::from_touched(
            &touched,
            &before,
            &contents.state,
        ))
    }

    /// Returns the users whose member events in a room are newer than a position.
    async fn touched_members(
        &self,
        snapshot: &SyncSnapshot,
        contents: &RoomContents,
        since: Position,
    ) -> Result<TouchedMembers> {
        if contents.is_complete {
            return Ok(TouchedMembers::from_events(&contents.latest_events));
        }
        let room: &Room = &contents.room;
        let changed = self
            .rooms
            .state
            .state_changes(room, &contents.state, since, snapshot.now)
            .await?;
        let users = changed
            .iter()
            .filter_map(|pdu| pdu.member().map(ToOwned::to_owned));
        let users: Vec<OwnedUserId> = users.collect();
        let mut left_between = HashSet::new();
        for user_id in &users {
            // If there are too many, each is assumed to have left: a client that fetches a device list once more loses
            // nothing.
            if users.len() > MAX_LISTS_CHECKED_SINGLY
                || self
                    .rooms
                    .access
                    .was_absent_since(room, user_id, since)
                    .await?
            {
                left_between.insert(user_id.clone());
            }
        }
        Ok(TouchedMembers {
            users,
            left_between,
        })
    }

    /// Returns those of the users with whom a user shares no room now.
    async fn users_sharing_no_room(
        &self,
        session: &Session,
        mut users: HashSet<OwnedUserId>,
    ) -> Result<Vec<OwnedUserId>> {
        users.remove(&session.user_id);
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let texts: Vec<&str> = users.iter().map(|user_id| user_id.as_str()).collect();
        let mut db = self.db.read().await?;
        let numbers = self.db.strings.find_users(&mut db, &texts).await?;
        let known = self.db.strings.find_user_ids(&mut db, &numbers).await?;
        drop(db);
        let sharing = self
            .rooms
            .memory
            .users_sharing_room(session.user, &numbers)
            .await?;
        for user in sharing {
            if let Some(text) = known.get(&user)
                && let Ok(user_id) = UserId::parse(&**text)
            {
                users.remove(&user_id);
            }
        }
        Ok(users.into_iter().collect())
    }
}

impl MembershipTurnover {
    /// Compares all members, for a room that the requesting user joined or left. `now` is the state if the user is a
    /// member.
    fn between_states(session: &Session, before: &StateMap, now: Option<&StateMap>) -> Self {
        let was_in = before.membership(&session.user_id) == MembershipState::Join;
        Self {
            joined: now.map_or_else(Vec::new, joined_members),
            left: if was_in {
                joined_members(before)
            } else {
                Vec::new()
            },
        }
    }

    /// Compares the users whose membership may have changed. One who left and came back counts as having joined,
    /// because nobody may have followed their device list in between.
    fn from_touched(touched: &TouchedMembers, before: &StateMap, now: &StateMap) -> Self {
        let mut turnover = Self::default();
        let is_in =
            |state: &StateMap, user_id: &UserId| state.membership(user_id) == MembershipState::Join;
        for user_id in &touched.users {
            match (is_in(before, user_id), is_in(now, user_id)) {
                (false, true) => turnover.joined.push(user_id.clone()),
                (true, true) if touched.left_between.contains(user_id) => {
                    turnover.joined.push(user_id.clone());
                }
                (true, false) => turnover.left.push(user_id.clone()),
                _ => {}
            }
        }
        turnover
    }
}

/// Returns the joined members in the state of a room.
fn joined_members(state: &StateMap) -> Vec<OwnedUserId> {
    state
        .of_type(&StateEventType::RoomMember)
        .filter(|pdu| pdu.membership() == Some(MembershipState::Join))
        .filter_map(|pdu| pdu.member().map(ToOwned::to_owned))
        .collect()
}
