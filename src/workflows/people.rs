//! The users of this server, and their presence.

use ruma::presence::PresenceState;

use super::WorkflowSources;
use crate::{
    ephemeral::EphemeralState,
    error::Result,
    users::{ListedUser, Session, UserListRequest, Users},
};

/// A user of this server, with the user's presence.
#[derive(Clone, Debug)]
pub struct PersonWithPresence {
    pub person: ListedUser,
    pub presence: PresenceState,
    /// The status message.
    pub status_msg: Option<String>,
    /// The time of the last activity, in milliseconds since the Unix epoch; `None` without any activity.
    pub last_active_ts: Option<i64>,
}

/// A page of users.
#[derive(Debug)]
pub struct PeopleWithPresence {
    pub people: Vec<PersonWithPresence>,
    pub next_batch: Option<String>,
    /// The number of users on all pages.
    pub total: u64,
}

/// Lists the users of this server with their presence. Cheap to clone.
#[derive(Clone)]
pub struct PeopleList {
    users: Users,
    ephemeral: EphemeralState,
}

impl PeopleList {
    pub(super) fn new(sources: &WorkflowSources) -> Self {
        Self {
            users: sources.users.clone(),
            ephemeral: sources.ephemeral.clone(),
        }
    }

    /// Returns a page of the users of this server, by name and then by id.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::InvalidParam`] for an invalid page token.
    pub async fn list_people(
        &self,
        session: &Session,
        request: &UserListRequest,
    ) -> Result<PeopleWithPresence> {
        let page = self.users.user_list.page(session, request).await?;
        let people = page
            .users
            .into_iter()
            .map(|person| self.add_presence(person));
        Ok(PeopleWithPresence {
            people: people.collect(),
            next_batch: page.next_batch,
            total: page.total,
        })
    }

    /// Adds the presence of a user. It is only in memory; after a restart the last use of a device gives the time.
    fn add_presence(&self, person: ListedUser) -> PersonWithPresence {
        let shown = self.ephemeral.presence.visible_presence(person.user);
        let active = shown.as_ref().and_then(|shown| shown.last_active);
        let (presence, status_msg) = shown.map_or((PresenceState::Offline, None), |shown| {
            (shown.state, shown.status_msg)
        });
        PersonWithPresence {
            last_active_ts: active.max(person.last_seen_ts),
            person,
            presence,
            status_msg,
        }
    }
}
