//! The profile fields of other users that a client wants to be sent.
//!
//! See [MSC4429](https://github.com/matrix-org/matrix-spec-proposals/pull/4429).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use ruma::{OwnedUserId, events::room::member::MembershipState};
use serde_json::value::RawValue;

use super::{
    SyncEnvironment, presence::users_newly_sharing_rooms, recent_changes::RecentChanges,
    snapshot::SyncSnapshot, sync_viewer::SyncViewer,
};
use crate::{
    error::Result,
    numbers::{Position, PositionRange, RoomNum, UserNum},
    rooms::Rooms,
    storage::{Db, users::profile_changes},
};

/// The number of profile fields in one response, and the size of their values. Clients can request further profiles one
/// by one.
const MAX_FIELDS: usize = 5_000;
const MAX_VALUE_BYTES: usize = 4 * 1024 * 1024;
/// The number of users whose fields are read in one query.
const USERS_PER_QUERY: usize = 500;

/// The values of profile fields, by user; a removed field is `null`.
#[derive(Debug, Default)]
pub struct ProfileUpdates {
    by_user: BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>>,
    fields: usize,
    value_bytes: usize,
}

impl ProfileUpdates {
    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_user.is_empty()
    }

    /// Returns the fields of each user.
    pub(super) fn by_user(&self) -> &BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>> {
        &self.by_user
    }

    fn is_full(&self) -> bool {
        self.fields >= MAX_FIELDS || self.value_bytes >= MAX_VALUE_BYTES
    }

    fn add(&mut self, user_id: OwnedUserId, field: String, value: Box<RawValue>) {
        if self.is_full() {
            return;
        }
        self.value_bytes += value.get().len();
        self.fields += 1;
        self.by_user
            .entry(user_id)
            .or_default()
            .insert(field, value);
    }
}

/// Reads the profile fields of the users who share a room with a user. Cheap to clone.
#[derive(Clone)]
pub(super) struct ProfileUpdateReader {
    db: Db,
    rooms: Rooms,
    recent_changes: Arc<RecentChanges>,
}

impl ProfileUpdateReader {
    pub(super) fn new(environment: &SyncEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            rooms: environment.rooms.clone(),
            recent_changes: environment.recent_changes.clone(),
        }
    }

    /// Returns the fields that changed since the client's token, and those of users with whom the user shares a room
    /// only since then. Without a token, these are all fields.
    pub(super) async fn profile_updates(
        &self,
        viewer: &SyncViewer<'_>,
        snapshot: &SyncSnapshot,
    ) -> Result<ProfileUpdates> {
        let mut updates = ProfileUpdates::default();
        if viewer.request.filter.profile_fields.is_empty() {
            return Ok(updates);
        }
        let Some(since) = viewer.since() else {
            let users = users_in_joined_rooms(viewer, snapshot);
            self.add_values(&mut updates, viewer, &users).await?;
            return Ok(updates);
        };
        if self.recent_changes.profiles_changed(since) {
            self.add_changes(&mut updates, viewer, since).await?;
        }
        let new_users = users_newly_sharing_rooms(viewer, snapshot);
        let new_users = new_users.into_iter().collect();
        self.add_values(&mut updates, viewer, &new_users).await?;
        Ok(updates)
    }

    /// Adds the fields that users who share a room with the user have set.
    async fn add_values(
        &self,
        updates: &mut ProfileUpdates,
        viewer: &SyncViewer<'_>,
        users: &HashSet<UserNum>,
    ) -> Result<()> {
        let fields = &viewer.request.filter.profile_fields;
        let users: Vec<UserNum> = users.iter().copied().collect();
        for chunk in users.chunks(USERS_PER_QUERY) {
            if updates.is_full() {
                break;
            }
            let mut conn = self.db.read().await?;
            let chunk = chunk.iter().copied();
            for row in profile_changes::values(&mut conn, chunk, fields).await? {
                let user_id = self.db.strings.user_id(&mut conn, row.user_num).await?;
                updates.add(user_id, row.field, RawValue::from_string(row.value)?);
            }
        }
        Ok(())
    }

    /// Adds the fields that changed after a position, also those that were removed.
    async fn add_changes(
        &self,
        updates: &mut ProfileUpdates,
        viewer: &SyncViewer<'_>,
        after: Position,
    ) -> Result<()> {
        let range = PositionRange {
            after,
            up_to: viewer.now,
        };
        let fields = &viewer.request.filter.profile_fields;
        let limit = i64::try_from(MAX_FIELDS).unwrap_or(i64::MAX);
        let mut conn = self.db.read().await?;
        let changed = profile_changes::in_range(&mut conn, range, fields, limit).await?;
        drop(conn);
        let users: HashSet<UserNum> = changed.iter().map(|row| row.user_num).collect();
        let users = self.users_sharing_rooms(viewer, users).await?;
        let mut conn = self.db.read().await?;
        let mut values = HashMap::new();
        let sharing: Vec<UserNum> = users.iter().copied().collect();
        for chunk in sharing.chunks(USERS_PER_QUERY) {
            let chunk = chunk.iter().copied();
            for row in profile_changes::values(&mut conn, chunk, fields).await? {
                values.insert((row.user_num, row.field), row.value);
            }
        }
        for row in changed {
            if !users.contains(&row.user_num) {
                continue;
            }
            let user_id = self.db.strings.user_id(&mut conn, row.user_num).await?;
            let value = values.remove(&(row.user_num, row.field.clone()));
            let value = value.map_or_else(|| Ok(RawValue::NULL.to_owned()), RawValue::from_string);
            updates.add(user_id, row.field, value?);
        }
        Ok(())
    }

    /// Returns those of the users who share a room with the user, and the user.
    async fn users_sharing_rooms(
        &self,
        viewer: &SyncViewer<'_>,
        users: HashSet<UserNum>,
    ) -> Result<HashSet<UserNum>> {
        let (memory, own) = (&self.rooms.memory, viewer.session.user);
        let own_rooms = memory.rooms_of_user(own).await?.joined_rooms();
        let own_rooms: HashSet<RoomNum> = own_rooms.into_iter().collect();
        let mut sharing = HashSet::new();
        for user in users {
            let rooms = memory.rooms_of_user(user).await?.joined_rooms();
            if user == own || rooms.iter().any(|room| own_rooms.contains(room)) {
                sharing.insert(user);
            }
        }
        Ok(sharing)
    }
}

/// Returns the users of this server in the rooms that the user has joined, and the user.
fn users_in_joined_rooms(viewer: &SyncViewer<'_>, snapshot: &SyncSnapshot) -> HashSet<UserNum> {
    let mut users = HashSet::from([viewer.session.user]);
    for room in &snapshot.rooms {
        if let Some(contents) = &room.contents
            && room.user_room.membership == MembershipState::Join
        {
            users.extend(contents.room.view().local_members.keys().copied());
        }
    }
    users
}
