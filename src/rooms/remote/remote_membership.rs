//! Memberships of this server's users in rooms that no user of this server is in: invitations,
//! knocks, and their withdrawal.
//!
//! Such a room has a number here, but neither events nor state. All that the user may know about it
//! came with the invitation.
//!
//! [Inviting to a room](https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room)

use std::sync::Arc;

use ruma::{
    OwnedServerName, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId,
    canonical_json::CanonicalJsonObject, events::room::member::MembershipState,
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::RemoteMemberships;
use crate::{
    error::{Error, Result},
    matrix::{self, Pdu, UnsignedFields, VerifiedEvent},
    numbers::{Position, RoomNum, UserNum},
    rooms::{EventToSend, memory::room::Room, read::server_acl::check_server_allowed},
    storage::{
        JournalChange, WriteTx,
        rooms::{
            event_graph::{self, OutlierRow},
            events::{self, EventStatus},
            memberships, room_table,
        },
    },
};

/// The largest number of stripped state events stored for a room, and their largest total size.
/// They are held in memory.
const MAX_STRIPPED_EVENTS: usize = 100;
const MAX_STRIPPED_BYTES: usize = 65_535;

/// A member event of a user of this server in a room that no user of this server is in, with the
/// stripped state that came with it.
#[derive(Debug)]
pub struct RemoteMembershipEvent {
    pub version: RoomVersionId,
    /// The member event.
    pub event: VerifiedEvent,
    pub stripped_state: Vec<Box<RawValue>>,
}

/// The part of a stripped state event that is read.
#[derive(Deserialize)]
struct StrippedSender {
    sender: Option<OwnedUserId>,
}

impl RemoteMemberships {
    /// Stores an invitation that another server sends to a user of this server, and signs it.
    ///
    /// If this server is in the room, the invitation is only signed: it arrives in the room like
    /// any other event.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when the event is not an invitation of a user of this server;
    /// [`Error::Forbidden`] when the room's ACL denies the server; [`Error::InviteBlocked`] when
    /// the user accepts no invitations.
    pub async fn receive_invitation(
        &self,
        origin: &ServerName,
        invitation: RemoteMembershipEvent,
    ) -> Result<Box<RawValue>> {
        let pdu = invitation.event.pdu();
        let user_id = self.check_invitation_event(origin, pdu)?;
        let rules = matrix::room_version_rules(&invitation.version)
            .ok_or_else(|| Error::IncompatibleRoomVersion(invitation.version.clone()))?;
        let draft = EventToSend::state(
            pdu.sender.clone(),
            &pdu.state_type(),
            user_id.as_str(),
            pdu.content.clone(),
        );
        self.log.check_invite_permission(&draft).await?;
        let mut object: CanonicalJsonObject = serde_json::from_str(invitation.event.json())?;
        self.key.sign_event(&mut object, &rules)?;
        let json = serde_json::to_string(&object)?;
        if let Ok(room) = self.memory.resident_room(&pdu.room_id).await {
            check_server_allowed(&room.view().state, origin)?;
        } else {
            let json = json.clone();
            self.tasks
                .run_to_completion(self, async move |rooms: Self| {
                    rooms.store_remote_membership(invitation, json).await
                })
                .await?;
        }
        Ok(RawValue::from_string(json)?)
    }

    fn check_invitation_event(&self, origin: &ServerName, pdu: &Pdu) -> Result<OwnedUserId> {
        let user_id = pdu.member().filter(|user_id| self.memory.is_local(user_id));
        let is_right =
            pdu.membership() == Some(MembershipState::Invite) && pdu.sender.server_name() == origin;
        match user_id.filter(|_| is_right) {
            Some(user_id) => Ok(user_id.to_owned()),
            None => Err(Error::invalid_param(
                "the event is not an invitation of a user of this server",
            )),
        }
    }

    /// Stores the knock of a user of this server on a room that no user of this server is in.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when the event is not a knock of a user of this server.
    pub async fn store_knock(&self, knock: RemoteMembershipEvent) -> Result<()> {
        let pdu = knock.event.pdu();
        let is_own = pdu.member() == Some(&*pdu.sender) && self.memory.is_local(&pdu.sender);
        if !is_own || pdu.membership() != Some(MembershipState::Knock) {
            return Err(Error::invalid_param(
                "the event is not a knock of a user of this server",
            ));
        }
        let json = knock.event.json().to_owned();
        self.tasks
            .run_to_completion(self, async move |rooms: Self| {
                rooms.store_remote_membership(knock, json).await
            })
            .await
    }

    /// Records that a user of this server has left a room that no user of this server is in: they
    /// reject an invitation or withdraw a knock. `leave` is the leave event, if a server in the
    /// room accepted one.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the user was neither invited to it nor has knocked.
    pub async fn leave_remote_room(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        leave: Option<VerifiedEvent>,
    ) -> Result<()> {
        let num = self.memory.room_number(room_id).await?;
        let user_id = user_id.to_owned();
        self.tasks
            .run_to_completion(self, async move |rooms: Self| {
                rooms.leave_remote_room_now(num, user_id, leave).await
            })
            .await
    }

    async fn leave_remote_room_now(
        &self,
        num: RoomNum,
        user_id: OwnedUserId,
        leave: Option<VerifiedEvent>,
    ) -> Result<()> {
        let room = self.memory.room_by_number(num).await?;
        // Nobody may join the room meanwhile.
        let _tip = room.tip.lock().await;
        let user = self.memory.user_number(&user_id).await?;
        let user = user.ok_or_else(|| Error::forbidden("you were never in that room"))?;
        let membership = self.memory.rooms_of_user(user).await?.membership(num);
        if !matches!(membership, MembershipState::Invite | MembershipState::Knock) {
            return Err(Error::forbidden(
                "you have neither an invitation to that room nor a knock on it",
            ));
        }
        let event = match (leave, self.access.find_membership_event(num, user).await?) {
            (Some(leave), _) => Some(leave.into_parts()),
            (None, Some(current)) => Some(self.make_local_leave(&room, &current, &user_id)?),
            (None, None) => None,
        };
        let mut tx = self.db.write().await?;
        let position = tx.next_position();
        let row = match &event {
            Some((pdu, json)) => Some(store_outlier(&mut tx, num, pdu, json).await?),
            None => None,
        };
        let gone = event
            .as_ref()
            .and_then(|(pdu, _)| pdu.membership())
            .unwrap_or(MembershipState::Leave);
        let new = memberships::NewMembership {
            user,
            room: num,
            membership: gone.as_str(),
            position,
            event: row,
            stripped_state: None,
        };
        memberships::set(&mut tx, new).await?;
        let change = JournalChange::Membership {
            user,
            user_id,
            local: true,
            room: num,
            membership: Some(gone),
            stripped_state: None,
        };
        tx.publish(position, change);
        tx.commit().await
    }

    /// Ends an invitation or a knock when a server in the room sends the leave event.
    ///
    /// This server cannot check whether the room allows it. An invitation can therefore only be
    /// withdrawn by its sender, and the leave event must name the invitation or the knock as an
    /// auth event.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the event does not end an invitation or a knock.
    pub(crate) async fn retract_membership(
        &self,
        room: &Room,
        event: &VerifiedEvent,
    ) -> Result<()> {
        let pdu = event.pdu();
        let not_here = || Error::not_found("this server is not in the room");
        let user_id = pdu.member().filter(|user_id| self.memory.is_local(user_id));
        let user_id = user_id.ok_or_else(not_here)?.to_owned();
        let is_out = matches!(
            pdu.membership(),
            Some(MembershipState::Leave | MembershipState::Ban)
        );
        let user = self
            .memory
            .user_number(&user_id)
            .await?
            .ok_or_else(not_here)?;
        let current = self.access.find_membership_event(room.num, user).await?;
        let current = current.filter(|current| pdu.auth_events.contains(&current.event_id));
        let is_retractable = match self.memory.rooms_of_user(user).await?.membership(room.num) {
            MembershipState::Knock => current.is_some(),
            MembershipState::Invite => current.is_some_and(|current| current.sender == pdu.sender),
            _ => false,
        };
        if !is_out || !is_retractable {
            return Err(not_here());
        }
        let (num, leave) = (room.num, Some(event.clone()));
        self.tasks
            .run_to_completion(self, async move |rooms: Self| {
                rooms.leave_remote_room_now(num, user_id, leave).await
            })
            .await
    }

    /// Returns the event by which a user left a room that this server was not in, as clients see
    /// it.
    pub async fn remote_leave_event(
        &self,
        room: &Room,
        user: UserNum,
    ) -> Result<Option<Box<RawValue>>> {
        let event = self.access.find_membership_event(room.num, user).await?;
        let is_out = |pdu: &Pdu| {
            matches!(
                pdu.membership(),
                Some(MembershipState::Leave | MembershipState::Ban)
            )
        };
        Ok(event.filter(is_out).map(|pdu| {
            let head = matrix::write_event_head(&pdu, &room.rules);
            matrix::sync_event(&head, &UnsignedFields::default())
        }))
    }

    /// Makes a leave event that only this server sees, for when no server of the room could be
    /// reached.
    fn make_local_leave(
        &self,
        room: &Room,
        current: &Pdu,
        user_id: &UserId,
    ) -> Result<(Pdu, String)> {
        // Before version 3, events name others with their hashes, and have an id of their own.
        let follows = match &current.reference_hash {
            Some(hash) => json!([[current.event_id, { "sha256": hash }]]),
            None => json!([current.event_id]),
        };
        let mut event = json!({
            "type": "m.room.member", "room_id": room.room_id, "sender": user_id, "state_key": user_id,
            "content": { "membership": "leave" }, "origin_server_ts": self.clock.now(),
            "depth": current.depth, "prev_events": follows, "auth_events": follows,
        });
        if let Some(event_id) = self.log.new_event_id(&room.rules)
            && let Some(event) = event.as_object_mut()
        {
            event.insert("event_id".to_owned(), json!(event_id));
        }
        let mut object: CanonicalJsonObject = serde_json::from_value(event)?;
        self.key.hash_and_sign(&mut object, &room.rules)?;
        Pdu::from_object(&object, &room.rules)
    }

    /// Returns the servers of the senders of a room's stripped state, as a user received it.
    pub async fn servers_from_stripped_state(
        &self,
        room_id: &RoomId,
        user: UserNum,
    ) -> Result<Vec<OwnedServerName>> {
        let num = self.memory.room_number(room_id).await?;
        let mine = self.memory.rooms_of_user(user).await?.get(num);
        let stripped = mine.and_then(|mine| mine.stripped_state);
        let stripped: Vec<StrippedSender> = stripped
            .and_then(|stripped| serde_json::from_str(&stripped).ok())
            .unwrap_or_default();
        let servers = stripped
            .into_iter()
            .filter_map(|event| event.sender)
            .map(|sender| sender.server_name().to_owned());
        Ok(servers.collect())
    }

    /// Returns the number of a room; stores the room first if it is new here.
    pub(crate) async fn ensure_room_number(
        &self,
        room_id: &ruma::RoomId,
        version: &RoomVersionId,
    ) -> Result<RoomNum> {
        match self.memory.room_number(room_id).await {
            Err(Error::NotFound(_)) => {}
            known => return known,
        }
        let mut tx = self.db.write().await?;
        room_table::insert(&mut tx, room_id.as_str(), version.as_str()).await?;
        tx.commit().await?;
        self.memory.room_number(room_id).await
    }

    async fn store_remote_membership(
        &self,
        from: RemoteMembershipEvent,
        json: String,
    ) -> Result<()> {
        let pdu = from.event.pdu();
        let num = self.ensure_room_number(&pdu.room_id, &from.version).await?;
        let room = self.memory.room_by_number(num).await?;
        let _tip = room.tip.lock().await;
        let Some((user_id, membership)) = pdu.member().zip(pdu.membership()) else {
            return Ok(());
        };
        let mut stripped: Vec<Box<RawValue>> = from.stripped_state;
        stripped.truncate(MAX_STRIPPED_EVENTS);
        let mut left = MAX_STRIPPED_BYTES;
        stripped.retain(|state| {
            let fits = state.get().len() <= left;
            left -= if fits { state.get().len() } else { 0 };
            fits
        });
        let mut shown: Vec<Box<RawValue>> = stripped
            .iter()
            .filter_map(|state| matrix::strip_remote_event(state))
            .collect();
        shown.push(matrix::stripped_state_event(pdu));
        let stripped: Arc<str> = serde_json::to_string(&shown)?.into();
        let mut tx = self.db.write().await?;
        let user = tx.intern_user(user_id.as_str()).await?;
        let position = tx.next_position();
        let row = store_outlier(&mut tx, num, pdu, &json).await?;
        let new = memberships::NewMembership {
            user,
            room: num,
            membership: membership.as_str(),
            position,
            event: Some(row),
            stripped_state: Some(&stripped),
        };
        memberships::set(&mut tx, new).await?;
        let change = JournalChange::Membership {
            user,
            user_id: user_id.to_owned(),
            local: true,
            room: num,
            membership: Some(membership),
            stripped_state: Some(stripped),
        };
        tx.publish(position, change);
        tx.commit().await
    }
}

/// Stores an event as an outlier; returns its position.
async fn store_outlier(tx: &mut WriteTx, room: RoomNum, pdu: &Pdu, json: &str) -> Result<Position> {
    if let Some(known) = events::get_anywhere(tx, pdu.event_id.as_str()).await? {
        return Ok(known.position);
    }
    let outlier = OutlierRow {
        position: tx.next_position(),
        room,
        event_id: pdu.event_id.as_str(),
        kind: tx.intern(&pdu.kind.to_string()).await?,
        state_key: match &pdu.state_key {
            Some(state_key) => Some(tx.intern(state_key).await?),
            None => None,
        },
        sender: tx.intern_user(pdu.sender.as_str()).await?,
        status: EventStatus::Accepted,
        origin_server_ts: pdu.origin_server_ts.0.into(),
        json,
    };
    let position = outlier.position;
    event_graph::insert_outliers(tx, &[outlier]).await?;
    Ok(position)
}
