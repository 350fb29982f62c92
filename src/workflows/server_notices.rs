//! Server notices: messages of the server to its users, each in a room of their own.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#server-notices).

use std::{collections::HashMap, sync::Arc};

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
    api::client::room::create_room::{self, v3::RoomPreset},
    events::{TimelineEventType, room::member::MembershipState},
    serde::Raw,
};
use serde_json::{json, value::RawValue};
use tokio::sync::Mutex;

use super::{WorkflowSources, profiles::UserProfiles};
use crate::{
    error::{Error, RefusalCode, Result},
    numbers::UserNum,
    rooms::{
        ClientTransaction, CreateRoom, EventToSend, MemberChange, MemberProfile, MembershipAction,
        Rooms,
    },
    tasks::Tasks,
    users::{Session, Users},
};

/// The name of the sender and of the rooms.
const SERVER_NOTICES_NAME: &str = "Server Notices";

/// A notice to a user.
#[derive(Debug)]
pub struct ServerNotice {
    /// The recipient.
    pub user_id: OwnedUserId,
    pub kind: TimelineEventType,
    pub content: Box<RawValue>,
    /// The transaction id by which a repeated notice is recognized.
    pub txn_id: Option<String>,
}

/// Sends notices of the server to its users. Cheap to clone.
#[derive(Clone)]
pub struct ServerNotices {
    users: Users,
    rooms: Rooms,
    tasks: Tasks,
    profiles: UserProfiles,
    /// Held while a server notice looks up or creates its room.
    room_lock: Arc<Mutex<()>>,
}

impl ServerNotices {
    pub(super) fn new(sources: &WorkflowSources, profiles: &UserProfiles) -> Self {
        Self {
            users: sources.users.clone(),
            rooms: sources.rooms.clone(),
            tasks: sources.tasks.clone(),
            profiles: profiles.clone(),
            room_lock: Arc::default(),
        }
    }

    /// Sends a notice to a user, on behalf of an administrator. The user is invited to the room for their notices.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for all other users; [`Error::NotFound`] when the user does not exist;
    /// `RefusalCode::Unrecognized` when no sender is configured.
    pub async fn send_server_notice(
        &self,
        session: &Session,
        notice: ServerNotice,
    ) -> Result<OwnedEventId> {
        let sender = self.users.notices.sender().ok_or_else(|| {
            Error::refused(
                RefusalCode::Unrecognized,
                "no sender of server notices is configured".to_owned(),
            )
        })?;
        let user = self.users.lookup.user_num(&notice.user_id).await?;
        let room_id = self
            .find_or_create_notice_room(sender, user, &notice.user_id)
            .await?;
        let transaction = notice.txn_id.map(|txn_id| ClientTransaction {
            device: session.device,
            txn_id: format!("server_notice:{}:{txn_id}", notice.user_id),
        });
        let event = EventToSend::message(sender.clone(), notice.kind, notice.content, transaction);
        self.rooms.sender.send(&room_id, event).await
    }

    /// Checks that a user may leave a room. An invite to the room for server notices cannot be rejected.
    ///
    /// # Errors
    ///
    /// [`Error::CannotLeaveServerNoticeRoom`].
    pub(super) async fn check_leave(&self, session: &Session, room_id: &RoomId) -> Result<()> {
        if self.users.notices.sender().is_none() {
            return Ok(());
        }
        let Ok(room) = self.rooms.memory.room_number(room_id).await else {
            return Ok(());
        };
        let mine = self
            .rooms
            .memory
            .rooms_of_user(session.user)
            .await?
            .get(room);
        let is_invited = mine.is_some_and(|mine| mine.membership == MembershipState::Invite);
        if is_invited && self.users.notices.is_notice_room(room).await? {
            return Err(Error::CannotLeaveServerNoticeRoom);
        }
        Ok(())
    }

    /// Returns the room for a user's notices, creates it if necessary, and invites the user.
    async fn find_or_create_notice_room(
        &self,
        sender: &UserId,
        user: UserNum,
        user_id: &UserId,
    ) -> Result<OwnedRoomId> {
        let (service, sender, user_id) = (self.clone(), sender.to_owned(), user_id.to_owned());
        // In a task of its own: if the client disconnects now, the new room must still be recorded.
        let preparing = self.tasks.spawn(async move {
            let _guard = service.room_lock.lock().await;
            let room_id = match service.users.notices.room_of(user).await? {
                Some(room) => service.rooms.memory.room_id(room).await?,
                None => service.create_notice_room(&sender, user, &user_id).await?,
            };
            service
                .invite_to_notices(&sender, &user_id, &room_id)
                .await?;
            Ok(room_id)
        });
        preparing
            .await
            .map_err(|source| Error::internal("prepare the room for server notices", source))?
    }

    async fn create_notice_room(
        &self,
        sender: &UserId,
        user: UserNum,
        user_id: &UserId,
    ) -> Result<OwnedRoomId> {
        let mut request = create_room::v3::Request::new();
        request.preset = Some(RoomPreset::PrivateChat);
        request.name = Some(SERVER_NOTICES_NAME.to_owned());
        request.invite = vec![user_id.to_owned()];
        // Nobody may reply to notices.
        let levels = json!({ "users_default": -10 });
        request.power_level_content_override = Some(Raw::new(&levels)?.cast_unchecked());
        let shown = MemberProfile {
            displayname: Some(SERVER_NOTICES_NAME.to_owned()),
            avatar_url: None,
        };
        let profiles = HashMap::from([
            (sender.to_owned(), shown),
            (
                user_id.to_owned(),
                self.profiles.member_profile(user_id).await,
            ),
        ]);
        let created = CreateRoom {
            creator: sender.to_owned(),
            request,
            profiles,
        };
        let room_id = self.rooms.creation.create_room(created).await?;
        self.users.notices.set_room(user, &room_id).await?;
        Ok(room_id)
    }

    /// Invites a user again who has left the room for their notices.
    async fn invite_to_notices(
        &self,
        sender: &UserId,
        user_id: &UserId,
        room_id: &RoomId,
    ) -> Result<()> {
        let room = self.rooms.memory.room(room_id).await?;
        let membership = room.view().state.membership(user_id);
        if matches!(membership, MembershipState::Join | MembershipState::Invite) {
            return Ok(());
        }
        let profile = self.profiles.member_profile(user_id).await;
        let mut invitation = MemberChange::for_self(user_id, MembershipAction::Invite, profile);
        sender.clone_into(&mut invitation.sender);
        self.rooms
            .memberships
            .change_membership(room_id, invitation)
            .await
    }
}
