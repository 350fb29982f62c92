//! Knocking on rooms.

use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, RoomOrAliasId, ServerName,
    events::room::member::MembershipState,
};

use super::{
    candidates::{CandidateErrors, CandidateServers, is_final},
    entry_route::EntryRoute,
    entry_services::EntryServices,
};
use crate::{
    error::{Error, Result},
    federation::{DesiredMembership, Federation, RequestFailure},
    rooms::{MemberChange, MembershipAction, RemoteMembershipEvent, Rooms},
    tasks::Tasks,
    users::Session,
    workflows::{WorkflowSources, memberships::MembershipRequest},
};

/// Lets users knock on rooms. Cheap to clone.
#[derive(Clone)]
pub struct RoomKnocks {
    rooms: Rooms,
    federation: Federation,
    tasks: Tasks,
    entry: EntryServices,
}

impl RoomKnocks {
    pub(in crate::workflows) fn new(sources: &WorkflowSources, entry: &EntryServices) -> Self {
        Self {
            rooms: sources.rooms.clone(),
            federation: sources.federation.clone(),
            tasks: sources.tasks.clone(),
            entry: entry.clone(),
        }
    }

    /// Lets a user knock on a room, given by its id or an alias.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::Forbidden`] with the rule that refuses it; as [`super::RoomJoins::join`] for a room
    /// without local members.
    pub async fn knock(
        &self,
        session: &Session,
        room: &RoomOrAliasId,
        via: Vec<OwnedServerName>,
        reason: Option<String>,
    ) -> Result<OwnedRoomId> {
        let (room_id, candidates) = self.entry.servers.resolve_room(room, via).await?;
        let request =
            MembershipRequest::new(session.user_id.clone(), MembershipAction::Knock, reason);
        let route = self
            .entry
            .routes
            .choose_route(&room_id, session, MembershipAction::Knock, candidates)
            .await?;
        match route {
            EntryRoute::Local => {
                self.entry
                    .memberships
                    .change_membership(session, &room_id, request)
                    .await?;
            }
            EntryRoute::Remote(candidates) => {
                self.knock_remotely(session, &room_id, request, candidates)
                    .await?;
            }
        }
        Ok(room_id)
    }

    /// Knocks on a room through the first of some servers that accepts the knock.
    async fn knock_remotely(
        &self,
        session: &Session,
        room_id: &RoomId,
        request: MembershipRequest,
        candidates: CandidateServers,
    ) -> Result<()> {
        let profile = self.entry.profiles.member_profile(&session.user_id).await;
        let mut change = MemberChange::for_self(&session.user_id, MembershipAction::Knock, profile);
        change.reason = request.reason;
        let (service, room_id) = (self.clone(), room_id.to_owned());
        let before = self
            .entry
            .locks
            .known_membership(session.user, &room_id)
            .await?;
        let (user, user_id) = (session.user, session.user_id.clone());
        let knocking = self.tasks.spawn(async move {
            let _guard = service
                .entry
                .locks
                .lock_membership(&room_id, &user_id)
                .await?;
            let now = service.entry.locks.known_membership(user, &room_id).await?;
            if now != before && now == MembershipState::Knock {
                // An equal request was faster.
                return Ok(());
            }
            service.knock_at_first(candidates, &room_id, change).await
        });
        knocking
            .await
            .map_err(|source| Error::internal("knock on a room", source))?
    }

    /// Sends a knock to the first server that accepts it.
    async fn knock_at_first(
        &self,
        candidates: CandidateServers,
        room_id: &RoomId,
        change: MemberChange,
    ) -> Result<()> {
        let mut refusals = CandidateErrors::default();
        let CandidateServers {
            servers, others, ..
        } = &candidates;
        for (n, server) in servers.iter().chain(others).enumerate() {
            if n >= servers.len() && !refusals.has_reached_none() {
                break;
            }
            match self.knock_at(server, room_id, change.clone()).await {
                Ok(()) => return Ok(()),
                Err(Ok(failure)) if is_final(&failure) => return Err(failure.into()),
                Err(Ok(failure)) => refusals.add(failure.into()),
                Err(Err(error)) => refusals.add(error),
            }
        }
        Err(refusals.into_error())
    }

    async fn knock_at(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        change: MemberChange,
    ) -> Result<(), Result<RequestFailure, Error>> {
        let user_id = change.target.clone();
        let federation = &self.federation;
        let template = federation.make_knock(server, room_id, &user_id).await;
        let template = template.map_err(Ok)?;
        let member = DesiredMembership {
            room_id,
            user_id: &user_id,
            content: change.into_content().map_err(Err)?,
        };
        let knock = federation
            .complete_template(&template, &member)
            .map_err(Err)?;
        let answer = federation.send_knock(server, room_id, &knock).await;
        let stripped_state = answer.map_err(Ok)?;
        let event = federation.verify_event(&knock.event, &template.rules).await;
        let knock = RemoteMembershipEvent {
            version: template.version,
            event: event.map_err(Err)?,
            stripped_state,
        };
        self.rooms
            .remote_memberships
            .store_knock(knock)
            .await
            .map_err(Err)
    }
}
