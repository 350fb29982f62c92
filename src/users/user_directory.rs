//! The user directory search.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#user-directory).

use ruma::{OwnedMxcUri, OwnedUserId, UserId};

use super::{Session, Users, check_text};
use crate::{
    error::Result,
    storage::users::user_directory::{self, FoundUserRow, UserSearchQuery},
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

impl Users {
    /// Returns the users whose user id or display name contains every word of `term`, and whether there are more.
    ///
    /// They share a room with the searching user or are in a room that everyone may join or read, unless the
    /// configuration makes all users searchable.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::InvalidParam`] when the term is too long.
    pub async fn search_users(
        &self,
        session: &Session,
        term: &str,
        limit: u64,
    ) -> Result<(Vec<DirectoryUser>, bool)> {
        check_text("search_term", term, MAX_TERM_BYTES)?;
        self.add_remote_users().await?;
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
            everybody: self.inner.all_users_searchable,
            limit: i64::try_from(limit).unwrap_or_default().saturating_add(1),
        };
        let mut db = self.inner.db.read().await?;
        let found = user_directory::search(&mut db, &query).await?;
        let is_limited = found.len() > limit;
        let found = found.into_iter().take(limit).filter_map(directory_user);
        Ok((found.collect(), is_limited))
    }
}

fn directory_user(person: FoundUserRow) -> Option<DirectoryUser> {
    let text = |json: Option<String>| json.and_then(|json| serde_json::from_str(&json).ok());
    Some(DirectoryUser {
        user_id: UserId::parse(&person.user_id).ok()?,
        displayname: text(person.displayname),
        avatar_url: text(person.avatar_url).map(OwnedMxcUri::from),
    })
}
