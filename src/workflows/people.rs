//! The people of this server, and whether they are there.

use ruma::presence::PresenceState;

use super::Workflows;
use crate::{
    error::Result,
    users::{PeopleRequest, Person, Session},
};

/// Somebody of this server, and whether they are there.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Who.
    pub person: Person,
    /// Whether they are there.
    pub presence: PresenceState,
    /// What they tell others.
    pub status_msg: Option<String>,
    /// When they were last there, in milliseconds since the Unix epoch; `None` for one who never was.
    pub last_active_ts: Option<i64>,
}

/// A page of people.
#[derive(Debug)]
pub struct SeenPage {
    /// The people.
    pub people: Vec<Seen>,
    /// The token of the next page.
    pub next_batch: Option<String>,
    /// How many there are on all pages.
    pub total: u64,
}

impl Workflows {
    /// Returns a page of the people of this server, by name and then by id.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::InvalidParam`] for a token that this server did not give.
    pub async fn people(&self, session: &Session, request: &PeopleRequest) -> Result<SeenPage> {
        let page = self.users.people(session, request).await?;
        let people = page.people.into_iter().map(|person| self.seen(person));
        Ok(SeenPage {
            people: people.collect(),
            next_batch: page.next_batch,
            total: page.total,
        })
    }

    /// Presence lives in memory alone: what a restart takes of it, the user's devices still say.
    fn seen(&self, person: Person) -> Seen {
        let shown = self.ephemeral.presence.shown(person.user);
        let active = shown.as_ref().and_then(|shown| shown.last_active);
        let (presence, status_msg) = shown.map_or((PresenceState::Offline, None), |shown| {
            (shown.state, shown.status_msg)
        });
        Seen {
            last_active_ts: active.max(person.last_seen_ts),
            person,
            presence,
            status_msg,
        }
    }
}
