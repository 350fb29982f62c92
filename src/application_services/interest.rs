//! The rooms, users and events in which an application service is interested.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    error::{Error, Result},
    numbers::{RoomNum, UserNum},
    rooms::{NewEvent, Room, Rooms},
    users::ApplicationService,
};

/// The largest number of rooms and of users that are remembered. Beyond it, all are forgotten.
const MAX_REMEMBERED: usize = 50_000;

/// Decides in what a service is interested, and remembers it.
pub(super) struct ServiceInterest {
    service: Arc<ApplicationService>,
    rooms: Rooms,
    in_rooms: Mutex<HashMap<RoomNum, bool>>,
    in_users: Mutex<HashMap<UserNum, bool>>,
}

impl ServiceInterest {
    pub(super) fn new(service: &Arc<ApplicationService>, rooms: &Rooms) -> Self {
        Self {
            service: service.clone(),
            rooms: rooms.clone(),
            in_rooms: Mutex::default(),
            in_users: Mutex::default(),
        }
    }

    /// Forgets whether the service is interested in a room, because the room changed.
    pub(super) fn forget_room(&self, room: RoomNum) {
        let mut in_rooms = self.in_rooms.lock().unwrap_or_else(PoisonError::into_inner);
        in_rooms.remove(&room);
    }

    /// Returns whether the service is sent an event: because of its room, its sender, or the user whose membership it
    /// is.
    pub(super) async fn has_event(&self, new: &NewEvent) -> Result<bool> {
        let NewEvent { room, event } = new;
        let controls_user = self.service.controls(&event.pdu.sender)
            || event
                .pdu
                .member()
                .is_some_and(|user_id| self.service.controls(user_id));
        Ok(controls_user || self.has_room(room).await?)
    }

    /// Returns whether the service is sent what happens in a room: because of its id or an alias, or because a user of
    /// the service is in it.
    pub(super) async fn has_room(&self, room: &Room) -> Result<bool> {
        let remembered = {
            let in_rooms = self.in_rooms.lock().unwrap_or_else(PoisonError::into_inner);
            in_rooms.get(&room.num).copied()
        };
        if let Some(is_interested) = remembered {
            return Ok(is_interested);
        }
        let is_interested = self.find_room(room).await?;
        let mut in_rooms = self.in_rooms.lock().unwrap_or_else(PoisonError::into_inner);
        remember(&mut in_rooms, room.num, is_interested);
        Ok(is_interested)
    }

    async fn find_room(&self, room: &Room) -> Result<bool> {
        let namespaces = &self.service.registration.namespaces;
        if namespaces.has_room(&room.room_id) {
            return Ok(true);
        }
        let has_member = {
            let view = room.view();
            let mut members = view.local_members.values();
            members.any(|user_id| self.service.controls(user_id))
        };
        if has_member || namespaces.aliases.is_empty() {
            return Ok(has_member);
        }
        let aliases = self.rooms.directory.aliases(room).await?;
        Ok(aliases.iter().any(|alias| namespaces.has_alias(alias)))
    }

    /// Returns a room by its number if the service is sent what happens in it.
    pub(super) async fn interesting_room(&self, num: RoomNum) -> Result<Option<Arc<Room>>> {
        let room = match self.rooms.memory.room_by_number(num).await {
            Ok(room) => room,
            // It was deleted meanwhile.
            Err(Error::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_interested = self.has_room(&room).await?;
        Ok(is_interested.then_some(room))
    }

    /// Returns whether the service controls a user.
    pub(super) async fn has_user(&self, user: UserNum) -> Result<bool> {
        let remembered = {
            let in_users = self.in_users.lock().unwrap_or_else(PoisonError::into_inner);
            in_users.get(&user).copied()
        };
        if let Some(is_interested) = remembered {
            return Ok(is_interested);
        }
        let user_ids = self.rooms.memory.user_ids(&[user]).await?;
        let is_interested = user_ids
            .iter()
            .any(|user_id| self.service.controls(user_id));
        let mut in_users = self.in_users.lock().unwrap_or_else(PoisonError::into_inner);
        remember(&mut in_users, user, is_interested);
        Ok(is_interested)
    }

    /// Returns whether a user is in a room in which the service is interested, or belongs to the service.
    pub(super) async fn shares_room_with(&self, user: UserNum) -> Result<bool> {
        if self.has_user(user).await? {
            return Ok(true);
        }
        let rooms = self.rooms.memory.rooms_of_user(user).await?;
        for num in rooms.joined_rooms() {
            if self.interesting_room(num).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn remember<K: std::hash::Hash + Eq>(remembered: &mut HashMap<K, bool>, key: K, value: bool) {
    if remembered.len() >= MAX_REMEMBERED {
        remembered.clear();
    }
    remembered.insert(key, value);
}
