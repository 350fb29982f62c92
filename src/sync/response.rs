//! The response of `/sync`.

use ruma::{
    OwnedRoomId,
    api::client::sync::sync_events::v3::{InvitedRoom, JoinedRoom, KnockedRoom, Response},
    events::room::member::MembershipState,
};

use super::{
    SyncEnvironment, SyncRequest, SyncToken,
    account_data::{AccountDataReader, room_account_data},
    deleted_rooms::{RemovedRoomReader, removed_room},
    device_sections::DeviceSections,
    ephemeral_events::ephemeral_events,
    invitations::{accepts_invite, stripped_state},
    presence::PresenceReader,
    profile_updates::{ProfileUpdateReader, ProfileUpdates},
    room_sections::RoomSections,
    snapshot::{RoomContents, RoomSnapshot, SnapshotReader},
    sticky_events::StickySections,
    sync_viewer::{SentEvents, SyncViewer},
    token_reader::TokenReader,
};
use crate::{
    clock::Clock, error::Result, matrix::wants_room, numbers::Position, rooms::Rooms,
    storage::users::account_data::AccountData, users::Session,
};

/// Builds the responses of `/sync`. Cheap to clone.
#[derive(Clone)]
pub(super) struct ResponseBuilder {
    clock: Clock,
    rooms: Rooms,
    sections: ResponseSections,
}

/// The services that build the parts of a response.
#[derive(Clone)]
pub(super) struct ResponseSections {
    pub(super) tokens: TokenReader,
    pub(super) snapshots: SnapshotReader,
    pub(super) account_data: AccountDataReader,
    pub(super) rooms: RoomSections,
    pub(super) removed_rooms: RemovedRoomReader,
    pub(super) presence: PresenceReader,
    pub(super) profiles: ProfileUpdateReader,
    pub(super) devices: DeviceSections,
    pub(super) sticky: StickySections,
}

/// The changes for a user.
#[derive(Debug)]
pub struct SyncAnswer {
    pub response: Response,
    /// The profile fields that changed.
    pub profile_updates: ProfileUpdates,
    /// The token up to which the response covers the changes.
    pub token: SyncToken,
    /// Whether the response has any changes for the client.
    pub has_changes: bool,
    /// Whether it contains events that the user has sent.
    pub has_own_events: bool,
}

/// Returns whether a response contains no changes.
fn is_empty(response: &Response) -> bool {
    response.rooms.is_empty()
        && response.presence.is_empty()
        && response.account_data.is_empty()
        && response.to_device.is_empty()
        && response.device_lists.is_empty()
}

impl ResponseBuilder {
    pub(super) fn new(environment: &SyncEnvironment, sections: ResponseSections) -> Self {
        Self {
            clock: environment.clock.clone(),
            rooms: environment.rooms.clone(),
            sections,
        }
    }

    /// Returns the changes since the client's token.
    pub(super) async fn respond(
        &self,
        session: &Session,
        request: &SyncRequest,
    ) -> Result<SyncAnswer> {
        let sections = &self.sections;
        let request = &sections.tokens.clamp_request(request);
        let snapshot = sections.snapshots.take_snapshot(session, request).await?;
        let sent_events = SentEvents::default();
        let viewer = SyncViewer {
            session,
            request,
            now: snapshot.now,
            now_ms: self.clock.now_ms(),
            ignore_settings: self.rooms.access.find_ignore_settings(session.user),
            sent_events: &sent_events,
        };
        let mut response = Response::new(String::new());
        let account_data = &sections.account_data;
        let changed_data = account_data
            .changes_with_new_rooms(&viewer, &snapshot)
            .await?;
        for room in &snapshot.rooms {
            let added = self.add_room(&viewer, room, &changed_data, &mut response);
            let added = added.await;
            sections
                .removed_rooms
                .correct_response(&viewer, room, added, &mut response)
                .await?;
        }
        account_data
            .add_global_events(&viewer, &changed_data, &mut response)
            .await?;
        sections
            .presence
            .add_presence(&viewer, &snapshot, &mut response)
            .await?;
        let profile_updates = sections
            .profiles
            .profile_updates(&viewer, &snapshot)
            .await?;
        let devices = &sections.devices;
        let has_lost_keys = devices
            .add_encryption(&viewer, &snapshot, &mut response)
            .await?;
        let sticky = sections.sticky.add_sticky_events(&viewer, &mut response);
        let token = SyncToken {
            sticky: sticky.await?,
            to_device: devices.add_to_device(&viewer, &mut response).await?,
            ..sections.tokens.token_at(snapshot.now, snapshot.tick)
        };
        response.next_batch = token.to_string();
        Ok(SyncAnswer {
            has_changes: has_lost_keys
                || !profile_updates.is_empty()
                || token.sticky < snapshot.now
                || !is_empty(&response),
            profile_updates,
            has_own_events: sent_events.has_own_events(),
            response,
            token,
        })
    }

    async fn add_room(
        &self,
        viewer: &SyncViewer<'_>,
        snapshot: &RoomSnapshot,
        account_data: &[AccountData],
        response: &mut Response,
    ) -> Result<()> {
        let room_id = self.room_id(snapshot).await?;
        if !wants_room(&viewer.request.filter.room, &room_id) {
            return Ok(());
        }
        let user_room = &snapshot.user_room;
        if let Some(removed) = &user_room.removed {
            let left = removed_room(viewer, user_room.position, removed)?;
            response.rooms.leave.insert(room_id, left);
            return Ok(());
        }
        let room_data = room_account_data(viewer, snapshot, &room_id, account_data);
        match (&user_room.membership, &snapshot.contents) {
            (MembershipState::Join, Some(contents)) => {
                let rooms = &self.sections.rooms;
                let changes = rooms.joined_room(viewer, user_room, contents).await?;
                let mut joined = changes.room;
                joined.account_data.events = room_data;
                joined.ephemeral.events = ephemeral_events(viewer, contents, &room_id);
                let is_full = viewer.request.since.is_none() || viewer.request.full_state;
                if is_full || changes.is_new || room_has_changes(viewer, &joined, contents) {
                    response.rooms.join.insert(room_id, joined);
                }
            }
            (MembershipState::Leave | MembershipState::Ban, Some(contents)) => {
                let rooms = &self.sections.rooms;
                let mut left = rooms.left_room(viewer, user_room, contents).await?;
                left.account_data.events = room_data;
                response.rooms.leave.insert(room_id, left);
            }
            _ => add_stripped_room(viewer, snapshot, room_id, response),
        }
        Ok(())
    }

    async fn room_id(&self, snapshot: &RoomSnapshot) -> Result<OwnedRoomId> {
        match (&snapshot.contents, &snapshot.user_room.removed) {
            (Some(contents), _) => Ok(contents.room.room_id.clone()),
            (None, Some(removed)) => Ok(removed.room_id.clone()),
            (None, None) => self.rooms.memory.room_id(snapshot.num).await,
        }
    }
}

/// Adds a room for a user who is invited or knocks, if that is new to the client.
fn add_stripped_room(
    viewer: &SyncViewer<'_>,
    snapshot: &RoomSnapshot,
    room_id: OwnedRoomId,
    response: &mut Response,
) {
    let user_room = &snapshot.user_room;
    let is_new =
        user_room.position > viewer.since().unwrap_or(Position::ZERO) || viewer.request.full_state;
    if !is_new {
        return;
    }
    let ignore_settings = viewer.ignore_settings.as_deref();
    match user_room.membership {
        MembershipState::Invite if accepts_invite(ignore_settings, viewer.session, user_room) => {
            let mut invited = InvitedRoom::new();
            invited.invite_state.events = stripped_state(user_room);
            response.rooms.invite.insert(room_id, invited);
        }
        MembershipState::Knock => {
            let mut knocked = KnockedRoom::new();
            knocked.knock_state.events = stripped_state(user_room);
            response.rooms.knock.insert(room_id, knocked);
        }
        _ => {}
    }
}

/// Returns whether a room belongs in the response because it has changes, even if only its unread counts changed.
fn room_has_changes(viewer: &SyncViewer<'_>, joined: &JoinedRoom, contents: &RoomContents) -> bool {
    // The user's own receipt changes the counts, even from another device. Receipts of others are sent or private.
    let mut receipts = contents.receipts.iter();
    let has_read = receipts.any(|receipt| receipt.user_id == viewer.session.user_id);
    !joined.timeline.events.is_empty()
        || joined.timeline.limited
        || !joined.state.is_empty()
        || !joined.account_data.is_empty()
        || !joined.ephemeral.is_empty()
        || has_read
}
