//! Creates a room: all its first events are stored in one write, or nothing is.
//!
//! [`POST /createRoom`](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom)

mod plan;

use std::sync::Arc;

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedRoomAliasId, OwnedRoomId, RoomAliasId, RoomVersionId,
    api::client::room::{Visibility, create_room::v3::Request},
};

pub use self::plan::{CreateRoom, check_visibility};
use super::{RoomCreation, directory::check_alias_count};
use crate::{
    clock::timestamp,
    error::{Error, RefusalCode, Result},
    matrix::Pdu,
    numbers::SnapshotId,
    rooms::{
        EventToSend,
        log::{accepted_event::AcceptedEvent, new_events::into_invalid_state},
        memory::room::{Room, RoomTip, joined_count},
    },
    storage::rooms::{aliases, room_table},
};

/// The number of times that a room is built before the server gives up because the room id is always taken.
pub(crate) const MAX_ROOM_ID_ATTEMPTS: i64 = 16;

impl RoomCreation {
    /// Creates a room and returns its id.
    ///
    /// # Errors
    ///
    /// Returns [`Error::UnsupportedRoomVersion`], `RefusalCode::RoomInUse` if the alias is taken, and
    /// `RefusalCode::InvalidRoomState` if the requested state contradicts the rules of the room.
    pub async fn create_room(&self, create: CreateRoom) -> Result<OwnedRoomId> {
        self.tasks
            .run_to_completion(self, async move |rooms: Self| {
                rooms.create_room_now(create).await
            })
            .await
    }

    async fn create_room_now(&self, create: CreateRoom) -> Result<OwnedRoomId> {
        let version = plan::requested_version(&create.request, &self.default_version)?;
        let alias = self.requested_alias(&create.request)?;
        let planned = plan::first_events(&create, &version, alias.as_ref())?;
        for event in &planned {
            self.log.check_invite_permission(event).await?;
        }
        // From room version 12 on, the room id is the hash of the create event. A user who creates two equal rooms
        // within a millisecond would get the same id twice, so the second room gets a later timestamp.
        for attempt in 0..MAX_ROOM_ID_ATTEMPTS {
            let timestamp = timestamp(self.clock.now_ms() + attempt);
            let (mut room, events) = self
                .build_room(&version, planned.clone(), timestamp)
                .await?;
            if self
                .store_room(&mut room, events, alias.as_deref(), &create)
                .await?
            {
                return Ok(room.room_id);
            }
        }
        Err(Error::internal("create a room", "its id is taken"))
    }

    /// Builds a room and its first events without storing anything.
    pub(crate) async fn build_room(
        &self,
        version: &RoomVersionId,
        planned: Vec<EventToSend>,
        timestamp: MilliSecondsSinceUnixEpoch,
    ) -> Result<(Room, Vec<AcceptedEvent>)> {
        let mut planned = planned.into_iter();
        let Some(first) = planned.next() else {
            return Err(Error::internal("create a room", "no events were planned"));
        };
        let (room, create) = self
            .log
            .build_create_event(version.clone(), first, timestamp)?;
        let mut tip = RoomTip::default();
        advance_scratch_tip(&mut tip, &create.pdu);
        let mut events = vec![create];
        for event in planned {
            let accepted = self
                .log
                .build_event(&room, &tip, event)
                .await
                .map_err(into_invalid_state)?;
            advance_scratch_tip(&mut tip, &accepted.pdu);
            events.push(accepted);
        }
        Ok((room, events))
    }

    fn requested_alias(&self, request: &Request) -> Result<Option<OwnedRoomAliasId>> {
        let Some(localpart) = &request.room_alias_name else {
            return Ok(None);
        };
        if localpart.is_empty()
            || localpart.contains(':')
            || localpart.chars().any(char::is_whitespace)
        {
            return Err(Error::invalid_param(
                "room_alias_name must be a localpart without colons and white space",
            ));
        }
        OwnedRoomAliasId::try_from(format!("#{localpart}:{}", self.memory.server_name()))
            .map(Some)
            .map_err(|e| Error::invalid_param(format!("room_alias_name: {e}")))
    }
}

impl RoomCreation {
    /// Stores a room with its first events. Returns `false` and stores nothing if the room id is taken.
    async fn store_room(
        &self,
        room: &mut Room,
        events: Vec<AcceptedEvent>,
        alias: Option<&RoomAliasId>,
        create: &CreateRoom,
    ) -> Result<bool> {
        let mut tx = self.db.write().await?;
        if !self.log.insert_room(&mut tx, room, events).await? {
            return Ok(false);
        }
        if let Some(alias) = alias {
            let creator = tx.intern_user(create.creator.as_str()).await?;
            check_alias_count(&mut tx, creator).await?;
            if !aliases::insert(&mut tx, alias.as_str(), room.num, creator).await? {
                return Err(Error::refused(
                    RefusalCode::RoomInUse,
                    format!("the alias {alias} is taken"),
                ));
            }
        }
        if create.request.visibility == Visibility::Public {
            room_table::set_published(&mut tx, room.num, true).await?;
        }
        tx.commit().await?;
        Ok(true)
    }
}

/// Moves a tip past an event that is built but not stored yet.
pub(crate) fn advance_scratch_tip(tip: &mut RoomTip, pdu: &Pdu) {
    tip.forward_extremities = vec![pdu.event_id.clone()];
    tip.extremity_hashes = pdu.reference_hash.iter().cloned().collect();
    tip.depth = u64::from(pdu.depth);
    // This is no snapshot number; it only marks that the room has events.
    tip.snapshot = SnapshotId::new(-1);
    let pdu = Arc::new(pdu.clone());
    let replaced = tip.state.insert(pdu.clone());
    if pdu.member().is_some() {
        tip.joined_members += joined_count(Some(&pdu)) - joined_count(replaced.as_deref());
    }
}
