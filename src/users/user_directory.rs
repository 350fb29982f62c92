//! The user directory search.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#user-directory).

use ruma::{OwnedMxcUri, OwnedUserId, UserId};

use super::{Session, UserEnvironment, check_text, remote_users::RemoteUsers};
use crate::{
    error::Result,
    storage::{
        Db,
        users::user_directory::{self, FoundUserRow, UserSearchQuery},
    },
};

/// The largest number of users in one response, even if the client asks for more.
const MAX_RESULTS: u64 = 50;
/// The longest search term, in bytes, and the largest number of its words that are used.
const MAX_TERM_BYTES: usize = 255;
const MAX_TERM_WORDS: usize = 8;

/// A user that a search has found, with the public profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryUser {
    pub user_id: OwnedUserId,
    pub displayname: Option<String>,
    pub avatar_url: Option<OwnedMxcUri>,
}

/// The users that a search has found.
#[derive(Clone, Debug)]
pub struct UserSearchPage {
    pub users: Vec<DirectoryUser>,
    /// Whether there are more.
    pub is_limited: bool,
}

/// The directory in which users search for others.
#[derive(Clone)]
pub struct UserDirectory {
    db: Db,
    remote_users: RemoteUsers,
    all_users_searchable: bool,
}

impl UserDirectory {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            remote_users: RemoteUsers::new(environment),
            all_users_searchable: environment.directory.all_users_searchable,
        }
    }

    /// Returns the users whose user id or display name contains every word of `term`, and whether there are more.
    ///
    /// They share a room with the searching user or are in a room that everyone may join or read, unless the
    /// configuration makes all users searchable.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::InvalidParam`] when the term is too long.
    pub async fn search(
        &self,
        session: &Session,
        term: &str,
        limit: u64,
    ) -> Result<UserSearchPage> {
        check_text("search_term", term, MAX_TERM_BYTES)?;
        self.remote_users.add_new_users().await?;
        let limit = usize::try_from(limit.min(MAX_RESULTS)).unwrap_or_default();
        let words = term.to_lowercase();
        let query = UserSearchQuery {
            searcher: session.user,
            // Users search for "@alice" as well as for "alice".
            words: words
                .split_whitespace()
                .map(|word| word.trim_start_matches('@').to_owned())
                .take(MAX_TERM_WORDS)
                .collect(),
            everybody: self.all_users_searchable,
            limit: i64::try_from(limit).unwrap_or_default().saturating_add(1),
        };
        let mut db = self.db.read().await?;
        let found = user_directory::search(&mut db, &query).await?;
        let is_limited = found.len() > limit;
        let found = found.into_iter().take(limit).filter_map(directory_user);
        Ok(UserSearchPage {
            users: found.collect(),
            is_limited,
        })
    }
}

fn directory_user(found: FoundUserRow) -> Option<DirectoryUser> {
    let text = |json: Option<String>| json.and_then(|json| serde_json::from_str(&json).ok());
    Some(DirectoryUser {
        user_id: UserId::parse(&found.user_id).ok()?,
        displayname: text(found.displayname),
        avatar_url: text(found.avatar_url).map(OwnedMxcUri::from),
    })
}
