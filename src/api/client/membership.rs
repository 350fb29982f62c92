//! Room membership.

use axum::{Json, Router, extract::State};
use ruma::{
    api::client::membership::{
        ban_user, forget_room, get_member_events, invite_user, join_room_by_id,
        join_room_by_id_or_alias, joined_members, kick_user, leave_room, unban_user,
    },
    events::{StateEventType, room::member::MembershipState},
    serde::Raw,
};
use serde_json::{Map, Value, json};

use crate::{
    api::{Answered, App, Class, Incoming, Limits, Outgoing, WithBody, endpoint},
    clock::Clock,
    error::{Error, Result},
    matrix::{self, Unsigned},
    rooms::{Action, Rooms},
    sync::{Sync, place_of},
    workflows::{Wish, Workflows},
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
    State(limits): State<Limits>,
    WithBody {
        from,
        request,
        body,
    }: WithBody<join_room_by_id::v3::Request>,
) -> Result<Answered<Outgoing<join_room_by_id::v3::Response>>> {
    let sending = sync.sending(from.device);
    limits.check(Class::Send, &*from.user_id)?;
    let room_id = workflows
        .join(
            &from,
            ((&*request.room_id).into(), Vec::new()),
            request.reason,
            body,
        )
        .await?;
    let response = join_room_by_id::v3::Response::new(room_id);
    Ok(Answered(sending, Outgoing(response)))
}

/// `POST /_matrix/client/*/join/{roomIdOrAlias}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3joinroomidoralias).
async fn join_room_by_id_or_alias(
    State(sync): State<Sync>,
    State(workflows): State<Workflows>,
    State(limits): State<Limits>,
    WithBody {
        from,
        request,
        body,
    }: WithBody<join_room_by_id_or_alias::v3::Request>,
) -> Result<Answered<Outgoing<join_room_by_id_or_alias::v3::Response>>> {
    let sending = sync.sending(from.device);
    limits.check(Class::Send, &*from.user_id)?;
    let room_id = workflows
        .join(
            &from,
            (&request.room_id_or_alias, request.via),
            request.reason,
            body,
        )
        .await?;
    let response = join_room_by_id_or_alias::v3::Response::new(room_id);
    Ok(Answered(sending, Outgoing(response)))
}

/// `POST /_matrix/client/*/rooms/{roomId}/invite`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidinvite).
async fn invite_user(
    State(sync): State<Sync>,
    State(workflows): State<Workflows>,
    State(limits): State<Limits>,
    Incoming { from, request }: Incoming<invite_user::v3::Request>,
) -> Result<Answered<Outgoing<invite_user::v3::Response>>> {
    let sending = sync.sending(from.device);
    limits.check(Class::Send, &*from.user_id)?;
    let invite_user::v3::InvitationRecipient::UserId(invited) = request.recipient else {
        return Err(Error::forbidden(
            "this server cannot invite by e-mail or phone number: it has no identity server",
        ));
    };
    limits.check_invitations(&from.user_id, [&*invited.user_id])?;
    let wish = Wish::new(invited.user_id, Action::Invite, invited.reason);
    workflows
        .change_membership(&from, &request.room_id, wish)
        .await?;
    let response = invite_user::v3::Response::new();
    Ok(Answered(sending, Outgoing(response)))
}

/// `POST /_matrix/client/*/rooms/{roomId}/leave`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidleave).
async fn leave_room(
    State(sync): State<Sync>,
    State(workflows): State<Workflows>,
    Incoming { from, request }: Incoming<leave_room::v3::Request>,
) -> Result<Answered<Outgoing<leave_room::v3::Response>>> {
    let sending = sync.sending(from.device);
    let wish = Wish::new(from.user_id.clone(), Action::Leave, request.reason);
    workflows
        .change_membership(&from, &request.room_id, wish)
        .await?;
    let response = leave_room::v3::Response::new();
    Ok(Answered(sending, Outgoing(response)))
}

/// `POST /_matrix/client/*/rooms/{roomId}/kick`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidkick).
async fn kick_user(
    State(sync): State<Sync>,
    State(workflows): State<Workflows>,
    Incoming { from, request }: Incoming<kick_user::v3::Request>,
) -> Result<Answered<Outgoing<kick_user::v3::Response>>> {
    let sending = sync.sending(from.device);
    let wish = Wish::new(request.user_id, Action::Kick, request.reason);
    workflows
        .change_membership(&from, &request.room_id, wish)
        .await?;
    let response = kick_user::v3::Response::new();
    Ok(Answered(sending, Outgoing(response)))
}

/// `POST /_matrix/client/*/rooms/{roomId}/ban`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidban).
async fn ban_user(
    State(sync): State<Sync>,
    State(workflows): State<Workflows>,
    Incoming { from, request }: Incoming<ban_user::v3::Request>,
) -> Result<Answered<Outgoing<ban_user::v3::Response>>> {
    let sending = sync.sending(from.device);
    let wish = Wish::new(request.user_id, Action::Ban, request.reason);
    workflows
        .change_membership(&from, &request.room_id, wish)
        .await?;
    let response = ban_user::v3::Response::new();
    Ok(Answered(sending, Outgoing(response)))
}

/// `POST /_matrix/client/*/rooms/{roomId}/unban`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidunban).
async fn unban_user(
    State(sync): State<Sync>,
    State(workflows): State<Workflows>,
    Incoming { from, request }: Incoming<unban_user::v3::Request>,
) -> Result<Answered<Outgoing<unban_user::v3::Response>>> {
    let sending = sync.sending(from.device);
    let wish = Wish::new(request.user_id, Action::Unban, request.reason);
    workflows
        .change_membership(&from, &request.room_id, wish)
        .await?;
    let response = unban_user::v3::Response::new();
    Ok(Answered(sending, Outgoing(response)))
}

/// `POST /_matrix/client/*/rooms/{roomId}/forget`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidforget).
async fn forget_room(
    State(rooms): State<Rooms>,
    Incoming { from, request }: Incoming<forget_room::v3::Request>,
) -> Result<Outgoing<forget_room::v3::Response>> {
    rooms
        .memberships
        .forget(&request.room_id, from.user, &from.user_id)
        .await?;
    Ok(Outgoing(forget_room::v3::Response::new()))
}

/// `GET /_matrix/client/*/rooms/{roomId}/joined_members`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidjoined_members).
async fn joined_members(
    State(rooms): State<Rooms>,
    Incoming { from, request }: Incoming<joined_members::v3::Request>,
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
    Incoming { from, request }: Incoming<get_member_events::v3::Request>,
) -> Result<Outgoing<get_member_events::v3::Response>> {
    let room = rooms.memory.room_of_member(&request.room_id).await?;
    let at = request.at.as_deref().map(place_of).transpose()?;
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
            let unsigned = Unsigned {
                age: Some(age),
                ..Unsigned::default()
            };
            let head = matrix::head(pdu, &room.rules);
            let json = matrix::client_event(&head, room.room_id.as_str(), &unsigned);
            chunk.push(Raw::from_json(json));
        }
    }
    Ok(Outgoing(get_member_events::v3::Response::new(chunk)))
}
