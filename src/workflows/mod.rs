//! Operations that need several services, such as the changes in rooms that follow from a change to an account.

mod aliases;
mod device_list_tracker;
mod edus;
mod expiring_invites;
mod guests;
mod inbox;
mod invite_links;
mod join_leave_knock;
mod people;
mod profiles;
mod received_invites;
mod remote;
mod remote_keys;
mod server_notices;
mod state_checks;
mod upgrade;

use std::{collections::HashMap, sync::Arc, time::Duration};

use ruma::{
    EventId, OwnedRoomId, OwnedUserId, RoomId, UserId, api::client::room::create_room,
    events::receipt::ReceiptThread,
};

use serde_json::{Map, Value};
use tokio::sync::Mutex;

use self::device_list_tracker::DeviceListTracker;
pub use self::{
    inbox::{PduResults, ReceivedTransaction},
    invite_links::LinkPreview,
    join_leave_knock::{AcceptedSignedEvent, SignedEvent},
    people::{PeopleWithPresence, PersonWithPresence},
    received_invites::ReceivedInvitation,
    server_notices::ServerNotice,
};
use crate::{
    clock::Clock,
    devices::Devices,
    ephemeral::{EphemeralState, PresenceUpdate},
    error::{Error, Result},
    federation::Federation,
    keyed_semaphore::KeyedSemaphore,
    rooms::{
        CreateRoom, MemberChange, MemberProfile, MembershipAction, ReceiptUpdate, Room, Rooms,
    },
    tasks::Tasks,
    users::{ProfileChange, Session, Users},
};

/// The number of changes to one membership that wait while another server processes an earlier one.
const MAX_WAITING_REMOTE_CHANGES: usize = 32;

/// The service for operations that need several other services. Cheap to clone.
#[derive(Clone)]
pub struct Workflows {
    users: Users,
    devices: Devices,
    rooms: Rooms,
    ephemeral: EphemeralState,
    federation: Federation,
    tasks: Tasks,
    device_list_tracker: DeviceListTracker,
    /// Receipts that arrived before their events.
    early_receipts: Arc<edus::EarlyReceipts>,
    running_joins: remote::RunningJoins,
    /// Changes to memberships that other servers have to accept: one at a time for each membership.
    remote_changes: KeyedSemaphore<(OwnedRoomId, OwnedUserId)>,
    remote_descriptions: remote::RemoteDescriptions,
    inbox: Arc<inbox::TransactionInbox>,
    /// The memory limit for other servers' answers about keys.
    answer_memory: Arc<remote_keys::AnswerMemory>,
    /// Held while a server notice looks up or creates its room.
    notice_room_lock: Arc<Mutex<()>>,
}

/// A change to a membership that a user requests.
#[derive(Clone, Debug)]
pub struct MembershipRequest {
    /// The user whose membership changes.
    pub target: OwnedUserId,
    pub action: MembershipAction,
    pub reason: Option<String>,
    /// Additional content of the member event of a join.
    pub extra: Map<String, Value>,
}

impl MembershipRequest {
    /// Returns a request without additional content in the member event.
    pub fn new(target: OwnedUserId, action: MembershipAction, reason: Option<String>) -> Self {
        Self {
            target,
            action,
            reason,
            extra: Map::new(),
        }
    }
}

impl Workflows {
    /// Creates the service from the services below it.
    pub fn new(
        (users, devices): (Users, Devices),
        rooms: Rooms,
        ephemeral: EphemeralState,
        federation: Federation,
        (tasks, clock): (Tasks, &Clock),
    ) -> Self {
        let remote_lists =
            DeviceListTracker::start((&devices, &rooms), &ephemeral, &federation, &tasks);
        let kept = Arc::<edus::EarlyReceipts>::default();
        devices.add_follower(kept.clone());
        let workflows = Self {
            inbox: Arc::new(inbox::TransactionInbox::new(clock)),
            users,
            devices,
            rooms,
            ephemeral,
            remote_descriptions: remote::RemoteDescriptions::new(&federation),
            federation,
            tasks,
            device_list_tracker: remote_lists,
            early_receipts: kept,
            running_joins: remote::RunningJoins::default(),
            remote_changes: KeyedSemaphore::new(1, MAX_WAITING_REMOTE_CHANGES),
            answer_memory: Arc::default(),
            notice_room_lock: Arc::default(),
        };
        workflows.start_background_tasks();
        workflows
    }

    /// Starts the background tasks.
    fn start_background_tasks(&self) {
        let (workflows, stopping) = (self.clone(), self.tasks.stopping().clone());
        drop(self.tasks.spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = workflows.store_early_receipts() => {}
            }
        }));
    }

    /// Creates a room for a user.
    pub async fn create_room(
        &self,
        session: &Session,
        request: create_room::v3::Request,
    ) -> Result<OwnedRoomId> {
        let creator = session.user_id.clone();
        let mut profiles = HashMap::new();
        for user_id in request.invite.iter().chain([&creator]) {
            profiles.insert(user_id.clone(), self.member_profile(user_id).await);
        }
        let invitations = self.remote_invitations(session, &request, &profiles);
        let created = CreateRoom {
            creator,
            request,
            profiles,
        };
        let room_id = self.rooms.creation.create_room(created).await?;
        self.copy_predecessor_settings(session, &room_id).await?;
        self.invite_remote_users(&room_id, invitations).await;
        Ok(room_id)
    }

    /// Changes a membership as a user requests.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] with the rule that refuses it.
    pub async fn change_membership(
        &self,
        session: &Session,
        room_id: &RoomId,
        wish: MembershipRequest,
    ) -> Result<()> {
        if wish.action == MembershipAction::Leave {
            self.check_leave(session, room_id).await?;
            if self.has_remote_invite_or_knock(session, room_id).await? {
                return self.leave_remote_room(session, room_id, wish.reason).await;
            }
        }
        let is_shown = matches!(
            wish.action,
            MembershipAction::Join | MembershipAction::Invite | MembershipAction::Knock
        );
        let profile = if is_shown {
            self.member_profile(&wish.target).await
        } else {
            MemberProfile::default()
        };
        let (target, is_gone) = (wish.target.clone(), !is_shown);
        let change = MemberChange {
            sender: session.user_id.clone(),
            target: wish.target,
            action: wish.action,
            profile,
            reason: wish.reason,
            is_direct: false,
            extra: wish.extra,
        };
        let is_remote = !self.rooms.memory.is_local(&change.target);
        if change.action == MembershipAction::Invite && is_remote {
            self.invite_remote_user(room_id, change.into_event()?)
                .await?;
        } else {
            self.rooms
                .memberships
                .change_membership(room_id, change)
                .await?;
        }
        if is_gone {
            let room = self.rooms.memory.room_number(room_id).await?;
            self.ephemeral.typing.set_typing(room, &target, None);
        }
        Ok(())
    }

    /// Publishes a changed profile in the rooms of the user.
    pub async fn publish_profile(
        &self,
        session: &Session,
        change: Option<ProfileChange>,
    ) -> Result<()> {
        let is_shown = change
            .is_some_and(|change| matches!(change.field.as_str(), "displayname" | "avatar_url"));
        if !is_shown {
            return Ok(());
        }
        let profile = self.member_profile(&session.user_id).await;
        self.rooms
            .memberships
            .update_profile(session.user, &session.user_id, profile)
            .await
    }

    /// Deactivates an account, and makes the user leave all rooms.
    pub async fn deactivate(&self, session: &Session, erase: bool) -> Result<()> {
        self.users.account.deactivate(session, erase).await?;
        self.leave_all_remote_rooms(session).await?;
        self.rooms
            .memberships
            .leave_all_rooms(session.user, &session.user_id)
            .await
    }

    /// Records that a user is typing in a room, or has stopped.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for a user who is not in the room.
    pub async fn set_typing(
        &self,
        session: &Session,
        room_id: &RoomId,
        lasting: Option<Duration>,
    ) -> Result<()> {
        let room = self.joined_room(session, room_id).await?;
        self.ephemeral
            .presence
            .update(session.user, &session.user_id, PresenceUpdate::Active);
        self.ephemeral
            .typing
            .set_typing(room.num, &session.user_id, lasting);
        Ok(())
    }

    /// Returns a room that a user has joined.
    async fn joined_room(&self, session: &Session, room_id: &RoomId) -> Result<Arc<Room>> {
        let room = self.rooms.memory.room_of_member(room_id).await?;
        if self.rooms.memory.is_joined(session.user, &room).await? {
            return Ok(room);
        }
        Err(Error::forbidden("you are not in this room"))
    }

    /// Records that a user has read a room up to an event.
    pub async fn mark_read(
        &self,
        session: &Session,
        room_id: &RoomId,
        kind: &str,
        event_id: &EventId,
        thread: &ReceiptThread,
    ) -> Result<()> {
        let room = self.joined_room(session, room_id).await?;
        self.ephemeral
            .presence
            .update(session.user, &session.user_id, PresenceUpdate::Active);
        let is_known = matches!(
            thread,
            ReceiptThread::Unthreaded | ReceiptThread::Main | ReceiptThread::Thread(_)
        );
        if !is_known || (kind == "m.fully_read" && *thread != ReceiptThread::Unthreaded) {
            return Err(Error::invalid_param(
                "thread_id is not valid for this receipt",
            ));
        }
        match kind {
            "m.fully_read" => {
                return self
                    .users
                    .account_data
                    .set_fully_read(session, room.num, event_id)
                    .await;
            }
            "m.read" | "m.read.private" => {}
            other => {
                return Err(Error::invalid_param(format!(
                    "the receipt type {other} does not exist"
                )));
            }
        }
        let thread = thread.as_str().unwrap_or_default();
        let (user, user_id) = (session.user, &session.user_id);
        self.rooms
            .unread
            .receive_receipt(
                &room,
                ReceiptUpdate {
                    user,
                    user_id,
                    kind,
                    thread,
                    event_id,
                    ts: None,
                },
            )
            .await
    }

    /// Returns the profile that a user has in rooms; an empty one for users of other servers.
    async fn member_profile(&self, user_id: &UserId) -> MemberProfile {
        let Ok(profile) = self.users.profiles.get(user_id).await else {
            return MemberProfile::default();
        };
        let text = |field: &str| {
            profile
                .get(field)
                .and_then(|value| value.as_str())
                .map(ToOwned::to_owned)
        };
        MemberProfile {
            displayname: text("displayname"),
            avatar_url: text("avatar_url").map(Into::into),
        }
    }
}
