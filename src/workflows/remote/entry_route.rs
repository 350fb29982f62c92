//! The ways into a room: with an event of this server, or through another server.

use ruma::{RoomId, UserId};

use super::candidates::{CandidateServers, ServerFinder};
use crate::{
    error::{Error, Result},
    rooms::{MembershipAction, Room, Rooms},
    users::Session,
    workflows::WorkflowSources,
};

/// The way in which a user joins a room or knocks on it.
pub(super) enum EntryRoute {
    /// With an event that this server creates.
    Local,
    /// Through one of these servers.
    Remote(CandidateServers),
}

/// Finds the ways into rooms. Cheap to clone.
#[derive(Clone)]
pub(in crate::workflows) struct EntryRoutes {
    rooms: Rooms,
    servers: ServerFinder,
}

impl EntryRoutes {
    pub(in crate::workflows) fn new(sources: &WorkflowSources, servers: &ServerFinder) -> Self {
        Self {
            rooms: sources.rooms.clone(),
            servers: servers.clone(),
        }
    }

    /// Returns the way in which a user joins a room or knocks on it.
    pub(super) async fn choose_route(
        &self,
        room_id: &RoomId,
        session: &Session,
        action: MembershipAction,
        mut candidates: CandidateServers,
    ) -> Result<EntryRoute> {
        let user_id = &*session.user_id;
        let room = match self.rooms.memory.room(room_id).await {
            Err(Error::NotFound(_)) => None,
            room => Some(room?),
        };
        let Some(room) = room else {
            self.servers
                .add_known_servers(&mut candidates, room_id, user_id)
                .await?;
            return Ok(if candidates.is_empty() {
                EntryRoute::Local
            } else {
                EntryRoute::Remote(candidates)
            });
        };
        if !room.view().local_members.is_empty() {
            let servers = match action {
                MembershipAction::Join => {
                    self.rooms
                        .join_rules
                        .find_authorising_servers(&room, user_id)
                        .await?
                }
                _ => Vec::new(),
            };
            if servers.is_empty() {
                return Ok(EntryRoute::Local);
            }
            candidates.add(servers);
            return Ok(EntryRoute::Remote(candidates));
        }
        if self.is_copy_complete(&room, user_id).await? {
            return Ok(EntryRoute::Local);
        }
        self.servers
            .add_known_servers(&mut candidates, room_id, user_id)
            .await?;
        Ok(EntryRoute::Remote(candidates))
    }

    /// Returns whether the copy of a room without local members is complete, because all users have left the room. It
    /// is not if a user of another server has since come back and sent an invite.
    pub(super) async fn is_copy_complete(&self, room: &Room, user_id: &UserId) -> Result<bool> {
        let is_left = {
            let view = room.view();
            view.servers.is_empty() && view.state.iter().next().is_some()
        };
        if !is_left {
            return Ok(false);
        }
        let inviter = self
            .rooms
            .access
            .find_inviter(&room.room_id, user_id)
            .await?;
        Ok(inviter.is_none_or(|inviter| self.rooms.memory.is_local(&inviter)))
    }
}
