//! Joining rooms without local members, and restricted rooms in which no local member can authorise the join.
//!
//! See [Joining rooms](https://spec.matrix.org/v1.19/server-server-api/#joining-rooms).

use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomOrAliasId, RoomVersionId, ServerName,
    events::{StateEventType, room::guest_access::GuestAccess},
    room::{AllowRule, JoinRule},
};
use serde_json::{Map, Value};

use super::{
    candidates::{CandidateErrors, CandidateServers, is_final},
    entry_route::EntryRoute,
    entry_services::EntryServices,
    running_joins::RunningJoins,
};
use crate::{
    error::{Error, Result},
    federation::{
        CompletedEvent, DesiredMembership, Federation, JoinAnswer, MembershipTemplate,
        RequestFailure,
    },
    matrix::VerifiedEvent,
    rooms::{
        ImportOutcome, MemberChange, MemberProfile, MembershipAction, ReceiveOutcome, RoomImport,
        Rooms,
    },
    tasks::Tasks,
    users::Session,
    workflows::{
        WorkflowSources, guests::RoomGuests, inbox::EventReception, memberships::MembershipRequest,
        upgrade::RoomUpgrades,
    },
};

/// The number of times that a user waits for another user's join. After each wait the room is here, or it is this
/// user's turn.
const MAX_WAITS: usize = 16;
/// The field with the user who authorises the join of a restricted room.
const AUTHORISED_VIA: &str = "join_authorised_via_users_server";

/// A join of a room on other servers.
struct RemoteJoin {
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    content: Map<String, Value>,
    candidates: CandidateServers,
    is_guest: bool,
}

/// Lets users join rooms. Cheap to clone.
#[derive(Clone)]
pub struct RoomJoins {
    rooms: Rooms,
    federation: Federation,
    tasks: Tasks,
    running_joins: RunningJoins,
    entry: EntryServices,
    guests: RoomGuests,
    upgrades: RoomUpgrades,
    events: EventReception,
}

/// A request to join a room.
pub struct JoinRequest<'a> {
    /// The room, by its id or an alias.
    pub room: &'a RoomOrAliasId,
    /// Servers that may be in the room.
    pub via: Vec<OwnedServerName>,
    /// The reason for the join.
    pub reason: Option<String>,
    /// Other fields of the content of the member event.
    pub extra: Map<String, Value>,
}

impl RoomJoins {
    pub(in crate::workflows) fn new(
        sources: &WorkflowSources,
        entry: &EntryServices,
        guests: &RoomGuests,
        upgrades: &RoomUpgrades,
        events: &EventReception,
    ) -> Self {
        Self {
            rooms: sources.rooms.clone(),
            federation: sources.federation.clone(),
            tasks: sources.tasks.clone(),
            running_joins: RunningJoins::default(),
            entry: entry.clone(),
            guests: guests.clone(),
            upgrades: upgrades.clone(),
            events: events.clone(),
        }
    }

    /// Lets a user join a room.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] with the rule that refuses it; [`Error::NotFound`] if no server knows the room;
    /// [`Error::Unreachable`] when no server in the room answers.
    pub async fn join(&self, session: &Session, request: JoinRequest<'_>) -> Result<OwnedRoomId> {
        let JoinRequest {
            room,
            via,
            reason,
            extra,
        } = request;
        let (room_id, named) = self.entry.servers.resolve_room(room, via).await?;
        let request = MembershipRequest {
            extra,
            ..MembershipRequest::new(session.user_id.clone(), MembershipAction::Join, reason)
        };
        for _ in 0..MAX_WAITS {
            let known = named.clone();
            let route = self
                .entry
                .routes
                .choose_route(&room_id, session, MembershipAction::Join, known)
                .await?;
            let EntryRoute::Remote(servers) = route else {
                self.guests.check_guest(session, &room_id).await?;
                self.entry
                    .memberships
                    .change_membership(session, &room_id, request.clone())
                    .await?;
                self.upgrades
                    .copy_predecessor_settings(session, &room_id)
                    .await?;
                return Ok(room_id);
            };
            self.guests
                .check_remote_guest(session, &room_id, &servers.all())
                .await?;
            let join = self
                .prepare_remote_join(session, &room_id, &request, servers)
                .await?;
            let (service, room) = (self.clone(), room_id.clone());
            let work = async move { service.join_remotely(join).await };
            let joining = self
                .running_joins
                .start_join(&self.tasks, &room, &session.user_id, work);
            let is_own = joining.user_id == session.user_id;
            let outcome = joining.wait_for_end().await;
            if is_own {
                outcome?;
                self.upgrades
                    .copy_predecessor_settings(session, &room_id)
                    .await?;
                return Ok(room_id);
            }
        }
        Err(Error::Unavailable(
            "too many users are joining this room, try again later".to_owned(),
        ))
    }

    async fn prepare_remote_join(
        &self,
        session: &Session,
        room_id: &RoomId,
        request: &MembershipRequest,
        candidates: CandidateServers,
    ) -> Result<RemoteJoin> {
        let profile = self.entry.profiles.member_profile(&session.user_id).await;
        let mut change = MemberChange::for_self(&session.user_id, MembershipAction::Join, profile);
        change.reason.clone_from(&request.reason);
        change.extra.clone_from(&request.extra);
        Ok(RemoteJoin {
            room_id: room_id.to_owned(),
            user_id: session.user_id.clone(),
            content: change.into_content()?,
            candidates,
            is_guest: session.is_guest,
        })
    }

    /// Asks servers, one after another, to accept a join.
    async fn join_remotely(&self, join: RemoteJoin) -> Result<()> {
        let mut refusals = CandidateErrors::default();
        let CandidateServers {
            servers, others, ..
        } = &join.candidates;
        for (n, server) in servers.iter().chain(others).enumerate() {
            if n >= servers.len() && !refusals.has_reached_none() {
                break;
            }
            let error = match self.join_at(server, &join).await {
                Ok(()) => return Ok(()),
                Err(JoinFailure::Failed(failure)) if is_final(&failure) => {
                    return Err(failure.into());
                }
                Err(JoinFailure::Failed(failure)) => failure.into(),
                Err(JoinFailure::Unacceptable(error)) => error,
                Err(JoinFailure::Undone(error)) => return Err(error),
            };
            if matches!(
                error,
                Error::Internal { .. } | Error::StorageFull | Error::Unavailable(_)
            ) {
                return Err(error);
            }
            refusals.add(error);
        }
        Err(refusals.into_error())
    }

    #[tracing::instrument(skip_all, fields(server = %server, room_id = %join.room_id), err(level = "debug", Debug))]
    async fn join_at(&self, server: &ServerName, join: &RemoteJoin) -> Result<(), JoinFailure> {
        let template = self
            .federation
            .make_join(server, &join.room_id, &join.user_id)
            .await?;
        let mut content = join.content.clone();
        if let Some(authoriser) = template.authoriser() {
            content.insert(AUTHORISED_VIA.to_owned(), authoriser.to_string().into());
        }
        let member = DesiredMembership {
            room_id: &join.room_id,
            user_id: &join.user_id,
            content,
        };
        let signed = self.federation.complete_template(&template, &member)?;
        let version = template.version.clone();
        let joined = self.send_join(server, join, signed, template).await;
        if let Err(JoinFailure::Undone(_)) = &joined {
            self.undo_join(server, join, &version).await;
        }
        joined
    }

    /// Makes a user leave again whose join was accepted, but who must not be in the room.
    async fn undo_join(&self, server: &ServerName, join: &RemoteJoin, version: &RoomVersionId) {
        let leaving = async {
            let (room_id, user_id) = (&*join.room_id, &*join.user_id);
            let federation = &self.federation;
            let template = federation
                .make_leave(server, room_id, user_id, version)
                .await?;
            let change =
                MemberChange::for_self(user_id, MembershipAction::Leave, MemberProfile::default());
            let member = DesiredMembership {
                room_id,
                user_id,
                content: change.into_content()?,
            };
            let leave = federation.complete_template(&template, &member)?;
            federation.send_leave(server, room_id, &leave).await?;
            Ok::<(), Error>(())
        };
        if let Err(error) = leaving.await {
            tracing::debug!(%server, %error, "a join could not be undone");
        }
    }

    /// Checks that a user may be in a room, by the state that the server returned with the join.
    async fn check_may_be_in_room(
        &self,
        join: &RemoteJoin,
        answer: &JoinAnswer,
        is_restricted: bool,
    ) -> Result<(), Error> {
        let find = |kind: StateEventType| {
            let mut state = answer.state.iter().map(VerifiedEvent::pdu);
            state.find(|pdu| pdu.is_state(&kind.to_string().into(), ""))
        };
        if join.is_guest {
            let access = find(StateEventType::RoomGuestAccess);
            let access = access.and_then(|pdu| pdu.content_str("guest_access"));
            if access.as_deref() != Some(GuestAccess::CanJoin.as_str()) {
                return Err(Error::GuestAccessForbidden);
            }
        }
        let rule = find(StateEventType::RoomJoinRules).filter(|_| is_restricted);
        let rule = rule.and_then(|pdu| serde_json::from_str(pdu.content.get()).ok());
        let Some(JoinRule::Restricted(restricted) | JoinRule::KnockRestricted(restricted)) = rule
        else {
            return Ok(());
        };
        // The other server may not know yet that the user has left the room that permits the join.
        let is_known = |rule: &AllowRule| matches!(rule, AllowRule::RoomMembership(_));
        if !restricted.allow.iter().all(is_known)
            || self
                .rooms
                .join_rules
                .is_in_allowed_room(&restricted, &join.user_id)
                .await?
        {
            return Ok(());
        }
        Err(Error::forbidden(
            "you are not in any of the rooms whose members may join",
        ))
    }

    async fn send_join(
        &self,
        server: &ServerName,
        join: &RemoteJoin,
        signed: CompletedEvent,
        template: MembershipTemplate,
    ) -> Result<(), JoinFailure> {
        let room_id = &*join.room_id;
        let answer = self
            .federation
            .send_join(server, room_id, &signed, &template)
            .await?;
        if answer.members_omitted {
            return Err(Error::Unreachable(format!(
                "{server} left out members, which was not requested"
            ))
            .into());
        }
        // In a restricted room, the server of the authorising user has also signed the event.
        let event = answer.event.as_deref().unwrap_or(&signed.event);
        let event = self.federation.verify_event(event, &template.rules).await?;
        if event.pdu().event_id != signed.event_id || event.is_redacted() {
            return Err(
                Error::Unreachable(format!("{server} returned a different join event")).into(),
            );
        }
        if let Ok(room) = self.rooms.memory.resident_room(room_id).await {
            // Another local user has joined in the meantime, so the join is processed like any other event.
            let event_id = event.pdu().event_id.clone();
            return match self.events.receive_event(server, &room, event).await? {
                ReceiveOutcome::Accepted => Ok(()),
                ReceiveOutcome::Duplicate => {
                    Ok(self.rooms.receiver.check_accepted(&event_id).await?)
                }
                ReceiveOutcome::SoftFailed(reason) | ReceiveOutcome::Rejected(reason) => {
                    Err(Error::Forbidden(reason).into())
                }
                ReceiveOutcome::Missing { .. } => {
                    Err(Error::Unavailable("events of the room are missing".to_owned()).into())
                }
            };
        }
        let is_restricted = template.authoriser().is_some();
        if let Err(refused) = self
            .check_may_be_in_room(join, &answer, is_restricted)
            .await
        {
            return Err(JoinFailure::Undone(refused));
        }
        let import = RoomImport {
            origin: server.to_owned(),
            version: template.version,
            join: event,
            state: answer.state,
            auth_chain: answer.auth_chain,
        };
        let imported = self.rooms.join_import.import(import).await?;
        tracing::info!(%server, %room_id, is_new = imported == ImportOutcome::NewRoom, "a room was joined");
        Ok(())
    }
}

/// The reason why a join through a server failed.
#[derive(Debug)]
enum JoinFailure {
    /// The server refused, or did not answer.
    Failed(RequestFailure),
    /// The server's answer is not acceptable.
    Unacceptable(Error),
    /// The server accepted the join, but the user must not be in the room.
    Undone(Error),
}

impl From<RequestFailure> for JoinFailure {
    fn from(failure: RequestFailure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Error> for JoinFailure {
    fn from(error: Error) -> Self {
        Self::Unacceptable(error)
    }
}
