//! Invites to e-mail addresses: the identity server that the client names finds the user, or keeps the invite until
//! someone shows that the address is theirs.
//!
//! See the specification on
//! [invites](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidinvite-1) and on
//! [third-party invites](https://spec.matrix.org/v1.19/server-server-api/#third-party-invites).

use std::{sync::Arc, time::Duration};

use ruma::{
    RoomId,
    api::{
        client::membership::Invite3pid,
        federation::thirdparty::{
            bind_callback::v1::{Request as BindReport, ThirdPartyInvite},
            exchange_invite,
        },
    },
    events::{StateEventType, room::member::MembershipState},
    serde::Raw,
};
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use super::{
    MembershipChanges, MembershipRequest, StateEventRequest, StateEvents, WorkflowSources,
    profiles::UserProfiles,
};
use crate::{
    error::{Error, Result},
    federation::{
        Federation, IdentityAccess, IdentityServers, RequestLimits, StoredInvitation,
        ThirdPartyAddress,
    },
    matrix,
    rooms::{EventToSend, MembershipAction, Room, Rooms},
    users::{Session, Users},
};

/// The largest number of invites to addresses when a room is created.
const MAX_INVITES_AT_CREATION: usize = 20;
/// The largest number of invites that are accepted with one report of an identity server.
const MAX_REPORTED_INVITES: usize = 20;
/// The limits of the request to the server of the user who invites.
const EXCHANGE_LIMITS: RequestLimits = RequestLimits {
    time: Duration::from_secs(30),
    bytes: 64 * 1024,
};

/// Invites by e-mail address. Cheap to clone.
#[derive(Clone)]
pub struct ThirdPartyInvites {
    users: Users,
    rooms: Rooms,
    federation: Federation,
    identity_servers: IdentityServers,
    profiles: UserProfiles,
    memberships: MembershipChanges,
    state_events: StateEvents,
}

impl ThirdPartyInvites {
    pub(super) fn new(
        sources: &WorkflowSources,
        profiles: &UserProfiles,
        memberships: &MembershipChanges,
        state_events: &StateEvents,
    ) -> Self {
        Self {
            users: sources.users.clone(),
            rooms: sources.rooms.clone(),
            federation: sources.federation.clone(),
            identity_servers: sources.federation.identity_servers().clone(),
            profiles: profiles.clone(),
            memberships: memberships.clone(),
            state_events: state_events.clone(),
        }
    }

    /// Checks the invites with which a room is to be created.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when there are too many, [`Error::Forbidden`] when this server contacts no identity
    /// servers.
    pub fn check_invites(&self, invites: &[Invite3pid]) -> Result<()> {
        if invites.len() > MAX_INVITES_AT_CREATION {
            return Err(Error::invalid_param("too many invitations in one request"));
        }
        if invites.is_empty() {
            return Ok(());
        }
        self.identity_servers.check_enabled()
    }

    /// Invites the user to whom an address belongs. If the identity server knows none, it keeps the invite.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the user may not invite, or the identity server refuses it; [`Error::Unreachable`] when
    /// the identity server does not answer.
    pub async fn invite(
        &self,
        session: &Session,
        room_id: &RoomId,
        invite: Invite3pid,
    ) -> Result<()> {
        let access = IdentityAccess::parse(&invite.id_server, &invite.id_access_token)?;
        let room = self.room_to_invite_to(session, room_id).await?;
        let address = ThirdPartyAddress {
            medium: invite.medium,
            address: invite.address,
        };
        if let Some(user_id) = self.identity_servers.look_up(&access, &address).await? {
            let change = MembershipRequest::new(user_id, MembershipAction::Invite, None);
            return self
                .memberships
                .change_membership(session, room_id, change)
                .await;
        }
        let invitation = self.describe(session, &room, &address).await;
        let stored = self
            .identity_servers
            .store_invitation(&access, &invitation)
            .await?;
        let event = StateEventRequest {
            room_id: room_id.to_owned(),
            kind: StateEventType::RoomThirdPartyInvite,
            state_key: stored.token.clone(),
            content: third_party_invite_content(&stored)?,
            sticky: None,
            timestamp: None,
        };
        self.state_events.send_state_event(session, event).await?;
        Ok(())
    }

    /// Returns a room, if the user may invite to it. The identity server learns nothing of other rooms.
    async fn room_to_invite_to(&self, session: &Session, room_id: &RoomId) -> Result<Arc<Room>> {
        let room = self.rooms.memory.room(room_id).await?;
        if !self.rooms.memory.is_joined(session.user, &room).await? {
            return Err(Error::forbidden("you are not in this room"));
        }
        let levels = matrix::power_levels(&room.view().state, &room.rules);
        if !levels.user_can_invite(&session.user_id) {
            return Err(Error::forbidden("you may not invite to this room"));
        }
        Ok(room)
    }

    /// Returns what the identity server is sent of an invite, so that the message names the room and the inviting user.
    async fn describe(&self, session: &Session, room: &Room, address: &ThirdPartyAddress) -> Value {
        let profile = self.profiles.member_profile(&session.user_id).await;
        let state = room.view().state.clone();
        let text = |kind: StateEventType, field: &str| state.get(&kind, "")?.content_str(field);
        let fields = [
            ("room_name", text(StateEventType::RoomName, "name")),
            (
                "room_alias",
                text(StateEventType::RoomCanonicalAlias, "alias"),
            ),
            ("room_avatar_url", text(StateEventType::RoomAvatar, "url")),
            (
                "room_join_rules",
                text(StateEventType::RoomJoinRules, "join_rule"),
            ),
            ("room_type", text(StateEventType::RoomCreate, "type")),
            ("sender_display_name", profile.displayname),
            ("sender_avatar_url", profile.avatar_url.map(Into::into)),
        ];
        let mut description = Map::new();
        for (name, value) in fields {
            description.extend(value.map(|value| (name.to_owned(), json!(value))));
        }
        description.insert("medium".to_owned(), json!(address.medium));
        description.insert("address".to_owned(), json!(address.address));
        description.insert("room_id".to_owned(), json!(room.room_id));
        description.insert("sender".to_owned(), json!(session.user_id));
        Value::Object(description)
    }

    /// Accepts the report of an identity server that an address belongs to a user of this server: the invites to the
    /// address become invites of the user. The auth rules of the rooms check the signature of the identity server.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the user does not exist.
    pub async fn receive_report(&self, report: BindReport) -> Result<()> {
        if !self.rooms.memory.is_local(&report.mxid)
            || !self.users.lookup.has_account(&report.mxid).await?
        {
            return Err(Error::not_found("this server has no such user"));
        }
        let invites = report.invites.into_iter();
        let own = invites.filter(|invite| invite.mxid == report.mxid);
        for invite in own.take(MAX_REPORTED_INVITES) {
            let (room_id, sender) = (invite.room_id.clone(), invite.sender.clone());
            if let Err(error) = self.exchange(invite).await {
                tracing::warn!(%error, %room_id, %sender, "an invite to an e-mail address was not accepted");
            }
        }
        Ok(())
    }

    /// Makes the server of the inviting user, which may be this one, send an invite.
    async fn exchange(&self, invite: ThirdPartyInvite) -> Result<()> {
        let content = to_raw_value(&json!({
            "membership": MembershipState::Invite,
            "third_party_invite": {
                "display_name": self.shown_address(&invite).await,
                "signed": invite.signed,
            },
        }))?;
        if self.rooms.memory.is_local(&invite.sender) {
            let invited = invite.mxid.as_str();
            let event =
                EventToSend::state(invite.sender, &StateEventType::RoomMember, invited, content);
            self.rooms.sender.send(&invite.room_id, event).await?;
            return Ok(());
        }
        let server = invite.sender.server_name().to_owned();
        let request = exchange_invite::v1::Request::new(
            invite.room_id,
            invite.sender,
            invite.mxid,
            Raw::from_json(content),
        );
        let client = self.federation.client();
        let sent = client.send(&server, request, EXCHANGE_LIMITS).await;
        sent.map(drop)
            .map_err(|failure| Error::Unreachable(failure.to_string()))
    }

    /// Returns the address of an invite in the form that the room has, which does not reveal it.
    async fn shown_address(&self, invite: &ThirdPartyInvite) -> String {
        let stored = async {
            let token = invite.signed.get_field::<String>("token").ok()??;
            let room = self.rooms.memory.room(&invite.room_id).await.ok()?;
            let state = room.view().state.clone();
            let event = state.get(&StateEventType::RoomThirdPartyInvite, &token)?;
            event.content_str("display_name")
        };
        stored.await.unwrap_or_default()
    }
}

/// Returns the content of the event that has an invite which an identity server keeps.
fn third_party_invite_content(stored: &StoredInvitation) -> Result<Box<RawValue>> {
    let first = stored
        .public_keys
        .first()
        .cloned()
        .ok_or_else(|| Error::forbidden("the identity server gave no key for the invite"))?;
    Ok(to_raw_value(&json!({
        "display_name": stored.display_name,
        "public_key": first.public_key,
        "key_validity_url": first.key_validity_url,
        "public_keys": stored.public_keys,
    }))?)
}
