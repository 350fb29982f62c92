//! Changes to accounts that also change rooms.

use super::{WorkflowSources, remote::RemoteLeaves};
use crate::{
    error::Result,
    rooms::Rooms,
    users::{Session, Users},
};

/// Removes accounts, and their users from rooms. Cheap to clone.
#[derive(Clone)]
pub struct AccountRemoval {
    users: Users,
    rooms: Rooms,
    leaves: RemoteLeaves,
}

impl AccountRemoval {
    pub(super) fn new(sources: &WorkflowSources, leaves: &RemoteLeaves) -> Self {
        Self {
            users: sources.users.clone(),
            rooms: sources.rooms.clone(),
            leaves: leaves.clone(),
        }
    }

    /// Deactivates an account, and makes the user leave all rooms.
    pub async fn deactivate(&self, session: &Session, erase: bool) -> Result<()> {
        self.users.account.deactivate(session, erase).await?;
        self.leaves.leave_all_remote_rooms(session).await?;
        self.rooms
            .memberships
            .leave_all_rooms(session.user, &session.user_id)
            .await
    }
}
