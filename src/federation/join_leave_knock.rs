//! Joining, leaving and knocking on rooms of other servers: event templates are fetched, completed and sent back.
//!
//! [Joining rooms](https://spec.matrix.org/v1.19/server-server-api/#joining-rooms)

use std::{sync::Arc, time::Duration};

use ruma::{
    EventId, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId,
    api::federation::membership::{
        RawStrippedState, create_invite, create_join_event, create_knock_event, create_leave_event,
        prepare_join_event, prepare_knock_event, prepare_leave_event,
    },
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    events::TimelineEventType,
    room_version_rules::RoomVersionRules,
};
use serde::Deserialize;
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use super::{
    Federation, JoinAnswer, RemoteRefusal, RequestFailure, RequestLimits, client::EventEndpoint,
};
use crate::{
    error::Result,
    matrix::{self, EventDraft, OWNED_STATE_VERSIONS, STABLE_VERSIONS, StrippedState},
};

pub use crate::matrix::CompletedEvent;

/// An invite for a user of another server.
#[derive(Clone, Copy)]
pub struct OutgoingInvite<'a> {
    /// The room to which the user is invited.
    pub room_id: &'a RoomId,
    /// The version of the room.
    pub room_version: &'a RoomVersionId,
    /// The member event.
    pub event: &'a CompletedEvent,
    /// State events that describe the room to the user.
    pub room_state: &'a [Box<RawValue>],
}

/// The time that a server has to answer a join: it may have to collect the members of a large room.
const JOIN_TIMEOUT: Duration = Duration::from_mins(3);
/// The limits for sending an invite. A user waits for the answer, and the invited server may send a push first.
const INVITE_LIMITS: RequestLimits = RequestLimits {
    time: Duration::from_secs(20),
    bytes: 1024 * 1024,
};

/// The endpoints of older servers for invites, joins and leave events.
const INVITE_V1_PATH: &str = "/_matrix/federation/v1/invite/{room_id}/{event_id}";
const SEND_JOIN_V1_PATH: &str = "/_matrix/federation/v1/send_join/{room_id}/{event_id}";
const SEND_LEAVE_V1_PATH: &str = "/_matrix/federation/v1/send_leave/{room_id}/{event_id}";

/// An event that another server proposes, to be completed and signed.
#[derive(Debug)]
pub struct MembershipTemplate {
    pub version: RoomVersionId,
    pub rules: Arc<RoomVersionRules>,
    event: Box<RawValue>,
}

/// The membership that a user of this server wants in a room.
#[derive(Clone, Debug)]
pub struct DesiredMembership<'a> {
    pub room_id: &'a RoomId,
    pub user_id: &'a UserId,
    pub content: Map<String, Value>,
}

/// The answer of a server that accepts a knock.
#[derive(Deserialize)]
struct KnockAnswer {
    #[serde(default)]
    knock_room_state: StrippedState,
}

/// The answer to the v1 form of an invite.
#[derive(Deserialize)]
struct InviteV1Answer {
    event: Box<RawValue>,
}

#[derive(Deserialize)]
struct TemplateEvent {
    content: TemplateContent,
}

#[derive(Deserialize)]
struct TemplateContent {
    join_authorised_via_users_server: Option<OwnedUserId>,
}

impl MembershipTemplate {
    fn new(version: RoomVersionId, event: Box<RawValue>) -> Result<Self, RequestFailure> {
        let Some(rules) = matrix::room_version_rules(&version) else {
            return Err(RequestFailure::Refused(Box::new(RemoteRefusal {
                status: 400,
                errcode: "M_INCOMPATIBLE_ROOM_VERSION".to_owned(),
                error: format!("this server does not support room version {version}"),
                body: json!({ "room_version": version }),
            })));
        };
        Ok(Self {
            version,
            rules: Arc::new(rules),
            event,
        })
    }

    /// Returns the user who authorises the join, in rooms with restricted joins.
    pub fn authoriser(&self) -> Option<OwnedUserId> {
        let offered: TemplateEvent = serde_json::from_str(self.event.get()).ok()?;
        offered.content.join_authorised_via_users_server
    }
}

/// Returns the failure for a server that cannot be invited to a room of this version.
fn unsupported_version(version: &RoomVersionId) -> RequestFailure {
    RequestFailure::Refused(Box::new(RemoteRefusal {
        status: 400,
        errcode: "M_INCOMPATIBLE_ROOM_VERSION".to_owned(),
        error: format!("the server of the invited user does not support room version {version}"),
        body: json!({ "room_version": version }),
    }))
}

/// Returns the room versions that this server supports.
fn supported_versions() -> Vec<RoomVersionId> {
    let owned = OWNED_STATE_VERSIONS.iter();
    let owned = owned.filter_map(|version| RoomVersionId::try_from(*version).ok());
    STABLE_VERSIONS.iter().cloned().chain(owned).collect()
}

impl Federation {
    /// Asks a server for the template of a user's join event.
    ///
    /// # Errors
    ///
    /// When it does not answer, or refuses.
    pub async fn make_join(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<MembershipTemplate, RequestFailure> {
        let mut request =
            prepare_join_event::v1::Request::new(room_id.to_owned(), user_id.to_owned());
        request.ver = supported_versions();
        let answer = self
            .client()
            .send(server, request, RequestLimits::QUICK_RESPONSE)
            .await?;
        let version = answer.room_version.unwrap_or(RoomVersionId::V1);
        MembershipTemplate::new(version, answer.event)
    }

    /// Asks a server for the template of a user's knock event.
    ///
    /// # Errors
    ///
    /// As [`Federation::make_join`].
    pub async fn make_knock(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<MembershipTemplate, RequestFailure> {
        let mut request =
            prepare_knock_event::v1::Request::new(room_id.to_owned(), user_id.to_owned());
        request.ver = supported_versions();
        let answer = self
            .client()
            .send(server, request, RequestLimits::QUICK_RESPONSE)
            .await?;
        MembershipTemplate::new(answer.room_version, answer.event)
    }

    /// Asks a server for the template of a user's leave event, for a room whose version is known.
    ///
    /// # Errors
    ///
    /// As [`Federation::make_join`].
    pub async fn make_leave(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        user_id: &UserId,
        version: &RoomVersionId,
    ) -> Result<MembershipTemplate, RequestFailure> {
        let request = prepare_leave_event::v1::Request::new(room_id.to_owned(), user_id.to_owned());
        let answer = self
            .client()
            .send(server, request, RequestLimits::QUICK_RESPONSE)
            .await?;
        let version = answer.room_version.unwrap_or_else(|| version.clone());
        MembershipTemplate::new(version, answer.event)
    }

    /// Completes the event of a template, and signs it as this server.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::BadJson`] when the template is invalid.
    pub fn complete_template(
        &self,
        template: &MembershipTemplate,
        member: &DesiredMembership<'_>,
    ) -> Result<CompletedEvent> {
        let rules = &template.rules;
        let is_chosen = rules.event_format.require_event_id;
        let draft = EventDraft {
            sender: member.user_id.to_owned(),
            kind: TimelineEventType::RoomMember,
            state_key: Some(member.user_id.to_string()),
            content: to_raw_value(&member.content)?,
            redacts: None,
            sticky: None,
            timestamp: self.clock.now(),
            event_id: is_chosen.then(|| EventId::new_v1(self.key.server_name())),
        };
        matrix::complete_template(&template.event, draft, member.room_id, rules, &self.key)
    }

    /// Sends a completed join event to the server that made its template, and reads the room's state from the answer.
    ///
    /// # Errors
    ///
    /// When the server does not answer or refuses, or its answer is invalid.
    pub async fn send_join(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        join: &CompletedEvent,
        template: &MembershipTemplate,
    ) -> Result<JoinAnswer, RequestFailure> {
        let request = create_join_event::v2::Request::new(
            room_id.to_owned(),
            join.event_id.clone(),
            join.event.clone(),
        );
        let response = match self
            .client()
            .send_streaming(server, request, JOIN_TIMEOUT)
            .await
        {
            Err(failure) if failure.is_unknown_endpoint() => {
                let endpoint = EventEndpoint {
                    path: SEND_JOIN_V1_PATH,
                    room_id,
                    event_id: &join.event_id,
                };
                let client = self.client();
                let sent = client.put_event_streaming(server, endpoint, &join.event, JOIN_TIMEOUT);
                sent.await?
            }
            sent => sent?,
        };
        // Boxed, because the future is large.
        Box::pin(self.read_join_answer(server, response, &template.rules)).await
    }

    /// Sends a completed leave event to the server that made its template.
    ///
    /// # Errors
    ///
    /// As [`Federation::make_join`].
    pub async fn send_leave(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        leave: &CompletedEvent,
    ) -> Result<(), RequestFailure> {
        let request = create_leave_event::v2::Request::new(
            room_id.to_owned(),
            leave.event_id.clone(),
            leave.event.clone(),
        );
        match self
            .client()
            .send(server, request, RequestLimits::LARGE_RESPONSE)
            .await
        {
            Err(failure) if failure.is_unknown_endpoint() => {
                let endpoint = EventEndpoint {
                    path: SEND_LEAVE_V1_PATH,
                    room_id,
                    event_id: &leave.event_id,
                };
                let client = self.client();
                let sent = client.put_event(
                    server,
                    endpoint,
                    &leave.event,
                    RequestLimits::LARGE_RESPONSE,
                );
                sent.await.map(drop)
            }
            sent => sent.map(drop),
        }
    }

    /// Sends a completed knock event to the server that made its template. Returns the room's stripped state.
    ///
    /// # Errors
    ///
    /// As [`Federation::make_join`].
    pub async fn send_knock(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        knock: &CompletedEvent,
    ) -> Result<Vec<Box<RawValue>>, RequestFailure> {
        let request = create_knock_event::v1::Request::new(
            room_id.to_owned(),
            knock.event_id.clone(),
            knock.event.clone(),
        );
        let client = self.client();
        let answer =
            client.send_expecting::<KnockAnswer, _>(server, request, RequestLimits::LARGE_RESPONSE);
        Ok(answer.await?.knock_room_state.0)
    }
}

impl Federation {
    /// Sends an invite to the server of the invited user. Returns the event with that server's signature.
    ///
    /// # Errors
    ///
    /// As [`Federation::make_join`].
    pub async fn send_invite(
        &self,
        server: &ServerName,
        invitation: OutgoingInvite<'_>,
    ) -> Result<Box<RawValue>, RequestFailure> {
        let (event, version) = (invitation.event, invitation.room_version);
        let room_state = invitation.room_state.iter().cloned();
        let request = create_invite::v2::Request::new(
            invitation.room_id.to_owned(),
            event.event_id.clone(),
            version.clone(),
            event.event.clone(),
            room_state.map(RawStrippedState::Pdu).collect(),
        );
        let answer = match self.client().send(server, request, INVITE_LIMITS).await {
            Ok(answer) => answer.event,
            Err(failure) if failure.is_unknown_endpoint() => {
                // The specification says: "This API is for rooms of versions 1 and 2".
                if !matches!(version, RoomVersionId::V1 | RoomVersionId::V2) {
                    return Err(unsupported_version(version));
                }
                self.send_invite_v1(server, invitation).await?
            }
            Err(failure) => return Err(failure),
        };
        let signed = with_signature(&event.event, &answer, server);
        signed.ok_or_else(|| {
            RequestFailure::Unreachable(format!("{server} accepted the invite but did not sign it"))
        })
    }

    /// Sends an invite in its v1 form, the only one that older servers know.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1inviteroomideventid).
    async fn send_invite_v1(
        &self,
        server: &ServerName,
        invitation: OutgoingInvite<'_>,
    ) -> Result<Box<RawValue>, RequestFailure> {
        let broken = |error: serde_json::Error| RequestFailure::Unreachable(error.to_string());
        let mut event: Map<String, Value> =
            serde_json::from_str(invitation.event.event.get()).map_err(broken)?;
        event.insert(
            "unsigned".to_owned(),
            json!({ "invite_room_state": invitation.room_state }),
        );
        let event = to_raw_value(&event).map_err(broken)?;
        let endpoint = EventEndpoint {
            path: INVITE_V1_PATH,
            room_id: invitation.room_id,
            event_id: &invitation.event.event_id,
        };
        let answer = self
            .client()
            .put_event(server, endpoint, &event, INVITE_LIMITS)
            .await?;
        let (_, taken): (u16, InviteV1Answer) = serde_json::from_slice(&answer).map_err(broken)?;
        Ok(taken.event)
    }
}

/// Adds a server's signature to an event, from a copy that the server signed. Nothing else is taken from the copy.
fn with_signature(
    event: &RawValue,
    signed: &RawValue,
    server: &ServerName,
) -> Option<Box<RawValue>> {
    let mut object: CanonicalJsonObject = serde_json::from_str(event.get()).ok()?;
    let signed: CanonicalJsonObject = serde_json::from_str(signed.get()).ok()?;
    let theirs = signed.get("signatures")?.as_object()?;
    let theirs = theirs.get(server.as_str())?.clone();
    let CanonicalJsonValue::Object(signatures) = object.get_mut("signatures")? else {
        return None;
    };
    signatures.insert(server.to_string(), theirs);
    to_raw_value(&object).ok()
}
