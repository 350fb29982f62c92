//! Room membership.

use axum::{Json, Router, extract::State};
use ruma::{
    api::client::membership::{
        ban_user, forget_room, get_member_events,
        invite_user::{self, v3::InvitationRecipient},
        join_room_by_id, join_room_by_id_or_alias, joined_members, kick_user, leave_room,
        unban_user,
    },
    events::{StateEventType, room::member::MembershipState},
    serde::Raw,
};
use serde_json::{Map, Value, json};

use crate::{
    api::{
        App, InFlightResponse, MatrixRequest, MatrixResponse, RateLimits, RequestWithBody, endpoint,
    },
    clock::Clock,
    error::{Error, Result},
    matrix::{self, UnsignedFields},
    rooms::{MembershipAction, Rooms},
    sync::{Sync, parse_timeline_token},
    workflows::{JoinRequest, MembershipRequest, Workflows},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<join_room_by_id::v3::Request, _>(join_room_by_id))
        .merge(endpoint::<join_room_by_id_or_alias::v3::Request, _>(
            join_room_by_id_or_alias,
        ))
        .merge(endpoint::<invite_user::v3::Request, _>(invite_user))
        .merge(endpoint::<leave_room::v3::Request, _>(leave_room))
        .merge(endpoint::<kick_user::v3::Request, _>(kick_user))
        .merge(endpoint::<ban_user::v3::Request, _>(ban_user))
        .merge(endpoint::<unban_user::v3::Request, _>(unban_user))
        .merge(endpoint::<forget_room::v3::Request, _>(forget_room))
        .merge(endpoint::<joined_members::v3::Request, _>(joined_members))
        .merge(endpoint::<get_member_events::v3::Request, _>(
            get_member_events,
        ))
}

/// `POST /_matrix/client/*/rooms/{roomId}/join`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidjoin).
async fn join_room_by_id(
    State(sync): State<Sync>,
    State(workflows): State<Workflows>,
    RequestWithBody {
        from,
        request,
        body,
    }: RequestWithBody<join_room_by_id::v3::Request>,
) -> Result<InFlightResponse<MatrixResponse<join_room_by_id::v3::Response>>> {
    let sending = sync.begin_send(from.device);
    let join = JoinRequest {
        room: (&*request.room_id).into(),
        via: Vec::new(),
        reason: request.reason,
        extra: body,
    };
    let room_id = workflows.joins.join(&from, join).await?;
    let response = join_room_by_id::v3::Response::new(room_id);
    Ok(InFlightResponse(sending, MatrixResponse(response)))
}

/// `POST /_matrix/client/*/join/{roomIdOrAlias}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3joinroomidoralias).
async fn join_room_by_id_or_alias(
    State(sync): State<Sync>,
    State(workflows): State<Workflows>,
    RequestWithBody {
        from,
        request,
        body,
    }: RequestWithBody<join_room_by_id_or_alias::v3::Request>,
) -> Result<InFlightResponse<MatrixResponse<join_room_by_id_or_alias::v3::Response>>> {
    let sending = sync.begin_send(from.device);
    let join = JoinRequest {
        room: &request.room_id_or_alias,
        via: request.via,
        reason: request.reason,
        extra: body,
    };
    let room_id = workflows.joins.join(&from, join).await?;
    let response = join_room_by_id_or_alias::v3::Response::new(room_id);
    Ok(InFlightResponse(sending, MatrixResponse(response)))
}

/// `POST /_matrix/client/*/rooms/{roomId}/invite`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidinvite).
async fn invite_user(
    State(sync): State<Sync>,
    State(workflows): State<Workflows>,
    State(limits): State<RateLimits>,
    MatrixRequest { from, request }: MatrixRequest<invite_user::v3::Request>,
) -> Result<InFlightResponse<MatrixResponse<invite_user::v3::Response>>> {
    let sending = sync.begin_send(from.device);
    let room_id = &request.room_id;
    match request.recipient {
        InvitationRecipient::UserId(invited) => {
            limits.check_invitations(&from, [&*invited.user_id])?;
            let change =
                MembershipRequest::new(invited.user_id, MembershipAction::Invite, invited.reason);
            let memberships = &workflows.memberships;
            memberships
                .change_membership(&from, room_id, change)
                .await?;
        }
        InvitationRecipient::ThirdPartyId(invite) => {
            limits.check_third_party_invitation(&from)?;
            let invites = &workflows.third_party_invites;
            invites.invite(&from, room_id, invite).await?;
        }
        _ => return Err(Error::invalid_param("unknown kind of recipient")),
    }
    let response = invite_user::v3::Response::new();
    Ok(InFlightResponse(sending, MatrixResponse(response)))
}

/// `POST /_matrix/client/*/rooms/{roomId}/leave`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidleave).
async fn leave_room(
    State(sync): State<Sync>,
    State(workflows): State<Workflows>,
    MatrixRequest { from, request }: MatrixRequest<leave_room::v3::Request>,
) -> Result<InFlightResponse<MatrixResponse<leave_room::v3::Response>>> {
    let sending = sync.begin_send(from.device);
    let change = MembershipRequest::new(
        from.user_id.clone(),
        MembershipAction::Leave,
        request.reason,
    );
    workflows
        .memberships
        .change_membership(&from, &request.room_id, change)
        .await?;
    let response = leave_room::v3::Response::new();
    Ok(InFlightResponse(sending, MatrixResponse(response)))
}

/// `POST /_matrix/client/*/rooms/{roomId}/kick`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidkick).
async fn kick_user(
    State(sync): State<Sync>,
    State(workflows): State<Workflows>,
    MatrixRequest { from, request }: MatrixRequest<kick_user::v3::Request>,
) -> Result<InFlightResponse<MatrixResponse<kick_user::v3::Response>>> {
    let sending = sync.begin_send(from.device);
    let change = MembershipRequest::new(request.user_id, MembershipAction::Kick, request.reason);
    workflows
        .memberships
        .change_membership(&from, &request.room_id, change)
        .await?;
    let response = kick_user::v3::Response::new();
    Ok(InFlightResponse(sending, MatrixResponse(response)))
}

/// `POST /_matrix/client/*/rooms/{roomId}/ban`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidban).
async fn ban_user(
    State(sync): State<Sync>,
    State(workflows): State<Workflows>,
    MatrixRequest { from, request }: MatrixRequest<ban_user::v3::Request>,
) -> Result<InFlightResponse<MatrixResponse<ban_user::v3::Response>>> {
    let sending = sync.begin_send(from.device);
    let change = MembershipRequest::new(request.user_id, MembershipAction::Ban, request.reason);
    workflows
        .memberships
        .change_membership(&from, &request.room_id, change)
        .await?;
    let response = ban_user::v3::Response::new();
    Ok(InFlightResponse(sending, MatrixResponse(response)))
}

/// `POST /_matrix/client/*/rooms/{roomId}/unban`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidunban).
async fn unban_user(
    State(sync): State<Sync>,
    State(workflows): State<Workflows>,
    MatrixRequest { from, request }: MatrixRequest<unban_user::v3::Request>,
) -> Result<InFlightResponse<MatrixResponse<unban_user::v3::Response>>> {
    let sending = sync.begin_send(from.device);
    let change = MembershipRequest::new(request.user_id, MembershipAction::Unban, request.reason);
    workflows
        .memberships
        .change_membership(&from, &request.room_id, change)
        .await?;
    let response = unban_user::v3::Response::new();
    Ok(InFlightResponse(sending, MatrixResponse(response)))
}

/// `POST /_matrix/client/*/rooms/{roomId}/forget`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidforget).
async fn forget_room(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<forget_room::v3::Request>,
) -> Result<MatrixResponse<forget_room::v3::Response>> {
    rooms
        .memberships
        .forget_room(&request.room_id, from.user, &from.user_id)
        .await?;
    Ok(MatrixResponse(forget_room::v3::Response::new()))
}

/// `GET /_matrix/client/*/rooms/{roomId}/joined_members`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidjoined_members).
async fn joined_members(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<joined_members::v3::Request>,
) -> Result<Json<Value>> {
    let room = rooms.memory.room_of_member(&request.room_id).await?;
    if !rooms.memory.is_joined(from.user, &room).await? {
        return Err(Error::forbidden("you are not in this room"));
    }
    let state = room.view().state.clone();
    let mut joined = Map::new();
    for pdu in state.of_type(&StateEventType::RoomMember) {
        if let Some(user_id) = pdu.member()
            && pdu.membership() == Some(MembershipState::Join)
        {
            // Missing values are written as null, because some clients and tests require both fields.
            let member = json!({
                "display_name": pdu.content_str("displayname"),
                "avatar_url": pdu.content_str("avatar_url"),
            });
            joined.insert(user_id.to_string(), member);
        }
    }
    Ok(Json(json!({ "joined": joined })))
}

/// `GET /_matrix/client/*/rooms/{roomId}/members`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmembers).
async fn get_member_events(
    State(rooms): State<Rooms>,
    State(clock): State<Clock>,
    MatrixRequest { from, request }: MatrixRequest<get_member_events::v3::Request>,
) -> Result<MatrixResponse<get_member_events::v3::Response>> {
    let room = rooms.memory.room_of_member(&request.room_id).await?;
    let at = request
        .at
        .as_deref()
        .map(parse_timeline_token)
        .transpose()?;
    let mut state = rooms
        .state
        .visible_state_at(&room, from.user, &from.user_id, at)
        .await?;
    if state.is_empty() {
        // The timeline starts before the first join, so the state after the creator's join is returned.
        state = rooms.state.first_state(&room).await?;
    }
    let is_wanted = |membership: &MembershipState| {
        request
            .membership
            .as_ref()
            .is_none_or(|wanted| wanted == membership)
            && request
                .not_membership
                .as_ref()
                .is_none_or(|unwanted| unwanted != membership)
    };
    let mut chunk = Vec::new();
    for pdu in state.of_type(&StateEventType::RoomMember) {
        if pdu
            .membership()
            .is_some_and(|membership| is_wanted(&membership))
        {
            let age = (clock.now_ms() - i64::from(pdu.origin_server_ts.0)).max(0);
            let unsigned = UnsignedFields {
                age: Some(age),
                ..UnsignedFields::default()
            };
            let head = matrix::write_event_head(pdu, &room.rules);
            let json = matrix::client_event(&head, room.room_id.as_str(), &unsigned);
            chunk.push(Raw::from_json(json));
        }
    }
    Ok(MatrixResponse(get_member_events::v3::Response::new(chunk)))
}
