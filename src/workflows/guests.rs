//! Guests in rooms: they may only be in rooms that permit guest access.
//!
//! A follower of the journal notices each change of the guest access, by local users, by delayed events or by other
//! servers.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#guest-access).

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::{
    OwnedServerName, RoomId,
    events::{
        StateEventType, TimelineEventType,
        room::guest_access::{GuestAccess, RoomGuestAccessEventContent},
    },
};
use tokio::sync::Notify;

use super::{WorkflowSources, remote::SpaceReader};
use crate::{
    error::{Error, Result},
    matrix::{Pdu, TimelineEvent},
    numbers::{Position, RoomNum},
    rooms::{MemberChange, MemberProfile, MembershipAction, Room, Rooms},
    storage::{JournalChange, JournalFollower},
    tasks::Tasks,
    users::{Session, Users},
};

/// Keeps guests out of rooms that do not permit them. Cheap to clone.
#[derive(Clone)]
pub(super) struct RoomGuests {
    users: Users,
    rooms: Rooms,
    tasks: Tasks,
    spaces: SpaceReader,
    changes: Arc<GuestAccessChanges>,
    /// Held while guests are removed from a room, so that each is removed once.
    removal_lock: Arc<tokio::sync::Mutex<()>>,
}

impl RoomGuests {
    /// Creates the service, and starts its background task.
    pub(super) fn new(sources: &WorkflowSources, spaces: &SpaceReader) -> Self {
        let service = Self {
            users: sources.users.clone(),
            rooms: sources.rooms.clone(),
            tasks: sources.tasks.clone(),
            spaces: spaces.clone(),
            changes: Arc::default(),
            removal_lock: Arc::default(),
        };
        sources.devices.add_follower(service.changes.clone());
        let (following, stopping) = (service.clone(), sources.tasks.stopping().clone());
        drop(sources.tasks.spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = following.follow_changes() => {}
            }
        }));
        service
    }

    /// Checks that a guest may join a room. Other users always pass.
    ///
    /// # Errors
    ///
    /// [`Error::GuestAccessForbidden`].
    pub(super) async fn check_guest(&self, session: &Session, room_id: &RoomId) -> Result<()> {
        if !session.is_guest || admits_guests(&*self.rooms.memory.room(room_id).await?) {
            return Ok(());
        }
        Err(Error::GuestAccessForbidden)
    }

    /// Checks whether a room without local members permits guests, as far as that is known before the join.
    ///
    /// # Errors
    ///
    /// [`Error::GuestAccessForbidden`].
    pub(super) async fn check_remote_guest(
        &self,
        session: &Session,
        room_id: &RoomId,
        servers: &[OwnedServerName],
    ) -> Result<()> {
        if !session.is_guest {
            return Ok(());
        }
        if self.rooms.memory.resident_room(room_id).await.is_ok() {
            return self.check_guest(session, room_id).await;
        }
        match self
            .spaces
            .remote_room_admits_guests(room_id, servers)
            .await
        {
            Some(false) => Err(Error::GuestAccessForbidden),
            // If the server does not say so, it is checked in the state after the join.
            Some(true) | None => Ok(()),
        }
    }

    /// Removes the local guests from a room, unless it permits guest access.
    pub(super) async fn expel_guests(&self, room_id: &RoomId) -> Result<()> {
        let (service, room_id) = (self.clone(), room_id.to_owned());
        // In a task of its own: if the client disconnects, the remaining guests must still be removed.
        let removal = self
            .tasks
            .spawn(async move { service.expel_guests_in_turn(&room_id).await });
        removal
            .await
            .map_err(|source| Error::internal("remove guests from a room", source))?
    }

    async fn expel_guests_in_turn(&self, room_id: &RoomId) -> Result<()> {
        let _guard = self.removal_lock.lock().await;
        let room = self.rooms.memory.room(room_id).await?;
        if admits_guests(&room) {
            return Ok(());
        }
        let members = room.view().local_members.clone();
        let numbers: Vec<_> = members.keys().copied().collect();
        let guests = self.users.lookup.guests_among(&numbers).await?;
        for user_id in guests.iter().filter_map(|guest| members.get(guest)) {
            let leave =
                MemberChange::for_self(user_id, MembershipAction::Leave, MemberProfile::default());
            self.rooms
                .memberships
                .change_membership_in_background(room_id, leave)
                .await?;
        }
        Ok(())
    }

    /// Removes the guests from the rooms whose guest access changes.
    async fn follow_changes(&self) {
        loop {
            self.changes.changed.notified().await;
            self.follow_waiting_changes().await;
        }
    }

    async fn follow_waiting_changes(&self) {
        for room in self.changes.take() {
            if let Err(error) = self.follow_change(room).await {
                tracing::warn!(room_num = %room, %error, "guests could not be removed from a room");
            }
        }
    }

    async fn follow_change(&self, room: RoomNum) -> Result<()> {
        match self.rooms.memory.room_by_number(room).await {
            Ok(room) => self.expel_guests(&room.room_id).await,
            // The room was deleted in the meantime.
            Err(Error::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The rooms whose guest access changed, until their guests are removed.
#[derive(Default)]
struct GuestAccessChanges {
    rooms: Mutex<BTreeSet<RoomNum>>,
    changed: Notify,
}

impl GuestAccessChanges {
    fn rooms(&self) -> MutexGuard<'_, BTreeSet<RoomNum>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> BTreeSet<RoomNum> {
        std::mem::take(&mut self.rooms())
    }
}

impl JournalFollower for GuestAccessChanges {
    fn committed(&self, changes: &[(Position, JournalChange)]) {
        for (_, change) in changes {
            let (room, has_changed) = match change {
                JournalChange::Event { room, event, .. } => (room, changes_guest_access(event)),
                // Without its content, the event no longer permits guest access.
                JournalChange::Redacted { room, event } => (room, is_guest_access(&event.pdu)),
                _ => continue,
            };
            if has_changed {
                self.rooms().insert(*room);
                self.changed.notify_one();
            }
        }
    }

    fn failed(&self) {
        // Nothing to undo: only committed changes were reported.
    }
}

/// Returns whether an event changes the guest access. Any event can do so, because the state may be resolved after it.
fn changes_guest_access(event: &TimelineEvent) -> bool {
    let keys = event.changed_state_keys();
    keys.contains(&(StateEventType::RoomGuestAccess, String::new()))
}

fn is_guest_access(pdu: &Pdu) -> bool {
    pdu.is_state(&TimelineEventType::RoomGuestAccess, "")
}

/// Returns whether a room permits guest access.
fn admits_guests(room: &Room) -> bool {
    let state = room.view().state.clone();
    state
        .content::<RoomGuestAccessEventContent>(&StateEventType::RoomGuestAccess)
        .is_some_and(|content| content.guest_access == GuestAccess::CanJoin)
}
