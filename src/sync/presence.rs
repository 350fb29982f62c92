//! The presence of other users, as a response contains it.

use std::collections::HashSet;

use ruma::{
    api::client::sync::sync_events::v3::Response, events::room::member::MembershipState, serde::Raw,
};

use super::{
    SyncEnvironment, snapshot::SyncSnapshot, sync_viewer::SyncViewer, token_reader::TokenReader,
};
use crate::{
    ephemeral::EphemeralState,
    error::Result,
    matrix::wants_global,
    numbers::{RoomNum, UserNum},
    rooms::Rooms,
};

/// Reads the presence of the users who share a room with a user. Cheap to clone.
#[derive(Clone)]
pub(super) struct PresenceReader {
    rooms: Rooms,
    ephemeral: EphemeralState,
    tokens: TokenReader,
}

impl PresenceReader {
    pub(super) fn new(environment: &SyncEnvironment, tokens: &TokenReader) -> Self {
        Self {
            rooms: environment.rooms.clone(),
            ephemeral: environment.ephemeral.clone(),
            tokens: tokens.clone(),
        }
    }

    /// Adds the presence of the users who share a room with the user.
    pub(super) async fn add_presence(
        &self,
        viewer: &SyncViewer<'_>,
        snapshot: &SyncSnapshot,
        response: &mut Response,
    ) -> Result<()> {
        let since = viewer.request.since.as_ref();
        let changed = since.and_then(|since| {
            self.ephemeral
                .presence
                .changed_users(self.tokens.tick_of(since), snapshot.tick)
        });
        let mut users: HashSet<UserNum> = match changed {
            Some(changed) => changed.into_iter().collect(),
            None => self.ephemeral.presence.known_users().into_iter().collect(),
        };
        users.extend(users_newly_sharing_rooms(viewer, snapshot));
        if users.is_empty() {
            return Ok(());
        }
        let own_rooms: HashSet<RoomNum> = self
            .rooms
            .memory
            .rooms_of_user(viewer.session.user)
            .await?
            .joined_rooms()
            .into_iter()
            .collect();
        let filter = &viewer.request.filter.presence;
        for user in users {
            let shares = user == viewer.session.user
                || self
                    .rooms
                    .memory
                    .rooms_of_user(user)
                    .await?
                    .joined_rooms()
                    .iter()
                    .any(|room| own_rooms.contains(room));
            if let Some(event) = self
                .ephemeral
                .presence
                .presence_event(user)
                .filter(|_| shares)
                && wants_global(filter, "m.presence", Some(&event.sender))
            {
                response.presence.events.push(Raw::new(&event)?);
            }
        }
        Ok(())
    }
}

/// Returns the users with whom the user shares a room only since the token. What is sent
/// about them is sent however old it is.
pub(super) fn users_newly_sharing_rooms(
    viewer: &SyncViewer<'_>,
    snapshot: &SyncSnapshot,
) -> Vec<UserNum> {
    let Some(since) = viewer.request.since else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for room in &snapshot.rooms {
        let Some(contents) = &room.contents else {
            continue;
        };
        if room.user_room.membership != MembershipState::Join {
            continue;
        }
        let view = contents.room.view();
        if room.is_joined_after(since.position) {
            found.extend(view.local_members.keys().copied());
            continue;
        }
        for event in &contents.latest_events {
            if let Some(member) = event.pdu.member()
                && let Some((user, _)) = view.local_members.iter().find(|(_, id)| *id == member)
            {
                found.push(*user);
            }
        }
    }
    found
}
