//! Room upgrades: replacing a room, and moving its members' settings to the new room.

use ruma::{OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, events::StateEventType};
use serde::Deserialize;

use super::{WorkflowSources, profiles::UserProfiles};
use crate::{
    error::{Error, Result},
    rooms::{RoomUpgrade, Rooms},
    users::{Session, Users},
};

#[derive(Deserialize)]
struct PredecessorContent {
    predecessor: Option<Predecessor>,
}

#[derive(Deserialize)]
struct Predecessor {
    room_id: OwnedRoomId,
}

/// Replaces rooms by rooms of another version. Cheap to clone.
#[derive(Clone)]
pub struct RoomUpgrades {
    users: Users,
    rooms: Rooms,
    profiles: UserProfiles,
}

impl RoomUpgrades {
    pub(super) fn new(sources: &WorkflowSources, profiles: &UserProfiles) -> Self {
        Self {
            users: sources.users.clone(),
            rooms: sources.rooms.clone(),
            profiles: profiles.clone(),
        }
    }

    /// Replaces a room by one of another version.
    ///
    /// # Errors
    ///
    /// [`Error::UnsupportedRoomVersion`]; [`Error::Forbidden`] for a user who may not send the tombstone.
    pub async fn upgrade_room(
        &self,
        session: &Session,
        room_id: &RoomId,
        version: RoomVersionId,
        additional_creators: Vec<OwnedUserId>,
    ) -> Result<OwnedRoomId> {
        let upgrade = RoomUpgrade {
            user_id: session.user_id.clone(),
            profile: self.profiles.member_profile(&session.user_id).await,
            version,
            additional_creators,
        };
        let new = self.rooms.creation.upgrade_room(room_id, upgrade).await?;
        self.copy_predecessor_settings(session, &new).await?;
        Ok(new)
    }

    /// Copies the settings that a user has for a room to the room that replaces it, which the user has just joined.
    pub(super) async fn copy_predecessor_settings(
        &self,
        session: &Session,
        room_id: &RoomId,
    ) -> Result<()> {
        let room = self.rooms.memory.room(room_id).await?;
        let created: Option<PredecessorContent> =
            room.view().state.content(&StateEventType::RoomCreate);
        let Some(predecessor) = created.and_then(|created| created.predecessor) else {
            return Ok(());
        };
        let old = match self.rooms.memory.room_number(&predecessor.room_id).await {
            Ok(old) => old,
            Err(Error::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        if self
            .rooms
            .memory
            .rooms_of_user(session.user)
            .await?
            .get(old)
            .is_none()
        {
            return Ok(());
        }
        // Any room can claim to replace another. The old room's tombstone proves it; the user's own rooms are trusted.
        let old = self.rooms.memory.room(&predecessor.room_id).await?;
        let replacement = {
            let view = old.view();
            let tombstone = view.state.get(&StateEventType::RoomTombstone, "");
            tombstone.and_then(|pdu| pdu.content_str("replacement_room"))
        };
        let is_own = {
            let view = room.view();
            let create = view.state.get(&StateEventType::RoomCreate, "");
            create.is_some_and(|create| create.sender == session.user_id)
        };
        if !is_own && replacement.as_deref() != Some(room_id.as_str()) {
            return Ok(());
        }
        self.users
            .upgraded_rooms
            .copy_settings(
                session.user,
                &session.user_id,
                &predecessor.room_id,
                room_id,
            )
            .await
    }
}
