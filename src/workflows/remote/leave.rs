//! Leaving rooms without local members: rejecting invites and retracting knocks.
//!
//! See [Leaving rooms](https://spec.matrix.org/v1.19/server-server-api/#leaving-rooms-rejecting-invites).

use std::time::Duration;

use ruma::{RoomId, ServerName, UserId, events::room::member::MembershipState};
use tokio::time::timeout;

use super::{
    candidates::{CandidateServers, ServerFinder},
    entry_route::EntryRoutes,
    membership_locks::MembershipLocks,
};
use crate::{
    error::{Error, Result},
    federation::{DesiredMembership, Federation},
    matrix::VerifiedEvent,
    rooms::{MemberChange, MemberProfile, MembershipAction, Rooms},
    tasks::Tasks,
    users::Session,
    workflows::WorkflowSources,
};

/// The time limit for all servers. After it the user still leaves locally, so an invite can always be rejected.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Lets users leave rooms of other servers. Cheap to clone.
#[derive(Clone)]
pub struct RemoteLeaves {
    rooms: Rooms,
    federation: Federation,
    tasks: Tasks,
    servers: ServerFinder,
    locks: MembershipLocks,
    routes: EntryRoutes,
}

impl RemoteLeaves {
    pub(in crate::workflows) fn new(
        sources: &WorkflowSources,
        servers: &ServerFinder,
        locks: &MembershipLocks,
        routes: &EntryRoutes,
    ) -> Self {
        Self {
            rooms: sources.rooms.clone(),
            federation: sources.federation.clone(),
            tasks: sources.tasks.clone(),
            servers: servers.clone(),
            locks: locks.clone(),
            routes: routes.clone(),
        }
    }

    /// Returns whether a user is invited to a room without local members, or has knocked on it.
    pub(in super::super) async fn has_remote_invite_or_knock(
        &self,
        session: &Session,
        room_id: &RoomId,
    ) -> Result<bool> {
        let room = match self.rooms.memory.room(room_id).await {
            Err(Error::NotFound(_)) => return Ok(false),
            room => room?,
        };
        let membership = self
            .rooms
            .memory
            .rooms_of_user(session.user)
            .await?
            .membership(room.num);
        let is_requested = matches!(membership, MembershipState::Invite | MembershipState::Knock);
        let is_resident = !room.view().local_members.is_empty();
        Ok(is_requested
            && !is_resident
            && !self
                .routes
                .is_copy_complete(&room, &session.user_id)
                .await?)
    }

    /// Makes a user leave a room without local members. The event is sent to the inviter's server, or to another server
    /// in the room. If none accepts it, the leave is only recorded here.
    pub(in super::super) async fn leave_remote_room(
        &self,
        session: &Session,
        room_id: &RoomId,
        reason: Option<String>,
    ) -> Result<()> {
        let (service, room_id) = (self.clone(), room_id.to_owned());
        let (user, user_id) = (session.user, session.user_id.clone());
        let leaving = self.tasks.spawn(async move {
            let _guard = service.locks.lock_membership(&room_id, &user_id).await?;
            if service.locks.known_membership(user, &room_id).await? == MembershipState::Leave {
                // An equal request was faster.
                return Ok(());
            }
            let mut candidates = service.servers.candidates();
            candidates.add(
                service
                    .rooms
                    .remote_memberships
                    .servers_from_stripped_state(&room_id, user)
                    .await?,
            );
            service
                .servers
                .add_known_servers(&mut candidates, &room_id, &user_id)
                .await?;
            let sending = service.send_leave_event(&room_id, &user_id, reason, &candidates);
            let leave = timeout(LEAVE_TIMEOUT, sending).await.ok().flatten();
            service
                .rooms
                .remote_memberships
                .leave_remote_room(&room_id, &user_id, leave)
                .await
        });
        leaving
            .await
            .map_err(|source| Error::internal("leave a room of other servers", source))?
    }

    /// Sends a user's leave event to a server in the room; returns the event.
    async fn send_leave_event(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        reason: Option<String>,
        candidates: &CandidateServers,
    ) -> Option<VerifiedEvent> {
        let mut change =
            MemberChange::for_self(user_id, MembershipAction::Leave, MemberProfile::default());
        change.reason = reason;
        for server in candidates.servers.iter().chain(&candidates.others) {
            match self.leave_at(server, room_id, change.clone()).await {
                Ok(leave) => return Some(leave),
                Err(error) => {
                    tracing::debug!(%server, %error, "a server did not accept a leave event");
                }
            }
        }
        None
    }

    async fn leave_at(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        change: MemberChange,
    ) -> Result<VerifiedEvent> {
        let user_id = change.target.clone();
        let version = self.rooms.memory.room(room_id).await?.version.clone();
        let federation = &self.federation;
        let template = federation
            .make_leave(server, room_id, &user_id, &version)
            .await?;
        let member = DesiredMembership {
            room_id,
            user_id: &user_id,
            content: change.into_content()?,
        };
        let leave = federation.complete_template(&template, &member)?;
        federation.send_leave(server, room_id, &leave).await?;
        federation.verify_event(&leave.event, &template.rules).await
    }

    /// Rejects all invites to rooms without local members, and retracts all knocks on them.
    pub(in super::super) async fn leave_all_remote_rooms(&self, session: &Session) -> Result<()> {
        let rooms = self.rooms.memory.rooms_of_user(session.user).await?;
        let rooms: Vec<_> = rooms.all().keys().copied().collect();
        for room in rooms {
            let room_id = match self.rooms.memory.room_id(room).await {
                // The room was deleted in the meantime.
                Err(Error::NotFound(_)) => continue,
                room_id => room_id?,
            };
            if self.has_remote_invite_or_knock(session, &room_id).await? {
                self.leave_remote_room(session, &room_id, None).await?;
            }
        }
        Ok(())
    }
}
