//! The tokens with which clients connect to the LiveKit server.
//!
//! Clients prove who they are by an `OpenID` token of their homeserver. A user must be in the room of the call. The
//! user's homeserver need not be this one: other servers in the room have LiveKit servers of their own, and the
//! participants of a call connect to those of each other.
//!
//! See [MSC4195](https://github.com/matrix-org/matrix-spec-proposals/pull/4195).

use std::sync::Arc;

use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, UserId, events::room::member::MembershipState,
};
use serde::Serialize;

use super::{
    CallSources,
    livekit_server::LiveKitServer,
    pseudonyms::{LiveKitRoomName, ParticipantIdentity, ROOM_CALL_SLOT},
};
use crate::{
    error::{Error, RefusalCode, Result},
    federation::Federation,
    rooms::Rooms,
    users::Users,
};

/// Issues the tokens with which clients connect to the LiveKit server. Cheap to clone.
#[derive(Clone)]
pub struct CallTokens {
    users: Users,
    rooms: Rooms,
    federation: Federation,
    livekit: Arc<LiveKitServer>,
}

/// A request for a token.
#[derive(Debug)]
pub struct CallTokenRequest {
    pub room_id: OwnedRoomId,
    pub proof: OpenIdProof,
    pub member: MemberClaim,
}

/// An `OpenID` token, which proves who its user is.
#[derive(Debug)]
pub struct OpenIdProof {
    pub access_token: String,
    /// The homeserver of the user.
    pub server: OwnedServerName,
}

/// The participant that a client says it is.
#[derive(Debug)]
pub enum MemberClaim {
    /// A device in the call of the whole room, for clients that do not know slots.
    Device { device_id: String },
    /// A membership in a slot.
    Slot {
        slot_id: String,
        member_id: String,
        user_id: OwnedUserId,
        device_id: String,
    },
}

/// A token, and the LiveKit server for which it is.
#[derive(Debug, Serialize)]
pub struct CallToken {
    pub jwt: String,
    pub url: String,
}

impl CallTokens {
    pub(super) fn new(sources: &CallSources, livekit: Arc<LiveKitServer>) -> Self {
        Self {
            users: sources.users.clone(),
            rooms: sources.rooms.clone(),
            federation: sources.federation.clone(),
            livekit,
        }
    }

    /// Issues a token for a user who is in the room. If the user is one of this server, the room is created at the LiveKit
    /// server: only users of this server can begin a call there.
    ///
    /// # Errors
    ///
    /// `RefusalCode::Unauthorized`, whatever is wrong with the user, the room or the proof; [`Error::Internal`] when
    /// the LiveKit server does not work.
    #[tracing::instrument(skip_all, fields(room_id = %request.room_id), err(level = "debug"))]
    pub async fn issue_token(&self, request: &CallTokenRequest) -> Result<CallToken> {
        let user_id = self.verify(request).await.map_err(hide_reason)?;
        let CallTokenRequest {
            room_id, member, ..
        } = request;
        let room = LiveKitRoomName::of_slot(room_id, member.slot_id());
        if self.federation.is_own(user_id.server_name()) {
            self.livekit.create_room(&room).await?;
        }
        Ok(CallToken {
            jwt: self
                .livekit
                .join_token(&room, &member.participant(&user_id)),
            url: self.livekit.client_url().to_owned(),
        })
    }

    /// Returns the user who makes a request, if they are in the room.
    async fn verify(&self, request: &CallTokenRequest) -> Result<OwnedUserId> {
        let OpenIdProof {
            access_token,
            server,
        } = &request.proof;
        let user_id = if self.federation.is_own(server) {
            self.users.openid.user_of(access_token).await?
        } else {
            self.federation
                .fetch_openid_user(server, access_token)
                .await?
        };
        if let MemberClaim::Slot {
            user_id: claimed, ..
        } = &request.member
            && *claimed != user_id
        {
            return Err(Error::forbidden("the token is that of another user"));
        }
        let room = if self.federation.is_own(server) {
            self.rooms.memory.resident_room(&request.room_id).await?
        } else {
            let federation = &self.rooms.federation;
            federation.room_open_to(server, &request.room_id).await?
        };
        if room.view().state.membership(&user_id) != MembershipState::Join {
            return Err(Error::forbidden("the user is not in the room"));
        }
        Ok(user_id)
    }
}

impl MemberClaim {
    fn slot_id(&self) -> &str {
        match self {
            Self::Device { .. } => ROOM_CALL_SLOT,
            Self::Slot { slot_id, .. } => slot_id,
        }
    }

    fn participant(&self, user_id: &UserId) -> ParticipantIdentity {
        match self {
            Self::Device { device_id } => ParticipantIdentity::of_device(user_id, device_id),
            Self::Slot {
                member_id,
                device_id,
                ..
            } => ParticipantIdentity::of_member(user_id, device_id, member_id),
        }
    }
}

/// Replaces the reason of a refusal: nobody may find out here whether a user or a room exists.
fn hide_reason(error: Error) -> Error {
    match error {
        Error::Internal { .. } | Error::Unavailable(_) | Error::StorageFull => error,
        refused => {
            tracing::debug!(error = %refused, "a token for a call was refused");
            let reason = "the request could not be authorised".to_owned();
            Error::refused(RefusalCode::Unauthorized, reason)
        }
    }
}
