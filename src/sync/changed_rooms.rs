//! The rooms that changed since a token: from memory, or from the database for an old token.

use std::{collections::HashSet, sync::Arc};

use super::{SyncEnvironment, SyncToken, recent_changes::RecentChanges, token_reader::TokenReader};
use crate::{
    ephemeral::EphemeralState,
    error::Result,
    numbers::{Position, RoomNum},
    rooms::Rooms,
    storage::Db,
    users::{Session, Users},
};

/// Finds the rooms that changed since a token. Cheap to clone.
#[derive(Clone)]
pub(super) struct ChangedRoomReader {
    db: Db,
    users: Users,
    rooms: Rooms,
    ephemeral: EphemeralState,
    recent_changes: Arc<RecentChanges>,
    tokens: TokenReader,
}

/// The rooms that changed before the period that memory covers, and the position up to which the database was read.
#[derive(Debug, Default)]
pub(super) struct OlderChanges {
    up_to: Position,
    rooms: Vec<RoomNum>,
}

impl ChangedRoomReader {
    pub(super) fn new(environment: &SyncEnvironment, tokens: &TokenReader) -> Self {
        Self {
            db: environment.db.clone(),
            users: environment.users.clone(),
            rooms: environment.rooms.clone(),
            ephemeral: environment.ephemeral.clone(),
            recent_changes: environment.recent_changes.clone(),
            tokens: tokens.clone(),
        }
    }

    /// Returns the rooms that changed before the period that memory covers.
    pub(super) async fn changed_long_ago(
        &self,
        session: &Session,
        since: Option<&SyncToken>,
    ) -> Result<OlderChanges> {
        let Some(since) = since else {
            return Ok(OlderChanges::default());
        };
        let user = session.user;
        let up_to = self.db.journal().published_position();
        if self
            .recent_changes
            .rooms_changed_after(since.position)
            .is_some()
        {
            return Ok(OlderChanges {
                up_to: since.position,
                rooms: Vec::new(),
            });
        }
        let rooms = self
            .rooms
            .memory
            .rooms_changed_since(user, since.position)
            .await?;
        let with_account_data = self
            .users
            .account_data
            .changed_between(user, since.position, up_to)
            .await?;
        let rooms = rooms
            .into_iter()
            .chain(with_account_data.into_iter().filter_map(|data| data.room()));
        Ok(OlderChanges {
            up_to,
            rooms: rooms.collect(),
        })
    }

    /// Returns all rooms that changed since a token, including those that the user is not in.
    pub(super) fn changed_rooms(
        &self,
        since: &SyncToken,
        older: &OlderChanges,
    ) -> HashSet<RoomNum> {
        let mut changed: HashSet<RoomNum> = older.rooms.iter().copied().collect();
        changed.extend(
            self.recent_changes
                .rooms_changed_after(older.up_to)
                .unwrap_or_default(),
        );
        let tick = self.tokens.tick_of(since);
        changed.extend(self.ephemeral.typing.changed_rooms(tick));
        changed
    }
}
